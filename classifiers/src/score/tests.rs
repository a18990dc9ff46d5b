use super::*;
use crate::{head::tests::head, test_backbone};
use arrow::{
    array::{Array, AsArray, LargeStringArray, StringViewArray, UInt8Array},
    datatypes::Float32Type,
    error::ArrowError,
    record_batch::RecordBatch,
};
use futures::{StreamExt, stream};
use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

fn scorer(sessions: usize) -> Option<Arc<Scorer>> {
    let backbone = Arc::new(test_backbone(64, sessions)?);
    let plain = head(2.0, (0..384).map(|at| (at % 7) as f32 - 3.0).collect());
    let mut metadata = plain.metadata().clone();
    metadata.backbone = backbone.identity().clone();
    let weights = (0..384).map(|at| (at % 7) as f32 - 3.0).collect();
    Some(Arc::new(Scorer::new(backbone, Head::new(metadata, 2.0, weights)).unwrap()))
}

fn batch(ids: &[&str], texts: &[Option<&str>]) -> RecordBatch {
    let extra: Vec<u8> = (0..ids.len()).map(|row| u8::try_from(row).unwrap()).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("text", Arc::new(StringViewArray::from(texts.to_vec())) as ArrayRef, true),
        ("extra", Arc::new(UInt8Array::from(extra)) as ArrayRef, false),
        ("id", Arc::new(LargeStringArray::from(ids.to_vec())) as ArrayRef, false),
    ])
    .unwrap()
}

fn input(batches: Vec<RecordBatch>) -> PageStream {
    stream::iter(batches.into_iter().map(Ok)).boxed()
}

fn no_reject() -> OnReject {
    Arc::new(|reject| panic!("{reject:?}"))
}

async fn collect(stream: PageStream) -> Vec<RecordBatch> {
    stream.map(Result::unwrap).collect().await
}

#[tokio::test]
async fn three_pages_get_scores_and_an_empty_one_a_reason() {
    let Some(scorer) = scorer(2) else {
        return;
    };
    let rejects = Arc::new(Mutex::new(Vec::new()));
    let on_reject: OnReject = Arc::new({
        let rejects = Arc::clone(&rejects);
        move |reject| rejects.lock().unwrap().push(reject)
    });
    let texts = [Some("Cells divide by mitosis."), None, Some(" \n"), Some("Sale!")];
    let pages = batch(&["a", "b", "c", "d"], &texts);
    let schema = scored_schema(pages.schema_ref(), &ScoreOptions::default()).unwrap();
    let stream = score_stream(Arc::clone(&scorer), &ScoreOptions::default(), on_reject, input(vec![pages]));
    let out = collect(stream).await;
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].schema(), schema);
    let scores = out[0].column_by_name("score").unwrap().as_primitive::<Float32Type>();
    let expected = scorer.score(&["Cells divide by mitosis.", "Sale!"]).unwrap();
    assert_eq!(scores.values().to_vec(), expected);
    let whole = out[0].column_by_name("int_score").unwrap();
    let expected: Int64Array = expected.iter().map(|&score| int_score(score)).collect();
    assert_eq!(whole.as_ref(), &expected as &dyn Array);
    let extra: &UInt8Array = out[0].column(1).as_primitive();
    assert_eq!(extra.values().to_vec(), [0, 3]);
    let rejects = rejects.lock().unwrap();
    let told: Vec<(&str, &str)> = rejects.iter().map(|r| (r.id.as_str(), r.reason.as_str())).collect();
    assert_eq!(told, [("b", "empty_text"), ("c", "empty_text")]);
}

#[tokio::test]
async fn order_and_bits_do_not_depend_on_batches_or_sessions() {
    let (Some(one), Some(two)) = (scorer(1), scorer(2)) else {
        return;
    };
    // Long pages first, so that later ones are ready before them.
    let texts: Vec<String> =
        (0..24).map(|i| format!("page {i} ").repeat(1 + 60 * usize::from(i % 5 == 0))).collect();
    let ids: Vec<String> = (0..24).map(|i| i.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    let all = |out: Vec<RecordBatch>| {
        let scores = |batch: &RecordBatch| batch.column(3).as_primitive::<Float32Type>().values().to_vec();
        out.iter().flat_map(scores).collect::<Vec<f32>>()
    };
    let whole = input(vec![batch(&ids, &texts)]);
    let whole = collect(score_stream(one, &ScoreOptions::default(), no_reject(), whole)).await;
    let parts = ids.chunks(5).zip(texts.chunks(5)).map(|(ids, texts)| batch(ids, texts)).collect();
    let options = ScoreOptions { in_flight_pages: Some(7), ..Default::default() };
    let parts = collect(score_stream(two, &options, no_reject(), input(parts))).await;
    assert_eq!(parts.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [5, 5, 5, 5, 4]);
    assert_eq!(all(parts), all(whole));
}

#[tokio::test]
async fn vectors_come_as_lists() {
    let Some(backbone) = test_backbone(64, 1) else {
        return;
    };
    let backbone = Arc::new(backbone);
    let pages = batch(&["a", "b"], &[Some("one"), Some("two")]);
    let empty = batch(&["c"], &[Some("x")]).slice(0, 0);
    let schema = embedded_schema(pages.schema_ref(), 384, &EmbedOptions::default()).unwrap();
    let stream =
        embed_stream(Arc::clone(&backbone), &EmbedOptions::default(), no_reject(), input(vec![pages, empty]));
    let out = collect(stream).await;
    assert_eq!((out[0].schema(), out[1].num_rows()), (schema, 0));
    let list = out[0].column(3).as_fixed_size_list();
    let values = list.values().as_primitive::<Float32Type>().values().to_vec();
    assert_eq!(values, backbone.embed(&["one", "two"]).unwrap());
}

#[tokio::test]
async fn work_in_flight_is_bounded_and_a_dropped_stream_stops() {
    let Some(scorer) = scorer(1) else {
        return;
    };
    let pulled = Arc::new(AtomicUsize::new(0));
    let source = stream::iter(0..1_000).map({
        let pulled = Arc::clone(&pulled);
        move |i| {
            pulled.fetch_add(1, Ordering::SeqCst);
            Ok(batch(&[i.to_string().as_str()], &[Some("a page")]))
        }
    });
    let options = ScoreOptions { in_flight_pages: Some(6), ..Default::default() };
    let mut stream = score_stream(scorer, &options, no_reject(), source.boxed());
    stream.next().await.unwrap().unwrap();
    // A page and a batch's end each take a place; a few more are pulled as places come free.
    let seen = pulled.load(Ordering::SeqCst);
    assert!((3..=12).contains(&seen), "{seen}");
    drop(stream);
    assert_eq!(pulled.load(Ordering::SeqCst), seen);
}

#[tokio::test]
async fn an_error_ends_the_stream() {
    let Some(scorer) = scorer(1) else {
        return;
    };
    let good = batch(&["a"], &[Some("a page")]);
    let failed = Err(ArrowError::ComputeError("the disk is gone".into()));
    let source = stream::iter([Ok(good.clone()), failed, Ok(good)]).boxed();
    let stream = score_stream(scorer, &ScoreOptions::default(), no_reject(), source);
    let out: Vec<_> = stream.collect().await;
    assert_eq!(out.len(), 2);
    assert!(out[0].is_ok() && out[1].as_ref().unwrap_err().to_string().contains("the disk is gone"));
}

#[test]
fn wrong_columns_are_named() {
    let pages = batch(&["a"], &[Some("x")]);
    let error = |options: ScoreOptions| scored_schema(pages.schema_ref(), &options).unwrap_err().to_string();
    let text = error(ScoreOptions { text_column: "body".into(), ..Default::default() });
    assert!(text.contains("no column `body` among text, extra, id"), "{text}");
    let text = error(ScoreOptions { text_column: "extra".into(), ..Default::default() });
    assert!(text.contains("column `extra` is UInt8"), "{text}");
    let text = error(ScoreOptions { score_column: "extra".into(), ..Default::default() });
    assert!(text.contains("already have a column `extra`"), "{text}");
}
