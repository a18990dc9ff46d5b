//! Choosing the next token: a function of the logits, the tokens so far, the seed and the
//! position, and of nothing else.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::exp::exp;

use super::GenerateError;
use super::engine::bad;

/// How tokens are drawn. The defaults are those with which Cosmopedia was generated
/// (huggingface/cosmopedia, `generation/llm_swarm_script.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Share of the probability that is kept, above 0 and up to 1 (= all).
    pub top_p: f32,
    /// Likeliest tokens that are kept, at least 1; the vocabulary's size or more keeps all.
    pub top_k: u32,
    /// Tokens whose probability is below this share of the likeliest one's are dropped, 0 (= none) to 1.
    /// Applied beside `top_p` and `top_k`: a token must pass all three.
    pub min_p: f32,
    /// Divides the logits of tokens that stand in the prompt or the answer; 1 does nothing.
    pub repetition_penalty: f32,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.6, top_p: 0.95, top_k: 50, min_p: 0.0, repetition_penalty: 1.2 }
    }
}

impl SamplingOptions {
    /// Names the first option that is out of range.
    pub fn check(&self) -> Result<(), GenerateError> {
        let numbers = [
            ("temperature", self.temperature, 0.0..=100.0, "0 to 100"),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, 0.0..=1.0, "0 to 1"),
            ("repetition_penalty", self.repetition_penalty, 0.01..=100.0, "0.01 to 100"),
        ];
        for (field, value, range, allowed) in numbers {
            if !range.contains(&value) {
                return Err(bad(field, value, allowed));
            }
        }
        match self.top_k {
            0 => Err(bad("top_k", 0, "at least 1")),
            _ => Ok(()),
        }
    }
}

/// Divides the positive and multiplies the negative logits of tokens that were already seen
/// (`RepetitionPenaltyLogitsProcessor` in huggingface/transformers,
/// `generation/logits_process.py`). `seen` must not repeat a token.
pub(crate) fn penalize(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for &token in seen {
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
    }
}

/// Picks a token; None when the best logit is not finite. Of equal logits the smaller id comes
/// first. At temperature 0 that is the answer; else the `top_k` best are kept, of these the
/// fewest whose probability reaches `top_p`, of these those that reach `min_p` times the best's,
/// and one is drawn.
pub(crate) fn pick(logits: &[f32], options: &SamplingOptions, seed: u64, position: usize) -> Option<u32> {
    let greedy = options.temperature == 0.0;
    let count = if greedy { 1 } else { options.top_k as usize };
    let best = best(logits, count);
    let &(top, first) = best.first()?;
    if !top.is_finite() {
        return None;
    }
    if greedy {
        return Some(first);
    }
    // The smallest temperatures would overflow the quotient; exp(-large) is 0 either way.
    let weight = |logit: f32| exp(((logit - top) / options.temperature).max(-1e4));
    let weights: Vec<f32> = best.iter().map(|&(logit, _)| weight(logit)).collect();
    let total: f32 = weights.iter().sum();
    let mut kept = 0;
    let mut mass = 0.0;
    // The best weighs 1, so that `min_p` is compared with the weights as they are.
    while kept < weights.len()
        && (kept == 0 || (mass < options.top_p * total && weights[kept] >= options.min_p))
    {
        mass += weights[kept];
        kept += 1;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(position as u64);
    let draw = (rng.next_u64() >> 40) as f32 / (1u64 << 24) as f32 * mass;
    let mut sum = 0.0;
    for (&weight, &(_, token)) in weights[..kept].iter().zip(&best) {
        sum += weight;
        if draw < sum {
            return Some(token);
        }
    }
    Some(best[kept - 1].1)
}

/// The `count` greatest logits with their tokens, best first.
fn best(logits: &[f32], count: usize) -> Vec<(f32, u32)> {
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let count = count.clamp(1, logits.len().max(1));
    let room = (2 * count).max(256);
    let mut kept: Vec<(f32, u32)> = Vec::with_capacity(room);
    // Nothing at or below this can come in any more: `count` better ones are kept.
    let mut bar = None;
    for (token, &logit) in (0u32..).zip(logits) {
        if bar.is_some_and(|bar| logit <= bar) {
            continue;
        }
        kept.push((logit, token));
        if kept.len() == room {
            kept.select_nth_unstable_by(count - 1, order);
            kept.truncate(count);
            bar = Some(kept[count - 1].0);
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(count);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(temperature: f32, top_p: f32, top_k: u32) -> SamplingOptions {
        SamplingOptions { temperature, top_p, top_k, ..SamplingOptions::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let logits = [0.0, 2.0, 2.0, 1.0];
        assert_eq!(pick(&logits, &options(0.0, 1.0, 4), 1, 0), Some(1));
        assert_eq!(pick(&[f32::NAN, 1.0], &options(0.0, 1.0, 4), 1, 0), None);
        assert_eq!(pick(&[f32::NEG_INFINITY; 3], &options(0.6, 1.0, 4), 1, 0), None);
    }

    #[test]
    fn penalty_moves_seen_tokens_down() {
        let mut logits = [2.0, -2.0, 3.0];
        penalize(&mut logits, &[0, 1], 2.0);
        assert_eq!(logits, [1.0, -4.0, 3.0]);
    }

    #[test]
    fn shares_follow_the_probabilities() {
        // Probabilities 0.6, 0.3, 0.1: top-p 0.85 keeps two, which become 2/3 and 1/3.
        let logits = [0.1f32.ln(), 0.6f32.ln(), 0.3f32.ln()];
        let mut counts = [0; 3];
        for position in 0..3_000 {
            let token = pick(&logits, &options(1.0, 0.85, 50), 7, position).unwrap();
            counts[token as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!((1_900..2_100).contains(&counts[1]), "{counts:?}");
        for position in 0..100 {
            assert_eq!(pick(&logits, &options(1.0, 1.0, 1), 7, position), Some(1));
        }
        let draw = |seed| (0..50).map(|p| pick(&logits, &options(1.0, 1.0, 3), seed, p)).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn min_p_drops_what_is_far_below_the_best() {
        // Probabilities 0.6, 0.3, 0.1: a third of the best's is 0.2, half of it just 0.3.
        let logits = [0.1f32.ln(), 0.6f32.ln(), 0.3f32.ln()];
        let drawn = |min_p, top_p, top_k| {
            let options = SamplingOptions { min_p, ..options(1.0, top_p, top_k) };
            let mut tokens: Vec<u32> = (0..300).filter_map(|p| pick(&logits, &options, 7, p)).collect();
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        assert_eq!(drawn(0.0, 1.0, 50), [0, 1, 2]);
        assert_eq!(drawn(0.34, 1.0, 50), [1, 2]);
        assert_eq!(drawn(0.51, 1.0, 50), [1]);
        assert_eq!(drawn(1.0, 1.0, 50), [1]);
        // The stricter of the three counts.
        assert_eq!(drawn(0.34, 0.5, 50), [1]);
        assert_eq!(drawn(0.34, 1.0, 1), [1]);
    }

    proptest! {
        #[test]
        fn best_is_a_sorted_prefix(
            logits in prop::collection::vec(-3i8..3, 1..2_000),
            count in 1usize..80,
        ) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut all: Vec<(f32, u32)> = logits.iter().copied().zip(0u32..).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            all.truncate(count);
            prop_assert_eq!(best(&logits, count), all);
        }
    }
}
