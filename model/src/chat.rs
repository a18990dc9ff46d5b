//! Conversations as tokens: the chat template filled in, and which tokens the assistant speaks.

use crate::examples::Example;
use crate::files::{FileError, failed};
use crate::infer::{Message, Role};
use crate::tokenizer::{Encoder, TokenizerError};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use regex::Regex;
use std::path::PathBuf;

/// ChatML, which SmolLM-Instruct was trained with.
///
/// Source: huggingface/alignment-handbook `recipes/smollm/sft/config.yaml`.
pub const CHAT_ML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// File of a tokenizer folder that may hold a template.
const CONFIG_FILE: &str = "tokenizer_config.json";
const NAME: &str = "chat_template";
/// Put inside a marker that stands in a message, so that it is no marker: a character that no text may
/// exchange (Unicode, "noncharacters"), and that is taken out again before the text is encoded.
const GUARD: char = '\u{FDD0}';

/// Why a conversation could not become tokens.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// `tokenizer_config.json` is malformed.
    #[error("tokenizer configuration {}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The template cannot be used.
    #[error("chat template of {origin}: {source}; correct it, or leave it out to use ChatML")]
    Template {
        /// Where it comes from.
        origin: String,
        /// What the template engine says.
        #[source]
        source: Error,
    },
    /// The template does not write a conversation turn by turn, so that no turn has a place in it.
    #[error(
        "the chat template does not write message {message} after the ones before it; with such a template the assistant's tokens cannot be told from the others"
    )]
    Turns {
        /// Index of the message.
        message: usize,
    },
    /// A text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A chat template with the tokenizer that its text is encoded with.
pub struct ChatFormat {
    environment: Environment<'static>,
    origin: String,
    encoder: Encoder,
    /// Matches any special token, the longest first.
    markers: Option<Regex>,
    begin: String,
    end: String,
}

impl std::fmt::Debug for ChatFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatFormat").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl ChatFormat {
    /// The format of the tokenizer `encoder`: the `chat_template` of the `tokenizer_config.json` beside it, or
    /// [`CHAT_ML`] where there is none.
    ///
    /// # Errors
    /// [`ChatError`] if the configuration or its template is malformed.
    pub fn load(encoder: &Encoder) -> Result<Self, ChatError> {
        let path = encoder.folder().join(CONFIG_FILE);
        let config = match path.exists() {
            true => {
                let bytes = std::fs::read(&path).map_err(failed("read", &path))?;
                serde_json::from_slice(&bytes)
                    .map_err(|error| ChatError::Config { path: path.clone(), problem: error.to_string() })?
            }
            false => serde_json::Value::Null,
        };
        match template_of(&config) {
            Some(template) => Self::new(encoder, template, &path.display().to_string(), &config),
            None => Self::new(encoder, CHAT_ML, "ChatML", &config),
        }
    }

    /// The format given by a Jinja template.
    ///
    /// # Errors
    /// [`ChatError::Template`] if it is malformed.
    pub fn from_template(encoder: &Encoder, template: &str) -> Result<Self, ChatError> {
        Self::new(encoder, template, "the options", &serde_json::Value::Null)
    }

    fn new(
        encoder: &Encoder,
        template: &str,
        origin: &str,
        config: &serde_json::Value,
    ) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        // As huggingface/transformers `src/transformers/utils/chat_template_utils.py` sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment
            .set_syntax(syntax.map_err(|source| ChatError::Template { origin: origin.to_owned(), source })?);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.set_unknown_method_callback(|_, value, method, args| string_method(value, method, args));
        environment
            .add_template_owned(NAME, template.to_owned())
            .map_err(|source| ChatError::Template { origin: origin.to_owned(), source })?;
        let mut special = encoder.special_tokens();
        special.sort_by_key(|token| std::cmp::Reverse(token.len()));
        let pattern: Vec<String> = special.iter().map(|token| regex::escape(token)).collect();
        let markers = match pattern.is_empty() {
            true => None,
            false => Some(Regex::new(&pattern.join("|")).map_err(|error| ChatError::Config {
                path: encoder.folder().to_path_buf(),
                problem: error.to_string(),
            })?),
        };
        let token = |name: &str| {
            let value = config.get(name);
            let text = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
            text.unwrap_or_default().to_owned()
        };
        Ok(Self {
            environment,
            origin: origin.to_owned(),
            encoder: encoder.clone(),
            markers,
            begin: token("bos_token"),
            end: token("eos_token"),
        })
    }

    /// Where the template comes from: a file, or `ChatML`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// A conversation's tokens, in which those that the assistant speaks, its end marker included, are
    /// trained on. Nothing stands after the last of them.
    ///
    /// Markers such as `<|im_end|>` inside a message are plain text. Texts on either side of a turn's border
    /// are encoded apart, as they are when a model answers.
    ///
    /// # Errors
    /// [`ChatError`] if the template refuses the conversation or does not write it turn by turn.
    pub fn encode(&self, messages: &[Message]) -> Result<Example, ChatError> {
        let shown: Vec<Shown> = messages.iter().map(|message| self.show(message)).collect();
        let whole = self.render(&shown, false)?;
        let mut example = Example::default();
        let mut at = 0;
        for (index, message) in messages.iter().enumerate() {
            if message.role != Role::Assistant {
                continue;
            }
            let before = self.render(&shown[..index], true)?;
            let after = self.render(&shown[..=index], false)?;
            // The line break after the end marker belongs to the template.
            let (start, end) = (before.len(), after.trim_end().len().max(before.len()));
            let in_order = whole.starts_with(&before) && whole.starts_with(&after);
            let turn = whole.get(at..start).zip(whole.get(start..end)).filter(|_| in_order);
            let Some((context, answer)) = turn else {
                return Err(ChatError::Turns { message: index });
            };
            self.encode_into(context, &mut example.tokens)?;
            let first = example.tokens.len();
            self.encode_into(answer, &mut example.tokens)?;
            example.trained.push(first..example.tokens.len());
            at = end;
        }
        Ok(example)
    }

    /// The tokens of a conversation up to the point at which the assistant speaks.
    ///
    /// # Errors
    /// [`ChatError`] if the template refuses the conversation.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ChatError> {
        let shown: Vec<Shown> = messages.iter().map(|message| self.show(message)).collect();
        let mut tokens = Vec::new();
        self.encode_into(&self.render(&shown, true)?, &mut tokens)?;
        Ok(tokens)
    }

    fn show(&self, message: &Message) -> Shown {
        let content = message.content.replace(GUARD, "");
        let content = match &self.markers {
            None => content,
            Some(markers) => markers
                .replace_all(&content, |found: &regex::Captures<'_>| {
                    let mut letters = found[0].chars();
                    let first: String = letters.next().into_iter().collect();
                    format!("{first}{GUARD}{}", letters.as_str())
                })
                .into_owned(),
        };
        Shown { role: message.role.name(), content }
    }

    fn render(&self, messages: &[Shown], add_generation_prompt: bool) -> Result<String, ChatError> {
        let render = || {
            self.environment.get_template(NAME)?.render(context! {
                messages => Serde(messages), add_generation_prompt, bos_token => &self.begin, eos_token => &self.end,
            })
        };
        render().map_err(|source| ChatError::Template { origin: self.origin.clone(), source })
    }

    /// Encodes rendered text: its markers as special tokens, all else as plain text.
    fn encode_into(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), ChatError> {
        let plain = |text: &str, tokens: &mut Vec<u32>| -> Result<(), ChatError> {
            if !text.is_empty() {
                tokens.extend(self.encoder.encode(&text.replace(GUARD, ""))?);
            }
            Ok(())
        };
        let mut rest = 0;
        for found in self.markers.iter().flat_map(|markers| markers.find_iter(text)) {
            plain(&text[rest..found.start()], tokens)?;
            tokens.extend(self.encoder.encode_with_special_tokens(found.as_str())?);
            rest = found.end();
        }
        plain(&text[rest..], tokens)
    }
}

/// A message as the template sees it.
#[derive(serde::Serialize)]
struct Shown {
    role: &'static str,
    content: String,
}

/// The template in a `tokenizer_config.json`: one text, or the one named `default` of a list.
pub(crate) fn template_of(config: &serde_json::Value) -> Option<&str> {
    match config.get("chat_template")? {
        serde_json::Value::String(template) => Some(template),
        serde_json::Value::Array(list) => {
            list.iter().find(|entry| entry["name"] == "default")?["template"].as_str()
        }
        _ => None,
    }
}

/// The methods of Python's `str` that published templates call.
fn string_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    let text = value.as_str().ok_or_else(unknown)?;
    let argument = || args.first().and_then(Value::as_str).unwrap_or_default();
    Ok(match (method, args.len()) {
        ("strip", 0) => Value::from(text.trim()),
        ("lstrip", 0) => Value::from(text.trim_start()),
        ("rstrip", 0) => Value::from(text.trim_end()),
        ("upper", 0) => Value::from(text.to_uppercase()),
        ("lower", 0) => Value::from(text.to_lowercase()),
        ("startswith", 1) => Value::from(text.starts_with(argument())),
        ("endswith", 1) => Value::from(text.ends_with(argument())),
        ("split", 1) => text.split(argument()).map(Value::from).collect(),
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests;
