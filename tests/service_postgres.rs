//! Two services on one ledger in PostgreSQL, as on two machines that share a folder of data.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the result of the test")]

#[path = "support/service.rs"]
mod place;
#[path = "support/postgres_server.rs"]
mod postgres_server;
mod support;

use place::{Place, Served, text, wait_until};
use postgres_server::Server;
use serde_json::Value;
use support::{generate_workflow, serve};

fn serve_two(place: &Place, url: &str) -> [Served; 2] {
    ["one", "two"].map(|name| place.serve(&["--ledger", url, "--name", name]))
}

/// How often the run was begun.
fn starts(served: &Served, run: &str) -> usize {
    served.get(&format!("/api/v1/runs/{run}/events")).body.matches("started by").count()
}

fn owner(served: &Served, run: &str) -> Option<String> {
    let shown: Value = served.get(&format!("/api/v1/runs/{run}")).json();
    shown["owner"].as_str().map(str::to_owned)
}

#[test]
fn two_services_share_the_work_and_outlive_their_database() {
    let place = Place::new();
    let names: Vec<String> = (0..6).map(|number| format!("small{number}")).collect();
    names.iter().for_each(|name| place.small_workflow(name, ""));
    let mut server = Server::start();
    let url = server.url("shared");
    let services = serve_two(&place, &url);
    let submit = |from: &Served| -> Vec<String> {
        names.iter().map(|name| from.submit(&format!("{name}.toml"))).collect()
    };
    let first = submit(&services[0]);
    for run in &first {
        // What one was asked for the other shows.
        services[1].wait_for(run, &["succeeded"]);
        assert_eq!(starts(&services[1], run), 1, "{run} was started more than once");
    }
    let whole: Vec<String> = names
        .iter()
        .map(|name| text(&place.data().join(format!("runs/{name}/sample/kept/manifest.json"))))
        .collect();

    server.restart();
    let second = submit(&services[1]);
    server.restart();
    for run in first.iter().chain(&second) {
        services[0].wait_for(run, &["succeeded"]);
        assert_eq!(starts(&services[0], run), 1, "{run} was started more than once");
    }
    for (name, whole) in names.iter().zip(&whole) {
        assert_eq!(&text(&place.data().join(format!("runs/{name}/sample/kept/manifest.json"))), whole);
    }
}

#[test]
fn a_run_whose_service_was_killed_is_taken_over_by_the_other() {
    let place = Place::new();
    let workflow = generate_workflow(&place.data(), &serve(None));
    let patient = workflow.replace("request_timeout_seconds = 2.0", "request_timeout_seconds = 600.0");
    place.workflow("endless.toml", &patient.replace("name = \"w\"", "name = \"endless\""));
    let server = Server::start();
    let [one, two] = serve_two(&place, &server.url("killed"));
    let run = one.submit("endless.toml");
    one.wait_for(&run, &["running"]);
    let (dead, other, name) = match owner(&one, &run).as_deref() {
        Some("one") => (one, two, "two"),
        _ => (two, one, "one"),
    };
    dead.kill();
    wait_until("the other service works on the run", || owner(&other, &run).as_deref() == Some(name));
    other.wait_for(&run, &["running"]);
    assert_eq!(other.post(&format!("/api/v1/runs/{run}/cancel"), &Value::Null).status / 100, 2);
    other.wait_for(&run, &["cancelled"]);
}
