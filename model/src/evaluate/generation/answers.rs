//! What an answer is worth: normalisation, numbers, programs that pass.

use regex::Regex;
use std::sync::LazyLock;

/// An answer as TriviaQA compares it: lower case, without ASCII punctuation and outer white space.
///
/// Source: huggingface/lighteval `src/lighteval/metrics/normalizations.py` (`harness_triviaqa_normalizer`).
#[must_use]
pub fn normalize_answer(text: &str) -> String {
    let kept: String = text.to_lowercase().chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    kept.trim().to_owned()
}

/// How the number of a GSM8K answer is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberRule {
    /// Behind the first `#### `.
    Strict,
    /// The last number of the text.
    Flexible,
}

/// The final number of a text; none where it has no such.
///
/// Source: EleutherAI/lm-evaluation-harness `lm_eval/tasks/gsm8k/gsm8k.yaml` (`strict-match`, `flexible-extract`, and
/// what is ignored when numbers are compared: commas, dollar signs, a full stop at the end).
#[must_use]
pub fn final_number(text: &str, rule: NumberRule) -> Option<String> {
    // The expressions are constants, which a test compiles.
    static STRICT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"#### (-?[0-9.,]+)").ok());
    static FLEXIBLE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"-?[$0-9.,]{2,}|-?[0-9]+").ok());
    let found = match rule {
        NumberRule::Strict => STRICT.as_ref()?.captures(text)?.get(1)?.as_str(),
        NumberRule::Flexible => FLEXIBLE.as_ref()?.find_iter(text).last()?.as_str(),
    };
    let number: String = found.chars().filter(|letter| !matches!(letter, ',' | '$')).collect();
    Some(number.strip_suffix('.').unwrap_or(&number).to_owned())
}

/// The chance that one of `k` answers is right, estimated without bias from `n` answers of which `c` are right:
/// 1 − C(n − c, k) / C(n, k). None where there are fewer than `k`.
///
/// Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.1.
#[must_use]
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    if n - c < k {
        return Some(1.0);
    }
    let miss: f64 = (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    Some(1.0 - miss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_without_case_and_punctuation() {
        for (text, wanted) in [
            (" Paris", "paris"),
            ("The  \"U.S.A.\"!", "the  usa"),
            ("Café-Noir", "cafénoir"),
            ("  . ", ""),
            ("rock 'n' roll\n", "rock n roll"),
            ("ÉTÉ", "été"),
        ] {
            assert_eq!(normalize_answer(text), wanted);
        }
    }

    #[test]
    fn the_final_number_is_found() {
        for (text, strict, flexible) in [
            ("He has 3 + 4 = 7.\n#### 7", Some("7"), Some("7")),
            ("#### 1,234.", Some("1234"), Some("1234")),
            ("#### -5\n\nThat is 9 apples", Some("-5"), Some("9")),
            // The first mark counts.
            ("#### 3\n#### 4", Some("3"), Some("4")),
            ("The answer is $18.50.", None, Some("18.50")),
            ("#### $18", None, Some("18")),
            ("####7", None, Some("7")),
            ("It costs 20 dollars", None, Some("20")),
            ("x = -12", None, Some("-12")),
            ("none", None, None),
            ("", None, None),
            // A single digit is a number, a single sign is not; two signs are, as published.
            ("5 .", None, Some("5")),
            ("5, ok...", None, Some("..")),
        ] {
            let found = |rule| final_number(text, rule);
            assert_eq!(found(NumberRule::Strict).as_deref(), strict, "{text}");
            assert_eq!(found(NumberRule::Flexible).as_deref(), flexible, "{text}");
        }
    }

    #[test]
    fn pass_at_k_is_that_of_the_binomials() {
        let choose = |n: usize, k: usize| (0..k).map(|i| (n - i) as f64 / (k - i) as f64).product::<f64>();
        for n in 1..=20 {
            for c in 0..=n {
                for k in 1..=n {
                    let miss = if n - c < k { 0.0 } else { choose(n - c, k) / choose(n, k) };
                    let got = pass_at_k(n, c, k).unwrap();
                    assert!((got - (1.0 - miss)).abs() < 1e-12, "{n} {c} {k}: {got}");
                }
            }
        }
        assert_eq!(pass_at_k(20, 5, 1), Some(0.25));
        assert!((pass_at_k(5, 1, 2).unwrap() - 0.4).abs() < 1e-12);
        assert!((pass_at_k(10, 3, 5).unwrap() - 11.0 / 12.0).abs() < 1e-12);
        assert_eq!((pass_at_k(3, 1, 4), pass_at_k(3, 4, 1), pass_at_k(3, 1, 0)), (None, None, None));
    }
}
