//! Documentation sections as rows of FineWeb's schema.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha1::{Digest, Sha1};

use super::archive::{SourceFile, Wanted, read_sorted};
use super::package::{DocSet, Dollars, Package, PackageSpec};
use super::rst::{Context, RstReader, Substitutions};
use super::section::{Section, cut};
use super::titles::Titles;
use super::{OnReject, Reject, SampleError, SampleOptions, markdown};
use crate::units::hex;

/// Most bytes of documentation held at a time (the most in use: 7 MB).
const DOCS_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// Longest documentation file, in bytes.
const DOC_LIMIT_BYTES: u64 = 8 * 1024 * 1024;
/// Converted files that wait in each worker's channel.
const FILES_IN_FLIGHT: usize = 16;
/// Tokens of a GPT-2-like tokenizer in an English word, as a rule of thumb.
const TOKENS_PER_WORD: f64 = 1.3;
/// FineWeb's `dump` for pages that come from no crawl.
const DUMP: &str = "sample";

/// A row of the sample dump, in FineWeb's columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The path of titles in the first line, an empty line, the section's text.
    pub text: String,
    /// `<urn:sha1:…>`, the SHA-1 of the URL in hex.
    pub id: String,
    /// `sample`.
    pub dump: &'static str,
    /// The section's address in the published documentation, as near as can be told.
    pub url: String,
    /// Day of the package's release, as `2025-04-27T00:00:00Z`.
    pub date: &'static str,
    /// `ARCHIVE/PATH` of the source.
    pub file_path: String,
    /// `en`.
    pub language: &'static str,
    /// `whatlang`'s confidence that it is English, 0–1.
    pub language_score: f64,
    /// Words (separated by white space) × 1.3, rounded: an estimate, no tokenizer's count.
    pub token_count: i64,
}

/// What a worker makes of one file.
struct Converted {
    pages: Vec<Page>,
    rejects: Vec<Reject>,
}

/// Iterator over the pages of a package, in the order of sorted paths and of reading.
///
/// Workers convert files ahead of it, at most 16 each; dropping it stops them and their child processes.
pub struct Pages {
    workers: Vec<Worker>,
    next_worker: usize,
    files_left: usize,
    ready: std::vec::IntoIter<Page>,
    on_reject: OnReject,
}

struct Worker {
    /// `None` only while dropping.
    results: Option<Receiver<Result<Converted, SampleError>>>,
    thread: Option<JoinHandle<()>>,
}

/// The pages of `package`, whose source distribution lies at `sdist`; `docutils_wheel` is the asset `docutils`. A
/// package whose documentation may not be used ([`PackageSpec::docs`] is `None`) has none.
///
/// # Errors
/// An archive that is truncated, hostile or no gzipped tar file, at once; a Python that is missing or fails, from the
/// iterator, which then ends.
pub fn pages(
    sdist: &Path,
    package: Package,
    docutils_wheel: &Path,
    options: &SampleOptions,
    on_reject: OnReject,
) -> Result<Pages, SampleError> {
    let spec = package.spec();
    let Some(docs) = spec.docs else {
        return Ok(Pages::none(on_reject));
    };
    let wanted = Wanted { path: Box::new(move |path| docs.holds(path)), max_file_bytes: DOC_LIMIT_BYTES };
    let (files, rejects) = read_sorted(sdist, wanted, "its documentation", DOCS_LIMIT_BYTES)?;
    rejects.into_iter().for_each(|reject| on_reject(reject));
    let titles = Titles::gather(&files, &docs);
    let job = Arc::new(Job {
        files,
        titles,
        spec,
        docs,
        wheel: docutils_wheel.to_path_buf(),
        options: options.clone(),
        workers: options.processes.max(1),
    });
    let start = |index| {
        let (sender, results) = sync_channel(FILES_IN_FLIGHT);
        let job = Arc::clone(&job);
        let thread = std::thread::spawn(move || job.work(index, &sender));
        Worker { results: Some(results), thread: Some(thread) }
    };
    let workers = (0..job.workers).map(start).collect();
    Ok(Pages {
        workers,
        next_worker: 0,
        files_left: job.files.len(),
        ready: Vec::new().into_iter(),
        on_reject,
    })
}

/// What every worker shares.
struct Job {
    files: Vec<SourceFile>,
    titles: Titles,
    spec: PackageSpec,
    docs: DocSet,
    wheel: PathBuf,
    options: SampleOptions,
    workers: usize,
}

impl Job {
    /// Converts every n-th file; the consumer takes from the workers in turn, which keeps the files' order.
    fn work(&self, index: usize, results: &SyncSender<Result<Converted, SampleError>>) {
        let mut reader = None;
        for file in self.files.iter().skip(index).step_by(self.workers) {
            let converted = self.convert(file, &mut reader);
            let failed = converted.is_err();
            if results.send(converted).is_err() || failed {
                return;
            }
        }
    }

    fn convert(&self, file: &SourceFile, reader: &mut Option<RstReader>) -> Result<Converted, SampleError> {
        let document = self.docs.document(&file.path);
        if file.path.ends_with(".md") {
            return Ok(self.rows(file, markdown::sections(&file.text, document, &self.titles)));
        }
        let reader = match reader {
            Some(reader) => reader,
            None => reader.insert(RstReader::start(&self.wheel, &self.context())?),
        };
        match reader.sections(document, &file.text)? {
            Ok(sections) => Ok(self.rows(file, sections)),
            Err(detail) => {
                let reject = Reject { id: file.path.clone(), reason: "unparsable".into(), detail };
                Ok(Converted { pages: Vec::new(), rejects: vec![reject] })
            }
        }
    }

    fn context(&self) -> Context<'_> {
        let version = self.spec.version;
        Context {
            titles: &self.titles,
            default_role: self.docs.default_role,
            math_dollar: self.docs.dollars == Dollars::Math,
            substitutions: Substitutions {
                version,
                release: version,
                today: self.spec.date.get(..10).unwrap_or(""),
            },
        }
    }

    fn rows(&self, file: &SourceFile, sections: Vec<Section>) -> Converted {
        let cut = cut(sections, self.options.min_page_chars);
        let mut out = Converted { pages: Vec::new(), rejects: Vec::new() };
        for short in cut.too_short {
            let detail = format!("{} characters, at least {}", short.chars, self.options.min_page_chars);
            let id = self.docs.address(&file.path, &short.anchor);
            out.rejects.push(Reject { id, reason: "too_short".into(), detail });
        }
        for page in cut.pages {
            let url = self.docs.address(&file.path, &page.anchor);
            let (language, score) = language(&page.text);
            if language != "eng" || score < self.options.min_language_score {
                let detail = format!("{language} with confidence {score:.2}");
                out.rejects.push(Reject { id: url, reason: "language".into(), detail });
                continue;
            }
            let words = page.text.split_whitespace().count();
            out.pages.push(Page {
                id: format!("<urn:sha1:{}>", hex(&Sha1::digest(&url))),
                text: page.text,
                dump: DUMP,
                url,
                date: self.spec.date,
                file_path: format!("{}/{}", self.spec.sdist, file.path),
                language: "en",
                language_score: score,
                token_count: (words as f64 * TOKENS_PER_WORD).round() as i64,
            });
        }
        out
    }
}

/// ISO 639-3 code and confidence.
fn language(text: &str) -> (&'static str, f64) {
    whatlang::detect(text).map_or(("und", 0.0), |found| (found.lang().code(), found.confidence()))
}

impl Pages {
    fn none(on_reject: OnReject) -> Self {
        Self { workers: Vec::new(), next_worker: 0, files_left: 0, ready: Vec::new().into_iter(), on_reject }
    }
}

impl Iterator for Pages {
    type Item = Result<Page, SampleError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(page) = self.ready.next() {
                return Some(Ok(page));
            }
            if self.files_left == 0 {
                return None;
            }
            let results = self.workers.get(self.next_worker).and_then(|worker| worker.results.as_ref());
            match results.map_or(Err(std::sync::mpsc::RecvError), Receiver::recv) {
                Ok(Ok(converted)) => {
                    self.files_left -= 1;
                    self.next_worker = (self.next_worker + 1) % self.workers.len().max(1);
                    converted.rejects.into_iter().for_each(|reject| (self.on_reject)(reject));
                    self.ready = converted.pages.into_iter();
                }
                Ok(Err(error)) => {
                    self.files_left = 0;
                    return Some(Err(error));
                }
                Err(_) => {
                    self.files_left = 0;
                    return Some(Err(SampleError::WorkerLost));
                }
            }
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // First every channel, so that no worker waits to send while another is joined.
        self.workers.iter_mut().for_each(|worker| drop(worker.results.take()));
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::sdist;
    use super::super::rst::tests::wheel;
    use super::*;
    use std::fs;
    use std::sync::Mutex;

    const SENTENCE: &str =
        "The quick brown fox jumps over the lazy dog and then it walks home through the woods. ";

    fn archive(folder: &Path) -> PathBuf {
        let long = SENTENCE.repeat(10);
        let guide = format!(
            "Guide\n=====\n\n{long}\n\nInner\n-----\n\nSee :doc:`other`. {long}\n\nTail\n----\n\nShort.\n"
        );
        let other = format!(".. _x:\n\nOther ways\n==========\n\n{long}\n");
        let german = format!(
            "Anleitung\n=========\n\n{}\n",
            "Der schnelle Fuchs läuft durch den Wald und über die Wiese nach Hause. ".repeat(12)
        );
        let path = folder.join("sphinx.tar.gz");
        let files: [(&str, &[u8]); 5] = [
            ("s-1/doc/other.rst", other.as_bytes()),
            ("s-1/doc/guide.rst", guide.as_bytes()),
            ("s-1/doc/anleitung.rst", german.as_bytes()),
            ("s-1/doc/conf.py", b"x = 1"),
            ("s-1/doc/bad.rst", b"\xff\xfe"),
        ];
        fs::write(&path, sdist(&files)).unwrap();
        path
    }

    fn read(wheel: &Path, processes: usize) -> (Vec<Page>, Vec<Reject>) {
        let folder = tempfile::tempdir().unwrap();
        let rejects = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&rejects);
        let on_reject: OnReject = Arc::new(move |reject| seen.lock().unwrap().push(reject));
        let options = SampleOptions { processes, ..SampleOptions::default() };
        let pages = pages(&archive(folder.path()), Package::Sphinx, wheel, &options, on_reject).unwrap();
        let pages: Vec<Page> = pages.collect::<Result<_, _>>().unwrap();
        let rejects = rejects.lock().unwrap().clone();
        (pages, rejects)
    }

    #[test]
    fn sections_become_pages_with_address_and_titles() {
        let Some(wheel) = wheel() else { return };
        let (pages, rejects) = read(&wheel, 2);
        let urls: Vec<&str> = pages.iter().map(|page| page.url.as_str()).collect();
        let base = "https://www.sphinx-doc.org/en/v9.0.4";
        assert_eq!(
            urls,
            [format!("{base}/guide.html"), format!("{base}/guide.html#inner"), format!("{base}/other.html")]
        );
        assert!(pages[0].text.starts_with("Guide\n\nThe quick") && pages[0].text.ends_with("Tail\n\nShort."));
        assert!(pages[1].text.starts_with("Guide > Inner\n\nSee Other ways. The quick"));
        assert_eq!(pages[2].file_path, "sphinx-9.0.4.tar.gz/doc/other.rst");
        assert_eq!(pages[2].token_count, (2.0 + 170.0_f64 * 1.3).round() as i64 + 1);
        assert!(pages.iter().all(|page| page.language_score >= 0.65 && page.id.len() == 51));
        let reasons: Vec<&str> = rejects.iter().map(|reject| reject.reason.as_str()).collect();
        assert_eq!(reasons, ["not_utf8", "language"]);
        assert!(rejects[1].detail.starts_with("deu"), "{}", rejects[1].detail);
    }

    #[test]
    fn the_number_of_processes_changes_nothing() {
        let Some(wheel) = wheel() else { return };
        assert_eq!(read(&wheel, 1), read(&wheel, 3));
    }

    #[test]
    fn a_reader_that_stops_early_stops_the_workers() {
        let Some(wheel) = wheel() else { return };
        let folder = tempfile::tempdir().unwrap();
        let options = SampleOptions::default();
        let mut pages =
            pages(&archive(folder.path()), Package::Sphinx, &wheel, &options, Arc::new(|_| ())).unwrap();
        assert!(pages.next().unwrap().is_ok());
        drop(pages);
    }

    #[test]
    fn documentation_under_another_licence_is_not_read() {
        let none = Path::new("/nonexistent");
        let pages = pages(none, Package::Celery, none, &SampleOptions::default(), Arc::new(|_| ())).unwrap();
        assert_eq!(pages.count(), 0);
    }
}
