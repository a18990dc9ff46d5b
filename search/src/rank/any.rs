//! Pages with any of the terms, a window of pages after the other.

use tantivy::{DocId, TERMINATED};

use super::best::Best;
use super::cursor::Cursor;
use super::fixed;

/// Pages of a window: its sums stay in the first-level cache.
const WINDOW_PAGES: usize = 2_048;

/// The sums of a window, and which of its pages have one.
struct Window {
    sums: Vec<i64>,
    touched: [u64; WINDOW_PAGES / 64],
}

/// Offers every page that may be among the best to `best`.
///
/// The terms with the smallest bounds whose bounds together stay below the floor are *optional*: a
/// page with none but them cannot be among the best. So only the postings of the others are read
/// through; in what they find, the optional ones are looked up while the page can still make it.
pub(super) fn rank(mut cursors: Vec<Cursor>, best: &mut Best, admit: &dyn Fn(DocId) -> bool) {
    cursors.sort_by_key(Cursor::bound);
    // bounds[n]: what the first n terms add together at most.
    let mut bounds = vec![0];
    for cursor in &cursors {
        bounds.push(bounds[bounds.len() - 1] + cursor.bound());
    }
    let mut window = Window { sums: vec![0; WINDOW_PAGES], touched: [0; WINDOW_PAGES / 64] };
    let mut optional = 0;
    loop {
        let floor = floor_sum(best.floor());
        while optional < cursors.len() && bounds[optional + 1] < floor {
            optional += 1;
        }
        let (optional_terms, needed_terms) = cursors.split_at_mut(optional);
        let first = needed_terms.iter().map(|cursor| cursor.page()).min().unwrap_or(TERMINATED);
        if first == TERMINATED {
            return;
        }
        let end = first.saturating_add(WINDOW_PAGES as DocId).min(TERMINATED);
        for cursor in needed_terms {
            cursor.for_each_below(end, |page, score| {
                let place = (page - first) as usize % WINDOW_PAGES;
                window.sums[place] += score;
                window.touched[place / 64] |= 1 << (place % 64);
            });
        }
        window.drain(|place, sum| {
            if sum + bounds[optional] < floor {
                return;
            }
            let page = first + place as DocId;
            let sum = with_optional(optional_terms, &bounds, page, sum, floor);
            if let Some(sum) = sum
                && best.may_enter(sum)
                && admit(page)
            {
                best.push(page, sum);
            }
        });
    }
}

/// The whole sum of a page, or `None` once it cannot reach the floor.
#[inline]
fn with_optional(
    optional_terms: &mut [Cursor],
    bounds: &[i64],
    page: DocId,
    mut sum: i64,
    floor: i64,
) -> Option<i64> {
    // The greatest bound first: it decides soonest.
    for (number, cursor) in optional_terms.iter_mut().enumerate().rev() {
        if sum + bounds[number + 1] < floor {
            return None;
        }
        if cursor.seek(page) == page {
            sum += cursor.score();
        }
    }
    Some(sum)
}

/// The least sum that may round to the floor's score.
fn floor_sum(floor: f32) -> i64 {
    match floor > 0.0 {
        // Scores are rounded sums: half a step of f32 below may still round up.
        true => fixed(floor.next_down()),
        false => i64::MIN / 2,
    }
}

impl Window {
    /// Hands out the touched places in order with their sums, and clears them.
    fn drain(&mut self, mut each: impl FnMut(usize, i64)) {
        for (word, bits) in self.touched.iter_mut().enumerate() {
            let mut rest = std::mem::take(bits);
            while rest != 0 {
                let place = word * 64 + rest.trailing_zeros() as usize;
                rest &= rest - 1;
                each(place, std::mem::take(&mut self.sums[place]));
            }
        }
    }
}
