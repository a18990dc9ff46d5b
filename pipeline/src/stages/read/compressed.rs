//! Files as readers of their plain bytes, by what their name ends in.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use arrow::error::ArrowError;

/// Bytes read from the disk at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Opens a file; `.gz` (of any number of members) and `.zst` are decompressed.
///
/// # Errors
/// The file cannot be opened. What is wrong inside shows when it is read.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let file = File::open(path)?;
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let plain: Box<dyn Read + Send> = match extension.to_str() {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some("zst") => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, plain)))
}

/// An error of the disk or of a decompressor that names its file.
pub fn in_file(path: &Path) -> impl Fn(io::Error) -> ArrowError {
    let name = path.display().to_string();
    move |error| ArrowError::IoError(format!("cannot read {name}: {error}"), error)
}
