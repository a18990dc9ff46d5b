//! How much of a seed page stands in an answer word for word.

use std::collections::HashMap;

use super::repetition::words;

/// The length of the longest run of words that both texts have, ignoring case and punctuation.
///
/// A suffix automaton over the words of the shorter text reads the longer one: time grows with the
/// sum of the lengths, whatever the texts repeat.
#[must_use]
pub fn longest_common_run(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let (a, b) = (words(&a), words(&b));
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut automaton = Automaton::new(short.len());
    for word in short {
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        automaton.push(*numbers.entry(word).or_insert(next));
    }
    let (mut state, mut run, mut longest) = (0, 0, 0);
    for word in long {
        let Some(number) = numbers.get(word) else {
            (state, run) = (0, 0);
            continue;
        };
        loop {
            if let Some(next) = automaton.states[state].next.get(number) {
                (state, run) = (*next, run + 1);
                break;
            }
            match automaton.states[state].link {
                Some(link) => (state, run) = (link, automaton.states[link].longest),
                None => {
                    run = 0;
                    break;
                }
            }
        }
        longest = longest.max(run);
    }
    longest
}

#[derive(Clone, Default)]
struct State {
    next: HashMap<u32, usize>,
    link: Option<usize>,
    longest: usize,
}

/// Accepts every run of words of the text pushed so far (Blumer et al. 1985).
struct Automaton {
    states: Vec<State>,
    last: usize,
}

impl Automaton {
    fn new(words: usize) -> Self {
        let mut states = Vec::with_capacity(2 * words + 1);
        states.push(State::default());
        Self { states, last: 0 }
    }

    fn push(&mut self, word: u32) {
        let new = self.states.len();
        self.states.push(State {
            longest: self.states[self.last].longest + 1,
            link: Some(0),
            ..State::default()
        });
        let mut from = Some(self.last);
        while let Some(state) = from {
            if let Some(&target) = self.states[state].next.get(&word) {
                self.states[new].link = Some(self.split(state, target, word));
                break;
            }
            self.states[state].next.insert(word, new);
            from = self.states[state].link;
        }
        self.last = new;
    }

    /// The state for the runs that end `state` + `word`: `target` itself, or a copy of it for the
    /// shorter ones.
    fn split(&mut self, state: usize, target: usize, word: u32) -> usize {
        if self.states[state].longest + 1 == self.states[target].longest {
            return target;
        }
        let copy = self.states.len();
        self.states.push(State { longest: self.states[state].longest + 1, ..self.states[target].clone() });
        self.states[target].link = Some(copy);
        let mut from = Some(state);
        while let Some(state) = from {
            if self.states[state].next.get(&word) != Some(&target) {
                break;
            }
            self.states[state].next.insert(word, copy);
            from = self.states[state].link;
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by trying every pair of places.
    fn slow(a: &[&str], b: &[&str]) -> usize {
        let run = |i: usize, j: usize| a[i..].iter().zip(&b[j..]).take_while(|(x, y)| x == y).count();
        (0..a.len())
            .flat_map(|i| (0..b.len()).map(move |j| (i, j)))
            .map(|(i, j)| run(i, j))
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn case_and_punctuation_do_not_hide_a_copy() {
        assert_eq!(longest_common_run("The cat sat, on the mat!", "a CAT -- sat on the... rug"), 4);
        assert_eq!(longest_common_run("", "a b"), 0);
        assert_eq!(longest_common_run("a b c", "d e"), 0);
    }

    #[test]
    fn ten_thousand_equal_words_take_no_time() {
        let text = "same ".repeat(10_000);
        let start = std::time::Instant::now();
        assert_eq!(longest_common_run(&text, &text), 10_000);
        assert!(start.elapsed().as_secs() < 5);
    }

    proptest! {
        #[test]
        fn equal_to_trying_every_place(a in proptest::collection::vec("[abc]", 0..40), b in proptest::collection::vec("[abcd]", 0..40)) {
            let words = |v: &[String]| v.join(" ");
            let (x, y): (Vec<&str>, Vec<&str>) = (a.iter().map(String::as_str).collect(), b.iter().map(String::as_str).collect());
            prop_assert_eq!(longest_common_run(&words(&a), &words(&b)), slow(&x, &y));
        }
    }
}
