//! The BISAC subject headings, from which topics start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::heading::{Heading, Origin};

/// Why the headings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BisacError {
    /// The file cannot be read.
    #[error("{path}: cannot be read ({source}): it is data/bisac.json of the npm package subjects-utils 0.0.2; fetch the assets again", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not the list of codes and labels.
    #[error("{path}:{line}: {what}: expected a JSON list of {{\"code\": \"COM000000\", \"label\": \"COMPUTERS / General\"}}; fetch the assets again", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line, from 1, or the entry where there are no lines.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A category that does not exist was asked for.
    #[error("there is no top category `{name}`; did you mean `{nearest}`? All: {known}")]
    UnknownCategory {
        /// The name asked for.
        name: String,
        /// The one spelled most alike.
        nearest: String,
        /// All of them.
        known: String,
    },
}

#[derive(Deserialize)]
struct Entry {
    code: String,
    label: String,
}

/// The headings of the two top categories that the file lacks. With them there are 51, as in the SmolLM blog
/// post (BISAC, edition of 2009; of Bibles the general one, since the others are translations).
const MISSING: [(&str, &str, &str); 20] = [
    ("BIB000000", "BIBLES", "General"),
    ("DES000000", "DESIGN", "General"),
    ("DES001000", "DESIGN", "Book"),
    ("DES002000", "DESIGN", "Clip Art"),
    ("DES003000", "DESIGN", "Decorative Arts"),
    ("DES004000", "DESIGN", "Essays"),
    ("DES005000", "DESIGN", "Fashion"),
    ("DES006000", "DESIGN", "Furniture"),
    ("DES007000", "DESIGN", "Graphic Arts / General"),
    ("DES007010", "DESIGN", "Graphic Arts / Advertising"),
    ("DES007020", "DESIGN", "Graphic Arts / Branding & Logo Design"),
    ("DES007030", "DESIGN", "Graphic Arts / Commercial & Corporate"),
    ("DES007040", "DESIGN", "Graphic Arts / Illustration"),
    ("DES007050", "DESIGN", "Graphic Arts / Typography"),
    ("DES008000", "DESIGN", "History & Criticism"),
    ("DES009000", "DESIGN", "Industrial"),
    ("DES010000", "DESIGN", "Interior Decorating"),
    ("DES011000", "DESIGN", "Product"),
    ("DES012000", "DESIGN", "Reference"),
    ("DES013000", "DESIGN", "Textile & Costume"),
];

/// Reads `bisac.json` of the npm package `subjects-utils` 0.0.2 (Apache-2.0; 3,203 headings) and adds the two top
/// categories that it lacks, in the order of the codes. Notes such as `(see also …)` and the marker ` *` are no
/// part of a label.
///
/// # Errors
/// [`BisacError`] naming file and line.
pub fn load_bisac(path: &Path) -> Result<Vec<Heading>, BisacError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| BisacError::Read { path: path.to_path_buf(), source })?;
    let mut topics = parse_bisac(path, &text)?;
    let there: BTreeSet<String> = topics.iter().map(|topic| topic.top_category.clone()).collect();
    let missing = MISSING.iter().filter(|(_, top_category, _)| !there.contains(*top_category));
    topics.extend(missing.map(|(code, top_category, subcategory)| Heading {
        code: (*code).to_owned(),
        top_category: (*top_category).to_owned(),
        subcategory: (*subcategory).to_owned(),
        subtopic: String::new(),
        origin: Origin::Bisac,
    }));
    topics.sort_by(|a, b| a.code.cmp(&b.code));
    Ok(topics)
}

/// The headings in the text of such a file; `path` stands in errors.
///
/// # Errors
/// [`BisacError::Format`].
pub fn parse_bisac(path: &Path, text: &str) -> Result<Vec<Heading>, BisacError> {
    let format = |line: usize, what: String| BisacError::Format { path: path.to_path_buf(), line, what };
    let entries: Vec<Entry> = serde_json::from_str(text).map_err(|e| format(e.line(), e.to_string()))?;
    let mut topics = BTreeMap::new();
    for (i, entry) in entries.into_iter().enumerate() {
        let code = entry.code.trim().to_string();
        let is_code = code.len() == 9
            && code.bytes().take(3).all(|b| b.is_ascii_uppercase())
            && code.bytes().skip(3).all(|b| b.is_ascii_digit());
        if !is_code {
            return Err(format(
                i + 1,
                format!("entry {}: code `{code}` is not three letters and six digits", i + 1),
            ));
        }
        let label = without_notes(&entry.label);
        let (top_category, subcategory) = label.split_once(" / ").unwrap_or((label.as_str(), ""));
        if top_category.is_empty() {
            return Err(format(i + 1, format!("entry {}: the label of {code} is empty", i + 1)));
        }
        let topic = Heading {
            code: code.clone(),
            top_category: top_category.to_string(),
            subcategory: subcategory.to_string(),
            subtopic: String::new(),
            origin: Origin::Bisac,
        };
        if topics.insert(code.clone(), topic).is_some() {
            return Err(format(i + 1, format!("entry {}: code {code} stands twice", i + 1)));
        }
    }
    Ok(topics.into_values().collect())
}

/// The headings of the named top categories (any case), or all when none is named.
///
/// # Errors
/// [`BisacError::UnknownCategory`] with the nearest name.
pub fn select(topics: &[Heading], categories: &[String]) -> Result<Vec<Heading>, BisacError> {
    let known: BTreeSet<&str> = topics.iter().map(|t| t.top_category.as_str()).collect();
    for name in categories {
        if !known.iter().any(|k| k.eq_ignore_ascii_case(name.trim())) {
            let nearest = known.iter().max_by(|a, b| likeness(a, name).total_cmp(&likeness(b, name)));
            return Err(BisacError::UnknownCategory {
                name: name.clone(),
                nearest: nearest.copied().unwrap_or_default().to_string(),
                known: known.into_iter().collect::<Vec<_>>().join(", "),
            });
        }
    }
    let wanted = |t: &&Heading| {
        categories.is_empty() || categories.iter().any(|c| c.trim().eq_ignore_ascii_case(&t.top_category))
    };
    Ok(topics.iter().filter(wanted).cloned().collect())
}

/// The share of letter pairs that two names have in common.
pub(super) fn likeness(a: &str, b: &str) -> f64 {
    let pairs = |s: &str| {
        let chars: Vec<char> = s.to_lowercase().chars().collect();
        chars.windows(2).map(|w| (w[0], w[1])).collect::<BTreeSet<_>>()
    };
    let (a, b) = (pairs(a), pairs(b));
    2.0 * a.intersection(&b).count() as f64 / (a.len() + b.len()).max(1) as f64
}

fn without_notes(label: &str) -> String {
    let mut kept = String::new();
    let mut rest = label;
    while let Some(start) = rest.find("(see") {
        kept.push_str(&rest[..start]);
        rest = rest[start..].find(')').map_or("", |end| &rest[start + end + 1..]);
    }
    kept.push_str(rest);
    kept.replace('*', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"[
        {"code": "COM051010", "label": "COMPUTERS / Programming Languages / C"},
        {"code": "BUS090000", "label": "BUSINESS & ECONOMICS / E-Commerce / General (see also COMPUTERS / Electronic Commerce)"},
        {"code": "COM000000", "label": "COMPUTERS / General"},
        {"code": "TRV030000", "label": "TRAVEL / Resorts & Spas *"},
        {"code": "NON000000", "label": "NON-CLASSIFIABLE"}
    ]"#;

    fn small() -> Vec<Heading> {
        parse_bisac(Path::new("bisac.json"), SMALL).unwrap()
    }

    #[test]
    fn labels_are_split_cleaned_and_ordered_by_code() {
        let rows: Vec<_> = small()
            .iter()
            .map(|t| (t.code.clone(), t.top_category.clone(), t.subcategory.clone(), t.name()))
            .collect();
        let row =
            |a: &str, b: &str, c: &str, d: &str| (a.to_string(), b.to_string(), c.to_string(), d.to_string());
        assert_eq!(
            rows,
            [
                row("BUS090000", "BUSINESS & ECONOMICS", "E-Commerce / General", "E-Commerce"),
                row("COM000000", "COMPUTERS", "General", "Computers"),
                row("COM051010", "COMPUTERS", "Programming Languages / C", "C"),
                row("NON000000", "NON-CLASSIFIABLE", "", "Non-Classifiable"),
                row("TRV030000", "TRAVEL", "Resorts & Spas", "Resorts & Spas"),
            ]
        );
    }

    #[test]
    fn categories_are_chosen_in_any_case_and_misspellings_are_met() {
        assert_eq!(select(&small(), &["computers".into()]).unwrap().len(), 2);
        assert_eq!(select(&small(), &[]).unwrap().len(), 5);
        let error = select(&small(), &["Computer Science".into()]).unwrap_err().to_string();
        assert!(error.contains("did you mean `COMPUTERS`"), "{error}");
    }

    #[test]
    fn a_foreign_file_is_refused_with_its_line() {
        let error = |text: &str| parse_bisac(Path::new("b.json"), text).unwrap_err().to_string();
        assert!(error("[\n{\"code\": 1}]").starts_with("b.json:2:"));
        assert!(error(r#"[{"code": "com1", "label": "X"}]"#).contains("entry 1: code `com1`"));
        assert!(
            error(r#"[{"code": "COM000000", "label": "X"}, {"code": "COM000000", "label": "X"}]"#)
                .contains("stands twice")
        );
        assert!(load_bisac(Path::new("/no/bisac.json")).unwrap_err().to_string().contains("/no/bisac.json"));
    }

    #[test]
    fn with_the_published_file_there_are_51_top_categories() {
        let dir = std::env::var_os("CORPUSMITH_ASSETS").map(PathBuf::from).or_else(|| {
            std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/corpusmith/assets"))
        });
        let path = dir.unwrap_or_default().join("bisac.json");
        if !path.exists() {
            println!("skipped: {} is absent; `pipeline assets pull` fetches it", path.display());
            return;
        }
        let topics = load_bisac(&path).unwrap();
        assert_eq!(topics.len(), 3203 + MISSING.len());
        assert!(topics.is_sorted_by(|a, b| a.code < b.code));
        let categories: BTreeSet<_> = topics.iter().map(|t| &t.top_category).collect();
        // As the SmolLM blog post counts.
        assert_eq!(categories.len(), 51);
        for topic in &topics {
            let has_note = topic.subcategory.contains('*') || topic.subcategory.contains("(see");
            assert!(!topic.name().is_empty() && !has_note, "{topic:?}");
        }
    }
}
