//! A corpus for benchmarks: pages of words drawn by Zipf's law, mixed with pages made of sentences of
//! real pages. Deterministic, and written as a stream.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::common::Random;

const VOCABULARY: usize = 200_000;
const QUERIES: usize = 200;

/// Words of a page: log-uniform between these.
const FEWEST_WORDS: f64 = 20.0;
const MOST_WORDS: f64 = 600.0;

/// Where real pages may lie, with a column `text`: pages beside the repository, or the sample dump
/// that `make run` leaves. Without them all pages are drawn.
const REAL_PAGES: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/web.parquet"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../runs/cosmopedia_v2/sample/pages/data/00000-00000.parquet"),
];

/// Writes `corpus-<pages>.tsv` (a line a page: id, tab, text) and `queries.txt` into the folder; the
/// corpus file and the bytes of its texts.
pub fn write(folder: &Path, pages: usize) -> (PathBuf, u64) {
    std::fs::create_dir_all(folder).unwrap();
    let mut random = Random(1);
    let words: Vec<String> = (0..VOCABULARY).map(|_| random.word()).collect();
    let zipf = Zipf::new(VOCABULARY);
    let sentences = real_sentences();
    println!("{} sentences of real pages to mix in", sentences.len());
    let path = folder.join(format!("corpus-{pages}.tsv"));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).unwrap());
    let mut text = String::new();
    let mut text_bytes = 0;
    for page in 0..pages {
        text.clear();
        let length = FEWEST_WORDS * (MOST_WORDS / FEWEST_WORDS).powf(random.unit());
        let real = !sentences.is_empty() && page % 2 == 0;
        let mut so_far = 0;
        while so_far < length as usize {
            if !text.is_empty() {
                text.push(' ');
            }
            match real {
                true => {
                    let sentence = &sentences[below(&mut random, sentences.len())];
                    so_far += sentence.split(' ').count();
                    text.push_str(sentence);
                }
                false => {
                    so_far += 1;
                    text.push_str(&words[zipf.draw(&mut random)]);
                }
            }
        }
        text_bytes += text.len() as u64;
        writeln!(file, "{}\t{text}", id_of(page)).unwrap();
    }
    file.flush().unwrap();
    write_queries(folder, &words, &sentences);
    (path, text_bytes)
}

/// Queries of three to six words: half of them of words that are neither in every page nor nearly
/// nowhere, half of neighbouring words of real sentences.
fn write_queries(folder: &Path, words: &[String], sentences: &[String]) {
    let mut random = Random(2);
    let mut file = File::create(folder.join("queries.txt")).unwrap();
    for query in 0..QUERIES {
        let length = 3 + below(&mut random, 4);
        let chosen: Vec<&str> = match query % 2 == 0 && !sentences.is_empty() {
            true => {
                let sentence = &sentences[below(&mut random, sentences.len())];
                let plain = |word: &&str| word.chars().all(char::is_alphanumeric);
                sentence.split(' ').filter(plain).skip(2).take(length).collect()
            }
            false => Vec::new(),
        };
        let chosen = match chosen.len() < 3 {
            true => (0..length).map(|_| words[20 + below(&mut random, 3_000)].as_str()).collect(),
            false => chosen,
        };
        writeln!(file, "{}", chosen.join(" ")).unwrap();
    }
}

fn real_sentences() -> Vec<String> {
    let Some(path) = REAL_PAGES.into_iter().find(|path| Path::new(path).exists()) else {
        return Vec::new();
    };
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let mut sentences = Vec::new();
    for batch in reader {
        let texts = cast(batch.unwrap().column_by_name("text").unwrap(), &DataType::LargeUtf8).unwrap();
        for text in texts.as_string::<i64>().iter().flatten() {
            for sentence in text.split(['\n', '.']) {
                let words: Vec<&str> = sentence.split_whitespace().collect();
                if (5..=60).contains(&words.len()) {
                    sentences.push(words.join(" "));
                }
            }
        }
    }
    sentences
}

/// An id of the form FineWeb uses.
fn id_of(page: usize) -> String {
    let half = Random(page as u64).next();
    format!("<urn:uuid:{half:016x}-{page:016x}>")
}

/// Ranks with probability 1/rank.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: usize) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=ranks)
                .map(|rank| {
                    sum += 1.0 / rank as f64;
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self, random: &mut Random) -> usize {
        let point = random.unit() * self.0[self.0.len() - 1];
        self.0.partition_point(|&sum| sum < point).min(self.0.len() - 1)
    }
}

/// A number below the limit.
fn below(random: &mut Random, limit: usize) -> usize {
    (random.unit() * limit as f64) as usize
}
