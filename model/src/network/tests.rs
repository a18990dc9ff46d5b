use super::*;
use crate::kernels::{Cpu, Naive};
use std::collections::HashMap;

fn tiny() -> ModelConfig {
    ModelConfig {
        vocab_size: 61,
        hidden_size: 16,
        intermediate_size: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        context_tokens: 8,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
    }
}

/// Weights, tokens, logits, loss and gradients computed in float64 by `tests/parity/golden.py`.
fn golden() -> HashMap<String, Vec<f32>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            (name, view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
        })
        .collect()
}

fn close(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}");
    let scale = want.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (x, y)) in got.iter().zip(want).enumerate() {
        assert!((x - y).abs() <= tolerance * scale, "{name}[{i}]: {x} against {y}");
    }
}

fn matches_golden(network: &Network) {
    let golden = golden();
    let params: Vec<f32> = network
        .layout()
        .tensors()
        .iter()
        .flat_map(|t| golden[&format!("weight.{}", t.name)].clone())
        .collect();
    let as_tokens = |name: &str| golden[name].iter().map(|&x| x as u32).collect::<Vec<_>>();
    let (tokens, targets, scales) = (as_tokens("tokens"), as_tokens("targets"), &golden["scales"]);
    let batch = Batch { sequences: 2, context: 8, tokens: &tokens, targets: &targets, scales };

    let logits: Vec<f32> = tokens.chunks(8).flat_map(|row| network.logits(&params, row).unwrap()).collect();
    close("logits", &logits, &golden["logits"], 2e-6);

    let mut workspace = Workspace::new(network.config(), Keep::Activations);
    let mut grads = vec![0.0; params.len()];
    let loss = network.accumulate_gradients(&params, &batch, &mut grads, &mut workspace).unwrap();
    assert!((loss - f64::from(golden["loss"][0])).abs() < 1e-6, "{loss} against {}", golden["loss"][0]);
    for tensor in network.layout().tensors() {
        close(&tensor.name, &grads[tensor.range.clone()], &golden[&format!("grad.{}", tensor.name)], 5e-6);
    }

    // Gradients add up over batches, and scoring gives the loss without them.
    let once = grads.clone();
    network.accumulate_gradients(&params, &batch, &mut grads, &mut workspace).unwrap();
    close("twice", &grads, &once.iter().map(|g| 2.0 * g).collect::<Vec<_>>(), 1e-5);
    let mut scoring = Workspace::new(network.config(), Keep::Nothing);
    assert_eq!(network.losses(&params, &batch, &mut scoring).unwrap(), loss);
}

#[test]
fn cpu_network_matches_pytorch() {
    matches_golden(&Network::new(tiny(), Cpu).unwrap());
}

#[test]
fn naive_network_matches_pytorch() {
    matches_golden(&Network::new(tiny(), Naive).unwrap());
}

#[test]
fn initial_weights_have_the_published_spread() {
    let network =
        Network::new(ModelConfig { hidden_size: 64, layers: 8, vocab_size: 2_000, ..tiny() }, Cpu).unwrap();
    let params = network.initial_parameters(7);
    let spread = |name: &str| {
        let tensor = network.layout().tensors().iter().find(|t| t.name == name).unwrap();
        let values = &params[tensor.range.clone()];
        (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    };
    assert!((spread("model.embed_tokens.weight") / 0.125 - 1.0).abs() < 0.02);
    assert!((spread("model.layers.3.self_attn.o_proj.weight") / (0.125 / 4.0) - 1.0).abs() < 0.05);
    assert_eq!(spread("model.layers.3.input_layernorm.weight"), 1.0);
    assert_eq!(params, network.initial_parameters(7));
    assert_ne!(params, network.initial_parameters(8));
}

#[test]
fn wrong_batches_are_errors() {
    let network = Network::new(tiny(), Cpu).unwrap();
    let params = network.initial_parameters(0);
    let message = |tokens: &[u32]| network.logits(&params, tokens).unwrap_err().to_string();
    assert!(message(&[3, 61]).contains("token 61 at place 1"));
    assert!(message(&[0; 9]).contains("context of 8"));
    assert!(message(&[]).contains("0 tokens"));
}
