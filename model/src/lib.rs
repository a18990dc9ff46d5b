//! SmolLM on a CPU.
