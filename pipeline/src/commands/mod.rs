//! The commands, one file each.

mod annotations;
mod answers;
mod assets;
mod batch;
mod check;
mod classifier;
#[cfg(feature = "cluster")]
mod cluster;
mod describe;
mod diff;
mod eval;
mod export;
mod init;
mod inspect;
mod integrity;
mod llm;
mod nanotron;
mod plan;
mod prompts;
mod publish;
mod remote;
mod run;
mod search;
mod serve;
mod talk;
mod trace;

use std::process::ExitCode;

use miette::{Diagnostic, IntoDiagnostic, Report};

use crate::cli::{Cli, Command};
use crate::observe::{self, Observing};
use crate::runner::error::{Fault, RunError};
use crate::stages::Stage;
use crate::workflow::problem::Problems;
use crate::workflow::{StageNode, Workflow};

/// What a command ends with when it fails: a report for people and whose fault it was.
pub struct Failure {
    report: Report,
    fault: Fault,
}

impl Failure {
    /// The input was wrong.
    pub fn input(error: impl Diagnostic + Send + Sync + 'static) -> Self {
        Self { report: Report::new(error), fault: Fault::Input }
    }

    /// The work failed.
    pub fn run(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { report: Report::from_err(error), fault: Fault::Run }
    }

    /// The work failed, in plain words.
    pub fn failed(message: impl std::fmt::Display) -> Self {
        Self { report: miette::miette!("{message}"), fault: Fault::Run }
    }

    /// The input was wrong, in plain words.
    pub fn message(message: impl std::fmt::Display, help: &str) -> Self {
        let report = miette::miette!(help = help.to_owned(), "{message}");
        Self { report, fault: Fault::Input }
    }
}

/// The stage of a kind that a command is for: the one named, or the only one there is.
///
/// # Errors
/// There is none, or several and none is named.
fn stage_of_kind<'a, T: Stage>(
    workflow: &'a Workflow,
    kind: &str,
    wanted: Option<&str>,
) -> Result<(&'a StageNode, &'a T), Failure> {
    let config_of = |node: &'a StageNode| Some((node, node.as_kind::<T>()?));
    let stages: Vec<_> = workflow.stages.iter().filter_map(config_of).collect();
    let list = stages.iter().map(|(node, _)| node.id.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, &stages[..]) {
        (Some(wanted), _) => stages.iter().find(|(node, _)| node.id == wanted).copied().ok_or_else(|| {
            let message = format!("`{wanted}` is no stage of the kind `{kind}`");
            Failure::message(message, &format!("those stages are: {list}"))
        }),
        (None, [only]) => Ok(*only),
        (None, []) => Err(Failure::message(format!("the workflow has no stage of the kind `{kind}`"), "")),
        (None, _) => {
            let message = format!("the workflow has several stages of the kind `{kind}`");
            Err(Failure::message(message, &format!("name one with --stage: {list}")))
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::input(problems)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let fault = error.fault();
        Self { report: Report::new(error), fault }
    }
}

/// Runs a command and turns its end into an exit code.
pub fn main(cli: Cli) -> ExitCode {
    let server = cli.server.as_deref();
    let works = matches!(cli.command, Command::Run(_) | Command::Retry(_)) && server.is_none();
    let observing = Observing::start(cli.log_format, works || matches!(cli.command, Command::Serve(_)));
    let result = match cli.command {
        Command::Run(args) => match server {
            Some(server) => remote::run(server, &args),
            None => run::run(&args),
        },
        Command::Serve(args) => serve::serve(&args),
        Command::Token(command) => serve::token(&command),
        Command::Ls(args) => remote::ls(server, &args),
        Command::Logs(args) => remote::logs(server, &args),
        Command::Cancel { run } => remote::ask(server, &run, "cancel"),
        Command::Pause { run } => remote::ask(server, &run, "pause"),
        Command::Resume { run } => remote::ask(server, &run, "resume"),
        Command::Retry(args) => run::retry(&args),
        Command::Verify(args) => integrity::verify(&args),
        Command::Repair(args) => integrity::repair(&args),
        Command::Check(args) => check::check(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Stages => describe::stages(),
        Command::Explain { kind } => describe::explain(&kind),
        Command::Schema => describe::schema(),
        Command::Completions { shell } => describe::completions(shell),
        Command::Init { folder } => init::init(&folder),
        Command::Man { folder } => describe::man(&folder),
        Command::Assets(command) => assets::assets(&command),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Trace { run, id, json } => trace::trace(&run, &id, json),
        Command::Diff(args) => diff::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Search(args) => search::search(&args),
        Command::Classifier(command) => classifier::classifier(&command),
        Command::Prompts(command) => prompts::prompts(&command),
        Command::Eval(args) => eval::eval(&args),
        Command::Export(args) => export::export(&args),
        Command::Nanotron(args) => nanotron::nanotron(&args),
        Command::Generate(args) => talk::generate(&args),
        Command::Chat(args) => talk::chat(&args),
        Command::Llm(command) => llm::llm(&command),
        Command::Answers(command) => answers::answers(&command),
        Command::Batch(command) => batch::batch(&command),
        #[cfg(feature = "cluster")]
        Command::Cluster(command) => cluster::cluster(&command),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { report, fault }) => {
            observe::report(&report);
            ExitCode::from(if fault == Fault::Input { 2 } else { 1 })
        }
    };
    observing.end();
    code
}

/// A runtime whose workers are the run's threads.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.into_diagnostic().map_err(|report| Failure { report, fault: Fault::Run })
}
