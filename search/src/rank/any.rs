//! Pages with any of the terms, a window of pages after the other.

use std::cell::Cell;

use tantivy::{DocId, TERMINATED};

use super::cursor::Cursor;
use super::top::{Admit, ShardTop};
#[cfg(target_arch = "x86_64")]
use super::window::{Avx2, Avx512};
use super::window::{Compare, Portable, Window};

/// Postings that can be read through in the time that looking up one page takes, by measurement.
const POSTINGS_PER_LOOK_UP: usize = 12;

/// Offers every page that may be among the best to `best`.
pub(super) fn rank(cursors: Vec<Cursor>, best: &mut ShardTop, admit: Admit) {
    // Making one takes as long as a short list; it is left empty.
    thread_local! {
        static WINDOW: Cell<Option<Window>> = const { Cell::new(None) };
    }
    let mut window = WINDOW.take().unwrap_or_default();
    rank_fast(cursors, &mut window, best, admit);
    WINDOW.set(Some(window));
}

fn rank_fast(cursors: Vec<Cursor>, window: &mut Window, best: &mut ShardTop, admit: Admit) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("popcnt") {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { rank_avx512(cursors, window, best, admit) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { rank_avx2(cursors, window, best, admit) };
        }
    }
    rank_windows::<Portable>(cursors, window, best, admit);
}

/// The same, compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn rank_avx2(cursors: Vec<Cursor>, window: &mut Window, best: &mut ShardTop, admit: Admit) {
    rank_windows::<Avx2>(cursors, window, best, admit);
}

/// The same again.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,bmi1,popcnt")]
fn rank_avx512(cursors: Vec<Cursor>, window: &mut Window, best: &mut ShardTop, admit: Admit) {
    rank_windows::<Avx512>(cursors, window, best, admit);
}

/// The terms with the smallest bounds whose bounds together stay below the floor are *optional*: a
/// page with none but them cannot be among the best. So only the postings of the others must be read
/// through. What they find is enough to tell which pages an optional term is still wanted for; where
/// these are few they are looked up, else the term's postings are read through too.
#[inline(always)]
fn rank_windows<C: Compare>(
    mut cursors: Vec<Cursor>,
    window: &mut Window,
    best: &mut ShardTop,
    admit: Admit,
) {
    // bounds[n]: what the first n terms add together at most.
    let mut bounds = vec![0];
    for cursor in &cursors {
        bounds.push(bounds[bounds.len() - 1] + cursor.bound());
    }
    let mut optional = 0;
    let mut wanted = Vec::new();
    loop {
        while optional < cursors.len() && bounds[optional + 1] < best.least() {
            optional += 1;
        }
        let (optional_terms, needed_terms) = cursors.split_at_mut(optional);
        let first = needed_terms.iter().map(|cursor| cursor.page()).min().unwrap_or(TERMINATED);
        if first == TERMINATED {
            return;
        }
        window.expect(needed_terms.iter().map(|cursor| cursor.in_window).sum());
        for cursor in needed_terms {
            cursor.add_to(window, first);
        }
        let mut left = optional;
        // The greatest bound first: it decides soonest.
        while let Some(cursor) = left.checked_sub(1).map(|last| &mut optional_terms[last]) {
            let least = best.least() - bounds[left];
            if window.count::<C>(least) * POSTINGS_PER_LOOK_UP <= cursor.in_window {
                window.places::<C>(least, &mut wanted);
                break;
            }
            // Pages with optional terms alone get a sum too, but one below the floor.
            window.stop_listing();
            cursor.seek(first);
            cursor.add_to(window, first);
            left -= 1;
        }
        if left == 0 && !window.lists() {
            window.drain::<C>(best.least(), |place, sum| {
                best.offer(first + place, sum, admit);
                best.least()
            });
            continue;
        }
        if left == 0 {
            window.places::<C>(best.least(), &mut wanted);
        }
        for &place in &wanted {
            let (page, sum) = (first + place, window.sum(place));
            if let Some(sum) = with_optional(&mut optional_terms[..left], &bounds, page, sum, best.least()) {
                best.offer(page, sum, admit);
            }
        }
        window.clear();
    }
}

/// The whole sum of a page, or `None` once it cannot be `least`.
#[inline(always)]
fn with_optional(
    optional_terms: &mut [Cursor],
    bounds: &[u32],
    page: DocId,
    mut sum: u32,
    least: u32,
) -> Option<u32> {
    for (number, cursor) in optional_terms.iter_mut().enumerate().rev() {
        if sum + bounds[number + 1] < least {
            return None;
        }
        if cursor.seek(page) == page {
            sum += cursor.score();
        }
    }
    Some(sum)
}
