//! The 25 kinds of instructions.
//!
//! Source: google-research/google-research `instruction_following_eval/instructions.py` and
//! `instructions_registry.py`.

use super::text::{capital_words, is_language, is_lower, is_upper, sentences, words};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// How a count is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Fewer than the number.
    LessThan,
    /// The number or more.
    AtLeast,
}

impl Relation {
    fn holds(self, count: usize, number: usize) -> bool {
        match self {
            Self::LessThan => count < number,
            Self::AtLeast => count >= number,
        }
    }
}

/// An instruction with its arguments.
#[derive(Clone, Debug)]
pub enum Instruction {
    /// `language:response_language`: all in this language (ISO 639-1).
    Language(String),
    /// `length_constraints:number_sentences`.
    Sentences(Relation, usize),
    /// `length_constraints:number_paragraphs`: exactly so many, divided by `***`.
    Paragraphs(usize),
    /// `length_constraints:number_words`.
    Words(Relation, usize),
    /// `length_constraints:nth_paragraph_first_word`: exactly so many paragraphs, divided by empty lines, the
    /// n-th (from 1) with this first word.
    FirstWord {
        /// Paragraphs in all.
        paragraphs: usize,
        /// Which one, from 1.
        nth: usize,
        /// Its first word, in lower case.
        word: String,
    },
    /// `detectable_content:number_placeholders`: at least so many `[…]`.
    Placeholders(usize),
    /// `detectable_content:postscript`.
    Postscript(Regex),
    /// `detectable_format:number_bullet_lists`: exactly so many bullets.
    Bullets(usize),
    /// `detectable_format:constrained_response`: one of three answers.
    ConstrainedResponse,
    /// `detectable_format:number_highlighted_sections`: at least so many `*…*`.
    Highlights(usize),
    /// `detectable_format:multiple_sections`: at least so many, marked by the expression.
    Sections(Regex, usize),
    /// `detectable_format:json_format`.
    Json,
    /// `detectable_format:title`: `<<…>>`.
    Title,
    /// `keywords:existence`: all of them.
    Keywords(Vec<Regex>),
    /// `keywords:frequency`.
    KeywordFrequency(Regex, Relation, usize),
    /// `keywords:forbidden_words`: none of them.
    ForbiddenWords(Vec<Regex>),
    /// `keywords:letter_frequency`; the letter is in lower case.
    LetterFrequency(char, Relation, usize),
    /// `combination:two_responses`: two different ones, divided by `******`.
    TwoResponses,
    /// `combination:repeat_prompt`: starts with this text, in lower case.
    RepeatPrompt(String),
    /// `startend:end_checker`: ends with this phrase, in lower case.
    EndPhrase(String),
    /// `startend:quotation`: within double quotation marks.
    Quotation,
    /// `change_case:capital_word_frequency`: words all in capitals.
    CapitalWords(Relation, usize),
    /// `change_case:english_capital`.
    EnglishCapital,
    /// `change_case:english_lowercase`.
    EnglishLowercase,
    /// `punctuation:no_comma`.
    NoComma,
}

/// `_CONSTRAINED_RESPONSE_OPTIONS`.
const CONSTRAINED: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

/// The expression, in which what stands in the data set is one already, where it can be.
fn pattern(text: &str) -> Result<Regex, String> {
    let build = |text: &str| RegexBuilder::new(text).case_insensitive(true).multi_line(true).build();
    build(text).or_else(|_| build(&regex::escape(text))).map_err(|error| error.to_string())
}

/// Arguments of one instruction; a null is none.
struct Arguments<'a>(&'a str, &'a Map<String, Value>);

impl Arguments<'_> {
    fn bad(&self, name: &str, wanted: &str) -> String {
        let found = self.1.get(name).map_or("nothing".to_owned(), Value::to_string);
        format!("{}: {name} is {found}, but must be {wanted}", self.0)
    }

    /// Numbers are written as `3` or `3.0`.
    fn number(&self, name: &str) -> Result<usize, String> {
        let value = self.1.get(name).and_then(Value::as_f64);
        let whole = value.filter(|value| value.fract() == 0.0 && (0.0..1e9).contains(value));
        whole.map(|value| value as usize).ok_or_else(|| self.bad(name, "a whole number"))
    }

    fn text(&self, name: &str) -> Result<String, String> {
        let text = self.1.get(name).and_then(Value::as_str).map(|text| text.trim().to_owned());
        text.filter(|text| !text.is_empty()).ok_or_else(|| self.bad(name, "a text"))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let list = self.1.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
        let texts = list.and_then(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect());
        texts.ok_or_else(|| self.bad(name, "a list of texts"))
    }

    fn relation(&self, name: &str) -> Result<Relation, String> {
        match self.1.get(name).and_then(Value::as_str) {
            Some("less than") => Ok(Relation::LessThan),
            Some("at least") => Ok(Relation::AtLeast),
            _ => Err(self.bad(name, "`less than` or `at least`")),
        }
    }
}

impl Instruction {
    /// The instruction of the name `id` with its arguments.
    ///
    /// # Errors
    /// What is wrong, for an unknown name or an argument that is missing or of another kind.
    pub fn parse(id: &str, kwargs: &Map<String, Value>) -> Result<Self, String> {
        let given = Arguments(id, kwargs);
        Ok(match id {
            "language:response_language" => Self::Language(given.text("language")?),
            "length_constraints:number_sentences" => {
                Self::Sentences(given.relation("relation")?, given.number("num_sentences")?)
            }
            "length_constraints:number_paragraphs" => Self::Paragraphs(given.number("num_paragraphs")?),
            "length_constraints:number_words" => {
                Self::Words(given.relation("relation")?, given.number("num_words")?)
            }
            "length_constraints:nth_paragraph_first_word" => Self::FirstWord {
                paragraphs: given.number("num_paragraphs")?,
                nth: given.number("nth_paragraph")?,
                word: given.text("first_word")?.to_lowercase(),
            },
            "detectable_content:number_placeholders" => Self::Placeholders(given.number("num_placeholders")?),
            "detectable_content:postscript" => {
                Self::Postscript(pattern(&match &*given.text("postscript_marker")? {
                    "P.P.S" => r"p\.\s?p\.\s?s".to_owned(),
                    "P.S." => r"p\.\s?s\.".to_owned(),
                    marker => marker.to_owned(),
                })?)
            }
            "detectable_format:number_bullet_lists" => Self::Bullets(given.number("num_bullets")?),
            "detectable_format:constrained_response" => Self::ConstrainedResponse,
            "detectable_format:number_highlighted_sections" => {
                Self::Highlights(given.number("num_highlights")?)
            }
            "detectable_format:multiple_sections" => {
                let splitter = format!(r"\s?{}\s?\d+\s?", given.text("section_spliter")?);
                // As written: sections are marked with the very letters.
                let splitter = Regex::new(&splitter).map_err(|error| error.to_string())?;
                Self::Sections(splitter, given.number("num_sections")?)
            }
            "detectable_format:json_format" => Self::Json,
            "detectable_format:title" => Self::Title,
            "keywords:existence" => {
                let keywords = given.texts("keywords")?;
                Self::Keywords(keywords.iter().map(|word| pattern(word)).collect::<Result<_, _>>()?)
            }
            "keywords:frequency" => Self::KeywordFrequency(
                pattern(&given.text("keyword")?)?,
                given.relation("relation")?,
                given.number("frequency")?,
            ),
            "keywords:forbidden_words" => {
                let words = given.texts("forbidden_words")?;
                let whole = words.iter().map(|word| pattern(&format!(r"\b{word}\b")));
                Self::ForbiddenWords(whole.collect::<Result<_, _>>()?)
            }
            "keywords:letter_frequency" => {
                let text = given.text("letter")?.to_lowercase();
                let mut letters = text.chars();
                let (Some(letter), None) = (letters.next(), letters.next()) else {
                    return Err(given.bad("letter", "one letter"));
                };
                Self::LetterFrequency(letter, given.relation("let_relation")?, given.number("let_frequency")?)
            }
            "combination:two_responses" => Self::TwoResponses,
            "combination:repeat_prompt" => Self::RepeatPrompt(given.text("prompt_to_repeat")?.to_lowercase()),
            "startend:end_checker" => Self::EndPhrase(given.text("end_phrase")?.to_lowercase()),
            "startend:quotation" => Self::Quotation,
            "change_case:capital_word_frequency" => {
                Self::CapitalWords(given.relation("capital_relation")?, given.number("capital_frequency")?)
            }
            "change_case:english_capital" => Self::EnglishCapital,
            "change_case:english_lowercase" => Self::EnglishLowercase,
            "punctuation:no_comma" => Self::NoComma,
            unknown => return Err(format!("the instruction {unknown} is not known")),
        })
    }

    /// Whether `answer` follows the instruction.
    #[must_use]
    pub fn follows(&self, answer: &str) -> bool {
        match self {
            Self::Language(language) => is_language(answer, language),
            Self::Sentences(relation, number) => relation.holds(sentences(answer), *number),
            Self::Paragraphs(number) => divided(answer, "***") == Some(*number),
            Self::Words(relation, number) => relation.holds(words(answer), *number),
            Self::FirstWord { paragraphs, nth, word } => first_word(answer, *paragraphs, *nth, word),
            Self::Placeholders(number) => count(answer, '[', ']') >= *number,
            Self::Postscript(marker) => marker.is_match(answer),
            Self::Bullets(number) => answer.lines().filter(|line| is_bullet(line)).count() == *number,
            Self::ConstrainedResponse => CONSTRAINED.iter().any(|option| answer.contains(option)),
            Self::Highlights(number) => highlights(answer) >= *number,
            Self::Sections(splitter, number) => splitter.find_iter(answer).count() >= *number,
            Self::Json => is_json(answer),
            Self::Title => answer.lines().any(has_title),
            Self::Keywords(keywords) => keywords.iter().all(|keyword| keyword.is_match(answer)),
            Self::KeywordFrequency(keyword, relation, number) => {
                relation.holds(keyword.find_iter(answer).count(), *number)
            }
            Self::ForbiddenWords(words) => !words.iter().any(|word| word.is_match(answer)),
            Self::LetterFrequency(letter, relation, number) => {
                relation.holds(answer.to_lowercase().chars().filter(|c| c == letter).count(), *number)
            }
            Self::TwoResponses => two_responses(answer),
            Self::RepeatPrompt(prompt) => answer.trim().to_lowercase().starts_with(prompt),
            Self::EndPhrase(phrase) => answer.trim().trim_matches('"').to_lowercase().ends_with(phrase),
            Self::Quotation => {
                let answer = answer.trim();
                answer.len() > 1 && answer.starts_with('"') && answer.ends_with('"')
            }
            Self::CapitalWords(relation, number) => relation.holds(capital_words(answer), *number),
            Self::EnglishCapital => is_upper(answer) && is_language(answer, "en"),
            Self::EnglishLowercase => is_lower(answer) && is_language(answer, "en"),
            Self::NoComma => !answer.contains(','),
        }
    }
}

/// Number of parts between dividers, of which only the first and the last may be empty; those do not count.
fn divided(answer: &str, divider: &str) -> Option<usize> {
    let parts: Vec<&str> = answer.split(divider).collect();
    let empty = |part: &&str| part.trim().is_empty();
    let inner = parts.get(1..parts.len() - 1).unwrap_or_default();
    if inner.iter().any(empty) {
        return None;
    }
    Some(parts.iter().filter(|part| !empty(part)).count())
}

fn two_responses(answer: &str) -> bool {
    let parts: Vec<&str> = answer.split("******").map(str::trim).filter(|part| !part.is_empty()).collect();
    divided(answer, "******") == Some(2) && parts[0] != parts[1]
}

/// Whether there are `paragraphs` of them, and the `nth` begins with `word`.
fn first_word(answer: &str, paragraphs: usize, nth: usize, word: &str) -> bool {
    let parts: Vec<&str> = answer.split("\n\n").map(str::trim).collect();
    let filled = parts.iter().filter(|part| !part.is_empty()).count();
    if nth == 0 || nth > filled {
        return false;
    }
    // Counted with the empty ones, as the published check does.
    let first = parts[nth - 1].split_whitespace().next().unwrap_or_default();
    let first = first.trim_start_matches('\'').trim_start_matches('"');
    let end = first.find(['.', ',', '?', '!', '\'', '"']).unwrap_or(first.len());
    filled == paragraphs && !parts[nth - 1].is_empty() && first[..end].to_lowercase() == word
}

/// Number of stretches from `open` to the next `close` on the same line.
fn count(answer: &str, open: char, close: char) -> usize {
    let in_line = |line: &str| {
        let (mut rest, mut count) = (line, 0);
        while let Some(start) = rest.find(open) {
            let Some(length) = rest[start..].find(close) else { break };
            rest = &rest[start + length + close.len_utf8()..];
            count += 1;
        }
        count
    };
    answer.split('\n').map(in_line).sum()
}

/// `* text` (but not `**`) or `- text`.
fn is_bullet(line: &str) -> bool {
    let line = line.trim_start();
    match line.strip_prefix('*') {
        Some(rest) => !rest.starts_with('*'),
        None => line.starts_with('-'),
    }
}

/// Stretches between single and between double asterisks that hold more than white space, both counted.
fn highlights(answer: &str) -> usize {
    let single = stretches(answer, "*").filter(|text| !text.trim_matches('*').trim().is_empty()).count();
    let double = stretches(answer, "**").filter(|text| !text.trim().is_empty()).count();
    single + double
}

/// What stands between two `marks` on one line without an asterisk in between, from left to right.
fn stretches<'a>(answer: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    answer.split('\n').flat_map(move |line| {
        let mut rest = line;
        std::iter::from_fn(move || {
            loop {
                let start = rest.find(mark)? + mark.len();
                let inner = &rest[start..];
                let end = inner.find('*')?;
                if inner[end..].starts_with(mark) {
                    rest = &inner[end + mark.len()..];
                    return Some(&inner[..end]);
                }
                // One asterisk where two are wanted: look on from the next place.
                rest = &rest[start - mark.len() + 1..];
            }
        })
    })
}

fn is_json(answer: &str) -> bool {
    let mut text = answer.trim();
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    let text = text.strip_suffix("```").unwrap_or(text).trim();
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// `<<…>>` with something inside.
fn has_title(line: &str) -> bool {
    let Some(start) = line.find("<<") else { return false };
    let Some(end) = line.rfind(">>").filter(|&end| end > start + 2) else { return false };
    !line[start..end].trim_start_matches('<').trim_end_matches('>').trim().is_empty()
}
