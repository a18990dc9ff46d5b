//! Clean-up of the generated table as it streams.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future};

use super::rules::{CleanOptions, Completion, clean_completion};
use crate::columns::{counts, strings, text_at};
use crate::reject::{OnReject, Reject};

/// Batches cleaned at the same time.
const BATCHES_IN_FLIGHT: usize = 4;

/// The columns of the cleaned table: those of HuggingFaceTB/smollm-corpus `cosmopedia-v2` (`prompt,
/// text, token_length, audience, format, seed_data`), then `id` (the prompt's), `topic_id` and
/// `completion_unfiltered` (the answer as it came). `token_length` is Int64, the others Utf8.
#[must_use]
pub fn cleaned_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("prompt"),
        text("text"),
        Field::new("token_length", DataType::Int64, false),
        text("audience"),
        text("format"),
        text("seed_data"),
        text("id"),
        text("topic_id"),
        text("completion_unfiltered"),
    ]))
}

/// Keeps the answers that pass [`clean_completion`], in order.
///
/// In: `prompt_id, prompt, topic_id, audience, style, seed_text, completion, finish_reason` (strings)
/// and `completion_tokens` (an integer). Out: [`cleaned_schema`]; batches of which nothing is kept
/// are left out. `on_reject` is called for each dropped row, in order, with the prompt's id.
///
/// # Errors
/// The stream ends with an error when a column is missing or has another type.
pub fn clean_stream(
    options: &CleanOptions,
    generated: BoxStream<'static, Result<RecordBatch, ArrowError>>,
    on_reject: OnReject,
) -> BoxStream<'static, Result<RecordBatch, ArrowError>> {
    let options = Arc::new(options.clone());
    let cleaned = generated.map_ok(move |batch| {
        let options = Arc::clone(&options);
        async move {
            tokio::task::spawn_blocking(move || clean_batch(&options, &batch))
                .await
                .map_err(|e| ArrowError::ExternalError(Box::new(e)))?
        }
    });
    let kept = cleaned.try_buffered(BATCHES_IN_FLIGHT).map_ok(move |(batch, rejects)| {
        rejects.into_iter().for_each(|reject| on_reject(reject));
        batch
    });
    kept.try_filter(|batch| future::ready(batch.num_rows() > 0)).boxed()
}

fn clean_batch(
    options: &CleanOptions,
    batch: &RecordBatch,
) -> Result<(RecordBatch, Vec<Reject>), ArrowError> {
    let column = |name: &str| strings(batch, name);
    let (ids, topic_ids, prompts) = (column("prompt_id")?, column("topic_id")?, column("prompt")?);
    let (audiences, styles, seeds) = (column("audience")?, column("style")?, column("seed_text")?);
    let (completions, finish_reasons) = (column("completion")?, column("finish_reason")?);
    let tokens = counts(batch, "completion_tokens")?;

    let mut rejects = Vec::new();
    let mut kept: Vec<(usize, String)> = Vec::new();
    for row in 0..batch.num_rows() {
        let completion = Completion {
            text: text_at(&completions, row),
            finish_reason: text_at(&finish_reasons, row),
            tokens: tokens.value(row),
            seed_text: text_at(&seeds, row),
        };
        match clean_completion(options, &completion) {
            Ok(cleaned) => kept.push((row, cleaned.text)),
            Err(dropped) => rejects.push(Reject {
                id: text_at(&ids, row).to_string(),
                reason: dropped.reason.name().to_string(),
                detail: dropped.detail,
            }),
        }
    }

    let rows = |from: &StringArray| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(kept.iter().map(|(row, _)| text_at(from, *row))))
    };
    let columns: Vec<ArrayRef> = vec![
        rows(&prompts),
        Arc::new(StringArray::from_iter_values(kept.iter().map(|(_, text)| text))),
        Arc::new(Int64Array::from_iter_values(kept.iter().map(|(row, _)| i64::from(tokens.value(*row))))),
        rows(&audiences),
        rows(&styles),
        rows(&seeds),
        rows(&ids),
        rows(&topic_ids),
        rows(&completions),
    ];
    Ok((RecordBatch::try_new(cleaned_schema(), columns)?, rejects))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, UInt32Array};
    use arrow::datatypes::Int64Type;
    use futures::stream;
    use std::sync::Mutex;

    /// Rows of (completion, finish reason, tokens).
    fn generated(rows: &[(&str, &str, u32)], first_id: usize) -> RecordBatch {
        let text = |f: &dyn Fn(usize) -> String| {
            Arc::new(StringArray::from_iter_values((0..rows.len()).map(f))) as ArrayRef
        };
        RecordBatch::try_from_iter([
            ("prompt_id", text(&|i| format!("id{}", first_id + i))),
            ("prompt", text(&|i| format!("Write {i}"))),
            ("topic_id", text(&|_| "COM010000-01".into())),
            ("audience", text(&|_| "general".into())),
            ("style", text(&|_| "blog_post".into())),
            ("seed_text", text(&|_| "A seed.".into())),
            ("completion", text(&|i| rows[i].0.into())),
            ("finish_reason", text(&|i| rows[i].1.into())),
            (
                "completion_tokens",
                Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.2))) as ArrayRef,
            ),
            ("latency_ms", text(&|_| "other columns are no hindrance".into())),
        ])
        .unwrap()
    }

    async fn run(batches: Vec<RecordBatch>) -> (Vec<RecordBatch>, Vec<Reject>) {
        let rejects = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&rejects);
        let input = stream::iter(batches.into_iter().map(Ok)).boxed();
        let kept =
            clean_stream(&CleanOptions::default(), input, Arc::new(move |r| sink.lock().unwrap().push(r)));
        let kept = kept.try_collect().await.unwrap();
        let rejects = rejects.lock().unwrap().clone();
        (kept, rejects)
    }

    const GOOD: (&str, &str, u32) = ("Welcome, all! Light travels in straight lines.", "stop", 160);
    const CUT: (&str, &str, u32) = ("Light travels in", "length", 160);
    const SHORT: (&str, &str, u32) = ("Light.", "stop", 3);

    #[tokio::test]
    async fn kept_rows_have_the_columns_of_the_dataset_and_dropped_rows_a_reason() {
        let (kept, rejects) =
            run(vec![generated(&[GOOD, CUT, GOOD], 0), generated(&[SHORT], 3), generated(&[GOOD], 4)]).await;
        assert_eq!(kept.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(kept[0].schema(), cleaned_schema());
        let text = |column: &str| kept[0][column].as_string::<i32>().value(0).to_string();
        assert_eq!(text("text"), "Light travels in straight lines.");
        assert_eq!(text("completion_unfiltered"), GOOD.0);
        assert_eq!([text("id"), text("format"), text("seed_data")], ["id0", "blog_post", "A seed."]);
        assert_eq!(kept[0]["token_length"].as_primitive::<Int64Type>().values(), &[160, 160]);
        assert_eq!(kept[0]["id"].as_string::<i32>().value(1), "id2");
        let named: Vec<_> = rejects.iter().map(|r| (r.id.as_str(), r.reason.as_str())).collect();
        assert_eq!(named, [("id1", "cut_without_sentence_end"), ("id3", "too_short")]);
    }

    #[tokio::test]
    async fn a_missing_column_ends_the_stream_with_its_name() {
        let batch = generated(&[GOOD], 0).project(&[0, 1, 2, 3, 4, 5, 6]).unwrap();
        let mut kept =
            clean_stream(&CleanOptions::default(), stream::iter([Ok(batch)]).boxed(), Arc::new(|_| {}));
        assert!(kept.next().await.unwrap().unwrap_err().to_string().contains("`finish_reason` is missing"));
    }
}
