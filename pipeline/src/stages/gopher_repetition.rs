//! `gopher_repetition`: drops pages that repeat themselves, by Gopher's rules.

use classifiers::rules::GopherRepetition;

use super::rules::{self, RuleConfig};
use super::{OutputKind, StageKind};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "gopher_repetition",
    summary: "Drops pages that repeat themselves: lines, paragraphs, runs of words (Gopher).",
    version: 1,
    inputs: rules::INPUTS,
    output: OutputKind::Table,
    schema: super::schema_of::<RuleConfig<GopherRepetition>>,
    build: super::build_from::<RuleConfig<GopherRepetition>>,
};
