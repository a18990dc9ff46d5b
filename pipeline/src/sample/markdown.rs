//! Markdown (with the roles and directives that MyST adds for Sphinx) to sections, by `pulldown-cmark`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use regex::Regex;

use super::section::Section;
use super::titles::Titles;

/// `(label)=` above a title, and `% comment`.
static UNSEEN_LINE: LazyLock<Regex> = LazyLock::new(|| {
    #[allow(clippy::expect_used, reason = "the pattern is a constant")]
    Regex::new(r"(?m)^(?:\([^()\s]+\)=|%.*)[ \t]*$").expect("a valid pattern")
});

/// Directives that leave nothing in plain text.
const DROPPED: &[&str] = &[
    "toctree",
    "eval-rst",
    "image",
    "figure",
    "plot",
    "autosummary",
    "contents",
    "include",
    "literalinclude",
    "raw",
];

/// The sections of a Markdown document, in reading order.
pub(super) fn sections(text: &str, document: &str, titles: &Titles) -> Vec<Section> {
    let text = UNSEEN_LINE.replace_all(text, "");
    let mut reader = Reader::new(&text, document, titles);
    let mut out =
        vec![Section { depth: 0, anchor: String::new(), title: String::new(), text: String::new() }];
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let (blocks, heading) = reader.blocks(Stop::Heading);
        if let Some(section) = out.last_mut() {
            section.text = blocks.join("\n\n");
        }
        let Some(level) = heading else { break };
        let title = reader.inline_until(TagEnd::Heading(level));
        let mut anchor = anchor(&title);
        let seen = seen.entry(anchor.clone()).and_modify(|times| *times += 1).or_insert(0);
        // An anchor names one place; a second section of the same title is told apart by a number.
        if *seen > 0 {
            anchor = format!("{anchor}-{seen}");
        }
        out.push(Section { depth: level as usize - 1, anchor, title, text: String::new() });
    }
    out.retain(|section| !(section.title.is_empty() && section.text.is_empty()));
    out
}

/// What ends a run of blocks.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    Heading,
    End(TagEnd),
}

struct Reader<'a> {
    events: std::vec::IntoIter<Event<'a>>,
    document: &'a str,
    titles: &'a Titles,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, document: &'a str, titles: &'a Titles) -> Self {
        let options = Options::ENABLE_TABLES | Options::ENABLE_MATH | Options::ENABLE_FOOTNOTES;
        let events = Parser::new_ext(text, options).collect::<Vec<_>>().into_iter();
        Self { events, document, titles }
    }

    /// Blocks up to `stop`, and the level of the heading that was it.
    fn blocks(&mut self, stop: Stop) -> (Vec<String>, Option<HeadingLevel>) {
        let mut out = Vec::new();
        // Words that stand in no paragraph of their own, as in a tight list.
        let mut loose = String::new();
        while let Some(event) = self.events.next() {
            let starts_block = matches!(
                &event,
                Event::Start(
                    Tag::Paragraph
                        | Tag::Heading { .. }
                        | Tag::CodeBlock(_)
                        | Tag::List(_)
                        | Tag::Table(_)
                        | Tag::BlockQuote(_)
                        | Tag::HtmlBlock
                        | Tag::FootnoteDefinition(_)
                )
            );
            if starts_block {
                flush(&mut loose, &mut out);
            }
            match event {
                Event::End(end) if stop == Stop::End(end) => break,
                Event::Start(Tag::Heading { level, .. }) if stop == Stop::Heading => {
                    return (out, Some(level));
                }
                Event::Start(Tag::Heading { level, .. }) => {
                    out.push(self.inline_until(TagEnd::Heading(level)))
                }
                Event::Start(Tag::Paragraph) => out.push(self.inline_until(TagEnd::Paragraph)),
                Event::Start(Tag::CodeBlock(kind)) => out.extend(self.code(&kind)),
                Event::Start(Tag::List(start)) => out.push(self.list(start)),
                Event::Start(Tag::Table(_)) => out.push(self.table()),
                Event::Start(Tag::BlockQuote(kind)) => {
                    out.extend(self.blocks(Stop::End(TagEnd::BlockQuote(kind))).0)
                }
                Event::Start(Tag::FootnoteDefinition(label)) => {
                    let blocks = self.blocks(Stop::End(TagEnd::FootnoteDefinition)).0;
                    out.push(format!("[{label}] {}", blocks.join("\n\n")));
                }
                Event::Start(Tag::HtmlBlock) => {
                    self.blocks(Stop::End(TagEnd::HtmlBlock));
                }
                event => self.inline_event(event, &mut loose),
            }
        }
        flush(&mut loose, &mut out);
        out.retain(|block| !block.trim().is_empty());
        (out, None)
    }

    fn inline_until(&mut self, end: TagEnd) -> String {
        let mut text = String::new();
        while let Some(event) = self.events.next() {
            if event == Event::End(end) {
                break;
            }
            self.inline_event(event, &mut text);
        }
        one_line(&text)
    }

    fn inline_event(&mut self, event: Event<'a>, text: &mut String) {
        match event {
            Event::Text(words) => text.push_str(&words),
            Event::Code(code) => match role_at_end(text) {
                Some((start, role)) => {
                    text.truncate(start);
                    text.push_str(&self.titles.shown(&role, &code, self.document));
                }
                None => text.push_str(&code),
            },
            Event::InlineMath(latex) => text.push_str(&format!("${latex}$")),
            Event::DisplayMath(latex) => text.push_str(&format!("$${}$$", latex.trim())),
            Event::SoftBreak | Event::HardBreak => text.push(' '),
            Event::FootnoteReference(label) => text.push_str(&format!("[{label}]")),
            // A picture's alternative text is no sentence.
            Event::Start(Tag::Image { .. }) => {
                self.inline_until(TagEnd::Image);
            }
            _ => {}
        }
    }

    fn list(&mut self, start: Option<u64>) -> String {
        let mut items = Vec::new();
        while let Some(event) = self.events.next() {
            match event {
                Event::Start(Tag::Item) => {
                    let mark = match start {
                        Some(first) => format!("{}. ", first + items.len() as u64),
                        None => "- ".to_owned(),
                    };
                    let body = self.blocks(Stop::End(TagEnd::Item)).0.join("\n");
                    let rest = format!("\n{}", " ".repeat(mark.len()));
                    items.push(format!("{mark}{}", body.replace('\n', &rest)));
                }
                Event::End(TagEnd::List(_)) => break,
                _ => {}
            }
        }
        items.join("\n")
    }

    fn table(&mut self) -> String {
        let mut rows = Vec::new();
        let mut cells = Vec::new();
        while let Some(event) = self.events.next() {
            match event {
                Event::Start(Tag::TableCell) => cells.push(self.inline_until(TagEnd::TableCell)),
                Event::End(TagEnd::TableRow | TagEnd::TableHead) => {
                    rows.push(std::mem::take(&mut cells).join(" | "))
                }
                Event::End(TagEnd::Table) => break,
                _ => {}
            }
        }
        rows.join("\n")
    }

    /// A block of code, or a directive, which MyST writes as one.
    fn code(&mut self, kind: &CodeBlockKind<'a>) -> Vec<String> {
        let mut text = String::new();
        for event in self.events.by_ref() {
            match event {
                Event::Text(part) => text.push_str(&part),
                Event::End(TagEnd::CodeBlock) => break,
                _ => {}
            }
        }
        let info = match kind {
            CodeBlockKind::Fenced(info) => info.trim(),
            CodeBlockKind::Indented => "",
        };
        let Some((name, argument)) = info.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return vec![indented(&text)];
        };
        let argument = argument.trim();
        // Options stand first, one a line, `:name: value`.
        let option = |line: &str| line.strip_prefix(':').is_some_and(|rest| rest.contains(':'));
        let content: String =
            text.lines().skip_while(|line| option(line)).flat_map(|line| [line, "\n"]).collect();
        match name {
            name if DROPPED.contains(&name) || name.starts_with("auto") => Vec::new(),
            "math" => vec![format!("$${}$$", content.trim())],
            name if name.starts_with("code") || name == "parsed-literal" || name == "doctest" => {
                vec![indented(&content)]
            }
            name => {
                let head = match (name, argument) {
                    ("glossary", _) => String::new(),
                    ("admonition" | "sidebar" | "topic" | "dropdown", title) => title.to_owned(),
                    ("seealso", _) => "See also".to_owned(),
                    (name, "") => capitalised(name),
                    (_, argument) => argument.to_owned(),
                };
                let blocks = Reader::new(&content, self.document, self.titles).blocks_of_all();
                headed(&head, blocks)
            }
        }
    }

    fn blocks_of_all(&mut self) -> Vec<String> {
        // No event ends a whole document, so this one never matches.
        self.blocks(Stop::End(TagEnd::MetadataBlock(pulldown_cmark::MetadataBlockKind::YamlStyle))).0
    }
}

fn flush(loose: &mut String, out: &mut Vec<String>) {
    let text = one_line(&std::mem::take(loose));
    if !text.is_empty() {
        out.push(text);
    }
}

fn headed(head: &str, mut blocks: Vec<String>) -> Vec<String> {
    match blocks.first_mut() {
        Some(first) if !head.is_empty() && !first.starts_with([' ', '-']) => {
            *first = format!("{head}: {first}")
        }
        _ if !head.is_empty() => blocks.insert(0, format!("{head}:")),
        _ => {}
    }
    blocks
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn indented(code: &str) -> String {
    let lines = code
        .trim_end()
        .lines()
        .map(|line| if line.is_empty() { String::new() } else { format!("    {line}") });
    lines.collect::<Vec<_>>().join("\n")
}

fn capitalised(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// Where `{role}` at the end of a text starts, and the role's name.
fn role_at_end(text: &str) -> Option<(usize, String)> {
    let before = text.strip_suffix('}')?;
    let start = before.rfind('{')?;
    let name = before.get(start + 1..)?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_:+".contains(c));
    // `py:func` is the domain's `func`.
    is_name.then(|| (start, name.rsplit(':').next().unwrap_or(name).to_owned()))
}

/// A title's anchor as Sphinx makes it: lower case, and a hyphen for every run of other characters.
fn anchor(title: &str) -> String {
    let mapped: String =
        title.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { ' ' }).collect();
    mapped.split_whitespace().collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of(markdown: &str) -> String {
        let mut titles = Titles::default();
        titles.labels.insert("a-label".into(), "A Title".into());
        let found = sections(markdown, "guide", &titles);
        found
            .iter()
            .map(|s| format!("{} {} {}\n{}", s.depth, s.anchor, s.title, s.text))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn sections_and_inline_markup() {
        let markdown = "% unseen\n# The *Guide*\n\nSee {func}`~a.b.solve`, {ref}`a-label` and `x`\non [a page](http://x.y).\n\n\
                        (label)=\n## Next: `x`\n\nMaths $a_1 \\in K$ ![alt](p.png) and <b>bold</b>.\n";
        let expected = "0 the-guide The Guide\nSee solve, A Title and x on a page.\n\
                        1 next-x Next: x\nMaths $a_1 \\in K$ and bold.";
        assert_eq!(text_of(markdown), expected);
    }

    #[test]
    fn anchors_differ_within_a_document() {
        let found = sections("# A\n\n## Use\n\n## Use\n\n## Use\n", "guide", &Titles::default());
        let anchors: Vec<&str> = found.iter().map(|section| section.anchor.as_str()).collect();
        assert_eq!(anchors, ["a", "use", "use-1", "use-2"]);
    }

    #[test]
    fn lists_code_and_tables() {
        let markdown = "- **one** is\n  first\n\n  ```py\n  x = 1\n  ```\n- two\n\n1. a\n2. b\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n\n  more\n```\n";
        let expected =
            "0  \n- one is first\n      x = 1\n- two\n\n1. a\n2. b\n\na | b\n1 | 2\n\n    code\n\n      more";
        assert_eq!(text_of(markdown), expected);
    }

    #[test]
    fn directives_keep_their_content() {
        let markdown = "```{note}\n:class: x\nMind `this`.\n\nAnd that.\n```\n\n```{toctree}\na\nb\n```\n\n```{admonition} Public *API*\nYes.\n```\n\n```{math}\n\\frac12\n```\n";
        assert_eq!(
            text_of(markdown),
            "0  \nNote: Mind this.\n\nAnd that.\n\nPublic *API*: Yes.\n\n$$\\frac12$$"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(markdown in "[-#>*`{}() |\n$\\[\\]:=a-c1]{0,200}") {
            for section in sections(&markdown, "a", &Titles::default()) {
                prop_assert!(section.depth < 6);
            }
        }
    }
}
