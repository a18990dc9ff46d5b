//! A graph with less to do and the same results.

use super::{
    named, parts,
    wire::{Field, Message, fields},
};
use std::collections::HashMap;

/// The model without its guards against NaN behind softmax, `Where(IsNaN(p), 0, p)`; `None` where it has none,
/// or cannot be read.
///
/// PyTorch's exporter writes them for rows of which all is masked. A page that is run alone has no such row, and
/// there they take a sixth of the time of MiniLM. Whoever runs the result in padded batches wants them back.
pub(crate) fn without_nan_guards(model: &[u8]) -> Option<Vec<u8>> {
    let model = fields(model).ok()?;
    let graph = model.iter().find(|field| field.number == parts::model::GRAPH)?;
    let graph = fields(graph.bytes()?).ok()?;
    let nodes = graph.iter().filter(|field| field.number == parts::graph::NODE);
    let makers: HashMap<&str, &Field> =
        nodes.flat_map(|node| named(node, parts::node::OUTPUT).map(move |name| (name, node))).collect();
    let is = |node: &Field, operator: &str| named(node, parts::node::OP_TYPE).any(|found| found == operator);
    let guarded = |node: &Field| -> Option<Message> {
        let inputs: Vec<&str> = inputs(node).filter(|_| is(node, "Where")).collect();
        let &[condition, _, shares] = inputs.as_slice() else { return None };
        let question = makers.get(condition).filter(|node| is(node, "IsNaN"))?;
        makers.get(shares).filter(|node| is(node, "Softmax"))?;
        (self::inputs(question).next()? == shares).then_some(())?;
        let output = named(node, parts::node::OUTPUT).next()?;
        // ONNX Runtime takes it out, and with it the question.
        Some(parts::operator("Identity", &[shares], output, &[]))
    };
    let (mut lighter, mut is_changed) = (Message::default(), false);
    for field in &graph {
        let identity = (field.number == parts::graph::NODE).then(|| guarded(field)).flatten();
        is_changed |= identity.is_some();
        lighter = match identity {
            Some(identity) => lighter.message(parts::graph::NODE, &identity),
            None => lighter.copied(field),
        };
    }
    is_changed.then(|| {
        let whole = model.iter().fold(Message::default(), |whole, field| match field.number {
            parts::model::GRAPH => whole.message(parts::model::GRAPH, &lighter),
            _ => whole.copied(field),
        });
        whole.into_bytes()
    })
}

fn inputs<'a>(node: &Field<'a>) -> impl Iterator<Item = &'a str> {
    named(node, parts::node::INPUT)
}
