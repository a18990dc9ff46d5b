//! Rows of preference data sets as pairs of examples.

use crate::chat::{ChatError, ChatFormat};
use crate::columns::{ColumnError, Conversations, Texts, is_messages, numbers, texts};
use crate::examples::{Example, ExampleError, ExampleWriter};
use crate::infer::{Message, Role};
use crate::tokenizer::Encoder;
use arrow::array::{Array, Float64Array, RecordBatch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Which columns hold the preferences. Left out, they are found by their names: `chosen` and `rejected`, as
/// message lists (argilla/dpo-mix-7k) or as answers to `prompt`; or `prompt`, `response` and a rating (nvidia/
/// HelpSteer), where rows with one prompt must follow each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceColumns {
    /// The question, where `chosen` and `rejected` are plain texts, or answers are rated.
    pub prompt: String,
    /// The better answer.
    pub chosen: String,
    /// The worse answer.
    pub rejected: String,
    /// A rated answer.
    pub response: String,
    /// Its rating: the highest of a prompt is paired with every lower one; equal ones make no pair.
    pub rating: String,
}

impl Default for PreferenceColumns {
    fn default() -> Self {
        Self {
            prompt: "prompt".to_owned(),
            chosen: "chosen".to_owned(),
            rejected: "rejected".to_owned(),
            response: "response".to_owned(),
            rating: "helpfulness".to_owned(),
        }
    }
}

/// Why preferences could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum PreferenceError {
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
pub struct PreferenceSummary {
    /// Rows read.
    pub rows: u64,
    /// Pairs written.
    pub pairs: u64,
    /// Tokens of both answers with their prompts.
    pub tokens: u64,
    /// Pairs of which something was cut.
    pub truncated: u64,
    /// Pairs left out, by reason: `empty`, `unknown_role`, `equal` (both answers are one), `prompts_differ`,
    /// `no_answer` (nothing of an answer is left); and rated prompts without a pair: `tie`.
    pub skipped: BTreeMap<String, u64>,
}

/// Encodes preferences batch by batch into a folder of [examples](crate::examples): the better answer of pair
/// `i` is example `2 i`, the worse one `2 i + 1`.
#[derive(Debug)]
pub struct PreferenceWriter {
    chat: ChatFormat,
    columns: PreferenceColumns,
    length_tokens: usize,
    prompt_tokens: usize,
    examples: ExampleWriter,
    summary: PreferenceSummary,
    /// The rated answers to the prompt that is being read.
    rated: Option<Rated>,
}

#[derive(Debug)]
struct Rated {
    prompt: String,
    answers: Vec<(f64, String)>,
}

impl PreferenceWriter {
    /// Starts the pairs in `folder`. Each prompt has at most `prompt_tokens` tokens (longer ones lose their
    /// beginning), and with its answer at most `length_tokens`.
    ///
    /// # Errors
    /// [`PreferenceError`] if a file cannot be created.
    pub fn create(
        folder: &Path,
        encoder: &Encoder,
        chat: ChatFormat,
        columns: PreferenceColumns,
        length_tokens: usize,
        prompt_tokens: usize,
    ) -> Result<Self, PreferenceError> {
        let examples = ExampleWriter::create(folder, encoder.vocab_size(), encoder.digest())?;
        let summary = PreferenceSummary::default();
        Ok(Self { chat, columns, length_tokens, prompt_tokens, examples, summary, rated: None })
    }

    /// Adds the preferences of a batch.
    ///
    /// # Errors
    /// [`PreferenceError`] if the columns do not hold preferences or a file cannot be written.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), PreferenceError> {
        let columns = self.columns.clone();
        let schema = batch.schema();
        let field = |name: &str| schema.field_with_name(name).ok();
        let chosen = field(&columns.chosen);
        if chosen.is_some_and(|field| is_messages(field.data_type())) {
            let chosen = Conversations::of(batch, &columns.chosen)?;
            let rejected = Conversations::of(batch, &columns.rejected)?;
            for row in 0..batch.num_rows() {
                self.summary.rows += 1;
                let (chosen, rejected) = (chosen.at(row)?, rejected.at(row)?);
                self.pair(chosen.and_then(|chosen| Ok((chosen, rejected?))))?;
            }
            return Ok(());
        }
        let prompts = texts(batch, &columns.prompt)?;
        if chosen.is_some() || field(&columns.response).is_none() {
            let (chosen, rejected) = (texts(batch, &columns.chosen)?, texts(batch, &columns.rejected)?);
            for row in 0..batch.num_rows() {
                self.summary.rows += 1;
                let rows = prompts.at(row).zip(chosen.at(row)).zip(rejected.at(row));
                self.pair(rows.map(|((p, c), r)| (turns(p, c), turns(p, r))).ok_or("empty"))?;
            }
            return Ok(());
        }
        let (answers, ratings) = (texts(batch, &columns.response)?, numbers(batch, &columns.rating)?);
        for row in 0..batch.num_rows() {
            self.summary.rows += 1;
            self.rated_row(&prompts, &answers, &ratings, row)?;
        }
        Ok(())
    }

    /// Makes the pairs appear.
    ///
    /// # Errors
    /// As [`PreferenceWriter::push`].
    pub fn finish(mut self) -> Result<PreferenceSummary, PreferenceError> {
        self.end_prompt()?;
        self.examples.finish()?;
        Ok(self.summary)
    }

    fn rated_row(
        &mut self,
        prompts: &Texts<'_>,
        answers: &Texts<'_>,
        ratings: &Float64Array,
        row: usize,
    ) -> Result<(), PreferenceError> {
        let rating = ratings.is_valid(row).then(|| ratings.value(row)).filter(|rating| rating.is_finite());
        let (Some(prompt), Some(answer), Some(rating)) = (prompts.at(row), answers.at(row), rating) else {
            self.skip("empty");
            return Ok(());
        };
        if self.rated.as_ref().is_some_and(|rated| rated.prompt != prompt) {
            self.end_prompt()?;
        }
        let rated =
            self.rated.get_or_insert_with(|| Rated { prompt: prompt.to_owned(), answers: Vec::new() });
        rated.answers.push((rating, answer.to_owned()));
        Ok(())
    }

    /// Pairs the best answer to the prompt that has been read with every one that is rated lower. Of several
    /// best ones it is the first.
    fn end_prompt(&mut self) -> Result<(), PreferenceError> {
        let Some(Rated { prompt, answers }) = self.rated.take() else { return Ok(()) };
        let highest = answers.iter().map(|(rating, _)| *rating).fold(f64::NEG_INFINITY, f64::max);
        let Some((_, best)) = answers.iter().find(|(rating, _)| *rating == highest) else { return Ok(()) };
        let mut lower = answers.iter().filter(|(rating, _)| *rating < highest).peekable();
        if lower.peek().is_none() {
            self.skip("tie");
        }
        for (_, worse) in lower {
            self.pair(Ok((turns(&prompt, best), turns(&prompt, worse))))?;
        }
        Ok(())
    }

    fn skip(&mut self, reason: &str) {
        *self.summary.skipped.entry(reason.to_owned()).or_default() += 1;
    }

    fn pair(
        &mut self,
        pair: Result<(Vec<Message>, Vec<Message>), &'static str>,
    ) -> Result<(), PreferenceError> {
        match pair.map(|(chosen, rejected)| self.encode(&chosen, &rejected)) {
            Ok(encoded) => match encoded? {
                Ok(cut) => {
                    self.summary.pairs += 1;
                    self.summary.truncated += u64::from(cut);
                }
                Err(reason) => self.skip(reason),
            },
            Err(reason) => self.skip(reason),
        }
        Ok(())
    }

    /// Writes a pair; whether something was cut, or the reason why it is left out.
    fn encode(
        &mut self,
        chosen: &[Message],
        rejected: &[Message],
    ) -> Result<Result<bool, &'static str>, PreferenceError> {
        let spoken = |messages: &[Message]| {
            messages.len() > 1
                && messages
                    .last()
                    .is_some_and(|last| last.role == Role::Assistant && !last.content.trim().is_empty())
        };
        if !spoken(chosen) || !spoken(rejected) {
            return Ok(Err("empty"));
        }
        if chosen == rejected {
            return Ok(Err("equal"));
        }
        if chosen[..chosen.len() - 1] != rejected[..rejected.len() - 1] {
            return Ok(Err("prompts_differ"));
        }
        let mut cut = false;
        let mut examples = [self.chat.encode(chosen)?, self.chat.encode(rejected)?];
        for example in &mut examples {
            cut |= self.fit(example);
        }
        // Two answers that begin alike may be one after the cut.
        if examples[0] == examples[1] {
            return Ok(Err("equal"));
        }
        if examples.iter().any(|example| example.trained_tokens() == 0) {
            return Ok(Err("no_answer"));
        }
        for example in &examples {
            self.summary.tokens += example.tokens.len() as u64;
            self.examples.push(example)?;
        }
        Ok(Ok(cut))
    }

    /// Leaves the last turn as what is trained on and cuts the example to its lengths; whether it was cut.
    fn fit(&self, example: &mut Example) -> bool {
        let last = example.trained.pop();
        example.trained.clear();
        let prompt = last.as_ref().map_or(example.tokens.len(), |span| span.start);
        example.trained.extend(last);
        let whole = example.tokens.len();
        example.cut_front(prompt.saturating_sub(self.prompt_tokens));
        example.truncate(self.length_tokens);
        example.tokens.len() < whole
    }
}

/// A question and its answer.
fn turns(prompt: &str, answer: &str) -> Vec<Message> {
    let message = |role, content: &str| Message { role, content: content.to_owned() };
    vec![message(Role::User, prompt), message(Role::Assistant, answer)]
}
