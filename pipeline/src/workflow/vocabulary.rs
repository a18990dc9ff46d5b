//! Models that have no room for their tokenizer's vocabulary: known before hours of work that lead there.

use super::StageNode;
use super::problem::Problem;
use super::tree::Table;
use crate::runner::progress::group;
use crate::stages::{PretrainConfig, TokenizerConfig};

/// Compares the `pretrain` stages with the `tokenizer` stages behind their tokens.
pub(super) fn check(stages: &[StageNode], tables: &Table, problems: &mut Vec<Problem>) {
    let input = |node: &StageNode, role: &str| {
        let id = node.inputs.get(role)?.first()?;
        stages.iter().find(|node| node.id == *id)
    };
    for trained in stages {
        let Some(config) = trained.as_kind::<PretrainConfig>() else { continue };
        let tokenizer = input(trained, "tokens").and_then(|tokens| input(tokens, "tokenizer"));
        let entries =
            tokenizer.and_then(StageNode::as_kind::<TokenizerConfig>).map(|config| config.0.vocab_size);
        // A shape that cannot be is a mistake of its own.
        let room = config.training.model.resolve().ok().map(|model| model.vocab_size);
        let (Some(entries), Some(room), Some(entry)) = (entries, room, tables.get(&trained.id)) else {
            continue;
        };
        if room < entries {
            let message = format!(
                "its tokenizer may have {} entries, and the model has room for {}",
                group(entries as u64),
                group(room as u64)
            );
            problems.push(Problem::at(&entry.key, message, "this model").help(format!(
                "set `training.model.vocab_size = {entries}` here, or a smaller `vocab_size` of the tokenizer"
            )));
        }
    }
}
