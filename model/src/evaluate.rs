//! Measuring a model: perplexity of held-out text, cloze questions by log-likelihood, and questions that it answers
//! in its own words.

mod cloze;
mod comparison;
mod generation;
mod gguf;
mod ifeval;
mod perplexity;
mod rows;
mod task;
mod templates;

pub use cloze::{
    ChoiceScore, ClozeItem, ClozeOptions, ClozeReport, ContextStart, Normalizer, SAMPLE_ITEMS, cloze, judge,
    judge_groups, parse_cloze, read_cloze, score_items,
};
pub use comparison::{Comparison, Figure, Measured, Report, TextsReport};
pub use generation::{
    AnswerRequest, AnsweredItem, EngineGenerator, Form, GENERATION_TASKS, GenerationFile, GenerationItem,
    GenerationOptions, GenerationReport, GenerationTask, Generator, Judge, NumberRule, final_number,
    normalize_answer, pass_at_k,
};
pub use gguf::GgufScorer;
pub use ifeval::{
    Followed, IfevalPrompt, IfevalReport, Instruction, KindReport, Relation, ifeval_report, parse_prompts,
};
pub use perplexity::{Perplexity, perplexity};
pub use rows::{rows_of_batch, rows_of_jsonl};
pub use task::{TASKS, Task, TaskFile, TaskOptions, TaskReport};

use crate::files::FileError;
use crate::language_model::LanguageModel;
use crate::network::{Batch, BatchError, Continuations, Keep, Network, Workspace};
use crate::sandbox::SandboxError;
use crate::tokenizer::{Encoder, TokenizerError};
use std::path::PathBuf;

/// Tokens scored at a time.
const BATCH_TOKENS: usize = 4_096;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A sequence could not be scored.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The tokenizer has more entries than the model.
    #[error(
        "the tokenizer has {tokenizer} entries, the model {model}; evaluate the model with the tokenizer it was trained with"
    )]
    Vocabulary {
        /// Entries of the tokenizer.
        tokenizer: usize,
        /// Entries of the model.
        model: usize,
    },
    /// A line of a cloze file is not an item.
    #[error("{}:{line}: {problem}; an item is {{\"context\": \"…\", \"choices\": [\"…\", \"…\"], \"answer\": 0}}", path.display())]
    Item {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A task file, or a row of its data set, is unusable.
    #[error("task {task}: {problem}")]
    Task {
        /// The task, or its file.
        task: String,
        /// What is wrong.
        problem: String,
    },
    /// A line of a file of reports is no report.
    #[error("{}:{line}: {problem}; a line is what `pipeline eval --json` writes for a model and a task", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Programs that a model has written cannot be run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Nothing to measure.
    #[error("there is nothing to evaluate: {0} is empty")]
    Nothing(&'static str),
    /// A back end outside this module failed.
    #[error("scoring failed: {0}")]
    Scorer(Box<dyn std::error::Error + Send + Sync>),
}

/// A context with the texts that may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Tokens of the context; one at least.
    pub context: Vec<u32>,
    /// Tokens of each continuation.
    pub continuations: Vec<Vec<u32>>,
}

/// A model that can tell how likely each token of a sequence is.
pub trait Scorer {
    /// The longest sequence it can score (tokens).
    fn context_tokens(&self) -> usize;

    /// Encodes a text.
    ///
    /// # Errors
    /// [`EvaluateError`] if the tokenizer fails.
    fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError>;

    /// For each sequence the loss (−log probability, nats) of its tokens after the first.
    ///
    /// # Errors
    /// [`EvaluateError`] if a sequence is too long or has foreign tokens.
    fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError>;

    /// For each request and continuation the log-probability of its tokens (nats). Context and continuation
    /// together must fit [`Scorer::context_tokens`].
    ///
    /// # Errors
    /// As [`Scorer::losses`].
    fn continuations(&mut self, requests: &[Request]) -> Result<Vec<Vec<Vec<f32>>>, EvaluateError> {
        let joined = |request: &Request| {
            let context = request.context.clone();
            request.continuations.clone().into_iter().map(move |tokens| [context.clone(), tokens].concat())
        };
        let sequences: Vec<Vec<u32>> = requests.iter().flat_map(joined).collect();
        let mut losses = self.losses(&sequences)?.into_iter();
        let of = |request: &Request| {
            let tails = request.continuations.iter().zip(losses.by_ref());
            tails
                .map(|(tokens, losses)| losses[losses.len() - tokens.len()..].iter().map(|x| -x).collect())
                .collect()
        };
        Ok(requests.iter().map(of).collect())
    }
}

/// [`Scorer`] over a [`LanguageModel`] of this crate.
pub struct ModelScorer<'a> {
    network: &'a Network,
    parameters: &'a [f32],
    encoder: &'a Encoder,
    workspace: Workspace,
}

impl std::fmt::Debug for ModelScorer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelScorer").field("network", self.network).finish_non_exhaustive()
    }
}

impl<'a> ModelScorer<'a> {
    /// Scores with `model`, encoding with `encoder`.
    ///
    /// # Errors
    /// [`EvaluateError::Vocabulary`] if the two do not fit.
    pub fn new(model: &'a LanguageModel, encoder: &'a Encoder) -> Result<Self, EvaluateError> {
        Self::of_network(&model.network, &model.parameters, encoder)
    }

    /// As [`Self::new`], of a network with weights that are in training.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_network(
        network: &'a Network,
        parameters: &'a [f32],
        encoder: &'a Encoder,
    ) -> Result<Self, EvaluateError> {
        let vocab_size = network.config().vocab_size;
        if encoder.vocab_size() > vocab_size {
            return Err(EvaluateError::Vocabulary { tokenizer: encoder.vocab_size(), model: vocab_size });
        }
        let workspace = Workspace::new(network.config(), Keep::Nothing);
        Ok(Self { network, parameters, encoder, workspace })
    }
}

impl Scorer for ModelScorer<'_> {
    fn context_tokens(&self) -> usize {
        // The last token of a sequence is only predicted, never read.
        self.network.config().context_tokens + 1
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError> {
        Ok(self.encoder.encode(text)?)
    }

    /// Each context is computed once for all its continuations, as many requests at a time as fill a batch.
    fn continuations(&mut self, requests: &[Request]) -> Result<Vec<Vec<Vec<f32>>>, EvaluateError> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |request: &&Request| {
                tokens += request.context.len() + request.continuations.iter().map(Vec::len).sum::<usize>();
                tokens <= BATCH_TOKENS
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            let batch: Vec<Continuations<'_>> = now
                .iter()
                .map(|Request { context, continuations }| Continuations { context, continuations })
                .collect();
            let mut losses =
                self.network.continuation_losses(self.parameters, &batch, &mut self.workspace)?;
            // A loss is a negated log-probability.
            losses.iter_mut().flatten().flatten().for_each(|loss| *loss = -*loss);
            results.extend(losses);
        }
        Ok(results)
    }

    fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let mut results = vec![Vec::new(); sequences.len()];
        let scored: Vec<usize> = (0..sequences.len()).filter(|&i| sequences[i].len() > 1).collect();
        let mut rest = scored.as_slice();
        while !rest.is_empty() {
            let (mut bounds, mut tokens, mut targets) = (vec![0], Vec::new(), Vec::new());
            let mut count = 0;
            for &i in rest {
                if count > 0 && tokens.len() + sequences[i].len() > BATCH_TOKENS {
                    break;
                }
                tokens.extend_from_slice(&sequences[i][..sequences[i].len() - 1]);
                targets.extend_from_slice(&sequences[i][1..]);
                bounds.push(tokens.len());
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            rest = later;
            let scales = vec![0.0; tokens.len()];
            let batch = Batch { bounds: &bounds, tokens: &tokens, targets: &targets, scales: &scales };
            self.network.losses(self.parameters, &batch, &mut self.workspace)?;
            for (&i, span) in now.iter().zip(bounds.windows(2)) {
                results[i] = self.workspace.losses()[span[0]..span[1]].to_vec();
            }
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests;
