//! The graph of a Llama-shaped decoder, from standard operators alone.
//!
//! Per step it reads `input_ids`, `attention_mask`, `position_ids` and the keys and values of earlier tokens, and
//! gives `logits` and all keys and values: the names and shapes of Optimum's text generation export
//! (huggingface/optimum-onnx `optimum/exporters/onnx/model_configs.py`, `LlamaOnnxConfig`), which transformers.js
//! expects, too.

use super::proto::{Attribute, BOOL, Extent, FLOAT, Graph, INT64, Node, Tensor, ValueInfo};
use crate::config::ModelConfig;

/// Adds to a score what makes its weight zero: the lowest number, as in transformers.
const NEVER: f32 = f32::MIN;

/// A graph being written. Values are named by the caller or numbered.
pub struct Builder<'c> {
    config: &'c ModelConfig,
    graph: Graph,
    values: usize,
}

/// What all layers share.
struct Shared {
    /// Cosines and sines of the positions, `[batch, 1, sequence, head / 2]`.
    turns: [String; 2],
    /// The same for groups of heads, `[batch, 1, 1, sequence, head / 2]`.
    group_turns: [String; 2],
    /// Added to scores, `[batch, 1, 1, sequence, past + sequence]`.
    bias: String,
}

fn batch() -> Extent {
    Extent::Named("batch_size".to_owned())
}

fn named(name: &str) -> Extent {
    Extent::Named(name.to_owned())
}

fn fixed(size: usize) -> Extent {
    Extent::Fixed(size as i64)
}

impl<'c> Builder<'c> {
    /// The whole graph but for its weights: those of `matrices` are expected transposed, `[in, out]`.
    pub fn build(config: &'c ModelConfig) -> Graph {
        let graph = Graph { name: "main_graph".to_owned(), ..Graph::default() };
        let mut builder = Self { config, graph, values: 0 };
        builder.interface();
        let shared = builder.shared();
        let mut x = builder.op("Gather", &["model.embed_tokens.weight", "input_ids"], &[]);
        for layer in 0..config.layers {
            x = builder.layer(layer, &x, &shared);
        }
        let x = builder.norm(&x, "model.norm.weight");
        let head = match config.tied_embeddings {
            true => {
                builder.op("Transpose", &["model.embed_tokens.weight"], &[Attribute::ints("perm", &[1, 0])])
            }
            false => "lm_head.weight".to_owned(),
        };
        builder.named_op("MatMul", &[&x, &head], "logits", &[]);
        builder.graph
    }

    fn head_size(&self) -> usize {
        self.config.hidden_size / self.config.heads
    }

    /// Inputs and outputs.
    fn interface(&mut self) {
        let config = self.config;
        let cache = |prefix: &str, layer: usize, part: &str, length: &str| {
            let dims =
                [batch(), fixed(config.kv_heads), named(length), fixed(config.hidden_size / config.heads)];
            ValueInfo::tensor(format!("{prefix}.{layer}.{part}"), FLOAT, &dims)
        };
        let (sequence, total) = (named("sequence_length"), named("past_sequence_length + sequence_length"));
        let mut inputs = vec![
            ValueInfo::tensor("input_ids", INT64, &[batch(), sequence.clone()]),
            ValueInfo::tensor("attention_mask", INT64, &[batch(), total]),
            ValueInfo::tensor("position_ids", INT64, &[batch(), sequence.clone()]),
        ];
        let mut outputs =
            vec![ValueInfo::tensor("logits", FLOAT, &[batch(), sequence, fixed(config.vocab_size)])];
        for layer in 0..config.layers {
            for part in ["key", "value"] {
                inputs.push(cache("past_key_values", layer, part, "past_sequence_length"));
                outputs.push(cache("present", layer, part, "past_sequence_length + sequence_length"));
            }
        }
        (self.graph.input, self.graph.output) = (inputs, outputs);
    }

    fn shared(&mut self) -> Shared {
        // Rotary angles: position × base^(−2 i / head size).
        let size = self.head_size();
        let frequencies: Vec<f32> = (0..size / 2)
            .map(|i| self.config.rope_theta.powf(-2.0 * i as f64 / size as f64) as f32)
            .collect();
        let frequencies = self.floats("rotary.frequencies", &[1, 1, size / 2], &frequencies);
        let positions = self.op("Cast", &["position_ids"], &[Attribute::int("to", i64::from(FLOAT))]);
        let last = self.ints("axis.last", &[-1]);
        let positions = self.op("Unsqueeze", &[&positions, &last], &[]);
        let angles = self.op("Mul", &[&positions, &frequencies], &[]);
        let heads = self.ints("axis.heads", &[1]);
        let turns = ["Cos", "Sin"].map(|function| {
            let values = self.op(function, &[&angles], &[]);
            self.op("Unsqueeze", &[&values, &heads], &[])
        });
        let group_turns = turns.each_ref().map(|values| self.op("Unsqueeze", &[values, &heads], &[]));
        // A token sees the tokens up to itself that the mask does not hide.
        let one = self.scalar("one", 1);
        let second = self.scalar("second", 1);
        let length = |builder: &mut Self, of: &str| {
            let shape = builder.op("Shape", &[of], &[]);
            builder.op("Gather", &[&shape, &second], &[])
        };
        let (sequence, total) = (length(self, "input_ids"), length(self, "attention_mask"));
        let past = self.op("Sub", &[&total, &sequence], &[]);
        let zero = self.scalar("zero", 0);
        let keys = self.op("Range", &[&zero, &total, &one], &[]);
        let queries = self.op("Range", &[&past, &total, &one], &[]);
        let queries = self.op("Unsqueeze", &[&queries, &heads], &[]);
        let causal = self.op("LessOrEqual", &[&keys, &queries], &[]);
        let mask = self.op("Cast", &["attention_mask"], &[Attribute::int("to", i64::from(BOOL))]);
        let axes = self.ints("axes.mask", &[1, 2, 3]);
        let mask = self.op("Unsqueeze", &[&mask, &axes], &[]);
        let allowed = self.op("And", &[&causal, &mask], &[]);
        let (nothing, never) = (self.floats("nothing", &[], &[0.0]), self.floats("never", &[], &[NEVER]));
        let bias = self.op("Where", &[&allowed, &nothing, &never], &[]);
        Shared { turns, group_turns, bias }
    }

    fn layer(&mut self, layer: usize, x: &str, shared: &Shared) -> String {
        let weight = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let h = self.norm(x, &weight("input_layernorm"));
        let attended = self.attention(layer, &h, shared, &weight);
        let x = self.op("Add", &[x, &attended], &[]);
        let h = self.norm(&x, &weight("post_attention_layernorm"));
        let gate = self.op("MatMul", &[&h, &weight("mlp.gate_proj")], &[]);
        let sigmoid = self.op("Sigmoid", &[&gate], &[]);
        let gate = self.op("Mul", &[&gate, &sigmoid], &[]);
        let up = self.op("MatMul", &[&h, &weight("mlp.up_proj")], &[]);
        let inner = self.op("Mul", &[&gate, &up], &[]);
        let out = self.op("MatMul", &[&inner, &weight("mlp.down_proj")], &[]);
        self.op("Add", &[&x, &out], &[])
    }

    /// Queries in groups over shared keys and values: `[batch, kv heads, group, sequence, head]`, so that no key is
    /// copied for its group.
    fn attention(
        &mut self,
        layer: usize,
        h: &str,
        shared: &Shared,
        weight: &dyn Fn(&str) -> String,
    ) -> String {
        let (config, size) = (self.config, self.head_size() as i64);
        let (kv_heads, group) = (config.kv_heads as i64, (config.heads / config.kv_heads) as i64);
        let second = self.ints("axis.group", &[2]);
        let by_group = self.ints("shape.queries", &[0, 0, kv_heads, group, size]);
        let by_head = self.ints("shape.keys", &[0, 0, kv_heads, size]);
        let joined = self.ints("shape.joined", &[0, 0, config.hidden_size as i64]);

        let q = self.op("MatMul", &[h, &weight("self_attn.q_proj")], &[]);
        let q = self.op("Reshape", &[&q, &by_group], &[]);
        let q = self.op("Transpose", &[&q], &[Attribute::ints("perm", &[0, 2, 3, 1, 4])]);
        let q = self.rotate(&q, &shared.group_turns);
        let [k, v] = ["self_attn.k_proj", "self_attn.v_proj"].map(|name| {
            let heads = self.op("MatMul", &[h, &weight(name)], &[]);
            let heads = self.op("Reshape", &[&heads, &by_head], &[]);
            self.op("Transpose", &[&heads], &[Attribute::ints("perm", &[0, 2, 1, 3])])
        });
        let k = self.rotate(&k, &shared.turns);
        let [k, v] = [("key", k), ("value", v)].map(|(part, new)| {
            let (past, present) =
                (format!("past_key_values.{layer}.{part}"), format!("present.{layer}.{part}"));
            self.named_op("Concat", &[&past, &new], &present, &[Attribute::int("axis", 2)]);
            self.op("Unsqueeze", &[&present, &second], &[])
        });
        let scale = self.floats("scale", &[], &[1.0 / (size as f32).sqrt()]);
        let q = self.op("Mul", &[&q, &scale], &[]);
        let k = self.op("Transpose", &[&k], &[Attribute::ints("perm", &[0, 1, 2, 4, 3])]);
        let scores = self.op("MatMul", &[&q, &k], &[]);
        let scores = self.op("Add", &[&scores, &shared.bias], &[]);
        let shares = self.op("Softmax", &[&scores], &[Attribute::int("axis", -1)]);
        let mixed = self.op("MatMul", &[&shares, &v], &[]);
        let mixed = self.op("Transpose", &[&mixed], &[Attribute::ints("perm", &[0, 3, 1, 2, 4])]);
        let mixed = self.op("Reshape", &[&mixed, &joined], &[]);
        self.op("MatMul", &[&mixed, &weight("self_attn.o_proj")], &[])
    }

    /// Rotary positions over halves of a head, as transformers lays them out.
    fn rotate(&mut self, x: &str, [cos, sin]: &[String; 2]) -> String {
        let half = (self.head_size() / 2) as i64;
        let sizes = self.ints("shape.halves", &[half, half]);
        let (first, second) = (self.value(), self.value());
        self.push("Split", &[x, &sizes], vec![first.clone(), second.clone()], &[Attribute::int("axis", -1)]);
        let product = |builder: &mut Self, a: &str, b: &str| builder.op("Mul", &[a, b], &[]);
        let (a, b) = (product(self, &first, cos), product(self, &second, sin));
        let left = self.op("Sub", &[&a, &b], &[]);
        let (a, b) = (product(self, &second, cos), product(self, &first, sin));
        let right = self.op("Add", &[&a, &b], &[]);
        self.op("Concat", &[&left, &right], &[Attribute::int("axis", -1)])
    }

    fn norm(&mut self, x: &str, weight: &str) -> String {
        let two = self.floats("two", &[], &[2.0]);
        let eps = self.floats("eps", &[], &[self.config.rms_norm_eps as f32]);
        let squares = self.op("Pow", &[x, &two], &[]);
        let mean = self.op("ReduceMean", &[&squares], &[Attribute::ints("axes", &[-1])]);
        let mean = self.op("Add", &[&mean, &eps], &[]);
        let root = self.op("Sqrt", &[&mean], &[]);
        let x = self.op("Div", &[x, &root], &[]);
        self.op("Mul", &[&x, weight], &[])
    }

    fn value(&mut self) -> String {
        self.values += 1;
        format!("value_{}", self.values)
    }

    fn op(&mut self, kind: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        let output = self.value();
        self.named_op(kind, inputs, &output, attributes);
        output
    }

    fn named_op(&mut self, kind: &str, inputs: &[&str], output: &str, attributes: &[Attribute]) {
        self.push(kind, inputs, vec![output.to_owned()], attributes);
    }

    fn push(&mut self, kind: &str, inputs: &[&str], output: Vec<String>, attributes: &[Attribute]) {
        self.graph.node.push(Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            name: format!("{kind}_{}", self.graph.node.len()),
            output,
            op_type: kind.to_owned(),
            attribute: attributes.to_vec(),
        });
    }

    /// A constant, which is written once however often it is asked for.
    fn constant(&mut self, name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) -> String {
        if !self.graph.initializer.iter().any(|tensor| tensor.name == name) {
            let dims = dims.iter().map(|&size| size as i64).collect();
            let tensor = Tensor { dims, data_type, name: name.to_owned(), raw_data, ..Tensor::default() };
            self.graph.initializer.push(tensor);
        }
        name.to_owned()
    }

    fn ints(&mut self, name: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, INT64, &[values.len()], bytes)
    }

    fn scalar(&mut self, name: &str, value: i64) -> String {
        self.constant(name, INT64, &[], value.to_le_bytes().to_vec())
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, FLOAT, dims, bytes)
    }
}
