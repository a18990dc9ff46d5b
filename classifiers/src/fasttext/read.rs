//! Reading little-endian numbers from a file that may be cut or hostile.

use std::fmt::Display;
use std::io::Read;
use std::path::Path;

use super::FastTextError;

/// A file from its beginning, which knows where it is and how much is left.
pub struct Reader<'p, R> {
    inner: R,
    offset: u64,
    length: u64,
    path: &'p Path,
}

impl<'p, R: Read> Reader<'p, R> {
    pub fn new(inner: R, length: u64, path: &'p Path) -> Self {
        Self { inner, offset: 0, length, path }
    }

    /// An error at this place.
    pub fn wrong(&self, reason: impl Display) -> FastTextError {
        FastTextError::Format { path: self.path.to_owned(), offset: self.offset, reason: reason.to_string() }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), FastTextError> {
        if self.length - self.offset < buffer.len() as u64 {
            return Err(self.wrong("the file is cut off here"));
        }
        self.inner
            .read_exact(buffer)
            .map_err(|source| FastTextError::Read { path: self.path.to_owned(), source })?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FastTextError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub fn u8(&mut self) -> Result<u8, FastTextError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn i32(&mut self) -> Result<i32, FastTextError> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, FastTextError> {
        self.array().map(i64::from_le_bytes)
    }

    pub fn f64(&mut self) -> Result<f64, FastTextError> {
        self.array().map(f64::from_le_bytes)
    }

    /// A whole number that counts something, `least` or more.
    pub fn size_i32(&mut self, what: &str, least: usize) -> Result<usize, FastTextError> {
        let found = self.i32()?;
        self.size(i64::from(found), what, least)
    }

    /// As [`Self::size_i32`], of eight bytes.
    pub fn size_i64(&mut self, what: &str, least: usize) -> Result<usize, FastTextError> {
        let found = self.i64()?;
        self.size(found, what, least)
    }

    fn size(&self, found: i64, what: &str, least: usize) -> Result<usize, FastTextError> {
        let size = usize::try_from(found).ok().filter(|size| *size >= least);
        size.ok_or_else(|| self.wrong(format_args!("the {what} is {found}")))
    }

    /// So many bytes. Nothing is set aside for more than the file holds.
    pub fn bytes(&mut self, count: Option<usize>) -> Result<Vec<u8>, FastTextError> {
        let count = count.filter(|count| *count as u64 <= self.length - self.offset);
        let mut bytes = vec![0; count.ok_or_else(|| self.wrong("the file is too short for what it says"))?];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// So many numbers of four bytes.
    pub fn f32s(&mut self, count: Option<usize>) -> Result<Vec<f32>, FastTextError> {
        let count = count.filter(|count| (*count as u64).saturating_mul(4) <= self.length - self.offset);
        let count = count.ok_or_else(|| self.wrong("the file is too short for what it says"))?;
        let (mut numbers, mut chunk) = (Vec::with_capacity(count), vec![0; 1 << 16]);
        while numbers.len() < count {
            let bytes = (4 * (count - numbers.len())).min(chunk.len());
            self.fill(&mut chunk[..bytes])?;
            let (fours, _) = chunk[..bytes].as_chunks::<4>();
            numbers.extend(fours.iter().map(|four| f32::from_le_bytes(*four)));
        }
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(self.wrong("a weight before this place is not a number"));
        }
        Ok(numbers)
    }

    /// Bytes up to a zero, which is not among them.
    pub fn c_string(&mut self) -> Result<Vec<u8>, FastTextError> {
        let mut bytes = Vec::new();
        loop {
            match self.u8()? {
                0 => return Ok(bytes),
                byte => bytes.push(byte),
            }
        }
    }
}
