//! Progress for people and for machines: one live line a stage on a terminal, plain lines
//! elsewhere, JSON lines with `--json`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::manifest::Manifest;
use crate::observe;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// Live lines on a terminal, plain lines elsewhere.
    Human,
    /// JSON lines on standard output.
    Json,
    /// Nothing.
    Quiet,
}

/// How often a plain log line is written for a running stage.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// How often a JSON line is written for a running stage.
const JSON_INTERVAL: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Counters {
    rows: AtomicU64,
    tokens: AtomicU64,
    total_rows: AtomicU64,
    peak_memory_bytes: AtomicU64,
    note: Mutex<String>,
}

/// Where one stage counts its work. Clones count together.
#[derive(Clone, Default)]
pub struct StageProgress(Arc<Counters>);

impl StageProgress {
    /// Rows (or pages, or steps) done.
    pub fn add_rows(&self, rows: u64) {
        self.0.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Tokens read or generated.
    pub fn add_tokens(&self, tokens: u64) {
        self.0.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// How many rows there will be; 0 when unknown.
    pub fn set_total(&self, rows: u64) {
        self.0.total_rows.store(rows, Ordering::Relaxed);
    }

    /// Rows done and rows that there will be; 0 when unknown.
    pub fn rows_of_total(&self) -> (u64, u64) {
        (self.0.rows.load(Ordering::Relaxed), self.0.total_rows.load(Ordering::Relaxed))
    }

    /// A short text behind the figures, such as the loss.
    pub fn set_note(&self, note: String) {
        *self.0.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    /// The largest resident memory seen while the stage ran, in bytes. Looks once more, since a
    /// stage may be shorter than the interval between two looks.
    pub fn peak_memory_bytes(&self) -> u64 {
        let now = MemoryProbe::new().resident_bytes();
        self.0.peak_memory_bytes.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// `1,204/3,000 rows, 60 rows/s, 182 tokens/s, about 30 s left`
    fn line(&self, elapsed: Duration) -> String {
        let rows = self.0.rows.load(Ordering::Relaxed);
        let total = self.0.total_rows.load(Ordering::Relaxed);
        let tokens = self.0.tokens.load(Ordering::Relaxed);
        let seconds = elapsed.as_secs_f64().max(0.001);
        let mut parts = Vec::new();
        if total > 0 {
            parts.push(format!("{}/{} rows", group(rows), group(total)));
        } else if rows > 0 {
            parts.push(format!("{} rows", group(rows)));
        }
        let rate = rows as f64 / seconds;
        if rows > 0 {
            parts.push(if rate < 10.0 {
                format!("{rate:.1} rows/s")
            } else {
                format!("{} rows/s", group(rate as u64))
            });
        }
        if tokens > 0 {
            parts.push(format!("{} tokens/s", group((tokens as f64 / seconds) as u64)));
        }
        if total > rows && rows > 0 && seconds > 2.0 {
            parts
                .push(format!("about {} left", rough(Duration::from_secs_f64((total - rows) as f64 / rate))));
        }
        let note = self.0.note.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !note.is_empty() {
            parts.push(note);
        }
        if parts.is_empty() { "starting".to_owned() } else { parts.join(", ") }
    }
}

/// A number with thousands separated.
pub fn group(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration to the precision that an estimate deserves.
pub fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{} s", duration.as_secs() + 1),
        s @ 10..60 => format!("{} s", s.div_ceil(5) * 5),
        s @ 60..3600 => format!("{} min", s.div_ceil(60)),
        s => format!("{:.1} h", s as f64 / 3600.0),
    }
}

/// A duration that may be days, to two digits.
pub fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0..172_800 => rough(duration),
        s => format!("{} days", group(s.div_ceil(86_400))),
    }
}

/// An estimated number: exact below ten thousand, then to three digits.
pub fn count(number: f64) -> String {
    let (value, unit) = match number.abs() {
        ..1e4 => return group(number.round() as u64),
        ..1e6 => (number / 1e3, " k"),
        ..1e9 => (number / 1e6, " M"),
        _ => (number / 1e9, " G"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}{unit}")
}

/// An amount of US dollars.
pub fn money(usd: f64) -> String {
    if usd < 1000.0 { format!("US$ {usd:.2}") } else { format!("US$ {}", group(usd.round() as u64)) }
}

/// A size in the unit that reads best.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    if value < 1024.0 { format!("{value:.2} GiB") } else { format!("{:.2} TiB", value / 1024.0) }
}

struct Running {
    progress: StageProgress,
    started: Instant,
    spoken: Instant,
    bar: Option<ProgressBar>,
}

/// Shows the running stages.
pub struct Reporter {
    mode: ProgressMode,
    bars: Option<MultiProgress>,
    running: Arc<Mutex<BTreeMap<String, Running>>>,
}

impl Reporter {
    /// A reporter with its ticking thread, which ends with the reporter.
    pub fn start(mode: ProgressMode) -> Self {
        let terminal = mode == ProgressMode::Human && std::io::stderr().is_terminal() && !observe::is_json();
        let running: Arc<Mutex<BTreeMap<String, Running>>> = Arc::default();
        let weak = Arc::downgrade(&running);
        std::thread::spawn(move || {
            let mut memory = MemoryProbe::new();
            while let Some(running) = weak.upgrade() {
                let bytes = memory.resident_bytes();
                for (id, stage) in running.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                    stage.progress.0.peak_memory_bytes.fetch_max(bytes, Ordering::Relaxed);
                    tick(mode, id, stage);
                }
                drop(running);
                std::thread::sleep(TICK);
            }
        });
        Self { mode, bars: terminal.then(MultiProgress::new), running }
    }

    /// A stage begins.
    pub fn stage_started(&self, id: &str, progress: &StageProgress) {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:<14} {elapsed:>5} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(id.to_owned());
            bar
        });
        match self.mode {
            ProgressMode::Json => emit(&json!({"event": "stage_started", "stage": id})),
            ProgressMode::Human if bar.is_none() => observe::say(&format!("{id}: started")),
            _ => {}
        }
        let now = Instant::now();
        let stage = Running { progress: progress.clone(), started: now, spoken: now, bar };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), stage);
    }

    /// A stage had nothing to do.
    pub fn stage_up_to_date(&self, manifest: &Manifest) {
        if self.mode == ProgressMode::Json {
            emit(&json!({
                "event": "stage_up_to_date", "stage": manifest.stage, "rows_in": manifest.rows_in,
                "rows_out": manifest.rows_out, "dropped": manifest.dropped,
                "quarantined": manifest.quarantined,
            }));
        }
    }

    /// A stage is done (with its manifest) or has failed (with `None`).
    pub fn stage_ended(&self, id: &str, manifest: Option<&Manifest>) {
        let stage = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(bar) = stage.and_then(|stage| stage.bar) {
            bar.finish_and_clear();
        }
        let Some(manifest) = manifest else { return };
        match self.mode {
            ProgressMode::Json => emit(&json!({
                "event": "stage_finished", "stage": id, "rows_in": manifest.rows_in,
                "rows_out": manifest.rows_out, "dropped": manifest.dropped,
                "quarantined": manifest.quarantined, "seconds": manifest.seconds,
                "peak_memory_bytes": manifest.peak_memory_bytes, "metrics": manifest.metrics,
            })),
            ProgressMode::Human => {
                let rows = group(manifest.rows_out);
                self.say(&format!("{id}: done, {rows} out, {:.1} s", manifest.seconds));
            }
            ProgressMode::Quiet => {}
        }
    }

    /// A line for people, above the live ones.
    pub fn say(&self, line: &str) {
        match (self.mode, &self.bars) {
            (ProgressMode::Human, Some(bars)) => {
                // Only a closed terminal can fail here, and then nobody reads it.
                let _ = bars.println(line);
            }
            (ProgressMode::Human, None) => observe::say(line),
            _ => {}
        }
    }
}

/// Writes one JSON line to standard output.
pub fn emit(event: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    // A reader that went away must not end the run.
    let _ = writeln!(out, "{event}");
}

fn tick(mode: ProgressMode, id: &str, stage: &mut Running) {
    let elapsed = stage.started.elapsed();
    if let Some(bar) = &stage.bar {
        bar.set_message(stage.progress.line(elapsed));
        bar.tick();
        return;
    }
    let interval = if mode == ProgressMode::Json { JSON_INTERVAL } else { PLAIN_INTERVAL };
    if stage.spoken.elapsed() < interval {
        return;
    }
    stage.spoken = Instant::now();
    match mode {
        ProgressMode::Human => observe::say(&format!("{id}: {}", stage.progress.line(elapsed))),
        ProgressMode::Json => emit(&json!({
            "event": "progress", "stage": id, "seconds": elapsed.as_secs(),
            "rows": stage.progress.0.rows.load(Ordering::Relaxed),
            "total_rows": stage.progress.0.total_rows.load(Ordering::Relaxed),
            "tokens": stage.progress.0.tokens.load(Ordering::Relaxed),
        })),
        ProgressMode::Quiet => {}
    }
}

/// Reads this process's resident memory.
struct MemoryProbe {
    system: sysinfo::System,
    process: Option<sysinfo::Pid>,
}

impl MemoryProbe {
    fn new() -> Self {
        Self { system: sysinfo::System::new(), process: sysinfo::get_current_pid().ok() }
    }

    fn resident_bytes(&mut self) -> u64 {
        let Some(process) = self.process else {
            return 0;
        };
        let which = sysinfo::ProcessesToUpdate::Some(&[process]);
        let what = sysinfo::ProcessRefreshKind::nothing().with_memory();
        self.system.refresh_processes_specifics(which, true, what);
        self.system.process(process).map_or(0, sysinfo::Process::memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(group(1_234_567), "1,234,567");
        assert_eq!(group(12), "12");
        assert_eq!(rough(Duration::from_secs(31)), "35 s");
        assert_eq!(rough(Duration::from_secs(61)), "2 min");
        assert_eq!(size(1536), "1.5 KiB");
    }

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let progress = StageProgress::default();
        progress.set_total(300);
        progress.add_rows(100);
        progress.add_tokens(5000);
        let line = progress.line(Duration::from_secs(10));
        assert_eq!(line, "100/300 rows, 10 rows/s, 500 tokens/s, about 20 s left");
    }
}
