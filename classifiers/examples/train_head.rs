//! Trains a head from a Parquet file of pages and a JSONL file of annotations, as `pipeline classifier train`
//! does, for trying options out.
//!
//! ```text
//! train_head ASSETS PAGES.parquet ID_COLUMN ANNOTATIONS.jsonl OPTIONS.json MAX_TOKENS CACHE_FOLDER OUTPUT_FOLDER
//! ```
//!
//! `OPTIONS.json` is [`TrainOptions`] as JSON. Writes `NAME.json` (the head) and `NAME.md` (its card).

use arrow::{array::AsArray, compute::cast, datatypes::DataType};
use classifiers::{
    Backbone, BackboneOptions, Example, OnReject, Runtime, TrainOptions, VectorCache, annotate::read_jsonl,
    train_head_cached,
};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use std::{collections::BTreeMap, error::Error, fs, io::BufReader, path::Path, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [assets, pages, id_column, annotations, options, max_tokens, cache, output] = arguments.as_slice()
    else {
        return Err("usage: see the head of examples/train_head.rs".into());
    };
    let options: TrainOptions = serde_json::from_slice(&fs::read(options)?)?;
    let on_reject: OnReject = Arc::new(|reject| println!("left out: {reject:?}"));
    let mut scores = BTreeMap::new();
    for row in read_jsonl(annotations, BufReader::new(fs::File::open(annotations)?), &on_reject) {
        let row = row?.annotation;
        scores.insert(row.id, row.score);
    }
    let examples = examples(Path::new(pages), id_column, &scores)?;

    let assets = Path::new(assets);
    let library =
        if cfg!(target_os = "macos") { "libonnxruntime.1.31.1.dylib" } else { "libonnxruntime.so.1.31.1" };
    let runtime = Runtime::load(&assets.join(library))?;
    let backbone_options = BackboneOptions { max_tokens: max_tokens.parse()?, ..Default::default() };
    let (model, tokenizer) = (assets.join("model.onnx"), assets.join("tokenizer.json"));
    let backbone = Backbone::load(&runtime, &model, &tokenizer, &backbone_options)?;
    let mut cache = VectorCache::open(Path::new(cache), backbone.identity())?;
    let trained = train_head_cached(&backbone, &mut cache, examples, &options)?;
    fs::create_dir_all(output)?;
    trained.head.save(&Path::new(output).join(format!("{}.json", options.name)))?;
    let card = trained.report.to_markdown();
    fs::write(Path::new(output).join(format!("{}.md", options.name)), &card)?;
    println!("{card}");
    Ok(())
}

fn examples(
    path: &Path,
    id_column: &str,
    scores: &BTreeMap<String, u8>,
) -> Result<Vec<Example>, Box<dyn Error>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path)?)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), [id_column, "text"]);
    let mut examples = Vec::new();
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let column = |name: &str| -> Result<_, Box<dyn Error>> {
            let column = batch.column_by_name(name).ok_or_else(|| format!("no column {name}"))?;
            Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
        };
        let (ids, texts) = (column(id_column)?, column("text")?);
        for (id, text) in ids.iter().zip(&texts) {
            if let (Some(id), Some(text)) = (id, text)
                && let Some(&score) = scores.get(id)
            {
                examples.push(Example { id: id.to_owned(), text: text.to_owned(), score: f32::from(score) });
            }
        }
    }
    Ok(examples)
}
