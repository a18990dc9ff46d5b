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
use datafusion::physical_expr::{Distribution, EquivalenceProperties, OrderingRequirements, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    PlanProperties,
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
    input: impl Into<DataFrame>,
    name: &'static str,
    schema: SchemaRef,
    function: Arc<StreamFunction>,
) -> Result<DataFrame> {
    let (_, plan) = input.into().into_parts();
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
    /// The order in which the input came when it was planned: the function may count on it, so no
    /// rule of the optimizer may take its sort away.
    order: Option<OrderingRequirements>,
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
        let order = input.output_ordering().cloned().map(OrderingRequirements::from);
        Self { input, name, function, order, properties }
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let new = Self::new(input, self.name, self.schema(), self.function.clone());
        Arc::new(Self { order: self.order.clone(), ..new })
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

    /// A function sees all rows, in one order, also where a union below has several partitions.
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.order.clone()]
    }

    /// A function may do anything to the order and to the columns, so a sort of its rows must not be
    /// pushed below it.
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
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
    async fn sorts_stay_where_they_are_below_and_above_an_operator() {
        let session = SessionContext::new();
        let values: ArrayRef = Arc::new(Int64Array::from(vec![2, 9, 4, 7]));
        let batch = RecordBatch::try_from_iter([("x", values)]).unwrap();
        let schema = batch.schema();
        let input = session.read_batch(batch).unwrap().sort(vec![col("x").sort(true, false)]).unwrap();
        let out_schema = schema.clone();
        // 2, 4, 7, 9 come in; each is taken from the one before, the first from 0.
        let differences = Arc::new(move |stream| {
            let mut last = 0;
            let rows = to_domain(stream).map(move |batch| {
                let batch = batch?;
                let values =
                    arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(0));
                let next = values.values().iter().map(|value| value - std::mem::replace(&mut last, *value));
                RecordBatch::try_new(batch.schema(), vec![Arc::new(Int64Array::from_iter_values(next))])
            });
            Ok(from_domain(out_schema.clone(), rows))
        });
        let rows = apply(&session, input, "differences", schema.clone(), differences).unwrap();
        let sorted = rows.sort(vec![col("x").sort(false, false)]).unwrap();
        let out_schema = schema.clone();
        let same = Arc::new(move |stream| Ok(from_domain(out_schema.clone(), to_domain(stream))));
        let rows = apply(&session, sorted, "same", schema, same).unwrap().collect().await.unwrap();
        assert_eq!(
            rows[0].column(0).as_ref(),
            &Int64Array::from(vec![3, 2, 2, 2]) as &dyn arrow::array::Array
        );
    }

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
