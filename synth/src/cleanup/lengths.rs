//! Lengths of many texts, counted.

use std::collections::BTreeMap;

/// How many texts have which number of tokens. Memory grows with the number of different lengths,
/// which the length limit of answers bounds, and not with the number of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    texts: u64,
    tokens: u64,
    by_length: BTreeMap<u32, u64>,
}

impl Lengths {
    /// Counts a text.
    pub fn add(&mut self, tokens: u32) {
        self.add_many(tokens, 1);
    }

    /// Counts texts of one length.
    pub fn add_many(&mut self, tokens: u32, texts: u64) {
        self.texts += texts;
        self.tokens += u64::from(tokens) * texts;
        *self.by_length.entry(tokens).or_default() += texts;
    }

    /// Texts counted.
    #[must_use]
    pub fn texts(&self) -> u64 {
        self.texts
    }

    /// Tokens of all texts.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens of a text on average; `None` without texts.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.texts > 0).then(|| self.tokens as f64 / self.texts as f64)
    }

    /// The least length that at least a part `q` (0 to 1) of the texts do not exceed (the nearest-rank
    /// quantile); `None` without texts.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<u32> {
        let rank = (q.clamp(0.0, 1.0) * self.texts as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        self.by_length.iter().find_map(|(tokens, texts)| {
            below += texts;
            (below >= rank).then_some(*tokens)
        })
    }

    /// Texts by bins of `width` tokens: the first length of each bin that is not empty, and its texts.
    #[must_use]
    pub fn histogram(&self, width: u32) -> Vec<(u32, u64)> {
        let width = width.max(1);
        let mut bins: BTreeMap<u32, u64> = BTreeMap::new();
        for (tokens, texts) in &self.by_length {
            *bins.entry(tokens / width * width).or_default() += texts;
        }
        bins.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_quantiles_and_bins_follow_the_lengths() {
        let mut lengths = Lengths::default();
        assert_eq!((lengths.mean(), lengths.quantile(0.5)), (None, None));
        for tokens in [10, 10, 20, 400] {
            lengths.add(tokens);
        }
        assert_eq!((lengths.texts(), lengths.tokens(), lengths.mean()), (4, 440, Some(110.0)));
        assert_eq!([0.0, 0.5, 0.75, 0.95].map(|q| lengths.quantile(q).unwrap()), [10, 10, 20, 400]);
        assert_eq!(lengths.histogram(100), [(0, 3), (400, 1)]);
    }
}
