//! Reading a whole log without opening it for a run: what it holds, answer by answer.
//!
//! Nothing is locked or changed, so that the log of a run at work can be looked into as well; a record
//! that is just being written counts as not there.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

use serde::Serialize;

use super::format::{self, Content};
use super::index::{Index, Place, Totals};
use super::open::{open_segment, segment_files};
use super::{AnswerLogError, Segment, scan};
use crate::chat::{ChatAnswer, FinishReason, RequestId};

/// What a log holds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogStats {
    /// Files.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Answers that count.
    pub answers: u64,
    /// Of these, answers that were cut by their length.
    pub cut_answers: u64,
    /// Records that better answers took the place of; `compact` drops them.
    pub superseded: u64,
    /// Their bytes.
    pub superseded_bytes: u64,
    /// Bytes that hold no readable record.
    pub damaged_bytes: u64,
    /// What all answers cost, superseded ones included.
    pub totals: Totals,
    /// The answers that count by the reason they ended.
    pub finish_reasons: BTreeMap<String, u64>,
    /// The answers that count by the model that gave them.
    pub models: BTreeMap<String, ModelStats>,
    /// The answers that count by the endpoint they came from.
    pub endpoints: BTreeMap<String, u64>,
}

/// The answers of one model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ModelStats {
    /// Answers.
    pub answers: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Their own tokens.
    pub completion_tokens: u64,
}

/// An answer in a log, for export.
#[derive(Debug, Serialize)]
pub struct LoggedAnswer {
    /// The request's id, in hex.
    pub request: String,
    /// Longest answer that was asked for, in tokens; absent in records of the first format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<u32>,
    /// The answer.
    #[serde(flatten)]
    pub answer: ChatAnswer,
}

/// Whether a folder holds a log.
pub fn segments_exist(dir: &Path) -> bool {
    segment_files(dir).is_ok_and(|segments| !segments.is_empty())
}

/// Reads all answers that count, in the order of the files, and what the log holds in all.
pub fn survey(
    dir: &Path,
    mut on_answer: impl FnMut(LoggedAnswer) -> std::io::Result<()>,
) -> Result<LogStats, AnswerLogError> {
    let (segments, index) = load(dir)?;
    let mut stats =
        LogStats { segments: segments.len() as u64, totals: index.totals(), ..LogStats::default() };
    for (number, segment) in segments.iter().enumerate() {
        let io = |error| AnswerLogError::io("read", &segment.path, error);
        let bytes = segment.file.metadata().map_err(io)?.len();
        stats.bytes += bytes;
        let mut whole_bytes = format::HEADER_BYTES as u64;
        scan::scan(&segment.file, bytes, segment.version, |record| {
            let record_bytes = record.bytes.len() as u64;
            whole_bytes += record_bytes;
            let Content::Answer { id, meta } = record.content else {
                return Ok(());
            };
            if !index.is_live(&id, Place { segment: number as u32, offset: record.offset as u32 })? {
                stats.superseded += 1;
                stats.superseded_bytes += record_bytes;
                return Ok(());
            }
            let Some((_, answer)) = format::decode(record.bytes, segment.version) else {
                return Ok(());
            };
            stats.count(&answer);
            on_answer(logged(id, meta.max_new_tokens, answer))
        })
        .map_err(io)?;
        stats.damaged_bytes += bytes.saturating_sub(whole_bytes);
    }
    Ok(stats)
}

/// What the answers of a log cost; reads the records, not the answers in them.
pub fn totals(dir: &Path) -> Result<Totals, AnswerLogError> {
    Ok(load(dir)?.1.totals())
}

fn load(dir: &Path) -> Result<(Vec<Segment>, Index), AnswerLogError> {
    let mut segments = Vec::new();
    let mut index = Index::new(dir);
    for (number, (_, path)) in segment_files(dir)?.iter().enumerate() {
        let segment = open_segment(path, OpenOptions::new().read(true))?;
        let io = |error| AnswerLogError::io("read", path, error);
        let bytes = segment.file.metadata().map_err(io)?.len();
        scan::scan(&segment.file, bytes, segment.version, |record| {
            let place = Place { segment: number as u32, offset: record.offset as u32 };
            index.load(&record.content, place, segment.version)
        })
        .map_err(io)?;
        segments.push(segment);
    }
    Ok((segments, index))
}

fn logged(id: RequestId, max_new_tokens: u32, answer: ChatAnswer) -> LoggedAnswer {
    let max_new_tokens = (max_new_tokens > 0).then_some(max_new_tokens);
    LoggedAnswer { request: id.to_string(), max_new_tokens, answer }
}

impl LogStats {
    fn count(&mut self, answer: &ChatAnswer) {
        self.answers += 1;
        self.cut_answers += u64::from(answer.finish_reason == FinishReason::Length);
        *self.finish_reasons.entry(answer.finish_reason.as_str().to_owned()).or_default() += 1;
        *self.endpoints.entry(answer.endpoint.clone()).or_default() += 1;
        let model = self.models.entry(answer.model.clone()).or_default();
        model.answers += 1;
        model.prompt_tokens += u64::from(answer.prompt_tokens);
        model.completion_tokens += u64::from(answer.completion_tokens);
    }
}
