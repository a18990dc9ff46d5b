//! Threads that each own one ONNX session and take pages from one queue.

use crate::{
    BackboneError,
    backbone::{HIDDEN_STATE, INPUT_NAMES},
    tokenize::PageTokenizer,
};
use ort::{session::Session, value::TensorRef};
use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};
use tokio::sync::oneshot;

/// One page to embed, and where its vector goes.
struct Job {
    text: String,
    reply: oneshot::Sender<Result<Vec<f32>, BackboneError>>,
}

/// The worker threads. Dropping it ends them; pages that nobody waits for any
/// more are passed over.
#[derive(Debug)]
pub(crate) struct Workers {
    queue: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// One thread a session.
    pub(crate) fn start(
        sessions: Vec<Session>,
        tokenizer: Arc<PageTokenizer>,
    ) -> Result<Self, BackboneError> {
        let (queue, jobs) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let mut workers = Self { queue: Some(queue), threads: Vec::with_capacity(sessions.len()) };
        for (index, session) in sessions.into_iter().enumerate() {
            let (jobs, tokenizer) = (Arc::clone(&jobs), Arc::clone(&tokenizer));
            let thread = std::thread::Builder::new()
                .name(format!("embed-{index}"))
                .spawn(move || work(&jobs, session, &tokenizer))
                .map_err(BackboneError::Thread)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Puts a page in the queue at once; the future gives its vector.
    pub(crate) fn submit(
        &self,
        text: String,
    ) -> impl Future<Output = Result<Vec<f32>, BackboneError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        // A failed send drops the job, and with it `reply`: seen just below.
        let _ = self.queue.as_ref().map(|queue| queue.send(Job { text, reply }));
        async move { answer.await.unwrap_or(Err(BackboneError::WorkerGone)) }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>, mut session: Session, tokenizer: &PageTokenizer) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { text, reply }) = job else {
            return;
        };
        if reply.is_closed() {
            continue;
        }
        let result = tokenizer
            .ids(&text)
            .map_err(|error| BackboneError::Tokenize { reason: error.to_string() })
            .and_then(|ids| {
                run_page(&mut session, &ids)
                    .map_err(|reason| BackboneError::Run { reason })
                    .map(|states| normalise(mean(&states, ids.len())))
            });
        let _ = reply.send(result);
    }
}

/// Runs one page through the encoder, alone and without padding, and gives
/// the last hidden states `[tokens × hidden]`.
pub(crate) fn run_page(session: &mut Session, ids: &[i64]) -> Result<Vec<f32>, String> {
    let shape = [1, ids.len()];
    let mask = vec![1_i64; ids.len()];
    let types = vec![0_i64; ids.len()];
    let run = |session: &mut Session| -> ort::Result<Result<Vec<f32>, String>> {
        let outputs = session.run(ort::inputs! {
            INPUT_NAMES[0] => TensorRef::from_array_view((shape, ids))?,
            INPUT_NAMES[1] => TensorRef::from_array_view((shape, mask.as_slice()))?,
            INPUT_NAMES[2] => TensorRef::from_array_view((shape, types.as_slice()))?,
        })?;
        let Some(output) = outputs.get(HIDDEN_STATE) else {
            return Ok(Err(format!("the model gave no `{HIDDEN_STATE}`")));
        };
        let (found, states) = output.try_extract_tensor::<f32>()?;
        let tokens = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        match found.as_ref() {
            [1, found_tokens, hidden] if *found_tokens == tokens && *hidden > 0 => Ok(Ok(states.to_vec())),
            other => Ok(Err(format!("`{HIDDEN_STATE}` has shape {other:?}, expected [1, {tokens}, hidden]"))),
        }
    };
    run(session).unwrap_or_else(|error| Err(error.to_string()))
}

/// The mean of the tokens' states. The mask needs no look: nothing is padded.
fn mean(states: &[f32], tokens: usize) -> Vec<f32> {
    let hidden = states.len() / tokens.max(1);
    let mut sum = vec![0.0_f32; hidden];
    for state in states.chunks_exact(hidden.max(1)) {
        for (total, value) in sum.iter_mut().zip(state) {
            *total += value;
        }
    }
    for total in &mut sum {
        *total /= tokens as f32;
    }
    sum
}

/// Scales a vector to length 1; zeros stay zeros.
fn normalise(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        for value in &mut vector {
            *value /= norm;
        }
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_is_the_mean_scaled_to_length_one() {
        let pooled = mean(&[1.0, 0.0, 5.0, 8.0], 2);
        assert_eq!(pooled, [3.0, 4.0]);
        assert_eq!(normalise(pooled), [0.6, 0.8]);
        assert_eq!(normalise(vec![0.0, 0.0]), [0.0, 0.0]);
    }
}
