//! `sample_dump`: a small real dump that anyone can fetch: the documentation sections and Python
//! files inside source distributions on PyPI.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{External, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::assets::Asset;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::sample::{self, Package, SampleError, SampleOptions};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "sample_dump",
    summary: "Makes a sample dump from the documentation and Python files of PyPI source distributions.",
    version: 2,
    inputs: &[],
    output: OutputKind::Table,
    schema: super::schema_of::<SampleDumpConfig>,
    build: super::build_from::<SampleDumpConfig>,
};

/// What is taken out of the source distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Documentation sections as pages in FineWeb's schema.
    Pages,
    /// Python files in The Stack's schema: `blob_id, repo_name, path, length_bytes, text, license`.
    Python,
}

/// Makes a sample dump; each package is a task.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleDumpConfig {
    /// Pages or Python files.
    pub content: Content,
    /// The packages by asset name, in order; all of the sample's when left out
    /// (`pipeline assets list` shows them).
    #[serde(default = "all_packages")]
    pub packages: Vec<Package>,
    /// How pages and files are cut and chosen.
    #[serde(default)]
    pub options: SampleOptions,
}

fn all_packages() -> Vec<Package> {
    Package::ALL.to_vec()
}

#[async_trait]
impl Stage for SampleDumpConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let mut externals = Vec::new();
        for package in &self.packages {
            externals.push(super::asset_external(ctx, asset_of(*package))?);
        }
        Ok(externals)
    }

    async fn tasks(&self, _ctx: &StageContext) -> Result<Option<Vec<Task>>, StageError> {
        let task = |package: &Package| Task { name: asset_of(*package).name().to_owned(), slice: None };
        Ok(Some(self.packages.iter().map(task).collect()))
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, _inputs: &Inputs) -> Result<DataFrame, StageError> {
        let package = self.packages.iter().find(|package| asset_of(**package).name() == task.name);
        let package = *package.ok_or_else(|| ctx.internal("a task without its package"))?;
        let path = ctx.asset(asset_of(package))?;
        let (options, sink) = (self.options.clone(), ctx.ledger.drop_sink());
        let on_reject: sample::OnReject =
            Arc::new(move |reject: sample::Reject| sink(reject.id, reject.reason, reject.detail));
        match self.content {
            Content::Pages => {
                let docutils = ctx.asset(Asset::Docutils)?;
                super::from_batches(ctx, sample::page_schema(), move || {
                    let pages = sample::pages(&path, package, &docutils, &options, on_reject.clone());
                    batches(pages.map(|pages| sample::page_batches(pages, options.batch_rows)))
                })
            }
            Content::Python => super::from_batches(ctx, sample::python_file_schema(), move || {
                let files = sample::python_files(&path, package, &options, on_reject.clone());
                batches(Ok(sample::python_file_batches(files, options.batch_rows)))
            }),
        }
    }
}

/// The source distribution of a package.
fn asset_of(package: Package) -> Asset {
    match package {
        Package::Django => Asset::DjangoSdist,
        Package::Sympy => Asset::SympySdist,
        Package::Networkx => Asset::NetworkxSdist,
        Package::Sphinx => Asset::SphinxSdist,
        Package::Celery => Asset::CelerySdist,
    }
}

/// The batches of an archive, or the one error of an archive that cannot be read at all.
fn batches<I>(opened: Result<I, SampleError>) -> impl Iterator<Item = Result<RecordBatch, ArrowError>>
where
    I: Iterator<Item = Result<RecordBatch, SampleError>>,
{
    let (rows, failure) = match opened {
        Ok(rows) => (Some(rows), None),
        Err(error) => (None, Some(Err(error))),
    };
    let all = rows.into_iter().flatten().chain(failure);
    all.map(|batch| batch.map_err(|error| ArrowError::ExternalError(Box::new(error))))
}
