//! `sentence_dedup`: takes runs of sentences, lines or words out that stood in an earlier row.
//!
//! As `exact_dedup` it reads its rows twice: the first pass sorts the digests of all runs on disk and
//! marks all but the first of each; the second takes the marked ones out of the texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use futures::{FutureExt, StreamExt};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use unicode_segmentation::UnicodeSegmentation;

use super::columns::{id_of, text_column};
use super::duplicates::rolling::RollingHash;
use super::duplicates::rows::{RowReader, RowWriter};
use super::duplicates::{self, DedupError, Key, Passes, SecondPass, away, id_column, key_of};
use super::minhash::normalise::simplify;
use super::{ConfigMistake, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::durable::WriteError;
use crate::engine::external_sort::{ExternalSorter, Sorted, Spill};
use crate::engine::streams::BatchStream;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::Ledger;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "sentence_dedup",
    summary: "Takes runs of sentences, lines or words out that stood in an earlier row.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "a table with a text and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<SentenceDedupConfig>,
    build: super::build_from::<SentenceDedupConfig>,
};

/// Takes out every run of `run` sentences that stood earlier, in this row or in one before: C4's rule
/// (T5 paper, section 2.2). Defaults are datatrove's (`pipeline/dedup/sentence_dedup.py`, release
/// 0.10.1). A row of which too little is left is dropped: reason `too_few_words` or
/// `too_few_sentences`. Sentences end where Unicode says (UAX #29), which is not always where
/// datatrove's spaCy tokenizer ends them; lines end at `\n` alone, there at every line break that Unicode knows.
/// With `unit = "words"` and `run = 50` it takes out exact substrings (Lee et al. 2022, "Deduplicating
/// training data makes language models better", whose runs have 50 tokens): every run of so many words,
/// wherever it begins, for 24 bytes of sorting a word.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SentenceDedupConfig {
    /// The column with the text.
    pub text_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// What runs are made of: `"sentences"`, `"lines"` or `"words"`.
    pub unit: Unit,
    /// Sentences, lines or words in a run.
    #[schemars(range(min = 1, max = 1000))]
    pub run: usize,
    /// A changed row with fewer words is dropped.
    pub min_words: usize,
    /// A changed row with fewer sentences, lines or words is dropped.
    pub min_sentences: usize,
    /// Memory of the sorts, in bytes; what it does not hold is spilled. A quarter of the run's memory limit
    /// when left out.
    pub memory_bytes: Option<u64>,
}

/// What runs are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Sentences.
    Sentences,
    /// Lines, as in C4 itself.
    Lines,
    /// Words.
    Words,
}

/// Runs of fewer words are phrases that anybody may write.
const LEAST_WORDS: usize = 8;

impl Default for SentenceDedupConfig {
    fn default() -> Self {
        Self {
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            unit: Unit::Sentences,
            run: 3,
            min_words: 50,
            min_sentences: 3,
            memory_bytes: None,
        }
    }
}

impl Unit {
    /// The pieces of a text; together they are the text.
    fn split(self, text: &str) -> Vec<&str> {
        match self {
            Self::Sentences => text.split_sentence_bounds().collect(),
            Self::Lines => text.split_inclusive('\n').collect(),
            Self::Words => words(text),
        }
    }
}

/// The words of a text, each with what stands between it and the next; the first with what stands
/// before it, too.
fn words(text: &str) -> Vec<&str> {
    let later = text.unicode_word_indices().skip(1).map(|(start, _)| start);
    let ends = later.chain((!text.is_empty()).then_some(text.len()));
    let words = ends.scan(0, |start, end| Some(&text[std::mem::replace(start, end)..end]));
    words.collect()
}

#[async_trait]
impl Stage for SentenceDedupConfig {
    fn config(&self) -> Json {
        duplicates::config_without_memory(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn validate(&self, _inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let (least, help) = match self.unit {
            Unit::Words => (LEAST_WORDS, "the published value is 50, in tokens"),
            Unit::Sentences | Unit::Lines => (1, "the published value is 3"),
        };
        if self.run >= least {
            return Vec::new();
        }
        let message = format!("`run` must be {least} or more");
        vec![ConfigMistake { field: "run", message, help: help.to_owned() }]
    }

    fn needs(&self) -> Needs {
        Needs::sorting(self.memory_bytes)
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let columns = vec![self.text_column.clone(), self.id_column.clone()];
        let (config, spill) = (Arc::new(self.clone()), ctx.spill(self.memory_bytes)?);
        let ledger = ctx.ledger.clone();
        let passes = Passes { name: "sentence_dedup", columns, compared: self.text_column.clone() };
        duplicates::plan(ctx, task, inputs, passes, move |rows| {
            let (config, ledger) = (config.clone(), ledger.clone());
            let marks = first_pass(config.clone(), spill.clone(), rows);
            async move { Ok(take_out(config, marks.await?, ledger)) }.boxed()
        })
    }
}

/// The runs that stood earlier, in order, and the ids of all rows.
async fn first_pass(
    config: Arc<SentenceDedupConfig>,
    spill: Spill,
    mut rows: BatchStream,
) -> Result<Marks, ArrowError> {
    let ids = RowWriter::new(spill.file()?, spill.file()?, 0);
    // Records of digest, row and place.
    let mut state = (spill.sorter(2), ids);
    while let Some(batch) = rows.next().await {
        let (batch, config) = (batch?, config.clone());
        state = away(move || {
            add_runs(&config, &batch, &mut state.0, &mut state.1)?;
            Ok(state)
        })
        .await?;
    }
    away(move || {
        let (runs, ids) = state;
        Ok(Marks { sorted: repeated(runs, &spill)?, next: None, ids: ids.finish()? })
    })
    .await
}

fn add_runs(
    config: &SentenceDedupConfig,
    batch: &RecordBatch,
    runs: &mut ExternalSorter,
    rows: &mut RowWriter,
) -> Result<(), ArrowError> {
    let texts = text_column(batch, &config.text_column)?;
    let ids = id_column(batch, &config.id_column)?;
    let digests = |row: usize| if texts.is_null(row) { Vec::new() } else { config.digests(texts.value(row)) };
    let digests: Vec<Vec<(u32, Key)>> = (0..batch.num_rows()).into_par_iter().map(digests).collect();
    for (at, digests) in digests.iter().enumerate() {
        let row = rows.push(&id_of(&ids, at), &[])?;
        for (place, digest) in digests {
            runs.push(&[&digest[..], &row.to_be_bytes(), &place.to_be_bytes()].concat())?;
        }
    }
    Ok(())
}

/// Of the runs with one digest, all but the first: records of row, place, and the row of the first.
fn repeated(runs: ExternalSorter, spill: &Spill) -> Result<Sorted, WriteError> {
    let (mut runs, mut marked, mut last) = (runs.finish()?, spill.sorter(2), Vec::new());
    let mut first_row = [0; 4];
    while let Some(record) = runs.next_record()? {
        let Some((digest, place)) = record.split_at_checked(16) else { continue };
        if digest == last {
            marked.push(&[place, &first_row].concat())?;
        } else {
            last.clear();
            last.extend_from_slice(digest);
            first_row = place.first_chunk().copied().unwrap_or_default();
        }
    }
    marked.finish()
}

impl SentenceDedupConfig {
    /// The place and the digest of each run of which simplifying leaves something.
    fn digests(&self, text: &str) -> Vec<(u32, Key)> {
        let (mut simple, mut rolling) = (String::new(), RollingHash::new(self.run.max(1)));
        let (pieces, mut digests) = (self.unit.split(text), Vec::new());
        for (at, piece) in (1..).zip(pieces) {
            simplify(piece, &mut simple);
            let simple = simple.trim();
            if let Some(digest) = rolling.push((!simple.is_empty()).then(|| key_of(simple.as_bytes()))) {
                digests.push((at - self.run as u32, digest));
            }
        }
        digests
    }

    /// The text without the runs that begin at some places, ascending.
    fn without(&self, text: &str, places: &[u32]) -> String {
        let (mut kept, mut places) = (String::with_capacity(text.len()), places.iter().peekable());
        let mut drop_until = 0;
        for (at, piece) in self.unit.split(text).into_iter().enumerate() {
            if places.next_if(|&&place| place as usize == at).is_some() {
                drop_until = at + self.run;
            }
            if at >= drop_until {
                kept.push_str(piece);
            }
        }
        kept
    }

    /// Why a changed text is dropped.
    fn too_little(&self, text: &str) -> Option<(&'static str, String)> {
        let words = text.unicode_words().count();
        let pieces = self.unit.split(text).iter().filter(|piece| !piece.trim().is_empty()).count();
        if words < self.min_words {
            Some(("too_few_words", format!("{words} words are left, not {}", self.min_words)))
        } else if pieces < self.min_sentences {
            Some(("too_few_sentences", format!("{pieces} are left, not {}", self.min_sentences)))
        } else {
            None
        }
    }
}

/// Marks in the order of rows.
struct Marks {
    sorted: Sorted,
    next: Option<Mark>,
    ids: RowReader,
}

/// A run that stood earlier.
#[derive(Clone, Copy)]
struct Mark {
    row: u32,
    place: u32,
    /// The row in which it stood first.
    first_row: u32,
}

impl Mark {
    fn of(record: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(record.get(at..at + 4)?.try_into().ok()?));
        Some(Self { row: number(0)?, place: number(4)?, first_row: number(8)? })
    }
}

impl Marks {
    /// The marks of a row; rows are asked for in order.
    fn of(&mut self, row: u32) -> Result<Vec<Mark>, WriteError> {
        let mut marks = Vec::new();
        loop {
            if self.next.is_none() {
                self.next = self.sorted.next_record()?.and_then(Mark::of);
            }
            match self.next {
                Some(mark) if mark.row == row => marks.push(mark),
                _ => return Ok(marks),
            }
            self.next = None;
        }
    }
}

/// The second pass: texts without the marked runs.
fn take_out(config: Arc<SentenceDedupConfig>, mut marks: Marks, ledger: Ledger) -> SecondPass {
    let (mut next_row, sink) = (0_u32, ledger.drop_sink());
    Box::new(move |batch| {
        let texts = text_column(batch, &config.text_column)?;
        let ids = id_column(batch, &config.id_column)?;
        let mut marked = Vec::with_capacity(batch.num_rows());
        for _ in 0..batch.num_rows() {
            marked.push(marks.of(next_row)?);
            next_row = next_row.checked_add(1).ok_or(DedupError::TooManyRows)?;
        }
        let changed = (0..batch.num_rows()).into_par_iter().map(|row| {
            let changes = !texts.is_null(row) && !marked[row].is_empty();
            let places: Vec<u32> = marked[row].iter().map(|mark| mark.place).collect();
            changes.then(|| config.without(texts.value(row), &places))
        });
        let changed: Vec<Option<String>> = changed.collect();
        let mut keep = vec![true; batch.num_rows()];
        for (row, text) in changed.iter().enumerate() {
            let Some(text) = text else { continue };
            match (config.too_little(text), marked[row].first()) {
                (Some((reason, left)), Some(mark)) => {
                    let earlier = marks.ids.get(mark.first_row)?.id;
                    let detail = format!("{left}; the first run taken out stood in {earlier}");
                    sink(id_of(&ids, row), reason.to_owned(), detail);
                    keep[row] = false;
                }
                _ => ledger.count("texts_cut_and_kept", 1),
            }
        }
        ledger.count("runs_taken_out", marked.iter().map(|marks| marks.len() as u64).sum());
        let new_texts = changed.iter().enumerate().map(|(row, text)| match text {
            Some(text) => Some(text.as_str()),
            None => (!texts.is_null(row)).then(|| texts.value(row)),
        });
        let new_texts: ArrayRef = Arc::new(new_texts.collect::<StringArray>());
        let mut columns = batch.columns().to_vec();
        let at = batch.schema().index_of(&config.text_column)?;
        columns[at] = cast(&new_texts, columns[at].data_type())?;
        filter_record_batch(&RecordBatch::try_new(batch.schema(), columns)?, &BooleanArray::from(keep))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    async fn run(config: &SentenceDedupConfig, texts: &[&str]) -> (Vec<String>, Vec<(String, String)>) {
        let rows: Vec<_> =
            texts.iter().enumerate().map(|(id, text)| json!({"id": id.to_string(), "text": text})).collect();
        let (rows, ctx) = testing::plan(config, "rows", testing::batch(json!(rows))).await.unwrap();
        let dropped = ctx.ledger.dropped().into_iter().map(|row| (row.id, row.reason));
        (testing::strings(&rows, "text"), dropped.collect())
    }

    fn lenient() -> SentenceDedupConfig {
        SentenceDedupConfig { min_words: 0, min_sentences: 0, ..SentenceDedupConfig::default() }
    }

    const NOTICE: &str = "We use cookies. You may say no. Read more about it. ";

    #[tokio::test]
    async fn a_run_that_stood_earlier_is_taken_out_and_the_rest_stays() {
        let first = format!("{NOTICE}The tide rises. Then it falls.");
        let second = format!("A page on cats. {NOTICE}Cats sleep a lot. They do.");
        let shouted = format!("{}Dogs bark.", NOTICE.to_uppercase());
        let (texts, dropped) = run(&lenient(), &[&first, &second, &shouted]).await;
        assert_eq!(texts, [first.as_str(), "A page on cats. Cats sleep a lot. They do.", "Dogs bark."]);
        assert_eq!(dropped, []);
        let spilled = SentenceDedupConfig { memory_bytes: Some(1), ..lenient() };
        assert_eq!(run(&spilled, &[&first, &second, &shouted]).await.0, texts);
    }

    #[tokio::test]
    async fn runs_overlap_and_repeat_within_a_row() {
        let config = SentenceDedupConfig { unit: Unit::Lines, run: 2, ..lenient() };
        let (texts, _) = run(&config, &["a\nb\nc\nd", "x\na\nb\nc\ny", "p\nq\np\nq\nr\n"]).await;
        assert_eq!(texts, ["a\nb\nc\nd", "x\ny", "p\nq\nr\n"]);
    }

    #[tokio::test]
    async fn words_that_stood_earlier_are_taken_out_wherever_they_begin() {
        let config = SentenceDedupConfig { unit: Unit::Words, run: 8, ..lenient() };
        let copied = "the quick brown fox jumps over the lazy dog";
        let rows = [
            format!("Once upon a time {copied} and slept."),
            "(Again: The Quick, brown fox - jumps over the lazy dog!) ran off.".to_owned(),
            "the quick brown fox jumps over the cat".to_owned(),
        ];
        let (texts, _) = run(&config, &rows.each_ref().map(String::as_str)).await;
        assert_eq!(texts, [rows[0].as_str(), "(Again: ran off.", rows[2].as_str()]);
    }

    #[test]
    fn runs_of_words_need_some_length() {
        let config = SentenceDedupConfig { unit: Unit::Words, ..SentenceDedupConfig::default() };
        assert_eq!(config.validate(&BTreeMap::new()).len(), 1);
        assert!(SentenceDedupConfig { run: 8, ..config }.validate(&BTreeMap::new()).is_empty());
    }

    /// A repeated blank run is no duplicate, and two lines in another order are none either.
    #[tokio::test]
    async fn what_differs_stays() {
        let config = SentenceDedupConfig { unit: Unit::Lines, run: 2, ..lenient() };
        let rows = ["a\n\n\n\nb", "c\n\n\n\nd", "b\na\n"];
        assert_eq!(run(&config, &rows).await.0, rows);
    }

    #[tokio::test]
    async fn a_row_of_which_too_little_is_left_is_dropped_with_the_reason() {
        let config = SentenceDedupConfig { min_words: 4, min_sentences: 2, ..SentenceDedupConfig::default() };
        let row = |rest: &str| format!("{NOTICE}{rest}");
        let rows = [
            row("One. Two."),
            row("One two three."),
            row("One two three four."),
            row("One two. Three four."),
            "Short.".to_owned(),
        ];
        let (texts, dropped) = run(&config, &rows.each_ref().map(String::as_str)).await;
        assert_eq!(texts, [rows[0].as_str(), "One two. Three four.", "Short."]);
        let want = [("1", "too_few_words"), ("2", "too_few_sentences")];
        assert_eq!(dropped, want.map(|(id, reason)| (id.to_owned(), reason.to_owned())));
    }
}
