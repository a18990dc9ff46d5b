//! Makes a head as `pipeline classifier train` does, from pages in Parquet and
//! annotations in JSON Lines:
//!
//! ```text
//! CORPUSMITH_ASSETS=~/.cache/corpusmith/assets cargo run --release -p corpusmith-classifiers \
//!     --example train_head -- OPTIONS.json PAGES.parquet ID_COLUMN ANNOTATIONS.jsonl MAX_TOKENS OUTPUT_FOLDER
//! ```
//!
//! `OPTIONS.json` holds `TrainOptions`; fields left out have their defaults.

use arrow::{array::AsArray, compute::cast, datatypes::DataType};
use classifiers::{Backbone, BackboneOptions, Example, Runtime, TrainOptions, train_head};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;
use std::{
    collections::HashMap,
    error::Error,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    time::Instant,
};

#[derive(Deserialize)]
struct Annotation {
    id: String,
    score: f32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [options, pages, id_column, annotations, max_tokens, output] = arguments.as_slice() else {
        return Err(
            "give OPTIONS.json PAGES.parquet ID_COLUMN ANNOTATIONS.jsonl MAX_TOKENS OUTPUT_FOLDER".into()
        );
    };
    let options: TrainOptions = serde_json::from_reader(File::open(options)?)?;
    let scores = read_annotations(Path::new(annotations))?;
    let examples = read_pages(Path::new(pages), id_column, &scores)?;
    println!("{} pages found for {} annotated ids", examples.len(), scores.len());

    let assets = PathBuf::from(std::env::var("CORPUSMITH_ASSETS")?);
    let runtime = Runtime::load(&assets.join("libonnxruntime.so.1.31.1"))?;
    let backbone = Backbone::load(
        &runtime,
        &assets.join("model.onnx"),
        &assets.join("tokenizer.json"),
        &BackboneOptions { max_tokens: max_tokens.parse()?, sessions: None },
    )?;
    let start = Instant::now();
    let trained = train_head(&backbone, examples, &options)?;
    println!("embedded and trained in {:.1} s", start.elapsed().as_secs_f64());

    std::fs::create_dir_all(output)?;
    let base = Path::new(output).join(&options.name);
    trained.head.save(&base.with_extension("json"))?;
    std::fs::write(base.with_extension("md"), trained.report.to_markdown())?;
    println!("{}", trained.report.to_markdown());
    Ok(())
}

fn read_annotations(path: &Path) -> Result<HashMap<String, f32>, Box<dyn Error>> {
    let mut scores = HashMap::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let row: Annotation = serde_json::from_str(&line?)?;
        scores.insert(row.id, row.score);
    }
    Ok(scores)
}

fn read_pages(
    path: &Path,
    id_column: &str,
    scores: &HashMap<String, f32>,
) -> Result<Vec<Example>, Box<dyn Error>> {
    let mut examples = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
        let batch = batch?;
        let column = |name: &str| -> Result<_, Box<dyn Error>> {
            let found = batch.column_by_name(name).ok_or(format!("no column {name}"))?;
            Ok(cast(found, &DataType::Utf8)?)
        };
        let (ids, texts) = (column(id_column)?, column("text")?);
        for (id, text) in ids.as_string::<i32>().iter().zip(texts.as_string::<i32>()) {
            let (Some(id), Some(text)) = (id, text) else {
                continue;
            };
            if let Some(&score) = scores.get(id) {
                examples.push(Example { id: id.to_owned(), text: text.to_owned(), score });
            }
        }
    }
    Ok(examples)
}
