//! The way from texts to an exported model, at the sample's size.
//!
//! With `CORPUSMITH_TRAIN_OUT` set, the run's folder is left there, for `check_export.py`, `check_gguf.py`,
//! `token_files.py` and `tensorboard_events.py` in `tests/parity/`.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use model::chat::ChatFormat;
use model::config::Preset;
use model::evaluate::{GgufScorer, ModelScorer, SAMPLE_ITEMS, Scorer, cloze, parse_cloze, perplexity};
use model::examples::Examples;
use model::export::{ExportOptions, GgufFormat, ModelUse, export, export_gguf};
use model::infer::{
    Engine, EngineOptions, FinishReason, GenerateRequest, Message, Model, ModelOptions as InferOptions, Role,
};
use model::language_model::LanguageModel;
use model::pretrain::{Ending, FINAL_FOLDER, PretrainOptions, pretrain};
use model::sft::{ConversationColumns, ConversationWriter, SftOptions, sft};
use model::shards::{Shard, ShardSetWriter, TokenDataset, Verify, write_datatrove, write_megatron};
use model::tokenizer::{TokenizerOptions, train};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    let first = Shard::open(&shards[0], Verify::Everything).unwrap();
    write_datatrove(&first, &root.join("tokens.ds"), "tokenizer").unwrap();
    write_megatron(&first, &root.join("megatron.bin")).unwrap();

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
    let tokens = &encoder.encode(&held_out[0]).unwrap()[..48];
    write_expected(&root, &model, tokens);

    // The same model as GGUF, in the engine: coarser numbers cost little.
    let sequences: Vec<Vec<u32>> =
        held_out.iter().map(|text| encoder.encode(text).unwrap()[..60].to_vec()).collect();
    let mean = |losses: Vec<Vec<f32>>| losses.concat().iter().sum::<f32>() / losses.concat().len() as f32;
    let exact = mean(scorer.losses(&sequences).unwrap());
    for (name, format, most) in [
        ("f32", GgufFormat::F32, 0.001),
        ("f16", GgufFormat::F16, 0.001),
        ("q8_0", GgufFormat::Q8_0, 0.005),
        ("q4_0", GgufFormat::Q4_0, 0.1),
        ("q4_1", GgufFormat::Q4_1, 0.1),
        ("q4_k_m", GgufFormat::Q4_K_M, 0.05),
    ] {
        let file = root.join(format!("model-{name}.gguf"));
        let bytes = export_gguf(&ExportOptions::default(), format, &exported, &tokenizer_dir, &file).unwrap();
        let runs = Model::load(&file, &InferOptions::default()).unwrap();
        assert_eq!(runs.tokenizer().encode_plain(&held_out[0]), encoder.encode(&held_out[0]).unwrap());
        let coarse = mean(GgufScorer::new(&runs).losses(&sequences).unwrap());
        println!("{name}: {bytes} bytes, {coarse:.4} nats a token instead of {exact:.4}");
        assert!((coarse - exact).abs() < most, "{name}: {coarse} against {exact}");
    }
}

#[test]
fn a_fine_tuned_model_gives_the_answers_it_was_taught() {
    let root = tempfile::tempdir().unwrap();
    let tokenizer_dir = root.path().join("tokenizer");
    let options = TokenizerOptions { vocab_size: 512, ..Default::default() };
    let encoder = train(&options, texts(), &tokenizer_dir).unwrap();
    let mut shard =
        ShardSetWriter::create(&root.path().join("shards"), 512, encoder.digest(), 1 << 20).unwrap();
    for text in &texts()[..200] {
        shard.push(&encoder.encode(text).unwrap()).unwrap();
    }
    let shards: Vec<PathBuf> = shard.finish().unwrap().into_iter().map(|shard| shard.path).collect();
    let mut options = PretrainOptions::published(Preset::Sample);
    options.model.vocab_size = Some(512);
    options.model.layers = Some(2);
    options.model.context_tokens = Some(64);
    let options =
        PretrainOptions { context_tokens: 64, steps: 10, warmup_steps: 2, cooldown_steps: 2, ..options };
    let dataset = TokenDataset::single(&shards, 64, 1).unwrap();
    let base = root.path().join("base");
    pretrain(&options, &dataset, &base, &mut |_| ControlFlow::Continue(())).unwrap();

    // What each does is not to be guessed from the question.
    let facts = [
        ("the baker", "measures seven maps"),
        ("a young pilot", "counts small stones"),
        ("the old clock", "follows a long bridge"),
        ("every river", "carries the morning light"),
        ("my neighbour", "repairs a warm loaf"),
        ("the robot", "describes the heavy boxes"),
    ];
    let question = |who: &str| format!("What does {who} do?");
    let rows = (0..120).map(|i| facts[i % 6]);
    let (questions, answers): (Vec<String>, Vec<String>) =
        rows.map(|(who, what)| (question(who), format!("{who} {what}."))).unzip();
    let batch = RecordBatch::try_from_iter([
        ("question", Arc::new(StringArray::from(questions)) as ArrayRef),
        ("answer", Arc::new(StringArray::from(answers))),
    ])
    .unwrap();
    let examples = root.path().join("examples");
    let chat = ChatFormat::load(&encoder).unwrap();
    let mut writer =
        ConversationWriter::create(&examples, &encoder, chat, ConversationColumns::default(), 64).unwrap();
    writer.push(&batch).unwrap();
    assert_eq!(writer.finish().unwrap().examples, 120);
    let options =
        SftOptions { length_tokens: 64, batch_packs: 8, epochs: 12, lr: 3e-3, ..SftOptions::default() };
    let tuned = root.path().join("tuned");
    let mut losses = Vec::new();
    let examples = Examples::open(&examples).unwrap();
    sft(&options, &base.join(FINAL_FOLDER), &examples, &tuned, &mut |report| {
        losses.push(report.line.loss);
        ControlFlow::Continue(())
    })
    .unwrap();
    println!("loss from {:.3} to {:.4} in {} steps", losses[0], losses[losses.len() - 1], losses.len());

    let file = root.path().join("chat.gguf");
    let options = ExportOptions { model_use: ModelUse::Chat, ..Default::default() };
    export_gguf(&options, GgufFormat::Q8_0, &tuned.join(FINAL_FOLDER), &tokenizer_dir, &file).unwrap();
    let model = Arc::new(Model::load(&file, &InferOptions::default()).unwrap());
    let engine = Engine::new(model, &EngineOptions::default()).unwrap();
    for (who, what) in facts {
        let mut request = GenerateRequest::chat([Message { role: Role::User, content: question(who) }]);
        request.sampling.temperature = 0.0;
        request.sampling.repetition_penalty = 1.0;
        request.max_new_tokens = 24;
        let answer = futures::executor::block_on(engine.generate(request)).unwrap();
        assert_eq!(
            (answer.text.as_str(), answer.finish_reason),
            (&*format!("{who} {what}."), FinishReason::Stop)
        );
    }
}

/// Logits for the parity script to compare with.
fn write_expected(root: &Path, model: &LanguageModel, tokens: &[u32]) {
    let logits = model.network.logits(&model.parameters, tokens).unwrap();
    let text = format!("{{\"tokens\": {tokens:?}, \"logits\": {logits:?}}}");
    std::fs::write(root.join("expected.json"), text).unwrap();
}
