//! Takes one member out of a fetched archive, with a limit on what is written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::AssetError;
use super::spec::Member;

/// Largest zip file within a zip file that is written out while unpacking.
const INNER_LIMIT_BYTES: u64 = 1024 * 1024 * 1024;

/// What was written.
pub(super) struct Written {
    /// Bytes, at most the limit plus one.
    pub bytes: u64,
    /// BLAKE3 digest in hex.
    pub blake3: String,
}

/// Writes `member` of `archive` to `target` (a new file), fsyncs it, and returns its length and digest. Stops one byte
/// past `limit_bytes`, so that a member that claims more never fills the disk. Paths inside the archive are only
/// compared, never used as paths.
pub(super) fn extract(
    name: &'static str,
    archive: &Path,
    member: &Member,
    target: &Path,
    limit_bytes: u64,
) -> Result<Written, AssetError> {
    let file = File::open(archive).map_err(AssetError::io("open", archive))?;
    match member {
        Member::Whole => copy(file, target, limit_bytes).map_err(AssetError::io("write", target)),
        Member::TarGz(path) => {
            extract_tar(file, path, target, limit_bytes).map_err(|error| bad(name, archive, path, error))
        }
        Member::Zip(paths) => extract_zip(name, file, archive, paths, target, limit_bytes),
    }
}

fn bad(name: &'static str, archive: &Path, member: &str, reason: impl ToString) -> AssetError {
    AssetError::BadArchive {
        name,
        archive: archive.to_path_buf(),
        member: member.to_owned(),
        reason: reason.to_string(),
    }
}

fn extract_zip(
    name: &'static str,
    file: File,
    archive: &Path,
    paths: &[&str],
    target: &Path,
    limit_bytes: u64,
) -> Result<Written, AssetError> {
    let Some((path, inner)) = paths.split_first() else {
        return Err(bad(name, archive, "", "the table names no member"));
    };
    let mut zip =
        zip::ZipArchive::new(io::BufReader::new(file)).map_err(|error| bad(name, archive, path, error))?;
    let member = zip.by_name(path).map_err(|error| bad(name, archive, path, error))?;
    if inner.is_empty() {
        return copy(member, target, limit_bytes).map_err(|error| bad(name, archive, path, error));
    }
    // A zip file can only be read where one can seek, so the inner one is written out first.
    let between = target.with_extension("inner");
    copy(member, &between, INNER_LIMIT_BYTES).map_err(|error| bad(name, archive, path, error))?;
    let file = File::open(&between).map_err(AssetError::io("open", &between))?;
    let written = extract_zip(name, file, archive, inner, target, limit_bytes)?;
    std::fs::remove_file(&between).map_err(AssetError::io("remove", &between))?;
    Ok(written)
}

fn extract_tar(file: File, path: &str, target: &Path, limit_bytes: u64) -> io::Result<Written> {
    // The limit also bounds what has to be unpacked on the way to the member.
    let unpacked = flate2::read::GzDecoder::new(io::BufReader::new(file)).take(INNER_LIMIT_BYTES);
    let mut tar = tar::Archive::new(unpacked);
    for entry in tar.entries()? {
        let entry = entry?;
        if entry.path_bytes().as_ref() == path.as_bytes() {
            return copy(entry, target, limit_bytes);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "there is no such member"))
}

fn copy(reader: impl Read, target: &Path, limit_bytes: u64) -> io::Result<Written> {
    let mut reader = reader.take(limit_bytes.saturating_add(1));
    let mut out = File::create_new(target)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let part = buffer.get(..n).unwrap_or_default();
        hasher.update(part);
        out.write_all(part)?;
        bytes += n as u64;
    }
    out.sync_all()?;
    Ok(Written { bytes, blake3: hasher.finalize().to_hex().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    pub(crate) fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (path, bytes) in files {
            writer.start_file(*path, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn tar_gz_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn extract_from(
        archive: &[u8],
        member: Member,
        limit_bytes: u64,
    ) -> Result<(Written, Vec<u8>), AssetError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        fs::write(&path, archive).unwrap();
        let target = folder.path().join("member");
        let written = extract("bisac", &path, &member, &target, limit_bytes)?;
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "only the archive and the member are there");
        Ok((written, fs::read(&target).unwrap()))
    }

    #[test]
    fn members_come_out_whole_from_each_kind_of_archive() {
        let digest = blake3::hash(b"words").to_hex().to_string();
        let inner = zip_of(&[("deep.txt", b"words")]);
        let zip = zip_of(&[("other", b"x"), ("a/model.zip", &inner), ("a/plain.txt", b"words")]);
        let tar = tar_gz_of(&[("package/other", b"x"), ("package/data.json", b"words")]);
        for (archive, member) in [
            (&zip, Member::Zip(&["a/plain.txt"])),
            (&zip, Member::Zip(&["a/model.zip", "deep.txt"])),
            (&tar, Member::TarGz("package/data.json")),
        ] {
            let (written, bytes) = extract_from(archive, member, 100).unwrap();
            assert_eq!(bytes, b"words", "{member:?}");
            assert_eq!((written.bytes, &written.blake3), (5, &digest), "{member:?}");
        }
        assert_eq!(extract_from(&tar, Member::Whole, 1_000_000).unwrap().1, tar);
    }

    #[test]
    fn a_missing_member_is_named() {
        for (archive, member) in [
            (zip_of(&[("a", b"x")]), Member::Zip(&["b"])),
            (zip_of(&[("a", b"x")]), Member::Zip(&["a", "b"])),
            (tar_gz_of(&[("a", b"x")]), Member::TarGz("b")),
        ] {
            let error = extract_from(&archive, member, 100).err().unwrap();
            assert!(matches!(&error, AssetError::BadArchive { member, .. } if member == "b"), "{error}");
        }
    }

    #[test]
    fn broken_archives_are_errors() {
        let words: Vec<u8> = (0..4000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let zip = zip_of(&[("a", &words)]);
        let tar = tar_gz_of(&[("a", &words)]);
        for (archive, member) in [
            (&zip[..zip.len() / 2], Member::Zip(&["a"])),
            (&tar[..tar.len() / 2], Member::TarGz("a")),
            (&b"not an archive"[..], Member::Zip(&["a"])),
            (&b"not an archive"[..], Member::TarGz("a")),
            (&b""[..], Member::TarGz("a")),
        ] {
            let error = extract_from(archive, member, 1_000_000).err();
            assert!(matches!(error, Some(AssetError::BadArchive { .. })), "{member:?}: {error:?}");
        }
    }

    #[test]
    fn a_member_longer_than_expected_is_cut_one_byte_past_the_limit() {
        let zip = zip_of(&[("a", &vec![0; 1_000_000])]);
        assert_eq!(extract_from(&zip, Member::Zip(&["a"]), 99).unwrap().0.bytes, 100);
    }
}
