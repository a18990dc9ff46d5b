//! Learning rate over the steps of a run.

use serde::{Deserialize, Serialize};

/// How the learning rate goes down after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleShape {
    /// Constant, then `1 − √progress` down to zero over the cool-down (SmolLM's choice).
    #[default]
    Trapezoidal,
    /// Half a cosine from the end of the warm-up to zero at the last step.
    Cosine,
}

/// A learning rate for every step.
///
/// The formulas are those of huggingface/nanotron `src/nanotron/helpers.py` (`lr_scheduler_builder`,
/// linear warm-up and the `1-sqrt` decay): the rate of an update depends on how many were made before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// How the rate goes down.
    pub shape: ScheduleShape,
    /// Highest learning rate.
    pub peak: f64,
    /// Steps of linear growth from zero.
    pub warmup_steps: u64,
    /// Steps of the final descent (trapezoidal only).
    pub cooldown_steps: u64,
    /// Steps of the whole run.
    pub steps: u64,
}

impl Schedule {
    /// A schedule whose parts are shares of the run, as in fine-tuning: `warmup_share` of it grows, and a
    /// trapezoid descends in the last fifth.
    #[must_use]
    pub fn of_share(shape: ScheduleShape, peak: f64, warmup_share: f64, steps: u64) -> Self {
        let warmup_steps = (warmup_share * steps as f64).ceil() as u64;
        Self { shape, peak, warmup_steps, cooldown_steps: steps / 5, steps }
    }

    /// The learning rate of the update made after `done` earlier updates; zero at `done == steps`.
    #[must_use]
    pub fn rate(&self, done: u64) -> f64 {
        if done < self.warmup_steps {
            return self.peak * done as f64 / self.warmup_steps as f64;
        }
        if done >= self.steps {
            return 0.0;
        }
        match self.shape {
            ScheduleShape::Trapezoidal => {
                let start = self.steps.saturating_sub(self.cooldown_steps).max(self.warmup_steps);
                if done <= start {
                    return self.peak;
                }
                let progress = (done - start) as f64 / (self.steps - start) as f64;
                self.peak * (1.0 - progress.sqrt())
            }
            ScheduleShape::Cosine => {
                let progress = (done - self.warmup_steps) as f64 / (self.steps - self.warmup_steps) as f64;
                self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: ScheduleShape) -> Schedule {
        Schedule { shape, peak: 3e-3, warmup_steps: 100, cooldown_steps: 400, steps: 1_000 }
    }

    #[test]
    fn trapezoid_at_its_corners() {
        let s = schedule(ScheduleShape::Trapezoidal);
        assert_eq!(s.rate(0), 0.0);
        assert_eq!(s.rate(50), 1.5e-3);
        assert_eq!(s.rate(100), 3e-3);
        assert_eq!(s.rate(350), 3e-3);
        assert_eq!(s.rate(600), 3e-3);
        // A quarter of the cool-down: 1 − √¼ = ½.
        assert_eq!(s.rate(700), 1.5e-3);
        assert!((s.rate(601) - 3e-3 * (1.0 - 0.05)).abs() < 1e-15);
        assert_eq!(s.rate(1_000), 0.0);
        assert!(s.rate(999) > 0.0);
    }

    #[test]
    fn cosine_at_its_corners() {
        let s = schedule(ScheduleShape::Cosine);
        assert_eq!(s.rate(100), 3e-3);
        assert!((s.rate(550) - 1.5e-3).abs() < 1e-12);
        assert_eq!(s.rate(1_000), 0.0);
    }

    #[test]
    fn no_warmup_and_an_overlong_cooldown_are_fine() {
        let s = Schedule { warmup_steps: 0, cooldown_steps: 5_000, ..schedule(ScheduleShape::Trapezoidal) };
        assert_eq!(s.rate(0), 3e-3);
        assert_eq!(s.rate(250), 1.5e-3);
    }
}
