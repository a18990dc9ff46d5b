//! Measuring a model while it is trained.

use crate::evaluate::EvaluateError;
use crate::network::Network;
use std::collections::BTreeMap;

/// Name of the record of evaluations in a run's folder: one JSON object each, with `step`, `tokens` and the figures
/// by their names.
pub const EVALUATIONS_FILE: &str = "evaluations.jsonl";

/// Takes the figures of a network with some weights.
pub type Measure<'a> =
    dyn FnMut(&Network, &[f32]) -> Result<BTreeMap<String, f64>, EvaluateError> + Send + 'a;

/// When a model is measured as training goes, and how. What is measured changes no weight.
pub struct Evaluation<'a> {
    /// Steps from one evaluation to the next; there is one at the end, too.
    pub every_steps: u64,
    /// Takes the figures.
    pub measure: Box<Measure<'a>>,
}

impl std::fmt::Debug for Evaluation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluation").field("every_steps", &self.every_steps).finish_non_exhaustive()
    }
}

impl Evaluation<'_> {
    pub(super) fn is_due(&self, step: u64, steps: u64) -> bool {
        step.is_multiple_of(self.every_steps.max(1)) || step == steps
    }
}
