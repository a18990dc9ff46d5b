//! Parts of an ONNX graph (onnx/onnx, `onnx/onnx.proto`), written as messages.

use super::wire::Message;

/// Field numbers of `ModelProto`.
pub(super) mod model {
    pub(crate) const GRAPH: u64 = 7;
    pub(crate) const OPSET_IMPORT: u64 = 8;
    pub(crate) const METADATA_PROPS: u64 = 14;
    pub(crate) const FUNCTIONS: u64 = 25;
}
/// Field numbers of `GraphProto`.
pub(super) mod graph {
    pub(crate) const NODE: u64 = 1;
    pub(crate) const INITIALIZER: u64 = 5;
    pub(crate) const INPUT: u64 = 11;
    pub(crate) const OUTPUT: u64 = 12;
}
/// Field numbers of `NodeProto`.
pub(super) mod node {
    pub(crate) const OUTPUT: u64 = 2;
    pub(crate) const OP_TYPE: u64 = 4;
    pub(crate) const INPUT: u64 = 1;
    pub(super) const NAME: u64 = 3;
    pub(super) const ATTRIBUTE: u64 = 5;
}
/// Field numbers of `TensorProto`.
pub(super) mod tensor {
    pub(crate) const NAME: u64 = 8;
    pub(crate) const DATA_LOCATION: u64 = 14;
    pub(super) const DIMS: u64 = 1;
    pub(super) const DATA_TYPE: u64 = 2;
    pub(super) const RAW_DATA: u64 = 9;
}
/// Field number of the name of a `ValueInfoProto`.
pub(super) const VALUE_NAME: u64 = 1;
/// Field numbers of `OperatorSetIdProto`.
pub(super) const OPSET_DOMAIN: u64 = 1;
pub(super) const OPSET_VERSION: u64 = 2;

/// `TensorProto.DataType`.
pub(super) const FLOAT: u64 = 1;
const INT64: u64 = 7;
/// `AttributeProto.AttributeType`.
const ATTRIBUTE_INT: u64 = 2;
const ATTRIBUTE_INTS: u64 = 7;

/// An operator of the default domain with its inputs and its one output; it bears its output's name.
pub(super) fn operator(op_type: &str, inputs: &[&str], output: &str, attributes: &[Message]) -> Message {
    let mut message = Message::default();
    for input in inputs {
        message = message.text(node::INPUT, input);
    }
    message = message.text(node::OUTPUT, output).text(node::NAME, output).text(node::OP_TYPE, op_type);
    attributes.iter().fold(message, |message, attribute| message.message(node::ATTRIBUTE, attribute))
}

/// An attribute that is a number.
pub(super) fn number(name: &str, value: u64) -> Message {
    Message::default().text(1, name).number(3, value).number(20, ATTRIBUTE_INT)
}

/// An attribute that is a list of numbers.
pub(super) fn numbers(name: &str, values: &[u64]) -> Message {
    let named = Message::default().text(1, name);
    values.iter().fold(named, |list, &value| list.number(8, value)).number(20, ATTRIBUTE_INTS)
}

/// A constant tensor of f32.
pub(super) fn floats(name: &str, shape: &[usize], values: &[f32]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    constant(name, shape, FLOAT, &bytes)
}

/// A constant vector of i64.
pub(super) fn integers(name: &str, values: &[i64]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    constant(name, &[values.len()], INT64, &bytes)
}

fn constant(name: &str, shape: &[usize], data_type: u64, bytes: &[u8]) -> Message {
    let sized =
        shape.iter().fold(Message::default(), |tensor, &size| tensor.number(tensor::DIMS, size as u64));
    sized.number(tensor::DATA_TYPE, data_type).text(tensor::NAME, name).bytes(tensor::RAW_DATA, bytes)
}

/// The size of a dimension.
pub(super) enum Size<'a> {
    Of(u64),
    /// Any, by a name.
    Any(&'a str),
}

/// A graph's input or output: a tensor of a `TensorProto.DataType`.
pub(super) fn value(name: &str, data_type: u64, shape: &[Size]) -> Message {
    let shape = shape.iter().fold(Message::default(), |shape, size| {
        let dimension = match size {
            Size::Of(size) => Message::default().number(1, *size),
            Size::Any(name) => Message::default().text(2, name),
        };
        shape.message(1, &dimension)
    });
    let tensor = Message::default().number(1, data_type).message(2, &shape);
    Message::default().text(VALUE_NAME, name).message(2, &Message::default().message(1, &tensor))
}

/// An entry of a model's metadata.
pub(super) fn metadata(key: &str, value: &str) -> Message {
    Message::default().text(1, key).text(2, value)
}
