//! The commands around language models: prompts, answers, batches, serving.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use model::export::GgufFormat;
use model::language_model::Precision;
use serde::de::DeserializeOwned;

use super::{ResourceArgs, WorkflowArgs, parse_threads};
use crate::units;

/// `pipeline prompts …`
#[derive(Debug, Subcommand)]
pub enum PromptsCommand {
    /// Print the finished prompts of a workflow that has run up to its `prompts` stage.
    Preview {
        /// The run's folder, for example runs/cosmopedia_v2/sample.
        run: PathBuf,
        /// Only prompts of this topic (id or a part of it).
        #[arg(long)]
        topic: Option<String>,
        /// Only prompts of this style.
        #[arg(long)]
        style: Option<String>,
        /// How many to print.
        #[arg(short, default_value_t = 1)]
        n: usize,
    },
    /// Render every template on edge cases, and find unused and unknown variables.
    Lint {
        /// A folder of own templates; the built-in ones are always checked.
        #[arg(long, alias = "templates")]
        templates_dir: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the templates: audience, format, share, and the part of a share each takes.
    List {
        /// A folder of own templates, laid over the built-in ones.
        #[arg(long)]
        templates_dir: Option<PathBuf>,
    },
    /// Show what became of a run's generated texts, by audience and format.
    Statistics {
        /// The run's folder, for example runs/cosmopedia_v2/sample.
        run: PathBuf,
        /// The name of its `generate` stage.
        #[arg(long, default_value = "generate")]
        generate: String,
        /// The name of its `clean` stage.
        #[arg(long, default_value = "clean")]
        clean: String,
        /// Print JSON, with the histograms of lengths.
        #[arg(long)]
        json: bool,
    },
}

/// Models and the benchmarks they are asked.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Models: `embedded`, a GGUF file, a checkpoint, the folder of a stage that trains or exports, or a
    /// folder that `transformers` loads. Several are compared.
    #[arg(required_unless_present = "compare")]
    pub models: Vec<String>,
    /// A task and its items as published on the Hub: `piqa=validation.parquet`, `piqa=valid.jsonl,labels.lst`,
    /// `gsm8k=test.jsonl,train.jsonl` (solved examples come from the second file), `humaneval=HumanEval.jsonl.gz`.
    /// Tasks by likelihood: hellaswag, winogrande, piqa, siqa, openbookqa, arc_easy, arc_challenge, commonsense_qa,
    /// mmlu, mmlu_pro, boolq; by what the model writes: triviaqa, gsm8k, humaneval, ifeval; or the path of a task
    /// file. `perplexity=pages.parquet` predicts the column `text` of Parquet or JSON lines, or any other file as
    /// one text. May be repeated.
    #[arg(
        long = "task",
        visible_alias = "tasks",
        value_name = "TASK=FILE",
        num_args = 1..,
        required_unless_present = "compare"
    )]
    pub tasks: Vec<String>,
    /// Most items of a task, or of each of its groups.
    #[arg(long, default_value_t = 1000)]
    pub max_items: usize,
    /// The tokenizer of a checkpoint.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = units::machine_threads(), value_parser = parse_threads)]
    pub threads: usize,
    /// Reports that `--json` wrote earlier: they join the table, or make it where no model is given.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub compare: Vec<PathBuf>,
    /// Write what models have answered, and what it was found to be worth, to this file: a line of JSON an item.
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// The Python 3 that runs the programs which models write (humaneval), in a sandbox.
    #[arg(long, default_value = "python3")]
    pub python: PathBuf,
    /// Write a plot of each task's leading figure (`acc_norm`, where there is one) to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// The table as CSV: a line a model, task and figure.
    #[arg(long)]
    pub csv: bool,
    /// A line of JSON a model and task.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
}

/// A model to hand on.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A checkpoint, the folder of a stage that trains or exports, or a folder that `transformers` loads.
    pub model: PathBuf,
    /// The new folder: model.safetensors, config.json, the tokenizer's files, and what else is asked for.
    #[arg(long)]
    pub out: PathBuf,
    /// The folder with the tokenizer of a checkpoint.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Number format of the safetensors: `float32` (exact) or `bfloat16`.
    #[arg(long, default_value = "float32", value_parser = parse_name::<Precision>)]
    pub precision: Precision,
    /// The model answers: its tokenizer brings a chat template.
    #[arg(long)]
    pub chat: bool,
    /// Write `onnx/model.onnx` for ONNX Runtime and transformers.js, too.
    #[arg(long)]
    pub onnx: bool,
    /// Write `model-<format>.gguf` for llama.cpp, too: f32, f16, q8_0, q4_0, q4_1 or q4_k_m. May be repeated.
    #[arg(long, value_name = "FORMAT", value_parser = parse_name::<GgufFormat>)]
    pub gguf: Vec<GgufFormat>,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// One of the names that a setting of workflow files has.
fn parse_name<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

/// A model that runs here, and how it draws its tokens.
#[derive(Debug, Args)]
pub struct SpeakerArgs {
    /// `embedded` for SmolLM2-135M-Instruct, a GGUF file, a checkpoint, the folder of a stage that trains or
    /// exports, or a folder that `transformers` loads.
    pub model: String,
    /// The folder with the tokenizer of a checkpoint.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Longest answer, in tokens.
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// Sampling temperature; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.6)]
    pub temperature: f32,
    /// Share of the probability mass sampled from.
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// Number of likeliest tokens sampled from.
    #[arg(long, default_value_t = 50)]
    pub top_k: u32,
    /// Tokens below this share of the likeliest one's probability are not drawn; 0 keeps all.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Divisor of the scores of tokens that are there already.
    #[arg(long, default_value_t = 1.2)]
    pub repetition_penalty: f32,
    /// The same request with the same seed gives the same answer.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// A text that ends an answer. May be repeated.
    #[arg(long)]
    pub stop: Vec<String>,
    /// Threads.
    #[arg(long, default_value_t = units::machine_threads(), value_parser = parse_threads)]
    pub threads: usize,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub speaker: SpeakerArgs,
    /// The text to go on from; standard input when left out.
    pub prompt: Option<String>,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The model.
    #[command(flatten)]
    pub speaker: SpeakerArgs,
    /// Instructions put before the conversation.
    #[arg(long)]
    pub system: Option<String>,
}

/// `pipeline llm …`
#[derive(Debug, Subcommand)]
pub enum LlmCommand {
    /// Answer OpenAI's chat and completion requests with a model that runs here.
    Serve(ServeArgs),
}

/// Arguments of `llm serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// `embedded` for SmolLM2-135M-Instruct, or the path of a GGUF file with a SmolLM model.
    pub model: String,
    /// The address to listen at.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// The port; 0 takes a free one, which is printed.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Requests that are answered or wait at the same time; further ones get status 503.
    #[arg(long, default_value_t = 64, value_parser = parse_count)]
    pub max_in_flight: usize,
    /// The environment variable that holds the key which clients must show.
    #[arg(long, value_name = "VARIABLE")]
    pub api_key_env: Option<String>,
    /// CPU threads to use; all of them by default.
    #[arg(long, default_value_t = units::machine_threads(), value_parser = parse_threads)]
    pub threads: usize,
    /// End when standard input closes: what the service says to the models of its page.
    #[arg(long, hide = true)]
    pub supervised: bool,
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err(format!("`{text}` is not a number from 1 to 1000000")),
    }
}

/// `pipeline answers …`
#[derive(Debug, Subcommand)]
pub enum AnswersCommand {
    /// Count answers, tokens, models and what compaction would drop.
    Stats {
        /// A run's folder, one of its stages, or a log's folder.
        path: PathBuf,
        /// Print a JSON line for each log.
        #[arg(long)]
        json: bool,
    },
    /// Write the answers that count as JSON lines.
    Export {
        /// A run's folder, one of its stages, or a log's folder.
        path: PathBuf,
        /// The file to write; standard output when left out.
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Say what would be written, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Drop the records that better answers took the place of.
    Compact {
        /// A run's folder, one of its stages, or a log's folder.
        path: PathBuf,
        /// Say what would be dropped, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which stage's prompts a batch is about.
#[derive(Debug, Args)]
pub struct BatchTarget {
    /// The workflow.
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// The stage of the kind `generate`; may be left out where there is one.
    #[arg(long)]
    pub stage: Option<String>,
    /// The resources.
    #[command(flatten)]
    pub resources: ResourceArgs,
}

/// `pipeline batch …`
#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// Write the requests that the answer log has no answer to as batch files.
    Export {
        /// The stage.
        #[command(flatten)]
        target: BatchTarget,
        /// The folder to make for the files.
        #[arg(long, short)]
        output: PathBuf,
        /// Requests in one file at most.
        #[arg(long, default_value_t = 50_000)]
        max_requests: u64,
        /// Size of one file at most.
        #[arg(long, default_value = "200MB", value_parser = units::parse_bytes)]
        max_bytes: u64,
        /// Say what would be written, and write no file.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take the answers of batch files into the answer log; in any order, any number of times.
    Import {
        /// The stage.
        #[command(flatten)]
        target: BatchTarget,
        /// The files of answers.
        #[arg(long, required = true, num_args = 1..)]
        answers: Vec<PathBuf>,
        /// Say what would be taken, and take nothing.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
