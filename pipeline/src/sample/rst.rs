//! reStructuredText to sections, by docutils in a child process.
//!
//! Measured on Django's documentation: the Rust crate `rst_parser` 0.4.2 cannot read 94 of 656 files and knows neither
//! Sphinx' directives nor its roles; docutils reads all of them, is the reference implementation, and is faster.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};

use super::SampleError;
use super::section::Section;
use super::titles::Titles;

const SCRIPT: &str = include_str!("rst_to_text.py");
/// Longest answer of the child, in bytes.
const ANSWER_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// What the child has to know before the first document; its first line on stdin.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Context<'a> {
    #[serde(flatten)]
    pub titles: &'a Titles,
    pub default_role: &'a str,
    pub math_dollar: bool,
    pub substitutions: Substitutions<'a>,
}

/// Texts that Sphinx puts in for `|version|` and its like.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Substitutions<'a> {
    pub version: &'a str,
    pub release: &'a str,
    pub today: &'a str,
}

#[derive(Serialize)]
struct Request<'a> {
    path: &'a str,
    text: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Sections(Vec<Section>),
    Error(String),
}

/// A running child; stopped when dropped.
pub(super) struct RstReader {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    wheel: PathBuf,
}

impl RstReader {
    /// Starts Python with the docutils wheel. Python runs isolated (`-I -S`): neither site packages nor
    /// `PYTHON…` variables change what comes out.
    pub fn start(wheel: &Path, context: &Context<'_>) -> Result<Self, SampleError> {
        let start = |program: &str| {
            Command::new(program)
                .args(["-I", "-S", "-B", "-X", "utf8", "-c", SCRIPT])
                .arg(wheel)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        };
        let mut child = start("python3")
            .or_else(|_| start("python"))
            .map_err(|source| SampleError::PythonMissing { source })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            child.kill().ok();
            return Err(SampleError::WorkerLost);
        };
        let mut reader = Self { child, input, output: BufReader::new(output), wheel: wheel.to_path_buf() };
        reader.send("the context", context)?;
        Ok(reader)
    }

    /// The sections of a document; the inner error is docutils' word on a document that it cannot read.
    pub fn sections(
        &mut self,
        document: &str,
        text: &str,
    ) -> Result<Result<Vec<Section>, String>, SampleError> {
        self.send(document, &Request { path: document, text })?;
        let mut line = Vec::new();
        let read = (&mut self.output).take(ANSWER_LIMIT_BYTES).read_until(b'\n', &mut line);
        match read {
            Ok(n) if n > 0 && line.ends_with(b"\n") => {}
            Ok(_) => return Err(self.failed(document, "it ended without an answer".into())),
            Err(error) => return Err(self.failed(document, error.to_string())),
        }
        match serde_json::from_slice(&line) {
            Ok(Answer::Sections(sections)) => Ok(Ok(sections)),
            Ok(Answer::Error(error)) => Ok(Err(error)),
            Err(error) => Err(self.failed(document, error.to_string())),
        }
    }

    fn send(&mut self, document: &str, value: &impl Serialize) -> Result<(), SampleError> {
        let mut line = match serde_json::to_vec(value) {
            Ok(line) => line,
            Err(error) => return Err(self.failed(document, error.to_string())),
        };
        line.push(b'\n');
        self.input.write_all(&line).map_err(|error| self.failed(document, error.to_string()))
    }

    /// An error with the last line of what the child said.
    fn failed(&mut self, document: &str, reason: String) -> SampleError {
        self.child.kill().ok();
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            stderr.take(64 * 1024).read_to_end(&mut said).ok();
        }
        let said = String::from_utf8_lossy(&said);
        let reason = match said.trim().lines().last() {
            Some(last) => format!("{reason} ({last})"),
            None => reason,
        };
        SampleError::Converter { document: document.to_owned(), wheel: self.wheel.clone(), reason }
    }
}

impl Drop for RstReader {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The docutils wheel among the assets, or `None` and a line that says so.
    pub(crate) fn wheel() -> Option<PathBuf> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set("CORPUSMITH_ASSETS")
            .or_else(|| set("HOME").map(|home| home.join(".cache/corpusmith/assets")))?;
        let wheel = folder.join("docutils-0.21.2-py3-none-any.whl");
        if !wheel.exists() {
            println!("skipped: {} is absent; run `pipeline assets pull docutils`", wheel.display());
            return None;
        }
        Some(wheel)
    }

    fn text_of(rst: &str, default_role: &str, math_dollar: bool) -> Option<String> {
        let wheel = wheel()?;
        let mut titles = Titles::default();
        titles.labels.insert("a label".into(), "A Title".into());
        titles.docs.insert("topics/other".into(), "The Other".into());
        let substitutions = Substitutions { version: "5.2", release: "5.2.1", today: "today" };
        let context = Context { titles: &titles, default_role, math_dollar, substitutions };
        let mut reader = RstReader::start(&wheel, &context).unwrap();
        let sections = reader.sections("topics/this", rst).unwrap().unwrap();
        Some(
            sections
                .iter()
                .map(|s| format!("{}{}\n{}", "#".repeat(s.depth + 1), s.title, s.text))
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }

    fn check(rst: &str, expected: &str) {
        if let Some(text) = text_of(rst, "", false) {
            assert_eq!(text, expected, "{rst}");
        }
    }

    #[test]
    fn sections_keep_their_nesting_and_anchors() {
        let Some(wheel) = wheel() else { return };
        let titles = Titles::default();
        let substitutions = Substitutions { version: "", release: "", today: "" };
        let context = Context { titles: &titles, default_role: "", math_dollar: false, substitutions };
        let mut reader = RstReader::start(&wheel, &context).unwrap();
        let rst = "Guide\n=====\n\nIntro.\n\nFirst *step*\n------------\n\nDo it.\n";
        let expected = [
            Section { depth: 0, anchor: "guide".into(), title: "Guide".into(), text: "Intro.".into() },
            Section {
                depth: 1,
                anchor: "first-step".into(),
                title: "First step".into(),
                text: "Do it.".into(),
            },
        ];
        // A document leaves nothing behind for the next one.
        for _ in 0..2 {
            assert_eq!(reader.sections("a", rst).unwrap().unwrap(), expected);
        }
    }

    #[test]
    fn a_label_of_the_titles_name_keeps_the_anchor() {
        let Some(wheel) = wheel() else { return };
        let titles = Titles::default();
        let substitutions = Substitutions { version: "", release: "", today: "" };
        let context = Context { titles: &titles, default_role: "", math_dollar: false, substitutions };
        let mut reader = RstReader::start(&wheel, &context).unwrap();
        let rst = ".. _all-views:\n\nAll views\n=========\n\nAs follows.::\n\n    x\n\nAll views\n=========\n\nB.\n";
        let sections = reader.sections("a", rst).unwrap().unwrap();
        let anchors: Vec<&str> = sections.iter().map(|section| section.anchor.as_str()).collect();
        assert_eq!(anchors, ["all-views", "all-views-2"]);
        assert_eq!(sections[0].text, "As follows.\n\n    x");
    }

    #[test]
    fn roles_become_words() {
        check(
            "T\n=\n\nSee :ref:`a label`, :doc:`other`, :doc:`/topics/other`, :ref:`this <x>`, :class:`~a.b.C`, \
             :meth:`.f`, :ticket:`12`, :pep:`8`, :nowhere:`x`, ``lit`` and |version| of |nothing|.\n",
            "#T\nSee A Title, The Other, The Other, this, C, f, #12, PEP 8, x, lit and 5.2 of nothing.",
        );
    }

    #[test]
    fn directives_leave_their_content_and_no_markup() {
        check(
            "T\n=\n\n.. toctree::\n   a\n   b\n\n.. note:: Take care\n   of it.\n\n.. versionadded:: 3.1\n\n   New.\n\n\
             .. code-block:: python\n   :linenos:\n\n   if x:\n       y()\n\n.. setting:: DEBUG\n\n.. function:: f(x)\n   \
             :async:\n\n   Does *it*.\n\n.. unheard-of:: Name\n   :opt: 1\n\n   Kept.\n\n.. raw:: html\n\n   <b>\n\n\
             .. image:: a.png\n",
            "#T\nNote: Take care of it.\n\nAdded in version 3.1: New.\n\n    if x:\n        y()\n\nDEBUG\n\nf(x)\n\n\
             Does it.\n\nName\n\nKept.",
        );
    }

    #[test]
    fn lists_tables_and_definitions_are_readable() {
        check(
            "T\n=\n\n* one\n* two\n\n  more\n\n1. first\n2. second\n\nterm\n    Its meaning.\n\n==  ==\na   b\n==  ==\n\
             1   2\n==  ==\n\n:Default: ``None``\n",
            "#T\n- one\n- two\n  more\n\n1. first\n2. second\n\nterm: Its meaning.\n\na | b\n1 | 2\n\nDefault: None",
        );
    }

    #[test]
    fn mathematics_keeps_its_backslashes() {
        let rst =
            "T\n=\n\nLet $\\alpha_1 \\in K$ and :math:`\\beta` or `x^2`.\n\n.. math::\n\n   \\frac{1}{2}\n";
        if let Some(text) = text_of(rst, "math", true) {
            assert_eq!(text, "#T\nLet $\\alpha_1 \\in K$ and $\\beta$ or $x^2$.\n\n$$\\frac{1}{2}$$");
        }
    }

    #[test]
    fn nothing_is_read_from_the_machine() {
        check(
            "T\n=\n\n.. include:: /etc/passwd\n\n.. literalinclude:: /etc/passwd\n\n.. csv-table::\n   :file: /etc/passwd\n\nEnd.\n",
            "#T\nEnd.",
        );
    }

    #[test]
    fn a_wheel_that_is_none_is_an_error_with_pythons_word() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("no.whl");
        let titles = Titles::default();
        let substitutions = Substitutions { version: "", release: "", today: "" };
        let context = Context { titles: &titles, default_role: "", math_dollar: false, substitutions };
        let result = RstReader::start(&wheel, &context).and_then(|mut reader| reader.sections("a", "text"));
        let error = result.unwrap_err();
        // The system may have its own docutils only outside of `-I`'s reach.
        if matches!(error, SampleError::PythonMissing { .. }) {
            return;
        }
        assert!(error.to_string().contains("no.whl"), "{error}");
    }
}
