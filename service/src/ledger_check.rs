//! Whether the ledger's file is whole, for `pipeline verify --ledger`.
//!
//! SQLite keeps checksums of the write-ahead log alone. Of the file itself its structure, its indexes and the
//! types of its values can be checked; a bit that flips within a text goes unnoticed.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// How long to wait for a service at work.
const BUSY: Duration = Duration::from_secs(10);

/// What is wrong with the ledger; nothing is written.
///
/// # Errors
/// There is no ledger at that path.
pub fn problems(path: &Path) -> Result<Vec<String>, String> {
    if !path.is_file() {
        return Err(format!("there is no ledger at {}", path.display()));
    }
    let mut found: Vec<String> = cut_short(path).into_iter().chain(wal_problem(path)).collect();
    match look(path) {
        Ok(problems) => found.extend(problems),
        Err(error) => found.push(format!("SQLite cannot read it: {error}")),
    }
    Ok(found)
}

/// SQLite reads what lies behind the end of a file as zeros, which may look like an empty page. The header
/// says how long the file was when its counters agree: <https://www.sqlite.org/fileformat2.html#the_database_header>.
fn cut_short(path: &Path) -> Option<String> {
    let mut header = [0; 100];
    let mut file = File::open(path).ok()?;
    if file.read_exact(&mut header).is_err() {
        return Some("it is shorter than the header of a database".to_owned());
    }
    let bytes = file.metadata().ok()?.len();
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        page => u64::from(page),
    };
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let written = page * u64::from(word(28));
    (word(24) == word(92) && bytes < written)
        .then(|| format!("it has {bytes} bytes, and {written} were written: its end is missing"))
}

fn look(path: &Path) -> rusqlite::Result<Vec<String>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY)?;
    let mut found = Vec::new();
    let mut statement = connection.prepare("PRAGMA integrity_check(100)")?;
    for line in statement.query_map([], |row| row.get::<_, String>(0))? {
        found.push(line?);
    }
    found.retain(|line| line != "ok");
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    for table in statement.query_map([], |row| row.get::<_, String>(0))? {
        found.push(format!("a row of table `{}` belongs to none", table?));
    }
    Ok(found)
}

/// Bytes of the write-ahead log's header, and of each frame's.
const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// SQLite takes the first frame with a wrong checksum for the log's end, so commits behind a damaged one are
/// lost in silence: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>. Frames of this log's salt
/// behind its end tell.
fn wal_problem(path: &Path) -> Option<String> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let bytes = std::fs::read(&name).ok().filter(|bytes| !bytes.is_empty())?;
    let header = bytes.get(..WAL_HEADER)?;
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    let big_endian = match word(0)? {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => {
            return Some("its write-ahead log does not begin as one does; commits in it are lost".to_owned());
        }
    };
    let page = word(8)? as usize;
    let mut sums = checksum(&header[..24], (0, 0), big_endian);
    if (Some(sums.0), Some(sums.1)) != (word(24), word(28)) || page == 0 {
        return Some("the header of its write-ahead log is damaged; commits in it are lost".to_owned());
    }
    let salt = &header[16..24];
    let frames = (bytes.len() - WAL_HEADER) / (FRAME_HEADER + page);
    let mut end = None;
    for frame in 0..frames {
        let at = WAL_HEADER + frame * (FRAME_HEADER + page);
        let head = bytes.get(at..at + FRAME_HEADER)?;
        if end.is_none() {
            sums = checksum(&head[..8], sums, big_endian);
            sums = checksum(bytes.get(at + FRAME_HEADER..at + FRAME_HEADER + page)?, sums, big_endian);
            let whole =
                &head[8..16] == salt && (Some(sums.0), Some(sums.1)) == (word(at + 16), word(at + 20));
            if !whole {
                end = Some(frame);
            }
        } else if &head[8..16] == salt {
            let frame = end.unwrap_or_default();
            return Some(format!(
                "frame {frame} of its write-ahead log is damaged; the commits from there on are lost"
            ));
        }
    }
    None
}

/// SQLite's checksum of the write-ahead log, gone on with from `sums`.
fn checksum(bytes: &[u8], sums: (u32, u32), big_endian: bool) -> (u32, u32) {
    let number = |four: &[u8]| {
        let four = [four[0], four[1], four[2], four[3]];
        if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    };
    bytes.chunks_exact(8).fold(sums, |(first, second), pair| {
        let first = first.wrapping_add(number(&pair[..4])).wrapping_add(second);
        let second = second.wrapping_add(number(&pair[4..])).wrapping_add(first);
        (first, second)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database in a write-ahead log, with ten commits in the log.
    fn database(folder: &Path) -> (std::path::PathBuf, Connection) {
        let path = folder.join("ledger.sqlite");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE t (x TEXT UNIQUE, y INTEGER)").unwrap();
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        for n in 0..10 {
            connection.execute("INSERT INTO t VALUES (?1, ?2)", (format!("row {n}").repeat(50), n)).unwrap();
        }
        (path, connection)
    }

    #[test]
    fn a_whole_ledger_has_no_problem_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _open) = database(folder.path());
        assert_eq!(problems(&path).unwrap(), Vec::<String>::new());
        let error = problems(&folder.path().join("other")).unwrap_err();
        assert!(error.contains("other"), "{error}");
    }

    #[test]
    fn a_commit_that_is_lost_in_the_middle_of_the_log_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _open) = database(folder.path());
        let wal = folder.path().join("ledger.sqlite-wal");
        let bytes = std::fs::read(&wal).unwrap();
        for at in [0, 20, WAL_HEADER + 30, bytes.len() / 2] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            std::fs::write(&wal, &flipped).unwrap();
            let found = wal_problem(&path).unwrap_or_default();
            assert!(found.contains("are lost"), "byte {at}: {found}");
        }
        // A torn end is what a crash leaves: its commit was never said to be done.
        std::fs::write(&wal, &bytes[..bytes.len() - 100]).unwrap();
        assert_eq!(wal_problem(&path), None);
    }

    #[test]
    fn a_torn_or_overwritten_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, open) = database(folder.path());
        open.close().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for kept in [0, 50, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..kept]).unwrap();
            assert!(!problems(&path).unwrap().is_empty(), "cut to {kept} bytes");
        }
        let mut other = bytes.clone();
        other[..16].copy_from_slice(b"not a database!!");
        std::fs::write(&path, &other).unwrap();
        assert!(!problems(&path).unwrap().is_empty());
    }
}
