//! The sample profile on real text: `../shared/data`, where it is there.
//!
//! 40 steps by default; `CORPUSMITH_TRAIN_STEPS=300` makes the sample profile's whole run. Prints the speed and
//! the memory it took.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use model::config::Preset;
use model::evaluate::{ModelScorer, SAMPLE_ITEMS, cloze, parse_cloze, perplexity};
use model::language_model::LanguageModel;
use model::pretrain::{FINAL_FOLDER, PretrainOptions, pretrain};
use model::shards::{ShardSetWriter, TokenDataset};
use model::tokenizer::{TokenizerOptions, count_by_subset, train};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The strings of `fields` in every line of a JSONL file.
fn read(path: &Path, fields: &[&str]) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let parts: Vec<&str> = fields.iter().filter_map(|field| json[field].as_str()).collect();
        parts.join("\n")
    };
    text.lines().map(line).collect()
}

/// Peak resident memory of this process in MiB, where the system tells.
fn peak_mebibytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kibibytes| kibibytes / 1_024)
}

#[test]
fn real_text_is_learned() {
    let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/benchmarks"));
    if !data.exists() {
        println!("skipped: {} is not there", data.display());
        return;
    }
    let training = read(&data.join("gsm8k_train.jsonl"), &["question", "answer"]);
    let held_out = read(&data.join("gsm8k_test.jsonl"), &["question", "answer"]);
    let root = tempfile::tempdir().unwrap();

    let start = Instant::now();
    let encoder =
        train(&TokenizerOptions { vocab_size: 4_096, ..Default::default() }, &training, root.path()).unwrap();
    println!(
        "tokenizer: {:.1} s for {} bytes",
        start.elapsed().as_secs_f64(),
        training.iter().map(String::len).sum::<usize>()
    );
    assert_eq!(encoder.vocab_size(), 4_096);
    let counts = count_by_subset(&encoder, held_out.iter().take(200).map(|text| ("held out", text))).unwrap();
    println!("{:.2} bytes a token on held-out text", counts["held out"].bytes_per_token());
    assert!(counts["held out"].bytes_per_token() > 2.5);

    let start = Instant::now();
    let mut shards =
        ShardSetWriter::create(&root.path().join("shards"), 4_096, encoder.digest(), 500_000).unwrap();
    for text in &training {
        shards.push(&encoder.encode(text).unwrap()).unwrap();
    }
    let shards: Vec<PathBuf> = shards.finish().unwrap().into_iter().map(|shard| shard.path).collect();
    println!("packing: {:.1} s", start.elapsed().as_secs_f64());

    let steps = std::env::var("CORPUSMITH_TRAIN_STEPS").map_or(40, |steps| steps.parse().unwrap());
    let mut options = PretrainOptions { steps, ..PretrainOptions::published(Preset::Sample) };
    if let Ok(tokens) = std::env::var("CORPUSMITH_TRAIN_MICRO") {
        options.micro_batch_tokens = tokens.parse().unwrap();
    }
    options.cooldown_steps = steps / 5;
    let dataset = TokenDataset::single(&shards, options.context_tokens, 1).unwrap();
    let start = Instant::now();
    let mut losses = Vec::new();
    let summary = pretrain(&options, &dataset, &root.path().join("run"), &mut |report| {
        if report.line.step % 25 == 1 || report.line.step == steps {
            println!(
                "step {} loss {:.3} lr {:.5} norm {:.2}, {:.0} tokens/s",
                report.line.step,
                report.line.loss,
                report.line.lr,
                report.line.grad_norm,
                report.tokens_per_second
            );
        }
        losses.push(report.line.loss);
        ControlFlow::Continue(())
    })
    .unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let tokens = steps as f64 * 2_048.0;
    println!(
        "{} parameters, {steps} steps in {seconds:.1} s, {:.0} tokens/s",
        summary.parameters,
        tokens / seconds
    );
    assert!(losses[0] > 8.0 && losses[losses.len() - 1] < 6.0, "{losses:?}");

    let model = LanguageModel::load(&root.path().join("run").join(FINAL_FOLDER)).unwrap();
    let mut scorer = ModelScorer::new(&model, &encoder).unwrap();
    let result = perplexity(&mut scorer, &held_out[..100]).unwrap();
    println!("held-out perplexity {:.1} a token, {:.3} bits a byte", result.per_token, result.bits_per_byte);
    assert!(result.per_token < 400.0);
    let report = cloze(&mut scorer, &parse_cloze(SAMPLE_ITEMS, Path::new("sample")).unwrap()).unwrap();
    println!("cloze sample: {report:?}");
    if let Some(peak) = peak_mebibytes() {
        println!("peak memory {peak} MiB");
        assert!(peak < 500);
    }
}
