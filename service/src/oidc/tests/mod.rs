mod provider;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use provider::{CLIENT, Key, SECRET, Shared, start, token};
use serde_json::{Value as Json, json};
use url::Url;

use super::*;
use crate::ledger::Scope;

/// A service that trusts a provider. Secrets come from the environment: here from a variable that is set
/// once, to the same value, by all tests.
fn oidc(shared: &Shared, more: &str) -> Oidc {
    const VARIABLE: &str = "CORPUSMITH_TEST_OIDC_SECRET";
    static SET: std::sync::Once = std::sync::Once::new();
    // SAFETY: no other test of this crate reads or writes variables while this runs for the first time.
    SET.call_once(|| unsafe { std::env::set_var(VARIABLE, SECRET) });
    let text = format!(
        "issuer = {:?}\nclient_id = {CLIENT:?}\nclient_secret_env = {VARIABLE:?}\nrun = [\"curators\"]\n{more}",
        shared.issuer
    );
    let oidc = Oidc::new(&toml::from_str(&text).unwrap(), "http://127.0.0.1:8420").unwrap();
    Oidc { provider: oidc.provider.asked_every(Duration::ZERO), ..oidc }
}

/// A browser that was sent to the provider.
struct Browser {
    cookie: String,
    sent: BTreeMap<String, String>,
}

impl Browser {
    async fn leave(oidc: &Oidc) -> Self {
        let begun = oidc.begin().await.unwrap();
        let url = Url::parse(&begun.url).unwrap();
        Self { cookie: begun.cookie, sent: url.query_pairs().into_owned().collect() }
    }

    /// The provider hands out a code for these claims; what it sends the browser back with.
    fn granted(&self, shared: &Shared, mut claims: Json) -> BTreeMap<String, String> {
        if claims.get("nonce").is_none() {
            claims["nonce"] = json!(self.sent["nonce"]);
        }
        let code = format!("code-{}", self.sent["state"]);
        let challenge = self.sent["code_challenge"].clone();
        shared.codes.lock().unwrap().insert(code.clone(), (claims, challenge));
        [("code".to_owned(), code), ("state".to_owned(), self.sent["state"].clone())].into()
    }
}

#[tokio::test]
async fn a_browser_signs_in_and_out() {
    for key in [Key::es256(), Key::rs256()] {
        let shared = start(key).await;
        let oidc = oidc(&shared, "");
        let browser = Browser::leave(&oidc).await;
        assert_eq!(browser.sent["code_challenge_method"], "S256");
        assert_eq!(browser.sent["redirect_uri"], "http://127.0.0.1:8420/login/callback");
        assert_eq!(browser.sent["scope"], "openid profile email");
        let back = browser.granted(&shared, shared.claims());
        let session = oidc.finish(&back, Some(&browser.cookie)).await.unwrap();
        let caller = oidc.session(&session).unwrap();
        assert_eq!((caller.name.as_str(), caller.scope), ("ann", Scope::Run));
        assert!(oidc.session("another").is_none() && oidc.session("").is_none());
        oidc.sign_out(&session);
        assert!(oidc.session(&session).is_none());
    }
}

#[tokio::test]
async fn a_session_ends_by_itself() {
    let shared = start(Key::es256()).await;
    let mut oidc = oidc(&shared, "");
    oidc.sessions = Sessions::new(Duration::from_millis(20));
    let browser = Browser::leave(&oidc).await;
    let back = browser.granted(&shared, shared.claims());
    let session = oidc.finish(&back, Some(&browser.cookie)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(oidc.session(&session).is_none());
}

#[tokio::test]
async fn who_did_not_begin_here_does_not_end_here() {
    let shared = start(Key::es256()).await;
    let oidc = oidc(&shared, "");
    let refused = async |back: &BTreeMap<String, String>, cookie: Option<&str>| {
        oidc.finish(back, cookie).await.unwrap_err().to_string()
    };
    let (ann, eve) = (Browser::leave(&oidc).await, Browser::leave(&oidc).await);
    let back = ann.granted(&shared, shared.claims());
    assert!(refused(&back, None).await.contains("has not begun"));
    assert!(refused(&back, Some(&eve.cookie)).await.contains("another sign-in"));
    let mut forged = ann.cookie.clone();
    forged.replace_range(0..1, if forged.starts_with('a') { "b" } else { "a" });
    assert!(refused(&back, Some(&forged)).await.contains("not begun here"));
    let stateless: BTreeMap<_, _> = [("code".to_owned(), back["code"].clone())].into();
    assert!(refused(&stateless, Some(&ann.cookie)).await.contains("another sign-in"));
    // The same answer a second time, though its code were still good.
    assert!(oidc.finish(&back, Some(&ann.cookie)).await.is_ok());
    let back = ann.granted(&shared, shared.claims());
    assert!(refused(&back, Some(&ann.cookie)).await.contains("used before"));
    // Another provider's answer, and a refusal.
    let bob = Browser::leave(&oidc).await;
    let mut back = bob.granted(&shared, shared.claims());
    back.insert("iss".to_owned(), "https://other.example".to_owned());
    assert!(refused(&back, Some(&bob.cookie)).await.contains("another identity provider"));
    let cid = Browser::leave(&oidc).await;
    let denied = [("state", cid.sent["state"].as_str()), ("error", "access_denied")];
    let denied = denied.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert!(refused(&denied, Some(&cid.cookie)).await.contains("access_denied"));
    // A code that was asked for with another verifier (PKCE).
    let dan = Browser::leave(&oidc).await;
    let back = dan.granted(&shared, shared.claims());
    for granted in shared.codes.lock().unwrap().values_mut() {
        granted.1 = eve.sent["code_challenge"].clone();
    }
    assert!(refused(&back, Some(&dan.cookie)).await.contains("invalid_grant"));
}

/// Claims that differ from good ones in one place, and a word of the refusal.
fn bad_claims(shared: &Shared) -> Vec<(Json, &'static str)> {
    let with = |name: &str, value: Json| {
        let mut claims = shared.claims();
        claims[name] = value;
        claims
    };
    let now = Timestamp::now().as_second();
    vec![
        (with("iss", json!("https://other.example")), "issuer"),
        (with("aud", json!("another")), "audience"),
        (with("aud", json!([])), "audience"),
        (with("exp", json!(now - 1)), "expired"),
        (with("exp", json!(0)), "expired"),
        (with("nbf", json!(now + 3_600)), "not valid yet"),
    ]
}

#[tokio::test]
async fn an_id_token_that_is_not_quite_right_signs_nobody_in() {
    let shared = start(Key::es256()).await;
    let oidc = oidc(&shared, "");
    let mut cases = bad_claims(&shared);
    let with = |more: Json| {
        let mut claims = shared.claims();
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    cases.push((with(json!({"nonce": "another"})), "nonce"));
    cases.push((with(json!({"aud": [CLIENT, "another"]})), "another client"));
    cases.push((with(json!({"aud": [CLIENT, "another"], "azp": "another"})), "another client"));
    cases.push((with(json!({"groups": ["visitors"]})), "gives a scope"));
    for (claims, word) in cases {
        let browser = Browser::leave(&oidc).await;
        let back = browser.granted(&shared, claims.clone());
        let error = oidc.finish(&back, Some(&browser.cookie)).await.unwrap_err().to_string();
        assert!(error.to_lowercase().contains(word), "{word}: {error}");
    }
    let browser = Browser::leave(&oidc).await;
    let back = browser.granted(&shared, with(json!({"aud": [CLIENT, "another"], "azp": CLIENT})));
    assert!(oidc.finish(&back, Some(&browser.cookie)).await.is_ok());
}

#[tokio::test]
async fn what_the_id_token_leaves_out_is_asked_for_and_must_be_of_the_same_person() {
    let shared = start(Key::es256()).await;
    let oidc = oidc(&shared, "");
    let mut claims = shared.claims();
    claims.as_object_mut().unwrap().remove("groups");
    for (sub, let_in) in [("u1", true), ("u2", false)] {
        *shared.user_info.lock().unwrap() = json!({"sub": sub, "groups": ["curators"]});
        let browser = Browser::leave(&oidc).await;
        let back = browser.granted(&shared, claims.clone());
        assert_eq!(oidc.finish(&back, Some(&browser.cookie)).await.is_ok(), let_in, "{sub}");
    }
}

#[tokio::test]
async fn programs_show_tokens_of_the_provider() {
    let shared = start(Key::es256()).await;
    let oidc = oidc(&shared, "audience = \"api\"\n");
    let with = |name: &str, value: Json| {
        let mut claims = shared.claims();
        claims["aud"] = json!(["account", "api"]);
        claims[name] = value;
        claims
    };
    let good = with("scope", json!("x"));
    assert_eq!(oidc.bearer(&shared.token(&good)).await.unwrap().scope, Scope::Run);
    let mut cases = bad_claims(&shared);
    cases.push((with("sub", Json::Null), "no signed token"));
    for (mut claims, word) in cases {
        if claims["aud"] == CLIENT {
            claims["aud"] = json!("api");
        }
        let error = oidc.bearer(&shared.token(&claims)).await.unwrap_err().to_string();
        assert!(error.to_lowercase().contains(word), "{word}: {error}");
    }
    // What was made for the page is not for the API, where the two are told apart.
    assert!(oidc.bearer(&shared.token(&shared.claims())).await.is_err());
    assert!(matches!(
        oidc.bearer(&shared.token(&with("groups", json!(["visitors"])))).await,
        Err(Refusal::NoScope(_))
    ));
    for noise in ["", "..", "a.b.c", "e30.e30.", &format!("{}x", shared.token(&good))] {
        assert!(matches!(oidc.bearer(noise).await, Err(Refusal::Token(_))), "{noise}");
    }
}

#[tokio::test]
async fn signatures_that_anybody_could_make_are_none() {
    for key in [Key::rs256(), Key::es256()] {
        let shared = start(key).await;
        let oidc = oidc(&shared, "");
        let good = shared.token(&shared.claims());
        assert!(oidc.bearer(&good).await.is_ok());
        let (id, key) = shared.key.lock().unwrap().clone();
        let public = key.public_text();
        for name in ["HS256", "none", "None", "NONE", "nOnE"] {
            for header in [json!({"alg": name}), json!({"alg": name, "kid": id, "typ": "JWT"})] {
                // A signature by the public key taken for a secret, by the client's secret, and none.
                for secret in [public.as_bytes(), SECRET.as_bytes(), b""] {
                    let sign = |text: &[u8]| {
                        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                        let tag = ring::hmac::sign(&key, text);
                        if secret.is_empty() { Vec::new() } else { tag.as_ref().to_vec() }
                    };
                    let forged = token(&header, &shared.claims(), sign);
                    assert!(matches!(oidc.bearer(&forged).await, Err(Refusal::Token(_))), "{header}");
                }
            }
        }
        // Another's key under the same id, another's claims under a good signature, a foreign kind of token.
        let stranger = Key::es256();
        let header = json!({"alg": "ES256", "kid": id});
        let forged = token(&header, &shared.claims(), |text| stranger.sign_text(text));
        assert!(oidc.bearer(&forged).await.is_err());
        let mut raised = shared.claims();
        raised["groups"] = json!(["curators", "owners"]);
        let (head, rest) = good.split_once('.').unwrap();
        let signature = rest.split_once('.').unwrap().1;
        let middle = token(&json!({}), &raised, |_| Vec::new());
        let middle = middle.split('.').nth(1).unwrap();
        assert!(oidc.bearer(&format!("{head}.{middle}.{signature}")).await.is_err());
        let header = json!({"alg": key.name(), "kid": id, "typ": "logout+jwt"});
        let notice = token(&header, &shared.claims(), |text| key.sign_text(text));
        assert!(oidc.bearer(&notice).await.is_err());
        let header = json!({"alg": key.name(), "kid": id, "typ": "at+jwt"});
        let access = token(&header, &shared.claims(), |text| key.sign_text(text));
        assert!(oidc.bearer(&access).await.is_ok());
    }
}

#[tokio::test]
async fn new_keys_are_learned_and_old_ones_forgotten() {
    let shared = start(Key::es256()).await;
    let oidc = oidc(&shared, "");
    let old = shared.token(&shared.claims());
    assert!(oidc.bearer(&old).await.is_ok());
    shared.turn_to("second", Key::rs256());
    assert!(oidc.bearer(&shared.token(&shared.claims())).await.is_ok());
    assert!(oidc.bearer(&old).await.is_err());
}

#[tokio::test]
async fn unknown_keys_do_not_flood_the_provider() {
    let shared = start(Key::es256()).await;
    let mut oidc = oidc(&shared, "");
    oidc.provider = oidc.provider.asked_every(Duration::from_secs(3_600));
    assert!(oidc.bearer(&shared.token(&shared.claims())).await.is_ok());
    let asked = *shared.asked_for_keys.lock().unwrap();
    let stranger = Key::es256();
    for n in 0..20 {
        let header = json!({"alg": "ES256", "kid": format!("k{n}")});
        let forged = token(&header, &shared.claims(), |text| stranger.sign_text(text));
        assert!(oidc.bearer(&forged).await.is_err());
    }
    assert_eq!(*shared.asked_for_keys.lock().unwrap(), asked);
}

#[tokio::test]
async fn a_provider_that_is_away_is_told_from_a_bad_token() {
    let shared = start(Key::es256()).await;
    let gone = Arc::new(Shared {
        issuer: "http://127.0.0.1:1/realm".to_owned(),
        key: std::sync::Mutex::new(shared.key.lock().unwrap().clone()),
        codes: Default::default(),
        user_info: Default::default(),
        asked_for_keys: Default::default(),
    });
    let oidc = oidc(&gone, "");
    assert!(matches!(oidc.bearer(&shared.token(&shared.claims())).await, Err(Refusal::Provider(_))));
    assert!(matches!(oidc.begin().await, Err(Refusal::Provider(_))));
}

#[test]
fn settings_that_would_let_anybody_in_are_refused() {
    let base = "client_id = \"c\"\nread = [\"a\"]\n";
    for (text, word) in [
        ("issuer = \"http://login.example.org\"\nclient_id = \"c\"\nread = [\"a\"]", "https"),
        ("issuer = \"nonsense\"\nclient_id = \"c\"\nread = [\"a\"]", "no URL"),
        ("issuer = \"https://login.example.org\"\nclient_id = \"c\"", "lets nobody in"),
        (&format!("issuer = \"https://a.example\"\n{base}client_secret_env = \"UNSET_77\""), "UNSET_77"),
        (&format!("issuer = \"https://a.example\"\n{base}session_hours = 0"), "session_hours"),
    ] {
        let settings = toml::from_str(text).unwrap();
        let error = Oidc::new(&settings, "http://127.0.0.1:1").err().unwrap();
        assert!(error.contains(word), "{word}: {error}");
    }
}
