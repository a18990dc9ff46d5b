//! What retrieval found for the topics (figures 3 and 4 of the SmolLM blog post).

use std::fmt::Write;

use super::escape;
use super::outputs::Outputs;
use super::plot::{Bar, bars};
use crate::runner::progress::group;
use crate::workflow::StageNode;

/// Topics shown of a category.
const SHOWN_TOPICS: usize = 40;

struct TopicPages {
    category: String,
    subtopic: String,
    pages: f64,
    by_all_terms: f64,
    best: String,
}

/// Adds to the section of a `retrieve` stage: how many topics found how many pages, and the topics of
/// the largest category with theirs.
pub async fn write(page: &mut String, outputs: &Outputs, node: &StageNode) -> std::fmt::Result {
    let Some(topics_stage) = node.inputs.get("topics").and_then(|ids| ids.first()) else { return Ok(()) };
    let wanted = node.config["pages_per_topic"].as_f64().unwrap_or(0.0);
    let tables = [("topics", topics_stage.as_str()), ("hits", &node.id)];
    let rows = outputs.query(
        &tables,
        "SELECT t.top_category, t.subtopic, h.pages, h.by_all_terms, h.best FROM topics t LEFT JOIN \
           (SELECT topic_id, count(*) AS pages, sum(CASE WHEN matched = 'all' THEN 1 ELSE 0 END) AS by_all_terms, \
             max(CASE WHEN rank = 1 THEN url END) AS best FROM hits GROUP BY topic_id) h \
         ON t.topic_id = h.topic_id ORDER BY t.top_category, t.topic_id",
    );
    let Some(rows) = rows.await else { return Ok(()) };
    let topics = rows.map(|row| TopicPages {
        category: row.text(0),
        subtopic: row.text(1),
        pages: row.number(2),
        by_all_terms: row.number(3),
        best: row.text(4),
    });
    let short = topics.iter().filter(|topic| topic.pages < wanted).count();
    let share = 100.0 * short as f64 / topics.len().max(1) as f64;
    write!(
        page,
        "<h3>Topics by the pages they found</h3><p>{} of {} topics ({share:.1} %) found fewer than {wanted} pages.</p>",
        group(short as u64),
        group(topics.len() as u64),
    )?;
    page.push_str(&bars(&by_pages(&topics, wanted)));
    write_largest_category(page, &topics)
}

/// Topics by quarters of the number wanted.
fn by_pages(topics: &[TopicPages], wanted: f64) -> Vec<Bar> {
    let labels = ["none", "up to a quarter", "up to a half", "up to three quarters", "nearly all", "all"];
    let mut counts = [0.0; 6];
    for topic in topics {
        let share = topic.pages / wanted.max(1.0);
        let bin = if share <= 0.0 {
            0
        } else if share >= 1.0 {
            5
        } else {
            (1.0 + 4.0 * share).ceil() as usize - 1
        };
        counts[bin.min(5)] += 1.0;
    }
    labels.iter().zip(counts).map(|(label, value)| Bar { label: (*label).to_owned(), value }).collect()
}

fn write_largest_category(page: &mut String, topics: &[TopicPages]) -> std::fmt::Result {
    let groups = topics.chunk_by(|a, b| a.category == b.category);
    let Some(largest) = groups.max_by_key(|group| group.len()) else { return Ok(()) };
    write!(
        page,
        "<h3>Topics of {}</h3><table><thead><tr><th>topic</th><th>pages</th><th>with all terms</th>\
         <th>best page</th></tr></thead><tbody>",
        escape(&largest[0].category)
    )?;
    for topic in largest.iter().take(SHOWN_TOPICS) {
        write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&topic.subtopic),
            topic.pages,
            topic.by_all_terms,
            escape(&topic.best)
        )?;
    }
    page.push_str("</tbody></table>");
    if largest.len() > SHOWN_TOPICS {
        write!(page, "<p>… and {} more.</p>", group((largest.len() - SHOWN_TOPICS) as u64))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_falls_into_one_bin() {
        let topic = |pages| TopicPages {
            category: String::new(),
            subtopic: String::new(),
            pages,
            by_all_terms: 0.0,
            best: String::new(),
        };
        let topics: Vec<TopicPages> = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 8.0].map(topic).into();
        let counts: Vec<f64> = by_pages(&topics, 8.0).iter().map(|bar| bar.value).collect();
        assert_eq!(counts, [1.0, 2.0, 2.0, 1.0, 1.0, 1.0]);
    }
}
