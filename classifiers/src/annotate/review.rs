//! Annotations as a CSV file that people correct in a spreadsheet, and back.

use super::{AnnotateError, Annotation, HIGHEST_ANNOTATION, Labelled};
use csv::{ReaderBuilder, StringRecord, Writer};
use serde::Deserialize;
use std::io::{Read, Write};

/// The `model` of an annotation that a person corrected.
pub const REVIEWER: &str = "reviewer";
/// The columns, in order. People fill in the third and may fill in the fourth.
const HEADER: [&str; 7] = ["id", "score", "corrected_score", "note", "why", "model", "text"];
/// What a line looks like.
const LINE: &str = "a row with the columns id, score and corrected_score (0 to 5, or empty)";
/// Spreadsheets take a cell that begins so for a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];
/// Tells spreadsheets that the file is UTF-8.
const BYTE_ORDER_MARK: &str = "\u{FEFF}";

/// Writes annotations for people to correct: CSV with the columns `id`, `score`, `corrected_score` and
/// `note` (both empty, for the reader), `why`, `model` and `text`. Cells that a spreadsheet would take for
/// formulas get an apostrophe in front, which [`read_review`] takes away. `name` stands for the file in
/// errors.
///
/// # Errors
/// The file cannot be written.
pub fn write_review<'a>(
    name: &str,
    mut out: impl Write,
    rows: impl IntoIterator<Item = &'a Labelled>,
) -> Result<(), AnnotateError> {
    let io = |source| AnnotateError::Io { name: name.into(), source };
    let wrong = |error: csv::Error| io(std::io::Error::other(error));
    out.write_all(BYTE_ORDER_MARK.as_bytes()).map_err(io)?;
    let mut csv = Writer::from_writer(out);
    csv.write_record(HEADER).map_err(wrong)?;
    for Labelled { annotation, text } in rows {
        let cell = |text: &Option<String>| guard(text.as_deref().unwrap_or_default());
        csv.write_record([
            guard(&annotation.id),
            annotation.score.to_string(),
            String::new(),
            String::new(),
            cell(&annotation.why),
            cell(&annotation.model),
            cell(text),
        ])
        .map_err(wrong)?;
    }
    csv.flush().map_err(io)
}

/// A row as it comes back; columns may be in any order, and others are passed over.
#[derive(Deserialize)]
struct Row {
    id: String,
    score: String,
    #[serde(default)]
    corrected_score: String,
    #[serde(default)]
    note: String,
    #[serde(default)]
    why: String,
    #[serde(default)]
    model: String,
}

/// Reads what [`write_review`] wrote and people corrected, also with semicolons, as spreadsheets of some
/// countries save it. A row with a `corrected_score` gets it, the reader's `note` as its reason and
/// [`REVIEWER`] as its model; the others come back as they were.
///
/// # Errors
/// The file cannot be read, a column is missing, or a score is no whole number from 0 to 5: a person's slip
/// is worth stopping for.
pub fn read_review(name: &str, mut input: impl Read) -> Result<Vec<Annotation>, AnnotateError> {
    let mut text = String::new();
    input.read_to_string(&mut text).map_err(|source| AnnotateError::Io { name: name.into(), source })?;
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let header = text.lines().next().unwrap_or_default();
    let delimiter =
        [b';', b'\t', b','].into_iter().max_by_key(|mark| header.bytes().filter(|byte| byte == mark).count());
    let mut csv = ReaderBuilder::new().delimiter(delimiter.unwrap_or(b',')).from_reader(text.as_bytes());
    let wrong =
        |line: u64, reason: String| AnnotateError::Line { name: name.into(), line, reason, expected: LINE };
    let headers = csv.headers().map_err(|error| wrong(1, error.to_string()))?.clone();
    let mut annotations = Vec::new();
    let mut record = StringRecord::new();
    loop {
        let line = csv.position().line();
        match csv.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(annotations),
            Err(error) => return Err(wrong(line, error.to_string())),
        }
        let row: Row = record.deserialize(Some(&headers)).map_err(|error| wrong(line, error.to_string()))?;
        annotations.push(row.annotation().map_err(|reason| wrong(line, reason))?);
    }
}

impl Row {
    fn annotation(self) -> Result<Annotation, String> {
        let whole = |column: &str, cell: &str| match cell.trim().parse::<u8>() {
            Ok(score) if score <= HIGHEST_ANNOTATION => Ok(score),
            _ => Err(format!("{column} is `{cell}`")),
        };
        let filled = |cell: &str| Some(unguard(cell)).filter(|cell| !cell.is_empty());
        let id = unguard(&self.id);
        if self.corrected_score.trim().is_empty() {
            let score = whole("score", &self.score)?;
            return Ok(Annotation { id, score, why: filled(&self.why), model: filled(&self.model) });
        }
        let score = whole("corrected_score", &self.corrected_score)?;
        Ok(Annotation { id, score, why: filled(&self.note), model: Some(REVIEWER.into()) })
    }
}

/// Whether a spreadsheet takes the cell for a formula, or would without its apostrophes.
fn is_formula(cell: &str) -> bool {
    cell.trim_start_matches('\'').starts_with(FORMULA)
}

fn guard(cell: &str) -> String {
    if is_formula(cell) { format!("'{cell}") } else { cell.to_owned() }
}

fn unguard(cell: &str) -> String {
    match cell.strip_prefix('\'') {
        Some(bare) if is_formula(cell) => bare.to_owned(),
        _ => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(id: &str, score: u8, why: &str, text: &str) -> Labelled {
        let why = Some(why.to_owned()).filter(|why| !why.is_empty());
        let annotation = Annotation { id: id.into(), score, why, model: Some("llama".into()) };
        Labelled { annotation, text: Some(text.into()) }
    }

    fn written(rows: &[Labelled]) -> String {
        let mut file = Vec::new();
        write_review("memory", &mut file, rows).unwrap();
        String::from_utf8(file).unwrap()
    }

    #[test]
    fn corrections_replace_scores_and_the_rest_stays() {
        let file = written(&[row("a", 4, "clear", "Cells,\n\"cells\""), row("b", 0, "", "=1+1")]);
        assert!(file.starts_with("\u{FEFF}id,score,corrected_score,note,why,model,text\n"), "{file}");
        assert!(file.contains("'=1+1"), "{file}");
        let corrected = file.replace("a,4,,,", "a,4,2,too short,");
        let rows = read_review("r.csv", corrected.as_bytes()).unwrap();
        let corrected = Annotation {
            id: "a".into(),
            score: 2,
            why: Some("too short".into()),
            model: Some(REVIEWER.into()),
        };
        assert_eq!(rows, [corrected, row("b", 0, "", "").annotation]);
    }

    #[test]
    fn semicolons_and_other_orders_are_read_and_slips_are_named() {
        let read = |text: &str| read_review("r.csv", text.as_bytes());
        let rows = read("score;id;corrected_score;mine\n3;a;;x\n3;b;5;y\n").unwrap();
        assert_eq!(rows.iter().map(|row| row.score).collect::<Vec<_>>(), [3, 5]);
        let error = |text: &str| read(text).unwrap_err().to_string();
        let text = error("id,score,corrected_score\na,3,\nb,3,6\n");
        assert!(text.contains("r.csv:3: corrected_score is `6`"), "{text}");
        let text = error("id,corrected_score\na,3\n");
        assert!(text.contains("r.csv:2") && text.contains("score"), "{text}");
        assert!(error("id,score\na,2.5\n").contains("score is `2.5`"));
    }

    proptest! {
        #[test]
        fn any_row_comes_back(id in "[=+@'a-z;,\"\n-]{1,8}", score in 0_u8..6, why in "['=+@\u{20}-\u{7e}é\n]{0,12}", text in "\\PC{0,20}") {
            let row = row(&id, score, &why, &text);
            let back = read_review("memory", written(std::slice::from_ref(&row)).as_bytes()).unwrap();
            prop_assert_eq!(back, [row.annotation]);
        }
    }
}
