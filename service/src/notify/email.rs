//! Notices by e-mail.

use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use url::Url;

use super::Notice;
use crate::settings::EmailSettings;
use crate::words::chain;

/// A server that has not taken the message in this time has not got it.
const PATIENCE: Duration = Duration::from_secs(20);

type Transport = AsyncSmtpTransport<Tokio1Executor>;

pub(super) struct Email {
    transport: Transport,
    from: Mailbox,
    to: Vec<Mailbox>,
}

/// How the connection is kept secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrecy {
    /// From its first byte: `smtps://`.
    Tls,
    /// From a command on, which the server must know: `smtp://`.
    StartTls,
    /// Not at all: `smtp://…?tls=none`.
    None,
}

impl Email {
    /// As the settings say. Nothing is sent yet.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn new(settings: &EmailSettings) -> Result<Self, String> {
        let mailbox = |text: &String| {
            let read = text.parse::<Mailbox>();
            read.map_err(|error| format!("`{text}` in [notify.email] is no e-mail address: {error}"))
        };
        if settings.to.is_empty() {
            return Err("[notify.email] names nobody in `to`".to_owned());
        }
        Ok(Self {
            transport: transport(settings)?,
            from: mailbox(&settings.from)?,
            to: settings.to.iter().map(mailbox).collect::<Result<_, _>>()?,
        })
    }

    pub(super) async fn deliver(&self, notice: &Notice) -> Result<(), String> {
        let (subject, body) = words(notice);
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(subject)
            .message_id(None)
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        let message = message.body(body).map_err(|error| error.to_string())?;
        match tokio::time::timeout(PATIENCE, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("the mail server: {}", chain(&error))),
            Err(_) => Err(format!("the mail server did not take it within {} s", PATIENCE.as_secs())),
        }
    }
}

fn transport(settings: &EmailSettings) -> Result<Transport, String> {
    let wrong = |reason: &str| format!("`server` in [notify.email] {reason}");
    let url = Url::parse(&settings.server).map_err(|error| wrong(&format!("is no URL: {error}")))?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?;
    if url.password().is_some() || !url.username().is_empty() {
        return Err(wrong(
            "holds a user or password: they stand in `user`, and in the variable `password_env`",
        ));
    }
    let query: Vec<_> = url.query_pairs().collect();
    let secrecy = match (url.scheme(), query.as_slice()) {
        ("smtps", []) => Secrecy::Tls,
        ("smtp", []) => Secrecy::StartTls,
        ("smtp", [(name, value)]) if name == "tls" && value == "none" => Secrecy::None,
        _ => return Err(wrong("is not smtps://host, smtp://host (STARTTLS) or smtp://host?tls=none")),
    };
    let password = settings.password_env.as_ref().map(|variable| {
        std::env::var(variable).map_err(|_| format!("`{variable}`, which [notify.email] names, is not set"))
    });
    let credentials = match (&settings.user, password.transpose()?) {
        (Some(user), Some(password)) => Some(Credentials::new(user.clone(), password)),
        (None, None) => None,
        _ => return Err("[notify.email] has one of `user` and `password_env`: both or none".to_owned()),
    };
    if secrecy == Secrecy::None && credentials.is_some() && !net::is_loopback(&with_http(&url)) {
        return Err(wrong("sends the password in the clear: leave `?tls=none` out"));
    }
    let builder = match secrecy {
        Secrecy::Tls => Transport::relay(host),
        Secrecy::StartTls => Transport::starttls_relay(host),
        Secrecy::None => Ok(Transport::builder_dangerous(host).port(25)),
    };
    let mut builder = builder.map_err(|error| wrong(&format!("cannot be used: {error}")))?;
    if let Some(port) = url.port() {
        builder = builder.port(port);
    }
    if let Some(credentials) = credentials {
        builder = builder.credentials(credentials);
    }
    Ok(builder.timeout(Some(PATIENCE)).build())
}

/// The URL with a scheme whose hosts are parsed as such: `is_loopback` wants addresses told from names.
fn with_http(url: &Url) -> Url {
    let host = url.host_str().unwrap_or_default();
    Url::parse(&format!("http://{host}/")).unwrap_or_else(|_| url.clone())
}

fn words(notice: &Notice) -> (String, String) {
    match notice {
        Notice::RunFailed { run, workflow, stage, error, link } => {
            let at = stage.as_ref().map(|stage| format!(" at stage {stage}")).unwrap_or_default();
            (
                format!("[Corpusmith] {workflow} failed{at}"),
                format!("Run {run} of {workflow} failed{at}.\n\n{link}\n\n{error}\n"),
            )
        }
        Notice::RunRecovered { run, workflow, link } => (
            format!("[Corpusmith] {workflow} succeeded again"),
            format!("Run {run} of {workflow} succeeded, after the one before failed.\n\n{link}\n"),
        ),
        Notice::ScheduleMissed { schedule, times, link } => (
            format!("[Corpusmith] {schedule} missed its time"),
            format!(
                "The schedule {schedule} missed {times} of its times, and they are not caught up with.\n\n{link}\n"
            ),
        ),
        Notice::WorkflowBroken { file, problems, link } => (
            format!("[Corpusmith] {file} cannot run any more"),
            format!(
                "The workflow file {file} has problems; its schedule and triggers rest.\n\n{link}\n\n{problems}\n"
            ),
        ),
        Notice::Test { link } => {
            ("[Corpusmith] Test".to_owned(), format!("Notices of this service arrive here.\n\n{link}\n"))
        }
    }
}
