use super::*;
use crate::config::ModelConfig;
use crate::evaluate::Figure;
use crate::infer::EngineOptions;
use crate::sandbox::{SandboxError, SandboxOptions};
use crate::testing::{model_folder, tiny_config};
use crate::tokenizer::{TokenizerOptions, train};
use serde_json::json;

/// Answers by rule; keeps the requests.
struct Canned<F> {
    answer: F,
    asked: Vec<AnswerRequest>,
}

impl<F: Fn(usize, &AnswerRequest) -> String> Generator for Canned<F> {
    fn answers(
        &mut self,
        requests: &[AnswerRequest],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<String>>, EvaluateError> {
        self.asked = requests.to_vec();
        let answers = requests.iter().enumerate().map(|(index, request)| (self.answer)(index, request));
        let answers = answers.collect();
        Ok(progress(requests.len()).is_continue().then_some(answers))
    }
}

type Asked = (GenerationReport, Vec<AnsweredItem>, Vec<AnswerRequest>);

/// Asks a named task.
fn ask(
    name: &str,
    rows: &[serde_json::Value],
    examples: &[serde_json::Value],
    answer: impl Fn(usize, &AnswerRequest) -> String,
) -> Result<Asked, EvaluateError> {
    let task = GenerationTask::named(name).unwrap().unwrap();
    let items = task.items(rows, examples)?;
    let mut generator = Canned { answer, asked: Vec::new() };
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let (report, answered) = task.run(&mut generator, &items, &GenerationOptions::default(), go_on)?.unwrap();
    Ok((report, answered, generator.asked))
}

#[track_caller]
fn values(report: &GenerationReport, wanted: &[(&str, f64)]) {
    let got: Vec<(&str, f64)> =
        report.figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
    assert_eq!(got, wanted);
}

#[test]
fn triviaqa_takes_any_of_the_names() {
    let row = |question: &str, aliases: &[&str]| {
        // The Hub's layout.
        json!({"question": question, "question_id": "tc_1", "entity_pages": {"title": []},
            "answer": {"aliases": aliases, "normalized_aliases": [], "value": aliases[0], "type": "WikipediaEntity"}})
    };
    let rows = [
        row("Which city lies on the Seine?", &["Paris", "City of Light"]),
        row("Who wrote Faust?", &["J. W. Goethe", "Goethe"]),
        row("What is H2O?", &["Water"]),
        row("What is Au?", &["Gold"]),
    ];
    let answer =
        |index: usize, _: &AnswerRequest| [" city of light", " Goethe!", " a water", ""][index].to_owned();
    let (report, answered, asked) = ask("triviaqa", &rows, &[], answer).unwrap();
    values(&report, &[("exact_match", 0.5)]);
    assert!((report.figures[0].stderr.unwrap() - (0.25f64 / 3.0).sqrt()).abs() < 1e-12);
    assert_eq!((report.items, report.samples), (4, 1));
    assert_eq!(answered[1].answers, [" Goethe!"]);
    assert_eq!(asked[0].prompt, "Question: Which city lies on the Seine?\nAnswer:");
    assert_eq!(asked[0].stop, ["\n", ".", ","]);
    assert_eq!((asked[0].max_new_tokens, asked[0].temperature, asked[0].form), (20, 0.0, Form::Text));
    let error = ask("triviaqa", &[rows[0].clone(), json!({"question": "x"})], &[], answer).unwrap_err();
    assert!(error.to_string().starts_with("task triviaqa: row 2: "), "{error}");
}

#[test]
fn gsm8k_is_asked_after_five_solved_problems() {
    let row = |n: usize| json!({"question": format!("What is {n} + 1?"), "answer": format!("It is.\n#### {}", n + 1)});
    let examples: Vec<_> = (10..20).map(row).collect();
    let rows: Vec<_> = (1_000..1_004).map(row).collect();
    let answers = [" So #### 1,001\n\n", " The sum is 1002.", " #### 7 and then 1003", " no idea"];
    let (report, _, asked) = ask("gsm8k", &rows, &examples, |index, _| answers[index].to_owned()).unwrap();
    values(&report, &[("strict", 0.25), ("flexible", 0.75)]);
    let solved: String =
        (10..15).map(|n| format!("Question: What is {n} + 1?\nAnswer: It is.\n#### {}\n\n", n + 1)).collect();
    assert_eq!(asked[3].prompt, format!("{solved}Question: What is 1003 + 1?\nAnswer:"));
    assert_eq!(asked[0].max_new_tokens, 256);
    let error = ask("gsm8k", &rows, &examples[..4], |_, _| String::new()).unwrap_err();
    assert!(error.to_string().contains("5 solved examples, and there are 4"), "{error}");
    let bad = [json!({"question": "x", "answer": "42"})];
    let error = ask("gsm8k", &bad, &examples, |_, _| String::new()).unwrap_err();
    assert!(error.to_string().contains("row 1") && error.to_string().contains("####"), "{error}");
}

#[test]
fn humaneval_counts_programs_that_pass() {
    let row = |name: &str, test: &str| {
        json!({"task_id": "t/0", "prompt": format!("\ndef {name}(x):\n    \"\"\" One more. \"\"\"\n"),
            "canonical_solution": "    return x + 1\n", "entry_point": name,
            "test": format!("\ndef check(candidate):\n    assert candidate(1) == 2\n    {test}\n")})
    };
    let rows = [row("more", "assert candidate(-1) == 0"), row("and_more", "assert candidate(2) == 3")];
    let answer = |index: usize, _: &AnswerRequest| {
        let right = "\n    return x + 1";
        // 5 of the first problem's 20 are right, and none of the second's.
        match index {
            0..5 => right.to_owned(),
            5 => format!("{right} +"),
            6 => "\n    import sys; sys.exit(0)".to_owned(),
            7 => "\n    import os; os._exit(0)".to_owned(),
            8 => "\n    return x + 1 if x > 0 else None".to_owned(),
            _ => "\n    pass".to_owned(),
        }
    };
    let (report, answered, asked) = match ask("humaneval", &rows, &[], answer) {
        Err(EvaluateError::Sandbox(error)) => {
            println!("not tested: {error}");
            return;
        }
        other => other.unwrap(),
    };
    assert_eq!((report.items, report.samples, asked.len()), (2, 20, 40));
    let pass = |k: usize| pass_at_k(20, 5, k).unwrap() / 2.0;
    values(&report, &[("pass@1", 0.125), ("pass@10", pass(10))]);
    // Problems are drawn, not answers: (0.25, 0) has a standard error of 0.125.
    assert!((report.figures[0].stderr.unwrap() - 0.125).abs() < 1e-12);
    assert_eq!(answered[0].shares[0], (0.25, 1.0));
    assert_eq!(asked[0].prompt, "def more(x):\n    \"\"\" One more. \"\"\"");
    assert_eq!((asked[0].temperature, asked[0].top_p), (0.2, 0.95));
    assert!(asked[0].stop.contains(&"\ndef".to_owned()));
    let seeds: std::collections::BTreeSet<u64> = asked.iter().map(|request| request.seed).collect();
    assert_eq!(seeds.len(), 40);
    assert_eq!(asked[20..].iter().map(|request| request.seed).collect::<Vec<_>>(), {
        let (_, _, alone) = ask("humaneval", &rows[1..], &[], answer).unwrap();
        alone.iter().map(|request| request.seed).collect::<Vec<_>>()
    });
}

#[test]
fn programs_are_refused_before_the_first_question() {
    let task = GenerationTask::named("humaneval").unwrap().unwrap();
    let row = json!({"prompt": "def f():", "test": "def check(f): pass", "entry_point": "f"});
    let items = task.items(&[row], &[]).unwrap();
    let sandbox = SandboxOptions { python: "/nonexistent/python3".into(), ..SandboxOptions::default() };
    let options = GenerationOptions { sandbox, ..GenerationOptions::default() };
    let mut generator = Canned { answer: |_, _: &AnswerRequest| panic!("it was asked"), asked: Vec::new() };
    let error =
        task.run(&mut generator, &items, &options, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    let known =
        |error: &SandboxError| matches!(error, SandboxError::Python { .. } | SandboxError::System { .. });
    assert!(matches!(&error, EvaluateError::Sandbox(error) if known(error)), "{error}");
}

/// Two prompts as published, one in the Hub's layout with all arguments in each row.
const PROMPTS: &str = r#"{"key": 1, "prompt": "Say it without commas, in at least 3 words.", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"], "kwargs": [{}, {"relation": "at least", "num_words": 3}]}
{"key": 2, "prompt": "Answer in a title.", "instruction_id_list": ["detectable_format:title"], "kwargs": [{"num_words": null, "relation": null, "keywords": null, "end_phrase": null}]}
{"key": 3, "prompt": "Answer in JSON.", "instruction_id_list": ["detectable_format:json_format"], "kwargs": [{"num_words": null}]}
"#;

#[test]
fn ifeval_tells_prompts_from_instructions_and_strict_from_loose() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ifeval.jsonl");
    std::fs::write(&path, PROMPTS).unwrap();
    let task = GenerationTask::named("ifeval").unwrap().unwrap();
    let items = task.read_jsonl(&path, None).unwrap();
    // A comma, but enough words; a title; JSON behind a first line, which the loose sense leaves out.
    let answers = ["one, two three", "<<A title>>", "Here it is:\n{\"a\": 1}"];
    let mut generator =
        Canned { answer: |index: usize, _: &AnswerRequest| answers[index].to_owned(), asked: Vec::new() };
    let options = GenerationOptions::default();
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let (report, _) = task.run(&mut generator, &items, &options, go_on).unwrap().unwrap();
    let third = 1.0 / 3.0;
    values(
        &report,
        &[
            ("prompt_strict", third),
            ("prompt_loose", 2.0 * third),
            ("instruction_strict", 0.5),
            ("instruction_loose", 0.75),
        ],
    );
    // Binary over 3 prompts; a ratio over 2, 1 and 1 instructions.
    let stderrs: Vec<f64> = report.figures.iter().filter_map(|figure| figure.stderr).collect();
    assert!((stderrs[0] - (2.0f64 / 9.0 / 2.0).sqrt()).abs() < 1e-12, "{stderrs:?}");
    assert!((stderrs[2] - (0.5f64 / 2.0 * 3.0).sqrt() / 4.0).abs() < 1e-12, "{stderrs:?}");
    let asked = &generator.asked[0];
    assert_eq!((asked.form, asked.max_new_tokens), (Form::Chat, 1_280));
    assert_eq!(asked.prompt, "Say it without commas, in at least 3 words.");
    // Stopped: no report.
    let stopped = task.run(&mut generator, &items, &options, &mut |_, _| ControlFlow::Break(())).unwrap();
    assert!(stopped.is_none());
    let first = GenerationOptions { max_items: 1, ..options };
    let (report, _) = task.run(&mut generator, &items, &first, go_on).unwrap().unwrap();
    assert_eq!((report.items, report.figures[2].value), (1, 0.5));
}

/// The Hub's Parquet files: answers are structs, and each instruction has the arguments of all.
#[test]
fn batches_give_the_items_of_lines() {
    let answer = json!({"aliases": ["Paris", "City of Light"], "value": "Paris"});
    let lines = [
        ("triviaqa", json!({"question": "Which city?", "answer": answer}).to_string()),
        ("gsm8k", json!({"question": "1 + 1?", "answer": "It is\n#### 2"}).to_string()),
        (
            "humaneval",
            json!({"prompt": "def f():", "test": "def check(f): pass", "entry_point": "f"}).to_string(),
        ),
        ("ifeval", PROMPTS.to_owned()),
    ];
    for (name, lines) in lines {
        let (schema, _) = arrow::json::reader::infer_json_schema(lines.as_bytes(), None).unwrap();
        let reader = arrow::json::ReaderBuilder::new(schema.into()).build(lines.as_bytes()).unwrap();
        let task = GenerationTask::named(name).unwrap().unwrap();
        let rows: Vec<serde_json::Value> =
            reader.flat_map(|batch| task.rows(&batch.unwrap()).unwrap()).collect();
        let text: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), text.len());
        let examples = vec![rows[0].clone(); task.file().shots];
        let (rows, text) = (task.items(&rows, &examples).unwrap(), task.items(&text, &examples).unwrap());
        for (row, line) in rows.iter().zip(&text) {
            assert_eq!(row.prompt, line.prompt);
            let answers = ["Paris".to_owned(), "#### 2".to_owned(), "<<A title>>".to_owned()];
            let passed = [true; 3];
            assert_eq!(
                judge::shares(&row.gold, &answers, &passed),
                judge::shares(&line.gold, &answers, &passed)
            );
        }
    }
}

#[test]
fn task_files_say_what_is_wrong_with_them() {
    for (name, text) in GENERATION_TASKS {
        assert_eq!(GenerationTask::parse(text, name).unwrap().file().name, name);
    }
    assert!(GenerationTask::named("piqa").unwrap().is_none());
    let (_, good) = GENERATION_TASKS[0];
    for (bad, words) in [
        (good.replace("{{ question }}", "{{ question"), "prompt"),
        (good.replace("answer.aliases", "answer."), "answer."),
        (good.replace("max_new_tokens = 20", "max_new_tokens = 0"), "max_new_tokens"),
        (good.replace("exact_match", "luck"), "luck"),
        (good.replace("stop =", "stops ="), "stops"),
    ] {
        let error = GenerationTask::parse(&bad, "mine.toml").unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains(words), "{error}");
    }
}

/// A trained checkpoint answers by way of the engine: in order, alike alone and together, the common beginning once.
#[test]
fn a_checkpoint_answers_many_at_once() {
    let root = tempfile::tempdir().unwrap();
    let options = TokenizerOptions { vocab_size: 300, ..Default::default() };
    let encoder = train(&options, ["question answer number seven"], &root.path().join("tokenizer")).unwrap();
    let config = ModelConfig {
        vocab_size: encoder.vocab_size(),
        hidden_size: 64,
        intermediate_size: 96,
        context_tokens: 256,
        ..tiny_config()
    };
    model_folder(&root.path().join("model"), config);
    let engine = EngineOptions { threads: 1, ..EngineOptions::default() };
    let make =
        || EngineGenerator::of_checkpoint(&root.path().join("model"), encoder.folder(), &engine).unwrap();
    let beginning = "question number seven answer ".repeat(8);
    let request = |number: usize| AnswerRequest {
        prompt: format!("{beginning}{number}"),
        form: Form::Chat,
        max_new_tokens: 4 + number,
        temperature: if number.is_multiple_of(2) { 0.0 } else { 0.9 },
        top_p: 0.95,
        stop: Vec::new(),
        seed: number as u64,
    };
    let requests: Vec<AnswerRequest> = (0..9).map(request).collect();
    let mut together = make();
    let mut heard = Vec::new();
    let progress = &mut |done| {
        heard.push(done);
        ControlFlow::Continue(())
    };
    let answers = together.answers(&requests, progress).unwrap().unwrap();
    assert_eq!(heard, (1..=9).collect::<Vec<_>>());
    let stats = together.engine().stats();
    assert!(stats.prompt_tokens_shared > stats.prompt_tokens_read, "{stats:?}");
    let mut alone = make();
    for (request, answer) in requests.iter().zip(&answers) {
        let one = alone.answers(std::slice::from_ref(request), &mut |_| ControlFlow::Continue(()));
        assert_eq!(&one.unwrap().unwrap()[0], answer);
    }
    assert!(answers.iter().any(|answer| !answer.is_empty()));
    assert!(together.answers(&requests, &mut |_| ControlFlow::Break(())).unwrap().is_none());
    let long = AnswerRequest { prompt: "seven ".repeat(300), ..requests[0].clone() };
    assert!(matches!(
        together.answers(&[long], &mut |_| ControlFlow::Continue(())),
        Err(EvaluateError::Scorer(_))
    ));
}

#[test]
fn a_share_of_nothing_is_zero() {
    let nothing = judge::figure("x", &[(0.0, 0.0), (0.0, 0.0)]);
    assert_eq!(nothing, Figure { name: "x".to_owned(), value: 0.0, stderr: Some(0.0) });
    assert_eq!(judge::figure("x", &[(1.0, 1.0)]).stderr, Some(0.0));
}
