//! The search is exact: it equals an exhaustive BM25 over every page, for any number of shards.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its result")]

mod common;

use std::collections::{BTreeMap, HashSet};

use common::{Hit, Page, Random, TopicRow, hits, index_of, index_with, indexes_of, page, random_pages};
use search::{IndexOptions, PageFilters, RetrieveOptions, analyze, clean_query};
use tantivy::fieldnorm::FieldNormReader;

/// BM25 by the book over all pages at once. Three things it shares with the index, on purpose: the
/// analysis, page lengths rounded down to the 256 steps in which Tantivy keeps them, and a unit of scores
/// so small that the most a page can get is between 2^29 and 2^30 of them.
struct Twin<'a> {
    pages: &'a [Page],
    terms: Vec<BTreeMap<String, u32>>,
    lengths: Vec<u32>,
    average: f32,
}

impl<'a> Twin<'a> {
    fn new(pages: &'a [Page]) -> Self {
        let mut terms = Vec::new();
        let mut lengths = Vec::new();
        let mut sum = 0_u64;
        for page in pages {
            let mut counts = BTreeMap::new();
            let words = analyze(&page.text);
            sum += words.len() as u64;
            let step = FieldNormReader::fieldnorm_to_id(words.len() as u32);
            lengths.push(FieldNormReader::id_to_fieldnorm(step));
            for word in words {
                *counts.entry(word).or_default() += 1;
            }
            terms.push(counts);
        }
        Self { pages, terms, lengths, average: sum as f32 / pages.len() as f32 }
    }

    /// Every page that matches, best first, equal scores by id.
    fn ranked(&self, query: &BTreeMap<String, f32>, all: bool) -> Vec<(f32, usize)> {
        let count = self.pages.len() as f32;
        let pages_with: BTreeMap<&str, f32> = query
            .keys()
            .map(|term| {
                let with = self.terms.iter().filter(|p| p.contains_key(term)).count();
                (term.as_str(), with as f32)
            })
            .collect();
        let weights: BTreeMap<&str, f32> = query
            .iter()
            .map(|(term, boost)| {
                let with = pages_with[term.as_str()];
                let idf = (1.0 + (count - with + 0.5) / (with + 0.5)).ln();
                (term.as_str(), if with > 0.0 { idf * (1.0 + 1.2) * boost } else { 0.0 })
            })
            .collect();
        let most: f64 = weights.values().map(|weight| f64::from(*weight)).sum();
        let terms = weights.values().filter(|weight| **weight > 0.0).count() as f64;
        let units = (0..60)
            .map(|bits| 2.0_f64.powi(bits))
            .take_while(|units| most * units + terms < 2.0_f64.powi(30));
        let units = units.last().unwrap_or_default();
        let mut ranked: Vec<(f32, usize)> = (0..self.pages.len())
            .filter_map(|number| {
                let page = &self.terms[number];
                let present = query.keys().filter(|term| page.contains_key(*term)).count();
                if present == 0 || (all && present < query.len()) {
                    return None;
                }
                let mut score = 0.0_f64;
                for (&term, weight) in &weights {
                    let Some(&frequency) = page.get(term) else {
                        continue;
                    };
                    let length = self.lengths[number] as f32;
                    let norm = 1.2_f32 * (1.0 - 0.75 + 0.75 * length / self.average);
                    let frequency = frequency as f32;
                    score += (f64::from(weight * (frequency / (frequency + norm))) * units).floor().max(1.0);
                }
                Some(((score as f32) / units as f32, number))
            })
            .collect();
        ranked.sort_by(|a, b| {
            let ids = (&self.pages[a.1].id, &self.pages[b.1].id);
            b.0.total_cmp(&a.0).then(ids.0.cmp(ids.1))
        });
        ranked
    }

    fn two_step(&self, topic: &TopicRow, options: &RetrieveOptions) -> Vec<Hit> {
        let weights = |subtopic_weight: f32| {
            let mut query: BTreeMap<String, f32> = BTreeMap::new();
            for (text, weight) in
                [(topic.1, 1.0), (topic.2, 1.0), (topic.3.unwrap_or_default(), subtopic_weight)]
            {
                for term in analyze(&clean_query(text)) {
                    *query.entry(term).or_default() += weight;
                }
            }
            query
        };
        let mut taken = HashSet::new();
        let mut hits = Vec::new();
        let mut hosts: BTreeMap<&str, u32> = BTreeMap::new();
        for (query, matched) in [(weights(2.0), "all"), (weights(1.0), "any")] {
            let ranked = self.ranked(&query, matched == "all").into_iter();
            let passing = ranked.filter(|(_, number)| {
                let page = &self.pages[*number];
                let filters = &options.filters;
                let language_score = page.language_score.unwrap_or(-1.0);
                let tokens = page.token_count.unwrap_or(-1);
                let language = page.language.as_ref();
                (filters.languages.is_empty() || language.is_some_and(|l| filters.languages.contains(l)))
                    && filters.min_language_score.is_none_or(|least| language_score >= least)
                    && filters.min_tokens.is_none_or(|least| tokens >= least as i64)
                    && filters.max_tokens.is_none_or(|most| tokens <= most as i64)
                    && filters.min_edu_score.is_none_or(|least| page.int_score.unwrap_or(-1) >= least)
            });
            let fresh: Vec<_> = passing.filter(|(_, number)| !taken.contains(number)).collect();
            for (score, number) in fresh {
                if hits.len() == options.pages_per_topic as usize {
                    break;
                }
                if let Some(most) = options.max_pages_per_host {
                    let url = self.pages[number].url.as_deref().unwrap();
                    let host = hosts.entry(url.split('/').nth(2).unwrap()).or_default();
                    if *host == most {
                        continue;
                    }
                    *host += 1;
                }
                taken.insert(number);
                hits.push(Hit {
                    topic_id: topic.0.to_owned(),
                    rank: hits.len() as u32 + 1,
                    score,
                    doc_id: self.pages[number].id.clone(),
                    matched: matched.to_owned(),
                });
            }
        }
        hits
    }
}

fn topics(count: u64, vocabulary: u64) -> Vec<[String; 4]> {
    let mut random = Random(99);
    (0..count)
        .map(|number| {
            let mut words = |most: u64| {
                let length = random.below(most + 1);
                let words: Vec<String> = (0..length).map(|_| random.word(vocabulary)).collect();
                words.join(" / ")
            };
            [format!("topic-{number}"), words(2), words(2), words(4)]
        })
        .collect()
}

fn rows(topics: &[[String; 4]]) -> Vec<TopicRow<'_>> {
    topics.iter().map(|t| (t[0].as_str(), t[1].as_str(), t[2].as_str(), Some(t[3].as_str()))).collect()
}

fn assert_same(got: &[Hit], expected: &[Hit], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: number of hits");
    for (got, expected) in got.iter().zip(expected) {
        let close = (got.score - expected.score).abs() <= 1e-6 * expected.score.max(1.0);
        assert!(close, "{what}: {got:?} {expected:?}");
        let expected = Hit { score: got.score, ..expected.clone() };
        assert_eq!(got, &expected, "{what}");
    }
}

fn variants() -> [RetrieveOptions; 9] {
    let plain = |pages_per_topic| RetrieveOptions { pages_per_topic, ..RetrieveOptions::default() };
    let filters = PageFilters {
        min_language_score: Some(0.35),
        min_tokens: Some(50),
        max_tokens: Some(2_000),
        ..PageFilters::default()
    };
    let english =
        PageFilters { languages: vec!["en".into()], min_edu_score: Some(2), ..PageFilters::default() };
    [
        plain(1),
        plain(10),
        plain(300),
        plain(1_000),
        plain(4_000),
        RetrieveOptions { filters, ..plain(100) },
        RetrieveOptions { filters: english, topics_per_batch: 7, ..plain(1_000) },
        RetrieveOptions { max_pages_per_host: Some(3), max_matches: 200, ..plain(50) },
        // The best pages are all of hosts that have enough: the rankings must be widened.
        RetrieveOptions { max_pages_per_host: Some(3), max_matches: 60, ..plain(60) },
    ]
}

/// recall@k = 1.0, and more: every rank and score is that of the exhaustive twin.
#[test]
fn equals_the_exhaustive_twin_for_every_sharding() {
    let pages = random_pages(3_000, 5);
    let twin = Twin::new(&pages);
    let topics = topics(40, 450);
    let topics = rows(&topics);
    let several_runs = IndexOptions { run_pages: 250, ..common::options(2) };
    let indexes: Vec<_> = [1, 3, 4]
        .map(common::options)
        .iter()
        .chain([&several_runs])
        .map(|options| index_with(options, &pages))
        .collect();
    for options in &variants() {
        let expected: Vec<Hit> = topics.iter().flat_map(|topic| twin.two_step(topic, options)).collect();
        assert!(expected.len() > 20, "the test would be empty");
        let (one_shard, _) = hits(&indexes[0].1, options, &topics);
        assert_same(&one_shard, &expected, &format!("{options:?}"));
        for (_, sharded) in &indexes[1..] {
            let (got, _) = hits(sharded, options, &topics);
            // Bit for bit, scores too.
            assert_eq!(got, one_shard, "{options:?}");
        }
    }
}

/// Three dumps, the later ones repeating pages of the earlier ones with other texts: opened together
/// they are one index over all pages, the first of equal ids kept.
#[test]
fn several_indexes_equal_one_over_all_their_pages() {
    let pages = random_pages(3_000, 8);
    let (first, rest) = pages.split_at(1_000);
    let (second, third) = rest.split_at(900);
    let again = |from: &[Page], text: &[Page]| -> Vec<Page> {
        from.iter().zip(text).map(|(page, other)| Page { text: other.text.clone(), ..page.clone() }).collect()
    };
    let second = [second, &again(&first[200..500], second)].concat();
    let third = [&again(&second[..300], third), third, &again(&first[400..600], &second[50..])].concat();
    let together = [first, &second, &third].concat();
    let unique: Vec<Page> = {
        let mut seen = HashSet::new();
        together.iter().filter(|page| seen.insert(page.id.clone())).cloned().collect()
    };
    assert!(unique.len() < together.len() - 700, "the test would be empty");
    let twin = Twin::new(&unique);
    let topics = topics(40, 450);
    let topics = rows(&topics);
    let (_dir, one) = index_of(&together, 3);
    let indexes = [[1, 1, 1], [3, 3, 3], [4, 2, 6], [1, 3, 4]]
        .map(|shards| indexes_of(&[first, &second, &third], &shards));
    for (_, several) in &indexes {
        let (got, expected) = (several.summary(), one.summary());
        assert_eq!(
            (got.pages, got.text_terms, got.text_bytes),
            (expected.pages, expected.text_terms, expected.text_bytes)
        );
    }
    for options in &variants() {
        let (expected, expected_summary) = hits(&one, options, &topics);
        let exhaustive: Vec<Hit> = topics.iter().flat_map(|t| twin.two_step(t, options)).collect();
        assert_same(&expected, &exhaustive, &format!("{options:?}"));
        for (_, several) in &indexes {
            let (got, got_summary) = hits(several, options, &topics);
            assert_eq!(got, expected, "{options:?}");
            assert_eq!(got_summary, expected_summary);
        }
    }
}

#[test]
fn an_index_opened_twice_is_opened_once() {
    let pages = random_pages(200, 4);
    let (dir, one) = index_of(&pages, 2);
    let twice = search::Searcher::open_all(&[dir.path(), dir.path()]).unwrap();
    assert_eq!(twice.search_text("word1 word7", 300).unwrap(), one.search_text("word1 word7", 300).unwrap());
    assert_eq!(twice.summary().skipped_pages["in_earlier_index"], one.summary().pages);
}

/// Shards whose pages differ much in length: what a shard knows of its own average length must not
/// matter.
#[test]
fn exact_when_shards_differ_in_page_length() {
    let mut random = Random(3);
    let mut pages = Vec::new();
    for number in 0..6_000_u64 {
        let id = format!("page-{number:05}");
        // Even hash (the shard of two) gets short pages, odd hash long ones.
        let hash = blake3_of(&id);
        let limit = if hash.is_multiple_of(2) { 6 } else { 400 };
        let length = 1 + random.below(limit);
        let words: Vec<String> = (0..length).map(|_| random.word(60)).collect();
        pages.push(page(&id, &words.join(" ")));
    }
    let twin = Twin::new(&pages);
    let topics = topics(30, 60);
    let topics = rows(&topics);
    let (_one_dir, one) = index_of(&pages, 1);
    let (_two_dir, two) = index_of(&pages, 2);
    for k in [1, 5, 50] {
        let options = RetrieveOptions { pages_per_topic: k, ..RetrieveOptions::default() };
        let expected: Vec<Hit> = topics.iter().flat_map(|topic| twin.two_step(topic, &options)).collect();
        let (got, _) = hits(&two, &options, &topics);
        assert_same(&got, &expected, &format!("k = {k}"));
        assert_eq!(hits(&one, &options, &topics).0, got);
    }
}

/// The same hash the index uses to choose a shard.
fn blake3_of(id: &str) -> u64 {
    u64::from_le_bytes(*blake3::hash(id.as_bytes()).as_bytes().first_chunk().unwrap())
}

#[test]
fn more_ties_than_wanted_are_cut_by_id() {
    let mut pages: Vec<Page> =
        (0..2_000).map(|n| page(&format!("{:04}", (n * 7_919) % 2_000), "apple pie")).collect();
    pages.push(page("9999", "apple apple pie"));
    for shards in [1, 3] {
        let (_dir, searcher) = index_of(&pages, shards);
        let found = searcher.search_text("apple", 20).unwrap();
        let ids: Vec<&str> = found.iter().map(|hit| hit.doc_id.as_str()).collect();
        assert_eq!(ids[0], "9999");
        let expected: Vec<String> = (0..19).map(|n| format!("{n:04}")).collect();
        assert_eq!(ids[1..], expected);
    }
}
