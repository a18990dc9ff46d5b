//! A model with its tokenizer and its worker threads: what a backbone and a classifier have in common.

use crate::{
    BackboneError, BackboneOptions, Runtime,
    layout::{self, Layout},
    onnx::{Arithmetic, arithmetic, without_nan_guards},
    provider::Provider,
    session::{Model, Output, Page, PageSession},
    tokenize::PageTokenizer,
    workers::Workers,
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{path::Path, sync::Arc};
use tokio::task::unconstrained;

/// Fewer tokens would leave no room beside the two special ones.
const FEWEST_TOKENS: usize = 3;
/// Pages waiting in the queue for each session when a list is run.
pub(crate) const QUEUED_PAGES_PER_SESSION: usize = 8;
/// Pages among which batches of like length are sought. A fixed number, so that batches follow from the
/// order of the pages alone.
pub(crate) const WINDOW_PAGES: usize = 512;

#[derive(Debug)]
pub(crate) struct Engine {
    workers: Arc<Workers>,
    sessions: usize,
    /// Tokens of a batch at most, padding included; `None` when pages are run one by one.
    batch_tokens: Option<usize>,
    /// blake3 of the ONNX file, in hexadecimal.
    pub(crate) model_blake3: String,
    /// blake3 of the tokenizer.json, in hexadecimal.
    pub(crate) tokenizer_blake3: String,
    /// Length of a page's vector.
    pub(crate) width: usize,
}

impl Engine {
    /// Loads a model and its tokenizer, and runs one trial page of `max_tokens` tokens.
    pub(crate) fn load(
        runtime: &Runtime,
        model_onnx: &Path,
        tokenizer_json: &Path,
        options: &BackboneOptions,
        output: Output,
    ) -> Result<Self, BackboneError> {
        let cores = core_count(options)?;
        Provider::check(&options.providers)?;
        let model = read(model_onnx)?;
        let tokenizer_bytes = read(tokenizer_json)?;
        let tokenizer = PageTokenizer::from_bytes(&tokenizer_bytes, tokenizer_json, options.max_tokens)
            .map_err(|reason| BackboneError::Tokenizer { reason })?;
        let (providers, arithmetic) = (&options.providers, arithmetic(&model));
        let file = Model {
            bytes: &model,
            path: model_onnx,
            output,
            providers,
            is_quantised: arithmetic != Arithmetic::Float,
        };
        let id = tokenizer.largest_id();
        let mut first = PageSession::open(runtime, file, 1)?;
        let longest =
            Page { ids: vec![id; options.max_tokens], features: vec![0.0; first.features().names().len()] };
        let trial = first.run(&[longest]).map_err(|reason| BackboneError::Trial {
            model: model_onnx.to_owned(),
            tokenizer: tokenizer_json.to_owned(),
            tokens: options.max_tokens,
            id,
            reason,
        })?;
        let batch_tokens = options.batch_tokens.filter(|_| arithmetic != Arithmetic::BatchWide);
        let lighter = without_nan_guards(&model).filter(|_| batch_tokens.is_none());
        let file = match &lighter {
            Some(lighter) => lighter_if_same(runtime, file, lighter, &mut first, id)?,
            None => file,
        };
        drop(first);
        // A device has threads of its own: there sessions keep it busy while others prepare their pages.
        let layouts = match options.sessions {
            Some(sessions) => Layout::of_sessions(sessions, cores),
            None if file.on_cpu() => Layout::all(cores),
            None => Layout::of_sessions(cores, cores),
        };
        let sessions = layout::fastest(runtime, file, &layouts, id, options.max_tokens)?;
        Ok(Self {
            sessions: sessions.len(),
            workers: Arc::new(Workers::start(sessions, tokenizer, cores)?),
            batch_tokens,
            model_blake3: blake3::hash(&model).to_hex().to_string(),
            tokenizer_blake3: blake3::hash(&tokenizer_bytes).to_hex().to_string(),
            width: trial.first().map_or(0, Vec::len),
        })
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions
    }

    /// Whether pages are run in batches.
    pub(crate) fn has_batches(&self) -> bool {
        self.batch_tokens.is_some()
    }

    /// Queues one page at once; the future gives its vector.
    pub(crate) fn page(
        &self,
        text: String,
    ) -> impl Future<Output = Result<Vec<f32>, BackboneError>> + Send + use<> {
        self.workers.page(text)
    }

    /// Queues pages at once, to be run in batches of like length; the future gives their vectors, page by
    /// page.
    pub(crate) fn window(
        &self,
        texts: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Vec<f32>>, BackboneError>> + Send + use<> {
        let workers = Arc::clone(&self.workers);
        let batch_tokens = self.batch_tokens.unwrap_or(0);
        let tokens: Vec<_> = texts.into_iter().map(|text| workers.tokens(text)).collect();
        async move {
            let count = tokens.len();
            let mut pages: Vec<Page> = stream::iter(tokens).buffered(count.max(1)).try_collect().await?;
            let lengths: Vec<usize> = pages.iter().map(|page| page.ids.len()).collect();
            let queued: Vec<_> = by_length(&lengths, batch_tokens)
                .into_iter()
                .map(|places| {
                    let batch = places.iter().map(|&place| std::mem::take(&mut pages[place])).collect();
                    (workers.batch(batch), places)
                })
                .collect();
            let mut vectors = vec![Vec::new(); pages.len()];
            for (batch, places) in queued {
                for (vector, place) in batch.await?.into_iter().zip(places) {
                    vectors[place] = vector;
                }
            }
            Ok(vectors)
        }
    }

    /// Runs pages on all sessions and waits: `texts.len() × width` values, page after page.
    pub(crate) fn run(&self, texts: &[&str]) -> Result<Vec<f32>, BackboneError> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
        // Unconstrained: tokio would make a long list wait for its scheduler, which a blocked thread never
        // lets run.
        let all: Result<Vec<Vec<f32>>, BackboneError> = if self.has_batches() {
            let windows = stream::iter(texts.chunks(WINDOW_PAGES)).map(|texts| self.window(owned(texts)));
            futures::executor::block_on(unconstrained(windows.buffered(2).try_concat()))
        } else {
            let pages = stream::iter(texts).map(|text| self.page((*text).to_owned()));
            let in_flight = self.sessions * QUEUED_PAGES_PER_SESSION;
            futures::executor::block_on(unconstrained(pages.buffered(in_flight).try_collect()))
        };
        Ok(all?.concat())
    }
}

/// The model with the lighter graph, if a page of a few tokens gets the same bits by it.
fn lighter_if_same<'a>(
    runtime: &Runtime,
    file: Model<'a>,
    lighter: &'a [u8],
    session: &mut PageSession,
    largest_id: i64,
) -> Result<Model<'a>, BackboneError> {
    let file_lighter = Model { bytes: lighter, ..file };
    let page = [Page {
        ids: vec![0, largest_id / 2, largest_id],
        features: vec![0.0; session.features().names().len()],
    }];
    let bits = |session: &mut PageSession| match session.run(&page) {
        Ok(vectors) => Ok(vectors.concat().into_iter().map(f32::to_bits).collect::<Vec<u32>>()),
        Err(reason) => Err(BackboneError::Run { reason }),
    };
    let is_same = bits(&mut PageSession::open(runtime, file_lighter, 1)?)? == bits(session)?;
    Ok(if is_same { file_lighter } else { file })
}

/// Places of pages in batches: of like length, shortest first, and none of more than `batch_tokens` tokens
/// when padded to its longest page, unless a page alone has more.
fn by_length(lengths: &[usize], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&place| lengths[place]);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for place in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * lengths[place] <= batch_tokens => batch.push(place),
            _ => batches.push(vec![place]),
        }
    }
    batches
}

/// The cores to use, of options that can be.
fn core_count(options: &BackboneOptions) -> Result<usize, BackboneError> {
    if options.max_tokens < FEWEST_TOKENS {
        return Err(BackboneError::Option {
            option: "max_tokens",
            found: options.max_tokens,
            expected: "3 or more, at most the model's positions (512 for MiniLM)",
        });
    }
    for (option, found) in [("sessions", options.sessions), ("cores", options.cores)] {
        if found == Some(0) {
            let expected = "1 or more; leave it out for what suits the machine";
            return Err(BackboneError::Option { option, found: 0, expected });
        }
    }
    Ok(options.cores.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)))
}

fn read(path: &Path) -> Result<Vec<u8>, BackboneError> {
    std::fs::read(path).map_err(|source| BackboneError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_of_like_length_share_a_batch() {
        assert_eq!(by_length(&[9, 2, 3, 8, 2], 9), [vec![1, 4, 2], vec![3], vec![0]]);
        assert_eq!(by_length(&[5, 5], 1), [vec![0], vec![1]]);
        assert!(by_length(&[], 100).is_empty());
    }

    proptest! {
        #[test]
        fn every_page_is_in_one_batch_and_none_is_too_large(
            lengths in prop::collection::vec(1_usize..50, 0..60), batch_tokens in 0_usize..200,
        ) {
            let batches = by_length(&lengths, batch_tokens);
            for batch in &batches {
                let longest = batch.iter().map(|&place| lengths[place]).max().unwrap();
                prop_assert!(batch.len() == 1 || batch.len() * longest <= batch_tokens);
            }
            let mut places = batches.concat();
            places.sort_unstable();
            prop_assert_eq!(places, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
