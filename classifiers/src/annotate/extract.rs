//! The part of a page that a judge sees: its start, unable to close its fence or to speak as the chat.

/// Markers of chat templates and tokenizers that have no bars: Llama 2 and Mistral, Gemma, and the
/// sentence markers of SentencePiece models.
const MARKERS: [&str; 16] = [
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<s>",
    "</s>",
];
/// The longest name between the bars of a marker such as `<|im_end|>`, in bytes.
const LONGEST_MARKER_NAME: usize = 48;
/// The shortest fence.
const SHORTEST_FENCE: usize = 3;

/// The first `max_chars` characters of a page without chat markers, control characters and other
/// invisible ones; line ends and indentation stay, since code means something by them. White space at
/// both ends goes. Only the start of the page is looked at.
pub(super) fn extract(text: &str, max_chars: usize) -> String {
    let mut out = String::with_capacity(max_chars.min(text.len()));
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n', '\u{FEFF}']);
    // Where the line begins that is being read: leading blank lines go, the first line's indent stays.
    if let Some(line_start) = text[..text.len() - rest.len()].rfind('\n') {
        rest = &text[line_start + 1..];
    }
    let mut chars = 0;
    while let Some(c) = rest.chars().next().filter(|_| chars < max_chars) {
        if let Some(bytes) = marker(rest) {
            // A space stays behind, so that what is left on both sides makes no new marker.
            rest = &rest[bytes..];
            if !out.ends_with(char::is_whitespace) {
                out.push(' ');
                chars += 1;
            }
            continue;
        }
        rest = &rest[c.len_utf8()..];
        if c == '\n' || c == '\t' || !is_invisible(c) {
            out.push(c);
            chars += 1;
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// A row of backticks, one longer than any in the text: CommonMark's way to write a fence that its
/// content cannot close.
pub(super) fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat((longest + 1).max(SHORTEST_FENCE))
}

/// The length of the chat marker that the text begins with: one of the list, or any of the form
/// `<|endoftext|>`, also with the wide bars of DeepSeek.
fn marker(text: &str) -> Option<usize> {
    if !text.starts_with(['<', '[']) {
        return None;
    }
    if let Some(marker) = MARKERS.iter().find(|marker| text.starts_with(**marker)) {
        return Some(marker.len());
    }
    let inner = text.strip_prefix("<|").or_else(|| text.strip_prefix("<｜"))?;
    let name = inner.find(|c: char| !(c.is_alphanumeric() || "_-▁".contains(c)))?;
    let close = ["|>", "｜>"].into_iter().find(|close| inner[name..].starts_with(close))?;
    (name <= LONGEST_MARKER_NAME).then_some(text.len() - inner.len() + name + close.len())
}

/// Control characters, and those that are invisible or turn the line's direction.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{FEFF}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}' | '\u{2060}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_characters_are_counted_and_indentation_stays() {
        assert_eq!(extract("äöü中文", 4), "äöü中");
        assert_eq!(extract("\n\n    def f():\n\treturn 1\n", 99), "    def f():\n\treturn 1");
        assert_eq!(extract(" \n ", 9), "");
        assert_eq!(extract("a\u{0}b\u{202E}c\r\nd", 99), "abc\nd");
    }

    #[test]
    fn markers_go_and_leave_none_behind() {
        for marker in
            ["<|im_end|>", "<|eot_id|>", "[/INST]", "</s>", "<｜end▁of▁sentence｜>", "<end_of_turn>"]
        {
            assert_eq!(extract(&format!("a{marker}b"), 99), "a b", "{marker}");
        }
        assert_eq!(extract("<|im_<|im_end|>end|>", 99), "<|im_ end|>");
        assert_eq!(extract("a <| b |> [x] <ss>", 99), "a <| b |> [x] <ss>");
    }

    proptest! {
        #[test]
        fn an_extract_is_short_and_holds_neither_marker_nor_fence(
            text in "([a-z `\n]{0,6}|<\\|[a-z_]{1,5}\\|>|</?s>|\\[/?INST\\]|`{1,6}|<\\||\\|>|中){0,30}",
            max_chars in 1_usize..60,
        ) {
            let extract = extract(&text, max_chars);
            prop_assert!(extract.chars().count() <= max_chars);
            prop_assert!(extract.char_indices().all(|(at, _)| marker(&extract[at..]).is_none()), "{extract:?}");
            prop_assert!(!extract.contains(&fence(&extract)));
        }
    }
}
