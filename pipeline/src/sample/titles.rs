//! What cross-references in a documentation are called: the titles behind its labels and documents.
//!
//! A reference names a label (`:ref:`, `{ref}`) or a document (`:doc:`) and is shown by its title, which may stand in
//! any file; so titles are gathered before a file is turned to text.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;

use super::archive::SourceFile;
use super::package::DocSet;

/// Titles by label (lower case) and by document name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Titles {
    pub labels: BTreeMap<String, String>,
    pub docs: BTreeMap<String, String>,
}

/// A pattern of this file; a wrong one would be found by any test.
fn pattern(text: &str) -> Regex {
    #[allow(clippy::expect_used, reason = "the pattern is a constant")]
    Regex::new(text).expect("a valid pattern")
}

static RST_LABEL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\.\. _(?:`([^`]+)`|([^:`_][^:]*)):\s*$"));
static MYST_LABEL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\(([^()\s]+)\)=\s*$"));
static MARKDOWN_TITLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^#{1,6}\s+(.+?)\s*#*\s*$"));
static ROLE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?::[\w:+-]+:|\{[\w:+-]+\})`([~!.]?)([^`<]*?)(?:\s*<[^`>]*>)?`"));

impl Titles {
    /// Gathers the titles of every file.
    pub fn gather(files: &[SourceFile], docs: &DocSet) -> Self {
        let mut out = Self::default();
        for file in files {
            let document = docs.document(&file.path);
            out.add(document, &file.text);
        }
        out
    }

    fn add(&mut self, document: &str, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        let mut labels: Vec<String> = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            let label = RST_LABEL.captures(line).or_else(|| MYST_LABEL.captures(line));
            if let Some(found) = label.and_then(|found| found.get(1).or_else(|| found.get(2))) {
                labels.push(found.as_str().split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
                continue;
            }
            let line = line.trim_end();
            let next = lines.get(i + 1).map_or("", |next| next.trim_end());
            // An empty line or the line above a title keeps the labels waiting.
            if line.is_empty() || is_rule(line) {
                continue;
            }
            let title = match MARKDOWN_TITLE.captures(line).and_then(|found| found.get(1)) {
                Some(title) => Some(title.as_str()),
                None => (is_rule(next) && next.chars().count() + 1 >= line.trim().chars().count())
                    .then_some(line.trim()),
            };
            if let Some(title) = title {
                let title = plain(title);
                self.docs.entry(document.to_owned()).or_insert_with(|| title.clone());
                for label in labels.drain(..) {
                    self.labels.entry(label).or_insert_with(|| title.clone());
                }
            }
            labels.clear();
        }
    }

    /// The text a role shows: its own title, the title of what it refers to, or the name without the signs that steer
    /// the look-up. (The Python side does the same for reStructuredText.)
    pub fn shown(&self, role: &str, content: &str, document: &str) -> String {
        if matches!(role, "math" | "code" | "samp" | "file" | "kbd") {
            return content.to_owned();
        }
        let given =
            content.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')).map(|(title, _)| title.trim());
        if let Some(title) = given.filter(|title| !title.is_empty()) {
            return title.to_owned();
        }
        let target = content.trim();
        match role {
            "ref" | "numref" => {
                let key = target.to_lowercase();
                self.labels.get(&key).cloned().unwrap_or_else(|| target.replace('-', " "))
            }
            "doc" => {
                let key = resolve(document, target);
                let name = target.rsplit('/').next().unwrap_or(target);
                self.docs.get(&key).cloned().unwrap_or_else(|| name.replace('-', " "))
            }
            "pep" => format!("PEP {target}"),
            "rfc" => format!("RFC {target}"),
            _ => match target.strip_prefix('~') {
                Some(name) => name.rsplit('.').next().unwrap_or(name).to_owned(),
                None => target.trim_start_matches(['!', '.']).to_owned(),
            },
        }
    }
}

/// A line of one punctuation mark, as stands under a title.
fn is_rule(line: &str) -> bool {
    let mut chars = line.chars();
    let Some(first) = chars.next() else {
        return false;
    };
    first.is_ascii_punctuation() && line.len() >= 3 && chars.all(|c| c == first)
}

/// A title without its markup.
fn plain(title: &str) -> String {
    let named = ROLE.replace_all(title, |found: &regex::Captures<'_>| {
        let name = found.get(2).map_or("", |name| name.as_str());
        match found.get(1).map(|sign| sign.as_str()) {
            Some("~") => name.rsplit('.').next().unwrap_or(name).to_owned(),
            _ => name.to_owned(),
        }
    });
    named.replace(['`', '\\'], "").replace("**", "")
}

/// The name of the document that `target` means when it stands in `document`.
fn resolve(document: &str, target: &str) -> String {
    let target = target.trim_end_matches(".md").trim_end_matches(".rst");
    let mut parts: Vec<&str> = Vec::new();
    if !target.starts_with('/') {
        parts.extend(document.split('/'));
        parts.pop();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles() -> Titles {
        let mut titles = Titles::default();
        let rst = ".. _top:\n.. _`other name`:\n\n=====\nGuide\n=====\n\ntext\n\n.. _inner:\n\n``x`` and :class:`~a.b.C`\n\
                   -------------------------\n\n.. _lost:\n\nno title\n";
        titles.add("topics/guide", rst);
        titles.add("how", "(md-label)=\n\n# How {func}`~.solve` works #\n\nText\n\n## Next\n");
        titles
    }

    #[test]
    fn labels_and_documents_get_their_titles() {
        let titles = titles();
        let label = |name: &str| titles.labels.get(name).map(String::as_str);
        assert_eq!(label("top"), Some("Guide"));
        assert_eq!(label("other name"), Some("Guide"));
        assert_eq!(label("inner"), Some("x and C"));
        assert_eq!(label("lost"), None);
        assert_eq!(label("md-label"), Some("How solve works"));
        assert_eq!(titles.docs.get("topics/guide").map(String::as_str), Some("Guide"));
        assert_eq!(titles.docs.get("how").map(String::as_str), Some("How solve works"));
    }

    #[test]
    fn roles_show_what_a_reader_sees() {
        let titles = titles();
        for (role, content, shown) in [
            ("ref", "inner", "x and C"),
            ("ref", "our text <inner>", "our text"),
            ("ref", "no-such-label", "no such label"),
            ("doc", "guide", "Guide"),
            ("doc", "/topics/guide", "Guide"),
            ("doc", "../how", "How solve works"),
            ("func", "~sympy.solvers.solve", "solve"),
            ("class", "!Symbol", "Symbol"),
            ("pep", "8", "PEP 8"),
            ("math", "a < b >", "a < b >"),
        ] {
            assert_eq!(titles.shown(role, content, "topics/here"), shown, "{role} {content}");
        }
    }
}
