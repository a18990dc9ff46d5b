//! Writes a backbone and a head as one ONNX file, and what this crate scores texts with the two, for
//! `tests/parity/onnx_scores.py` to compare.
//!
//! ```text
//! export_onnx ASSETS HEAD.json TEXTS.jsonl OUTPUT_FOLDER
//! ```
//!
//! `ASSETS` holds ONNX Runtime's library, `model.onnx` and `tokenizer.json` as `pipeline assets pull` leaves
//! them; a line of `TEXTS.jsonl` is a JSON string.

use classifiers::{Backbone, BackboneOptions, Head, Runtime, Scorer, export_onnx};
use std::{error::Error, fs, path::PathBuf, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [assets, head, texts, output] = arguments.as_slice() else {
        return Err("usage: export_onnx ASSETS HEAD.json TEXTS.jsonl OUTPUT_FOLDER".into());
    };
    let texts = fs::read_to_string(texts)?;
    let texts: Vec<String> = texts.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let head = Head::load(head)?;
    fs::create_dir_all(output)?;
    export_onnx(&assets.join("model.onnx"), &head, &output.join("model.onnx"))?;

    let library =
        if cfg!(target_os = "macos") { "libonnxruntime.1.31.1.dylib" } else { "libonnxruntime.so.1.31.1" };
    let runtime = Runtime::load(&assets.join(library))?;
    let options = BackboneOptions { max_tokens: head.max_tokens(), ..Default::default() };
    let (model, tokenizer) = (assets.join("model.onnx"), assets.join("tokenizer.json"));
    let backbone = Backbone::load(&runtime, &model, &tokenizer, &options)?;
    let scorer = Scorer::new(Arc::new(backbone), head)?;
    let scores = scorer.score(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    fs::write(output.join("scores.json"), serde_json::to_vec(&scores)?)?;
    println!("{} texts scored", scores.len());
    Ok(())
}
