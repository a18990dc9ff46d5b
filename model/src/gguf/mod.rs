//! GGUF, the single-file model format of llama.cpp: reading (memory-mapped, safe on hostile
//! files), dequantising and writing.
//!
//! The layout is that of `ggml-org/ggml`, `docs/gguf.md`: a header with two counts, the metadata
//! (key, type, value), the tensor table (name, dimensions, type, offset), then the tensor data at
//! multiples of `general.alignment`. Everything is little-endian. Dimensions stand fastest first:
//! a weight of shape `[in, out]` holds `out` rows of `in` values.
//!
//! ```no_run
//! let file = model::gguf::GgufFile::open("SmolLM2-135M-Instruct.Q4_1.gguf")?;
//! let width = file.require_u64("llama.embedding_length")?;
//! let embeddings: Vec<f32> = file.require_tensor("token_embd.weight")?.to_f32();
//! # let _ = (width, embeddings);
//! # Ok::<(), model::gguf::GgufError>(())
//! ```

mod error;
mod k_quants;
mod quant;
mod read;
mod value;
mod write;

pub use error::GgufError;
pub use quant::TensorKind;
pub use read::{GgufFile, Tensor, TensorInfo};
pub use value::{Value, ValueKind};
pub use write::{EncodeError, TensorData, encode, write_gguf};
