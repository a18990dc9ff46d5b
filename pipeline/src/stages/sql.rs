//! `sql`: the rows of a query over other stages' tables.

use std::collections::BTreeMap;

use async_trait::async_trait;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::DFParser;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    ConfigMistake, InputCount, InputRole, InputTable, Inputs, OutputKind, Shape, Stage, StageKind, Task,
};
use crate::engine::{Plan, Session};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "sql",
    summary: "The rows of a SQL query over other stages' tables.",
    version: 1,
    inputs: &[InputRole {
        role: "tables",
        about: "tables, named in the query as their stages",
        count: InputCount::Many,
    }],
    output: OutputKind::Table,
    schema: super::schema_of::<SqlConfig>,
    build: super::build_from::<SqlConfig>,
};

/// The rows of a query: columns made of others, tables joined, put below each other or summed up. Sorts and
/// joins spill. The query sees the input stages' tables, under the stages' names, and nothing else.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlConfig {
    /// A `SELECT`, for example `SELECT id, text FROM pages WHERE url NOT LIKE '%forum%'`. With a `UNION` it
    /// ends in `ORDER BY`, since the rows come in no order of their own.
    pub query: String,
}

#[async_trait]
impl Stage for SqlConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn validate(&self, _inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let mistake = |message: String| ConfigMistake {
            field: "query",
            message,
            help: "write one SELECT over the input stages' names".to_owned(),
        };
        match DFParser::parse_sql(&self.query) {
            Ok(statements) if statements.len() == 1 => Vec::new(),
            Ok(statements) => {
                vec![mistake(format!("the query has {} statements, not one", statements.len()))]
            }
            Err(error) => vec![mistake(error.strip_backtrace())],
        }
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let tables = inputs.tables("tables");
        let plan = self.answer(ctx.session(), tables).await.map_err(|error| {
            let names: Vec<&str> = tables.iter().map(|table| table.stage.as_str()).collect();
            ctx.input(error.strip_backtrace()).help(format!("the tables are: {}", names.join(", ")))
        })?;
        if has_union(plan.logical_plan()) && !is_sorted(plan.logical_plan()) {
            return Err(ctx
                .input("the rows of a UNION come in no order of their own, so two runs would differ")
                .help("end the query in ORDER BY, with columns that tell all rows apart"));
        }
        Ok(plan.frame())
    }
}

impl SqlConfig {
    /// The query's plan, in a session of its own: the run's session is shared by stages that may use the
    /// same names for other tables.
    fn answer<'a>(
        &'a self,
        session: &'a Session,
        tables: &'a [InputTable],
    ) -> BoxFuture<'a, Result<Plan, DataFusionError>> {
        Box::pin(async move {
            let own = SessionContext::new_with_config_rt(session.copied_config(), session.runtime_env());
            for table in tables {
                let name = datafusion::common::TableReference::bare(table.stage.as_str());
                own.register_table(name, table.plan.frame().into_view())?;
            }
            let read_only =
                SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
            own.sql_with_options(&self.query, read_only).await.map(Plan::from)
        })
    }
}

fn has_union(plan: &LogicalPlan) -> bool {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::Union(_)))).unwrap_or(true)
}

/// Whether nothing but projections and limits stands over a sort.
fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        LogicalPlan::Limit(limit) => is_sorted(&limit.input),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    fn query(text: &str) -> SqlConfig {
        SqlConfig { query: text.to_owned() }
    }

    async fn run(text: &str) -> Result<Vec<String>, StageError> {
        let batch = testing::batch(json!([
            {"id": "b", "score": 3}, {"id": "a", "score": 2}, {"id": "c", "score": null},
        ]));
        let (rows, _) = testing::plan_named(&query(text), "tables", &[("pages", batch)]).await?;
        Ok(testing::strings(&rows, "id"))
    }

    #[tokio::test]
    async fn a_query_sees_the_input_under_its_stage_s_name() {
        let rows = run("SELECT id FROM pages WHERE score > 1").await.unwrap();
        assert_eq!(rows, ["b", "a"]);
        let joined =
            run("SELECT l.id || r.id AS id FROM pages l JOIN pages r ON l.score = r.score + 1 ORDER BY 1");
        assert_eq!(joined.await.unwrap(), ["ba"]);
    }

    #[tokio::test]
    async fn a_union_needs_an_order() {
        let union = "SELECT id FROM pages UNION ALL SELECT upper(id) AS id FROM pages";
        let error = run(union).await.unwrap_err();
        assert!(error.to_string().contains("UNION"), "{error}");
        let sorted = run(&format!("{union} ORDER BY id")).await.unwrap();
        assert_eq!(sorted, ["A", "B", "C", "a", "b", "c"]);
    }

    #[tokio::test]
    async fn nothing_else_can_be_reached() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out.parquet");
        for text in [
            format!("COPY pages TO '{}'", file.display()),
            format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", folder.path().display()),
            "SELECT * FROM '/etc/passwd'".to_owned(),
            "SET datafusion.execution.batch_size = 1".to_owned(),
        ] {
            let error = run(&text).await.unwrap_err();
            assert_eq!(error.fault, crate::runner::error::Fault::Input, "{text}: {error}");
        }
        assert!(!file.exists());
    }

    #[test]
    fn a_broken_query_is_found_before_the_run() {
        assert!(query("SELECT 1").validate(&BTreeMap::new()).is_empty());
        for text in ["SELEC id FROM x", "SELECT 1; SELECT 2", ""] {
            assert_eq!(query(text).validate(&BTreeMap::new()).len(), 1, "{text}");
        }
    }
}
