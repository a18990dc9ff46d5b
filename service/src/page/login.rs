//! Showing a token, and signing in and out at an identity provider.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use maud::html;

use super::{Page, error_page, form_of, layout};
use crate::api::problem::Problem;
use crate::oidc::{LOGIN_COOKIE, LONGEST, Oidc};
use crate::service::Service;
use crate::web::{COOKIE, SESSION_COOKIE, call_of, cookie_of, see_other};

/// How long a browser keeps a token: thirty days.
const TOKEN_COOKIE_LENGTH: Duration = Duration::from_secs(2_592_000);

/// When a browser sends a cookie along.
#[derive(Clone, Copy)]
enum SameSite {
    /// With requests from these pages only.
    Strict,
    /// Also when somebody comes here from elsewhere, as all do who sign in at a provider. What changes
    /// something is refused by its origin anyway.
    Lax,
}

pub(super) async fn form(State(service): State<Arc<Service>>) -> Response {
    layout(
        "Token",
        "",
        &html! {
            @if let Some(oidc) = &service.oidc {
                h1 { "Sign in" }
                p { a href="/login/provider" { "Sign in at " (oidc.name()) } }
                h2 { "Or show a token" }
            } @else {
                h1 { "Show your token" }
            }
            form.row method="post" action="/login" {
                label { "Token" input type="password" name="token" autocomplete="current-password" required; }
                button { "Enter" }
            }
            p.quiet { "`pipeline token create <name> --scope read` makes one." }
        },
    )
}

pub(super) async fn show_token(State(service): State<Arc<Service>>, request: Request) -> Response {
    let call = match call_of(Default::default(), request).await {
        Ok(call) => call,
        Err(problem) => return error_page(&problem),
    };
    let token = form_of(&call).remove("token").unwrap_or_default().trim().to_owned();
    let (asked, shown) = (service.clone(), token.clone());
    let caller = tokio::task::spawn_blocking(move || asked.gate.caller(Some(&shown))).await;
    if !matches!(caller, Ok(Ok(Some(_)))) {
        return error_page(&Problem::unauthorized("this token lets nobody in"));
    }
    let cookie = cookie(&service, COOKIE, &token, "/", SameSite::Strict, TOKEN_COOKIE_LENGTH);
    with_cookies("/runs", &[cookie])
}

pub(super) async fn begin(State(service): State<Arc<Service>>) -> Response {
    let begun = async {
        let begun = provider(&service)?.begin().await?;
        let cookie = cookie(&service, LOGIN_COOKIE, &begun.cookie, "/login", SameSite::Lax, LONGEST);
        Ok(with_cookies(&begun.url, &[cookie]))
    };
    answered(begun.await)
}

pub(super) async fn finish(State(service): State<Arc<Service>>, request: Request) -> Response {
    let finished = async {
        let call = call_of(Default::default(), request).await?;
        let oidc = provider(&service)?;
        let secret = oidc.finish(&call.query, cookie_of(&call.headers, LOGIN_COOKIE)).await?;
        let length = oidc.session_length();
        let session = cookie(&service, SESSION_COOKIE, &secret, "/", SameSite::Lax, length);
        let done = cookie(&service, LOGIN_COOKIE, "", "/login", SameSite::Lax, Duration::ZERO);
        Ok(with_cookies("/runs", &[session, done]))
    };
    answered(finished.await)
}

pub(super) async fn sign_out(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    if let (Some(oidc), Some(session)) = (&service.oidc, cookie_of(&headers, SESSION_COOKIE)) {
        oidc.sign_out(session);
    }
    let gone = [(COOKIE, SameSite::Strict), (SESSION_COOKIE, SameSite::Lax)];
    let gone = gone.map(|(name, site)| cookie(&service, name, "", "/", site, Duration::ZERO));
    with_cookies("/login", &gone)
}

fn provider(service: &Service) -> Result<&Oidc, Problem> {
    let none = || Problem::not_found("this service has no identity provider: see [oidc] of service.toml");
    service.oidc.as_ref().ok_or_else(none)
}

fn answered(page: Page) -> Response {
    page.unwrap_or_else(|problem| error_page(&problem))
}

fn cookie(
    service: &Service,
    name: &str,
    value: &str,
    path: &str,
    site: SameSite,
    length: Duration,
) -> String {
    let site = match site {
        SameSite::Strict => "Strict",
        SameSite::Lax => "Lax",
    };
    let secure = if service.options.is_secure() { "; Secure" } else { "" };
    format!("{name}={value}; Path={path}; HttpOnly; SameSite={site}; Max-Age={}{secure}", length.as_secs())
}

fn with_cookies(path: &str, cookies: &[String]) -> Response {
    let mut response = see_other(path);
    for cookie in cookies {
        if let Ok(cookie) = cookie.parse() {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}
