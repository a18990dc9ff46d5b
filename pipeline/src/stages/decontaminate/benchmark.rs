//! Reads benchmark files: Parquet, or JSON lines, plain or gzipped.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use arrow::json::LineDelimitedWriter;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value as Json};
use thiserror::Error;

use super::format::{Fields, Format};
use crate::engine::data_file::DataFile;

/// Benchmarks are small; a larger file is something else.
const LARGEST_FILE_BYTES: u64 = 1 << 30;

/// A text of a benchmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchmarkText {
    /// The item and the fields: `HumanEval/3 (prompt)`.
    pub label: String,
    /// The text as it stands in the file.
    pub text: String,
}

/// A benchmark file cannot be read.
#[derive(Debug, Error)]
pub enum BenchmarkError {
    /// The file cannot be opened or unpacked.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not UTF-8.
    #[error("{}:{line}: not UTF-8 at byte {byte} of the line; save the file as UTF-8", path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// How much of the line is good, in bytes.
        byte: usize,
    },
    /// A line is not a JSON object.
    #[error("{}:{line}: not a JSON object: {why}; the file needs one object a line", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line or row, from 1.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// A field is missing or of another type.
    #[error("{}:{line}: field `{field}` {problem}; set `format` to the file's own fields", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The line or row, from 1.
        line: usize,
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A Parquet file is not whole.
    #[error("{}: no whole Parquet file ({why}); fetch it again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        why: String,
    },
    /// A file of another kind.
    #[error("{} has more than {LARGEST_FILE_BYTES} bytes; no benchmark has", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There is no item in the file.
    #[error("{} holds no item; a benchmark that checks nothing is a mistake", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// All texts of a file, in order.
///
/// # Errors
/// The file is missing or damaged, or an item does not have the fields.
pub fn read(file: &DataFile, format: &Format) -> Result<Vec<BenchmarkText>, BenchmarkError> {
    let (fields, path) = (format.fields(), file.name());
    let mut texts = Vec::new();
    let fail = |source| BenchmarkError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = file.open().map_err(fail)?;
    opened.take(LARGEST_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > LARGEST_FILE_BYTES {
        return Err(BenchmarkError::TooLarge { path: path.to_owned() });
    }
    if bytes.starts_with(b"PAR1") {
        read_parquet(path, bytes.into(), &fields, &mut texts)?;
    } else {
        read_lines(path, &bytes, &fields, &mut texts)?;
    }
    if texts.is_empty() {
        return Err(BenchmarkError::Empty { path: path.to_owned() });
    }
    Ok(texts)
}

/// Rows become the objects that the Hub shows for them.
fn read_parquet(
    path: &Path,
    file: Bytes,
    fields: &Fields,
    texts: &mut Vec<BenchmarkText>,
) -> Result<(), BenchmarkError> {
    let damaged = |why: String| BenchmarkError::Parquet { path: path.to_owned(), why };
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(error.to_string()))?;
    let mut number = 0;
    for batch in builder.build().map_err(|error| damaged(error.to_string()))? {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        let mut writer = LineDelimitedWriter::new(Vec::new());
        writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| damaged(error.to_string()))?;
        for line in String::from_utf8_lossy(&writer.into_inner()).lines() {
            number += 1;
            add_item(&Place { path, line: number, unit: "row" }, line, fields, texts)?;
        }
    }
    Ok(())
}

fn read_lines(
    path: &Path,
    bytes: &[u8],
    fields: &Fields,
    texts: &mut Vec<BenchmarkText>,
) -> Result<(), BenchmarkError> {
    let fail = |source| BenchmarkError::Read { path: path.to_owned(), source };
    let mut lines = unpacked(bytes);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        if lines.read_until(b'\n', &mut line).map_err(fail)? == 0 {
            return Ok(());
        }
        let line = std::str::from_utf8(&line).map_err(|error| {
            let byte = error.valid_up_to();
            BenchmarkError::Utf8 { path: path.to_owned(), line: number, byte }
        })?;
        let line = if number == 1 { line.trim_start_matches('\u{feff}') } else { line };
        if !line.trim().is_empty() {
            add_item(&Place { path, line: number, unit: "line" }, line, fields, texts)?;
        }
    }
}

/// Gzip is known by its first bytes, whatever the file's name.
fn unpacked(bytes: &[u8]) -> Box<dyn BufRead + '_> {
    match bytes {
        [0x1f, 0x8b, ..] => Box::new(BufReader::new(MultiGzDecoder::new(bytes))),
        _ => Box::new(bytes),
    }
}

struct Place<'a> {
    path: &'a Path,
    /// The line or row, from 1.
    line: usize,
    /// What it is called.
    unit: &'static str,
}

impl Place<'_> {
    fn field(&self, field: &str, problem: impl Into<String>) -> BenchmarkError {
        let (path, line) = (self.path.to_owned(), self.line);
        BenchmarkError::Field { path, line, field: field.to_owned(), problem: problem.into() }
    }
}

fn add_item(
    place: &Place<'_>,
    line: &str,
    fields: &Fields,
    texts: &mut Vec<BenchmarkText>,
) -> Result<(), BenchmarkError> {
    let json = |why| BenchmarkError::Json { path: place.path.to_owned(), line: place.line, why };
    let item: Map<String, Json> = serde_json::from_str(line).map_err(|error| json(error.to_string()))?;
    let name = match &fields.id {
        None => format!("{} {}", place.unit, place.line),
        Some(id) => match item.get(id) {
            Some(Json::String(name)) => name.clone(),
            Some(Json::Number(name)) => format!("{id} {name}"),
            Some(_) => return Err(place.field(id, "is neither a text nor a number")),
            None => return Err(missing(place, id, &item)),
        },
    };
    for fields in &fields.texts {
        let mut parts = Vec::new();
        for field in fields {
            let (first, rest) = field.split_once('.').map_or((field.as_str(), None), |(a, b)| (a, Some(b)));
            let value = item.get(first).ok_or_else(|| missing(place, field, &item))?;
            let found = collect_texts(value, rest, &mut parts);
            found.map_err(|problem| place.field(field, problem))?;
        }
        texts
            .push(BenchmarkText { label: format!("{name} ({})", fields.join(" + ")), text: parts.join(" ") });
    }
    Ok(())
}

/// The text or texts at a path inside a value; a path goes through lists.
fn collect_texts<'a>(
    value: &'a Json,
    path: Option<&str>,
    texts: &mut Vec<&'a str>,
) -> Result<(), &'static str> {
    match (value, path) {
        (Json::String(text), None) => texts.push(text),
        (Json::Array(list), path) => list.iter().try_for_each(|value| collect_texts(value, path, texts))?,
        (Json::Object(object), Some(path)) => {
            let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
            let value = object.get(first).ok_or("is missing")?;
            collect_texts(value, rest, texts)?;
        }
        (_, None) => return Err("is neither a text nor a list of texts"),
        (_, Some(_)) => return Err("is inside something that is no object"),
    }
    Ok(())
}

fn missing(place: &Place<'_>, field: &str, item: &Map<String, Json>) -> BenchmarkError {
    let have = item.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    place.field(field, format!("is missing (the fields are: {have})"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn texts(bytes: &[u8], format: &Format) -> Result<Vec<(String, String)>, String> {
        match read(&file(bytes).path().to_owned().into(), format) {
            Ok(texts) => Ok(texts.into_iter().map(|text| (text.label, text.text)).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(label, text)| (label.to_owned(), text.to_owned())).collect()
    }

    #[test]
    fn each_format_takes_its_fields() {
        for (line, format, want) in [
            (
                r#"{"task_id":"H/0","prompt":"p","canonical_solution":"c","test":"t"}"#,
                Format::Humaneval,
                pairs(&[("H/0 (prompt)", "p"), ("H/0 (canonical_solution)", "c")]),
            ),
            (
                r#"{"question":"q","answer":"a"}"#,
                Format::Gsm8k,
                pairs(&[("line 1 (question)", "q"), ("line 1 (answer)", "a")]),
            ),
            (
                r#"{"goal":"g","sol1":"x","sol2":"y"}"#,
                Format::Piqa,
                pairs(&[("line 1 (goal + sol1)", "g x"), ("line 1 (goal + sol2)", "g y")]),
            ),
            (r#"{"key":7,"prompt":"p"}"#, Format::Ifeval, pairs(&[("key 7 (prompt)", "p")])),
            (
                r#"{"q":"q","choices":["a","b"]}"#,
                Format::Fields(Fields { texts: vec![vec!["q".into(), "choices".into()]], id: None }),
                pairs(&[("line 1 (q + choices)", "q a b")]),
            ),
            (
                r#"{"question":"q","choices":["a","b"],"answer":1}"#,
                Format::Mmlu,
                pairs(&[("line 1 (question)", "q"), ("line 1 (question + choices)", "q a b")]),
            ),
            (
                r#"{"id":"M_1","question":"q","choices":{"text":["a","b"],"label":["A","B"]}}"#,
                Format::Arc,
                pairs(&[("M_1 (question)", "q"), ("M_1 (question + choices.text)", "q a b")]),
            ),
            // Items as their data sets on the Hub have them, with the fields that are no texts of theirs.
            (
                r#"{"ind":24,"activity_label":"Roof","ctx_a":"c","ctx_b":"d","ctx":"c d","endings":["a","b"],"source_id":"activitynet~v_x","split":"val","split_type":"indomain","label":"3"}"#,
                Format::Hellaswag,
                pairs(&[("ind 24 (ctx)", "c d")]),
            ),
            (
                r#"{"context":"c","question":"q","answerA":"a","answerB":"b","answerC":"d","label":"1"}"#,
                Format::Siqa,
                pairs(&[("line 1 (context + question)", "c q")]),
            ),
            (
                r#"{"sentence":"s _ t","option1":"a","option2":"b","answer":"2"}"#,
                Format::Winogrande,
                pairs(&[("line 1 (sentence)", "s _ t")]),
            ),
            (
                r#"{"id":"7-980","question_stem":"q","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"D"}"#,
                Format::Openbookqa,
                pairs(&[("7-980 (question_stem)", "q"), ("7-980 (question_stem + choices.text)", "q a b")]),
            ),
            (
                r#"{"id":"1afa","question":"q","question_concept":"p","choices":{"label":["A","B"],"text":["a","b"]},"answerKey":"A"}"#,
                Format::CommonsenseQa,
                pairs(&[("1afa (question)", "q"), ("1afa (question + choices.text)", "q a b")]),
            ),
            (
                r#"{"question":{"stem":"q","choices":[{"text":"a"},{"text":"b"}]}}"#,
                Format::Fields(Fields {
                    texts: vec![vec!["question.stem".into(), "question.choices.text".into()]],
                    id: None,
                }),
                pairs(&[("line 1 (question.stem + question.choices.text)", "q a b")]),
            ),
        ] {
            assert_eq!(texts(line.as_bytes(), &format).unwrap(), want);
        }
    }

    #[test]
    fn parquet_as_the_hub_has_it_is_read_like_lines() {
        use std::sync::Arc;

        use arrow::array::{ArrayRef, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};

        let choices = {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for list in [["a", "b"], ["c", "d"]] {
                list.iter().for_each(|text| lists.values().append_value(text));
                lists.append(true);
            }
            lists.finish()
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("question", Arc::new(StringArray::from(vec!["q", "r"]))),
            ("choices", Arc::new(choices)),
            ("answer", Arc::new(Int64Array::from(vec![0, 1]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut bytes = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let found = texts(&bytes, &Format::Mmlu).unwrap();
        assert_eq!(found[3], ("row 2 (question + choices)".to_owned(), "r c d".to_owned()));
        assert!(texts(&bytes, &Format::Siqa).unwrap_err().contains(":1: field `context` is missing"));
        bytes.truncate(bytes.len() / 2);
        assert!(texts(&bytes, &Format::Mmlu).unwrap_err().contains("no whole Parquet file"));
    }

    #[test]
    fn gzip_blank_lines_and_a_byte_order_mark_are_no_hindrance() {
        let lines = "\u{feff}{\"key\":1,\"prompt\":\"a\"}\r\n\n{\"key\":2,\"prompt\":\"b\"}";
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(lines.as_bytes()).unwrap();
        let want = pairs(&[("key 1 (prompt)", "a"), ("key 2 (prompt)", "b")]);
        assert_eq!(texts(lines.as_bytes(), &Format::Ifeval).unwrap(), want);
        assert_eq!(texts(&packed.finish().unwrap(), &Format::Ifeval).unwrap(), want);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let good = b"{\"key\":1,\"prompt\":\"a\"}\n".to_vec();
        for (bad, want) in [
            (&b"{\"key\":2,\"prompt\":\"\xff\"}"[..], ":2: not UTF-8 at byte 19"),
            (b"{\"key\":2,", ":2: not a JSON object: EOF"),
            (b"[1]", ":2: not a JSON object"),
            (b"{\"key\":2}", ":2: field `prompt` is missing (the fields are: key)"),
            (b"{\"key\":2,\"prompt\":3}", ":2: field `prompt` is neither"),
            (b"{\"prompt\":\"a\"}", ":2: field `key` is missing"),
        ] {
            let error = texts(&[good.clone(), bad.to_vec()].concat(), &Format::Ifeval).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        assert!(texts(b"\n", &Format::Ifeval).unwrap_err().contains("holds no item"));
        let error = read(&PathBuf::from("/nowhere/x.jsonl").into(), &Format::Gsm8k).unwrap_err();
        assert!(error.to_string().contains("cannot read /nowhere/x.jsonl"), "{error}");
        let packed_and_cut = [0x1f, 0x8b, 8, 0, 0];
        assert!(texts(&packed_and_cut, &Format::Ifeval).unwrap_err().contains("cannot read"));
    }
}
