//! `cluster`: rows grouped by what they are about.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use classifiers::cluster::{Centres, ClusterError, ClusterOptions, PlaneMap, Sample, Training};
use datafusion::prelude::{DataFrame, Expr, col};
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{require, schema_of, text_column};
use super::{InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::streams::{execute, from_domain, to_domain};
use crate::engine::{Plan, operator};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "cluster",
    summary: "Groups embedded rows by spherical mini-batch k-means, the nearest to each centre first.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "an `embed` stage", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<ClusterConfig>,
    build: super::build_from::<ClusterConfig>,
};

/// Groups rows into clusters, as Cosmopedia v1 did to find its topics [huggingface/cosmopedia]. The
/// columns pass through, but for the vector; `topic_id` (the cluster), `rank` in it, `doc_id`,
/// `similarity` to its centre and the place `x, y` on the map come to them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The clustering.
    pub options: ClusterOptions,
    /// The column with the vectors.
    pub embedding_column: String,
    /// The column with the row's id.
    pub id_column: String,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            options: ClusterOptions::default(),
            embedding_column: "embedding".to_owned(),
            id_column: "id".to_owned(),
        }
    }
}

/// What the passes over the rows found.
struct Clustering {
    centres: Centres,
    map: PlaneMap,
}

#[async_trait]
impl Stage for ClusterConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn needs(&self) -> Needs {
        // The sample and one mini-batch, of vectors of 384 floats, beside the centres.
        let ClusterOptions { clusters, sample_rows, batch_rows, .. } = self.options;
        Needs::Bytes((64 << 20) + 4 * 384 * (clusters + sample_rows + batch_rows) as u64)
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let plan_error = |error| ctx.plan_error(&error);
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.embedding_column, &self.id_column])?;
        let found = Arc::new(self.learn(ctx, &rows).await?);
        let schema = self.assigned_schema(&schema_of(&rows)).map_err(|error| ctx.failed(&error))?;
        let (config, out_schema) = (self.clone(), schema.clone());
        let assigned = operator::apply(
            ctx.session(),
            rows,
            "cluster",
            schema,
            Arc::new(move |stream| {
                let (config, found, schema) = (config.clone(), found.clone(), out_schema.clone());
                let assigned = to_domain(stream).map(move |batch| config.assign(&found, &schema, &batch?));
                Ok(from_domain(out_schema.clone(), assigned))
            }),
        )
        .map_err(plan_error)?;
        // The sort spills; ranks are then counted as the rows stream by.
        let order = vec![
            col("topic_id").sort(true, false),
            col("similarity").sort(false, false),
            col("doc_id").sort(true, false),
        ];
        let sorted = assigned.sort(order).map_err(plan_error)?;
        let ranked_schema = ranked_schema(&schema_of(&sorted));
        let out_schema = ranked_schema.clone();
        operator::apply(
            ctx.session(),
            sorted,
            "rank",
            ranked_schema,
            Arc::new(move |stream| {
                let (schema, mut last) = (out_schema.clone(), (String::new(), 0));
                let ranked = to_domain(stream).map(move |batch| add_ranks(&batch?, &schema, &mut last));
                Ok(from_domain(out_schema.clone(), ranked))
            }),
        )
        .map_err(plan_error)
    }
}

fn ranked_schema(rows: &Schema) -> SchemaRef {
    let rank = Arc::new(Field::new("rank", DataType::UInt32, false));
    Arc::new(Schema::new(rows.fields().iter().cloned().chain([rank]).collect::<Vec<_>>()))
}

/// Numbers the rows of each cluster from 1; `last` is the cluster and number of the row before.
fn add_ranks(
    batch: &RecordBatch,
    schema: &SchemaRef,
    last: &mut (String, u32),
) -> Result<RecordBatch, ArrowError> {
    let topics = text_column(batch, "topic_id")?;
    let ranks = (0..batch.num_rows()).map(|row| {
        let topic = topics.value(row);
        if last.0 != topic {
            *last = (topic.to_owned(), 0);
        }
        last.1 += 1;
        last.1
    });
    let ranks = Arc::new(UInt32Array::from_iter_values(ranks)) as ArrayRef;
    RecordBatch::try_new(schema.clone(), batch.columns().iter().cloned().chain([ranks]).collect())
}

fn name(column: &str) -> Expr {
    col(datafusion::common::Column::from_name(column))
}

impl ClusterConfig {
    /// The passes over the vectors alone.
    async fn learn(&self, ctx: &StageContext, rows: &Plan) -> Result<Clustering, StageError> {
        let wrong = |error: ClusterError| ctx.input(error.to_string());
        let mut sample = Sample::new(&self.options);
        self.each_vector(ctx, rows, |vector| sample.push(vector)).await?;
        let mut centres = sample.seed().map_err(wrong)?;
        let map = sample.map();
        drop(sample);
        for pass in 1..=self.options.passes {
            ctx.progress.set_note(format!("pass {pass} of {}", self.options.passes));
            let mut training = Training::new(centres, &self.options);
            self.each_vector(ctx, rows, |vector| training.push(vector)).await?;
            centres = training.finish();
        }
        ctx.progress.set_note(String::new());
        Ok(Clustering { centres, map })
    }

    async fn each_vector(
        &self,
        ctx: &StageContext,
        rows: &Plan,
        mut use_vector: impl FnMut(&[f32]) -> Result<(), ClusterError>,
    ) -> Result<(), StageError> {
        let vectors = rows.frame().select(vec![name(&self.embedding_column)]);
        let vectors = vectors.map_err(|error| ctx.plan_error(&error))?;
        let mut batches = execute(vectors).await.map_err(|error| ctx.plan_error(&error))?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| ctx.plan_error(&error))?;
            for vector in self.vectors(&batch).map_err(|error| ctx.input(error.to_string()))? {
                use_vector(&vector).map_err(|error| ctx.input(error.to_string()))?;
            }
            if ctx.stopping() {
                return Err(StageError::stopped(&ctx.stage));
            }
        }
        Ok(())
    }

    fn vectors(&self, batch: &RecordBatch) -> Result<Vec<Vec<f32>>, ArrowError> {
        let column = &self.embedding_column;
        let wrong = |found: &str| {
            ArrowError::SchemaError(format!(
                "column `{column}` must hold lists of 32-bit floats, not {found}; an `embed` stage makes them"
            ))
        };
        let lists = batch.column_by_name(column).ok_or_else(|| wrong("nothing"))?;
        let floats = |values: ArrayRef| {
            let values = values.as_primitive_opt::<Float32Type>().ok_or_else(|| wrong("other values"))?;
            Ok(values.values().to_vec())
        };
        match lists.data_type() {
            DataType::FixedSizeList(..) => {
                let lists = lists.as_fixed_size_list();
                (0..batch.num_rows()).map(|row| floats(lists.value(row))).collect()
            }
            DataType::List(_) => {
                let lists = lists.as_list::<i32>();
                (0..batch.num_rows()).map(|row| floats(lists.value(row))).collect()
            }
            other => Err(wrong(&other.to_string())),
        }
    }

    /// The columns that pass through, then what clustering adds.
    fn assigned_schema(&self, rows: &Schema) -> Result<SchemaRef, ArrowError> {
        let added = ["topic_id", "doc_id", "similarity", "x", "y", "rank"];
        if let Some(taken) = rows.fields().iter().find(|field| added.contains(&field.name().as_str())) {
            let taken = taken.name();
            return Err(ArrowError::SchemaError(format!(
                "the rows have a column `{taken}` already; leave it out before they are clustered"
            )));
        }
        let mut fields = vec![Field::new("topic_id", DataType::Utf8, false)];
        fields.push(Field::new("doc_id", DataType::Utf8, false));
        fields.extend(["similarity", "x", "y"].map(|name| Field::new(name, DataType::Float32, false)));
        let passing = rows.fields().iter().filter(|field| !self.is_replaced(field.name()));
        fields.extend(passing.map(|field| field.as_ref().clone()));
        Ok(Arc::new(Schema::new(fields)))
    }

    fn is_replaced(&self, column: &str) -> bool {
        column == self.embedding_column || column == self.id_column
    }

    fn assign(
        &self,
        found: &Clustering,
        schema: &SchemaRef,
        batch: &RecordBatch,
    ) -> Result<RecordBatch, ArrowError> {
        let external = |error: ClusterError| ArrowError::ExternalError(Box::new(error));
        let vectors = self.vectors(batch)?;
        let nearest = vectors.iter().map(|vector| found.centres.nearest(vector).map_err(external));
        let nearest: Vec<_> = nearest.collect::<Result<_, _>>()?;
        let places: Vec<[f32; 2]> = vectors.iter().map(|vector| found.map.place(vector)).collect();
        let topics = nearest.iter().map(|nearest| format!("cluster-{:04}", nearest.cluster));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(topics)),
            Arc::new(text_column(batch, &self.id_column)?),
            Arc::new(Float32Array::from_iter_values(nearest.iter().map(|nearest| nearest.similarity))),
            Arc::new(Float32Array::from_iter_values(places.iter().map(|place| place[0]))),
            Arc::new(Float32Array::from_iter_values(places.iter().map(|place| place[1]))),
        ];
        let passing = batch.schema_ref().fields().iter().zip(batch.columns());
        columns.extend(
            passing.filter(|(field, _)| !self.is_replaced(field.name())).map(|(_, column)| column.clone()),
        );
        RecordBatch::try_new(schema.clone(), columns)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{FixedSizeListArray, Float32Array};

    use super::super::testing;
    use super::*;

    fn rows(vectors: &[[f32; 3]]) -> RecordBatch {
        let ids = StringArray::from_iter_values((0..vectors.len()).map(|i| format!("d{i}")));
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let values = Arc::new(Float32Array::from(vectors.concat()));
        let lists = FixedSizeListArray::try_new(item, 3, values, None).unwrap();
        RecordBatch::try_from_iter([
            ("id", Arc::new(ids.clone()) as ArrayRef),
            ("text", Arc::new(ids)),
            ("embedding", Arc::new(lists)),
        ])
        .unwrap()
    }

    #[tokio::test]
    async fn each_cluster_has_its_nearest_rows_first() {
        let vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.1], [1.0, 0.3, 0.0], [0.0, 2.0, 0.0], [9.0, 0.2, 0.0]];
        let stage = ClusterConfig {
            options: ClusterOptions { clusters: 2, ..Default::default() },
            ..Default::default()
        };
        let (rows, _) = testing::plan(&stage, "rows", rows(&vectors)).await.unwrap();
        let (topics, docs) = (testing::strings(&rows, "topic_id"), testing::strings(&rows, "doc_id"));
        let mut ranks = testing::strings(&rows, "rank");
        ranks.sort();
        assert_eq!(ranks, ["1", "1", "2", "2", "3"]);
        let of = |doc: &str| topics[docs.iter().position(|d| d == doc).unwrap()].clone();
        assert_eq!((of("d0"), of("d2"), of("d1")), (of("d4"), of("d4"), of("d3")));
        assert_ne!(of("d0"), of("d1"));
        // The middle one of the three lies nearest to their centre.
        let first = docs.iter().position(|d| ["d0", "d2", "d4"].contains(&d.as_str())).unwrap();
        assert_eq!(docs[first], "d4");
        assert!(rows[0].schema().field_with_name("embedding").is_err());
    }

    #[tokio::test]
    async fn more_clusters_than_rows_is_wrong_input() {
        let (stage, rows) = (ClusterConfig::default(), rows(&[[1.0, 0.0, 0.0]]));
        let error = testing::plan(&stage, "rows", rows).await.err().unwrap();
        assert!(error.message.contains("145 clusters of 1 rows"), "{error}");
    }
}
