//! Names for clusters of pages: the way in which Cosmopedia v1 came by its topics.
//!
//! A model sees extracts of some pages of a cluster and gives its topic and an educational score from
//! 1 to 10; clusters of adult, commercial or promotional pages are left out
//! [huggingface/cosmopedia, huggingface/text-clustering].

use minijinja::context;
use regex::Regex;

use super::names::{NameBounds, check_name};
use crate::chat::Api;
use crate::cleanup::is_refusal;
use crate::prompts::{TemplateError, body_error, clean_start, environment};
use crate::text::pattern;

/// The request, and its name in errors, for models that follow instructions.
const CHAT: (&str, &str) = ("topics/cluster_name", include_str!("../../templates/topics/cluster_name.jinja"));

/// The same for models that go on with a text: worked examples, then the beginning of the answer. Small
/// models keep to the form of examples better than to a description of it.
const COMPLETION: (&str, &str) =
    ("topics/cluster_name_completion", include_str!("../../templates/topics/cluster_name_completion.jinja"));

/// What an answer of the second kind begins with, and its lines.
const COMPLETION_START: &str = "Topic:";
const ANSWER_LINES: usize = 3;

/// Pages, and characters of each, that stand below the examples.
const COMPLETION_PAGES: usize = 5;
const COMPLETION_CHARS: usize = 160;

/// Pages that a model sees of a cluster; 10 in Cosmopedia v1.
pub const PAGES_SHOWN: usize = 10;

/// Length of a page's extract, in characters: ten of them stay below 2,048 tokens.
pub const EXTRACT_CHARS: usize = 400;

/// What a model said of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName {
    /// The topic its pages share.
    pub topic: String,
    /// Educational score, 1 to 10.
    pub score: u8,
    /// Why its pages are no seeds for textbooks, if they are none.
    pub excluded: Option<Exclusion>,
}

/// Why a cluster is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// Pages for adults.
    Adult,
    /// Pages that sell or advertise.
    Promotional,
}

impl Exclusion {
    /// The reason's name, under which the cluster is counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Adult => "adult",
            Self::Promotional => "promotional",
        }
    }
}

/// An answer that names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nameless {
    /// The model declined.
    Refused,
    /// There is no topic, or no score.
    Malformed,
}

/// The request for the name of a cluster of which these are extracts.
///
/// # Errors
/// [`TemplateError::Body`], which the template's tests rule out.
pub fn cluster_prompt(extracts: &[String], api: Api) -> Result<String, TemplateError> {
    let (name, text) = match api {
        Api::Chat => CHAT,
        Api::Completions => COMPLETION,
    };
    let (pages, chars) = match api {
        Api::Chat => (extracts.len(), usize::MAX),
        Api::Completions => (COMPLETION_PAGES, COMPLETION_CHARS),
    };
    // A page is data: what would end the model's turn is no part of it.
    let extracts: Vec<String> =
        extracts.iter().take(pages).map(|extract| clean_start(extract, chars)).collect();
    let wrong = |error| body_error(std::path::Path::new(name), 0, &error);
    let mut environment = environment();
    environment.add_template(name, text).map_err(wrong)?;
    let template = environment.get_template(name).map_err(wrong)?;
    template.render(context! { extracts }).map_err(wrong)
}

pattern!(TOPIC, r#"(?im)^[\s*#\-\d.]*(?:the\s+)?topic[\s*]*(?::|is)[\s*"']*(.+?)[\s*"'.]*$"#);
pattern!(SCORE, r"(?im)\bscore[\s*]*(?::|is|of)?[\s*]*(\d{1,2})(?:\s*/\s*10)?\b");
pattern!(KIND, r"(?im)^[\s*#\-\d.]*kind[\s*]*(?::|is)\s*\W*(.+?)\W*$");
pattern!(ADULT, r"(?i)\b(?:adult|porn\w*|erotic\w*|escorts?|nsfw|casinos?|gambling)\b");
pattern!(
    PROMOTIONAL,
    r"(?i)\b(?:ads?|advert\w*|promotion\w*|commercial|marketing pages?|coupons?|discounts?|online shop\w*|product listings?|e-?commerce)\b"
);

/// Reads an answer to a request of [`cluster_prompt`].
///
/// # Errors
/// [`Nameless`] for an answer without topic and score.
pub fn parse_cluster_name(answer: &str, api: Api) -> Result<ClusterName, Nameless> {
    match api {
        Api::Chat => parse(answer),
        // What follows is the next example, which the model makes up.
        Api::Completions => {
            let lines = answer.lines().take(ANSWER_LINES).collect::<Vec<_>>().join("\n");
            parse(&format!("{COMPLETION_START} {}", lines.trim_start()))
        }
    }
}

fn parse(answer: &str) -> Result<ClusterName, Nameless> {
    if is_refusal(answer) {
        return Err(Nameless::Refused);
    }
    let first = |pattern: &Regex| pattern.captures(answer).map(|found| found[1].trim().to_owned());
    let (Some(topic), Some(score)) = (first(&TOPIC), first(&SCORE)) else {
        return Err(Nameless::Malformed);
    };
    let score = score.parse().ok().filter(|score| (1..=10).contains(score)).ok_or(Nameless::Malformed)?;
    if check_name(&topic, &NameBounds::default(), &[]).is_err() {
        return Err(Nameless::Malformed);
    }
    let kind = first(&KIND).unwrap_or_default();
    let says = |pattern: &Regex| pattern.is_match(&topic) || pattern.is_match(&kind);
    let excluded = if says(&ADULT) {
        Some(Exclusion::Adult)
    } else {
        says(&PROMOTIONAL).then_some(Exclusion::Promotional)
    };
    Ok(ClusterName { topic, score, excluded })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_shows_every_extract_as_it_is() {
        let extracts = ["cells {{ divide }}".into(), "<b>mitosis</b>".into()];
        for api in [Api::Chat, Api::Completions] {
            let prompt = cluster_prompt(&extracts, api).unwrap();
            assert!(prompt.contains("[1] cells {{ divide }}") && prompt.contains("[2] <b>mitosis</b>"));
            assert!(prompt.contains("Topic:") && prompt.contains("Score:"));
        }
        assert!(cluster_prompt(&extracts, Api::Completions).unwrap().ends_with("...\nTopic:"));
        let marked = cluster_prompt(&["a<|im_end|>b".into()], Api::Completions).unwrap();
        assert!(marked.contains("[1] a b ..."), "{marked}");
    }

    #[test]
    fn a_text_that_goes_on_is_read_up_to_the_next_example() {
        let answer =
            " Django settings\nKind: educational\nScore: 7\n\nExtracts of web pages\nTopic: Shoes\nScore: 1";
        let expected = ClusterName { topic: "Django settings".into(), score: 7, excluded: None };
        assert_eq!(parse_cluster_name(answer, Api::Completions), Ok(expected));
        let answer = " Offers\nKind: promotional\nScore: 2";
        let excluded = parse_cluster_name(answer, Api::Completions).unwrap().excluded;
        assert_eq!(excluded, Some(Exclusion::Promotional));
        for answer in
            ["", " Django 3.1\n\nWhat is the most important part?\nScore: 4", " Django\nKind: educational"]
        {
            assert_eq!(parse_cluster_name(answer, Api::Completions), Err(Nameless::Malformed), "{answer}");
        }
    }

    #[test]
    fn answers_are_read_however_they_are_laid_out() {
        let name = |topic: &str, score, excluded| Ok(ClusterName { topic: topic.into(), score, excluded });
        for (answer, expected) in [
            ("Topic: Cell biology\nKind: educational\nScore: 9", name("Cell biology", 9, None)),
            ("**Topic:** \"Cell Biology\".\n**Educational score:** 8/10", name("Cell Biology", 8, None)),
            (
                "1. Topic: Garden tools\n2. Kind: commercial\n3. Score: 2",
                name("Garden tools", 2, Some(Exclusion::Promotional)),
            ),
            (
                "Topic: Online casinos\nKind: entertainment\nScore: 1",
                name("Online casinos", 1, Some(Exclusion::Adult)),
            ),
            ("The topic is Linear algebra\nI give it a score of 10", name("Linear algebra", 10, None)),
            ("Topic: Cell biology\nScore: 0", Err(Nameless::Malformed)),
            ("Topic: Cell biology\nScore: 99", Err(Nameless::Malformed)),
            ("Cells", Err(Nameless::Malformed)),
            ("", Err(Nameless::Malformed)),
            ("I'm sorry, but I cannot help with that.", Err(Nameless::Refused)),
        ] {
            assert_eq!(parse_cluster_name(answer, Api::Chat), expected, "{answer}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(answer in "(?s).{0,300}") {
            if let Ok(name) = parse_cluster_name(&answer, Api::Chat) {
                prop_assert!((1..=10).contains(&name.score) && !name.topic.is_empty());
            }
        }
    }
}
