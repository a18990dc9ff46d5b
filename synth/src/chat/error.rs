//! Why a request has no answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Which limit of a budget was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// Requests sent.
    Requests,
    /// Tokens of prompts and answers.
    Tokens,
    /// US dollars.
    Usd,
    /// Seconds of wall-clock time.
    Seconds,
}

impl BudgetKind {
    /// The option that sets this limit.
    pub fn option_name(self) -> &'static str {
        match self {
            Self::Requests => "max_requests",
            Self::Tokens => "max_tokens",
            Self::Usd => "max_usd",
            Self::Seconds => "max_duration_seconds",
        }
    }
}

impl fmt::Display for BudgetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Usd => "US dollars",
            Self::Seconds => "seconds",
        })
    }
}

/// Whose limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// That of the stage which asks.
    Stage,
    /// That of the whole run.
    Run,
}

impl BudgetScope {
    fn whose(self) -> &'static str {
        match self {
            Self::Stage => "the budget",
            Self::Run => "the run's budget",
        }
    }

    fn where_set(self) -> &'static str {
        match self {
            Self::Stage => "",
            Self::Run => " in the workflow's [limits]",
        }
    }
}

/// Why a request has no answer: who failed, what came, and what to do.
#[derive(Clone, Debug, Error)]
pub enum ChatError {
    /// The server wants another key.
    #[error("{url} refused the key (HTTP {status}): {said}. {advice}", advice = key_advice(.key_env.as_deref()))]
    Unauthorized {
        /// Address asked.
        url: String,
        /// 401 or 403.
        status: u16,
        /// Environment variable the key was read from.
        key_env: Option<String>,
        /// Start of the server's words.
        said: String,
    },
    /// No connection came about.
    #[error(
        "cannot connect to {url}: {detail}. Is the server up, and is base_url right? `curl {url}` from this machine shows it"
    )]
    Unreachable {
        /// Address asked.
        url: String,
        /// What the network said.
        detail: String,
    },
    /// The connection ended before the answer did.
    #[error(
        "{url} cut the connection before the answer was whole: {detail}. Look into the server's log, or for a proxy's time limit between"
    )]
    Cut {
        /// Address asked.
        url: String,
        /// What the network said.
        detail: String,
    },
    /// The server stalled.
    #[error(
        "{url} gave no whole answer within {waited_seconds} s. Raise request_timeout_seconds, or lower max_in_flight if the server queues requests"
    )]
    TimedOut {
        /// Address asked.
        url: String,
        /// Seconds waited.
        waited_seconds: f64,
    },
    /// The server answered with an error.
    #[error("{url} answered HTTP {status}: {said}. {advice}", advice = status_advice(*.status))]
    Status {
        /// Address asked.
        url: String,
        /// The status code.
        status: u16,
        /// Start of the server's words.
        said: String,
        /// The wait the server asked for, in seconds.
        retry_after_seconds: Option<f64>,
    },
    /// The server's answer is no chat completion.
    #[error(
        "{url} answered what is no chat completion: {detail}. It begins {first_bytes}. Is base_url that of an OpenAI-compatible API (often it ends in /v1)?"
    )]
    BadJson {
        /// Address asked.
        url: String,
        /// What is wrong with it.
        detail: String,
        /// First bytes that came, quoted.
        first_bytes: String,
    },
    /// The server's answer is larger than we take.
    #[error(
        "{url} sent more than {cap_bytes} bytes for one answer. Lower max_new_tokens or raise max_body_bytes"
    )]
    BodyTooLarge {
        /// Address asked.
        url: String,
        /// Bytes taken at most.
        cap_bytes: usize,
    },
    /// A model in this process failed.
    #[error("the model {model} failed: {detail}")]
    Model {
        /// Name of the model.
        model: String,
        /// What it said.
        detail: String,
    },
    /// A limit of the budget was reached; nothing more is asked.
    #[error(
        "{whose} of {limit} {kind} is used up: {used} spent ({spent}), {left} left, and the next request may need {needed}. All answers so far are kept: raise {option}{place} and run again to go on",
        whose = .scope.whose(), place = .scope.where_set(),
        option = .kind.option_name(), left = left(*.limit, *.used)
    )]
    BudgetExhausted {
        /// Which limit.
        kind: BudgetKind,
        /// Whose.
        scope: BudgetScope,
        /// The limit, in the kind's unit.
        limit: f64,
        /// Spent so far.
        used: f64,
        /// What the next request may need at most.
        needed: f64,
        /// All that was spent, in words.
        spent: String,
    },
    /// No endpoint works, for so long that waiting makes no sense.
    #[error(
        "no LLM endpoint has answered for {down_seconds:.0} s ({endpoints}); the last failure: {last}. All answers so far are kept: bring a server up and run again to go on"
    )]
    AllEndpointsDown {
        /// Seconds since the last of them stopped working.
        down_seconds: f64,
        /// The endpoints, with commas between.
        endpoints: String,
        /// The last failure seen.
        last: String,
    },
    /// Tried as often as allowed.
    #[error("gave up after {attempts} attempts; the last: {last}")]
    GaveUp {
        /// Requests sent.
        attempts: u32,
        /// The last failure.
        last: Box<ChatError>,
    },
}

impl ChatError {
    /// Whether the same request may succeed when sent again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } | Self::TimedOut { .. } | Self::BadJson { .. } => {
                true
            }
            Self::Status { status, .. } => matches!(status, 408 | 409 | 429 | 500..=599),
            _ => false,
        }
    }

    /// Whether no other request can succeed either, so that the run should end: a refused key, an address
    /// or model that is not there (3xx, 404, 405), a used-up budget, all endpoints down.
    pub fn stops_run(&self) -> bool {
        match self {
            Self::Unauthorized { .. } | Self::BudgetExhausted { .. } | Self::AllEndpointsDown { .. } => true,
            Self::Status { status, .. } => matches!(status, 300..=399 | 404 | 405),
            _ => false,
        }
    }

    /// The HTTP status that came, of an answer that had one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Unauthorized { status, .. } | Self::Status { status, .. } => Some(*status),
            Self::BadJson { .. } | Self::BodyTooLarge { .. } => Some(200),
            _ => None,
        }
    }

    /// The reason a row is rejected for, for example `llm_http_500` or `llm_timeout`.
    pub fn reason(&self) -> String {
        match self {
            Self::Unauthorized { status, .. } | Self::Status { status, .. } => {
                format!("llm_http_{status}")
            }
            Self::Unreachable { .. } => "llm_unreachable".into(),
            Self::Cut { .. } => "llm_cut_connection".into(),
            Self::TimedOut { .. } => "llm_timeout".into(),
            Self::BadJson { .. } => "llm_bad_json".into(),
            Self::BodyTooLarge { .. } => "llm_body_too_large".into(),
            Self::Model { .. } => "llm_model_failed".into(),
            Self::BudgetExhausted { .. } => "llm_budget".into(),
            Self::AllEndpointsDown { .. } => "llm_down".into(),
            Self::GaveUp { last, .. } => last.reason(),
        }
    }
}

/// What is left of a limit, without the noise of floating point.
fn left(limit: f64, used: f64) -> f64 {
    ((limit - used).max(0.0) * 1e4).round() / 1e4
}

fn key_advice(key_env: Option<&str>) -> String {
    match key_env {
        Some(name) => {
            format!("Check the key in the environment variable {name}, and that it may use this model")
        }
        None => "Put the key into an environment variable and name that variable in api_key_env".to_owned(),
    }
}

fn status_advice(status: u16) -> &'static str {
    match status {
        300..=399 => {
            "It redirects, and we follow no redirects with a key: put the final address into base_url"
        }
        400 | 422 => {
            "The server takes no such request: look at its words for the field it names, and at server_kind"
        }
        402 => "The account behind the key has no credit left",
        404 | 405 => {
            "Check base_url (often it ends in /v1) and the model's name; `curl <base_url>/models` lists the names"
        }
        413 => "The prompt is too long for this server: shorten the seed extract",
        408 | 429 => "The server asks for fewer requests: lower max_in_flight",
        500..=599 => "The server failed: look into its log",
        _ => "Look into the server's documentation for this status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> ChatError {
        ChatError::Status { url: "http://h/v1".into(), status, said: "no".into(), retry_after_seconds: None }
    }

    #[test]
    fn statuses_fall_into_their_classes() {
        for code in [408, 409, 429, 500, 502, 503, 504] {
            assert!(status(code).is_retryable() && !status(code).stops_run(), "{code}");
        }
        for code in [301, 404, 405] {
            assert!(!status(code).is_retryable() && status(code).stops_run(), "{code}");
        }
        for code in [400, 413, 422] {
            assert!(!status(code).is_retryable() && !status(code).stops_run(), "{code}");
        }
        assert_eq!(ChatError::GaveUp { attempts: 6, last: Box::new(status(503)) }.reason(), "llm_http_503");
    }

    #[test]
    fn texts_say_what_to_do() {
        let refused = ChatError::Unauthorized {
            url: "http://h/v1".into(),
            status: 401,
            key_env: Some("MY_KEY".into()),
            said: "bad key".into(),
        };
        assert!(refused.to_string().contains("environment variable MY_KEY"), "{refused}");
        let used = ChatError::BudgetExhausted {
            kind: BudgetKind::Usd,
            scope: BudgetScope::Stage,
            limit: 5.0,
            used: 4.9,
            needed: 0.75,
            spent: "12 requests".into(),
        };
        let text = used.to_string();
        assert!(
            text.contains("raise max_usd") && text.contains("4.9 spent (12 requests), 0.1 left"),
            "{text}"
        );
        assert!(status(404).to_string().contains("base_url"), "{}", status(404));
    }
}
