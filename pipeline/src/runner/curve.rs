//! A curve of a few characters, drawn while its values come: the loss on the line of a stage that trains.

use std::fmt;

/// Characters of the curve at most; half of them at least, once there are so many values.
const WIDTH: usize = 32;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The means of equally many values each, over all that came. Takes the same memory however many do.
#[derive(Clone, Debug)]
pub struct Curve {
    means: Vec<f64>,
    /// Values in a mean.
    values: u64,
    /// Of the mean that is not full yet.
    sum: f64,
    count: u64,
}

impl Default for Curve {
    fn default() -> Self {
        Self { means: Vec::with_capacity(WIDTH), values: 1, sum: 0.0, count: 0 }
    }
}

impl Curve {
    /// Goes on with a value. One that is no number has no place on a curve and is left out.
    pub fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.sum += value;
        self.count += 1;
        if self.count < self.values {
            return;
        }
        self.means.push(self.sum / self.count as f64);
        (self.sum, self.count) = (0.0, 0);
        if self.means.len() == WIDTH {
            self.means = self.means.as_chunks().0.iter().map(|[a, b]| (a + b) / 2.0).collect();
            self.values *= 2;
        }
    }
}

/// From the lowest bar for the least mean to the highest for the greatest.
impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.means.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let top = (BARS.len() - 1) as f64;
        for mean in &self.means {
            let height = if most > least { (mean - least) / (most - least) * top } else { 0.0 };
            fmt::Write::write_char(f, BARS[(height.round() as usize).min(BARS.len() - 1)])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(values: impl IntoIterator<Item = f64>) -> String {
        let mut curve = Curve::default();
        values.into_iter().for_each(|value| curve.push(value));
        curve.to_string()
    }

    #[test]
    fn a_falling_loss_falls() {
        assert_eq!(drawn([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), "█▇▆▅▄▃▂▁");
        assert_eq!(drawn([3.0, 3.0]), "▁▁");
        assert_eq!(drawn([]), "");
        assert_eq!(drawn([f64::NAN, 2.0, f64::INFINITY, 1.0]), "█▁");
    }

    #[test]
    fn however_many_values_come_the_whole_curve_fits() {
        for count in [31, 32, 33, 1_000, 100_000] {
            let curve = drawn((0..count).map(|n| -f64::from(n)));
            let width = curve.chars().count();
            assert!((WIDTH / 2..WIDTH).contains(&width), "{count} values: {width}");
            let bars: Vec<char> = curve.chars().collect();
            assert!(bars.is_sorted_by(|a, b| a >= b) && bars[0] == '█' && bars[width - 1] == '▁', "{curve}");
        }
    }
}
