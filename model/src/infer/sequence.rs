//! One request on its way: its tokens, its cache, and the text that has been told to the caller.

use std::collections::BTreeSet;

use futures::channel::{mpsc, oneshot};

use super::cache::{KvCache, PAGE_TOKENS};
use super::prefix::Place;
use super::{FinishReason, GenerateError, GenerateRequest, Generation, Model, StreamItem, sample};

/// How an answer ends.
pub(crate) type Answer = Result<Generation, GenerateError>;

/// Where an answer goes.
pub(crate) enum Reply {
    /// To a caller who waits for the whole.
    Whole(oneshot::Sender<Answer>),
    /// To a caller who reads along.
    Stream(mpsc::UnboundedSender<Result<StreamItem, GenerateError>>),
}

impl Reply {
    /// Whether nobody waits any more.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Whole(sender) => sender.is_canceled(),
            Self::Stream(sender) => sender.is_closed(),
        }
    }

    /// Gives the end of the answer. The caller may have gone in the meantime; then it is dropped.
    pub(crate) fn end(self, answer: Answer) {
        match self {
            Self::Whole(sender) => drop(sender.send(answer)),
            Self::Stream(sender) => drop(sender.unbounded_send(answer.map(StreamItem::End))),
        }
    }
}

/// A request that has been checked and tokenised.
pub(crate) struct Sequence {
    request: GenerateRequest,
    pub reply: Reply,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    /// Answer tokens after which it is cut.
    most_new: usize,
    /// Distinct tokens so far, for the repetition penalty.
    seen: Vec<u32>,
    /// Text of the answer so far, and how much of it has been streamed.
    text: Vec<u8>,
    told: usize,
    pub cache: KvCache,
    /// Where its prompt stands among the remembered ones.
    pub place: Place,
}

impl Sequence {
    pub(crate) fn new(request: GenerateRequest, reply: Reply, tokens: Vec<u32>, model: &Model) -> Self {
        let room = model.max_context_tokens() - tokens.len();
        let seen: BTreeSet<u32> = tokens.iter().copied().collect();
        Self {
            prompt_tokens: tokens.len(),
            most_new: request.max_new_tokens.min(room),
            request,
            reply,
            tokens,
            seen: seen.into_iter().collect(),
            text: Vec::new(),
            told: 0,
            cache: KvCache::default(),
            place: Place::default(),
        }
    }

    /// Tokens of cache that this sequence may come to fill, in whole pages.
    pub(crate) fn reserved_tokens(&self) -> usize {
        (self.prompt_tokens + self.most_new).next_multiple_of(PAGE_TOKENS)
    }

    /// Tokens that the model has not read yet.
    pub(crate) fn unread(&self) -> usize {
        self.tokens.len() - self.cache.tokens()
    }

    /// Whether no token of the answer has been drawn yet.
    pub(crate) fn in_prompt(&self) -> bool {
        self.tokens.len() == self.prompt_tokens
    }

    /// Takes the logits after the last token; Some when the answer is done.
    pub(crate) fn advance(&mut self, model: &Model, logits: &mut [f32]) -> Option<Answer> {
        let options = &self.request.sampling;
        sample::penalize(logits, &self.seen, options.repetition_penalty);
        let drawn = self.tokens.len() - self.prompt_tokens;
        let Some(token) = sample::pick(logits, options, self.request.seed, drawn) else {
            let tokens = self.tokens.len();
            return Some(Err(GenerateError::NonFinite { tokens }));
        };
        let tokenizer = model.tokenizer();
        if tokenizer.end_tokens().contains(&token) || self.request.stop_tokens.contains(&token) {
            return Some(Ok(self.finish(FinishReason::Stop, drawn + 1)));
        }
        self.tokens.push(token);
        if let Err(place) = self.seen.binary_search(&token) {
            self.seen.insert(place, token);
        }
        let before = self.text.len();
        self.text.extend(tokenizer.token_bytes(token));
        if let Some(end) = find_stop(&self.text, before, &self.request.stop) {
            self.text.truncate(end);
            return Some(Ok(self.finish(FinishReason::Stop, drawn + 1)));
        }
        if drawn + 1 == self.most_new {
            return Some(Ok(self.finish(FinishReason::Length, drawn + 1)));
        }
        self.tell(certain_bytes(&self.text, &self.request.stop));
        None
    }

    /// Streams the text up to `end`, where a character ends.
    fn tell(&mut self, end: usize) {
        if let Reply::Stream(sender) = &self.reply
            && self.told < end
        {
            let text = String::from_utf8_lossy(&self.text[self.told..end]).into_owned();
            self.told = end;
            // A caller who has gone is noticed before the next step.
            sender.unbounded_send(Ok(StreamItem::Text(text))).ok();
        }
    }

    fn finish(&mut self, finish_reason: FinishReason, completion_tokens: usize) -> Generation {
        self.tell(self.text.len());
        Generation {
            text: String::from_utf8_lossy(&self.text).into_owned(),
            tokens: self.tokens[self.prompt_tokens..].to_vec(),
            finish_reason,
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
        }
    }
}

/// Where the first stop text begins that ends after `before`.
fn find_stop(text: &[u8], before: usize, stops: &[String]) -> Option<usize> {
    let found = stops.iter().filter_map(|stop| {
        // It may have begun in earlier tokens.
        let from = before.saturating_sub(stop.len() - 1);
        let windows = text[from..].windows(stop.len());
        Some(from + windows.into_iter().position(|window| window == stop.as_bytes())?)
    });
    found.min()
}

/// Bytes of the text that whatever comes can no longer change: not the beginning of a character, nor
/// what may be the beginning of a stop text.
fn certain_bytes(text: &[u8], stops: &[String]) -> usize {
    let mut end = text.len();
    for back in 1..=text.len().min(3) {
        let byte = text[text.len() - back];
        if byte & 0b1100_0000 != 0b1000_0000 {
            // The first byte of a character tells how many there are.
            if back < byte.leading_ones() as usize {
                end = text.len() - back;
            }
            break;
        }
    }
    let held = stops.iter().filter_map(|stop| {
        let most = text.len().min(stop.len() - 1);
        (1..=most).rev().find(|&count| text.ends_with(&stop.as_bytes()[..count]))
    });
    end.min(text.len() - held.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_and_stop_texts_are_held_back_until_they_are_whole() {
        let stops = ["END".to_owned(), "é!".to_owned()];
        let certain = |text: &[u8]| certain_bytes(text, &stops);
        assert_eq!(certain(b""), 0);
        assert_eq!(certain(b"abc"), 3);
        assert_eq!(certain(b"abE"), 2);
        assert_eq!(certain(b"abEN"), 2);
        assert_eq!(certain(b"abENO"), 5);
        assert_eq!(certain("aé".as_bytes()), 1);
        assert_eq!(certain(&"a🙂".as_bytes()[..4]), 1);
        assert_eq!(certain("a🙂".as_bytes()), 5);
        // Bytes that are no text at all are not held for ever.
        assert_eq!(certain(&[b'a', 0x80, 0x80, 0x80, 0x80]), 5);
        assert_eq!(find_stop(b"xENDyEND", 3, &stops), Some(1));
        assert_eq!(find_stop(b"xENDyEND", 4, &stops), Some(5));
    }
}
