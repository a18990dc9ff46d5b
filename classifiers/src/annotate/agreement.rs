//! How far two judges, or two passes of one, agree.

use super::{AnnotateError, Annotation};
use crate::metrics::CLASSES;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write};

/// How far two judges agree on the pages that both scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Pages that both scored.
    pub pages: usize,
    /// Pages that only the first scored.
    pub only_first: usize,
    /// Pages that only the second scored.
    pub only_second: usize,
    /// Cohen's kappa with quadratic weights over the scores 0 to 5: 1 is full agreement, 0 what chance
    /// gives (Cohen 1968). None when it is not defined: both always give one and the same score.
    pub quadratic_kappa: Option<f64>,
    /// Share of pages with the same score.
    pub exact: f64,
    /// Share of pages with scores at most 1 apart.
    pub within_one: f64,
    /// Mean of the second's score less the first's: how much milder the second is.
    pub mean_difference: f64,
    /// Pages by the first's (row) and the second's (column) score.
    pub confusion: [[usize; CLASSES]; CLASSES],
}

impl Agreement {
    /// Compares two judges, page by page, by the pages' ids.
    ///
    /// # Errors
    /// A judge scored a page twice, differently, or beyond 5.
    pub fn between(first: &[Annotation], second: &[Annotation]) -> Result<Self, AnnotateError> {
        let first = by_id(first, "the first judge")?;
        let second = by_id(second, "the second judge")?;
        let mut confusion = [[0; CLASSES]; CLASSES];
        for (id, &from) in &first {
            if let Some(&to) = second.get(id) {
                confusion[usize::from(from)][usize::from(to)] += 1;
            }
        }
        let mut agreement = Self::of(confusion);
        agreement.only_first = first.len() - agreement.pages;
        agreement.only_second = second.len() - agreement.pages;
        Ok(agreement)
    }

    /// The figures of a table of pages by first (row) and second (column) score.
    #[must_use]
    pub fn of(confusion: [[usize; CLASSES]; CLASSES]) -> Self {
        let rows = confusion.map(|row| row.iter().sum::<usize>() as f64);
        let columns: [f64; CLASSES] =
            std::array::from_fn(|to| confusion.iter().map(|row| row[to]).sum::<usize>() as f64);
        let total: f64 = rows.iter().sum();
        let (mut found, mut by_chance) = (0.0, 0.0);
        let (mut same, mut near, mut milder) = (0.0, 0.0, 0.0);
        for (from, row) in confusion.iter().enumerate() {
            for (to, &pages) in row.iter().enumerate() {
                let (pages, difference) = (pages as f64, to as f64 - from as f64);
                found += difference * difference * pages;
                by_chance += difference * difference * rows[from] * columns[to] / total.max(1.0);
                milder += difference * pages;
                same += if from == to { pages } else { 0.0 };
                near += if from.abs_diff(to) <= 1 { pages } else { 0.0 };
            }
        }
        let share = |pages: f64| pages / total.max(1.0);
        Self {
            pages: confusion.iter().flatten().sum(),
            only_first: 0,
            only_second: 0,
            quadratic_kappa: (by_chance > 0.0).then(|| 1.0 - found / by_chance),
            exact: share(same),
            within_one: share(near),
            mean_difference: share(milder),
            confusion,
        }
    }

    /// The figures and the table, in Markdown.
    #[must_use]
    pub fn to_markdown(&self, first: &str, second: &str) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out, first, second);
        out
    }

    fn write(&self, out: &mut String, first: &str, second: &str) -> std::fmt::Result {
        let kappa = self.quadratic_kappa.map_or_else(|| "not defined".into(), |kappa| format!("{kappa:.3}"));
        writeln!(out, "| agreement of {first} and {second} | |\n|---|---|")?;
        writeln!(out, "| pages that both scored | {} |", self.pages)?;
        if self.only_first + self.only_second > 0 {
            writeln!(out, "| scored by {first} only | {} |", self.only_first)?;
            writeln!(out, "| scored by {second} only | {} |", self.only_second)?;
        }
        writeln!(out, "| quadratic weighted kappa | {kappa} |")?;
        writeln!(out, "| the same score | {:.1} % |", 100.0 * self.exact)?;
        writeln!(out, "| at most 1 apart | {:.1} % |", 100.0 * self.within_one)?;
        writeln!(out, "| {second} milder by | {:+.2} |\n", self.mean_difference)?;
        writeln!(out, "Scores of {first} (rows) and {second} (columns):\n")?;
        writeln!(out, "| | 0 | 1 | 2 | 3 | 4 | 5 |\n|---|---|---|---|---|---|---|")?;
        for (score, row) in self.confusion.iter().enumerate() {
            writeln!(out, "| {score} | {} |", row.map(|pages| pages.to_string()).join(" | "))?;
        }
        Ok(())
    }
}

/// A judge's scores by page; a row that stands twice counts once.
fn by_id<'a>(
    annotations: &'a [Annotation],
    judge: &'static str,
) -> Result<BTreeMap<&'a str, u8>, AnnotateError> {
    let mut scores = BTreeMap::new();
    for Annotation { id, score, .. } in annotations {
        if usize::from(*score) >= CLASSES {
            return Err(AnnotateError::Score { judge, id: id.clone(), score: *score });
        }
        match scores.insert(id.as_str(), *score) {
            Some(first) if first != *score => {
                return Err(AnnotateError::Twice { judge, id: id.clone(), first, second: *score });
            }
            _ => {}
        }
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judge(scores: &str) -> Vec<Annotation> {
        let row = |(page, score): (usize, char)| Annotation {
            id: page.to_string(),
            score: u8::try_from(score.to_digit(10).unwrap()).unwrap(),
            why: None,
            model: None,
        };
        scores.chars().enumerate().map(row).collect()
    }

    /// Scores and kappas by scikit-learn, printed by `tests/parity/kappa_sklearn.py`.
    #[test]
    fn kappas_are_those_of_scikit_learn() {
        for (first, second, kappa) in GOLDEN {
            let agreement = Agreement::between(&judge(first), &judge(second)).unwrap();
            let found = agreement.quadratic_kappa.unwrap();
            assert!((found - kappa).abs() < 1e-12, "{first} {second}: {found}");
            assert_eq!(agreement.pages, first.len());
        }
    }

    const GOLDEN: [(&str, &str, f64); 5] = [
        ("403200154352", "403201155441", 0.9358974358974359),
        (
            "4455254503202323501552004152314455405214",
            "4455145512113324401443015041224555505224",
            0.9075190993164455,
        ),
        (
            "2153013453031045333043325301552335100402",
            "3441023352032035353025324531444145310322",
            0.6898148148148149,
        ),
        (
            "351240430104405522340112403430310221551421055050053350505414",
            "025535550502525551550011400520231420135504025000053025115135",
            0.3594460073577147,
        ),
        ("0055005", "0050505", 0.41666666666666663),
    ];

    #[test]
    fn shares_are_counted_and_pages_of_one_judge_told() {
        let (mut first, second) = (judge("00234"), judge("0135"));
        first[4].id = "other".into();
        let agreement = Agreement::between(&first, &second).unwrap();
        assert_eq!((agreement.pages, agreement.only_first, agreement.only_second), (4, 1, 0));
        assert_eq!((agreement.exact, agreement.within_one, agreement.mean_difference), (0.25, 0.75, 1.0));
        assert_eq!(agreement.confusion[3], [0, 0, 0, 0, 0, 1]);
        let text = agreement.to_markdown("llama", "a reader");
        assert!(
            text.contains("| the same score | 25.0 % |") && text.contains("| 3 | 0 | 0 | 0 | 0 | 0 | 1 |")
        );
    }

    #[test]
    fn what_is_not_defined_is_none_and_doubles_are_named() {
        assert_eq!(Agreement::between(&judge("333"), &judge("333")).unwrap().quadratic_kappa, None);
        assert_eq!(Agreement::between(&[], &[]).unwrap().exact, 0.0);
        let mut twice = judge("12");
        twice[1].id = "0".into();
        let error = Agreement::between(&judge("1"), &twice).unwrap_err().to_string();
        assert!(error.contains("the second judge scored page 0 twice, 1 and 2"), "{error}");
        twice[1].score = 9;
        let error = Agreement::between(&twice, &judge("1")).unwrap_err().to_string();
        assert!(error.contains("the first judge scored page 0 9"), "{error}");
    }

    proptest! {
        #[test]
        fn kappa_is_one_for_the_same_and_does_not_care_who_is_first(first in "[0-5]{2,30}", seed in any::<u64>()) {
            let second: String = first.chars().enumerate().map(|(at, c)| if seed >> (at % 64) & 1 == 1 { '2' } else { c }).collect();
            let kappa = |a: &str, b: &str| Agreement::between(&judge(a), &judge(b)).unwrap().quadratic_kappa;
            match kappa(&first, &first) {
                Some(kappa) => prop_assert_eq!(kappa, 1.0),
                None => prop_assert!(first.chars().all(|c| first.starts_with(c))),
            }
            match (kappa(&first, &second), kappa(&second, &first)) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-9 && a <= 1.0),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }
}
