//! Small whole models for tests.

use super::{
    ATTENTION_MASK, LOGITS,
    parts::{self, FLOAT},
    wire::Message,
};

/// A sequence classification of `labels` labels without `token_type_ids`: each logit is the sum of the ids of
/// the page's tokens below `vocabulary`, in 16ths, times the label's number from 1. Sums of such numbers are exact.
pub(crate) fn sum_of_ids(vocabulary: u8, labels: usize) -> Vec<u8> {
    let table: Vec<f32> = (0..vocabulary).map(|id| f32::from(id) / 16.0).collect();
    let factors: Vec<f32> = (1..=labels).map(|label| label as f32).collect();
    let input = |name: &str| parts::value(name, 7, &[parts::Size::Any("batch"), parts::Size::Any("tokens")]);
    let columns = i64::try_from(labels).unwrap();
    let mut graph = Message::default().text(2, "sum of ids");
    for node in [
        parts::operator("Gather", &["table", "input_ids"], "states", &[]),
        parts::operator("Cast", &[ATTENTION_MASK], "mask", &[parts::number("to", FLOAT)]),
        parts::operator("Reshape", &["mask", "row"], "mask_row", &[]),
        parts::operator("MatMul", &["mask_row", "states"], "sum", &[]),
        parts::operator("MatMul", &["sum", "factors"], "by_label", &[]),
        parts::operator("Reshape", &["by_label", "columns"], LOGITS, &[]),
    ] {
        graph = graph.message(parts::graph::NODE, &node);
    }
    for tensor in [
        parts::floats("table", &[table.len(), 1], &table),
        parts::floats("factors", &[1, labels], &factors),
        parts::integers("row", &[0, 1, -1]),
        parts::integers("columns", &[-1, columns]),
    ] {
        graph = graph.message(parts::graph::INITIALIZER, &tensor);
    }
    let output = parts::value(LOGITS, FLOAT, &[parts::Size::Any("batch"), parts::Size::Of(labels as u64)]);
    graph = graph
        .message(parts::graph::INPUT, &input("input_ids"))
        .message(parts::graph::INPUT, &input(ATTENTION_MASK))
        .message(parts::graph::OUTPUT, &output);
    Message::default()
        .number(1, 8)
        .message(parts::model::GRAPH, &graph)
        .message(parts::model::OPSET_IMPORT, &Message::default().number(2, 17))
        .into_bytes()
}
