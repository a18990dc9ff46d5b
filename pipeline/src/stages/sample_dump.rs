//! `sample_dump`: a small real dump that anyone can fetch: the documentation sections and Python
//! files inside source distributions on PyPI.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{External, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::sample::{self, Package, SampleOptions};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "sample_dump",
    summary: "Makes a sample dump from the documentation and Python files of PyPI source distributions.",
    version: 1,
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
    /// Python files in The Stack's schema: `blob_id, repo_name, path, length_bytes, text`.
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
            externals.push(super::asset_external(ctx, package.asset())?);
        }
        Ok(externals)
    }

    async fn tasks(&self, _ctx: &StageContext) -> Result<Option<Vec<Task>>, StageError> {
        let task = |package: &Package| Task { name: package.asset().name().to_owned(), slice: None };
        Ok(Some(self.packages.iter().map(task).collect()))
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, _inputs: &Inputs) -> Result<DataFrame, StageError> {
        let package = self.packages.iter().find(|package| package.asset().name() == task.name);
        let package = *package.ok_or_else(|| ctx.internal("a task without its package"))?;
        let path = ctx.asset(package.asset())?;
        let (options, sink) = (self.options.clone(), ctx.ledger.drop_sink());
        let on_reject: sample::OnReject =
            Arc::new(move |reject: sample::Reject| sink(reject.id, reject.reason, reject.detail));
        match self.content {
            Content::Pages => {
                let docutils = ctx.asset(crate::assets::Asset::Docutils)?;
                super::from_batches(ctx, sample::page_schema(), move || {
                    sample::page_batches(&path, package, &docutils, &options, on_reject.clone())
                })
            }
            Content::Python => super::from_batches(ctx, sample::python_file_schema(), move || {
                sample::python_file_batches(&path, package, &options, on_reject.clone())
            }),
        }
    }
}
