//! `pipeline export`: a trained model for other programs.

use std::path::Path;

use model::export::{
    ExportError, ExportOptions, ModelUse, export as export_folder, export_gguf, export_onnx,
};

use super::Failure;
use super::talk::places;
use crate::cli::ExportArgs;
use crate::runner::error::chain;

/// Writes a model's folder.
///
/// # Errors
/// The folder is there already, the model cannot be read, or a file cannot be written.
pub fn export(args: &ExportArgs) -> Result<(), Failure> {
    let failed = |error: ExportError| Failure::message(chain(&error), "");
    if args.out.exists() {
        let message = format!("{} is there already", args.out.display());
        return Err(Failure::message(message, "name a new folder with --out, or remove this one"));
    }
    let (model, tokenizer) = places(&args.model, args.tokenizer.as_deref())?;
    let names: Vec<(String, _)> =
        args.gguf.iter().map(|format| (format!("model-{}.gguf", format.name()), *format)).collect();
    if args.dry_run {
        let onnx = args.onnx.then_some("onnx/model.onnx");
        for name in
            ["model.safetensors"].into_iter().chain(onnx).chain(names.iter().map(|(name, _)| name.as_str()))
        {
            println!("would write {}", args.out.join(name).display());
        }
        return Ok(());
    }
    let model_use = if args.chat { ModelUse::Chat } else { ModelUse::Base };
    let options = ExportOptions { precision: args.precision, model_use };
    export_folder(&options, &model, &tokenizer, &args.out).map_err(failed)?;
    let said = |path: &Path| println!("wrote {}", path.display());
    said(&args.out);
    if args.onnx {
        let folder = args.out.join("onnx");
        export_onnx(&model, &folder).map_err(failed)?;
        said(&folder);
    }
    for (name, format) in names {
        let path = args.out.join(name);
        export_gguf(&options, format, &model, &tokenizer, &path).map_err(failed)?;
        said(&path);
    }
    Ok(())
}
