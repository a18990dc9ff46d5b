//! Checkpoints: folders `step-000100/` that appear whole and can be trained on bit for bit.

use crate::config::ModelConfig;
use crate::files::{FileError, failed, remove_folder, write_folder, write_whole};
use crate::language_model::{
    CONFIG_FILE, ModelFileError, Precision, WEIGHTS_FILE, config_json, read_tensors, write_tensors,
};
use crate::network::ParameterLayout;
use crate::optimizer::AdamW;
use crate::training::SpikeWatch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Version of the folder's contents.
const VERSION: u32 = 1;
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "state.json";
const FIRST_MOMENT: &str = "exp_avg.";
const SECOND_MOMENT: &str = "exp_avg_sq.";

/// Everything about a run beside its weights and moments. The position in the data is `step`: batch `step`
/// reads sequences `step × batch_sequences` and on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingState {
    /// Version of the folder's contents.
    pub version: u32,
    /// Steps made.
    pub step: u64,
    /// Steps among them whose update was skipped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// Tokens read.
    pub tokens: u64,
    /// What is remembered of the gradients.
    #[serde(default, skip_serializing_if = "SpikeWatch::is_default")]
    pub spikes: SpikeWatch,
    /// The model's shape.
    pub model: ModelConfig,
    /// The options that decide the result, as JSON.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// [`TokenDataset::digest`](crate::shards::TokenDataset::digest).
    pub dataset_digest: String,
    /// BLAKE3 of `model.safetensors`.
    pub weights_digest: String,
    /// BLAKE3 of `optimizer.safetensors`.
    pub optimizer_digest: String,
    /// BLAKE3 of `config.json`; empty in those of older versions.
    #[serde(default)]
    pub config_digest: String,
    /// Bytes and BLAKE3 of the records beside the checkpoints (`loss.jsonl` and the like) when this one was
    /// written; they grow after it.
    #[serde(default)]
    pub records: BTreeMap<String, (u64, String)>,
    /// BLAKE3 of `state.json` with nothing in this place; empty in those of older versions.
    #[serde(default)]
    pub state_digest: String,
}

/// How the last field of `state.json` reads.
fn digest_field(digest: &str) -> String {
    format!("\"state_digest\": \"{digest}\"")
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Weights or moments are malformed.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// `state.json` is malformed or of another version.
    #[error("checkpoint {}: {problem}; remove this folder to go on from the one before it", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A record has changed since the checkpoint. Training could go on, but its output would be wrong.
    #[error("{} is damaged: it does not begin with what was written before step {step}; put a copy of it in its place, or let `pipeline repair <run's folder>` put this training aside, which then begins anew", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The checkpoint's step.
        step: u64,
    },
}

/// A checkpoint read back.
#[derive(Debug)]
pub struct Checkpoint {
    /// Step, settings and digests.
    pub state: TrainingState,
    /// The flat parameter vector.
    pub parameters: Vec<f32>,
    /// The moments.
    pub optimizer: AdamW,
}

/// The folder of the checkpoint after `step` updates.
#[must_use]
pub fn folder(out_dir: &Path, step: u64) -> PathBuf {
    out_dir.join(format!("step-{step:06}"))
}

/// Writes a checkpoint to `path`; `state`'s version and digests are filled in.
///
/// # Errors
/// [`CheckpointError`] if anything cannot be written; `path` then does not appear.
pub fn save(
    path: &Path,
    layout: &ParameterLayout,
    mut state: TrainingState,
    parameters: &[f32],
    optimizer: &AdamW,
) -> Result<(), CheckpointError> {
    write_folder(path, |folder| {
        let (weights, moments) = (folder.join(WEIGHTS_FILE), folder.join(OPTIMIZER_FILE));
        write_tensors(&weights, layout, &[("", parameters)], Precision::Float32)?;
        let vectors = [(FIRST_MOMENT, optimizer.m.as_slice()), (SECOND_MOMENT, &optimizer.v)];
        write_tensors(&moments, layout, &vectors, Precision::Float32)?;
        write_whole(&folder.join(CONFIG_FILE), config_json(&state.model, Precision::Float32).as_bytes())?;
        state.version = VERSION;
        state.weights_digest = digest(&weights)?;
        state.optimizer_digest = digest(&moments)?;
        state.config_digest = digest(&folder.join(CONFIG_FILE))?;
        state.state_digest.clear();
        let json = serde_json::to_string_pretty(&state).map_err(|error| CheckpointError::State {
            path: path.to_path_buf(),
            problem: error.to_string(),
        })?;
        let digest = blake3::hash(json.as_bytes()).to_hex();
        let json = json.replace(&digest_field(""), &digest_field(&digest));
        write_whole(&folder.join(STATE_FILE), format!("{json}\n").as_bytes())?;
        Ok(())
    })
}

/// Reads the state of the checkpoint at `path` and checks its files' digests.
///
/// # Errors
/// [`CheckpointError`] if a file is missing, malformed or changed.
pub fn read_state(path: &Path) -> Result<TrainingState, CheckpointError> {
    let problem = |problem: String| CheckpointError::State { path: path.to_path_buf(), problem };
    let file = path.join(STATE_FILE);
    let bytes = std::fs::read(&file).map_err(failed("read", &file))?;
    let state: TrainingState =
        serde_json::from_slice(&bytes).map_err(|error| problem(format!("state.json: {error}")))?;
    let blank = String::from_utf8_lossy(&bytes)
        .trim_end()
        .replace(&digest_field(&state.state_digest), &digest_field(""));
    if !state.state_digest.is_empty()
        && blake3::hash(blank.as_bytes()).to_hex().as_str() != state.state_digest
    {
        return Err(problem("state.json is not the file that was written".to_owned()));
    }
    if state.version != VERSION {
        return Err(problem(format!(
            "it has version {}, this program reads version {VERSION}",
            state.version
        )));
    }
    for (name, wanted) in [
        (WEIGHTS_FILE, &state.weights_digest),
        (OPTIMIZER_FILE, &state.optimizer_digest),
        (CONFIG_FILE, &state.config_digest),
    ] {
        let unknown = name == CONFIG_FILE && wanted.is_empty();
        if !unknown && digest(&path.join(name))? != *wanted {
            return Err(problem(format!("{name} is not the file that was written")));
        }
    }
    Ok(state)
}

/// What the records in `out_dir` are now, of those that there are: bytes and BLAKE3 by name.
///
/// # Errors
/// An I/O failure.
pub fn records(out_dir: &Path, names: &[&str]) -> Result<BTreeMap<String, (u64, String)>, FileError> {
    let mut records = BTreeMap::new();
    for name in names {
        let path = out_dir.join(name);
        if path.exists() {
            let bytes = path.metadata().map_err(failed("read", &path))?.len();
            records.insert((*name).to_owned(), (bytes, digest(&path)?));
        }
    }
    Ok(records)
}

/// Checks that the records in `out_dir` still begin with what they were at a checkpoint.
///
/// # Errors
/// [`CheckpointError::Record`] if one does not, or an I/O failure.
pub fn check_records(out_dir: &Path, state: &TrainingState) -> Result<(), CheckpointError> {
    for (name, (bytes, wanted)) in &state.records {
        let path = out_dir.join(name);
        let mut hasher = blake3::Hasher::new();
        if path.exists() {
            let file = File::open(&path).map_err(failed("open", &path))?;
            hasher.update_reader(file.take(*bytes)).map_err(failed("read", &path))?;
        }
        if hasher.finalize().to_hex().as_str() != wanted {
            return Err(CheckpointError::Record { path, step: state.step });
        }
    }
    Ok(())
}

/// Reads the checkpoint at `path`, laid out as `layout`.
///
/// # Errors
/// As [`read_state`], and if the tensors do not fit `layout`.
pub fn load(path: &Path, layout: &ParameterLayout) -> Result<Checkpoint, CheckpointError> {
    let state = read_state(path)?;
    let parameters = read_tensors(&path.join(WEIGHTS_FILE), layout, "")?;
    let moments = path.join(OPTIMIZER_FILE);
    let optimizer = AdamW {
        m: read_tensors(&moments, layout, FIRST_MOMENT)?,
        v: read_tensors(&moments, layout, SECOND_MOMENT)?,
        updates: state.step.saturating_sub(state.skipped),
    };
    Ok(Checkpoint { state, parameters, optimizer })
}

/// Steps of the checkpoints in `out_dir`, oldest first; a missing folder has none.
///
/// # Errors
/// An I/O failure.
pub fn list(out_dir: &Path) -> Result<Vec<u64>, FileError> {
    if !out_dir.exists() {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(out_dir).map_err(failed("list", out_dir))? {
        let entry = entry.map_err(failed("list", out_dir))?;
        let name = entry.file_name();
        let step =
            name.to_str().and_then(|name| name.strip_prefix("step-")).and_then(|digits| digits.parse().ok());
        // Only names this program would give.
        steps.extend(step.filter(|&step| folder(out_dir, step).file_name() == Some(&name)));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Whether a run of `last_step` steps writes a checkpoint after `step` of itself, and not because it was
/// interrupted.
fn is_scheduled(step: u64, every_steps: u64, last_step: u64) -> bool {
    step.is_multiple_of(every_steps.max(1)) || step == last_step
}

/// Whether the checkpoint after `step` is still there at the end of a run of `last_step` steps.
#[must_use]
pub fn is_kept_at_end(step: u64, every_steps: u64, last_step: u64, keep: usize) -> bool {
    let every = every_steps.max(1);
    let newer = last_step / every - step.min(last_step) / every + u64::from(!last_step.is_multiple_of(every));
    is_scheduled(step, every, last_step) && (step == last_step || newer < keep.max(1) as u64)
}

/// Removes all but the newest `keep` checkpoints on the schedule `every_steps`; those off the schedule
/// (left by an interruption) go as soon as a newer one exists.
///
/// # Errors
/// An I/O failure.
pub fn prune(out_dir: &Path, every_steps: u64, last_step: u64, keep: usize) -> Result<(), FileError> {
    let steps = list(out_dir)?;
    let newest = steps.last().copied();
    let scheduled = |step: &u64| is_scheduled(*step, every_steps, last_step);
    let kept: Vec<u64> = steps.iter().rev().copied().filter(scheduled).take(keep.max(1)).collect();
    for step in steps {
        if Some(step) != newest && !kept.contains(&step) {
            remove_folder(&folder(out_dir, step))?;
        }
    }
    Ok(())
}

fn digest(path: &Path) -> Result<String, FileError> {
    digests::of_file(path).map_err(failed("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_at_the_end_is_known_before() {
        let folder = tempfile::tempdir().unwrap();
        for (every, last, keep) in [(5, 20, 1), (5, 20, 3), (5, 22, 2), (7, 6, 2), (0, 4, 2), (5, 20, 0)] {
            let out_dir = folder.path().join(format!("{every}-{last}-{keep}"));
            for step in 1..=last {
                if is_scheduled(step, every, last) {
                    std::fs::create_dir_all(super::folder(&out_dir, step)).unwrap();
                    prune(&out_dir, every, last, keep).unwrap();
                }
            }
            let foreseen: Vec<u64> =
                (1..=last).filter(|&step| is_kept_at_end(step, every, last, keep)).collect();
            assert_eq!(list(&out_dir).unwrap(), foreseen, "{every} {last} {keep}");
        }
    }
}
