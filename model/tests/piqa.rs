//! PIQA with SmolLM2-135M-Instruct in Q4_1, against values computed with transformers from the same file.
//!
//! The first 20 items by default; `CORPUSMITH_PIQA_ITEMS=1838` asks them all and compares the accuracy. Needs the
//! model (the assets command fetches it) and `../shared/data`; prints why and returns without them.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use model::evaluate::{ClozeOptions, ContextStart, GgufScorer, Normalizer, Task, judge, score_items};
use model::infer::{Model, ModelOptions};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[test]
fn piqa_is_answered_as_by_transformers() {
    let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
    let assets = std::env::var_os("CORPUSMITH_ASSETS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/corpusmith/assets"));
    let model = assets.or(home).unwrap_or_default().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let reference = data.join("reference/smollm2_135m_q4_1_piqa.json");
    if let Some(absent) = [&model, &reference].into_iter().find(|path| !path.exists()) {
        println!("not tested: {} is absent", absent.display());
        return;
    }
    let reference: serde_json::Value = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
    let task = Task::named("piqa").unwrap();
    let rows = data.join("benchmarks/piqa_valid.jsonl");
    let labels = data.join("benchmarks/piqa_valid-labels.lst");
    let mut items = task.read_jsonl(&rows, Some(&labels)).unwrap();
    let all = items.len();
    assert_eq!(all as u64, reference["n"].as_u64().unwrap());
    items.truncate(std::env::var("CORPUSMITH_PIQA_ITEMS").map_or(20, |count| count.parse().unwrap()));

    let model = Model::load(model, &ModelOptions::default()).unwrap();
    let mut scorer = GgufScorer::new(&model);
    let options = ClozeOptions { normalizer: Normalizer::Characters, start: ContextStart::Text };
    let start = Instant::now();
    let scores =
        score_items(&mut scorer, &items, &options, &mut |_, _| ControlFlow::Continue(())).unwrap().unwrap();
    let seconds = start.elapsed().as_secs_f64();

    let mut largest = 0f64;
    for (scores, wanted) in scores.iter().zip(reference["first_20"].as_array().unwrap()) {
        for (score, wanted) in scores.iter().zip(wanted.as_array().unwrap()) {
            largest = largest.max((score.log_probability - wanted.as_f64().unwrap()).abs());
        }
    }
    println!("largest difference of a sum among the first 20 items: {largest:.4} nats");
    assert!(largest < 0.1, "{largest}");
    let report = judge(&items, &scores, options.normalizer).unwrap();
    println!("{report:?}, {seconds:.1} s");
    if items.len() == all {
        let items_off = |name: &str, got: f64| ((got - reference[name].as_f64().unwrap()) * all as f64).abs();
        let off = (items_off("acc", report.acc), items_off("acc_norm_chars", report.acc_norm));
        println!("acc is {:.0} items off, acc_norm {:.0}", off.0, off.1);
        assert!(off.0 <= 2.0 && off.1 <= 2.0, "{off:?}");
    }
}
