//! `url_filter`: drops pages by their addresses.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use async_trait::async_trait;
use classifiers::rules::{UrlBlocklists, UrlFilter};
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{require, schema_of, text_column};
use super::loaded::Loaded;
use super::rules::{Judged, judge_each, judged_rows};
use super::{External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "url_filter",
    summary: "Drops pages by their addresses: lists of domains, addresses and words.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "a table with an address and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<UrlFilterConfig>,
    build: super::build_from::<UrlFilterConfig>,
};

/// Drops pages whose addresses are on lists, as datatrove's filter does (`filters/url_filter.py`, release
/// 0.10.1), for the same reasons. The lists are the user's: FineWeb takes those of the University of
/// Toulouse (`domains` and `urls` of its blacklists, CC BY-SA). A row without an address is dropped
/// (`no_url`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UrlFilterConfig {
    /// Registered domains, with all that is under them (reason `domain`), and host names without what is
    /// under them (`subdomain`).
    pub domains: List,
    /// Whole addresses, letter by letter (reason `url`).
    pub urls: List,
    /// Words of which none may be in an address (reason `hard_blacklisted`). Words are in lower case, and
    /// so they must be in the address.
    pub banned_words: List,
    /// Words of which fewer than `soft_word_threshold` may be in an address (reason `soft_blacklisted`).
    pub soft_banned_words: List,
    /// Letters and digits that may not follow each other in an address, whatever case they have and
    /// whatever is between them (reason `blacklisted_subword`).
    pub banned_subwords: List,
    /// So many different soft banned words are too many.
    #[schemars(range(min = 1))]
    pub soft_word_threshold: usize,
    /// The column with the address.
    pub url_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// Loaded once, by the first task that needs it.
    #[serde(skip)]
    filter: Loaded<UrlFilter>,
}

/// A list of entries.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct List {
    /// Text files, an entry a line; lines that begin with `#` say nothing.
    pub files: Vec<PathBuf>,
    /// Entries that are written here.
    pub entries: Vec<String>,
}

impl Default for UrlFilterConfig {
    fn default() -> Self {
        Self {
            domains: List::default(),
            urls: List::default(),
            banned_words: List::default(),
            soft_banned_words: List::default(),
            banned_subwords: List::default(),
            soft_word_threshold: 2,
            url_column: "url".to_owned(),
            id_column: "id".to_owned(),
            filter: Loaded::default(),
        }
    }
}

impl List {
    /// Calls `add` with every line.
    fn read(&self, ctx: &StageContext, mut add: impl FnMut(&str)) -> Result<(), StageError> {
        self.entries.iter().for_each(|entry| add(entry));
        for path in &self.files {
            let wrong = |place: &str, error: &std::io::Error| {
                ctx.input(format!("cannot read {}{place}: {error}", path.display()))
                    .help("a list is a text file in UTF-8 with an entry a line")
            };
            let file = File::open(path).map_err(|error| wrong("", &error))?;
            for (at, line) in BufReader::new(file).lines().enumerate() {
                add(&line.map_err(|error| wrong(&format!(", line {}", at + 1), &error))?);
            }
        }
        Ok(())
    }
}

impl UrlFilterConfig {
    fn lists(&self) -> [&List; 5] {
        [&self.domains, &self.urls, &self.banned_words, &self.soft_banned_words, &self.banned_subwords]
    }

    fn load(&self, ctx: &StageContext) -> Result<Arc<UrlFilter>, StageError> {
        let mut lists = UrlBlocklists::default();
        for (list, entries) in [(&self.domains, &mut lists.domains), (&self.urls, &mut lists.urls)] {
            list.read(ctx, |line| entries.extend(UrlBlocklists::entry(line)))?;
        }
        for (list, words) in [
            (&self.banned_words, &mut lists.banned_words),
            (&self.soft_banned_words, &mut lists.soft_banned_words),
            (&self.banned_subwords, &mut lists.banned_subwords),
        ] {
            list.read(ctx, |line| words.extend(UrlBlocklists::word(line)))?;
        }
        let filter = UrlFilter::new(lists, self.soft_word_threshold);
        Ok(Arc::new(filter.map_err(|error| ctx.input(format!("`banned_subwords`: {error}")))?))
    }

    async fn filter(&self, ctx: &StageContext) -> Result<Arc<UrlFilter>, StageError> {
        let load = || {
            let (config, ctx) = (self.clone(), ctx.clone());
            async move { super::blocking(&ctx.stage.clone(), move || config.load(&ctx)).await }
        };
        self.filter.get_or_load(load).await
    }
}

#[async_trait]
impl Stage for UrlFilterConfig {
    fn config(&self) -> Json {
        // Where the lists are is not what they hold: the fingerprint has their digests.
        let mut config = super::config_json(self);
        for list in config.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
            if let Some(list) = list.as_object_mut() {
                list.remove("files");
            }
        }
        config
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let mut externals = Vec::new();
        for (list, name) in
            self.lists().into_iter().zip(["domains", "urls", "words", "soft words", "subwords"])
        {
            for path in &list.files {
                let External { digest, .. } = super::file_external(ctx, path)?;
                externals.push(External { name: name.to_owned(), digest });
            }
        }
        Ok(externals)
    }

    fn needs(&self) -> Needs {
        // An entry of a list takes about four times its length.
        let files = self.lists().into_iter().flat_map(|list| &list.files);
        let bytes: u64 = files.filter_map(|path| Some(path.metadata().ok()?.len())).sum();
        Needs::Bytes((64 << 20) + 4 * bytes)
    }

    fn release(&self) {
        self.filter.release();
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.id_column, &self.url_column])?;
        let (filter, url_column) = (self.filter(ctx).await?, self.url_column.clone());
        let schema = schema_of(&rows);
        judged_rows(ctx, rows, "url_filter", &self.id_column, schema, move |batch| {
            judge(&filter, &url_column, batch)
        })
    }
}

fn judge(filter: &UrlFilter, url_column: &str, rows: RecordBatch) -> Result<Judged, ArrowError> {
    let urls = text_column(&rows, url_column)?;
    let rejected = judge_each(&urls, |url, _words| filter.check(url).err());
    Ok(Judged { rows, rejected })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;
    use crate::runner::error::Fault;

    fn config(domains: &str) -> UrlFilterConfig {
        let json = json!({
            "domains": {"files": [domains]}, "banned_words": {"entries": ["casino"]},
        });
        serde_json::from_value(json).unwrap()
    }

    fn batch() -> RecordBatch {
        testing::batch(json!([
            {"id": "a", "url": "http://www.bad.com/x"}, {"id": "b", "url": "http://good.com/casino"},
            {"id": "c", "url": "http://good.com/"}, {"id": "d", "url": null},
        ]))
    }

    #[tokio::test]
    async fn pages_on_lists_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("domains");
        std::fs::write(&path, "# domains\n\nbad.com\n").unwrap();
        let stage = config(&path.display().to_string());
        let (rows, ctx) = testing::plan(&stage, "rows", batch()).await.unwrap();
        assert_eq!(testing::strings(&rows, "id"), ["c"]);
        let dropped = ctx.ledger.dropped();
        let reasons: Vec<(&str, &str)> =
            dropped.iter().map(|row| (row.id.as_str(), row.reason.as_str())).collect();
        assert_eq!(reasons, [("a", "domain"), ("b", "hard_blacklisted"), ("d", "no_url")]);

        let before = stage.externals(&ctx).await.unwrap()[0].digest.clone();
        assert!(!stage.config().to_string().contains("files"));
        std::fs::write(&path, "worse.com\n").unwrap();
        assert_ne!(stage.externals(&ctx).await.unwrap()[0].digest, before);
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_read_is_named() {
        let error = testing::plan(&config("no/such/list"), "rows", batch()).await.unwrap_err();
        assert_eq!(
            (error.fault, error.to_string().contains("no/such/list")),
            (Fault::Input, true),
            "{error}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("domains");
        std::fs::write(&path, b"good.com\n\xff\xfe\n").unwrap();
        let error = testing::plan(&config(&path.display().to_string()), "rows", batch()).await.unwrap_err();
        assert!(error.to_string().contains("domains, line 2"), "{error}");
    }
}
