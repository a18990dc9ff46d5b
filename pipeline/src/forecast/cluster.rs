//! What a run would take on a cluster, from what one machine measured.

use std::fmt;
use std::str::FromStr;

use super::Outlook;
use crate::workflow::{OutputMode, StageNode, Workflow};

/// So many machines with so many cores each: `64x32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSize {
    /// Machines, an executor on each.
    pub machines: u32,
    /// Cores of each.
    pub cores: u32,
}

impl FromStr for ClusterSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('x')
            .and_then(|(machines, cores)| Some((machines.trim().parse().ok()?, cores.trim().parse().ok()?)));
        match numbers {
            Some((machines @ 1.., cores @ 1..)) => Ok(Self { machines, cores }),
            _ => Err(format!("`{text}` is no size: write 64x32 for 64 machines of 32 cores")),
        }
    }
}

impl fmt::Display for ClusterSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.machines, self.cores)
    }
}

/// Where a stage's work is done on a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On all machines, a task at a time.
    Executors,
    /// On the machine of the run, with all its cores.
    OneMachine,
    /// On the servers of its language model.
    Servers,
}

impl Place {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Executors => "executors",
            Self::OneMachine => "one machine",
            Self::Servers => "LLM servers",
        }
    }

    /// Where a stage's work would be done.
    pub fn of(workflow: &Workflow, node: &StageNode, outlook: &Outlook) -> Self {
        if outlook.gpu_hours.is_some() && outlook.asks.is_some() {
            Self::Servers
        } else if workflow.stays(node) {
            Self::OneMachine
        } else {
            Self::Executors
        }
    }
}

/// What one stage takes on a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Where it is done.
    pub place: Place,
    /// Its time, in seconds, if all tasks took the same and none was lost.
    pub seconds: Option<f64>,
    /// Tasks that travel.
    pub tasks: Option<f64>,
    /// Bytes that machines read from the shared disk and write to it.
    pub moved_bytes: Option<f64>,
}

/// What a stage takes on a cluster, from its outlook here.
///
/// `here_threads` are those of the machine that measured; `read_bytes` is what its inputs have on disk,
/// `shard_bytes` the size of a shard, which is a task of the stage that reads it.
pub fn share(
    workflow: &Workflow,
    node: &StageNode,
    outlook: &Outlook,
    size: ClusterSize,
    here_threads: usize,
    read_bytes: Option<f64>,
    shard_bytes: u64,
) -> Share {
    let place = Place::of(workflow, node, outlook);
    let cores = match place {
        Place::Executors => f64::from(size.machines) * f64::from(size.cores),
        Place::OneMachine => f64::from(size.cores),
        Place::Servers => here_threads as f64,
    };
    let travels = place == Place::Executors && node.output == OutputMode::Materialize;
    let tasks = read_bytes.filter(|_| travels).map(|bytes| (bytes / shard_bytes as f64).ceil().max(1.0));
    // No more cores work than there are tasks.
    let busy = tasks.map_or(cores, |tasks| cores.min(tasks));
    Share {
        place,
        seconds: outlook.seconds.map(|seconds| seconds * here_threads as f64 / busy),
        tasks,
        moved_bytes: read_bytes
            .zip(outlook.disk_bytes)
            .filter(|_| travels)
            .map(|(read, written)| read + written),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::WorkflowText;

    #[test]
    fn sizes_are_read() {
        assert_eq!("64x32".parse(), Ok(ClusterSize { machines: 64, cores: 32 }));
        for wrong in ["64", "0x3", "x", "4x", "-1x2", "3 by 4"] {
            assert!(wrong.parse::<ClusterSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shards_are_spread_and_wholes_stay() {
        let text = r#"
            name = "w"
            [stage.pages]
            kind = "read"
            paths = ["/no/*.parquet"]
            [stage.clean]
            kind = "gopher_quality"
            input = "pages"
            [stage.dedup]
            kind = "minhash"
            input = "clean"
        "#;
        let text = WorkflowText { text: text.to_owned(), ..WorkflowText::default() };
        let workflow = text.workflow().unwrap();
        let node = |id: &str| workflow.stages.iter().find(|node| node.id == id).unwrap();
        let outlook = Outlook { seconds: Some(3200.0), disk_bytes: Some(5e9), ..Outlook::default() };
        let size = ClusterSize { machines: 4, cores: 8 };
        let cleaned = share(&workflow, node("clean"), &outlook, size, 2, Some(10e9), 100_000_000);
        assert_eq!(
            (cleaned.place, cleaned.seconds, cleaned.tasks),
            (Place::Executors, Some(200.0), Some(100.0))
        );
        assert_eq!(cleaned.moved_bytes, Some(15e9));
        // Ten shards keep ten cores busy.
        assert_eq!(
            share(&workflow, node("clean"), &outlook, size, 2, Some(1e9), 100_000_000).seconds,
            Some(640.0)
        );
        let deduplicated = share(&workflow, node("dedup"), &outlook, size, 2, Some(10e9), 100_000_000);
        assert_eq!(
            (deduplicated.place, deduplicated.seconds, deduplicated.tasks),
            (Place::OneMachine, Some(800.0), None)
        );
    }
}
