use super::*;

fn load_text(text: &str, overrides: &Overrides) -> Result<Workflow, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.toml");
    std::fs::write(&path, text).unwrap();
    load(&path, overrides)
}

fn messages(text: &str) -> Vec<String> {
    let problems = load_text(text, &Overrides::default()).err().unwrap().problems;
    problems
        .iter()
        .map(|problem| format!("{} | {}", problem.message(), problem.help_text().unwrap_or("")))
        .collect()
}

const GOOD: &str = r#"
name = "w"
[vars]
low = 3
[stage.pages]
kind = "read"
paths = ["a.parquet"]
[stage.good]
kind = "filter"
input = "pages"
keep = "score >= ${low}"
[profile.full.vars]
low = 4
[profile.full.stage.pages]
paths = ["b.parquet", "c.parquet"]
"#;

#[test]
fn stages_are_typed_sorted_and_interpolated() {
    let workflow = load_text(GOOD, &Overrides::default()).ok().unwrap();
    let ids: Vec<&str> = workflow.stages.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids, ["pages", "good"]);
    assert_eq!(workflow.stages[1].config["keep"], "score >= 3");
    assert_eq!(workflow.stages[1].config["reason"], "condition_not_met");
}

#[test]
fn a_profile_and_overrides_are_laid_over_the_file() {
    let overrides =
        Overrides { profile: Some("full".into()), set: vec!["vars.low=5".into()], run_name: None };
    let workflow = load_text(GOOD, &overrides).ok().unwrap();
    assert_eq!(workflow.profile, "full");
    assert_eq!(workflow.stages[1].config["keep"], "score >= 5");
    let unknown = Overrides { profile: Some("ful".into()), set: Vec::new(), run_name: None };
    assert!(load_text(GOOD, &unknown).is_err());
}

#[test]
fn every_problem_is_reported_at_once_with_the_nearest_spelling() {
    let text = r#"
name = "w"
descripton = "x"
[stage.pages]
kind = "raed"
[stage.a]
kind = "filter"
input = "pags"
kep = "x"
[stage.b]
kind = "read"
paths = "one.parquet"
piece_bytes = -1
"#;
    let found = messages(text).join("\n");
    for expected in [
        "unknown field `descripton` | did you mean `description`?",
        "unknown stage kind `raed` | did you mean \"read\"?",
        "there is no stage `pags` | did you mean \"pages\"?",
        "unknown field `kep` | did you mean `keep`?",
        "the field `keep` is missing",
        "`paths` takes an array, not a string",
        "`piece_bytes` must be at least 0",
    ] {
        assert!(found.contains(expected), "missing {expected:?} in:\n{found}");
    }
}

#[test]
fn a_cycle_is_drawn() {
    let text = r#"
name = "w"
[stage.a]
kind = "filter"
input = "b"
keep = "x"
[stage.b]
kind = "filter"
input = "a"
keep = "x"
"#;
    let found = messages(text).join("\n");
    assert!(found.contains("a → b → a"), "{found}");
}

#[test]
fn variables_refer_to_each_other_but_not_in_a_circle() {
    let text = GOOD.replace("low = 3", "low = \"${least}\"\nleast = 3");
    assert!(text.contains("least"));
    let workflow = load_text(&text, &Overrides::default()).ok().unwrap();
    assert_eq!(workflow.stages[1].config["keep"], "score >= 3");
    let circle = GOOD.replace("low = 3", "low = \"${least}\"\nleast = \"${low}\"");
    let found = messages(&circle).join("\n");
    assert!(found.contains("variable `low` depends on itself"), "{found}");
}

#[test]
fn missing_variables_and_inputs_are_named() {
    let text = r#"
name = "w"
[vars]
low = 1
[stage.a]
kind = "filter"
keep = "x > ${lwo}"
"#;
    let found = messages(text).join("\n");
    assert!(found.contains("there is no variable `lwo` | did you mean `${low}`?"), "{found}");
    assert!(found.contains("input `rows` is missing"), "{found}");
}

#[test]
fn the_places_of_overrides_are_their_own_texts() {
    let overrides = Overrides { profile: None, set: vec!["stage.good.kep=1".into()], run_name: None };
    let problems = load_text(GOOD, &overrides).err().unwrap();
    let report = format!("{:?}", miette::Report::new(problems));
    assert!(report.contains("--set"), "{report}");
}

#[test]
fn the_schema_of_every_kind_is_documented_and_closed() {
    for kind in crate::stages::STAGES {
        let schema = serde_json::Value::from((kind.schema)());
        assert_eq!(schema["additionalProperties"], false, "{} must deny unknown fields", kind.name);
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            let documented = property.get("description").is_some() || property.get("$ref").is_some();
            assert!(documented, "{}.{field} has no doc comment", kind.name);
        }
        assert!(!kind.summary.is_empty());
        for input in kind.inputs {
            assert!(!input.about.is_empty(), "{}.{}", kind.name, input.role);
        }
    }
    let mut names: Vec<&str> = crate::stages::STAGES.iter().map(|kind| kind.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn a_model_has_room_for_its_tokenizer() {
    let text = r#"
name = "w"
[stage.pages]
kind = "read"
paths = ["pages.parquet"]
[stage.corpus]
kind = "mix"
inputs = { sources = ["pages"] }
[stage.corpus.subsets]
texts = { stage = "pages" }
[stage.tokenizer]
kind = "tokenizer"
input = "corpus"
vocab_size = 4096
[stage.tokens]
kind = "pack"
inputs = { corpus = "corpus", tokenizer = "tokenizer" }
[stage.model]
kind = "pretrain"
input = "tokens"
weights = { texts = 1.0 }
training = { model = { preset = "sample" } }
"#;
    assert!(load_text(text, &Overrides::default()).is_ok());
    let found = messages(&text.replace("4096", "5_000")).join("\n");
    assert!(found.contains("may have 5,000 entries, and the model has room for 4,096"), "{found}");
    assert!(found.contains("training.model.vocab_size = 5000"), "{found}");
    let both = text.replace("4096", "5_000").replace("\"sample\"", "\"sample\", vocab_size = 5_000");
    assert!(load_text(&both, &Overrides::default()).is_ok());
}
