//! Who may do what: bearer tokens, kept as argon2 hashes, or everybody on a loopback address.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use jiff::Timestamp;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use crate::hex::hex;
use crate::ledger::{Ledger, LedgerError, Scope, TokenRecord};

/// What all tokens begin with, so that a leaked one is recognised.
const PREFIX: &str = "cmt";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

/// How long a token that was right is right without another look: hashes are slow to check, and a revoked
/// token gets no further than this.
const REMEMBERED: Duration = Duration::from_secs(30);
const MOST_REMEMBERED: usize = 10_000;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's name, or `local`.
    pub name: String,
    /// What is allowed.
    pub scope: Scope,
}

/// Tells who asks.
pub struct Gate {
    ledger: Ledger,
    /// Without tokens everybody may do everything: on loopback addresses only.
    required: bool,
    /// Callers by the digest of their token.
    known: Mutex<HashMap<[u8; 32], (Instant, Caller)>>,
    /// Hashes are checked one after the other: each takes 19 MiB.
    checking: Mutex<()>,
}

impl Gate {
    /// A gate that lets in whoever shows a token, or everybody.
    pub fn new(ledger: Ledger, required: bool) -> Self {
        Self { ledger, required, known: Mutex::default(), checking: Mutex::default() }
    }

    /// Whether a token is needed.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Who shows this token; none if it is wrong, or needed and missing. Blocks.
    ///
    /// # Errors
    /// The ledger fails.
    pub fn caller(&self, token: Option<&str>) -> Result<Option<Caller>, LedgerError> {
        let Some(token) = token else {
            let local = || Caller { name: "local".to_owned(), scope: Scope::Admin };
            return Ok((!self.required).then(local));
        };
        let digest = sha256(token);
        if let Some((at, caller)) = self.known().get(&digest)
            && at.elapsed() < REMEMBERED
        {
            return Ok(Some(caller.clone()));
        }
        let Some(caller) = self.check(token)? else {
            return Ok(None);
        };
        let mut known = self.known();
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        known.insert(digest, (Instant::now(), caller.clone()));
        Ok(Some(caller))
    }

    /// Forgets who was let in: a token was revoked.
    pub fn forget(&self) {
        self.known().clear();
    }

    fn check(&self, token: &str) -> Result<Option<Caller>, LedgerError> {
        let parts: Vec<&str> = token.split('_').collect();
        let [PREFIX, id, _] = parts[..] else {
            return Ok(None);
        };
        let Some(record) = self.ledger.token(id)?.filter(|record| record.revoked_at.is_none()) else {
            return Ok(None);
        };
        let hash = PasswordHash::new(&record.hash)
            .map_err(|error| LedgerError::Damaged(format!("token {id}: {error}")))?;
        let _one = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
        let right = Argon2::default().verify_password(token.as_bytes(), &hash).is_ok();
        Ok(right.then_some(Caller { name: record.name, scope: record.scope }))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Instant, Caller)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a token. It is shown this once: the ledger keeps its hash.
///
/// # Errors
/// There is no randomness, or the ledger fails.
pub fn create_token(
    ledger: &Ledger,
    name: &str,
    scope: Scope,
    now: Timestamp,
) -> Result<String, LedgerError> {
    let id = random_digits(ID_BYTES)?;
    let token = format!("{PREFIX}_{id}_{}", random_digits(SECRET_BYTES)?);
    let salt = random_digits(SALT_BYTES)?;
    let hash = Argon2::default()
        .hash_password_with_salt(token.as_bytes(), salt.as_bytes())
        .map_err(|error| LedgerError::Database(format!("the token cannot be hashed: {error}")))?
        .to_string();
    ledger.add_token(&TokenRecord {
        id,
        name: name.to_owned(),
        hash,
        scope,
        created_at: now,
        revoked_at: None,
    })?;
    Ok(token)
}

fn random_digits(count: usize) -> Result<String, LedgerError> {
    let mut bytes = vec![0; count];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| LedgerError::Database("the system gives no random numbers".to_owned()))?;
    Ok(hex(&bytes))
}

fn sha256(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lets_its_owner_in_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
        let now = Timestamp::now();
        let token = create_token(&ledger, "ci", Scope::Run, now).unwrap();
        let record = ledger.tokens().unwrap().remove(0);
        assert!(record.hash.starts_with("$argon2id$") && !record.hash.contains(&token));
        let gate = Gate::new(ledger.clone(), true);
        let caller = Caller { name: "ci".to_owned(), scope: Scope::Run };
        assert_eq!(gate.caller(Some(&token)).unwrap(), Some(caller));
        assert_eq!(gate.caller(None).unwrap(), None);
        let mut wrong = token.clone();
        wrong.replace_range(token.len() - 1.., if token.ends_with('0') { "1" } else { "0" });
        for wrong in [wrong.as_str(), "", "cmt", "cmt_x_y", "cmt__", &"_".repeat(1_000)] {
            assert_eq!(gate.caller(Some(wrong)).unwrap(), None, "{wrong}");
        }
        assert!(ledger.revoke_token(&record.id, now).unwrap());
        gate.forget();
        assert_eq!(gate.caller(Some(&token)).unwrap(), None);
        assert_eq!(Gate::new(ledger, false).caller(None).unwrap().unwrap().scope, Scope::Admin);
    }
}
