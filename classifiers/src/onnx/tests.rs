use super::*;
use crate::{
    Backbone, BackboneOptions, Classifier, Runtime, Scorer, TEST_RUNTIME, head::tests::head, test_asset,
    test_backbone,
};
use std::sync::Arc;

/// A head of the backbone with weights like those of a real one.
fn real_head(backbone: &Backbone, features: FeatureSet) -> Head {
    let count = 384 + features.names().len();
    let weights: Vec<f32> = (0..count).map(|at| (at * 37 % 101) as f32 / 25.0 - 2.0).collect();
    let mut metadata = head(1.5, weights.clone()).metadata().clone();
    metadata.backbone = backbone.identity().clone();
    metadata.features = features;
    Head::new(metadata, 1.5, weights)
}

#[test]
fn every_pooling_and_set_of_features_has_its_form() {
    let (Some(library), Some(model), Some(tokenizer)) =
        (test_asset(TEST_RUNTIME), test_asset("model.onnx"), test_asset("tokenizer.json"))
    else {
        return;
    };
    let runtime = Runtime::load(&library).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let texts =
        ["def f(x):\n    return x  # twice\n", "import os\n\n\nclass A: ...", "", &"x = 1\n".repeat(90)];
    for (pooling, features) in [
        (Pooling::ClsL2, FeatureSet::None),
        (Pooling::MeanL2, FeatureSet::CodeV1),
        (Pooling::ClsL2, FeatureSet::CodeV1),
    ] {
        let options = BackboneOptions { max_tokens: 64, pooling, sessions: Some(1), ..Default::default() };
        let backbone = Backbone::load(&runtime, &model, &tokenizer, &options).unwrap();
        let (head, joined) = (real_head(&backbone, features), folder.path().join("joined.onnx"));
        export_onnx(&model, &head, &joined).unwrap();
        let options = BackboneOptions { batch_tokens: Some(256), ..options };
        let classifier = Classifier::load(&runtime, &joined, &tokenizer, &options).unwrap();
        let whole = Scorer::of_classifier(Arc::new(classifier)).score(&texts).unwrap();
        let parts = Scorer::new(Arc::new(backbone), head).unwrap().score(&texts).unwrap();
        for (whole, parts) in whole.iter().zip(&parts) {
            assert!((whole - parts).abs() < 1e-4, "{pooling:?}, {features:?}: {whole} {parts}");
        }
    }
    let joined = std::fs::read(folder.path().join("joined.onnx")).unwrap();
    let other = folder.path().join("other.onnx");
    // The name of a set of a later version, as long as this one's.
    let named = String::from_utf8_lossy(&joined).matches("code_v1").count();
    assert_eq!(named, 1);
    let at = joined.windows(7).position(|bytes| bytes == b"code_v1").unwrap();
    std::fs::write(&other, [&joined[..at], b"code_v9", &joined[at + 7..]].concat()).unwrap();
    let error = Classifier::load(&runtime, &other, &tokenizer, &BackboneOptions::default()).unwrap_err();
    assert!(error.to_string().contains("of the set `code_v9`"), "{error}");
}

#[test]
fn one_file_scores_as_backbone_and_head_do() {
    let (Some(library), Some(model), Some(tokenizer), Some(backbone)) = (
        test_asset(TEST_RUNTIME),
        test_asset("model.onnx"),
        test_asset("tokenizer.json"),
        test_backbone(64, 1),
    ) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let joined = folder.path().join("edu.onnx");
    let head = real_head(&backbone, FeatureSet::None);
    export_onnx(&model, &head, &joined).unwrap();
    let runtime = Runtime::load(&library).unwrap();
    let options = BackboneOptions { max_tokens: 64, sessions: Some(1), ..Default::default() };
    let classifier = Arc::new(Classifier::load(&runtime, &joined, &tokenizer, &options).unwrap());
    let texts = ["Cells divide by mitosis.", "", "Sale!", &"Plants make sugar. ".repeat(40)];
    let whole = Scorer::of_classifier(classifier).score(&texts).unwrap();
    let parts = Scorer::new(Arc::new(backbone), head.clone()).unwrap().score(&texts).unwrap();
    for (whole, parts) in whole.iter().zip(&parts) {
        assert!((whole - parts).abs() < 1e-4, "{whole} {parts}");
    }
    assert!(parts.windows(2).all(|pair| (pair[0] - pair[1]).abs() > 1e-3), "{parts:?}");

    // It is no encoder any more, takes no second head, and is not the head's backbone.
    let error = Backbone::load(&runtime, &joined, &tokenizer, &options).unwrap_err().to_string();
    assert!(error.contains("outputs logits Tensor<f32>") && error.contains("last_hidden_state"), "{error}");
    let error = export_onnx(&joined, &head, &folder.path().join("x.onnx")).unwrap_err().to_string();
    assert!(error.contains("is not the backbone of head `test`"), "{error}");
    let error = Classifier::load(&runtime, &model, &tokenizer, &options).unwrap_err().to_string();
    assert!(error.contains("outputs last_hidden_state") && error.contains("expected logits"), "{error}");
    let joined = std::fs::read(&joined).unwrap();
    assert!(join(&joined, &head).unwrap_err().contains("no output `last_hidden_state`"));
}

/// A model of the default operators of one version, with fields that this program does not know.
fn tiny(opset: u64, extra: impl Fn(Message) -> Message) -> Vec<u8> {
    let value = |name: &str| Message::default().text(parts::VALUE_NAME, name);
    let graph = Message::default()
        .message(parts::graph::NODE, &parts::operator("Gather", &["table", "input_ids"], HIDDEN_STATE, &[]))
        .message(parts::graph::INITIALIZER, &parts::floats("table", &[2, 1], &[1.0, 2.0]))
        .message(parts::graph::INPUT, &value("input_ids"))
        .message(parts::graph::INPUT, &value(ATTENTION_MASK))
        .message(parts::graph::OUTPUT, &value(HIDDEN_STATE))
        .text(999, "of a later version");
    Message::default()
        .number(1, 8)
        .message(parts::model::GRAPH, &extra(graph))
        .message(parts::model::OPSET_IMPORT, &Message::default().text(1, "com.microsoft").number(2, 1))
        .message(parts::model::OPSET_IMPORT, &Message::default().number(2, opset))
        .text(998, "of a later version too")
        .into_bytes()
}

#[test]
fn fields_that_are_not_known_stay_and_the_output_is_exchanged() {
    let model = tiny(17, |graph| graph);
    let joined = join(&model, &head(0.5, vec![1.0])).unwrap();
    let whole = fields(&joined).unwrap();
    assert!(whole.iter().any(|field| (field.number, field.text()) == (998, Some("of a later version too"))));
    let graph = whole.iter().find(|field| field.number == parts::model::GRAPH).unwrap();
    let inner = fields(graph.bytes().unwrap()).unwrap();
    assert!(inner.iter().any(|field| (field.number, field.text()) == (999, Some("of a later version"))));
    let outputs: Vec<&str> = inner
        .iter()
        .filter(|field| field.number == parts::graph::OUTPUT)
        .flat_map(|field| named(field, parts::VALUE_NAME))
        .collect();
    assert_eq!(outputs, [LOGITS]);
}

#[test]
fn graphs_that_take_no_head_are_named() {
    let head = head(0.5, vec![1.0]);
    let error = |model: &[u8]| join(model, &head).unwrap_err();
    assert!(error(b"a poem").contains("no ONNX model"));
    assert!(error(b"").contains("no ONNX model"));
    assert!(error(&tiny(8, |graph| graph)).contains("operators of version 8, 9 or later"));
    let outside = |graph: Message| {
        let tensor = parts::floats("w", &[1], &[]).number(parts::tensor::DATA_LOCATION, 1);
        graph.message(parts::graph::INITIALIZER, &tensor)
    };
    assert!(error(&tiny(17, outside)).contains("weights lie in another file"));
    let taken =
        |graph: Message| graph.message(parts::graph::NODE, &parts::operator("Relu", &["x"], LOGITS, &[]));
    assert!(error(&tiny(17, taken)).contains("tensor `logits` already"));
    let mut cut = tiny(17, |graph| graph);
    cut.truncate(cut.len() - 3);
    assert!(error(&cut).contains("no field that can be read"));
}

#[test]
fn guards_against_nan_are_taken_out_behind_softmax_alone() {
    let with = |operator: &'static str| {
        tiny(17, move |graph| {
            let node = |op: &str, inputs: &[&str], output: &str| parts::operator(op, inputs, output, &[]);
            [node(operator, &["x"], "p"), node("IsNaN", &["p"], "q"), node("Where", &["q", "zero", "p"], "r")]
                .iter()
                .fold(graph, |graph, node| graph.message(parts::graph::NODE, node))
        })
    };
    let nodes = |model: &[u8]| {
        let graph = fields(model).unwrap().into_iter().find(|field| field.number == parts::model::GRAPH);
        let graph = fields(graph.unwrap().bytes().unwrap()).unwrap();
        let nodes = graph.into_iter().filter(|field| field.number == parts::graph::NODE);
        let texts = |node: Field| {
            [parts::node::OP_TYPE, parts::node::INPUT, parts::node::OUTPUT]
                .map(|part| named(&node, part).collect::<Vec<_>>().join(" "))
                .join("|")
        };
        nodes.map(texts).collect::<Vec<_>>()
    };
    let guarded = with("Softmax");
    let lighter = without_nan_guards(&guarded).unwrap();
    let (before, after) = (nodes(&guarded), nodes(&lighter));
    assert_eq!(before[..3], after[..3]);
    assert_eq!((before[3].as_str(), after[3].as_str()), ("Where|q zero p|r", "Identity|p|r"));
    assert_eq!(without_nan_guards(&with("Sigmoid")), None);
    assert_eq!(without_nan_guards(&lighter), None);
    assert_eq!(without_nan_guards(b"a poem"), None);
}

#[test]
fn dynamic_quantisation_is_seen() {
    assert_eq!(arithmetic(&tiny(17, |graph| graph)), Arithmetic::Float);
    let quantised = |graph: Message| {
        let node = parts::operator("DynamicQuantizeLinear", &["x"], "y", &[]);
        graph.message(parts::graph::NODE, &node)
    };
    assert_eq!(arithmetic(&tiny(17, quantised)), Arithmetic::BatchWide);
    let by_scale = |operator: &'static str| {
        let node = move |graph: Message| {
            graph.message(parts::graph::NODE, &parts::operator(operator, &["x", "scale"], "y", &[]))
        };
        arithmetic(&tiny(17, node))
    };
    assert_eq!(by_scale("QuantizeLinear"), Arithmetic::Quantised);
    assert_eq!(by_scale("DequantizeLinear"), Arithmetic::Float);
    let function = Message::default().message(7, &parts::operator("DynamicQuantizeLinear", &["x"], "y", &[]));
    let whole = [
        tiny(17, |graph| graph),
        Message::default().message(parts::model::FUNCTIONS, &function).into_bytes(),
    ];
    assert_eq!(arithmetic(&whole.concat()), Arithmetic::BatchWide);
    assert_eq!(arithmetic(b"a poem"), Arithmetic::BatchWide);
    // MiniLM "int8" has weights of 8 bits and computes in f32: there is no scale to share.
    if let Some(model) = test_asset("model.onnx") {
        assert_eq!(arithmetic(&std::fs::read(model).unwrap()), Arithmetic::Float);
    }
}
