use std::io::Write;
use std::sync::Mutex;

use arrow::array::AsArray;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn record(kind: &str, id: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:{id}>\r\nWARC-Date: 2024-02-20T01:02:03Z\r\n\
         warc-target-uri: http://example.org/{id}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes
}

fn response(id: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut http = format!("HTTP/1.1 200 OK\r\n{headers}\r\n").into_bytes();
    http.extend_from_slice(body);
    record("response", id, &http)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What a file gives: id and text of its rows, what was dropped, what was damaged.
struct Seen {
    rows: Vec<(String, String)>,
    dropped: Vec<String>,
    damaged: Vec<String>,
}

impl Seen {
    fn ids(&self) -> Vec<&str> {
        self.rows.iter().map(|(id, _)| id.as_str()).collect()
    }
}

fn read(bytes: &[u8]) -> Seen {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.warc");
    std::fs::write(&path, bytes).unwrap();
    let kept = || Arc::new(Mutex::new(Vec::new()));
    let (dropped, damaged) = (kept(), kept());
    let sink = |kept: &Arc<Mutex<Vec<String>>>| -> RowSink {
        let kept = kept.clone();
        Arc::new(move |id, reason, detail| kept.lock().unwrap().push(format!("{id} {reason} {detail}")))
    };
    let sinks = Sinks { dropped: sink(&dropped), damaged: sink(&damaged) };
    let mut seen = Vec::new();
    for batch in rows(path.into(), sinks) {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        let (ids, texts) = (column("id"), column("text"));
        seen.extend((0..batch.num_rows()).map(|i| (ids.value(i).to_owned(), texts.value(i).to_owned())));
    }
    let taken = |kept: Arc<Mutex<Vec<String>>>| std::mem::take(&mut *kept.lock().unwrap());
    Seen { rows: seen, dropped: taken(dropped), damaged: taken(damaged) }
}

/// Five pages, between them records that are none.
fn pages() -> Vec<Vec<u8>> {
    let html = "content-type: text/html; charset=utf-8\r\n";
    let mut records = vec![record("warcinfo", "info", b"software: a crawler")];
    for page in 0..5 {
        records.push(record("request", &format!("q{page}"), b"GET / HTTP/1.1\r\n\r\n"));
        records.push(response(&format!("p{page}"), html, format!("<p>Page {page}, größer</p>").as_bytes()));
    }
    records
}

const ALL: [&str; 5] = ["<urn:p0>", "<urn:p1>", "<urn:p2>", "<urn:p3>", "<urn:p4>"];

#[test]
fn plain_and_gzipped_by_record_or_as_a_whole_are_the_same_pages() {
    let plain = pages().concat();
    let by_record: Vec<u8> = pages().iter().flat_map(|record| gzip(record)).collect();
    for bytes in [plain.clone(), by_record, gzip(&plain)] {
        let seen = read(&bytes);
        assert_eq!(seen.ids(), ALL);
        assert_eq!(seen.rows[3].1, "<p>Page 3, größer</p>");
        assert!(seen.damaged.is_empty() && seen.dropped.is_empty(), "{:?}", seen.damaged);
    }
}

#[test]
fn a_damaged_record_is_named_by_its_offset_and_the_others_are_read() {
    let members: Vec<Vec<u8>> = pages().iter().map(|record| gzip(record)).collect();
    // The member of page 2, in its middle.
    let before: usize = members[..6].iter().map(Vec::len).sum();
    let mut bytes = members.concat();
    let middle = before + members[6].len() / 2;
    bytes[middle] ^= 0xff;
    bytes[middle + 1] ^= 0xff;
    let seen = read(&bytes);
    assert_eq!(seen.ids(), ["<urn:p0>", "<urn:p1>", "<urn:p3>", "<urn:p4>"]);
    assert_eq!(seen.damaged.len(), 1, "{:?}", seen.damaged);
    assert!(seen.damaged[0].contains(&format!("a.warc:{before} damaged_record")), "{:?}", seen.damaged);
}

#[test]
fn headers_without_sense_cost_one_record() {
    for wrong in ["Content-Length: many", "WARC-Type response"] {
        let mut records = pages();
        let text = String::from_utf8(records[4].clone()).unwrap();
        let line = if wrong.starts_with("Content") { "Content-Length: " } else { "WARC-Type: response" };
        let line = text.lines().find(|found| found.starts_with(line)).unwrap();
        records[4] = text.replace(line, wrong).into_bytes();
        let offset: usize = records[..4].iter().map(Vec::len).sum();
        let seen = read(&records.concat());
        assert_eq!(seen.ids(), ["<urn:p0>", "<urn:p2>", "<urn:p3>", "<urn:p4>"], "{wrong}");
        assert!(seen.damaged[0].contains(&format!("a.warc:{offset} ")), "{:?}", seen.damaged);
    }
}

#[test]
fn a_file_that_was_cut_gives_what_is_whole() {
    let plain = pages().concat();
    let by_record: Vec<u8> = pages().iter().flat_map(|record| gzip(record)).collect();
    for bytes in [plain, by_record] {
        let seen = read(&bytes[..bytes.len() - 30]);
        assert_eq!(seen.ids(), ALL[..4]);
        assert_eq!(seen.damaged.len(), 1, "{:?}", seen.damaged);
    }
}

#[test]
fn other_answers_than_pages_are_dropped_with_a_reason() {
    let records = [
        record("response", "moved", b"HTTP/1.1 301 Moved\r\n\r\n"),
        response("image", "Content-Type: image/png\r\n", b"\x89PNG"),
        response("empty", "Content-Type: text/html\r\n", b"  \n"),
        record("response", "no", b"gopher"),
    ];
    let seen = read(&records.concat());
    assert!(seen.rows.is_empty());
    let reasons: Vec<&str> = seen.dropped.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(reasons, ["http_status", "not_text", "empty", "not_http"]);
}

#[test]
fn encodings_of_texts_and_bodies_are_undone() {
    let latin = "<p>caf\u{e9}</p>".chars().map(|c| c as u8).collect::<Vec<u8>>();
    let meta = [b"<meta charset=\"windows-1251\"><p>".as_slice(), b"\xcf\xf0\xe8\xe2\xe5\xf2</p>"].concat();
    let chunked = b"4\r\n<p>W\r\n8\r\nikis</p>\r\n0\r\n\r\n";
    let records = [
        response("latin", "Content-Type: text/html; charset=ISO-8859-1\r\n", &latin),
        response("meta", "Content-Type: text/html\r\n", &meta),
        response("chunked", "Transfer-Encoding: chunked\r\n", chunked),
        response("joined", "Transfer-Encoding: chunked\r\n", b"<p>as crawled</p>"),
        response("gzip", "Content-Encoding: gzip\r\n", &gzip(b"<p>small</p>")),
        record("conversion", "wet", "Plain text, schön.".as_bytes()),
    ];
    let seen = read(&records.concat());
    let texts: Vec<&str> = seen.rows.iter().map(|(_, text)| text.as_str()).collect();
    let russian = "<meta charset=\"windows-1251\"><p>Привет</p>";
    let expected = [
        "<p>caf\u{e9}</p>",
        russian,
        "<p>Wikis</p>",
        "<p>as crawled</p>",
        "<p>small</p>",
        "Plain text, schön.",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn a_dump_is_known_by_its_folder() {
    let dump = |path: &str| dump_of(Path::new(path));
    assert_eq!(dump("crawl-data/CC-MAIN-2024-10/segments/1/a.warc.gz").as_deref(), Some("CC-MAIN-2024-10"));
    assert_eq!(dump("CC-MAIN-2024/a.warc.gz"), None);
}

proptest::proptest! {
    /// No damage makes the reader panic or lose pages before it.
    #[test]
    fn any_bytes_are_survived(at in 0usize..3000, value: u8, cut in 0usize..3000, gzipped: bool) {
        let mut bytes: Vec<u8> = match gzipped {
            true => pages().iter().flat_map(|record| gzip(record)).collect(),
            false => pages().concat(),
        };
        let (at, cut) = (at % bytes.len(), cut % bytes.len());
        bytes[at] = value;
        bytes.truncate(cut);
        let seen = read(&bytes);
        proptest::prop_assert!(seen.rows.len() <= 6);
    }
}
