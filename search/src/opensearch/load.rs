//! Filling a server's index.

use arrow::array::{Array, RecordBatch};
use arrow::error::ArrowError;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::http::{describe, is_passing};
use super::{OpenSearch, OpenSearchOptions};
use crate::columns::PageBatch;
use crate::error::{IndexError, ServerError};
use crate::indexer::reason_to_skip;
use crate::schema::{ID, INT_SCORE, LANGUAGE, LANGUAGE_SCORE, TOKEN_COUNT, URL};
use crate::{OnReject, Reject};

/// What a load left on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadSummary {
    /// Pages that the server took.
    pub pages: u64,
    /// Bytes of their texts.
    pub text_bytes: u64,
    /// Pages whose id the server held already: from this stream, an earlier load that was
    /// interrupted, or another dump. The page that came first is kept.
    pub already_there: u64,
    /// Pages that were not taken, by reason.
    pub rejected: std::collections::BTreeMap<String, u64>,
}

/// A page as lines of a `_bulk` request.
struct Item {
    id: String,
    text_bytes: u64,
    lines: String,
}

impl OpenSearch {
    /// Makes the index if it is not there, and sends it the pages. A page whose id is there already
    /// is left as it is, so an interrupted load may simply run again, and a new dump is loaded into
    /// the same index. Ends when the pages can be searched.
    ///
    /// # Errors
    /// [`IndexError`] if the stream fails, the server cannot be reached, or it refuses for good.
    pub async fn load(
        &self,
        mut pages: BoxStream<'static, Result<RecordBatch, ArrowError>>,
        on_reject: OnReject,
    ) -> Result<LoadSummary, IndexError> {
        self.make_index().await?;
        let mut summary = LoadSummary::default();
        let mut reject = |summary: &mut LoadSummary, reject: Reject| {
            *summary.rejected.entry(reject.reason.clone()).or_default() += 1;
            on_reject(reject);
        };
        let mut waiting: Vec<Item> = Vec::new();
        let mut waiting_bytes = 0;
        let mut number = 0;
        while let Some(batch) = pages.next().await {
            let batch = batch.map_err(IndexError::Pages)?;
            let batch = PageBatch::new(&batch).map_err(|problem| IndexError::Column {
                batch: number,
                column: problem.column,
                problem: problem.problem,
            })?;
            for row in 0..batch.rows() {
                if let Some(reason) = reason_to_skip(&batch, row) {
                    let id = if batch.id.is_valid(row) { batch.id.value(row) } else { "" };
                    let detail = format!("batch {number}, row {row}");
                    reject(&mut summary, Reject { id: id.to_owned(), reason: reason.to_owned(), detail });
                    continue;
                }
                let item = item(&batch, row);
                if waiting_bytes + item.lines.len() as u64 > self.options.bulk_bytes && !waiting.is_empty() {
                    self.send(std::mem::take(&mut waiting), &mut summary, &mut reject).await?;
                    waiting_bytes = 0;
                }
                waiting_bytes += item.lines.len() as u64;
                waiting.push(item);
            }
            number += 1;
        }
        self.send(waiting, &mut summary, &mut reject).await?;
        self.http.post(&format!("{}/_refresh", self.options.index)).await?;
        Ok(summary)
    }

    async fn make_index(&self) -> Result<(), ServerError> {
        let made = self.http.put(&self.options.index, settings(&self.options)).await;
        match made {
            Err(ServerError::Refused { status: 400, reason, .. }) if reason.contains("already_exists") => {
                Ok(())
            }
            made => made.map(|_| ()),
        }
    }

    /// Sends pages until the server has taken or refused each of them.
    async fn send(
        &self,
        mut items: Vec<Item>,
        summary: &mut LoadSummary,
        reject: &mut (dyn FnMut(&mut LoadSummary, Reject) + Send),
    ) -> Result<(), ServerError> {
        let path = format!("{}/_bulk", self.options.index);
        let mut tries = self.http.tries();
        while !items.is_empty() {
            let body: String = items.iter().map(|item| item.lines.as_str()).collect();
            let answer = self.http.post_lines(&path, body).await?;
            let results = answer["items"].as_array().filter(|results| results.len() == items.len());
            let results = results.ok_or_else(|| self.http.strange(&path, "it has not one item a page"))?;
            let mut refused = Vec::new();
            let mut refusal = None;
            for (item, result) in items.into_iter().zip(results) {
                let result = &result["create"];
                match result["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(0) {
                    200..=299 => {
                        summary.pages += 1;
                        summary.text_bytes += item.text_bytes;
                    }
                    409 => summary.already_there += 1,
                    status if is_passing(status) => {
                        refusal = Some((status, reason_of(result)));
                        refused.push(item);
                    }
                    status => {
                        let detail = format!("status {status}: {}", reason_of(result));
                        let reason = "refused_by_server".to_owned();
                        reject(summary, Reject { id: item.id, reason, detail });
                    }
                }
            }
            if let Some((status, reason)) = refusal {
                tries.wait_after(self.http.refused(&path, status, reason), None).await?;
            }
            items = refused;
        }
        Ok(())
    }
}

fn reason_of(result: &Json) -> String {
    describe(&result["error"]).unwrap_or_else(|| "no reason given".to_owned())
}

/// Settings and fields of a new index: BM25 with k1 1.2 and b 0.75, an English analysis with the
/// steps of the local index (lower case, stop words, Snowball English), the text not kept.
fn settings(options: &OpenSearchOptions) -> Json {
    json!({
        "settings": {
            "number_of_shards": options.shards,
            "similarity": {"default": {"type": "BM25", "k1": 1.2, "b": 0.75}},
            "analysis": {
                "filter": {
                    "english_stop": {"type": "stop", "stopwords": "_english_"},
                    "english_stem": {"type": "stemmer", "language": "porter2"},
                },
                "analyzer": {
                    "page": {
                        "type": "custom",
                        "tokenizer": "standard",
                        "filter": ["lowercase", "english_stop", "english_stem"],
                    },
                },
            },
        },
        "mappings": {
            "dynamic": false,
            "_source": {"excludes": ["text"]},
            "properties": {
                "text": {"type": "text", "analyzer": "page", "index_options": "freqs"},
                ID: {"type": "keyword"},
                URL: {"type": "keyword", "index": false, "doc_values": false},
                LANGUAGE: {"type": "keyword"},
                LANGUAGE_SCORE: {"type": "double"},
                TOKEN_COUNT: {"type": "long"},
                INT_SCORE: {"type": "long"},
            },
        },
    })
}

fn item(pages: &PageBatch, row: usize) -> Item {
    let (id, text) = (pages.id.value(row), pages.text.value(row));
    let mut page = json!({ID: id, "text": text});
    let optional = [
        (URL, pages.url(row).map(Json::from)),
        (LANGUAGE, pages.language(row).map(Json::from)),
        (LANGUAGE_SCORE, pages.language_score(row).map(Json::from)),
        (TOKEN_COUNT, pages.token_count(row).map(Json::from)),
        (INT_SCORE, pages.int_score(row).map(Json::from)),
    ];
    for (column, value) in optional {
        if let Some(value) = value {
            page[column] = value;
        }
    }
    let action = json!({"create": {"_id": id}});
    Item { id: id.to_owned(), text_bytes: text.len() as u64, lines: format!("{action}\n{page}\n") }
}
