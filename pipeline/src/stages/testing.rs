//! Runs a stage's plan over rows built in a test.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;
use tokio_util::sync::CancellationToken;

use super::{InputTable, Inputs, Stage, Task};
use crate::assets::AssetStore;
use crate::engine;
use crate::runner::context::{Environment, StageContext};
use crate::runner::error::StageError;
use crate::runner::ledger::Ledger;
use crate::runner::progress::StageProgress;

/// A batch from rows written as JSON; the schema is inferred.
pub fn batch(rows: serde_json::Value) -> RecordBatch {
    let rows = rows.as_array().unwrap();
    let schema = arrow::json::reader::infer_json_schema_from_iterator(rows.iter().map(Ok)).unwrap();
    let mut decoder = arrow::json::ReaderBuilder::new(Arc::new(schema)).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    decoder.flush().unwrap().unwrap()
}

/// A context over a throw-away folder, which is left to the system to clean.
pub fn context() -> StageContext {
    let folder = tempfile::tempdir().unwrap().keep();
    let env = Environment {
        session: engine::session(256 << 20, &folder).unwrap(),
        assets: AssetStore::from_environment().unwrap(),
        spill_folder: folder.clone(),
        run_folder: folder,
        memory_bytes: 512 << 20,
        threads: 2,
        shard_bytes: 1 << 20,
        engine: engine::Engine::Embedded,
        llm: super::LlmSessions::default(),
        fence: crate::runner::lock::Fence::default(),
        guard: crate::integrity::guard::Guard::default(),
        stop: CancellationToken::new(),
    };
    StageContext {
        stage: "test".into(),
        session: env.session.clone(),
        env: Arc::new(env),
        ledger: Ledger::default(),
        progress: StageProgress::default(),
    }
}

/// Puts rows through a stage's plan.
pub async fn plan(
    stage: &dyn Stage,
    role: &str,
    rows: RecordBatch,
) -> Result<(Vec<RecordBatch>, StageContext), StageError> {
    plan_many(stage, &[(role, rows)]).await
}

/// Puts the rows of several roles through a stage's plan.
pub async fn plan_many(
    stage: &dyn Stage,
    roles: &[(&str, RecordBatch)],
) -> Result<(Vec<RecordBatch>, StageContext), StageError> {
    plan_tables(stage, roles.iter().map(|(role, rows)| (*role, *role, rows))).await
}

/// Puts the rows of several stages that play one role through a stage's plan.
pub async fn plan_named(
    stage: &dyn Stage,
    role: &str,
    stages: &[(&str, RecordBatch)],
) -> Result<(Vec<RecordBatch>, StageContext), StageError> {
    plan_tables(stage, stages.iter().map(|(name, rows)| (role, *name, rows))).await
}

async fn plan_tables<'a>(
    stage: &dyn Stage,
    inputs: impl Iterator<Item = (&'a str, &'a str, &'a RecordBatch)>,
) -> Result<(Vec<RecordBatch>, StageContext), StageError> {
    let ctx = context();
    let mut tables: BTreeMap<String, Vec<InputTable>> = BTreeMap::new();
    for (role, name, rows) in inputs {
        let count = rows.num_rows() as u64;
        let plan = ctx.session().read_batch(rows.clone()).unwrap().into();
        let table = InputTable { stage: name.to_owned(), plan, rows: Some(count) };
        tables.entry(role.to_owned()).or_default().push(table);
    }
    let inputs = Inputs::new(tables, BTreeMap::new());
    let task = Task { name: "all".into(), slice: None };
    let frame = stage.plan(&ctx, &task, &inputs).await?;
    let rows = frame.collect().await.map_err(|error| ctx.plan_error(&error))?;
    Ok((rows, ctx))
}

/// A text column over all batches.
pub fn strings(rows: &[RecordBatch], column: &str) -> Vec<String> {
    rows.iter()
        .flat_map(|batch| {
            let column =
                arrow::compute::cast(batch.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
            column
                .as_string::<i32>()
                .iter()
                .map(|text| text.unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
}
