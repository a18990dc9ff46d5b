//! The sample of rows from which the first centres come.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Centres, ClusterError, ClusterOptions, PlaneMap, dot, normalize, unit};

/// Full iterations over the sample; the centres settle in fewer, and more cost little.
const SAMPLE_ITERATIONS: usize = 10;

/// Keeps `sample_rows` rows, each row as likely as any other: those with the smallest hashes of their
/// number.
pub struct Sample {
    options: ClusterOptions,
    length: Option<usize>,
    rows_seen: u64,
    kept: BTreeMap<([u8; 16], u64), Vec<f32>>,
}

impl Sample {
    /// An empty sample.
    pub fn new(options: &ClusterOptions) -> Self {
        Self { options: options.clone(), length: None, rows_seen: 0, kept: BTreeMap::new() }
    }

    /// Offers a row.
    ///
    /// # Errors
    /// The vector is not of the first one's length or has values that are no numbers.
    pub fn push(&mut self, vector: &[f32]) -> Result<(), ClusterError> {
        let length = *self.length.get_or_insert(vector.len());
        let unit = unit(vector, length)?;
        let number = self.rows_seen;
        self.rows_seen += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.options.seed.to_le_bytes()).update(&number.to_le_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let limit = self.options.sample_rows.max(self.options.clusters);
        if self.kept.len() < limit {
            self.kept.insert((hash, number), unit);
        } else if self.kept.last_key_value().is_some_and(|(last, _)| (hash, number) < *last) {
            self.kept.pop_last();
            self.kept.insert((hash, number), unit);
        }
        Ok(())
    }

    fn rows(&self) -> Vec<&[f32]> {
        self.kept.values().map(Vec::as_slice).collect()
    }

    /// The first centres: k-means++ (Arthur and Vassilvitskii 2007, the greedy variant of their
    /// conclusion) by cosine distance, then full iterations over the sample.
    ///
    /// # Errors
    /// There are fewer different rows than clusters.
    pub fn seed(&self) -> Result<Centres, ClusterError> {
        let rows = self.rows();
        let clusters = self.options.clusters.max(1);
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        let mut vectors: Vec<Vec<f32>> = Vec::with_capacity(clusters);
        let mut distances = vec![1.0_f64; rows.len()];
        while vectors.len() < clusters {
            let closer = |row: usize| -> Vec<f64> {
                let distance =
                    |(distance, other): (&f64, &&[f32])| distance.min(cosine_distance(rows[row], other));
                distances.iter().zip(&rows).map(distance).collect()
            };
            // Of several candidates the one that leaves the rows nearest to their centres.
            let candidates = (0..2 + clusters.ilog2()).filter_map(|_| draw(&mut rng, &distances));
            let best = candidates
                .map(|row| (row, closer(row)))
                .min_by(|a, b| a.1.iter().sum::<f64>().total_cmp(&b.1.iter().sum()));
            let Some((row, closer)) = best else {
                return Err(ClusterError::TooFewRows { clusters, rows: vectors.len() });
            };
            vectors.push(rows[row].to_vec());
            distances = closer;
        }
        let mut centres = Centres { vectors, length: self.length.unwrap_or(0) };
        for _ in 0..SAMPLE_ITERATIONS {
            iterate(&mut centres, &rows);
        }
        Ok(centres)
    }

    /// The plane on which the sample is spread widest.
    pub fn map(&self) -> PlaneMap {
        PlaneMap::of(&self.rows(), self.length.unwrap_or(0), self.options.seed)
    }
}

/// Rounding leaves a row at a tiny distance from itself, which is none.
fn cosine_distance(a: &[f32], b: &[f32]) -> f64 {
    let distance = 1.0 - f64::from(dot(a, b));
    if distance < 1e-6 { 0.0 } else { distance }
}

/// A place drawn with its weight; `None` when all weights are 0.
fn draw(rng: &mut ChaCha8Rng, weights: &[f64]) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    if total <= 0.0 {
        return None;
    }
    let mut left = rng.random::<f64>() * total;
    for (place, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        left -= weight;
        if left <= 0.0 {
            return Some(place);
        }
    }
    weights.iter().rposition(|weight| *weight > 0.0)
}

/// Moves each centre to the mean of its rows. A centre without rows goes to the row that is farthest
/// from its own.
fn iterate(centres: &mut Centres, rows: &[&[f32]]) {
    let mut sums = vec![vec![0.0_f32; centres.length]; centres.vectors.len()];
    let mut counts = vec![0_usize; centres.vectors.len()];
    let mut farthest: Vec<(f32, usize)> = Vec::with_capacity(rows.len());
    for (place, row) in rows.iter().enumerate() {
        let nearest = centres.nearest_of_unit(row);
        counts[nearest.cluster] += 1;
        sums[nearest.cluster].iter_mut().zip(*row).for_each(|(sum, value)| *sum += value);
        farthest.push((nearest.similarity, place));
    }
    farthest.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    for (cluster, (sum, count)) in sums.into_iter().zip(counts).enumerate() {
        if count > 0 {
            centres.vectors[cluster] = sum;
        } else if let Some((_, place)) = farthest.pop() {
            centres.vectors[cluster] = rows[place].to_vec();
        }
        normalize(&mut centres.vectors[cluster]);
    }
}
