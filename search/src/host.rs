//! At most so many pages of one URL host.

use std::collections::HashMap;

/// Counts pages of each URL host.
pub(crate) struct HostLimit {
    most: Option<u32>,
    pages: HashMap<String, u32>,
}

impl HostLimit {
    pub(crate) fn new(most: Option<u32>) -> Self {
        Self { most, pages: HashMap::new() }
    }

    /// Whether one more page with this URL is within the limit, and counts it if so. Pages without
    /// URL are not limited.
    pub(crate) fn admits<E>(&mut self, url: impl FnOnce() -> Result<Option<String>, E>) -> Result<bool, E> {
        let Some(most) = self.most else {
            return Ok(true);
        };
        let Some(host) = url()?.as_deref().and_then(host_of) else {
            return Ok(true);
        };
        let pages = self.pages.entry(host).or_default();
        *pages += 1;
        Ok(*pages <= most)
    }
}

/// The host of a URL in lower case, without user and port.
fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next()?,
        None => host.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let cases = [
            ("https://User:pw@Example.COM:8080/a?b", Some("example.com")),
            ("http://example.com?x=http://other.org/", Some("example.com")),
            ("example.com/path", Some("example.com")),
            ("http://[2001:db8::1]:80/", Some("2001:db8::1")),
            ("http:///nothing", None),
            ("", None),
        ];
        for (url, host) in cases {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }
}
