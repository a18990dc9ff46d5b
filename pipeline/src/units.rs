//! Sizes as people write them, and digests as they are written.

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses a size: `512MiB`, `4GB`, `1.5GiB`, plain bytes, or a share of the machine's memory, `70%`.
///
/// # Errors
/// A text that says what forms there are.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if let Some(percent) = text.strip_suffix('%') {
        let share: f64 = percent.trim().parse().map_err(|_| wrong(text))?;
        if !(share > 0.0 && share <= 100.0) {
            return Err(wrong(text));
        }
        return Ok((machine_memory_bytes() as f64 * share / 100.0) as u64);
    }
    parse_bytes(text)
}

/// Parses a size in bytes: `256MiB`, `1GB`, `4096`.
///
/// # Errors
/// A text that says what forms there are.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong(text))?;
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong(text)),
    };
    let bytes = number * factor;
    if bytes >= 1.0 && bytes < 2f64.powi(60) { Ok(bytes as u64) } else { Err(wrong(text)) }
}

fn wrong(text: &str) -> String {
    format!("`{text}` is not a size; write for example 512MiB, 4GB or 70%")
}

/// The machine's memory in bytes.
pub fn machine_memory_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    system.total_memory()
}

/// The CPU threads that this process may use.
pub fn machine_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("256MiB"), Ok(256 << 20));
        assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("12"), Ok(12));
        assert!(parse_bytes("12 parsecs").is_err());
        assert!(parse_bytes("-1").is_err());
        assert!(parse_bytes("0").is_err());
        assert!(parse_memory("0%").is_err());
        assert_eq!(parse_memory("50%").unwrap(), (machine_memory_bytes() as f64 * 0.5) as u64);
    }
}
