//! Log-probabilities of the answers under the model as it was, computed once.

use super::DpoOptions;
use super::objective::{Answers, split};
use crate::examples::Examples;
use crate::files::write_whole;
use crate::network::{Batch, Keep, Network, Workspace};
use crate::training::TrainError;
use std::ops::ControlFlow;
use std::path::Path;

/// Name of the folder in a run's folder.
pub(super) const FOLDER: &str = "reference";
/// Answers in one file. A file is whole or absent, so that a killed run repeats at most this many.
const FILE_ANSWERS: usize = 256;

/// The log-probability of every answer (nats), in order; none when `progress` breaks.
///
/// A file holds a key (32 bytes, what the numbers depend on) and its answers' numbers, `f64` each.
#[expect(clippy::too_many_arguments, reason = "one call")]
pub(super) fn log_probabilities(
    options: &DpoOptions,
    network: &Network,
    parameters: &[f32],
    pairs: &Examples,
    model_digest: &str,
    folder: &Path,
    pool: &rayon::ThreadPool,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Option<Vec<f64>>, TrainError> {
    crate::training::open_folder(folder)?;
    let key =
        format!("{model_digest} {} {:?}", pairs.digest(), (options.micro_batch_tokens, options.backend));
    let mut workspace = Workspace::new(network.config(), Keep::Nothing);
    let mut all = Vec::with_capacity(pairs.len());
    let numbers: Vec<usize> = (0..pairs.len()).collect();
    for (file, numbers) in numbers.chunks(FILE_ANSWERS).enumerate() {
        let path = folder.join(format!("{file:05}.bin"));
        let key = blake3::hash(format!("{key} {file}").as_bytes());
        if let Some(known) = read(&path, key.as_bytes(), numbers.len()) {
            all.extend(known);
            continue;
        }
        let mut bytes = key.as_bytes().to_vec();
        for part in split(numbers, options.micro_batch_tokens, |&number| pairs.tokens(number)) {
            let mut rows = Answers::new();
            part.iter().for_each(|&number| rows.push(&pairs.get(number)));
            let scales = vec![0.0; rows.tokens.len()];
            let batch =
                Batch { bounds: &rows.bounds, tokens: &rows.tokens, targets: &rows.targets, scales: &scales };
            pool.install(|| network.losses(parameters, &batch, &mut workspace))?;
            for value in rows.log_probabilities(workspace.losses()) {
                bytes.extend(value.to_le_bytes());
                all.push(value);
            }
        }
        write_whole(&path, &bytes).map_err(TrainError::from)?;
        if progress(all.len() as u64, pairs.len() as u64).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

/// The numbers of a file, if it is there, whole and of this run.
fn read(path: &Path, key: &[u8; 32], count: usize) -> Option<Vec<f64>> {
    let bytes = std::fs::read(path).ok()?;
    let values = bytes.strip_prefix(key)?;
    let (values, rest) = values.as_chunks::<8>();
    (values.len() == count && rest.is_empty())
        .then(|| values.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect())
}
