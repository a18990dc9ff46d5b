//! `pipeline trace`: the way of one document through a run.

use std::path::Path;

use super::{Failure, runtime};
use crate::inspect::{self, trace};
use crate::units;

/// Shows where a document stands in a run's outputs, and where it was dropped.
///
/// # Errors
/// The folder is no run, or the document is nowhere in it.
pub fn trace(run_folder: &Path, id: &str, as_json: bool) -> Result<(), Failure> {
    let session = inspect::session().map_err(Failure::run)?;
    let runtime = runtime(units::machine_threads())?;
    let sightings = runtime.block_on(trace::trace(&session, run_folder, id));
    let sightings = sightings.map_err(|message| Failure::message(message, ""))?;
    if sightings.is_empty() {
        return Err(Failure::message(
            format!("`{id}` is in no output of {}", run_folder.display()),
            "`pipeline inspect <stage's folder> --sample 5` shows ids; dropped rows are listed by stages with keep_dropped = true",
        ));
    }
    for sighting in sightings {
        if as_json {
            let mut line = serde_json::json!(sighting.row);
            line["stage"] = sighting.stage.into();
            line["fate"] = sighting.fate.into();
            println!("{line}");
            continue;
        }
        println!("{} · {}", sighting.stage, sighting.fate);
        for (column, cell) in &sighting.row {
            println!("    {column}: {cell}");
        }
    }
    Ok(())
}
