//! Megabytes of text a second, of each cleaning rule and of all of them, on one core.
//!
//! `CORPUSMITH_BENCH_PAGES=pages.parquet cargo bench -p corpusmith-classifiers --bench rules` takes the
//! column `text` of a Parquet file; else the pages are made up. datatrove's speed on the same file is
//! printed by `tests/parity/rules_datatrove.py`.

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::path::Path;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use classifiers::rules::{
    C4Quality, FinewebQuality, GopherQuality, GopherRepetition, LanguageDetector, Pii, TextRule,
};
use classifiers::text::Words;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const PAGES: usize = 200;
const SENTENCES_A_PAGE: usize = 40;

/// Pages of sentences like those of the web: no two alike, with names, numbers and quotations.
fn made_up_pages() -> Vec<String> {
    let nouns = [
        "harbour",
        "engine",
        "letter",
        "river",
        "committee",
        "bread",
        "window",
        "teacher",
        "market",
        "signal",
    ];
    let verbs =
        ["moved", "didn't change", "was closed", "opened", "paid 1,250 dollars", "couldn't answer", "asked"];
    let ends =
        [".", ". ", "?\n", "!", "...", ".\n\n", ", he said.", " (see the well-known example.com/page).\n"];
    let sentence = |at: usize| {
        let (noun, other) = (nouns[at * 7 % nouns.len()], nouns[(at * 13 + at / 10) % nouns.len()]);
        format!(
            "The {noun} of Mr. Smith{at} {} with the {other}, and that was \"all\" there was to be done{} ",
            verbs[at * 5 % verbs.len()],
            ends[at * 3 % ends.len()]
        )
    };
    (0..PAGES).map(|page| (0..SENTENCES_A_PAGE).map(|at| sentence(page * 1_009 + at)).collect()).collect()
}

fn pages_of(path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut pages = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
        let batch = batch?;
        let texts = batch.column_by_name("text").ok_or("the file has no column `text`")?;
        let texts = cast(texts, &DataType::Utf8)?;
        pages.extend(texts.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(pages)
}

/// One rule over all pages; each page is judged whatever became of it before.
fn bench_rule<R: TextRule>(group: &mut BenchmarkGroup<'_, WallTime>, pages: &[String], rule: &R) {
    let mut words = Words::default();
    group.bench_function(R::NAME, |bench| {
        bench.iter(|| pages.iter().filter(|page| black_box(rule.apply(page, &mut words)).is_ok()).count());
    });
}

fn rules(c: &mut Criterion) {
    let pages = match std::env::var_os("CORPUSMITH_BENCH_PAGES") {
        Some(path) => match pages_of(Path::new(&path)) {
            Ok(pages) => pages,
            Err(error) => {
                eprintln!("{}: {error}", Path::new(&path).display());
                return;
            }
        },
        None => made_up_pages(),
    };
    let bytes: usize = pages.iter().map(String::len).sum();
    let (repetition, quality, fineweb) =
        (GopherRepetition::default(), GopherQuality::default(), FinewebQuality::default());
    let (c4, pii) = (C4Quality { filter_no_terminal_punct: false, ..C4Quality::default() }, Pii::default());
    let mut group = c.benchmark_group("rules");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    bench_rule(&mut group, &pages, &repetition);
    bench_rule(&mut group, &pages, &quality);
    bench_rule(&mut group, &pages, &c4);
    bench_rule(&mut group, &pages, &fineweb);
    bench_rule(&mut group, &pages, &pii);
    group.bench_function("language", |bench| {
        bench.iter(|| pages.iter().filter(|page| LanguageDetector::Whatlang.detect(page).is_some()).count());
    });
    let mut words = Words::default();
    group.bench_function("words", |bench| {
        bench.iter(|| {
            pages
                .iter()
                .map(|page| {
                    words.set(page);
                    words.len()
                })
                .sum::<usize>()
        });
    });
    group.bench_function("all_over_texts", |bench| {
        bench.iter(|| {
            for page in &pages {
                black_box(repetition.apply(page, &mut words)).ok();
                black_box(quality.apply(page, &mut words)).ok();
                black_box(c4.apply(page, &mut words)).ok();
                black_box(fineweb.apply(page, &mut words)).ok();
                black_box(pii.apply(page, &mut words)).ok();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, rules);
criterion_main!(benches);
