//! A user's own pages, dumps and topics.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use serde_json::{Value as Json, json};
use support::{pipeline, query, run};

/// Pages about a few subjects, numbered from `first`.
fn pages(first: usize, pages: usize) -> String {
    let subjects = ["baking bread with sourdough", "sharp knives and whetstones", "the roots of old trees"];
    let page = |number: usize| {
        let subject = subjects[number % subjects.len()];
        json!({
            "id": format!("p{number}"), "url": format!("https://site{}.org/{number}", number % 2),
            "text": format!("Page {number} tells of {subject}. It is written for people who like {subject}."),
            "language": if number % 4 == 3 { "de" } else { "en" },
            "language_score": 0.9, "token_count": 20 + number as i64,
        })
        .to_string()
    };
    (first..first + pages).map(page).collect::<Vec<_>>().join("\n")
}

#[test]
fn two_dumps_are_searched_as_one_for_the_topics_of_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    // The second dump repeats three pages of the first.
    file("old.jsonl", &pages(0, 12));
    file("new.jsonl", &pages(9, 12));
    file("topics.csv", "top_category,subtopic\nCooking,Baking bread\nTools,\"Knives, sharp\"\n");
    file(
        "w.toml",
        r#"
        name = "own"
        [stage.old]
        kind = "read"
        paths = ["${env:OWN}/old.jsonl"]
        [stage.new]
        kind = "read"
        paths = ["${env:OWN}/new.jsonl"]
        [stage.topics]
        kind = "topics"
        tables = ["${env:OWN}/topics.csv"]
        [stage.old_index]
        kind = "index"
        input = "old"
        shards = 2
        [stage.new_index]
        kind = "index"
        input = "new"
        shards = 1
        [stage.seeds]
        kind = "retrieve"
        inputs = { topics = "topics", index = ["old_index", "new_index"], pages = ["old", "new"] }
        pages_per_topic = 20
        filters = { languages = ["en"], max_tokens = 38 }
        "#,
    );
    let runs = folder.path().join("runs");
    let program = || {
        let mut program = pipeline();
        program.env("OWN", folder.path());
        program
    };
    let said = run(program().arg("run").arg(folder.path().join("w.toml")).arg("--runs").arg(&runs));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let seeds = runs.join("own/sample/seeds");
    let sql = "SELECT topic_id, doc_id, token_count FROM data ORDER BY topic_id, rank";
    let rows = query(&seeds, sql);
    // Pages 0, 3, …, 18 tell of bread; 3 and 15 are German. Page 9 and 12 stand in one dump only or in
    // both, and count once.
    let topic = &rows.iter().find(|row| row["doc_id"] == "p0").unwrap()["topic_id"];
    let mut bread: Vec<&str> = rows
        .iter()
        .filter(|row| row["topic_id"] == *topic)
        .map(|row| row["doc_id"].as_str().unwrap())
        .collect();
    bread.sort_unstable();
    assert_eq!(bread, ["p0", "p12", "p18", "p6", "p9"], "{rows:?}");
    assert!(rows.iter().all(|row| row["token_count"].as_i64().unwrap() <= 38), "{rows:?}");

    let index = |stage: &str| runs.join("own/sample").join(stage);
    let found = run(program()
        .args(["search", "whetstone", "-k", "3", "--language", "en", "--json", "--index"])
        .arg(index("old_index"))
        .arg("--index")
        .arg(index("new_index")));
    assert_eq!(found.code, Some(0), "{}", found.err);
    assert_eq!(found.out.lines().count(), 3, "{}", found.out);
    assert!(found.out.contains("**whetstones**"), "{}", found.out);
}

const GOOD_PAGE: &str = "\
The harbour of our town was built by two brothers who had come from the north to trade in salt and wool.
Their first ship sank within a year, and the second one was sold to pay for the loss.
In the end they turned to building boats, which they knew how to do better than anyone else on the coast.
One of these boats still lies in the museum, where visitors may walk on its deck.
Write to curator@museum.org if you want to have a guided tour of the exhibition.
Children are welcome on every day but Monday.";

#[test]
fn a_raw_dump_is_cleaned_as_fineweb_is() {
    let folder = tempfile::tempdir().unwrap();
    let page = |id: &str, url: &str, text: &str| json!({"id": id, "url": url, "text": text}).to_string();
    let other = "https://example.com/page";
    let german = "Der Hafen unserer Stadt wurde von zwei Brüdern gebaut, die aus dem Norden gekommen waren.";
    let pages = [
        page("good", other, GOOD_PAGE),
        page("casino", "https://example.com/best-casino", GOOD_PAGE),
        page("german", other, german),
        page("repeated", other, &format!("{GOOD_PAGE}\n{GOOD_PAGE}")),
        page("short", other, &GOOD_PAGE.lines().take(2).collect::<Vec<_>>().join(" ")),
        page("code", other, &format!("{GOOD_PAGE}\nThe loop ends with {{ and so on.")),
        page("unended", other, &GOOD_PAGE.replace(".\n", "\n").replace("Monday.", "Monday")),
        page("again", other, GOOD_PAGE),
    ];
    let dump = folder.path().join("dump.jsonl");
    std::fs::write(&dump, pages.join("\n")).unwrap();
    let workflow = support::repository().join("workflows/fineweb.toml");
    let read = format!("stage.dump={{ kind = \"read\", paths = [\"{}\"] }}", dump.display());
    let said = run(pipeline().arg("run").arg(workflow).args(["--set", &read, "--runs"]).arg(folder.path()));
    assert_eq!(said.code, Some(0), "{}", said.err);

    let stages = folder.path().join("fineweb/sample");
    for (stage, reason) in [
        ("url_filter", "hard_blacklisted"),
        ("language", "language"),
        ("gopher_repetition", "dup_line_frac"),
        ("gopher_quality", "gopher_short_doc"),
        ("c4_quality", "curly_bracket"),
        ("fineweb_quality", "line_punct_ratio"),
        ("minhash", "exact_duplicate"),
    ] {
        let manifest = std::fs::read(stages.join(stage).join("manifest.json")).unwrap();
        let manifest: Json = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["dropped"], json!({reason: 1}), "{stage}");
    }
    let sql = "SELECT id, text, language FROM data";
    let rows = query(&stages.join("clean"), sql);
    let text = GOOD_PAGE.replace("curator@museum.org", "email@example.com");
    assert_eq!(rows, [json!({"id": "good", "text": text, "language": "en"})]);
}

/// An HTTP response as a record of a WARC file.
fn record(number: usize, mime_type: &str, body: &str) -> String {
    let http = format!("HTTP/1.1 200 OK\r\nContent-Type: {mime_type}\r\n\r\n{body}");
    format!(
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n\
         WARC-Target-URI: https://example.com/{number}\r\nContent-Type: application/http; msgtype=response\r\n\
         Content-Length: {}\r\n\r\n{http}\r\n\r\n",
        http.len()
    )
}

#[test]
fn a_crawl_becomes_clean_text() {
    let folder = tempfile::tempdir().unwrap();
    let paragraphs: String = GOOD_PAGE.lines().map(|line| format!("<p>{line}</p>")).collect();
    let page = |main: &str| {
        format!(
            "<html><head><title>x</title></head><body><nav><a href='/'>Home</a><a href='/b'>Shop</a></nav>\
             <article>{main}</article><footer>All rights reserved by us and our partners.</footer></body></html>"
        )
    };
    let crawl = [
        record(1, "text/html; charset=utf-8", &page(&paragraphs)),
        record(2, "image/png", "no page"),
        record(3, "text/html", &page("<p>Short.</p>")),
    ];
    let crawl_path = folder.path().join("crawl.warc");
    std::fs::write(&crawl_path, crawl.concat()).unwrap();
    let mut program = pipeline();
    program.env("DUMP", &crawl_path).arg("run").arg(support::repository().join("workflows/fineweb.toml"));
    let said = run(program.args(["--profile", "warc", "--runs"]).arg(folder.path()));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let rows = query(&folder.path().join("fineweb/warc/clean"), "SELECT id, text FROM data");
    let text = GOOD_PAGE.replace("curator@museum.org", "email@example.com");
    assert_eq!(rows, [json!({"id": "<urn:uuid:1>", "text": text})]);
}

#[test]
fn token_files_of_other_programs_come_in_as_the_shards_they_were_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    std::fs::write(folder.path().join("pages.jsonl"), pages(0, 40)).unwrap();
    let first_half = r#"
        [stage.pages]
        kind = "read"
        paths = ["${env:OWN}/pages.jsonl"]
        [stage.corpus]
        kind = "mix"
        inputs = { sources = ["pages"] }
        [stage.corpus.subsets]
        web = { stage = "pages" }
        [stage.tokenizer]
        kind = "tokenizer"
        input = "corpus"
        vocab_size = 400
    "#;
    let run_workflow = |name: &str, rest: &str| {
        let path = folder.path().join(format!("{name}.toml"));
        std::fs::write(&path, format!("name = \"{name}\"\n{first_half}\n{rest}")).unwrap();
        run(pipeline().arg("run").arg(path).arg("--runs").arg(&runs).env("OWN", folder.path()))
    };
    let packed = run_workflow(
        "there",
        "[stage.tokens]\nkind = \"pack\"\nalso = [\"datatrove\", \"megatron\"]\n\
         inputs = { corpus = \"corpus\", tokenizer = \"tokenizer\" }\n",
    );
    assert_eq!(packed.code, Some(0), "{}", packed.err);
    let shards = runs.join("there/sample/tokens/web");
    let import = |files: &str| {
        format!(
            "[stage.tokens]\nkind = \"import_tokens\"\ninput = \"tokenizer\"\n[stage.tokens.subsets]\nweb = [{files:?}]\n"
        )
    };
    for (name, file) in
        [("of_datatrove", "datatrove/tokens-00000.ds"), ("of_megatron", "megatron/tokens-00000.bin")]
    {
        let said = run_workflow(name, &import(&shards.join(file).display().to_string()));
        assert_eq!(said.code, Some(0), "{}", said.err);
        let taken_in = std::fs::read(runs.join(name).join("sample/tokens/web/tokens-00000.bin")).unwrap();
        assert!(taken_in == std::fs::read(shards.join("tokens-00000.bin")).unwrap(), "{name}");
    }
    std::fs::remove_file(shards.join("megatron/tokens-00000.idx")).unwrap();
    let said =
        run_workflow("broken", &import(&shards.join("megatron/tokens-00000.bin").display().to_string()));
    assert!(said.code == Some(2) && said.err.contains("tokens-00000.idx"), "{:?} {}", said.code, said.err);
}
