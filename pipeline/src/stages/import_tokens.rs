//! `import_tokens`: token files that datatrove, nanotron or Megatron wrote, as shards to train on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use model::shards::{ForeignTokens, ShardSetWriter};
use model::tokenizer::{Encoder, TOKENIZER_FILE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{
    ConfigMistake, External, InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage,
    StageKind, file_external, odd_names,
};
use crate::durable;
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "import_tokens",
    summary: "Takes in token files of datatrove (`.ds`) or Megatron (`.bin`), as `pack` would leave them.",
    version: 1,
    inputs: &[InputRole {
        role: "tokenizer",
        about: "the tokenizer of the tokens: a `tokenizer` or an `import_model` stage",
        count: InputCount::One,
    }],
    output: OutputKind::Folder,
    schema: super::schema_of::<ImportTokensConfig>,
    build: super::build_from::<ImportTokensConfig>,
};

/// Takes in token files, each a `.ds` with its `.ds.index` or a `.bin` with its `.idx` beside it. Leaves what a
/// `pack` stage leaves: `<subset>/tokens-00000.bin`, each document ended by one `<|endoftext|>`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportTokensConfig {
    /// The files of each subset, in order.
    pub subsets: BTreeMap<String, Vec<PathBuf>>,
    /// A shard is closed at this many tokens.
    #[serde(default = "default_shard_tokens")]
    pub shard_tokens: u64,
}

fn default_shard_tokens() -> u64 {
    100_000_000
}

/// A token file, and the one beside it that says where documents end.
fn with_index(tokens: &Path) -> [PathBuf; 2] {
    let mut index = tokens.as_os_str().to_owned();
    index.push(".index");
    let is_datatrove = tokens.extension().is_some_and(|ending| ending == "ds");
    [tokens.to_owned(), if is_datatrove { index.into() } else { tokens.with_extension("idx") }]
}

#[async_trait]
impl Stage for ImportTokensConfig {
    fn config(&self) -> Json {
        // Of the files, the content counts, not where they are.
        let files: BTreeMap<&String, usize> =
            self.subsets.iter().map(|(subset, files)| (subset, files.len())).collect();
        json!({"subsets": files, "shard_tokens": self.shard_tokens})
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn validate(&self, _inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let known =
            |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "ds" || ending == "bin");
        let unknown = self.subsets.values().flatten().filter(|path| !known(path));
        let mut mistakes: Vec<ConfigMistake> = unknown
            .map(|path| ConfigMistake {
                field: "subsets",
                message: format!("{} is no token file that this program reads", path.display()),
                help: "name files that end in .ds (datatrove, nanotron) or .bin (Megatron)".to_owned(),
            })
            .collect();
        mistakes.extend(odd_names(self.subsets.keys()).map(|name| ConfigMistake {
            field: "subsets",
            message: format!("`{name}` cannot be the name of a folder"),
            help: "use letters, digits, `-`, `_` and `.`".to_owned(),
        }));
        mistakes
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(128 << 20)
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let files: Vec<(String, PathBuf)> = self
            .subsets
            .iter()
            .flat_map(|(subset, files)| {
                files.iter().flat_map(|file| with_index(file).map(|file| (subset.clone(), file)))
            })
            .collect();
        let (ctx, stage) = (ctx.clone(), ctx.stage.clone());
        let digest = move || {
            let named = |(subset, path): (String, PathBuf)| {
                file_external(&ctx, &path).map(|external| External { name: subset, ..external })
            };
            files.into_iter().map(named).collect()
        };
        super::blocking(&stage, digest).await
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let tokenizer = inputs.folder(ctx, "tokenizer")?.join(TOKENIZER_FILE);
        let (config, ctx, out, stage) = (self.clone(), ctx.clone(), out.to_owned(), ctx.stage.clone());
        let take_in = move || {
            let encoder = Encoder::load(&tokenizer).map_err(|error| ctx.input(error.to_string()))?;
            let (mut documents, mut tokens, mut by_subset) = (0, 0, BTreeMap::new());
            for (subset, files) in &config.subsets {
                let folder = out.join(subset);
                // What a killed call left is made again: it is a copy.
                durable::remove_folder(&folder).map_err(|error| ctx.write_error(&error))?;
                let (size, digest) = (encoder.vocab_size(), encoder.digest());
                let mut writer = ShardSetWriter::create(&folder, size, digest, config.shard_tokens)
                    .map_err(|error| ctx.failed(&error))?;
                for file in files {
                    let foreign = ForeignTokens::open(file).map_err(|error| ctx.input(chain(&error)))?;
                    foreign.import(&mut writer).map_err(|error| {
                        ctx.input(chain(&error))
                            .help("is `tokenizer` the one that these tokens were made with?")
                    })?;
                    ctx.progress.add_rows(foreign.documents() as u64);
                    ctx.progress.add_tokens(foreign.tokens());
                }
                let shards = writer.finish().map_err(|error| ctx.failed(&error))?;
                let of_subset = shards.iter().map(|shard| shard.tokens).sum::<u64>();
                documents += shards.iter().map(|shard| shard.documents).sum::<u64>();
                tokens += of_subset;
                by_subset.insert(subset.clone(), json!({ "tokens": of_subset }));
            }
            let metrics =
                [("tokens".to_owned(), json!(tokens)), ("subsets".to_owned(), json!(by_subset))].into();
            Ok(Outcome { rows_in: None, rows_out: documents, metrics })
        };
        super::blocking(&stage, take_in).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn files_of_other_kinds_are_mistakes() {
        let config = |path: &str| ImportTokensConfig {
            subsets: [("web".to_owned(), vec![path.into()])].into(),
            shard_tokens: 10,
        };
        assert!(config("a/tokens.ds").validate(&BTreeMap::new()).is_empty());
        let mistakes = config("a/tokens.npy").validate(&BTreeMap::new());
        assert!(mistakes[0].message.contains("tokens.npy"), "{}", mistakes[0].message);
    }

    #[test]
    fn each_form_has_its_index() {
        let names = |path: &str| with_index(Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(names("a/x.ds"), ["a/x.ds", "a/x.ds.index"]);
        assert_eq!(names("a/x.bin"), ["a/x.bin", "a/x.idx"]);
    }
}
