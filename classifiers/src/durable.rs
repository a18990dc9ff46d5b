//! Files that appear whole or not at all.

use std::{fs::File, io::Write, path::Path};

/// Writes a file beside its place, syncs it and renames it in.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut partial_name = path.file_name().unwrap_or_default().to_owned();
    partial_name.push(".partial");
    let partial = folder.join(partial_name);
    let mut out = File::create(&partial)?;
    out.write_all(bytes).and_then(|()| out.sync_all())?;
    std::fs::rename(&partial, path)?;
    // A folder cannot be opened as a file everywhere; where it can, the name must last too.
    if let Ok(folder) = File::open(folder) {
        folder.sync_all()?;
    }
    Ok(())
}
