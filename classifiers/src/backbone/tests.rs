use super::*;
use crate::{TEST_RUNTIME, test_asset, test_backbone, tokenize::tests::tiny_tokenizer_json};

/// The bytes of a protocol-buffer field that holds bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
    bytes.extend_from_slice(content);
    bytes
}

/// A whole ONNX model with one Identity node, f32 [1] in and out.
fn identity_onnx(input: &str, output: &str) -> Vec<u8> {
    // TypeProto { tensor_type { elem_type: FLOAT, shape { dim { dim_value: 1 } } } }
    let shape = field(2, &field(1, &[0x08, 1]));
    let tensor = field(2, &field(1, &[&[0x08, 1], shape.as_slice()].concat()));
    let value = |name: &str| [field(1, name.as_bytes()), tensor.clone()].concat();
    let node = [field(1, input.as_bytes()), field(2, output.as_bytes()), field(4, b"Identity")].concat();
    let graph =
        [field(1, &node), field(2, b"g"), field(11, &value(input)), field(12, &value(output))].concat();
    // ModelProto { ir_version: 8, graph, opset_import { version: 13 } }
    [vec![0x08, 8], field(7, &graph), field(8, &[0x10, 13])].concat()
}

/// Loads `model` with the tiny tokenizer and gives the error's text.
fn load_error(model: &[u8]) -> Option<String> {
    let runtime = Runtime::load(&test_asset(TEST_RUNTIME)?).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (onnx, tokenizer) = (folder.path().join("odd.onnx"), folder.path().join("t.json"));
    std::fs::write(&onnx, model).unwrap();
    std::fs::write(&tokenizer, tiny_tokenizer_json()).unwrap();
    let error = Backbone::load(&runtime, &onnx, &tokenizer, &BackboneOptions::default());
    Some(error.unwrap_err().to_string())
}

#[test]
fn a_model_with_other_inputs_is_named_with_what_was_found() {
    let Some(text) = load_error(&identity_onnx("pixels", "out")) else {
        return;
    };
    assert!(text.contains("odd.onnx has the inputs pixels Tensor<f32>(1)"), "{text}");
    assert!(text.contains("expected input_ids, attention_mask and perhaps token_type_ids"), "{text}");
}

#[test]
fn garbage_and_empty_and_cut_files_are_one_clear_error() {
    for (model, size) in [(b"hello".as_slice(), "5 bytes"), (b"", "0 bytes")] {
        let Some(text) = load_error(model) else {
            return;
        };
        assert!(text.contains("odd.onnx") && text.contains(size), "{text}");
        assert!(text.contains("Expected a whole ONNX encoder"), "{text}");
    }
    let Some(whole) = test_asset("model.onnx") else {
        return;
    };
    let mut cut = std::fs::read(whole).unwrap();
    cut.truncate(cut.len() / 2);
    let text = load_error(&cut).unwrap();
    assert!(text.contains("odd.onnx") && text.contains("whole ONNX encoder"), "{text}");
}

#[test]
fn too_many_tokens_for_the_model_is_found_at_load() {
    let (Some(library), Some(model), Some(tokenizer)) =
        (test_asset(TEST_RUNTIME), test_asset("model.onnx"), test_asset("tokenizer.json"))
    else {
        return;
    };
    let runtime = Runtime::load(&library).unwrap();
    let options = BackboneOptions { max_tokens: 513, sessions: Some(1), ..Default::default() };
    let error = Backbone::load(&runtime, &model, &tokenizer, &options).unwrap_err();
    assert!(error.to_string().contains("trial page of 513 tokens"), "{error}");
    let none = BackboneOptions { sessions: Some(0), ..Default::default() };
    let error = Backbone::load(&runtime, &model, &tokenizer, &none).unwrap_err();
    assert!(error.to_string().contains("sessions = 0"), "{error}");
}

#[test]
fn a_page_has_one_vector_whatever_stands_beside_it() {
    let (Some(one), Some(two)) = (test_backbone(64, 1), test_backbone(64, 2)) else {
        return;
    };
    let long = "Plants make sugar from light, water and air. ".repeat(30);
    let pages = ["Chlorophyll", long.as_str(), "", "中文 and more", "Buy now, 50 % off!!!"];
    let alone: Vec<f32> = pages.iter().flat_map(|page| one.embed(&[page]).unwrap()).collect();
    assert_eq!(alone.len(), pages.len() * one.hidden());
    assert_eq!(alone, two.embed(&pages).unwrap());
    for vector in alone.chunks(one.hidden()) {
        let norm: f32 = vector.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
}

#[test]
fn like_pages_lie_close() {
    let Some(backbone) = test_backbone(64, 1) else {
        return;
    };
    let pages = [
        "How do plants turn light into food?",
        "Photosynthesis: chlorophyll in leaves captures sunlight to make sugar.",
        "Shares fell on Monday after the bank cut its forecast.",
    ];
    let all = backbone.embed(&pages).unwrap();
    let rows: Vec<&[f32]> = all.chunks(backbone.hidden()).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let (near, far) = (dot(rows[0], rows[1]), dot(rows[0], rows[2]));
    assert!(near > 0.4 && far < 0.2, "near {near}, far {far}");
}
