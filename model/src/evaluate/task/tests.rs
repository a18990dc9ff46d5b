use super::*;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray};
use serde_json::json;
use std::sync::Arc;

/// The item of a row in the layout of the Hub's data set.
fn item(task: &str, row: serde_json::Value) -> ClozeItem {
    Task::named(task).unwrap().item(&row).unwrap().unwrap()
}

#[track_caller]
fn check(item: ClozeItem, context: &str, choices: &[&str], answer: usize) {
    assert_eq!(item.context, context);
    assert_eq!(item.choices, choices);
    assert_eq!(item.answer, answer);
}

#[test]
fn every_task_reads_its_layout() {
    check(
        item(
            "hellaswag",
            json!({"ind": 4, "activity_label": "Baking bread", "ctx_a": "A man stirs flour [step] slowly.", "ctx_b": "the Dough",
                "ctx": "", "endings": ["rises [title] again.", "sings.", "swims.", "flies."], "label": "0"}),
        ),
        "Baking bread: A man stirs flour slowly. The dough",
        &["rises. again.", "sings.", "swims.", "flies."],
        0,
    );
    check(
        item(
            "winogrande",
            json!({"sentence": "The cup fell off the table because the _ was tilted.", "option1": "cup", "option2": "table", "answer": "2"}),
        ),
        "The cup fell off the table because the",
        &["cup was tilted.", "table was tilted."],
        1,
    );
    check(
        item(
            "piqa",
            json!({"goal": "Dry a shirt", "sol1": "Hang it up.", "sol2": "Put it in water.", "label": 0}),
        ),
        "Question: Dry a shirt\nAnswer:",
        &["Hang it up.", "Put it in water."],
        0,
    );
    check(
        item(
            "siqa",
            json!({"context": "Kim lost a key.", "question": "What will Kim do?", "answerA": "look", "answerB": "eat", "answerC": "sleep", "label": "1"}),
        ),
        "Kim lost a key. What will Kim do?",
        &["look", "eat", "sleep"],
        0,
    );
    let letters = json!({"text": ["rock", "ice", "fire"], "label": ["A", "B", "C"]});
    check(
        item(
            "openbookqa",
            json!({"id": "1", "question_stem": "Heat melts", "choices": letters, "answerKey": "B"}),
        ),
        "Heat melts",
        &["rock", "ice", "fire"],
        1,
    );
    let numbers = json!({"text": ["rock", "ice", "fire"], "label": ["1", "2", "3"]});
    for task in ["arc_easy", "arc_challenge"] {
        check(
            item(task, json!({"question": "What melts?", "choices": numbers, "answerKey": "2"})),
            "Question: What melts?\nAnswer:",
            &["rock", "ice", "fire"],
            1,
        );
    }
    check(
        item(
            "commonsense_qa",
            json!({"question": "Where is ice?", "question_concept": "ice", "choices": letters, "answerKey": "C"}),
        ),
        "Where is ice?",
        &["rock", "ice", "fire"],
        2,
    );
    let question = json!({"question": "What is 1+1?", "subject": "elementary_mathematics", "choices": ["1", "2", "3", "4"], "answer": 1});
    let mmlu = item("mmlu", question);
    assert_eq!(mmlu.group.as_deref(), Some("elementary_mathematics"));
    check(
        mmlu,
        "The following are questions about elementary mathematics.\nQuestion: What is 1+1?\nAnswer:",
        &["1", "2", "3", "4"],
        1,
    );
    let question = json!({"question": "Why?", "category": "law", "options": ["a", "b", "c", "d", "e"], "answer": "E", "answer_index": 4});
    check(
        item("mmlu_pro", question),
        "The following are questions about law.\nQuestion: Why?\nAnswer:",
        &["a", "b", "c", "d", "e"],
        4,
    );
    check(
        item("boolq", json!({"passage": "Ice is cold.", "question": "is ice cold", "answer": true})),
        "Ice is cold.\nQuestion: is ice cold?\nAnswer:",
        &["no", "yes"],
        1,
    );
    assert_eq!(TASKS.len(), 11);
    assert!(TASKS.iter().all(|(name, text)| Task::parse(text, name).unwrap().file().name == *name));
}

#[test]
fn rows_without_an_answer_are_left_out_and_others_named() {
    let task = Task::named("winogrande").unwrap();
    let row = |answer: &str| json!({"sentence": "a _ b", "option1": "x", "option2": "y", "answer": answer});
    assert_eq!(task.item(&row("")).unwrap(), None);
    let message = |row: &serde_json::Value| task.item(row).unwrap_err().to_string();
    assert!(message(&row("3")).contains("answer 2 of 2 choices"));
    assert!(message(&row("0")).contains("the answer 0 is no number of a choice"));
    assert!(message(&json!({"answer": "1"})).starts_with("task winogrande: "));
    let arc = Task::named("arc_easy").unwrap();
    let row =
        json!({"question": "a", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "C"});
    assert!(arc.item(&row).unwrap_err().to_string().contains("no choice is labelled C"));
    assert!(Task::named("chess").unwrap_err().to_string().contains("the tasks are hellaswag, winogrande"));
    let text = TASKS[2].1;
    let broken =
        |from: &str, to: &str| Task::parse(&text.replace(from, to), "my.toml").unwrap_err().to_string();
    assert!(broken("{{ goal }}", "{{ goal").starts_with("task my.toml: prompt: "));
    assert!(broken("[sol1, sol2]", "[sol1").contains("[sol1: "));
    assert!(broken("name", "nmae").contains("nmae"));
}

#[test]
fn batches_and_files_give_the_same_items() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("passage", Arc::new(StringArray::from(vec![Some("P"), Some("Q"), Some("R")]))),
        ("question", Arc::new(StringArray::from(vec!["p", "q", "r"]))),
        ("answer", Arc::new(BooleanArray::from(vec![Some(false), None, Some(true)]))),
    ];
    let task = Task::named("boolq").unwrap();
    let items = task.items(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    assert_eq!(items.iter().map(|item| item.answer).collect::<Vec<_>>(), [0, 1]);

    let piqa = Task::named("piqa").unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("goal", Arc::new(StringArray::from(vec!["g", "h"]))),
        ("sol1", Arc::new(StringArray::from(vec!["a", "c"]))),
        ("sol2", Arc::new(StringArray::from(vec!["b", "d"]))),
        ("label", Arc::new(Int64Array::from(vec![1, 0]))),
    ];
    let items = piqa.items(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    let root = tempfile::tempdir().unwrap();
    let (rows, labels) = (root.path().join("rows.jsonl"), root.path().join("labels.lst"));
    std::fs::write(&rows, "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n\n{\"goal\": \"h\", \"sol1\": \"c\", \"sol2\": \"d\"}\n").unwrap();
    std::fs::write(&labels, "1\n0\n").unwrap();
    assert_eq!(piqa.read_jsonl(&rows, Some(&labels)).unwrap(), items);
    std::fs::write(&labels, "1\n").unwrap();
    let error = piqa.read_jsonl(&rows, Some(&labels)).unwrap_err().to_string();
    assert!(error.contains("has 1 lines for 2 rows"), "{error}");
    assert!(piqa.read_jsonl(&rows, None).unwrap_err().to_string().contains("row 1: "));
}

/// Every token costs 1 nat: the choice with fewer bytes wins.
struct Flat;

impl Scorer for Flat {
    fn context_tokens(&self) -> usize {
        100
    }
    fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError> {
        Ok(text.bytes().map(u32::from).collect())
    }
    fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        assert!(sequences.iter().all(|sequence| sequence.len() <= 100));
        Ok(sequences.iter().map(|sequence| vec![1.0; sequence.len() - 1]).collect())
    }
}

#[test]
fn groups_weigh_the_same_in_the_mean() {
    let task = Task::named("mmlu").unwrap();
    let row = |subject: &str, answer: usize| {
        let row = json!({"question": "q", "subject": subject, "choices": ["long", "x"], "answer": answer});
        task.item(&row).unwrap().unwrap()
    };
    let items = vec![row("a", 1), row("a", 1), row("a", 0), row("b", 0), row("a", 1)];
    let mut calls = Vec::new();
    let options = TaskOptions { max_items: 3, ..TaskOptions::default() };
    let report = task
        .run(&mut Flat, items.clone(), &options, &mut |done, all| {
            calls.push((done, all));
            ControlFlow::Continue(())
        })
        .unwrap()
        .unwrap();
    assert_eq!(calls, [(4, 4)]);
    // The fourth item of subject a is not asked.
    assert_eq!((report.all.items, report.groups["a"].items, report.groups["b"].items), (4, 3, 1));
    assert_eq!((report.all.acc, report.groups["a"].acc, report.groups["b"].acc), (0.5, 2.0 / 3.0, 0.0));
    assert_eq!(report.mean_acc, 1.0 / 3.0);
    let stopped = task.run(&mut Flat, items, &options, &mut |_, _| ControlFlow::Break(())).unwrap();
    assert!(stopped.is_none());
}

#[test]
fn the_normalizer_decides_what_a_choice_is_divided_by() {
    let item = |choices: [&str; 2]| ClozeItem {
        context: "c".repeat(200),
        choices: choices.map(str::to_owned).to_vec(),
        ..ClozeItem::default()
    };
    // "ééé" is 3 characters and 6 bytes, so 7 tokens of Flat with its space.
    let items = [item(["ééé", "abcd"])];
    let mut go_on = |_, _| ControlFlow::Continue(());
    let scores = score_items(&mut Flat, &items, &ClozeOptions::default(), &mut go_on).unwrap().unwrap();
    let score = |log_probability, tokens| super::super::ChoiceScore { log_probability, tokens };
    assert_eq!(scores, [[score(-7.0, 7), score(-5.0, 5)]]);
    let right = |normalizer| judge(&items, &scores, normalizer).unwrap().acc_norm;
    // −7/3 < −5/4, −7/4 < −5/5, −7/6 > −5/4, −7/7 = −5/5.
    assert_eq!(right(Normalizer::Characters), 0.0);
    assert_eq!(right(Normalizer::CharactersAndSpace), 0.0);
    assert_eq!(right(Normalizer::Bytes), 1.0);
    assert_eq!(right(Normalizer::Tokens), 1.0);
}
