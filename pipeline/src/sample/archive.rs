//! Streams files out of a gzipped tar file, in one pass, trusting nothing in it.
//!
//! Nothing is written to disk. A thread unpacks and sends file after file through a small channel, so that a consumer
//! holds one file at a time and may stop whenever it likes.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{Reject, SampleError};

/// Most bytes an archive may unpack to (the largest in use: 63 MB).
const ARCHIVE_LIMIT_BYTES: u64 = 256 * 1024 * 1024;
/// Most bytes a single member may claim.
const MEMBER_LIMIT_BYTES: u64 = 128 * 1024 * 1024;
/// Files that wait between the unpacking thread and the consumer.
const FILES_IN_FLIGHT: usize = 16;

/// A text file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceFile {
    /// Path inside the package, without the archive's top folder.
    pub path: String,
    /// Its bytes as text.
    pub text: String,
}

/// What comes out of an archive.
pub(super) enum Item {
    File(SourceFile),
    Rejected(Reject),
}

/// Which files are wanted, and how long they may be.
pub(super) struct Wanted {
    /// Whether the path (inside the package) is wanted.
    pub path: Box<dyn Fn(&str) -> bool + Send>,
    /// Longest file, in bytes; longer ones are rejected as `too_large`.
    pub max_file_bytes: u64,
}

/// Starts reading `archive`; the wanted files come in the archive's order, and after an error nothing more comes.
pub(super) fn read(archive: &Path, wanted: Wanted) -> Receiver<Result<Item, SampleError>> {
    let (sender, receiver) = sync_channel(FILES_IN_FLIGHT);
    let archive = archive.to_path_buf();
    std::thread::spawn(move || {
        if let Err(error) = walk(&archive, &wanted, &sender) {
            // A consumer that has gone wants no error either.
            sender.send(Err(error)).ok();
        }
    });
    receiver
}

fn walk(
    archive: &Path,
    wanted: &Wanted,
    sender: &SyncSender<Result<Item, SampleError>>,
) -> Result<(), SampleError> {
    let failed = SampleError::archive(archive);
    let file = File::open(archive).map_err(&failed)?;
    let unpacked = Limited {
        inner: flate2::read::MultiGzDecoder::new(BufReader::new(file)),
        left_bytes: ARCHIVE_LIMIT_BYTES,
    };
    let mut tar = tar::Archive::new(unpacked);
    let explain = |error: io::Error| match error.kind() {
        io::ErrorKind::FileTooLarge => SampleError::TooLarge {
            path: archive.to_path_buf(),
            what: "the archive".into(),
            limit_bytes: ARCHIVE_LIMIT_BYTES,
        },
        _ => failed(error),
    };
    for entry in tar.entries().map_err(explain)? {
        let mut entry = entry.map_err(explain)?;
        let member = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(path) = inside(&member) else {
            return Err(SampleError::UnsafePath { path: archive.to_path_buf(), member });
        };
        if entry.size() > MEMBER_LIMIT_BYTES {
            return Err(SampleError::TooLarge {
                path: archive.to_path_buf(),
                what: format!("member `{member}`"),
                limit_bytes: MEMBER_LIMIT_BYTES,
            });
        }
        if !entry.header().entry_type().is_file() || !(wanted.path)(path) {
            continue;
        }
        let item = if entry.size() > wanted.max_file_bytes {
            let detail = format!("{} bytes, limit {}", entry.size(), wanted.max_file_bytes);
            rejected(path, "too_large", detail)
        } else {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(explain)?;
            match String::from_utf8(bytes) {
                Ok(text) if text.trim().is_empty() => rejected(path, "empty", "no text in it".into()),
                Ok(text) => Item::File(SourceFile { path: path.to_owned(), text }),
                Err(error) => rejected(path, "not_utf8", error.utf8_error().to_string()),
            }
        };
        if sender.send(Ok(item)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn rejected(path: &str, reason: &str, detail: String) -> Item {
    Item::Rejected(Reject { id: path.to_owned(), reason: reason.to_owned(), detail })
}

/// The path without the top folder; `None` if it leads out of the archive.
fn inside(member: &str) -> Option<&str> {
    let leads_out = member.starts_with('/') || member.contains('\\') && member.contains("..");
    if leads_out || member.split('/').any(|part| part == "..") {
        return None;
    }
    let member = member.strip_prefix("./").unwrap_or(member);
    Some(member.split_once('/').map_or(member, |(_, rest)| rest))
}

/// A reader that fails, rather than ends, when more comes than allowed.
struct Limited<R> {
    inner: R,
    left_bytes: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left_bytes = self
            .left_bytes
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "unpacks to more than allowed"))?;
        Ok(n)
    }
}

/// Reads all wanted files into memory, sorted by path; `limit_bytes` bounds their sum.
pub(super) fn read_sorted(
    archive: &Path,
    wanted: Wanted,
    what: &str,
    limit_bytes: u64,
) -> Result<(Vec<SourceFile>, Vec<Reject>), SampleError> {
    let (mut files, mut rejects, mut total_bytes) = (Vec::new(), Vec::new(), 0);
    for item in read(archive, wanted) {
        match item? {
            Item::File(file) => {
                total_bytes += file.text.len() as u64;
                if total_bytes > limit_bytes {
                    let path = PathBuf::from(archive);
                    return Err(SampleError::TooLarge { path, what: what.to_owned(), limit_bytes });
                }
                files.push(file);
            }
            Item::Rejected(reject) => rejects.push(reject),
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((files, rejects))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;

    /// A gzipped tar file in which paths stand as given, also those that `tar` itself would refuse.
    pub(crate) fn sdist(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, bytes) in files {
            let mut header = tar::Header::new_old();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn wanted(max_file_bytes: u64) -> Wanted {
        Wanted { path: Box::new(|path| path.ends_with(".py")), max_file_bytes }
    }

    fn read_all(archive: &[u8], max_file_bytes: u64) -> Result<(Vec<SourceFile>, Vec<Reject>), SampleError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p-1.0.tar.gz");
        fs::write(&path, archive).unwrap();
        read_sorted(&path, wanted(max_file_bytes), "its Python files", 1_000_000)
    }

    #[test]
    fn wanted_files_come_sorted_and_the_others_are_counted() {
        let archive = sdist(&[
            ("p-1.0/z.py", b"z = 1"),
            ("p-1.0/a/b.py", b"b = 2"),
            ("p-1.0/readme.md", b"# no"),
            ("p-1.0/latin.py", b"# caf\xe9"),
            ("p-1.0/__init__.py", b"\n"),
            ("p-1.0/long.py", &[b'#'; 200]),
        ]);
        let (files, rejects) = read_all(&archive, 100).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a/b.py", "z.py"]);
        assert_eq!(files[1].text, "z = 1");
        let reasons: Vec<(&str, &str)> = rejects.iter().map(|r| (r.id.as_str(), r.reason.as_str())).collect();
        assert_eq!(reasons, [("latin.py", "not_utf8"), ("__init__.py", "empty"), ("long.py", "too_large")]);
    }

    #[test]
    fn paths_that_lead_out_end_the_run() {
        for path in ["../evil.py", "p-1.0/../../evil.py", "/etc/evil.py", "p-1.0/a/.."] {
            let error = read_all(&sdist(&[(path, b"x")]), 100).unwrap_err();
            assert!(
                matches!(&error, SampleError::UnsafePath { member, .. } if member == path),
                "{path}: {error}"
            );
        }
    }

    #[test]
    fn a_truncated_archive_is_an_error_that_names_it() {
        let noise: Vec<u8> =
            (0..50_000u32).map(|i| b"abcdefgh"[(i.wrapping_mul(2_654_435_761) >> 29) as usize]).collect();
        let archive = sdist(&[("p-1.0/a.py", &noise), ("p-1.0/b.py", &noise)]);
        for cut in [1, 10, archive.len() / 3, archive.len() - 20] {
            let error = read_all(&archive[..cut], 1_000_000).unwrap_err();
            assert!(matches!(error, SampleError::Archive { .. }), "{cut}: {error}");
            assert!(error.to_string().contains("p-1.0.tar.gz"));
        }
        assert!(read_all(b"not a gzip file", 100).is_err());
    }

    #[test]
    fn a_member_that_claims_to_be_huge_is_refused() {
        let mut header = tar::Header::new_gnu();
        header.set_path("p-1.0/a.py").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gz, header.as_bytes()).unwrap();
        let error = read_all(&gz.finish().unwrap(), 100).unwrap_err();
        assert!(matches!(error, SampleError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn files_that_sum_up_to_too_much_are_refused() {
        let bytes = vec![b'#'; 400_000];
        let archive = sdist(&[("p/a.py", &bytes), ("p/b.py", &bytes), ("p/c.py", &bytes)]);
        assert!(matches!(read_all(&archive, 1_000_000), Err(SampleError::TooLarge { .. })));
    }

    #[test]
    fn a_reader_fails_past_its_limit() {
        let mut reader = Limited { inner: io::repeat(0), left_bytes: 1_000 };
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
