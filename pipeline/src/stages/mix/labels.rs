//! From the rows of a subset to rows of the corpus.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::error::ArrowError;

use super::amounts::Taken;
use super::{MixConfig, Subset, TRAIN, ordered_schema, split};
use crate::runner::ledger::RowSink;
use crate::stages::columns::{id_of, text_column};

/// From the rows of a subset to rows of the corpus.
pub struct Labels {
    /// The stage's config.
    pub config: MixConfig,
    /// The subset's name.
    pub name: String,
    /// Its entry in the config.
    pub subset: Subset,
    /// How much of it is taken.
    pub taken: Taken,
    /// Where rows go that are not.
    pub sink: RowSink,
}

impl Labels {
    /// The rows that have a text, each as often as it is taken.
    ///
    /// # Errors
    /// A column does not hold text.
    pub fn label(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let ids = text_column(batch, &self.subset.id_column)?;
        let texts = text_column(batch, &self.subset.text_column)?;
        let (mut rows, mut splits, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let id = id_of(&ids, row);
            if is_empty(&texts, row) {
                (self.sink)(id, "empty_text".to_owned(), self.name.clone());
                continue;
            }
            let split = split(&id, self.config.heldout_share, self.config.seed);
            let copies = if split == TRAIN { self.taken.copies(self.config.lot(&id, 0)) } else { 1 };
            for copy in 0..copies {
                rows.push(row);
                splits.push(split);
                // Not the lot itself: those that are taken once more would come first.
                order.push(self.config.lot(&id, copy + 1));
            }
            if copies == 0 {
                (self.sink)(id, "over_share".to_owned(), self.name.clone());
            }
        }
        let text = |column: &StringArray| -> ArrayRef {
            let value = |&row: &usize| if column.is_null(row) { "" } else { column.value(row) };
            Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
        };
        let columns: Vec<ArrayRef> = vec![
            text(&ids),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|_| &self.name))),
            Arc::new(StringArray::from_iter_values(splits)),
            text(&texts),
            Arc::new(UInt64Array::from(order)),
        ];
        RecordBatch::try_new(ordered_schema(), columns)
    }
}

fn is_empty(texts: &StringArray, row: usize) -> bool {
    texts.is_null(row) || texts.value(row).trim().is_empty()
}
