//! `compare_models`: what variants of a recipe come to, over the seeds of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{
    ConfigMistake, InputCount, InputRole, Inputs, Outcome, OutputKind, Shape, Stage, StageKind,
    foreign_stages,
};
use crate::durable;
use crate::manifest::Manifest;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "compare_models",
    summary: "Compares variants of a recipe by the figures of their models: mean and spread over seeds.",
    version: 1,
    inputs: &[InputRole {
        role: "evaluations",
        about: "`evaluate` stages, one a trained model",
        count: InputCount::Many,
    }],
    output: OutputKind::Folder,
    schema: super::schema_of::<CompareModelsConfig>,
    build: super::build_from::<CompareModelsConfig>,
};

/// The file with the figures.
pub const COMPARISON_FILE: &str = "comparison.json";

/// Figures that count what was measured, and say nothing of the model.
const COUNTS: [&str; 5] = ["texts", "tokens", "bytes", "nats", "items"];

/// Compares variants of a recipe, each trained with several seeds: mean and standard deviation of every
/// figure of their evaluations, in `comparison.json` and as a table in `comparison.md`.
/// Ablations of the FineWeb kind (Penedo et al. 2024, section 3.1) train two seeds a variant.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareModelsConfig {
    /// The `evaluate` stages of each variant's models, by the variant's name.
    pub variants: BTreeMap<String, Vec<String>>,
}

/// A figure of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Over the seeds.
    pub mean: f64,
    /// Standard deviation of the seeds (n − 1); none of a single one.
    pub deviation: Option<f64>,
    /// Models.
    pub models: usize,
}

impl Spread {
    /// Of some values, at least one.
    fn of(values: &[f64]) -> Self {
        let models = values.len();
        let mean = values.iter().sum::<f64>() / models.max(1) as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (models > 1).then(|| (squares / (models - 1) as f64).sqrt());
        Self { mean, deviation, models }
    }

    fn told(&self) -> String {
        let deviation = self.deviation.map(|deviation| format!(" ± {deviation:.4}")).unwrap_or_default();
        format!("{:.4}{deviation}", self.mean)
    }
}

/// By figure, then by variant.
type Comparison = BTreeMap<String, BTreeMap<String, Spread>>;

#[async_trait]
impl Stage for CompareModelsConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn validate(&self, inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let evaluations = inputs.get("evaluations").map_or(&[][..], Vec::as_slice);
        let named = self.variants.iter().flat_map(|(name, stages)| stages.iter().map(move |s| (name, s)));
        let mut mistakes = foreign_stages("variants", named, "variant", evaluations, "evaluations");
        let empty = self.variants.iter().filter(|(_, stages)| stages.is_empty());
        mistakes.extend(empty.map(|(name, _)| ConfigMistake {
            field: "variants",
            message: format!("variant `{name}` has no model"),
            help: "name its `evaluate` stages".to_owned(),
        }));
        mistakes
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let mut figures = BTreeMap::new();
        for folder in inputs.folders("evaluations") {
            let manifest = Manifest::read(folder).map_err(|error| ctx.failed(&error))?;
            let stage = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let metrics = manifest.map(|manifest| json!(manifest.metrics)).unwrap_or_default();
            let mut found = BTreeMap::new();
            flatten("", &metrics, &mut found);
            figures.insert(stage, found);
        }
        let comparison = self.compare(&figures);
        let files = [
            (COMPARISON_FILE, format!("{:#}\n", json!(comparison))),
            ("comparison.md", markdown(&self.variants, &comparison)),
        ];
        for (name, text) in files {
            let written = durable::write_file(&out.join(name), text.as_bytes());
            written.map_err(|error| ctx.write_error(&error))?;
        }
        let metrics = comparison.into_iter().map(|(figure, spreads)| (figure, json!(spreads)));
        Ok(Outcome { rows_in: None, rows_out: self.variants.len() as u64, metrics: metrics.collect() })
    }
}

impl CompareModelsConfig {
    /// Every figure that some model of each variant has.
    fn compare(&self, figures: &BTreeMap<String, BTreeMap<String, f64>>) -> Comparison {
        let names: BTreeSet<&String> = figures.values().flat_map(BTreeMap::keys).collect();
        let mut comparison = Comparison::new();
        for figure in names {
            let of_variant = |(variant, stages): (&String, &Vec<String>)| {
                let values = stages.iter().filter_map(|stage| figures.get(stage)?.get(figure).copied());
                let values: Vec<f64> = values.collect();
                (!values.is_empty()).then(|| (variant.clone(), Spread::of(&values)))
            };
            let spreads: BTreeMap<String, Spread> = self.variants.iter().filter_map(of_variant).collect();
            if spreads.len() == self.variants.len() {
                comparison.insert(figure.clone(), spreads);
            }
        }
        comparison
    }
}

/// The numbers in a tree of figures, by their paths.
fn flatten(path: &str, value: &Json, found: &mut BTreeMap<String, f64>) {
    match value {
        Json::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !COUNTS.contains(&name.as_str())) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, found);
            }
        }
        Json::Number(number) => {
            found.extend(number.as_f64().map(|number| (path.to_owned(), number)));
        }
        _ => {}
    }
}

fn markdown(variants: &BTreeMap<String, Vec<String>>, comparison: &Comparison) -> String {
    let mut text = String::from("| figure |");
    // Writing into a string cannot fail.
    for (variant, models) in variants {
        let _ = write!(text, " {variant} ({} models) |", models.len());
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(variants.len()));
    for (figure, spreads) in comparison {
        let cells: Vec<String> = spreads.values().map(Spread::told).collect();
        let _ = writeln!(text, "| {figure} | {} |", cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(models: &[(&str, f64)]) -> BTreeMap<String, BTreeMap<String, f64>> {
        let of = |acc: f64| {
            let mut found = BTreeMap::new();
            let metrics =
                json!({"cloze": {"acc": acc, "items": 40}, "heldout": {"web": {"bits_per_byte": 2.0}}});
            flatten("", &metrics, &mut found);
            found
        };
        models.iter().map(|(stage, acc)| ((*stage).to_owned(), of(*acc))).collect()
    }

    #[test]
    fn variants_have_the_mean_and_the_spread_of_their_seeds() {
        let stages = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let config = CompareModelsConfig {
            variants: [("all".to_owned(), stages(&["a1", "a2"])), ("edu".to_owned(), stages(&["e1"]))].into(),
        };
        let comparison = config.compare(&figures(&[("a1", 0.2), ("a2", 0.4), ("e1", 0.5)]));
        assert_eq!(comparison.keys().collect::<Vec<_>>(), ["cloze.acc", "heldout.web.bits_per_byte"]);
        let acc = &comparison["cloze.acc"];
        assert!((acc["all"].mean - 0.3).abs() < 1e-12);
        // The deviation of two values is their distance by the square root of 2.
        assert!((acc["all"].deviation.unwrap() - 0.2 / 2_f64.sqrt()).abs() < 1e-12);
        assert_eq!((acc["edu"].models, acc["edu"].deviation), (1, None));
        let table = markdown(&config.variants, &comparison);
        assert!(table.contains("| cloze.acc | 0.3000 ± 0.1414 | 0.5000 |"), "{table}");
    }

    #[test]
    fn a_variant_must_take_stages_that_are_there() {
        let config: CompareModelsConfig =
            serde_json::from_value(json!({"variants": {"all": ["a1", "a3"], "none": []}})).unwrap();
        let mistakes = config.validate(&[("evaluations".to_owned(), vec!["a1".to_owned()])].into());
        let said: Vec<&str> = mistakes.iter().map(|mistake| mistake.message.as_str()).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("a3") && said[1].contains("`none`"), "{said:?}");
    }
}
