//! Tokens that let people and programs in. Only hashes are kept.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sql::Row;
use super::{Ledger, LedgerError, millis, time};

/// What a token allows; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// To look.
    Read,
    /// To start, stop and delete runs.
    Run,
    /// To make and revoke tokens.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Read, Self::Run, Self::Admin];

    /// The scope's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// A token as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// The part of the token that tells which it is.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The argon2 hash of its secret.
    pub hash: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

const COLUMNS: &str = "id, name, hash, scope, created_at, revoked_at";

impl Ledger {
    /// Keeps a new token.
    ///
    /// # Errors
    /// The database fails.
    pub fn add_token(&self, token: &TokenRecord) -> Result<(), LedgerError> {
        self.query(
            "INSERT INTO tokens (id, name, hash, scope, created_at) VALUES ($1, $2, $3, $4, $5) RETURNING id",
            &[
                token.id.as_str().into(),
                token.name.as_str().into(),
                token.hash.as_str().into(),
                token.scope.name().into(),
                millis(token.created_at),
            ],
        )
        .map(drop)
    }

    /// A token.
    ///
    /// # Errors
    /// The database fails.
    pub fn token(&self, id: &str) -> Result<Option<TokenRecord>, LedgerError> {
        let rows = self.query(&format!("SELECT {COLUMNS} FROM tokens WHERE id = $1"), &[id.into()])?;
        rows.first().map(token_of).transpose()
    }

    /// All tokens, the oldest first.
    ///
    /// # Errors
    /// The database fails.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, LedgerError> {
        let rows = self.query(&format!("SELECT {COLUMNS} FROM tokens ORDER BY created_at, id"), &[])?;
        rows.iter().map(token_of).collect()
    }

    /// Lets a token in no more; false if there is no such token, or it was revoked before.
    ///
    /// # Errors
    /// The database fails.
    pub fn revoke_token(&self, id: &str, now: Timestamp) -> Result<bool, LedgerError> {
        let rows = self.query(
            "UPDATE tokens SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL RETURNING id",
            &[millis(now), id.into()],
        )?;
        Ok(!rows.is_empty())
    }
}

fn token_of(row: &Row) -> Result<TokenRecord, LedgerError> {
    Ok(TokenRecord {
        id: row.text(0)?.to_owned(),
        name: row.text(1)?.to_owned(),
        hash: row.text(2)?.to_owned(),
        scope: Scope::from_name(row.text(3)?)
            .ok_or_else(|| LedgerError::Damaged("a token has an unknown scope".to_owned()))?,
        created_at: time(row.int(4)?)?,
        revoked_at: row.optional_int(5)?.map(time).transpose()?,
    })
}
