//! The service, and speaking with one.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::units;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// The folder of workflow files.
    #[arg(long, default_value = "workflows")]
    pub workflows: PathBuf,
    /// The folder of the ledger, the logs and the runs.
    #[arg(long, default_value = "data", env = "CORPUSMITH_DATA")]
    pub data: PathBuf,
    /// The ledger, if it is not a file in the data folder: a path, sqlite:PATH or a postgres:// URL.
    #[arg(long, env = "CORPUSMITH_LEDGER", hide_env_values = true)]
    pub ledger: Option<String>,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8420")]
    pub listen: SocketAddr,
    /// Memory for all runs together: a size, or a share of the machine's.
    #[arg(long, default_value = "70%", value_parser = units::parse_memory)]
    pub memory_limit: u64,
    /// CPU threads for all runs together; all of them by default.
    #[arg(long, default_value_t = units::machine_threads(), value_parser = super::parse_threads)]
    pub threads: usize,
    /// How long a run may take to stop before it is killed, in seconds.
    #[arg(long, default_value_t = 30)]
    pub grace: u64,
    /// Pools, notices and what is forgotten when: a file like `service.toml` in the README. By default
    /// `service.toml` in the data folder, if it is there.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// This service's name, if it is not the machine's: no other service of the same ledger has it.
    #[arg(long)]
    pub name: Option<String>,
    /// Speak TLS with this certificate: PEM, the server's own first, then its chain. It, or --behind-proxy, is
    /// needed to listen at an address that other machines reach. A renewed file is taken up by itself.
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "behind_proxy")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key: PEM, not encrypted.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A proxy in front ends TLS.
    #[arg(long)]
    pub behind_proxy: bool,
    /// How people reach the service, for links in notices, for example https://corpus.example.org.
    #[arg(long)]
    pub public_url: Option<String>,
}

/// `pipeline token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token. It is shown this once.
    Create {
        /// What people call it.
        name: String,
        /// What it allows: read, run or admin; each includes those before it.
        #[arg(long, default_value = "read")]
        scope: String,
        /// The service's data folder.
        #[arg(long, default_value = "data", env = "CORPUSMITH_DATA")]
        data: PathBuf,
        /// The ledger, if it is not a file in the data folder: a path, sqlite:PATH or a postgres:// URL.
        #[arg(long, env = "CORPUSMITH_LEDGER", hide_env_values = true)]
        ledger: Option<String>,
    },
    /// List the tokens, without their secrets.
    List {
        /// The service's data folder.
        #[arg(long, default_value = "data", env = "CORPUSMITH_DATA")]
        data: PathBuf,
        /// The ledger, if it is not a file in the data folder: a path, sqlite:PATH or a postgres:// URL.
        #[arg(long, env = "CORPUSMITH_LEDGER", hide_env_values = true)]
        ledger: Option<String>,
    },
    /// Revoke a token.
    Revoke {
        /// Its id.
        id: String,
        /// The service's data folder.
        #[arg(long, default_value = "data", env = "CORPUSMITH_DATA")]
        data: PathBuf,
        /// The ledger, if it is not a file in the data folder: a path, sqlite:PATH or a postgres:// URL.
        #[arg(long, env = "CORPUSMITH_LEDGER", hide_env_values = true)]
        ledger: Option<String>,
    },
}

/// Which runs of a service to list.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only runs in these states, for example queued,running.
    #[arg(long, default_value = "")]
    pub state: String,
    /// At most so many.
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
    /// A line of JSON a run.
    #[arg(long)]
    pub json: bool,
}

/// A run of a service.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The run's id.
    pub run: String,
    /// Go on until the run ends.
    #[arg(short, long)]
    pub follow: bool,
}
