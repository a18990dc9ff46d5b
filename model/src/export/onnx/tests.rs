//! The graph beside the network it was made from, computed by ONNX Runtime where the assets are there.

use super::*;
use crate::config::ModelConfig;
use crate::language_model::LanguageModel;
use crate::network::{Batch, Keep, Workspace};
use crate::testing::{model_folder, tiny_config};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::Tensor as Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The library among the assets (`CORPUSMITH_ASSETS`, else the default cache).
fn runtime() -> Option<Environment> {
    let name =
        if cfg!(target_os = "macos") { "libonnxruntime.1.31.1.dylib" } else { "libonnxruntime.so.1.31.1" };
    let folder = std::env::var_os("CORPUSMITH_ASSETS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/corpusmith/assets"),
        PathBuf::from,
    );
    let library = folder.join(name);
    if !library.is_file() {
        println!("skipped: {} is absent; run `pipeline assets pull`", library.display());
        return None;
    }
    Some(ort::init_from(&library).unwrap().with_telemetry(false).build().unwrap())
}

/// A model on its way through texts: what its cache holds, by input.
struct Runner {
    session: Session,
    config: ModelConfig,
    rows: usize,
    cache: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Runner {
    fn new(runtime: &Environment, file: &Path, config: &ModelConfig, rows: usize) -> Self {
        let session =
            Session::builder(runtime).unwrap().with_intra_threads(1).unwrap().commit_from_file(file).unwrap();
        let mut cache = BTreeMap::new();
        for layer in 0..config.layers {
            for part in ["key", "value"] {
                let shape = vec![rows, config.kv_heads, 0, config.hidden_size / config.heads];
                cache.insert(format!("past_key_values.{layer}.{part}"), (shape, Vec::new()));
            }
        }
        Self { session, config: config.clone(), rows, cache }
    }

    /// The logits of the next tokens, `[rows, tokens, vocabulary]`.
    fn step(&mut self, tokens: &[&[i64]], mask: &[&[i64]], positions: &[&[i64]]) -> Vec<f32> {
        let table = |rows: &[&[i64]]| Value::from_array(([self.rows, rows[0].len()], rows.concat())).unwrap();
        let mut inputs = vec![
            ("input_ids".to_owned(), table(tokens).into_dyn()),
            ("attention_mask".to_owned(), table(mask).into_dyn()),
            ("position_ids".to_owned(), table(positions).into_dyn()),
        ];
        for (name, (shape, values)) in &self.cache {
            // An array with an empty dimension has no safe constructor from a list; the allocator has one.
            let value = match values.is_empty() {
                true => Value::<f32>::new(&ort::memory::Allocator::default(), shape.clone()).unwrap(),
                false => Value::from_array((shape.clone(), values.clone())).unwrap(),
            };
            inputs.push((name.clone(), value.into_dyn()));
        }
        let outputs = self.session.run(inputs).unwrap();
        for (name, kept) in &mut self.cache {
            let (shape, values) = outputs[name.replace("past_key_values", "present").as_str()]
                .try_extract_tensor::<f32>()
                .unwrap();
            *kept = (shape.iter().map(|&size| size as usize).collect(), values.to_vec());
        }
        let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>().unwrap();
        assert_eq!(shape[..], [self.rows as i64, tokens[0].len() as i64, self.config.vocab_size as i64]);
        logits.to_vec()
    }
}

fn loss(logits: &[f32], target: u32) -> f32 {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    most + logits.iter().map(|x| (x - most).exp()).sum::<f32>().ln() - logits[target as usize]
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn onnx_runtime_computes_what_the_network_does() {
    let Some(runtime) = runtime() else { return };
    let root = tempfile::tempdir().unwrap();
    let shapes = [
        ("tied", tiny_config()),
        ("untied", ModelConfig { tied_embeddings: false, kv_heads: 4, ..tiny_config() }),
        ("one_key", ModelConfig { kv_heads: 1, rope_theta: 100_000.0, ..tiny_config() }),
    ];
    for (name, config) in shapes {
        let folder = root.path().join(name);
        model_folder(&folder, config.clone());
        let model = LanguageModel::load(&folder).unwrap();
        // Once with the weights in the file, once beside it.
        let (inside, beside) = (folder.join("onnx"), folder.join("beside"));
        let bytes = export_onnx(&folder, &inside).unwrap();
        assert_eq!(bytes, std::fs::metadata(inside.join(ONNX_FILE)).unwrap().len());
        write_model(&model, &beside, 0).unwrap();
        assert_eq!(
            std::fs::metadata(beside.join(ONNX_DATA_FILE)).unwrap().len(),
            4 * model.parameters.len() as u64
        );

        let tokens: Vec<u32> = vec![5, 60, 0, 17, 17, 33, 2, 9];
        let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        let (places, seen) = ([0, 1, 2, 3, 4, 5, 6], [1; 7]);
        let logits = Runner::new(&runtime, &inside.join(ONNX_FILE), &config, 1).step(
            &[&ids[..7]],
            &[&seen],
            &[&places],
        );
        let again = Runner::new(&runtime, &beside.join(ONNX_FILE), &config, 1).step(
            &[&ids[..7]],
            &[&seen],
            &[&places],
        );
        assert_eq!(logits, again, "{name}");

        let mut workspace = Workspace::new(&config, Keep::Nothing);
        let batch = Batch { bounds: &[0, 7], tokens: &tokens[..7], targets: &tokens[1..], scales: &[0.0; 7] };
        model.network.losses(&model.parameters, &batch, &mut workspace).unwrap();
        let found: Vec<f32> =
            logits.chunks(config.vocab_size).zip(&tokens[1..]).map(|(row, &next)| loss(row, next)).collect();
        assert!(close(&found, workspace.losses()), "{name}: {found:?}, {:?}", workspace.losses());

        // Token by token, and in two pieces, from the cache.
        for pieces in [vec![1; 7], vec![3, 4]] {
            let mut runner = Runner::new(&runtime, &inside.join(ONNX_FILE), &config, 1);
            let (mut done, mut stepped) = (0, Vec::new());
            for piece in pieces {
                let end = done + piece;
                stepped.extend(runner.step(&[&ids[done..end]], &[&seen[..end]], &[&places[done..end]]));
                done = end;
            }
            assert!(close(&stepped, &logits), "{name}");
        }

        // A shorter text in the same batch, filled up on its left.
        let vocabulary = config.vocab_size;
        let mut runner = Runner::new(&runtime, &inside.join(ONNX_FILE), &config, 2);
        let both = runner.step(
            &[&ids[..5], &[1, 1, ids[0], ids[1], ids[2]]],
            &[&[1; 5], &[0, 0, 1, 1, 1]],
            &[&places[..5], &[1, 1, 0, 1, 2]],
        );
        assert!(close(&both[..5 * vocabulary], &logits[..5 * vocabulary]), "{name}");
        assert!(close(&both[7 * vocabulary..], &logits[..3 * vocabulary]), "{name}");
        let both = runner.step(
            &[&ids[5..6], &ids[3..4]],
            &[&[1; 6], &[0, 0, 1, 1, 1, 1]],
            &[&places[5..6], &places[3..4]],
        );
        assert!(close(&both[..vocabulary], &logits[5 * vocabulary..6 * vocabulary]), "{name}");
        assert!(close(&both[vocabulary..], &logits[3 * vocabulary..4 * vocabulary]), "{name}");
    }
}

#[test]
fn inputs_and_outputs_have_the_names_that_transformers_js_expects() {
    let root = tempfile::tempdir().unwrap();
    model_folder(root.path(), tiny_config());
    let out = root.path().join("onnx");
    export_onnx(root.path(), &out).unwrap();
    let file = Model::decode(std::fs::read(out.join(ONNX_FILE)).unwrap().as_slice()).unwrap();
    let graph = file.graph.unwrap();
    let names = |values: &[proto::ValueInfo]| -> Vec<String> {
        values.iter().map(|value| value.name.clone()).collect()
    };
    assert_eq!(
        names(&graph.input),
        [
            "input_ids",
            "attention_mask",
            "position_ids",
            "past_key_values.0.key",
            "past_key_values.0.value",
            "past_key_values.1.key",
            "past_key_values.1.value"
        ]
    );
    assert_eq!(
        names(&graph.output),
        ["logits", "present.0.key", "present.0.value", "present.1.key", "present.1.value"]
    );
    // Every value is made before it is used, and once.
    let mut made: std::collections::BTreeSet<String> = names(&graph.input)
        .into_iter()
        .chain(graph.initializer.iter().map(|tensor| tensor.name.clone()))
        .collect();
    for node in &graph.node {
        assert!(node.input.iter().all(|input| made.contains(input)), "{node:?}");
        assert!(node.output.iter().all(|output| made.insert(output.clone())), "{node:?}");
    }
}
