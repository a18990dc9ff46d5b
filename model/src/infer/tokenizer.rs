//! The tokenizer that a GGUF file carries, and the chat format.

use std::collections::BTreeMap;

use regex::Regex;
use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::gguf::{GgufFile, Value};
use crate::tokenizer::{character_of, pre_tokenizer};

use super::LoadModelError;

/// What SmolLM2-Instruct puts first when there is no system message
/// (HuggingFaceTB/SmolLM2-135M-Instruct, `tokenizer_config.json`, `chat_template`).
const SMOLLM_SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
const MESSAGE_START: &str = "<|im_start|>";
const MESSAGE_END: &str = "<|im_end|>";
const TEXT_END: &str = "<|endoftext|>";
/// `tokenizer.ggml.token_type` of tokens that stand for no text.
const CONTROL: u64 = 3;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sets the task.
    System,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

impl Role {
    /// The name in chat formats: `system`, `user` or `assistant`.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Markers such as `<|im_end|>` in it are plain text: a page cannot end its turn.
    pub content: String,
}

/// Byte-level BPE with every digit a token of its own (`tokenizer.ggml.pre` = `smollm`).
pub struct ChatTokenizer {
    tokenizer: Tokenizer,
    /// Text bytes of each token; empty for control tokens.
    bytes: Vec<Box<[u8]>>,
    control: BTreeMap<String, u32>,
    control_pattern: Option<Regex>,
    end_tokens: Vec<u32>,
    default_system: Option<&'static str>,
    has_chat_template: bool,
}

impl ChatTokenizer {
    /// Builds the tokenizer from the `tokenizer.ggml.*` metadata.
    pub fn from_gguf(file: &GgufFile, vocab_size: usize) -> Result<Self, LoadModelError> {
        let unusable = |problem: String| LoadModelError::Tokenizer { path: file.path().into(), problem };
        for (key, known) in [("model", "gpt2"), ("pre", "smollm")] {
            let found = file.require_str(&format!("tokenizer.ggml.{key}"))?;
            if found != known {
                let problem = format!("its {key} is `{found}`, and only `{known}` is known here");
                return Err(unusable(problem));
            }
        }
        let tokens = file.require_strings("tokenizer.ggml.tokens")?;
        if tokens.len() != vocab_size {
            let problem = format!("{} tokens, but {vocab_size} embeddings", tokens.len());
            return Err(unusable(problem));
        }
        let vocab: Vocab = (0u32..).zip(&tokens).map(|(id, token)| (token.to_string(), id)).collect();
        if vocab.len() != tokens.len() {
            return Err(unusable("a token stands twice".into()));
        }
        let merges = file.require_strings("tokenizer.ggml.merges")?.into_iter();
        let merges: Option<Vec<(String, String)>> =
            merges.map(|pair| pair.split_once(' ').map(|(a, b)| (a.into(), b.into()))).collect();
        let merges = merges.ok_or_else(|| unusable("a merge has no space".into()))?;
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let mut control = BTreeMap::new();
        if let Some(Value::Array(_, kinds)) = file.metadata().get("tokenizer.ggml.token_type") {
            for ((id, token), kind) in (0u32..).zip(&tokens).zip(kinds) {
                if kind.as_u64() == Some(CONTROL) && !token.is_empty() {
                    control.insert(token.to_string(), id);
                }
            }
        }
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer()));
        tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
        let added: Vec<AddedToken> = control.keys().map(|t| AddedToken::from(t.clone(), true)).collect();
        tokenizer.add_special_tokens(&added);
        // Control tokens in a text are plain text for `encode_plain`; `encode` finds them itself.
        tokenizer.set_encode_special_tokens(true);
        let letters: BTreeMap<char, u8> = (0..=255).map(|byte| (character_of(byte), byte)).collect();
        let bytes = tokens
            .iter()
            .map(|&token| match control.contains_key(token) {
                true => Box::default(),
                false => token_bytes(token, &letters),
            })
            .collect();
        let end = file.metadata().get("tokenizer.ggml.eos_token_id").and_then(Value::as_u64);
        let mut end_tokens: Vec<u32> = end
            .and_then(|id| u32::try_from(id).ok())
            .into_iter()
            .chain(control.get(TEXT_END).copied())
            .collect();
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let template = file.metadata().get("tokenizer.chat_template").and_then(Value::as_str);
        let default_system = template.filter(|t| t.contains(SMOLLM_SYSTEM)).map(|_| SMOLLM_SYSTEM);
        let control_pattern = control_pattern(&control).map_err(|error| unusable(error.to_string()))?;
        let has_chat_template = template.is_some();
        Ok(Self { tokenizer, bytes, control, control_pattern, end_tokens, default_system, has_chat_template })
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// Tokens that end an answer: the model's own and `<|endoftext|>`.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Whether the file says how conversations are written, as files of models that were trained to answer do.
    pub fn has_chat_template(&self) -> bool {
        self.has_chat_template
    }

    /// The id of a control token such as `<|im_end|>`.
    pub fn control_token(&self, token: &str) -> Option<u32> {
        self.control.get(token).copied()
    }

    /// Tokens of a text in which control tokens count as such. Nothing is added.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut rest = 0;
        for found in self.control_pattern.iter().flat_map(|pattern| pattern.find_iter(text)) {
            self.push_plain(&text[rest..found.start()], &mut tokens);
            tokens.extend(self.control_token(found.as_str()));
            rest = found.end();
        }
        self.push_plain(&text[rest..], &mut tokens);
        tokens
    }

    /// Tokens of a text in which control tokens are nothing but text.
    pub fn encode_plain(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        self.push_plain(text, &mut tokens);
        tokens
    }

    fn push_plain(&self, text: &str, tokens: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        // The pipeline has no step that fails on UTF-8 text (no normaliser, all 256 bytes or the
        // unknown token in the vocabulary), so an error can only mean "no tokens".
        match self.tokenizer.encode_fast(text, false) {
            Ok(encoding) => tokens.extend(encoding.get_ids()),
            Err(error) => tracing::error!(%error, "a text could not be tokenised"),
        }
    }

    /// Text bytes of a token; empty for control tokens and unknown ids. A character may be spread
    /// over several tokens.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], |bytes| bytes)
    }

    /// The text of tokens, without control tokens; bytes that are not UTF-8 become `U+FFFD`.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&t| self.token_bytes(t)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A conversation up to the point at which the assistant speaks:
    /// `<|im_start|>role\ncontent<|im_end|>\n` a message, then `<|im_start|>assistant\n`. None
    /// when the vocabulary has no such markers.
    pub fn encode_chat(&self, messages: &[Message]) -> Option<Vec<u32>> {
        let start = self.control_token(MESSAGE_START)?;
        let end = self.control_token(MESSAGE_END)?;
        let mut tokens = Vec::new();
        let mut turn = |role: Role, content: &str| {
            tokens.push(start);
            self.push_plain(&format!("{}\n{content}", role.name()), &mut tokens);
            tokens.push(end);
            self.push_plain("\n", &mut tokens);
        };
        if messages.first().is_none_or(|first| first.role != Role::System)
            && let Some(system) = self.default_system
        {
            turn(Role::System, system);
        }
        for message in messages {
            turn(message.role, &message.content);
        }
        tokens.push(start);
        self.push_plain("assistant\n", &mut tokens);
        Some(tokens)
    }

    /// A tokenizer of the `tokenizers` crate that recognises control tokens, as `tokenizer.json`
    /// would give it.
    pub fn to_tokenizers(&self) -> Tokenizer {
        let mut tokenizer = self.tokenizer.clone();
        tokenizer.set_encode_special_tokens(false);
        tokenizer
    }
}

/// Matches any control token, the longest first.
fn control_pattern(control: &BTreeMap<String, u32>) -> Result<Option<Regex>, regex::Error> {
    if control.is_empty() {
        return Ok(None);
    }
    let mut tokens: Vec<&String> = control.keys().collect();
    tokens.sort_by_key(|token| std::cmp::Reverse(token.len()));
    let escaped: Vec<String> = tokens.iter().map(|token| regex::escape(token)).collect();
    Regex::new(&escaped.join("|")).map(Some)
}

/// Letters that stand for no byte are kept as they are.
fn token_bytes(token: &str, letters: &BTreeMap<char, u8>) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(token.len());
    for letter in token.chars() {
        match letters.get(&letter) {
            Some(&byte) => bytes.push(byte),
            None => bytes.extend(letter.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes.into()
}
