//! Finds runs whose processes are gone. Silence is measured by this machine's own stopwatch, so that no
//! clock that jumps, here or elsewhere, makes a healthy run look dead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Supervisor, blocking};
use crate::ledger::Loss;
use crate::run::RunId;

/// The last sign of life seen of a run.
struct Sign {
    epoch: u64,
    heartbeat: u64,
    seen: Instant,
}

impl Supervisor {
    /// Takes runs back whose owners have fallen silent.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut known: HashMap<RunId, Sign> = HashMap::new();
        loop {
            tokio::time::sleep(self.options.beat).await;
            let signs = match blocking(&self.ledger, |ledger| ledger.signs_of_life()).await {
                Ok(signs) => signs,
                Err(error) => {
                    tracing::error!(%error, "signs of life cannot be read");
                    continue;
                }
            };
            known.retain(|id, _| signs.iter().any(|(run, ..)| run == id));
            for (id, _, epoch, heartbeat) in signs {
                if self.attended().contains(&id) {
                    continue;
                }
                let now = Instant::now();
                let sign = known.entry(id.clone()).or_insert(Sign { epoch, heartbeat, seen: now });
                if (sign.epoch, sign.heartbeat) != (epoch, heartbeat) {
                    *sign = Sign { epoch, heartbeat, seen: now };
                } else if now.duration_since(sign.seen) >= self.options.lease {
                    self.take_back(id, (epoch, heartbeat)).await;
                }
            }
        }
    }

    async fn take_back(&self, id: RunId, sign: (u64, u64)) {
        let (now, run) = (self.clock.now(), id.clone());
        match blocking(&self.ledger, move |ledger| ledger.take_back(&run, sign, Loss::Silent, now)).await {
            Ok(true) => {
                tracing::warn!(run = %id, "its process was lost; it goes on from where it was");
                self.notifier.run_lost(&id).await;
            }
            Ok(false) => {}
            Err(error) => tracing::error!(run = %id, %error, "a lost run cannot be taken back"),
        }
    }
}
