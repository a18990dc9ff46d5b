//! Pages with any of the terms, a window of pages after the other.

use tantivy::{DocId, TERMINATED};

use super::cursor::Cursor;
use super::top::ShardTop;
use super::window::Window;

/// Postings that can be read through in the time that looking up one page takes, by measurement.
const POSTINGS_PER_LOOK_UP: usize = 12;

/// Offers every page that may be among the best to `best`.
pub(super) fn rank(cursors: Vec<Cursor>, best: &mut ShardTop, admit: &dyn Fn(DocId) -> bool) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { rank_avx2(cursors, best, admit) };
    }
    rank_windows(cursors, best, admit);
}

/// The same, compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1")]
fn rank_avx2(cursors: Vec<Cursor>, best: &mut ShardTop, admit: &dyn Fn(DocId) -> bool) {
    rank_windows(cursors, best, admit);
}

/// The terms with the smallest bounds whose bounds together stay below the floor are *optional*: a
/// page with none but them cannot be among the best. So only the postings of the others must be read
/// through. What they find is enough to tell which pages an optional term is still wanted for; where
/// these are few they are looked up, else the term's postings are read through too.
#[inline(always)]
fn rank_windows(mut cursors: Vec<Cursor>, best: &mut ShardTop, admit: &dyn Fn(DocId) -> bool) {
    cursors.sort_by(|a, b| a.bound().total_cmp(&b.bound()));
    // bounds[n]: what the first n terms add together at most.
    let mut bounds = vec![0.0];
    for cursor in &cursors {
        bounds.push(bounds[bounds.len() - 1] + cursor.bound());
    }
    let mut window = Window::new();
    let mut optional = 0;
    loop {
        while optional < cursors.len() && bounds[optional + 1] < best.least() {
            optional += 1;
        }
        let (optional_terms, needed_terms) = cursors.split_at_mut(optional);
        let first = needed_terms.iter().map(|cursor| cursor.page()).min().unwrap_or(TERMINATED);
        if first == TERMINATED {
            return;
        }
        for cursor in needed_terms {
            cursor.add_to(&mut window, first);
        }
        let mut left = optional;
        // The greatest bound first: it decides soonest.
        while let Some(cursor) = left.checked_sub(1).map(|last| &mut optional_terms[last]) {
            let wanted = window.count(best.least() - bounds[left]);
            if wanted * POSTINGS_PER_LOOK_UP <= cursor.in_window {
                break;
            }
            // Pages with optional terms alone get a sum too, but one below the floor.
            cursor.seek(first);
            cursor.add_to(&mut window, first);
            left -= 1;
        }
        let optional_terms = &mut optional_terms[..left];
        window.drain(best.least() - bounds[left], |place, sum| {
            let page = first + place;
            let sum = with_optional(optional_terms, &bounds, page, sum, best.least());
            if let Some(sum) = sum
                && best.may_enter(sum)
                && admit(page)
            {
                best.push(page, sum);
            }
            best.least() - bounds[left]
        });
    }
}

/// The whole sum of a page, or `None` once it cannot be `least`.
#[inline(always)]
fn with_optional(
    optional_terms: &mut [Cursor],
    bounds: &[f64],
    page: DocId,
    mut sum: f64,
    least: f64,
) -> Option<f64> {
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
