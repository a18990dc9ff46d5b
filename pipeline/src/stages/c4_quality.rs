//! `c4_quality`: drops lines that are no sentences, and pages with too few left, by C4's rules.

use classifiers::rules::C4Quality;

use super::rules::{self, RuleConfig};
use super::{OutputKind, StageKind};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "c4_quality",
    summary: "Drops lines that are no sentences, and pages with too few of them left (C4).",
    version: 1,
    inputs: rules::INPUTS,
    output: OutputKind::Table,
    schema: super::schema_of::<RuleConfig<C4Quality>>,
    build: super::build_from::<RuleConfig<C4Quality>>,
};
