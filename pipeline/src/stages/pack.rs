//! `pack`: the corpus as token shards.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use model::files::FileError;
use model::shards::{Shard, ShardError, ShardSetWriter, Verify, write_datatrove, write_megatron};
use model::tokenizer::{Encoder, SubsetCount, TOKENIZER_FILE};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::corpus::{Document, documents};
use super::mix::TRAIN;
use super::{InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::durable;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "pack",
    summary: "Encodes the corpus into memory-mapped token shards, a folder a subset.",
    version: 1,
    inputs: &[
        InputRole { role: "corpus", about: "a `mix` stage", count: InputCount::One },
        InputRole { role: "tokenizer", about: "a `tokenizer` stage", count: InputCount::One },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<PackConfig>,
    build: super::build_from::<PackConfig>,
};

/// Documents encoded side by side.
const CHUNK: usize = 256;

/// A form of token files that other training programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenFormat {
    /// `datatrove/tokens-00000.ds` with `.index` and `.metadata`, for nanotron.
    Datatrove,
    /// `megatron/tokens-00000.bin` with `.idx`.
    Megatron,
}

/// Encodes the training split. Leaves `<subset>/tokens-00000.bin` (u16 tokens, each document ended
/// by `<|endoftext|>`) and `bytes_per_token.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PackConfig {
    /// A shard is closed at this many tokens.
    pub shard_tokens: u64,
    /// Forms in which the shards are written once more, in folders beside them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<TokenFormat>,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self { shard_tokens: 100_000_000, also: Vec::new() }
    }
}

#[async_trait]
impl Stage for PackConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(128 << 20)
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let mut texts = documents(ctx, inputs.table(ctx, "corpus")?, TRAIN).await?;
        let tokenizer = inputs.folder(ctx, "tokenizer")?.join(TOKENIZER_FILE);
        let (ctx, out, shard_tokens) = (ctx.clone(), out.to_owned(), self.shard_tokens);
        let also = self.also.clone();
        let pack = move || {
            let encoder = Encoder::load(&tokenizer).map_err(|error| ctx.input(error.to_string()))?;
            let (writers, counts) = (BTreeMap::new(), BTreeMap::new());
            let mut packer = Packer { encoder, out, shard_tokens, also, writers, counts };
            // What a killed call left is made again: encoding is cheap beside what comes before it.
            let mut chunk = Vec::with_capacity(CHUNK);
            while let Some(document) = texts.blocking_recv() {
                chunk.push(document?);
                if chunk.len() == CHUNK {
                    packer.push(&ctx, &mut chunk)?;
                }
            }
            packer.push(&ctx, &mut chunk)?;
            packer.finish(&ctx)
        };
        super::blocking(KIND.name, pack).await
    }
}

struct Packer {
    encoder: Encoder,
    out: std::path::PathBuf,
    shard_tokens: u64,
    also: Vec<TokenFormat>,
    writers: BTreeMap<String, ShardSetWriter>,
    counts: BTreeMap<String, SubsetCount>,
}

impl Packer {
    fn push(&mut self, ctx: &StageContext, chunk: &mut Vec<Document>) -> Result<(), StageError> {
        let encoder = &self.encoder;
        let encoded: Result<Vec<Vec<u32>>, _> =
            chunk.par_iter().map(|document| encoder.encode(&document.text)).collect();
        let encoded = encoded.map_err(|error| ctx.failed(&error))?;
        for (document, tokens) in chunk.drain(..).zip(encoded) {
            let count = self.counts.entry(document.subset.clone()).or_default();
            count.texts += 1;
            count.bytes += document.text.len() as u64;
            count.tokens += tokens.len() as u64;
            ctx.progress.add_rows(1);
            ctx.progress.add_tokens(tokens.len() as u64);
            let writer = match self.writers.entry(document.subset) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let folder = self.out.join(entry.key());
                    let (size, digest) = (encoder.vocab_size(), encoder.digest());
                    let writer = ShardSetWriter::create(&folder, size, digest, self.shard_tokens);
                    entry.insert(writer.map_err(|error| ctx.failed(&error))?)
                }
            };
            writer.push(&tokens).map_err(|error| ctx.failed(&error))?;
        }
        Ok(())
    }

    fn finish(self, ctx: &StageContext) -> Result<Outcome, StageError> {
        for writer in self.writers.into_values() {
            for shard in writer.finish().map_err(|error| ctx.failed(&error))? {
                for &format in &self.also {
                    write_also(&shard.path, format).map_err(|error| ctx.failed(&error))?;
                }
            }
        }
        let by_subset: BTreeMap<&str, Json> = self
            .counts
            .iter()
            .map(|(subset, count)| {
                let figures = json!({
                    "texts": count.texts, "bytes": count.bytes, "tokens": count.tokens,
                    "bytes_per_token": count.bytes_per_token(),
                });
                (subset.as_str(), figures)
            })
            .collect();
        let report = json!({"vocabulary": self.encoder.vocab_size(), "subsets": by_subset});
        let path = self.out.join("bytes_per_token.json");
        durable::write_file(&path, format!("{report:#}\n").as_bytes())
            .map_err(|error| ctx.write_error(&error))?;
        let tokens: u64 = self.counts.values().map(|count| count.tokens + count.texts).sum();
        Ok(Outcome {
            rows_in: None,
            rows_out: self.counts.values().map(|count| count.texts).sum(),
            metrics: [
                ("tokens".to_owned(), json!(tokens)),
                ("subsets".to_owned(), report["subsets"].clone()),
            ]
            .into(),
        })
    }
}

/// Writes a shard in another form, in a folder beside it: `pretrain` takes all files of the shard's own folder.
fn write_also(path: &Path, format: TokenFormat) -> Result<(), ShardError> {
    let (folder, ending) = match format {
        TokenFormat::Datatrove => ("datatrove", "ds"),
        TokenFormat::Megatron => ("megatron", "bin"),
    };
    let name = path.with_extension(ending);
    let folder = path.with_file_name(folder);
    std::fs::create_dir_all(&folder).map_err(|source| FileError {
        action: "create folder",
        path: folder.clone(),
        source,
    })?;
    let target = folder.join(name.file_name().unwrap_or_default());
    let shard = Shard::open(path, Verify::Structure)?;
    match format {
        TokenFormat::Datatrove => write_datatrove(&shard, &target, TOKENIZER_FILE),
        TokenFormat::Megatron => write_megatron(&shard, &target),
    }
}
