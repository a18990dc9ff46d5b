use super::*;
use crate::config::ModelConfig;
use crate::kernels::Cpu;
use std::path::Path;

/// Bytes as tokens; a token costs 1 nat where it repeats the one before, else 2.
struct Repeats;

impl Scorer for Repeats {
    fn context_tokens(&self) -> usize {
        8
    }
    fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError> {
        Ok(text.bytes().map(u32::from).collect())
    }
    fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        assert!(sequences.iter().all(|s| s.len() <= 8));
        let cost = |pair: &[u32]| if pair[0] == pair[1] { 1.0 } else { 2.0 };
        Ok(sequences.iter().map(|s| s.windows(2).map(cost).collect()).collect())
    }
}

fn item(choices: &[&str], answer: usize) -> ClozeItem {
    ClozeItem {
        context: "a long context".into(),
        choices: choices.iter().map(ToString::to_string).collect(),
        answer,
        group: None,
    }
}

#[test]
fn perplexity_counts_every_token_once_across_windows() {
    let result = perplexity(&mut Repeats, ["aaaaaaaaaaaaaaaaaaaa", "", "ab"]).unwrap();
    // 20 tokens (first costs 2, then 1 each) and 2 tokens (2 each).
    assert_eq!((result.texts, result.tokens, result.bytes), (2, 22, 22));
    assert_eq!(result.nats, 21.0 + 4.0);
    assert!((result.per_token - (25.0f64 / 22.0).exp()).abs() < 1e-12);
    assert!(perplexity(&mut Repeats, [""; 2]).is_err());
}

#[test]
fn sums_and_normalised_sums_choose_differently() {
    // " b": 4 nats, 1 character. " bbbb": 7 nats, 4 characters: less likely, but better a character.
    let items = [item(&["b", "bbbb"], 0), item(&["b", "bbbb"], 1), item(&["b", "bbbb"], 1)];
    let report = cloze(&mut Repeats, &items).unwrap();
    assert_eq!((report.items, report.acc, report.acc_norm), (3, 1.0 / 3.0, 2.0 / 3.0));
    assert!((report.acc_stderr - (1.0f64 / 9.0).sqrt()).abs() < 1e-12);
}

#[test]
fn batching_changes_no_loss() {
    let config = ModelConfig {
        vocab_size: 40,
        hidden_size: 16,
        intermediate_size: 24,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        context_tokens: 32,
        rope_theta: 1e4,
        rms_norm_eps: 1e-5,
        tied_embeddings: true,
    };
    let network = Network::new(config, Cpu).unwrap();
    let model = LanguageModel { parameters: network.initial_parameters(1), network };
    let folder = tempfile::tempdir().unwrap();
    let options = crate::tokenizer::TokenizerOptions { vocab_size: 300, ..Default::default() };
    let encoder = crate::tokenizer::train(&options, ["a b"], folder.path()).unwrap();
    assert!(matches!(ModelScorer::new(&model, &encoder), Err(EvaluateError::Vocabulary { .. })));
    let mut scorer = ModelScorer {
        network: &model.network,
        parameters: &model.parameters,
        encoder: &encoder,
        workspace: Workspace::new(model.network.config(), Keep::Nothing),
    };
    let sequences: Vec<Vec<u32>> = (0..9).map(|i| (0..=i * 3).map(|t| (t * 7 + i) % 40).collect()).collect();
    let together = scorer.losses(&sequences).unwrap();
    for (sequence, losses) in sequences.iter().zip(&together) {
        let alone = scorer.losses(std::slice::from_ref(sequence)).unwrap();
        assert_eq!(alone[0].len(), losses.len());
        for (a, b) in alone[0].iter().zip(losses) {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
    }
}

/// The context is computed once, and the numbers are those of whole sequences.
#[test]
fn shared_contexts_change_no_score() {
    struct Whole<'a>(ModelScorer<'a>);
    impl Scorer for Whole<'_> {
        fn context_tokens(&self) -> usize {
            self.0.context_tokens()
        }
        fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError> {
            self.0.encode(text)
        }
        fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError> {
            self.0.losses(sequences)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let options = crate::tokenizer::TokenizerOptions { vocab_size: 300, ..Default::default() };
    let encoder = crate::tokenizer::train(&options, ["a b"], folder.path()).unwrap();
    let config = ModelConfig { vocab_size: 300, context_tokens: 32, ..crate::testing::tiny_config() };
    let network = Network::new(config, Cpu).unwrap();
    let model = LanguageModel { parameters: network.initial_parameters(2), network };
    let tokens = |seed: u32, count: u32| (0..count).map(|t| (t * 37 + seed * 11) % 300).collect::<Vec<u32>>();
    let request = |seed: u32| Request {
        context: tokens(seed, 1 + seed * 5 % 23),
        continuations: (0..seed % 5).map(|choice| tokens(seed + choice, (seed + choice * 3) % 11)).collect(),
    };
    let requests: Vec<Request> = (0..40).map(request).collect();
    let shared = ModelScorer::new(&model, &encoder).unwrap().continuations(&requests).unwrap();
    let whole = Whole(ModelScorer::new(&model, &encoder).unwrap()).continuations(&requests).unwrap();
    let mut compared = 0;
    for ((shared, whole), request) in shared.iter().zip(&whole).zip(&requests) {
        assert_eq!(shared.len(), request.continuations.len());
        for (shared, whole) in shared.iter().zip(whole) {
            assert_eq!(shared.len(), whole.len());
            for (a, b) in shared.iter().zip(whole) {
                assert!((a - b).abs() < 1e-5, "{a} against {b}");
                compared += 1;
            }
        }
    }
    assert!(compared > 200, "{compared}");
    // As long as the context allows, and a token longer.
    let mut scorer = ModelScorer::new(&model, &encoder).unwrap();
    let mut longest = Request { context: tokens(1, 20), continuations: vec![tokens(2, 13), tokens(3, 1)] };
    assert!(scorer.continuations(std::slice::from_ref(&longest)).is_ok());
    longest.continuations[1] = tokens(2, 14);
    let error = scorer.continuations(&[longest]).unwrap_err();
    assert!(matches!(error, EvaluateError::Batch(BatchError::Context { tokens: 33, .. })), "{error}");
}

#[test]
fn sample_items_are_sound_and_bad_lines_are_named() {
    let items = parse_cloze(SAMPLE_ITEMS, Path::new("cloze_sample.jsonl")).unwrap();
    assert!(items.len() >= 20);
    let answers: std::collections::BTreeSet<usize> = items.iter().map(|item| item.answer).collect();
    assert!(answers.len() > 1, "the right answer must not always stand first");
    let path = Path::new("x.jsonl");
    let message = |text: &str| parse_cloze(text, path).unwrap_err().to_string();
    assert!(message("\n{\"context\": 3}").starts_with("x.jsonl:2:"));
    assert!(message(r#"{"context": "a", "choices": ["b", "c"], "answer": 2}"#).contains("answer 2 of 2"));
    assert!(message(r#"{"context": "a", "choices": ["b", " "], "answer": 0}"#).contains("choice is empty"));
}
