//! The name of a request in the answer log.

use std::fmt;

use serde_json::Value;

use super::{Api, ChatRequest, ExtraFields, Message, Role};

/// Domain of the ids. A new field in the id means a new domain: old logs then no longer answer.
const CONTEXT: &str = "corpusmith chat request key v2";
/// Domain of the ids of the first logs, which held `max_new_tokens` as well.
const LEGACY_CONTEXT: &str = "corpusmith chat request key v1";

/// blake3 of what decides an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub [u8; 32]);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// What the answer log is asked: which request, and how long its answer may be.
///
/// The length is no part of the id, since an answer that came to its end within 1,000 tokens is as good
/// for a request that allows 2,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// All that decides the answer but its longest length.
    pub id: RequestId,
    /// The id under which logs of the first format hold an answer to this very request.
    pub legacy_id: RequestId,
    /// Longest answer asked for, in tokens.
    pub max_new_tokens: u32,
}

impl ChatRequest {
    /// The key of this request.
    pub fn key(&self) -> RequestKey {
        RequestKey {
            id: self.id(CONTEXT, None),
            legacy_id: self.id(LEGACY_CONTEXT, Some(self.max_new_tokens)),
            max_new_tokens: self.max_new_tokens,
        }
    }

    /// Each text goes in with its length before it, so that no two different requests share their bytes.
    fn id(&self, context: &str, max_new_tokens: Option<u32>) -> RequestId {
        let Self {
            model,
            messages,
            max_new_tokens: _,
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            stop,
            seed,
            api,
            extra,
        } = self;
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hash_text(&mut hasher, model);
        hasher.update(&(messages.len() as u64).to_le_bytes());
        for Message { role, content } in messages {
            let role = match role {
                Role::System => 0u8,
                Role::User => 1,
                Role::Assistant => 2,
            };
            hasher.update(&[role]);
            hash_text(&mut hasher, content);
        }
        if let Some(tokens) = max_new_tokens {
            hasher.update(&tokens.to_le_bytes());
        }
        for number in [temperature, top_p, repetition_penalty] {
            hasher.update(&number.to_bits().to_le_bytes());
        }
        hasher.update(&top_k.to_le_bytes());
        hasher.update(&(stop.len() as u64).to_le_bytes());
        for text in stop {
            hash_text(&mut hasher, text);
        }
        hasher.update(&seed.to_le_bytes());
        // Only what is there: a setting that came later leaves the ids of requests without it as they were.
        if *api == Api::Completions {
            hash_text(&mut hasher, "completions");
        }
        if *min_p > 0.0 {
            hash_text(&mut hasher, "min_p");
            hasher.update(&min_p.to_bits().to_le_bytes());
        }
        if !extra.is_empty() {
            hash_fields(&mut hasher, extra);
        }
        RequestId(*hasher.finalize().as_bytes())
    }
}

fn hash_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// In the order of the names, whatever order they were written in.
fn hash_fields(hasher: &mut blake3::Hasher, fields: &ExtraFields) {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    hasher.update(&(sorted.len() as u64).to_le_bytes());
    for (name, value) in sorted {
        hash_text(hasher, name);
        hash_value(hasher, value);
    }
}

fn hash_value(hasher: &mut blake3::Hasher, value: &Value) {
    match value {
        Value::Object(fields) => hash_fields(hasher, fields),
        Value::Array(items) => {
            hasher.update(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| hash_value(hasher, item));
        }
        // As JSON, a text has its quotes, so that it differs from a number of the same digits.
        other => hash_text(hasher, &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everything_but_the_length_is_in_the_id() {
        let base = ChatRequest::new("m", vec![Message::user("ab")]);
        let extra = |value: f64| [("min_p".to_owned(), value.into())].into_iter().collect();
        let changed = [
            ChatRequest { model: "n".into(), ..base.clone() },
            ChatRequest { messages: vec![Message::system("ab")], ..base.clone() },
            ChatRequest { messages: vec![Message::user("a"), Message::user("b")], ..base.clone() },
            ChatRequest { temperature: 0.7, ..base.clone() },
            ChatRequest { top_p: 0.6, ..base.clone() },
            ChatRequest { top_k: 1, ..base.clone() },
            ChatRequest { min_p: 0.1, ..base.clone() },
            ChatRequest { repetition_penalty: 1.0, ..base.clone() },
            ChatRequest { stop: vec![], ..base.clone() },
            ChatRequest { stop: vec!["<|".into(), "endoftext|>".into()], ..base.clone() },
            ChatRequest { seed: 1, ..base.clone() },
            ChatRequest { api: Api::Completions, ..base.clone() },
            ChatRequest { extra: extra(0.1), ..base.clone() },
            ChatRequest { extra: extra(0.2), ..base.clone() },
        ];
        let mut ids: Vec<RequestId> = changed.iter().map(|request| request.key().id).collect();
        ids.push(base.key().id);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        let longer = ChatRequest { max_new_tokens: 1, ..base.clone() };
        assert_eq!(longer.key().id, base.key().id);
        assert_ne!(longer.key().legacy_id, base.key().legacy_id);
    }

    #[test]
    fn ids_stay_what_they_were() {
        // A changed id would make every log in the field ask again: change the contexts knowingly.
        let key = ChatRequest::new("m", vec![Message::user("ab")]).key();
        let legacy = "d0d09fb67fabce7022388231a37ab83b826a9b5dee63d2a385ce2ef28adb3ad4";
        let id = "bdfbc973243743f7c754dea3bd7a629e772234a91f51fac1199f010f3ed8f182";
        assert_eq!(key.legacy_id.to_string(), legacy);
        assert_eq!(key.id.to_string(), id);
    }
}
