use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::settings::EmailSettings;

/// A mail server without TLS that takes messages, after it has refused some with a temporary error; its
/// address, and the conversations so far.
async fn mail_server(mut refuse: usize) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            let (mut conversation, mut in_message) = (String::new(), false);
            write.write_all(b"220 test\r\n").await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                conversation.push_str(&format!("{line}\n"));
                let answer = match line.split(' ').next().unwrap_or_default() {
                    "." if in_message => {
                        in_message = false;
                        "250 taken"
                    }
                    _ if in_message => continue,
                    "EHLO" => "250-test\r\n250 8BITMIME",
                    "MAIL" if refuse > 0 => {
                        refuse -= 1;
                        "451 come again"
                    }
                    "DATA" => {
                        in_message = true;
                        "354 go on"
                    }
                    "QUIT" => "221 bye",
                    _ => "250 ok",
                };
                if write.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() {
                    break;
                }
            }
            told.lock().unwrap().push(conversation);
        }
    });
    (address, heard)
}

fn settings(server: &str) -> EmailSettings {
    EmailSettings {
        server: server.to_owned(),
        user: None,
        password_env: None,
        from: "Corpusmith <corpusmith@example.org>".to_owned(),
        to: vec!["ann@example.org".to_owned(), "Bob <bob@example.org>".to_owned()],
    }
}

fn failed() -> Notice {
    Notice::RunFailed {
        run: "r1".to_owned(),
        workflow: "small".to_owned(),
        stage: Some("kept".to_owned()),
        error: "no rows\nBcc: eve@example.org\n.\nQUIT".to_owned(),
        link: "https://c.example/runs/r1#stage-kept".to_owned(),
    }
}

fn by_email(settings: &EmailSettings) -> Channel {
    Channel::new(Receiver::Email(Email::new(settings).unwrap())).impatient()
}

#[tokio::test]
async fn a_failure_reaches_everybody_with_its_link() {
    let (address, heard) = mail_server(2).await;
    let channel = by_email(&settings(&format!("smtp://{address}?tls=none")));
    channel.send(&failed()).await.unwrap();
    // The server hears the end of the conversation a little later.
    let taken = || heard.lock().unwrap().iter().find(|told| told.contains("DATA")).cloned();
    while taken().is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let heard = taken().unwrap();
    for wanted in [
        "RCPT TO:<ann@example.org>",
        "RCPT TO:<bob@example.org>",
        "From: \"Corpusmith\" <corpusmith@example.org>",
        "Subject: [Corpusmith] small failed at stage kept",
        "https://c.example/runs/r1#stage-kept",
        "Message-ID:",
    ] {
        assert!(heard.contains(wanted) || heard.contains(&wanted.replace('"', "")), "{wanted}: {heard}");
    }
    // What an error says stays inside the message: neither a header, nor a command.
    let (head, _) = heard.split_once("\n\n").unwrap();
    assert!(!head.contains("eve@") && heard.contains("\n..\n"), "{heard}");
    let view = channel.view();
    assert_eq!((view.delivered, view.failed, view.last_error), (1, 0, None));
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_shown() {
    let (address, _) = mail_server(usize::MAX).await;
    let channel = by_email(&settings(&format!("smtp://{address}?tls=none")));
    let error = channel.send(&failed()).await.unwrap_err();
    assert!(error.contains("come again"), "{error}");
    let view = channel.view();
    assert_eq!((view.delivered, view.failed), (0, 1));
    assert!(view.last_at.is_some() && view.last_error == Some(error));
    // A server without STARTTLS does not get the message in the clear.
    let (address, heard) = mail_server(0).await;
    let channel = by_email(&settings(&format!("smtp://{address}")));
    assert!(channel.send(&failed()).await.is_err());
    assert!(heard.lock().unwrap().iter().all(|conversation| !conversation.contains("DATA")));
    let nobody = by_email(&settings("smtp://127.0.0.1:1?tls=none"));
    assert!(nobody.send(&failed()).await.is_err());
}

#[test]
fn wrong_settings_of_mail_are_named() {
    let with = |change: fn(&mut EmailSettings)| {
        let mut settings = settings("smtps://mail.example.org");
        change(&mut settings);
        Email::new(&settings).err().unwrap_or_default()
    };
    assert_eq!(with(|_| ()), "");
    type Change = fn(&mut EmailSettings);
    let cases: [(Change, &str); 10] = [
        (|s| s.server = "mail.example.org".to_owned(), "no URL"),
        (|s| s.server = "https://mail.example.org".to_owned(), "smtps://host"),
        (|s| s.server = "smtp://mail.example.org?tls=maybe".to_owned(), "smtps://host"),
        (|s| s.server = "smtp://ann:secret@mail.example.org".to_owned(), "password_env"),
        (|s| s.from = "nobody".to_owned(), "nobody"),
        (|s| s.to = vec!["x@".to_owned()], "x@"),
        (|s| s.to.clear(), "nobody"),
        (|s| s.user = Some("ann".to_owned()), "both or none"),
        (|s| s.password_env = Some("UNSET_78".to_owned()), "UNSET_78"),
        (
            |s| {
                s.server = "smtp://mail.example.org?tls=none".to_owned();
                (s.user, s.password_env) = (Some("ann".to_owned()), Some("PATH".to_owned()));
            },
            "in the clear",
        ),
    ];
    for (change, word) in cases {
        let error = with(change);
        assert!(error.contains(word) && !error.contains("secret"), "{word}: {error}");
    }
}
