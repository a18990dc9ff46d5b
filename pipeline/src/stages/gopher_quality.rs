//! `gopher_quality`: drops pages that are no running text, by Gopher's rules.

use classifiers::rules::GopherQuality;

use super::rules::{self, RuleConfig};
use super::{OutputKind, StageKind};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "gopher_quality",
    summary: "Drops pages that are no running text: by length, symbols, bullets, stop words (Gopher).",
    version: 1,
    inputs: rules::INPUTS,
    output: OutputKind::Table,
    schema: super::schema_of::<RuleConfig<GopherQuality>>,
    build: super::build_from::<RuleConfig<GopherQuality>>,
};
