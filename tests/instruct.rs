//! From texts to an aligned chat model: pre-training, fine-tuning, preferences, in one workflow.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value as Json, json};
use support::{TEXTS_TO_TOKENS, digests, pipeline, run};

const WORKFLOW: &str = r#"
[stage.base]
kind = "pretrain"
inputs = { tokens = "tokens", tokenizer = "tokenizer", corpus = "corpus" }
weights = { a = 1.0 }
evaluate_every_steps = 3
evaluation = { tasks = [{ task = "piqa", path = "${env:DATA}/piqa.jsonl", max_items = 4 }] }
[stage.base.training]
model = { preset = "sample" }
context_tokens = 64
batch_sequences = 2
micro_batch_tokens = 128
steps = 4
warmup_steps = 1
cooldown_steps = 1
checkpoint_every_steps = 2
[stage.conversations]
kind = "read"
paths = ["${env:DATA}/conversations.jsonl"]
[stage.chat]
kind = "sft"
inputs = { rows = "conversations", model = "base", tokenizer = "tokenizer" }
training = { length_tokens = 64, batch_packs = 2, micro_batch_tokens = 128, epochs = 3 }
[stage.preferences]
kind = "read"
paths = ["${env:DATA}/preferences.jsonl"]
[stage.aligned]
kind = "dpo"
inputs = { rows = "preferences", model = "chat", tokenizer = "tokenizer" }
training = { length_tokens = 64, prompt_tokens = 32, batch_pairs = 4, lr = 1e-4, epochs = 2 }
[stage.evaluation]
kind = "evaluate"
inputs = { model = "aligned", tokenizer = "tokenizer", corpus = "corpus" }
tasks = [
  { task = "piqa", path = "${env:DATA}/piqa.jsonl" },
  { task = "ifeval", path = "${env:DATA}/ifeval.jsonl" },
]
[stage.export]
kind = "export"
inputs = { model = "aligned", tokenizer = "tokenizer" }
model_use = "chat"
gguf = ["f32", "q8_0"]
"#;

fn lines(path: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_become_a_chat_model_that_prefers_the_better_answers() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, rows: Vec<Json>| {
        let text: Vec<String> = rows.iter().map(Json::to_string).collect();
        std::fs::write(folder.path().join(name), text.join("\n")).unwrap();
    };
    let fruits = ["apple", "pear", "plum", "fig", "grape", "quince", "cherry", "lemon"];
    let text = |i: usize| format!("The {} is a fruit, and number {i} of many.", fruits[i % 8]);
    write("texts.jsonl", (0..300).map(|i| json!({"id": i.to_string(), "text": text(i)})).collect());
    let ask = |i: usize| format!("What is a {}?", fruits[i % 8]);
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let talk = |i: usize| json!({"messages": [message("user", &ask(i)), message("assistant", "A fruit.")]});
    let mut talks: Vec<Json> = (0..16).map(talk).collect();
    talks.push(json!({"messages": [message("user", "Only a question?")]}));
    write("conversations.jsonl", talks);
    let pair = |i: usize| json!({"prompt": ask(i), "chosen": "A fruit.", "rejected": "A stone, I think."});
    write("preferences.jsonl", (0..16).map(pair).collect());
    write(
        "piqa.jsonl",
        (0..8)
            .map(|i| json!({"goal": ask(i), "sol1": "A fruit.", "sol2": "A stone, I think.", "label": 0}))
            .collect(),
    );
    let instruction = ["punctuation:no_comma", "change_case:english_capital"];
    let asked = |(key, kind): (usize, &str)| json!({"key": key, "prompt": "Say a fruit.", "instruction_id_list": [kind], "kwargs": [{}]});
    write("ifeval.jsonl", instruction.into_iter().enumerate().map(asked).collect());
    let workflow = folder.path().join("w.toml");
    std::fs::write(&workflow, format!("name = \"instruct\"\n{TEXTS_TO_TOKENS}{WORKFLOW}")).unwrap();
    let runs = folder.path().join("runs");
    let start = || {
        let mut program = pipeline();
        program.env("DATA", folder.path());
        run(program.arg("run").arg(&workflow).arg("--runs").arg(&runs))
    };
    let said = start();
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);

    let stages = runs.join("instruct/sample");
    let manifest = |stage: &str| -> Json {
        serde_json::from_slice(&std::fs::read(stages.join(stage).join("manifest.json")).unwrap()).unwrap()
    };
    let talks = &manifest("chat")["metrics"]["conversations"];
    assert_eq!((&talks["examples"], &talks["skipped"]["empty"]), (&json!(16), &json!(1)), "{talks}");
    let steps = lines(&stages.join("chat/loss.jsonl"));
    let loss = |line: &Json| line["loss"].as_f64().unwrap();
    assert!(loss(steps.last().unwrap()) < loss(&steps[0]), "{steps:?}");
    let steps = lines(&stages.join("aligned/loss.jsonl"));
    let margin = |line: &Json| line["margin"].as_f64().unwrap();
    // The first update has not yet moved the model from its reference.
    assert!(margin(&steps[0]).abs() < 1e-4 && margin(steps.last().unwrap()) > 0.0, "{steps:?}");

    // It was measured as training went, and at the end by all tasks.
    let measured = lines(&stages.join("base/evaluations.jsonl"));
    assert_eq!(measured.iter().map(|line| &line["step"]).collect::<Vec<_>>(), [3, 4], "{measured:?}");
    for name in ["bits_per_byte/a", "loss/a", "cloze/acc", "piqa/acc", "piqa/acc_norm", "aggregate/acc_norm"]
    {
        assert!(
            measured.iter().all(|line| line[name].as_f64().is_some_and(f64::is_finite)),
            "{name}: {measured:?}"
        );
    }
    assert_ne!(measured[0]["loss/a"], measured[1]["loss/a"]);
    let figures = manifest("evaluation")["metrics"].clone();
    assert!(figures["heldout"]["a"]["texts"].as_u64().unwrap() > 0, "{figures}");
    assert_eq!(figures["tasks"]["piqa"]["acc_norm"], figures["aggregate"]["acc_norm"], "{figures}");
    assert!(figures["tasks"]["ifeval"].as_object().is_some_and(|figures| figures.len() > 1), "{figures}");
    assert_eq!(lines(&stages.join("evaluation/answers.jsonl")).len(), 2);
    let page = std::fs::read_to_string(stages.join("report.html")).unwrap();
    assert!(page.contains("piqa/acc_norm by step"), "the report shows how the figures went");

    // The exports answer as the model does.
    let models = ["aligned", "export", "export/gguf/model-f32.gguf", "export/gguf/model-q8_0.gguf"];
    let eval = |task: &str, file: &Path| {
        let mut program = pipeline();
        program.arg("eval").args(models.map(|model| stages.join(model))).arg("--json").arg("--task");
        program.arg(format!("{task}={}", file.display()));
        run(program.arg("--tokenizer").arg(stages.join("tokenizer/tokenizer.json")))
    };
    let said = eval("piqa", &folder.path().join("piqa.jsonl"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let reports: Vec<Json> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 4);
    // And predict texts alike; a file without texts is told.
    let texts = folder.path().join("predicted.jsonl");
    std::fs::write(&texts, "{\"text\": \"The river carries stones.\"}\n{\"text\": \"Rain falls.\"}\n")
        .unwrap();
    let said = eval("perplexity", &texts);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let predicted: Vec<Json> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bits = |report: &Json| report["report"]["bits_per_byte"].as_f64().unwrap();
    assert_eq!((predicted.len(), &predicted[0]["report"]["texts"]), (4, &Json::from(2)));
    for (report, most) in predicted.iter().zip([0.0, 1e-6, 1e-4, 0.02]) {
        assert!((bits(report) - bits(&predicted[0])).abs() <= most, "{report}");
    }
    std::fs::write(&texts, "{\"goal\": \"x\", \"sol1\": \"y\"}\n").unwrap();
    let said = eval("piqa", &texts);
    for wanted in ["predicted.jsonl", "row 1", "column", "goal, sol1"] {
        assert!(said.err.contains(wanted), "{wanted}: {}", said.err);
    }
    std::fs::write(&texts, "{\"content\": \"x\"}\n").unwrap();
    let said = eval("perplexity", &texts);
    assert!(said.err.contains("no column `text` (the columns are: content)"), "{}", said.err);
    for report in &reports {
        assert_eq!(report["report"]["items"], 8, "{report}");
        assert_eq!(report["report"]["acc"], figures["tasks"]["piqa"]["acc"], "{report}");
    }

    // An export comes in again as it is, a GGUF file with the tokenizer that is in it.
    let taken = folder.path().join("taken.toml");
    let gguf = stages.join("export/gguf/model-f32.gguf");
    let text = format!("name = \"taken\"\n[stage.model]\nkind = \"import_model\"\npath = {gguf:?}\n");
    std::fs::write(&taken, text).unwrap();
    let said = run(pipeline().arg("run").arg(&taken).arg("--runs").arg(&runs));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let taken = digests(&runs.join("taken/sample/model"));
    assert!(taken.contains_key("tokenizer.json") && taken.contains_key("tokenizer_config.json"));
    assert_eq!(
        taken.get("final/model.safetensors"),
        digests(&stages.join("export/model")).get("model.safetensors")
    );

    // So does what the command hands on, which names no folder that is there.
    let handed = folder.path().join("handed");
    let tokenizer = stages.join("tokenizer").display().to_string();
    let hand_on = |more: &[&str]| {
        let mut program = pipeline();
        program.arg("export").arg(stages.join("aligned")).args([
            "--tokenizer",
            &tokenizer,
            "--chat",
            "--onnx",
        ]);
        run(program.arg("--out").arg(&handed).args(["--gguf", "q4_0"]).args(more))
    };
    assert!(hand_on(&["--dry-run"]).out.contains("onnx/model.onnx") && !handed.exists());
    let said = hand_on(&[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(handed.join("onnx/model.onnx").is_file() && handed.join("model-q4_0.gguf").is_file());
    assert_eq!(
        digests(&handed).get("model.safetensors"),
        digests(&stages.join("export/model")).get("model.safetensors")
    );
    let again = hand_on(&[]);
    assert_eq!(again.code, Some(2), "{}", again.err);
    assert!(again.err.contains("is there already"), "{}", again.err);

    // It can be talked with, as a checkpoint with its tokenizer and as an export; a seed gives one answer.
    let talk = |arguments: &[&str], said: &str| -> String {
        let model = stages.join(arguments[1]);
        let mut program = pipeline();
        program.arg(arguments[0]).arg(model).args(&arguments[2..]).args(["--max-tokens", "8", "--seed", "3"]);
        let mut child =
            program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(said.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let question = "What is a fig?\n";
    let answer = talk(&["chat", "export"], question);
    assert!(answer.trim().len() > 1, "{answer}");
    assert_eq!(talk(&["chat", "export/gguf/model-f32.gguf"], question), answer);
    assert_eq!(
        talk(&["chat", "export"], &format!("Who?\n/reset\n{question}/exit\nnever\n")).lines().last(),
        Some(answer.trim_end())
    );
    let went_on = talk(&["generate", "base", "The fig is", "--tokenizer", &tokenizer], "");
    assert_eq!(talk(&["generate", "base", "--tokenizer", &tokenizer], "The fig is"), went_on);

    // Made again from the start, it has the same bytes.
    let before = digests(&stages.join("aligned/final"));
    std::fs::remove_dir_all(stages.join("aligned")).unwrap();
    std::fs::remove_dir_all(stages.join("chat")).unwrap();
    assert_eq!(start().code, Some(0));
    assert_eq!(digests(&stages.join("aligned/final")), before);
}
