//! The plan's node: rows in are numbers of tasks, rows out are those that have been done.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;

use super::order::OrderRef;
use super::site::Site;
use crate::engine::streams::{from_domain, to_domain};

/// The tasks that are done, and the rows that each has written.
static DONE: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name: &str, kind| Field::new(name, kind, false);
    Arc::new(Schema::new(vec![field("task", DataType::UInt32), field("rows", DataType::UInt64)]))
});

/// Does tasks of an order.
pub(super) struct TasksExec {
    input: Arc<dyn ExecutionPlan>,
    order: OrderRef,
    /// Who does them; the driver and the scheduler only hand the node on.
    site: Option<Arc<Site>>,
    properties: Arc<PlanProperties>,
}

/// The plan that does tasks, one a partition: the scheduler hands out partitions.
pub(super) fn plan(order: OrderRef, tasks: &[u32]) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = Arc::new(Schema::new(vec![Field::new("task", DataType::UInt32, false)]));
    let partition = |&task: &u32| {
        let numbers: ArrayRef = Arc::new(UInt32Array::from(vec![task]));
        Ok(vec![RecordBatch::try_new(schema.clone(), vec![numbers])?])
    };
    let partitions = tasks.iter().map(partition).collect::<Result<Vec<_>>>()?;
    let numbers = MemorySourceConfig::try_new(&partitions, schema.clone(), None)?;
    Ok(Arc::new(TasksExec::new(DataSourceExec::from_data_source(numbers), order, None)))
}

impl TasksExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, order: OrderRef, site: Option<Arc<Site>>) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(DONE.clone()),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { input, order, site, properties }
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self::new(input, self.order.clone(), self.site.clone()))
    }

    pub(super) fn order(&self) -> &OrderRef {
        &self.order
    }
}

impl fmt::Debug for TasksExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TasksExec").field("order", &self.order).finish_non_exhaustive()
    }
}

impl DisplayAs for TasksExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TasksExec: {}", self.order.digest())
    }
}

impl ExecutionPlan for TasksExec {
    fn name(&self) -> &str {
        "TasksExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.over(children.swap_remove(0)))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.over(children.swap_remove(0)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(site) = self.site.clone() else {
            return Err(DataFusionError::Internal("tasks are done by executors only".to_owned()));
        };
        let (input, order) = (self.input.execute(partition, context)?, self.order.clone());
        let done = to_domain(input).then(move |numbers| {
            let (site, order) = (site.clone(), order.clone());
            async move {
                let numbers = numbers?;
                let mut rows = Vec::with_capacity(numbers.num_rows());
                for &task in numbers.column(0).as_primitive::<UInt32Type>().values() {
                    let done = site.do_task(&order, task).await;
                    rows.push(
                        done.map_err(|error| arrow::error::ArrowError::ExternalError(Box::new(error)))?,
                    );
                }
                let rows: ArrayRef = Arc::new(UInt64Array::from(rows));
                RecordBatch::try_new(DONE.clone(), vec![numbers.column(0).clone(), rows])
            }
        });
        Ok(from_domain(DONE.clone(), done))
    }
}
