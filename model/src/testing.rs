//! What the tests of several modules need.

use crate::config::ModelConfig;
use crate::files::write_whole;
use crate::kernels::Cpu;
use crate::language_model::{CONFIG_FILE, Precision, WEIGHTS_FILE, config_json, write_tensors};
use crate::network::{Keep, Network, Workspace};
use crate::training::{Objective, Pass, Share, StepData};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

/// A model of 2 layers with 4 query heads on 2 key heads.
pub(crate) fn tiny_config() -> ModelConfig {
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
        tied_embeddings: true,
    }
}

/// Writes a model with fresh weights; returns them.
pub(crate) fn model_folder(folder: &Path, config: ModelConfig) -> Vec<f32> {
    let network = Network::new(config, Cpu).unwrap();
    let parameters = network.initial_parameters(3);
    std::fs::create_dir_all(folder).unwrap();
    write_tensors(&folder.join(WEIGHTS_FILE), network.layout(), &[("", &parameters)], Precision::Float32)
        .unwrap();
    write_whole(&folder.join(CONFIG_FILE), config_json(network.config(), Precision::Float32).as_bytes())
        .unwrap();
    parameters
}

/// Addresses of this machine on which nobody listens.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

/// Every file below `folder` with its bytes.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(current) = open.pop() {
        for entry in std::fs::read_dir(current).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Both folders hold the same files, byte for byte.
#[track_caller]
pub(crate) fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

/// The gradient of an objective's first update, with what its data came to.
pub(crate) fn gradient<O: Objective>(
    objective: &mut O,
    network: &Network,
    parameters: &[f32],
) -> (StepData<O::Figures>, Vec<f32>) {
    let mut grads = vec![0.0; parameters.len()];
    let mut workspace = Workspace::new(network.config(), Keep::Activations);
    let share = Share { rank: 0, workers: 1 };
    let pass = Pass { network, parameters, grads: &mut grads, workspace: &mut workspace, share };
    (objective.gradient(pass, 0).unwrap(), grads)
}

/// How many cases a property test of a parser tries: so many, or as `PROPTEST_CASES` says.
pub(crate) fn cases(usual: u32) -> proptest::prelude::ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    proptest::prelude::ProptestConfig::with_cases(asked.unwrap_or(usual))
}
