//! Reading training sequences from token shards: tokens a second on one thread, in the order of training, from
//! shards that lie in memory.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::shards::{ShardSetWriter, Source, TokenDataset, Verify};
use std::error::Error;
use std::hint::black_box;
use std::path::Path;

const CONTEXT: usize = 2_048;
const SUBSETS: [(&str, f64); 3] = [("fineweb-edu-dedup", 0.7), ("cosmopedia-v2", 0.15), ("python-edu", 0.15)];

/// Three subsets of 10 million tokens, in documents of 1,000.
fn dataset(folder: &Path) -> Result<TokenDataset, Box<dyn Error>> {
    let mut sources = Vec::new();
    for (name, weight) in SUBSETS {
        let mut set = ShardSetWriter::create(&folder.join(name), 49_152, [0; 32], 4_000_000)?;
        for document in 0..10_000u32 {
            let tokens: Vec<u32> = (0..999).map(|i| 1 + (document * 977 + i * 31) % 49_151).collect();
            set.push(&tokens)?;
        }
        let shards = set.finish()?.into_iter().map(|summary| summary.path).collect();
        sources.push(Source { name: name.to_owned(), weight, shards });
    }
    Ok(TokenDataset::open(&sources, CONTEXT, 1, Verify::Structure)?)
}

fn loader(c: &mut Criterion) {
    let folder = tempfile::tempdir();
    let opened = folder.as_ref().map_err(|error| error.to_string());
    let dataset = match opened.and_then(|folder| dataset(folder.path()).map_err(|error| error.to_string())) {
        Ok(dataset) => dataset,
        Err(error) => return eprintln!("cannot write the bench's shards: {error}"),
    };
    let mut sequence = vec![0; CONTEXT + 1];
    let mut index = 0;
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(CONTEXT as u64));
    group.bench_function("mixture of three subsets", |b| {
        b.iter(|| {
            dataset.sequence(index, &mut sequence);
            index += 1;
            black_box(&sequence);
        });
    });
    group.finish();
}

criterion_group!(benches, loader);
criterion_main!(benches);
