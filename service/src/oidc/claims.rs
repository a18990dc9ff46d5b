//! From claims to a name and a scope.

use serde_json::Value as Json;

use super::Claims;
use crate::ledger::Scope;
use crate::settings::OidcSettings;

/// The claim whose values count only when the provider has checked them.
const EMAIL: &str = "email";

/// The values of a claim: a text, or a list of them. `a.b` is the claim `b` inside the claim `a`, where there
/// is none of the whole name (some names are URLs).
pub(super) fn values(claims: &Claims, claim: &str) -> Option<Vec<String>> {
    let inside = || {
        let mut parts = claim.split('.');
        let first = claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    };
    match claims.get(claim).or_else(inside)? {
        Json::String(text) => Some(vec![text.clone()]),
        Json::Array(list) => {
            Some(list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
        }
        _ => None,
    }
}

/// The greatest scope that a value gives.
pub(super) fn scope(claims: &Claims, settings: &OidcSettings) -> Option<Scope> {
    let checked = claims.get("email_verified").is_some_and(|is| *is == true || *is == "true");
    let by_email = settings.claim == EMAIL;
    let values = match values(claims, &settings.claim) {
        Some(values) if !by_email || checked => values,
        _ => Vec::new(),
    };
    let gives = |wanted: &String| {
        wanted == "*"
            || values.iter().any(|value| match wanted.strip_prefix("*@") {
                Some(domain) if by_email => {
                    value.rsplit_once('@').is_some_and(|(_, at)| at.eq_ignore_ascii_case(domain))
                }
                _ if by_email => value.eq_ignore_ascii_case(wanted),
                _ => value == wanted,
            })
    };
    let lists = [(Scope::Admin, &settings.admin), (Scope::Run, &settings.run), (Scope::Read, &settings.read)];
    lists.into_iter().find(|(_, list)| list.iter().any(gives)).map(|(scope, _)| scope)
}

/// What to call somebody: for people who read the list of runs.
pub(super) fn name(claims: &Claims) -> String {
    let text = |claim: &str| claims.get(claim).and_then(Json::as_str).filter(|text| !text.is_empty());
    let found = ["preferred_username", EMAIL, "name", "sub"].into_iter().find_map(text);
    found.unwrap_or("somebody").chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Json) -> Claims {
        value.as_object().unwrap().clone()
    }

    fn settings(text: &str) -> OidcSettings {
        toml::from_str(&format!("issuer = \"https://i\"\nclient_id = \"c\"\n{text}")).unwrap()
    }

    #[test]
    fn the_greatest_scope_of_all_values_counts() {
        let groups = settings("read = [\"staff\"]\nrun = [\"curators\"]\nadmin = [\"owners\"]");
        for (value, expected) in [
            (json!({"groups": ["staff"]}), Some(Scope::Read)),
            (json!({"groups": ["staff", "owners", "x"]}), Some(Scope::Admin)),
            (json!({"groups": "curators"}), Some(Scope::Run)),
            (json!({"groups": ["Staff", "owner", "*"]}), None),
            (json!({"groups": []}), None),
            (json!({"groups": {"staff": true}}), None),
            (json!({}), None),
        ] {
            assert_eq!(scope(&claims(value.clone()), &groups), expected, "{value}");
        }
        let nested = settings("claim = \"realm_access.roles\"\nrun = [\"r\"]");
        assert_eq!(scope(&claims(json!({"realm_access": {"roles": ["r"]}})), &nested), Some(Scope::Run));
        let url = settings("claim = \"https://x.example/roles\"\nrun = [\"r\"]");
        assert_eq!(scope(&claims(json!({"https://x.example/roles": ["r"]})), &url), Some(Scope::Run));
        let everybody = settings("read = [\"*\"]\nadmin = [\"owners\"]");
        assert_eq!(scope(&claims(json!({})), &everybody), Some(Scope::Read));
    }

    #[test]
    fn an_address_counts_only_when_the_provider_has_checked_it() {
        let emails = settings("claim = \"email\"\nread = [\"*@example.org\"]\nadmin = [\"ann@example.org\"]");
        for (email, verified, expected) in [
            ("ann@example.org", json!(true), Some(Scope::Admin)),
            ("Ann@Example.org", json!("true"), Some(Scope::Admin)),
            ("bob@example.org", json!(true), Some(Scope::Read)),
            ("bob@example.org.evil.net", json!(true), None),
            ("bob@evil-example.org", json!(true), None),
            ("ann@example.org", json!(false), None),
            ("ann@example.org", Json::Null, None),
        ] {
            let value = json!({"email": email, "email_verified": verified});
            assert_eq!(scope(&claims(value), &emails), expected, "{email} {verified}");
        }
    }
}
