//! `pipeline classifier …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Annotated pages, and the head to train on them.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Parquet with the pages' ids and texts.
    #[arg(long)]
    pub pages: PathBuf,
    /// Ids and scores (0–5): JSONL, Parquet, or the folder of an `annotations` stage.
    #[arg(long)]
    pub annotations: PathBuf,
    /// The column that holds the ids.
    #[arg(long, default_value = "id")]
    pub id_column: String,
    /// What a reader of the card should know of the data: a file of Markdown.
    #[arg(long)]
    pub notes: Option<PathBuf>,
    /// The folder for the head and its card.
    #[arg(long)]
    pub output: PathBuf,
    /// The head's name.
    #[arg(long, default_value = "edu_web_minilm")]
    pub name: String,
    /// Which ways to fit are tried: `best` (all; cross-validation chooses), `published` (FineWeb-Edu's alone),
    /// `balanced` (the same, each score as frequent as the others), `ridge`.
    #[arg(long, default_value = "best")]
    pub recipe: String,
    /// The backbone's ONNX file; the embedded MiniLM when left out.
    #[arg(long, requires = "tokenizer")]
    pub backbone: Option<PathBuf>,
    /// The backbone's tokenizer.json.
    #[arg(long, requires = "backbone")]
    pub tokenizer: Option<PathBuf>,
    /// How token states become a vector: `mean_l2` as MiniLM is made for, or `cls_l2`, the first token's.
    #[arg(long, default_value = "mean_l2")]
    pub pooling: String,
    /// How much of a page the backbone reads, in tokens.
    #[arg(long, default_value_t = 512)]
    pub max_tokens: usize,
    /// Share of the pages kept apart from training, 0–1.
    #[arg(long, default_value_t = 0.1)]
    pub held_out: f64,
    /// The whole score from which a page is kept.
    #[arg(long, default_value_t = 3)]
    pub threshold: u8,
    /// What of the text stands beside its vector: `none`, or `code_v1`, which helps with source code.
    #[arg(long, default_value = "none")]
    pub features: String,
    /// Folds of the cross-validation.
    #[arg(long, default_value_t = 5)]
    pub folds: usize,
    /// Seed of all splits and of AdamW's batches.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// How often the cross-validation is repeated, on other folds.
    #[arg(long, default_value_t = 1)]
    pub repeats: usize,
    /// Check the inputs, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `pipeline classifier …`
#[derive(Debug, Subcommand)]
pub enum ClassifierCommand {
    /// Train a head on annotated pages, with held-out figures.
    Train(Box<TrainArgs>),
    /// Write backbone and head as one ONNX file, for ONNX Runtime anywhere.
    ExportOnnx {
        /// The head: a file of `classifier train`, or `head.json` of a `train_classifier` stage.
        head: PathBuf,
        /// The file to write.
        output: PathBuf,
        /// The backbone's ONNX file; the embedded MiniLM when left out.
        #[arg(long)]
        backbone: Option<PathBuf>,
        /// Check the files, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show how far two judges, or two passes of one, agree.
    Agreement {
        /// Annotations: JSONL, Parquet, or the folder of an `annotations` stage.
        first: PathBuf,
        /// The other judge's.
        second: PathBuf,
        /// One line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write annotations as CSV, for people to correct in a spreadsheet.
    Review {
        /// Annotations: JSONL, Parquet, or the folder of an `annotations` stage.
        annotations: PathBuf,
        /// The CSV to write.
        output: PathBuf,
        /// Say what would be written, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a corrected CSV back, as JSONL.
    Reviewed {
        /// The CSV.
        csv: PathBuf,
        /// The JSONL to write.
        output: PathBuf,
        /// Say what would be written, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
}
