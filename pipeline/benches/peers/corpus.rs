//! Documents with planted near-duplicates of known similarity, made of sentences of real pages.
//! Deterministic, and written as a stream.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use classifiers::text::Words;
use corpusmith::stages::minhash::mt19937::Mt19937;
use corpusmith::stages::minhash::normalise::simplify;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// Where real pages may lie, with a column `text`: pages beside the repository, or the sample dump
/// that `make run` leaves.
const REAL_PAGES: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/web.parquet"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../runs/cosmopedia_v2/sample/pages/data/00000-00000.parquet"),
];

/// Words of a document: log-uniform between these, 517 on average, about a FineWeb page.
const FEWEST_WORDS: f64 = 100.0;
const MOST_WORDS: f64 = 1500.0;

/// Every so-manieth document is a near-duplicate of the one before it.
const PAIR_EVERY: usize = 10;

/// Planted similarities are uniform between these.
const SIMILARITIES: std::ops::Range<f64> = 0.4..0.98;

/// Words of a shingle.
const SHINGLE_WORDS: usize = 5;

const DOCUMENTS_A_FILE: usize = 50_000;
const DOCUMENTS_A_BATCH: usize = 1_000;

/// A document and its near-duplicate.
pub struct Pair {
    pub left: String,
    pub right: String,
    /// The Jaccard similarity of their sets of shingles.
    pub jaccard: f64,
}

/// What was written.
pub struct Corpus {
    pub files: Vec<PathBuf>,
    pub text_bytes: u64,
    pub pairs: Vec<Pair>,
}

struct Random(Mt19937);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0.randint(0, n as u64) as usize
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 53) as f64 / (1_u64 << 53) as f64
    }

    /// A word that no other document has.
    fn word(&mut self) -> String {
        (0..12).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }
}

/// Writes `documents-00000.parquet …` (columns `id` and `text`) and `pairs.tsv` into a folder.
pub fn write(folder: &Path, documents: usize) -> Corpus {
    let sentences = real_sentences();
    assert!(
        !sentences.is_empty(),
        "real pages are needed: {} (`make run` makes some)",
        REAL_PAGES.join(" or ")
    );
    println!("documents of {} sentences of real pages", sentences.len());
    let mut random = Random(Mt19937::new(1));
    let mut corpus = Corpus { files: Vec::new(), text_bytes: 0, pairs: Vec::new() };
    let mut last: Vec<String> = Vec::new();
    for first in (0..documents).step_by(DOCUMENTS_A_FILE) {
        let path = folder.join(format!("documents-{:05}.parquet", corpus.files.len()));
        let end = documents.min(first + DOCUMENTS_A_FILE);
        let mut writer: Option<ArrowWriter<File>> = None;
        for start in (first..end).step_by(DOCUMENTS_A_BATCH) {
            let numbers = start..end.min(start + DOCUMENTS_A_BATCH);
            let ids: Vec<String> = numbers.clone().map(id_of).collect();
            let mut texts = Vec::with_capacity(ids.len());
            for number in numbers {
                let near = number % PAIR_EVERY == PAIR_EVERY - 1;
                let words = match near {
                    true => near_duplicate(&mut random, &last),
                    false => document(&mut random, &sentences),
                };
                if near {
                    let jaccard = jaccard(&last.join(" "), &words.join(" "));
                    corpus.pairs.push(Pair { left: id_of(number - 1), right: id_of(number), jaccard });
                }
                texts.push(words.join(" "));
                last = words;
            }
            corpus.text_bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
            let column = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
            let batch = RecordBatch::try_from_iter([("id", column(ids)), ("text", column(texts))]).unwrap();
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
            let properties = properties.set_max_row_group_row_count(Some(10_000)).build();
            let open = || {
                ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap()
            };
            writer.get_or_insert_with(open).write(&batch).unwrap();
        }
        writer.unwrap().close().unwrap();
        corpus.files.push(path);
    }
    let mut file = BufWriter::new(File::create(folder.join("pairs.tsv")).unwrap());
    for Pair { left, right, jaccard } in &corpus.pairs {
        writeln!(file, "{left}\t{right}\t{jaccard}").unwrap();
    }
    file.flush().unwrap();
    corpus
}

/// The texts of the first documents, for work that is done in this process.
pub fn read(files: &[PathBuf], documents: usize) -> Vec<String> {
    let texts = files.iter().flat_map(|file| texts_of(File::open(file).unwrap()));
    texts.take(documents).collect()
}

fn id_of(number: usize) -> String {
    format!("<urn:document:{number:09}>")
}

fn document(random: &mut Random, sentences: &[Vec<String>]) -> Vec<String> {
    let length = (FEWEST_WORDS * (MOST_WORDS / FEWEST_WORDS).powf(random.unit())) as usize;
    let mut words = Vec::with_capacity(length + 40);
    while words.len() < length {
        words.extend_from_slice(&sentences[random.below(sentences.len())]);
    }
    words
}

/// A copy with some words replaced, evenly spread. Each of k breaks a shingle of every place on both
/// sides, so that of n shingles n − 5k stay, and the similarity is (n − 5k) / (n + 5k).
fn near_duplicate(random: &mut Random, original: &[String]) -> Vec<String> {
    let wanted = SIMILARITIES.start + (SIMILARITIES.end - SIMILARITIES.start) * random.unit();
    let shingles = original.len().saturating_sub(SHINGLE_WORDS - 1) as f64;
    let replaced = (shingles * (1.0 - wanted) / (SHINGLE_WORDS as f64 * (1.0 + wanted))).round() as usize;
    let mut words = original.to_vec();
    for i in 0..replaced {
        words[(2 * i + 1) * original.len() / (2 * replaced)] = random.word();
    }
    words
}

fn jaccard(left: &str, right: &str) -> f64 {
    let shingles = |text: &str| -> HashSet<String> {
        let (mut simplified, mut words) = (String::new(), Words::default());
        simplify(text, &mut simplified);
        words.set(&simplified);
        words.runs(SHINGLE_WORDS).map(str::to_owned).collect()
    };
    let (left, right) = (shingles(left), shingles(right));
    let both = left.intersection(&right).count();
    both as f64 / (left.len() + right.len() - both).max(1) as f64
}

/// The sentences of real pages that are long enough to differ, once each, as words.
fn real_sentences() -> Vec<Vec<String>> {
    let file = REAL_PAGES.iter().find_map(|path| File::open(path).ok());
    let mut seen = HashSet::new();
    let mut sentences = Vec::new();
    for text in file.into_iter().flat_map(texts_of) {
        for sentence in text.split_inclusive(['.', '?', '!', '\n']) {
            let words: Vec<String> = sentence.split_whitespace().map(str::to_owned).collect();
            if (6..=40).contains(&words.len()) && seen.insert(words.join(" ")) {
                sentences.push(words);
            }
        }
    }
    sentences
}

fn texts_of(file: File) -> impl Iterator<Item = String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    reader.flat_map(|batch| {
        let texts = cast(batch.unwrap().column_by_name("text").unwrap(), &DataType::Utf8).unwrap();
        texts.as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()
    })
}
