//! Tests of the whole stage.

use std::path::Path;

use futures::stream;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use super::*;
use crate::runner::error::Fault;
use crate::runner::ledger::LostRow;
use crate::stages::duplicates::groups::Decision;
use crate::stages::testing;

const LONG: &str = "the spring tide comes twice a month when the sun and the moon pull in one line and the \
                    water rises far above the common mark while the neap tide comes between them";

fn near(text: &str) -> String {
    text.replace("far above", "well above")
}

async fn run(config: &MinhashConfig, rows: RecordBatch) -> (Vec<String>, Vec<LostRow>) {
    let (rows, ctx) = testing::plan(config, "rows", rows).await.unwrap();
    (testing::strings(&rows, "id"), ctx.ledger.dropped())
}

fn reasons(dropped: &[LostRow]) -> Vec<(&str, &str)> {
    dropped.iter().map(|row| (row.id.as_str(), row.reason.as_str())).collect()
}

#[tokio::test]
async fn duplicates_are_dropped_with_their_keeper_and_similarity() {
    let text = [LONG, LONG].join(" and then again ");
    let batch = testing::batch(json!([
        {"id": "a", "text": text, "n": 1},
        {"id": "b", "text": text.to_uppercase() + "!", "n": 2},
        {"id": "c", "text": near(&text), "n": 3},
        {"id": "d", "text": "something else altogether stands on this short page here", "n": 4},
        {"id": "e", "text": null, "n": 5},
    ]));
    // One hash a bucket, so that this pair is found for sure.
    let config = MinhashConfig { hashes_per_bucket: 1, buckets: 112, ..MinhashConfig::default() };
    let (kept, dropped) = run(&config, batch).await;
    assert_eq!(kept, ["a", "d", "e"]);
    assert_eq!(reasons(&dropped), [("b", "exact_duplicate"), ("c", "near_duplicate")]);
    assert_eq!(dropped[0].detail, "a is kept; estimated Jaccard similarity 1.00");
    let estimate: f64 = dropped[1].detail.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(dropped[1].detail.starts_with("a is kept;") && (0.5..0.9).contains(&estimate), "{estimate}");
}

#[tokio::test]
async fn which_row_is_kept_can_be_chosen() {
    let batch = || {
        testing::batch(json!([
            {"id": "a", "text": LONG, "score": 1.5, "dump": null},
            {"id": "b", "text": format!("{LONG}!!!"), "score": null, "dump": "CC-MAIN-2024-10"},
            {"id": "c", "text": LONG, "score": 2.5, "dump": "CC-MAIN-2023-50"},
        ]))
    };
    for (keep, want) in [
        (Keep::Datatrove, "a"),
        (Keep::First, "a"),
        (Keep::Longest, "b"),
        (Keep::Highest("score".into()), "c"),
        (Keep::Newest("dump".into()), "b"),
    ] {
        let config = MinhashConfig { keep: keep.clone(), ..MinhashConfig::default() };
        let (kept, dropped) = run(&config, batch()).await;
        assert_eq!((kept, dropped.len()), (vec![want.to_owned()], 2), "{keep:?}");
    }
}

#[tokio::test]
async fn short_texts_are_compared_whole_or_not_at_all() {
    let batch = || {
        testing::batch(json!([
            {"id": "a", "text": "Read more"}, {"id": "b", "text": "read  MORE…"}, {"id": "c", "text": "Read less"},
            {"id": "d", "text": "!!!"}, {"id": "e", "text": "???"},
        ]))
    };
    let (kept, dropped) = run(&MinhashConfig::default(), batch()).await;
    assert_eq!(kept, ["a", "c", "d", "e"]);
    assert_eq!(reasons(&dropped), [("b", "exact_duplicate")]);
    let config = MinhashConfig { short_texts: ShortTexts::Keep, ..MinhashConfig::default() };
    assert_eq!(run(&config, batch()).await.0.len(), 5);
}

#[tokio::test]
async fn a_missing_or_unfit_column_is_named() {
    let batch = || testing::batch(json!([{"id": "a", "text": LONG, "url": "x"}]));
    let config = MinhashConfig { text_column: "body".into(), ..MinhashConfig::default() };
    let error = testing::plan(&config, "rows", batch()).await.unwrap_err();
    assert_eq!((error.fault, error.to_string().contains("`body`")), (Fault::Input, true), "{error}");
    let config = MinhashConfig { keep: Keep::Highest("url".into()), ..MinhashConfig::default() };
    let error = testing::plan(&config, "rows", batch()).await.unwrap_err();
    assert!(error.to_string().contains("`url` must hold numbers"), "{error}");
}

#[tokio::test]
async fn a_stage_cannot_be_fused_where_rows_would_be_missed_or_read_twice() {
    let ctx = testing::context();
    let frame = ctx.session().read_batch(testing::batch(json!([{"id": "a", "text": "x"}]))).unwrap();
    let inputs = |rows| {
        let table = super::super::InputTable { stage: "up".into(), plan: frame.clone().into(), rows };
        Inputs::new(BTreeMap::from([("rows".to_owned(), vec![table])]), BTreeMap::new())
    };
    let task = |slice| Task { name: "t".into(), slice };
    let config = MinhashConfig::default();
    let fused_above = config.plan(&ctx, &task(None), &inputs(None)).await.err().unwrap();
    assert!(fused_above.to_string().contains("`up` must be written out"), "{fused_above}");
    let fused_below = config.plan(&ctx, &task(Some(Vec::new())), &inputs(Some(1))).await.err().unwrap();
    assert!(fused_below.to_string().contains("cannot be fused"), "{fused_below}");
    assert!(config.plan(&ctx, &task(None), &inputs(Some(1))).await.is_ok());
}

/// The rows of a file of `../shared/data`; `None`, with a word on why, where there is no such folder.
fn shared_rows(name: &str) -> Option<RecordBatch> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(name);
    let Ok(file) = std::fs::File::open(&path) else {
        println!("{} is not there: this comparison is left out", path.display());
        return None;
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    Some(arrow::compute::concat_batches(&schema, &batches).unwrap())
}

fn dropped_by_datatrove() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/reference/minhash_web_dropped.json");
    let reference: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    serde_json::from_value(reference["dropped_ids"].clone()).unwrap()
}

/// The reference was made by `tests/parity/minhash_datatrove.py`.
#[tokio::test]
async fn real_pages_lose_exactly_the_rows_that_datatrove_drops() {
    let Some(rows) = shared_rows("web.parquet") else { return };
    let total = rows.num_rows();
    let (kept, dropped) = run(&MinhashConfig::default(), rows).await;
    let ids: Vec<&str> = dropped.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, dropped_by_datatrove());
    assert_eq!(kept.len() + dropped.len(), total);
}

/// Signatures, and so the rows kept, do not depend on how the rows come in batches.
#[tokio::test]
async fn the_split_into_batches_changes_nothing() {
    let Some(rows) = shared_rows("web.parquet") else { return };
    let config = Arc::new(MinhashConfig::default());
    let mut surveys = Vec::new();
    for batch_rows in [1, 100, rows.num_rows()] {
        let starts = (0..rows.num_rows()).step_by(batch_rows);
        let batches: Vec<_> =
            starts.map(|at| Ok(rows.slice(at, batch_rows.min(rows.num_rows() - at)))).collect();
        let spill = Spill { folder: std::env::temp_dir(), memory_bytes: 1 << 20 };
        let marks = first_pass(config.clone(), spill, Arc::default(), stream::iter(batches).boxed());
        let mut marks = marks.await.unwrap();
        let dropped = marks.decisions.before(u32::MAX).unwrap();
        let told = |decision: &Decision| {
            let row = marks.rows.get(decision.row).unwrap();
            (decision.row, (marks.explain)(&row, decision.kept).unwrap())
        };
        surveys.push(dropped.iter().map(told).collect::<BTreeMap<_, _>>());
    }
    assert!(!surveys[0].is_empty());
    assert_eq!(surveys[0], surveys[1]);
    assert_eq!(surveys[1], surveys[2]);
}
