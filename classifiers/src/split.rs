//! Which pages train and which are kept apart: stratified by whole score,
//! decided by a seeded hash of the page's id, so that neither the order of
//! the annotations nor other pages' ids move a page within its stratum.

use crate::metrics::{CLASSES, class};

/// The positions of each whole score's pages, in the order of a seeded hash.
fn strata(pages: &[(&str, f32)], seed: u64, purpose: &str) -> Vec<Vec<usize>> {
    let mut strata = vec![Vec::new(); CLASSES];
    for (index, (id, score)) in pages.iter().enumerate() {
        let mut hasher = blake3::Hasher::new();
        hasher.update(purpose.as_bytes());
        hasher.update(&seed.to_le_bytes());
        hasher.update(id.as_bytes());
        strata[class(*score)].push((*hasher.finalize().as_bytes(), index));
    }
    strata
        .into_iter()
        .map(|mut stratum| {
            stratum.sort_unstable();
            stratum.into_iter().map(|(_, index)| index).collect()
        })
        .collect()
}

/// Two lists of positions, each ascending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) train: Vec<usize>,
    pub(crate) held_out: Vec<usize>,
}

/// Keeps `share` of each whole score's pages apart, to the nearest page.
pub(crate) fn held_out(pages: &[(&str, f32)], share: f64, seed: u64, purpose: &str) -> Split {
    let mut split = Split { train: Vec::new(), held_out: Vec::new() };
    for stratum in strata(pages, seed, purpose) {
        let apart = ((stratum.len() as f64 * share).round() as usize).min(stratum.len());
        split.held_out.extend(&stratum[..apart]);
        split.train.extend(&stratum[apart..]);
    }
    split.train.sort_unstable();
    split.held_out.sort_unstable();
    split
}

/// `folds` splits; every page is held out in exactly one.
pub(crate) fn cross_validation(pages: &[(&str, f32)], folds: usize, seed: u64) -> Vec<Split> {
    // Dealt out like cards, on from stratum to stratum, so that the folds are of like size.
    let dealt: Vec<usize> = strata(pages, seed, "fold").into_iter().flatten().collect();
    (0..folds)
        .map(|fold| {
            let mut split = Split { train: Vec::new(), held_out: Vec::new() };
            for (card, &index) in dealt.iter().enumerate() {
                if card % folds == fold {
                    split.held_out.push(index);
                } else {
                    split.train.push(index);
                }
            }
            split.train.sort_unstable();
            split.held_out.sort_unstable();
            split
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pages(scores: &[f32]) -> Vec<(String, f32)> {
        let id = |(index, score): (usize, &f32)| (format!("page {index}"), *score);
        scores.iter().enumerate().map(id).collect()
    }

    fn refs(pages: &[(String, f32)]) -> Vec<(&str, f32)> {
        pages.iter().map(|(id, score)| (id.as_str(), *score)).collect()
    }

    #[test]
    fn each_score_gives_its_share() {
        let scores: Vec<f32> = [vec![0.0; 50], vec![3.0; 20], vec![5.0; 1]].concat();
        let owned = pages(&scores);
        let split = held_out(&refs(&owned), 0.2, 42, "held-out");
        let apart = |score: f32| split.held_out.iter().filter(|&&i| scores[i] == score).count();
        assert_eq!((apart(0.0), apart(3.0), apart(5.0)), (10, 4, 0));
        assert_ne!(split, held_out(&refs(&owned), 0.2, 43, "held-out"));
    }

    proptest! {
        #[test]
        fn folds_share_out_all_pages_evenly_in_any_order(
            scores in prop::collection::vec((0_u8..6).prop_map(f32::from), 6..80),
            folds in 2_usize..6,
        ) {
            let owned = pages(&scores);
            let splits = cross_validation(&refs(&owned), folds, 7);
            let mut seen: Vec<usize> = splits.iter().flat_map(|split| split.held_out.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..scores.len()).collect::<Vec<_>>());
            let sizes: Vec<usize> = splits.iter().map(|split| split.held_out.len()).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);

            let mut backwards = refs(&owned);
            backwards.reverse();
            let last = scores.len() - 1;
            let mirrored: Vec<usize> = cross_validation(&backwards, folds, 7)[0]
                .held_out.iter().rev().map(|index| last - index).collect();
            prop_assert_eq!(&mirrored, &splits[0].held_out);
        }
    }
}
