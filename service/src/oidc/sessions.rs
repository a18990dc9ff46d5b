//! Browsers that have signed in. Their cookies hold random bits; who they are is known here alone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use crate::auth::Caller;
use crate::hex::hex;

const SECRET_BYTES: usize = 32;
const MOST_SESSIONS: usize = 100_000;

struct Session {
    caller: Caller,
    until: Instant,
}

pub(super) struct Sessions {
    length: Duration,
    /// By the digest of the secret: who reads this memory's dump cannot sign in.
    open: Mutex<HashMap<Vec<u8>, Session>>,
}

impl Sessions {
    pub(super) fn new(length: Duration) -> Self {
        Self { length, open: Mutex::default() }
    }

    /// A new session; its secret.
    pub(super) fn open(&self, caller: Caller) -> Result<String, String> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random numbers".to_owned())?;
        let secret = hex(&bytes);
        let mut open = self.sessions();
        if open.len() >= MOST_SESSIONS {
            let now = Instant::now();
            open.retain(|_, session| session.until > now);
        }
        if open.len() >= MOST_SESSIONS {
            return Err("too many people have signed in".to_owned());
        }
        open.insert(digest_of(&secret), Session { caller, until: Instant::now() + self.length });
        Ok(secret)
    }

    pub(super) fn caller(&self, secret: &str) -> Option<Caller> {
        let open = self.sessions();
        let session = open.get(&digest_of(secret))?;
        (session.until > Instant::now()).then(|| session.caller.clone())
    }

    pub(super) fn close(&self, secret: &str) {
        self.sessions().remove(&digest_of(secret));
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest_of(secret: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, secret.as_bytes()).as_ref().to_vec()
}
