//! A judge's answer: its score and its reasons, or why it has none.

use super::HIGHEST_ANNOTATION;
use regex::Regex;
use std::sync::LazyLock;
use thiserror::Error;

/// A word that names the score, and what follows it on the line.
static SCORE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:(?P<named>educational(?:\s+value)?)\s+)?(?:score|rating)\b(?:\s+(?:is|of|would\s+be))?\s*(?P<colon>[:=：]|[-–—]\s)?\s*(?P<value>.*)$")
        .ok()
});
/// A number, perhaps over another or with its unit.
static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^[\s<\[(\x22'“]*(?P<number>[-+−]?\d+(?:[.,]\d+)?)\s*(?:(?:/|out\s+of)\s*(?P<of>\d+))?(?P<rest>.*)$",
    )
    .ok()
});
/// What makes two numbers of one: a range or a sum.
static SECOND_NUMBER: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)^\s*(?:-|–|—|~|\+|=|/|to\b|or\b|and\b)\s*\d").ok());
/// How a refusal begins.
static REFUSAL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^\W*(?:(?:i['’]?m|i\s+am)\s+(?:(?:very|so|really)\s+)?(?:sorry|unable|not\s+able)|sorry\b|i\s+apologi[sz]e|i\s+(?:can(?:no|['’])t|can\s+not|will\s+not|won['’]t|must\s+decline)|as\s+an?\s+(?:ai|language\s+model))",
    )
    .ok()
});

/// A score with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The score, 0 to 5.
    pub score: u8,
    /// What the judge said besides, without blank ends.
    pub why: String,
}

/// Why an answer gives no score.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnswerProblem {
    /// The judge declined.
    #[error("the judge declined: {begins}")]
    Refused {
        /// How the answer begins.
        begins: String,
    },
    /// No line names a score; answers cut by their length are of this kind.
    #[error("no line of the answer names a score; it ends: {ends}")]
    NoScore {
        /// How the answer ends.
        ends: String,
    },
    /// A line names a score, but no one whole number out of 5.
    #[error("`{line}` gives no one whole number out of 5")]
    Malformed {
        /// The line.
        line: String,
    },
    /// The number is below 0 or above 5.
    #[error("`{line}` is no score from 0 to 5")]
    OutOfRange {
        /// The line.
        line: String,
    },
}

impl AnswerProblem {
    /// The reason's name, for counts of lost rows.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::NoScore { .. } => "no_score",
            Self::Malformed { .. } => "malformed_score",
            Self::OutOfRange { .. } => "score_out_of_range",
        }
    }
}

/// Reads the score from the last line that names one: `Educational score: 3`, also in bold, as `Score: 3/5`,
/// `3 points`, or with the number on the next line. What stands before is the reasons.
///
/// # Errors
/// The answer is a refusal, names no score, or none from 0 to 5.
pub fn parse_answer(answer: &str) -> Result<Judgement, AnswerProblem> {
    let lines: Vec<String> = answer.lines().map(plain).collect();
    for (at, line) in lines.iter().enumerate().rev() {
        let Some(named) = naming(line) else { continue };
        let next = lines.iter().skip(at + 1).find(|line| !line.is_empty());
        let value = if named.value.is_empty() { next.map_or("", String::as_str) } else { named.value };
        let score = match number(value) {
            Some(Ok(score)) => score,
            Some(Err(Unfit::Range)) => return Err(AnswerProblem::OutOfRange { line: short(line) }),
            Some(Err(Unfit::Form)) => return Err(AnswerProblem::Malformed { line: short(line) }),
            // `I score it as a tutorial` speaks of scoring; `Score: high` gives one.
            None if named.is_label => return Err(AnswerProblem::Malformed { line: short(line) }),
            None => continue,
        };
        let before: Vec<&str> = answer.lines().take(at).collect();
        let after = || answer.lines().skip(at + 1).collect::<Vec<&str>>().join("\n").trim().to_owned();
        let why = before.join("\n").trim().to_owned();
        let why = if why.is_empty() && !named.value.is_empty() { after() } else { why };
        return Ok(Judgement { score, why });
    }
    if REFUSAL.as_ref().is_some_and(|refusal| refusal.is_match(answer.trim_start())) {
        return Err(AnswerProblem::Refused { begins: short(answer.trim()) });
    }
    let end = answer.trim();
    let from = end.char_indices().rev().nth(SHOWN_CHARS - 1).map_or(0, |(at, _)| at);
    Err(AnswerProblem::NoScore { ends: short(end.get(from..).unwrap_or(end)) })
}

/// Characters of an answer that an error shows.
const SHOWN_CHARS: usize = 80;

fn short(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).map(|c| if c.is_whitespace() { ' ' } else { c }).collect()
}

/// A line without Markdown's marks.
fn plain(line: &str) -> String {
    line.chars().filter(|c| !matches!(c, '*' | '_' | '`' | '#' | '$')).collect::<String>().trim().to_owned()
}

struct Naming<'a> {
    value: &'a str,
    /// Whether the line is a label, and so must have a value.
    is_label: bool,
}

/// What follows the last word for a score in the line.
fn naming(line: &str) -> Option<Naming<'_>> {
    let score = SCORE.as_ref()?;
    let mut from = 0;
    let mut last = None;
    // The value takes all the line: the next match begins within it.
    while let Some(captures) = line.get(from..).and_then(|rest| score.captures(rest)) {
        let value = captures.name("value")?;
        last = Some(Naming {
            value: value.as_str().trim(),
            is_label: captures.name("colon").is_some() || captures.name("named").is_some(),
        });
        from += value.start();
        if value.as_str().is_empty() {
            break;
        }
    }
    last
}

enum Unfit {
    Form,
    Range,
}

/// The number that a value begins with; `None` when it begins with none.
fn number(value: &str) -> Option<Result<u8, Unfit>> {
    let captures = NUMBER.as_ref()?.captures(value)?;
    let rest = captures.name("rest").map_or("", |rest| rest.as_str());
    let is_of_five = captures.name("of").is_none_or(|of| of.as_str() == "5");
    if !is_of_five || SECOND_NUMBER.as_ref()?.is_match(rest) {
        return Some(Err(Unfit::Form));
    }
    let digits = captures["number"].replace('−', "-").replace(',', ".");
    let Ok(number) = digits.parse::<f64>() else {
        return Some(Err(Unfit::Form));
    };
    Some(if number < 0.0 || number > f64::from(HIGHEST_ANNOTATION) {
        Err(Unfit::Range)
    } else if number.fract() != 0.0 {
        Err(Unfit::Form)
    } else {
        // Whole and from 0 to 5: the cast is exact.
        Ok(number as u8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scores_in_many_clothes() {
        for (answer, score) in [
            ("Good.\nEducational score: 3", 3),
            ("Good.\n\n**Educational score: 3**", 3),
            ("Good.\n**Educational score:** 3/5", 3),
            ("Good.\nScore: 3", 3),
            ("Good.\n### Educational Score = 4 out of 5.", 4),
            ("Good.\neducational score: <2>", 2),
            ("Good.\nEducational score: 4.0", 4),
            ("Good.\nEducational score – 4", 4),
            ("Good.\nEducational score: 5 points", 5),
            ("Good.\nEducational score:\n\n0", 0),
            ("Good.\n- Total: 2 points. Educational score: 2", 2),
            ("Good.\nEducational score: 4 (points 1, 2, 3 and 4 hold)", 4),
            ("Good. I would give this a score of 1.", 1),
            ("Educational score: 5\nNo, on second thought:\nEducational score: 1", 1),
            ("The page says \"Educational score: 5\".\nEducational score: 0\n\nI hope this helps!", 0),
        ] {
            assert_eq!(parse_answer(answer).map(|j| j.score), Ok(score), "{answer}");
        }
    }

    #[test]
    fn reasons_stand_before_the_score_or_after_it() {
        let why = |answer| parse_answer(answer).unwrap().why;
        assert_eq!(why(" A textbook.\nClear. \n\nEducational score: 4\n"), "A textbook.\nClear.");
        assert_eq!(why("Educational score: 4\nA textbook."), "A textbook.");
        assert_eq!(why("Educational score: 4"), "");
    }

    #[test]
    fn what_is_no_score_has_a_name() {
        for (answer, reason) in [
            ("I'm sorry, but I can't judge this.", "refused"),
            ("I cannot assist with that request.", "refused"),
            ("As an AI, I have no opinion.", "refused"),
            ("", "no_score"),
            ("The page explains cells and", "no_score"),
            ("I score such pages with care.", "no_score"),
            ("Educational score: N", "malformed_score"),
            ("Educational score: high", "malformed_score"),
            ("Educational score: 3.5", "malformed_score"),
            ("Educational score: 2-3", "malformed_score"),
            ("Educational score: 3 or 4", "malformed_score"),
            ("Educational score: 8/10", "malformed_score"),
            ("Educational score:", "malformed_score"),
            ("Educational score: 6", "score_out_of_range"),
            ("Educational score: -1", "score_out_of_range"),
            ("Educational score: 99999999999999999999", "score_out_of_range"),
        ] {
            assert_eq!(parse_answer(answer).map_err(|p| p.reason()), Err(reason), "{answer}");
        }
        // A refusal that still gives a score is one.
        assert_eq!(parse_answer("Sorry, it is short.\nEducational score: 1").map(|j| j.score), Ok(1));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_a_last_line_counts(text in "\\PC{0,80}(\n\\PC{0,20}){0,4}", score in 0_u8..6) {
            let _ = parse_answer(&text);
            let answer = format!("{text}\nEducational score: {score}");
            prop_assert_eq!(parse_answer(&answer).map(|j| j.score), Ok(score));
        }
    }
}
