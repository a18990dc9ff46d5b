use super::*;
use crate::chat::ChatFormat;
use crate::checkpoint;
use crate::config::{ModelOptions, Preset};
use crate::testing::{assert_same, gradient, model_folder};
use crate::tokenizer::{Encoder, TokenizerOptions, train};
use crate::training::{Ending, FINAL_FOLDER, LOSS_FILE};
use arrow::array::{ArrayRef, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use std::sync::Arc;

fn encoder(folder: &Path) -> Encoder {
    let options = TokenizerOptions { vocab_size: 300, min_frequency: 1, ..Default::default() };
    train(&options, ["system user assistant what is the capital of it"], folder).unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn write(
    folder: &Path,
    encoder: &Encoder,
    columns: ConversationColumns,
    length_tokens: usize,
    batches: &[RecordBatch],
) -> Result<ConversationSummary, ConversationError> {
    let chat = ChatFormat::load(encoder)?;
    let mut writer = ConversationWriter::create(folder, encoder, chat, columns, length_tokens)?;
    for batch in batches {
        writer.push(batch)?;
    }
    writer.finish()
}

/// `count` short conversations of different lengths.
fn conversations(folder: &Path, encoder: &Encoder, count: usize) -> Examples {
    let questions: Vec<String> = (0..count).map(|i| format!("what is {}", "it ".repeat(i % 7))).collect();
    let answers: Vec<String> = (0..count).map(|i| "the capital ".repeat(1 + i % 4)).collect();
    let columns = vec![
        ("question", Arc::new(StringArray::from(questions)) as ArrayRef),
        ("answer", Arc::new(StringArray::from(answers)) as ArrayRef),
    ];
    write(folder, encoder, ConversationColumns::default(), 64, &[batch(columns)]).unwrap();
    Examples::open(folder).unwrap()
}

fn options() -> SftOptions {
    SftOptions {
        length_tokens: 64,
        batch_packs: 4,
        epochs: 2,
        lr: 3e-3,
        micro_batch_tokens: 100,
        checkpoint_every_steps: 4,
        threads: 2,
        ..SftOptions::default()
    }
}

fn model(folder: &Path) {
    let options = ModelOptions {
        preset: Preset::Sample,
        vocab_size: Some(300),
        layers: Some(2),
        context_tokens: Some(64),
        ..Default::default()
    };
    model_folder(folder, options.resolve().unwrap());
}

#[test]
fn published_schemas_are_read_whatever_the_text_type() {
    let root = tempfile::tempdir().unwrap();
    let encoder = encoder(root.path());
    let (questions, answers) =
        (vec![Some("what"), None, Some(" ")], vec![Some("it"), Some("it"), Some("it")]);
    let web: Vec<(&str, ArrayRef)> = vec![
        ("orig_question", Arc::new(StringArray::from(vec!["", "", ""]))),
        ("question", Arc::new(StringViewArray::from(questions.clone()))),
        ("answer", Arc::new(LargeStringArray::from(answers.clone()))),
    ];
    let code: Vec<(&str, ArrayRef)> = vec![
        ("instruction", Arc::new(StringArray::from(questions))),
        ("response", Arc::new(StringArray::from(answers))),
    ];
    for (name, columns) in [("web", web), ("code", code)] {
        let folder = root.path().join(name);
        let summary =
            write(&folder, &encoder, ConversationColumns::default(), 64, &[batch(columns)]).unwrap();
        assert_eq!((summary.rows, summary.examples), (3, 1));
        assert_eq!(summary.skipped, [("empty".to_owned(), 2)].into());
        let example = Examples::open(&folder).unwrap().get(0);
        assert_eq!(summary.tokens, example.tokens.len() as u64);
        assert_eq!(encoder.decode(&example.tokens).unwrap(), "user\nwhat\nassistant\nit");
        assert_eq!(encoder.decode(&example.tokens[example.trained[0].clone()]).unwrap(), "it");
    }
    let texts: Vec<(&str, ArrayRef)> = vec![("text", Arc::new(StringArray::from(vec!["a"])))];
    let folder = root.path().join("none");
    let error = write(&folder, &encoder, ConversationColumns::default(), 64, &[batch(texts.clone())]);
    assert!(error.unwrap_err().to_string().ends_with("the columns are text"));
    let columns = ConversationColumns { question: Some("text".into()), ..Default::default() };
    let error = write(&folder, &encoder, columns, 64, &[batch(texts)]).unwrap_err().to_string();
    assert!(error.contains("no column answer; the columns are text"), "{error}");
}

#[test]
fn long_conversations_lose_their_end_or_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    let encoder = encoder(root.path());
    let long = "the capital of it ".repeat(40);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("question", Arc::new(StringArray::from(vec!["what", long.as_str()]))),
        ("answer", Arc::new(StringArray::from(vec![long.as_str(), "it"]))),
    ];
    let folder = root.path().join("long");
    let summary = write(&folder, &encoder, ConversationColumns::default(), 32, &[batch(columns)]).unwrap();
    assert_eq!((summary.examples, summary.truncated), (1, 1));
    assert_eq!(summary.skipped, [("no_answer".to_owned(), 1)].into());
    assert_eq!(Examples::open(&folder).unwrap().tokens(0), 33);
}

#[test]
fn packs_hold_every_conversation_once_an_epoch() {
    let root = tempfile::tempdir().unwrap();
    let encoder = encoder(root.path());
    let examples = conversations(&root.path().join("examples"), &encoder, 50);
    let packs = Packs::new(&options(), &examples);
    let steps = packs.steps();
    assert_eq!(options().steps(&examples), steps);
    let mut seen = vec![0; 50];
    let mut orders = Vec::new();
    for step in 0..steps {
        for places in packs.of_step(step) {
            let numbers: Vec<usize> = places.map(|place| packs.example(place)).collect();
            let tokens: usize = numbers.iter().map(|&number| examples.tokens(number) - 1).sum();
            assert!(!numbers.is_empty() && tokens <= 64, "{numbers:?}");
            numbers.iter().for_each(|&number| seen[number] += 1);
            orders.extend(numbers);
        }
    }
    assert_eq!(seen, [2; 50]);
    assert_ne!(orders[..50], orders[50..]);
}

#[test]
fn the_loss_is_the_mean_over_the_assistants_tokens_alone() {
    let root = tempfile::tempdir().unwrap();
    let encoder = encoder(root.path());
    let examples = conversations(&root.path().join("examples"), &encoder, 9);
    model(&root.path().join("model"));
    let LanguageModel { network, parameters } = LanguageModel::load(&root.path().join("model")).unwrap();
    let options = SftOptions { batch_packs: 100, epochs: 1, ..options() };

    // By hand: each conversation alone, through the logits.
    let (mut sum, mut count) = (0.0, 0);
    for number in 0..9 {
        let example = examples.get(number);
        let logits = network.logits(&parameters, &example.tokens).unwrap();
        for token in example.trained.iter().flat_map(Clone::clone) {
            let row = &logits[(token - 1) * 300..token * 300];
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            sum += total.ln() - f64::from(row[example.tokens[token] as usize]);
            count += 1;
        }
    }
    let mut losses = Vec::new();
    let mut gradients = Vec::new();
    for micro_batch_tokens in [1, 10_000] {
        let options = SftOptions { micro_batch_tokens, ..options.clone() };
        let mut objective = AssistantTokens::new(&options, &examples, Packs::new(&options, &examples), "");
        let (data, grads) = gradient(&mut objective, &network, &parameters);
        assert_eq!(data.figures, count);
        losses.push(data.loss);
        gradients.push(grads);
    }
    for loss in losses {
        assert!((loss - sum / count as f64).abs() < 1e-5, "{loss} against {}", sum / count as f64);
    }
    let largest = gradients[0].iter().fold(0f32, |a, b| a.max(b.abs()));
    let apart = gradients[0].iter().zip(&gradients[1]).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
    assert!(largest > 1e-3 && apart < 1e-5 * largest.max(1.0), "{apart} of {largest}");
}

#[test]
fn the_loss_falls_and_runs_resume_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let encoder = encoder(root.path());
    let examples = conversations(&root.path().join("examples"), &encoder, 60);
    let start = root.path().join("model");
    model(&start);
    let run = |name: &str, threads: usize, stop: u64| {
        let mut lines = Vec::new();
        let options = SftOptions { threads, ..options() };
        let summary = sft(&options, &start, &examples, &root.path().join(name), &mut |report| {
            lines.push(report.line);
            if report.step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (summary.unwrap(), lines)
    };
    let (summary, lines) = run("whole", 2, 0);
    let steps = options().steps(&examples);
    assert_eq!((summary.ending, summary.step), (Ending::Finished, steps));
    assert_eq!(lines.len() as u64, steps);
    assert!(lines[steps as usize - 1].loss < lines[0].loss - 1.0, "{lines:?}");
    assert_eq!(summary.tokens, lines[steps as usize - 1].tokens);
    assert!(lines.iter().all(|line| line.trained_tokens > 0 && line.trained_tokens < line.tokens));
    let written = std::fs::read_to_string(root.path().join("whole").join(LOSS_FILE)).unwrap();
    let written: Vec<SftLine> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written, lines);

    for (threads, stop) in [(1, 1), (3, 6), (2, 0)] {
        run("stopped", threads, stop);
    }
    assert_same(&root.path().join("whole"), &root.path().join("stopped"));
    LanguageModel::load(&root.path().join("whole").join(FINAL_FOLDER)).unwrap();
    assert_eq!(checkpoint::list(&root.path().join("whole")).unwrap().last(), Some(&steps));

    // Another model to start from is another run.
    let other = root.path().join("other");
    model(&other);
    let mut weights = std::fs::read(other.join("model.safetensors")).unwrap();
    let last = weights.len() - 1;
    weights[last] ^= 1;
    std::fs::write(other.join("model.safetensors"), weights).unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let error = sft(&options(), &other, &examples, &root.path().join("whole"), go_on).unwrap_err();
    assert!(error.to_string().contains("weights was"), "{error}");
    let short = SftOptions { length_tokens: 65, ..options() };
    let error = sft(&short, &start, &examples, &root.path().join("x"), go_on).unwrap_err();
    assert!(error.to_string().contains("up to 65, the model 64"), "{error}");
}
