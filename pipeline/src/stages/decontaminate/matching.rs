//! Matching blocks as Python's `difflib.SequenceMatcher(None, a, b, autojunk=False)` finds them,
//! and the share of a benchmark text that they cover.
//!
//! The longest common run comes first (the earliest in `a`, then in `b`), then what lies left and
//! right of it in both, and so on; neighbours are joined.

use std::collections::HashMap;

/// A run of characters that stands in both texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// Where it begins in `a`, in characters.
    pub a: usize,
    /// Where it begins in `b`, in characters.
    pub b: usize,
    /// Its length in characters.
    pub chars: usize,
}

/// The blocks of at least `shortest_chars` characters in the order of the texts. Time grows with the product of the
/// two lengths.
///
/// What lies beside a block has no longer one, so where the longest is too short there is nothing to find. (And
/// no two blocks are neighbours in both texts: together they would have been the longer one. `difflib` joins such
/// blocks, which it can have only where it leaves out junk.)
pub fn matching_blocks(a: &[char], b: &[char], shortest_chars: usize) -> Vec<Block> {
    let shortest_chars = shortest_chars.max(1);
    let mut alphabet = Alphabet::default();
    let mut places: Vec<Vec<usize>> = vec![Vec::new()];
    let b_numbers: Vec<u32> = b.iter().map(|&c| alphabet.number_of_new(c)).collect();
    for (at, &number) in b_numbers.iter().enumerate() {
        places.resize(places.len().max(number as usize + 1), Vec::new());
        places[number as usize].push(at);
    }
    let a_numbers: Vec<u32> = a.iter().map(|&c| alphabet.number(c)).collect();
    let inside = inside_shared_windows(&a_numbers, &b_numbers, shortest_chars);
    // By character of `a`: where it stands in `b`, if a block may hold it.
    let places: Vec<&[usize]> = a_numbers
        .iter()
        .zip(inside)
        .map(|(&number, inside)| if inside { places[number as usize].as_slice() } else { &[] })
        .collect();
    let mut lengths = Lengths { last: vec![0; b.len() + 1], next: vec![0; b.len() + 1] };
    let mut queue = vec![(0, a.len(), 0, b.len())];
    let mut blocks = Vec::new();
    while let Some((a_start, a_end, b_start, b_end)) = queue.pop() {
        if usize::min(a_end - a_start, b_end - b_start) < shortest_chars {
            continue;
        }
        let block = lengths.longest(&places, a_start..a_end, b_start..b_end);
        if block.chars < shortest_chars {
            continue;
        }
        queue.push((a_start, block.a, b_start, block.b));
        queue.push((block.a + block.chars, a_end, block.b + block.chars, b_end));
        blocks.push(block);
    }
    blocks.sort_unstable();
    blocks
}

/// The characters of a text by number from 1; all others are 0.
struct Alphabet {
    ascii: [u32; 128],
    others: HashMap<char, u32>,
    last: u32,
}

impl Default for Alphabet {
    fn default() -> Self {
        Self { ascii: [0; 128], others: HashMap::new(), last: 0 }
    }
}

impl Alphabet {
    fn number(&self, c: char) -> u32 {
        match self.ascii.get(c as usize) {
            Some(&number) => number,
            None => self.others.get(&c).copied().unwrap_or_default(),
        }
    }

    fn number_of_new(&mut self, c: char) -> u32 {
        let place = match self.ascii.get_mut(c as usize) {
            Some(place) => place,
            None => self.others.entry(c).or_default(),
        };
        if *place == 0 {
            self.last += 1;
            *place = self.last;
        }
        *place
    }
}

/// For each character of `a` whether it may lie in a run of `window` characters that stands in `b`. It says yes too
/// often where two windows share a key, never no.
fn inside_shared_windows(a: &[u32], b: &[u32], window: usize) -> Vec<bool> {
    /// Bits of the table of keys.
    const TABLE_BITS: u32 = 15;
    // Eight bits for each of the last characters; longer windows are known by their end.
    let mask = u64::MAX >> (64 - 8 * window.min(8));
    let keys = |numbers: &[u32]| {
        let next = move |key: &mut u64, &number: &u32| {
            *key = (*key << 8 | u64::from(number & 0xFF)) & mask;
            let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE_BITS);
            Some((spread as usize / 64, 1_u64 << (spread % 64)))
        };
        numbers.iter().scan(0_u64, next).skip(window - 1).collect::<Vec<_>>()
    };
    let mut table = [0_u64; 1 << (TABLE_BITS - 6)];
    for (word, bit) in keys(b) {
        table[word] |= bit;
    }
    let mut inside = vec![false; a.len()];
    // Up to where characters are marked.
    let mut marked = 0;
    for (start, (word, bit)) in keys(a).into_iter().enumerate() {
        if table[word] & bit != 0 {
            inside[usize::max(start, marked)..start + window].fill(true);
            marked = start + window;
        }
    }
    inside
}

/// At `j + 1`: how long the common run is that ends at the current character of `a` and at `j`.
/// All zero between calls.
struct Lengths {
    last: Vec<usize>,
    next: Vec<usize>,
}

impl Lengths {
    fn longest(
        &mut self,
        places: &[&[usize]],
        a: std::ops::Range<usize>,
        b: std::ops::Range<usize>,
    ) -> Block {
        let mut best = Block { a: a.start, b: b.start, chars: 0 };
        let inside = |at: usize| {
            let all = places[at];
            &all[all.partition_point(|&j| j < b.start)..all.partition_point(|&j| j < b.end)]
        };
        let mut before: &[usize] = &[];
        if b.is_empty() {
            return best;
        }
        for at in a {
            let here = inside(at);
            for &j in here {
                // Runs end at the border of the part: what lies before `b.start` is always zero.
                let chars = self.last[j] + 1;
                self.next[j + 1] = chars;
                if chars > best.chars {
                    best = Block { a: at + 1 - chars, b: j + 1 - chars, chars };
                }
            }
            for &j in before {
                self.last[j + 1] = 0;
            }
            std::mem::swap(&mut self.last, &mut self.next);
            before = here;
        }
        for &j in before {
            self.last[j + 1] = 0;
        }
        best
    }
}

/// The share of `benchmark` that stands in `text`: the characters of the matching blocks that are
/// longer than `longer_than_chars`, put together with white space collapsed, by the length of
/// `benchmark`. As cosmopedia's `decontamination/decontaminate.py` (`add_match_stats`) counts it.
pub fn covered_share(text: &[char], benchmark: &[char], longer_than_chars: usize) -> f64 {
    let blocks = matching_blocks(text, benchmark, longer_than_chars + 1);
    let matched: String = blocks.iter().flat_map(|block| &text[block.a..block.a + block.chars]).collect();
    let words = matched.split_whitespace();
    let (count, letters) = words.fold((0, 0), |(n, chars), word| (n + 1, chars + word.chars().count()));
    let chars = letters + usize::max(count, 1) - 1;
    chars as f64 / benchmark.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    fn blocks(a: &str, b: &str) -> Vec<(usize, usize, usize)> {
        matching_blocks(&chars(a), &chars(b), 1).iter().map(|block| (block.a, block.b, block.chars)).collect()
    }

    /// A pair of texts, its blocks and the share of the second text in the first.
    type Golden = (&'static str, &'static str, &'static [(usize, usize, usize)], f64);

    /// Values from Python 3.11 (`tests/parity/difflib_blocks.py`).
    const GOLDEN: &[Golden] = &[
        (
            "the cat sat on the mat",
            "the cat is on the mat today",
            &[(0, 0, 8), (8, 9, 1), (11, 10, 11)],
            0.6666666666666666,
        ),
        ("abxabcd", "abcdxab", &[(3, 0, 4)], 0.0),
        ("private volatile", "private static volatile", &[(0, 0, 7), (7, 14, 9)], 0.6956521739130435),
        ("aaaaaaaa", "aaaa", &[(0, 0, 4)], 0.0),
        (
            "one two three four",
            "four three two one",
            &[(0, 1, 1), (7, 4, 7), (15, 13, 1)],
            0.2777777777777778,
        ),
        (
            "how many apples does sam have left  now",
            "sam has ten apples how many apples does sam have left",
            &[(0, 19, 34)],
            0.6415094339622641,
        ),
        ("straße zu groß für naïve", "die straße ist zu groß", &[(0, 4, 6), (6, 14, 8)], 0.6363636363636364),
        ("qabcdef ghijklq mnopqr", "abcdef ghijkl mnopqr", &[(1, 0, 13), (15, 13, 7)], 1.0),
        ("", "abc", &[], 0.0),
        ("xyz", "abc", &[], 0.0),
        ("b bb  aa b  aabbaa   a b", "b    a a aaaaa abbb a a ", &[(0, 0, 2), (18, 2, 5), (23, 16, 1)], 0.0),
        (
            "bba ab bb a bba baa abab",
            "baa aaaabb bba  a bbabba",
            &[(0, 11, 4), (9, 15, 6), (16, 22, 2)],
            0.20833333333333334,
        ),
        (
            "baaa aaabba  ab a ab bab",
            "baab baaab   aaaabba bbb",
            &[(0, 5, 4), (4, 10, 1), (5, 14, 7), (14, 21, 1), (19, 22, 1), (21, 23, 1)],
            0.25,
        ),
        (
            "aaaa  aa bb ba b aba aba",
            " a aa   a bb abaaaa ba  ",
            &[(0, 15, 5), (12, 20, 3), (16, 23, 1)],
            0.0,
        ),
    ];

    #[test]
    fn blocks_and_shares_are_pythons() {
        for (a, b, want, share) in GOLDEN {
            assert_eq!(blocks(a, b), *want, "{a:?} {b:?}");
            let ours = covered_share(&chars(a), &chars(b), 5);
            assert!((ours - share).abs() < 1e-12, "{a:?} {b:?}: {ours}");
        }
    }

    #[test]
    fn a_block_of_five_characters_does_not_count_and_one_of_six_does() {
        let share = |a: &str, b: &str| covered_share(&chars(a), &chars(b), 5);
        assert_eq!(share("abcde", "abcdezzzzz"), 0.0);
        assert_eq!(share("abcdef", "abcdefzzzz"), 0.6);
        assert_eq!(share("", "abc"), 0.0);
        assert_eq!(share("abc", ""), 0.0);
    }

    /// The definition, without any index.
    fn plain(a: &[char], b: &[char], at: (usize, usize), out: &mut Vec<Block>) {
        let mut best = Block { a: 0, b: 0, chars: 0 };
        for i in 0..a.len() {
            for j in 0..b.len() {
                let chars = a[i..].iter().zip(&b[j..]).take_while(|(a, b)| a == b).count();
                if chars > best.chars {
                    best = Block { a: i, b: j, chars };
                }
            }
        }
        if best.chars > 0 {
            plain(&a[..best.a], &b[..best.b], at, out);
            out.push(Block { a: at.0 + best.a, b: at.1 + best.b, chars: best.chars });
            let (i, j) = (best.a + best.chars, best.b + best.chars);
            plain(&a[i..], &b[j..], (at.0 + i, at.1 + j), out);
        }
    }

    proptest! {
        #[test]
        fn blocks_are_those_of_the_definition(a in "[ab ]{0,30}", b in "[ab ]{0,30}") {
            let (a, b) = (chars(&a), chars(&b));
            let mut want = Vec::new();
            plain(&a, &b, (0, 0), &mut want);
            let mut joined: Vec<Block> = Vec::new();
            for block in want {
                match joined.last_mut() {
                    Some(last) if (last.a + last.chars, last.b + last.chars) == (block.a, block.b) => {
                        last.chars += block.chars;
                    }
                    _ => joined.push(block),
                }
            }
            prop_assert_eq!(&matching_blocks(&a, &b, 1), &joined);
            for shortest in 2..7 {
                let long: Vec<Block> = joined.iter().copied().filter(|block| block.chars >= shortest).collect();
                prop_assert_eq!(matching_blocks(&a, &b, shortest), long);
            }
        }
    }
}
