//! Requests out, answers in.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::answer_log::AnswerLog;
use crate::chat::{ChatRequest, FinishReason, Message};
use crate::client::ServerKind;
use crate::generate::{GenerateOptions, Standing, standing};

fn options() -> GenerateOptions {
    GenerateOptions { model: "m".into(), max_tries: 2, ..GenerateOptions::default() }
}

fn row(number: usize) -> (String, String) {
    (format!("p{number}"), format!("write {number}"))
}

fn log(dir: &Path) -> Arc<AnswerLog> {
    Arc::new(AnswerLog::open(dir.join("log")).unwrap())
}

/// The open requests of 20 rows, in files of at most 8.
fn export(log: &AnswerLog, dir: &Path) -> (Vec<Value>, Vec<BatchFile>) {
    let limits = BatchLimits { max_requests: 8, ..BatchLimits::default() };
    let mut writer = BatchWriter::new(dir, limits, ServerKind::OpenAi).unwrap();
    for (id, prompt) in (0..20).map(row) {
        if let Standing::Open(request) = standing(&options(), log, &id, &prompt).unwrap() {
            writer.push(&request).unwrap();
        }
    }
    let files = writer.finish().unwrap();
    let lines = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(dir.join(&file.name)).unwrap();
            assert_eq!(text.len() as u64, file.bytes);
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        })
        .collect();
    (lines, files)
}

fn answered(request: &Value, tokens: u32) -> String {
    let prompt = request["body"]["messages"][0]["content"].as_str().unwrap();
    json!({
        "id": "batch_req_1", "custom_id": request["custom_id"], "error": null,
        "response": {"status_code": 200, "request_id": "r", "body": {
            "model": "m-2024", "choices": [{"message": {"content": format!("on {prompt}")}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": tokens},
        }},
    })
    .to_string()
}

#[tokio::test]
async fn what_is_missing_failed_or_short_is_asked_again_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path());
    let (requests, files) = export(&log, &dir.path().join("first"));
    let sizes: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.requests)).collect();
    assert_eq!(
        sizes,
        [("requests-00000.jsonl", 8), ("requests-00001.jsonl", 8), ("requests-00002.jsonl", 4)]
    );
    let first = &requests[0];
    assert_eq!((&first["method"], &first["url"]), (&json!("POST"), &json!("/v1/chat/completions")));
    assert_eq!((&first["body"]["max_tokens"], first["body"].get("top_k")), (&json!(2500), None));
    assert_eq!(
        requests.iter().map(|line| line["custom_id"].as_str().unwrap()).collect::<HashSet<_>>().len(),
        20
    );

    // Backwards; 3 is missing, 5 failed, 6 expired, 7 is short, one line is cut, one is another program's.
    let mut lines: Vec<String> = requests.iter().map(|request| answered(request, 200)).rev().collect();
    lines[19 - 7] = answered(&requests[7], 3);
    lines[19 - 6] = json!({"custom_id": requests[6]["custom_id"], "response": null,
        "error": {"code": "batch_expired", "message": "not in time"}})
    .to_string();
    lines[19 - 5] = json!({"custom_id": requests[5]["custom_id"], "error": null,
        "response": {"status_code": 400, "body": {"error": {"message": "too long"}}}})
    .to_string();
    lines.remove(19 - 3);
    lines.push(json!({"custom_id": "request-1", "response": null, "error": null}).to_string());
    lines.push(answered(&requests[3], 200)[..80].to_owned());
    let file = dir.path().join("answers.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();

    let mut dry = Imported::default();
    import(&log, &file, Import::DryRun, &mut dry).await.unwrap();
    assert!(log.is_empty() && dry.new_answers == 17);
    let mut imported = Imported::default();
    import(&log, &file, Import::Write, &mut imported).await.unwrap();
    assert_eq!((imported.lines, imported.new_answers, imported.known_answers), (21, 17, 0));
    assert_eq!(imported.failed, [("batch_expired".into(), 1), ("http_400".into(), 1)].into());
    assert!(imported.first_failures["http_400"].contains("answers.jsonl:15: \"too long\""), "{imported:?}");
    assert_eq!(imported.foreign_lines, 2);
    assert!(imported.first_foreign.as_ref().unwrap().contains("answers.jsonl:20"), "{imported:?}");
    import(&log, &file, Import::Write, &mut imported).await.unwrap();
    assert_eq!((imported.new_answers, imported.known_answers), (17, 17), "twice does no harm");

    let (again, _) = export(&log, &dir.path().join("second"));
    let prompts: Vec<_> =
        again.iter().map(|line| line["body"]["messages"][0]["content"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["write 3", "write 5", "write 6", "write 7"]);
    for (position, row) in [3, 5, 6, 7].into_iter().enumerate() {
        let same = again[position]["custom_id"] == requests[row]["custom_id"];
        assert_eq!(same, row != 7, "the short one is asked with another seed");
    }
    // A second short answer is the last: the row is lost, and not asked for ever.
    let lines: Vec<String> = again.iter().map(|request| answered(request, 3)).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    import(&log, &file, Import::Write, &mut imported).await.unwrap();
    let (last, _) = export(&log, &dir.path().join("third"));
    assert_eq!(last.len(), 3);
    let (id, prompt) = row(7);
    assert_eq!(standing(&options(), &log, &id, &prompt).unwrap(), Standing::Exhausted);
}

#[test]
fn names_are_short_and_stand_for_their_keys() {
    for max_new_tokens in [1, 2_500, u32::MAX] {
        for number in 0..50 {
            let messages = vec![Message::user(format!("{number}"))];
            let key = ChatRequest { max_new_tokens, ..ChatRequest::new("m", messages) }.key();
            let name = custom_id(&key);
            assert!(
                name.len() <= 64
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            );
            let found = key_of(&name).unwrap();
            assert_eq!((found.id, found.max_new_tokens), (key.id, max_new_tokens));
        }
    }
    for wrong in ["", "request-1", "é", &"A".repeat(43), &format!("{}-x", "A".repeat(43))] {
        assert_eq!(key_of(wrong), None, "{wrong}");
    }
}

#[test]
fn files_keep_to_their_size_and_appear_whole() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let limits = BatchLimits { max_bytes: 1_000, ..BatchLimits::default() };
    let mut writer = BatchWriter::new(&out, limits, ServerKind::Vllm).unwrap();
    let request = |text: String| ChatRequest::new("m", vec![Message::user(text)]);
    for number in 0..10 {
        writer.push(&request(format!("write {number}"))).unwrap();
    }
    let error = writer.push(&request("x".repeat(2_000))).unwrap_err();
    assert!(matches!(error, BatchError::TooLarge { .. }), "{error}");
    assert!(!out.exists());
    drop(writer);
    let mut writer = BatchWriter::new(&out, limits, ServerKind::Vllm).unwrap();
    for number in 0..10 {
        writer.push(&request(format!("write {number}"))).unwrap();
    }
    let files = writer.finish().unwrap();
    assert!(files.len() > 3 && files.iter().all(|file| file.bytes <= 1_000), "{files:?}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), files.len());
    assert!(matches!(BatchWriter::new(&out, limits, ServerKind::Vllm), Err(BatchError::Exists { .. })));
}

#[test]
fn an_answer_in_the_completions_form_is_read() {
    let key = ChatRequest::new("m", vec![Message::user("x")]).key();
    let line = json!({"custom_id": custom_id(&key), "response": {"status_code": 200, "body": {
        "choices": [{"text": "on", "finish_reason": "length"}]}}});
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(&path, format!("\n{line}\n")).unwrap();
    let lines: Vec<_> = read_lines(&path).unwrap().map(Result::unwrap).collect();
    let [(2, BatchLine::Answer { answer, .. })] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((answer.text.as_str(), &answer.finish_reason), ("on", &FinishReason::Length));
    assert_eq!(answer.endpoint, BATCH_ENDPOINT);
}
