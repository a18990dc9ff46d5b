//! The memory-mapped reader.
//!
//! Every length and count is checked against a limit and against the bytes that are left before
//! anything is allocated, and all sums are checked, so that no file can make the reader panic or
//! take more than a few hundred MiB.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{GgufError, TensorKind, Value, ValueKind};

/// Metadata entries in one file; real ones have some dozens.
const MAX_KEYS: u64 = 65_536;
/// Tensors in one file; the largest published models have some thousands.
const MAX_TENSORS: u64 = 65_536;
/// Array items in the whole file; vocabulary, merges, types and scores of 256k tokens are 1.1 M.
const MAX_ITEMS: u64 = 4 << 20;
/// Bytes of one text; chat templates have some thousands.
const MAX_TEXT_BYTES: u64 = 16 << 20;
/// Bytes of a key or a tensor name.
const MAX_NAME_BYTES: u64 = 65_535;
const MAX_DIMS: u64 = 4;
const MAX_ALIGNMENT: u64 = 65_536;
const DEFAULT_ALIGNMENT: u64 = 32;

/// One row of the tensor table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dimensions, fastest first: `[in, out]` for a linear layer.
    pub dims: Vec<u64>,
    /// How the values are stored.
    pub kind: TensorKind,
    /// First byte, counted from the start of the file.
    pub start_byte: u64,
    /// Size of the data in bytes.
    pub size_bytes: u64,
}

/// A tensor inside an open file.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its row of the table.
    pub info: &'a TensorInfo,
    /// Its stored bytes.
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.info.dims.iter().product::<u64>() as usize
    }

    /// A tensor is never empty (the reader refuses such files), so this is always false.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values as f32, in the order of the file.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.info.kind.dequantize(self.bytes, &mut out);
        out
    }
}

/// An open GGUF file. The data stay memory-mapped; if another process cuts the file while it is
/// open, the operating system ends this process, so models are never rewritten in place.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    version: u32,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl GgufFile {
    /// Opens a file and reads its metadata and tensor table. Any damage that can be seen without
    /// reading the tensors' values is an error here.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref().to_path_buf();
        let open = |source| GgufError::Open { path: path.clone(), source };
        let file = File::open(&path).map_err(open)?;
        // SAFETY: the map is only read, and lives as long as the returned value.
        let map = unsafe { Mmap::map(&file) }.map_err(open)?;
        let mut cursor = Cursor { path: &path, bytes: &map, at: 0, items_left: MAX_ITEMS };
        let (version, metadata, tensors) = cursor.file()?;
        Ok(Self { path, map, version, metadata, tensors })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// The tensor table by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let info = self.tensors.get(name)?;
        let start = info.start_byte as usize;
        let bytes = self.map.get(start..start + info.size_bytes as usize)?;
        Some(Tensor { info, bytes })
    }

    /// A tensor that must be there.
    pub fn require_tensor(&self, name: &str) -> Result<Tensor<'_>, GgufError> {
        self.tensor(name)
            .ok_or_else(|| GgufError::MissingTensor { path: self.path.clone(), name: name.into() })
    }

    /// A whole number that must be there.
    pub fn require_u64(&self, key: &str) -> Result<u64, GgufError> {
        self.require(key, "a whole number", Value::as_u64)
    }

    /// A floating-point number that must be there.
    pub fn require_f64(&self, key: &str) -> Result<f64, GgufError> {
        self.require(key, "a floating-point number", Value::as_f64)
    }

    /// A text that must be there.
    pub fn require_str(&self, key: &str) -> Result<&str, GgufError> {
        self.require(key, "a text", Value::as_str)
    }

    /// An array of texts that must be there.
    pub fn require_strings(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        self.require(key, "an array of texts", Value::as_strings)
    }

    fn require<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, GgufError> {
        let value = self
            .metadata
            .get(key)
            .ok_or_else(|| GgufError::MissingKey { path: self.path.clone(), key: key.into() })?;
        read(value).ok_or_else(|| GgufError::WrongKind {
            path: self.path.clone(),
            key: key.into(),
            expected,
            found: value.kind(),
        })
    }
}

type Contents = (u32, BTreeMap<String, Value>, BTreeMap<String, TensorInfo>);

struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    items_left: u64,
}

impl<'a> Cursor<'a> {
    fn file(&mut self) -> Result<Contents, GgufError> {
        if !self.bytes.starts_with(b"GGUF") {
            return Err(GgufError::BadMagic {
                path: self.path.into(),
                found: self.bytes.iter().take(4).copied().collect(),
            });
        }
        self.at = 4;
        let offset = self.at as u64;
        let version = self.u32("the version")?;
        if version != 2 && version != 3 {
            return Err(GgufError::UnsupportedVersion { path: self.path.into(), offset, version });
        }
        let tensor_count = self.count("tensors", MAX_TENSORS)?;
        let key_count = self.count("metadata keys", MAX_KEYS)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..key_count {
            let offset = self.at as u64;
            let key = self.text("a metadata key", MAX_NAME_BYTES)?;
            let value = self.value(&key)?;
            if key.is_empty() || metadata.contains_key(&key) {
                return Err(self.bad_name(offset, "metadata key", key));
            }
            metadata.insert(key, value);
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => value.as_u64().unwrap_or(0),
        };
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(GgufError::BadAlignment { path: self.path.into(), alignment });
        }
        let mut rows = Vec::new();
        for _ in 0..tensor_count {
            rows.push(self.tensor_row()?);
        }
        let data_start = (self.at as u64).next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for row in rows {
            let (offset, name, info) = self.place(row, data_start, alignment)?;
            if name.is_empty() || tensors.contains_key(&name) {
                return Err(self.bad_name(offset, "tensor name", name));
            }
            tensors.insert(name, info);
        }
        Ok((version, metadata, tensors))
    }

    /// Name, dimensions, kind and relative offset of one tensor, and where its row begins.
    fn tensor_row(&mut self) -> Result<Row, GgufError> {
        let offset = self.at as u64;
        let name = self.text("a tensor name", MAX_NAME_BYTES)?;
        let dim_count = self.u32("a tensor's dimensions")?;
        if u64::from(dim_count) > MAX_DIMS {
            return Err(self.too_many(offset, "dimensions", dim_count.into(), MAX_DIMS));
        }
        let mut dims = Vec::with_capacity(dim_count as usize);
        for _ in 0..dim_count {
            dims.push(self.u64("a tensor's dimensions")?);
        }
        let number = self.u32("a tensor's type")?;
        let kind = TensorKind::from_number(number).ok_or_else(|| GgufError::UnknownTensorKind {
            path: self.path.into(),
            offset,
            name: name.clone(),
            kind: number,
        })?;
        let data_offset = self.u64("a tensor's offset")?;
        Ok(Row { offset, name, dims, kind, data_offset })
    }

    /// Checks a row's size and place against the file.
    fn place(
        &self,
        row: Row,
        data_start: u64,
        alignment: u64,
    ) -> Result<(u64, String, TensorInfo), GgufError> {
        let Row { offset, name, dims, kind, data_offset } = row;
        let path = || self.path.to_path_buf();
        let block = kind.block_values() as u64;
        let values = dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
        let size = values.and_then(|n| (n / block).checked_mul(kind.block_bytes() as u64));
        let whole = dims.first().is_some_and(|dim| dim % block == 0);
        let size_bytes = match (size, values) {
            (Some(size), Some(values)) if whole && values > 0 => size,
            _ => {
                return Err(GgufError::BadDimensions { path: path(), offset, name, dims, block });
            }
        };
        if data_offset % alignment != 0 {
            return Err(GgufError::Misaligned { path: path(), offset, name, data_offset, alignment });
        }
        let data_bytes = (self.bytes.len() as u64).saturating_sub(data_start);
        if data_offset.checked_add(size_bytes).is_none_or(|end| end > data_bytes) {
            return Err(GgufError::OutOfFile {
                path: path(),
                offset,
                name,
                data_offset,
                size_bytes,
                data_bytes,
            });
        }
        let info = TensorInfo { dims, kind, start_byte: data_start + data_offset, size_bytes };
        Ok((offset, name, info))
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let offset = self.at as u64;
        let number = self.u32("a metadata value's type")?;
        let kind = self.kind(offset, key, number)?;
        if kind != ValueKind::Array {
            return self.scalar(key, kind);
        }
        let offset = self.at as u64;
        let number = self.u32("an array's item type")?;
        let item = self.kind(offset, key, number)?;
        if item == ValueKind::Array {
            return Err(self.unknown_kind(offset, key, number));
        }
        let offset = self.at as u64;
        let count = self.count("array items", self.items_left)?;
        self.items_left -= count;
        // At least these bytes must follow: a huge count fails before anything is allocated.
        let least = count.saturating_mul(item.least_bytes());
        let left = (self.bytes.len() - self.at) as u64;
        if least > left {
            return Err(self.truncated(offset, "an array", least, left));
        }
        let mut items = Vec::with_capacity(count as usize);
        for _ in 0..count {
            items.push(self.scalar(key, item)?);
        }
        Ok(Value::Array(item, items))
    }

    fn scalar(&mut self, key: &str, kind: ValueKind) -> Result<Value, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            ValueKind::U8 => Value::U8(u8::from_le_bytes(self.array(WHAT)?)),
            ValueKind::I8 => Value::I8(i8::from_le_bytes(self.array(WHAT)?)),
            ValueKind::U16 => Value::U16(u16::from_le_bytes(self.array(WHAT)?)),
            ValueKind::I16 => Value::I16(i16::from_le_bytes(self.array(WHAT)?)),
            ValueKind::U32 => Value::U32(self.u32(WHAT)?),
            ValueKind::I32 => Value::I32(i32::from_le_bytes(self.array(WHAT)?)),
            ValueKind::F32 => Value::F32(f32::from_le_bytes(self.array(WHAT)?)),
            ValueKind::U64 => Value::U64(self.u64(WHAT)?),
            ValueKind::I64 => Value::I64(i64::from_le_bytes(self.array(WHAT)?)),
            ValueKind::F64 => Value::F64(f64::from_le_bytes(self.array(WHAT)?)),
            ValueKind::String => Value::String(self.text(WHAT, MAX_TEXT_BYTES)?),
            ValueKind::Bool => {
                let offset = self.at as u64;
                match self.array::<1>(WHAT)? {
                    [0] => Value::Bool(false),
                    [1] => Value::Bool(true),
                    [found] => {
                        return Err(GgufError::BadBool {
                            path: self.path.into(),
                            offset,
                            key: key.into(),
                            found,
                        });
                    }
                }
            }
            ValueKind::Array => {
                return Err(self.unknown_kind(self.at as u64, key, ValueKind::Array as u32));
            }
        })
    }

    fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let left = (self.bytes.len() - self.at) as u64;
        if count > left {
            return Err(self.truncated(self.at as u64, what, count, left));
        }
        let taken = &self.bytes[self.at..self.at + count as usize];
        self.at += count as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufError> {
        let offset = self.at as u64;
        let count = self.u64(what)?;
        if count > limit {
            return Err(self.too_many(offset, what, count, limit));
        }
        Ok(count)
    }

    fn text(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let offset = self.at as u64;
        let length = self.count(what, limit)?;
        let bytes = self.take(length, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(GgufError::BadText { path: self.path.into(), offset, what }),
        }
    }

    fn kind(&self, offset: u64, key: &str, number: u32) -> Result<ValueKind, GgufError> {
        ValueKind::from_number(number).ok_or_else(|| self.unknown_kind(offset, key, number))
    }

    fn unknown_kind(&self, offset: u64, key: &str, kind: u32) -> GgufError {
        GgufError::UnknownValueKind { path: self.path.into(), offset, key: key.into(), kind }
    }

    fn too_many(&self, offset: u64, what: &'static str, count: u64, limit: u64) -> GgufError {
        GgufError::TooMany { path: self.path.into(), offset, what, count, limit }
    }

    fn truncated(&self, offset: u64, what: &'static str, wanted: u64, left: u64) -> GgufError {
        GgufError::Truncated { path: self.path.into(), offset, what, wanted_bytes: wanted, left_bytes: left }
    }

    fn bad_name(&self, offset: u64, what: &'static str, name: String) -> GgufError {
        GgufError::BadName { path: self.path.into(), offset, what, name }
    }
}

struct Row {
    offset: u64,
    name: String,
    dims: Vec<u64>,
    kind: TensorKind,
    data_offset: u64,
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
