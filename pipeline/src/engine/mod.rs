//! Where plans run: the local DataFusion session, Parquet scans, and operators made from streams.

pub mod erased;
pub mod external_sort;
pub mod hub;
pub mod operator;
pub mod scan;
pub mod source;
pub mod streams;

use std::path::Path;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

pub use erased::{Plan, Session};

/// Rows of a batch. Small, because a row holds a whole page.
pub const BATCH_ROWS: usize = 512;

/// A session whose plans share one memory pool and spill under `spill_folder`.
///
/// Plans have one partition: parallelism comes from the runner's tasks and from inside the
/// operators, which keeps the order of rows, and so the bytes of the shards, a function of the data.
///
/// # Errors
/// The spill folder cannot be used.
pub fn session(memory_bytes: u64, spill_folder: &Path) -> Result<Session> {
    let disk =
        DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill_folder.to_owned()]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(usize::try_from(memory_bytes).unwrap_or(usize::MAX))))
        .with_disk_manager_builder(disk)
        .build_arc()?;
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
    let options = config.options_mut();
    // Domain crates take plain strings, and shards keep the schema they were written with.
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    Ok(SessionContext::new_with_config_rt(config, runtime).into())
}
