//! `card`: the dataset card of a corpus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::prelude::{DataFrame, col, lit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::columns::{require, text_column};
use super::{InputCount, InputRole, Inputs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::durable;
use crate::manifest::Manifest;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::progress::group;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "card",
    summary: "Writes the dataset card (README.md) of a corpus.",
    version: 1,
    inputs: &[
        InputRole { role: "corpus", about: "a `mix` stage", count: InputCount::One },
        InputRole {
            role: "tokens",
            about: "a `pack` stage, for the token counts",
            count: InputCount::Optional,
        },
        InputRole {
            role: "evaluation",
            about: "an `evaluate` stage, for its figures",
            count: InputCount::Optional,
        },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<CardConfig>,
    build: super::build_from::<CardConfig>,
};

/// Writes the card: YAML front matter as the Hub reads it, sizes by subset, the recipe, figures.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CardConfig {
    /// The dataset's name.
    pub title: String,
    /// What it is, in a paragraph.
    #[serde(default)]
    pub description: String,
    /// The licence's identifier on the Hub, for example `odc-by`.
    #[serde(default = "default_licence")]
    pub licence: String,
    /// The language's code.
    #[serde(default = "default_language")]
    pub language: String,
}

fn default_licence() -> String {
    "other".to_owned()
}

fn default_language() -> String {
    "en".to_owned()
}

/// Size of a subset's split.
struct Size {
    subset: String,
    split: String,
    documents: i64,
    bytes: i64,
}

#[async_trait]
impl Stage for CardConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let sizes = sizes(ctx, inputs.table(ctx, "corpus")?).await?;
        let metrics = |role: &str| -> Result<BTreeMap<String, Json>, StageError> {
            let Some(folder) = inputs.optional_folder(role) else { return Ok(BTreeMap::new()) };
            let manifest = Manifest::read(folder).map_err(|error| ctx.failed(&error))?;
            Ok(manifest.map(|manifest| manifest.metrics).unwrap_or_default())
        };
        let text = self.render(&sizes, &metrics("tokens")?, &metrics("evaluation")?);
        durable::write_file(&out.join("README.md"), text.as_bytes())
            .map_err(|error| ctx.write_error(&error))?;
        let documents: i64 = sizes.iter().map(|size| size.documents).sum();
        Ok(Outcome {
            rows_in: None,
            rows_out: u64::try_from(documents).unwrap_or(0),
            metrics: [("subsets".to_owned(), json!(sizes.len()))].into(),
        })
    }
}

async fn sizes(ctx: &StageContext, corpus: DataFrame) -> Result<Vec<Size>, StageError> {
    require(ctx, &corpus, "corpus", &["subset", "split", "text"])?;
    let bytes = datafusion::functions::expr_fn::octet_length(col("text"));
    let rows = corpus
        .aggregate(
            vec![col("subset"), col("split")],
            vec![
                count(lit(1)).alias("documents"),
                sum(datafusion::logical_expr::cast(bytes, arrow::datatypes::DataType::Int64)).alias("bytes"),
            ],
        )
        .and_then(|rows| rows.sort(vec![col("subset").sort(true, false), col("split").sort(true, false)]));
    let rows = rows.map_err(|error| ctx.plan_error(&error))?;
    let batches = rows.collect().await.map_err(|error| ctx.plan_error(&error))?;
    let mut sizes = Vec::new();
    for batch in batches {
        let names = |name| text_column(&batch, name).map_err(|error| ctx.failed(&error));
        let (subsets, splits) = (names("subset")?, names("split")?);
        let documents = batch.column(2).as_primitive::<Int64Type>();
        let bytes = batch.column(3).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            sizes.push(Size {
                subset: subsets.value(row).to_owned(),
                split: splits.value(row).to_owned(),
                documents: documents.value(row),
                bytes: bytes.value(row),
            });
        }
    }
    Ok(sizes)
}

impl CardConfig {
    fn render(
        &self,
        sizes: &[Size],
        tokens: &BTreeMap<String, Json>,
        evaluation: &BTreeMap<String, Json>,
    ) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text, sizes, tokens, evaluation);
        text
    }

    fn write(
        &self,
        text: &mut String,
        sizes: &[Size],
        tokens: &BTreeMap<String, Json>,
        evaluation: &BTreeMap<String, Json>,
    ) -> std::fmt::Result {
        let documents: i64 = sizes.iter().map(|size| size.documents).sum();
        writeln!(text, "---\nlicense: {}\nlanguage:\n- {}", self.licence, self.language)?;
        writeln!(text, "pretty_name: {}", json!(self.title))?;
        writeln!(
            text,
            "task_categories:\n- text-generation\nsize_categories:\n- {}",
            size_category(documents)
        )?;
        writeln!(text, "configs:\n- config_name: default\n  data_files: data/*.parquet\n---\n")?;
        writeln!(text, "# {}\n\n{}\n", self.title, self.description)?;
        writeln!(
            text,
            "## Subsets\n\n| subset | split | documents | bytes of text | tokens |\n|---|---|---:|---:|---:|"
        )?;
        let number = |n: i64| group(u64::try_from(n).unwrap_or(0));
        for size in sizes {
            let packed =
                tokens.get("subsets").and_then(|subsets| subsets.get(&size.subset)?.get("tokens")?.as_u64());
            let packed = packed.filter(|_| size.split == super::mix::TRAIN).map(group).unwrap_or_default();
            let Size { subset, split, .. } = size;
            writeln!(
                text,
                "| {subset} | {split} | {} | {} | {packed} |",
                number(size.documents),
                number(size.bytes)
            )?;
        }
        writeln!(text, "\nColumns: `id`, `subset`, `split` (`train` or `heldout`), `text`.\n")?;
        if let Some(heldout) = evaluation.get("heldout").and_then(Json::as_object) {
            writeln!(
                text,
                "## A model trained on it\n\n| held-out subset | texts | perplexity a token | bits a byte |\n|---|---:|---:|---:|"
            )?;
            for (subset, figures) in heldout {
                let figure = |key: &str| figures.get(key).and_then(Json::as_f64).unwrap_or(f64::NAN);
                let (texts, per_token, bits) =
                    (figure("texts"), figure("per_token"), figure("bits_per_byte"));
                writeln!(text, "| {subset} | {texts} | {per_token:.1} | {bits:.3} |")?;
            }
            writeln!(text)?;
        }
        writeln!(text, "Made with Corpusmith {}.", env!("CARGO_PKG_VERSION"))
    }
}

/// The Hub's size classes.
fn size_category(documents: i64) -> &'static str {
    match documents {
        ..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        _ => "100M<n<1B",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_has_front_matter_sizes_and_figures() {
        let card = CardConfig {
            title: "A \"small\" corpus".into(),
            description: "For tests.".into(),
            licence: "odc-by".into(),
            language: "en".into(),
        };
        let sizes =
            [Size { subset: "python-edu".into(), split: "train".into(), documents: 1200, bytes: 34_567 }];
        let tokens = [("subsets".to_owned(), json!({"python-edu": {"tokens": 9876}}))].into();
        let evaluation = [(
            "heldout".to_owned(),
            json!({"python-edu": {"texts": 3, "per_token": 12.34, "bits_per_byte": 1.5}}),
        )];
        let text = card.render(&sizes, &tokens, &evaluation.into());
        assert!(text.starts_with("---\nlicense: odc-by\n"));
        assert!(text.contains("pretty_name: \"A \\\"small\\\" corpus\""));
        assert!(text.contains("| python-edu | train | 1,200 | 34,567 | 9,876 |"), "{text}");
        assert!(text.contains("| python-edu | 3 | 12.3 | 1.500 |"));
        assert!(text.contains("1K<n<10K"));
    }
}
