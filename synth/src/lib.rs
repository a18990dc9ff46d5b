//! LLM prompting.
