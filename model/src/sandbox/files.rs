//! What a program may read: a Landlock rule set.

use super::SandboxError;
use super::python::Python;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Where systems keep shared libraries; Python's modules link against them.
const LIBRARIES: &[&str] =
    &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/etc/ld.so.cache"];
/// Sources of nothing and of random bytes, and the local time zone.
const READ: &[&str] = &["/dev/null", "/dev/zero", "/dev/urandom", "/etc/localtime", "/usr/share/zoneinfo"];
/// The one file that may be written.
const WRITE: &str = "/dev/null";

/// The rule set that a program takes upon itself.
pub(super) fn rules(python: &Python) -> Result<OwnedFd, SandboxError> {
    let failed = |problem: String| SandboxError::Kernel { what: "Landlock".to_owned(), problem };
    let rules = build(python).map_err(|error| failed(error.to_string()))?;
    // None would mean that the kernel enforces nothing.
    Option::<OwnedFd>::from(rules).ok_or_else(|| failed("it is not switched on".to_owned()))
}

fn build(python: &Python) -> Result<RulesetCreated, RulesetError> {
    // The first version is a must: it forbids what is not allowed here. Later ones forbid what the list of
    // system calls has forbidden already, and are taken where the kernel has them.
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let libraries = LIBRARIES.iter().chain(READ).map(Path::new);
    for path in libraries.chain(python.modules.iter().map(AsRef::as_ref)) {
        rules = allow(rules, path, read)?;
    }
    for path in &python.mapped {
        rules = allow(rules, path, AccessFs::ReadFile | AccessFs::Execute)?;
    }
    allow(rules, Path::new(WRITE), AccessFs::WriteFile.into())
}

/// Allows `access` at and below a path, where it is there.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    // A file has no entries to list.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V6) };
    rules.add_rule(PathBeneath::new(opened, access))
}
