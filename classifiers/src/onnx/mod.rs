//! A backbone and a head as one ONNX file.
//!
//! The backbone's graph is kept as it is; behind its `last_hidden_state` come the pooling and the head, and
//! the only output is `logits`, f32 `[pages, 1]`: the score, not clipped. That is the form of
//! HuggingFaceFW/fineweb-edu-classifier and of any sequence classification with one label, so whatever runs
//! those runs this, our own [`Classifier`](crate::Classifier) among them.
//!
//! A dynamically quantised backbone lets the pages of a batch influence each other, in this file as before:
//! run such a model page by page to get the scores that we give. (The embedded MiniLM is not of that kind:
//! its weights have 8 bits, but it computes in f32.)

mod lighter;
mod parts;
mod wire;

pub(crate) use lighter::without_nan_guards;

use crate::{BackboneError, FeatureSet, Head, Pooling, durable, session::HIDDEN_STATE};
use aho_corasick::AhoCorasick;
use std::path::{Path, PathBuf};
use thiserror::Error;
use wire::{Field, Message, Value, fields};

/// The output's name, as `transformers` exports sequence classification.
pub(crate) const LOGITS: &str = "logits";
/// The input that tells pages from padding.
const ATTENTION_MASK: &str = "attention_mask";
/// The input for the features of a text, f32 `[pages, features]`, of a head that counts any.
pub(crate) const FEATURES: &str = "features";
/// The metadata's key for the name of the [`FeatureSet`].
pub(crate) const FEATURES_KEY: &str = "corpusmith.features";
/// What the names of added tensors begin with.
const PREFIX: &str = "corpusmith_head";
/// From this version of the default operators on, all that is added means what it means here.
const LOWEST_OPSET: u64 = 9;
/// A message of protocol buffers cannot be larger.
const LARGEST_MODEL_BYTES: usize = i32::MAX as usize;
/// The smallest length by which a vector is divided: zeros stay zeros.
const SMALLEST_NORM: f32 = 1e-12;
/// How the names begin of operators whose result for a page depends on the other pages of a batch: they
/// choose one scale for all.
const BATCH_WIDE_OPERATORS: [&str; 2] = ["DynamicQuantize", "MatMulIntegerToFloat"];

/// The operator that makes whole numbers of what a model computes; of weights alone, exporters store the result.
/// (`DequantizeLinear` does not hold this name.)
const QUANTISING_OPERATOR: &str = "QuantizeLinear";

/// Why backbone and head could not be made one file.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The backbone's file could not be read.
    #[error(transparent)]
    Read(#[from] BackboneError),
    /// The backbone is not the one that the head was trained on.
    #[error(
        "export: {} is not the backbone of head `{head}`: its blake3 is {found}, the head names {expected}",
        path.display()
    )]
    OtherBackbone {
        /// The ONNX file.
        path: PathBuf,
        /// The head's name.
        head: String,
        /// The file's digest.
        found: String,
        /// The digest that the head names.
        expected: String,
    },
    /// The backbone's graph does not take the head.
    #[error("export: {}: {reason}", path.display())]
    Graph {
        /// The ONNX file.
        path: PathBuf,
        /// What is wrong, and the mend where there is one.
        reason: String,
    },
    /// The file could not be written.
    #[error("export: {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
}

/// Writes backbone and head as one ONNX model; the file appears whole or not at all. Its metadata name the
/// head, the tokenizer (blake3), `max_tokens`, the keep threshold and the features. Of a head that counts
/// features of the text, the model has one more input, `features`: whoever runs it counts them
/// (`classifiers/tests/parity/code_features.py` does in Python).
///
/// # Errors
/// A file cannot be read or written, the backbone is not the head's, keeps its weights outside, or has no
/// output `last_hidden_state` and input `attention_mask`.
pub fn export_onnx(backbone_onnx: &Path, head: &Head, output: &Path) -> Result<(), ExportError> {
    let model = std::fs::read(backbone_onnx)
        .map_err(|source| BackboneError::Read { path: backbone_onnx.to_owned(), source })?;
    let (found, expected) =
        (blake3::hash(&model).to_hex().to_string(), &head.metadata().backbone.model_blake3);
    if found != *expected {
        return Err(ExportError::OtherBackbone {
            path: backbone_onnx.to_owned(),
            head: head.metadata().name.clone(),
            found,
            expected: expected.clone(),
        });
    }
    let joined =
        join(&model, head).map_err(|reason| ExportError::Graph { path: backbone_onnx.to_owned(), reason })?;
    durable::write_whole(output, &joined)
        .map_err(|source| ExportError::Write { path: output.to_owned(), source })
}

/// What a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// Floating point; weights may have 8 bits, which are unpacked.
    Float,
    /// Whole numbers of scales that the file names.
    Quantised,
    /// Whole numbers of one scale for all pages of a batch: a page's output depends on those beside it.
    BatchWide,
}

/// What a model computes in. [`Arithmetic::BatchWide`] also for a file that cannot be read, and where a node
/// merely bears such a name: one page at a time is always right.
pub(crate) fn arithmetic(model: &[u8]) -> Arithmetic {
    let find = |model: &[u8]| -> Option<Arithmetic> {
        let batch_wide = AhoCorasick::new(BATCH_WIDE_OPERATORS).ok()?;
        let quantising = AhoCorasick::new([QUANTISING_OPERATOR]).ok()?;
        let model = fields(model).ok()?;
        let graph = model.iter().find(|field| field.number == parts::model::GRAPH).and_then(Field::bytes)?;
        // A node's bytes hold the graphs within it too; weights, which are large and mean nothing here, do not.
        let graph = fields(graph).ok()?;
        let nodes = graph.iter().filter(|field| field.number == parts::graph::NODE);
        let functions = model.iter().filter(|field| field.number == parts::model::FUNCTIONS);
        let operators = || nodes.clone().chain(functions.clone());
        Some(if operators().any(|field| batch_wide.is_match(field.raw)) {
            Arithmetic::BatchWide
        } else if operators().any(|field| quantising.is_match(field.raw)) {
            Arithmetic::Quantised
        } else {
            Arithmetic::Float
        })
    };
    find(model).unwrap_or(Arithmetic::BatchWide)
}

/// The texts that a message holds under a field number.
fn named<'a>(message: &Field<'a>, number: u64) -> impl Iterator<Item = &'a str> + use<'a> {
    let inner = message.bytes().and_then(|bytes| fields(bytes).ok()).unwrap_or_default();
    inner.into_iter().filter(move |field| field.number == number).filter_map(|field| field.text())
}

/// The backbone's bytes with the head behind its output.
fn join(model: &[u8], head: &Head) -> Result<Vec<u8>, String> {
    let model = fields(model).map_err(|error| format!("no ONNX model: {error}"))?;
    check_opset(&model)?;
    let mut graphs = model.iter().filter(|field| field.number == parts::model::GRAPH);
    let (Some(graph), None) = (graphs.next(), graphs.next()) else {
        return Err("no ONNX model: it has no graph, or several".into());
    };
    let graph = fields(graph.bytes().unwrap_or_default()).map_err(|error| format!("its graph: {error}"))?;
    check_graph(&graph)?;

    let mut joined = Message::default();
    for field in graph.iter().filter(|field| field.number != parts::graph::OUTPUT) {
        joined = joined.copied(field);
    }
    for (number, part) in head_parts(head) {
        joined = joined.message(number, &part);
    }
    let features = head.metadata().features;
    if features != FeatureSet::None {
        let count = parts::Size::Of(features.names().len() as u64);
        let input = parts::value(FEATURES, parts::FLOAT, &[parts::Size::Any("batch_size"), count]);
        joined = joined.message(parts::graph::INPUT, &input);
    }
    let logits = parts::value(LOGITS, parts::FLOAT, &[parts::Size::Any("batch_size"), parts::Size::Of(1)]);
    joined = joined.message(parts::graph::OUTPUT, &logits);

    let mut whole = Message::default();
    for field in &model {
        whole = if field.number == parts::model::GRAPH {
            whole.message(parts::model::GRAPH, &joined)
        } else {
            whole.copied(field)
        };
    }
    let metadata = head.metadata();
    for (key, value) in [
        ("corpusmith.head", metadata.name.clone()),
        ("corpusmith.tokenizer_blake3", metadata.backbone.tokenizer_blake3.clone()),
        ("corpusmith.max_tokens", metadata.backbone.max_tokens.to_string()),
        ("corpusmith.keep_threshold", metadata.keep_threshold.to_string()),
        (FEATURES_KEY, metadata.features.name().to_owned()),
    ] {
        whole = whole.message(parts::model::METADATA_PROPS, &parts::metadata(key, &value));
    }
    let bytes = whole.into_bytes();
    if bytes.len() > LARGEST_MODEL_BYTES {
        return Err(format!("{} bytes are more than an ONNX file may have", bytes.len()));
    }
    Ok(bytes)
}

fn check_opset(model: &[Field]) -> Result<(), String> {
    let imports = model.iter().filter(|field| field.number == parts::model::OPSET_IMPORT);
    for import in imports {
        let inner = fields(import.bytes().unwrap_or_default())?;
        let domain = inner.iter().find(|field| field.number == parts::OPSET_DOMAIN).and_then(Field::text);
        let version = inner.iter().find_map(|field| match field.value {
            Value::Number(version) if field.number == parts::OPSET_VERSION => Some(version),
            _ => None,
        });
        if matches!(domain, None | Some("" | "ai.onnx")) {
            return match version {
                Some(version) if version >= LOWEST_OPSET => Ok(()),
                other => Err(format!(
                    "operators of version {}, {LOWEST_OPSET} or later are needed; export the encoder anew",
                    other.map_or_else(|| "none".into(), |version| version.to_string())
                )),
            };
        }
    }
    Err("no ONNX model: it names no version of its operators".into())
}

/// Checks that the graph has what the head needs and nothing that stands in its way.
fn check_graph(graph: &[Field]) -> Result<(), String> {
    let of = |number: u64| graph.iter().filter(move |field| field.number == number);
    let has =
        |number: u64, name: &str| of(number).any(|field| named(field, parts::VALUE_NAME).any(|n| n == name));
    if !has(parts::graph::OUTPUT, HIDDEN_STATE) || !has(parts::graph::INPUT, ATTENTION_MASK) {
        return Err(format!("no output `{HIDDEN_STATE}` or no input `{ATTENTION_MASK}`"));
    }
    for initializer in of(parts::graph::INITIALIZER) {
        let inner = fields(initializer.bytes().unwrap_or_default())?;
        let is_outside = |field: &Field| {
            field.number == parts::tensor::DATA_LOCATION && matches!(field.value, Value::Number(1))
        };
        if inner.iter().any(is_outside) {
            return Err("its weights lie in another file; save it as one file first \
                        (onnx.save_model with save_as_external_data=False)"
                .into());
        }
    }
    let outputs = of(parts::graph::NODE).flat_map(|node| named(node, parts::node::OUTPUT));
    let constants = of(parts::graph::INITIALIZER).flat_map(|tensor| named(tensor, parts::tensor::NAME));
    match outputs.chain(constants).find(|name| *name == LOGITS || name.starts_with(PREFIX)) {
        Some(taken) => Err(format!("it has a tensor `{taken}` already; does it hold a head?")),
        None => Ok(()),
    }
}

/// The nodes and constants of pooling and head, with their field numbers in the graph.
fn head_parts(head: &Head) -> Vec<(u64, Message)> {
    let name = |part: &str| format!("{PREFIX}/{part}");
    let (weights, feature_weights) = head.weights().split_at(head.metadata().backbone.hidden);
    let node = |op: &str, inputs: &[&str], output: &str, attributes: &[Message]| {
        (parts::graph::NODE, parts::operator(op, inputs, output, attributes))
    };
    let constant = |tensor: Message| (parts::graph::INITIALIZER, tensor);
    let (row_shape, column_shape) = (name("row_shape"), name("column_shape"));
    let (weight, bias, smallest) = (name("weight"), name("bias"), name("smallest_norm"));
    let (mask, row, sum, turned) = (name("mask"), name("mask_row"), name("sum"), name("sum_turned"));
    let (square, norm, divisor, unit) = (name("square"), name("norm"), name("divisor"), name("unit"));
    let (product, column) = (name("product"), name("column"));
    // One row for each page, [pages, 1, hidden], that has the direction of its vector.
    let mut all = match head.pooling() {
        Pooling::MeanL2 => vec![
            // The sum over a page's tokens; divided by its length it is their mean, scaled.
            constant(parts::integers(&row_shape, &[0, 1, -1])),
            node("Cast", &[ATTENTION_MASK], &mask, &[parts::number("to", parts::FLOAT)]),
            node("Reshape", &[&mask, &row_shape], &row, &[]),
            node("MatMul", &[&row, HIDDEN_STATE], &sum, &[]),
        ],
        Pooling::ClsL2 => vec![
            constant(parts::integers(&row_shape, &[0])),
            node("Gather", &[HIDDEN_STATE, &row_shape], &sum, &[parts::number("axis", 1)]),
        ],
    };
    let by_vector = if feature_weights.is_empty() { LOGITS.to_owned() } else { name("by_vector") };
    all.extend([
        constant(parts::integers(&column_shape, &[-1, 1])),
        constant(parts::floats(&weight, &[weights.len(), 1], weights)),
        constant(parts::floats(&bias, &[1], &[head.bias()])),
        constant(parts::floats(&smallest, &[1], &[SMALLEST_NORM])),
        node("Transpose", &[&sum], &turned, &[parts::numbers("perm", &[0, 2, 1])]),
        node("MatMul", &[&sum, &turned], &square, &[]),
        node("Sqrt", &[&square], &norm, &[]),
        node("Max", &[&norm, &smallest], &divisor, &[]),
        node("Div", &[&sum, &divisor], &unit, &[]),
        node("MatMul", &[&unit, &weight], &product, &[]),
        node("Reshape", &[&product, &column_shape], &column, &[]),
        node("Add", &[&column, &bias], &by_vector, &[]),
    ]);
    if !feature_weights.is_empty() {
        let (weight, product) = (name("feature_weight"), name("by_features"));
        all.extend([
            constant(parts::floats(&weight, &[feature_weights.len(), 1], feature_weights)),
            node("MatMul", &[FEATURES, &weight], &product, &[]),
            node("Add", &[&by_vector, &product], LOGITS, &[]),
        ]);
    }
    all
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
