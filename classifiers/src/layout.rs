//! How many sessions run side by side, and with how many threads each: found by a short trial.

use crate::{
    BackboneError, Runtime,
    session::{Model, Page, PageSession},
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long each layout is tried, as far as whole pages allow.
const TRIAL: Duration = Duration::from_millis(300);
/// Pages of a trial at most, for each session of the first layout.
const MOST_PAGES_PER_SESSION: usize = 32;
/// With fewer cores a session a core is taken untried. With two, two sessions ran 20 pages a second and one of two
/// threads 17, while the trial took 2 s and the memory of another session.
const FEWEST_CORES: usize = 4;
/// Another layout must be this much faster than sessions of one thread, which share nothing.
const GAIN: f64 = 1.05;

/// Sessions side by side, and the threads of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) sessions: usize,
    pub(crate) threads: usize,
}

impl Layout {
    /// As many sessions as are wanted, of one thread and of as many as there are cores for.
    pub(crate) fn of_sessions(sessions: usize, cores: usize) -> Vec<Self> {
        let threads = (cores / sessions.max(1)).max(1);
        let mut layouts = vec![Self { sessions, threads: 1 }, Self { sessions, threads }];
        layouts.dedup();
        layouts
    }

    /// A session a core, and then ever fewer with ever more threads.
    pub(crate) fn all(cores: usize) -> Vec<Self> {
        let mut layouts = vec![Self { sessions: cores, threads: 1 }];
        if cores < FEWEST_CORES {
            return layouts;
        }
        let mut threads = 2;
        while threads < cores {
            layouts.push(Self { sessions: cores / threads, threads });
            threads *= 2;
        }
        layouts.push(Self { sessions: 1, threads: cores });
        layouts
    }

    fn open(self, runtime: &Runtime, model: Model) -> Result<Vec<PageSession>, BackboneError> {
        (0..self.sessions).map(|_| PageSession::open(runtime, model, self.threads)).collect()
    }
}

/// Sessions in that layout, of one or more, which runs most pages a second. The first has sessions of one thread.
///
/// Threads of one session could add up sums in another order than one thread does. Another layout is taken only if
/// the vectors of pages of several lengths have the same bits as with the first, so that what a page gets does
/// not hang on which layout was faster today.
pub(crate) fn fastest(
    runtime: &Runtime,
    model: Model,
    layouts: &[Layout],
    largest_id: i64,
    max_tokens: usize,
) -> Result<Vec<PageSession>, BackboneError> {
    let Some((first, others)) = layouts.split_first() else { return Ok(Vec::new()) };
    let mut best = first.open(runtime, model)?;
    if others.is_empty() {
        return Ok(best);
    }
    let pages = trial_pages(largest_id, max_tokens, best.first().map(|one| one.features().names().len()));
    let started = Instant::now();
    let expected = vectors(&mut best, &pages)?;
    let page = started.elapsed().as_secs_f64() / pages.len() as f64;
    let count = ((TRIAL.as_secs_f64() / page) as usize).clamp(1, MOST_PAGES_PER_SESSION) * first.sessions;
    let mut fastest = rate(&mut best, &pages, count)? * GAIN;
    for layout in others {
        let mut sessions = layout.open(runtime, model)?;
        let has_same_bits = vectors(&mut sessions, &pages)? == expected;
        let rate = rate(&mut sessions, &pages, count)?;
        tracing::debug!(layout.sessions, layout.threads, rate, has_same_bits, "a layout of scoring sessions");
        if has_same_bits && rate > fastest {
            (best, fastest) = (sessions, rate);
        }
    }
    Ok(best)
}

/// Pages of lengths between a few tokens and all.
fn trial_pages(largest_id: i64, max_tokens: usize, features: Option<usize>) -> Vec<Page> {
    let lengths = [max_tokens, max_tokens / 2, max_tokens / 3, max_tokens / 8, 3];
    // Multiples of a large prime: ids that look drawn.
    let id = |at: usize| (at as i64 * 7_919) % (largest_id + 1).max(1);
    lengths
        .map(|length| Page {
            ids: (0..length.max(1)).map(id).collect(),
            features: vec![0.5; features.unwrap_or_default()],
        })
        .into()
}

/// The bits of the pages' vectors by the first session.
fn vectors(sessions: &mut [PageSession], pages: &[Page]) -> Result<Vec<Vec<u32>>, BackboneError> {
    let Some(session) = sessions.first_mut() else { return Ok(Vec::new()) };
    let mut bits = Vec::with_capacity(pages.len());
    for page in pages {
        let vectors =
            session.run(std::slice::from_ref(page)).map_err(|reason| BackboneError::Run { reason })?;
        bits.push(vectors.concat().into_iter().map(f32::to_bits).collect());
    }
    Ok(bits)
}

/// Pages a second, all sessions at work.
fn rate(sessions: &mut [PageSession], pages: &[Page], count: usize) -> Result<f64, BackboneError> {
    let next = AtomicUsize::new(0);
    let work = |session: &mut PageSession| -> Result<(), String> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(());
            }
            session.run(std::slice::from_ref(&pages[at % pages.len()]))?;
        }
    };
    let started = Instant::now();
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = sessions.iter_mut().map(|session| scope.spawn(move || work(session))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done.map_err(|reason| BackboneError::Run { reason }),
            Err(_) => Err(BackboneError::WorkerGone),
        })
    })?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BackboneOptions, load_test_backbone, test_backbone};

    #[test]
    fn layouts_use_no_more_than_the_cores() {
        let pairs = |cores| Layout::all(cores).iter().map(|l| (l.sessions, l.threads)).collect::<Vec<_>>();
        assert_eq!(pairs(1), [(1, 1)]);
        assert_eq!(pairs(2), [(2, 1)]);
        assert_eq!(pairs(4), [(4, 1), (2, 2), (1, 4)]);
        assert_eq!(pairs(6), [(6, 1), (3, 2), (1, 4), (1, 6)]);
        assert_eq!(pairs(16), [(16, 1), (8, 2), (4, 4), (2, 8), (1, 16)]);
        let wanted = |sessions, cores| {
            let layouts = Layout::of_sessions(sessions, cores);
            layouts.iter().map(|l| (l.sessions, l.threads)).collect::<Vec<_>>()
        };
        assert_eq!(wanted(3, 16), [(3, 1), (3, 5)]);
        assert_eq!(wanted(4, 2), [(4, 1)]);
    }

    #[test]
    fn whatever_layout_is_taken_a_page_has_the_same_vector() {
        let Some(one) = test_backbone(64, 1) else {
            return;
        };
        let options = BackboneOptions { max_tokens: 64, cores: Some(4), ..Default::default() };
        let tried = load_test_backbone(&options).unwrap();
        let shared = load_test_backbone(&BackboneOptions { sessions: Some(1), ..options }).unwrap();
        let long = "Plants make sugar from light, water and air. ".repeat(30);
        let pages = ["Chlorophyll", long.as_str(), "", "中文 and more"];
        let expected = one.embed(&pages).unwrap();
        assert!([1, 2, 4].contains(&tried.sessions()), "{}", tried.sessions());
        assert_eq!(tried.embed(&pages).unwrap(), expected);
        assert_eq!(shared.embed(&pages).unwrap(), expected);
    }

    #[test]
    fn trial_pages_have_tokens_that_the_model_knows() {
        let pages = trial_pages(61, 8, Some(2));
        assert_eq!(pages.iter().map(|page| page.ids.len()).collect::<Vec<_>>(), [8, 4, 2, 1, 3]);
        assert!(pages.iter().all(|page| page.ids.iter().all(|id| (0..=61).contains(id))));
        assert!(pages.iter().all(|page| page.features.len() == 2));
    }
}
