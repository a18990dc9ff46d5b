//! Web and mail addresses inside a text, which stay whole words (`URL_MATCH` of
//! `spacy/lang/tokenizer_exceptions.py`, 3.8.18).

use super::chars::{HOST, LOWER};

/// Whether a word is an address: perhaps a scheme, perhaps a user, a host or a public IPv4 address,
/// perhaps a port, perhaps a path.
pub(super) fn is_url(word: &str) -> bool {
    if !word.contains('.') {
        return false;
    }
    let is_scheme = |scheme: &str| {
        scheme.chars().count() >= 2
            && scheme.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '+' | '-' | '.'))
    };
    let after_scheme = word.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).map(|(_, rest)| rest);
    // Anything before an `@` may be the user.
    let after_user = word.match_indices('@').filter(|&(at, _)| at > 0).map(|(at, _)| &word[at + 1..]);
    [word].into_iter().chain(after_scheme).chain(after_user).any(|rest| is_domain(rest) || is_public_ip(rest))
}

/// Labels with full stops, a last one of lower-case letters, and what may follow a host.
fn is_domain(mut rest: &str) -> bool {
    while let Some((label, after)) = rest.split_once('.') {
        if !is_label(label) {
            return false;
        }
        let end = after.find(|c| !LOWER.contains(c)).unwrap_or(after.len());
        if (2..=63).contains(&after[..end].chars().count()) && is_port_and_path(&after[end..]) {
            return true;
        }
        rest = after;
    }
    false
}

fn is_label(label: &str) -> bool {
    let ends = label.starts_with(|c| HOST.contains(c)) && label.ends_with(|c| HOST.contains(c));
    ends && label.chars().count() <= 64 && label.chars().all(|c| c == '_' || c == '-' || HOST.contains(c))
}

/// Nothing, `:` and two to five digits, and what begins with `/`, `?` or `#`.
fn is_port_and_path(rest: &str) -> bool {
    let path = match rest.strip_prefix(':') {
        Some(port) => {
            let digits = port.bytes().take_while(u8::is_ascii_digit).count();
            if !(2..=5).contains(&digits) {
                return false;
            }
            &port[digits..]
        }
        None => rest,
    };
    path.is_empty() || path.starts_with(['/', '?', '#'])
}

fn is_public_ip(rest: &str) -> bool {
    let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
    let octets: Vec<&str> = rest[..end].split('.').collect();
    let &[first, second, third, fourth] = octets.as_slice() else { return false };
    let number = |octet: &str| octet.parse::<u16>().ok().filter(|_| octet.len() <= 3);
    // Inner numbers may begin with a zero where they have two digits.
    let inner = |octet: &str| number(octet).filter(|&n| n <= 255 && (n >= 100 || octet.len() <= 2));
    let outer = |octet: &str, most: u16| number(octet).filter(|&n| n <= most && !octet.starts_with('0'));
    let (Some(a), Some(b), Some(_), Some(_)) =
        (outer(first, 223), inner(second), inner(third), outer(fourth, 254))
    else {
        return false;
    };
    let private = matches!((a, b), (10 | 127, _) | (169, 254) | (192, 168) | (172, 16..=31));
    !private && is_port_and_path(&rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from spaCy 3.8.18's `URL_MATCH`.
    #[test]
    fn addresses_are_told_from_words() {
        for address in [
            "example.com",
            "http://example.com/a?b#c",
            "www.a-b.co.uk:8080/x",
            "me@example.org",
            "mailto:me@x.org",
            "a_b.com",
            "8.8.8.8",
            "http://8.8.8.08/x@y.de",
            "foo.bar/baz",
            "ü.de",
            "1.2.3.4:80",
            "a@10.0.0.1@b.com",
        ] {
            assert!(is_url(address), "{address}");
        }
        for word in [
            "example",
            "a.b",
            "Foo.Bar",
            "foo.Bar",
            "e.g",
            "10.0.0.1",
            "192.168.1.1",
            "172.20.1.1",
            "8.8.8.255",
            "1.2.3",
            "-a.com",
            "a-.com",
            "x.com:1",
            "x.com:123456",
            "@x.com",
            "1.2.3.4.5",
            "x..com",
            "x.com,",
            "01.2.3.4",
        ] {
            assert!(!is_url(word), "{word}");
        }
    }
}
