//! SmolLM on a CPU: tokenizer, token shards, training, evaluation, export, and generation from
//! GGUF files.
//!
//! The way of a corpus through this crate:
//! [`tokenizer`] learns a byte-level BPE vocabulary, [`shards`] stores encoded documents as
//! memory-mapped `u16` files, [`pretrain`] trains a [`network`] on them with hand-written
//! [`kernels`], [`evaluate`] measures it, and [`export`] hands it on. Programs that a model writes run in a [`sandbox`].
//!
//! The way of a chat model: [`chat`] turns conversations into [`examples`], [`sft`] trains a
//! pre-trained model on what the assistant says in them, [`dpo`] on which of two answers is better.
//! All three kinds of training share one loop ([`training`]).

#[cfg(target_endian = "big")]
compile_error!("token shards and weights are mapped as they lie on disk: little-endian hosts only");

pub mod chat;
pub mod checkpoint;
pub mod columns;
pub mod config;
pub mod dpo;
pub mod evaluate;
pub mod examples;
pub mod export;
pub mod files;
pub mod gguf;
pub mod infer;
pub mod kernels;
pub mod language_model;
pub mod network;
pub mod optimizer;
pub mod pretrain;
pub mod sandbox;
pub mod scaling_law;
pub mod schedule;
pub mod sft;
pub mod shards;
pub mod tokenizer;
pub mod training;

mod exp;
mod isa;
#[cfg(test)]
mod testing;
