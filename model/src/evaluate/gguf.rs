//! Scoring with a model that is ready for inference.

use super::{EvaluateError, Request, Scorer};
use crate::infer::{Model, ScoreRequest};

/// [`Scorer`] over a GGUF model: a context is computed once for all its continuations, several contexts in a
/// step.
#[derive(Debug)]
pub struct GgufScorer<'a> {
    model: &'a Model,
}

impl<'a> GgufScorer<'a> {
    /// Scores with `model`, on the rayon pool of the calling thread.
    #[must_use]
    pub fn new(model: &'a Model) -> Self {
        Self { model }
    }
}

fn failed(error: crate::infer::ScoreError) -> EvaluateError {
    EvaluateError::Scorer(Box::new(error))
}

impl Scorer for GgufScorer<'_> {
    fn context_tokens(&self) -> usize {
        self.model.max_context_tokens()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError> {
        Ok(self.model.tokenizer().encode_plain(text))
    }

    fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let negated = |tokens: &Vec<u32>| {
            Ok(self.model.logprobs(tokens).map_err(failed)?.iter().map(|value| -value).collect())
        };
        sequences.iter().map(negated).collect()
    }

    fn continuations(&mut self, requests: &[Request]) -> Result<Vec<Vec<Vec<f32>>>, EvaluateError> {
        let requests: Vec<ScoreRequest<'_>> = requests
            .iter()
            .map(|request| ScoreRequest { context: &request.context, continuations: &request.continuations })
            .collect();
        self.model.score_requests(&requests).map_err(failed)
    }
}
