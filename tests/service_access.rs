//! Who may do what with `pipeline serve`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the result of the test")]

#[path = "support/service.rs"]
mod place;
mod support;

use place::{Place, text};
use serde_json::json;
use support::{pipeline, run};

fn token(place: &Place, name: &str, scope: &str) -> String {
    let said =
        run(pipeline().args(["token", "create", name, "--scope", scope, "--data", &text(&place.data())]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.out.trim().to_owned()
}

#[test]
fn nothing_is_answered_without_a_token_and_scopes_hold() {
    let place = Place::new();
    place.small_workflow("small", "");
    let [read, run_scope, admin] = ["read", "run", "admin"].map(|scope| token(&place, scope, scope));
    let served = place.serve(&[]);
    let document = served.get("/api/openapi.json").json();
    let mut guarded = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let real = path.replace(['{', '}'], "");
            let (method, closed) =
                (method.to_uppercase(), !operation["security"].as_array().unwrap().is_empty());
            let status = served.ask(&method, &real, "", "{}").status;
            if !closed {
                continue;
            }
            assert_eq!(status, 401, "{method} {path}");
            let needs = operation["description"].as_str().unwrap();
            let with = |token: &str| {
                served.ask(&method, &real, &format!("Authorization: Bearer {token}\r\n"), "{}").status
            };
            for (token, allows) in [
                (&read, ["read", "", ""]),
                (&run_scope, ["read", "run", ""]),
                (&admin, ["read", "run", "admin"]),
            ] {
                let allowed =
                    allows.iter().any(|scope| !scope.is_empty() && needs.contains(&format!("`{scope}`")));
                if !allowed {
                    assert_eq!(with(token), 403, "{method} {path} {needs}");
                } else if operation["operationId"] != "watch_run" {
                    assert!(![401, 403].contains(&with(token)), "{method} {path} {needs}");
                }
            }
            guarded += 1;
        }
    }
    assert!(guarded >= 15, "{guarded} endpoints");
    // Pages lead to the place where a token is shown, and take it as a cookie from then on.
    for page in [
        "/runs",
        "/runs/x",
        "/workflows",
        "/schedules",
        "/data",
        "/search",
        "/training",
        "/tokens",
        "/notices",
        "/api",
    ] {
        let answer = served.get(page);
        assert_eq!(answer.status, 303, "{page}");
        assert!(answer.head.contains("location: /login"), "{}", answer.head);
    }
    let answer = served.ask("POST", "/login", "", &format!("token={read}"));
    assert!(answer.status == 303 && answer.head.contains("httponly; samesite=strict"), "{}", answer.head);
    let cookie = format!("Cookie: corpusmith_token={read}\r\n");
    assert_eq!(served.ask("GET", "/runs", &cookie, "").status, 200);
    assert_eq!(served.ask("GET", "/tokens", &cookie, "").status, 403);
    assert_eq!(served.ask("POST", "/workflows", &cookie, "file=small.toml").status, 403);
    // The command line shows the token of its variable.
    let refused = run(pipeline().args(["--server", &served.url(), "ls"]));
    assert!(refused.code == Some(1) && refused.err.contains("show a token"), "{}", refused.err);
    let said = run(pipeline().args(["--server", &served.url(), "ls"]).env("CORPUSMITH_TOKEN", &read));
    assert_eq!(said.code, Some(0), "{}", said.err);
    // A revoked token lets nobody in any more.
    let admin_header = format!("Authorization: Bearer {admin}\r\n");
    let tokens = served.ask("GET", "/api/v1/tokens", &admin_header, "");
    assert!(!tokens.body.contains("argon2") && !tokens.body.contains(&read));
    let id =
        tokens.json().as_array().unwrap().iter().find(|token| token["name"] == "read").unwrap()["id"].clone();
    let path = format!("/api/v1/tokens/{}", id.as_str().unwrap());
    assert_eq!(served.ask("DELETE", &path, &admin_header, "").status, 204);
    assert_eq!(served.ask("GET", "/runs", &cookie, "").status, 303);
}

#[test]
fn guessing_tokens_is_slowed_down() {
    let place = Place::new();
    token(&place, "a", "read");
    let served = place.serve(&[]);
    let guess = |n: u32| {
        let header = format!("Authorization: Bearer cmt_0123456789ab_{n:064x}\r\n");
        served.ask("GET", "/api/v1/runs", &header, "").status
    };
    let statuses: Vec<u16> = (0..120).map(guess).collect();
    assert_eq!(statuses[0], 401);
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[test]
fn other_sites_and_other_names_are_refused() {
    let place = Place::new();
    place.small_workflow("small", "");
    let served = place.serve(&[]);
    let body = json!({"file": "small.toml"}).to_string();
    for headers in [
        "Origin: https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Origin: null\r\n",
    ] {
        assert_eq!(served.ask("POST", "/api/v1/runs", headers, &body).status, 403, "{headers}");
    }
    let own = format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", served.address);
    assert_eq!(served.ask("POST", "/api/v1/runs", &own, &body).status, 201);
    // A name that an attacker's DNS server points at this machine.
    for host in ["evil.example", "evil.example:8420", "127.0.0.1.nip.io", ""] {
        assert_eq!(served.ask("GET", "/runs", &format!("Host: {host}\r\n"), "").status, 403, "{host}");
    }
    let head = served.get("/runs").head;
    for wanted in [
        "content-security-policy: default-src 'none'",
        "x-frame-options: deny",
        "x-content-type-options: nosniff",
        "frame-ancestors 'none'",
    ] {
        assert!(head.contains(wanted), "{head}");
    }
    let page = served.get("/runs").body;
    assert!(
        !page.contains("style=\"")
            && !page.contains("onclick")
            && !page.contains("http://")
            && !page.contains("https://")
    );
}

#[test]
fn no_path_leads_out_of_the_data() {
    let place = Place::new();
    std::fs::write(place.data().join("../secret.txt"), "secret").unwrap();
    std::fs::create_dir_all(place.data().join("runs")).unwrap();
    std::os::unix::fs::symlink(place.data().join("../secret.txt"), place.data().join("runs/link.parquet"))
        .unwrap();
    let served = place.serve(&[]);
    let mut refused = 0;
    let ups = [
        "..",
        "%2e%2e",
        "%252e%252e",
        "..%2f..",
        "%2e%2e%2f%2e%2e",
        "..%5c..",
        "..;",
        ".%00.",
        "%c0%ae%c0%ae",
    ];
    let starts = ["", "/", "//", "runs/", "runs/../", "runs/%2e%2e/", "./", "file:///", "runs%2f"];
    let tails = ["/secret.txt", "/etc/passwd", "/service/ledger.sqlite", "/proc/self/environ"];
    for start in starts {
        for up in ups {
            for tail in tails {
                for route in [
                    "/data?path=",
                    "/data?view=sql&q=SELECT+1&path=",
                    "/search?q=a&index=",
                    "/runs/x/compare?with=",
                ] {
                    let answer = served.get(&format!("{route}{start}{up}{tail}"));
                    assert_ne!(answer.status, 200, "{route}{start}{up}{tail}");
                    assert!(!answer.body.contains("secret\n") && !answer.body.contains("root:"));
                    refused += 1;
                }
            }
        }
    }
    for path in ["runs/link.parquet", "service", "service/ledger.sqlite", "service/lock"] {
        assert_eq!(served.get(&format!("/data?path={path}")).status, 404, "{path}");
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn what_a_caller_lays_over_a_workflow_does_not_read_the_services_secrets() {
    let place = Place::new();
    place.small_workflow("small", "");
    let served = place.serve_with(&[], &[("CORPUSMITH_TEST_SECRET", "not-to-be-told-4711")]);
    for set in [
        "description='${env:CORPUSMITH_TEST_SECRET}'",
        "vars.a='x ${env:CORPUSMITH_TEST_SECRET:-none}'",
        "description=\"\\u0024{\\u0065nv:CORPUSMITH_TEST_SECRET}\"",
    ] {
        let answer = served.post("/api/v1/runs", &json!({"file": "small.toml", "set": [set]}));
        assert_eq!(answer.status, 422, "{set}: {}", answer.body);
        assert!(!answer.body.contains("not-to-be-told"), "{set}: {}", answer.body);
        assert!(answer.body.contains("environment"), "{set}: {}", answer.body);
    }
    // Nor by a variable of the file that holds one.
    place.small_workflow("keyed", "[vars]\nkey = 'k ${env:CORPUSMITH_TEST_SECRET}'\nalso = '${key}'\n");
    for set in ["description='${key}'", "description='x ${also}'", "vars.more='${also}'"] {
        let answer = served.post("/api/v1/runs", &json!({"file": "keyed.toml", "set": [set]}));
        assert_eq!(answer.status, 422, "{set}: {}", answer.body);
        assert!(
            !answer.body.contains("not-to-be-told") && answer.body.contains("environment"),
            "{set}: {}",
            answer.body
        );
    }
    // Nor does it read their files, or send their keys elsewhere.
    for set in [
        "stage.pages.paths=['/etc/passwd']",
        "stage.pages.paths=['${vars.a}etc/passwd']",
        "stage.pages.paths=['../secret.jsonl']",
        "stage.pages.paths=['s3://bucket/secret.jsonl']",
        "engine='ballista://192.0.2.1:50050'",
        "stage.more={ kind = 'read', paths = ['/etc/hostname'] }",
    ] {
        let answer = served.post("/api/v1/runs", &json!({"file": "small.toml", "set": ["vars.a='/'", set]}));
        assert_eq!(answer.status, 422, "{set}: {}", answer.body);
        assert!(answer.body.contains("a caller may not choose the"), "{set}: {}", answer.body);
    }
    let set = ["vars.a='CC-MAIN-2024-10'", "stage.kept.query='SELECT * FROM pages WHERE n > 4'"];
    let answer = served.post("/api/v1/runs", &json!({"file": "small.toml", "set": set}));
    assert_eq!(answer.status, 201, "{}", answer.body);
    // The page of a run shows no file outside, whatever lies in the run's folder.
    let run = served.submit("small.toml");
    served.wait_for(&run, &["succeeded"]);
    let folder = served.get(&format!("/api/v1/runs/{run}")).json()["folder"].as_str().unwrap().to_owned();
    let report = place.data().join("runs").join(folder).join("report.html");
    let page = format!("/runs/{run}/report");
    assert_eq!(served.get(&page).status, 200);
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::remove_file(&report).unwrap();
    std::os::unix::fs::symlink(secret.path(), &report).unwrap();
    assert_eq!(served.get(&page).status, 404);
}

#[test]
fn a_public_address_needs_tls_in_front_and_a_token() {
    let place = Place::new();
    let data = text(&place.data());
    let serve = |arguments: &[&str]| {
        run(pipeline()
            .args([
                "serve",
                "--listen",
                "0.0.0.0:0",
                "--data",
                &data,
                "--workflows",
                &text(&place.workflows()),
            ])
            .args(arguments))
    };
    let said = serve(&[]);
    assert!(said.code == Some(2) && said.err.contains("--behind-proxy"), "{}", said.err);
    let said = serve(&["--behind-proxy"]);
    assert!(said.code == Some(2) && said.err.contains("pipeline token create"), "{}", said.err);
}
