//! The sums of a run of pages.

/// Pages of a window: its sums stay near the processor.
pub(super) const WINDOW_PAGES: usize = 4_096;

/// Pages that are looked at together.
const GROUP: usize = 64;

/// What the terms so far add to each page of a window; 0 where none does.
pub(super) struct Window {
    sums: Box<[[f64; GROUP]; WINDOW_PAGES / GROUP]>,
    /// Groups with a sum.
    touched: [bool; WINDOW_PAGES / GROUP],
}

impl Window {
    pub(super) fn new() -> Self {
        let touched = [false; WINDOW_PAGES / GROUP];
        Self { sums: Box::new([[0.0; GROUP]; WINDOW_PAGES / GROUP]), touched }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, place: u32, score: f64) {
        let group = place as usize / GROUP % (WINDOW_PAGES / GROUP);
        self.sums[group][place as usize % GROUP] += score;
        self.touched[group] = true;
    }

    /// Pages with a sum of at least `least`, which is above 0.
    #[inline(always)]
    pub(super) fn count(&self, least: f64) -> usize {
        let touched = self.sums.iter().zip(&self.touched).filter(|(_, touched)| **touched);
        touched.map(|(group, _)| at_least(group, least).count_ones() as usize).sum()
    }

    /// Hands out the places with a sum of at least `least`, which is above 0, in order, and clears the
    /// window. What `each` returns is the `least` from then on.
    #[inline(always)]
    pub(super) fn drain(&mut self, mut least: f64, mut each: impl FnMut(u32, f64) -> f64) {
        for (number, (group, touched)) in self.sums.iter_mut().zip(&mut self.touched).enumerate() {
            if !std::mem::take(touched) {
                continue;
            }
            let mut rest = at_least(group, least);
            while rest != 0 {
                let place = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                if group[place] >= least {
                    least = each((number * GROUP + place) as u32, group[place]);
                }
            }
            group.fill(0.0);
        }
    }
}

/// A bit for every sum of at least `least`.
#[inline(always)]
fn at_least(group: &[f64; GROUP], least: f64) -> u64 {
    let bits = group.iter().enumerate().map(|(place, sum)| u64::from(*sum >= least) << place);
    bits.fold(0, |mask, bit| mask | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_in_order_and_only_once() {
        let mut window = Window::new();
        let last = WINDOW_PAGES as u32 - 1;
        for (place, score) in [(last, 1.0), (0, 0.5), (63, 2.0), (64, 1.5), (last, 1.0), (65, 0.25)] {
            window.add(place, score);
        }
        assert_eq!((window.count(1.5), window.count(0.1)), (3, 5));
        let mut seen = Vec::new();
        // After the third the bar is higher.
        window.drain(0.5, |place, sum| {
            seen.push((place, sum));
            if seen.len() == 2 { 1.75 } else { 0.5 }
        });
        assert_eq!(seen, [(0, 0.5), (63, 2.0), (last, 2.0)]);
        window.drain(0.1, |place, _| panic!("{place} was not cleared"));
    }
}
