//! The bodies of answers, in the shapes of OpenAI's API reference.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::infer::{FinishReason, Generation};
use serde_json::{Value, json};

/// A response whose body is JSON.
pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Which of the two APIs is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// What all bodies of one answer have in common.
pub(super) struct Head {
    /// Which API.
    pub kind: Kind,
    /// The request's own number.
    pub number: u64,
    /// When it came, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
}

impl Head {
    /// A whole answer.
    pub(super) fn whole(&self, generation: &Generation) -> Value {
        let text = generation.text.as_str();
        let said = match self.kind {
            Kind::Chat => json!({"message": {"role": "assistant", "content": text}}),
            Kind::Completion => json!({"text": text}),
        };
        let choices = json!([choice(said, Some(generation.finish_reason))]);
        let object = match self.kind {
            Kind::Chat => "chat.completion",
            Kind::Completion => "text_completion",
        };
        self.body(object, choices, Some(usage(generation)))
    }

    /// A chat's first piece: who speaks. Completions have none.
    pub(super) fn opening(&self) -> Option<Value> {
        let delta = json!({"delta": {"role": "assistant", "content": ""}});
        (self.kind == Kind::Chat).then(|| self.chunk(json!([choice(delta, None)])))
    }

    /// A piece of text.
    pub(super) fn piece(&self, text: &str) -> Value {
        let said = match self.kind {
            Kind::Chat => json!({"delta": {"content": text}}),
            Kind::Completion => json!({"text": text}),
        };
        self.chunk(json!([choice(said, None)]))
    }

    /// Why the answer ends.
    pub(super) fn ending(&self, reason: FinishReason) -> Value {
        let said = match self.kind {
            Kind::Chat => json!({"delta": {}}),
            Kind::Completion => json!({"text": ""}),
        };
        self.chunk(json!([choice(said, Some(reason))]))
    }

    /// The count of tokens, after the end.
    pub(super) fn counted(&self, generation: &Generation) -> Value {
        self.body(self.chunk_object(), json!([]), Some(usage(generation)))
    }

    fn chunk(&self, choices: Value) -> Value {
        self.body(self.chunk_object(), choices, None)
    }

    fn chunk_object(&self) -> &'static str {
        match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        }
    }

    fn body(&self, object: &str, choices: Value, usage: Option<Value>) -> Value {
        let prefix = match self.kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        let mut body = json!({
            "id": format!("{prefix}-{:016x}", self.number),
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            body["usage"] = usage;
        }
        body
    }
}

/// The one choice: what is said, and why it ends there.
fn choice(mut said: Value, reason: Option<FinishReason>) -> Value {
    said["index"] = json!(0);
    said["logprobs"] = Value::Null;
    said["finish_reason"] = json!(reason.map(FinishReason::as_str));
    said
}

fn usage(generation: &Generation) -> Value {
    json!({
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    })
}
