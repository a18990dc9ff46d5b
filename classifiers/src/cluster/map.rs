//! A map of the rows: their place on the plane of the two directions in which they differ most.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Power iterations for each of the two directions; enough for a picture.
const ITERATIONS: usize = 60;

/// The first two principal components of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaneMap {
    mean: Vec<f64>,
    axes: [Vec<f64>; 2],
}

impl PlaneMap {
    /// Finds the two directions by power iteration over the rows themselves, the second at a right
    /// angle to the first; no covariance matrix is held.
    pub(super) fn of(rows: &[&[f32]], length: usize, seed: u64) -> Self {
        let mut mean = vec![0.0; length];
        for row in rows {
            mean.iter_mut().zip(*row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        mean.iter_mut().for_each(|sum| *sum /= rows.len().max(1) as f64);
        let mut map = Self { mean, axes: [vec![0.0; length], vec![0.0; length]] };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for number in 0..2 {
            let mut axis: Vec<f64> = (0..length).map(|_| rng.random::<f64>() - 0.5).collect();
            for _ in 0..ITERATIONS {
                let mut next = vec![0.0; length];
                for row in rows {
                    let along = map.along(&axis, row);
                    for ((sum, value), mean) in next.iter_mut().zip(*row).zip(&map.mean) {
                        *sum += along * (f64::from(*value) - mean);
                    }
                }
                if number == 1 {
                    let first = &map.axes[0];
                    let shared: f64 = next.iter().zip(first).map(|(a, b)| a * b).sum();
                    next.iter_mut().zip(first).for_each(|(value, first)| *value -= shared * first);
                }
                let norm = next.iter().map(|value| value * value).sum::<f64>().sqrt();
                if norm <= f64::MIN_POSITIVE {
                    break;
                }
                axis = next.into_iter().map(|value| value / norm).collect();
            }
            map.axes[number] = axis;
        }
        map
    }

    fn along(&self, axis: &[f64], row: &[f32]) -> f64 {
        axis.iter().zip(row).zip(&self.mean).map(|((a, v), m)| a * (f64::from(*v) - m)).sum()
    }

    /// The place of a row, scaled to length 1 as the sample was.
    pub fn place(&self, vector: &[f32]) -> [f32; 2] {
        let mut unit = vector.to_vec();
        super::normalize(&mut unit);
        [0, 1].map(|axis| self.along(&self.axes[axis], &unit) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClusterOptions, Sample};

    #[test]
    fn rows_are_spread_along_the_direction_in_which_they_differ() {
        let mut sample = Sample::new(&ClusterOptions { clusters: 2, ..Default::default() });
        for i in 0..200_u16 {
            let t = f32::from(i) / 100.0 - 1.0;
            // Far along y, a little along z, not at all along w.
            sample.push(&[3.0, t * 2.0, f32::from(i % 7) * 0.05, 0.0]).unwrap();
        }
        let map = sample.map();
        let [left, right] = [map.place(&[3.0, -2.0, 0.1, 0.0]), map.place(&[3.0, 2.0, 0.1, 0.0])];
        assert!((left[0] - right[0]).abs() > 1.0, "{left:?} {right:?}");
        assert!((left[1] - right[1]).abs() < 0.2, "{left:?} {right:?}");
    }
}
