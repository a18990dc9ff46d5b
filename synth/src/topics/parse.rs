//! Subtopics out of an answer, however the model laid it out.

use regex::Regex;

use super::heading::Heading;
use super::names::{NameBounds, Rejection, Rejections, check_name, dedupe_key};
use crate::cleanup::is_refusal;
use crate::text::pattern;

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds at least one usable name.
    List,
    /// The model declined.
    Refused,
    /// No usable name was found.
    Malformed,
}

/// An answer, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedAnswer {
    /// The names, cleaned, each once, in the order of the answer.
    pub subtopics: Vec<String>,
    /// What the answer was.
    pub verdict: Verdict,
    /// Items left out, by reason.
    pub rejected: Rejections,
    /// The items left out, in the order of the answer.
    pub left_out: Vec<(Rejection, String)>,
}

/// The subtopics of an answer with the usual bounds; see [`parse_answer`].
#[must_use]
pub fn parse_subtopics(answer: &str, topic: &Heading) -> Vec<String> {
    parse_answer(answer, topic, &NameBounds::default()).subtopics
}

/// Reads an answer: a JSON array, numbered lines, bullets, a numbered list in one line, short bare
/// lines, or a list with commas. Quotes, bold markers and explanations after a colon, dash or
/// bracket are taken off; names that break a rule of [`Rejection`] are counted and left out.
#[must_use]
pub fn parse_answer(answer: &str, topic: &Heading, bounds: &NameBounds) -> ParsedAnswer {
    let answer = plain_signs(answer);
    let mut parsed = ParsedAnswer {
        subtopics: Vec::new(),
        verdict: Verdict::Malformed,
        rejected: Rejections::new(),
        left_out: Vec::new(),
    };
    let taken = [&topic.top_category, &topic.subcategory, &topic.name()].map(|n| dedupe_key(n));
    let mut keys: Vec<String> = Vec::new();
    for item in items(&answer, bounds) {
        let name = clean_item(&item);
        if name.is_empty() {
            continue;
        }
        let key = dedupe_key(&name);
        let checked = check_name(&name, bounds, &taken)
            .and_then(|()| if keys.contains(&key) { Err(Rejection::Duplicate) } else { Ok(()) });
        match checked {
            Ok(()) => {
                keys.push(key);
                parsed.subtopics.push(name);
            }
            Err(reason) => {
                *parsed.rejected.entry(reason).or_default() += 1;
                parsed.left_out.push((reason, name));
            }
        }
    }
    if is_refusal(&answer) {
        parsed.verdict = Verdict::Refused;
        parsed.subtopics.clear();
    } else if !parsed.subtopics.is_empty() {
        parsed.verdict = Verdict::List;
    }
    parsed
}

/// The answer without its last line, for one that was cut by the length limit: the line may end
/// within a word. An answer of one line keeps what comes before its last comma.
#[must_use]
pub fn without_cut_line(answer: &str) -> &str {
    let answer = answer.trim_end();
    answer.rfind('\n').or_else(|| answer.rfind(',')).map_or("", |at| &answer[..at])
}

/// Typographic quotes and dashes as plain ones, and nothing invisible.
pub(super) fn plain_signs(text: &str) -> String {
    let sign = |c: char| match c {
        '“' | '”' | '„' | '«' | '»' => Some('"'),
        '‘' | '’' => Some('\''),
        '\u{a0}' | '\t' => Some(' '),
        '\n' => Some('\n'),
        '\u{feff}' | '\u{200b}'..='\u{200f}' => None,
        c if c.is_control() => None,
        c => Some(c),
    };
    text.chars().filter_map(sign).collect()
}

pattern!(NUMBERED, r"^\s*(?:\*\*|#+ *)?\(?\d{1,3}(?:\.\)|[.):\]])\s*(\S.*)$");
pattern!(BULLET, r"^\s*(?:[-+•▪◦·–—]\s*|\*(?:\s+|\b)|\(?[A-Za-z](?:\.\)|[.)])\s+)(\S.*)$");
pattern!(INLINE_NUMBER, r"(?:^|[\s,;(])\d{1,2}[.)]\)?\s+");
pattern!(MARKER, r"^(?:\(?\d{1,3}(?:\.\)|[.):\]])|[-+•▪◦·–—*]|#+)\s*");
pattern!(
    LABEL,
    r"(?i)^(?:(?:sub-?topic|topic|chapter|unit|section|lesson|module|week|lecture|part|name)\s*(?:#?\d{1,3}|[a-z])?\s*[:.)-]|(?:the )?\d{1,3}(?:st|nd|rd|th) (?:sub-?)?topic[^:]*:)\s*"
);
pattern!(
    EXPLANATION,
    r"(?i)\s*(?::|;|-\s|--|[–—]|,\s*\d+\s*$|\(|\[|\||=>| = |\. |, (?:such as|including|which|e\.g\.)|\.{2,}).*$"
);
pattern!(LEAD_IN, r"(?i)(?::|\b(?:includes?|including|such as|are|cover|covers)\b\s*:?)\s*");

/// The raw items of the layout that the answer follows.
fn items(answer: &str, bounds: &NameBounds) -> Vec<String> {
    if let Some(list) = json_array(answer) {
        return list;
    }
    let lines: Vec<&str> =
        answer.lines().filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with("```")).collect();
    let by = |pattern: &Regex| -> Vec<String> {
        lines.iter().filter_map(|l| pattern.captures(l)).map(|c| c[1].to_string()).collect()
    };
    let numbered = by(&NUMBERED);
    if numbered.len() >= 2 {
        return numbered;
    }
    let bullets = by(&BULLET);
    if bullets.len() >= 2 {
        return bullets;
    }
    let inline: Vec<String> = INLINE_NUMBER
        .split(answer)
        .skip(1)
        .map(|part| part.lines().next().unwrap_or_default().to_string())
        .collect();
    if inline.len() >= 2 {
        return inline;
    }
    let one_of_a_kind = [numbered, bullets].concat();
    if !one_of_a_kind.is_empty() {
        return one_of_a_kind;
    }
    let bare: Vec<String> =
        lines.iter().filter(|l| !l.trim_end().ends_with(':')).map(|l| l.to_string()).collect();
    let is_name = |l: &String| {
        l.trim().chars().count() <= bounds.max_chars && !l.trim_end().ends_with(['.', '?', '!', ','])
    };
    if bare.len() >= 2 && bare.iter().all(is_name) {
        return bare;
    }
    comma_list(answer)
}

fn json_array(answer: &str) -> Option<Vec<String>> {
    let list = answer.get(answer.find('[')?..=answer.rfind(']')?)?;
    serde_json::from_str::<Vec<String>>(list).ok().filter(|l| !l.is_empty())
}

/// `Here are some: A, B, and C.`: the sentence with the most commas, after its lead-in.
fn comma_list(answer: &str) -> Vec<String> {
    let sentences = answer.split(['\n', '.']);
    let Some(sentence) = sentences.max_by_key(|s| s.matches([',', ';']).count()) else {
        return Vec::new();
    };
    let list = LEAD_IN.splitn(sentence, 2).last().unwrap_or(sentence);
    let parts: Vec<String> =
        list.split([',', ';']).map(|p| p.trim().trim_start_matches("and ").to_string()).collect();
    if parts.len() >= 3 { parts } else { Vec::new() }
}

/// The name within an item: no marker, label, bold, quotes or explanation.
pub(super) fn clean_item(item: &str) -> String {
    let mut name = item.trim();
    while let Some(marker) = MARKER.find(name).filter(|m| m.end() > 0 && !name.starts_with("**")) {
        name = &name[marker.end()..];
    }
    let emphasised = ["**", "__", "\"", "`", "*"].iter().find_map(|mark| {
        let (inner, _) = name.strip_prefix(mark)?.split_once(mark)?;
        Some(inner)
    });
    let bracketed = name.strip_prefix('[').and_then(|n| n.split_once(']')).map(|(inner, _)| inner);
    let name = emphasised.or(bracketed).unwrap_or(name).trim();
    let name = MARKER.replace(name, "");
    let name = LABEL.replace(&name, "");
    let name = EXPLANATION.replace(&name, "").replace(['*', '`', '"', '_'], "");
    let ends = |c: char| c.is_whitespace() || ".,;:-'/\\)]}>".contains(c);
    let name = name.trim_matches(ends).split_whitespace().collect::<Vec<_>>().join(" ");
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
