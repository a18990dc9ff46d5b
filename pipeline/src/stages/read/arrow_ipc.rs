//! Arrow IPC: the file format (Feather 2) and the stream format that `datasets.save_to_disk` writes.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};

/// The first bytes of the file format; the stream format has none.
const FILE_MAGIC: &[u8] = b"ARROW1";

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

fn open(path: &Path) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut file = BufReader::new(File::open(path)?);
    let mut magic = [0; FILE_MAGIC.len()];
    let is_file = file.read_exact(&mut magic).is_ok() && magic == FILE_MAGIC;
    file.rewind()?;
    Ok(match is_file {
        true => {
            let reader = FileReader::try_new(file, None)?;
            (reader.schema(), Box::new(reader))
        }
        false => {
            let reader = StreamReader::try_new(file, None)?;
            (reader.schema(), Box::new(reader))
        }
    })
}

fn named(path: &Path) -> impl Fn(ArrowError) -> ArrowError + use<> {
    let name = path.display().to_string();
    move |error| ArrowError::IpcError(format!("cannot read {name}: {error}"))
}

/// The columns of a file.
///
/// # Errors
/// A sentence that names the file.
pub fn schema(path: &Path) -> Result<SchemaRef, String> {
    open(path).map(|(schema, _)| schema).map_err(|error| named(path)(error).to_string())
}

/// The batches of a file, as they are in it.
pub fn rows(path: PathBuf) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let batches = match open(&path) {
        Ok((_, batches)) => batches,
        Err(error) => Box::new(std::iter::once(Err(error))),
    };
    batches.map(move |batch| batch.map_err(named(&path)))
}
