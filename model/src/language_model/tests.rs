use super::read::read_bytes;
use super::*;
use crate::config::ModelConfig;
use crate::testing::{cases, model_folder, tiny_config};
use proptest::prelude::*;
use std::sync::LazyLock;

fn error(folder: &Path) -> String {
    LanguageModel::load(folder).unwrap_err().to_string()
}

#[test]
fn folders_of_both_transformers_versions_are_read() {
    let root = tempfile::tempdir().unwrap();
    let config = ModelConfig { tied_embeddings: false, rope_theta: 5e4, ..tiny_config() };
    let parameters = model_folder(root.path(), config.clone());
    let load = || LanguageModel::load(root.path()).unwrap();
    assert_eq!((load().network.config(), &load().parameters), (&config, &parameters));

    let path = root.path().join(CONFIG_FILE);
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let change = |name: &str, value: serde_json::Value| {
        let mut changed = written.clone();
        changed[name] = value;
        std::fs::write(&path, changed.to_string()).unwrap();
    };
    let mut fifth = written.clone();
    fifth["rope_theta"] = serde_json::Value::Null;
    fifth["rope_parameters"] = serde_json::json!({"rope_theta": 5e4, "rope_type": "default"});
    std::fs::write(&path, fifth.to_string()).unwrap();
    assert_eq!(load().network.config(), &config);
    for (name, value, problem) in [
        ("architectures", serde_json::json!(["MistralForCausalLM"]), "Mistral"),
        ("rope_scaling", serde_json::json!({"factor": 2.0}), "rope_scaling"),
        ("rope_parameters", serde_json::json!({"rope_type": "llama3"}), "rope_type is llama3"),
        ("hidden_act", "gelu".into(), "hidden_act is gelu"),
        ("attention_bias", true.into(), "biases"),
        ("head_dim", 8.into(), "head_dim Some(8)"),
    ] {
        change(name, value);
        assert!(error(root.path()).contains(problem), "{}", error(root.path()));
    }
}

#[test]
fn a_description_larger_than_its_weights_takes_no_memory() {
    let root = tempfile::tempdir().unwrap();
    model_folder(root.path(), tiny_config());
    let path = root.path().join(CONFIG_FILE);
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // Terabytes of weights, names for millions of layers, a product that overflows, a table of angles.
    for (name, value, problem) in [
        ("vocab_size", 1_usize << 24, "more than the"),
        ("num_hidden_layers", 1 << 24, "more than the"),
        ("head_dim", usize::MAX / 2 + 2, "head_dim"),
        ("max_position_embeddings", 1 << 24, "max_position_embeddings is 16777216"),
    ] {
        let mut changed = written.clone();
        changed[name] = value.into();
        if name == "max_position_embeddings" {
            changed["num_attention_heads"] = 1.into();
            changed["num_key_value_heads"] = 1.into();
            changed["head_dim"] = changed["hidden_size"].clone();
        }
        std::fs::write(&path, changed.to_string()).unwrap();
        assert!(error(root.path()).contains(problem), "{}", error(root.path()));
    }
}

#[test]
fn weights_spread_over_files_are_gathered() {
    let root = tempfile::tempdir().unwrap();
    let parameters = model_folder(root.path(), tiny_config());
    let whole = LanguageModel::load(root.path()).unwrap();
    // Two files, each with some of the tensors.
    let bytes = std::fs::read(root.path().join(WEIGHTS_FILE)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for (number, name) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let part: Vec<_> = tensors.tensors().into_iter().skip(number).step_by(2).collect();
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), name.into())));
        safetensors::serialize_to_file(part, None, &root.path().join(name)).unwrap();
    }
    std::fs::remove_file(root.path().join(WEIGHTS_FILE)).unwrap();
    let index = root.path().join(INDEX_FILE);
    std::fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    assert_eq!(LanguageModel::load(root.path()).unwrap().parameters, parameters);
    assert_eq!(whole.parameters, parameters);

    map.insert("model.norm.weight".to_owned(), "../x".into());
    std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    assert!(error(root.path()).contains("../x is no file name"));
    map.remove("model.norm.weight");
    std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    assert!(error(root.path()).contains("model.norm.weight is in no file"));
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let root = tempfile::tempdir().unwrap();
    model_folder(root.path(), tiny_config());
    let model = LanguageModel::load(root.path()).unwrap();
    let layout = model.network.layout();
    let slot = layout.tensors().iter().find(|slot| slot.name.contains("layers.1.mlp.up_proj")).unwrap();
    let mut parameters = model.parameters.clone();
    parameters[slot.range.start + 3] = f32::NAN;
    let path = root.path().join(WEIGHTS_FILE);
    write_tensors(&path, layout, &[("", &parameters)], Precision::Bfloat16).unwrap();
    let said = error(root.path());
    assert!(said.contains("layers.1.mlp.up_proj.weight has NaN at place 3"), "{said}");
}

/// A small model's weights as a file, and where they belong.
static WHOLE: LazyLock<(Vec<u8>, ParameterLayout)> = LazyLock::new(|| {
    let root = tempfile::tempdir().unwrap();
    model_folder(root.path(), tiny_config());
    let layout = LanguageModel::load(root.path()).unwrap().network.layout().clone();
    (std::fs::read(root.path().join(WEIGHTS_FILE)).unwrap(), layout)
});

proptest! {
    #![proptest_config(cases(1024))]

    #[test]
    fn damaged_weights_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        number in prop::option::of((any::<prop::sample::Index>(), any::<u64>())),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (whole, layout) = &*WHOLE;
        let mut bytes = whole.clone();
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        for (at, byte, anywhere) in changes {
            // Most of a file are numbers, of which any will do: the header is what can be wrong.
            let at = at.index(if anywhere { bytes.len() } else { header });
            bytes[at] = byte;
        }
        if let Some((at, number)) = number {
            let at = at.index(header);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut values = vec![0.0; layout.total];
        let _ = read_bytes(Path::new("w"), &bytes, layout.tensors(), "", &mut values);
        prop_assert!(values.len() == layout.total);
    }
}
