//! The way from texts to an exported model, at the sample's size.
//!
//! With `CORPUSMITH_TRAIN_OUT` set, the run's folder is left there, for `tests/parity/check_export.py`.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use model::config::Preset;
use model::evaluate::{ModelScorer, SAMPLE_ITEMS, cloze, parse_cloze, perplexity};
use model::export::{ExportOptions, export};
use model::language_model::LanguageModel;
use model::pretrain::{Ending, FINAL_FOLDER, PretrainOptions, pretrain};
use model::shards::{ShardSetWriter, TokenDataset};
use model::tokenizer::{TokenizerOptions, train};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Sentences of a small grammar: enough regularity for the loss to fall, made here and nowhere copied.
fn texts() -> Vec<String> {
    let subjects =
        ["The baker", "A young pilot", "The old clock", "Every river", "My neighbour", "The robot"];
    let verbs = ["measures", "repairs", "describes", "follows", "carries", "counts"];
    let objects = [
        "the heavy boxes",
        "a long bridge",
        "small stones",
        "the morning light",
        "seven maps",
        "a warm loaf",
    ];
    let places =
        ["near the harbour", "in the workshop", "at night", "without a word", "before lunch", "in 1984"];
    let mut texts = Vec::new();
    for i in 0..1_500usize {
        let mut text = String::new();
        for j in 0..12usize {
            let pick = |list: &[&str; 6], salt: usize| {
                list[(i * (salt + 3) + j * (salt + 7) + i * j) % 6].to_owned()
            };
            text += &format!(
                "{} {} {} {}. ",
                pick(&subjects, 1),
                pick(&verbs, 2),
                pick(&objects, 3),
                pick(&places, 4)
            );
        }
        texts.push(text);
    }
    texts
}

#[test]
fn texts_become_a_model_that_predicts_and_exports() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("CORPUSMITH_TRAIN_OUT").map_or(temporary.path().to_path_buf(), PathBuf::from);
    let texts = texts();
    let (held_out, training) = texts.split_at(50);

    let tokenizer_dir = root.join("tokenizer");
    let encoder =
        train(&TokenizerOptions { vocab_size: 512, ..Default::default() }, training, &tokenizer_dir).unwrap();
    let mut shards =
        ShardSetWriter::create(&root.join("shards"), encoder.vocab_size(), encoder.digest(), 40_000).unwrap();
    for text in training {
        shards.push(&encoder.encode(text).unwrap()).unwrap();
    }
    let shards: Vec<PathBuf> = shards.finish().unwrap().into_iter().map(|shard| shard.path).collect();
    assert!(shards.len() > 1);

    let mut options = PretrainOptions::published(Preset::Sample);
    options.model.vocab_size = Some(512);
    options.model.layers = Some(2);
    options.model.context_tokens = Some(64);
    options =
        PretrainOptions { context_tokens: 64, steps: 40, warmup_steps: 5, cooldown_steps: 10, ..options };
    let dataset = TokenDataset::single(&shards, 64, 1).unwrap();
    let mut losses = Vec::new();
    let run = root.join("run");
    let summary = pretrain(&options, &dataset, &run, &mut |report| {
        losses.push(report.line.loss);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(summary.ending, Ending::Finished);
    assert!(losses[0] > 6.0 && losses[39] < 3.0, "from {} to {}", losses[0], losses[39]);

    let exported = root.join("export");
    export(&ExportOptions::default(), &run.join(FINAL_FOLDER), &tokenizer_dir, &exported).unwrap();
    let model = LanguageModel::load(&exported).unwrap();
    let mut scorer = ModelScorer::new(&model, &encoder).unwrap();
    let result = perplexity(&mut scorer, held_out).unwrap();
    assert!(result.per_token < 20.0 && result.per_byte < 3.0, "{result:?}");
    let items = parse_cloze(SAMPLE_ITEMS, Path::new("cloze_sample.jsonl")).unwrap();
    let report = cloze(&mut scorer, &items).unwrap();
    assert_eq!(report.items, items.len());
    write_expected(&root, &model, &encoder.encode(&held_out[0]).unwrap()[..48]);
}

/// Logits for the parity script to compare with.
fn write_expected(root: &Path, model: &LanguageModel, tokens: &[u32]) {
    let logits = model.network.logits(&model.parameters, tokens).unwrap();
    let text = format!("{{\"tokens\": {tokens:?}, \"logits\": {logits:?}}}");
    std::fs::write(root.join("expected.json"), text).unwrap();
}
