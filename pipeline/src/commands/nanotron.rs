//! `pipeline nanotron`: a workflow's training as a config of nanotron, for those who have a cluster of GPUs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use model::config::ModelConfig;
use model::pretrain::PretrainOptions;
use model::schedule::ScheduleShape;
use model::tokenizer::TOKENIZER_FILE;
use serde_json::{Value as Json, json};

use super::plan::run_options;
use super::{Failure, stage_of_kind};
use crate::cli::NanotronArgs;
use crate::durable;
use crate::runner;
use crate::runner::stage_run::stage_folder;
use crate::stages::PretrainConfig;
use crate::workflow::{self, Workflow};

/// Writes the config of a `pretrain` stage.
///
/// # Errors
/// The workflow has problems or no such stage, its tokens are not packed for nanotron, or the batch cannot be
/// dealt to so many GPUs.
pub fn nanotron(args: &NanotronArgs) -> Result<(), Failure> {
    let workflow = workflow::load(&args.workflow.workflow, &args.workflow.overrides())?;
    let (node, config): (_, &PretrainConfig) = stage_of_kind(&workflow, "pretrain", args.stage.as_deref())?;
    let run = runner::run_folder(&run_options(&args.resources).runs_folder, &workflow);
    let run = run.canonicalize().unwrap_or(run);
    let model = config.training.model.resolve().map_err(Failure::run)?;
    let tokens =
        node.inputs.get("tokens").and_then(|ids| ids.first()).map(String::as_str).unwrap_or_default();
    let folders = datasets(&stage_folder(&run, tokens), config.weights.keys())?;
    let data = Data {
        folders,
        weights: config.weights.values().copied().collect(),
        tokenizer: tokenizer_of(&workflow, tokens).map(|id| stage_folder(&run, id)),
        seed: config.data_seed,
    };
    let batch = deal(config.training.batch_sequences, args.gpus, args.micro_batch)?;
    let name = format!("{}-{}-{}", workflow.name, workflow.run_name, node.id);
    let text = yaml(&render(&name, &config.training, &model, &data, &batch));
    match &args.output {
        Some(path) => {
            durable::write_file(path, text.as_bytes()).map_err(Failure::run)?;
            println!("{}: torchrun … run_train.py --config-file {}", batch.words(), path.display());
        }
        None => print!("{text}"),
    }
    Ok(())
}

/// The stage whose tokenizer made the tokens.
fn tokenizer_of<'a>(workflow: &'a Workflow, tokens: &str) -> Option<&'a str> {
    let node = workflow.stages.iter().find(|node| node.id == tokens)?;
    Some(node.inputs.get("tokenizer")?.first()?.as_str())
}

/// The folders with each subset's `.ds` files.
fn datasets<'a>(tokens: &Path, subsets: impl Iterator<Item = &'a String>) -> Result<Vec<PathBuf>, Failure> {
    let folder = |subset: &String| {
        let folder = tokens.join(subset).join("datatrove");
        let has_tokens = folder
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|ending| ending == "ds"));
        has_tokens.then(|| folder.clone()).ok_or_else(|| {
            Failure::message(
                format!("{} has no tokens for nanotron", folder.display()),
                "set also = [\"datatrove\"] in the `pack` stage and run the workflow up to it",
            )
        })
    };
    subsets.map(folder).collect()
}

struct Data {
    folders: Vec<PathBuf>,
    weights: Vec<f64>,
    tokenizer: Option<PathBuf>,
    seed: u64,
}

/// How an update's sequences are dealt to GPUs.
#[derive(Debug, PartialEq, Eq)]
struct Batch {
    gpus: usize,
    micro_batch: usize,
    accumulation: usize,
}

impl Batch {
    fn words(&self) -> String {
        let Self { gpus, micro_batch, accumulation } = self;
        format!("{gpus} GPUs, {accumulation} × {micro_batch} sequences on each")
    }
}

/// The largest micro-batch up to `most` that deals the batch evenly.
fn deal(sequences: usize, gpus: usize, most: usize) -> Result<Batch, Failure> {
    if gpus == 0 || !sequences.is_multiple_of(gpus) {
        return Err(Failure::message(
            format!("{sequences} sequences of an update cannot be dealt to {gpus} GPUs evenly"),
            "take a number of GPUs that divides `batch_sequences`",
        ));
    }
    let each = sequences / gpus;
    let micro_batch = (1..=most.clamp(1, each)).rev().find(|size| each.is_multiple_of(*size)).unwrap_or(1);
    Ok(Batch { gpus, micro_batch, accumulation: each / micro_batch })
}

/// The config, in the fields that SmolLM's own have (huggingface/smollm
/// `pre-training/smollm1/config_smollm1_135M.yaml`; huggingface/nanotron `src/nanotron/config/config.py`).
fn render(name: &str, options: &PretrainOptions, model: &ModelConfig, data: &Data, batch: &Batch) -> Json {
    let (style, decay_steps) = match options.schedule {
        ScheduleShape::Trapezoidal => ("1-sqrt", options.cooldown_steps),
        ScheduleShape::Cosine => ("cosine", options.steps - options.warmup_steps.min(options.steps)),
    };
    let path = |path: &PathBuf| path.display().to_string();
    json!({
        "checkpoints": {
            "checkpoint_interval": options.checkpoint_every_steps,
            "checkpoints_path": "checkpoints",
            "checkpoints_path_is_shared_file_system": false,
            "resume_checkpoint_path": null,
            "save_final_state": true,
            "save_initial_state": false,
        },
        "data_stages": [{
            "name": "training stage",
            "start_training_step": 1,
            "data": {
                "dataset": {
                    "dataset_folder": data.folders.iter().map(path).collect::<Vec<_>>(),
                    "dataset_weights": data.weights,
                    // What stands in the token files' metadata; given here, nothing is loaded by that name.
                    "tokenizer_name": TOKENIZER_FILE,
                    "vocab_size": model.vocab_size,
                    "token_size_in_bytes": 2,
                },
                "num_loading_workers": 1,
                "seed": data.seed,
            },
        }],
        "general": {
            "benchmark_csv_path": null,
            "consumed_train_samples": null,
            "ignore_sanity_checks": true,
            "project": "corpusmith",
            "run": name,
            "seed": options.seed,
            "step": null,
        },
        "logging": {
            "iteration_step_info_interval": options.log_every_steps,
            "log_level": "info",
            "log_level_replica": "info",
        },
        "model": {
            "ddp_bucket_cap_mb": 25,
            "dtype": "bfloat16",
            "init_method": {"std": 1.0 / (model.hidden_size as f64).sqrt()},
            "make_vocab_size_divisible_by": 1,
            "model_config": {
                "bos_token_id": 0,
                "eos_token_id": 0,
                "hidden_act": "silu",
                "hidden_size": model.hidden_size,
                "initializer_range": 0.02,
                "intermediate_size": model.intermediate_size,
                "is_llama_config": true,
                "max_position_embeddings": model.context_tokens,
                "num_attention_heads": model.heads,
                "num_hidden_layers": model.layers,
                "num_key_value_heads": model.kv_heads,
                "pad_token_id": null,
                "pretraining_tp": 1,
                "rms_norm_eps": model.rms_norm_eps,
                "rope_scaling": null,
                "rope_theta": model.rope_theta,
                "tie_word_embeddings": model.tied_embeddings,
                "use_cache": true,
                "vocab_size": model.vocab_size,
            },
        },
        "optimizer": {
            "accumulate_grad_in_fp32": true,
            "clip_grad": options.optimizer.clip,
            "learning_rate_scheduler": {
                "learning_rate": options.lr,
                "lr_decay_starting_step": options.steps - decay_steps.min(options.steps),
                "lr_decay_steps": decay_steps,
                "lr_decay_style": style,
                "lr_warmup_steps": options.warmup_steps,
                "lr_warmup_style": "linear",
                "min_decay_lr": 0.0,
            },
            "optimizer_factory": {
                "adam_beta1": options.optimizer.beta1,
                "adam_beta2": options.optimizer.beta2,
                "adam_eps": options.optimizer.eps,
                "name": "adamW",
                "torch_adam_is_fused": true,
            },
            "weight_decay": options.optimizer.weight_decay,
            "zero_stage": 0,
        },
        "parallelism": {
            "dp": batch.gpus,
            "expert_parallel_size": 1,
            "pp": 1,
            "pp_engine": "1f1b",
            "recompute_layer": false,
            "tp": 1,
            "tp_linear_async_communication": true,
            "tp_mode": "REDUCE_SCATTER",
            "tp_recompute_allgather": true,
        },
        "profiler": null,
        "tokenizer": {
            "tokenizer_max_length": null,
            "tokenizer_name_or_path": data.tokenizer.as_ref().map(path),
            "tokenizer_revision": null,
        },
        "tokens": {
            "batch_accumulation_per_replica": batch.accumulation,
            "limit_test_batches": 0,
            "limit_val_batches": 0,
            "micro_batch_size": batch.micro_batch,
            "sequence_length": options.context_tokens,
            "train_steps": options.steps,
            "val_check_interval": -1,
        },
    })
}

/// JSON as YAML 1.1, which takes `1e-5` for a text: numbers are written with their point.
fn yaml(value: &Json) -> String {
    let mut text = String::new();
    write_yaml(&mut text, value, 0);
    text
}

fn write_yaml(text: &mut String, value: &Json, depth: usize) {
    let indent = "  ".repeat(depth);
    let entry = |text: &mut String, head: &str, value: &Json| {
        let nested = match value {
            Json::Object(fields) => !fields.is_empty(),
            Json::Array(items) => !items.is_empty(),
            _ => false,
        };
        // Writing into a string cannot fail.
        if nested {
            let _ = writeln!(text, "{indent}{head}");
            write_yaml(text, value, depth + 1);
        } else {
            let _ = writeln!(text, "{indent}{head} {}", scalar(value));
        }
    };
    match value {
        Json::Object(fields) => {
            fields.iter().for_each(|(name, value)| entry(text, &format!("{name}:"), value))
        }
        Json::Array(items) => items.iter().for_each(|item| entry(text, "-", item)),
        other => {
            let _ = writeln!(text, "{indent}{}", scalar(other));
        }
    }
}

fn scalar(value: &Json) -> String {
    match value {
        Json::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            let short = format!("{number:e}");
            match short.split_once('e') {
                Some((digits, exponent)) if !(-4..16).contains(&exponent.parse::<i32>().unwrap_or(0)) => {
                    let point = if digits.contains('.') { "" } else { ".0" };
                    let sign = if exponent.starts_with('-') { "" } else { "+" };
                    format!("{digits}{point}e{sign}{exponent}")
                }
                _ => format!("{number:?}"),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use model::config::Preset;

    use super::*;

    #[test]
    fn smollms_own_run_is_said_as_its_authors_say_it() {
        let options = PretrainOptions::published(Preset::M135);
        let data = Data {
            folders: vec!["/tokens/web/datatrove".into()],
            weights: vec![0.7],
            tokenizer: Some("/run/tokenizer".into()),
            seed: 42,
        };
        let batch = deal(512, 64, 8).ok().unwrap();
        let config = render("smollm", &options, &ModelConfig::preset(Preset::M135), &data, &batch);
        // Source: huggingface/smollm `pre-training/smollm1/config_smollm1_135M.yaml`; the steps, warm-up and
        // decay are those of the blog post (600 B tokens).
        let model = &config["model"]["model_config"];
        for (field, value) in [
            ("hidden_size", json!(576)),
            ("intermediate_size", json!(1536)),
            ("num_attention_heads", json!(9)),
            ("num_hidden_layers", json!(30)),
            ("num_key_value_heads", json!(3)),
            ("max_position_embeddings", json!(2048)),
            ("tie_word_embeddings", json!(true)),
            ("vocab_size", json!(49152)),
        ] {
            assert_eq!(model[field], value, "{field}");
        }
        let std = config["model"]["init_method"]["std"].as_f64().unwrap();
        assert!((std - 0.0416).abs() < 1e-4, "{std}");
        let tokens = &config["tokens"];
        assert_eq!(
            (
                &tokens["micro_batch_size"],
                &tokens["batch_accumulation_per_replica"],
                &config["parallelism"]["dp"]
            ),
            (&json!(8), &json!(1), &json!(64))
        );
        let schedule = &config["optimizer"]["learning_rate_scheduler"];
        assert_eq!(
            (&schedule["lr_decay_style"], &schedule["lr_decay_starting_step"], &schedule["lr_decay_steps"]),
            (&json!("1-sqrt"), &json!(500_000), &json!(100_000))
        );
        let text = yaml(&config);
        for line in ["    rms_norm_eps: 1.0e-5", "    adam_eps: 1.0e-8", "    - \"/tokens/web/datatrove\""] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn batches_are_dealt_evenly_or_not_at_all() {
        let batch = |gpus, micro_batch, accumulation| Batch { gpus, micro_batch, accumulation };
        assert_eq!(deal(512, 8, 16).ok(), Some(batch(8, 16, 4)));
        assert_eq!(deal(24, 4, 4).ok(), Some(batch(4, 3, 2)));
        assert_eq!(deal(8, 1, 100).ok(), Some(batch(1, 8, 1)));
        assert!(deal(512, 24, 8).is_err() && deal(512, 0, 8).is_err());
    }

    #[test]
    fn numbers_are_numbers_in_yaml() {
        let said: Vec<String> = [json!(1e-5), json!(0.1), json!(2.0), json!(1e20), json!(7), json!(null)]
            .iter()
            .map(scalar)
            .collect();
        assert_eq!(said, ["1.0e-5", "0.1", "2.0", "1.0e+20", "7", "null"]);
    }
}
