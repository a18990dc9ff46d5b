//! The bodies of requests. Fields that this server does not know are passed over, as OpenAI's own clients
//! send some; those that would change the answer and cannot be honoured are refused by name.

use model::infer::{GenerateRequest, Message, Prompt, Role, SamplingOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::answer::Kind;
use super::error::ApiError;

/// Tokens of a completion when the client names no number (OpenAI's API reference, `max_tokens` of
/// completions); a chat answer may fill the context.
const COMPLETION_TOKENS: usize = 16;

/// A request that can be given to the engine.
#[derive(Debug)]
pub(super) struct Asked {
    /// What is asked.
    pub request: GenerateRequest,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with the count of tokens.
    pub include_usage: bool,
}

/// Reads a body. `seed` counts when the client names none.
///
/// Sampling is OpenAI's where the client says nothing: temperature 1 and no cut.
pub(super) fn read(kind: Kind, body: &[u8], model_name: &str, seed: u64) -> Result<Asked, ApiError> {
    let body = serde_json::from_slice::<Value>(body)
        .map_err(|error| ApiError::body(format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = body else {
        return Err(ApiError::body("the body is not a JSON object"));
    };
    let mut fields = Fields(fields);
    let asked: String = fields.required("model")?;
    if asked != model_name {
        return Err(ApiError::model(&asked, model_name));
    }
    fields.refuse_unsupported(kind)?;
    let prompt = match kind {
        Kind::Chat => Prompt::Messages(messages(fields.required("messages")?)?),
        Kind::Completion => prompt(fields.required("prompt")?)?,
    };
    let request = GenerateRequest {
        max_new_tokens: fields.max_tokens(kind)?,
        sampling: fields.sampling()?,
        stop: fields.stop()?,
        seed: fields.seed()?.unwrap_or(seed),
        ..GenerateRequest::new(prompt)
    };
    let stream = fields.take("stream")?.unwrap_or(false);
    let options: Option<StreamOptions> = fields.take("stream_options")?;
    Ok(Asked { request, stream, include_usage: options.unwrap_or_default().include_usage })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
}

/// A body's fields; null counts as absent.
struct Fields(Map<String, Value>);

impl Fields {
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| ApiError::field(name, format!("cannot be read: {error}"))),
        }
    }

    fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| ApiError::field(name, "is missing"))
    }

    /// The first of several names of one field.
    fn first_of<T: DeserializeOwned>(&mut self, names: &[&str]) -> Result<Option<T>, ApiError> {
        let mut found = None;
        for name in names {
            let value = self.take(name)?;
            found = found.or(value);
        }
        Ok(found)
    }

    fn refuse_unsupported(&self, kind: Kind) -> Result<(), ApiError> {
        let one = |value: &Value| value.as_u64() == Some(1);
        let zero = |value: &Value| value.as_f64() == Some(0.0);
        let no = |value: &Value| value == &Value::Bool(false);
        let empty = |value: &Value| {
            value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
        };
        let plain = |value: &Value| value.get("type").and_then(Value::as_str) == Some("text");
        type Allowed<'a> = &'a dyn Fn(&Value) -> bool;
        let limits: [(&str, Allowed<'_>, &str); 10] = [
            ("n", &one, "only one answer a request is given"),
            ("best_of", &one, "only one answer a request is given"),
            ("presence_penalty", &zero, "use `repetition_penalty`"),
            ("frequency_penalty", &zero, "use `repetition_penalty`"),
            ("logit_bias", &empty, "leave it out"),
            ("tools", &empty, "leave it out"),
            ("response_format", &plain, "only `{\"type\": \"text\"}` is"),
            ("echo", &no, "leave it out"),
            ("suffix", &|value| value.as_str() == Some(""), "leave it out"),
            ("logprobs", &|value| kind == Kind::Chat && no(value), "leave it out"),
        ];
        for (name, allowed, instead) in limits {
            if self.0.get(name).is_some_and(|value| !value.is_null() && !allowed(value)) {
                return Err(ApiError::unsupported(name, instead));
            }
        }
        Ok(())
    }

    fn max_tokens(&mut self, kind: Kind) -> Result<usize, ApiError> {
        let default = match kind {
            Kind::Chat => usize::MAX,
            Kind::Completion => COMPLETION_TOKENS,
        };
        Ok(self.first_of(&["max_completion_tokens", "max_tokens"])?.unwrap_or(default))
    }

    fn sampling(&mut self) -> Result<SamplingOptions, ApiError> {
        let sampling = SamplingOptions {
            temperature: self.take("temperature")?.unwrap_or(1.0),
            top_p: self.take("top_p")?.unwrap_or(1.0),
            // vLLM's clients write −1 for "all", others 0.
            top_k: match self.take::<i64>("top_k")?.unwrap_or(0) {
                0 | -1 => u32::MAX,
                top_k => u32::try_from(top_k).map_err(|_| {
                    ApiError::field("top_k", format!("is {top_k}, but must be -1, 0 or more"))
                })?,
            },
            min_p: self.take("min_p")?.unwrap_or(0.0),
            // llama-server's name for it comes second.
            repetition_penalty: self.first_of(&["repetition_penalty", "repeat_penalty"])?.unwrap_or(1.0),
        };
        sampling.check()?;
        Ok(sampling)
    }

    fn stop(&mut self) -> Result<Vec<String>, ApiError> {
        Ok(self.take::<OneOrMany>("stop")?.map_or_else(Vec::new, OneOrMany::into_vec))
    }

    /// Any whole number; negative ones are as good as others.
    fn seed(&mut self) -> Result<Option<u64>, ApiError> {
        match self.0.remove("seed") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)) {
                Some(seed) => Ok(Some(seed)),
                None => Err(ApiError::field("seed", "is not a whole number of 64 bits")),
            },
        }
    }
}

/// `stop`, and the text of a message: one string or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// `prompt` of a completion.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of token ids")]
enum PromptField {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
}

fn prompt(field: PromptField) -> Result<Prompt, ApiError> {
    match field {
        PromptField::Text(text) => Ok(Prompt::Text(text)),
        PromptField::Tokens(tokens) => Ok(Prompt::Tokens(tokens)),
        PromptField::Texts(texts) => match <[String; 1]>::try_from(texts) {
            Ok([text]) => Ok(Prompt::Text(text)),
            Err(texts) => {
                Err(ApiError::field("prompt", format!("has {} texts; send them one by one", texts.len())))
            }
        },
    }
}

#[derive(Deserialize)]
struct MessageField {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of parts `{\"type\": \"text\", \"text\": …}`")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
}

fn messages(fields: Vec<MessageField>) -> Result<Vec<Message>, ApiError> {
    if fields.is_empty() {
        return Err(ApiError::field("messages", "is empty"));
    }
    let message = |(index, field): (usize, MessageField)| {
        let role = match field.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let name = format!("messages[{index}].role");
                return Err(ApiError::field(
                    &name,
                    format!("is `{other}`, but must be system, user or assistant"),
                ));
            }
        };
        let content = match field.content {
            Content::Text(text) => text,
            Content::Parts(parts) => parts.into_iter().map(|Part::Text { text }| text).collect(),
        };
        Ok(Message { role, content })
    };
    fields.into_iter().enumerate().map(message).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(more: Value) -> Result<Asked, ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let (Some(body_fields), Some(more)) = (body.as_object_mut(), more.as_object()) else {
            unreachable!()
        };
        body_fields.extend(more.clone());
        read(Kind::Chat, body.to_string().as_bytes(), "m", 7)
    }

    /// The field that an error names.
    fn blamed(result: Result<Asked, ApiError>) -> String {
        let error = result.unwrap_err().to_json();
        error["error"]["param"].as_str().unwrap_or("none").to_owned()
    }

    #[test]
    fn a_plain_request_gets_the_defaults_of_openai() {
        let asked = chat(json!({"user": "someone", "stop": null})).unwrap();
        let sampling = &asked.request.sampling;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (1.0, 1.0, u32::MAX));
        assert_eq!((sampling.min_p, sampling.repetition_penalty), (0.0, 1.0));
        assert_eq!((asked.request.seed, asked.stream, asked.include_usage), (7, false, false));
        assert!(asked.request.stop.is_empty());
    }

    #[test]
    fn every_field_arrives() {
        let asked = chat(json!({
            "messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
            "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repeat_penalty": 1.3, "stop": "x",
            "seed": -1, "max_tokens": 9, "stream": true, "stream_options": {"include_usage": true}, "n": 1,
        }));
        let asked = asked.unwrap();
        let expected =
            SamplingOptions { temperature: 0.5, top_p: 0.9, top_k: 40, min_p: 0.1, repetition_penalty: 1.3 };
        assert_eq!(asked.request.sampling, expected);
        assert_eq!((asked.request.seed, asked.request.max_new_tokens), (u64::MAX, 9));
        assert_eq!(asked.request.stop, ["x"]);
        assert!(asked.stream && asked.include_usage);
        let Prompt::Messages(messages) = asked.request.prompt else { panic!("no messages") };
        let turns: Vec<_> = messages.iter().map(|m| (m.role, m.content.as_str())).collect();
        assert_eq!(turns, [(Role::System, "ab"), (Role::User, "c"), (Role::Assistant, "d")]);
        let newer = chat(json!({"max_completion_tokens": 3, "max_tokens": 9, "top_k": -1})).unwrap();
        assert_eq!((newer.request.max_new_tokens, newer.request.sampling.top_k), (3, u32::MAX));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, field) in [
            (json!({"model": "other"}), "model"),
            (json!({"model": null}), "model"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"temperature": -1}), "temperature"),
            (json!({"top_p": 2}), "top_p"),
            (json!({"top_k": -5}), "top_k"),
            (json!({"min_p": 3}), "min_p"),
            (json!({"max_tokens": -1}), "max_tokens"),
            (json!({"stop": 1}), "stop"),
            (json!({"seed": 1.5}), "seed"),
            (json!({"n": 2}), "n"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"tools": [{}]}), "tools"),
            (json!({"frequency_penalty": 0.5}), "frequency_penalty"),
            (json!({"stream": "yes"}), "stream"),
        ] {
            assert_eq!(blamed(chat(more.clone())), field, "{more}");
        }
        assert_eq!(blamed(read(Kind::Chat, b"{", "m", 0)), "none");
        assert_eq!(blamed(read(Kind::Chat, b"[]", "m", 0)), "none");
    }

    #[test]
    fn completions_take_text_or_tokens() {
        let ask = |prompt: Value| {
            read(Kind::Completion, json!({"model": "m", "prompt": prompt}).to_string().as_bytes(), "m", 0)
        };
        let prompt = |value| ask(value).unwrap().request;
        assert_eq!(prompt(json!("a")).prompt, Prompt::Text("a".into()));
        assert_eq!(prompt(json!(["a"])).prompt, Prompt::Text("a".into()));
        assert_eq!(prompt(json!([1, 2])).prompt, Prompt::Tokens(vec![1, 2]));
        assert_eq!(prompt(json!("a")).max_new_tokens, 16);
        assert_eq!(blamed(ask(json!(["a", "b"]))), "prompt");
        assert_eq!(blamed(ask(json!(null))), "prompt");
    }
}
