//! Perplexity of held-out text.

use super::{BATCH_TOKENS, EvaluateError, Scorer};
use crate::tokenizer::END_OF_TEXT;
use serde::{Deserialize, Serialize};

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
    let mut score = |pending: &mut Vec<Vec<u32>>, scorer: &mut dyn Scorer| -> Result<(), EvaluateError> {
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
