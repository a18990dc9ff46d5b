//! Answers in which a model declines.

use std::sync::LazyLock;

use regex::Regex;

/// How far into an answer a refusal is looked for, in characters.
const OPENING_CHARS: usize = 300;

#[allow(clippy::expect_used)] // A constant pattern: every test of this file would fail.
static REFUSAL: LazyLock<Regex> = LazyLock::new(|| {
    let help = r"(?:assist|help|provide|write|create|generate|fulfil+|comply|answer|complete|produce|respond|engage|support|share|continue|list)";
    let unable = r"(?:cannot|can't|can not|won't|will not|am unable to|am not able to|am not comfortable|must decline to|could not|couldn't)";
    let patterns = [
        r"\bi(?:'m| am) (?:(?:very|so|really|truly) )?sorry,? (?:but|i|however|as)\b".to_string(),
        format!(r"\bi {unable} (?:\w+ly )?{help}\b"),
        r"\bi(?:'m| am) (?:unable|not able|not comfortable|not programmed|not designed) (?:to|with)\b"
            .to_string(),
        r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|responsible ai)\b".to_string(),
        r"\bi (?:apologi[sz]e|regret),? (?:but|for|that|to)\b".to_string(),
        r"^(?:unfortunately|regrettably),? i\b".to_string(),
    ];
    Regex::new(&format!("(?i)(?:{})", patterns.join("|"))).expect("constant pattern")
});

/// Whether the answer begins by declining. What a person in a story says in quotes does not count.
#[must_use]
pub fn is_refusal(answer: &str) -> bool {
    let opening: String = answer.trim_start().chars().take(OPENING_CHARS).collect();
    let opening = opening.replace('’', "'");
    // The first paragraph only: a refusal comes before anything else.
    let opening = opening.split("\n\n").next().unwrap_or_default();
    let in_quotes = |at: usize| opening[..at].matches(['"', '“', '”']).count() % 2 == 1;
    REFUSAL.find_iter(opening).any(|found| !in_quotes(found.start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_met_and_stories_are_not() {
        for refusal in [
            "I'm sorry, but I can't assist with that request.",
            "I am very sorry, but this is not possible.",
            "I’m sorry, but I cannot write this.",
            "As an AI language model, I do not have opinions.",
            "I cannot fulfill this request.",
            "Unfortunately, I have no access to the extract.",
            "I apologize, but the text is unclear.",
            "Thank you for asking. I am unable to provide a textbook on this.",
        ] {
            assert!(is_refusal(refusal), "{refusal}");
        }
        for text in [
            "I cannot believe how warm the sea is today!",
            "\"I'm sorry, but I can't help you,\" said the owl, and flew off.",
            "The robot was sorry. As an architect, Ada knew why.",
            "Plants cannot write, yet they answer to light.",
            "",
        ] {
            assert!(!is_refusal(text), "{text}");
        }
        let later = format!("{}\n\nI cannot write about this.", "A true sentence.");
        assert!(!is_refusal(&later));
    }
}
