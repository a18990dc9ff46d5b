//! `license`: keeps files under some licences.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use async_trait::async_trait;
use classifiers::rules::Rejected;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{require, schema_of};
use super::rules::{Judged, judged_rows};
use super::{InputCount, InputRole, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "license",
    summary: "Keeps files under some licences.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "a table with a licence and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<LicenseConfig>,
    build: super::build_from::<LicenseConfig>,
};

/// Permissive licences that are common among Python files, by their SPDX identifiers (the Blue Oak
/// Council's list, ratings gold to bronze, from which The Stack's is made: Kocetkov et al. 2022, section 3.1).
const PERMISSIVE: [&str; 19] = [
    "0BSD",
    "AFL-3.0",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-2-Clause-Patent",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSD-4-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "NCSA",
    "PostgreSQL",
    "Python-2.0",
    "Unlicense",
    "Zlib",
];

/// Keeps the rows whose licence, or each of whose licences, is one of a list; rows of others are dropped
/// (reason `license_not_listed`), as are those that name none (`license_unknown`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LicenseConfig {
    /// The licences to keep, by their SPDX identifiers; upper and lower case do not count. Permissive
    /// ones by default.
    pub licenses: Vec<String>,
    /// The column with a licence, or a list of them.
    pub license_column: String,
    /// Keep the rows that name no licence.
    pub keep_unknown: bool,
    /// The column that names a row.
    pub id_column: String,
}

impl Default for LicenseConfig {
    fn default() -> Self {
        Self {
            licenses: PERMISSIVE.map(str::to_owned).to_vec(),
            license_column: "license".to_owned(),
            keep_unknown: false,
            id_column: "id".to_owned(),
        }
    }
}

#[async_trait]
impl Stage for LicenseConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.id_column, &self.license_column])?;
        let schema = schema_of(&rows);
        let listed: BTreeSet<String> = self.licenses.iter().map(|name| name.to_lowercase()).collect();
        let config = self.clone();
        judged_rows(ctx, rows, "license", &self.id_column, schema, move |batch| config.judge(batch, &listed))
    }
}

impl LicenseConfig {
    fn judge(&self, batch: RecordBatch, listed: &BTreeSet<String>) -> Result<Judged, ArrowError> {
        let column = batch.column(batch.schema().index_of(&self.license_column)?);
        let rejected = licenses(column)?.iter().map(|names| self.check(names, listed).err()).collect();
        Ok(Judged { rows: batch, rejected })
    }

    fn check(&self, names: &[String], listed: &BTreeSet<String>) -> Result<(), Rejected> {
        if names.is_empty() && !self.keep_unknown {
            return Err(Rejected::new("license_unknown", "the row names no licence"));
        }
        match names.iter().find(|name| !listed.contains(&name.to_lowercase())) {
            Some(name) => Err(Rejected::new("license_not_listed", name)),
            None => Ok(()),
        }
    }
}

/// The licences of each row.
fn licenses(column: &ArrayRef) -> Result<Vec<Vec<String>>, ArrowError> {
    let texts = |values: &ArrayRef| -> Result<Vec<String>, ArrowError> {
        let values = cast(values, &DataType::Utf8)?;
        let names = values.as_string::<i32>().iter().flatten().map(|name| name.trim().to_owned());
        Ok(names.filter(|name| !name.is_empty()).collect())
    };
    if !matches!(column.data_type(), DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_)) {
        return (0..column.len()).map(|row| texts(&column.slice(row, 1))).collect();
    }
    let item = std::sync::Arc::new(arrow::datatypes::Field::new_list_field(DataType::Utf8, true));
    let lists = cast(column, &DataType::List(item))?;
    let lists = lists.as_list::<i32>();
    let of_row = |row: usize| if lists.is_null(row) { Ok(Vec::new()) } else { texts(&lists.value(row)) };
    (0..lists.len()).map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    async fn kept(config: LicenseConfig, rows: Json) -> (Vec<String>, Vec<String>) {
        let (rows, ctx) = testing::plan(&config, "rows", testing::batch(rows)).await.unwrap();
        let dropped = ctx.ledger.dropped();
        let dropped = dropped.iter().map(|row| format!("{} {} {}", row.id, row.reason, row.detail));
        (testing::strings(&rows, "id"), dropped.collect())
    }

    #[tokio::test]
    async fn files_under_a_listed_licence_stay() {
        let rows = json!([
            {"id": "a", "license": "MIT"}, {"id": "b", "license": "apache-2.0"}, {"id": "c", "license": "GPL-3.0"},
            {"id": "d", "license": null}, {"id": "e", "license": " "},
        ]);
        let (ids, dropped) = kept(LicenseConfig::default(), rows.clone()).await;
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(dropped[0], "c license_not_listed GPL-3.0");
        assert!(dropped[1..].iter().all(|row| row.contains("license_unknown")), "{dropped:?}");
        let mine =
            LicenseConfig { licenses: vec!["gpl-3.0".into()], keep_unknown: true, ..Default::default() };
        assert_eq!(kept(mine, rows).await.0, ["c", "d", "e"]);
    }

    #[tokio::test]
    async fn of_a_list_each_must_be_listed() {
        let rows = json!([
            {"id": "a", "max_stars_repo_licenses": ["MIT", "ISC"]}, {"id": "b", "max_stars_repo_licenses": ["MIT", "GPL-2.0"]},
            {"id": "c", "max_stars_repo_licenses": []},
        ]);
        let config = LicenseConfig { license_column: "max_stars_repo_licenses".into(), ..Default::default() };
        let (ids, dropped) = kept(config, rows).await;
        assert_eq!(ids, ["a"]);
        assert_eq!(dropped[0], "b license_not_listed GPL-2.0");
    }
}
