use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;

use super::super::testing;
use super::*;

async fn read(
    config: &ReadConfig,
) -> Result<(Vec<RecordBatch>, Vec<crate::runner::ledger::LostRow>), StageError> {
    let ctx = testing::context();
    let mut rows = Vec::new();
    for task in config.tasks(&ctx).await?.unwrap() {
        let inputs = Inputs::new(Default::default(), Default::default());
        let frame = config.plan(&ctx, &task, &inputs).await?;
        rows.extend(frame.collect().await.map_err(|error| ctx.plan_error(&error))?);
    }
    Ok((rows, ctx.ledger.quarantined()))
}

fn config(path: &Path) -> ReadConfig {
    ReadConfig {
        paths: vec![path.display().to_string()],
        columns: Vec::new(),
        rename: BTreeMap::new(),
        piece_bytes: default_piece_bytes(),
        expected_rows: None,
    }
}

#[tokio::test]
async fn bad_lines_are_set_aside_with_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, b"{\"id\":\"a\",\"n\":1}\n\xff\xfe\n{\"id\":\n{\"id\":\"b\",\"n\":\"x\"}\n\n[1]\n{\"id\":\"c\",\"n\":3}\n").unwrap();
    let (rows, bad) = read(&config(&path)).await.unwrap();
    // A column that is a number in one line and a text in another is read as text by inference,
    // so "x" is kept; the broken lines are not.
    assert_eq!(testing::strings(&rows, "id").len() + bad.len(), 6);
    let reasons: Vec<&str> = bad.iter().map(|row| row.reason.as_str()).collect();
    assert!(
        reasons.contains(&"not_utf8") && reasons.contains(&"bad_json") && reasons.contains(&"not_an_object")
    );
    assert!(bad.iter().any(|row| row.id.ends_with("a.jsonl:2")), "{bad:?}");
}

#[tokio::test]
async fn a_truncated_parquet_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let batch = testing::batch(serde_json::json!([{"id": "a"}]));
    crate::runner::shards::write_table(&path, &batch).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = read(&config(&path)).await.unwrap_err();
    assert!(error.to_string().contains("a.parquet"), "{error}");
    assert_eq!(error.fault, crate::runner::error::Fault::Input);
}

#[tokio::test]
async fn gzipped_lines_are_read_and_columns_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, b"{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":2}\n").unwrap();
    encoder.finish().unwrap();
    let mut config = config(&path);
    config.columns = vec!["id".into()];
    let (rows, _) = read(&config).await.unwrap();
    assert_eq!(testing::strings(&rows, "id"), ["a", "b"]);
    assert_eq!(rows[0].num_columns(), 1);
}

#[tokio::test]
async fn typed_columns_come_from_csv_and_rows_that_do_not_fit_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    let text = "id,n,share,zip\na,1,0.5,01234\nb,,1,00001\n\"c,d\",3,2.5,5\ne,4\n";
    std::fs::write(&path, text).unwrap();
    let (rows, bad) = read(&config(&path)).await.unwrap();
    assert_eq!(testing::strings(&rows, "id"), ["a", "b", "c,d"]);
    assert_eq!(testing::strings(&rows, "n"), ["1", "", "3"]);
    let types: Vec<String> =
        rows[0].schema().fields().iter().map(|field| field.data_type().to_string()).collect();
    assert_eq!(types, ["Utf8", "Int64", "Float64", "Utf8"]);
    assert_eq!((bad[0].reason.as_str(), bad.len()), ("wrong_number_of_fields", 1));
    assert!(bad[0].id.ends_with("a.csv:5"), "{bad:?}");
}

#[tokio::test]
async fn a_csv_value_beyond_the_first_rows_that_is_of_another_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    let mut text = String::from("id,n\n");
    (0..INFERENCE_ROWS).for_each(|row| text.push_str(&format!("r{row},{row}\n")));
    text.push_str("odd,many\nlast,7\n");
    std::fs::write(&path, text).unwrap();
    let (rows, bad) = read(&config(&path)).await.unwrap();
    assert_eq!(testing::strings(&rows, "id").len(), INFERENCE_ROWS + 1);
    assert_eq!(bad.len(), 1);
    assert!(bad[0].detail.contains("column `n`: `many`"), "{bad:?}");
    assert!(bad[0].id.ends_with("a.csv:1002"), "{bad:?}");
}

#[tokio::test]
async fn both_forms_of_arrow_ipc_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let batch = testing::batch(serde_json::json!([{"id": "a", "n": 1}, {"id": "b", "n": 2}]));
    let (file, stream) = (folder.path().join("file.arrow"), folder.path().join("stream.arrow"));
    let mut writer =
        arrow::ipc::writer::FileWriter::try_new(File::create(&file).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new(File::create(&stream).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    for path in [&file, &stream] {
        let (rows, _) = read(&config(path)).await.unwrap();
        assert_eq!(testing::strings(&rows, "n"), ["1", "2"], "{}", path.display());
        std::fs::write(path, &std::fs::read(path).unwrap()[..40]).unwrap();
        let error = read(&config(path)).await.unwrap_err().to_string();
        assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn zstd_lines_and_warc_records_are_read_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("a.jsonl.zst");
    std::fs::write(&lines, zstd::encode_all(b"{\"id\":\"a\"}\n".as_slice(), 1).unwrap()).unwrap();
    let (rows, _) = read(&config(&lines)).await.unwrap();
    assert_eq!(testing::strings(&rows, "id"), ["a"]);

    let warc = folder.path().join("a.warc.wet");
    let record = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:a>\r\nContent-Length: 5\r\n\r\nPlain\r\n\r\nWARC/1.0\r\n";
    std::fs::write(&warc, record).unwrap();
    let (rows, bad) = read(&config(&warc)).await.unwrap();
    assert_eq!(testing::strings(&rows, "text"), ["Plain"]);
    assert_eq!(bad[0].reason, "damaged_record");
}

#[tokio::test]
async fn columns_are_chosen_and_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, "{\"id\":\"a\",\"content\":\"x\",\"n\":1}\n").unwrap();
    let rename = BTreeMap::from([("content".to_owned(), "text".to_owned())]);
    let all = ReadConfig { rename: rename.clone(), ..config(&path) };
    let (rows, _) = read(&all).await.unwrap();
    assert_eq!((testing::strings(&rows, "text"), rows[0].num_columns()), (vec!["x".to_owned()], 3));
    let some = ReadConfig { columns: vec!["content".into()], ..all };
    assert_eq!(read(&some).await.unwrap().0[0].num_columns(), 1);
    let wrong = ReadConfig { rename: [("text".to_owned(), "x".to_owned())].into(), ..config(&path) };
    assert!(read(&wrong).await.unwrap_err().to_string().contains("no column `text`"));
}

/// A server with one file and its tag, which gives parts of it; its address.
fn serve(name: &str, file: &Arc<Mutex<(Vec<u8>, u32)>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/dumps/{name}", listener.local_addr().unwrap());
    let file = file.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            let headers: Vec<String> =
                lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let range = headers.iter().find_map(|line| {
                let range = line.to_lowercase().strip_prefix("range: bytes=")?.to_owned();
                let (start, end) = range.split_once('-')?;
                Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?))
            });
            let (bytes, tag) = file.lock().unwrap().clone();
            let (status, body) = match range {
                Some((start, end)) => ("206 Partial Content", &bytes[start..=end.min(bytes.len() - 1)]),
                None => ("200 OK", &bytes[..]),
            };
            let place =
                range.map(|(start, end)| format!("Content-Range: bytes {start}-{end}/{}\r\n", bytes.len()));
            let head = format!(
                "HTTP/1.1 {status}\r\nETag: \"{tag}\"\r\n{}Content-Length: {}\r\nConnection: close\r\n\r\n",
                place.unwrap_or_default(),
                body.len()
            );
            let body = if request.starts_with("HEAD") { &[] } else { body };
            // A client that has read enough goes away.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    address
}

fn gzipped(lines: usize) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    (0..lines).for_each(|line| writeln!(out, "{{\"id\": \"row {line}\"}}").unwrap());
    out.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_server_are_read_as_local_ones_are() {
    let gzip = Arc::new(Mutex::new((gzipped(2_000), 1)));
    let address = serve("a.jsonl.gz", &gzip);
    let (rows, bad) = read(&config(Path::new(&address))).await.unwrap();
    assert_eq!(testing::strings(&rows, "id"), (0..2_000).map(|row| format!("row {row}")).collect::<Vec<_>>());
    assert!(bad.is_empty());

    let warc = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:a>\r\nContent-Length: 4\r\n\r\ntext\r\n\r\n";
    let address = serve("a.warc.wet", &Arc::new(Mutex::new((warc.to_vec(), 1))));
    let (rows, _) = read(&config(Path::new(&address))).await.unwrap();
    assert_eq!(testing::strings(&rows, "text"), ["text"]);
    assert_eq!(testing::strings(&rows, "file_path"), [address]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_after_it_was_listed_is_not_taken_for_the_old_one() {
    let file = Arc::new(Mutex::new((gzipped(10), 1)));
    let config = config(Path::new(&serve("a.jsonl.gz", &file)));
    let ctx = testing::context();
    let task = config.tasks(&ctx).await.unwrap().unwrap().remove(0);
    let inputs = Inputs::new(Default::default(), Default::default());
    let frame = config.plan(&ctx, &task, &inputs).await.unwrap();
    file.lock().unwrap().1 = 2;
    let error = frame.collect().await.unwrap_err();
    assert!(error.to_string().contains("was changed while it was read; run again"), "{error}");
}

#[tokio::test]
async fn addresses_that_are_no_file_are_named() {
    for (address, words) in [
        ("https://example.com/a.jsonl?token=x", "without a query"),
        ("http://169.254.169.254/a.jsonl", "credentials"),
        ("ftp://example.com/a.jsonl", "not a path this program reads"),
    ] {
        let error = read(&config(Path::new(address))).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
