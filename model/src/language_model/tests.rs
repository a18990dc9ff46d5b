use super::*;
use crate::config::ModelConfig;
use crate::testing::{model_folder, tiny_config};

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
