//! Sampling training sequences from shards, by number.

use super::permutation::mix;
use super::{Permutation, Shard, ShardError, Verify};
use std::path::PathBuf;

/// Slots of one mixing block: a weight is met exactly in every block, to one part in this many.
const BLOCK_SLOTS: u64 = 10_000;

/// Shards that are mixed with one weight.
#[derive(Clone, Debug)]
pub struct Source {
    /// Name, for reports.
    pub name: String,
    /// Share of the sequences (and so of the tokens), relative to the other sources.
    pub weight: f64,
    /// The shard files, in order.
    pub shards: Vec<PathBuf>,
}

/// What a run reads of one source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceUse {
    /// The source's name.
    pub name: String,
    /// Its tokens.
    pub tokens: u64,
    /// Sequences in one pass over it.
    pub sequences_per_epoch: u64,
    /// Passes over it.
    pub epochs: f64,
}

#[derive(Debug)]
struct OpenSource {
    name: String,
    shards: Vec<Shard>,
    /// Number of tokens before each shard, and all of them last.
    offsets: Vec<u64>,
    windows: u64,
    /// Slots before this source's in a mixing block, and how many are its own.
    first_slot: u64,
    slots: u64,
    key: u64,
}

/// Numbered training sequences over one or several weighted sources.
///
/// Sequence `i` is a function of `i`, the seed and the shards alone, so that the position in the data is one
/// number. A source's tokens are read as one stream, cut into windows of `context + 1` tokens that overlap by
/// one, and each pass over it takes the windows in another seeded order. Sources are interleaved in blocks of
/// 10,000 sequences that meet the weights by largest remainder.
#[derive(Debug)]
pub struct TokenDataset {
    sources: Vec<OpenSource>,
    context_tokens: usize,
    seed: u64,
    digest: String,
}

impl TokenDataset {
    /// Opens the shards of `sources`.
    ///
    /// # Errors
    /// [`ShardError`] if a shard is damaged or of another tokenizer, a weight is unusable, or a source with a
    /// weight above 0 has less than one sequence.
    pub fn open(
        sources: &[Source],
        context_tokens: usize,
        seed: u64,
        verify: Verify,
    ) -> Result<Self, ShardError> {
        let slots = slots_by_weight(sources)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(context_tokens as u64).to_le_bytes());
        hasher.update(&seed.to_le_bytes());
        let mut open: Vec<OpenSource> = Vec::new();
        let mut first_slot = 0;
        for (number, (source, &slots)) in sources.iter().zip(&slots).enumerate() {
            if slots == 0 {
                continue;
            }
            let mut shards = Vec::new();
            let mut offsets = vec![0u64];
            let mut tokens = 0u64;
            hasher.update(&slots.to_le_bytes());
            for path in &source.shards {
                let shard = Shard::open(path, verify)?;
                let first = open.iter().flat_map(|source| &source.shards).chain(&shards).next();
                if let Some(first) =
                    first.filter(|first: &&Shard| first.tokenizer_digest() != shard.tokenizer_digest())
                {
                    return Err(ShardError::Tokenizer {
                        path: path.clone(),
                        first: first.path().to_path_buf(),
                    });
                }
                tokens += shard.tokens().len() as u64;
                offsets.push(tokens);
                hasher.update(&shard.digest());
                shards.push(shard);
            }
            let windows = tokens.saturating_sub(1) / context_tokens.max(1) as u64;
            if windows == 0 || context_tokens == 0 {
                return Err(ShardError::TooSmall {
                    name: source.name.clone(),
                    tokens,
                    shards: shards.len(),
                    context_tokens,
                });
            }
            let key = mix(seed ^ mix(number as u64));
            open.push(OpenSource {
                name: source.name.clone(),
                shards,
                offsets,
                windows,
                first_slot,
                slots,
                key,
            });
            first_slot += slots;
        }
        Ok(Self { sources: open, context_tokens, seed, digest: hasher.finalize().to_hex().to_string() })
    }

    /// One unweighted source over `shards`.
    ///
    /// # Errors
    /// As [`TokenDataset::open`].
    pub fn single(shards: &[PathBuf], context_tokens: usize, seed: u64) -> Result<Self, ShardError> {
        let source = Source { name: "tokens".to_owned(), weight: 1.0, shards: shards.to_vec() };
        Self::open(&[source], context_tokens, seed, Verify::Structure)
    }

    /// Tokens the model reads in a sequence; a sequence holds one more, the last target.
    #[must_use]
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// Digest of the shards, slots, context and seed: equal digests give equal sequences.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Digest of the tokenizer that made the shards; none of a data set without shards.
    #[must_use]
    pub fn tokenizer_digest(&self) -> Option<[u8; 32]> {
        self.sources.iter().flat_map(|source| source.shards.iter()).next().map(Shard::tokenizer_digest)
    }

    /// Size of the shards' vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        let shards = self.sources.iter().flat_map(|source| &source.shards);
        shards.map(Shard::vocab_size).max().unwrap_or(0)
    }

    /// Writes sequence `index` into `out`, `context_tokens + 1` tokens long.
    pub fn sequence(&self, index: u64, out: &mut [u32]) {
        let block = index / BLOCK_SLOTS;
        let slot = match self.sources.as_slice() {
            [_] => index % BLOCK_SLOTS,
            _ => Permutation::new(BLOCK_SLOTS, mix(self.seed) ^ mix(block)).at(index % BLOCK_SLOTS),
        };
        let found = self.sources.partition_point(|source| source.first_slot + source.slots <= slot);
        if let Some(source) = self.sources.get(found) {
            source.read(block * source.slots + slot - source.first_slot, self.context_tokens, out);
        }
    }

    /// How much of each source the first `sequences` sequences read, to a block of 10,000.
    #[must_use]
    pub fn uses(&self, sequences: u64) -> Vec<SourceUse> {
        let share = sequences as f64 / BLOCK_SLOTS as f64;
        let uses = self.sources.iter().map(|source| SourceUse {
            name: source.name.clone(),
            tokens: source.offsets.last().copied().unwrap_or(0),
            sequences_per_epoch: source.windows,
            epochs: share * source.slots as f64 / source.windows as f64,
        });
        uses.collect()
    }
}

impl OpenSource {
    /// Writes the source's own sequence `number`.
    fn read(&self, number: u64, context_tokens: usize, out: &mut [u32]) {
        let (epoch, place) = (number / self.windows, number % self.windows);
        let window = Permutation::new(self.windows, self.key ^ mix(epoch)).at(place);
        let mut position = window * context_tokens as u64;
        let mut shard = self.offsets.partition_point(|&offset| offset <= position).saturating_sub(1);
        let mut filled = 0;
        while filled < out.len() {
            let Some(tokens) = self.shards.get(shard).map(Shard::tokens) else {
                return;
            };
            let inside = (position - self.offsets[shard]) as usize;
            let part = &tokens[inside..(inside + out.len() - filled).min(tokens.len())];
            for (target, &token) in out[filled..].iter_mut().zip(part) {
                *target = u32::from(token);
            }
            filled += part.len();
            position += part.len() as u64;
            shard += 1;
        }
    }
}

/// Slots of each source in a mixing block, by largest remainder; ties go to the earlier source.
fn slots_by_weight(sources: &[Source]) -> Result<Vec<u64>, ShardError> {
    let Some(first) = sources.first() else {
        return Err(ShardError::NoSource);
    };
    let bad = sources.iter().find(|source| !source.weight.is_finite() || source.weight < 0.0);
    let total: f64 = sources.iter().map(|source| source.weight).sum();
    if let Some(source) = bad.or((total <= 0.0 || !total.is_finite()).then_some(first)) {
        return Err(ShardError::Weight { name: source.name.clone(), weight: source.weight });
    }
    let exact: Vec<f64> = sources.iter().map(|source| source.weight / total * BLOCK_SLOTS as f64).collect();
    let mut slots: Vec<u64> = exact.iter().map(|&x| x as u64).collect();
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let missing = BLOCK_SLOTS.saturating_sub(slots.iter().sum());
    for &source in order.iter().cycle().take(missing as usize) {
        slots[source] += 1;
    }
    Ok(slots)
}
