//! From a file that is read record by record to batches.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

/// A batch is closed when its rows have so many bytes: a few of them may be as large as thousands of others.
pub const BATCH_BYTES: usize = 32 << 20;

/// A batch, and whether the file has more.
pub struct Filled {
    /// The rows.
    pub batch: RecordBatch,
    /// The file may have more of them.
    pub more: bool,
}

/// The batches of a file: it is opened when the first is asked for, and the iterator ends behind the last
/// rows or the first error.
pub fn batches<S>(
    open: impl Fn() -> Result<S, ArrowError>,
    mut fill: impl FnMut(&mut S) -> Result<Filled, ArrowError>,
) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let mut source = None;
    let mut finished = false;
    std::iter::from_fn(move || {
        if finished {
            return None;
        }
        let source = match &mut source {
            Some(source) => Ok(source),
            slot => open().map(|opened| slot.insert(opened)),
        };
        match source.and_then(&mut fill) {
            Ok(Filled { batch, more }) => {
                finished = !more;
                (more || batch.num_rows() > 0).then_some(Ok(batch))
            }
            Err(error) => {
                finished = true;
                Some(Err(error))
            }
        }
    })
}
