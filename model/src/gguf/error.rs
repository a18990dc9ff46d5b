//! What can be wrong with a GGUF file.

use std::path::PathBuf;

use super::ValueKind;

/// Why a GGUF file cannot be used. Every variant names the file; those about its bytes also name
/// the offset at which the trouble begins.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are said in each message
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error("{path}: cannot open the model file: {source}; check the path and its permissions")]
    Open { path: PathBuf, source: std::io::Error },
    /// The file does not begin with `GGUF`.
    #[error("{path}: byte 0: not a GGUF file (it begins with {found:?}); give a file that ends in .gguf")]
    BadMagic { path: PathBuf, found: Vec<u8> },
    /// The version is neither 2 nor 3 (a big-endian file shows here too).
    #[error(
        "{path}: byte {offset}: GGUF version {version:#x} is not supported; convert the model to little-endian GGUF version 3 with a current llama.cpp"
    )]
    UnsupportedVersion { path: PathBuf, offset: u64, version: u32 },
    /// The file ends before what it announces.
    #[error(
        "{path}: byte {offset}: the file ends inside {what}: {wanted_bytes} bytes announced, {left_bytes} left; it is cut or damaged, fetch it again"
    )]
    Truncated { path: PathBuf, offset: u64, what: &'static str, wanted_bytes: u64, left_bytes: u64 },
    /// A count or length is over the limit of this reader.
    #[error(
        "{path}: byte {offset}: {count} is too many for {what} (at most {limit}); the file is damaged or not a language model, fetch it again"
    )]
    TooMany { path: PathBuf, offset: u64, what: &'static str, count: u64, limit: u64 },
    /// A name or text is not UTF-8.
    #[error("{path}: byte {offset}: {what} is not UTF-8; the file is damaged, fetch it again")]
    BadText { path: PathBuf, offset: u64, what: &'static str },
    /// A key or tensor name stands twice, or is empty.
    #[error("{path}: byte {offset}: the {what} `{name}` is empty or stands twice; convert the model again")]
    BadName { path: PathBuf, offset: u64, what: &'static str, name: String },
    /// A metadata value has an unknown type, or is an array of arrays.
    #[error(
        "{path}: byte {offset}: metadata `{key}` has value type {kind}, which this reader does not know; convert the model with a current llama.cpp"
    )]
    UnknownValueKind { path: PathBuf, offset: u64, key: String, kind: u32 },
    /// A truth value is neither 0 nor 1.
    #[error(
        "{path}: byte {offset}: metadata `{key}` holds {found} where 0 or 1 is due; the file is damaged, fetch it again"
    )]
    BadBool { path: PathBuf, offset: u64, key: String, found: u8 },
    /// `general.alignment` is no power of two, or too large.
    #[error(
        "{path}: general.alignment is {alignment}, which is no power of two from 1 to 65536; convert the model again"
    )]
    BadAlignment { path: PathBuf, alignment: u64 },
    /// A tensor is stored in a type that this reader cannot decode.
    #[error(
        "{path}: byte {offset}: tensor `{name}` has type {kind}, which is not supported; use a file in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K or Q6_K"
    )]
    UnknownTensorKind { path: PathBuf, offset: u64, name: String, kind: u32 },
    /// A tensor has no dimension, too many, a zero one, or a first one that is no whole number of
    /// blocks, or its size does not fit in 64 bits.
    #[error(
        "{path}: byte {offset}: tensor `{name}` has impossible dimensions {dims:?} (1 to 4 of them, none zero, the first a multiple of {block}); the file is damaged, fetch it again"
    )]
    BadDimensions { path: PathBuf, offset: u64, name: String, dims: Vec<u64>, block: u64 },
    /// A tensor's data does not begin at a multiple of the alignment.
    #[error(
        "{path}: byte {offset}: the data of tensor `{name}` begins at {data_offset}, no multiple of the alignment {alignment}; convert the model again"
    )]
    Misaligned { path: PathBuf, offset: u64, name: String, data_offset: u64, alignment: u64 },
    /// A tensor's data would lie past the end of the file.
    #[error(
        "{path}: byte {offset}: the {size_bytes} bytes of tensor `{name}` begin at {data_offset} of the data, which has {data_bytes} bytes; the file is cut, fetch it again"
    )]
    OutOfFile { path: PathBuf, offset: u64, name: String, data_offset: u64, size_bytes: u64, data_bytes: u64 },
    /// The metadata lack a key.
    #[error("{path}: the metadata lack `{key}`; convert the model again, with its config and tokenizer")]
    MissingKey { path: PathBuf, key: String },
    /// A metadata value has another type than the key demands.
    #[error("{path}: metadata `{key}` is {found:?}, but {expected} is due; convert the model again")]
    WrongKind { path: PathBuf, key: String, expected: &'static str, found: ValueKind },
    /// The table lacks a tensor.
    #[error("{path}: there is no tensor `{name}`; the model is of another architecture or cut")]
    MissingTensor { path: PathBuf, name: String },
}
