//! SmolLM2-135M-Instruct out of its GGUF file, in the training network: the weights are dequantised and the
//! logits must be those of transformers with the same weights in 32 bits.
//!
//! Needs the model (the assets command fetches it) and `../shared/data`; prints why and returns without them.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use model::chat::ChatFormat;
use model::evaluate::{ModelScorer, Request, Scorer, Task};
use model::examples::Examples;
use model::language_model::LanguageModel;
use model::sft::{ConversationColumns, ConversationWriter, SftOptions, sft};
use model::tokenizer::tokenizer_of_gguf;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// The model and the data, or nothing and why.
fn files() -> Option<(PathBuf, PathBuf)> {
    let data = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
    let assets = std::env::var_os("CORPUSMITH_ASSETS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/corpusmith/assets"));
    let file = assets.or(home).unwrap_or_default().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if let Some(absent) = [&file, &data].into_iter().find(|path| !path.exists()) {
        println!("not tested: {} is absent", absent.display());
        return None;
    }
    Some((file, data))
}

#[test]
fn the_training_network_gives_the_logits_of_transformers() {
    let Some((file, data)) = files() else { return };
    let reference = data.join("reference/smollm2_135m_q4_1_logits.json");
    let model = LanguageModel::load(&file).unwrap();
    assert_eq!(model.parameters.len(), 134_515_008);
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let mut largest = 0f64;
    for case in cases.as_array().unwrap() {
        let tokens: Vec<u32> = numbers(&case["ids"]).into_iter().map(|id| id as u32).collect();
        let logits = model.network.logits(&model.parameters, &tokens).unwrap();
        let rows: Vec<&[f32]> = logits.chunks(model.network.config().vocab_size).collect();
        for (row, top) in rows.iter().zip(numbers(&case["top1"])) {
            let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            assert_eq!(best, top as usize);
        }
        let next = rows.iter().zip(&tokens[1..]).zip(numbers(&case["logprob_of_next"]));
        for ((row, &token), wanted) in next {
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            largest = largest.max((f64::from(row[token as usize]) - total.ln() - wanted).abs());
        }
    }
    println!("largest difference of a log-probability: {largest:.6} nats");
    assert!(largest < 1e-3, "{largest}");

    // PIQA's first items, whose reference sums were computed in 32 bits as well. A context is computed once for both
    // choices here, and for each there.
    let root = tempfile::tempdir().unwrap();
    let encoder = tokenizer_of_gguf(&file, root.path()).unwrap();
    let mut scorer = ModelScorer::new(&model, &encoder).unwrap();
    let rows = data.join("benchmarks/piqa_valid.jsonl");
    let items = Task::named("piqa")
        .unwrap()
        .read_jsonl(&rows, Some(&data.join("benchmarks/piqa_valid-labels.lst")))
        .unwrap();
    let piqa = std::fs::read(data.join("reference/smollm2_135m_q4_1_piqa.json")).unwrap();
    let piqa: serde_json::Value = serde_json::from_slice(&piqa).unwrap();
    let mut largest = 0f64;
    for (item, wanted) in items.iter().zip(piqa["first_20"].as_array().unwrap()) {
        let context = scorer.encode(&item.context).unwrap();
        let choices = item.choices.iter().map(|choice| scorer.encode(&format!(" {choice}")).unwrap());
        let request = Request { context, continuations: choices.collect() };
        let scores = scorer.continuations(std::slice::from_ref(&request)).unwrap().remove(0);
        for (score, wanted) in scores.iter().zip(numbers(wanted)) {
            let sum: f64 = score.iter().map(|&x| f64::from(x)).sum();
            largest = largest.max((sum - wanted).abs());
        }
    }
    println!("largest difference of a PIQA sum: {largest:.6} nats");
    assert!(largest < 2e-3, "{largest}");
}

/// Eight updates on short problems; prints the losses, the speed and the memory it took.
#[test]
#[ignore = "takes minutes and writes 2 GiB: cargo test --release -p corpusmith-model --test real_model -- --ignored --nocapture"]
fn the_model_is_fine_tuned_out_of_its_file() {
    let Some((file, data)) = files() else { return };
    let root = tempfile::tempdir().unwrap();
    let encoder = tokenizer_of_gguf(&file, root.path()).unwrap();
    let chat = ChatFormat::load(&encoder).unwrap();
    assert!(chat.origin().ends_with("tokenizer_config.json"));
    let text = std::fs::read_to_string(data.join("benchmarks/gsm8k_train.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let short = rows.filter(|row| row["question"].as_str().unwrap().len() < 150).take(32);
    let (questions, answers): (Vec<String>, Vec<String>) = short
        .map(|row| (row["question"].as_str().unwrap().to_owned(), row["answer"].as_str().unwrap().to_owned()))
        .unzip();
    let batch = RecordBatch::try_from_iter([
        ("question", Arc::new(StringArray::from(questions)) as ArrayRef),
        ("answer", Arc::new(StringArray::from(answers))),
    ])
    .unwrap();
    let folder = root.path().join("examples");
    let mut writer =
        ConversationWriter::create(&folder, &encoder, chat, ConversationColumns::default(), 512).unwrap();
    writer.push(&batch).unwrap();
    let summary = writer.finish().unwrap();
    assert_eq!(summary.examples, 32);
    let options = SftOptions {
        length_tokens: 512,
        batch_packs: 1,
        lr: 1e-4,
        micro_batch_tokens: 512,
        checkpoint_every_steps: 1_000_000,
        ..SftOptions::default()
    };
    let start = Instant::now();
    let mut lines = Vec::new();
    let examples = Examples::open(&folder).unwrap();
    let done = sft(&options, &file, &examples, &root.path().join("run"), &mut |report| {
        println!("{:?}, {:.0} tokens/s", report.line, report.tokens_per_second);
        lines.push(report.line);
        ControlFlow::Continue(())
    })
    .unwrap();
    println!("{} tokens in {:.1} s", done.tokens, start.elapsed().as_secs_f64());
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    }
    // An instructed model knows roughly how such answers go, and learns their form within a few updates.
    assert!(lines[0].loss < 3.0 && lines[lines.len() - 1].loss < lines[0].loss - 0.3, "{lines:?}");
}
