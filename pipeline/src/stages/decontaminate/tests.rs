//! Tests of the whole stage.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::runner::error::Fault;
use crate::runner::ledger::LostRow;
use crate::stages::testing;

fn stage(config: Json) -> DecontaminateConfig {
    serde_json::from_value(config).unwrap()
}

fn gsm8k_of(path: &Path) -> DecontaminateConfig {
    stage(json!({"benchmarks": [{"name": "gsm8k", "path": path, "format": "gsm8k"}]}))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

async fn run(config: &DecontaminateConfig, rows: Json) -> (Vec<String>, Vec<LostRow>) {
    let (rows, ctx) = testing::plan(config, "rows", testing::batch(rows)).await.unwrap();
    (testing::strings(&rows, "id"), ctx.ledger.dropped())
}

const QUESTION: &str = "A baker fills 12 trays with 8 buns each. How many buns are there in all?";

#[tokio::test]
async fn a_row_that_copies_an_item_is_dropped_with_the_evidence() {
    let line = json!({"question": QUESTION, "answer": "12 * 8 = 96 buns"}).to_string();
    let file = file(&line);
    let (kept, dropped) = run(
        &gsm8k_of(file.path()),
        json!([
            {"id": "copy", "text": format!("Sums for today. {}", QUESTION.replace(". ", ";\n"))},
            {"id": "piece", "text": "A baker fills 12 trays with 8 buns."},
            {"id": "other", "text": "Bread needs flour, water, salt and time."},
            {"id": "empty", "text": null},
        ]),
    )
    .await;
    assert_eq!(kept, ["piece", "other", "empty"]);
    let lost = &dropped[0];
    assert_eq!((dropped.len(), lost.id.as_str(), lost.reason.as_str()), (1, "copy", "benchmark_gsm8k"));
    assert_eq!(
        lost.detail,
        "line 1 (question): 1.00 of its text is here; both have \"a baker fills 12 trays with 8 buns each how\""
    );
}

#[tokio::test]
async fn the_files_digest_is_an_external_and_a_missing_file_is_the_users_fault() {
    let ctx = testing::context();
    let (one, two) = (file(r#"{"question":"q","answer":"a"}"#), file(r#"{"question":"q","answer":"b"}"#));
    let digest = async |path: &Path| gsm8k_of(path).externals(&ctx).await.map(|all| all[0].digest.clone());
    assert_ne!(digest(one.path()).await.unwrap(), digest(two.path()).await.unwrap());
    let error = digest(Path::new("/nowhere/gsm8k.jsonl")).await.unwrap_err();
    assert_eq!(error.fault, Fault::Input);
    assert!(error.to_string().contains("/nowhere/gsm8k.jsonl"), "{error}");
}

#[tokio::test]
async fn a_bad_line_is_told_by_file_and_line() {
    let file = file("{\"question\":\"q\",\"answer\":\"a\"}\n{\"question\"");
    let batch = testing::batch(json!([{"id": "a", "text": "x"}]));
    let error = testing::plan(&gsm8k_of(file.path()), "rows", batch).await.unwrap_err();
    assert_eq!(error.fault, Fault::Input);
    assert!(error.to_string().contains(":2: not a JSON object"), "{error}");
}

#[test]
fn known_benchmarks_need_their_name_alone() {
    let mistakes = |benchmark: Json| {
        let config = stage(json!({"benchmarks": [benchmark]}));
        config.validate(&BTreeMap::new()).into_iter().map(|mistake| mistake.message).collect::<Vec<_>>()
    };
    for (name, ..) in format::KNOWN {
        assert_eq!(mistakes(json!({"name": name})), Vec::<String>::new());
    }
    assert_eq!(mistakes(json!({"name": "piqa", "path": "piqa_valid.jsonl"})), Vec::<String>::new());
    assert_eq!(mistakes(json!({"name": "mine"})), ["`mine` needs a `path` and a `format`"]);
    assert_eq!(mistakes(json!({"name": "mine", "path": "x"})), ["`mine` needs a `format`"]);
    let both = json!({"name": "mmlu", "path": "x", "asset": "humaneval"});
    assert_eq!(mistakes(both), ["`mmlu` has both `path` and `asset`"]);
}

#[tokio::test]
async fn an_asset_that_is_not_a_benchmark_is_refused() {
    let config = stage(json!({"benchmarks": [{"name": "x", "asset": "nothing", "format": "gsm8k"}]}));
    let error = config.externals(&testing::context()).await.unwrap_err();
    assert!(error.to_string().contains("there is no asset `nothing`"), "{error}");
}

#[test]
fn mistakes_of_the_config_are_all_told() {
    let mistakes = |config: Json| {
        let mistakes = stage(config).validate(&BTreeMap::new());
        mistakes.iter().map(|mistake| mistake.message.clone()).collect::<Vec<_>>().join("; ")
    };
    let good = json!({"name": "a", "path": "x", "format": "piqa"});
    assert_eq!(mistakes(json!({"benchmarks": [good]})), "");
    assert!(mistakes(json!({"benchmarks": []})).contains("no benchmark"));
    assert!(mistakes(json!({"benchmarks": [good, good]})).contains("two benchmarks are named `a`"));
    let bad = json!({"name": "A b", "format": {"fields": {"texts": []}}});
    let told = mistakes(json!({"benchmarks": [bad], "max_ratio": 1.5, "ngram_words": 0}));
    for part in ["`A b` cannot", "needs a `path` and a `format`", "`max_ratio`", "`ngram_words`"] {
        assert!(told.contains(part), "{told}");
    }
    let bad = json!({"name": "a", "path": "x", "format": {"fields": {"texts": []}}});
    assert_eq!(mistakes(json!({"benchmarks": [bad]})), "`a` has no text");
}

/// Real benchmark files: what is planted is found under its own name, and ordinary text stays.
#[tokio::test]
async fn planted_items_of_real_benchmarks_are_found() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/benchmarks"));
    if !folder.exists() {
        println!("{} is not there: this test is left out", folder.display());
        return;
    }
    let config = stage(json!({"benchmarks": [
        {"name": "gsm8k", "path": folder.join("gsm8k_test.jsonl"), "format": "gsm8k"},
        {"name": "piqa", "path": folder.join("piqa_valid.jsonl"), "format": "piqa"},
        {"name": "humaneval", "path": folder.join("HumanEval.jsonl.gz"), "format": "humaneval"},
        {"name": "ifeval", "path": folder.join("ifeval_input_data.jsonl"), "format": "ifeval"},
    ]}));
    let filler =
        "The river bends twice before it meets the sea, and on its banks stand old mills. ".repeat(20);
    let mut rows = vec![json!({"id": "clean", "text": filler})];
    for benchmark in &config.benchmarks {
        let path = benchmark.path.clone().unwrap();
        let texts =
            benchmark::read(&std::path::PathBuf::from(path).into(), &benchmark.format().unwrap()).unwrap();
        let long = |text: &&benchmark::BenchmarkText| tokens::Tokens::of(&text.text).ngrams(10).count() > 20;
        for text in texts.iter().filter(long).step_by(97) {
            let page = format!("{filler}\n{}\n{filler}", text.text);
            rows.push(json!({"id": format!("{} {}", benchmark.name, text.label), "text": page}));
        }
    }
    let planted = rows.len() - 1;
    assert!(planted > 40, "{planted}");
    let (kept, dropped) = run(&config, Json::Array(rows)).await;
    assert_eq!(kept, ["clean"]);
    for row in dropped {
        let (name, label) = row.id.split_once(' ').unwrap();
        assert_eq!(row.reason, format!("benchmark_{name}"));
        // Items that repeat each other's text are found under the first of them.
        let same = row.detail.starts_with(&format!("{label}: "));
        assert!(same || name == "piqa" || name == "humaneval", "{} found as {}", row.id, row.detail);
    }
}
