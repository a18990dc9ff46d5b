//! What a generation will ask, write, cost and take, before it is run: from a sample of its prompts, the
//! lengths of answers, prices and a rate.
//!
//! Every figure has a low, an expected and a high value, and [`Estimate::assumptions`] says in words what
//! they rest on.

use std::fmt;

use serde::Serialize;

use crate::answer_log::Totals;

/// Mean length of a document of Cosmopedia v2, in tokens: 28 billion tokens in 39 million documents (SmolLM
/// blog post, "Cosmopedia v2").
pub const PUBLISHED_ANSWER_TOKENS: f64 = 28e9 / 39e6;
/// English text has about four characters a token.
pub const CHARACTERS_A_TOKEN: f64 = 4.0;
/// How far off a guess from characters may be, either way.
const GUESS_ERROR: f64 = 0.25;

/// A figure and how far it may be off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Range {
    /// Hardly less.
    pub low: f64,
    /// Most likely.
    pub expected: f64,
    /// Hardly more.
    pub high: f64,
}

impl Range {
    /// A figure that is known.
    pub fn exactly(value: f64) -> Self {
        Self { low: value, expected: value, high: value }
    }

    /// Each of the three values by a function that rises.
    #[must_use]
    pub fn map(self, of: impl Fn(f64) -> f64) -> Self {
        Self { low: of(self.low), expected: of(self.expected), high: of(self.high) }
    }

    fn times(self, other: Self) -> Self {
        Self {
            low: self.low * other.low,
            expected: self.expected * other.expected,
            high: self.high * other.high,
        }
    }

    /// Two figures together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            expected: self.expected + other.expected,
            high: self.high + other.high,
        }
    }
}

/// How a sample's tokens were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// By the model's tokenizer.
    Tokenizer,
    /// A quarter of the characters.
    #[default]
    Guess,
}

/// The lengths of a sample of rendered prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PromptSample {
    counting: Counting,
    prompts: u64,
    tokens: f64,
    tokens_squared: f64,
}

impl PromptSample {
    /// A sample whose tokens are found in this way.
    pub fn new(counting: Counting) -> Self {
        Self { counting, ..Self::default() }
    }

    /// A sample of texts, whose tokens are guessed from their characters.
    pub fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut sample = Self::new(Counting::Guess);
        for text in texts {
            sample.add(text.chars().count() as f64 / CHARACTERS_A_TOKEN);
        }
        sample
    }

    /// A sample of which the number, the sum of the tokens and that of their squares are known.
    pub fn of_sums(counting: Counting, prompts: u64, tokens: f64, tokens_squared: f64) -> Self {
        Self { counting, prompts, tokens, tokens_squared }
    }

    /// Adds a prompt's tokens.
    pub fn add(&mut self, tokens: f64) {
        self.prompts += 1;
        self.tokens += tokens;
        self.tokens_squared += tokens * tokens;
    }

    fn mean(&self) -> Range {
        let mean = mean_of(self.prompts, self.tokens, self.tokens_squared);
        match self.counting {
            Counting::Tokenizer => mean,
            Counting::Guess => {
                Range { low: mean.low * (1.0 - GUESS_ERROR), high: mean.high * (1.0 + GUESS_ERROR), ..mean }
            }
        }
    }
}

/// Mean, and two standard errors either way.
fn mean_of(count: u64, sum: f64, sum_of_squares: f64) -> Range {
    if count == 0 {
        return Range::default();
    }
    let count = count as f64;
    let mean = sum / count;
    let variance = (sum_of_squares / count - mean * mean).max(0.0);
    // Of a single one nothing is known about the spread: half either way.
    let error = if count > 1.0 { 2.0 * (variance / (count - 1.0)).sqrt() } else { mean / 2.0 };
    Range { low: (mean - error).max(0.0), expected: mean, high: mean + error }
}

/// How long answers are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AnswerLength {
    /// As the answers of a log.
    Measured(Totals),
    /// As the published ones, [`PUBLISHED_ANSWER_TOKENS`]; between half of that and `max_new_tokens`.
    Published,
}

impl AnswerLength {
    /// The lengths of a log's answers if it has any, the published ones otherwise.
    pub fn of_log(totals: Option<Totals>) -> Self {
        totals.filter(|totals| totals.answers > 0).map_or(Self::Published, Self::Measured)
    }

    fn mean(&self, max_new_tokens: u32) -> Range {
        let most = f64::from(max_new_tokens);
        let range = match self {
            Self::Measured(totals) => {
                mean_of(totals.answers, totals.completion_tokens as f64, totals.completion_tokens_squared)
            }
            Self::Published => Range {
                low: PUBLISHED_ANSWER_TOKENS / 2.0,
                expected: PUBLISHED_ANSWER_TOKENS,
                high: most.max(PUBLISHED_ANSWER_TOKENS),
            },
        };
        range.map(|tokens| tokens.min(most))
    }
}

/// What tokens cost, in US dollars a million.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// Of prompts.
    pub usd_per_million_prompt_tokens: f64,
    /// Of answers.
    pub usd_per_million_completion_tokens: f64,
}

/// What is known before a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// Prompts to be answered that the log has no answer to.
    pub prompts: u64,
    /// Lengths of some of them.
    pub sample: PromptSample,
    /// How long answers are.
    pub answers: AnswerLength,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Tries for a long enough answer at most.
    pub max_tries: u32,
    /// Prices.
    pub price: Price,
    /// Answer tokens a second of all servers together, measured or given; none: no time is estimated.
    pub tokens_a_second: Option<f64>,
}

/// What a generation will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Requests.
    pub requests: Range,
    /// Tokens of prompts.
    pub prompt_tokens: Range,
    /// Tokens of answers.
    pub answer_tokens: Range,
    /// US dollars.
    pub usd: Range,
    /// Seconds.
    pub seconds: Option<Range>,
    /// What the figures rest on, a sentence each.
    pub assumptions: Vec<String>,
}

/// Estimates a generation.
pub fn estimate(outlook: &Outlook) -> Estimate {
    let mut assumptions = Vec::new();
    let prompts = outlook.prompts as f64;
    let tries = f64::from(outlook.max_tries.max(1));
    // Short answers are asked again; how many are short nobody knows before, so the low and the expected
    // figure have one try, and the high one a tenth of the further tries.
    let requests = Range { low: prompts, expected: prompts, high: prompts * (1.0 + (tries - 1.0) / 10.0) };
    if tries > 1.0 {
        assumptions.push("short answers that are asked again are in the high figure only".to_owned());
    }
    let prompt_length = outlook.sample.mean();
    let how = match outlook.sample.counting {
        Counting::Tokenizer => "counted by the tokenizer",
        Counting::Guess => "a quarter of the characters, give or take a quarter",
    };
    let from = match outlook.sample.prompts {
        0 | 1 => "none of which has been seen".to_owned(),
        prompts => format!("from a sample of {prompts}"),
    };
    assumptions.push(format!("{:.0} tokens a prompt, {from} ({how})", prompt_length.expected));
    let answer_length = outlook.answers.mean(outlook.max_new_tokens);
    assumptions.push(match outlook.answers {
        AnswerLength::Measured(totals) => {
            format!(
                "{:.0} tokens an answer, the mean of {} in the log",
                answer_length.expected, totals.answers
            )
        }
        AnswerLength::Published => {
            format!("{:.0} tokens an answer, the mean of Cosmopedia v2", answer_length.expected)
        }
    });
    let prompt_tokens = requests.times(prompt_length);
    let answer_tokens = requests.times(answer_length);
    let million = |tokens: Range, usd: f64| tokens.map(|tokens| tokens / 1e6 * usd);
    let Price { usd_per_million_prompt_tokens, usd_per_million_completion_tokens } = outlook.price;
    let usd = million(prompt_tokens, usd_per_million_prompt_tokens)
        .plus(million(answer_tokens, usd_per_million_completion_tokens));
    if usd.high == 0.0 {
        assumptions.push("no price is set, so it costs nothing".to_owned());
    }
    let rate = outlook.tokens_a_second.filter(|rate| *rate > 0.0);
    if let Some(rate) = rate {
        assumptions.push(format!("{rate:.0} answer tokens a second"));
    }
    let seconds = rate.map(|rate| answer_tokens.map(|tokens| tokens / rate));
    Estimate { requests, prompt_tokens, answer_tokens, usd, seconds, assumptions }
}

/// On a few lines, for people.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |range: Range, show: fn(f64) -> String| {
            let [low, expected, high] = [range.low, range.expected, range.high].map(show);
            if low == high { expected } else { format!("{expected} ({low} to {high})") }
        };
        writeln!(f, "requests       {}", range(self.requests, count))?;
        writeln!(f, "prompt tokens  {}", range(self.prompt_tokens, count))?;
        writeln!(f, "answer tokens  {}", range(self.answer_tokens, count))?;
        writeln!(f, "US$            {}", range(self.usd, |usd| format!("{usd:.2}")))?;
        if let Some(seconds) = self.seconds {
            writeln!(f, "hours          {}", range(seconds, |seconds| format!("{:.1}", seconds / 3600.0)))?;
        }
        write!(f, "assuming {}", self.assumptions.join("; "))
    }
}

/// A count in the unit that reads best.
fn count(value: f64) -> String {
    for (unit, name) in [(1e9, " billion"), (1e6, " million")] {
        if value >= unit {
            return format!("{:.1}{name}", value / unit);
        }
    }
    format!("{value:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook() -> Outlook {
        let mut sample = PromptSample::new(Counting::Tokenizer);
        [180.0, 200.0, 220.0].into_iter().for_each(|tokens| sample.add(tokens));
        Outlook {
            prompts: 1_000,
            sample,
            answers: AnswerLength::Published,
            max_new_tokens: 2_500,
            max_tries: 1,
            price: Price { usd_per_million_prompt_tokens: 1.0, usd_per_million_completion_tokens: 2.0 },
            tokens_a_second: Some(1_000.0),
        }
    }

    #[test]
    fn figures_follow_from_lengths_and_prices() {
        let estimate = estimate(&outlook());
        assert_eq!(estimate.requests, Range::exactly(1_000.0));
        assert_eq!(estimate.prompt_tokens.expected, 200_000.0);
        let answers = 1_000.0 * PUBLISHED_ANSWER_TOKENS;
        assert!((estimate.answer_tokens.expected - answers).abs() < 1.0);
        assert!((estimate.usd.expected - (0.2 + answers / 1e6 * 2.0)).abs() < 1e-9);
        assert!((estimate.seconds.unwrap().high - 2_500.0).abs() < 1e-9);
        assert!(estimate.to_string().contains("the mean of Cosmopedia v2"), "{estimate}");
    }

    #[test]
    fn a_log_of_answers_is_better_than_an_assumption() {
        let totals = Totals {
            answers: 400,
            completion_tokens: 400 * 300,
            completion_tokens_squared: 400.0 * (300.0_f64.powi(2) + 100.0_f64.powi(2)),
            ..Totals::default()
        };
        let measured = estimate(&Outlook { answers: AnswerLength::of_log(Some(totals)), ..outlook() });
        // A deviation of 100 over 400 answers: 5 tokens of standard error.
        assert_eq!(measured.answer_tokens.expected, 300_000.0);
        assert!((measured.answer_tokens.high - 310_000.0).abs() < 50.0, "{measured:?}");
        assert_eq!(AnswerLength::of_log(Some(Totals::default())), AnswerLength::Published);
    }

    #[test]
    fn no_answer_is_longer_than_allowed_and_tries_widen_the_range() {
        let short = estimate(&Outlook { max_new_tokens: 100, max_tries: 6, ..outlook() });
        assert_eq!(short.answer_tokens.expected, 100_000.0);
        assert_eq!(short.requests.high, 1_500.0);
        let nothing = estimate(&Outlook { prompts: 0, sample: PromptSample::default(), ..outlook() });
        assert_eq!((nothing.usd.high, nothing.requests.high), (0.0, 0.0));
    }

    #[test]
    fn guessed_prompts_have_a_wider_range() {
        let sample = PromptSample::of_texts(["x".repeat(400).as_str(), "x".repeat(400).as_str()]);
        let guessed = estimate(&Outlook { sample, ..outlook() });
        let expected = Range { low: 75_000.0, expected: 100_000.0, high: 125_000.0 };
        assert_eq!(guessed.prompt_tokens, expected);
    }
}
