//! Golden values: `tests/parity/language_fasttext.py --fixtures`, by fastText 0.9.2 itself.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

const MODELS: [&str; 5] =
    ["hierarchical.bin", "softmax.bin", "one_against_all.bin", "quantised.ftz", "quantised_softmax.ftz"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(bytes: &[u8]) -> Result<FastText, FastTextError> {
    FastText::read(&mut Reader::new(bytes, bytes.len() as u64, Path::new("lid.bin")))
}

#[test]
fn predictions_are_those_of_fasttext() {
    let golden: Json = serde_json::from_slice(&std::fs::read(fixture("fasttext.json")).unwrap()).unwrap();
    let texts = golden["texts"].as_array().unwrap();
    for name in MODELS {
        let model = FastText::load(&fixture(name)).unwrap();
        let predictions = golden["predictions"][name].as_array().unwrap();
        assert_eq!(texts.len(), predictions.len());
        for (text, expected) in texts.iter().zip(predictions) {
            let text = text.as_str().unwrap();
            let found = model.predict(text).unwrap();
            assert_eq!(found.label, expected[0], "{name}: {text:?}");
            let score = expected[1].as_f64().unwrap().min(1.0);
            assert!(
                (f64::from(found.probability) - score).abs() < 2e-5,
                "{name}: {text:?}: {found:?}, {score}"
            );
        }
    }
}

#[test]
fn a_row_is_the_same_in_a_mean_and_in_a_product() {
    for name in MODELS {
        let matrix = FastText::load(&fixture(name)).unwrap().input;
        let vector = [1.0, -2.0, 0.5, 3.0, -0.25];
        for row in 0..matrix.rows() as u32 {
            let mut mean = Vec::new();
            matrix.mean(&[row], &mut mean);
            let product: f32 = mean.iter().zip(vector).map(|(a, b)| a * b).sum();
            assert!((product - matrix.dot(row as usize, &vector)).abs() < 1e-4, "{name}, row {row}");
        }
    }
}

#[test]
fn labels_are_without_their_prefix() {
    let mut labels = FastText::load(&fixture("softmax.bin")).unwrap().labels().to_vec();
    labels.sort();
    assert_eq!(labels, ["de", "en", "fr", "ru"]);
}

#[test]
fn a_cut_file_says_where_it_ends() {
    for name in MODELS {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for length in (0..bytes.len()).step_by(13) {
            let error = read(&bytes[..length]).unwrap_err().to_string();
            assert!(error.starts_with("lid.bin, byte "), "{name}, {length}: {error}");
        }
    }
    let absent = FastText::load(Path::new("/no/such/lid.bin")).unwrap_err().to_string();
    assert!(absent.contains("cannot read /no/such/lid.bin"), "{absent}");
}

#[test]
fn other_files_are_refused() {
    let mut bytes = std::fs::read(fixture("softmax.bin")).unwrap();
    assert!(read(b"GGUF and more").unwrap_err().to_string().contains("first bytes"));
    // The kind of model is the tenth number: word vectors.
    bytes[36] = 1;
    assert!(read(&bytes).unwrap_err().to_string().contains("word vectors"));
    bytes[36] = 3;
    // The dimension is the third: a matrix has another number of columns then.
    bytes[8] = 6;
    assert!(read(&bytes).unwrap_err().to_string().contains("a matrix has 5 columns, the model 6"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn damaged_files_never_panic(
        which in 0..MODELS.len(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        in_header in any::<bool>(),
    ) {
        let mut bytes = std::fs::read(fixture(MODELS[which])).unwrap();
        let end = if in_header { 100 } else { bytes.len() };
        for (at, value) in damage {
            bytes[at.index(end)] = value;
        }
        if let Ok(model) = read(&bytes) {
            let _ = model.predict("the sea, das Meer, море");
        }
    }
}
