//! Weights out of safetensors files.

use super::{CONFIG_FILE, INDEX_FILE, ModelFileError, WEIGHTS_FILE};
use crate::config::ModelConfig;
use crate::files::failed;
use crate::network::{ParameterLayout, TensorSlot};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Which file holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Largest table of rotary angles, in numbers: a million tokens with heads of 128.
const MOST_ROTARY_ANGLES: usize = 1 << 27;

/// Whether a folder's weights can be what its `config.json` describes. Asked before memory is taken for that:
/// a few words of JSON can describe a model of terabytes.
pub(super) fn check_size(folder: &Path, config: &ModelConfig) -> Result<(), ModelFileError> {
    let shape = |problem: String| ModelFileError::Shape { path: folder.join(CONFIG_FILE), problem };
    let bytes_of = |path: &Path| std::fs::metadata(path).map(|file| file.len()).map_err(failed("open", path));
    let found = if folder.join(INDEX_FILE).exists() {
        let mut sum = 0;
        for entry in std::fs::read_dir(folder).map_err(failed("read", folder))? {
            let path = entry.map_err(failed("read", folder))?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                sum += bytes_of(&path)?;
            }
        }
        sum
    } else {
        bytes_of(&folder.join(WEIGHTS_FILE))?
    };
    let parameters = config.parameters()?;
    // The narrowest numbers that are read have two bytes.
    if parameters as u64 > found / 2 {
        return Err(shape(format!(
            "it describes {parameters} parameters, more than the {found} bytes of weights beside it hold"
        )));
    }
    if config.context_tokens.saturating_mul(config.head_dim()) > MOST_ROTARY_ANGLES {
        return Err(shape(format!("max_position_embeddings is {}", config.context_tokens)));
    }
    Ok(())
}

/// Reads the weights in `folder`: one file, or several with a table.
pub(super) fn read_folder(folder: &Path, layout: &ParameterLayout) -> Result<Vec<f32>, ModelFileError> {
    let table = folder.join(INDEX_FILE);
    if !table.exists() {
        return read_tensors(&folder.join(WEIGHTS_FILE), layout, "");
    }
    let bytes = std::fs::read(&table).map_err(failed("read", &table))?;
    let tensor = |name: &str, problem: String| ModelFileError::Tensor {
        path: table.clone(),
        name: name.to_owned(),
        problem,
    };
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| tensor("weight_map", error.to_string()))?;
    let mut files: BTreeMap<&str, Vec<&TensorSlot>> = BTreeMap::new();
    for slot in layout.tensors() {
        let file = index.weight_map.get(&slot.name);
        let file = file.ok_or_else(|| tensor(&slot.name, "is in no file".to_owned()))?;
        files.entry(file).or_default().push(slot);
    }
    let mut values = vec![0f32; layout.total];
    for (file, slots) in files {
        if Path::new(file).components().count() != 1 {
            return Err(tensor(file, "is no file name".to_owned()));
        }
        read_slots(&folder.join(file), slots, "", &mut values)?;
    }
    Ok(values)
}

/// Reads one file's tensors under `prefix`, in f32, bf16 or f16.
pub(crate) fn read_tensors(
    path: &Path,
    layout: &ParameterLayout,
    prefix: &str,
) -> Result<Vec<f32>, ModelFileError> {
    let mut values = vec![0f32; layout.total];
    read_slots(path, layout.tensors(), prefix, &mut values)?;
    Ok(values)
}

fn read_slots<'s>(
    path: &Path,
    slots: impl IntoIterator<Item = &'s TensorSlot>,
    prefix: &str,
    values: &mut [f32],
) -> Result<(), ModelFileError> {
    let file = File::open(path).map_err(failed("open", path))?;
    // SAFETY: weight files are written once and renamed into place; nothing changes them afterwards.
    let map = unsafe { Mmap::map(&file) }.map_err(failed("map", path))?;
    read_bytes(path, &map, slots, prefix, values)
}

/// As [`read_slots`], of a file in memory.
pub(super) fn read_bytes<'s>(
    path: &Path,
    bytes: &[u8],
    slots: impl IntoIterator<Item = &'s TensorSlot>,
    prefix: &str,
    values: &mut [f32],
) -> Result<(), ModelFileError> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|source| ModelFileError::Format { path: path.to_path_buf(), source })?;
    for slot in slots {
        let name = format!("{prefix}{}", slot.name);
        let wrong = |problem: String| ModelFileError::Tensor {
            path: path.to_path_buf(),
            name: name.clone(),
            problem,
        };
        let view = tensors.tensor(&name).map_err(|error| wrong(format!("is missing ({error})")))?;
        if view.shape() != slot.shape {
            return Err(wrong(format!(
                "has shape {:?} where the model needs {:?}",
                view.shape(),
                slot.shape
            )));
        }
        let out = &mut values[slot.range.clone()];
        let bytes = view.data();
        let pairs = || bytes.as_chunks::<2>().0.iter();
        match view.dtype() {
            Dtype::F32 => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Dtype::BF16 => out
                .iter_mut()
                .zip(pairs())
                .for_each(|(value, bytes)| *value = bf16::from_le_bytes(*bytes).to_f32()),
            Dtype::F16 => out
                .iter_mut()
                .zip(pairs())
                .for_each(|(value, bytes)| *value = f16::from_le_bytes(*bytes).to_f32()),
            other => {
                return Err(wrong(format!("is stored as {other:?}, which is not f32, bf16 or f16")));
            }
        }
        check_finite(out).map_err(wrong)?;
    }
    Ok(())
}

/// A weight that is no number would make every answer none, without a word.
pub(super) fn check_finite(values: &[f32]) -> Result<(), String> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(format!("has {} at place {at}, the model is damaged or diverged", values[at])),
        None => Ok(()),
    }
}
