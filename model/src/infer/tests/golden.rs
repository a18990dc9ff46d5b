//! SmolLM2-135M-Instruct in Q4_1 against values computed with transformers (f32 weights from the
//! same file). Needs the model (the assets command fetches it) and the reference values; prints
//! why and returns without them.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use futures::executor::block_on;
use futures::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::infer::cache::KvCache;
use crate::infer::forward::{Span, Wanted, Workspace};
use crate::infer::*;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");

fn model() -> Option<Arc<Model>> {
    static MODEL: OnceLock<Option<Arc<Model>>> = OnceLock::new();
    let load = || {
        let folder = match std::env::var_os("CORPUSMITH_ASSETS") {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/corpusmith/assets"),
        };
        let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
        if !path.exists() {
            eprintln!("not tested: {} is absent", path.display());
            return None;
        }
        Some(Arc::new(Model::load(path, &ModelOptions::default()).unwrap()))
    };
    MODEL.get_or_init(load).clone()
}

fn reference<T: DeserializeOwned>(name: &str) -> Option<T> {
    let path = format!("{DATA}/reference/{name}");
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(_) => {
            eprintln!("not tested: {path} is absent");
            None
        }
    }
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    ids: Vec<u32>,
    top1: Vec<u32>,
    top1_logit: Vec<f32>,
    logprob_of_next: Vec<f32>,
    first_16_logits_of_last: Vec<f32>,
    logit_norm_of_last: f64,
    greedy_32: Option<Vec<u32>>,
}

fn cases() -> Option<(Arc<Model>, Vec<Case>)> {
    Some((model()?, reference("smollm2_135m_q4_1_logits.json")?))
}

#[test]
fn logits_are_those_of_transformers() {
    let Some((model, cases)) = cases() else {
        return;
    };
    for case in &cases {
        assert_eq!(model.tokenizer().encode(&case.prompt), case.ids, "{}", case.prompt);
        assert_eq!(model.tokenizer().decode(&case.ids), case.prompt);
        let mut cache = KvCache::default();
        let mut work = Workspace::default();
        let span = Span { cache: &mut cache, tokens: &case.ids, wanted: Wanted::All };
        model.forward(&mut [span], &mut work);
        let mut last = Vec::new();
        let rows = work.logits_mut(model.config().vocab_size);
        for (position, logits) in rows.enumerate() {
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(best as u32, case.top1[position], "{} at {position}", case.prompt);
            let error = (logits[best] - case.top1_logit[position]).abs();
            assert!(error < 0.03, "{error} in the top logit at {position}");
            last = logits.to_vec();
        }
        let norm = last.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        // Keys and values in f16 move all logits together by up to 4e-4 of their norm (measured;
        // the plain f64 twin without them gives the reference's norm to seven digits).
        assert!((norm / case.logit_norm_of_last - 1.0).abs() < 1e-3, "{norm}");
        let pairs = || last.iter().zip(&case.first_16_logits_of_last);
        let sum = |f: fn(f64, f64) -> f64| pairs().map(|(a, b)| f((*a).into(), (*b).into())).sum::<f64>();
        let cosine = sum(|a, b| a * b) / (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt();
        assert!(cosine >= 0.9999, "{cosine}");
    }
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let Some((model, cases)) = cases() else {
        return;
    };
    let mut worst = 0.0f32;
    for case in &cases {
        let got = model.logprobs(&case.ids).unwrap();
        assert_eq!(got.len(), case.logprob_of_next.len());
        for (got, expected) in got.iter().zip(&case.logprob_of_next) {
            worst = worst.max((got - expected).abs());
        }
    }
    println!("largest difference of a log-probability: {worst}");
    assert!(worst < 1e-2, "{worst}");
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let Some((model, cases)) = cases() else {
        return;
    };
    let engine = Engine::new(model, &EngineOptions::default()).unwrap();
    let mut count = 0;
    for case in &cases {
        let Some(greedy) = &case.greedy_32 else {
            continue;
        };
        let request = GenerateRequest {
            max_new_tokens: greedy.len() - case.ids.len(),
            sampling: SamplingOptions {
                temperature: 0.0,
                repetition_penalty: 1.0,
                ..SamplingOptions::default()
            },
            ..GenerateRequest::new(Prompt::Tokens(case.ids.clone()))
        };
        let answer = block_on(engine.generate(request)).unwrap();
        assert_eq!([&case.ids[..], &answer.tokens].concat(), *greedy);
        count += 1;
    }
    assert!(count > 0);
}

#[derive(Deserialize)]
struct Piqa {
    first_20: Vec<[f32; 2]>,
}

#[derive(Deserialize)]
struct PiqaItem {
    goal: String,
    sol1: String,
    sol2: String,
}

#[test]
fn piqa_scores_are_those_of_transformers() {
    let Some(model) = model() else { return };
    let Some(expected) = reference::<Piqa>("smollm2_135m_q4_1_piqa.json") else {
        return;
    };
    let Ok(items) = std::fs::read_to_string(format!("{DATA}/benchmarks/piqa_valid.jsonl")) else {
        eprintln!("not tested: the PIQA items are absent");
        return;
    };
    let mut worst = 0.0f32;
    for (line, expected) in items.lines().zip(&expected.first_20) {
        let item: PiqaItem = serde_json::from_str(line).unwrap();
        let tokenizer = model.tokenizer();
        let context = tokenizer.encode(&format!("Question: {}\nAnswer:", item.goal));
        let continuations = [item.sol1, item.sol2].map(|sol| tokenizer.encode(&format!(" {sol}")));
        let scores = model.score_continuations(&context, &continuations).unwrap();
        for (scores, expected) in scores.iter().zip(expected) {
            let difference = (scores.iter().sum::<f32>() - expected).abs();
            worst = worst.max(difference);
            println!("{difference} {expected}");
        }
    }
    println!("largest difference of a PIQA sum: {worst}");
    assert!(worst < 0.05, "{worst}");
}

#[test]
fn a_chat_answer_is_the_same_alone_and_in_company() {
    let Some(model) = model() else { return };
    let engine = Engine::new(model, &EngineOptions::default()).unwrap();
    let ask = |content: &str| {
        let message = Message { role: Role::User, content: content.into() };
        GenerateRequest { max_new_tokens: 24, seed: 5, ..GenerateRequest::chat([message]) }
    };
    let questions = ["What is photosynthesis?", "Name three rivers.", "Why is the sky blue?"];
    let alone: Vec<_> = questions.iter().map(|q| block_on(engine.generate(ask(q))).unwrap()).collect();
    let together = block_on(join_all(questions.iter().map(|q| engine.generate(ask(q)))));
    for (together, alone) in together.into_iter().zip(&alone) {
        assert_eq!(&together.unwrap(), alone);
    }
    println!("{}", alone[0].text);
    // The system line and the markers: 31 tokens before the question's own and after.
    assert!(alone[0].prompt_tokens > 31, "{}", alone[0].prompt_tokens);
}
