//! How a plan travels: Ballista's own nodes as Ballista writes them, ours as JSON behind a mark.

use std::fmt;
use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use super::site::Site;
use super::tasks_exec::TasksExec;

/// No message of Ballista's begins like this.
const MARK: &[u8] = b"corpusmith-tasks\0";

/// Reads and writes plans.
pub(super) struct Codec {
    ballista: BallistaPhysicalExtensionCodec,
    /// The executor's.
    site: Option<Arc<Site>>,
}

impl Codec {
    /// For the driver and the scheduler, or for an executor.
    pub(super) fn new(site: Option<Arc<Site>>) -> Self {
        Self { ballista: BallistaPhysicalExtensionCodec::default(), site }
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(order), [input]) = (bytes.strip_prefix(MARK), inputs) else {
            return self.ballista.try_decode(bytes, inputs, context, converter);
        };
        let order =
            serde_json::from_slice(order).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Arc::new(TasksExec::new(input.clone(), order, self.site.clone())))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(tasks) = node.downcast_ref::<TasksExec>() else {
            return self.ballista.try_encode(node, bytes, converter);
        };
        bytes.extend_from_slice(MARK);
        serde_json::to_writer(bytes, tasks.order())
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }
}
