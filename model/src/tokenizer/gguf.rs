//! The tokenizer of a GGUF file as a tokenizer folder, so that a model that comes as GGUF can be trained on.

use super::{Encoder, SPECIAL_TOKENS, TOKENIZER_FILE, TokenizerError};
use crate::files::{failed, write_whole};
use crate::gguf::{GgufFile, Value};
use crate::infer::{ChatTokenizer, LlamaConfig, LoadModelError};
use std::path::Path;

/// Writes the tokenizer in the GGUF file `file` to the folder `out_dir`: `tokenizer.json`, and
/// `tokenizer_config.json` with the file's chat template, if it has one.
///
/// # Errors
/// [`TokenizerError`] if the file has no tokenizer of the SmolLM family, or a file cannot be written.
pub fn tokenizer_of_gguf(file: &Path, out_dir: &Path) -> Result<Encoder, TokenizerError> {
    let library = |message: String| TokenizerError::Library { path: file.to_path_buf(), message };
    let unusable = |error: LoadModelError| library(error.to_string());
    let gguf = GgufFile::open(file).map_err(|error| library(error.to_string()))?;
    let config = LlamaConfig::from_gguf(&gguf).map_err(unusable)?;
    let tokenizer = ChatTokenizer::from_gguf(&gguf, config.vocab_size).map_err(unusable)?;
    let text = tokenizer.to_tokenizers().to_string(true).map_err(|error| library(error.to_string()))?;
    std::fs::create_dir_all(out_dir).map_err(failed("create folder", out_dir))?;
    let named = |key: &str| {
        let id = gguf.metadata().get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let token = id.and_then(|id| tokenizer.to_tokenizers().id_to_token(id));
        token.unwrap_or_else(|| SPECIAL_TOKENS[0].to_owned())
    };
    let mut settings = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": false,
        "bos_token": named("tokenizer.ggml.bos_token_id"),
        "eos_token": named("tokenizer.ggml.eos_token_id"),
        "unk_token": named("tokenizer.ggml.unknown_token_id"),
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.context_tokens,
        "vocab_size": config.vocab_size,
    });
    if let Some(template) = gguf.metadata().get("tokenizer.chat_template").and_then(Value::as_str) {
        settings["chat_template"] = template.into();
    }
    let special = serde_json::json!({
        "bos_token": settings["bos_token"], "eos_token": settings["eos_token"], "unk_token": settings["unk_token"],
    });
    write_whole(&out_dir.join("tokenizer_config.json"), format!("{settings:#}\n").as_bytes())?;
    write_whole(&out_dir.join("special_tokens_map.json"), format!("{special:#}\n").as_bytes())?;
    write_whole(&out_dir.join(TOKENIZER_FILE), text.as_bytes())?;
    Encoder::load(&out_dir.join(TOKENIZER_FILE))
}
