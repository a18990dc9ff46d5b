//! `signature_index`: what later dumps need to know of the rows that this dump kept.

use std::path::Path;
use std::sync::Arc;

use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::ident;
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::require;
use super::duplicates::{self, away};
use super::minhash::external::{Survey, Unsigned};
use super::minhash::index;
use super::minhash::signature::{SignatureOptions, Signer};
use super::minhash::{Sketcher, sketch_all};
use super::{InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::engine::streams::{error_from_domain, execute, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "signature_index",
    summary: "Keeps the MinHash signatures of a dump's rows, so that later dumps drop what matches them.",
    version: 1,
    inputs: &[InputRole {
        role: "rows",
        about: "the rows that a `minhash` stage kept, with a text and an id",
        count: InputCount::One,
    }],
    output: OutputKind::Folder,
    schema: super::schema_of::<SignatureIndexConfig>,
    build: super::build_from::<SignatureIndexConfig>,
};

/// Makes an index of signatures that `minhash` takes as `against`. A new dump gets an index of its own
/// beside the old ones, none of which is made again. It takes about 2 kB a row with the published
/// settings.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SignatureIndexConfig {
    /// The column with the text.
    pub text_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// The settings of the signatures, which must be those of the `minhash` stages that read the index.
    pub signatures: SignatureOptions,
    /// Memory of the sorts, in bytes; what it does not hold is spilled. A quarter of the run's memory limit
    /// when left out.
    pub memory_bytes: Option<u64>,
}

impl Default for SignatureIndexConfig {
    fn default() -> Self {
        Self {
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            signatures: SignatureOptions::default(),
            memory_bytes: None,
        }
    }
}

#[async_trait]
impl Stage for SignatureIndexConfig {
    fn config(&self) -> Json {
        duplicates::config_without_memory(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs::sorting(self.memory_bytes)
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        let columns = [self.id_column.as_str(), self.text_column.as_str()];
        require(ctx, &rows, "rows", &columns)?;
        let plan_error = |error| ctx.plan_error(&error);
        let rows = rows.frame().select(columns.map(ident).to_vec()).map_err(plan_error)?;
        let rows = execute(rows).await.map_err(plan_error)?;
        let progress = ctx.progress.clone();
        let rows = to_domain(rows).inspect(move |batch| {
            progress.add_rows(batch.as_ref().map_or(0, |batch| batch.num_rows() as u64));
        });
        let folder = out.join(index::FOLDER);
        // What a killed call left is made anew: signing again what it signed is the smaller part.
        let files = index::create(&folder).map_err(|error| ctx.write_error(&error))?;
        let spill = ctx.spill(self.memory_bytes)?;
        let survey = Survey::new(self.signatures.clone(), Unsigned::Exact, spill, files);
        let sketcher = Arc::new(Sketcher {
            signer: Signer::new(self.signatures.clone()),
            text_column: self.text_column.clone(),
            id_column: self.id_column.clone(),
            order: None,
        });
        let options = self.signatures.clone();
        let finished = async {
            let survey = sketch_all(sketcher, survey, rows.boxed()).await?;
            away(move || {
                let rows = index::finish(&folder, &options, survey);
                rows.map_err(|error| ArrowError::ExternalError(Box::new(error)))
            })
            .await
        };
        let count = finished.await.map_err(|error| ctx.plan_error(&error_from_domain(error)))?;
        Ok(Outcome { rows_out: u64::from(count), ..Outcome::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::RecordBatch;
    use serde_json::json;

    use super::super::minhash::MinhashConfig;
    use super::super::{InputTable, Task, testing};
    use super::*;

    const PAGE: &str = "the spring tide comes twice a month when the sun and the moon pull in one line and \
                        the water rises far above the common mark while the neap tide comes between";

    fn inputs(ctx: &StageContext, rows: RecordBatch, against: &[&Path]) -> Inputs {
        let count = rows.num_rows() as u64;
        let frame = ctx.session().read_batch(rows).unwrap();
        let table = InputTable { stage: "rows".into(), plan: frame.into(), rows: Some(count) };
        let folders = against.iter().map(|folder| folder.to_path_buf()).collect();
        Inputs::new(
            BTreeMap::from([("rows".to_owned(), vec![table])]),
            BTreeMap::from([("against".to_owned(), folders)]),
        )
    }

    async fn make_index(folder: &Path, rows: RecordBatch, config: &SignatureIndexConfig) -> Outcome {
        std::fs::create_dir_all(folder).unwrap();
        let ctx = testing::context();
        config.run(&ctx, &inputs(&ctx, rows, &[]), folder).await.unwrap()
    }

    async fn dedup(
        config: &MinhashConfig,
        rows: RecordBatch,
        against: &[&Path],
    ) -> Result<(Vec<String>, Vec<String>), StageError> {
        let ctx = testing::context();
        let task = Task { name: "all".into(), slice: None };
        let frame = config.plan(&ctx, &task, &inputs(&ctx, rows, against)).await?;
        let rows = frame.collect().await.map_err(|error| ctx.plan_error(&error))?;
        let told =
            ctx.ledger.dropped().into_iter().map(|row| format!("{} {}: {}", row.id, row.reason, row.detail));
        Ok((testing::strings(&rows, "id"), told.collect()))
    }

    /// One hash a bucket, so that pairs that are less alike are found for sure.
    fn settings() -> (SignatureIndexConfig, MinhashConfig) {
        let signatures =
            SignatureOptions { buckets: 112, hashes_per_bucket: 1, ..SignatureOptions::default() };
        let minhash = MinhashConfig { buckets: 112, hashes_per_bucket: 1, ..MinhashConfig::default() };
        (SignatureIndexConfig { signatures, ..SignatureIndexConfig::default() }, minhash)
    }

    #[tokio::test]
    async fn rows_that_match_an_older_dump_are_dropped_and_name_the_row_they_match() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("dump_1"), folder.path().join("dump_2"));
        let (index_config, config) = settings();
        let other = "something else altogether stands on this page and nothing of it is on another one";
        let outcome = make_index(&first, testing::batch(json!([
            {"id": "old 0", "text": other}, {"id": "old 1", "text": PAGE}, {"id": "old 2", "text": "Read more"},
        ])), &index_config).await;
        assert_eq!(outcome.rows_out, 3);
        make_index(&second, testing::batch(json!([{"id": "older", "text": PAGE}])), &index_config).await;
        let rows = || {
            testing::batch(json!([
                {"id": "a", "text": format!("{PAGE}!")},
                {"id": "b", "text": PAGE.replace("far above", "well above")},
                {"id": "c", "text": "read MORE"},
                {"id": "d", "text": "a page that is new and has nothing in common with any other page of the dumps"},
                {"id": "e", "text": "A page that is new, and has nothing in common with any other page of the dumps"},
            ]))
        };
        let (kept, dropped) = dedup(&config, rows(), &[&first, &second]).await.unwrap();
        assert_eq!(kept, ["d"]);
        assert_eq!(
            dropped[0],
            "a exact_duplicate: old 1 of `dump_1` is kept; estimated Jaccard similarity 1.00"
        );
        assert!(dropped[1].starts_with("b near_duplicate: old 1 of `dump_1` is kept; "), "{dropped:?}");
        let estimate: f64 = dropped[1].rsplit(' ').next().unwrap().parse().unwrap();
        assert!((0.5..0.9).contains(&estimate), "{estimate}");
        assert_eq!(
            dropped[2],
            "c exact_duplicate: old 2 of `dump_1` is kept; estimated Jaccard similarity 1.00"
        );
        assert_eq!(dropped[3], "e exact_duplicate: d is kept; estimated Jaccard similarity 1.00");
        let (_, dropped) = dedup(&config, rows(), &[&second, &first]).await.unwrap();
        assert!(dropped[0].contains("older of `dump_2`"), "{dropped:?}");
        // Spilling after every few records changes nothing.
        let small = MinhashConfig { memory_bytes: Some(1000), ..config };
        assert_eq!(dedup(&small, rows(), &[&second, &first]).await.unwrap().1, dropped);
    }

    #[tokio::test]
    async fn an_index_is_a_function_of_its_rows_and_settings() {
        let folder = tempfile::tempdir().unwrap();
        let rows = || testing::batch(json!([{"id": "a", "text": PAGE}, {"id": "b", "text": "Read more"}]));
        let read = |name: &str, file: &str| {
            std::fs::read(folder.path().join(name).join(index::FOLDER).join(file)).unwrap()
        };
        let config = SignatureIndexConfig::default();
        // The second is made over what a killed call left.
        std::fs::create_dir_all(folder.path().join("two/signatures/buckets")).unwrap();
        std::fs::write(folder.path().join("two/signatures/slots"), "half").unwrap();
        make_index(&folder.path().join("one"), rows(), &config).await;
        make_index(
            &folder.path().join("two"),
            rows(),
            &SignatureIndexConfig { memory_bytes: Some(1), ..config },
        )
        .await;
        for file in ["header.json", "slots", "ids", "buckets/00000", "buckets/00014"] {
            assert_eq!(read("one", file), read("two", file), "{file}");
        }
        assert_eq!(read("one", "buckets/00014").len(), 24);
    }

    #[tokio::test]
    async fn an_index_with_other_settings_or_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let rows = || testing::batch(json!([{"id": "a", "text": PAGE}]));
        let (_, config) = settings();
        let error = dedup(&config, rows(), &[folder.path()]).await.unwrap_err();
        assert!(error.to_string().contains("header.json"), "{error}");
        make_index(folder.path(), rows(), &SignatureIndexConfig::default()).await;
        let error = dedup(&config, rows(), &[folder.path()]).await.unwrap_err();
        assert!(error.to_string().contains("buckets 14"), "{error}");
        assert_eq!(error.fault, crate::runner::error::Fault::Input);
    }
}
