//! The units of a course out of an answer, however the model laid out the table of contents.

use super::names::{NameBounds, Rejection, check_name, dedupe_key};
use super::parse::{Verdict, clean_item, plain_signs};
use crate::cleanup::is_refusal;
use crate::text::pattern;

/// A table of contents, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The course's title, where the answer gives one.
    pub course: Option<String>,
    /// The units in the order in which they are taught, each once.
    pub units: Vec<String>,
    /// What the answer was: [`Verdict::List`] when it has two units or more.
    pub verdict: Verdict,
    /// Items left out, with the reason.
    pub left_out: Vec<(Rejection, String)>,
}

/// How a line is marked as an item. Two lines are of one level when mark and indentation agree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    /// `#`, `##`, …: the number of signs.
    Heading(usize),
    /// `Unit 1:`, `Chapter 1.`, …: the word in lower case.
    Label(String),
    /// `1.`, `1.2`, …: the number of parts.
    Number(usize),
    /// `IV.`
    Roman,
    /// `-`, `*`, `•`
    Bullet,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Level {
    mark: Mark,
    indent: usize,
}

pattern!(HEADING, r"^(#{1,6})\s*(\S.*)$");
pattern!(
    LABEL,
    r"(?i)^(?:#+\s*)?(?:[-+*•]\s+)?(?:\*\*|__)?(unit|chapter|module|week|lesson|part|section|lecture)\s*(?:\d{1,3}|[ivx]{1,5})\s*(?:[:.)–—-]|\*\*)\s*(\S.*)$"
);
pattern!(NUMBER, r"^(?:#+\s*)?(?:\*\*|__)?\(?(\d{1,3}(?:\.\d{1,3})*)(?:[.):\]]+\s*|\s+)(\S.*)$");
pattern!(ROMAN, r"^(?:\*\*|__)?[IVX]{1,5}[.)]\s+(\S.*)$");
pattern!(BULLET, r"^(?:[-+•▪◦·–—]\s*|\*(?:\s+|\b))(\S.*)$");
pattern!(
    COURSE,
    r"(?i)^(?:#+\s*)?(?:\*\*|__)?(?:course(?:\s+(?:title|name))?|title)\s*(?:\*\*|__)?\s*:\s*(\S.*)$"
);

/// Reads a table of contents: numbered, with bullets, Markdown headings or labels such as `Unit 1:`.
///
/// Of a nested one the outermost level with two items or more is taken: what stands below a unit
/// belongs to it. Titles lose their marks and explanations; those that break a rule of [`Rejection`]
/// or come again are left out. At most `max_units` units come back.
#[must_use]
pub fn parse_outline(answer: &str, topic: &str, bounds: &NameBounds, max_units: usize) -> Outline {
    let answer = plain_signs(answer);
    let mut outline =
        Outline { course: None, units: Vec::new(), verdict: Verdict::Malformed, left_out: Vec::new() };
    if is_refusal(&answer) {
        outline.verdict = Verdict::Refused;
        return outline;
    }
    let mut items: Vec<(Level, &str)> = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    for line in answer.lines().filter(|line| !line.trim_start().starts_with("```")) {
        if let Some(title) = COURSE.captures(line.trim()) {
            let title = title.get(1).map_or("", |m| m.as_str());
            outline.course = outline.course.or_else(|| course_title(title, bounds));
        } else if let Some((level, text)) = item(line) {
            if !levels.contains(&level) {
                levels.push(level.clone());
            }
            items.push((level, text));
        }
    }
    let of_level = |level: &Level| items.iter().filter(|(of, _)| of == level).count();
    let level = levels.iter().find(|level| of_level(level) >= 2);
    // A heading that stands alone before the list is the course's title.
    let alone =
        levels.first().filter(|first| Some(*first) != level && matches!(first.mark, Mark::Heading(_)));
    if let (None, Some(first)) = (&outline.course, alone) {
        let text = items.iter().find(|(of, _)| of == first).map_or("", |(_, text)| *text);
        outline.course = course_title(text, bounds);
    }

    let mut keys = vec![dedupe_key(topic)];
    let units = items.iter().filter(|(of, _)| Some(of) == level).map(|(_, text)| clean_item(text));
    for unit in units.filter(|unit| !unit.is_empty()) {
        let key = dedupe_key(&unit);
        let checked = match keys.iter().position(|known| *known == key) {
            Some(0) => Err(Rejection::Echo),
            Some(_) => Err(Rejection::Duplicate),
            None => check_name(&unit, bounds, &[]),
        };
        match checked {
            Ok(()) if outline.units.len() == max_units => break,
            Ok(()) => {
                keys.push(key);
                outline.units.push(unit);
            }
            Err(reason) => outline.left_out.push((reason, unit)),
        }
    }
    if outline.units.len() >= 2 {
        outline.verdict = Verdict::List;
    } else {
        outline.units.clear();
    }
    outline
}

/// The level and the text of a line that is an item.
fn item(line: &str) -> Option<(Level, &str)> {
    let text = line.trim();
    // One space before an answer's first line is no indentation.
    let indent = Some(line.len() - line.trim_start().len()).filter(|spaces| *spaces > 1).unwrap_or(0);
    let part = |found: &regex::Captures<'_>, group: usize| found.get(group).map(|m| m.range());
    let level = |mark| Level { mark, indent };
    if let Some(found) = LABEL.captures(text) {
        let word = found.get(1).map_or("", |m| m.as_str()).to_lowercase();
        return Some((level(Mark::Label(word)), &text[part(&found, 2)?]));
    }
    if let Some(found) = NUMBER.captures(text) {
        let parts = found.get(1).map_or("", |m| m.as_str()).split('.').count();
        return Some((level(Mark::Number(parts)), &text[part(&found, 2)?]));
    }
    if let Some(found) = HEADING.captures(text) {
        let signs = found.get(1).map_or(0, |m| m.len());
        return Some((level(Mark::Heading(signs)), &text[part(&found, 2)?]));
    }
    if let Some(found) = ROMAN.captures(text) {
        return Some((level(Mark::Roman), &text[part(&found, 1)?]));
    }
    BULLET.captures(text).and_then(|found| Some((level(Mark::Bullet), &text[part(&found, 1)?])))
}

fn course_title(text: &str, bounds: &NameBounds) -> Option<String> {
    let title = text.replace(['*', '_', '`', '"', '#'], "");
    let title = title.trim_matches(|c: char| c.is_whitespace() || ".,;:'".contains(c));
    let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
    check_name(&title, bounds, &[]).is_ok().then_some(title)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(answer: &str) -> Outline {
        parse_outline(answer, "Compilers", &NameBounds::default(), 20)
    }

    const THREE: [&str; 3] = ["Lexical Analysis", "Parsing Expressions", "Code Generation"];

    #[test]
    fn every_layout_gives_the_same_units() {
        for answer in [
            "Course: Building Compilers\n1. Lexical Analysis\n2. Parsing Expressions\n3. Code Generation",
            " 1. Lexical Analysis\n2. Parsing Expressions\n3. Code Generation\n",
            "Here is the table of contents:\n\n1) Lexical Analysis: from text to tokens\n2) Parsing Expressions (trees)\n3) Code Generation\n",
            "- Lexical Analysis\n- Parsing Expressions\n- Code Generation",
            "# Building Compilers\n\n## Unit 1: Lexical Analysis\n- Tokens\n- Automata\n## Unit 2: Parsing Expressions\n- Trees\n## Unit 3: Code Generation",
            "# Building Compilers\n## Lexical Analysis\nAbout tokens.\n## Parsing Expressions\n## Code Generation",
            "**Unit 1: Lexical Analysis**\n1. Tokens\n2. Automata\n**Unit 2: Parsing Expressions**\n1. Trees\n2. Grammars\n**Unit 3: Code Generation**",
            "1. Lexical Analysis\n  1.1 Tokens\n  1.2 Automata\n2. Parsing Expressions\n  2.1 Trees\n3. Code Generation\n",
            "1. Lexical Analysis\n   1. Tokens\n   2. Automata\n2. Parsing Expressions\n   1. Trees\n3. Code Generation\n",
            "1. **Lexical Analysis**\n   - Tokens\n   - Automata\n2. **Parsing Expressions**\n   - Trees\n3. **Code Generation**",
            "I. Lexical Analysis\nII. Parsing Expressions\nIII. Code Generation",
            "Chapter 1. Lexical Analysis\nChapter 2. Parsing Expressions\nChapter 3. Code Generation",
            "```\nWeek 1: Lexical Analysis\nWeek 2: Parsing Expressions\nWeek 3: Code Generation\n```",
            "1.1 Lexical Analysis\n1.2 Parsing Expressions\n1.3 Code Generation",
        ] {
            let outline = parse(answer);
            assert_eq!(outline.units, THREE, "{answer}");
            assert_eq!(outline.verdict, Verdict::List);
            let title = answer.contains("Building").then(|| "Building Compilers".to_string());
            assert_eq!(outline.course, title, "{answer}");
        }
    }

    #[test]
    fn an_outer_level_of_one_gives_way_to_the_next() {
        let nested = "1. Compilers:\n- Lexical Analysis\n- Parsing Expressions\n- Code Generation";
        assert_eq!(parse(nested).units, THREE);
    }

    #[test]
    fn what_is_no_outline_is_told_apart() {
        assert_eq!(parse("I'm sorry, but I can't assist with that.").verdict, Verdict::Refused);
        for answer in
            ["", "A compiler is a program.", "1. Lexical Analysis", "Course: Compilers", "1.\n2.\n3."]
        {
            assert_eq!(parse(answer).verdict, Verdict::Malformed, "{answer}");
            assert!(parse(answer).units.is_empty());
        }
        let looped = "1. Grammars\n2. Grammars\n3. Compilers\n4. Overview\n5. 语法分析\n6. Linking";
        let outline = parse(looped);
        assert_eq!(outline.units, ["Grammars", "Linking"]);
        let reasons: Vec<Rejection> = outline.left_out.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(
            reasons,
            [Rejection::Duplicate, Rejection::Echo, Rejection::Generic, Rejection::NotEnglish]
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics_and_every_unit_keeps_the_bounds(
            parts in proptest::collection::vec(prop_oneof![
                "[ -~]{0,12}".boxed(),
                "\\PC{0,6}".boxed(),
                proptest::sample::select(vec!["\n1. ", "\n  - ", "\n## ", "\nUnit 2: ", "\n1.2 ", "**", "Course: ", "é", "\n\n", "\nIV. "]).prop_map(String::from).boxed(),
            ], 0..40),
            max_units in 0usize..6,
        ) {
            let outline = parse_outline(&parts.concat(), "Compilers", &NameBounds::default(), max_units);
            prop_assert!(outline.units.len() <= max_units);
            for name in outline.units.iter().chain(&outline.course) {
                prop_assert!((3..=80).contains(&name.chars().count()), "{}", name);
                prop_assert!(!name.chars().any(char::is_control));
            }
            let keys: std::collections::BTreeSet<_> = outline.units.iter().map(|n| dedupe_key(n)).collect();
            prop_assert_eq!(keys.len(), outline.units.len());
        }
    }
}
