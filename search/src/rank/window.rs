//! The sums of a run of pages.

use tantivy::DocId;

use crate::bm25::TermScores;

/// Pages of a window: its sums stay near the processor.
pub(super) const WINDOW_PAGES: usize = 4_096;

/// Pages that are looked at together.
const GROUP: usize = 64;
const GROUPS: usize = WINDOW_PAGES / GROUP;
const _: () = assert!(GROUPS <= u64::BITS as usize, "`Window::touched` has a bit for each");

/// Most sums that are listed: a group is looked through in the time that two or three take.
const LISTED: usize = 2 * GROUPS;

/// What the terms so far add to each page of a window; 0 where none does.
pub(super) struct Window {
    sums: Box<[u32; WINDOW_PAGES]>,
    /// A bit for every group that may have a sum, but for the places listed.
    touched: u64,
    /// Places with a sum, while few are expected; some more than once.
    listed: Option<Vec<u32>>,
}

impl Default for Window {
    fn default() -> Self {
        Self { sums: Box::new([0; WINDOW_PAGES]), touched: 0, listed: None }
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
        let (low, high) = (group(start), group(end));
        if pages.len() >= high - low {
            self.touched |= (u64::MAX >> (u64::BITS as usize - 1 - (high - low))) << low;
        } else {
            self.touched |= pages.iter().fold(0, |touched, page| touched | 1 << group(page));
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
            self.touched |= 1 << (place as usize / GROUP % GROUPS);
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
        let groups = self.sums.as_chunks().0;
        for number in Ones(self.touched) {
            for place in Ones(C::at_least(&groups[number], least)) {
                found.push((number * GROUP + place) as u32);
            }
        }
    }

    /// How many places [`Window::places`] would find, or more.
    #[inline(always)]
    pub(super) fn count<C: Compare>(&self, least: u32) -> usize {
        if let Some(listed) = &self.listed {
            return listed.iter().filter(|place| self.sum(**place) >= least).count();
        }
        let groups = self.sums.as_chunks().0;
        let mut count = 0;
        for number in Ones(self.touched) {
            count += C::at_least(&groups[number], least).count_ones() as usize;
        }
        count
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
        let groups = self.sums.as_chunks_mut::<GROUP>().0;
        for number in Ones(std::mem::take(&mut self.touched)) {
            groups[number].fill(0);
        }
    }

    /// Hands out the places with a sum of at least `least`, which is above 0, in order, and clears the
    /// window, which lists none. What `each` returns is the `least` from then on; it never
    /// falls.
    #[inline(always)]
    pub(super) fn drain<C: Compare>(&mut self, mut least: u32, mut each: impl FnMut(u32, u32) -> u32) {
        let groups = self.sums.as_chunks_mut().0;
        for number in Ones(std::mem::take(&mut self.touched)) {
            let group = &mut groups[number];
            for place in Ones(C::at_least(group, least)) {
                if group[place] >= least {
                    least = each((number * GROUP + place) as u32, group[place]);
                }
            }
            group.fill(0);
        }
    }
}

/// The places of the ones among the bits of a number.
struct Ones(u64);

impl Iterator for Ones {
    type Item = usize;

    // Always in the loop itself: a function of its own would not have the instructions that the loop is
    // compiled for.
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(place)
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
            __m256i, _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_loadu_si256, _mm256_max_epi32,
            _mm256_movemask_ps, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_testz_si256,
        };
        let eights = sums.as_chunks::<8>().0;
        let mut bits = 0;
        // No closures: they would not have the instructions that the loop is compiled for.
        // SAFETY: reads the eight numbers of an array each; who names the type has the instructions.
        unsafe {
            let below = _mm256_set1_epi32(least as i32 - 1);
            // In most groups no sum is large enough.
            let mut most = _mm256_setzero_si256();
            for eight in eights {
                most = _mm256_max_epi32(most, _mm256_loadu_si256(eight.as_ptr().cast::<__m256i>()));
            }
            let above = _mm256_cmpgt_epi32(most, below);
            if _mm256_testz_si256(above, above) != 0 {
                return 0;
            }
            for (number, eight) in eights.iter().enumerate() {
                let eight = _mm256_loadu_si256(eight.as_ptr().cast::<__m256i>());
                let above = _mm256_castsi256_ps(_mm256_cmpgt_epi32(eight, below));
                bits |= u64::from(_mm256_movemask_ps(above) as u32) << (8 * number);
            }
        }
        bits
    }
}

/// For processors with AVX-512F only.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Compare for Avx512 {
    #[inline(always)]
    fn at_least(sums: &[u32; GROUP], least: u32) -> u64 {
        use std::arch::x86_64::{_mm512_cmpge_epu32_mask, _mm512_loadu_si512, _mm512_set1_epi32};
        let mut bits = 0;
        // SAFETY: reads the sixteen numbers of an array each; who names the type has the instructions.
        unsafe {
            let least = _mm512_set1_epi32(least as i32);
            for (number, sixteen) in sums.as_chunks::<16>().0.iter().enumerate() {
                let sixteen = _mm512_loadu_si512(sixteen.as_ptr().cast());
                bits |= u64::from(_mm512_cmpge_epu32_mask(sixteen, least)) << (16 * number);
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
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            check::<Avx512>();
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
