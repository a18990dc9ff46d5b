//! Files as readers of their plain bytes, by what their name ends in.

use std::io::{self, BufRead, BufReader, Read};

use arrow::error::ArrowError;

use crate::engine::data_file::DataFile;

/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Opens a file; `.gz` (of any number of members) and `.zst` are decompressed.
///
/// # Errors
/// The file cannot be opened. What is wrong inside shows when it is read.
pub fn open(file: &DataFile) -> io::Result<Box<dyn BufRead + Send>> {
    let extension = file.name().extension().unwrap_or_default().to_ascii_lowercase();
    let file = file.open()?;
    let plain: Box<dyn Read + Send> = match extension.to_str() {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some("zst") => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, plain)))
}

/// An error of the disk or of a decompressor that names its file.
pub fn in_file(file: &DataFile) -> impl Fn(io::Error) -> ArrowError + use<> {
    let name = file.name().display().to_string();
    move |error| ArrowError::IoError(format!("cannot read {name}: {error}"), error)
}
