//! Signing in to `pipeline serve` by OpenID Connect, against a small provider.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the result of the test")]

#[path = "support/service.rs"]
mod place;
mod support;

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use place::{Answer, Place, Served};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

const SECRET: &str = "told-to-the-provider-alone-5c1";

/// A provider with one key, which hands out an ID token for each code that it was asked for rightly.
struct Provider {
    issuer: String,
    key: EcdsaKeyPair,
    /// Nonce, challenge and groups by code.
    codes: Mutex<HashMap<String, (String, String, String)>>,
}

impl Provider {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let provider = Arc::new(Self {
            issuer: format!("http://{}", listener.local_addr().unwrap()),
            key: EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap(),
            codes: Mutex::default(),
        });
        let answering = provider.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Some((head, body)) = support::read_request(&mut stream) else { continue };
                let (status, body) = answering.answer(&head, &body);
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}",
                    body.len()
                );
                let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes());
            }
        });
        provider
    }

    fn answer(&self, head: &str, body: &[u8]) -> (u16, Value) {
        let at = |path: &str| format!("{}/{path}", self.issuer);
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match head.split(' ').nth(1).unwrap_or_default() {
            "/.well-known/openid-configuration" => {
                let body = json!({
                    "issuer": self.issuer, "authorization_endpoint": at("authorize"),
                    "token_endpoint": at("token"), "jwks_uri": at("keys"),
                    "response_types_supported": ["code"], "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                });
                (200, body)
            }
            "/keys" => {
                let point = self.key.public_key().as_ref();
                let key = json!({
                    "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k",
                    "x": encode(&point[1..33]), "y": encode(&point[33..]),
                });
                (200, json!({"keys": [key]}))
            }
            "/token" => {
                let form: HashMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
                let shown = BASE64_STANDARD.encode(format!("corpusmith:{SECRET}"));
                let digest = ring::digest::digest(&ring::digest::SHA256, form["code_verifier"].as_bytes());
                match self.codes.lock().unwrap().remove(&form["code"]) {
                    Some((nonce, challenge, groups))
                        if head.contains(&shown) && challenge == encode(digest.as_ref()) =>
                    {
                        let id_token = self.token(&json!({"nonce": nonce, "groups": [groups]}));
                        (200, json!({"access_token": "a", "token_type": "Bearer", "id_token": id_token}))
                    }
                    _ => (400, json!({"error": "invalid_grant"})),
                }
            }
            _ => (404, json!({})),
        }
    }

    /// A token that is good for five minutes, with further claims.
    fn token(&self, more: &Value) -> String {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({
            "iss": self.issuer, "aud": "corpusmith", "sub": "u1", "iat": now, "exp": now + 300,
            "preferred_username": "ann",
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "k"})), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A service that trusts the provider.
fn served(place: &Place, provider: &Provider) -> Served {
    let settings = format!(
        "[oidc]\nissuer = {:?}\nclient_id = \"corpusmith\"\nclient_secret_env = \"TEST_OIDC_SECRET\"\n\
         read = [\"staff\"]\nadmin = [\"owners\"]\n",
        provider.issuer
    );
    std::fs::write(place.data().join("service.toml"), settings).unwrap();
    place.serve_with(&[], &[("TEST_OIDC_SECRET", SECRET)])
}

/// The value of a cookie that an answer sets. Names are in lower case, as heads are here; values are digits.
fn cookie(answer: &Answer, name: &str) -> String {
    let (_, rest) =
        answer.head_as_it_came.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{}", answer.head));
    format!("Cookie: {name}={}\r\n", rest.split(';').next().unwrap())
}

/// Goes to the provider and comes back with a code for these groups: the path of the way back, and the cookie
/// of the way there.
fn there_and_back(served: &Served, provider: &Provider, groups: &str) -> (String, String) {
    let away = served.get("/login/provider");
    assert_eq!(away.status, 303, "{}", away.body);
    let (_, rest) = away.head_as_it_came.split_once("ocation: ").unwrap();
    let url = url::Url::parse(rest.lines().next().unwrap()).unwrap();
    assert!(url.as_str().starts_with(&format!("{}/authorize?", provider.issuer)), "{url}");
    let sent: HashMap<String, String> = url.query_pairs().into_owned().collect();
    let code = format!("c{}", provider.codes.lock().unwrap().len());
    let granted = (sent["nonce"].clone(), sent["code_challenge"].clone(), groups.to_owned());
    provider.codes.lock().unwrap().insert(code.clone(), granted);
    let back = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("code", code.as_str()), ("state", &sent["state"])])
        .finish();
    (format!("/login/callback?{back}"), cookie(&away, "corpusmith_login"))
}

#[test]
fn people_sign_in_at_the_provider_and_out_again() {
    let (place, provider) = (Place::new(), Provider::start());
    place.small_workflow("small", "");
    let served = served(&place, &provider);
    // A provider is a guard, though there is no token and the address is this machine's.
    assert_eq!(served.get("/api/v1/runs").status, 401);
    assert!(served.get("/runs").head.contains("location: /login"));
    assert!(served.get("/login").body.contains("href=\"/login/provider\""));
    let (path, away) = there_and_back(&served, &provider, "staff");
    assert_eq!(served.get(&path).status, 401, "without the cookie of the way there");
    let signed_in = served.ask("GET", &path, &away, "");
    assert!(signed_in.status == 303 && signed_in.head.contains("location: /runs"), "{}", signed_in.body);
    assert!(signed_in.head.contains("httponly; samesite=lax; max-age=28800"), "{}", signed_in.head);
    let session = cookie(&signed_in, "corpusmith_session");
    assert_eq!(served.ask("GET", "/runs", &session, "").status, 200);
    assert_eq!(served.ask("GET", "/api/v1/runs", &session, "").status, 200);
    assert_eq!(served.ask("POST", "/workflows", &session, "file=small.toml").status, 403);
    assert_eq!(served.ask("GET", &path, &away, "").status, 401, "the same answer twice");
    assert_eq!(served.ask("POST", "/logout", &session, "").status, 303);
    assert_eq!(served.ask("GET", "/runs", &session, "").status, 303);
    // Whom the provider knows, and nobody here has named.
    let (path, away) = there_and_back(&served, &provider, "visitors");
    let refused = served.ask("GET", &path, &away, "");
    assert!(refused.status == 403 && refused.body.contains("visitors"), "{}", refused.body);
}

#[test]
fn programs_show_a_token_of_the_provider() {
    let (place, provider) = (Place::new(), Provider::start());
    place.small_workflow("small", "");
    let served = served(&place, &provider);
    let status = |claims: Value, method: &str, path: &str| {
        let header = format!("Authorization: Bearer {}\r\n", provider.token(&claims));
        served.ask(method, path, &header, "{\"file\": \"small.toml\"}").status
    };
    let owner = json!({"groups": ["owners"]});
    assert_eq!(status(owner.clone(), "POST", "/api/v1/runs"), 201);
    assert_eq!(status(owner, "GET", "/api/v1/tokens"), 200);
    assert_eq!(status(json!({"groups": ["staff"]}), "GET", "/api/v1/runs"), 200);
    assert_eq!(status(json!({"groups": ["staff"]}), "POST", "/api/v1/runs"), 403);
    assert_eq!(status(json!({"groups": ["visitors"]}), "GET", "/api/v1/runs"), 403);
    assert_eq!(status(json!({"groups": ["owners"], "exp": 1}), "GET", "/api/v1/runs"), 401);
    assert_eq!(status(json!({"groups": ["owners"], "aud": "x"}), "GET", "/api/v1/runs"), 401);
    assert_eq!(status(json!({"groups": ["owners"], "iss": "https://x"}), "GET", "/api/v1/runs"), 401);
}
