//! Formula openings: greetings and announcements that stand before the text itself.

use std::sync::LazyLock;

use regex::Regex;

use crate::text::is_abbreviation;

/// At most this many sentences are taken off (`Sure! Here is your story:` and `Welcome, …` are three).
const MAX_SENTENCES: usize = 4;

/// The openings that huggingface/cosmopedia `generation/boilerplate_cleanup.py` and the specification
/// name, and near kin. Each matches at the start of a sentence.
#[allow(clippy::expect_used)] // A constant pattern: every test of this file would fail.
static OPENING: LazyLock<Regex> = LazyLock::new(|| {
    let text = r"(?:text|textbook|chapter|section|story|tale|article|post|blog|lesson|lecture|unit|thread|guide|extract|essay|draft|version|example|response|answer|outline|tutorial|piece|content|narrative|dialogue|list|write-up|continuation)";
    let patterns = [
        r"welcome\b".to_string(),
        r"(?:hello|hi|hey|greetings|good (?:morning|afternoon|evening|day))(?:,|!|\.| (?:there|everyone|everybody|all|again|and|dear|friends?|students?|class|kids|children|folks|readers?|fellow|young|future|my|guys|reddit|community|to)\b)".to_string(),
        r"dear (?:readers?|students?|friends?|learners?|children|all|community|fellow)\b".to_string(),
        r"my name is\b".to_string(),
        r"you(?:'ve| have) just arrived\b".to_string(),
        r"we(?:'re| are) (?:so |very )?(?:thrilled|excited|delighted|glad|happy) (?:to|that|you)\b".to_string(),
        r"warning:".to_string(),
        r"(?:sure|certainly|of course|absolutely|okay|ok|great|no problem|gladly)(?: thing)?[,.!:]".to_string(),
        format!(r"here(?:'s| is| are) (?:(?:a|an|the|your|my|one|some) )?(?:[\w-]+ ){{0,6}}?{text}\b[^.!?\n]*[:.]"),
        format!(r"(?:below|the following) is (?:(?:a|an|the|your|my) )(?:[\w-]+ ){{0,4}}?{text}\b"),
        r"(?:i'd|i would|i'll|i will) (?:be (?:happy|glad) to|gladly|love to)\b".to_string(),
        format!(r"i(?:'ll| will| have|'ve) (?:write|written|create|created|prepare|prepared) (?:[\w-]+ ){{0,4}}?{text}\b"),
    ];
    Regex::new(&format!(r"(?i)^(?:\*\*|__|\*|_)?(?:{})", patterns.join("|"))).expect("constant pattern")
});

/// A text without its formula opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The text that remains; a title before the opening is kept.
    pub text: String,
    /// What was taken off, if anything.
    pub removed: Option<String>,
}

/// Takes formula sentences off the start of a text, also those that follow a title line.
#[must_use]
pub fn remove_opening(text: &str) -> Opened {
    let text = text.trim();
    let (title, mut body) = text.split_at(title_end(text));
    let mut removed = Vec::new();
    while removed.len() < MAX_SENTENCES && OPENING.is_match(&body.replace('’', "'")) {
        let (sentence, rest) = body.split_at(sentence_end(body));
        removed.push(sentence.trim());
        body = rest.trim_start();
    }
    if removed.is_empty() {
        return Opened { text: text.to_string(), removed: None };
    }
    let body = upper_first(body);
    let text = if body.is_empty() { String::new() } else { format!("{title}{body}") };
    Opened { text, removed: Some(removed.join(" ")) }
}

/// Where the leading title lines end: headings with `#`, a bold line, `Title: …`, or a short line
/// without a full stop before an empty line. A line that is itself an opening is no title.
fn title_end(text: &str) -> usize {
    let mut end = 0;
    for line in text.split_inclusive('\n').take(4) {
        let trimmed = line.trim();
        let is_whole_bold = trimmed.len() > 4 && trimmed.starts_with("**") && trimmed.ends_with("**");
        let is_marked =
            trimmed.starts_with('#') || is_whole_bold || trimmed.to_lowercase().starts_with("title:");
        let next_is_empty = text[end + line.len()..].starts_with(['\n', '\r']);
        let is_short =
            trimmed.chars().count() <= 100 && !trimmed.ends_with(['.', '!', '?', ':', ',']) && next_is_empty;
        let is_opening = OPENING.is_match(&trimmed.replace('’', "'"));
        if !(trimmed.is_empty()
            || line.ends_with('\n') && (is_marked || is_short) && (!is_opening || trimmed.starts_with('#')))
        {
            break;
        }
        end += line.len();
    }
    end
}

/// Where the first sentence ends: after `.`, `!`, `?` (with closing quotes or bold markers) before a
/// space, after `:` at the end of a line, or at the end of the line.
fn sentence_end(text: &str) -> usize {
    for (at, c) in text.char_indices() {
        if c == '\n' {
            return at;
        }
        if ".!?…:".contains(c) {
            let tail = text[at + c.len_utf8()..]
                .trim_start_matches(['"', '”', '\'', '’', ')', '*', '_', '!', '.', '?']);
            let end = text.len() - tail.len();
            let is_end = tail.is_empty()
                || tail.starts_with('\n')
                || c != ':' && tail.starts_with(char::is_whitespace);
            if is_end && !(c == '.' && is_abbreviation(&text[..at])) {
                return end;
            }
        }
    }
    text.len()
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_formula_is_taken_off_and_the_rest_stays() {
        for (text, rest) in [
            ("Welcome, young explorers! Plants need light.", "Plants need light."),
            ("**Welcome, friends!** Plants need light.", "Plants need light."),
            ("Hello everyone! Plants need light.", "Plants need light."),
            ("Hello, I am Dr. Green. Plants need light.", "Plants need light."),
            ("My name is Zork and I come from Mars. Plants need light.", "Plants need light."),
            ("You've just arrived on a new planet. Plants need light.", "Plants need light."),
            ("You’ve just arrived on a new planet. Plants need light.", "Plants need light."),
            ("We're thrilled to have you here! Plants need light.", "Plants need light."),
            ("Warning: this is hard. Plants need light.", "Plants need light."),
            ("Sure, here is a textbook section on plants:\n\nPlants need light.", "Plants need light."),
            ("Sure! Here's your story: \nPlants need light.", "Plants need light."),
            (
                "Certainly! Below is a short blog post about plants.\n\nPlants need light.",
                "Plants need light.",
            ),
            ("Here is a detailed section of a college textbook:\nPlants need light.", "Plants need light."),
            ("Sure! Welcome to class! Hello there. Plants need light.", "Plants need light."),
            ("I'd be happy to help. plants need light.", "Plants need light."),
            ("# Light\n\nWelcome to this chapter! Plants need light.", "# Light\n\nPlants need light."),
            ("Title: Light\n\nHello, students! Plants need light.", "Title: Light\n\nPlants need light."),
            (
                "How Plants Eat\n\nDear readers, come in. Plants need light.",
                "How Plants Eat\n\nPlants need light.",
            ),
            ("Sure thing!\n\n# Light\n\nPlants need light.", "# Light\n\nPlants need light."),
        ] {
            let opened = remove_opening(text);
            assert_eq!(opened.text, rest, "{text}");
            assert!(opened.removed.is_some());
        }
        assert_eq!(remove_opening("Hello, Dr. A. Green! Light.").removed.unwrap(), "Hello, Dr. A. Green!");
        assert_eq!(
            remove_opening("Welcome, dear students!"),
            Opened { text: String::new(), removed: Some("Welcome, dear students!".into()) }
        );
    }

    #[test]
    fn texts_that_only_look_like_formulas_stay() {
        for text in [
            "\"Hello,\" said the fox.",
            "Warnings are signs of change.",
            "Here is where the river bends, and here the story of Ann begins",
            "Sure footed goats climb the wall.",
            "Hiking needs good shoes.",
            "Greatness comes slowly.",
            "Okapis are shy.",
            "The welcome was warm. Hello came from all sides.",
            "# Welcome Center\n\nThe building has three floors.",
            "",
        ] {
            assert_eq!(remove_opening(text), Opened { text: text.to_string(), removed: None });
        }
    }
}
