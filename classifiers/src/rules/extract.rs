//! The text of an HTML page without what stands around it.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trafilatura::{ExtractionFocus, Options};

use super::{Rejected, TextRule};
use crate::text::Words;

/// Takes the main text out of a page, as FineWeb does with trafilatura's `favor_precision` and without
/// comments (datatrove `pipeline/extractors/trafilatura.py`). A line is a paragraph, a heading, an item of
/// a list (`- …`) or a row of a table (`… | …`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ExtractText {
    /// Rather leave text out than keep what is none; otherwise both count alike.
    pub favor_precision: bool,
    /// The largest page, in bytes (reason `html_too_large`): beyond, it is a file and no page.
    pub max_html_bytes: usize,
    /// The deepest nesting of elements (reason `html_too_deep`): beyond, it is made to break parsers.
    pub max_depth: usize,
}

impl Default for ExtractText {
    fn default() -> Self {
        Self { favor_precision: true, max_html_bytes: 10 << 20, max_depth: 512 }
    }
}

impl TextRule for ExtractText {
    const NAME: &'static str = "extract";

    fn apply<'t>(&self, html: &'t str, _words: &mut Words) -> Result<Cow<'t, str>, Rejected> {
        if html.len() > self.max_html_bytes {
            return Err(Rejected::new("html_too_large", format_args!("{} bytes", html.len())));
        }
        let depth = depth_at_most(html, self.max_depth);
        if depth > self.max_depth {
            return Err(Rejected::new("html_too_deep", format_args!("over {} elements", self.max_depth)));
        }
        let focus =
            if self.favor_precision { ExtractionFocus::FavorPrecision } else { ExtractionFocus::Balanced };
        // The fallbacks (readability, jusText) are a part of trafilatura's own way.
        let options = Options::default().with_focus(focus).with_fallback(true).with_exclude_comments(true);
        // The web holds pages that no extractor's author has thought of: one of them must not end a run.
        let extracted = catch_unwind(AssertUnwindSafe(|| trafilatura::extract(html, &options)));
        let text = match extracted {
            Ok(Ok(found)) => lines_of(&found.content_html),
            Ok(Err(error)) => return Err(Rejected::new("no_main_text", error)),
            Err(_) => return Err(Rejected::new("extraction_failed", "the extractor gave up on this page")),
        };
        if text.is_empty() {
            return Err(Rejected::new("no_main_text", "nothing is left of the page"));
        }
        Ok(Cow::Owned(text))
    }
}

/// Elements that are never closed.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];

/// Elements that parsers close by themselves, so that pages leave their ends out.
const SELF_ENDING: [&str; 14] =
    ["p", "li", "dt", "dd", "option", "optgroup", "tr", "td", "th", "thead", "tbody", "tfoot", "rp", "rt"];

/// How deep elements lie in each other, as far as it does not matter more: one over `most` at the most.
fn depth_at_most(html: &str, most: usize) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut tags = Tags(html);
    while let Some(tag) = tags.next() {
        if !tag.closing && matches!(tag.name.as_str(), "script" | "style") {
            tags.skip_to_end_of(&tag.name);
            continue;
        }
        if VOID.contains(&tag.name.as_str()) || SELF_ENDING.contains(&tag.name.as_str()) {
            continue;
        }
        depth = if tag.closing { depth.saturating_sub(1) } else { depth + 1 };
        deepest = deepest.max(depth);
        if deepest > most {
            break;
        }
    }
    deepest
}

/// A tag of a page.
struct Tag<'t> {
    name: String,
    closing: bool,
    /// What stands before it.
    before: &'t str,
}

/// The tags of a page, with the text before each; comments and the like come with an empty name.
struct Tags<'t>(&'t str);

impl Tags<'_> {
    /// What scripts and styles hold is not HTML.
    fn skip_to_end_of(&mut self, name: &str) {
        let ends = |place: &(usize, &str)| {
            let name_there = self.0.get(place.0 + 2..place.0 + 2 + name.len());
            name_there.is_some_and(|there| there.eq_ignore_ascii_case(name))
        };
        let end = self.0.match_indices("</").find(ends).map_or(self.0.len(), |(at, _)| at);
        self.0 = &self.0[end..];
    }
}

impl<'t> Iterator for Tags<'t> {
    type Item = Tag<'t>;

    fn next(&mut self) -> Option<Tag<'t>> {
        let start = self.0.find('<')?;
        let (before, rest) = self.0.split_at(start);
        let inside = &rest[1..];
        let closing = inside.starts_with('/');
        let name: String = inside
            .trim_start_matches('/')
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric())
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let end = if inside.starts_with("!--") {
            inside.find("-->").map(|end| end + 3)
        } else {
            inside.find('>').map(|end| end + 1)
        };
        self.0 = &inside[end.unwrap_or(inside.len())..];
        Some(Tag { name, closing, before })
    }
}

/// Elements before and behind which a line ends.
const BLOCKS: [&str; 26] = [
    "p",
    "div",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "blockquote",
    "pre",
    "table",
    "tr",
    "br",
    "hr",
    "section",
    "article",
    "figure",
    "figcaption",
    "body",
    "html",
];

/// The text of the extractor's own, well-formed HTML, a line for each block.
fn lines_of(html: &str) -> String {
    let mut lines = Lines::default();
    let mut tags = Tags(html);
    for tag in tags.by_ref() {
        lines.text(tag.before);
        match tag.name.as_str() {
            "td" | "th" if !tag.closing => lines.cell(),
            name if BLOCKS.contains(&name) => {
                lines.end();
                // A paragraph inside an item is its text.
                lines.is_item = !tag.closing && (name == "li" || lines.is_item);
            }
            _ => {}
        }
    }
    lines.text(tags.0);
    lines.end();
    lines.all
}

#[derive(Default)]
struct Lines {
    all: String,
    line: String,
    is_item: bool,
}

impl Lines {
    fn text(&mut self, escaped: &str) {
        if escaped.is_empty() {
            return;
        }
        self.line.push_str(&unescaped(escaped));
    }

    fn cell(&mut self) {
        if !self.line.trim().is_empty() {
            self.line.push_str(" | ");
        }
    }

    fn end(&mut self) {
        let mut words = self.line.split_whitespace().peekable();
        if words.peek().is_some() {
            if !self.all.is_empty() {
                self.all.push('\n');
            }
            if self.is_item {
                self.all.push_str("- ");
            }
            for (at, word) in words.enumerate() {
                if at > 0 {
                    self.all.push(' ');
                }
                self.all.push_str(word);
            }
            self.is_item = false;
        }
        self.line.clear();
    }
}

/// Undoes what an HTML serialiser escapes in texts (HTML standard, section 13.3).
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let plain =
        text.replace("&nbsp;", "\u{a0}").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    Cow::Owned(plain.replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{outcome, reason};
    use super::*;

    const ARTICLE: &str = r#"<!doctype html><html><head><title>Tides</title></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a> <a href="/shop">Shop</a></nav>
<article><h1>Spring tides &amp; neap tides</h1>
<p>A spring tide comes twice a month, when the sun and the moon pull in one line, and the water rises far
above the common mark. Fishermen of the coast have known this for as long as there are boats.</p>
<p>A neap tide comes between, when the two pull at a right angle, and the water neither rises nor falls as
much. The difference is greatest in bays that narrow towards the land, such as the Bay of Fundy.</p>
<ul><li>High water follows the moon by about fifty minutes a day.</li><li>Wind may add to either of them.</li></ul>
</article>
<footer>Copyright 2024. All rights reserved. <a href="/privacy">Privacy policy</a></footer></body></html>"#;

    #[test]
    fn the_main_text_stays_line_by_line_and_the_rest_goes() {
        let text = outcome(&ExtractText::default(), ARTICLE).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.contains(&"- Wind may add to either of them."), "{text}");
        assert!(
            lines.iter().any(|line| line.starts_with("A spring tide") && line.ends_with("there are boats."))
        );
        assert!(!text.contains("Privacy") && !text.contains("Shop"), "{text}");
    }

    #[test]
    fn pages_that_break_extractors_are_told_by_their_reason() {
        let rule = ExtractText::default();
        assert_eq!(reason(&rule, ""), "no_main_text");
        assert_eq!(reason(&rule, "<html><body></body></html>"), "no_main_text");
        let deep = |levels: usize| format!("{}x{}", "<div>".repeat(levels), "</div>".repeat(levels));
        assert_eq!(reason(&rule, &deep(100_000)), "html_too_deep");
        assert_ne!(reason(&rule, &deep(500)), "html_too_deep");
        let script = format!("<script>let page = '{}';</SCRIPT>{ARTICLE}", "<div>".repeat(1_000));
        assert_eq!(reason(&rule, &script), "");
        // Parsers end these by themselves.
        assert_ne!(reason(&rule, &"<p>A paragraph.<br>".repeat(2_000)), "html_too_deep");
        let small = ExtractText { max_html_bytes: 100, ..rule };
        assert_eq!(reason(&small, ARTICLE), "html_too_large");
    }

    #[test]
    fn blocks_are_lines_items_and_rows_are_marked() {
        let html = "<body><h2>A  b</h2>one <b>two</b>\nthree<br>four<table><tr><td>x</td><td>y &lt; z&amp;lt;</td></tr></table>\
                    <ul><li><p>item</p></li></ul>end</body>";
        assert_eq!(lines_of(html), "A b\none two three\nfour\nx | y < z&lt;\n- item\nend");
    }
}
