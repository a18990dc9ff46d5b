//! Spherical mini-batch k-means over embeddings: pages grouped by what they are about.
//!
//! Cosmopedia v1 found its topics so: 145 clusters of web pages, named by a language model
//! (huggingface/cosmopedia and huggingface/text-clustering). Vectors are compared by cosine, so all
//! are scaled to length 1, the centres too (Dhillon and Modha 2001).
//!
//! Three passes over the rows, each in any batch sizes and in bounded memory:
//! 1. [`Sample`] keeps a few thousand vectors, from which [`Sample::seed`] makes the first centres
//!    (k-means++, then full iterations on the sample) and [`Sample::map`] the plane of the map;
//! 2. [`Training`] moves the centres, a mini-batch at a time (Sculley 2010);
//! 3. [`Centres::nearest`] assigns each row.
//!
//! Everything is a function of the vectors, their order and the seed.

mod map;
mod sample;

pub use map::PlaneMap;
pub use sample::Sample;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How rows are clustered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterOptions {
    /// Number of clusters; 145 in Cosmopedia v1.
    pub clusters: usize,
    /// Rows kept for the first centres and the map, in vectors; memory is this times the length of a
    /// vector.
    pub sample_rows: usize,
    /// Rows after which the centres move.
    pub batch_rows: usize,
    /// Passes over all rows in which the centres move.
    pub passes: usize,
    /// Seed of the sample and of the first centres.
    pub seed: u64,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { clusters: 145, sample_rows: 20_000, batch_rows: 4096, passes: 1, seed: 42 }
    }
}

/// Why nothing can be clustered.
#[derive(Debug, Error, PartialEq)]
pub enum ClusterError {
    /// There are fewer different rows than clusters.
    #[error("{clusters} clusters of {rows} rows: lower `clusters`, or give more rows")]
    TooFewRows {
        /// Clusters wanted.
        clusters: usize,
        /// Rows with a direction.
        rows: usize,
    },
    /// A vector of another length, or with values that are no numbers.
    #[error("a vector has {found} finite values, expected {expected}; embed all rows with one backbone")]
    Vector {
        /// Its finite values.
        found: usize,
        /// The length of the others.
        expected: usize,
    },
}

/// Scales a vector to length 1.
///
/// # Errors
/// It is not `length` finite values.
fn unit(vector: &[f32], length: usize) -> Result<Vec<f32>, ClusterError> {
    let finite = vector.iter().filter(|value| value.is_finite()).count();
    if finite != length || vector.len() != length {
        return Err(ClusterError::Vector { found: finite, expected: length });
    }
    let mut unit = vector.to_vec();
    normalize(&mut unit);
    Ok(unit)
}

/// A zero vector has no direction and stays as it is.
fn normalize(vector: &mut [f32]) {
    let norm = dot(vector, vector).sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
}

/// The dot product in eight running sums: vectorised, and always added up in the same order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0_f32; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// A cluster and how near a row is to its centre.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// The cluster, from 0.
    pub cluster: usize,
    /// Cosine of the angle between row and centre, −1 to 1.
    pub similarity: f32,
}

/// The centres of the clusters: unit vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Centres {
    vectors: Vec<Vec<f32>>,
    length: usize,
}

impl Centres {
    /// The nearest centre; of equally near ones the first.
    ///
    /// # Errors
    /// The vector is not of the centres' length or has values that are no numbers.
    pub fn nearest(&self, vector: &[f32]) -> Result<Nearest, ClusterError> {
        Ok(self.nearest_of_unit(&unit(vector, self.length)?))
    }

    fn nearest_of_unit(&self, unit: &[f32]) -> Nearest {
        let mut best = Nearest { cluster: 0, similarity: f32::MIN };
        for (cluster, centre) in self.vectors.iter().enumerate() {
            let similarity = dot(unit, centre);
            if similarity > best.similarity {
                best = Nearest { cluster, similarity };
            }
        }
        best
    }
}

/// Moves centres towards the rows that are nearest to them.
pub struct Training {
    centres: Centres,
    /// Rows that each centre has seen: its next step is one divided by these.
    seen: Vec<u64>,
    batch: Vec<Vec<f32>>,
    batch_rows: usize,
}

impl Training {
    /// Starts at the first centres.
    pub fn new(centres: Centres, options: &ClusterOptions) -> Self {
        let seen = vec![0; centres.vectors.len()];
        Self { centres, seen, batch: Vec::new(), batch_rows: options.batch_rows.max(1) }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The vector is not of the centres' length or has values that are no numbers.
    pub fn push(&mut self, vector: &[f32]) -> Result<(), ClusterError> {
        self.batch.push(unit(vector, self.centres.length)?);
        if self.batch.len() >= self.batch_rows {
            self.step();
        }
        Ok(())
    }

    /// The rows of a mini-batch are assigned before any centre moves.
    fn step(&mut self) {
        let rows = std::mem::take(&mut self.batch);
        let clusters: Vec<usize> = rows.iter().map(|row| self.centres.nearest_of_unit(row).cluster).collect();
        for (row, &cluster) in rows.iter().zip(&clusters) {
            self.seen[cluster] += 1;
            let rate = 1.0 / self.seen[cluster] as f32;
            for (centre, value) in self.centres.vectors[cluster].iter_mut().zip(row) {
                *centre += rate * (value - *centre);
            }
        }
        self.centres.vectors.iter_mut().for_each(|centre| normalize(centre));
    }

    /// The centres after the last, perhaps smaller, mini-batch.
    pub fn finish(mut self) -> Centres {
        self.step();
        self.centres
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// `groups` directions in `length` dimensions, `rows` vectors round them, and whose each is.
    fn groups(groups: usize, rows: usize, length: usize) -> Vec<(usize, Vec<f32>)> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut random =
            |spread: f32| -> Vec<f32> { (0..length).map(|_| spread * (rng.random::<f32>() - 0.5)).collect() };
        let directions: Vec<Vec<f32>> = (0..groups).map(|_| random(1.0)).collect();
        (0..rows)
            .map(|row| {
                let group = row * 31 % groups;
                let noise = random(0.3);
                let vector = directions[group].iter().zip(noise).map(|(x, n)| 5.0 * (x + n)).collect();
                (group, vector)
            })
            .collect()
    }

    fn cluster(rows: &[(usize, Vec<f32>)], options: &ClusterOptions) -> Centres {
        let mut sample = Sample::new(options);
        rows.iter().for_each(|(_, vector)| sample.push(vector).unwrap());
        let mut training = Training::new(sample.seed().unwrap(), options);
        rows.iter().for_each(|(_, vector)| training.push(vector).unwrap());
        training.finish()
    }

    #[test]
    fn groups_that_are_there_are_found() {
        let rows = groups(12, 3000, 40);
        let options =
            ClusterOptions { clusters: 12, sample_rows: 500, batch_rows: 128, ..Default::default() };
        let centres = cluster(&rows, &options);
        // Every cluster is one group, and every group one cluster.
        let mut pairs: Vec<(usize, usize)> =
            rows.iter().map(|(group, vector)| (*group, centres.nearest(vector).unwrap().cluster)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), 12, "{pairs:?}");
        assert_eq!(cluster(&rows, &options), centres, "the same rows give the same centres");
    }

    #[test]
    fn too_few_rows_and_foreign_vectors_are_told() {
        let options = ClusterOptions { clusters: 3, ..Default::default() };
        let mut sample = Sample::new(&options);
        sample.push(&[1.0, 0.0]).unwrap();
        sample.push(&[1.0, 0.0]).unwrap();
        assert_eq!(sample.push(&[1.0]), Err(ClusterError::Vector { found: 1, expected: 2 }));
        assert_eq!(sample.push(&[1.0, f32::NAN]), Err(ClusterError::Vector { found: 1, expected: 2 }));
        assert_eq!(sample.seed(), Err(ClusterError::TooFewRows { clusters: 3, rows: 1 }));
    }

    proptest! {
        #[test]
        fn a_row_is_given_to_the_nearest_centre_whatever_its_length(
            vectors in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 5), 12..60),
            scale in 0.1_f32..100.0,
        ) {
            let options = ClusterOptions { clusters: 3, batch_rows: 7, ..Default::default() };
            let rows: Vec<(usize, Vec<f32>)> = vectors.into_iter().map(|vector| (0, vector)).collect();
            let centres = cluster(&rows, &options);
            for (_, vector) in &rows {
                let nearest = centres.nearest(vector).unwrap();
                prop_assert!(nearest.similarity <= 1.0 + 1e-5);
                let scaled: Vec<f32> = vector.iter().map(|value| value * scale).collect();
                let again = centres.nearest(&scaled).unwrap();
                prop_assert!((again.similarity - nearest.similarity).abs() < 1e-4);
            }
        }
    }
}
