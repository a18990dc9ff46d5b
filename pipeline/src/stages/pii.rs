//! `pii`: replaces mail addresses and public IPv4 addresses.

use classifiers::rules::Pii;

use super::rules::{self, RuleConfig};
use super::{OutputKind, StageKind};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "pii",
    summary: "Replaces mail addresses and public IPv4 addresses in texts.",
    version: 1,
    inputs: rules::INPUTS,
    output: OutputKind::Table,
    schema: super::schema_of::<RuleConfig<Pii>>,
    build: super::build_from::<RuleConfig<Pii>>,
};
