//! How many subtopics each heading is asked for: at first by category weight, later what is missing.

use std::collections::{BTreeMap, BTreeSet};

use super::heading::Heading;
use super::options::ExpandOptions;
use crate::prompts::largest_remainder;

/// The headings that are used, with the number of subtopics wanted of each.
pub(super) struct Quotas {
    pub(super) headings: Vec<Heading>,
    pub(super) wanted: Vec<u32>,
}

pub(super) fn quotas(options: &ExpandOptions, topics: &[Heading]) -> Quotas {
    let headings = choose_headings(options, topics);
    let subtopics = u64::from(options.target_topics).saturating_sub(headings.len() as u64);
    let mut of_category: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, heading) in headings.iter().enumerate() {
        of_category.entry(&heading.top_category).or_default().push(i);
    }
    let weights: Vec<f64> = of_category
        .iter()
        .map(|(category, members)| weight_of(options, category) * members.len() as f64)
        .collect();
    let mut wanted = vec![0; headings.len()];
    for (members, total) in of_category.values().zip(largest_remainder(subtopics, &weights)) {
        for (i, part) in members.iter().zip(largest_remainder(total, &vec![1.0; members.len()])) {
            wanted[*i] = u32::try_from(part).unwrap_or(u32::MAX);
        }
    }
    Quotas { headings, wanted }
}

/// At most `max_headings`, spread over the categories, chosen by a seeded hash of the code; in the
/// order in which they came.
pub(super) fn choose_headings(options: &ExpandOptions, topics: &[Heading]) -> Vec<Heading> {
    let limit = options.max_headings.unwrap_or(u32::MAX).min(options.target_topics) as usize;
    let mut chosen: BTreeSet<&str> = topics.iter().map(|topic| topic.code.as_str()).collect();
    if topics.len() > limit {
        let hash = |t: &Heading| {
            *blake3::Hasher::new()
                .update(&options.seed.to_le_bytes())
                .update(t.code.as_bytes())
                .finalize()
                .as_bytes()
        };
        let mut of_category: BTreeMap<&str, Vec<&Heading>> = BTreeMap::new();
        for topic in topics {
            of_category.entry(&topic.top_category).or_default().push(topic);
        }
        let sizes: Vec<f64> = of_category.values().map(|m| m.len() as f64).collect();
        let parts = largest_remainder(limit as u64, &sizes);
        chosen.clear();
        for (members, part) in of_category.values_mut().zip(parts) {
            members.sort_by_cached_key(|t| hash(t));
            chosen.extend(members.iter().take(part as usize).map(|topic| topic.code.as_str()));
        }
    }
    topics.iter().filter(|topic| chosen.contains(topic.code.as_str())).cloned().collect()
}

/// The weight that the options give a top category, 1 where they do not name it.
fn weight_of(options: &ExpandOptions, category: &str) -> f64 {
    let named = options.category_weights.iter().find(|(name, _)| name.trim().eq_ignore_ascii_case(category));
    named.map_or(1.0, |(_, weight)| if weight.is_finite() { weight.max(0.0) } else { 0.0 })
}

/// Spreads subtopics that are missing over the headings that delivered theirs, by heading: those of
/// the same top category where there are any, else all of them by category weight. Empty when no
/// heading delivered.
pub(super) fn spread_missing(
    options: &ExpandOptions,
    headings: &[Heading],
    missing: &[u32],
    delivered: &[usize],
) -> BTreeMap<usize, u32> {
    let mut more = BTreeMap::new();
    let mut give = |members: &[usize], total: u64, weights: &[f64]| {
        for (i, part) in members.iter().zip(largest_remainder(total, weights)) {
            if part > 0 {
                *more.entry(*i).or_insert(0) += u32::try_from(part).unwrap_or(u32::MAX);
            }
        }
    };
    let mut of_category: BTreeMap<&str, u64> = BTreeMap::new();
    for (heading, missing) in headings.iter().zip(missing) {
        *of_category.entry(&heading.top_category).or_default() += u64::from(*missing);
    }
    let mut elsewhere = 0;
    for (category, missing) in of_category {
        let members: Vec<usize> =
            delivered.iter().copied().filter(|i| headings[*i].top_category == category).collect();
        if members.is_empty() {
            elsewhere += missing;
        } else {
            give(&members, missing, &vec![1.0; members.len()]);
        }
    }
    let weights: Vec<f64> =
        delivered.iter().map(|i| weight_of(options, &headings[*i].top_category)).collect();
    give(delivered, elsewhere, &weights);
    more
}
