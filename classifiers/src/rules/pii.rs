//! Mail addresses and public IPv4 addresses, taken out of texts.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rejected, TextRule};
use crate::text::Words;

/// What is replaced, and by what. The defaults are datatrove's (`formatters/pii.py`, release 0.10.1).
/// Replacements are taken in turn and begin anew with each text, so that a text's do not depend on the
/// texts before it (in datatrove they do); where there are none, addresses are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Pii {
    /// Replace mail addresses.
    pub remove_emails: bool,
    /// Replace IPv4 addresses.
    pub remove_ips: bool,
    /// Leave IPv4 addresses that are not public (10.0.0.1, 127.0.0.1, …) as they are.
    pub only_remove_public_ips: bool,
    /// What stands for mail addresses. The domains are reserved for examples (RFC 2606).
    pub email_replacement: Vec<String>,
    /// What stands for IPv4 addresses: six that answered no ping when datatrove chose them.
    pub ip_replacement: Vec<String>,
}

impl Default for Pii {
    fn default() -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Self {
            remove_emails: true,
            remove_ips: true,
            only_remove_public_ips: true,
            email_replacement: owned(&["email@example.com", "firstname.lastname@example.org"]),
            ip_replacement: owned(&[
                "22.214.171.124",
                "126.96.36.199",
                "188.8.131.52",
                "184.108.40.206",
                "220.127.116.11",
                "18.104.22.168",
            ]),
        }
    }
}

/// A number from 0 to 255; leading zeros are let through here and told apart by [`is_replaced`].
const OCTET: &str = "(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)";

/// Both patterns are parts of this program, so they compile; `None` would replace nothing.
static EMAIL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let atom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
    let label = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?";
    let host = format!(r"(?:{label}\.)+{label}");
    let literal = format!(r"\[(?:{OCTET}\.){{3}}(?:{OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\]");
    Regex::new(&format!(r"\b{atom}(?:\.{atom})*@(?:{host}|{literal})")).ok()
});
static IP: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(&format!(r"(?:{OCTET}\.){{3}}{OCTET}")).ok());

impl TextRule for Pii {
    const NAME: &'static str = "pii";

    fn apply<'t>(&self, text: &'t str, _words: &mut Words) -> Result<Cow<'t, str>, Rejected> {
        let mut text = Cow::Borrowed(text);
        // Most texts have no `@`, and looking for one is much faster.
        if self.remove_emails && text.contains('@') {
            text = replace(text, EMAIL.as_ref(), &self.email_replacement, |_| true);
        }
        if self.remove_ips {
            text = replace(text, IP.as_ref(), &self.ip_replacement, |found| self.is_replaced(found));
        }
        Ok(text)
    }
}

impl Pii {
    fn is_replaced(&self, address: &str) -> bool {
        // Numbers with leading zeros are no address.
        address.parse().is_ok_and(|address| !self.only_remove_public_ips || is_public(address))
    }
}

fn replace<'t>(
    text: Cow<'t, str>,
    pattern: Option<&Regex>,
    replacements: &[String],
    is_replaced: impl Fn(&str) -> bool,
) -> Cow<'t, str> {
    let Some(pattern) = pattern else { return text };
    let mut turns = replacements.iter().cycle();
    let one = |found: &Captures<'_>| {
        let found = &found[0];
        if is_replaced(found) { turns.next().cloned().unwrap_or_default() } else { found.to_owned() }
    };
    let replaced = match pattern.replace_all(&text, one) {
        Cow::Owned(replaced) => Some(replaced),
        Cow::Borrowed(_) => None,
    };
    replaced.map_or(text, Cow::Owned)
}

/// Whether an address can be reached from everywhere: not in a block that IANA keeps for special purposes
/// (RFC 6890 and its registry; Python's `ipaddress.is_global`).
fn is_public(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocols = (a, b, c) == (192, 0, 0) && d != 9 && d != 10;
    let benchmarks = a == 198 && (b == 18 || b == 19);
    !(a == 0
        || a >= 240
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || shared
        || protocols
        || benchmarks)
}

#[cfg(test)]
mod tests {
    use super::super::testing::outcome;
    use super::*;

    fn cleaned(rule: &Pii, text: &str) -> String {
        outcome(rule, text).unwrap()
    }

    /// Values from datatrove 0.10.1.
    #[test]
    fn mail_addresses_are_replaced_in_turn() {
        let text = "Ask jane.doe+x@mail.example.co.uk, bob@x.org. or o'neil@a-b.de; not @home, a@b or a@-b.c";
        let want = "Ask email@example.com, firstname.lastname@example.org. or email@example.com; not @home, a@b or a@-b.c";
        assert_eq!(cleaned(&Pii::default(), text), want);
        assert_eq!(
            cleaned(&Pii::default(), "root@[10.0.0.1] bob@x.org"),
            "email@example.com firstname.lastname@example.org"
        );
        assert_eq!(cleaned(&Pii { remove_emails: false, ..Pii::default() }, text), text);
    }

    #[test]
    fn public_addresses_are_replaced_in_turn_and_others_left() {
        let text = "8.8.8.8 10.0.0.1 1.1.1.1:80 127.0.0.1 192.168.1.1 172.16.0.1 100.64.0.1 9.9.9.9";
        let want = "22.214.171.124 10.0.0.1 126.96.36.199:80 127.0.0.1 192.168.1.1 172.16.0.1 100.64.0.1 188.8.131.52";
        assert_eq!(cleaned(&Pii::default(), text), want);
        let all =
            Pii { only_remove_public_ips: false, ip_replacement: vec!["0.0.0.0".into()], ..Pii::default() };
        assert_eq!(cleaned(&all, "10.0.0.1 8.8.8.8"), "0.0.0.0 0.0.0.0");
        assert_eq!(cleaned(&Pii { remove_ips: false, ..Pii::default() }, text), text);
        assert_eq!(cleaned(&Pii { ip_replacement: Vec::new(), ..Pii::default() }, "at 8.8.8.8."), "at .");
    }

    #[test]
    fn numbers_that_look_like_addresses_are_read_as_datatrove_reads_them() {
        let first = "22.214.171.124";
        for (text, want) in [
            ("version 1.2.3.4.5", format!("version {first}.5")),
            ("256.1.1.1", format!("2{first}")),
            ("1.1.1.299", format!("{first}9")),
            ("08.8.8.8", "08.8.8.8".to_owned()),
            ("1.2.3", "1.2.3".to_owned()),
        ] {
            assert_eq!(cleaned(&Pii::default(), text), want, "{text}");
        }
    }

    #[test]
    fn special_blocks_are_not_public() {
        let edges = [
            ("0.255.255.255", "1.0.0.0"),
            ("10.255.255.255", "11.0.0.0"),
            ("100.127.255.255", "100.128.0.0"),
            ("100.64.0.0", "100.63.255.255"),
            ("127.0.0.0", "128.0.0.0"),
            ("169.254.0.0", "169.255.0.0"),
            ("172.31.255.255", "172.32.0.0"),
            ("172.16.0.0", "172.15.255.255"),
            ("192.0.0.255", "192.0.1.0"),
            ("192.0.0.8", "192.0.0.9"),
            ("192.0.2.0", "192.0.3.0"),
            ("192.168.255.255", "192.169.0.0"),
            ("198.19.255.255", "198.20.0.0"),
            ("198.51.100.0", "198.51.101.0"),
            ("203.0.113.255", "203.0.114.0"),
            ("240.0.0.0", "239.255.255.255"),
            ("255.255.255.255", "224.0.0.1"),
        ];
        for (special, public) in edges {
            assert_eq!(
                [special, public].map(|text| is_public(text.parse().unwrap())),
                [false, true],
                "{special} {public}"
            );
        }
    }
}
