//! `pipeline search`: full-text search in an index of pages.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use datafusion::prelude::{col, lit};
use search::{OpenedIndex, PageFilters, SearchHit, Snippets};
use serde_json::json;

use super::{Failure, runtime};
use crate::cli::SearchArgs;
use crate::engine::Session;
use crate::engine::streams::collect;
use crate::inspect;
use crate::manifest::Manifest;
use crate::stages::text_column;
use crate::units;

/// What a found page says.
struct Page {
    text: String,
    url: Option<String>,
}

/// Prints the best pages of a query, each with the part that shows best why it was found.
///
/// # Errors
/// A folder is no index, or the pages cannot be read.
pub fn search(args: &SearchArgs) -> Result<(), Failure> {
    let folders: Vec<PathBuf> = args.index.iter().map(|folder| index_folder(folder)).collect();
    let wrong = |error: search::SearchError| Failure::message(error, "");
    let index = OpenedIndex::open(&folders).map_err(wrong)?;
    let filters = PageFilters {
        languages: args.language.clone(),
        min_language_score: args.min_language_score,
        min_tokens: args.min_tokens,
        max_tokens: args.max_tokens,
        min_edu_score: args.min_edu_score,
    };
    let runtime = runtime(units::machine_threads())?;
    let hits = index.search(&args.query, args.k, &filters, args.max_pages_per_host);
    let hits = runtime.block_on(hits).map_err(wrong)?;
    let sources = match args.pages.is_empty() {
        true => args.index.iter().filter_map(|folder| indexed_pages(folder)).flatten().collect(),
        false => args.pages.clone(),
    };
    let pages = runtime.block_on(read_pages(&sources, &hits))?;
    if hits.is_empty() {
        eprintln!("no page has any of these words and passes the filters");
    } else if pages.is_empty() {
        eprintln!("the texts of these pages are not beside the index; name their Parquet files with --pages");
    }
    show(args, &hits, &pages);
    Ok(())
}

/// The index in a stage's folder, or the folder itself.
fn index_folder(folder: &Path) -> PathBuf {
    let inner = folder.join("index");
    if inner.exists() { inner } else { folder.to_owned() }
}

/// The folders of the stages whose pages an `index` stage read, by its manifest.
fn indexed_pages(folder: &Path) -> Option<Vec<PathBuf>> {
    let manifest = Manifest::read(folder).ok().flatten()?;
    let run = folder.canonicalize().ok()?.parent()?.to_owned();
    let stages = manifest.inputs.get("pages")?.iter();
    // An input stands in the manifest as `stage:digest`.
    let folders = stages.filter_map(|input| Some(run.join(input.split(':').next()?)));
    Some(folders.filter(|folder| folder.join("data").exists()).collect())
}

/// The texts of the hits. Each source is read in one pass, and only until all hits have their text:
/// a page in several is taken from the first.
async fn read_pages(sources: &[PathBuf], hits: &[SearchHit]) -> Result<HashMap<String, Page>, Failure> {
    let mut pages = HashMap::new();
    let session = inspect::session().map_err(Failure::run)?;
    for source in sources {
        let missing: Vec<&str> =
            hits.iter().map(|hit| hit.doc_id.as_str()).filter(|id| !pages.contains_key(*id)).collect();
        if missing.is_empty() {
            break;
        }
        for (id, page) in read_source(&session, source, &missing).await? {
            pages.entry(id).or_insert(page);
        }
    }
    Ok(pages)
}

async fn read_source(session: &Session, source: &Path, ids: &[&str]) -> Result<Vec<(String, Page)>, Failure> {
    let wrong = |message: String| Failure::message(message, "give Parquet files with `id` and `text`");
    let rows = inspect::table(session, source).map_err(wrong)?;
    let has = |name: &&str| rows.schema().has_column_with_unqualified_name(name);
    let wanted: Vec<&str> = ["id", "text", "url"].into_iter().filter(has).collect();
    if !wanted.starts_with(&["id", "text"]) {
        return Err(wrong(format!("{} has no columns `id` and `text`", source.display())));
    }
    let rows = rows
        .select_columns(&wanted)
        .and_then(|rows| rows.filter(col("id").in_list(ids.iter().map(|id| lit(*id)).collect(), false)))
        .map_err(Failure::run)?;
    let mut pages = Vec::new();
    for batch in collect(rows).await.map_err(Failure::run)? {
        let (ids, texts) = (text_column(&batch, "id"), text_column(&batch, "text"));
        let (ids, texts) = (ids.map_err(Failure::run)?, texts.map_err(Failure::run)?);
        let urls = text_column(&batch, "url").ok();
        for row in 0..batch.num_rows() {
            let url = urls.as_ref().map(|urls| urls.value(row).to_owned()).filter(|url| !url.is_empty());
            pages.push((ids.value(row).to_owned(), Page { text: texts.value(row).to_owned(), url }));
        }
    }
    Ok(pages)
}

fn show(args: &SearchArgs, hits: &[SearchHit], pages: &HashMap<String, Page>) {
    let bold = std::io::stdout().is_terminal() && !args.json;
    let (before, after) = if bold { ("\u{1b}[1m", "\u{1b}[0m") } else { ("**", "**") };
    let mut snippets = Snippets::new(&args.query);
    for (rank, hit) in (1..).zip(hits) {
        let page = pages.get(&hit.doc_id);
        let url = page.and_then(|page| page.url.as_deref());
        let snippet = page.map(|page| snippets.best(&page.text, args.snippet_chars).marked(before, after));
        if args.json {
            let row = json!({
                "rank": rank, "score": hit.score, "doc_id": hit.doc_id, "url": url, "snippet": snippet,
            });
            println!("{row}");
            continue;
        }
        println!("{rank:>3}  {:>7.3}  {}", hit.score, hit.doc_id);
        for line in [url, snippet.as_deref()].into_iter().flatten() {
            println!("     {line}");
        }
    }
}
