//! The search is exact: it equals an exhaustive BM25 over every page, for any number of shards.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its result")]

mod common;

use std::collections::{BTreeMap, HashSet};

use common::{Hit, Page, Random, TopicRow, hits, index_of, page, random_pages};
use search::{RetrieveOptions, analyze, clean_query};
use tantivy::fieldnorm::FieldNormReader;

/// BM25 by the book over all pages at once. Two things it shares with the index, on purpose: the
/// analysis, and page lengths rounded down to the 256 steps in which Tantivy keeps them.
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
        let mut ranked: Vec<(f32, usize)> = (0..self.pages.len())
            .filter_map(|number| {
                let page = &self.terms[number];
                let present = query.keys().filter(|term| page.contains_key(*term)).count();
                if present == 0 || (all && present < query.len()) {
                    return None;
                }
                let mut score = 0.0_f64;
                for (term, boost) in query {
                    let Some(&frequency) = page.get(term) else {
                        continue;
                    };
                    let with = pages_with[term.as_str()];
                    let idf = (1.0 + (count - with + 0.5) / (with + 0.5)).ln();
                    let length = self.lengths[number] as f32;
                    let norm = 1.2_f32 * (1.0 - 0.75 + 0.75 * length / self.average);
                    let frequency = frequency as f32;
                    let weight = idf * (1.0 + 1.2) * boost;
                    score += f64::from(weight * (frequency / (frequency + norm)));
                }
                Some((score as f32, number))
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
                let language = page.language_score.unwrap_or(-1.0);
                let tokens = page.token_count.unwrap_or(-1);
                options.min_language_score.is_none_or(|least| language >= least)
                    && options.min_tokens.is_none_or(|least| tokens >= least as i64)
                    && options.max_tokens.is_none_or(|most| tokens <= most as i64)
            });
            let fresh: Vec<_> = passing.filter(|(_, number)| !taken.contains(number)).collect();
            for (score, number) in fresh.into_iter().take(options.max_matches as usize) {
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

#[test]
fn equals_the_exhaustive_twin_for_every_sharding() {
    let pages = random_pages(3_000, 5);
    let twin = Twin::new(&pages);
    let topics = topics(40, 450);
    let topics = rows(&topics);
    let plain = |pages_per_topic| RetrieveOptions { pages_per_topic, ..RetrieveOptions::default() };
    let variants = [
        plain(1),
        plain(10),
        plain(300),
        plain(4_000),
        RetrieveOptions {
            min_language_score: Some(0.65),
            min_tokens: Some(50),
            max_tokens: Some(2_000),
            ..plain(100)
        },
        RetrieveOptions { max_pages_per_host: Some(3), max_matches: 200, ..plain(50) },
    ];
    let indexes = [1, 3, 4].map(|shards| index_of(&pages, shards));
    for options in &variants {
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

/// Shards whose pages differ much in length: the block bounds of a shard are then wrong for the
/// average length of the whole index, and only the slack keeps the search exact.
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

/// The worst case for block bounds, built by hand: the block of `best` keeps the pair of `decoy`,
/// which is the better one for the long pages of its shard, but not for the whole index. Its bound
/// is then below the score of `other`, found before, and pruning at that score would lose `best`.
#[test]
fn a_block_bound_of_another_average_loses_no_page() {
    let mut next_id = 0;
    let mut id_in_shard = |shard: u64, name: &str| loop {
        next_id += 1;
        let id = format!("{name}-{next_id}");
        if blake3_of(&id) % 2 == shard {
            return id;
        }
    };
    let text = |length: usize, frequency: usize| {
        let target = "target ".repeat(frequency);
        let others = "filler ".repeat(length - frequency);
        format!("{target}{others}")
    };
    let mut pages = Vec::new();
    // Two blocks of 128 postings each in shard 0.
    for block in 0..2 {
        let special = match block {
            0 => vec![("other", 20, 2)],
            _ => vec![("best", 10, 2), ("decoy", 400, 10)],
        };
        for &(name, length, frequency) in &special {
            pages.push(page(&id_in_shard(0, name), &text(length, frequency)));
        }
        for _ in special.len()..128 {
            pages.push(page(&id_in_shard(0, "long"), &text(400, 1)));
        }
    }
    for _ in 0..1_000 {
        pages.push(page(&id_in_shard(1, "short"), &text(20, 0)));
    }
    let mut answers = Vec::new();
    for shards in [1, 2] {
        let (_dir, searcher) = index_of(&pages, shards);
        answers.push(searcher.search_text("target", 1).unwrap());
    }
    assert!(answers[0][0].doc_id.starts_with("best-"), "{answers:?}");
    assert_eq!(answers[0], answers[1]);
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
