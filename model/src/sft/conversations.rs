//! Rows of instruction data sets as examples.

use crate::chat::{ChatError, ChatFormat};
use crate::columns::{ColumnError, Conversations, is_messages, texts};
use crate::examples::{ExampleError, ExampleWriter};
use crate::infer::{Message, Role};
use crate::tokenizer::Encoder;
use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Which columns hold the conversations. Left out, they are found by their names: a list of messages
/// (`messages`, or the only such column), or a question and its answer (`question` and `answer` as in
/// TIGER-Lab/WebInstructSub, `instruction` and `response` as in bigcode/self-oss-instruct-sc2-exec-filter-50k,
/// `prompt` and `completion`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConversationColumns {
    /// A column of message lists (`role`, `content`).
    pub messages: Option<String>,
    /// A column of questions; goes with `answer`.
    pub question: Option<String>,
    /// A column of answers.
    pub answer: Option<String>,
}

/// Names of a question's and its answer's column that are known.
const PAIRS: [(&str, &str); 3] =
    [("question", "answer"), ("instruction", "response"), ("prompt", "completion")];

/// Why conversations could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// No column holds conversations.
    #[error(
        "no column holds conversations: there is neither a list of messages nor a pair such as question and answer; the columns are {have}"
    )]
    Columns {
        /// Those of the batch.
        have: String,
    },
    /// A column cannot be read.
    #[error(transparent)]
    Column(#[from] ColumnError),
    /// A conversation could not become tokens.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The examples could not be written.
    #[error(transparent)]
    Example(#[from] ExampleError),
}

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConversationSummary {
    /// Rows read.
    pub rows: u64,
    /// Examples written.
    pub examples: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Tokens of the assistant among them.
    pub trained_tokens: u64,
    /// Examples that were cut to the longest length.
    pub truncated: u64,
    /// Rows left out, by reason: `empty`, `unknown_role`, `no_answer` (nothing of the assistant is left).
    pub skipped: BTreeMap<String, u64>,
}

/// Encodes conversations batch by batch into a folder of [examples](crate::examples).
#[derive(Debug)]
pub struct ConversationWriter {
    chat: ChatFormat,
    columns: ConversationColumns,
    length_tokens: usize,
    examples: ExampleWriter,
    summary: ConversationSummary,
}

impl ConversationWriter {
    /// Starts the examples in `folder`, each of at most `length_tokens` tokens and its last target.
    ///
    /// # Errors
    /// [`ConversationError`] if a file cannot be created.
    pub fn create(
        folder: &Path,
        encoder: &Encoder,
        chat: ChatFormat,
        columns: ConversationColumns,
        length_tokens: usize,
    ) -> Result<Self, ConversationError> {
        let examples = ExampleWriter::create(folder, encoder.vocab_size(), encoder.digest())?;
        Ok(Self { chat, columns, length_tokens, examples, summary: ConversationSummary::default() })
    }

    /// Adds the conversations of a batch.
    ///
    /// # Errors
    /// [`ConversationError`] if the columns do not hold conversations or a file cannot be written.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), ConversationError> {
        let reader = Reader::of(batch, &self.columns)?;
        for row in 0..batch.num_rows() {
            self.summary.rows += 1;
            match self.example(reader.at(row)?)? {
                None => self.summary.examples += 1,
                Some(reason) => *self.summary.skipped.entry(reason.to_owned()).or_default() += 1,
            }
        }
        Ok(())
    }

    /// Writes one conversation; the reason where it is left out.
    fn example(
        &mut self,
        messages: Result<Vec<Message>, &'static str>,
    ) -> Result<Option<&'static str>, ConversationError> {
        let messages = match messages {
            Ok(messages) => messages,
            Err(reason) => return Ok(Some(reason)),
        };
        let blank = |role| messages.iter().all(|m| m.role != role || m.content.trim().is_empty());
        if blank(Role::User) || blank(Role::Assistant) {
            return Ok(Some("empty"));
        }
        let mut example = self.chat.encode(&messages)?;
        let long = example.tokens.len() > self.length_tokens + 1;
        example.truncate(self.length_tokens + 1);
        if example.trained_tokens() == 0 {
            return Ok(Some("no_answer"));
        }
        self.summary.truncated += u64::from(long);
        self.summary.tokens += example.tokens.len() as u64;
        self.summary.trained_tokens += example.trained_tokens() as u64;
        self.examples.push(&example)?;
        Ok(None)
    }

    /// Makes the examples appear.
    ///
    /// # Errors
    /// Any I/O failure.
    pub fn finish(self) -> Result<ConversationSummary, ConversationError> {
        self.examples.finish()?;
        Ok(self.summary)
    }
}

/// The conversations of one batch.
enum Reader<'a> {
    Messages(Conversations<'a>),
    Pairs(crate::columns::Texts<'a>, crate::columns::Texts<'a>),
}

impl<'a> Reader<'a> {
    fn of(batch: &'a RecordBatch, columns: &ConversationColumns) -> Result<Self, ConversationError> {
        if let Some(name) = &columns.messages {
            return Ok(Self::Messages(Conversations::of(batch, name)?));
        }
        if columns.question.is_some() || columns.answer.is_some() {
            let question = columns.question.as_deref().unwrap_or("question");
            let answer = columns.answer.as_deref().unwrap_or("answer");
            return Ok(Self::Pairs(texts(batch, question)?, texts(batch, answer)?));
        }
        let schema = batch.schema();
        let names = || schema.fields().iter().map(|field| field.name().as_str());
        let lists: Vec<&str> = schema
            .fields()
            .iter()
            .filter(|field| is_messages(field.data_type()))
            .map(|field| field.name().as_str())
            .collect();
        if let Some(name) = lists.iter().find(|name| **name == "messages" || lists.len() == 1) {
            return Ok(Self::Messages(Conversations::of(batch, name)?));
        }
        let pair = PAIRS.iter().find(|pair| [pair.0, pair.1].iter().all(|name| names().any(|n| n == *name)));
        match pair {
            Some((question, answer)) => Ok(Self::Pairs(texts(batch, question)?, texts(batch, answer)?)),
            None => Err(ConversationError::Columns { have: names().collect::<Vec<_>>().join(", ") }),
        }
    }

    fn at(&self, row: usize) -> Result<Result<Vec<Message>, &'static str>, ConversationError> {
        match self {
            Self::Messages(conversations) => Ok(conversations.at(row)?),
            Self::Pairs(questions, answers) => {
                let (Some(question), Some(answer)) = (questions.at(row), answers.at(row)) else {
                    return Ok(Err("empty"));
                };
                let message = |role, content: &str| Message { role, content: content.to_owned() };
                Ok(Ok(vec![message(Role::User, question), message(Role::Assistant, answer)]))
            }
        }
    }
}
