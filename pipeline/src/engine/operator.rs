//! Streaming operators inside a plan: a function from a stream of rows to a stream of rows.
//!
//! LLM calls, scoring, retrieval and the text rules are written as stream functions in the domain
//! crates; [`OperatorExec`] makes one a node of a DataFusion plan.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use datafusion::prelude::{DataFrame, SessionContext};

/// A function over a stream of rows. It may be called once for each execution of the plan.
pub type StreamFunction =
    dyn Fn(SendableRecordBatchStream) -> Result<SendableRecordBatchStream> + Send + Sync;

/// The rows of `input` put through `function`; they come out with `schema`.
///
/// # Errors
/// The plan cannot be built.
pub fn apply(
    session: &SessionContext,
    input: DataFrame,
    name: &'static str,
    schema: SchemaRef,
    function: Arc<StreamFunction>,
) -> Result<DataFrame> {
    let (_, plan) = input.into_parts();
    session.read_table(Arc::new(OperatorTable { plan, name, schema, function }))
}

/// The logical side: a table whose rows are the operator's.
struct OperatorTable {
    plan: LogicalPlan,
    name: &'static str,
    schema: SchemaRef,
    function: Arc<StreamFunction>,
}

impl fmt::Debug for OperatorTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorTable({})", self.name)
    }
}

#[async_trait]
impl TableProvider for OperatorTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = state.create_physical_plan(&self.plan).await?;
        let exec = Arc::new(OperatorExec::new(input, self.name, self.schema.clone(), self.function.clone()));
        let Some(projection) = projection else {
            return Ok(exec);
        };
        let columns = projection.iter().map(|&index| {
            let name = self.schema.field(index).name();
            ProjectionExpr::new(Arc::new(Column::new(name, index)) as Arc<dyn PhysicalExpr>, name.clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(columns, exec)?))
    }
}

/// The physical side: an immutable node that calls the function on its input's stream.
pub struct OperatorExec {
    input: Arc<dyn ExecutionPlan>,
    name: &'static str,
    function: Arc<StreamFunction>,
    properties: Arc<PlanProperties>,
}

impl OperatorExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        name: &'static str,
        schema: SchemaRef,
        function: Arc<StreamFunction>,
    ) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { input, name, function, properties }
    }
}

impl fmt::Debug for OperatorExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorExec").field("name", &self.name).finish_non_exhaustive()
    }
}

impl DisplayAs for OperatorExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorExec: {}", self.name)
    }
}

impl ExecutionPlan for OperatorExec {
    fn name(&self) -> &str {
        self.name
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// The order of rows is a promise of the shards, so no repartitioning may stand below.
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
        let schema = self.schema();
        Ok(Arc::new(Self::new(children.swap_remove(0), self.name, schema, self.function.clone())))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        Ok(Arc::new(Self::new(children.swap_remove(0), self.name, schema, self.function.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        (self.function)(self.input.execute(partition, context)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::prelude::{col, lit};
    use futures::StreamExt;

    use super::*;
    use crate::engine::streams::{from_domain, to_domain};

    #[tokio::test]
    async fn an_operator_is_a_node_whose_columns_can_be_projected() {
        let session = SessionContext::new();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("x", column.clone()), ("y", column)]).unwrap();
        let schema = batch.schema();
        let input = session.read_batch(batch).unwrap().filter(col("x").gt(lit(1))).unwrap();
        let out_schema = schema.clone();
        let reversed = apply(
            &session,
            input,
            "reverse",
            schema,
            Arc::new(move |stream| {
                let rows = to_domain(stream).map(|batch| {
                    let batch = batch?;
                    let order =
                        arrow::array::UInt64Array::from_iter_values((0..batch.num_rows() as u64).rev());
                    arrow::compute::take_record_batch(&batch, &order)
                });
                Ok(from_domain(out_schema.clone(), rows))
            }),
        )
        .unwrap();
        let rows = reversed.select_columns(&["y"]).unwrap().collect().await.unwrap();
        assert_eq!(rows[0].column(0).as_ref(), &Int64Array::from(vec![3, 2]) as &dyn arrow::array::Array);
        assert_eq!(rows[0].num_columns(), 1);
    }
}
