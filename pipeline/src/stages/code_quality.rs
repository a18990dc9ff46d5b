//! `code_quality`: drops source files that are data, minified, written by programs, or no Python.

use classifiers::rules::CodeQuality;

use super::rules::{self, RuleConfig};
use super::{OutputKind, StageKind};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "code_quality",
    summary: "Drops source files that are data, minified, generated or no Python (StarCoder).",
    version: 1,
    inputs: rules::INPUTS,
    output: OutputKind::Table,
    schema: super::schema_of::<RuleConfig<CodeQuality>>,
    build: super::build_from::<RuleConfig<CodeQuality>>,
};
