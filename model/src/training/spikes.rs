//! Updates that would do harm: a loss that is no number, or a gradient much longer than usual.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Share of the old average that stays when an update is added to it.
const DECAY: f64 = 0.98;
/// Updates before the average is trusted.
const FIRST_UPDATES: u64 = 20;
/// Skipped updates in a row after which something else is wrong.
const MOST_IN_A_ROW: u64 = 100;

/// What is done with a harmful update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpikeAction {
    /// The run ends with an error; its checkpoints stay.
    #[default]
    Stop,
    /// Weights and moments stay as they were, the data go on, and `skipped.jsonl` has a line. A hundred in a row
    /// end the run.
    Skip,
}

/// Which updates count as harmful, and what is done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpikeOptions {
    /// A gradient this many times as long as the average of the last fifty or so is a spike; unset, only a loss or
    /// gradient that is no number is harmful.
    pub factor: Option<f64>,
    /// What is done with such an update.
    pub action: SpikeAction,
}

impl SpikeOptions {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a run remembers of its gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpikeWatch {
    /// Decaying sum of gradient norms, times `1 − DECAY`.
    average: f64,
    /// Updates in it.
    updates: u64,
    /// Skipped since the last one.
    in_a_row: u64,
}

/// What an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Sound,
    Skip,
    Stop,
}

impl SpikeWatch {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// `change` of each number.
    pub(super) fn map<E>(self, mut change: impl FnMut(f64) -> Result<f64, E>) -> Result<Self, E> {
        Ok(Self {
            average: change(self.average)?,
            updates: change(self.updates as f64)? as u64,
            in_a_row: change(self.in_a_row as f64)? as u64,
        })
    }

    /// Judges an update and remembers it.
    pub(super) fn judge(&mut self, options: &SpikeOptions, loss: f64, grad_norm: f64) -> Verdict {
        // The average without the zero it started from.
        let usual = self.average / (1.0 - DECAY.powi(self.updates.min(10_000) as i32));
        let spike =
            options.factor.is_some_and(|factor| self.updates >= FIRST_UPDATES && grad_norm > factor * usual);
        if loss.is_finite() && grad_norm.is_finite() && !spike {
            self.average = DECAY * self.average + (1.0 - DECAY) * grad_norm;
            self.updates += 1;
            self.in_a_row = 0;
            return Verdict::Sound;
        }
        self.in_a_row += 1;
        match options.action {
            SpikeAction::Skip if self.in_a_row <= MOST_IN_A_ROW => Verdict::Skip,
            _ => Verdict::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKIP: SpikeOptions = SpikeOptions { factor: Some(4.0), action: SpikeAction::Skip };

    #[test]
    fn long_gradients_and_numberless_losses_are_skipped() {
        let mut watch = SpikeWatch::default();
        // Too early to tell.
        assert_eq!(watch.judge(&SKIP, 2.0, 50.0), Verdict::Sound);
        for step in 0..300 {
            assert_eq!(watch.judge(&SKIP, 2.0, 1.0 + f64::from(step % 3)), Verdict::Sound);
        }
        assert_eq!(watch.judge(&SKIP, 2.0, 7.0), Verdict::Sound);
        let before = watch.average;
        assert_eq!(watch.judge(&SKIP, 2.0, 9.0), Verdict::Skip);
        assert_eq!(watch.judge(&SKIP, f64::NAN, 2.0), Verdict::Skip);
        assert_eq!(watch.judge(&SKIP, 2.0, f64::INFINITY), Verdict::Skip);
        assert_eq!(watch.average, before);
        assert_eq!(watch.judge(&SpikeOptions { action: SpikeAction::Stop, ..SKIP }, 2.0, 9.0), Verdict::Stop);
        assert_eq!(watch.judge(&SpikeOptions::default(), 2.0, 9.0), Verdict::Sound);
    }

    #[test]
    fn a_hundred_in_a_row_end_the_run() {
        let mut watch = SpikeWatch::default();
        for _ in 0..MOST_IN_A_ROW {
            assert_eq!(watch.judge(&SKIP, f64::NAN, 1.0), Verdict::Skip);
        }
        assert_eq!(watch.judge(&SKIP, f64::NAN, 1.0), Verdict::Stop);
    }
}
