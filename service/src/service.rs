//! The service: what its parts share, and how it starts and ends.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::problem::Problem;
use crate::auth::Gate;
use crate::chat::Chats;
use crate::clock::{Clock, SystemClock};
use crate::ledger::{self, Ledger, LedgerError, Loss, RunFilter};
use crate::looking::Looking;
use crate::notify::Notifier;
use crate::oidc::Oidc;
use crate::pools::{MEMORY, THREADS};
use crate::run::{Amounts, Run, RunId, RunState};
use crate::schedule::Scheduler;
use crate::settings::Settings;
use crate::submit::Submitter;
use crate::supervisor::{Supervisor, SupervisorOptions, blocking};
use crate::tls::{self, Certificates, TlsError, TlsFiles, TlsListener};
use crate::web;
use crate::workflows::Workflows;

/// How often schedules and triggers are looked at.
const SCHEDULE_TICK: Duration = Duration::from_secs(5);
/// How often old runs are forgotten.
const RETENTION_TICK: Duration = Duration::from_secs(3_600);
/// Runs that are forgotten at once.
const FORGOTTEN_AT_ONCE: usize = 1_000;
/// How often the queue is looked at, and signs of life are given.
const BEAT: Duration = Duration::from_secs(1);
/// A process without a sign of life for so long is lost.
const LEASE: Duration = Duration::from_secs(20);

/// Everything that the service does not keep in its ledger lies in these folders of its data folder.
const LEDGER_FILE: &str = "service/ledger.sqlite";
const LOGS_FOLDER: &str = "service/logs";
const LOCK_FILE: &str = "service/lock";
const RUNS_FOLDER: &str = "runs";

/// How the service is started.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// The folder of workflow files.
    pub workflows: PathBuf,
    /// The folder of the ledger, logs and runs.
    pub data: PathBuf,
    /// Where the ledger is, if not in a file in `data`: a path, `sqlite:PATH` or a `postgres://` URL.
    pub ledger: Option<String>,
    /// Where to listen.
    pub address: SocketAddr,
    /// The program `pipeline`.
    pub program: PathBuf,
    /// This service's name, stable over restarts.
    pub name: String,
    /// Memory for all runs together, in bytes.
    pub memory_bytes: u64,
    /// Threads for all runs together.
    pub threads: u64,
    /// How long a run may take to stop before it is killed.
    pub grace: Duration,
    /// A proxy in front ends TLS.
    pub behind_proxy: bool,
    /// The service speaks TLS itself.
    pub tls: Option<TlsFiles>,
    /// How people reach the service; `http://<address>`, or `https://`, by default.
    pub public_url: Option<String>,
    /// The service's log, and those of its runs, are lines of JSON.
    pub json_log: bool,
    /// What `service.toml` says.
    pub settings: Settings,
}

impl ServiceOptions {
    /// Whether browsers reach the service by TLS: cookies travel by nothing else then.
    pub(crate) fn is_secure(&self) -> bool {
        self.behind_proxy || self.tls.is_some()
    }
}

/// The service cannot start, or ended badly.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// Listening there would let anybody in.
    #[error("{0}")]
    Unsafe(String),
    /// A folder cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another service works with the folder.
    #[error("another service works with {}", path.display())]
    Locked {
        /// The data folder.
        path: PathBuf,
    },
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A setting is wrong.
    #[error("{0}")]
    Setting(String),
    /// Certificate or key cannot serve TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be had.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// What there is of a pool, and what runs hold of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PoolUse {
    /// Its name.
    pub name: String,
    /// What there is: of `memory` in bytes.
    pub capacity: u64,
    /// What running runs hold.
    pub held: u64,
}

/// What the service's parts share.
pub struct Service {
    pub(crate) options: ServiceOptions,
    pub(crate) ledger: Ledger,
    pub(crate) workflows: Arc<Workflows>,
    pub(crate) submitter: Arc<Submitter>,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gate: Gate,
    pub(crate) looking: Looking,
    pub(crate) chats: Arc<Chats>,
    pub(crate) capacity: Amounts,
    pub(crate) stop: CancellationToken,
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) oidc: Option<Oidc>,
    _lock: File,
}

/// A service that listens.
pub struct Listening {
    service: Arc<Service>,
    listener: TcpListener,
    address: SocketAddr,
}

/// Where the ledger of a data folder lies.
pub fn ledger_path(data: &Path) -> PathBuf {
    data.join(LEDGER_FILE)
}

impl Service {
    /// Opens ledger and port.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn listen(options: ServiceOptions, stop: CancellationToken) -> Result<Listening, ServiceError> {
        let ledger_file = ledger_path(&options.data);
        for folder in [
            ledger_file.parent().unwrap_or(&options.data),
            &options.data.join(RUNS_FOLDER),
            &options.data.join(LOGS_FOLDER),
        ] {
            std::fs::create_dir_all(folder)
                .map_err(|source| ServiceError::Folder { path: folder.to_owned(), source })?;
        }
        let absolute = |path: &Path| {
            path.canonicalize().map_err(|source| ServiceError::Folder { path: path.to_owned(), source })
        };
        let options = ServiceOptions {
            workflows: absolute(&options.workflows)?,
            data: absolute(&options.data)?,
            ..options
        };
        let lock = lock(&options)?;
        let ledger = match &options.ledger {
            Some(url) => Ledger::open_url(url)?,
            None => Ledger::open(&ledger_path(&options.data))?,
        };
        take_back_own(&ledger, &options.name)?;
        let has_tokens = ledger.tokens()?.iter().any(|token| token.revoked_at.is_none());
        check_address(&options, has_tokens || options.settings.oidc.is_some())?;
        let certificates = options.tls.clone().map(Certificates::read).transpose()?;
        let listen = |source| ServiceError::Listen { address: options.address, source };
        let listener = TcpListener::bind(options.address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let mut capacity = options.settings.pools.clone();
        capacity.insert(MEMORY.to_owned(), options.memory_bytes);
        capacity.insert(THREADS.to_owned(), options.threads);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let workflows = Workflows::new(options.workflows.clone(), &options.data, options.program.clone())
            .map_err(|error| ServiceError::Setting(error.to_string()))?;
        let workflows = Arc::new(workflows);
        let base = options.public_url.clone().unwrap_or_else(|| format!("{}://{address}", scheme(&options)));
        let client = net::client_builder().redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|error| ServiceError::Setting(error.to_string()))?;
        let oidc = options.settings.oidc.as_ref().map(|settings| Oidc::new(settings, &base));
        let oidc = oidc.transpose().map_err(ServiceError::Setting)?;
        let is_guarded = has_tokens || oidc.is_some() || !options.address.ip().is_loopback();
        let notifier = Notifier::new(&options.settings.notify, base, client.clone(), ledger.clone())
            .map_err(ServiceError::Setting)?;
        let submitter = Submitter::new(ledger.clone(), workflows.clone(), clock.clone(), capacity.clone());
        let service = Self {
            gate: Gate::new(ledger.clone(), is_guarded),
            chats: Chats::new(options.program.clone(), client.clone()),
            looking: Looking::new(options.program.clone(), options.data.clone()),
            notifier: Arc::new(notifier),
            submitter: Arc::new(submitter),
            ledger,
            workflows,
            clock,
            capacity,
            options,
            stop,
            certificates,
            oidc,
            _lock: lock,
        };
        Ok(Listening { service: Arc::new(service), listener, address })
    }

    /// What there is of each pool.
    pub(crate) async fn pools(&self) -> Result<Vec<PoolUse>, LedgerError> {
        let filter = RunFilter { states: vec![RunState::Running], limit: 1_000, ..RunFilter::default() };
        let running = blocking(&self.ledger, move |ledger| ledger.runs(&filter)).await?.runs;
        Ok(self.pools_beside(&running))
    }

    /// What there is of each pool, and what these running runs hold.
    pub(crate) fn pools_beside(&self, running: &[Run]) -> Vec<PoolUse> {
        let held = |pool: &str| running.iter().filter_map(|run| run.demands.get(pool)).sum();
        let pools = self.capacity.iter();
        pools.map(|(name, all)| PoolUse { name: name.clone(), capacity: *all, held: held(name) }).collect()
    }

    /// Forgets a run that has ended, and its log.
    pub(crate) async fn forget(&self, id: RunId) -> Result<(), Problem> {
        let log = self.log_path(&id);
        blocking(&self.ledger, move |ledger| ledger.forget(&id)).await?;
        match std::fs::remove_file(log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Problem::internal(format!("the log cannot be removed: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// The log of a run.
    pub(crate) fn log_path(&self, id: &RunId) -> PathBuf {
        self.options.data.join(LOGS_FOLDER).join(format!("{id}.log"))
    }

    /// The folder of all runs.
    pub(crate) fn runs_folder(&self) -> PathBuf {
        self.options.data.join(RUNS_FOLDER)
    }

    async fn keep_tidy(self: Arc<Self>) {
        let Some(days) = self.options.settings.retention.days else { return };
        loop {
            let kept = jiff::SignedDuration::from_hours(24 * i64::from(days));
            let before = self.clock.now().saturating_sub(kept).unwrap_or_default();
            let old =
                blocking(&self.ledger, move |ledger| ledger.ended_before(before, FORGOTTEN_AT_ONCE)).await;
            for id in old.unwrap_or_default() {
                if let Err(problem) = self.forget(id).await {
                    tracing::error!(problem = problem.detail(), "an old run cannot be forgotten");
                }
            }
            tokio::time::sleep(RETENTION_TICK).await;
        }
    }
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is reached.
    pub fn url(&self) -> String {
        format!("{}://{}", scheme(&self.service.options), self.address)
    }

    /// Whether callers need a token.
    pub fn needs_tokens(&self) -> bool {
        self.service.gate.is_required()
    }

    /// Serves until it is told to stop; then runs are stopped, and wait in the ledger for the next service.
    ///
    /// # Errors
    /// The port fails.
    pub async fn run(self) -> Result<(), ServiceError> {
        let Self { service, listener, address } = self;
        let options = &service.options;
        let supervisor = Supervisor::new(
            SupervisorOptions {
                program: options.program.clone(),
                runs_folder: service.runs_folder(),
                logs_folder: options.data.join(LOGS_FOLDER),
                json_log: options.json_log,
                name: options.name.clone(),
                capacity: service.capacity.clone(),
                grace: options.grace,
                lease: LEASE,
                beat: BEAT,
            },
            service.ledger.clone(),
            service.workflows.clone(),
            service.clock.clone(),
            service.notifier.clone(),
            service.stop.clone(),
        );
        let supervising = tokio::spawn(supervisor.run());
        let scheduler =
            Scheduler::new(service.submitter.clone(), service.notifier.clone(), options.data.clone());
        let scheduling = tokio::spawn(scheduler.run(SCHEDULE_TICK, service.stop.clone()));
        let tidying = tokio::spawn(service.clone().keep_tidy());
        let greeted = service.clone();
        tokio::spawn(async move {
            if let Some(oidc) = &greeted.oidc {
                oidc.greet().await;
            }
        });
        let stop = service.stop.clone();
        let certificates = service.certificates.clone();
        let router = web::router(service).into_make_service_with_connect_info::<SocketAddr>();
        let stopped = stop.clone().cancelled_owned();
        let served = match certificates {
            None => axum::serve(listener, router).with_graceful_shutdown(stopped).await,
            Some(certificates) => match TlsListener::new(listener, certificates.clone()) {
                Err(error) => Err(error),
                Ok(listener) => {
                    let fresh = tokio::spawn(certificates.keep_fresh(tls::LOOK));
                    // The tap does nothing; with it, the peer's address is known as without TLS.
                    let listener = listener.tap_io(|_| {});
                    let served = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
                    fresh.abort();
                    served
                }
            },
        };
        stop.cancel();
        // A task that panicked has said so.
        let _ = (supervising.await, scheduling.await);
        tidying.abort();
        served.map_err(|source| ServiceError::Listen { address, source })
    }
}

fn scheme(options: &ServiceOptions) -> &'static str {
    if options.tls.is_some() { "https" } else { "http" }
}

/// Keeps others out of the data folder; where the ledger is a server's, which several share, only those of the
/// same name.
fn lock(options: &ServiceOptions) -> Result<File, ServiceError> {
    let is_shared = options.ledger.as_deref().is_some_and(ledger::is_server);
    let path = match is_shared {
        true => {
            let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
            let name: String = options.name.chars().map(letter).collect();
            options.data.join(format!("service/{name}.lock"))
        }
        false => options.data.join(LOCK_FILE),
    };
    let folder = |source| ServiceError::Folder { path: path.clone(), source };
    let file = File::create(&path).map_err(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(ServiceError::Locked { path: options.data.clone() }),
    }
}

/// A run that carries this service's name is one that it worked on before it was restarted: the lock says
/// that nobody else has it now.
fn take_back_own(ledger: &Ledger, name: &str) -> Result<(), LedgerError> {
    for (id, owner, epoch, heartbeat) in ledger.signs_of_life()? {
        if owner == name {
            ledger.take_back(&id, (epoch, heartbeat), Loss::ServiceRestarted, jiff::Timestamp::now())?;
        }
    }
    Ok(())
}

/// On a public address tokens must not travel in the clear, nor be missing.
fn check_address(options: &ServiceOptions, is_guarded: bool) -> Result<(), ServiceError> {
    if options.address.ip().is_loopback() {
        return Ok(());
    }
    let address = options.address;
    if !options.is_secure() {
        return Err(ServiceError::Unsafe(format!(
            "{address} can be reached from other machines, and tokens would travel in the clear: name a \
             certificate and its key with --tls-cert and --tls-key, put a proxy that speaks TLS in front and say \
             --behind-proxy, or listen on 127.0.0.1"
        )));
    }
    if !is_guarded {
        return Err(ServiceError::Unsafe(format!(
            "{address} can be reached from other machines, and there is no token: \
             make one first with `pipeline token create <name> --scope admin --data {}`, or let people sign in \
             with [oidc] of service.toml",
            options.data.display()
        )));
    }
    Ok(())
}
