//! The sums of a run of pages.

use tantivy::DocId;

use crate::bm25::TermScores;

/// Pages of a window: its sums stay near the processor.
pub(super) const WINDOW_PAGES: usize = 4_096;

/// Pages that are looked at together.
const GROUP: usize = 64;
const GROUPS: usize = WINDOW_PAGES / GROUP;

/// Most sums that are listed: a group is looked through in the time that two or three take.
const LISTED: usize = 2 * GROUPS;

/// What the terms so far add to each page of a window; 0 where none does.
pub(super) struct Window {
    sums: Box<[u32; WINDOW_PAGES]>,
    /// Groups that may have a sum, but for the places listed.
    touched: [bool; GROUPS],
    /// Places with a sum, while few are expected; some more than once.
    listed: Option<Vec<u32>>,
}

impl Default for Window {
    fn default() -> Self {
        Self { sums: Box::new([0; WINDOW_PAGES]), touched: [false; GROUPS], listed: None }
    }
}

impl Window {
    /// Adds what a term adds to `pages`, in ascending order, which have it so many times. The window
    /// begins with the page `first`.
    pub(super) fn add(
        &mut self,
        first: DocId,
        pages: &[DocId],
        frequencies: &[u32],
        lengths: &[u8],
        scores: &TermScores,
    ) {
        let (Some(start), Some(end)) = (pages.first(), pages.last()) else {
            return;
        };
        scores.add(&mut self.sums, first, pages, frequencies, lengths);
        if let Some(listed) = &mut self.listed {
            listed.extend(pages.iter().map(|page| page - first));
            return;
        }
        let group = |page: &DocId| (page - first) as usize / GROUP % GROUPS;
        let groups = group(start)..=group(end);
        if pages.len() >= groups.end() - groups.start() {
            self.touched[groups].fill(true);
        } else {
            pages.iter().for_each(|page| self.touched[group(page)] = true);
        }
    }

    /// Prepares the empty window for so many sums. Few are listed as they come; else it is cheaper to
    /// look for them.
    pub(super) fn expect(&mut self, sums: usize) {
        match (sums <= LISTED, &self.listed) {
            (true, None) => self.listed = Some(Vec::with_capacity(2 * LISTED)),
            (false, Some(_)) => self.listed = None,
            _ => {}
        }
    }

    /// Whether the sums are listed as they come.
    pub(super) fn lists(&self) -> bool {
        self.listed.is_some()
    }

    /// Goes over to more sums than were expected.
    pub(super) fn stop_listing(&mut self) {
        for place in self.listed.take().unwrap_or_default() {
            self.touched[place as usize / GROUP % GROUPS] = true;
        }
    }

    /// Puts the places with a sum of at least `least`, which is above 0, into `found`, in order.
    #[inline(always)]
    pub(super) fn places<C: Compare>(&self, least: u32, found: &mut Vec<u32>) {
        found.clear();
        if let Some(listed) = &self.listed {
            found.extend(listed.iter().filter(|place| self.sum(**place) >= least));
            found.sort_unstable();
            found.dedup();
            return;
        }
        for (number, (group, touched)) in self.sums.as_chunks().0.iter().zip(&self.touched).enumerate() {
            if *touched {
                for_each_bit(C::at_least(group, least), |place| found.push((number * GROUP + place) as u32));
            }
        }
    }

    #[inline(always)]
    pub(super) fn sum(&self, place: u32) -> u32 {
        self.sums[place as usize % WINDOW_PAGES]
    }

    /// Forgets all sums.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        if let Some(listed) = &mut self.listed {
            listed.drain(..).for_each(|place| self.sums[place as usize % WINDOW_PAGES] = 0);
            return;
        }
        for (group, touched) in self.sums.as_chunks_mut::<GROUP>().0.iter_mut().zip(&mut self.touched) {
            if std::mem::take(touched) {
                group.fill(0);
            }
        }
    }

    /// Hands out the places with a sum of at least `least`, which is above 0, in order, and clears the
    /// window, which lists none. What `each` returns is the `least` from then on; it never
    /// falls.
    #[inline(always)]
    pub(super) fn drain<C: Compare>(&mut self, mut least: u32, mut each: impl FnMut(u32, u32) -> u32) {
        let groups = self.sums.as_chunks_mut().0.iter_mut().zip(&mut self.touched);
        for (number, (group, touched)) in groups.enumerate() {
            if std::mem::take(touched) {
                for_each_bit(C::at_least(group, least), |place| {
                    if group[place] >= least {
                        least = each((number * GROUP + place) as u32, group[place]);
                    }
                });
                group.fill(0);
            }
        }
    }
}

#[inline(always)]
fn for_each_bit(mut bits: u64, mut each: impl FnMut(usize)) {
    while bits != 0 {
        each(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

/// Compares many sums at once.
pub(super) trait Compare {
    /// A bit for every sum of at least `least`; all are below 2^31.
    fn at_least(sums: &[u32; GROUP], least: u32) -> u64;
}

pub(super) struct Portable;

impl Compare for Portable {
    #[inline(always)]
    fn at_least(sums: &[u32; GROUP], least: u32) -> u64 {
        let bit = |(place, sum): (usize, &u32)| u64::from(*sum >= least) << place;
        sums.iter().enumerate().map(bit).fold(0, |bits, bit| bits | bit)
    }
}

/// For processors with AVX2 only.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Compare for Avx2 {
    #[inline(always)]
    fn at_least(sums: &[u32; GROUP], least: u32) -> u64 {
        use std::arch::x86_64::{
            __m256i, _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_loadu_si256, _mm256_movemask_ps,
            _mm256_set1_epi32,
        };
        let mut bits = 0;
        // SAFETY: reads the eight numbers of an array each; who names the type has the instructions.
        unsafe {
            let below = _mm256_set1_epi32(least as i32 - 1);
            for (number, eight) in sums.as_chunks::<8>().0.iter().enumerate() {
                let eight = _mm256_loadu_si256(eight.as_ptr().cast::<__m256i>());
                let above = _mm256_castsi256_ps(_mm256_cmpgt_epi32(eight, below));
                bits |= u64::from(_mm256_movemask_ps(above) as u32) << (8 * number);
            }
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bm25::{Saturation, Scale, TermScores};

    #[test]
    fn places_come_back_in_order_and_only_once() {
        check::<Portable>();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            check::<Avx2>();
        }
    }

    fn check<C: Compare>() {
        let first = 70;
        let last = first + WINDOW_PAGES as DocId - 1;
        let lengths = vec![0; last as usize + 1];
        let scores = TermScores::new(1.0, &Arc::new(Saturation::new(5.0)), Scale::new([1.0; 2].into_iter()));
        let one = scores.score(1, 0);
        let three = scores.score(3, 0);
        let mut window = Window::default();
        window.expect(WINDOW_PAGES);
        let fill = |window: &mut Window| {
            window.add(first, &[first, first + 63, first + 64, last], &[1, 1, 3, 1], &lengths, &scores);
            window.add(first, &[first + 63, first + 65], &[1, 1], &lengths, &scores);
        };
        fill(&mut window);
        let places = |window: &Window, least| {
            let mut places = Vec::new();
            window.places::<C>(least, &mut places);
            places.iter().map(|&place| (place, window.sum(place))).collect::<Vec<_>>()
        };
        let all = [(0, one), (63, 2 * one), (64, three), (65, one), (last - first, one)];
        assert_eq!(places(&window, 1), all);
        assert_eq!(places(&window, one), all);
        assert_eq!(places(&window, one + 1), all[1..3]);
        let mut seen = Vec::new();
        // After the second the bar is higher.
        window.drain::<C>(1, |place, sum| {
            seen.push((place, sum));
            if seen.len() >= 2 { one + 1 } else { 1 }
        });
        assert_eq!(seen, all[..3]);
        assert_eq!(places(&window, 1), []);
        fill(&mut window);
        window.drain::<C>(one + 1, |_, _| 2 * one + 1);
        fill(&mut window);
        window.clear();
        assert_eq!(places(&window, 1), []);
        for listed_to_the_end in [true, false] {
            window.expect(1);
            fill(&mut window);
            if !listed_to_the_end {
                window.stop_listing();
            }
            assert_eq!(places(&window, 1), all);
            assert_eq!(places(&window, one + 1), all[1..3]);
            window.clear();
            assert_eq!(places(&window, 1), []);
        }
    }
}
