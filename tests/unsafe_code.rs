//! SECURITY.md lists every file with unsafe code, and says why it is sound.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

/// Folders whose code is the repository's own.
const CODE: [&str; 10] =
    ["pipeline", "search", "classifiers", "synth", "model", "service", "net", "digests", "tests", "fuzz"];

/// Whether code, not a comment or a text, has the keyword. What is meant as text is in one line here.
fn has_unsafe(source: &str) -> bool {
    source.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        let outside: String = code.split('"').step_by(2).collect();
        outside.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
            && !line.trim_start().starts_with('"')
    })
}

fn visit(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            visit(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && has_unsafe(&std::fs::read_to_string(&path).unwrap())
        {
            found.insert(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
}

#[test]
fn unsafe_code_is_listed_with_its_reasons() {
    let root = support::repository();
    let mut found = BTreeSet::new();
    for folder in CODE {
        visit(&root.join(folder), &root, &mut found);
    }
    let security = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let (_, section) = security.split_once("## Unsafe code\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut listed = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "file, what, why: {row}");
        assert!(listed.insert(cells[0].trim_matches('`').to_owned()), "{} stands there twice", cells[0]);
    }
    let unlisted: Vec<_> = found.difference(&listed).collect();
    assert!(unlisted.is_empty(), "unsafe code that SECURITY.md does not list with its reasons: {unlisted:?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "SECURITY.md lists files without unsafe code: {gone:?}");
}

#[test]
fn only_the_keyword_counts() {
    assert!(has_unsafe("let map = unsafe { Mmap::map(&file) };"));
    assert!(has_unsafe("pub unsafe fn at()"));
    assert!(!has_unsafe("/// Kernels are `unsafe` to reach"));
    assert!(!has_unsafe("let policy = \u{22}style-src 'unsafe-inline'\u{22};"));
    assert!(!has_unsafe("let unsafe_op = 1;"));
}
