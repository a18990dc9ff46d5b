//! From the sections of a document to pages.

use serde::Deserialize;

/// A section of a document, without the sections inside it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Section {
    /// 0 for a section of the document, 1 for one inside it, and so on.
    pub depth: usize,
    /// Its anchor in the HTML page.
    pub anchor: String,
    /// Its title, in plain text; empty for text before the first title.
    pub title: String,
    /// Its text: blocks separated by empty lines.
    pub text: String,
}

/// A section that became a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageText {
    /// The anchor; empty for the first section of the document.
    pub anchor: String,
    /// Path of titles in the first line, an empty line, the text.
    pub text: String,
    /// Characters of the text without its first line.
    pub chars: usize,
}

/// Sections long enough to be a page, and those that are not.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub pages: Vec<PageText>,
    pub too_short: Vec<PageText>,
}

/// Cuts a document (sections in reading order) into pages of at least `min_chars` characters. A shorter section goes
/// to the end of the one it stands in, with its title; one that stands in none is too short.
pub(super) fn cut(mut sections: Vec<Section>, min_chars: usize) -> Cut {
    // Text before the first title opens the first section.
    if sections.len() > 1 && sections.first().is_some_and(|first| first.title.is_empty()) {
        let lead = sections.remove(0).text;
        if let Some(first) = sections.first_mut() {
            first.text = if first.text.is_empty() { lead } else { format!("{lead}\n\n{}", first.text) };
        }
    }
    let mut out = Cut::default();
    // From the last to the first, so that a section is settled before the one it stands in.
    let mut texts: Vec<String> = sections.iter().map(|section| section.text.clone()).collect();
    let mut added: Vec<Vec<String>> = vec![Vec::new(); sections.len()];
    let mut is_page = vec![false; sections.len()];
    for i in (0..sections.len()).rev() {
        let (Some(section), Some(text), Some(more)) = (sections.get(i), texts.get_mut(i), added.get(i))
        else {
            continue;
        };
        for part in more.iter().rev() {
            text.push_str(if text.is_empty() { "" } else { "\n\n" });
            text.push_str(part);
        }
        let text = text.clone();
        let long_enough = text.chars().count() >= min_chars;
        let above =
            sections.get(..i).and_then(|before| before.iter().rposition(|other| other.depth < section.depth));
        match above {
            Some(above) if !long_enough => {
                if let (false, Some(more)) = (text.is_empty(), added.get_mut(above)) {
                    more.push(format!("{}\n\n{text}", section.title));
                }
            }
            _ => {
                if let Some(page) = is_page.get_mut(i) {
                    *page = true;
                }
            }
        }
    }
    let mut path: Vec<&Section> = Vec::new();
    for (i, ((section, text), is_page)) in sections.iter().zip(&texts).zip(is_page).enumerate() {
        while path.last().is_some_and(|above| above.depth >= section.depth) {
            path.pop();
        }
        path.push(section);
        if !is_page || text.is_empty() {
            continue;
        }
        let titles: Vec<&str> =
            path.iter().map(|above| above.title.as_str()).filter(|title| !title.is_empty()).collect();
        let head = titles.join(" > ");
        let page = PageText {
            anchor: if i == 0 { String::new() } else { section.anchor.clone() },
            chars: text.chars().count(),
            text: if head.is_empty() { text.clone() } else { format!("{head}\n\n{text}") },
        };
        if page.chars >= min_chars { out.pages.push(page) } else { out.too_short.push(page) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn section(depth: usize, title: &str, text: &str) -> Section {
        Section { depth, anchor: title.to_lowercase(), title: title.into(), text: text.into() }
    }

    #[test]
    fn short_sections_join_the_one_above_in_order() {
        let cut = cut(
            vec![
                section(0, "Guide", "An introduction."),
                section(1, "One", "short 1"),
                section(2, "Deep", "deep"),
                section(1, "Long", "a long section of its own"),
                section(1, "Two", "short 2"),
            ],
            20,
        );
        assert!(cut.too_short.is_empty());
        let pages: Vec<(&str, &str)> =
            cut.pages.iter().map(|p| (p.anchor.as_str(), p.text.as_str())).collect();
        let guide = "Guide\n\nAn introduction.\n\nOne\n\nshort 1\n\nDeep\n\ndeep\n\nTwo\n\nshort 2";
        assert_eq!(pages, [("", guide), ("long", "Guide > Long\n\na long section of its own")]);
    }

    #[test]
    fn what_stands_nowhere_is_too_short() {
        let cut = cut(vec![section(0, "A", "tiny"), section(0, "B", "also tiny")], 20);
        assert!(cut.pages.is_empty());
        assert_eq!(cut.too_short.len(), 2);
        assert_eq!(cut.too_short[1].anchor, "b");
    }

    #[test]
    fn text_before_the_first_title_opens_it() {
        let cut = cut(vec![section(0, "", "lead"), section(0, "A", "body")], 1);
        assert_eq!(cut.pages.len(), 1);
        assert_eq!(cut.pages[0].text, "A\n\nlead\n\nbody");
    }

    proptest! {
        #[test]
        fn no_text_is_lost_or_doubled(depths in prop::collection::vec(0usize..4, 1..30), min in 0usize..60) {
            let sections: Vec<Section> = depths
                .iter()
                .enumerate()
                .map(|(i, depth)| section(*depth, &format!("T{i}"), &format!("word{i}x {}", "y".repeat(i % 7 * 5))))
                .collect();
            let cut = cut(sections, min);
            let all: String = cut.pages.iter().chain(&cut.too_short).map(|page| page.text.as_str()).collect();
            for i in 0..depths.len() {
                prop_assert_eq!(all.matches(&format!("word{i}x")).count(), 1);
            }
            prop_assert!(cut.pages.iter().all(|page| page.chars >= min));
        }
    }
}
