//! From a wish for a run to an entry in the ledger: the workflow is checked first, as `pipeline check`
//! does.

use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;

use crate::clock::Clock;
use crate::ledger::{Ledger, LedgerError, Submitted};
use crate::pools::{MEMORY, THREADS};
use crate::run::{Amounts, NewRun, RunSpec, Trigger};
use crate::supervisor::blocking;
use crate::workflows::{WorkflowShape, Workflows};

/// A run is not entered.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// The workflow, or what is laid over it, has problems.
    #[error("{0}")]
    Workflow(String),
    /// The ledger fails.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Enters runs.
pub struct Submitter {
    pub(crate) ledger: Ledger,
    pub(crate) workflows: Arc<Workflows>,
    pub(crate) clock: Arc<dyn Clock>,
    capacity: Amounts,
}

impl Submitter {
    /// Enters runs of these workflows into this ledger; `capacity` is what there is of each pool.
    pub fn new(ledger: Ledger, workflows: Arc<Workflows>, clock: Arc<dyn Clock>, capacity: Amounts) -> Self {
        Self { ledger, workflows, clock, capacity }
    }

    /// Checks the workflow and enters a run.
    ///
    /// # Errors
    /// The workflow has problems, or the ledger fails.
    pub async fn submit(
        &self,
        spec: RunSpec,
        trigger: Trigger,
        idempotency_key: Option<String>,
    ) -> Result<Submitted, SubmitError> {
        let shape = self
            .workflows
            .check(&spec.file, spec.profile.as_deref(), &spec.set)
            .await
            .map_err(SubmitError::Workflow)?;
        let named = spec.until.iter().chain(&spec.from);
        if let Some(stage) = named.into_iter().find(|stage| shape.stages.iter().all(|s| s.id != **stage)) {
            return Err(SubmitError::Workflow(format!("the workflow has no stage `{stage}`")));
        }
        let name = match &spec.name {
            Some(name) if !is_folder_name(name) => {
                return Err(SubmitError::Workflow(format!(
                    "`{name}` cannot be a run's name: letters, digits and . _ = @ - only, beginning with a letter or digit"
                )));
            }
            Some(name) => name.clone(),
            None => shape.profile.clone(),
        };
        let spec = RunSpec { stalled_after_seconds: shape.run.stalled_after_seconds, ..spec };
        let run = NewRun {
            workflow: shape.name.clone(),
            folder: format!("{}/{name}", shape.name),
            demands: self.demands(&shape)?,
            stages: shape.stages,
            spec,
            trigger,
            idempotency_key,
        };
        let (now, random) = (self.clock.now(), random());
        Ok(blocking(&self.ledger, move |ledger| ledger.submit(&run, now, random)).await?)
    }

    /// What the workflow's runs take: all memory and threads where it does not say.
    fn demands(&self, shape: &WorkflowShape) -> Result<Amounts, SubmitError> {
        let mut demands = shape.run.pools.clone();
        for pool in demands.keys() {
            if !self.capacity.contains_key(pool) || [MEMORY, THREADS].contains(&pool.as_str()) {
                let known = self.capacity.keys().filter(|name| ![MEMORY, THREADS].contains(&name.as_str()));
                let known = known.cloned().collect::<Vec<_>>().join(", ");
                return Err(SubmitError::Workflow(format!(
                    "[run] takes of the pool `{pool}`, which this service does not have (it has: {known}); \
                     pools are set in service.toml"
                )));
            }
        }
        for (pool, amount) in [(MEMORY, shape.run.memory_bytes), (THREADS, shape.run.threads)] {
            if let Some(all) = self.capacity.get(pool) {
                demands.insert(pool.to_owned(), amount.unwrap_or(*all).min(*all));
            }
        }
        Ok(demands)
    }
}

/// Random bits for an id.
pub(crate) fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without the system's randomness ids still differ by their milliseconds.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

/// Names become folders: they stay plain.
pub fn is_folder_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._=@-".contains(c);
    name.len() <= 100 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_plain() {
        for name in ["sample", "dump=CC-MAIN-2024-10", "a.b_c@1"] {
            assert!(is_folder_name(name), "{name}");
        }
        for name in ["", ".hidden", "..", "a/b", "a b", "-x", "ä", &"x".repeat(101)] {
            assert!(!is_folder_name(name), "{name}");
        }
    }
}
