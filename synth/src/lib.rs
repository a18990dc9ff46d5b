//! LLM prompting.

pub mod cleanup;
mod columns;
pub mod prompts;
mod reject;
pub mod topics;

pub use columns::ColumnError;
pub use reject::{OnReject, Reject};
