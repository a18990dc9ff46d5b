//! Scoring and embedding of page streams.

mod schema;
mod stream;
#[cfg(test)]
mod tests;

pub use schema::{EmbedOptions, ScoreError, ScoreOptions, embedded_schema, scored_schema};

use crate::{
    Backbone, BackboneError, Classifier, Head, HeadError, OnReject, PageStream, engine::Engine, int_score,
};
use arrow::{
    array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array},
    datatypes::Schema,
};
use schema::item_field;
use std::sync::Arc;
use stream::{Columns, page_stream};

/// What gives a page its score: a backbone and a head that belong together, or a classifier.
#[derive(Debug)]
pub struct Scorer {
    model: Model,
}

#[derive(Debug)]
enum Model {
    Headed { backbone: Arc<Backbone>, head: Box<Head> },
    Whole(Arc<Classifier>),
}

impl Scorer {
    /// Joins a backbone and a head.
    ///
    /// # Errors
    /// When the head was trained on another backbone, tokenizer or length.
    pub fn new(backbone: Arc<Backbone>, head: Head) -> Result<Self, HeadError> {
        head.check_backbone(backbone.identity())?;
        Ok(Self { model: Model::Headed { backbone, head: Box::new(head) } })
    }

    /// Scores by a classifier, which needs no head.
    #[must_use]
    pub fn of_classifier(classifier: Arc<Classifier>) -> Self {
        Self { model: Model::Whole(classifier) }
    }

    /// The head in use; a classifier has none.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        match &self.model {
            Model::Headed { head, .. } => Some(head.as_ref()),
            Model::Whole(_) => None,
        }
    }

    /// Scores pages on all sessions and waits; one score a page, not clipped.
    ///
    /// # Errors
    /// When a page cannot be tokenised or run.
    pub fn score(&self, texts: &[&str]) -> Result<Vec<f32>, BackboneError> {
        let engine = self.engine();
        let vectors = engine.run(texts)?;
        let rows = vectors.chunks(engine.width.max(1)).zip(texts);
        Ok(rows.map(|(vector, text)| self.of_page(vector, text)).collect())
    }

    fn engine(&self) -> &Arc<Engine> {
        match &self.model {
            Model::Headed { backbone, .. } => backbone.engine(),
            Model::Whole(classifier) => classifier.engine(),
        }
    }

    /// The score of a page by its vector and its text; a classifier's vector is its score.
    fn of_page(&self, vector: &[f32], text: &str) -> f32 {
        match &self.model {
            Model::Headed { head, .. } => head.score(vector, text),
            Model::Whole(_) => vector.first().copied().unwrap_or(f32::NAN),
        }
    }
}

/// Adds `score` (f32, not clipped) and `int_score` (i64, `round(clip(score, 0,
/// 5))`) to every page.
///
/// Batches and rows keep their order. Pages without text leave the stream and
/// are told to `on_reject` with the reason `empty_text`. Up to
/// `in_flight_pages` pages are in work, over batch borders (where the model runs
/// batches: two windows of 512 pages); when the stream is dropped the pages that
/// wait are passed over. The stream ends after an error.
pub fn score_stream(
    scorer: Arc<Scorer>,
    options: &ScoreOptions,
    on_reject: OnReject,
    input: PageStream,
) -> PageStream {
    let columns = options.clone();
    let schema = move |input: &Schema| scored_schema(input, &columns);
    let columns = Columns {
        text: options.text_column.clone(),
        id: options.id_column.clone(),
        in_flight_pages: options.in_flight_pages,
    };
    let finish = |scores: Vec<f32>| -> Vec<ArrayRef> {
        let whole: Int64Array = scores.iter().map(|&score| int_score(score)).collect();
        vec![Arc::new(Float32Array::from(scores)), Arc::new(whole)]
    };
    let engine = Arc::clone(scorer.engine());
    let reduce = move |vector: Vec<f32>, text: &str| scorer.of_page(&vector, text);
    page_stream(engine, columns, on_reject, input, schema, reduce, move |scores| Ok(finish(scores)))
}

/// Adds each page's vector as a fixed-size list of f32. Otherwise as
/// [`score_stream`].
pub fn embed_stream(
    backbone: Arc<Backbone>,
    options: &EmbedOptions,
    on_reject: OnReject,
    input: PageStream,
) -> PageStream {
    let hidden = backbone.hidden();
    let columns = options.clone();
    let schema = move |input: &Schema| embedded_schema(input, hidden, &columns);
    let columns = Columns {
        text: options.text_column.clone(),
        id: options.id_column.clone(),
        in_flight_pages: options.in_flight_pages,
    };
    let finish = move |vectors: Vec<Vec<f32>>| {
        let length = i32::try_from(hidden).unwrap_or(i32::MAX);
        let values = Float32Array::from(vectors.concat());
        let list = FixedSizeListArray::try_new(item_field(), length, Arc::new(values), None)?;
        Ok(vec![Arc::new(list) as ArrayRef])
    };
    page_stream(Arc::clone(backbone.engine()), columns, on_reject, input, schema, |vector, _| vector, finish)
}
