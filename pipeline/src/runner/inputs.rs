//! Finds what a stage reads: the manifests of its upstream stages, their shards as plans, and the
//! plans of fused stages.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::prelude::DataFrame;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::context::{Environment, StageContext};
use super::error::StageError;
use super::stage_run::stage_folder;
use crate::engine::scan::{self, FileSlice};
use crate::manifest::{Fingerprint, Manifest, OutputFile};
use crate::stages::{InputTable, Inputs, OutputKind, Shape, Task, blocking};
use crate::workflow::{OutputMode, StageNode, Workflow};

/// Looks up the inputs of a workflow's stages.
#[derive(Clone)]
pub struct InputResolver<'a> {
    /// The workflow.
    pub workflow: &'a Workflow,
    /// The run.
    pub env: Arc<Environment>,
    /// A context for the stage whose inputs these are; fused stages count their lost rows there.
    pub ctx: StageContext,
}

/// The shards of a finished stage, in order.
pub fn local_slices(folder: &Path, manifest: &Manifest) -> Vec<FileSlice> {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    manifest.shards().map(|file| FileSlice::local(&folder.join(&file.path), file.bytes)).collect()
}

impl<'a> InputResolver<'a> {
    fn node(&self, id: &str) -> Result<&'a StageNode, StageError> {
        let node = self.workflow.stages.iter().find(|node| node.id == id);
        node.ok_or_else(|| self.ctx.internal("an input names no stage"))
    }

    fn folder(&self, id: &str) -> PathBuf {
        stage_folder(&self.env.run_folder, id)
    }

    fn manifest(&self, id: &str) -> Result<Manifest, StageError> {
        let manifest = Manifest::read(&self.folder(id)).map_err(|error| self.ctx.failed(&error))?;
        manifest.ok_or_else(|| self.ctx.internal("an input is not finished"))
    }

    /// The content digests of a stage's inputs, by role. A fused stage's is the fingerprint of its
    /// work, since it has no output to hash.
    pub fn contents<'b>(
        &'b self,
        node: &'b StageNode,
    ) -> BoxFuture<'b, Result<BTreeMap<String, Vec<String>>, StageError>> {
        async move {
            let mut contents = BTreeMap::new();
            for (role, ids) in &node.inputs {
                let mut digests = Vec::with_capacity(ids.len());
                for id in ids {
                    let upstream = self.node(id)?;
                    // The name is a part of it: stages that mix several inputs speak of them by name.
                    digests.push(match upstream.output {
                        OutputMode::Materialize => format!("{id}:{}", self.manifest(id)?.content),
                        OutputMode::Fuse => {
                            let inputs = self.contents(upstream).await?;
                            let externals = upstream.stage.externals(&self.ctx).await?;
                            let kind = upstream.kind;
                            let print = Fingerprint::of(
                                kind.name,
                                kind.version,
                                &upstream.config,
                                &inputs,
                                &externals,
                            );
                            format!("{id}:fused-{}", print.short())
                        }
                    });
                }
                contents.insert(role.clone(), digests);
            }
            Ok(contents)
        }
        .boxed()
    }

    /// Rows of the stage's first input; `None` when it has none or they are not written out.
    pub fn rows_in(&self, node: &StageNode) -> Result<Option<u64>, StageError> {
        let Some(role) = node.kind.inputs.first() else {
            return Ok(None);
        };
        let mut rows = None;
        for id in node.inputs.get(role.role).into_iter().flatten() {
            if self.node(id)?.output == OutputMode::Materialize {
                *rows.get_or_insert(0) += self.manifest(id)?.rows_out;
            }
        }
        Ok(rows)
    }

    /// The shards behind a role; through a fused stage, those of its first input, or the files that it
    /// reads itself.
    pub fn shards<'b>(
        &'b self,
        node: &'b StageNode,
        role: &'b str,
    ) -> BoxFuture<'b, Result<Vec<FileSlice>, StageError>> {
        async move {
            let mut slices = Vec::new();
            for id in node.inputs.get(role).into_iter().flatten() {
                let upstream = self.node(id)?;
                match (upstream.output, upstream.kind.inputs.first()) {
                    (OutputMode::Fuse, Some(first)) => {
                        slices.extend(self.shards(upstream, first.role).await?);
                    }
                    (OutputMode::Fuse, None) => {
                        for task in upstream.stage.tasks(&self.ctx).await?.unwrap_or_default() {
                            slices.extend(task.slice.ok_or_else(|| self.cannot_be_fused(id))?);
                        }
                    }
                    (OutputMode::Materialize, _) => {
                        slices.extend(local_slices(&self.folder(id), &self.manifest(id)?));
                    }
                }
            }
            Ok(slices)
        }
        .boxed()
    }

    /// Compares with their digests the files of all finished stages that a stage reads as a whole: those of
    /// its first role are left out when each task reads a slice of them ([`Self::check_slices`]).
    ///
    /// # Errors
    /// A file is damaged.
    pub async fn check_whole(&self, node: &StageNode) -> Result<(), StageError> {
        let sliced = node.stage.shape() == Shape::PerShard && node.stage.tasks(&self.ctx).await?.is_none();
        for (stage, _) in self.finished_inputs(node, sliced)?.into_iter().filter(|(_, sliced)| !sliced) {
            self.check(&stage, |_| true).await?;
        }
        Ok(())
    }

    /// Compares the files that a task reads with their digests.
    ///
    /// # Errors
    /// A file is damaged.
    pub async fn check_slices(&self, node: &StageNode, slices: &[FileSlice]) -> Result<(), StageError> {
        let wanted: HashSet<String> = slices.iter().map(|slice| format!("/{}", slice.path)).collect();
        for (stage, _) in self.finished_inputs(node, true)?.into_iter().filter(|(_, sliced)| *sliced) {
            let folder = self.folder(&stage);
            let folder = folder.canonicalize().unwrap_or(folder);
            let wanted = wanted.clone();
            self.check(&stage, move |file| wanted.contains(&*folder.join(&file.path).to_string_lossy()))
                .await?;
        }
        Ok(())
    }

    /// The finished stages that a stage reads, through fused ones, and whether its tasks read slices of them.
    fn finished_inputs(&self, node: &StageNode, sliced: bool) -> Result<Vec<(String, bool)>, StageError> {
        let first = node.kind.inputs.first().map(|input| input.role);
        let mut found = Vec::new();
        for (role, ids) in &node.inputs {
            let sliced = sliced && first == Some(role.as_str());
            for id in ids {
                let upstream = self.node(id)?;
                match upstream.output {
                    OutputMode::Materialize => found.push((id.clone(), sliced)),
                    OutputMode::Fuse => found.extend(self.finished_inputs(upstream, sliced)?),
                }
            }
        }
        Ok(found)
    }

    async fn check(
        &self,
        stage: &str,
        wanted: impl Fn(&OutputFile) -> bool + Send + 'static,
    ) -> Result<(), StageError> {
        let (ctx, folder, manifest) = (self.ctx.clone(), self.folder(stage), self.manifest(stage)?);
        blocking(&self.ctx.stage, move || {
            let checked = ctx.env.guard.check_read(&folder, &manifest, wanted);
            checked.map_err(|damage| ctx.damaged(&damage))
        })
        .await
    }

    fn cannot_be_fused(&self, id: &str) -> StageError {
        let message = format!("stage `{id}` makes its rows piece by piece, so it cannot be fused here");
        self.ctx.input(message).help(format!("take `materialize = false` away from stage `{id}`"))
    }

    /// The inputs of a task; `slice` restricts the first role.
    pub fn resolve<'b>(
        &'b self,
        node: &'b StageNode,
        slice: Option<Vec<FileSlice>>,
    ) -> BoxFuture<'b, Result<Inputs, StageError>> {
        async move {
            let mut tables: BTreeMap<String, Vec<InputTable>> = BTreeMap::new();
            let mut folders: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
            let first = node.kind.inputs.first().map(|input| input.role);
            for (role, ids) in &node.inputs {
                let slice = slice.clone().filter(|_| first == Some(role.as_str()));
                for id in ids {
                    let upstream = self.node(id)?;
                    folders.entry(role.clone()).or_default().push(self.folder(id));
                    if upstream.kind.output == OutputKind::Table {
                        let table = self.table(upstream, slice.clone()).await?;
                        tables.entry(role.clone()).or_default().push(table);
                    }
                }
            }
            Ok(Inputs::new(tables, folders))
        }
        .boxed()
    }

    async fn table(
        &self,
        upstream: &StageNode,
        slice: Option<Vec<FileSlice>>,
    ) -> Result<InputTable, StageError> {
        let (plan, rows) = match upstream.output {
            OutputMode::Fuse => {
                if slice.is_none() && upstream.stage.tasks(&self.ctx).await?.is_some() {
                    return Err(self.cannot_be_fused(&upstream.id));
                }
                let inputs = self.resolve(upstream, slice.clone()).await?;
                let task = Task { name: format!("fused {}", upstream.id), slice };
                (upstream.stage.plan(&self.ctx, &task, &inputs).await?.into(), None)
            }
            OutputMode::Materialize => {
                let manifest = self.manifest(&upstream.id)?;
                let folder = self.folder(&upstream.id);
                (self.scan(&folder, &manifest, slice)?.into(), Some(manifest.rows_out))
            }
        };
        Ok(InputTable { stage: upstream.id.clone(), plan, rows })
    }

    fn scan(
        &self,
        folder: &Path,
        manifest: &Manifest,
        slice: Option<Vec<FileSlice>>,
    ) -> Result<DataFrame, StageError> {
        let first = manifest.shards().next();
        let first = first.ok_or_else(|| self.ctx.input(format!("{} leaves no table", manifest.stage)))?;
        let schema = schema_of(&folder.join(&first.path)).map_err(|message| self.ctx.input(message))?;
        let slices = slice.unwrap_or_else(|| local_slices(folder, manifest));
        scan::parquet(self.ctx.session(), schema, &slices).map_err(|error| self.ctx.plan_error(&error))
    }
}

/// The Arrow schema of a Parquet file.
///
/// # Errors
/// A text that names the file, what is wrong and what to do.
pub fn schema_of(path: &Path) -> Result<SchemaRef, String> {
    let explain = |error: &dyn std::fmt::Display| {
        format!("{} is not a whole Parquet file ({error}); fetch or make it again", path.display())
    };
    let file =
        std::fs::File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| explain(&error))?;
    Ok(reader.schema().clone())
}
