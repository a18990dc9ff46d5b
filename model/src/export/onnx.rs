//! A trained model as an ONNX graph with a cache of keys and values, for ONNX Runtime and transformers.js.

mod graph;
mod proto;
#[cfg(test)]
mod tests;

use super::ExportError;
use crate::files::{failed, write_folder, write_whole};
use crate::language_model::LanguageModel;
use crate::network::TensorSlot;
use graph::Builder;
use prost::Message;
use proto::{EXTERNAL, Entry, FLOAT, Model, OperatorSet, Tensor};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Name of the graph's file.
pub const ONNX_FILE: &str = "model.onnx";
/// Name of the file of the weights, where the graph's file would become too large.
pub const ONNX_DATA_FILE: &str = "model.onnx_data";

/// The version of the format, and of the operators: what ONNX Runtime has read since 1.12.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
/// A file of protocol buffers holds 2 GiB at most; weights of more than half of it are put beside.
const MAX_INLINE_BYTES: usize = 1 << 30;

/// Exports the model in `model_dir` (a checkpoint or `final/`) to the new folder `out_dir`, which is the folder
/// `onnx/` of a model on the Hub; the size of its files in bytes. Weights are in 32 bits.
///
/// # Errors
/// [`ExportError`]; `out_dir` then does not appear.
pub fn export_onnx(model_dir: &Path, out_dir: &Path) -> Result<u64, ExportError> {
    let model = LanguageModel::load(model_dir)?;
    write_model(&model, out_dir, MAX_INLINE_BYTES)
}

fn write_model(model: &LanguageModel, out_dir: &Path, max_inline_bytes: usize) -> Result<u64, ExportError> {
    let (config, parameters) = (model.network.config(), &model.parameters);
    let is_beside = 4 * parameters.len() > max_inline_bytes;
    let mut graph = Builder::build(config);
    let mut bytes = 0;
    write_folder(out_dir, |folder| {
        let path = folder.join(ONNX_DATA_FILE);
        let mut beside = match is_beside {
            true => Some(BufWriter::new(File::create(&path).map_err(failed("create", &path))?)),
            false => None,
        };
        let mut offset = 0;
        for slot in model.network.layout().tensors() {
            let (dims, raw_data) = stored(slot, &parameters[slot.range.clone()]);
            let mut tensor = Tensor { dims, data_type: FLOAT, name: slot.name.clone(), ..Tensor::default() };
            match &mut beside {
                Some(file) => {
                    file.write_all(&raw_data).map_err(failed("write", &path))?;
                    tensor.data_location = EXTERNAL;
                    tensor.external_data = place(offset, raw_data.len());
                    offset += raw_data.len();
                }
                None => tensor.raw_data = raw_data,
            }
            graph.initializer.push(tensor);
        }
        if let Some(mut file) = beside {
            file.flush().map_err(failed("write", &path))?;
            file.get_ref().sync_all().map_err(failed("sync", &path))?;
        }
        let file = Model {
            ir_version: IR_VERSION,
            producer_name: "corpusmith".to_owned(),
            graph: Some(std::mem::take(&mut graph)),
            opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        };
        let encoded = file.encode_to_vec();
        bytes = (encoded.len() + offset) as u64;
        Ok::<_, ExportError>(write_whole(&folder.join(ONNX_FILE), &encoded)?)
    })?;
    Ok(bytes)
}

/// A tensor's dimensions and bytes. Matrices that multiply are stored transposed, `[in, out]`.
fn stored(slot: &TensorSlot, values: &[f32]) -> (Vec<i64>, Vec<u8>) {
    let dims: Vec<i64> = slot.shape.iter().map(|&size| size as i64).collect();
    match slot.shape[..] {
        [rows, columns] if slot.name != "model.embed_tokens.weight" => {
            let mut bytes = Vec::with_capacity(4 * values.len());
            for column in 0..columns {
                for row in 0..rows {
                    bytes.extend_from_slice(&values[row * columns + column].to_le_bytes());
                }
            }
            (vec![columns as i64, rows as i64], bytes)
        }
        _ => (dims, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    }
}

/// Where a tensor is in the file beside.
fn place(offset: usize, length: usize) -> Vec<Entry> {
    let entries = [
        ("location", ONNX_DATA_FILE.to_owned()),
        ("offset", offset.to_string()),
        ("length", length.to_string()),
    ];
    entries.map(|(key, value)| Entry { key: key.to_owned(), value }).into()
}
