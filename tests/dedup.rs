//! A dump after another: what an older one has is dropped from a newer one, and says why.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use serde_json::json;
use support::{digests, pipeline, query, run};

/// Pages of forty words each, all different but for the numbers given twice.
fn pages(numbers: impl IntoIterator<Item = usize>) -> String {
    let word = |n: usize| {
        let letters = blake3::hash(&n.to_le_bytes());
        letters.as_bytes()[..7].iter().map(|byte| char::from(b'a' + byte % 26)).collect::<String>()
    };
    let page = |n: usize| {
        let text: Vec<String> = (0..40).map(|at| word(40 * n + at)).collect();
        json!({"id": format!("p{n}"), "text": text.join(" "), "url": format!("https://a.org/{n}")})
            .to_string()
    };
    numbers.into_iter().map(page).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_newer_dump_loses_what_an_older_one_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file("one.jsonl", &pages(0..30));
    file("two.jsonl", &pages((20..50).chain([40])));
    file("three.jsonl", &pages(45..60));
    file(
        "old.toml",
        r#"
        name = "old"
        [stage.one]
        kind = "read"
        paths = ["${env:DUMPS}/one.jsonl"]
        [stage.one_dedup]
        kind = "minhash"
        input = "one"
        [stage.one_index]
        kind = "signature_index"
        input = "one_dedup"
        [stage.two]
        kind = "read"
        paths = ["${env:DUMPS}/two.jsonl"]
        [stage.two_dedup]
        kind = "minhash"
        inputs = { rows = "two", against = ["one_index"] }
        keep_dropped = true
        memory_bytes = 1000
        [stage.two_index]
        kind = "signature_index"
        input = "two_dedup"
        "#,
    );
    // Another workflow, which finds the indexes of the first by their folders.
    file(
        "new.toml",
        r#"
        name = "new"
        [stage.three]
        kind = "read"
        paths = ["${env:DUMPS}/three.jsonl"]
        [stage.three_dedup]
        kind = "minhash"
        input = "three"
        against_folders = ["${env:DUMPS}/runs/old/sample/one_index", "${env:DUMPS}/runs/old/sample/two_index"]
        keep_dropped = true
        "#,
    );
    let runs = folder.path().join("runs");
    let start = |workflow: &str| {
        let mut program = pipeline();
        program.env("DUMPS", folder.path());
        run(program.arg("run").arg(folder.path().join(workflow)).arg("--runs").arg(&runs))
    };
    let early = start("new.toml");
    assert_eq!(early.code, Some(2), "{}", early.err);
    assert!(early.err.contains("one_index") && early.err.contains("no finished stage"), "{}", early.err);

    let said = start("old.toml");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let two = runs.join("old/sample/two_dedup");
    let kept = query(&two, "SELECT count(*) AS n, min(id) AS first, max(id) AS last FROM data");
    assert_eq!(kept, [json!({"n": 20, "first": "p30", "last": "p49"})]);
    let lost = query(&two.join("dropped"), "SELECT id, reason, detail FROM data ORDER BY id");
    assert_eq!(lost.len(), 11);
    assert_eq!(
        lost[0],
        json!({"id": "p20", "reason": "exact_duplicate",
            "detail": "p20 of `one_index` is kept; estimated Jaccard similarity 1.00"})
    );
    assert_eq!(lost[10]["detail"], "p40 is kept; estimated Jaccard similarity 1.00");
    let spilled = digests(&runs.join("old/sample/.spill"));
    assert!(spilled.is_empty(), "{spilled:?}");

    let said = start("new.toml");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let three = runs.join("new/sample/three_dedup");
    assert_eq!(query(&three, "SELECT count(*) AS n FROM data"), [json!({"n": 10})]);
    let lost = query(&three.join("dropped"), "SELECT detail FROM data ORDER BY id");
    assert_eq!(lost[4]["detail"], "p49 of `two_index` is kept; estimated Jaccard similarity 1.00");
    assert!(start("new.toml").out.contains("nothing to do"));
}
