use super::*;
use crate::kernels::{Cpu, Naive};
use crate::testing::tiny_config;
use std::collections::{BTreeMap, HashMap};

/// Weights, tokens, logits, loss and gradients of each case, computed in float64 by `tests/parity/golden.py`.
fn golden() -> BTreeMap<String, HashMap<String, Vec<f32>>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut cases: BTreeMap<String, HashMap<String, Vec<f32>>> = BTreeMap::new();
    for (name, view) in file.tensors() {
        let (case, name) = name.split_once('.').unwrap();
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        cases.entry(case.to_owned()).or_default().insert(name.to_owned(), values);
    }
    cases
}

fn close(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}");
    let scale = want.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (x, y)) in got.iter().zip(want).enumerate() {
        assert!((x - y).abs() <= tolerance * scale, "{name}[{i}]: {x} against {y}");
    }
}

fn matches_golden(backend: impl Backend + Copy + 'static) {
    let cases = golden();
    assert_eq!(cases.len(), 5);
    for (case, golden) in &cases {
        let shape: Vec<usize> = golden["shape"].iter().map(|&x| x as usize).collect();
        let config = ModelConfig {
            vocab_size: shape[0],
            hidden_size: shape[1],
            intermediate_size: shape[2],
            layers: shape[3],
            heads: shape[4],
            kv_heads: shape[5],
            tied_embeddings: shape[6] == 1,
            context_tokens: 16,
            ..tiny_config()
        };
        let network = Network::new(config, backend).unwrap();
        matches_case(case, golden, &network);
    }
}

fn matches_case(case: &str, golden: &HashMap<String, Vec<f32>>, network: &Network) {
    let params: Vec<f32> = network
        .layout()
        .tensors()
        .iter()
        .flat_map(|t| golden[&format!("weight.{}", t.name)].clone())
        .collect();
    let as_tokens = |name: &str| golden[name].iter().map(|&x| x as u32).collect::<Vec<_>>();
    let bounds: Vec<usize> = golden["bounds"].iter().map(|&x| x as usize).collect();
    let (tokens, targets, scales) = (as_tokens("tokens"), as_tokens("targets"), &golden["scales"]);
    let batch = Batch { bounds: &bounds, tokens: &tokens, targets: &targets, scales };

    let documents = bounds.windows(2).map(|span| &tokens[span[0]..span[1]]);
    let logits: Vec<f32> =
        documents.flat_map(|document| network.logits(&params, document).unwrap()).collect();
    close(&format!("{case} logits"), &logits, &golden["logits"], 5e-6);

    let mut workspace = Workspace::new(network.config(), Keep::Activations);
    let mut grads = vec![0.0; params.len()];
    let loss = network.accumulate_gradients(&params, &batch, &mut grads, &mut workspace).unwrap();
    let want = golden["loss"][0];
    assert!((loss - f64::from(want)).abs() < 1e-6 * f64::from(want), "{case}: {loss} against {want}");
    assert_eq!(
        network.layout().tensors().len(),
        golden.keys().filter(|name| name.starts_with("grad.")).count(),
        "{case}"
    );
    for tensor in network.layout().tensors() {
        let want = &golden[&format!("grad.{}", tensor.name)];
        close(&format!("{case} {}", tensor.name), &grads[tensor.range.clone()], want, 5e-6);
    }

    // The same factors given when the losses are known give the same bits.
    let mut weighed = vec![0.0; params.len()];
    let zero = vec![0.0; tokens.len()];
    let later = Batch { scales: &zero, ..batch };
    let same = network
        .accumulate_weighed_gradients(&params, &later, |_| scales.clone(), &mut weighed, &mut workspace)
        .unwrap();
    assert_eq!((same, &weighed), (loss, &grads));

    // Gradients add up over batches, and scoring gives the loss without them.
    let once = grads.clone();
    network.accumulate_gradients(&params, &batch, &mut grads, &mut workspace).unwrap();
    close("twice", &grads, &once.iter().map(|g| 2.0 * g).collect::<Vec<_>>(), 1e-5);
    let mut scoring = Workspace::new(network.config(), Keep::Nothing);
    assert_eq!(network.losses(&params, &batch, &mut scoring).unwrap(), loss);
}

#[test]
fn cpu_network_matches_pytorch() {
    matches_golden(Cpu);
}

#[test]
fn naive_network_matches_pytorch() {
    matches_golden(Naive);
}

#[test]
fn packed_documents_know_nothing_of_each_other() {
    let network = Network::new(ModelConfig { context_tokens: 80, ..tiny_config() }, Cpu).unwrap();
    let params = network.initial_parameters(5);
    let lengths = [70, 3, 1, 66];
    let bounds = [0, 70, 73, 74, 140];
    let losses = |change: u32| {
        let tokens: Vec<u32> = (0..140).map(|i| if i < 70 { i + change } else { i } * 7 % 61).collect();
        let mut workspace = Workspace::new(network.config(), Keep::Activations);
        let (scales, mut grads) = (vec![1.0; 140], vec![0.0; params.len()]);
        let batch = Batch { bounds: &bounds, tokens: &tokens, targets: &tokens, scales: &scales };
        network.accumulate_gradients(&params, &batch, &mut grads, &mut workspace).unwrap();
        (tokens, workspace.losses().to_vec())
    };
    let ((tokens, before), (_, after)) = (losses(0), losses(1));
    assert_ne!(before[..70], after[..70]);
    assert_eq!(before[70..], after[70..]);

    let mut start = 0;
    for length in lengths {
        let span = start..start + length;
        let scales = vec![1.0; length];
        let tokens = &tokens[span.clone()];
        let alone = Batch { bounds: &[0, length], tokens, targets: tokens, scales: &scales };
        let mut workspace = Workspace::new(network.config(), Keep::Nothing);
        network.losses(&params, &alone, &mut workspace).unwrap();
        close("alone", workspace.losses(), &before[span], 1e-6);
        start += length;
    }
}

#[test]
fn activations_are_kept_computed_again_or_rounded() {
    let config = ModelConfig { layers: 12, context_tokens: 64, ..tiny_config() };
    let network = Network::new(config, Cpu).unwrap();
    let params = network.initial_parameters(5);
    let tokens: Vec<u32> = (0..192).map(|i| i * 7 % 61).collect();
    let scales = vec![1.0 / 192.0; 192];
    let batch = Batch { bounds: &even_bounds(3, 64), tokens: &tokens, targets: &tokens, scales: &scales };
    let pass = |keep| {
        let (mut grads, mut workspace) = (vec![0.0; params.len()], Workspace::new(network.config(), keep));
        let loss = network.accumulate_gradients(&params, &batch, &mut grads, &mut workspace).unwrap();
        // Once more: buffers of an earlier batch must not shine through.
        grads.fill(0.0);
        network.accumulate_gradients(&params, &batch, &mut grads, &mut workspace).unwrap();
        // The logits are the same for all, and large here.
        (loss, grads, workspace.bytes() - 4 * workspace.logits.capacity())
    };
    let (loss, grads, bytes) = pass(Keep::Activations);
    let (again_loss, again, few_bytes) = pass(Keep::Inputs);
    assert_eq!((again_loss, &again), (loss, &grads));
    assert!(few_bytes * 3 < bytes, "{few_bytes} of {bytes}");
    let (rounded_loss, rounded, half_bytes) = pass(Keep::Bfloat16);
    assert_eq!(rounded_loss, loss);
    assert_ne!(rounded, grads);
    assert!(half_bytes * 2 < bytes, "{half_bytes} of {bytes}");
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let cosine = dot(&rounded, &grads) / (dot(&rounded, &rounded) * dot(&grads, &grads)).sqrt();
    assert!(cosine > 0.9999, "{cosine}");
}

#[test]
fn initial_weights_have_the_published_spread() {
    let network =
        Network::new(ModelConfig { hidden_size: 64, layers: 8, vocab_size: 2_000, ..tiny_config() }, Cpu)
            .unwrap();
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
    let network = Network::new(tiny_config(), Cpu).unwrap();
    let params = network.initial_parameters(0);
    let message = |tokens: &[u32]| network.logits(&params, tokens).unwrap_err().to_string();
    assert!(message(&[3, 61]).contains("token 61 at place 1"));
    assert!(message(&[0; 9]).contains("context of 8"));
    assert!(message(&[]).contains("0 tokens"));
    let bounds = |bounds: &[usize]| {
        let batch = Batch { bounds, tokens: &[1; 5], targets: &[1; 5], scales: &[1.0; 5] };
        network
            .losses(&params, &batch, &mut Workspace::new(network.config(), Keep::Nothing))
            .map_err(|e| e.to_string())
    };
    assert!(bounds(&[0, 2, 5]).is_ok());
    for (wrong, place) in
        [(&[0, 2][..], 1), (&[1, 5], 0), (&[], 0), (&[0, 3, 3, 5], 2), (&[0, 4, 2, 5], 2), (&[0, 7, 5], 2)]
    {
        assert!(bounds(wrong).unwrap_err().contains(&format!("at place {place}")), "{wrong:?}");
    }
}
