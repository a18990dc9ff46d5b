//! A small provider: it describes itself, has keys, and hands tokens out for codes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use openidconnect::core::{CoreJwsSigningAlgorithm, CoreRsaPrivateSigningKey};
use openidconnect::{JsonWebKeyId, PrivateSigningKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rsa::pkcs1::EncodeRsaPrivateKey;
use serde_json::{Value as Json, json};

use crate::api::endpoint::text;

pub(super) const CLIENT: &str = "corpusmith";
pub(super) const SECRET: &str = "the client's secret";

/// A key of the provider.
pub(super) enum Key {
    Es256(EcdsaKeyPair),
    Rs256(CoreRsaPrivateSigningKey),
}

impl Key {
    pub(super) fn es256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Es256(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
    }

    pub(super) fn rs256() -> Self {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        let pem = key.to_pkcs1_pem(Default::default()).unwrap();
        Self::Rs256(CoreRsaPrivateSigningKey::from_pem(&pem, Some(JsonWebKeyId::new("rsa".into()))).unwrap())
    }

    fn public(&self, id: &str) -> Json {
        match self {
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                let half = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
                json!({
                    "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id,
                    "x": half(&point[1..33]), "y": half(&point[33..]),
                })
            }
            Self::Rs256(key) => {
                let mut public = serde_json::to_value(key.as_verification_key()).unwrap();
                public["kid"] = json!(id);
                public
            }
        }
    }

    pub(super) fn public_text(&self) -> String {
        self.public("first").to_string()
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
        }
    }

    pub(super) fn sign_text(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Es256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Rs256(key) => key.sign(&CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256, message).unwrap(),
        }
    }
}

/// A token of parts of one's own choice.
pub(super) fn token(header: &Json, claims: &Json, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |json: &Json| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

pub(super) struct Shared {
    pub(super) issuer: String,
    /// The key in use and its id.
    pub(super) key: Mutex<(String, Arc<Key>)>,
    /// What a code is exchanged for: the ID token's claims, and the challenge it was asked with.
    pub(super) codes: Mutex<HashMap<String, (Json, String)>>,
    /// What is told of the owner of an access token.
    pub(super) user_info: Mutex<Json>,
    pub(super) asked_for_keys: Mutex<usize>,
}

impl Shared {
    /// A token as this provider makes them.
    pub(super) fn token(&self, claims: &Json) -> String {
        let (id, key) = self.key.lock().unwrap().clone();
        token(&json!({"alg": key.name(), "kid": id, "typ": "JWT"}), claims, |text| key.sign_text(text))
    }

    /// Good claims of somebody of the group `curators`.
    pub(super) fn claims(&self) -> Json {
        let now = Timestamp::now().as_second();
        json!({
            "iss": self.issuer, "aud": CLIENT, "sub": "u1", "iat": now, "exp": now + 300,
            "preferred_username": "ann", "groups": ["curators"],
        })
    }

    pub(super) fn turn_to(&self, id: &str, key: Key) {
        *self.key.lock().unwrap() = (id.to_owned(), Arc::new(key));
    }
}

/// Starts a provider.
pub(super) async fn start(key: Key) -> Arc<Shared> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shared = Arc::new(Shared {
        issuer: format!("http://{}/realm", listener.local_addr().unwrap()),
        key: Mutex::new(("first".to_owned(), Arc::new(key))),
        codes: Mutex::default(),
        user_info: Mutex::new(json!({"sub": "u1"})),
        asked_for_keys: Mutex::default(),
    });
    let router = Router::new()
        .route("/realm/.well-known/openid-configuration", get(describe))
        .route("/realm/keys", get(keys))
        .route("/realm/token", post(exchange))
        .route("/realm/me", get(me))
        .with_state(shared.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    shared
}

fn json_answer(status: StatusCode, body: Json) -> Response {
    let mut answer = text("application/json", body.to_string());
    *answer.status_mut() = status;
    answer
}

async fn describe(State(shared): State<Arc<Shared>>) -> Response {
    let at = |path: &str| format!("{}/{path}", shared.issuer);
    let body = json!({
        "issuer": shared.issuer, "authorization_endpoint": at("authorize"), "token_endpoint": at("token"),
        "jwks_uri": at("keys"), "userinfo_endpoint": at("me"), "response_types_supported": ["code"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256", "ES256"],
    });
    json_answer(StatusCode::OK, body)
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    *shared.asked_for_keys.lock().unwrap() += 1;
    let (id, key) = shared.key.lock().unwrap().clone();
    // Real key sets hold keys of kinds that nobody here knows.
    json_answer(StatusCode::OK, json!({"keys": [{"kty": "NEW", "kid": "x"}, key.public(&id)]}))
}

async fn me(State(shared): State<Arc<Shared>>) -> Response {
    json_answer(StatusCode::OK, shared.user_info.lock().unwrap().clone())
}

async fn exchange(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("{CLIENT}:{}", encoded(SECRET))));
    let body: Bytes = to_bytes(request.into_body(), 65_536).await.unwrap();
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let granted = shared.codes.lock().unwrap().remove(&form["code"]);
    let digest = ring::digest::digest(&ring::digest::SHA256, form["code_verifier"].as_bytes());
    match granted {
        Some((claims, challenge))
            if authorization.is_some_and(|shown| shown.as_bytes() == expected.as_bytes())
                && challenge == BASE64_URL_SAFE_NO_PAD.encode(digest) =>
        {
            let body = json!({
                "access_token": "opaque", "token_type": "Bearer", "id_token": shared.token(&claims),
            });
            json_answer(StatusCode::OK, body)
        }
        _ => json_answer(StatusCode::BAD_REQUEST, json!({"error": "invalid_grant"})),
    }
}

/// As RFC 6749 wants id and secret encoded.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
