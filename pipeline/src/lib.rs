//! Corpusmith: a streaming data-curation pipeline.
//!
//! A workflow file names stages; each stage is a DataFusion plan over Arrow batches; the runner
//! streams every plan into Parquet shards that appear whole, carry a fingerprint, and are never
//! computed twice. ARCHITECTURE.md is the map.

pub mod allocator;
pub mod assets;
pub mod benchmarks;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod dag;
pub mod durable;
pub mod engine;
pub mod forecast;
pub mod inspect;
pub mod integrity;
pub mod llm_server;
pub mod manifest;
pub mod observe;
pub mod publish;
pub mod report;
pub mod runner;
pub mod sample;
pub mod stages;
pub mod table;
pub mod units;
pub mod workflow;
