//! The hub's client against a local server that answers like the hub: a tree listing in two pages,
//! and files behind a redirect, read by ranges.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use datafusion::prelude::{SessionContext, col};

use super::*;
use crate::engine::data_file::DataFile;
use crate::engine::scan;
use crate::runner::shards::write_table;

#[test]
fn paths_are_taken_apart() {
    let of = |text: &str| {
        DatasetPath::parse(text).ok().map(|path| [path.repository, path.revision, path.path].join(" "))
    };
    assert_eq!(of("datasets/o/n/data/*.parquet").unwrap(), "datasets/o/n main data/*.parquet");
    assert_eq!(of("datasets/o/n@v1/a.parquet").unwrap(), "datasets/o/n v1 a.parquet");
    let converted = of("datasets/o/n@refs/convert/parquet/all/test/*.parquet").unwrap();
    assert_eq!(converted, "datasets/o/n refs%2Fconvert%2Fparquet all/test/*.parquet");
    for wrong in ["models/o/n/a", "datasets/o", "datasets/o/n", "datasets/o/n@/a", "datasets/o/n@refs/pr/3"] {
        assert_eq!(of(wrong), None, "{wrong}");
    }
}

/// Serves `bytes` as the dataset's only Parquet file.
fn serve(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let base = endpoint.clone();
    std::thread::spawn(move || {
        let refused = AtomicU32::new(0);
        for stream in listener.incoming().flatten() {
            answer(stream, &bytes, &base, &refused);
        }
    });
    endpoint
}

fn answer(mut stream: TcpStream, bytes: &[u8], base: &str, refused: &AtomicU32) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let range =
        headers.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let mut parts = request.split(' ');
    let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
    let (status, extra, body) = match path {
        "/api/datasets/o/n/tree/main/data" => {
            let link = format!("Link: <{base}/api/datasets/o/n/tree/main/data?cursor=2>; rel=\"next\"\r\n");
            let body = r#"[{"type":"directory","path":"data/x","size":0,"oid":"d"},
                {"type":"file","path":"data/readme.md","size":3,"oid":"r"}]"#;
            ("200 OK", link, body.as_bytes().to_vec())
        }
        "/api/datasets/o/n/tree/main/data?cursor=2" => {
            let body = format!(
                r#"[{{"type":"file","path":"data/a.parquet","size":{},"oid":"g","lfs":{{"oid":"sha"}}}}]"#,
                bytes.len()
            );
            ("200 OK", String::new(), body.into_bytes())
        }
        "/api/datasets/o/n/tree/refs%2Fconvert%2Fparquet/all" => {
            let body =
                format!(r#"[{{"type":"file","path":"all/0000.parquet","size":{},"oid":"h"}}]"#, bytes.len());
            ("200 OK", String::new(), body.into_bytes())
        }
        "/datasets/o/n/resolve/main/data/a.parquet"
        | "/datasets/o/n/resolve/refs%2Fconvert%2Fparquet/all/0000.parquet" => {
            ("302 Found", format!("Location: {base}/cdn/a\r\n"), Vec::new())
        }
        // The storage behind the redirect fails once: the client must ask again.
        "/cdn/a" if refused.fetch_add(1, Ordering::SeqCst) == 0 => ("503 Busy", String::new(), Vec::new()),
        "/cdn/a" => match range {
            Some(range) => {
                let (start, end) = range.split_once('-').unwrap();
                let (start, end) = if start.is_empty() {
                    (bytes.len() - end.parse::<usize>().unwrap(), bytes.len() - 1)
                } else {
                    (start.parse().unwrap(), end.parse().unwrap_or(bytes.len() - 1))
                };
                let extra = format!("Content-Range: bytes {start}-{end}/{}\r\n", bytes.len());
                ("206 Partial Content", extra, bytes[start..=end].to_vec())
            }
            None => ("200 OK", String::new(), bytes.to_vec()),
        },
        _ => ("404 Not Found", String::new(), Vec::new()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    if method != "HEAD" {
        stream.write_all(&body).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_listed_and_read_through_redirects() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let batch =
        RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from_iter_values(0..1000)) as _)]).unwrap();
    write_table(&path, &batch).unwrap();
    let hub = Hub::new(&serve(std::fs::read(&path).unwrap()), None).unwrap();
    let session = SessionContext::new();
    hub.web().register(&session);
    let files = hub.list("datasets/o/n/data/*.parquet").await.unwrap();
    assert_eq!(files.len(), 1);
    assert!(files[0].digest.starts_with("sha:"));
    let frame = scan::parquet(&session, batch.schema(), &[files[0].slice.clone()]).unwrap();
    let rows = frame.filter(col("x").gt(datafusion::prelude::lit(989))).unwrap().count().await.unwrap();
    assert_eq!(rows, 10);

    // The same file under the revision that the hub converts to Parquet, byte by byte.
    let files = hub.list("datasets/o/n@refs/convert/parquet/all/*.parquet").await.unwrap();
    let file = DataFile::of(&session, &files[0].slice).unwrap();
    let read = move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file.open().unwrap(), &mut bytes).unwrap();
        bytes
    };
    let bytes = tokio::task::spawn_blocking(read).await.unwrap();
    assert_eq!(bytes, std::fs::read(&path).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn long_rows_of_the_hub_make_small_batches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let texts = (0..4).map(|row| format!("{row}{}", "x".repeat(4 << 20)));
    let texts = Arc::new(StringArray::from_iter_values(texts));
    write_table(&path, &RecordBatch::try_from_iter([("text", texts as _)]).unwrap()).unwrap();
    let hub = Hub::new(&serve(std::fs::read(&path).unwrap()), None).unwrap();
    let session = SessionContext::new();
    hub.web().register(&session);
    let files = hub.list("datasets/o/n/data/*.parquet").await.unwrap();
    let file = DataFile::of(&session, &files[0].slice).unwrap();
    let rows = tokio::task::spawn_blocking(move || scan::batch_rows(&[file])).await.unwrap();
    assert!((8..=16).contains(&rows), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do() {
    let hub = Hub::new(&serve(Vec::new()), None).unwrap();
    let error = hub.list("datasets/o/missing/data/*.parquet").await.err().unwrap();
    assert!(error.to_string().contains("404"), "{error}");
    assert!(matches!(hub.list("models/x/y/z").await, Err(HubError::Path(_))));
    assert!(Hub::new("not a url", None).is_err());
}
