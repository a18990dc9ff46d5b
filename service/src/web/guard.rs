//! What every request must pass, and every answer carries.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::peer;
use super::rate::Rates;
use crate::api::problem::Problem;
use crate::service::ServiceOptions;

/// Headers of every answer. No script, style, picture or request from elsewhere; never inside another page.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With `no-referrer` browsers would not tell either that a form comes from this very site.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A year, the least that browsers' own lists take. Names below this one may be other people's servers.
const HSTS: &str = "max-age=31536000";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What is read of the body of a refused request.
const MOST_REFUSED_BYTES: usize = 64 << 10;

pub(super) struct Guard {
    /// Names under which the service may be asked; all where a proxy stands in front without a public URL.
    hosts: Option<Vec<String>>,
    /// The service speaks TLS itself: browsers shall not ask it in any other way.
    tls: bool,
    behind_proxy: bool,
    rates: Rates,
}

impl Guard {
    pub(super) fn new(options: &ServiceOptions) -> Self {
        let public = options.public_url.as_deref().and_then(|url| url::Url::parse(url).ok());
        let public = public.and_then(|url| url.host_str().map(str::to_owned));
        let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec();
        hosts.push(options.address.ip().to_string());
        let open = options.behind_proxy && public.is_none();
        hosts.extend(public);
        Self {
            hosts: (!open).then_some(hosts),
            tls: options.tls.is_some(),
            behind_proxy: options.behind_proxy,
            rates: Rates::default(),
        }
    }

    fn check(&self, request: &Request, caller: Option<IpAddr>) -> Result<(), Problem> {
        // Another site's name that resolves to this machine must not open the service to that site's scripts.
        let host =
            request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if let Some(hosts) = &self.hosts {
            let name = match host.rsplit_once(':') {
                Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
                _ => host,
            };
            if !hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                return Err(Problem::forbidden(format!(
                    "the service is not asked as `{name}`; see --public-url"
                )));
            }
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            self.same_origin(request, host)?;
        }
        match caller {
            Some(address) if !self.rates.admits(address) => {
                Err(Problem::too_many("too many requests from this address; slow down"))
            }
            _ => Ok(()),
        }
    }

    /// Browsers say from which site a request comes. Programs do not, and have tokens.
    fn same_origin(&self, request: &Request, host: &str) -> Result<(), Problem> {
        let value = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let site = value(HeaderName::from_static("sec-fetch-site"));
        let foreign = site.is_some_and(|site| site != "same-origin" && site != "none")
            || value(header::ORIGIN)
                .is_some_and(|origin| origin.split_once("://").is_none_or(|(_, at)| at != host));
        match foreign {
            true => Err(Problem::forbidden("the request comes from another site")),
            false => Ok(()),
        }
    }

    /// A wrong token costs its sender the right to try many.
    fn learn(&self, caller: Option<IpAddr>, response: &Response) {
        if let Some(caller) = caller
            && response.status() == StatusCode::UNAUTHORIZED
        {
            self.rates.refused(caller);
        }
    }

    /// Whose request it is. A proxy writes behind what the request brings along whom it has it from: the last
    /// address is its own word, those before it anybody's.
    fn caller(&self, request: &Request) -> Option<IpAddr> {
        let said = request.headers().get_all(FORWARDED_FOR).iter().next_back();
        let said = said.filter(|_| self.behind_proxy).and_then(|value| value.to_str().ok());
        let last = said.and_then(|value| value.rsplit(',').next()).and_then(|last| last.trim().parse().ok());
        last.or_else(|| peer(request).map(|peer| peer.ip()))
    }
}

pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let caller = guard.caller(&request);
    let mut response = match guard.check(&request, caller) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            // A connection that closes on unread bytes takes the answer with it.
            let _ = to_bytes(request.into_body(), MOST_REFUSED_BYTES).await;
            problem.into_response()
        }
    };
    guard.learn(caller, &response);
    for (name, value) in HEADERS {
        // A page may have a policy of its own.
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    if guard.tls {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_behind_a_proxy_are_told_apart_by_its_word() {
        let mut guard = Guard { hosts: None, tls: false, behind_proxy: true, rates: Rates::default() };
        let request = |lines: &[&str]| {
            let mut request = Request::new(axum::body::Body::empty());
            for line in lines {
                request.headers_mut().append(FORWARDED_FOR, line.parse().unwrap());
            }
            request
        };
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(guard.caller(&request(&["10.9.9.9, 192.0.2.7"])), address("192.0.2.7"));
        assert_eq!(guard.caller(&request(&["10.9.9.9", "2001:db8::1"])), address("2001:db8::1"));
        assert_eq!(guard.caller(&request(&["unknown"])), None);
        // Without a proxy everybody could be anybody.
        guard.behind_proxy = false;
        assert_eq!(guard.caller(&request(&["192.0.2.7"])), None);
    }
}
