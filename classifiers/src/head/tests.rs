use super::*;
use crate::Pooling;
use proptest::prelude::*;

pub(crate) fn identity(hidden: usize) -> BackboneIdentity {
    BackboneIdentity {
        model_blake3: "aa".into(),
        tokenizer_blake3: "bb".into(),
        hidden,
        max_tokens: 256,
        pooling: Pooling::MeanL2,
    }
}

pub(crate) fn head(bias: f32, weights: Vec<f32>) -> Head {
    let figures = Figures::of(&Evaluation::new(&[(3.0, 3.0)]), 3);
    let metadata = HeadMetadata {
        name: "test".into(),
        backbone: identity(weights.len()),
        features: FeatureSet::None,
        annotations_blake3: "cc".into(),
        training_pages: 1,
        method: "by hand".into(),
        seed: 42,
        keep_threshold: 3,
        held_out: figures.clone(),
        cross_validated: figures,
    };
    Head::new(metadata, bias, weights)
}

fn load_text(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.json");
    std::fs::write(&path, text).unwrap();
    Head::load(&path).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn a_saved_head_is_read_back_bit_for_bit(
        bias in -9.0_f32..9.0,
        weights in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.json");
        let saved = head(bias, weights);
        saved.save(&path).unwrap();
        let loaded = Head::load(&path).unwrap();
        let bits = |head: &Head| head.weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&loaded), bits(&saved));
        prop_assert_eq!(loaded, saved);
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn score_is_the_bias_and_the_product() {
    assert_eq!(head(1.5, vec![2.0, -1.0]).score(&[0.5, 0.25], "text"), 2.25);
}

#[test]
fn features_have_weights_behind_the_vectors() {
    let mut with = head(1.0, vec![1.0]);
    with.metadata.features = FeatureSet::CodeV1;
    with.weights.extend(FeatureSet::CodeV1.names().iter().map(|name| match *name {
        "has a main guard" => 0.5,
        _ => 0.0,
    }));
    assert_eq!(with.score(&[2.0], "if __name__ == '__main__':"), 3.5);
    assert_eq!(with.score(&[2.0], "x = 1"), 3.0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("head.json");
    with.save(&path).unwrap();
    assert_eq!(Head::load(&path).unwrap(), with);
    let text = std::fs::read_to_string(&path).unwrap().replace("code_v1", "none");
    assert!(load_text(&text).contains("21 weights, but its backbone has 1 dimensions and there are 0"));
}

#[test]
fn heads_of_version_1_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("head.json");
    let saved = head(0.5, vec![1.0]);
    saved.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let first = text.replace("\"format_version\": 2", "\"format_version\": 1");
    let first = first.replace("    \"features\": \"none\",\n", "");
    assert_ne!(first, text);
    assert_eq!(Head::from_bytes("v1", first.as_bytes()).unwrap(), saved);
}

#[test]
fn wrong_files_say_what_is_wrong() {
    assert!(load_text("{").contains("not JSON"), "{}", load_text("{"));
    assert!(load_text("{}").contains("no format"));
    let other = load_text(r#"{"format": "corpusmith-regression-head", "format_version": 9}"#);
    assert!(other.contains("odd.json: format_version is 9"), "{other}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("head.json");
    head(0.0, vec![1.0, 2.0]).save(&path).unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    let wrong = load_text(&good.replace("\"hidden\": 2", "\"hidden\": 3"));
    assert!(wrong.contains("2 weights, but its backbone has 3"), "{wrong}");
    let wrong = load_text(&good.replace("2.0\n", "1e60\n"));
    assert!(wrong.contains("line") || wrong.contains("weight 1"), "{wrong}");
    let wrong = load_text(&good.replace("\"seed\"", "\"sead\""));
    assert!(wrong.contains("sead"), "{wrong}");
    let cut = load_text(&good[..good.len() / 2]);
    assert!(cut.contains("line"), "{cut}");
}

#[test]
fn the_heads_that_ship_are_whole() {
    let web = Head::from_bytes("web", include_bytes!("../../heads/edu_web_minilm.json")).unwrap();
    let python = Head::from_bytes("python", include_bytes!("../../heads/edu_python_minilm.json")).unwrap();
    let about = |head: &Head| (head.metadata.features, head.metadata.keep_threshold, head.max_tokens());
    assert_eq!(about(&web), (FeatureSet::None, 3, 512));
    assert_eq!(about(&python), (FeatureSet::CodeV1, 4, 256));
    assert_eq!(web.metadata.backbone.model_blake3, python.metadata.backbone.model_blake3);
}

#[test]
fn another_backbone_is_refused_by_name() {
    let head = head(0.0, vec![1.0]);
    head.check_backbone(&identity(1)).unwrap();
    let mut other = identity(1);
    other.max_tokens = 512;
    let text = head.check_backbone(&other).unwrap_err().to_string();
    assert!(text.contains("max_tokens 256") && text.contains("has 512"), "{text}");
    other = identity(1);
    other.model_blake3 = "dd".into();
    let text = head.check_backbone(&other).unwrap_err().to_string();
    assert!(text.contains("the model (blake3) aa"), "{text}");
}
