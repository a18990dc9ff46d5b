//! `scaling_law`: how loss falls with parameters and tokens, from finished runs.

use std::path::Path;

use async_trait::async_trait;
use model::scaling_law::{Fit, FitOptions, Point, fit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{ConfigMistake, InputCount, InputRole, Inputs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::durable;
use crate::manifest::Manifest;
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "scaling_law",
    summary: "Fits loss = E + A/N^α + B/D^β to finished runs of several lengths or sizes.",
    version: 1,
    inputs: &[
        InputRole { role: "models", about: "`pretrain` stages that have decayed", count: InputCount::Many },
        InputRole {
            role: "evaluations",
            about: "an `evaluate` stage of each, in the same order",
            count: InputCount::Many,
        },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<ScalingLawConfig>,
    build: super::build_from::<ScalingLawConfig>,
};

/// The file with runs and law.
pub const LAW_FILE: &str = "law.json";

/// Fits a law to the held-out loss of finished runs (nats a token, all subsets together), as approach 3 of
/// Hoffmann et al. 2022 (arXiv 2203.15556). Several decays from one long run make the runs cheap (Hägele et al.
/// 2024, arXiv 2405.18392). Leaves `law.json`: the runs, the constants and their bootstrap intervals.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScalingLawConfig {
    /// How the law is fitted.
    #[serde(flatten)]
    pub options: FitOptions,
}

#[async_trait]
impl Stage for ScalingLawConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn validate(&self, inputs: &std::collections::BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let count = |role: &str| inputs.get(role).map_or(0, Vec::len);
        if count("models") == count("evaluations") {
            return Vec::new();
        }
        vec![ConfigMistake {
            field: "inputs",
            message: format!("{} models have {} evaluations", count("models"), count("evaluations")),
            help: "give an `evaluate` stage for each model, in the same order".to_owned(),
        }]
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let mut points = Vec::new();
        for (model, evaluation) in inputs.folders("models").iter().zip(inputs.folders("evaluations")) {
            points.push(point(&metrics(ctx, model)?, &metrics(ctx, evaluation)?).ok_or_else(|| {
                let name =
                    |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                ctx.input(format!(
                    "{} and {} are no trained model with its held-out loss",
                    name(model),
                    name(evaluation)
                ))
                .help("`models` takes `pretrain` stages, `evaluations` the `evaluate` stages of these")
            })?);
        }
        let (options, ctx, out) = (self.options.clone(), ctx.clone(), out.to_owned());
        let work = move || {
            let fit = fit(&points, &options).map_err(|error| ctx.input(chain(&error)))?;
            let law = json!({"runs": points, "fit": fit});
            durable::write_file(&out.join(LAW_FILE), format!("{law:#}\n").as_bytes())
                .map_err(|error| ctx.write_error(&error))?;
            let Fit { law, intervals, log_deviation, .. } = fit;
            Ok(Outcome {
                rows_in: None,
                rows_out: points.len() as u64,
                metrics: [
                    ("law".to_owned(), json!(law)),
                    ("intervals".to_owned(), json!(intervals)),
                    ("log_deviation".to_owned(), json!(log_deviation)),
                ]
                .into(),
            })
        };
        super::blocking(KIND.name, work).await
    }
}

fn metrics(ctx: &StageContext, folder: &Path) -> Result<Json, StageError> {
    let manifest = Manifest::read(folder).map_err(|error| ctx.failed(&error))?;
    Ok(json!(manifest.map(|manifest| manifest.metrics).unwrap_or_default()))
}

/// A run, by what its stages measured.
fn point(model: &Json, evaluation: &Json) -> Option<Point> {
    let subsets = evaluation["heldout"].as_object()?;
    let sum = |figure: &str| subsets.values().map(|subset| subset[figure].as_f64()).sum::<Option<f64>>();
    let (nats, tokens) = (sum("nats")?, sum("tokens")?);
    Some(Point {
        parameters: model["parameters"].as_f64()?,
        tokens: model["tokens"].as_f64()?,
        loss: nats / tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_s_loss_is_that_of_all_held_out_tokens() {
        let model = json!({"parameters": 1000, "tokens": 5000});
        let evaluation =
            json!({"heldout": {"a": {"nats": 30.0, "tokens": 10}, "b": {"nats": 10.0, "tokens": 10}}});
        assert_eq!(point(&model, &evaluation), Some(Point { parameters: 1000.0, tokens: 5000.0, loss: 2.0 }));
        assert_eq!(point(&json!({}), &evaluation), None);
        assert_eq!(point(&model, &json!({"cloze": {}})), None);
    }
}
