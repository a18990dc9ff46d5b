//! Near-deduplication against named peers, on the same generated documents, disk to disk:
//! `make bench-dedup`.
//!
//! This program writes the documents, runs the real binary over them and leaves its figures beside
//! them; `minhash_peers.py` then runs datatrove, text-dedup and rensa on the same files and prints
//! everything with ratios. Rates are by CPU time of the whole process, so they are rates of one core.
//!
//! - `CORPUSMITH_BENCH_DOCUMENTS`: documents, 500000 by default
//! - `CORPUSMITH_BENCH_FOLDER`: where the files go, `target/bench-dedup` by default
//! - `CORPUSMITH_BENCH_MEMORY`: `--memory-limit` of the run, 2GiB by default
#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that cannot go on stops")]

mod corpus;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use arrow::array::AsArray;
use corpus::Pair;
use corpusmith::report::plot;
use corpusmith::stages::minhash::signature::{Scratch, SignatureOptions, Signer};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value as Json, json};

/// Documents of the measurement of signatures alone.
const SIGNED_DOCUMENTS: usize = 20_000;

fn main() {
    let documents: usize = setting("CORPUSMITH_BENCH_DOCUMENTS", "500000").parse().unwrap();
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench-dedup");
    let folder = PathBuf::from(setting("CORPUSMITH_BENCH_FOLDER", default));
    let documents_folder = folder.join("documents");
    let _ = std::fs::remove_dir_all(&documents_folder);
    std::fs::create_dir_all(&documents_folder).unwrap();
    let corpus = corpus::write(&documents_folder, documents);
    let megabytes = corpus.text_bytes as f64 / 1e6;
    println!("{documents} documents, {megabytes:.0} MB of text, {} planted pairs", corpus.pairs.len());

    let run = run_pipeline(&folder, &setting("CORPUSMITH_BENCH_MEMORY", "2GiB"));
    println!(
        "ours, disk to disk: {:.1} s, {:.1} s of CPU, {:.1} MB/s a core; stage minhash alone {:.1} s, peak {:.0} MB",
        run.wall_seconds,
        run.cpu_seconds,
        megabytes / run.cpu_seconds,
        run.stage["seconds"].as_f64().unwrap(),
        run.stage["peak_memory_bytes"].as_f64().unwrap() / 1e6,
    );
    let signed = corpus::read(&corpus.files, SIGNED_DOCUMENTS);
    let signed_megabytes = signed.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let signature_rate = signed_megabytes / signatures_seconds(&signed);
    println!("ours, signatures alone, one thread: {signature_rate:.1} MB/s");
    let found = s_curve(&corpus.pairs, &run.kept_for);
    let curve = (0..=100).map(|percent| f64::from(percent) / 100.0);
    let curve: Vec<(f64, f64)> = curve.map(|similarity| (similarity, promised(similarity))).collect();
    let drawn = plot::file(&plot::line_with_dots(&curve, &found));
    std::fs::write(folder.join("s_curve.svg"), drawn).unwrap();
    let report = json!({
        "documents": documents,
        "text_bytes": corpus.text_bytes,
        "wall_seconds": run.wall_seconds,
        "cpu_seconds": run.cpu_seconds,
        "stage": run.stage,
        "signature_mb_per_second": signature_rate,
        "signed_documents": signed.len(),
    });
    std::fs::write(folder.join("ours.json"), serde_json::to_vec_pretty(&report).unwrap()).unwrap();
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

struct Run {
    wall_seconds: f64,
    cpu_seconds: f64,
    /// The manifest of the `minhash` stage.
    stage: Json,
    /// By dropped document: the one that is kept for it.
    kept_for: HashMap<String, String>,
}

fn run_pipeline(folder: &Path, memory_limit: &str) -> Run {
    let workflow = folder.join("bench.toml");
    let text = format!(
        "name = \"bench\"\n[stage.pages]\nkind = \"read\"\npaths = [\"{}/*.parquet\"]\n\
         [stage.dedup]\nkind = \"minhash\"\ninput = \"pages\"\nkeep_dropped = true\n",
        folder.join("documents").canonicalize().unwrap().display()
    );
    std::fs::write(&workflow, text).unwrap();
    let runs = folder.join("runs");
    let _ = std::fs::remove_dir_all(&runs);
    let (started, cpu) = (Instant::now(), cpu_seconds(CHILDREN));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
    command.arg("run").arg(&workflow).arg("--runs").arg(&runs).args(["--memory-limit", memory_limit]);
    assert!(command.status().unwrap().success(), "the run failed");
    let stage = runs.join("bench/sample/dedup");
    Run {
        wall_seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds(CHILDREN) - cpu,
        kept_for: kept_for(&stage.join("dropped/00000.parquet")),
        stage: serde_json::from_slice(&std::fs::read(stage.join("manifest.json")).unwrap()).unwrap(),
    }
}

/// The fields of `/proc/self/stat` behind the name: user and system ticks.
const OWN: [usize; 2] = [11, 12];
const CHILDREN: [usize; 2] = [13, 14];

/// CPU seconds of this process, or of its children that have ended (Linux; not a number elsewhere).
fn cpu_seconds(fields: [usize; 2]) -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field| after_name.split_whitespace().nth(field).and_then(|ticks| ticks.parse::<f64>().ok());
    fields.map(|field| ticks(field).unwrap_or(f64::NAN) / 100.0).iter().sum()
}

fn kept_for(side_table: &Path) -> HashMap<String, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(side_table).unwrap()).unwrap();
    let mut kept_for = HashMap::new();
    for batch in reader.build().unwrap().map(Result::unwrap) {
        let column = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        for (id, detail) in column("id").iter().flatten().zip(column("detail").iter().flatten()) {
            kept_for.insert(id.to_owned(), detail.split(' ').next().unwrap_or_default().to_owned());
        }
    }
    kept_for
}

fn signatures_seconds(texts: &[String]) -> f64 {
    let signer = Signer::new(SignatureOptions::default());
    let mut scratch = Scratch::default();
    let started = cpu_seconds(OWN);
    for text in texts {
        std::hint::black_box(signer.sketch(text, &mut scratch));
    }
    cpu_seconds(OWN) - started
}

/// What 14 buckets of 8 hashes promise for a pair of this Jaccard similarity.
fn promised(similarity: f64) -> f64 {
    1.0 - (1.0 - similarity.powi(8)).powi(14)
}

/// Pairs found by similarity, beside what the buckets promise: the mean similarity of each step, and the share
/// that was found.
fn s_curve(pairs: &[Pair], kept_for: &HashMap<String, String>) -> Vec<(f64, f64)> {
    const STEP: f64 = 0.05;
    let mut measured = Vec::new();
    println!("{:>12}{:>8}{:>10}{:>10}", "similarity", "pairs", "found", "promised");
    for step in 0..20 {
        let (low, high) = (f64::from(step) * STEP, f64::from(step + 1) * STEP);
        let bin: Vec<&Pair> = pairs.iter().filter(|pair| (low..high).contains(&pair.jaccard)).collect();
        if bin.is_empty() {
            continue;
        }
        let is = |id: &String, other: &String| kept_for.get(id) == Some(other);
        let found =
            bin.iter().filter(|pair| is(&pair.left, &pair.right) || is(&pair.right, &pair.left)).count();
        let promised: f64 = bin.iter().map(|pair| promised(pair.jaccard)).sum();
        let share = |sum: f64| sum / bin.len() as f64;
        println!(
            "{:>12}{:>8}{:>10.3}{:>10.3}",
            format!("{low:.2}–{high:.2}"),
            bin.len(),
            share(found as f64),
            share(promised)
        );
        measured.push((share(bin.iter().map(|pair| pair.jaccard).sum()), share(found as f64)));
    }
    measured
}
