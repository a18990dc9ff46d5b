//! The JSON of `/v1/chat/completions` and `/v1/completions`, both ways.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::options::{ClientError, ServerKind};
use crate::chat::{Api, ChatAnswer, ChatRequest, ExtraFields, FinishReason, Message};

/// Bytes of a wrong answer that are shown.
const SHOWN_BYTES: usize = 160;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [Message]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    max_tokens: u32,
    temperature: f64,
    top_p: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_penalty: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    seed: u32,
    stream: bool,
}

/// Fields that a request has from elsewhere or that would change what comes back.
const NOT_EXTRA: [&str; 7] = ["model", "messages", "prompt", "seed", "n", "best_of", "stream"];

/// The limit that newer models of OpenAI take instead of `max_tokens`; what they think counts.
const MAX_COMPLETION_TOKENS: &str = "max_completion_tokens";

/// The most tokens that a request's answer may have.
pub fn longest_answer(request: &ChatRequest) -> u64 {
    let instead = request.extra.get(MAX_COMPLETION_TOKENS).and_then(serde_json::Value::as_u64);
    u64::from(request.max_new_tokens).max(instead.unwrap_or_default())
}

/// Checks that extra fields do not touch what the program itself must know.
pub fn check_extra(extra: &ExtraFields) -> Result<(), ClientError> {
    let wrong = |field: &str, problem| Err(ClientError::BadExtra { field: field.to_owned(), problem });
    for field in NOT_EXTRA {
        if extra.contains_key(field) {
            return wrong(field, "it is set by the program");
        }
    }
    // A budget holds the longest answer, which must therefore be known.
    if extra.get(MAX_COMPLETION_TOKENS).is_some_and(|value| !value.is_null() && value.as_u64().is_none()) {
        return wrong(MAX_COMPLETION_TOKENS, "it must be a whole number");
    }
    match extra.get("max_tokens") {
        None | Some(serde_json::Value::Null) => Ok(()),
        Some(_) => wrong("max_tokens", "max_new_tokens sets it"),
    }
}

/// The JSON body of a request.
pub fn encode(request: &ChatRequest, kind: ServerKind) -> Bytes {
    let (top_k, repetition_penalty, repeat_penalty) = match kind {
        ServerKind::Vllm => (Some(request.top_k), Some(request.repetition_penalty), None),
        ServerKind::LlamaServer => (Some(request.top_k), None, Some(request.repetition_penalty)),
        ServerKind::OpenAi => (None, None, None),
    };
    let (messages, prompt) = match request.api {
        Api::Chat => (Some(request.messages.as_slice()), None),
        Api::Completions => {
            let texts: Vec<&str> = request.messages.iter().map(|message| message.content.as_str()).collect();
            (None, Some(texts.join("\n\n")))
        }
    };
    let body = Body {
        model: &request.model,
        messages,
        prompt,
        max_tokens: request.max_new_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        top_k,
        // Sent only where it is set: not every server knows it.
        min_p: (request.min_p > 0.0 && kind != ServerKind::OpenAi).then_some(request.min_p),
        repetition_penalty,
        repeat_penalty,
        stop: &request.stop,
        // 31 bits: the most that every server takes, signed or not, 32 bits or 64.
        seed: (request.seed >> 33) as u32,
        stream: false,
    };
    // Strings, numbers and lists of them always serialise; a temperature that is no number becomes null.
    if request.extra.is_empty() {
        return Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
    }
    let mut json = serde_json::to_value(&body).unwrap_or_default();
    if let Some(fields) = json.as_object_mut() {
        if request.extra.contains_key(MAX_COMPLETION_TOKENS) {
            fields.remove("max_tokens");
        }
        for (name, value) in &request.extra {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
    Bytes::from(json.to_string())
}

#[derive(Deserialize)]
struct Reply {
    model: Option<String>,
    #[serde(default)]
    choices: Vec<ReplyChoice>,
    #[serde(default)]
    usage: serde_json::Value,
}

#[derive(Deserialize)]
struct ReplyChoice {
    message: Option<ReplyMessage>,
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ReplyMessage {
    content: Option<String>,
}

/// Reads an answer: `attempts` is 1 and `latency_ms` 0 in it. The error says what is wrong with the body.
///
/// `content: null` (a server's filter) is an empty text. A server without `usage`, or with figures there that
/// cannot be, gets its tokens counted as a quarter of the characters: no answer is lost for that.
pub fn decode(body: &[u8], request_body_bytes: usize, endpoint: &str) -> Result<ChatAnswer, String> {
    let reply: Reply =
        serde_json::from_slice(body).map_err(|error| format!("not the JSON expected ({error})"))?;
    let choice = reply.choices.into_iter().next().ok_or("no choices in it")?;
    let text = match (choice.message, choice.text) {
        (Some(message), _) => message.content.unwrap_or_default(),
        (None, Some(text)) => text,
        (None, None) => return Err("its first choice has neither message nor text".into()),
    };
    let figure = |name: &str| u32::try_from(reply.usage.get(name)?.as_u64()?).ok();
    let (prompt_tokens, completion_tokens) = (figure("prompt_tokens"), figure("completion_tokens"));
    let completion_tokens = completion_tokens.unwrap_or_else(|| quarter(text.chars().count()));
    Ok(ChatAnswer {
        text,
        finish_reason: FinishReason::from(choice.finish_reason.unwrap_or_default()),
        prompt_tokens: prompt_tokens.unwrap_or_else(|| quarter(request_body_bytes)),
        completion_tokens,
        model: reply.model.unwrap_or_default(),
        endpoint: endpoint.to_owned(),
        attempts: 1,
        latency_ms: 0,
    })
}

fn quarter(characters: usize) -> u32 {
    u32::try_from(characters.div_ceil(4)).unwrap_or(u32::MAX)
}

/// The first bytes of a body, quoted and on one line.
pub(super) fn first_bytes(body: &[u8]) -> String {
    let shown = &body[..body.len().min(SHOWN_BYTES)];
    let dots = if shown.len() < body.len() { "…" } else { "" };
    format!("{:?}{dots}", String::from_utf8_lossy(shown))
}

/// A server's words about its error, on one line: the `message` of OpenAI's error object if there is one,
/// the body's first bytes otherwise.
pub fn said(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let message =
        [json.pointer("/error/message"), json.get("message"), json.get("detail"), json.get("error")]
            .into_iter()
            .flatten()
            .find_map(serde_json::Value::as_str);
    match message {
        Some(message) => first_bytes(message.as_bytes()),
        None if body.is_empty() => "no word".to_owned(),
        None => first_bytes(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: ServerKind) -> serde_json::Value {
        let request = ChatRequest { seed: u64::MAX, ..ChatRequest::new("m", vec![Message::user("hi")]) };
        serde_json::from_slice(&encode(&request, kind)).unwrap()
    }

    #[test]
    fn a_request_has_the_dialects_fields() {
        assert_eq!(
            body(ServerKind::Vllm),
            serde_json::json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2500,
                "temperature": 0.6, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.2,
                "stop": ["<|endoftext|>"], "seed": 2147483647, "stream": false})
        );
        let llama = body(ServerKind::LlamaServer);
        assert_eq!(
            (&llama["repeat_penalty"], llama.get("repetition_penalty")),
            (&serde_json::json!(1.2), None)
        );
        let openai = body(ServerKind::OpenAi);
        assert!(openai.get("top_k").is_none() && openai.get("repetition_penalty").is_none());
    }

    #[test]
    fn min_p_is_sent_where_it_is_set_and_known() {
        let request = ChatRequest { min_p: 0.05, ..ChatRequest::new("m", vec![Message::user("hi")]) };
        let sent = |kind| {
            let body: serde_json::Value = serde_json::from_slice(&encode(&request, kind)).unwrap();
            body.get("min_p").cloned()
        };
        assert_eq!(sent(ServerKind::Vllm), Some(0.05.into()));
        assert_eq!(sent(ServerKind::LlamaServer), Some(0.05.into()));
        assert_eq!(sent(ServerKind::OpenAi), None);
    }

    #[test]
    fn completions_have_one_text() {
        let request = ChatRequest {
            api: Api::Completions,
            ..ChatRequest::new("m", vec![Message::system("be brief"), Message::user("hi")])
        };
        let body: serde_json::Value = serde_json::from_slice(&encode(&request, ServerKind::OpenAi)).unwrap();
        assert_eq!((&body["prompt"], body.get("messages")), (&serde_json::json!("be brief\n\nhi"), None));
        let json =
            br#"{"choices":[{"text":" there","finish_reason":"stop"}],"usage":{"completion_tokens":1}}"#;
        assert_eq!(decode(json, 1, "e").unwrap().text, " there");
        assert!(decode(br#"{"choices":[{}]}"#, 1, "e").unwrap_err().contains("neither"));
    }

    #[test]
    fn extra_fields_go_into_the_body() {
        let fields = |json: serde_json::Value| json.as_object().unwrap().clone();
        let extra = fields(
            serde_json::json!({"presence_penalty": 0.1, "stop": null, "chat_template_kwargs": {"enable_thinking": false}}),
        );
        check_extra(&extra).unwrap();
        let request = ChatRequest { extra, ..ChatRequest::new("m", vec![Message::user("hi")]) };
        let body: serde_json::Value = serde_json::from_slice(&encode(&request, ServerKind::Vllm)).unwrap();
        assert_eq!(
            (&body["presence_penalty"], body.get("stop"), &body["top_k"]),
            (&0.1.into(), None, &50.into())
        );
        assert_eq!(body["chat_template_kwargs"]["enable_thinking"], false);
        for wrong in [serde_json::json!({"stream": true}), serde_json::json!({"max_tokens": 5})] {
            assert!(matches!(check_extra(&fields(wrong)), Err(ClientError::BadExtra { .. })));
        }
        check_extra(&fields(serde_json::json!({"max_tokens": null, "max_completion_tokens": 5}))).unwrap();
    }

    #[test]
    fn an_answer_is_read() {
        let json = r#"{"model":"m2","choices":[{"message":{"role":"assistant","content":" Héllo"},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
        let answer = decode(json.as_bytes(), 100, "http://h/v1").unwrap();
        assert_eq!((answer.text.as_str(), &answer.finish_reason), (" Héllo", &FinishReason::Length));
        assert_eq!((answer.prompt_tokens, answer.completion_tokens, answer.model.as_str()), (3, 2, "m2"));
    }

    #[test]
    fn missing_parts_are_filled_or_named() {
        let bare = decode(br#"{"choices":[{"message":{"content":null}}]}"#, 100, "e").unwrap();
        assert_eq!((bare.text.as_str(), bare.finish_reason.as_str(), bare.completion_tokens), ("", "", 0));
        assert_eq!(bare.prompt_tokens, 25);
        let odd = br#"{"choices":[{"text":"four"}],"usage":{"prompt_tokens":1e30,"completion_tokens":-5}}"#;
        let odd = decode(odd, 100, "e").unwrap();
        assert_eq!((odd.prompt_tokens, odd.completion_tokens), (25, 1));
        assert!(decode(br#"{"choices":[{"text":"four"}],"usage":"many"}"#, 1, "e").is_ok());
        assert_eq!(decode(br#"{"error":"busy"}"#, 1, "e").unwrap_err(), "no choices in it");
        assert!(decode(b"<html>", 1, "e").unwrap_err().contains("line 1"), "the place is named");
    }

    #[test]
    fn words_of_an_error_are_found_and_cut() {
        assert_eq!(said(br#"{"error":{"message":"no such\nmodel"}}"#), r#""no such\nmodel""#);
        assert_eq!(said(br#"{"detail":"busy"}"#), r#""busy""#);
        assert_eq!(said(b""), "no word");
        assert!(said("ü".repeat(500).as_bytes()).len() < 300);
    }
}
