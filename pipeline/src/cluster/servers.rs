//! The processes of a cluster: Ballista's own scheduler and executor, with the codec of our plans.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use ballista_core::error::BallistaError;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use tokio_util::sync::CancellationToken;

use super::codec::Codec;
use super::site::Site;
use crate::durable;

/// How often executors say that they live, in seconds, and for how long none may be silent.
const HEARTBEAT_SECONDS: u64 = 4;
const SILENCE_SECONDS: u64 = 20;
/// How often silent executors are looked for, in seconds.
const LOOK_SECONDS: u64 = 2;
/// How long a plan waits for the first executor, or for the next when all are gone, in seconds.
const EMPTY_SECONDS: u64 = 600;
/// How long an executor looks for its scheduler, in seconds.
const CONNECT_SECONDS: u16 = 60;
/// Failures of one task by the machine's fault, not the task's, before its plan fails.
const TASK_FAILURES: usize = 8;
/// Largest message, in bytes: a plan of 100,000 tasks.
const MESSAGE_BYTES: u32 = 64 << 20;
/// How often an executor forgets plans that are over, and how old they are then, in seconds.
const FORGET_SECONDS: u64 = 600;

/// An executor to be.
pub struct Executor {
    /// The scheduler.
    pub scheduler: (String, u16),
    /// Where it listens.
    pub bind: IpAddr,
    /// The name or address by which others reach it.
    pub host: Option<String>,
    /// Its ports, for data and for commands; 0 takes free ones.
    pub ports: [u16; 2],
    /// Tasks that it does beside each other.
    pub threads: usize,
    /// Memory for its tasks, in bytes.
    pub memory_bytes: u64,
    /// Where it spills.
    pub folder: PathBuf,
    /// Its name.
    pub name: String,
}

/// Serves as a scheduler until the process ends.
///
/// # Errors
/// The address is taken, or cannot be.
pub async fn scheduler(listen: SocketAddr, host: Option<String>) -> Result<(), BallistaError> {
    let config = SchedulerConfig {
        bind_host: listen.ip().to_string(),
        bind_port: listen.port(),
        external_host: host.unwrap_or_else(|| listen.ip().to_string()),
        executor_timeout_seconds: SILENCE_SECONDS,
        expire_dead_executor_interval_seconds: LOOK_SECONDS,
        no_executors_grace_period_seconds: EMPTY_SECONDS,
        task_max_failures: TASK_FAILURES,
        grpc_server_max_decoding_message_size: MESSAGE_BYTES,
        grpc_server_max_encoding_message_size: MESSAGE_BYTES,
        grpc_client_max_message_size: MESSAGE_BYTES,
        override_physical_codec: Some(Arc::new(Codec::new(None))),
        ..SchedulerConfig::default()
    };
    let cluster = BallistaCluster::new_from_config(&config).await?;
    start_server(cluster, listen, Arc::new(config)).await
}

/// Serves as an executor until it is told to end, and then finishes the tasks in flight.
///
/// # Errors
/// The scheduler cannot be reached, a port is taken, or the folder cannot be made.
pub async fn executor(executor: Executor) -> Result<(), BallistaError> {
    durable::write_beside_others(&executor.name);
    let failed = |error: &dyn std::fmt::Display| BallistaError::General(error.to_string());
    durable::make_folder(&executor.folder).map_err(|error| failed(&error))?;
    let site = Site {
        name: executor.name.clone(),
        memory_bytes: executor.memory_bytes,
        threads: executor.threads,
        spill_folder: executor.folder.join("spill"),
        stop: CancellationToken::new(),
        open: Default::default(),
    };
    let [port, grpc_port] = free_ports(executor.bind, executor.ports).map_err(|error| failed(&error))?;
    let (scheduler_host, scheduler_port) = executor.scheduler;
    let config = ExecutorProcessConfig {
        executor_id: executor.name,
        bind_host: executor.bind.to_string(),
        external_host: executor.host,
        port,
        grpc_port,
        scheduler_host,
        scheduler_port,
        scheduler_connect_timeout_seconds: CONNECT_SECONDS,
        vcores: executor.threads,
        work_dir: Some(executor.folder.to_string_lossy().into_owned()),
        executor_heartbeat_interval_seconds: HEARTBEAT_SECONDS,
        // Plans run in a session of ours, which has its own bound.
        memory_pool_size: Some(0),
        job_data_ttl_seconds: FORGET_SECONDS,
        job_data_clean_up_interval_seconds: FORGET_SECONDS,
        grpc_max_decoding_message_size: MESSAGE_BYTES,
        grpc_max_encoding_message_size: MESSAGE_BYTES,
        override_physical_codec: Some(Arc::new(Codec::new(Some(Arc::new(site))))),
        ..ExecutorProcessConfig::default()
    };
    start_executor_process(Arc::new(config)).await
}

/// Ballista tells others the port that it was given, so a free one is looked for beforehand.
fn free_ports(bind: IpAddr, wanted: [u16; 2]) -> std::io::Result<[u16; 2]> {
    // Both are held until both are known.
    let listeners = wanted.map(|port| TcpListener::bind((bind, port)));
    let mut ports = [0; 2];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}
