//! `fineweb_quality`: drops pages that are lists, menus or cut up, by FineWeb's own rules.

use classifiers::rules::FinewebQuality;

use super::rules::{self, RuleConfig};
use super::{OutputKind, StageKind};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "fineweb_quality",
    summary: "Drops pages of short, repeated or unended lines (FineWeb).",
    version: 1,
    inputs: rules::INPUTS,
    output: OutputKind::Table,
    schema: super::schema_of::<RuleConfig<FinewebQuality>>,
    build: super::build_from::<RuleConfig<FinewebQuality>>,
};
