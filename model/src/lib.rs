//! SmolLM on a CPU.

pub mod gguf;
pub mod infer;
