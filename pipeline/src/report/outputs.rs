//! SQL over the outputs of a run's stages, for what the report plots.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::prelude::SessionContext;

use crate::engine::{Session, streams};
use crate::inspect;

/// The outputs of a run.
pub struct Outputs {
    session: Session,
    folder: PathBuf,
}

/// The rows of an answer as texts and numbers.
pub struct Rows(Vec<RecordBatch>);

impl Outputs {
    /// Looks into a run's folder.
    pub fn new(folder: &Path) -> Self {
        Self { session: SessionContext::new().into(), folder: folder.to_owned() }
    }

    /// A stage's folder.
    pub fn stage(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// The session, for callers with queries of their own.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Answers a query over stages, each under a table name. A plot that cannot be made must not
    /// end a run that is done: it is logged and left out.
    pub async fn query(&self, tables: &[(&str, &str)], sql: &str) -> Option<Rows> {
        match self.try_query(tables, sql).await {
            Ok(rows) => Some(Rows(rows)),
            Err(error) => {
                tracing::warn!(%error, sql, "a part of the report is left out");
                None
            }
        }
    }

    async fn try_query(&self, tables: &[(&str, &str)], sql: &str) -> Result<Vec<RecordBatch>, String> {
        let text = |error: datafusion::error::DataFusionError| error.to_string();
        for (name, stage) in tables {
            let frame = inspect::table(&self.session, &self.stage(stage))?;
            self.session.deregister_table(*name).map_err(text)?;
            self.session.register_table(*name, frame.into_view()).map_err(text)?;
        }
        streams::query(&self.session, sql).await.map_err(text)
    }
}

impl Rows {
    /// Each row by a function of its batch and its number there.
    pub fn map<T>(&self, row: impl Fn(&Row<'_>) -> T) -> Vec<T> {
        let rows =
            self.0.iter().flat_map(|batch| (0..batch.num_rows()).map(move |number| Row { batch, number }));
        rows.map(|place| row(&place)).collect()
    }
}

/// One row of an answer.
pub struct Row<'a> {
    batch: &'a RecordBatch,
    number: usize,
}

impl Row<'_> {
    /// A column as text; empty for null.
    pub fn text(&self, column: usize) -> String {
        let texts = cast(&self.batch.column(column).slice(self.number, 1), &DataType::Utf8);
        let value = |texts: arrow::array::ArrayRef| {
            let texts = texts.as_string::<i32>();
            if texts.is_null(0) { String::new() } else { texts.value(0).to_owned() }
        };
        texts.map(value).unwrap_or_default()
    }

    /// A column as a number; 0 for null.
    pub fn number(&self, column: usize) -> f64 {
        let numbers = cast(&self.batch.column(column).slice(self.number, 1), &DataType::Float64);
        let value = |numbers: arrow::array::ArrayRef| {
            let numbers = numbers.as_primitive::<Float64Type>();
            if numbers.is_null(0) { 0.0 } else { numbers.value(0) }
        };
        numbers.map(value).unwrap_or_default()
    }
}
