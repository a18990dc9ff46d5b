use super::*;
use crate::topics::{PUBLISHED_TOPICS, expansion_plan, parse_bisac};
use crate::topics::{Rejections, topics_schema};
use arrow::array::{AsArray, RecordBatch};
use async_trait::async_trait;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn headings() -> Vec<Heading> {
    let text = r#"[
        {"code": "COM010000", "label": "COMPUTERS / Compilers"},
        {"code": "COM011000", "label": "COMPUTERS / Computer Architecture"},
        {"code": "COM051010", "label": "COMPUTERS / Programming Languages / C"},
        {"code": "MAT012000", "label": "MATHEMATICS / Geometry / General"}
    ]"#;
    parse_bisac(Path::new("bisac.json"), text).unwrap()
}

fn options(target_topics: u32) -> ExpandOptions {
    ExpandOptions { target_topics, model: "test-model".into(), ..Default::default() }
}

fn column(expansion: &Expansion, name: &str) -> Vec<String> {
    let values = |b: &RecordBatch| {
        b[name].as_string::<i32>().iter().map(|v| v.unwrap().to_string()).collect::<Vec<_>>()
    };
    expansion.batches.iter().flat_map(values).collect()
}

fn list(heading: &str, from: usize, to: usize) -> String {
    const WORDS: [&str; 6] = ["Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta"];
    (from..to).map(|i| format!("{}. {heading} {}\n", i + 1, WORDS[i])).collect()
}

#[test]
fn targets_are_spread_by_category_weight() {
    let wanted = |options: &ExpandOptions| -> Vec<(String, u32)> {
        expansion_plan(options, &headings()).unwrap().into_iter().map(|r| (r.bisac_code, r.wanted)).collect()
    };
    let row = |code: &str, n: u32| (code.to_string(), n);
    // 10 subtopics: 7.5 and 2.5 over the categories; the tie goes to the first.
    assert_eq!(
        wanted(&options(14)),
        [row("COM010000", 3), row("COM011000", 3), row("COM051010", 2), row("MAT012000", 2)]
    );
    let weighted =
        ExpandOptions { category_weights: [("mathematics".to_string(), 3.0)].into(), ..options(14) };
    assert_eq!(
        wanted(&weighted),
        [row("COM010000", 2), row("COM011000", 2), row("COM051010", 1), row("MAT012000", 5)]
    );
    assert_eq!(wanted(&options(4)), []);
    // The number asked for at once is bounded.
    assert_eq!(wanted(&options(404))[3], row("MAT012000", 20));
    let plan = expansion_plan(&options(14), &headings()).unwrap();
    assert!(
        plan[0].prompt.contains("List 3 topics") && plan[0].prompt.contains("Compilers (Computers)"),
        "{}",
        plan[0].prompt
    );
    assert!(plan[3].prompt.contains("Geometry (Mathematics)"));
}

#[tokio::test]
async fn headings_and_subtopics_become_rows_in_the_order_of_the_codes() {
    let done = expand_topics(&options(10), &headings(), None, |request, _| async move {
        // The later the heading, the sooner the answer: the order of the rows does not change.
        let pause = if request.bisac_code.as_str() < "COM020000" { 30 } else { 0 };
        tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        Ok(list(&format!("Part {}", &request.bisac_code[..6]), 0, 2))
    })
    .await
    .unwrap();
    assert_eq!(done.batches[0].schema(), topics_schema());
    assert_eq!(
        column(&done, "topic_id"),
        [
            "COM010000-00",
            "COM010000-01",
            "COM010000-02",
            "COM011000-00",
            "COM011000-01",
            "COM011000-02",
            "COM051010-00",
            "COM051010-01",
            "MAT012000-00",
            "MAT012000-01"
        ]
    );
    assert_eq!(column(&done, "subtopic")[..3], ["Compilers", "Part COM010 Alpha", "Part COM010 Beta"]);
    assert_eq!(column(&done, "subtopic")[8], "Geometry");
    let sources = column(&done, "source");
    assert_eq!(sources[0], "bisac");
    assert!(sources[1].starts_with("llm:test-model:") && sources[1].len() == "llm:test-model:".len() + 16);
    assert_eq!((done.report.headings, done.report.asked, done.report.retries), (4, 4, 0));
}

#[tokio::test]
async fn refusals_nonsense_failures_and_short_answers_are_asked_again() {
    let prompts = Mutex::new(Vec::new());
    let (options, headings) = (options(4), headings());
    let done = expand_topics(&options, &headings[..1], None, |request, attempt| {
        prompts.lock().unwrap().push((attempt, request.wanted, request.prompt));
        let answer = match attempt {
            0 => Ok("I'm sorry, but I cannot assist with that.".to_string()),
            1 => Ok("Certainly!".to_string()),
            2 => Err(AskFailure::ThisRequest { reason: "http 500".into() }),
            3 => Ok("1. Parsing\n2. MATHEMATICS\n3. compilers".to_string()),
            _ => Ok("1. parsing\n2. Linking\n3. Type Inference\n4. One Too Many".to_string()),
        };
        async move { answer }
    });
    let done = done.await.unwrap();
    assert_eq!(column(&done, "subtopic"), ["Compilers", "Parsing", "MATHEMATICS", "Linking"]);
    let prompts = prompts.into_inner().unwrap();
    assert_eq!(
        prompts.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>(),
        [(0, 3), (1, 3), (2, 3), (3, 3), (4, 1)]
    );
    assert!(!prompts[3].2.contains("Parsing") && prompts[4].2.contains("Parsing"));
    let report = done.report;
    assert_eq!(
        (report.asked, report.retries, report.refused, report.malformed, report.failed),
        (5, 4, 1, 1, 1)
    );
    assert_eq!(report.rejected, Rejections::from([(Rejection::Echo, 1), (Rejection::Duplicate, 1)]));
    assert!(report.short_headings.is_empty());
}

#[tokio::test]
async fn a_heading_is_asked_seven_times_at_most_and_stays_a_topic() {
    let asked = AtomicUsize::new(0);
    let done = expand_topics(&options(3), &headings()[..1], None, |_, _| {
        asked.fetch_add(1, Ordering::Relaxed);
        async { Err(AskFailure::ThisRequest { reason: "timed out".into() }) }
    })
    .await
    .unwrap();
    assert_eq!(asked.into_inner(), 7);
    assert_eq!(column(&done, "topic_id"), ["COM010000-00"]);
    let short = ShortHeading {
        bisac_code: "COM010000".into(),
        wanted: 2,
        kept: 0,
        last_failure: Some("timed out".into()),
    };
    assert_eq!(done.report.short_headings, [short]);
}

#[tokio::test]
async fn names_of_other_categories_and_of_the_category_before_are_left_out() {
    let done = expand_topics(&options(12), &headings(), None, |request, _| async move {
        Ok(match request.bisac_code.as_str() {
            "COM010000" => "- Code Generation\n- Mathematics\n- Computer architectures",
            "COM011000" => "- code generation\n- Caches",
            _ => "- Curves",
        }
        .to_string())
    })
    .await
    .unwrap();
    assert_eq!(
        column(&done, "subtopic"),
        [
            "Compilers",
            "Code Generation",
            "Computer Architecture",
            "Caches",
            "C",
            "Curves",
            "Geometry",
            "Curves"
        ]
    );
    assert!(done.report.rejected[&Rejection::OffTopic] >= 1);
    assert_eq!(done.report.by_category, BTreeMap::from([("COMPUTERS".into(), 6), ("MATHEMATICS".into(), 2)]));
}

#[tokio::test]
async fn requests_in_flight_are_bounded_and_a_dead_server_ends_the_expansion() {
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let options = ExpandOptions { max_in_flight: 2, ..options(8) };
    expand_topics(&options, &headings(), None, |request, _| {
        let (now, most) = (&now, &most);
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(format!("- Theme {}", request.bisac_code))
        }
    })
    .await
    .unwrap();
    assert_eq!(most.into_inner(), 2);

    let headings = headings();
    let dead = expand_topics(&options, &headings, None, |_, _| async {
        Err(AskFailure::Everything { source: "401: wrong key".into() })
    });
    assert!(dead.await.unwrap_err().to_string().contains("401: wrong key"));
    assert!(matches!(
        expand_topics(&options, &[], None, |_, _| async { Ok(String::new()) }).await,
        Err(ExpandError::NoHeadings)
    ));
}

#[test]
fn an_expansion_can_be_spawned() {
    fn spawnable<T: Send>(_: T) {}
    let (options, headings) = (options(8), headings());
    spawnable(expand_topics(&options, &headings, None, |_, _| async { Ok(String::new()) }));
}

#[test]
fn a_limit_on_headings_is_spread_over_the_categories() {
    let chosen = |seed, target_topics, max_headings| {
        let options = ExpandOptions { max_headings, seed, ..options(target_topics) };
        quotas(&options, &headings()).headings.into_iter().map(|h| h.code).collect::<Vec<_>>()
    };
    assert_eq!(chosen(0, 100, None).len(), 4);
    for seed in 0..8 {
        let three = chosen(seed, 100, Some(3));
        assert_eq!(three.len(), 3);
        assert!(three.windows(2).all(|w| w[0] < w[1]) && three[2] == "MAT012000");
    }
    assert!((1..20).any(|seed| chosen(seed, 100, Some(2)) != chosen(0, 100, Some(2))));
    assert_eq!(chosen(0, 2, None).len(), 2);
}

#[tokio::test]
async fn a_users_template_is_used_and_its_errors_are_placed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ask.jinja");
    std::fs::write(&path, "{{ wanted }} of {{ label }}").unwrap();
    let with = ExpandOptions { template: Some(path.clone()), ..options(6) };
    let plan = expansion_plan(&with, &headings()[..1]).unwrap();
    assert_eq!(plan[0].prompt, "5 of COMPUTERS / Compilers");
    std::fs::write(&path, "one\n{{ wanted ").unwrap();
    assert!(expansion_plan(&with, &headings()[..1]).unwrap_err().to_string().contains("ask.jinja:2:"));
    assert!(toml::from_str::<ExpandOptions>("target = 3").is_err());
}

/// A model that names what a counter says, so that any number of subtopics can be had.
fn endless(request: &ExpansionRequest, attempt: u32) -> String {
    const WORDS: [&str; 12] = [
        "amber", "birch", "copper", "delta", "ember", "fjord", "grove", "harbor", "indigo", "juniper",
        "kestrel", "lagoon",
    ];
    let hash = blake3::hash(format!("{}{attempt}", request.bisac_code).as_bytes());
    let word = |i: usize| WORDS[usize::from(hash.as_bytes()[i % 32]) * (i + 7) % 12];
    (0..request.wanted as usize)
        .map(|i| format!("{}. {} {} {} {}\n", i + 1, word(i), word(i + 1), word(i + 3), request.bisac_code))
        .collect()
}

#[tokio::test]
async fn names_spelled_alike_or_meaning_the_same_are_asked_for_again() {
    /// Everything about storage means the same.
    struct Storage;
    #[async_trait]
    impl Embedder for Storage {
        async fn embed(
            &self,
            names: &[String],
        ) -> Result<Vec<Vec<f32>>, Box<dyn std::error::Error + Send + Sync>> {
            let is_storage = |name: &String| name.contains("Memory") || name.contains("Storage");
            let spread = |name: &String| (name.len() as f32).sin_cos();
            let vector = |name: &String| {
                let (a, b) = spread(name);
                if is_storage(name) { vec![0.0, 0.0, 1.0] } else { vec![a, b, 0.0] }
            };
            Ok(names.iter().map(vector).collect())
        }
    }
    let options = ExpandOptions { same_meaning_cosine: Some(0.999), ..options(5) };
    let known = Mutex::new(Vec::new());
    let done = expand_topics(&options, &headings()[..1], Some(&Storage), |request, attempt| {
        known.lock().unwrap().push(request.prompt);
        let answer = match attempt {
            0 => "- Optimization of Loops\n- Memory Layout\n- Loop Optimization\n- Storage Allocation",
            _ => "- Linking Libraries\n- Lexical Analysis",
        };
        async move { Ok(answer.to_string()) }
    })
    .await
    .unwrap();
    assert_eq!(
        column(&done, "subtopic"),
        ["Compilers", "Optimization of Loops", "Memory Layout", "Linking Libraries", "Lexical Analysis"]
    );
    assert_eq!(
        done.report.rejected,
        Rejections::from([(Rejection::NearDuplicate, 1), (Rejection::SameMeaning, 1)])
    );
    // The second request names what is taken, also what was left out.
    assert!(known.lock().unwrap()[1].contains("Storage Allocation"));
    let rejects: Vec<_> = done.rejects.iter().map(|r| (r.id.as_str(), r.reason.as_str())).collect();
    assert_eq!(rejects, [("COM010000-00", "near_duplicate"), ("COM010000-00", "same_meaning")]);
}

#[tokio::test]
async fn what_a_heading_cannot_deliver_is_asked_of_those_that_can() {
    let mut all = headings();
    all.truncate(3);
    let options = ExpandOptions { max_retries: 1, ..options(12) };
    let done = expand_topics(&options, &all, None, |request, attempt| async move {
        Ok(match request.bisac_code.as_str() {
            "COM010000" => "I'm sorry, but I can't help with that.".to_string(),
            _ => endless(&request, attempt),
        })
    })
    .await
    .unwrap();
    // 9 subtopics, 3 a heading; those of the first go to the two others.
    assert_eq!(done.report.kept, 9, "{:?}", done.report);
    assert_eq!((done.report.redistributed, done.report.refused), (3, 2));
    let short: Vec<_> = done.report.short_headings.iter().map(|s| (s.bisac_code.as_str(), s.kept)).collect();
    assert_eq!(short, [("COM010000", 0)]);
    assert_eq!(column(&done, "topic_id").iter().filter(|id| id.starts_with("COM011000")).count(), 1 + 5);
}

#[tokio::test]
async fn the_published_number_of_topics_is_reached_in_seconds_and_does_not_hang_on_the_order() {
    let code = |i: usize| format!("{}{i:06}", ["ART", "BUS", "COM", "HIS", "MAT", "SCI"][i % 6]);
    let entry = |i: usize| {
        format!("{{\"code\": \"{}\", \"label\": \"FIELD {} / Part {}\"}}", code(i), i % 6, code(i))
    };
    let text = format!("[{}]", (0..3000).map(entry).collect::<Vec<_>>().join(","));
    let all = parse_bisac(Path::new("bisac.json"), &text).unwrap();
    let run = |target, max_in_flight| {
        let options = ExpandOptions { max_in_flight, ..options(target) };
        let all = all.clone();
        async move {
            expand_topics(&options, &all, None, |request, attempt| async move {
                if max_in_flight > 1 && attempt.is_multiple_of(2) {
                    tokio::task::yield_now().await;
                }
                Ok(endless(&request, attempt))
            })
            .await
            .unwrap()
        }
    };
    let done = run(PUBLISHED_TOPICS, 64).await;
    let topics: usize = done.batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(topics, 34_000, "{:?}", (done.report.kept, &done.report.rejected));
    assert_eq!(run(5_000, 64).await.batches, run(5_000, 1).await.batches);
}

#[tokio::test]
async fn a_users_headings_keep_their_ids_and_are_expanded_as_others() {
    let own = |id: &str, subtopic: &str| Heading {
        code: id.into(),
        top_category: "Cooking".into(),
        subcategory: "Bread".into(),
        subtopic: subtopic.into(),
        origin: Origin::Table,
    };
    let headings = [own("bread", "Sourdough"), own("bread-01", "Rye")];
    let done = expand_topics(&options(4), &headings, None, |request, attempt| async move {
        Ok(endless(&request, attempt))
    })
    .await
    .unwrap();
    assert_eq!(column(&done, "topic_id"), ["bread", "bread-02", "bread-01", "bread-01-01"]);
    assert_eq!(column(&done, "subtopic")[0], "Sourdough");
    assert_eq!(column(&done, "bisac_code"), [""; 4]);
    assert_eq!(column(&done, "source")[0], "table");
    // Without a larger target nothing is asked.
    let as_given = options(2);
    let as_given = expand_topics(&as_given, &headings, None, |_, _| async {
        Err(AskFailure::Everything { source: "nobody may be asked".into() })
    });
    assert_eq!(column(&as_given.await.unwrap(), "topic_id"), ["bread", "bread-01"]);
}
