//! Sentences, as datatrove 0.10.1 splits English text (`split_into_sentences` of `utils/text.py`, over
//! spaCy's sentencizer).

use super::chars::{SENTENCE_END, UNICODE_PUNCTUATION};
use super::tokens::{Token, tokenize};

/// The sentences of a text, which together are the text; an empty text is one.
///
/// A sentence ends after a token that is an end mark and the punctuation that follows it. White space
/// between two sentences begins the second. `tokens` is a buffer.
#[must_use]
pub fn sentences<'t>(text: &'t str, tokens: &mut Vec<Token>) -> Vec<&'t str> {
    tokenize(text, tokens);
    let (mut sentences, mut start) = (Vec::new(), 0);
    let (mut ended, mut last_end) = (false, 0);
    for token in tokens.iter() {
        let word = token.of(text);
        let mut chars = word.chars();
        let is_end = chars.next().is_some_and(|c| SENTENCE_END.contains(c)) && chars.next().is_none();
        if is_end {
            ended = true;
        } else if ended && !UNICODE_PUNCTUATION.covers(word) {
            sentences.push(&text[start..last_end]);
            (start, ended) = (last_end, false);
        }
        last_end = token.end;
    }
    sentences.push(&text[start..]);
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from datatrove 0.10.1 (`tests/parity/rules_datatrove.py --sentences`).
    #[test]
    fn sentences_end_where_datatrove_ends_them() {
        for (text, want) in [
            ("One. Two! Three", "One.| Two!| Three"),
            ("He said \"Stop.\" Then he left.", "He said \"Stop.\"| Then he left."),
            ("Mr. Smith paid 3.50 dollars...", "Mr. Smith paid 3.50 dollars..."),
            ("Wait... what?! Yes.  No.", "Wait... what?!| Yes.|  No."),
            ("", ""),
            ("。好。", "。|好。"),
        ] {
            assert_eq!(sentences(text, &mut Vec::new()).join("|"), want, "{text:?}");
        }
    }
}
