//! fastText's supervised models (`.bin`, and `.ftz` quantised), as far as predicting goes: language
//! identification by lid.176, and any other classifier of texts.
//!
//! Format and arithmetic are those of fastText 0.9.2 (facebookresearch/fastText, `src/{fasttext,dictionary,
//! loss,productquantizer}.cc`; Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"): the
//! same labels, probabilities within rounding.

mod dictionary;
mod loss;
mod matrix;
mod read;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use thiserror::Error;

use dictionary::Dictionary;
use loss::Loss;
use matrix::Matrix;
use read::Reader;

/// The first four bytes, little-endian.
const MAGIC: i32 = 793_712_314;
/// The newest version of the format; 11 is read as well.
const VERSION: i32 = 12;
/// A supervised model's number among the kinds of models.
const SUPERVISED: i32 = 3;

/// Why a model could not be loaded.
#[derive(Debug, Error)]
pub enum FastTextError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The file is no supervised fastText model, or a damaged one.
    #[error(
        "{}, byte {offset}: {reason}; expected a supervised fastText model (.bin or .ftz), for instance lid.176.bin",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

/// A label and how likely it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction<'m> {
    /// The label, without fastText's `__label__`.
    pub label: &'m str,
    /// Its probability, 0–1.
    pub probability: f32,
}

/// A model in memory: a dense one takes its file's size, a quantised one hardly more.
#[derive(Debug)]
pub struct FastText {
    dictionary: Dictionary,
    /// A row for each word and each bucket of n-grams.
    input: Matrix,
    /// A row for each label (for each inner node of the tree with hierarchical softmax).
    output: Matrix,
    loss: Loss,
}

/// What a prediction needs, kept from text to text.
#[derive(Default)]
struct Buffers {
    rows: Vec<u32>,
    hashes: Vec<u32>,
    word: Vec<u8>,
    hidden: Vec<f32>,
    scores: Vec<f32>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

impl FastText {
    /// Reads a model.
    ///
    /// # Errors
    /// The file cannot be read, or is no whole supervised model.
    pub fn load(path: &Path) -> Result<Self, FastTextError> {
        let failed = |source| FastTextError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file), length, path);
        Self::read(&mut reader)
    }

    fn read(reader: &mut Reader<'_, impl std::io::Read>) -> Result<Self, FastTextError> {
        if reader.i32()? != MAGIC {
            return Err(reader.wrong("these are not the first bytes of a fastText model"));
        }
        let version = reader.i32()?;
        if !(11..=VERSION).contains(&version) {
            return Err(reader.wrong(format_args!("version {version} of the format is not known")));
        }
        let sizes = Sizes::read(reader, version)?;
        let dictionary = Dictionary::read(reader, &sizes)?;
        let quantised = reader.u8()? != 0;
        let input = Matrix::read(reader, quantised, sizes.columns)?;
        if (input.rows() as u64) < dictionary.rows() {
            return Err(reader.wrong(format_args!(
                "{} rows of input are too few for the dictionary, which needs {}",
                input.rows(),
                dictionary.rows()
            )));
        }
        // The flag of the output matrix counts only in a quantised model.
        let output_quantised = reader.u8()? != 0 && quantised;
        let output = Matrix::read(reader, output_quantised, sizes.columns)?;
        let labels = dictionary.labels().len();
        if output.rows() < labels {
            return Err(reader.wrong(format_args!("{} rows of output for {labels} labels", output.rows())));
        }
        let loss = Loss::new(sizes.loss, dictionary.label_counts())
            .ok_or_else(|| reader.wrong(format_args!("loss {} is not known", sizes.loss)))?;
        Ok(Self { dictionary, input, output, loss })
    }

    /// All labels, without fastText's `__label__`.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.dictionary.labels()
    }

    /// The likeliest label of a text, whose ends of lines count as spaces (as datatrove gives texts to
    /// fastText); `None` where nothing of the text is in the model.
    #[must_use]
    pub fn predict(&self, text: &str) -> Option<Prediction<'_>> {
        BUFFERS.with_borrow_mut(|buffers| {
            self.dictionary.rows_of(text, &mut buffers.rows, &mut buffers.hashes, &mut buffers.word);
            if buffers.rows.is_empty() {
                return None;
            }
            self.input.mean(&buffers.rows, &mut buffers.hidden);
            let (label, score) = self.loss.best(&self.output, &buffers.hidden, &mut buffers.scores);
            let label = self.dictionary.labels().get(label)?;
            Some(Prediction { label, probability: score.exp().min(1.0) })
        })
    }
}

/// The numbers of the header that predicting needs.
struct Sizes {
    columns: usize,
    word_ngrams: usize,
    loss: i32,
    buckets: u32,
    shortest: usize,
    longest: usize,
}

impl Sizes {
    fn read(reader: &mut Reader<'_, impl std::io::Read>, version: i32) -> Result<Self, FastTextError> {
        let columns = reader.size_i32("dimension", 1)?;
        for _training in ["window", "epochs", "least count", "negatives"] {
            reader.i32()?;
        }
        let word_ngrams = reader.size_i32("length of word n-grams", 0)?;
        let loss = reader.i32()?;
        let model = reader.i32()?;
        if model != SUPERVISED {
            return Err(reader.wrong("the model is one of word vectors"));
        }
        let buckets = reader.size_i32("number of buckets", 0)?;
        let shortest = reader.size_i32("least length of n-grams", 0)?;
        let longest = reader.size_i32("greatest length of n-grams", 0)?;
        reader.i32()?;
        reader.f64()?;
        // Supervised models of version 11 had no n-grams of letters, whatever the header says.
        let longest = if version == 11 { 0 } else { longest };
        if buckets == 0 && (longest > 0 || word_ngrams > 1) {
            return Err(reader.wrong("there are n-grams, but no bucket for them"));
        }
        let buckets = u32::try_from(buckets).map_err(|_| reader.wrong("too many buckets"))?;
        Ok(Self { columns, word_ngrams, loss, buckets, shortest, longest })
    }
}
