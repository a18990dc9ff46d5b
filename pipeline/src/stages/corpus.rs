//! Reads the corpus of a `mix` stage text by text, for the stages that train on it.

use arrow::array::Array;
use datafusion::prelude::{col, lit};
use futures::StreamExt;
use tokio::sync::mpsc::{Receiver, channel};

use super::columns::{require, text_column};
use crate::engine::Plan;
use crate::engine::streams::execute;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// A document of the corpus.
pub struct Document {
    /// Its subset.
    pub subset: String,
    /// Its text.
    pub text: String,
}

/// Documents waiting between the reader and the one who works on them.
const QUEUE: usize = 256;

/// The documents of a split, in corpus order, read by a task of its own. The receiver may block.
///
/// # Errors
/// The table is no corpus.
pub async fn documents(
    ctx: &StageContext,
    corpus: Plan,
    split: &str,
) -> Result<Receiver<Result<Document, StageError>>, StageError> {
    require(ctx, &corpus, "corpus", &["subset", "split", "text"])?;
    let rows = corpus
        .frame()
        .filter(col("split").eq(lit(split)))
        .and_then(|rows| rows.select_columns(&["subset", "text"]))
        .map_err(|error| ctx.plan_error(&error))?;
    let mut stream = execute(rows).await.map_err(|error| ctx.plan_error(&error))?;
    let (sender, receiver) = channel(QUEUE);
    let ctx = ctx.clone();
    tokio::spawn(async move {
        while let Some(batch) = stream.next().await {
            let columns = batch.map_err(|error| ctx.plan_error(&error)).and_then(|batch| {
                let columns = text_column(&batch, "subset")
                    .and_then(|subset| Ok((subset, text_column(&batch, "text")?)));
                columns.map_err(|error| ctx.failed(&error))
            });
            match columns {
                Ok((subsets, texts)) => {
                    for row in 0..texts.len() {
                        let (subset, text) = (subsets.value(row).to_owned(), texts.value(row).to_owned());
                        if sender.send(Ok(Document { subset, text })).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    // The reader may be gone; then nobody needs the error.
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
        }
    });
    Ok(receiver)
}
