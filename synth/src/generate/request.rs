//! What is asked for a row, and how far the answer log alone takes it.

use super::options::GenerateOptions;
use crate::answer_log::{AnswerLog, AnswerLogError};
use crate::chat::{ChatRequest, Message};

const SEED_CONTEXT: &str = "corpusmith generation seed v1";

/// The request of a row's try (counted from 0). `model` is for options that name none.
pub(super) fn row_request(
    options: &GenerateOptions,
    model: &str,
    id: &str,
    prompt: &str,
    number_of_try: u32,
) -> ChatRequest {
    let mut messages: Vec<Message> = options.system_message.iter().map(Message::system).collect();
    messages.push(Message::user(prompt));
    ChatRequest {
        model: if options.model.is_empty() { model.to_owned() } else { options.model.clone() },
        messages,
        max_new_tokens: options.max_new_tokens,
        temperature: options.temperature,
        top_p: options.top_p,
        top_k: options.top_k,
        min_p: options.min_p,
        repetition_penalty: options.repetition_penalty,
        stop: options.stop.clone(),
        seed: seed(options.seed, id, number_of_try),
        api: options.api,
        extra: options.extra.clone(),
    }
}

/// Seed of a row's try: blake3 of the run's seed, the row's id and the try.
fn seed(run_seed: u64, id: &str, number_of_try: u32) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key(SEED_CONTEXT);
    hasher.update(&run_seed.to_le_bytes());
    hasher.update(&number_of_try.to_le_bytes());
    hasher.update(id.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// How far a row is.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// The log holds an answer that is long enough.
    Answered,
    /// This request is the next to be asked; the log's answers to those before it are too short.
    Open(Box<ChatRequest>),
    /// The log's answers to all its tries are too short: the row is lost.
    Exhausted,
}

/// How far the log takes a row, whose options must name the model. Reads from disk: call it outside of
/// async code.
pub fn standing(
    options: &GenerateOptions,
    log: &AnswerLog,
    id: &str,
    prompt: &str,
) -> Result<Standing, AnswerLogError> {
    for number_of_try in 0..options.max_tries {
        let request = row_request(options, "", id, prompt, number_of_try);
        match log.get(&request.key())? {
            None => return Ok(Standing::Open(Box::new(request))),
            Some(answer) if answer.completion_tokens >= options.min_tokens => return Ok(Standing::Answered),
            Some(_) => {}
        }
    }
    Ok(Standing::Exhausted)
}
