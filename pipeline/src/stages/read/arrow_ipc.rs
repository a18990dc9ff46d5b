//! Arrow IPC: the file format (Feather 2) and the stream format that `datasets.save_to_disk` writes.

use std::io::{BufReader, Read, Seek};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};

use crate::engine::data_file::DataFile;

/// The first bytes of the file format; the stream format has none.
const FILE_MAGIC: &[u8] = b"ARROW1";

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

fn open(file: &DataFile) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut file = BufReader::new(file.open()?);
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

fn named(file: &DataFile) -> impl Fn(ArrowError) -> ArrowError + use<> {
    let name = file.name().display().to_string();
    move |error| ArrowError::IpcError(format!("cannot read {name}: {error}"))
}

/// The columns of a file.
///
/// # Errors
/// A sentence that names the file.
pub fn schema(file: &DataFile) -> Result<SchemaRef, String> {
    open(file).map(|(schema, _)| schema).map_err(|error| named(file)(error).to_string())
}

/// The batches of a file, as they are in it.
pub fn rows(file: DataFile) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let batches = match open(&file) {
        Ok((_, batches)) => batches,
        Err(error) => Box::new(std::iter::once(Err(error))),
    };
    batches.map(move |batch| batch.map_err(named(&file)))
}
