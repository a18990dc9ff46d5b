//! Browsers on their way to the provider and back. What belongs to a sign-in lies, sealed, in a cookie of the
//! browser that began it: somebody else's answer cannot be slipped under it, and nothing piles up here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use openidconnect::{CsrfToken, Nonce, PkceCodeChallenge, PkceCodeVerifier};
use ring::hmac;
use ring::rand::SystemRandom;

use super::Refusal;
use crate::hex::{hex, unhex};

/// The cookie that a browser keeps while it is away.
pub(crate) const LOGIN_COOKIE: &str = "corpusmith_login";

/// How long a sign-in may take.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

/// Finished sign-ins that are remembered, so that none is finished twice.
const MOST_FINISHED: usize = 100_000;

/// A sign-in that has begun.
pub(super) struct Login {
    pub(super) state: CsrfToken,
    pub(super) nonce: Nonce,
    pub(super) verifier: String,
}

impl Login {
    pub(super) fn new() -> Self {
        let (_, verifier) = PkceCodeChallenge::new_random_sha256();
        Self { state: CsrfToken::new_random(), nonce: Nonce::new_random(), verifier: verifier.into_secret() }
    }

    pub(super) fn challenge(&self) -> PkceCodeChallenge {
        PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(self.verifier.clone()))
    }
}

pub(super) struct Logins {
    key: hmac::Key,
    began: Instant,
    finished: Mutex<HashMap<String, Instant>>,
}

impl Logins {
    pub(super) fn new() -> Result<Self, String> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| "the system gives no random numbers".to_owned())?;
        Ok(Self { key, began: Instant::now(), finished: Mutex::default() })
    }

    /// The cookie of a sign-in: `state.nonce.verifier.seconds.seal`.
    pub(super) fn seal(&self, login: &Login) -> String {
        let (state, nonce) = (login.state.secret(), login.nonce.secret());
        let text = format!("{state}.{nonce}.{}.{}", login.verifier, self.began.elapsed().as_secs());
        let seal = hex(hmac::sign(&self.key, text.as_bytes()).as_ref());
        format!("{text}.{seal}")
    }

    /// The sign-in that a browser comes back from; each once.
    pub(super) fn open(&self, state: &str, cookie: Option<&str>) -> Result<Login, Refusal> {
        let again = |reason: &str| Refusal::Token(format!("{reason}: sign in again from the start"));
        let cookie = cookie.ok_or_else(|| again("this browser has not begun to sign in here"))?;
        let foreign = || again("this sign-in was not begun here");
        let (text, seal) = cookie.rsplit_once('.').ok_or_else(foreign)?;
        let seal = unhex(seal).ok_or_else(foreign)?;
        hmac::verify(&self.key, text.as_bytes(), &seal).map_err(|_| foreign())?;
        let parts: Vec<&str> = text.split('.').collect();
        let [kept, nonce, verifier, seconds] = parts[..] else { return Err(foreign()) };
        if state.is_empty() || kept != state {
            return Err(again("the answer belongs to another sign-in"));
        }
        let at = Duration::from_secs(seconds.parse().map_err(|_| foreign())?);
        if self.began.elapsed().saturating_sub(at) > LONGEST {
            return Err(again("it took too long to sign in"));
        }
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.len() >= MOST_FINISHED {
            finished.retain(|_, at| at.elapsed() <= LONGEST);
        }
        if finished.insert(kept.to_owned(), Instant::now()).is_some() {
            return Err(again("this answer was used before"));
        }
        let (state, nonce) = (CsrfToken::new(kept.to_owned()), Nonce::new(nonce.to_owned()));
        Ok(Login { state, nonce, verifier: verifier.to_owned() })
    }
}
