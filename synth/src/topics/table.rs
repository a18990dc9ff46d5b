//! Headings out of a user's table: CSV, TSV, JSONL and TOML files, and rows read elsewhere (Parquet).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, RecordBatch};
use serde_json::Value as Json;

use super::bisac::likeness;
use super::heading::{Heading, Origin};
use crate::columns::{optional_strings, text_at};

/// The columns that are read; only `top_category` has to be there.
const COLUMNS: [&str; 4] = ["top_category", "subcategory", "subtopic", "topic_id"];

/// Longest value, in characters.
const MAX_CHARS: usize = 200;

/// Likeness from which another column's name is taken for a misspelling.
const MISSPELLED: f64 = 0.6;

/// Why a table gives no headings. The text names the file, the place and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("{path}: cannot be read ({source}): check the path in `tables`", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The name tells no format.
    #[error("{path}: the name has to end in .csv, .tsv, .jsonl, .toml or .parquet", path = path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The columns are wrong.
    #[error("{path}: {what}", path = path.display())]
    Columns {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// A row is wrong.
    #[error("{path}: {place}: {what}", path = path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// `line 3` of a text file, `row 3` of others; the first has number 1.
        place: String,
        /// What is wrong and what to do.
        what: String,
    },
}

/// A row as it stands in the file: its place and the values of [`COLUMNS`].
struct Row {
    place: String,
    values: [String; 4],
}

/// Reads a `.csv`, `.tsv`, `.jsonl` or `.toml` file (in TOML, one `[[topics]]` table a row) with the
/// columns `top_category` and, where wanted, `subcategory`, `subtopic` and `topic_id`; other columns
/// are passed over. A row without a `topic_id` gets one that follows from its other values.
///
/// # Errors
/// [`TableError`] naming the file, the row, the column and what to do.
pub fn load_table(path: &Path) -> Result<Vec<Heading>, TableError> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let bytes =
        || std::fs::read(path).map_err(|source| TableError::Read { path: path.to_path_buf(), source });
    let rows = match extension.as_str() {
        "csv" => read_separated(path, &bytes()?, b',')?,
        "tsv" => read_separated(path, &bytes()?, b'\t')?,
        "jsonl" | "ndjson" => read_lines(path, &text(path, bytes()?)?)?,
        "toml" => read_toml(path, &text(path, bytes()?)?)?,
        _ => return Err(TableError::UnknownFormat { path: path.to_path_buf() }),
    };
    headings(path, rows)
}

/// The same from rows that were read elsewhere; `path` stands in errors.
///
/// # Errors
/// [`TableError`] naming the row, from 1, the column and what to do.
pub fn table_headings(path: &Path, batches: &[RecordBatch]) -> Result<Vec<Heading>, TableError> {
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        check_columns(path, schema.fields().iter().map(|field| field.name().as_str()))?;
        let column = |name: &str| {
            let what = |error: crate::ColumnError| TableError::Columns {
                path: path.to_path_buf(),
                what: error.to_string(),
            };
            optional_strings(batch, name).map_err(what)
        };
        let columns = [column(COLUMNS[0])?, column(COLUMNS[1])?, column(COLUMNS[2])?, column(COLUMNS[3])?];
        for row in 0..batch.num_rows() {
            let value = |i: usize| -> String {
                columns[i].as_ref().filter(|c| !c.is_null(row)).map_or("", |c| text_at(c, row)).to_string()
            };
            let place = format!("row {}", rows.len() + 1);
            rows.push(Row { place, values: [value(0), value(1), value(2), value(3)] });
        }
    }
    headings(path, rows)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, TableError> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        row_error(path, format!("line {line}"), "the text is not UTF-8: save the file as UTF-8".to_string())
    })?;
    Ok(text.strip_prefix('\u{FEFF}').map(str::to_string).unwrap_or(text))
}

fn row_error(path: &Path, place: String, what: String) -> TableError {
    TableError::Row { path: path.to_path_buf(), place, what }
}

/// A missing `top_category`, or a column that looks like one of ours misspelled, is an error.
fn check_columns<'a>(path: &Path, present: impl Iterator<Item = &'a str>) -> Result<(), TableError> {
    let present: Vec<&str> = present.collect();
    let wrong = |what: String| Err(TableError::Columns { path: path.to_path_buf(), what });
    for column in COLUMNS.iter().filter(|column| !present.contains(*column)) {
        let others = present.iter().filter(|name| !COLUMNS.contains(*name));
        let nearest = others.max_by(|a, b| likeness(a, column).total_cmp(&likeness(b, column)));
        if let Some(name) = nearest.filter(|name| likeness(name, column) >= MISSPELLED) {
            return wrong(format!("column `{name}` is not read; did you mean `{column}`? Rename it"));
        }
    }
    if !present.contains(&"top_category") {
        return wrong(format!(
            "there is no column `top_category`; the columns are: {}. Name the subject area of each row in it",
            present.join(", ")
        ));
    }
    Ok(())
}

fn read_separated(path: &Path, bytes: &[u8], delimiter: u8) -> Result<Vec<Row>, TableError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).from_reader(bytes);
    let wrong = |error: &csv::Error, line: u64| {
        let line = error.position().map_or(line, csv::Position::line);
        let what = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
                "the row has {len} values, the first line {expected_len}: put values with commas in double quotes"
            ),
            csv::ErrorKind::Utf8 { .. } => "the text is not UTF-8: save the file as UTF-8".to_string(),
            _ => error.to_string(),
        };
        row_error(path, format!("line {line}"), what)
    };
    let headers = reader.headers().map_err(|error| wrong(&error, 1))?.clone();
    check_columns(path, headers.iter())?;
    let places = COLUMNS.map(|column| headers.iter().position(|name| name == column));
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        if !reader.read_record(&mut record).map_err(|error| wrong(&error, line))? {
            return Ok(rows);
        }
        let line = record.position().map_or(line, csv::Position::line);
        let values = places.map(|place| place.and_then(|at| record.get(at)).unwrap_or_default().to_string());
        rows.push(Row { place: format!("line {line}"), values });
    }
}

fn read_lines(path: &Path, text: &str) -> Result<Vec<Row>, TableError> {
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("line {}", number + 1);
        let value: Json = serde_json::from_str(line)
            .map_err(|error| row_error(path, place.clone(), format!("no JSON object: {error}")))?;
        rows.push(row_of(path, place, &value)?);
    }
    Ok(rows)
}

fn read_toml(path: &Path, text: &str) -> Result<Vec<Row>, TableError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count();
        row_error(path, format!("line {line}"), error.message().to_string())
    })?;
    let rows = table.get("topics").and_then(toml::Value::as_array);
    let rows = rows.ok_or_else(|| TableError::Columns {
        path: path.to_path_buf(),
        what: "there is no [[topics]]: write one such table a topic, with top_category = \"…\" in it"
            .to_string(),
    })?;
    let row = |(i, row): (usize, &toml::Value)| {
        row_of(path, format!("row {}", i + 1), &serde_json::to_value(row).unwrap_or_default())
    };
    rows.iter().enumerate().map(row).collect()
}

fn row_of(path: &Path, place: String, value: &Json) -> Result<Row, TableError> {
    let Some(object) = value.as_object() else {
        return Err(row_error(path, place, "the row is no object with names and values".to_string()));
    };
    check_columns(path, object.keys().map(String::as_str)).map_err(|error| {
        row_error(path, place.clone(), error.to_string().replacen(&format!("{}: ", path.display()), "", 1))
    })?;
    let mut values: [String; 4] = Default::default();
    for (name, slot) in COLUMNS.iter().zip(&mut values) {
        *slot = match object.get(*name) {
            None | Some(Json::Null) => String::new(),
            Some(Json::String(text)) => text.clone(),
            Some(other) => {
                let what = format!("column `{name}` is {other}, which is no text: put it in quotes");
                return Err(row_error(path, place, what));
            }
        };
    }
    Ok(Row { place, values })
}

/// The headings of checked rows, in their order.
fn headings(path: &Path, rows: Vec<Row>) -> Result<Vec<Heading>, TableError> {
    if rows.is_empty() {
        let what = "the table has no rows: write at least one topic".to_string();
        return Err(TableError::Columns { path: path.to_path_buf(), what });
    }
    let mut headings: Vec<Heading> = Vec::with_capacity(rows.len());
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    for Row { place, mut values } in rows {
        let wrong = |what: String| row_error(path, place.clone(), what);
        for (column, value) in COLUMNS.iter().zip(&mut values) {
            if value.chars().any(|c| c.is_control() && !c.is_whitespace()) {
                return Err(wrong(format!("column `{column}` holds a control character: take it out")));
            }
            *value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            let chars = value.chars().count();
            if chars > MAX_CHARS {
                return Err(wrong(format!(
                    "column `{column}` has {chars} characters: shorten it to {MAX_CHARS}"
                )));
            }
        }
        let [top_category, subcategory, subtopic, id] = values;
        if top_category.is_empty() {
            return Err(wrong(
                "column `top_category` is empty: write the subject area, e.g. MATHEMATICS".to_string(),
            ));
        }
        if id.contains(' ') {
            return Err(wrong(format!("column `topic_id` is `{id}`: an id has no spaces; write `_` or `-`")));
        }
        let code = if id.is_empty() { derived_id(&top_category, &subcategory, &subtopic) } else { id };
        if let Some(first) = places.insert(code.clone(), place.clone()) {
            return Err(wrong(format!(
                "the topic `{code}` stands in {first} already: take one of the two out, or give them different values of `topic_id`"
            )));
        }
        headings.push(Heading { code, top_category, subcategory, subtopic, origin: Origin::Table });
    }
    Ok(headings)
}

/// `t-` and 12 hex digits over the values: stays when rows come, go or change places.
fn derived_id(top_category: &str, subcategory: &str, subtopic: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for value in [top_category, subcategory, subtopic] {
        hasher.update(&(value.len() as u64).to_le_bytes()).update(value.as_bytes());
    }
    let digits: String = hasher.finalize().to_hex().chars().take(12).collect();
    format!("t-{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, StringArray};
    use std::sync::Arc;

    fn load(name: &str, text: impl AsRef<[u8]>) -> Result<Vec<Heading>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        load_table(&path).map_err(|error| {
            let message = error.to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
            message.replace(&format!("{}: ", path.display()), "")
        })
    }

    #[test]
    fn every_format_gives_the_same_headings() {
        let csv = "topic_id,top_category,subcategory,subtopic,notes\nb1,Cooking,Bread,\"Rye, dark\",x\n,Cooking , ,Soup,\n";
        let tsv = "subtopic\ttopic_id\ttop_category\tsubcategory\nRye, dark\tb1\tCooking\tBread\nSoup\t\tCooking\t\n";
        let jsonl = "{\"topic_id\":\"b1\",\"top_category\":\"Cooking\",\"subcategory\":\"Bread\",\"subtopic\":\"Rye, dark\"}\n\n{\"top_category\":\"Cooking\",\"subtopic\":\"Soup\",\"n\":1}\n";
        let toml = "[[topics]]\ntopic_id = \"b1\"\ntop_category = \"Cooking\"\nsubcategory = \"Bread\"\nsubtopic = \"Rye, dark\"\n[[topics]]\ntop_category = \"Cooking\"\nsubtopic = \"Soup\"\n";
        let expected = load("a.csv", csv).unwrap();
        assert_eq!((expected[0].topic_id().as_str(), expected[0].name().as_str()), ("b1", "Rye, dark"));
        assert!(expected[1].topic_id().starts_with("t-") && expected[1].topic_id().len() == 14);
        assert_eq!(load("a.csv", format!("\u{FEFF}{}", csv.replace('\n', "\r\n"))).unwrap(), expected);
        for (name, text) in [("a.tsv", tsv), ("a.jsonl", jsonl), ("a.toml", toml)] {
            assert_eq!(load(name, text).unwrap(), expected, "{name}");
        }
        let column = |values: [Option<&str>; 2]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("topic_id", column([Some("b1"), None]), true),
            ("top_category", column([Some("Cooking"); 2]), true),
            ("subcategory", column([Some("Bread"), None]), true),
            ("subtopic", column([Some("Rye, dark"), Some("Soup")]), true),
        ])
        .unwrap();
        assert_eq!(table_headings(Path::new("a.parquet"), &[batch]).unwrap(), expected);
    }

    #[test]
    fn each_mistake_is_named_with_its_place_and_mend() {
        let error = |name: &str, text: &str| load(name, text).unwrap_err();
        assert!(error("a.csv", "top_category,sub_topic\nA,B\n").contains("did you mean `subtopic`"));
        assert!(error("a.csv", "name\nA\n").contains("no column `top_category`; the columns are: name"));
        assert!(error("a.csv", "top_category\n").contains("no rows"));
        assert!(
            error("a.csv", "top_category,subtopic\nA,B\n,C\n")
                .starts_with("line 3: column `top_category` is empty")
        );
        assert!(error("a.csv", "top_category,subtopic\nA,B,C\n").starts_with("line 2: the row has 3 values"));
        assert!(error("a.csv", "top_category,subtopic\nA,B\nA,B\n").contains("stands in line 2 already"));
        assert!(error("a.csv", "top_category,topic_id\nA,x y\n").contains("line 2: column `topic_id`"));
        assert!(error("a.csv", &format!("top_category\n{}\n", "x".repeat(201))).contains("201 characters"));
        assert!(error("a.csv", "top_category\nA\u{1}\n").contains("control character"));
        let latin = load("a.csv", b"top_category,subtopic\nA,B\nA,\xe9\n").unwrap_err();
        assert!(latin.starts_with("line 3: the text is not UTF-8"), "{latin}");
        assert!(
            load("a.jsonl", b"{\"top_category\":\"A\"}\n\xff\n")
                .unwrap_err()
                .starts_with("line 2: the text is not UTF-8")
        );
        assert!(error("a.jsonl", "{\"top_category\":\"A\"}\n{\"top\n").starts_with("line 2: no JSON object"));
        assert!(error("a.jsonl", "{\"top_category\":3}\n").contains("column `top_category` is 3"));
        assert!(
            error("a.jsonl", "{\"category\":\"A\"}\n")
                .starts_with("line 1: column `category` is not read; did you mean `top_category`")
        );
        assert!(error("a.toml", "[[topic]]\ntop_category = \"A\"\n").contains("no [[topics]]"));
        assert!(error("a.toml", "[[topics]]\ntop_category = \n").starts_with("line 2"));
        assert!(error("a.xlsx", "").contains("has to end in"));
        assert!(load_table(Path::new("/no/topics.csv")).unwrap_err().to_string().contains("/no/topics.csv"));
    }
}
