//! The parts of a cluster.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse_threads;
use crate::engine::Engine;
use crate::units;

/// Arguments of `cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start a scheduler: it hands the tasks of runs out to executors.
    Scheduler(SchedulerArgs),
    /// Start an executor: it does tasks, in the folder in which the run was started.
    Executor(ExecutorArgs),
    /// Start a scheduler and executors on this machine, to try a cluster.
    Local(LocalArgs),
}

/// Arguments of `cluster scheduler`.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    /// Where to listen. There is no authentication: whoever reaches the port may give work.
    #[arg(long, default_value = "127.0.0.1:50050")]
    pub listen: SocketAddr,
    /// The name or address by which executors reach this machine; the one it listens at by default.
    #[arg(long)]
    pub host: Option<String>,
    /// Ends when its standard input does.
    #[arg(long, hide = true)]
    pub supervised: bool,
}

/// Arguments of `cluster executor`.
#[derive(Debug, Args)]
pub struct ExecutorArgs {
    /// The scheduler.
    #[arg(long, value_name = "ballista://HOST:PORT", default_value = "ballista://127.0.0.1:50050")]
    pub scheduler: Engine,
    /// Where to listen. There is no authentication: whoever reaches the ports may give work.
    #[arg(long, default_value = "127.0.0.1")]
    pub bind: IpAddr,
    /// The name or address by which the scheduler reaches this machine; the one it listens at by default.
    #[arg(long)]
    pub host: Option<String>,
    /// The port for data; a free one by default.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// The port for commands; a free one by default.
    #[arg(long, default_value_t = 0)]
    pub command_port: u16,
    /// Tasks that it does beside each other; as many as there are CPU threads by default.
    #[arg(long, default_value_t = units::machine_threads(), value_parser = parse_threads)]
    pub threads: usize,
    /// Memory for its tasks: a size, or a share of the machine's.
    #[arg(long, default_value = "70%", value_parser = units::parse_memory)]
    pub memory_limit: u64,
    /// Where it spills; a temporary folder by default.
    #[arg(long)]
    pub work_folder: Option<PathBuf>,
    /// Its name; the machine's and the process's number by default.
    #[arg(long)]
    pub name: Option<String>,
    /// Ends when its standard input does.
    #[arg(long, hide = true)]
    pub supervised: bool,
}

/// Arguments of `cluster local`.
#[derive(Debug, Args)]
pub struct LocalArgs {
    /// How many executors.
    #[arg(long, default_value_t = 3)]
    pub executors: usize,
    /// Where the scheduler listens.
    #[arg(long, default_value = "127.0.0.1:50050")]
    pub listen: SocketAddr,
    /// CPU threads of each executor.
    #[arg(long, default_value_t = 1, value_parser = parse_threads)]
    pub threads: usize,
    /// Memory of each executor; a share of 70 % of the machine's by default.
    #[arg(long, value_parser = units::parse_memory)]
    pub memory_limit: Option<u64>,
}
