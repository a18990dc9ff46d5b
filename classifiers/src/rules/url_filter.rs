//! Pages that are not wanted by their addresses.

use aho_corasick::{AhoCorasick, BuildError};
use rustc_hash::FxHashSet;

use super::Rejected;

/// What addresses must not be, and must not have in them. Lines as in datatrove's lists: one entry each;
/// those that begin with `#`, and empty ones, say nothing.
#[derive(Clone, Debug, Default)]
pub struct UrlBlocklists {
    /// Registered domains (`example.co.uk`) and whole host names (`shop.example.co.uk`), in lower case.
    pub domains: FxHashSet<Box<str>>,
    /// Whole addresses.
    pub urls: FxHashSet<Box<str>>,
    /// Words of which none may be in an address.
    pub banned_words: FxHashSet<Box<str>>,
    /// Words of which few may be in an address.
    pub soft_banned_words: FxHashSet<Box<str>>,
    /// Letters and digits that may not follow each other in an address, also across words.
    pub banned_subwords: FxHashSet<Box<str>>,
}

impl UrlBlocklists {
    /// An entry of a list of domains or addresses.
    #[must_use]
    pub fn entry(line: &str) -> Option<Box<str>> {
        let entry = line.trim();
        (!line.starts_with('#') && !entry.is_empty()).then(|| entry.into())
    }

    /// An entry of a list of words: ASCII letters and digits, in lower case.
    #[must_use]
    pub fn word(line: &str) -> Option<Box<str>> {
        let word = letters_and_digits(line);
        (!line.starts_with('#') && !word.is_empty()).then(|| word.into_boxed_str())
    }
}

/// Rejects pages by their addresses, as datatrove does (`filters/url_filter.py`, release 0.10.1).
#[derive(Debug)]
pub struct UrlFilter {
    lists: UrlBlocklists,
    subwords: AhoCorasick,
    soft_word_threshold: usize,
}

impl UrlFilter {
    /// A filter over lists. `soft_word_threshold` soft banned words are too many.
    ///
    /// # Errors
    /// There are too many banned subwords to look for at once.
    pub fn new(lists: UrlBlocklists, soft_word_threshold: usize) -> Result<Self, BuildError> {
        let subwords = AhoCorasick::new(lists.banned_subwords.iter().map(|word| word.as_bytes()))?;
        Ok(Self { lists, subwords, soft_word_threshold })
    }

    /// Looks for a page's address in the lists.
    ///
    /// # Errors
    /// It is there; the reason is datatrove's (`domain`, `subdomain`, `url`, `hard_blacklisted`,
    /// `soft_blacklisted`, `blacklisted_subword`), or `no_url` for an empty one.
    pub fn check(&self, url: &str) -> Result<(), Rejected> {
        if url.is_empty() {
            return Err(Rejected::new("no_url", "there is no address"));
        }
        let reject = |reason: &str, found: &str| Err(Rejected::new(reason, format_args!("{found} in {url}")));
        if !self.lists.domains.is_empty() {
            let host = host(url);
            if let Some(registered) = registered_domain(&host) {
                if self.lists.domains.contains(registered) {
                    return reject("domain", registered);
                }
                if self.lists.domains.contains(host.as_str()) {
                    return reject("subdomain", &host);
                }
            }
        }
        if self.lists.urls.contains(url) {
            return Err(Rejected::new("url", url));
        }
        let words: FxHashSet<&str> = url.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let mut words: Vec<&str> = words.into_iter().collect();
        words.sort_unstable();
        if let Some(word) = words.iter().find(|word| self.lists.banned_words.contains(**word)) {
            return reject("hard_blacklisted", word);
        }
        words.retain(|word| self.lists.soft_banned_words.contains(*word));
        if words.len() >= self.soft_word_threshold {
            return reject("soft_blacklisted", &words.join(", "));
        }
        let run = letters_and_digits(url);
        match self.subwords.find(&run) {
            Some(found) => reject("blacklisted_subword", &run[found.range()]),
            None => Ok(()),
        }
    }
}

fn letters_and_digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The host name of an address, in lower case. An address may lack its scheme.
fn host(url: &str) -> String {
    let is_scheme = |scheme: &str| {
        !scheme.is_empty()
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let rest = match url.split_once("//") {
        Some((before, rest)) if before.is_empty() || before.strip_suffix(':').is_some_and(is_scheme) => rest,
        _ => url,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    host.trim().trim_end_matches('.').to_lowercase()
}

/// The part of a host name that someone has registered: one label before the public suffix. Only suffixes
/// of registries count, not those that companies share among their customers, as in `tldextract`.
/// `None` for addresses of machines and for names under no known suffix.
fn registered_domain(host: &str) -> Option<&str> {
    let mut suffix = psl::suffix(host.as_bytes())?;
    while suffix.typ() == Some(psl::Type::Private) {
        let shared = std::str::from_utf8(suffix.as_bytes()).ok()?;
        suffix = psl::suffix(shared.split_once('.')?.1.as_bytes())?;
    }
    suffix.typ()?;
    let before = host.len().checked_sub(suffix.as_bytes().len() + 1)?;
    let label = host[..before].rfind('.').map_or(0, |dot| dot + 1);
    (label < before).then(|| &host[label..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> UrlFilter {
        let list = |entries: &[&str]| entries.iter().map(|&entry| entry.into()).collect();
        let lists = UrlBlocklists {
            domains: list(&["bad.co.uk", "sub.good.com"]),
            urls: list(&["http://good.com/bad"]),
            banned_words: list(&["casino"]),
            soft_banned_words: list(&["poker", "adult", "chat"]),
            banned_subwords: list(&["freexxx"]),
        };
        UrlFilter::new(lists, 2).unwrap()
    }

    fn reason(url: &str) -> String {
        filter().check(url).err().map(|rejected| rejected.reason).unwrap_or_default()
    }

    /// Reasons from datatrove 0.10.1 with the same lists, but for the capitals of the host.
    #[test]
    fn addresses_are_looked_for_in_the_lists() {
        for (url, want) in [
            ("http://bad.co.uk/", "domain"),
            ("https://user:pass@www.BAD.co.uk:8080/x?y", "domain"),
            ("http://sub.good.com", "subdomain"),
            ("http://deeper.sub.good.com", ""),
            ("http://good.com/sub.good.com", ""),
            ("http://good.com/bad", "url"),
            ("http://good.com/bad/", ""),
            ("http://good.com/the-casino-guide", "hard_blacklisted"),
            ("http://good.com/casinos", ""),
            ("http://good.com/Casino", ""),
            ("http://good.com/poker", ""),
            ("http://good.com/poker/poker", ""),
            ("http://poker.com/adult", "soft_blacklisted"),
            ("http://good.com/fre/EXXX", "blacklisted_subword"),
            ("http://10.0.0.1/", ""),
            ("", "no_url"),
        ] {
            assert_eq!(reason(url), want, "{url}");
        }
    }

    #[test]
    fn domains_are_registered_under_suffixes_of_registries() {
        for (host, want) in [
            ("www.bbc.co.uk", Some("bbc.co.uk")),
            ("me.github.io", Some("github.io")),
            ("github.io", Some("github.io")),
            ("example.com", Some("example.com")),
            ("com", None),
            ("localhost", None),
            ("dragnet.example", None),
            ("8.8.8.8", None),
            ("", None),
        ] {
            assert_eq!(registered_domain(host), want, "{host}");
        }
        assert_eq!(host("//User@Example.COM.:80?x"), "example.com");
        assert_eq!(host("example.com/http://other.com"), "example.com");
    }

    #[test]
    fn lines_of_lists_are_cleaned() {
        assert_eq!(UrlBlocklists::entry(" http://a.b \n").as_deref(), Some("http://a.b"));
        assert_eq!(UrlBlocklists::word("Two-words\n").as_deref(), Some("twowords"));
        for line in ["# a comment", "", " \n"] {
            assert_eq!((UrlBlocklists::entry(line), UrlBlocklists::word(line)), (None, None), "{line:?}");
        }
    }
}
