use super::*;
use crate::infer::{Message, Model, ModelOptions, Role};
use crate::testing::model_folder;
use crate::tokenizer::{Encoder, TokenizerOptions, train};

const FORMATS: [GgufFormat; 6] = [
    GgufFormat::F32,
    GgufFormat::F16,
    GgufFormat::Q8_0,
    GgufFormat::Q4_0,
    GgufFormat::Q4_1,
    GgufFormat::Q4_K_M,
];

fn config(tied_embeddings: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: 320,
        hidden_size: 64,
        intermediate_size: 256,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        context_tokens: 64,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tied_embeddings,
    }
}

fn tokenizer(folder: &Path) -> Encoder {
    let options = TokenizerOptions { vocab_size: 300, min_frequency: 1, ..Default::default() };
    train(&options, ["several different words that can be joined to longer and longer tokens"], folder)
        .unwrap()
}

/// Log-probability of each token after the first, by the training network.
fn log_probabilities(model: &LanguageModel, tokens: &[u32]) -> Vec<f32> {
    let logits = model.network.logits(&model.parameters, tokens).unwrap();
    let rows = logits.chunks(model.network.config().vocab_size).zip(&tokens[1..]);
    rows.map(|(row, &next)| {
        let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        (f64::from(row[next as usize]) - total.ln()) as f32
    })
    .collect()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |far, (a, b)| far.max((a - b).abs()))
}

#[test]
fn every_format_is_read_back_by_the_engine() {
    let root = tempfile::tempdir().unwrap();
    let tokenizer_dir = root.path().join("tokenizer");
    let encoder = tokenizer(&tokenizer_dir);
    let text = "several words joined to 17 longer tokens: é\n";
    for tied in [true, false] {
        let model_dir = root.path().join(format!("model-{tied}"));
        model_folder(&model_dir, config(tied));
        let trained = LanguageModel::load(&model_dir).unwrap();
        let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 300).collect();
        let exact = log_probabilities(&trained, &tokens);
        let mut sizes = Vec::new();
        for format in FORMATS {
            let out = root.path().join("model.gguf");
            let bytes =
                export_gguf(&ExportOptions::default(), format, &model_dir, &tokenizer_dir, &out).unwrap();
            assert_eq!(bytes, std::fs::metadata(&out).unwrap().len());
            sizes.push(bytes);
            let model = Model::load(&out, &ModelOptions::default()).unwrap();
            assert_eq!(model.tokenizer().encode_plain(text), encoder.encode(text).unwrap());
            assert_eq!(model.tokenizer().end_tokens(), [0]);
            // The engine with the file's weights, and the same weights in the training network.
            let ran = model.logprobs(&tokens).unwrap();
            let back = LanguageModel::load(&out).unwrap();
            assert_eq!(back.network.config(), trained.network.config());
            let rounded = log_probabilities(&back, &tokens);
            let (of_engine, of_weights) = (furthest(&ran, &rounded), furthest(&rounded, &exact));
            println!(
                "{format:?} tied {tied}: {bytes} bytes, engine {of_engine:.5}, weights {of_weights:.5} nats"
            );
            assert!(of_engine < 2e-2, "{format:?}: {of_engine}");
            let most = match format {
                GgufFormat::F32 => 0.0,
                GgufFormat::F16 => 5e-3,
                GgufFormat::Q8_0 => 1e-1,
                GgufFormat::Q4_0 | GgufFormat::Q4_1 | GgufFormat::Q4_K_M => 2.0,
            };
            assert!(of_weights <= most, "{format:?}: {of_weights}");
        }
        // Q4_1 has a minimum beside Q4_0's scale.
        assert!([sizes[3], sizes[4], sizes[2], sizes[1], sizes[0]].is_sorted(), "{sizes:?}");
    }
}

#[test]
fn the_mixture_has_the_kinds_of_llama_cpp() {
    let config = ModelConfig::preset(crate::config::Preset::B1_7);
    let layout = crate::network::ParameterLayout::new(&config).unwrap();
    let kind = |name: &str| {
        let slot = layout.tensors().iter().find(|slot| slot.name == name).unwrap();
        GgufFormat::Q4_K_M.kind(slot, &config)
    };
    assert_eq!(kind("model.embed_tokens.weight"), TensorKind::Q6_K);
    assert_eq!(kind("model.norm.weight"), TensorKind::F32);
    assert_eq!(kind("model.layers.0.self_attn.q_proj.weight"), TensorKind::Q4_K);
    // Of 24 layers the first and the last three, and every third between.
    let fine: Vec<usize> = (0..24)
        .filter(|layer| kind(&format!("model.layers.{layer}.mlp.down_proj.weight")) == TensorKind::Q6_K)
        .collect();
    assert_eq!(fine, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
    assert_eq!(kind("model.layers.3.self_attn.v_proj.weight"), TensorKind::Q4_K);
}

#[test]
fn a_chat_model_ends_its_turns_and_brings_its_template() {
    let root = tempfile::tempdir().unwrap();
    let (model_dir, tokenizer_dir) = (root.path().join("model"), root.path().join("tokenizer"));
    tokenizer(&tokenizer_dir);
    model_folder(&model_dir, config(true));
    let options = ExportOptions { model_use: ModelUse::Chat, ..Default::default() };
    let out = root.path().join("chat.gguf");
    export_gguf(&options, GgufFormat::Q8_0, &model_dir, &tokenizer_dir, &out).unwrap();
    let file = crate::gguf::GgufFile::open(&out).unwrap();
    assert_eq!(file.require_str("tokenizer.chat_template").unwrap(), crate::chat::CHAT_ML);
    let model = Model::load(&out, &ModelOptions::default()).unwrap();
    assert_eq!(model.tokenizer().end_tokens(), [0, 2]);
    // The engine's prompt is the one that fine-tuning trains on.
    let encoder = Encoder::load(&tokenizer_dir.join(TOKENIZER_FILE)).unwrap();
    let talk = [Message { role: Role::User, content: "words <|im_end|>".into() }];
    let chat = crate::chat::ChatFormat::load(&encoder).unwrap();
    assert_eq!(model.tokenizer().encode_chat(&talk).unwrap(), chat.prompt(&talk).unwrap());

    // And the file's tokenizer as a folder is the one it was made of.
    let again = crate::tokenizer::tokenizer_of_gguf(&out, &root.path().join("again")).unwrap();
    let text = "several words <|im_end|> 17 é\n";
    assert_eq!(again.encode(text).unwrap(), encoder.encode(text).unwrap());
    assert_eq!(again.special_tokens(), encoder.special_tokens());
    let chat_again = crate::chat::ChatFormat::load(&again).unwrap();
    assert!(chat_again.origin().ends_with("tokenizer_config.json"));
    assert_eq!(chat_again.prompt(&talk).unwrap(), chat.prompt(&talk).unwrap());
}

#[test]
fn what_does_not_fit_is_named_and_leaves_no_file() {
    let root = tempfile::tempdir().unwrap();
    let (model_dir, tokenizer_dir) = (root.path().join("model"), root.path().join("tokenizer"));
    tokenizer(&tokenizer_dir);
    let out = root.path().join("out.gguf");
    let message = |config: ModelConfig, format| {
        model_folder(&model_dir, config);
        let error = export_gguf(&ExportOptions::default(), format, &model_dir, &tokenizer_dir, &out);
        assert!(!out.exists() && !temporary_name(&out).exists());
        error.unwrap_err().to_string()
    };
    let small = message(ModelConfig { vocab_size: 299, ..config(true) }, GgufFormat::F16);
    assert!(small.contains("300 entries, the model 299"), "{small}");
    let narrow = ModelConfig { hidden_size: 48, heads: 3, kv_heads: 3, ..config(true) };
    let narrow = message(narrow, GgufFormat::Q4_0);
    assert!(narrow.contains("no whole number of blocks of 32"), "{narrow}");
}
