//! Choosing the next token: a function of the logits, the tokens so far, the seed and the
//! position, and of nothing else.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::SamplingOptions;
use crate::exp::exp;

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
/// fewest whose probability reaches `top_p`, and one is drawn.
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
    while kept < weights.len() && (kept == 0 || mass < options.top_p * total) {
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
