//! Notices by e-mail: real conversations, with TLS and a password.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the result of the test")]

#[path = "support/certify.rs"]
mod certify;
#[path = "support/service.rs"]
mod place;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use certify::Authority;
use place::{PATIENCE, Place, wait_until};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;

const PASSWORD: &str = "neither-told-nor-written-4d2e";

/// How a server speaks TLS.
#[derive(Clone, Copy, PartialEq)]
enum Tls {
    FromTheStart,
    AfterStartTls,
}

/// A mail server that takes messages from whoever knows the password; its port, and the messages.
fn mail_server(authority: &Authority, tls: Tls) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let [certificate, key] = authority.files();
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let (config, (sender, messages)) = (Arc::new(config), channel());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (config, sender) = (config.clone(), sender.clone());
            std::thread::spawn(move || {
                if tls == Tls::AfterStartTls && !wants_tls(&mut stream) {
                    return;
                }
                let connection = rustls::ServerConnection::new(config).unwrap();
                let stream = rustls::StreamOwned::new(connection, stream);
                converse(stream, tls == Tls::FromTheStart, &sender);
            });
        }
    });
    (port, messages)
}

/// The beginning in the clear, where nothing but STARTTLS is offered.
fn wants_tls(stream: &mut TcpStream) -> bool {
    stream.write_all(b"220 test\r\n").unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.starts_with("EHLO") {
            stream.write_all(b"250-test\r\n250 STARTTLS\r\n").unwrap();
        } else if line == "STARTTLS" {
            stream.write_all(b"220 go on\r\n").unwrap();
            return true;
        } else {
            stream.write_all(b"530 only over TLS\r\n").unwrap();
        }
    }
    false
}

fn converse(mut stream: impl Read + Write, greets: bool, messages: &Sender<String>) {
    let (mut pending, mut message, mut in_message, mut known) = (Vec::new(), String::new(), false, false);
    let right = BASE64_STANDARD.encode(format!("\0ann\0{PASSWORD}"));
    if greets && stream.write_all(b"220 test\r\n").is_err() {
        return;
    }
    let mut buffer = [0; 4_096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        pending.extend_from_slice(&buffer[..read]);
        while let Some(end) = pending.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = pending.drain(..end + 2).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let answer = match line.split(' ').next().unwrap_or_default() {
                "." if in_message => {
                    in_message = false;
                    messages.send(std::mem::take(&mut message)).unwrap();
                    "250 taken"
                }
                _ if in_message => {
                    message.push_str(&format!("{line}\n"));
                    continue;
                }
                "EHLO" => "250-test\r\n250 AUTH PLAIN",
                "AUTH" => {
                    known = line == format!("AUTH PLAIN {right}");
                    if known { "235 welcome" } else { "535 wrong password" }
                }
                "MAIL" if !known => "530 who are you",
                "DATA" => {
                    in_message = true;
                    "354 go on"
                }
                "QUIT" => "221 bye",
                _ => "250 ok",
            };
            if stream.write_all(format!("{answer}\r\n").as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn settings(server: &str) -> String {
    format!(
        "[notify.email]\nserver = {server:?}\nuser = \"ann\"\npassword_env = \"TEST_SMTP_PASSWORD\"\n\
         from = \"Corpusmith <corpusmith@example.org>\"\nto = [\"data@example.org\"]\n"
    )
}

#[test]
fn failures_and_recoveries_are_mailed_with_their_links() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.certify(2120);
    let trusted = authority.file().display().to_string();
    for (tls, scheme) in [(Tls::FromTheStart, "smtps"), (Tls::AfterStartTls, "smtp")] {
        let (port, messages) = mail_server(&authority, tls);
        let place = Place::new();
        place.small_workflow("small", "");
        std::fs::write(place.data().join("service.toml"), settings(&format!("{scheme}://localhost:{port}")))
            .unwrap();
        let variables = [("TEST_SMTP_PASSWORD", PASSWORD), ("SSL_CERT_FILE", trusted.as_str())];
        let served = place.serve_with(&["--public-url", "https://corpus.example.org"], &variables);
        let answer = served.post("/api/v1/notify/test?channel=email", &json!({}));
        assert_eq!(answer.status, 204, "{scheme}: {}", answer.body);
        assert!(messages.recv_timeout(PATIENCE).unwrap().contains("Subject: [Corpusmith] Test"));
        let rows = place.workflows().join("../small.jsonl");
        let good = std::fs::read(&rows).unwrap();
        std::fs::write(&rows, "{not json\n").unwrap();
        let failed = served.submit("small.toml");
        served.wait_for(&failed, &["failed"]);
        let message = messages.recv_timeout(PATIENCE).unwrap();
        let link = format!("https://corpus.example.org/runs/{failed}#stage-pages");
        assert!(message.contains("small failed at stage pages") && message.contains(&link), "{message}");
        assert!(served.get(&format!("/runs/{failed}")).body.contains("id=\"stage-pages\""));
        std::fs::write(&rows, good).unwrap();
        let run = served.submit("small.toml");
        served.wait_for(&run, &["succeeded"]);
        assert!(messages.recv_timeout(PATIENCE).unwrap().contains("small succeeded again"));
    }
}

#[test]
fn a_way_that_fails_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.certify(2120);
    let (port, _messages) = mail_server(&authority, Tls::FromTheStart);
    let place = Place::new();
    let settings = settings(&format!("smtps://localhost:{port}"));
    std::fs::write(place.data().join("service.toml"), settings).unwrap();
    let trusted = authority.file().display().to_string();
    let wrong = [("TEST_SMTP_PASSWORD", "planted-and-wrong-1f"), ("SSL_CERT_FILE", trusted.as_str())];
    let served = place.serve_with(&[], &wrong);
    assert_eq!(served.post("/api/v1/notify/test?channel=webhook", &json!({})).status, 409);
    assert_eq!(served.ask("POST", "/notices/webhook/test", "", "").status, 404);
    // The page's button; what came of it stands on the page that follows.
    assert_eq!(served.ask("POST", "/notices/email/test", "", "").status, 303);
    wait_until("the failure is shown", || served.get("/notices").body.contains("wrong password"));
    assert!(served.get("/metrics").body.contains("corpusmith_notices_failed_total{channel=\"email\"} 1\n"));
    assert!(served.get("/metrics").body.contains("corpusmith_notifier_up{channel=\"email\"} 0\n"));
    let channels = served.get("/api/v1/notify").json();
    assert_eq!((&channels[0]["name"], &channels[0]["failed"]), (&json!("email"), &json!(1)), "{channels}");
    let answer = served.post("/api/v1/notify/test", &json!({}));
    assert!(answer.status == 409 && answer.body.contains("email: "), "{}", answer.body);
    assert!(!answer.body.contains("planted-and-wrong"), "{}", answer.body);
}
