use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use arrow::error::ArrowError;
use futures::{StreamExt, TryStreamExt, stream};

use super::*;
use crate::reject::{OnReject, Reject};

fn ignore() -> OnReject {
    Arc::new(|_| {})
}

/// `topics` × `pages` rows in batches of `batch_rows`.
fn hits(topics: usize, pages: usize, batch_rows: usize) -> Vec<RecordBatch> {
    let rows: Vec<(usize, usize)> = (0..topics).flat_map(|t| (0..pages).map(move |p| (t, p))).collect();
    let batch = |rows: &[(usize, usize)]| {
        let column =
            |f: &dyn Fn(usize, usize) -> String| rows.iter().map(|(t, p)| f(*t, *p)).collect::<Vec<_>>();
        let columns: [(&str, ArrayRef); 6] = [
            ("topic_id", Arc::new(StringArray::from(column(&|t, _| format!("COM{t:06}-00"))))),
            ("doc_id", Arc::new(StringViewArray::from(column(&|t, p| format!("page-{}", t * 31 + p))))),
            (
                "text",
                Arc::new(LargeStringArray::from(column(&|t, p| {
                    format!("Page {p} tells of topic {t}. ").repeat(3)
                }))),
            ),
            ("top_category", Arc::new(StringArray::from(column(&|_, _| "COMPUTERS".to_string())))),
            ("subcategory", Arc::new(StringArray::from(column(&|t, _| format!("Languages / L{t}"))))),
            ("subtopic", Arc::new(StringArray::from(column(&|t, _| format!("Subtopic {t}"))))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    rows.chunks(batch_rows).map(batch).collect()
}

async fn plan(options: &PromptOptions, batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let input = stream::iter(batches.into_iter().map(Ok)).boxed();
    plan_prompts(options, input, ignore()).unwrap().try_collect().await.unwrap()
}

fn column(batches: &[RecordBatch], name: &str) -> Vec<String> {
    batches
        .iter()
        .flat_map(|b| b[name].as_string::<i32>().iter().map(|v| v.unwrap().to_string()).collect::<Vec<_>>())
        .collect()
}

/// How many prompts belong to each share.
fn by_group(batches: &[RecordBatch]) -> BTreeMap<ShareGroup, usize> {
    let set = PromptSet::load(None).unwrap();
    let mut counts = BTreeMap::new();
    for digest in column(batches, "template_digest") {
        let template = set.templates().iter().find(|t| t.digest == digest).unwrap();
        *counts.entry(template.share).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn shares_hold_on_ten_thousand_prompts_and_on_sixty_four() {
    for (topics, pages, tolerance) in [(100, 100, 1), (8, 8, 1), (1, 7, 1)] {
        let planned = plan(&PromptOptions::default(), hits(topics, pages, 1000)).await;
        let counts = by_group(&planned);
        let total = topics * pages;
        for (group, share) in
            [(ShareGroup::MiddleSchool, 0.4), (ShareGroup::College, 0.3), (ShareGroup::Other, 0.3)]
        {
            let wanted = share * total as f64;
            let got = counts.get(&group).copied().unwrap_or(0) as f64;
            assert!((got - wanted).abs() < f64::from(tolerance), "{group:?}: {got} of {total}");
        }
        assert!(!counts.contains_key(&ShareGroup::Code));
    }
}

#[tokio::test]
async fn all_families_of_other_come_equally_often() {
    let planned = plan(&PromptOptions::default(), hits(100, 100, 1000)).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for style in column(&planned, "style") {
        *counts.entry(style).or_default() += 1;
    }
    // 3,000 of 10,000 prompts over twelve families and the half weight of lectures; college and
    // middle school give textbooks 2/3 and lectures 1/3.
    for style in ["blog_post", "story_morality", "question_answer", "lesson", "course_unit"] {
        assert!((236..=244).contains(&counts[style]), "{style}: {}", counts[style]);
    }
    assert!((2450..=2456).contains(&counts["lecture_notes"]), "{counts:?}");
    assert_eq!(counts.len(), 13);
}

#[tokio::test]
async fn units_of_courses_get_the_styles_that_tell_what_came_before() {
    // Every fifth topic is the second unit of a course.
    let with_units = |batch: &RecordBatch| {
        let ids = batch["topic_id"].as_string::<i32>();
        let is_unit = |id: Option<&str>| id.is_some_and(|id| id[3..9].parse::<u32>().unwrap() % 5 == 0);
        let column = |text: &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(ids.iter().map(|id| if is_unit(id) { text } else { "" })))
        };
        let schema = batch.schema();
        let columns = schema.fields().iter().map(|f| f.name().as_str()).zip(batch.columns().iter().cloned());
        let more = [("course", column("A Course")), ("previous_units", column("The First Unit"))];
        RecordBatch::try_from_iter(columns.chain(more)).unwrap()
    };
    let plain = plan(&PromptOptions::default(), hits(100, 20, 500)).await;
    let batches = hits(100, 20, 500).iter().map(with_units).collect();
    let planned = plan(&PromptOptions::default(), batches).await;
    assert_eq!(by_group(&planned), by_group(&plain));
    let prompts = column(&planned, "prompt");
    let told = prompts.iter().filter(|p| p.contains("do not repeat them: The First Unit.")).count();
    assert_eq!(told, 400, "a fifth of 2,000 rows");
}

#[tokio::test]
async fn the_batch_split_changes_nothing_and_the_seed_does() {
    let options = PromptOptions { seed: 7, ..Default::default() };
    let whole = plan(&options, hits(30, 20, 600)).await;
    for batch_rows in [1, 17, 256] {
        assert_eq!(whole, plan(&options, hits(30, 20, batch_rows)).await);
    }
    let other = plan(&PromptOptions { seed: 8, ..Default::default() }, hits(30, 20, 600)).await;
    assert_ne!(column(&whole, "style"), column(&other, "style"));
    assert_eq!(column(&whole, "seed_doc_id"), column(&other, "seed_doc_id"));
}

#[tokio::test]
async fn a_row_keeps_its_place_and_its_prompt_its_parts() {
    let planned = plan(&PromptOptions::default(), hits(3, 2, 4)).await;
    assert_eq!(planned[0].schema(), prompts_schema());
    assert_eq!(
        column(&planned, "seed_doc_id"),
        ["page-0", "page-1", "page-31", "page-32", "page-62", "page-63"]
    );
    let (ids, prompts, seeds) =
        (column(&planned, "prompt_id"), column(&planned, "prompt"), column(&planned, "seed_text"));
    let topics = column(&planned, "topic_id");
    for i in 0..6 {
        assert!(
            prompts[i].contains(&seeds[i]) && prompts[i].contains(&format!("Subtopic {}", i / 2)),
            "{}",
            prompts[i]
        );
        assert_eq!(ids[i].len(), 16);
        assert_eq!(ids[i], prompt_id(&prompts[i], &topics[i], &column(&planned, "seed_doc_id")[i]));
    }
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 6);
}

#[tokio::test]
async fn styles_do_not_follow_the_rank() {
    // 40 topics of 10 pages: dealt in the order of the rows, each rank would get one audience only.
    let planned = plan(&PromptOptions::default(), hits(40, 10, 400)).await;
    let audiences = column(&planned, "audience");
    let first_ranks = audiences.iter().step_by(10).filter(|a| *a == "middle_school_students").count();
    assert!((6..=28).contains(&first_ranks), "{first_ranks} of 40");
}

#[tokio::test]
async fn a_cap_stops_the_stream_and_leaves_the_rest_unread() {
    let pulled = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&pulled);
    let batches = hits(100, 10, 10);
    let input = stream::iter(batches).map(move |b| {
        *counter.lock().unwrap() += 1;
        Ok(b)
    });
    let options = PromptOptions { prompts: Some(64), ..Default::default() };
    let planned: Vec<RecordBatch> =
        plan_prompts(&options, input.boxed(), ignore()).unwrap().try_collect().await.unwrap();
    assert_eq!(planned.iter().map(RecordBatch::num_rows).sum::<usize>(), 64);
    assert_eq!(*pulled.lock().unwrap(), 7);
}

#[tokio::test]
async fn a_page_without_text_is_rejected_and_keeps_no_place_in_the_shares() {
    let mut batches = hits(1, 3, 3);
    let mut columns = batches[0].columns().to_vec();
    columns[2] = Arc::new(StringArray::from(vec![Some("Text."), None, Some(" \u{0}\n")]));
    let fields: Vec<_> = batches[0].schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let names = fields.iter().map(|f| f.name().clone()).zip(columns);
    batches[0] = RecordBatch::try_from_iter_with_nullable(names.map(|(n, c)| (n, c, true))).unwrap();
    let rejects = Arc::new(Mutex::new(Vec::<Reject>::new()));
    let sink = Arc::clone(&rejects);
    let input = stream::iter(batches.into_iter().map(Ok)).boxed();
    let planned: Vec<RecordBatch> =
        plan_prompts(&PromptOptions::default(), input, Arc::new(move |r| sink.lock().unwrap().push(r)))
            .unwrap()
            .try_collect()
            .await
            .unwrap();
    assert_eq!(column(&planned, "seed_doc_id"), ["page-0"]);
    let rejects = rejects.lock().unwrap();
    assert_eq!(
        rejects.iter().map(|r| (r.id.as_str(), r.reason.as_str())).collect::<Vec<_>>(),
        [("page-1", "empty_seed"), ("page-2", "empty_seed")]
    );
}

#[tokio::test]
async fn no_rows_give_no_prompts() {
    assert!(plan(&PromptOptions::default(), vec![]).await.is_empty());
    assert!(plan(&PromptOptions { prompts: Some(0), ..Default::default() }, hits(1, 1, 1)).await.is_empty());
}

#[tokio::test]
async fn code_seeds_give_code_textbooks_and_seed_cuts_can_be_shorter() {
    let options =
        PromptOptions { shares: Shares::code_only(), max_seed_chars: Some(30), ..Default::default() };
    let planned = plan(&options, hits(2, 2, 2)).await;
    assert!(column(&planned, "style").iter().all(|s| s == "code_textbook_section"));
    assert!(column(&planned, "seed_text").iter().all(|s| s.chars().count() <= 30 && !s.is_empty()));
}

#[tokio::test]
async fn wrong_options_and_columns_are_explained() {
    let refused = |options: PromptOptions| match plan_prompts(&options, stream::empty().boxed(), ignore()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{options:?} was accepted"),
    };
    let shares = |middle_school| Shares { middle_school, college: 0.0, other: 0.0, ..Shares::default() };
    for wrong in [0.0, -0.1, f64::NAN] {
        assert!(refused(PromptOptions { shares: shares(wrong), ..Default::default() }).contains("above 0"));
    }
    let only = |name: &str| PromptOptions { templates: vec![name.to_string()], ..Default::default() };
    assert!(refused(only("blog_post")).contains("share `middle_school` is above 0"));
    assert!(refused(only("blogpost")).contains("no template `blogpost`"));

    let batch = hits(1, 1, 1)[0].project(&[0, 1]).unwrap();
    let mut planned =
        plan_prompts(&PromptOptions::default(), stream::iter([Ok(batch)]).boxed(), ignore()).unwrap();
    let error = planned.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("column `text` is missing"), "{error}");

    let failed = stream::iter([Err(ArrowError::ComputeError("upstream".into()))]).boxed();
    let mut planned = plan_prompts(&PromptOptions::default(), failed, ignore()).unwrap();
    assert!(planned.next().await.unwrap().is_err());
}

#[test]
fn options_are_read_strictly_with_the_papers_defaults() {
    let options: PromptOptions = toml::from_str("prompts = 64\n[shares]\ncode = 0.1").unwrap();
    assert_eq!((options.prompts, options.shares.middle_school, options.shares.code), (Some(64), 0.4, 0.1));
    assert!(toml::from_str::<PromptOptions>("promts = 64").is_err());
}
