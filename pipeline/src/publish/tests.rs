//! The uploader against a local server that speaks the hub's API, with its storage on another port.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::{Value as Json, json};

use super::*;
use crate::units::hex;

const TOKEN: &str = "hf_secret";
const PART_BYTES: usize = 1000;

#[derive(Default)]
struct Hub {
    storage: String,
    /// Content by path.
    files: BTreeMap<String, Vec<u8>>,
    /// Paths that the storage of large files holds.
    large: BTreeMap<String, String>,
    objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<String, Vec<u8>>,
    commits: Vec<Vec<String>>,
    puts: usize,
    refuse_commits: bool,
    refused_once: bool,
    created: bool,
}

type Shared = Arc<Mutex<Hub>>;

async fn start(app: fn(Shared, Method, String, HeaderMap, Bytes) -> Response, hub: &Shared) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let handler = move |State(hub): State<Shared>, request: Request| async move {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let path = head.uri.path_and_query().unwrap().to_string();
        app(hub, head.method, path, head.headers, body)
    };
    let router = Router::new().fallback(handler).layer(DefaultBodyLimit::disable()).with_state(hub.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn answer(json: &Json) -> Response {
    json.to_string().into_response()
}

fn api(hub: Shared, method: Method, path: String, headers: HeaderMap, body: Bytes) -> Response {
    let mut hub = hub.lock().unwrap();
    if headers.get("authorization").is_none_or(|token| token != &format!("Bearer {TOKEN}")) {
        return (StatusCode::UNAUTHORIZED, "{\"error\": \"Invalid credentials\"}").into_response();
    }
    let text = String::from_utf8(body.to_vec()).unwrap();
    let wanted = || serde_json::from_str::<Json>(&text).unwrap();
    match (method.as_str(), path.as_str()) {
        ("POST", "/api/repos/create") => {
            assert_eq!(
                wanted(),
                json!({"type": "dataset", "organization": "me", "name": "corpus", "private": true})
            );
            if std::mem::replace(&mut hub.created, true) {
                return (StatusCode::CONFLICT, "{\"error\": \"You already created this\"}").into_response();
            }
            answer(&json!({"url": "…"}))
        }
        ("GET", "/api/datasets/me/corpus/tree/main?recursive=true") if hub.files.is_empty() => {
            StatusCode::NOT_FOUND.into_response()
        }
        ("GET", "/api/datasets/me/corpus/tree/main?recursive=true") => {
            let entry = |(path, content): (&String, &Vec<u8>)| {
                let mut hasher = <sha1::Sha1 as sha1::Digest>::new();
                sha1::Digest::update(&mut hasher, format!("blob {}\0", content.len()));
                sha1::Digest::update(&mut hasher, content);
                let oid = hex(&sha1::Digest::finalize(hasher));
                let mut entry = json!({"type": "file", "path": path, "size": content.len(), "oid": oid});
                if let Some(oid) = hub.large.get(path) {
                    entry["lfs"] = json!({"oid": oid, "size": content.len()});
                }
                entry
            };
            let mut entries: Vec<Json> = hub.files.iter().map(entry).collect();
            entries.push(json!({"type": "directory", "path": "data", "size": 0, "oid": "d"}));
            answer(&json!(entries))
        }
        ("POST", "/api/datasets/me/corpus/preupload/main") => {
            let mode = |file: &Json| {
                let path = file["path"].as_str().unwrap();
                assert!(file["sample"].as_str().unwrap().len() <= 684);
                let mode = if path.ends_with(".parquet") { "lfs" } else { "regular" };
                json!({"path": path, "uploadMode": mode})
            };
            answer(
                &json!({"files": wanted()["files"].as_array().unwrap().iter().map(mode).collect::<Vec<_>>()}),
            )
        }
        ("POST", "/datasets/me/corpus.git/info/lfs/objects/batch") => {
            let object = wanted()["objects"][0].clone();
            let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
            let storage = &hub.storage;
            let actions = if hub.objects.contains_key(oid) {
                Json::Null
            } else if size > 2 * PART_BYTES {
                let mut header = json!({"chunk_size": PART_BYTES.to_string()});
                for part in 1..=size.div_ceil(PART_BYTES) {
                    header[part.to_string()] = json!(format!("{storage}/part/{oid}/{part}?signature=s"));
                }
                json!({"upload": {"href": format!("{storage}/complete/{oid}"), "header": header}})
            } else {
                json!({"upload": {"href": format!("{storage}/whole/{oid}?signature=s")},
                    "verify": {"href": format!("{storage}/verify/{oid}")}})
            };
            answer(&json!({"objects": [{"oid": oid, "size": size, "actions": actions}]}))
        }
        ("POST", "/api/datasets/me/corpus/commit/main") => {
            if hub.refuse_commits {
                return (StatusCode::BAD_REQUEST, "not today").into_response();
            }
            let mut paths = Vec::new();
            for line in text.lines() {
                let line: Json = serde_json::from_str(line).unwrap();
                let value = &line["value"];
                let path = value["path"].as_str().unwrap_or_default().to_owned();
                let content = match line["key"].as_str().unwrap() {
                    "header" => continue,
                    "file" => STANDARD.decode(value["content"].as_str().unwrap()).unwrap(),
                    "lfsFile" => {
                        let oid = value["oid"].as_str().unwrap().to_owned();
                        hub.large.insert(path.clone(), oid.clone());
                        hub.objects[&oid].clone()
                    }
                    other => panic!("{other}: nothing may be deleted"),
                };
                hub.files.insert(path.clone(), content);
                paths.push(path);
            }
            hub.commits.push(paths);
            answer(&json!({"commitUrl": "…"}))
        }
        other => panic!("{other:?}"),
    }
}

fn storage(hub: Shared, _method: Method, path: String, headers: HeaderMap, body: Bytes) -> Response {
    let mut hub = hub.lock().unwrap();
    assert!(headers.get("authorization").is_none(), "the token is not for the storage");
    let path = path.split('?').next().unwrap().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let store = |hub: &mut Hub, bytes: Vec<u8>| {
        assert_eq!(hex(digest(&SHA256, &bytes).as_ref()), parts[1]);
        hub.objects.insert(parts[1].to_owned(), bytes);
    };
    match parts[0] {
        "whole" | "part" => {
            assert_eq!(headers["content-length"], body.len().to_string());
            if !std::mem::replace(&mut hub.refused_once, true) {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            hub.puts += 1;
            if parts[0] == "whole" {
                store(&mut hub, body.to_vec());
            } else {
                hub.parts.insert(path.clone(), body.to_vec());
            }
            ([("etag", format!("\"{}\"", parts.last().unwrap()))], "").into_response()
        }
        "complete" => {
            let wanted: Json = serde_json::from_slice(&body).unwrap();
            let part = |part: &Json| {
                assert_eq!(part["etag"], format!("\"{}\"", part["partNumber"]));
                hub.parts[&format!("/part/{}/{}", parts[1], part["partNumber"])].clone()
            };
            let whole = wanted["parts"].as_array().unwrap().iter().flat_map(part).collect();
            store(&mut hub, whole);
            "".into_response()
        }
        "verify" => {
            assert!(hub.objects.contains_key(parts[1]));
            "".into_response()
        }
        other => panic!("{other}"),
    }
}

struct Tried {
    hub: Shared,
    api: HubApi,
    folder: tempfile::TempDir,
}

impl Tried {
    async fn new(token: &str) -> Self {
        let hub = Shared::default();
        let address = start(storage, &hub).await;
        hub.lock().unwrap().storage = address;
        let api = HubApi::new(&start(api, &hub).await, token).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("data/web")).unwrap();
        let tried = Self { hub, api, folder };
        tried.write("README.md", b"# A corpus\n");
        tried.write("data/web/train-00000-of-00002.parquet", &vec![7; 4 * PART_BYTES + 5]);
        tried.write("data/web/train-00001-of-00002.parquet", b"PAR1 small PAR1");
        tried
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(path), bytes).unwrap();
    }

    fn files(&self) -> Vec<LocalFile> {
        let file = |path: &str| {
            let local = self.folder.path().join(path);
            let bytes = local.metadata().unwrap().len();
            LocalFile { path: path.to_owned(), local, bytes }
        };
        ["README.md", "data/web/train-00000-of-00002.parquet", "data/web/train-00001-of-00002.parquet"]
            .map(file)
            .to_vec()
    }

    async fn publish(&self) -> Result<Published, PublishError> {
        let options =
            PublishOptions { repository: "me/corpus".into(), revision: "main".into(), private: true };
        publish(&self.api, &options, self.files(), |_, _| {}).await
    }
}

#[tokio::test]
async fn a_dataset_comes_whole_and_only_once() {
    let tried = Tried::new(TOKEN).await;
    let done = tried.publish().await.unwrap();
    assert_eq!(done, Published { skipped: 0, committed: 3, foreign: Vec::new() });
    for file in tried.files() {
        let there = tried.hub.lock().unwrap().files[&file.path].clone();
        assert_eq!(there, std::fs::read(&file.local).unwrap(), "{}", file.path);
    }
    assert_eq!(tried.hub.lock().unwrap().puts, 6);
    assert_eq!(tried.publish().await.unwrap().skipped, 3);

    tried.write("README.md", b"# Another card\n");
    tried.hub.lock().unwrap().files.insert("notes.txt".into(), b"mine".to_vec());
    let done = tried.publish().await.unwrap();
    assert_eq!(done, Published { skipped: 2, committed: 1, foreign: vec!["notes.txt".into()] });
    let hub = tried.hub.lock().unwrap();
    assert_eq!((hub.puts, hub.commits.len()), (6, 2));
    assert_eq!(hub.files["notes.txt"], b"mine");
    assert_eq!(hub.commits[0].last().unwrap(), "README.md");
}

#[tokio::test]
async fn an_upload_that_broke_off_does_not_send_again_what_is_there() {
    let tried = Tried::new(TOKEN).await;
    tried.hub.lock().unwrap().refuse_commits = true;
    let error = tried.publish().await.unwrap_err();
    assert!(error.to_string().contains("400: not today"), "{error}");
    assert_eq!(tried.hub.lock().unwrap().puts, 6);
    tried.hub.lock().unwrap().refuse_commits = false;
    assert_eq!(tried.publish().await.unwrap().committed, 3);
    assert_eq!(tried.hub.lock().unwrap().puts, 6);
}

#[tokio::test]
async fn a_token_that_may_not_write_is_named_and_a_wrong_name_refused() {
    let tried = Tried::new("hf_other").await;
    let error = tried.publish().await.unwrap_err().to_string();
    assert!(error.contains("HF_TOKEN") && error.contains("Invalid credentials"), "{error}");
    assert!(!error.contains("hf_other"), "{error}");
    let options = PublishOptions { repository: "corpus".into(), revision: "main".into(), private: false };
    let error = publish(&tried.api, &options, tried.files(), |_, _| {}).await.unwrap_err();
    assert!(error.to_string().contains("<owner>/<name>"), "{error}");
}

#[test]
fn only_a_finished_dataset_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let error = dataset_files(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no finished dataset"), "{error}");
    assert!(dataset_files(Path::new("/nowhere")).is_err());
}
