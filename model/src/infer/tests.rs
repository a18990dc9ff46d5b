//! The model and the engine as a whole, on a tiny random model made here.

use std::sync::Arc;

use futures::executor::{block_on, block_on_stream};
use futures::future::join_all;
use tempfile::NamedTempFile;

use super::cache::KvCache;
use super::forward::{Span, Wanted, Workspace};
use super::*;
use crate::gguf::{TensorData, TensorKind, Value, ValueKind, write_gguf};

mod golden;

const HIDDEN: u64 = 64;
const WIDE: u64 = 96;
const LAYERS: u64 = 2;

struct Parts {
    metadata: Vec<(&'static str, Value)>,
    tensors: Vec<(String, Vec<u64>, TensorKind)>,
}

/// 256 bytes, some merges, three control tokens; 4 query heads on 2 key-value heads of 16.
fn parts() -> Parts {
    let letters = |range: std::ops::RangeInclusive<u8>| range.map(char::from);
    let mut letters: Vec<char> =
        letters(b'!'..=b'~').chain(letters(0xa1..=0xac)).chain(letters(0xae..=0xff)).collect();
    letters.extend((0x100..0x100 + 68).filter_map(char::from_u32));
    let control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from);
    let merges = ["t h", "th e", "Ġ the", "i n", "a n"];
    let tokens: Vec<String> = control
        .into_iter()
        .chain(letters.iter().map(char::to_string))
        .chain(merges.iter().map(|merge| merge.replace(' ', "")))
        .collect();
    let kinds = (0..tokens.len()).map(|id| Value::I32(if id < 3 { 3 } else { 1 })).collect();
    let vocab = tokens.len() as u64;
    let metadata = vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(LAYERS as u32)),
        ("llama.context_length", Value::U32(256)),
        ("llama.embedding_length", Value::U32(HIDDEN as u32)),
        ("llama.feed_forward_length", Value::U32(WIDE as u32)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", Value::strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(ValueKind::I32, kinds)),
        ("tokenizer.ggml.merges", Value::strings(merges)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ];
    let mut tensors = vec![
        ("token_embd.weight".into(), vec![HIDDEN, vocab], TensorKind::Q8_0),
        ("output_norm.weight".into(), vec![HIDDEN], TensorKind::F32),
    ];
    for layer in 0..LAYERS {
        for (part, dims, kind) in [
            ("attn_norm", vec![HIDDEN], TensorKind::F32),
            ("attn_q", vec![HIDDEN, HIDDEN], TensorKind::Q4_1),
            ("attn_k", vec![HIDDEN, 32], TensorKind::Q4_0),
            ("attn_v", vec![HIDDEN, 32], TensorKind::F16),
            ("attn_output", vec![HIDDEN, HIDDEN], TensorKind::Q8_0),
            ("ffn_norm", vec![HIDDEN], TensorKind::F32),
            ("ffn_gate", vec![HIDDEN, WIDE], TensorKind::Q4_1),
            ("ffn_up", vec![HIDDEN, WIDE], TensorKind::F32),
            ("ffn_down", vec![WIDE, HIDDEN], TensorKind::Q4_1),
        ] {
            tensors.push((format!("blk.{layer}.{part}.weight"), dims, kind));
        }
    }
    Parts { metadata, tensors }
}

fn load(parts: &Parts) -> Result<Model, LoadModelError> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<Vec<f32>> = parts
        .tensors
        .iter()
        .map(|(name, dims, _)| {
            let norm = name.contains("norm");
            let value = |_| {
                if norm { 1.0 + 0.1 * next() } else { 0.5 * next() }
            };
            (0..dims.iter().product()).map(value).collect()
        })
        .collect();
    let tensors: Vec<TensorData<'_>> = parts
        .tensors
        .iter()
        .zip(&values)
        .map(|((name, dims, kind), values)| TensorData { name, dims, kind: *kind, values })
        .collect();
    let mut file = NamedTempFile::new().unwrap();
    write_gguf(&mut file, &parts.metadata, &tensors).unwrap();
    Model::load(file.path(), &ModelOptions::default())
}

fn tiny() -> Arc<Model> {
    Arc::new(load(&parts()).unwrap())
}

/// All logits of a sequence read in parts of these sizes.
fn logits_in_parts(model: &Model, tokens: &[u32], sizes: &[usize]) -> Vec<u32> {
    let mut cache = KvCache::default();
    let mut work = Workspace::default();
    let mut out = Vec::new();
    let mut rest = tokens;
    for &size in sizes.iter().cycle() {
        let (part, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        let span = Span { cache: &mut cache, tokens: part, wanted: Wanted::All };
        model.forward(&mut [span], &mut work);
        let rows = work.logits_mut(model.config().vocab_size);
        out.extend(rows.flat_map(|row| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>()));
        if rest.is_empty() {
            return out;
        }
    }
    out
}

#[test]
fn parts_threads_and_isas_change_no_bit() {
    let mut model = load(&parts()).unwrap();
    let tokens: Vec<u32> = (0..100).map(|i| 3 + i * 7 % 250).collect();
    let whole = logits_in_parts(&model, &tokens, &[100]);
    assert_eq!(whole.len(), 100 * model.config().vocab_size);
    assert_eq!(logits_in_parts(&model, &tokens, &[1]), whole);
    assert_eq!(logits_in_parts(&model, &tokens, &[7, 16, 5]), whole);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    assert_eq!(pool.install(|| logits_in_parts(&model, &tokens, &[33])), whole);
    for isa in kernels::Isa::available() {
        model.isa = isa;
        assert_eq!(logits_in_parts(&model, &tokens, &[50]), whole, "{isa:?}");
    }
}

/// Attention and everything else written as plainly as can be, in f64.
fn plain_logits(model: &Model, tokens: &[u32]) -> Vec<f64> {
    let config = model.config();
    let row = |matrix: &packed::PackedMatrix, index: usize, inputs: usize| {
        let mut out = vec![0.0f32; inputs];
        matrix.row(index, &mut out);
        out.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let product = |matrix: &packed::PackedMatrix, outputs: usize, x: &[f64]| -> Vec<f64> {
        let dot = |w: Vec<f64>| w.iter().zip(x).map(|(w, x)| w * x).sum();
        (0..outputs).map(|output| dot(row(matrix, output, x.len()))).collect()
    };
    let norm = |x: &[f64], weight: &[f32]| -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(config.norm_epsilon)).sqrt();
        x.iter().zip(weight).map(|(x, &w)| x * scale * f64::from(w)).collect()
    };
    let turn = |head: &mut [f64], position: usize| {
        for pair in 0..head.len() / 2 {
            let angle = position as f64 / config.rope_base.powf(2.0 * pair as f64 / head.len() as f64);
            let (a, b) = (head[2 * pair], head[2 * pair + 1]);
            head[2 * pair] = a * angle.cos() - b * angle.sin();
            head[2 * pair + 1] = a * angle.sin() + b * angle.cos();
        }
    };
    let dim = config.head_dim;
    let mut hidden: Vec<Vec<f64>> =
        tokens.iter().map(|&token| row(&model.embedding, token as usize, config.hidden)).collect();
    for layer in &model.layers {
        let mut queries = Vec::new();
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for (position, x) in hidden.iter().enumerate() {
            let x = norm(x, &layer.attention_norm);
            let mut query = product(&layer.query, config.heads * dim, &x);
            let mut key = product(&layer.key, config.kv_heads * dim, &x);
            query.chunks_mut(dim).for_each(|head| turn(head, position));
            key.chunks_mut(dim).for_each(|head| turn(head, position));
            queries.push(query);
            keys.push(key);
            values.push(product(&layer.value, config.kv_heads * dim, &x));
        }
        for (position, x) in hidden.iter_mut().enumerate() {
            let mut attended = Vec::new();
            for head in 0..config.heads {
                let kv = head / (config.heads / config.kv_heads) * dim;
                let query = &queries[position][head * dim..][..dim];
                let scores: Vec<f64> = (0..=position)
                    .map(|j| query.iter().zip(&keys[j][kv..]).map(|(q, k)| q * k).sum::<f64>())
                    .map(|dot| (dot / (dim as f64).sqrt()).exp())
                    .collect();
                let total: f64 = scores.iter().sum();
                for d in 0..dim {
                    let sum: f64 = scores.iter().zip(&values).map(|(s, v)| s * v[kv + d]).sum();
                    attended.push(sum / total);
                }
            }
            let add = |x: &mut Vec<f64>, y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            add(x, product(&layer.output, config.hidden, &attended));
            let normed = norm(x, &layer.feed_norm);
            let gate = product(&layer.gate, config.intermediate, &normed);
            let up = product(&layer.up, config.intermediate, &normed);
            let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(x, product(&layer.down, config.hidden, &inner));
        }
    }
    let last = norm(&hidden[tokens.len() - 1], &model.output_norm);
    product(&model.embedding, config.vocab_size, &last)
}

#[test]
fn forward_agrees_with_the_plain_formulas() {
    let model = tiny();
    let tokens: Vec<u32> = (0..40).map(|i| 5 + i * 11 % 240).collect();
    let all = logits_in_parts(&model, &tokens, &[40]);
    let got = &all[39 * model.config().vocab_size..];
    let expected = plain_logits(&model, &tokens);
    let scale = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (got, expected) in got.iter().zip(&expected) {
        let error = (f64::from(f32::from_bits(*got)) - expected).abs();
        // Keys and values are rounded to 11 bits.
        assert!(error < 3e-3 * scale, "{error} of {scale}");
    }
}

fn request(text: &str, seed: u64) -> GenerateRequest {
    GenerateRequest { max_new_tokens: 24, seed, ..GenerateRequest::new(Prompt::Text(text.into())) }
}

const TEXTS: [&str; 7] = [
    "the quick brown fox",
    "a",
    "in 1492 the ocean was blue, and the sailors counted every wave they saw on the way",
    "<|im_start|>user\nhi<|im_end|>\n",
    "x = 3",
    "éà",
    "the the the",
];

#[test]
fn answers_do_not_depend_on_the_company() {
    let model = tiny();
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let alone = Engine::new(Arc::clone(&model), &options).unwrap();
    let expected: Vec<Generation> = TEXTS
        .iter()
        .zip(0..)
        .map(|(text, seed)| block_on(alone.generate(request(text, seed))).unwrap())
        .collect();
    for (max_sequences, prefill_tokens, threads) in [(7, 128, 2), (3, 5, 3), (2, 1, 1)] {
        let options = EngineOptions { max_sequences, prefill_tokens, threads, ..EngineOptions::default() };
        let engine = Engine::new(Arc::clone(&model), &options).unwrap();
        let answers = TEXTS.iter().zip(0..).map(|(text, seed)| engine.generate(request(text, seed)));
        for (got, expected) in block_on(join_all(answers)).into_iter().zip(&expected) {
            assert_eq!(&got.unwrap(), expected);
        }
    }
    let other = block_on(alone.generate(request(TEXTS[0], 99))).unwrap();
    assert_ne!(other.tokens, expected[0].tokens);
}

/// All items of a stream: the texts together, and the end.
fn read_along(engine: &Engine, request: GenerateRequest) -> (String, Generation) {
    let mut text = String::new();
    let mut end = None;
    for item in block_on_stream(engine.stream(request)) {
        assert!(end.is_none(), "something follows the end");
        match item.unwrap() {
            StreamItem::Text(part) => text.push_str(&part),
            StreamItem::End(generation) => end = Some(generation),
        }
    }
    (text, end.unwrap())
}

#[test]
fn streams_carry_the_same_answers() {
    let engine = Engine::new(tiny(), &EngineOptions::default()).unwrap();
    for (text, seed) in TEXTS.into_iter().zip(0..) {
        let whole = block_on(engine.generate(request(text, seed))).unwrap();
        let (parts, end) = read_along(&engine, request(text, seed));
        assert_eq!((&parts, &end), (&whole.text, &whole));
        // Cut at a text in the middle of it.
        let letters: Vec<char> = whole.text.chars().collect();
        let stop: String = letters[letters.len() / 2..][..2].iter().collect();
        let stopped = GenerateRequest { stop: vec![stop], ..request(text, seed) };
        let whole = block_on(engine.generate(stopped.clone())).unwrap();
        let (parts, end) = read_along(&engine, stopped);
        assert_eq!((&parts, &end), (&whole.text, &whole));
    }
    let refused = GenerateRequest { max_new_tokens: 0, ..request("a", 0) };
    let items: Vec<_> = block_on_stream(engine.stream(refused)).collect();
    assert!(matches!(items[..], [Err(GenerateError::BadOption { field: "max_new_tokens", .. })]));
}

#[test]
fn prompts_that_begin_alike_share_their_beginning_and_give_the_same_answers() {
    let model = tiny();
    let system = "in the beginning the ocean was blue, and the sailors counted every wave they saw";
    let ask = |text: &str, seed| request(&format!("{system} {text}"), seed);
    let run = |prefix_tokens: usize, prefill_tokens: usize| {
        let options = EngineOptions { prefix_tokens, prefill_tokens, threads: 2, ..EngineOptions::default() };
        let engine = Engine::new(Arc::clone(&model), &options).unwrap();
        let together = TEXTS.iter().zip(0..).map(|(text, seed)| engine.generate(ask(text, seed)));
        let mut answers = block_on(join_all(together));
        answers.extend(TEXTS.iter().zip(9..).map(|(text, seed)| block_on(engine.generate(ask(text, seed)))));
        let answers: Vec<Generation> = answers.into_iter().map(Result::unwrap).collect();
        (answers, engine.stats())
    };
    let (alone, nothing) = run(0, 128);
    assert_eq!(nothing.prompt_tokens_shared, 0);
    let all: usize = alone.iter().map(|answer| answer.prompt_tokens).sum();
    assert_eq!(nothing.prompt_tokens_read, all as u64);
    for prefill_tokens in [7, 16, 128] {
        for prefix_tokens in [32, 4_096] {
            let (shared, stats) = run(prefix_tokens, prefill_tokens);
            assert_eq!(shared, alone, "{prefix_tokens} {prefill_tokens}");
            assert_eq!(stats.prompt_tokens_read + stats.prompt_tokens_shared, all as u64);
            assert!(stats.prompt_tokens_shared > 0, "{stats:?}");
        }
    }
    // 13 of the 14 prompts need not read the common part again, page for page or to the token.
    let (_, stats) = run(4_096, 16);
    let common = model.tokenizer().encode(system).len() as u64;
    assert!(stats.prompt_tokens_shared >= 13 * (common - common % 16), "{stats:?} {common}");
}

#[test]
fn dropped_requests_free_their_places() {
    let options = EngineOptions { max_sequences: 1, ..EngineOptions::default() };
    let engine = Engine::new(tiny(), &options).unwrap();
    let long = GenerateRequest { max_new_tokens: 200, ..request(TEXTS[0], 1) };
    let held: Vec<_> = (0..50).map(|_| engine.generate(long.clone())).collect();
    drop(held);
    let answer = block_on(engine.generate(request(TEXTS[1], 1))).unwrap();
    assert!(answer.completion_tokens > 0);
    drop(engine.stream(long.clone()));
    let drawn = engine.stats().tokens_drawn;
    block_on(engine.generate(request(TEXTS[1], 1))).unwrap();
    assert!(engine.stats().tokens_drawn < drawn + 200, "a dropped stream was written to its end");
    let pending = engine.generate(long);
    drop(engine);
    // Either it was quick enough or it is told so.
    assert!(matches!(block_on(pending), Ok(_) | Err(GenerateError::Stopped)));
}

#[test]
fn answers_end_where_asked() {
    let engine = Engine::new(tiny(), &EngineOptions::default()).unwrap();
    let full = block_on(engine.generate(request(TEXTS[0], 3))).unwrap();
    assert_eq!((full.finish_reason, full.completion_tokens), (FinishReason::Length, 24));
    assert_eq!(full.text, engine.model().tokenizer().decode(&full.tokens));
    let by_token = GenerateRequest { stop_tokens: vec![full.tokens[10]], ..request(TEXTS[0], 3) };
    let answer = block_on(engine.generate(by_token)).unwrap();
    let first = full.tokens.iter().position(|&t| t == full.tokens[10]).unwrap();
    assert_eq!(answer.tokens, full.tokens[..first]);
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    // A stop text across two tokens.
    let ascii: Vec<usize> =
        (0..23).filter(|&i| full.tokens[i..i + 2].iter().all(|&t| (3..97).contains(&t))).collect();
    if let Some(&at) = ascii.first() {
        let stop = engine.model().tokenizer().decode(&full.tokens[at..at + 2]);
        let by_text = GenerateRequest { stop: vec![stop.clone()], ..request(TEXTS[0], 3) };
        let answer = block_on(engine.generate(by_text)).unwrap();
        assert_eq!(answer.text, full.text[..full.text.find(&stop).unwrap()]);
        assert_eq!(answer.finish_reason, FinishReason::Stop);
    }
    let to_the_end =
        GenerateRequest { max_new_tokens: 10_000, stop_tokens: Vec::new(), ..request(TEXTS[0], 3) };
    let answer = block_on(engine.generate(to_the_end)).unwrap();
    assert!(answer.prompt_tokens + answer.completion_tokens <= 256);
}

#[test]
fn bad_requests_are_told_why() {
    let options = EngineOptions { cache_tokens: 64, ..EngineOptions::default() };
    let engine = Engine::new(tiny(), &options).unwrap();
    let ask = |request| block_on(engine.generate(request)).unwrap_err();
    assert_eq!(ask(request("", 0)), GenerateError::EmptyPrompt);
    let tokens = |tokens| GenerateRequest::new(Prompt::Tokens(tokens));
    assert!(matches!(ask(tokens(vec![4_000])), GenerateError::BadToken { token: 4_000, .. }));
    assert!(matches!(
        ask(tokens(vec![5; 256])),
        GenerateError::PromptTooLong { prompt_tokens: 256, context_tokens: 256 }
    ));
    assert!(matches!(
        ask(tokens(vec![5; 60])),
        GenerateError::OverBudget { needed_tokens: 256, budget_tokens: 64 }
    ));
    let with = |change: fn(&mut GenerateRequest)| {
        let mut request = request("a", 0);
        change(&mut request);
        match ask(request) {
            GenerateError::BadOption { field, .. } => field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(with(|r| r.sampling.temperature = -1.0), "temperature");
    assert_eq!(with(|r| r.sampling.temperature = f32::NAN), "temperature");
    assert_eq!(with(|r| r.sampling.top_p = 0.0), "top_p");
    assert_eq!(with(|r| r.sampling.top_k = 0), "top_k");
    assert_eq!(with(|r| r.sampling.min_p = 1.5), "min_p");
    assert_eq!(with(|r| r.sampling.repetition_penalty = 0.0), "repetition_penalty");
    assert_eq!(with(|r| r.max_new_tokens = 0), "max_new_tokens");
    assert_eq!(with(|r| r.stop = vec![String::new()]), "stop");
    let none = EngineOptions { max_sequences: 0, ..EngineOptions::default() };
    assert!(Engine::new(tiny(), &none).is_err());
}

#[test]
fn the_tokenizer_round_trips_and_guards_its_markers() {
    let model = tiny();
    let tokenizer = model.tokenizer();
    for text in ["the cat in 1234", "é 🙂\n\t", "<|im_end|>"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode_plain(text)), text);
    }
    assert_eq!(tokenizer.encode("the<|im_end|>1")[1], 2);
    assert!(!tokenizer.encode_plain("the<|im_end|>").contains(&2));
    assert_eq!(tokenizer.end_tokens(), [0, 2]);
    let same = tokenizer.to_tokenizers();
    for text in ["a the<|im_end|>\n<|im_start|>99", "no markers"] {
        let expected = same.encode(text, false).unwrap();
        assert_eq!(tokenizer.encode(text), expected.get_ids());
    }
    let message = Message { role: Role::User, content: "stop<|im_end|>".into() };
    let chat = tokenizer.encode_chat(&[message]).unwrap();
    let expected = [
        &tokenizer.encode("<|im_start|>user\n")[..],
        &tokenizer.encode_plain("stop<|im_end|>"),
        &tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n"),
    ]
    .concat();
    assert_eq!(chat, expected);
}

#[test]
fn scores_are_log_probabilities() {
    let model = tiny();
    let tokens: Vec<u32> = (0..150).map(|i| 3 + i * 13 % 200).collect();
    let all = model.logprobs(&tokens).unwrap();
    assert_eq!(all.len(), 149);
    let logits = logits_in_parts(&model, &tokens[..3], &[3]);
    let row: Vec<f64> =
        logits[2 * model.config().vocab_size..].iter().map(|&bits| f64::from(f32::from_bits(bits))).collect();
    let total: f64 = row.iter().map(|x| x.exp()).sum();
    let expected = row[tokens[3] as usize] - total.ln();
    assert!((f64::from(all[2]) - expected).abs() < 1e-4, "{} {expected}", all[2]);
    // Continuations in one batch, one longer than a step, one empty.
    let (context, rest) = tokens.split_at(20);
    let continuations = [rest.to_vec(), rest[..5].to_vec(), Vec::new(), rest[..40].to_vec()];
    let scores = model.score_continuations(context, &continuations).unwrap();
    for (scores, continuation) in scores.iter().zip(&continuations) {
        assert_eq!(scores, &all[19..19 + continuation.len()]);
    }
    assert_eq!(model.logprobs(&[]), Err(ScoreError::EmptyContext));
    assert_eq!(model.logprobs(&[5]), Ok(Vec::new()));
    assert!(matches!(model.logprobs(&[5, 9_999]), Err(ScoreError::BadToken { .. })));
    assert!(matches!(model.logprobs(&[5; 257]), Err(ScoreError::TooLong { .. })));
    assert_eq!(model.score_continuations(&[], &[]), Err(ScoreError::EmptyContext));
}

#[test]
fn contexts_that_are_scored_together_change_no_bit() {
    let model = tiny();
    // More tokens than are held at a time; contexts of one token up to more than a step.
    let tokens = |from: u32, count: u32| (0..count).map(|i| 3 + (from + i * 7) % 250).collect::<Vec<u32>>();
    let contexts: Vec<Vec<u32>> = (0..60).map(|i| tokens(i, 1 + i * 53 % 180)).collect();
    let continuations: Vec<Vec<Vec<u32>>> =
        (0..60).map(|i| (0..i % 4).map(|j| tokens(i + j, j * 17)).collect()).collect();
    let requests: Vec<ScoreRequest<'_>> = contexts
        .iter()
        .zip(&continuations)
        .map(|(context, continuations)| ScoreRequest { context, continuations })
        .collect();
    let together = model.score_requests(&requests).unwrap();
    for (request, scores) in requests.iter().zip(&together) {
        let alone: Vec<Vec<f32>> = request
            .continuations
            .iter()
            .map(|next| {
                model
                    .logprobs(&[request.context, next].concat())
                    .unwrap()
                    .split_off(request.context.len() - 1)
            })
            .collect();
        assert_eq!(scores, &alone);
    }
    assert!(together.iter().flatten().map(Vec::len).sum::<usize>() > 1_000);
    assert_eq!(model.score_requests(&[]), Ok(Vec::new()));
}

#[test]
fn models_that_cannot_run_are_refused() {
    let error = |change: fn(&mut Parts)| {
        let mut parts = parts();
        change(&mut parts);
        load(&parts).unwrap_err()
    };
    macro_rules! refuses {
        ($pattern:pat, $change:expr) => {
            let error = error($change);
            assert!(matches!(error, $pattern), "{error}");
        };
    }
    fn put(parts: &mut Parts, key: &'static str, value: Value) {
        parts.metadata.retain(|(k, _)| *k != key);
        parts.metadata.push((key, value));
    }
    refuses!(LoadModelError::Architecture { .. }, |p| {
        put(p, "general.architecture", Value::String("mamba".into()));
    });
    for (key, value) in [
        ("llama.block_count", Value::U32(u32::MAX)),
        ("llama.embedding_length", Value::U32(0)),
        ("llama.attention.head_count", Value::U32(3)),
        ("llama.attention.head_count_kv", Value::U32(3)),
        ("llama.attention.key_length", Value::U32(24)),
        ("llama.attention.value_length", Value::U32(32)),
        ("llama.rope.dimension_count", Value::U32(31)),
        ("llama.rope.freq_base", Value::F32(f32::NAN)),
        ("llama.rope.scaling.type", Value::String("yarn".into())),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0)),
        ("llama.context_length", Value::U64(u64::MAX)),
    ] {
        let mut parts = parts();
        put(&mut parts, key, value);
        let error = load(&parts).unwrap_err();
        assert!(matches!(error, LoadModelError::Setting { .. }), "{key}: {error}");
    }
    refuses!(LoadModelError::Gguf(_), |p| p.metadata.retain(|(k, _)| *k != "llama.block_count"));
    refuses!(LoadModelError::Gguf(_), |p| put(p, "llama.block_count", Value::U32(3)));
    refuses!(LoadModelError::Shape { .. }, |p| {
        put(p, "llama.feed_forward_length", Value::U32(64));
    });
    refuses!(LoadModelError::UnknownTensor { .. }, |p| {
        p.tensors.push(("blk.0.attn_q.bias".into(), vec![HIDDEN], TensorKind::F32));
    });
    refuses!(LoadModelError::Tokenizer { .. }, |p| {
        put(p, "tokenizer.ggml.pre", Value::String("llama-bpe".into()));
    });
    refuses!(LoadModelError::Tokenizer { .. }, |p| {
        put(p, "tokenizer.ggml.tokens", Value::strings(["a"]));
    });
    refuses!(LoadModelError::Tokenizer { .. }, |p| {
        put(p, "tokenizer.ggml.merges", Value::strings(["zz qq"]));
    });
    refuses!(LoadModelError::Tokenizer { .. }, |p| {
        put(p, "tokenizer.ggml.merges", Value::strings(["th"]));
    });
}
