//! HTTP clients for addresses that workflows name. They reach servers anywhere, also on this machine and in
//! its network, where language models run; but not the addresses at which clouds hand out the machine's own
//! credentials, nor others that make sense on one wire only.
//!
//! An address is checked when a client is made, when a name is resolved (what was checked is what is
//! connected to), and at each redirect.

mod addresses;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{ClientBuilder, Url};
use thiserror::Error;

pub use addresses::{ALLOWED_VARIABLE, Allowed};

/// Most redirects that are followed.
const MOST_REDIRECTS: usize = 10;

/// An address that no workflow may reach.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{address} is an address of this machine's own wire, where clouds hand out its credentials; if it is meant, \
     name it in the environment variable {ALLOWED_VARIABLE}"
)]
pub struct ForbiddenAddress {
    /// The address.
    pub address: IpAddr,
}

/// A builder of clients that reach allowed addresses only, also by redirects.
pub fn client_builder() -> ClientBuilder {
    guarded(Allowed::from_environment())
}

fn guarded(allowed: Allowed) -> ClientBuilder {
    // An error means that a provider stands already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let allowed = Arc::new(allowed);
    let redirects = allowed.clone();
    reqwest::Client::builder()
        .dns_resolver(Arc::new(Guard(allowed)))
        .redirect(Policy::custom(move |attempt| follow(attempt, &redirects)))
}

/// A builder of clients that begin at a URL: a builder as [`client_builder`], once its address is found to be
/// allowed.
///
/// # Errors
/// The server's address is a forbidden one.
pub fn client_builder_for(url: &Url) -> Result<ClientBuilder, ForbiddenAddress> {
    let allowed = Allowed::from_environment();
    check(url, &allowed)?;
    Ok(guarded(allowed))
}

/// A builder of clients of one server.
///
/// # Errors
/// The server's address is a forbidden one.
pub fn client_for(url: &Url) -> Result<ClientBuilder, ForbiddenAddress> {
    let mut builder = client_builder_for(url)?.redirect(Policy::none());
    if is_loopback(url) {
        // A proxy from the environment does not know this machine's own servers.
        builder = builder.no_proxy();
    }
    if url.scheme() == "http" {
        // Without this, a machine without CA certificates could not even speak to itself.
        builder = builder.tls_certs_only(std::iter::empty());
    }
    Ok(builder)
}

/// The words of the error at the bottom, where the network's own reason stands.
pub fn innermost(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// Whether the URL names this machine.
pub fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| host == "localhost")
        || address_in(url).is_some_and(|address| address.is_loopback())
}

fn check(url: &Url, allowed: &Allowed) -> Result<(), ForbiddenAddress> {
    match address_in(url) {
        Some(address) if !allowed.admits(address) => Err(ForbiddenAddress { address }),
        _ => Ok(()),
    }
}

/// The address that stands in a URL as it is; the forms `2852039166` and `0xA9FEA9FE` have been read by then.
fn address_in(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn follow(attempt: Attempt<'_>, allowed: &Allowed) -> reqwest::redirect::Action {
    if attempt.previous().len() >= MOST_REDIRECTS {
        return attempt.error("too many redirects");
    }
    match check(attempt.url(), allowed) {
        Ok(()) => attempt.follow(),
        Err(error) => attempt.error(error),
    }
}

/// Resolves names, and leaves out what is forbidden.
struct Guard(Arc<Allowed>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let first = found.first().map(SocketAddr::ip);
            let admitted: Vec<SocketAddr> =
                found.into_iter().filter(|address| allowed.admits(address.ip())).collect();
            match (admitted.is_empty(), first) {
                (true, Some(address)) => Err(ForbiddenAddress { address }.into()),
                _ => Ok(Box::new(admitted.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn no_spelling_of_a_forbidden_address_passes() {
        let forbidden = [
            "http://169.254.169.254/",
            "http://169.254.1.1/",
            "http://2852039166/",
            "http://0xA9FEA9FE/",
            "http://0251.0376.0251.0376/",
            "http://169.254.43518/",
            "http://169.16689662/",
            "http://0xa9.254.0251.0xfe/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://100.100.100.200/",
            "http://192.0.0.192/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://255.255.255.255/",
            "http://224.0.0.1/",
            "http://[ff02::1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::]/",
            "http://user:pass@169.254.169.254:80/x",
            "http://169.254.169.254.:80/",
            "http://169。254。169。254/",
        ];
        for text in forbidden {
            assert!(client_for(&url(text)).is_err(), "{text}");
        }
        for text in [
            "http://127.0.0.1:8000/",
            "http://10.0.0.7/",
            "http://192.168.1.2/",
            "http://[::1]/",
            "http://vllm:8000/",
            "https://huggingface.co/",
        ] {
            assert!(client_for(&url(text)).is_ok(), "{text}");
        }
    }

    #[test]
    fn loopback_is_known() {
        for (text, loopback) in [
            ("http://localhost:1/v1", true),
            ("http://127.0.0.9/v1", true),
            ("http://[::1]:8000/v1", true),
            ("http://example.com/v1", false),
            ("http://127.0.0.1.example.com/v1", false),
        ] {
            assert_eq!(is_loopback(&url(text)), loopback, "{text}");
        }
    }

    #[test]
    fn an_operator_may_allow_an_address() {
        let allowed = Allowed::parse("169.254.10.1, fe80::2");
        assert!(
            allowed.admits("169.254.10.1".parse().unwrap()) && allowed.admits("fe80::2".parse().unwrap())
        );
        assert!(!allowed.admits("169.254.169.254".parse().unwrap()));
    }

    /// A name that resolves to a forbidden address is not connected to.
    #[tokio::test]
    async fn names_are_resolved_to_allowed_addresses_only() {
        // Names of this form are resolved by everybody's own machine, without a name server.
        let guard = Guard(Arc::new(Allowed::default()));
        let resolved = |name: &'static str| guard.resolve(name.parse().unwrap());
        assert!(resolved("localhost").await.is_ok());
        assert!(resolved("169.254.169.254").await.is_err());
        assert!(resolved("::ffff:169.254.169.254").await.is_err());
    }

    #[tokio::test]
    async fn a_redirect_leads_to_allowed_addresses_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap_or(0);
                let to = if request[..read].starts_with(b"GET /away") {
                    "http://169.254.169.254/latest/meta-data"
                } else {
                    "/away"
                };
                let answer = format!(
                    "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let client = client_builder().no_proxy().build().unwrap();
        let error = client.get(format!("http://{address}/")).send().await.unwrap_err();
        assert!(error.is_redirect(), "{error:?}");
        assert!(format!("{error:?}").contains("169.254.169.254"), "{error:?}");
    }
}
