//! A model that gives a score itself: an encoder with its head in one file.

use crate::{BackboneError, BackboneOptions, Runtime, engine::Engine, session::Output};
use std::{path::Path, sync::Arc};

/// A sequence classification with one label, as the Hub exports it (HuggingFaceFW/fineweb-edu-classifier,
/// among others) and as [`export_onnx`](crate::export_onnx) writes it: inputs `input_ids`,
/// `attention_mask` and perhaps `token_type_ids`, output `logits`, f32 `[pages, 1]`.
///
/// Pages are run as a [`Backbone`](crate::Backbone) runs them.
#[derive(Debug)]
pub struct Classifier {
    engine: Arc<Engine>,
}

impl Classifier {
    /// Loads the ONNX file and its tokenizer, and runs one trial page of `max_tokens` tokens.
    ///
    /// # Errors
    /// A file is missing, cut, of another kind or with more than one label, the two do not fit, or the
    /// library lacks a provider.
    pub fn load(
        runtime: &Runtime,
        model_onnx: &Path,
        tokenizer_json: &Path,
        options: &BackboneOptions,
    ) -> Result<Self, BackboneError> {
        let engine = Engine::load(runtime, model_onnx, tokenizer_json, options, Output::Logits)?;
        Ok(Self { engine: Arc::new(engine) })
    }

    /// blake3 of the ONNX file and of the tokenizer.json, in hex: two classifiers with one digest and one
    /// length score alike.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("{}{}", self.engine.model_blake3, self.engine.tokenizer_blake3)
    }

    /// Sessions side by side.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.engine.sessions()
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        OnReject, ScoreOptions, Scorer, TEST_RUNTIME, onnx::testing::sum_of_ids, score_stream, test_asset,
        tokenize::tests::tiny_tokenizer_json,
    };
    use arrow::{
        array::{ArrayRef, AsArray, StringArray},
        datatypes::Float32Type,
        record_batch::RecordBatch,
    };
    use futures::{StreamExt, stream};

    /// A classifier whose score is the sum of the page's ids, in 16ths. The tiny tokenizer's ids: `[CLS]` 2, `[SEP]` 3,
    /// `the` 4, `cell` 5, `is` 6.
    fn classifier(labels: usize, options: &BackboneOptions) -> Option<Result<Classifier, BackboneError>> {
        let runtime = Runtime::load(&test_asset(TEST_RUNTIME)?).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (onnx, tokenizer) = (folder.path().join("sum.onnx"), folder.path().join("t.json"));
        std::fs::write(&onnx, sum_of_ids(70, labels)).unwrap();
        std::fs::write(&tokenizer, tiny_tokenizer_json()).unwrap();
        Some(Classifier::load(&runtime, &onnx, &tokenizer, options))
    }

    fn scorer(options: &BackboneOptions) -> Option<Arc<Scorer>> {
        Some(Arc::new(Scorer::of_classifier(Arc::new(classifier(1, options)?.unwrap()))))
    }

    #[test]
    fn a_classifier_of_one_label_scores_without_a_head() {
        let Some(scorer) = scorer(&BackboneOptions { max_tokens: 4, ..Default::default() }) else {
            return;
        };
        assert!(scorer.head().is_none());
        let scores = scorer.score(&["", "the cell", "is is is is"]).unwrap();
        assert_eq!(scores, [5.0 / 16.0, 14.0 / 16.0, 17.0 / 16.0]);
    }

    #[test]
    fn several_labels_and_missing_providers_are_named() {
        let Some(six) = classifier(6, &BackboneOptions::default()) else {
            return;
        };
        let error = six.unwrap_err().to_string();
        assert!(error.contains("`logits` has shape [1, 6], expected logits, f32 [pages, 1]"), "{error}");
        let options = BackboneOptions { providers: vec![crate::Provider::Cuda], ..Default::default() };
        let error = classifier(1, &options).unwrap().unwrap_err().to_string();
        assert!(error.contains("no CUDAExecutionProvider; set ORT_DYLIB_PATH"), "{error}");
    }

    /// 1,300 pages of mixed lengths: more than two windows.
    fn pages() -> Vec<String> {
        (0..1_300_usize).map(|page| "the cell is ".repeat(page * 7 % 23) + "cell").collect()
    }

    #[tokio::test]
    async fn batches_give_the_scores_of_single_pages_in_order() {
        let batched = BackboneOptions {
            max_tokens: 48,
            sessions: Some(2),
            batch_tokens: Some(200),
            ..Default::default()
        };
        let single = BackboneOptions { batch_tokens: None, ..batched.clone() };
        let (Some(batched), Some(single)) = (scorer(&batched), scorer(&single)) else {
            return;
        };
        let pages = pages();
        let texts: Vec<&str> = pages.iter().map(String::as_str).collect();
        let expected = single.score(&texts).unwrap();
        assert_eq!(batched.score(&texts).unwrap(), expected);

        let batch = |(start, texts): (usize, &[&str])| {
            let ids: StringArray = (start..start + texts.len()).map(|id| Some(id.to_string())).collect();
            let texts = StringArray::from(texts.to_vec());
            let columns = [("id", Arc::new(ids) as ArrayRef), ("text", Arc::new(texts) as ArrayRef)];
            Ok(RecordBatch::try_from_iter(columns).unwrap())
        };
        let no_reject: OnReject = Arc::new(|reject| panic!("{reject:?}"));
        for rows in [7, 600] {
            let input = texts.chunks(rows).zip(0..).map(|(texts, at)| batch((at * rows, texts)));
            let input = stream::iter(input.collect::<Vec<_>>()).boxed();
            let options = ScoreOptions::default();
            let out = score_stream(Arc::clone(&batched), &options, Arc::clone(&no_reject), input);
            let out: Vec<RecordBatch> = out.map(Result::unwrap).collect().await;
            assert_eq!(out.len(), texts.len().div_ceil(rows));
            let scores =
                |batch: &RecordBatch| batch.column(2).as_primitive::<Float32Type>().values().to_vec();
            assert_eq!(out.iter().flat_map(scores).collect::<Vec<f32>>(), expected);
        }
    }

    #[tokio::test]
    async fn an_error_comes_in_its_place_among_batches() {
        let options = BackboneOptions { max_tokens: 8, batch_tokens: Some(64), ..Default::default() };
        let Some(scorer) = scorer(&options) else {
            return;
        };
        let columns =
            ["id", "text"].map(|name| (name, Arc::new(StringArray::from(vec!["cell"])) as ArrayRef));
        let good = RecordBatch::try_from_iter(columns).unwrap();
        let failed = Err(arrow::error::ArrowError::ComputeError("the disk is gone".into()));
        let input = stream::iter([Ok(good.clone()), failed, Ok(good)]).boxed();
        let no_reject: OnReject = Arc::new(|reject| panic!("{reject:?}"));
        let out: Vec<_> = score_stream(scorer, &ScoreOptions::default(), no_reject, input).collect().await;
        assert_eq!(out.len(), 2);
        assert!(out[0].is_ok() && out[1].as_ref().unwrap_err().to_string().contains("the disk is gone"));
    }
}
