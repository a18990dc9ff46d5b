//! `url_dedup`: keeps one row of each web address.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use url::Url;

use super::columns::text_column;
use super::duplicates::keep::Keep;
use super::duplicates::{self, ByKey, Key, key_of};
use super::{InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "url_dedup",
    summary: "Keeps one row of each web address.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "a table with a URL and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<UrlDedupConfig>,
    build: super::build_from::<UrlDedupConfig>,
};

/// Query parameters that tell where a visitor came from, and not what the page is.
const TRACKING_PARAMETERS: &[&str] =
    &["fbclid", "gclid", "dclid", "msclkid", "mc_cid", "mc_eid", "igshid", "yclid"];

/// Beginnings of such parameters.
const TRACKING_PREFIXES: &[&str] = &["utm_"];

/// Drops all rows but one of each URL (reason `duplicate_url`), as datatrove's
/// `pipeline/dedup/url_dedup.py` does: pages that were crawled again. Rows whose URL is NULL are kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UrlDedupConfig {
    /// The column with the URL.
    pub url_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// What makes two URLs equal: `"page"` or `"bytes"`.
    pub compare: CompareUrls,
    /// Which row of equals is kept: `"first"`, `{ longest = "text" }`, `{ highest = "score" }` by a
    /// column of numbers, or `{ newest = "dump" }` by a column of dump names or dates.
    pub keep: Keep,
    /// Memory of the sorts, in bytes; what it does not hold is spilled. A quarter of the run's memory limit
    /// when left out.
    pub memory_bytes: Option<u64>,
}

/// What makes two URLs equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompareUrls {
    /// They most probably show one page: `http` and `https`, a leading `www.`, the case of the host, the
    /// default port, a slash at the end, what follows `#`, and parameters that only track visitors
    /// (`utm_…`, `gclid` and the like) do not count. What is no URL is compared by its bytes.
    Page,
    /// The same bytes, as datatrove without a `url_normalizer`.
    Bytes,
}

impl Default for UrlDedupConfig {
    fn default() -> Self {
        Self {
            url_column: "url".to_owned(),
            id_column: "id".to_owned(),
            compare: CompareUrls::Page,
            keep: Keep::First,
            memory_bytes: None,
        }
    }
}

#[async_trait]
impl Stage for UrlDedupConfig {
    fn config(&self) -> Json {
        duplicates::config_without_memory(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn needs(&self) -> Needs {
        Needs::sorting(self.memory_bytes)
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let (column, compare) = (self.url_column.clone(), self.compare);
        let rule = ByKey {
            spill: ctx.spill(self.memory_bytes)?,
            id_column: self.id_column.clone(),
            keep: self.keep.clone(),
            keys: move |batch: &RecordBatch| keys(batch, &column, compare),
            reason: "duplicate_url",
        };
        rule.plan(ctx, task, inputs, "url_dedup", &self.url_column)
    }
}

fn keys(batch: &RecordBatch, column: &str, compare: CompareUrls) -> Result<Vec<Option<Key>>, ArrowError> {
    let urls = text_column(batch, column)?;
    let key = |url: &str| match compare {
        CompareUrls::Page => key_of(page_of(url).as_bytes()),
        CompareUrls::Bytes => key_of(url.as_bytes()),
    };
    Ok(urls.iter().map(|url| url.map(key)).collect())
}

/// What is left of a URL without the parts that do not tell pages apart.
fn page_of(text: &str) -> String {
    // Parsing lowers the host's case and takes the default port away.
    let Ok(url) = Url::parse(text.trim()) else { return text.to_owned() };
    let Some(host) = url.host_str() else { return text.to_owned() };
    let mut page = host.strip_prefix("www.").unwrap_or(host).to_owned();
    if let Some(port) = url.port() {
        page.push_str(&format!(":{port}"));
    }
    page.push_str(url.path().trim_end_matches('/'));
    let tells = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        !TRACKING_PARAMETERS.contains(&name)
            && !TRACKING_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let query: Vec<&str> = url.query().unwrap_or_default().split('&').filter(tells).collect();
    let query = query.join("&");
    if !query.is_empty() {
        page.push('?');
        page.push_str(&query);
    }
    page
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    #[test]
    fn what_does_not_tell_pages_apart_is_taken_away() {
        for (url, want) in [
            ("http://www.Example.com:80/a/", "example.com/a"),
            ("https://example.com/a#part", "example.com/a"),
            ("https://example.com/a?utm_source=x&id=7&gclid=1", "example.com/a?id=7"),
            ("https://example.com/?utm_medium=x", "example.com"),
            ("https://example.com:8080/A", "example.com:8080/A"),
            ("no url", "no url"),
        ] {
            assert_eq!(page_of(url), want);
        }
    }

    #[tokio::test]
    async fn one_row_of_each_page_is_kept() {
        let rows = || {
            testing::batch(json!([
                {"id": "a", "url": "http://example.com/a", "dump": "2023-50"}, {"id": "b", "url": null, "dump": "x"},
                {"id": "c", "url": "https://www.example.com/a/?utm_source=b", "dump": "2024-10"},
                {"id": "d", "url": "http://example.com/b", "dump": "x"}, {"id": "e", "url": null, "dump": "x"},
                {"id": "f", "url": "http://example.com/a", "dump": "2023-50"},
            ]))
        };
        for (compare, keep, want) in [
            (CompareUrls::Page, Keep::First, vec!["a", "b", "d", "e"]),
            (CompareUrls::Page, Keep::Newest("dump".into()), vec!["b", "c", "d", "e"]),
            (CompareUrls::Bytes, Keep::First, vec!["a", "b", "c", "d", "e"]),
        ] {
            let config = UrlDedupConfig { compare, keep, ..UrlDedupConfig::default() };
            let (kept, ctx) = testing::plan(&config, "rows", rows()).await.unwrap();
            assert_eq!(testing::strings(&kept, "id"), want);
            let dropped = ctx.ledger.dropped();
            assert_eq!(dropped.len() + want.len(), 6);
            assert!(
                dropped.iter().all(|row| row.reason == "duplicate_url" && row.detail.ends_with("is kept"))
            );
        }
    }
}
