//! TLS of the service's own: certificate and key from files, taken up anew when the files change.

mod listener;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_cert::der::Decode;

pub(crate) use listener::TlsListener;

/// How often the files are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// The files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate in PEM, its chain behind it.
    pub certificate: PathBuf,
    /// The certificate's private key in PEM.
    pub key: PathBuf,
}

/// The files cannot serve TLS.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}; {option} names a PEM file that this user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
        /// The option that names it.
        option: &'static str,
    },
    /// A file holds something else.
    #[error("{} holds no {what}: {reason}", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What was found, or what is taken.
        reason: String,
    },
    /// The key is another certificate's.
    #[error(
        "the key in {} is not that of the certificate in {}: the server's own certificate comes first in its \
         file, and both are replaced together", key.display(), certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate does not hold now.
    #[error("the certificate in {} {problem}: put a renewed one in its place", path.display())]
    NotValid {
        /// The file.
        path: PathBuf,
        /// Since when, or from when.
        problem: String,
    },
}

/// A certificate that holds now, ready to serve.
#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    expires: Timestamp,
    stamp: Stamp,
}

/// What tells that the files changed: times and lengths.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// The certificate that is served now.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: TlsFiles,
    served: RwLock<Loaded>,
}

impl Certificates {
    /// Reads the files.
    pub(crate) fn read(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let served = RwLock::new(load(&files, Timestamp::now())?);
        Ok(Arc::new(Self { files, served }))
    }

    /// What handshakes are made with now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// When the certificate expires.
    pub(crate) fn expires(&self) -> Timestamp {
        self.served.read().unwrap_or_else(PoisonError::into_inner).expires
    }

    /// Takes changed files up; whether it did. Files that cannot serve leave the old certificate in place:
    /// certificate and key are two files, and may be caught between two writes.
    pub(crate) fn refresh(&self) -> Result<bool, TlsError> {
        if self.served.read().unwrap_or_else(PoisonError::into_inner).stamp == stamp(&self.files) {
            return Ok(false);
        }
        let loaded = load(&self.files, Timestamp::now())?;
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }

    /// Looks at the files every so often, for as long as the task lives.
    pub(crate) async fn keep_fresh(self: Arc<Self>, every: Duration) {
        let mut told = None;
        loop {
            tokio::time::sleep(every).await;
            let this = self.clone();
            match tokio::task::spawn_blocking(move || this.refresh()).await {
                Ok(Ok(true)) => {
                    tracing::info!(expires = %self.expires(), "a renewed certificate is served");
                    told = None;
                }
                Ok(Err(error)) if told.as_ref() != Some(&error) => {
                    tracing::error!(%error, "the renewed certificate is not served; the one before goes on");
                    told = Some(error);
                }
                _ => {}
            }
        }
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.certificate, &files.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn load(files: &TlsFiles, now: Timestamp) -> Result<Loaded, TlsError> {
    // Taken first: what is written while the files are read counts as a change.
    let stamp = stamp(files);
    let chain = chain_of(&files.certificate)?;
    let key = key_of(&files.key)?;
    let expires = check_times(&files.certificate, &chain, now)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let wrong_key = |error: rustls::Error| TlsError::NotFound {
        path: files.key.clone(),
        what: "key that can be used",
        reason: error.to_string(),
    };
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::Mismatch { certificate: files.certificate.clone(), key: files.key.clone() }
        }
        other => wrong_key(other),
    })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(wrong_key)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), expires, stamp })
}

fn read(path: &Path, option: &'static str) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
        option,
    })
}

fn chain_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = |reason: String| TlsError::NotFound { path: path.to_owned(), what: "certificate", reason };
    let bytes = read(path, "--tls-cert")?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| none(format!("its PEM is broken ({error})")))?;
    if chain.is_empty() {
        return Err(none("--tls-cert takes PEM, the server's certificate first, then its chain".to_owned()));
    }
    Ok(chain)
}

fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path, "--tls-key")?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| TlsError::NotFound {
        path: path.to_owned(),
        what: "private key",
        reason: match error {
            pem::Error::NoItemsFound => {
                "--tls-key takes PEM (PKCS#8, PKCS#1 or SEC 1) that is not encrypted".to_owned()
            }
            other => format!("its PEM is broken ({other})"),
        },
    })
}

/// When the certificate expires, if it holds now.
fn check_times(path: &Path, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Timestamp, TlsError> {
    let broken = |reason: String| TlsError::NotFound { path: path.to_owned(), what: "certificate", reason };
    let first = chain.first().ok_or_else(|| broken("it is empty".to_owned()))?;
    let certificate = x509_cert::Certificate::from_der(first).map_err(|error| broken(error.to_string()))?;
    let validity = certificate.tbs_certificate.validity;
    let time = |time: x509_cert::time::Time| {
        let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
        // RFC 5280 writes "never" as the end of the year 9999, at which jiff ends too.
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    };
    let (begins, expires) = (time(validity.not_before), time(validity.not_after));
    let problem = match now {
        now if now < begins => format!("holds only from {begins} on"),
        now if now > expires => format!("expired at {expires}"),
        _ => return Ok(expires),
    };
    Err(TlsError::NotValid { path: path.to_owned(), problem })
}
