//! Where plans run: the local DataFusion session, Parquet scans, and operators made from streams.

pub mod data_file;
pub mod erased;
pub mod external_sort;
pub mod hub;
pub mod operator;
pub mod scan;
pub mod source;
pub mod stores;
pub mod streams;
pub mod web;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use datafusion::error::Result as PlanResult;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

pub use erased::{Plan, Session};

/// Rows of a batch. Small, because a row holds a whole page.
pub const BATCH_ROWS: usize = 512;

/// Bytes of a batch, about: rows that are longer than a 512th of it make smaller batches. A column of texts holds
/// 2 GiB, and operators put two batches together.
pub const BATCH_BYTES: u64 = 64 << 20;

/// Where the tasks of stages are done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// In this process.
    #[default]
    Embedded,
    /// In this process, an executor of a cluster: others write into the run's folder beside it.
    Executor,
    /// By the executors of the cluster whose scheduler is at this place, `HOST:PORT`.
    Ballista(String),
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.strip_prefix("ballista://").map(|place| place.trim_end_matches('/'));
        let is_place = |place: &str| {
            place.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        match place {
            None if text == "embedded" => Ok(Self::Embedded),
            Some(place) if is_place(place) => Ok(Self::Ballista(place.to_owned())),
            _ => Err(format!("`{text}` is no engine: write embedded, or ballista://HOST:PORT")),
        }
    }
}

/// A session whose plans share one memory pool and spill under `spill_folder`.
///
/// Plans have one partition: parallelism comes from the runner's tasks and from inside the
/// operators, which keeps the order of rows, and so the bytes of the shards, a function of the data.
///
/// # Errors
/// The spill folder cannot be used.
pub fn session(memory_bytes: u64, spill_folder: &Path) -> PlanResult<Session> {
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

/// The same session with other batches.
pub fn with_batch_rows(session: &Session, rows: usize) -> Session {
    let state = session.state();
    let config = state.config().clone().with_batch_size(rows);
    let state = SessionStateBuilder::new_from_existing(state).with_config(config).build();
    SessionContext::new_with_state(state).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_here_or_behind_a_scheduler() {
        assert_eq!("embedded".parse(), Ok(Engine::Embedded));
        assert_eq!("ballista://a.b:50050/".parse(), Ok(Engine::Ballista("a.b:50050".to_owned())));
        for wrong in ["", "ballista", "ballista://", "ballista://host", "ballista://host:x", "spark://host:1"]
        {
            assert!(wrong.parse::<Engine>().unwrap_err().contains("ballista://HOST:PORT"), "{wrong}");
        }
    }
}
