//! The order of a workflow's stages.

use std::collections::{BTreeMap, BTreeSet};

use crate::workflow::StageNode;

/// Sorts the stages so that each comes after those it reads; among the free ones the
/// alphabetically first goes first, so that the order is a function of the workflow.
///
/// # Errors
/// The names along a cycle, the first repeated at the end. References to stages that are not in
/// the list are ignored (they are reported elsewhere).
pub fn sort(nodes: Vec<StageNode>) -> Result<Vec<StageNode>, Vec<String>> {
    let mut waiting: BTreeMap<String, StageNode> =
        nodes.into_iter().map(|node| (node.id.clone(), node)).collect();
    let names: BTreeSet<String> = waiting.keys().cloned().collect();
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut sorted = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free = waiting
            .values()
            .find(|node| node.upstream().iter().all(|up| done.contains(*up) || !names.contains(*up)));
        let Some(id) = free.map(|node| node.id.clone()) else {
            return Err(find_cycle(&waiting));
        };
        if let Some(node) = waiting.remove(&id) {
            sorted.push(node);
        }
        done.insert(id);
    }
    Ok(sorted)
}

/// Every waiting stage waits for another one, so following any of them must come round.
fn find_cycle(waiting: &BTreeMap<String, StageNode>) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let mut current = waiting.keys().next().cloned();
    while let Some(id) = current {
        if let Some(start) = path.iter().position(|seen| *seen == id) {
            path.drain(..start);
            path.push(id);
            return path;
        }
        current = waiting.get(&id).and_then(|node| {
            node.upstream().into_iter().find(|up| waiting.contains_key(*up)).map(str::to_owned)
        });
        path.push(id);
    }
    path
}

/// Draws the graph as lines of text: one stage a line with the stages it reads.
pub fn draw(stages: &[StageNode]) -> String {
    let width = stages.iter().map(|node| node.id.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (index, node) in stages.iter().enumerate() {
        let branch = if index + 1 == stages.len() { "└─" } else { "├─" };
        let upstream = node.upstream();
        let arrow = if upstream.is_empty() { String::new() } else { format!(" ← {}", upstream.join(", ")) };
        out.push_str(&format!("{branch} {:width$}{arrow}\n", node.id));
    }
    out
}
