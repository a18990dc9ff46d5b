//! One judge's score of one page, and files of such scores.

use super::{AnnotateError, HIGHEST_ANNOTATION};
use crate::{OnReject, Reject};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};

/// What a line of a JSONL file looks like.
const LINE: &str = r#"{"id": "…", "score": 0–5, "why": "…", "model": "…"}, the last two at will"#;

/// One judge's score of one page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotation {
    /// The page's id.
    pub id: String,
    /// The score, 0 to 5.
    pub score: u8,
    /// The judge's reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The judge: a model's name, or [`REVIEWER`](super::REVIEWER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// An annotation, with the page's text where its table has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The score and its judge.
    pub annotation: Annotation,
    /// The page's text.
    pub text: Option<String>,
}

/// A row before it is checked.
#[derive(Default)]
pub(super) struct Row {
    pub(super) id: Option<String>,
    pub(super) score: Option<f64>,
    pub(super) text: Option<String>,
    pub(super) why: Option<String>,
    pub(super) model: Option<String>,
}

/// Checks a row. Where the table has no ids the text gives one, its blake3 in hex.
pub(super) fn check(row: Row, has_ids: bool) -> Result<Labelled, Reject> {
    let hashed = || row.text.as_ref().map(|text| blake3::hash(text.as_bytes()).to_hex().to_string());
    let id = if has_ids { row.id.filter(|id| !id.is_empty()) } else { hashed() };
    let reject = |id: &Option<String>, reason: &str, detail: String| Reject {
        id: id.clone().unwrap_or_default(),
        reason: reason.into(),
        detail,
    };
    let highest = f64::from(HIGHEST_ANNOTATION);
    let score = match row.score {
        None => Err(("null_score", "the row has no score".into())),
        Some(score) if !score.is_finite() || score.fract() != 0.0 => {
            Err(("score_not_whole", format!("score {score}, expected a whole number from 0 to 5")))
        }
        Some(score) if !(0.0..=highest).contains(&score) => {
            Err(("score_out_of_range", format!("score {score}, expected 0 to 5")))
        }
        // Whole and from 0 to 5: the cast is exact.
        Some(score) => Ok(score as u8),
    };
    match (id, score) {
        (Some(id), Ok(score)) => Ok(Labelled {
            annotation: Annotation { id, score, why: row.why, model: row.model },
            text: row.text,
        }),
        (id, Err((reason, detail))) => Err(reject(&id, reason, detail)),
        (None, Ok(_)) if has_ids => Err(reject(&None, "null_id", "the row has no id".into())),
        (None, Ok(_)) => Err(reject(&None, "null_text", "the row has neither id nor text".into())),
    }
}

/// Writes annotations as JSONL, one object a line: `id`, `score`, and `why` and `model` where known.
///
/// # Errors
/// The file cannot be written.
pub fn write_jsonl<'a>(
    name: &str,
    mut out: impl Write,
    annotations: impl IntoIterator<Item = &'a Annotation>,
) -> Result<(), AnnotateError> {
    let io = |source| AnnotateError::Io { name: name.into(), source };
    for annotation in annotations {
        let line = serde_json::to_string(annotation).map_err(|error| io(error.into()))?;
        writeln!(out, "{line}").map_err(io)?;
    }
    out.flush().map_err(io)
}

/// A line as people write it: the score may be any JSON, and other fields are theirs.
#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    score: Option<serde_json::Value>,
    text: Option<String>,
    why: Option<String>,
    model: Option<String>,
}

/// Reads annotations from JSONL, line by line; empty lines are passed over, fields that are not known
/// too. A line without `id` takes its id from its `text`. Scores that are null, not whole or out of range
/// are told to `on_reject`. `name` stands for the file in errors.
///
/// # Errors
/// The file cannot be read, or a line is no such object.
pub fn read_jsonl<'a>(
    name: &'a str,
    input: impl BufRead + 'a,
    on_reject: &'a OnReject,
) -> impl Iterator<Item = Result<Labelled, AnnotateError>> + 'a {
    input.lines().zip(1..).filter_map(move |(line, number)| {
        let line = match line {
            Ok(line) if line.trim().is_empty() => return None,
            Ok(line) => line,
            Err(source) => return Some(Err(AnnotateError::Io { name: name.into(), source })),
        };
        let wrong =
            |reason: String| AnnotateError::Line { name: name.into(), line: number, reason, expected: LINE };
        let line: Line = match serde_json::from_str(&line) {
            Ok(line) => line,
            Err(error) => return Some(Err(wrong(error.to_string()))),
        };
        let has_id = line.id.is_some();
        let score = match line.score {
            None | Some(serde_json::Value::Null) => None,
            Some(value) => match value.as_f64() {
                Some(score) => Some(score),
                None => return Some(Err(wrong(format!("the score is {value}")))),
            },
        };
        let row = Row { id: line.id, score, text: line.text, why: line.why, model: line.model };
        match check(row, has_id) {
            Ok(labelled) => Some(Ok(labelled)),
            Err(reject) => {
                on_reject(reject);
                None
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn lines_come_back_as_they_were_written() {
        let why = Some("clear,\n\"good\"".to_owned());
        let all = [
            Annotation { id: "a".into(), score: 5, why, model: Some("llama".into()) },
            Annotation { id: "b".into(), score: 0, why: None, model: None },
        ];
        let mut file = Vec::new();
        write_jsonl("memory", &mut file, &all).unwrap();
        let none: OnReject = Arc::new(|reject| panic!("{reject:?}"));
        let back: Vec<Annotation> =
            read_jsonl("memory", file.as_slice(), &none).map(|row| row.unwrap().annotation).collect();
        assert_eq!(back, all);
        assert!(file.ends_with(b"{\"id\":\"b\",\"score\":0}\n"));
    }

    #[test]
    fn unfit_scores_are_told_and_wrong_lines_end_in_an_error() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let on_reject: OnReject = Arc::new({
            let told = Arc::clone(&told);
            move |reject| told.lock().unwrap().push((reject.id, reject.reason))
        });
        let file = r#"{"id": "a", "score": 6}
{"id": "b", "score": 2.5}

{"id": "c", "score": null}
{"id": "d", "score": 4.0, "own": true}
{"score": 1, "text": "page"}
{"score": 1}
{"id": "e", "score": "3"}"#;
        let rows: Vec<_> = read_jsonl("some.jsonl", file.as_bytes(), &on_reject).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].as_ref().unwrap().annotation.score, 4);
        let hashed = &rows[1].as_ref().unwrap().annotation.id;
        assert_eq!(*hashed, blake3::hash(b"page").to_hex().to_string());
        let error = rows[2].as_ref().unwrap_err().to_string();
        assert!(error.contains("some.jsonl:8") && error.contains("the score is \"3\""), "{error}");
        let told = told.lock().unwrap();
        let told: Vec<(&str, &str)> = told.iter().map(|(id, why)| (id.as_str(), why.as_str())).collect();
        assert_eq!(
            told,
            [("a", "score_out_of_range"), ("b", "score_not_whole"), ("c", "null_score"), ("", "null_text")]
        );
    }
}
