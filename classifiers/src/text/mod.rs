//! Words, sentences and lines as datatrove 0.10.1 splits English text.
//!
//! datatrove splits with spaCy's blank English pipeline and with Python's string methods; deduplication
//! and the cleaning rules decide by what comes out, so they are met here character by character.

pub mod chars;
mod exceptions;
pub mod lines;
mod sentences;
mod tokens;
mod url;
mod words;

pub use sentences::sentences;
pub use tokens::{Token, tokenize};
pub use words::Words;
