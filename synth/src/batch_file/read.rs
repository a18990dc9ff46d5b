//! Answer files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::write::io;
use super::{BatchError, key_of};
use crate::answer_log::AnswerLog;
use crate::chat::{ChatAnswer, RequestKey};
use crate::client::wire;

/// Where answers of batch files come from, as it stands in the `endpoint` column.
pub const BATCH_ENDPOINT: &str = "batch";

/// Answers on their way into the log at once: the log writes and syncs them together.
const IN_FLIGHT: usize = 1024;

/// What a line of an answer file says.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchLine {
    /// An answer to a request.
    Answer {
        /// The request.
        key: RequestKey,
        /// Its answer.
        answer: ChatAnswer,
    },
    /// A request that failed.
    Failed {
        /// Why, in snake case: `http_429`, or the code of the service, such as `batch_expired`.
        reason: String,
        /// The service's words.
        detail: String,
    },
    /// A line of something else.
    Foreign {
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Deserialize)]
struct Line {
    custom_id: String,
    response: Option<Response>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Response {
    status_code: u16,
    body: Option<Value>,
}

#[derive(Deserialize)]
struct Failure {
    code: Option<Value>,
    message: Option<String>,
}

/// The lines of an answer file with their numbers from 1; empty lines are left out.
pub fn read_lines(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(u64, BatchLine), BatchError>>, BatchError> {
    let file = File::open(path).map_err(io("open", path))?;
    let path = path.to_owned();
    let lines = BufReader::with_capacity(1 << 20, file).split(b'\n');
    Ok((1..).zip(lines).filter_map(move |(number, line)| match line {
        Ok(line) if line.trim_ascii().is_empty() => None,
        Ok(line) => Some(Ok((number, parse(&line)))),
        Err(error) => Some(Err(io("read", &path)(error))),
    }))
}

fn parse(line: &[u8]) -> BatchLine {
    let foreign = |problem: String| BatchLine::Foreign { problem };
    let line: Line = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) => return foreign(format!("it is no answer of a batch ({error})")),
    };
    let Some(key) = key_of(&line.custom_id) else {
        return foreign(format!("its custom_id {:?} is none of ours", line.custom_id));
    };
    match (line.response, line.error) {
        (Some(Response { status_code: 200, body: Some(body) }), _) => {
            match wire::decode(body.to_string().as_bytes(), 0, BATCH_ENDPOINT) {
                Ok(answer) => BatchLine::Answer { key, answer },
                Err(detail) => BatchLine::Failed { reason: "bad_json".into(), detail },
            }
        }
        (Some(Response { status_code, body }), _) if status_code != 200 => BatchLine::Failed {
            reason: format!("http_{status_code}"),
            detail: wire::said(body.unwrap_or_default().to_string().as_bytes()),
        },
        (_, Some(Failure { code, message })) => {
            let code = match code {
                Some(Value::String(code)) => code,
                Some(code) if !code.is_null() => code.to_string(),
                _ => "no_code".to_owned(),
            };
            BatchLine::Failed { reason: code, detail: message.unwrap_or_default() }
        }
        _ => BatchLine::Failed { reason: "no_response".into(), detail: "neither response nor error".into() },
    }
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Lines read.
    pub lines: u64,
    /// Answers the log did not have.
    pub new_answers: u64,
    /// Answers the log had already.
    pub known_answers: u64,
    /// Failed requests by reason.
    pub failed: BTreeMap<String, u64>,
    /// The first failure of each reason: file, line and the service's words.
    pub first_failures: BTreeMap<String, String>,
    /// Lines of something else.
    pub foreign_lines: u64,
    /// The first of them: file, line and what is wrong.
    pub first_foreign: Option<String>,
}

impl Imported {
    fn count(&mut self, path: &Path, number: u64, line: &BatchLine) {
        self.lines += 1;
        let place = || format!("{}:{number}", path.display());
        match line {
            BatchLine::Answer { .. } => {}
            BatchLine::Failed { reason, detail } => {
                *self.failed.entry(reason.clone()).or_default() += 1;
                self.first_failures.entry(reason.clone()).or_insert_with(|| format!("{}: {detail}", place()));
            }
            BatchLine::Foreign { problem } => {
                self.foreign_lines += 1;
                self.first_foreign.get_or_insert_with(|| format!("{}: {problem}", place()));
            }
        }
    }
}

/// Whether an import writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// Answers go into the log.
    Write,
    /// They are only counted.
    DryRun,
}

/// Takes the answers of a file into the log. Lines that are no answer are counted and left out: what is paid
/// for elsewhere in the file is kept.
pub async fn import(
    log: &Arc<AnswerLog>,
    path: &Path,
    write: Import,
    imported: &mut Imported,
) -> Result<(), BatchError> {
    let mut answers = Vec::new();
    for line in read_lines(path)? {
        let (number, line) = line?;
        imported.count(path, number, &line);
        if let BatchLine::Answer { key, answer } = line {
            if log.contains(&key).map_err(BatchError::Log)? {
                imported.known_answers += 1;
            } else {
                imported.new_answers += 1;
                if write == Import::Write {
                    answers.push((key, answer));
                }
            }
        }
        if answers.len() == IN_FLIGHT {
            keep(log, &mut answers).await?;
        }
    }
    keep(log, &mut answers).await
}

async fn keep(log: &Arc<AnswerLog>, answers: &mut Vec<(RequestKey, ChatAnswer)>) -> Result<(), BatchError> {
    stream::iter(answers.drain(..))
        .map(|(key, answer)| async move { log.append(&key, &answer).await.map(drop) })
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await
        .map_err(BatchError::Log)
}
