//! `mix`: the corpus: texts of several stages under subset names, in given shares, with a held-out part.

mod amounts;
mod labels;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::functions::core::expr_ext::FieldAccessor;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{DataFrame, col, ident, lit};
use futures::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{id_of, require, text_column};
use super::{
    ConfigMistake, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task,
    foreign_stages,
};
use crate::engine::streams::{execute, from_domain, to_domain};
use crate::engine::{Plan, operator};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use amounts::{Counted, Lot, Source, Taken, share_out};
use labels::Labels;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "mix",
    summary: "Joins texts of several stages into one corpus of named subsets, in given shares.",
    version: 2,
    inputs: &[InputRole { role: "sources", about: "tables with a text and an id", count: InputCount::Many }],
    output: OutputKind::Table,
    schema: super::schema_of::<MixConfig>,
    build: super::build_from::<MixConfig>,
};

/// The split that models are trained on.
pub const TRAIN: &str = "train";
/// The split that models are measured on.
pub const HELD_OUT: &str = "heldout";

/// Memory of the sorts that draw documents by lot, in bytes; what it does not hold is spilled.
const SORT_BYTES: u64 = 64 << 20;

/// Joins subsets into a corpus. A row: `id, subset, split, text`.
///
/// Without weights all documents are taken once; the shares of the subsets in training are then weights of
/// `pretrain`, so that changing them needs no new corpus. With weights the training split has the subsets
/// in these shares of tokens, to within half a document each: a subset of which more is wanted than it has
/// gives its documents several times, one of which less is wanted drops documents by lot (reason
/// `over_share`). Held-out documents are always taken once.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MixConfig {
    /// The subsets by name, in the Hub's names: `cosmopedia-v2`, `fineweb-edu-dedup`, `python-edu`.
    pub subsets: BTreeMap<String, Subset>,
    /// Tokens of the training split; as many as the subsets can give in their shares when left out. Needs
    /// weights.
    #[serde(default)]
    pub target_tokens: Option<u64>,
    /// Put the documents in a random order, subsets mixed; otherwise subset follows subset, and a document
    /// that is taken several times follows itself. The sort spills.
    #[serde(default)]
    pub shuffle: bool,
    /// Share of the documents held out for evaluation, 0–1, chosen by a hash of the id.
    #[serde(default = "default_heldout")]
    pub heldout_share: f64,
    /// Seed of that hash, of the lots and of the order.
    #[serde(default)]
    pub seed: u64,
}

/// One subset of the corpus.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// The stage whose rows these are; one of the `sources`.
    pub stage: String,
    /// The column with the text.
    #[serde(default = "default_text")]
    pub text_column: String,
    /// The column with the id.
    #[serde(default = "default_id")]
    pub id_column: String,
    /// Its share of the training split's tokens, relative to the others'. All subsets have one, or none.
    #[serde(default)]
    pub weight: Option<f64>,
    /// How often a document may be taken, where it has a weight.
    #[serde(default = "default_max_repeats")]
    pub max_repeats: f64,
    /// The column with the number of a text's tokens, where it has a weight, or a field inside one:
    /// `metadata.token_count`. Without it a token is counted for every four bytes of text.
    #[serde(default)]
    pub token_column: Option<String>,
}

/// Bytes of a token where they are not counted: what English has in vocabularies of 50,000.
const BYTES_PER_TOKEN: u64 = 4;

fn default_heldout() -> f64 {
    0.01
}

fn default_max_repeats() -> f64 {
    1.0
}

fn default_text() -> String {
    "text".to_owned()
}

fn default_id() -> String {
    "id".to_owned()
}

const CORPUS_COLUMNS: [&str; 4] = ["id", "subset", "split", "text"];

/// The column by which documents are shuffled.
const ORDER: &str = "__order";

/// The corpus's columns, and the place of a row in a shuffled corpus.
fn ordered_schema() -> SchemaRef {
    let mut fields = CORPUS_COLUMNS.map(|name| Field::new(name, DataType::Utf8, false)).to_vec();
    fields.push(Field::new(ORDER, DataType::UInt64, false));
    Arc::new(Schema::new(fields))
}

#[async_trait]
impl Stage for MixConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn validate(&self, inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let sources = inputs.get("sources").map_or(&[][..], Vec::as_slice);
        let named = self.subsets.iter().map(|(name, subset)| (name, &subset.stage));
        let mut mistakes = foreign_stages("subsets", named, "subset", sources, "sources");
        mistakes.extend(self.weight_mistake().map(|(message, help)| ConfigMistake {
            field: "subsets",
            message,
            help: help.to_owned(),
        }));
        if !(0.0..1.0).contains(&self.heldout_share) {
            mistakes.push(ConfigMistake {
                field: "heldout_share",
                message: format!("heldout_share {} is not a share", self.heldout_share),
                help: "give a number from 0 to below 1".to_owned(),
            });
        }
        mistakes
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(SORT_BYTES + (64 << 20))
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let mut tables = BTreeMap::new();
        for (name, subset) in &self.subsets {
            let table = inputs.tables("sources").iter().find(|table| table.stage == subset.stage);
            let table =
                table.ok_or_else(|| ctx.input(format!("stage `{}` leaves no table", subset.stage)))?;
            let tokens = subset.token_column.as_deref().map(|path| field_path(path).0);
            let needed = [Some(subset.text_column.as_str()), Some(&subset.id_column), tokens];
            let needed: Vec<&str> = needed.into_iter().flatten().collect();
            require(ctx, &table.plan, &subset.stage, &needed)?;
            tables.insert(name.clone(), table.plan.clone());
        }
        let taken = self.amounts(ctx, &tables).await?;
        self.corpus(ctx, tables, &taken)
    }
}

/// The manifest's figure of what the subsets give, by subset.
const MIXTURE_FIGURE: &str = "mixture";

/// What a subset has and gives, of its training part.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Given {
    /// Documents that its stage has.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Documents in the corpus, repeats counted.
    pub documents_taken: u64,
    /// Their tokens.
    pub tokens_taken: u64,
    /// Its share of the tokens, in the workflow's unit.
    pub weight: f64,
}

impl Given {
    /// What the subsets give, by the figures of a `mix` stage's manifest; empty of one without weights.
    pub(crate) fn read(figures: &BTreeMap<String, Json>) -> BTreeMap<String, Self> {
        let given = figures.get(MIXTURE_FIGURE).cloned().unwrap_or_default();
        serde_json::from_value(given).unwrap_or_default()
    }

    /// How often a document of it is read in one pass over the corpus.
    pub(crate) fn epochs(&self) -> f64 {
        self.tokens_taken as f64 / self.tokens.max(1) as f64
    }
}

impl MixConfig {
    fn is_weighted(&self) -> bool {
        self.subsets.values().any(|subset| subset.weight.is_some())
    }

    fn weight_mistake(&self) -> Option<(String, &'static str)> {
        let without = self.subsets.iter().find(|(_, subset)| subset.weight.is_none());
        match without {
            Some((name, _)) if self.is_weighted() => {
                return Some((
                    format!("subset `{name}` has no weight, and others have one"),
                    "give it `weight`",
                ));
            }
            Some(_) if self.target_tokens.is_some() => {
                let message = "`target_tokens` needs the subsets' weights".to_owned();
                return Some((message, "give each subset `weight`, or leave `target_tokens` out"));
            }
            _ => {}
        }
        let bad = |number: f64| !(number.is_finite() && number >= 0.0);
        for (name, subset) in &self.subsets {
            if subset.weight.is_some_and(bad) || bad(subset.max_repeats) {
                let message = format!("subset `{name}`: weight and max_repeats are numbers from 0");
                return Some((message, "give a number from 0"));
            }
        }
        let sum: f64 = self.subsets.values().filter_map(|subset| subset.weight).sum();
        (self.is_weighted() && sum <= 0.0).then(|| ("all weights are 0".to_owned(), "give one that is more"))
    }

    /// How much is taken of each subset. Only ids and numbers of tokens are read.
    async fn amounts(
        &self,
        ctx: &StageContext,
        tables: &BTreeMap<String, Plan>,
    ) -> Result<BTreeMap<String, Taken>, StageError> {
        if !self.is_weighted() {
            return Ok(tables.keys().map(|name| (name.clone(), Taken::ALL)).collect());
        }
        let (mut counted, mut sources) = (BTreeMap::new(), BTreeMap::new());
        for ((name, subset), table) in self.subsets.iter().zip(tables.values()) {
            let found = self.count(ctx, subset, table).await?;
            let weight = subset.weight.unwrap_or_default();
            let source = Source { weight, tokens: found.tokens, max_repeats: subset.max_repeats };
            sources.insert(name.clone(), source);
            counted.insert(name.clone(), found);
        }
        let wanted = share_out(&sources, self.target_tokens).map_err(|message| {
            ctx.input(message)
                .help("raise `max_repeats` of the subset, or lower `target_tokens` or its weight")
        })?;
        let (mut taken, mut told) = (BTreeMap::new(), BTreeMap::new());
        for ((name, found), wanted) in counted.into_iter().zip(wanted.into_values()) {
            let (documents, tokens) = (found.documents, found.tokens);
            let amount = found.take(wanted).map_err(|error| ctx.write_error(&error))?;
            tracing::info!(
                subset = name,
                documents,
                tokens,
                documents_taken = amount.documents,
                tokens_taken = amount.tokens,
                epochs = amount.tokens as f64 / tokens.max(1) as f64,
                "mixture"
            );
            told.insert(
                name.clone(),
                Given {
                    documents,
                    tokens,
                    documents_taken: amount.documents,
                    tokens_taken: amount.tokens,
                    weight: sources[&name].weight,
                },
            );
            taken.insert(name, amount);
        }
        ctx.ledger.note_figure(MIXTURE_FIGURE, serde_json::json!(told));
        Ok(taken)
    }

    async fn count(&self, ctx: &StageContext, subset: &Subset, table: &Plan) -> Result<Counted, StageError> {
        let whole = |expr: Expr| datafusion::logical_expr::cast(expr, DataType::Int64);
        let text = datafusion::functions::expr_fn::btrim(vec![ident(&subset.text_column)]);
        let length = datafusion::functions::expr_fn::octet_length(text);
        let tokens = match &subset.token_column {
            Some(path) => whole(match field_path(path) {
                (column, None) => ident(column),
                (column, Some(field)) => ident(column).field(field),
            }),
            // A text that is there has a token.
            None => (whole(length) + lit(BYTES_PER_TOKEN as i64 - 1)) / lit(BYTES_PER_TOKEN as i64),
        };
        let plan_error = |error| ctx.plan_error(&error);
        let narrow = table.frame().select(vec![ident(&subset.id_column), tokens.alias("__tokens")]);
        let mut batches = to_domain(execute(narrow.map_err(plan_error)?).await.map_err(plan_error)?);
        let mut counted = Counted::new(&ctx.spill(Some(SORT_BYTES))?, self.subsets.len());
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| ctx.failed(&error))?;
            let ids = text_column(&batch, &subset.id_column).map_err(|error| ctx.input(error.to_string()))?;
            let tokens = cast(batch.column(1), &DataType::Int64).map_err(|error| ctx.failed(&error))?;
            let tokens = tokens.as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let id = id_of(&ids, row);
                let own = if tokens.is_null(row) { 0 } else { u64::try_from(tokens.value(row)).unwrap_or(0) };
                if own > 0 && split(&id, self.heldout_share, self.seed) == TRAIN {
                    counted.push(self.lot(&id, 0), own).map_err(|error| ctx.write_error(&error))?;
                }
            }
        }
        Ok(counted)
    }

    /// A place drawn from a document's id, for each time that it is taken.
    fn lot(&self, id: &str, copy: u64) -> Lot {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"lot").update(&self.seed.to_le_bytes()).update(&copy.to_le_bytes());
        first_bytes(&hasher.update(id.as_bytes()).finalize())
    }

    fn corpus(
        &self,
        ctx: &StageContext,
        tables: BTreeMap<String, Plan>,
        taken: &BTreeMap<String, Taken>,
    ) -> Result<DataFrame, StageError> {
        let plan_error = |error| ctx.plan_error(&error);
        let mut corpus: Option<DataFrame> = None;
        for ((name, subset), table) in self.subsets.iter().zip(tables.into_values()) {
            let rows = table.frame().select(vec![ident(&subset.id_column), ident(&subset.text_column)]);
            let rows = rows.map_err(plan_error)?;
            let labels = Arc::new(Labels {
                config: self.clone(),
                name: name.clone(),
                subset: subset.clone(),
                taken: taken.get(name).copied().unwrap_or(Taken::ALL),
                sink: ctx.ledger.drop_sink(),
            });
            let function = move |stream| {
                let labels = labels.clone();
                let rows = to_domain(stream).map(move |batch| labels.label(&batch?));
                Ok(from_domain(ordered_schema(), rows))
            };
            let rows = operator::apply(ctx.session(), rows, "mix", ordered_schema(), Arc::new(function));
            let rows = rows.map_err(plan_error)?;
            corpus = Some(match corpus {
                None => rows,
                Some(corpus) => chain(ctx, corpus, rows.into())?,
            });
        }
        let corpus = corpus.ok_or_else(|| ctx.input("there is no subset"))?;
        let corpus = if self.shuffle {
            let order = [ORDER, "subset", "id"].map(|column| col(column).sort(true, false)).to_vec();
            corpus.sort(order).map_err(plan_error)?
        } else {
            corpus
        };
        corpus.select_columns(&CORPUS_COLUMNS).map_err(plan_error)
    }
}

/// A column, and a field inside it.
fn field_path(path: &str) -> (&str, Option<&str>) {
    path.split_once('.').map_or((path, None), |(column, field)| (column, Some(field)))
}

/// The rows of one table, then those of the other: a union whose order is fixed.
fn chain(ctx: &StageContext, first: DataFrame, second: Plan) -> Result<DataFrame, StageError> {
    let function = move |stream| {
        let second = second.clone();
        let rest = futures::stream::once(execute(second)).try_flatten();
        let rest = rest.map_err(ArrowError::from);
        Ok(from_domain(ordered_schema(), to_domain(stream).chain(rest)))
    };
    operator::apply(ctx.session(), first, "chain", ordered_schema(), Arc::new(function))
        .map_err(|error| ctx.plan_error(&error))
}

/// The split of a document: a function of its id, so that it stays where it is when others come.
fn split(id: &str, heldout_share: f64, seed: u64) -> &'static str {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(id.as_bytes());
    let place = first_bytes(&hasher.finalize()) as f64 / u64::MAX as f64;
    if place < heldout_share { HELD_OUT } else { TRAIN }
}

fn first_bytes(hash: &blake3::Hash) -> u64 {
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
