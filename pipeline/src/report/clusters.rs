//! The map of clusters.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape;
use super::outputs::Outputs;
use super::plot::{Dot, Label, scatter};
use crate::runner::progress::group;
use crate::workflow::{StageNode, Workflow};

/// Dots on the map.
const SHOWN_PAGES: usize = 3000;

/// Clusters whose names stand on the map; more would cover each other.
const NAMED_CLUSTERS: usize = 24;

struct Cluster {
    id: String,
    pages: f64,
    x: f64,
    y: f64,
    similarity: f64,
}

/// Adds the map and the table of clusters to the section of a `cluster` stage.
pub async fn write(
    page: &mut String,
    outputs: &Outputs,
    workflow: &Workflow,
    node: &StageNode,
) -> std::fmt::Result {
    let tables = [("pages", node.id.as_str())];
    let clusters = outputs.query(
        &tables,
        "SELECT topic_id, count(*) AS pages, avg(x), avg(y), avg(similarity) FROM pages GROUP BY topic_id \
         ORDER BY pages DESC, topic_id",
    );
    let Some(clusters) = clusters.await else { return Ok(()) };
    let clusters = clusters.map(|row| Cluster {
        id: row.text(0),
        pages: row.number(1),
        x: row.number(2),
        y: row.number(3),
        similarity: row.number(4),
    });
    let names = names(outputs, workflow, node).await;
    let total: f64 = clusters.iter().map(|cluster| cluster.pages).sum();
    let every = (total as usize).div_ceil(SHOWN_PAGES).max(1);
    // Each cluster shows the same share of its pages, near its centre and far.
    let sql = format!("SELECT topic_id, x, y FROM pages WHERE (rank - 1) % {every} = 0");
    let Some(dots) = outputs.query(&tables, &sql).await else { return Ok(()) };
    let places: BTreeMap<&str, usize> =
        clusters.iter().enumerate().map(|(place, cluster)| (cluster.id.as_str(), place)).collect();
    let dots = dots.map(|row| Dot {
        x: row.number(1),
        y: row.number(2),
        group: places.get(row.text(0).as_str()).copied().unwrap_or(0),
    });
    let named = clusters.iter().filter_map(|cluster| {
        let (topic, _) = names.get(&cluster.id)?;
        Some(Label { x: cluster.x, y: cluster.y, text: topic.clone() })
    });
    let labels: Vec<Label> = named.take(NAMED_CLUSTERS).collect();
    page.push_str("<h3>Map of the clusters</h3>");
    page.push_str(&scatter(&dots, &labels));
    write_table(page, &clusters, &names)
}

/// Topic and educational score of each cluster that was kept, from the stage that named them.
async fn names(
    outputs: &Outputs,
    workflow: &Workflow,
    node: &StageNode,
) -> BTreeMap<String, (String, String)> {
    let namer = workflow
        .stages
        .iter()
        .find(|stage| stage.kind.name == "cluster_topics" && stage.upstream().contains(&node.id.as_str()));
    let Some(namer) = namer.filter(|namer| outputs.stage(&namer.id).is_dir()) else {
        return BTreeMap::new();
    };
    let sql = "SELECT topic_id, subtopic, educational_score FROM names";
    let rows = outputs.query(&[("names", &namer.id)], sql).await;
    let rows = rows.map(|rows| rows.map(|row| (row.text(0), (row.text(1), row.text(2)))));
    rows.unwrap_or_default().into_iter().collect()
}

fn write_table(
    page: &mut String,
    clusters: &[Cluster],
    names: &BTreeMap<String, (String, String)>,
) -> std::fmt::Result {
    page.push_str(
        "<details><summary>All clusters</summary><table><thead><tr><th>cluster</th><th>topic</th>\
         <th>educational score</th><th>pages</th><th>mean similarity</th></tr></thead><tbody>",
    );
    for cluster in clusters {
        let (topic, score) = names.get(&cluster.id).cloned().unwrap_or_default();
        write!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{score}</td><td class=\"n\">{}</td><td class=\"n\">{:.2}</td></tr>",
            escape(&cluster.id),
            escape(&topic),
            group(cluster.pages as u64),
            cluster.similarity
        )?;
    }
    page.push_str("</tbody></table></details>");
    Ok(())
}
