// An example with one trained range is meant, not a `Vec` of the range's numbers.
#![allow(clippy::single_range_in_vec_init)]

use super::objective::Answers;
use super::*;
use crate::chat::{CHAT_ML, ChatFormat};
use crate::checkpoint;
use crate::config::{ModelOptions, Preset};
use crate::examples::{Example, ExampleWriter};
use crate::kernels::Cpu;
use crate::network::Network;
use crate::testing::{assert_same, gradient, model_folder, tiny_config};
use crate::tokenizer::{Encoder, TokenizerOptions, train};
use crate::training::{Objective, Update};
use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use std::collections::HashMap;
use std::sync::Arc;

/// Pairs, weights, log-probabilities, rewards, loss and gradients, by `tests/parity/golden_dpo.py`.
fn golden() -> HashMap<String, Vec<f32>> {
    let bytes =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden_dpo.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats =
        |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    file.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect()
}

fn close(name: &str, got: f64, want: f32, tolerance: f64) {
    assert!((got - f64::from(want)).abs() < tolerance, "{name}: {got} against {want}");
}

#[test]
fn loss_rewards_and_gradients_are_those_of_torch() {
    let golden = golden();
    let network = Network::new(
        crate::config::ModelConfig {
            context_tokens: 16,
            layers: 1,
            intermediate_size: 20,
            vocab_size: 37,
            ..tiny_config()
        },
        Cpu,
    )
    .unwrap();
    let weights = |prefix: &str| -> Vec<f32> {
        let tensors = network.layout().tensors().iter();
        tensors.flat_map(|tensor| golden[&format!("{prefix}.{}", tensor.name)].clone()).collect()
    };
    let root = tempfile::tempdir().unwrap();
    let mut writer = ExampleWriter::create(root.path(), 37, [0; 32]).unwrap();
    for pair in 0..3 {
        let tokens =
            |part: &str| golden[&format!("{pair}.{part}")].iter().map(|&t| t as u32).collect::<Vec<_>>();
        for answer in ["chosen", "rejected"] {
            let prompt = tokens("prompt");
            let whole = [prompt.clone(), tokens(answer)].concat();
            let trained = vec![prompt.len()..whole.len()];
            writer.push(&Example { tokens: whole, trained }).unwrap();
        }
    }
    writer.finish().unwrap();
    let pairs = Examples::open(root.path()).unwrap();
    let beta = f64::from(golden["beta"][0]);

    // The reference pass.
    let options = DpoOptions { beta, batch_pairs: 3, micro_batch_tokens: 30, ..DpoOptions::default() };
    let pool = training::thread_pool(2).unwrap();
    let folder = root.path().join("reference");
    let mut calls = 0;
    let mut compute = |weights: &[f32]| {
        let reference = reference::log_probabilities(
            &options,
            &network,
            weights,
            &pairs,
            "digest",
            &folder,
            &pool,
            &mut |done, answers| {
                calls += 1;
                assert_eq!((done, answers), (6, 6));
                ControlFlow::Continue(())
            },
        );
        reference.unwrap().unwrap()
    };
    let reference = compute(&weights("reference"));
    let rows: Vec<&[f32]> = golden["rows"].chunks(7).collect();
    for (pair, row) in rows.iter().enumerate() {
        close("reference chosen", reference[2 * pair], row[2], 2e-5);
        close("reference rejected", reference[2 * pair + 1], row[3], 2e-5);
    }
    // They are computed once: other weights under the same name read what is there.
    assert_eq!(compute(&weights("weight")), reference);
    assert_eq!(calls, 1);

    for micro_batch_tokens in [1, 30, 1_000] {
        let options = DpoOptions { micro_batch_tokens, ..options.clone() };
        let mut objective = Preferences::new(&options, &pairs, reference.clone(), "digest");
        let parameters = weights("weight");
        let (data, grads) = gradient(&mut objective, &network, &parameters);
        close("loss", data.loss, golden["loss"][0], 1e-6);
        let line = objective.line(&Update { step: 1, tokens: data.tokens, lr: 0.0, grad_norm: 0.0 }, &data);
        let mean = |column: usize| rows.iter().map(|row| row[column]).sum::<f32>() / 3.0;
        close("chosen", line.chosen_log_probability, mean(0), 2e-5);
        close("rejected", line.rejected_log_probability, mean(1), 2e-5);
        close("chosen reward", line.chosen_reward, mean(4), 1e-5);
        close("rejected reward", line.rejected_reward, mean(5), 1e-5);
        close("margin", line.margin, mean(4) - mean(5), 1e-5);
        let right = rows.iter().filter(|row| row[4] > row[5]).count();
        assert_eq!(line.accuracy, right as f64 / 3.0);
        assert_eq!(line.tokens, 5 + 4 + 5 + 6 + 2 + 7 + 2 + 1 + 9 + 3 + 9 + 3);
        for tensor in network.layout().tensors() {
            let want = &golden[&format!("grad.{}", tensor.name)];
            let scale = want.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
            for (got, want) in grads[tensor.range.clone()].iter().zip(want) {
                assert!((got - want).abs() < 1e-5 * scale, "{}: {got} against {want}", tensor.name);
            }
        }
    }
}

#[test]
fn the_places_of_an_answer_are_those_that_predict_it() {
    let mut rows = Answers::new();
    rows.push(&Example { tokens: vec![1, 2, 3, 4], trained: vec![2..4] });
    rows.push(&Example { tokens: vec![5, 6, 7], trained: vec![0..1, 1..3] });
    assert_eq!(
        (rows.bounds, rows.tokens, rows.targets),
        (vec![0, 3, 5], vec![1, 2, 3, 5, 6], vec![2, 3, 4, 6, 7])
    );
    assert_eq!(rows.answers, [1..3, 3..5]);
}

fn encoder(folder: &Path) -> Encoder {
    let options = TokenizerOptions { vocab_size: 300, min_frequency: 1, ..Default::default() };
    train(&options, ["system user assistant good bad question"], folder).unwrap()
}

fn write(
    folder: &Path,
    encoder: &Encoder,
    lengths: (usize, usize),
    batches: &[RecordBatch],
) -> PreferenceSummary {
    let chat = ChatFormat::from_template(encoder, CHAT_ML).unwrap();
    let columns = PreferenceColumns::default();
    let mut writer = PreferenceWriter::create(folder, encoder, chat, columns, lengths.0, lengths.1).unwrap();
    batches.iter().for_each(|batch| writer.push(batch).unwrap());
    writer.finish().unwrap()
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The text of what is trained on in each example.
fn answers(encoder: &Encoder, folder: &Path) -> Vec<String> {
    let examples = Examples::open(folder).unwrap();
    let answer = |number| {
        let example: Example = examples.get(number);
        assert_eq!(example.trained.len(), 1);
        encoder.decode(&example.tokens[example.trained[0].clone()]).unwrap()
    };
    (0..examples.len()).map(answer).collect()
}

#[test]
fn rated_answers_become_pairs_across_batches() {
    let root = tempfile::tempdir().unwrap();
    let encoder = encoder(root.path());
    let rated = |prompts: &[&str], responses: &[&str], ratings: &[i64]| {
        batch(vec![
            ("prompt", texts(prompts)),
            ("response", texts(responses)),
            ("helpfulness", Arc::new(Int64Array::from(ratings.to_vec())) as ArrayRef),
        ])
    };
    let folder = root.path().join("pairs");
    let batches = [
        rated(&["a", "a", "b", "b", "c"], &["good", "bad", "x", "y", "mid"], &[4, 1, 2, 2, 3]),
        rated(&["c", "c", "c"], &["low", "best", "also best"], &[0, 4, 4]),
    ];
    let summary = write(&folder, &encoder, (64, 32), &batches);
    assert_eq!(answers(&encoder, &folder), ["good", "bad", "best", "mid", "best", "low"]);
    assert_eq!((summary.rows, summary.pairs, summary.truncated), (8, 3, 0));
    assert_eq!(summary.skipped, [("tie".to_owned(), 1)].into());
}

fn conversation(turns: &[&[(&str, &str)]]) -> ArrayRef {
    let flat: Vec<(&str, &str)> = turns.concat();
    let (roles, contents): (Vec<&str>, Vec<&str>) = flat.into_iter().unzip();
    let fields: Fields =
        vec![Field::new("content", DataType::Utf8, true), Field::new("role", DataType::Utf8, true)].into();
    let items = StructArray::new(fields.clone(), vec![texts(&contents), texts(&roles)], None);
    let offsets = OffsetBuffer::from_lengths(turns.iter().map(|list| list.len()));
    let item = Arc::new(Field::new("item", DataType::Struct(fields), true));
    Arc::new(ListArray::new(item, offsets, Arc::new(items), None))
}

#[test]
fn message_lists_and_plain_pairs_are_read_cut_and_counted() {
    let root = tempfile::tempdir().unwrap();
    let encoder = encoder(root.path());
    let user = ("user", "question");
    let chosen = conversation(&[
        &[user, ("assistant", "first"), ("user", "more"), ("assistant", "good")],
        &[user, ("assistant", "same")],
        &[("user", "other"), ("assistant", "good")],
        &[user, ("tool", "42")],
        &[user, ("assistant", " ")],
    ]);
    let rejected = conversation(&[
        &[user, ("assistant", "first"), ("user", "more"), ("assistant", "bad")],
        &[user, ("assistant", "same")],
        &[user, ("assistant", "bad")],
        &[user, ("assistant", "bad")],
        &[user, ("assistant", "bad")],
    ]);
    let lists = root.path().join("lists");
    let summary =
        write(&lists, &encoder, (64, 48), &[batch(vec![("chosen", chosen), ("rejected", rejected)])]);
    assert_eq!(answers(&encoder, &lists), ["good", "bad"]);
    let reasons = ["empty", "equal", "prompts_differ", "unknown_role"].map(|reason| (reason.to_owned(), 1));
    assert_eq!(summary.skipped, reasons.into());

    let plain = root.path().join("plain");
    let long = "word ".repeat(40);
    let columns = vec![
        ("prompt", texts(&["question", &long])),
        ("chosen", texts(&["good", &format!("good {long}")])),
        ("rejected", texts(&["bad", &format!("bad {long}")])),
    ];
    let summary = write(&plain, &encoder, (32, 8), &[batch(columns)]);
    assert_eq!((summary.pairs, summary.truncated), (2, 2));
    let examples = Examples::open(&plain).unwrap();
    let long = examples.get(2);
    assert_eq!((long.tokens.len(), long.trained.clone()), (32, vec![8..32]));
    // The prompt has lost its beginning, not the point at which the assistant speaks.
    assert!(encoder.decode(&long.tokens[..8]).unwrap().ends_with("\nassistant\n"), "{long:?}");
}

#[test]
fn the_margin_grows_and_runs_resume_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let encoder = encoder(root.path());
    let pairs_folder = root.path().join("pairs");
    let prompts: Vec<String> = (0..10).map(|i| format!("question {i}")).collect();
    let columns = vec![
        ("prompt", texts(&prompts.iter().map(String::as_str).collect::<Vec<_>>())),
        ("chosen", texts(&["good"; 10])),
        ("rejected", texts(&["bad"; 10])),
    ];
    write(&pairs_folder, &encoder, (64, 32), &[batch(columns)]);
    let pairs = Examples::open(&pairs_folder).unwrap();
    let model = root.path().join("model");
    let options =
        ModelOptions { preset: Preset::Sample, vocab_size: Some(300), layers: Some(1), ..Default::default() };
    model_folder(&model, options.resolve().unwrap());
    let options = DpoOptions {
        batch_pairs: 4,
        epochs: 3,
        lr: 1e-3,
        length_tokens: 64,
        prompt_tokens: 32,
        micro_batch_tokens: 100,
        checkpoint_every_steps: 3,
        threads: 2,
        ..DpoOptions::default()
    };
    assert_eq!(options.steps(&pairs), 9);
    let run = |name: &str, threads: usize, stop: u64| {
        let (mut lines, mut referred) = (Vec::new(), 0);
        let options = DpoOptions { threads, ..options.clone() };
        let summary = dpo(&options, &model, &pairs, &root.path().join(name), &mut |report| match report {
            DpoReport::Reference { done, answers } => {
                assert_eq!((done, answers), (20, 20));
                referred += 1;
                if stop == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            DpoReport::Step(report) => {
                lines.push(report.line);
                if report.step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
        });
        (summary.unwrap(), lines, referred)
    };
    let (summary, lines, referred) = run("whole", 2, u64::MAX);
    assert_eq!((summary.ending, summary.step, referred), (Ending::Finished, 9, 1));
    // Nothing has moved before the first update.
    assert!(
        (lines[0].loss - std::f64::consts::LN_2).abs() < 1e-4 && lines[0].margin.abs() < 1e-4,
        "{:?}",
        lines[0]
    );
    let last = &lines[8];
    assert!(last.accuracy == 1.0 && last.margin > 0.02 && last.loss < 0.69, "{last:?}");
    assert!((last.margin - (last.chosen_reward - last.rejected_reward)).abs() < 1e-12);

    for (threads, stop, ending) in [(1, 0, 0), (3, 2, 2), (2, 5, 5), (1, u64::MAX, 9)] {
        let (summary, _, referred) = run("stopped", threads, stop);
        assert_eq!((summary.step, referred), (ending, u64::from(stop == 0)));
    }
    assert_same(&root.path().join("whole"), &root.path().join("stopped"));
    assert_eq!(checkpoint::list(&root.path().join("whole")).unwrap(), [6, 9]);

    let other = DpoOptions { beta: 0.1, ..options };
    let error = dpo(&other, &model, &pairs, &root.path().join("whole"), &mut |_| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("beta was 0.05, is 0.1"));
}
