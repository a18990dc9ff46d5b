//! Endpoints of runs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::{Call, json, nothing, text};
use super::problem::Problem;
use crate::ledger::{RunFilter, Submitted};
use crate::run::{Run, RunId, RunSpec, RunState, Trigger, Wish};
use crate::service::Service;
use crate::supervisor::blocking;

/// How often a run is looked at for those who watch it.
const LOOK: Duration = Duration::from_millis(500);

/// Most of a log that is sent at once.
const MOST_LOG_BYTES: u64 = 256 << 10;

/// A request for runs.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunRequest {
    /// The workflow file, relative to the service's folder of workflows.
    file: String,
    /// The profile; `sample` by default.
    #[serde(default)]
    profile: Option<String>,
    /// Overrides: a dotted path and TOML, for example `vars.topics=24`.
    #[serde(default)]
    set: Vec<String>,
    /// The run's folder under its workflow's; the profile's name by default.
    #[serde(default)]
    name: Option<String>,
    /// Run only this stage and what it reads.
    #[serde(default)]
    until: Option<String>,
    /// Make this stage anew, and what reads it when its content differs.
    #[serde(default)]
    from: Option<String>,
    /// How often a failed run is tried again by itself. Wrong input is not.
    #[serde(default)]
    retries: u32,
    /// The run fails when it takes longer, in seconds.
    #[serde(default)]
    timeout_seconds: Option<u64>,
    /// A run for each combination of these values of the workflow's variables, each in a folder of its own:
    /// `{"dump": ["CC-MAIN-2023-50", "CC-MAIN-2024-10"]}`.
    #[serde(default, rename = "for")]
    each: BTreeMap<String, Vec<String>>,
}

/// Runs that were entered.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Entered {
    /// Their ids, in the order of the request's combinations.
    runs: Vec<RunId>,
}

/// A page of runs.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunsPage {
    /// The runs, the latest first.
    runs: Vec<Run>,
    /// What to give as `before` for the next page; none at the end.
    next: Option<RunId>,
}

/// What happened to a run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventEntry {
    #[schemars(with = "String")]
    at: Timestamp,
    text: String,
}

type Answer = BoxFuture<'static, Result<Response, Problem>>;

pub(crate) fn list(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let filter = filter_of(&call)?;
        let page = blocking(&service.ledger, move |ledger| ledger.runs(&filter)).await?;
        json(StatusCode::OK, &RunsPage { runs: page.runs, next: page.next })
    })
}

/// The filter that a query asks for.
pub(crate) fn filter_of(call: &Call) -> Result<RunFilter, Problem> {
    let mut states = Vec::new();
    for name in call.query("state").into_iter().flat_map(|names| names.split(',')) {
        states.push(RunState::from_name(name).ok_or_else(|| {
            let all = RunState::ALL.map(RunState::name).join(", ");
            Problem::bad_request(format!("`state` knows no `{name}`; states are {all}"))
        })?);
    }
    Ok(RunFilter {
        states,
        workflow: call.query("workflow").map(str::to_owned),
        text: call.query("q").map(str::to_owned),
        before: call.query("before").map(|id| RunId(id.to_owned())),
        limit: call.number("limit", 50)?.min(1_000) as usize,
    })
}

pub(crate) fn submit(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let request: RunRequest = call.json()?;
        let key = match call.headers.get("idempotency-key").map(|key| key.to_str()) {
            None => None,
            Some(Ok(key)) if (1..=200).contains(&key.len()) => {
                Some(format!("client:{}:{key}", call.caller.name))
            }
            Some(_) => return Err(Problem::bad_request("`Idempotency-Key` has 1 to 200 plain letters")),
        };
        let specs = combinations(&request)?;
        let mut runs = Vec::new();
        let mut new = false;
        let trigger = Trigger::manual(&call.caller.name);
        for (number, spec) in specs.into_iter().enumerate() {
            let key = key.as_ref().map(|key| format!("{key}:{number}"));
            let submitted = service.submitter.submit(spec, trigger.clone(), key).await?;
            new |= matches!(submitted, Submitted::New(_));
            runs.push(submitted.id().clone());
        }
        json(if new { StatusCode::CREATED } else { StatusCode::OK }, &Entered { runs })
    })
}

/// A spec for each combination of values.
pub(crate) fn combinations(request: &RunRequest) -> Result<Vec<RunSpec>, Problem> {
    let mut specs = vec![RunSpec {
        file: request.file.clone(),
        profile: request.profile.clone(),
        set: request.set.clone(),
        name: request.name.clone(),
        until: request.until.clone(),
        from: request.from.clone(),
        retries: request.retries,
        timeout_seconds: request.timeout_seconds,
        // The workflow says so, when the run is entered.
        stalled_after_seconds: None,
    }];
    for (variable, values) in &request.each {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if variable.is_empty() || !variable.chars().all(plain) || values.is_empty() {
            return Err(Problem::bad_request(format!(
                "`for`: `{variable}` needs a variable's name and values"
            )));
        }
        if specs.len() * values.len() > 1_000 {
            return Err(Problem::bad_request("`for` asks for more than 1,000 runs"));
        }
        specs = specs
            .iter()
            .flat_map(|spec| {
                values.iter().map(move |value| {
                    let mut spec = spec.clone();
                    spec.set.push(format!("vars.{variable}={}", toml_value(value)));
                    let part = format!("{variable}={}", folder_part(value));
                    spec.name = Some(match &spec.name {
                        Some(name) => format!("{name}@{part}"),
                        None => format!("{}@{part}", spec.profile.as_deref().unwrap_or("sample")),
                    });
                    spec
                })
            })
            .collect();
    }
    Ok(specs)
}

/// A number or a truth value as it is, everything else as a text.
fn toml_value(value: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
    match parsed.and_then(|mut table| table.remove("value")) {
        Some(plain @ (toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_))) => plain,
        _ => toml::Value::String(value.to_owned()),
    }
}

/// A value as a part of a folder's name.
fn folder_part(value: &str) -> String {
    value.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect()
}

pub(crate) fn show(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let id = call.run();
        json(StatusCode::OK, &blocking(&service.ledger, move |ledger| ledger.run(&id)).await?)
    })
}

pub(crate) fn cancel(service: Arc<Service>, call: Call) -> Answer {
    wish(service, call, Wish::Cancel)
}

pub(crate) fn pause(service: Arc<Service>, call: Call) -> Answer {
    wish(service, call, Wish::Pause)
}

fn wish(service: Arc<Service>, call: Call, wish: Wish) -> Answer {
    Box::pin(async move {
        let (id, now) = (call.run(), service.clock.now());
        blocking(&service.ledger, move |ledger| ledger.wish(&id, wish, now)).await?;
        Ok(nothing())
    })
}

pub(crate) fn resume(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let (id, now) = (call.run(), service.clock.now());
        blocking(&service.ledger, move |ledger| ledger.resume(&id, now)).await?;
        Ok(nothing())
    })
}

pub(crate) fn forget(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        service.forget(call.run()).await?;
        Ok(nothing())
    })
}

pub(crate) fn events(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let id = call.run();
        let events = blocking(&service.ledger, move |ledger| {
            ledger.version(&id)?;
            ledger.events(&id)
        })
        .await?;
        let events: Vec<_> = events.into_iter().map(|(at, text)| EventEntry { at, text }).collect();
        json(StatusCode::OK, &events)
    })
}

/// Server-sent events: the whole run whenever it changes, and an end.
pub(crate) fn live(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let id = call.run();
        let first = id.clone();
        blocking(&service.ledger, move |ledger| ledger.version(&first)).await?;
        let events = futures::stream::unfold(Some((service, id, 0)), |state| async move {
            let (service, id, seen) = state?;
            loop {
                let asked = id.clone();
                let version = blocking(&service.ledger, move |ledger| ledger.version(&asked)).await.ok()?;
                if version != seen {
                    let asked = id.clone();
                    let run = blocking(&service.ledger, move |ledger| ledger.run(&asked)).await.ok()?;
                    let event = Event::default().event("run").data(serde_json::to_string(&run).ok()?);
                    let next = (!run.state.is_final()).then_some((service, id, run.version));
                    return Some((Ok::<_, Infallible>(event), next));
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = service.stop.cancelled() => return None,
                }
            }
        });
        Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
    })
}

/// A part of the run's log; the header `X-Next-Offset` tells where the next begins.
pub(crate) fn log(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let (id, offset) = (call.run(), call.number("offset", 0)?);
        let known = id.clone();
        blocking(&service.ledger, move |ledger| ledger.version(&known)).await?;
        let path = service.log_path(&id);
        let read = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            match std::fs::File::open(path) {
                // Behind its end, which may be farther than files can reach, there is nothing yet.
                Ok(file) if file.metadata()?.len() <= offset => {}
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(offset))?;
                    file.take(MOST_LOG_BYTES).read_to_end(&mut bytes)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            Ok(bytes)
        });
        let bytes = read.await.map_err(|error| Problem::internal(error.to_string()))?;
        let bytes = bytes.map_err(|error| Problem::internal(format!("the log cannot be read: {error}")))?;
        let next = offset.saturating_add(bytes.len() as u64);
        let mut response = text("text/plain; charset=utf-8", bytes);
        response.headers_mut().insert(HeaderName::from_static("x-next-offset"), HeaderValue::from(next));
        Ok(response)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backfill_makes_a_run_for_each_combination() {
        let body = r#"{"file": "f.toml", "for": {"dump": ["A", "B/1"], "seed": ["1", "2"]}}"#;
        let specs = combinations(&serde_json::from_str(body).unwrap()).unwrap();
        let names: Vec<_> = specs.iter().map(|spec| spec.name.clone().unwrap()).collect();
        let expected = [
            "sample@dump=A@seed=1",
            "sample@dump=A@seed=2",
            "sample@dump=B-1@seed=1",
            "sample@dump=B-1@seed=2",
        ];
        assert_eq!(names, expected);
        assert_eq!(specs[2].set, ["vars.dump=\"B/1\"", "vars.seed=1"]);
        for wrong in [r#"{"file":"f","for":{"a b":["1"]}}"#, r#"{"file":"f","for":{"a":[]}}"#] {
            assert!(combinations(&serde_json::from_str(wrong).unwrap()).is_err());
        }
    }
}
