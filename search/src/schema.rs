//! The Tantivy schema of a shard.

use tantivy::IndexSettings;
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::store::Compressor;
use tantivy::tokenizer::TokenizerManager;

use crate::analyzer::{English, TOKENIZER_NAME};

pub(crate) const ID: &str = "id";
pub(crate) const URL: &str = "url";
pub(crate) const LANGUAGE: &str = "language";
pub(crate) const LANGUAGE_SCORE: &str = "language_score";
pub(crate) const TOKEN_COUNT: &str = "token_count";
pub(crate) const INT_SCORE: &str = "int_score";

/// The fields of a page, as in the published tool [cosmo: huggingface/cosmopedia
/// `fulltext_search/index_docs.py`]: text, id, url, language_score, token_count; and for filters the
/// language (FineWeb) and the educational score (FineWeb-Edu's `int_score`).
#[derive(Clone)]
pub(crate) struct Fields {
    pub(crate) schema: Schema,
    /// Indexed with frequencies; neither positions nor the text itself are kept.
    pub(crate) text: Field,
    pub(crate) id: Field,
    pub(crate) url: Field,
    pub(crate) language: Field,
    pub(crate) language_score: Field,
    pub(crate) token_count: Field,
    pub(crate) int_score: Field,
}

impl Fields {
    pub(crate) fn new() -> Self {
        let indexing = TextFieldIndexing::default()
            .set_tokenizer(TOKENIZER_NAME)
            .set_index_option(IndexRecordOption::WithFreqs);
        let fast_string = TextOptions::default().set_fast("raw");
        let mut builder = Schema::builder();
        Self {
            text: builder.add_text_field("text", TextOptions::default().set_indexing_options(indexing)),
            id: builder.add_text_field(ID, fast_string.clone()),
            url: builder.add_text_field(URL, fast_string.clone()),
            language: builder.add_text_field(LANGUAGE, fast_string),
            language_score: builder.add_f64_field(LANGUAGE_SCORE, FAST),
            token_count: builder.add_i64_field(TOKEN_COUNT, FAST),
            int_score: builder.add_i64_field(INT_SCORE, FAST),
            schema: builder.build(),
        }
    }
}

/// The house settings: nothing is stored, so the store needs neither compression nor a thread.
pub(crate) fn settings() -> IndexSettings {
    IndexSettings {
        docstore_compression: Compressor::None,
        docstore_compress_dedicated_thread: false,
        ..IndexSettings::default()
    }
}

/// The tokenizers an index writer needs.
pub(crate) fn tokenizers(english: English) -> TokenizerManager {
    let manager = TokenizerManager::default();
    manager.register(TOKENIZER_NAME, english);
    manager
}
