//! `pipeline serve` and `pipeline token`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use service::ledger::{Ledger, Scope};
use service::settings::Settings;
use service::tls::TlsFiles;
use service::{Service, ServiceError, ServiceOptions, auth, ledger_path};
use tokio_util::sync::CancellationToken;

use super::{Failure, runtime};
use crate::cli::{ServiceArgs, TokenCommand};
use crate::observe;
use crate::runner::error::chain;
use crate::table;

/// Threads of the service itself; runs have their own.
const THREADS: usize = 2;

/// Runs the service until it is told to stop.
///
/// # Errors
/// A setting is wrong, or port, folder or ledger cannot be had.
pub fn serve(args: &ServiceArgs) -> Result<(), Failure> {
    let program = std::env::current_exe().map_err(Failure::run)?;
    let beside = args.data.join("service.toml");
    let config = args.config.clone().or_else(|| beside.is_file().then_some(beside));
    let settings = config.map_or_else(|| Ok(Settings::default()), |path| Settings::read(&path));
    let settings =
        settings.map_err(|reason| Failure::message(reason, "see \"Run it as a service\" in the README"))?;
    let host = || sysinfo::System::host_name().unwrap_or_else(|| "service".to_owned());
    let options = ServiceOptions {
        workflows: args.workflows.clone(),
        data: args.data.clone(),
        ledger: args.ledger.clone(),
        address: args.listen,
        program,
        name: args.name.clone().unwrap_or_else(host),
        memory_bytes: args.memory_limit,
        threads: args.threads as u64,
        grace: Duration::from_secs(args.grace),
        behind_proxy: args.behind_proxy,
        tls: args
            .tls_cert
            .clone()
            .zip(args.tls_key.clone())
            .map(|(certificate, key)| TlsFiles { certificate, key }),
        public_url: args.public_url.clone(),
        json_log: observe::is_json(),
        settings,
    };
    runtime(THREADS)?.block_on(async {
        let stop = CancellationToken::new();
        let listening = Service::listen(options, stop.clone()).await.map_err(failure)?;
        let tokens = if listening.needs_tokens() { "; callers show tokens" } else { "" };
        // Whether somebody reads it or not, the service serves.
        let url = listening.url();
        let _ = writeln!(std::io::stdout(), "Corpusmith serves at {url} (Ctrl-C stops){tokens}");
        tokio::spawn(async move {
            super::llm::interrupted().await;
            observe::say("stopping: runs finish their shards in flight and wait for the next service");
            stop.cancel();
            super::llm::interrupted().await;
            // As safe as a kill: the runs' processes see that their standard input closes.
            std::process::exit(1);
        });
        listening.run().await.map_err(failure)
    })
}

fn failure(error: ServiceError) -> Failure {
    let help = match &error {
        ServiceError::Listen { .. } => "choose another address with --listen",
        ServiceError::Locked { .. } => "stop that one first, or choose another folder with --data",
        ServiceError::Folder { .. } => "choose folders with --workflows and --data",
        _ => "",
    };
    Failure::message(chain(&error), help)
}

/// Runs a `token` command.
///
/// # Errors
/// The ledger cannot be opened, or the scope or token is unknown.
pub fn token(command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { name, scope, data, ledger } => {
            let scope = Scope::from_name(scope).ok_or_else(|| {
                Failure::message(format!("there is no scope `{scope}`"), "scopes are read, run and admin")
            })?;
            let token = auth::create_token(&open(data, ledger.as_deref())?, name, scope, Timestamp::now())
                .map_err(Failure::run)?;
            println!("{token}");
            eprintln!(
                "keep it: it is shown this once. A service that runs without tokens asks for them once it is restarted."
            );
        }
        TokenCommand::List { data, ledger } => {
            let tokens = open(data, ledger.as_deref())?.tokens().map_err(Failure::run)?;
            let row = |token: service::ledger::TokenRecord| {
                let state = if token.revoked_at.is_some() { "revoked" } else { "" };
                let (scope, made) = (token.scope.name().to_owned(), token.created_at.to_string());
                [token.id, token.name, scope, made, state.to_owned()]
            };
            let header = ["id", "name", "scope", "made", ""];
            let rows = tokens.into_iter().map(row).collect();
            print!("{}", table::render(&header, rows, &[0, 1, 2, 3, 4]));
        }
        TokenCommand::Revoke { id, data, ledger } => {
            if !open(data, ledger.as_deref())?.revoke_token(id, Timestamp::now()).map_err(Failure::run)? {
                return Err(Failure::message(
                    format!("there is no token `{id}` that lets anybody in"),
                    "`pipeline token list` shows ids",
                ));
            }
            println!("revoked; a running service knows within 30 seconds");
        }
    }
    Ok(())
}

fn open(data: &Path, url: Option<&str>) -> Result<Ledger, Failure> {
    if let Some(url) = url {
        return Ledger::open_url(url)
            .map_err(|error| Failure::message(error, "choose the ledger with --ledger"));
    }
    let path = ledger_path(data);
    if let Some(folder) = path.parent() {
        crate::durable::make_folder(folder).map_err(Failure::run)?;
    }
    Ledger::open(&path).map_err(|error| Failure::message(error, "choose the service's folder with --data"))
}
