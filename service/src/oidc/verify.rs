//! Whether a token is good: its signature, issuer, audience, times and nonce.

use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use openidconnect::core::{CoreIdToken, CoreIdTokenVerifier, CoreJwsSigningAlgorithm, CoreProviderMetadata};
use openidconnect::{ClaimsVerificationError, ClientId, JsonWebTokenType, Nonce, SignatureVerificationError};

use super::{Claims, Refusal};
use crate::settings::OidcSettings;
use crate::words::chain;

/// What signatures are taken: those that only the provider can make. Secrets that both sides know (HS256)
/// and no signature at all (`none`) are not among them.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// `typ` of tokens that let in: plain ones, and access tokens (RFC 9068). Others, such as notices that
/// somebody has signed out, are signed by the same key and say something else.
const TYPES: [&str; 2] = ["JWT", "at+jwt"];

/// Clocks may differ by so much, in seconds.
const CLOCKS_DIFFER: i64 = 60;

/// What a token is shown for.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    /// To sign in, in answer to a request with this nonce.
    Id(&'a Nonce),
    /// To call the API.
    Bearer,
}

/// A token is not good.
#[derive(Debug)]
pub(super) enum Failed {
    /// No known key made its signature.
    Key(String),
    /// For another reason.
    Other(String),
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        let (Failed::Key(reason) | Failed::Other(reason)) = failed;
        Self::Token(format!("the identity provider's token is refused: {reason}"))
    }
}

/// The claims of a good token.
pub(super) fn verify(
    token: &str,
    kind: Kind<'_>,
    settings: &OidcSettings,
    metadata: &CoreProviderMetadata,
) -> Result<Claims, Failed> {
    let other = |reason: String| Failed::Other(reason);
    let parsed = CoreIdToken::from_str(token)
        .map_err(|_| other("it is no signed token with the claims iss, aud, exp, iat and sub".to_owned()))?;
    let audience = match kind {
        Kind::Id(_) => &settings.client_id,
        Kind::Bearer => settings.audience.as_ref().unwrap_or(&settings.client_id),
    };
    let types = TYPES.iter().filter_map(|name| JsonWebTokenType::new((*name).to_owned()).normalize().ok());
    let verifier = CoreIdTokenVerifier::new_public_client(
        ClientId::new(audience.clone()),
        metadata.issuer().clone(),
        metadata.jwks().clone(),
    )
    .set_allowed_algs(ALGORITHMS)
    .set_allowed_jose_types(types)
    // Who else it is for is looked at below.
    .set_other_audience_verifier_fn(|_| true);
    let verified = match kind {
        Kind::Id(nonce) => parsed.claims(&verifier, nonce),
        Kind::Bearer => parsed.claims(&verifier, |_: Option<&Nonce>| Ok(())),
    };
    verified.map_err(|error| match error {
        ClaimsVerificationError::SignatureVerification(
            error @ (SignatureVerificationError::NoMatchingKey | SignatureVerificationError::CryptoError(_)),
        ) => Failed::Key(error.to_string()),
        error => other(chain(&error)),
    })?;
    let claims = payload(token).ok_or_else(|| other("its claims are no JSON object".to_owned()))?;
    let not_before = claims.get("nbf").and_then(serde_json::Value::as_f64).unwrap_or_default();
    if not_before > (Timestamp::now().as_second() + CLOCKS_DIFFER) as f64 {
        return Err(other("it is not valid yet".to_owned()));
    }
    // OpenID Connect Core 3.1.3.7: an ID token for several must say that this client asked for it.
    let several = claims.get("aud").and_then(|aud| aud.as_array()).is_some_and(|aud| aud.len() > 1);
    let asked = claims.get("azp").and_then(|azp| azp.as_str());
    if matches!(kind, Kind::Id(_)) && (several || asked.is_some()) && asked != Some(&settings.client_id) {
        return Err(other("another client asked for it".to_owned()));
    }
    Ok(claims)
}

/// The middle of a token whose signature was checked.
fn payload(token: &str) -> Option<Claims> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}
