//! What retrieval found for topics: the distribution plots of the SmolLM blog post.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use maud::{Markup, html};
use serde_json::Value as Json;

use super::{Page, group, layout, link, stages_of};
use crate::api::endpoint::Call;
use crate::api::problem::Problem;
use crate::service::Service;

/// The kind of stages that look for the pages of topics.
const RETRIEVE: &str = "retrieve";
/// Topics listed of a category, those with the fewest pages first.
const SHOWN_TOPICS: usize = 60;
/// Bars of a plot; what remains is named below it.
const MOST_BARS: usize = 60;

struct Topic {
    category: String,
    subcategory: String,
    name: String,
    pages: u64,
}

/// What a `retrieve` stage found.
struct Found {
    wanted: u64,
    topics: Vec<Topic>,
}

pub(super) async fn show(service: Arc<Service>, call: Call) -> Page {
    let stages: Vec<String> =
        stages_of(&service, &[RETRIEVE]).await?.into_iter().map(|(path, _)| path).collect();
    let shown = call.query("of").map(str::to_owned).or_else(|| stages.first().cloned());
    let found = match &shown {
        None => None,
        Some(path) if stages.contains(path) => Some(find(&service, path).await),
        Some(path) => {
            return Err(Problem::not_found(format!("no run looks for the pages of topics at `{path}`")));
        }
    };
    let body = match (&shown, found) {
        (Some(path), Some(Ok(found))) => plots(path, &found, &call)?,
        (_, Some(Err(problem))) => html! { pre.error { (problem.detail()) } },
        _ => html! { p.quiet { "No run has looked for the pages of topics yet." } },
    };
    let body = html! {
        h1 { "Topics" }
        @if !stages.is_empty() {
            form.row method="get" action="/topics" {
                label { "Stage"
                    select name="of" { @for path in &stages { option selected[Some(path) == shown.as_ref()] { (path) } } }
                }
                button { "Show" }
            }
        }
        (body)
    };
    Ok(layout("Topics", "/topics", &body))
}

/// Topics with the number of their pages. Two looks, since a look reads one table.
async fn find(service: &Service, path: &str) -> Result<Found, Problem> {
    let real = service.looking.confined(path)?;
    let manifest = manifest(&real).await?;
    let topics = manifest["inputs"]["topics"][0].as_str().and_then(|input| input.split(':').next());
    let (Some(topics), Some((run, _))) = (topics, path.rsplit_once('/')) else {
        return Err(Problem::unprocessable(format!("the manifest of `{path}` names no topics")));
    };
    let topics = service.looking.confined(&format!("{run}/{topics}"))?;
    let query = |text: &str| ["--sql".to_owned(), text.to_owned()];
    let all = query("SELECT topic_id, top_category, subcategory, subtopic FROM data");
    let hits = query("SELECT topic_id, count(*) AS pages FROM data GROUP BY topic_id");
    let (topics, hits) = tokio::try_join!(
        service.looking.look(&["inspect"], &topics, &all),
        service.looking.look(&["inspect"], &real, &hits)
    )?;
    let pages: BTreeMap<String, u64> = hits
        .iter()
        .map(|hit| (hit["topic_id"].to_string(), hit["pages"].as_u64().unwrap_or_default()))
        .collect();
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let topics = topics.iter().map(|topic| Topic {
        category: text(&topic["top_category"]),
        subcategory: text(&topic["subcategory"]),
        name: text(&topic["subtopic"]),
        pages: pages.get(&topic["topic_id"].to_string()).copied().unwrap_or_default(),
    });
    let wanted = manifest["config"]["pages_per_topic"].as_u64().unwrap_or_default();
    Ok(Found { wanted, topics: topics.collect() })
}

async fn manifest(stage: &Path) -> Result<Json, Problem> {
    let stage = stage.to_owned();
    let read = tokio::task::spawn_blocking(move || super::manifest_of(&stage)).await;
    read.ok().flatten().ok_or_else(|| Problem::unprocessable("the stage is not finished yet"))
}

fn plots(path: &str, found: &Found, call: &Call) -> Result<Markup, Problem> {
    let topics = &found.topics;
    let categories = sums(topics.iter().map(|topic| (topic.category.as_str(), 1)));
    let largest = categories.first().map(|(name, _)| (*name).to_owned()).unwrap_or_default();
    let category = call.query("category").map_or(largest, str::to_owned);
    let k = call.number("k", found.wanted)?;
    let mut inside: Vec<&Topic> = topics.iter().filter(|topic| topic.category == category).collect();
    inside.sort_by(|a, b| (a.pages, &a.name).cmp(&(b.pages, &b.name)));
    let in_topics = sums(inside.iter().map(|topic| (topic.subcategory.as_str(), 1)));
    let in_pages = sums(inside.iter().map(|topic| (topic.subcategory.as_str(), topic.pages)));
    let short = fewer_than(topics, k);
    let steps: Vec<(String, u64)> = thresholds(found.wanted, k)
        .into_iter()
        .map(|k| (format!("fewer than {k}"), fewer_than(topics, k)))
        .collect();
    Ok(html! {
        form.row method="get" action="/topics" {
            input type="hidden" name="of" value=(path);
            label { "Category"
                select name="category" { @for (name, _) in &categories { option selected[*name == category] { (name) } } }
            }
            label { "Fewer pages than" input type="number" name="k" min="0" value=(k); }
            button { "Show" }
        }
        p {
            (group(short)) " of " (group(topics.len() as u64)) " topics (" (share(short, topics.len())) ") found fewer than "
            (group(k)) " pages; " (group(found.wanted)) " were wanted."
        }
        div.columns {
            section { h2 { "Topics with fewer pages" } (bars("Topics with fewer pages", &steps)) }
            section { h2 { "Topics by category" } (bars("Topics by category", &categories)) }
            section { h2 { "Topics of " (category) } (bars("Topics by subcategory", &in_topics)) }
            section { h2 { "Pages of " (category) } (bars("Pages by subcategory", &in_pages)) }
        }
        h2 { "Topics of " (category) " with the fewest pages" }
        div.scroll tabindex="0" role="region" aria-label="Topics" {
            table {
                thead { tr { th { "Topic" } th { "Subcategory" } th.n { "Pages" } } }
                tbody {
                    @for topic in inside.iter().take(SHOWN_TOPICS) {
                        tr { td { (topic.name) } td { (topic.subcategory) } td.n { (group(topic.pages)) } }
                    }
                }
            }
        }
        @if inside.len() > SHOWN_TOPICS { p.quiet { "… and " (group((inside.len() - SHOWN_TOPICS) as u64)) " more." } }
        p { a href=(link("/data", &[("path", path)])) { "Look into the pages" } }
    })
}

/// The sum of each name's numbers, the largest first.
fn sums<'a>(rows: impl Iterator<Item = (&'a str, u64)>) -> Vec<(&'a str, u64)> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, number) in rows {
        *sums.entry(name).or_default() += number;
    }
    let mut sums: Vec<(&str, u64)> = sums.into_iter().collect();
    sums.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    sums
}

fn fewer_than(topics: &[Topic], k: u64) -> u64 {
    topics.iter().filter(|topic| topic.pages < k).count() as u64
}

/// Quarters of the number wanted, and the number asked for.
fn thresholds(wanted: u64, asked: u64) -> Vec<u64> {
    let mut all = vec![1, wanted.div_ceil(4), wanted.div_ceil(2), (3 * wanted).div_ceil(4), wanted, asked];
    all.retain(|k| *k > 0);
    all.sort_unstable();
    all.dedup();
    all
}

fn share(part: u64, all: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / all.max(1) as f64)
}

/// A horizontal bar chart.
fn bars<S: AsRef<str>>(title: &str, rows: &[(S, u64)]) -> Markup {
    const LABEL: f64 = 190.0;
    const WIDTH: f64 = 240.0;
    const ROW: f64 = 22.0;
    /// Characters that fit before a bar.
    const LABEL_CHARS: usize = 24;
    let shown = &rows[..rows.len().min(MOST_BARS)];
    let most = shown.iter().map(|row| row.1).max().unwrap_or_default().max(1) as f64;
    let cut = |text: &str| match text.char_indices().nth(LABEL_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    let (width, height) = (LABEL + WIDTH + 70.0, ROW * shown.len() as f64 + 4.0);
    html! {
        svg.chart viewBox=(format!("0 0 {width} {height}")) width=(width) height=(height) role="img" aria-label=(title) {
            @for (number, (name, value)) in shown.iter().enumerate() {
                @let y = ROW * number as f64;
                @let width = WIDTH * *value as f64 / most;
                text x=(LABEL - 8.0) y=(y + 15.0) text-anchor="end" { (cut(name.as_ref())) }
                rect.bar x=(LABEL) y=(y + 3.0) width=(width) height="16" {}
                text x=(LABEL + width + 6.0) y=(y + 15.0) { (group(*value)) }
            }
        }
        @if rows.len() > shown.len() { p.quiet { "… and " (rows.len() - shown.len()) " more." } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(category: &str, pages: u64) -> Topic {
        Topic { category: category.into(), subcategory: String::new(), name: String::new(), pages }
    }

    #[test]
    fn fewer_than_k_leaves_out_k_itself() {
        let topics = [topic("a", 0), topic("a", 3), topic("b", 4), topic("b", 9)];
        assert_eq!([0, 1, 4, 5, 10].map(|k| fewer_than(&topics, k)), [0, 1, 2, 3, 4]);
        assert_eq!(share(1, 4), "25.0 %");
        assert_eq!(thresholds(8, 3), [1, 2, 3, 4, 6, 8]);
    }

    #[test]
    fn the_largest_category_stands_first_and_labels_are_escaped() {
        let topics = [topic("<a>", 1), topic("b", 1), topic("b", 1)];
        let categories = sums(topics.iter().map(|topic| (topic.category.as_str(), 1)));
        assert_eq!(categories, [("b", 2), ("<a>", 1)]);
        let svg = bars("x", &categories).into_string();
        assert!(
            svg.contains("&lt;a&gt;") && svg.contains("width=\"240\"") && svg.contains("width=\"120\""),
            "{svg}"
        );
    }
}
