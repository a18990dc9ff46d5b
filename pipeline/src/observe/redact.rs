//! Keeps secrets out of the log. No message is meant to hold one; what other programs and libraries say in
//! their errors is not ours to choose.

use std::io::{self, Write};
use std::sync::OnceLock;

use regex::Regex;

/// What stands where a secret stood.
const BLOT: &str = "[redacted]";

/// Parts of the names of variables that hold secrets.
const SECRET_NAMES: [&str; 8] =
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "HEADERS", "WEBHOOK"];

/// Shorter values would blot out half of the log.
const LEAST_BYTES: usize = 8;

/// Secrets that are known by their form: a password inside a URL, one of its signed parameters, a token of
/// this program's services, one of an identity provider, and what is shown in a header.
const FORMS: [(&str, &str); 5] = [
    (r"(://[^/\s:@?#]*:)[^/\s@?#]+@", "$1[redacted]@"),
    (
        r"(?i)([?&](?:[a-z_-]*token|key|api[_-]?key|sig|[a-z_-]*signature|[a-z_-]*credential|password|secret)=)[^&\s\x22']+",
        "$1[redacted]",
    ),
    (r"cmt_[0-9a-f]{12}_[0-9a-f]{64}", BLOT),
    (r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+", BLOT),
    (r"(?i)((?:bearer|basic) )[\w.~+/=-]{8,}", "$1[redacted]"),
];

struct Redactor {
    /// The longest first: one may be part of another.
    values: Vec<String>,
    forms: Vec<(Regex, &'static str)>,
}

impl Redactor {
    fn new(variables: impl Iterator<Item = (String, String)>) -> Self {
        let mut values = Vec::new();
        for (name, value) in variables {
            let name = name.to_uppercase();
            if SECRET_NAMES.iter().any(|part| name.contains(part)) {
                if name.ends_with("HEADERS") {
                    // `name=value,name=value`, perhaps with percent signs.
                    let pairs = value.split(',').filter_map(|pair| pair.split_once('='));
                    values.extend(pairs.flat_map(|(_, value)| [decoded(value), value.trim().to_owned()]));
                }
                values.push(value.trim().to_owned());
            } else if let Some(password) = password_of(&value) {
                values.extend([decoded(&password), password]);
            }
        }
        values.retain(|value| value.len() >= LEAST_BYTES && !is_path(value));
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.dedup();
        let forms = FORMS.iter().filter_map(|(form, blot)| Some((Regex::new(form).ok()?, *blot))).collect();
        Self { values, forms }
    }

    fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.values {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), BLOT);
            }
        }
        for (form, blot) in &self.forms {
            if form.is_match(&text) {
                text = form.replace_all(&text, *blot).into_owned();
            }
        }
        text
    }
}

/// Variables such as SSH_KEY_FILE name files, and paths are what logs are about.
fn is_path(value: &str) -> bool {
    value.starts_with('/') && std::path::Path::new(value).exists()
}

fn password_of(value: &str) -> Option<String> {
    let url = url::Url::parse(value).ok()?;
    url.password().map(str::to_owned)
}

fn decoded(text: &str) -> String {
    // A plus sign is one in a header.
    let pair = format!("x={}", text.trim().replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

/// A text without secrets: the environment's, and those that are known by their form.
pub(super) fn redacted(text: &str) -> String {
    static REDACTOR: OnceLock<Redactor> = OnceLock::new();
    let variables = || {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
    };
    REDACTOR.get_or_init(|| Redactor::new(variables())).redact(text)
}

/// Writes events to standard error without secrets. Each comes in one piece.
pub(super) struct Redacted(());

impl Redacted {
    pub(super) fn stderr() -> Self {
        Self(())
    }
}

impl Write for Redacted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(redacted(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let variables = [
            ("OPENAI_API_KEY", "sk-planted-1234567890"),
            ("HF_TOKEN", "hf_planted+with/signs"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20planted-header,x=ab"),
            ("SHORT_TOKEN", "abc"),
            ("HTTPS_PROXY", "http://ann:planted%20proxy@proxy.example:3128"),
            ("PATH", "/usr/bin"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let redactor = Redactor::new(variables.into_iter());
        let token = format!("cmt_0123456789ab_{}", "f".repeat(64));
        for (text, expected) in [
            ("key sk-planted-1234567890, twice sk-planted-1234567890", "key [redacted], twice [redacted]"),
            ("hf_planted+with/signs", "[redacted]"),
            ("sent Basic planted-header", "sent [redacted]"),
            ("proxy password is planted proxy", "proxy password is [redacted]"),
            ("at https://bob:hunter2@db.example/x?y=1", "at https://bob:[redacted]@db.example/x?y=1"),
            ("https://x/?a=1&access_token=hunter2&b=2", "https://x/?a=1&access_token=[redacted]&b=2"),
            ("https://s3/x?X-Amz-Signature=abc&n=1", "https://s3/x?X-Amz-Signature=[redacted]&n=1"),
            ("Authorization: Bearer abcdefghij.k", "Authorization: Bearer [redacted]"),
            (token.as_str(), "[redacted]"),
            ("eyJhbGciOiJFUzI.eyJzdWIiOiJ1MSJ9.abc-_", "[redacted]"),
            ("abc at 10:30, see https://x.example:8080/a@b", "abc at 10:30, see https://x.example:8080/a@b"),
            ("tokens=5 key=value token_count", "tokens=5 key=value token_count"),
        ] {
            assert_eq!(redactor.redact(text), expected);
        }
    }
}
