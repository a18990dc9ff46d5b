//! Measuring a model: perplexity of held-out text and cloze questions by log-likelihood.

use crate::files::{FileError, failed};
#[cfg(test)]
use crate::kernels::Cpu;
use crate::language_model::LanguageModel;
use crate::network::{Batch, BatchError, Keep, Network, Workspace};
use crate::tokenizer::{END_OF_TEXT, Encoder, TokenizerError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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
    /// Nothing to measure.
    #[error("there is nothing to evaluate: {0} is empty")]
    Nothing(&'static str),
    /// A back end outside this module failed.
    #[error("scoring failed: {0}")]
    Scorer(Box<dyn std::error::Error + Send + Sync>),
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
        f.debug_struct("ModelScorer")
            .field("network", self.network)
            .finish_non_exhaustive()
    }
}

impl<'a> ModelScorer<'a> {
    /// Scores with `model`, encoding with `encoder`.
    ///
    /// # Errors
    /// [`EvaluateError::Vocabulary`] if the two do not fit.
    pub fn new(model: &'a LanguageModel, encoder: &'a Encoder) -> Result<Self, EvaluateError> {
        let vocab_size = model.network.config().vocab_size;
        if encoder.vocab_size() > vocab_size {
            return Err(EvaluateError::Vocabulary {
                tokenizer: encoder.vocab_size(),
                model: vocab_size,
            });
        }
        Ok(Self {
            network: &model.network,
            parameters: &model.parameters,
            encoder,
            workspace: Workspace::new(model.network.config(), Keep::Nothing),
        })
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

    fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let mut results = vec![Vec::new(); sequences.len()];
        // Longest first, so that a batch pads little; the batches depend on the lengths alone.
        let mut order: Vec<usize> = (0..sequences.len())
            .filter(|&i| sequences[i].len() > 1)
            .collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(sequences[i].len()), i));
        let mut rest = order.as_slice();
        while let Some(&longest) = rest.first() {
            let context = sequences[longest].len() - 1;
            let (now, later) = rest.split_at((BATCH_TOKENS / context).clamp(1, rest.len()));
            rest = later;
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            for &i in now {
                let padding = std::iter::repeat_n(&END_OF_TEXT, context + 1 - sequences[i].len());
                tokens.extend(
                    sequences[i][..sequences[i].len() - 1]
                        .iter()
                        .chain(padding.clone()),
                );
                targets.extend(sequences[i][1..].iter().chain(padding));
            }
            // Padding comes after the text and attention looks back only, so it changes nothing.
            let scales = vec![0.0; tokens.len()];
            let batch = Batch {
                sequences: now.len(),
                context,
                tokens: &tokens,
                targets: &targets,
                scales: &scales,
            };
            self.network
                .losses(self.parameters, &batch, &mut self.workspace)?;
            for (&i, losses) in now.iter().zip(self.workspace.losses().chunks(context)) {
                results[i] = losses[..sequences[i].len() - 1].to_vec();
            }
        }
        Ok(results)
    }
}

/// How well a model predicts texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Texts measured.
    pub texts: u64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Their size in UTF-8 (bytes).
    pub bytes: u64,
    /// Summed loss (nats).
    pub nats: f64,
    /// e to the mean loss of a token; comparable only between models with one tokenizer.
    pub per_token: f64,
    /// e to the mean loss of a byte; comparable between tokenizers.
    pub per_byte: f64,
    /// Mean bits to code a byte.
    pub bits_per_byte: f64,
}

/// Perplexity over `texts`.
///
/// Every text is read after `<|endoftext|>`, as documents are in training; a long one in windows that start
/// with the last token of the one before.
///
/// # Errors
/// [`EvaluateError`] if scoring fails or no text has a token.
pub fn perplexity<T: AsRef<str>>(
    scorer: &mut dyn Scorer,
    texts: impl IntoIterator<Item = T>,
) -> Result<Perplexity, EvaluateError> {
    let window = scorer.context_tokens().max(2);
    let (mut count, mut bytes, mut tokens, mut nats) = (0u64, 0u64, 0u64, 0f64);
    let mut pending: Vec<Vec<u32>> = Vec::new();
    let mut pending_tokens = 0;
    let mut score =
        |pending: &mut Vec<Vec<u32>>, scorer: &mut dyn Scorer| -> Result<(), EvaluateError> {
            for losses in scorer.losses(pending)? {
                tokens += losses.len() as u64;
                nats += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            }
            pending.clear();
            Ok(())
        };
    for text in texts {
        let text = text.as_ref();
        let encoded = scorer.encode(text)?;
        if encoded.is_empty() {
            continue;
        }
        count += 1;
        bytes += text.len() as u64;
        let document: Vec<u32> = std::iter::once(END_OF_TEXT).chain(encoded).collect();
        for start in (0..document.len() - 1).step_by(window - 1) {
            let part = &document[start..(start + window).min(document.len())];
            pending_tokens += part.len();
            pending.push(part.to_vec());
        }
        if pending_tokens >= 16 * BATCH_TOKENS {
            score(&mut pending, scorer)?;
            pending_tokens = 0;
        }
    }
    score(&mut pending, scorer)?;
    if tokens == 0 {
        return Err(EvaluateError::Nothing("the list of texts"));
    }
    let per = |units: u64| nats / units as f64;
    Ok(Perplexity {
        texts: count,
        tokens,
        bytes,
        nats,
        per_token: per(tokens).exp(),
        per_byte: per(bytes).exp(),
        bits_per_byte: per(bytes) / std::f64::consts::LN_2,
    })
}

/// A question answered by choosing the likeliest continuation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClozeItem {
    /// The text before the choice, without a space at its end.
    pub context: String,
    /// The continuations, without a space before them.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub answer: usize,
}

/// Accuracy on cloze items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClozeReport {
    /// Items answered.
    pub items: usize,
    /// Share where the right choice has the highest summed log-probability.
    pub acc: f64,
    /// Share where it has the highest one divided by the choice's characters.
    ///
    /// Source: huggingface/lighteval `src/lighteval/metrics/` (length normalisation by characters, without
    /// the space before the choice).
    pub acc_norm: f64,
    /// Standard error of `acc`.
    pub acc_stderr: f64,
    /// Standard error of `acc_norm`.
    pub acc_norm_stderr: f64,
}

/// The cloze items that come with this crate: general science and computing, in our own words.
pub const SAMPLE_ITEMS: &str = include_str!("../data/cloze_sample.jsonl");

/// Reads cloze items from JSONL `text`; `path` is named in errors.
///
/// # Errors
/// [`EvaluateError::Item`] for the first line that is no item.
pub fn parse_cloze(text: &str, path: &Path) -> Result<Vec<ClozeItem>, EvaluateError> {
    let mut items = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let bad = |problem: String| EvaluateError::Item {
            path: path.to_path_buf(),
            line: number + 1,
            problem,
        };
        let item: ClozeItem = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
        if item.choices.len() < 2 || item.answer >= item.choices.len() {
            return Err(bad(format!(
                "answer {} of {} choices",
                item.answer,
                item.choices.len()
            )));
        }
        if item.choices.iter().any(|choice| choice.trim().is_empty()) {
            return Err(bad("a choice is empty".to_owned()));
        }
        items.push(item);
    }
    Ok(items)
}

/// Reads a JSONL file of cloze items.
///
/// # Errors
/// [`EvaluateError`] if the file cannot be read or has a malformed line.
pub fn read_cloze(path: &Path) -> Result<Vec<ClozeItem>, EvaluateError> {
    let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
    parse_cloze(&text, path)
}

/// Answers `items` zero-shot. A context too long for the model loses its beginning.
///
/// # Errors
/// [`EvaluateError`] if scoring fails or there is no item.
pub fn cloze(scorer: &mut dyn Scorer, items: &[ClozeItem]) -> Result<ClozeReport, EvaluateError> {
    if items.is_empty() {
        return Err(EvaluateError::Nothing("the list of cloze items"));
    }
    let longest = scorer.context_tokens();
    let (mut right, mut right_norm) = (0usize, 0usize);
    for group in items.chunks(64) {
        let mut sequences = Vec::new();
        let mut choice_tokens = Vec::new();
        for item in group {
            let context: Vec<u32> = std::iter::once(END_OF_TEXT)
                .chain(scorer.encode(&item.context)?)
                .collect();
            for choice in &item.choices {
                let mut choice = scorer.encode(&format!(" {choice}"))?;
                choice.truncate(longest - 1);
                let room = longest - choice.len();
                let kept = &context[context.len().saturating_sub(room)..];
                choice_tokens.push(choice.len());
                sequences.push([kept, &choice].concat());
            }
        }
        let losses = scorer.losses(&sequences)?;
        let mut sums = losses.iter().zip(&choice_tokens).map(|(losses, &tokens)| {
            -losses[losses.len().saturating_sub(tokens)..]
                .iter()
                .map(|&loss| f64::from(loss))
                .sum::<f64>()
        });
        for item in group {
            let log_probabilities: Vec<f64> = sums.by_ref().take(item.choices.len()).collect();
            let normalised: Vec<f64> = log_probabilities
                .iter()
                .zip(&item.choices)
                .map(|(sum, choice)| sum / choice.chars().count() as f64)
                .collect();
            right += usize::from(best(&log_probabilities) == item.answer);
            right_norm += usize::from(best(&normalised) == item.answer);
        }
    }
    let n = items.len();
    let share = |count: usize| count as f64 / n as f64;
    let stderr = |p: f64| {
        if n > 1 {
            (p * (1.0 - p) / (n - 1) as f64).sqrt()
        } else {
            0.0
        }
    };
    Ok(ClozeReport {
        items: n,
        acc: share(right),
        acc_norm: share(right_norm),
        acc_stderr: stderr(share(right)),
        acc_norm_stderr: stderr(share(right_norm)),
    })
}

/// Index of the largest value; the first of equals.
fn best(values: &[f64]) -> usize {
    values.iter().enumerate().fold(
        0,
        |best, (i, &value)| if value > values[best] { i } else { best },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;

    /// Bytes as tokens; a token costs 1 nat where it repeats the one before, else 2.
    struct Repeats;

    impl Scorer for Repeats {
        fn context_tokens(&self) -> usize {
            8
        }
        fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError> {
            Ok(text.bytes().map(u32::from).collect())
        }
        fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError> {
            assert!(sequences.iter().all(|s| s.len() <= 8));
            let cost = |pair: &[u32]| if pair[0] == pair[1] { 1.0 } else { 2.0 };
            Ok(sequences
                .iter()
                .map(|s| s.windows(2).map(cost).collect())
                .collect())
        }
    }

    fn item(choices: &[&str], answer: usize) -> ClozeItem {
        ClozeItem {
            context: "a long context".into(),
            choices: choices.iter().map(ToString::to_string).collect(),
            answer,
        }
    }

    #[test]
    fn perplexity_counts_every_token_once_across_windows() {
        let result = perplexity(&mut Repeats, ["aaaaaaaaaaaaaaaaaaaa", "", "ab"]).unwrap();
        // 20 tokens (first costs 2, then 1 each) and 2 tokens (2 each).
        assert_eq!((result.texts, result.tokens, result.bytes), (2, 22, 22));
        assert_eq!(result.nats, 21.0 + 4.0);
        assert!((result.per_token - (25.0f64 / 22.0).exp()).abs() < 1e-12);
        assert!(perplexity(&mut Repeats, [""; 2]).is_err());
    }

    #[test]
    fn sums_and_normalised_sums_choose_differently() {
        // " b": 4 nats, 1 character. " bbbb": 7 nats, 4 characters: less likely, but better a character.
        let items = [
            item(&["b", "bbbb"], 0),
            item(&["b", "bbbb"], 1),
            item(&["b", "bbbb"], 1),
        ];
        let report = cloze(&mut Repeats, &items).unwrap();
        assert_eq!(
            (report.items, report.acc, report.acc_norm),
            (3, 1.0 / 3.0, 2.0 / 3.0)
        );
        assert!((report.acc_stderr - (1.0f64 / 9.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn padding_and_batching_change_no_loss() {
        let config = ModelConfig {
            vocab_size: 40,
            hidden_size: 16,
            intermediate_size: 24,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            context_tokens: 32,
            rope_theta: 1e4,
            rms_norm_eps: 1e-5,
        };
        let network = Network::new(config, Cpu).unwrap();
        let model = LanguageModel {
            parameters: network.initial_parameters(1),
            network,
        };
        let folder = tempfile::tempdir().unwrap();
        let options = crate::tokenizer::TokenizerOptions {
            vocab_size: 300,
            ..Default::default()
        };
        let encoder = crate::tokenizer::train(&options, ["a b"], folder.path()).unwrap();
        assert!(matches!(
            ModelScorer::new(&model, &encoder),
            Err(EvaluateError::Vocabulary { .. })
        ));
        let mut scorer = ModelScorer {
            network: &model.network,
            parameters: &model.parameters,
            encoder: &encoder,
            workspace: Workspace::new(model.network.config(), Keep::Nothing),
        };
        let sequences: Vec<Vec<u32>> = (0..9)
            .map(|i| (0..=i * 3).map(|t| (t * 7 + i) % 40).collect())
            .collect();
        let together = scorer.losses(&sequences).unwrap();
        for (sequence, losses) in sequences.iter().zip(&together) {
            let alone = scorer.losses(std::slice::from_ref(sequence)).unwrap();
            assert_eq!(alone[0].len(), losses.len());
            for (a, b) in alone[0].iter().zip(losses) {
                assert!((a - b).abs() < 1e-5, "{a} against {b}");
            }
        }
    }

    #[test]
    fn sample_items_are_sound_and_bad_lines_are_named() {
        let items = parse_cloze(SAMPLE_ITEMS, Path::new("cloze_sample.jsonl")).unwrap();
        assert!(items.len() >= 20);
        let answers: std::collections::BTreeSet<usize> =
            items.iter().map(|item| item.answer).collect();
        assert!(
            answers.len() > 1,
            "the right answer must not always stand first"
        );
        let path = Path::new("x.jsonl");
        let message = |text: &str| parse_cloze(text, path).unwrap_err().to_string();
        assert!(message("\n{\"context\": 3}").starts_with("x.jsonl:2:"));
        assert!(
            message(r#"{"context": "a", "choices": ["b", "c"], "answer": 2}"#)
                .contains("answer 2 of 2")
        );
        assert!(
            message(r#"{"context": "a", "choices": ["b", " "], "answer": 0}"#)
                .contains("choice is empty")
        );
    }
}
