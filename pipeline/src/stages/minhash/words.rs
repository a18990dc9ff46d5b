//! The words of a simplified text, as datatrove's English word tokenizer gives them.
//!
//! That tokenizer is spaCy's blank English pipeline (`spacy/lang/en`, `spacy/lang/punctuation.py`,
//! 3.8): split at white space, take known contractions apart, peel symbols off both ends and
//! measures off numbers, split at symbols inside. After simplification no ASCII punctuation is
//! left but the little that canonical decomposition brings back (`≠` becomes `=`), so the rules
//! below are the part of spaCy's that can still apply.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use regex::Regex;
use rustc_hash::FxHashMap;

/// Contractions without their apostrophe and how they come apart (`spacy/lang/en/
/// tokenizer_exceptions.py`); exceptions that stay whole change nothing and are left out.
const CONTRACTIONS: &str = "\
    ai|nt are|nt can|not ca|nt ca|nt|ve could|nt could|nt|ve could|ve dare|nt did|nt did|nt|ve does|nt \
    does|nt|ve do|nt do|nt|ve gon|na got|ta had|nt had|nt|ve has|nt have|nt he|d he|d|ve he|ll|ve he|s \
    how|d how|d|ve how|ll how|ll|ve how|re how|s how|ve i|d i|d|ve i|ll|ve i|m i|m|a is|nt it|d it|d|ve \
    it|ll it|ll|ve i|ve may|nt may|nt|ve might|nt might|nt|ve might|ve must|nt must|nt|ve must|ve \
    need|nt need|nt|ve not|ve ought|nt ought|nt|ve sha|nt sha|nt|ve she|d|ve she|ll|ve she|s should|nt \
    should|nt|ve should|ve that|d that|d|ve that|ll that|ll|ve that|s there|d there|d|ve there|ll \
    there|ll|ve there|re there|s there|ve these|d these|d|ve these|ll these|ll|ve these|re these|ve \
    they|d they|d|ve they|ll they|ll|ve they|re they|ve this|d this|d|ve this|ll this|ll|ve this|s \
    those|d those|d|ve those|ll those|ll|ve those|re those|ve was|nt we|d we|d|ve we|ll|ve were|nt we|ve \
    what|d what|d|ve what|ll what|ll|ve what|re what|s what|ve when|d when|d|ve when|ll when|ll|ve \
    when|re when|s when|ve where|d where|d|ve where|ll where|ll|ve where|re where|s where|ve who|d \
    who|d|ve who|ll who|ll|ve who|s who|ve why|d why|d|ve why|ll why|ll|ve why|re why|s why|ve wo|nt \
    wo|nt|ve would|nt would|nt|ve would|ve y|all you|d you|d|ve you|ll you|ll|ve you|re you|ve ‘s";

/// Measures that come off a number that ends in a digit (`spacy/lang/char_classes.py`). Two that
/// its list runs together are one here as well.
const MEASURES: &str = "\
    km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz kmh mph mbar mb \
    kb gb tb км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг мбар кб мб гб тбكم كم² كم³ م م² م³ سم سم² \
    سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ كوب اكواب";

static SPECIAL: LazyLock<FxHashMap<String, Vec<usize>>> = LazyLock::new(|| {
    let entry = |parts: &str| (parts.replace('|', ""), parts.split('|').map(str::len).collect());
    CONTRACTIONS.split_whitespace().map(entry).collect()
});

static MEASURE: LazyLock<Vec<&'static str>> = LazyLock::new(|| MEASURES.split_whitespace().collect());

/// Symbols that split a word wherever they stand: Unicode's "other symbols" as of version 11, the
/// version of spaCy's list. U+166D has become one since.
const SYMBOL: &str = r"[\p{So}&&\p{Age:11.0}--\x{166D}]";

static SYMBOLS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(SYMBOL).ok());

fn is_symbol(c: char) -> bool {
    !c.is_ascii() && SYMBOLS.as_ref().is_some_and(|set| set.is_match(c.encode_utf8(&mut [0; 4])))
}

fn is_currency(c: char) -> bool {
    matches!(c, '£' | '¥' | '฿' | '\u{20a0}'..='\u{20bf}' | '﷼')
}

/// Comes off either end.
fn is_edge_mark(c: char) -> bool {
    matches!(
        c,
        '¡' | '·'
            | '¿'
            | '،'
            | '؛'
            | '؟'
            | '٪'
            | '۔'
            | '।'
            | '‘'
            | '‚'
            | '⟦'
            | '⟧'
            | '『'
            | '』'
            | '〔'
            | '〕'
            | ';'
            | '`'
            | '´'
            | '〈'
            | '〉'
            | '<'
            | '>'
    )
}

/// A letter in spaCy's sense (`ALPHA` in `spacy/lang/char_classes.py`): Latin, Greek and Cyrillic
/// letters, and whole blocks of other scripts.
fn is_letter(c: char) -> bool {
    match c {
        'a'..='z' | 'A'..='Z' | 'α'..='ω' | 'Α'..='Ω' | 'а'..='я' | 'А'..='Я' => true,
        'ё' | 'ә' | 'ө' | 'ү' | 'җ' | 'ң' | 'һ' | 'і' | 'ї' | 'є' | 'ґ' | 'ѓ' | 'ѕ' | 'ј' | 'љ' | 'њ'
        | 'ќ' => true,
        '\u{c0}'..='\u{1bf}' | '\u{1c4}'..='\u{2af}' => c.is_alphabetic(),
        '\u{1d00}'..='\u{1d25}' | '\u{1d6b}'..='\u{1d77}' | '\u{1d79}'..='\u{1d9a}' => true,
        '\u{1e00}'..='\u{1eff}' | '\u{2c60}'..='\u{2c7b}' => c.is_alphabetic(),
        '\u{a770}' | '\u{a788}' | '\u{a78f}' => false,
        '\u{a722}'..='\u{a7b9}' => c.is_alphabetic(),
        '\u{a7fa}' | '\u{ab30}'..='\u{ab5a}' | '\u{ab60}'..='\u{ab64}' => true,
        _ => LETTER_BLOCKS.iter().any(|block| block.contains(&c)),
    }
}

/// Blocks that are letters from end to end to spaCy, signs and unassigned places included.
const LETTER_BLOCKS: &[RangeInclusive<char>] = &[
    '\u{591}'..='\u{5f4}',
    '\u{620}'..='\u{64a}',
    '\u{66e}'..='\u{6d5}',
    '\u{6e5}'..='\u{6ff}',
    '\u{750}'..='\u{77f}',
    '\u{8a0}'..='\u{8bd}',
    '\u{900}'..='\u{97f}',
    '\u{980}'..='\u{9ff}',
    '\u{b80}'..='\u{cff}',
    '\u{d80}'..='\u{dff}',
    '\u{1100}'..='\u{137f}',
    '\u{2e80}'..='\u{2fdf}',
    '\u{2ff0}'..='\u{30ff}',
    '\u{31c0}'..='\u{31ef}',
    '\u{3200}'..='\u{4dbf}',
    '\u{4e00}'..='\u{9fff}',
    '\u{ac00}'..='\u{d7af}',
    '\u{f900}'..='\u{faff}',
    '\u{fb1d}'..='\u{fbb1}',
    '\u{fbd3}'..='\u{fd3d}',
    '\u{fd50}'..='\u{fdc7}',
    '\u{fdf0}'..='\u{fdfb}',
    '\u{fe30}'..='\u{fe4f}',
    '\u{fe70}'..='\u{fefc}',
    '\u{ff21}'..='\u{ff3a}',
    '\u{ff41}'..='\u{ff5a}',
    '\u{1ee00}'..='\u{1eebb}',
    '\u{1f200}'..='\u{1f2ff}',
    '\u{20000}'..='\u{2a6df}',
    '\u{2a700}'..='\u{2ebef}',
    '\u{2f800}'..='\u{2fa1f}',
];

/// The length in bytes of what comes off the front.
fn prefix_bytes(word: &str) -> usize {
    let Some(c) = word.chars().next() else { return 0 };
    let peels = is_edge_mark(c) || matches!(c, '§' | '=') || is_currency(c) || is_symbol(c);
    if peels { c.len_utf8() } else { 0 }
}

/// The length in bytes of what comes off the end.
fn suffix_bytes(word: &str) -> usize {
    if let Some(digit) = word.rfind('0') {
        let tail = &word[digit + 1..];
        let mut chars = tail.chars();
        let money = chars.next().is_some_and(is_currency) && chars.next().is_none();
        if money || MEASURE.contains(&tail) {
            return tail.len();
        }
    }
    let Some(c) = word.chars().next_back() else { return 0 };
    if is_edge_mark(c) || is_symbol(c) { c.len_utf8() } else { 0 }
}

/// Words in order, joined by single spaces, so that any run of them is a slice.
#[derive(Debug, Default)]
pub struct Words {
    joined: String,
    /// Where each word stands in `joined`, in bytes.
    spans: Vec<(usize, usize)>,
}

impl Words {
    /// Takes the words of a simplified text in place of those that were here.
    pub fn set(&mut self, simplified: &str) {
        self.joined.clear();
        self.spans.clear();
        // Simplifying leaves no ASCII white space but spaces.
        match simplified.is_ascii() {
            true => simplified.split_ascii_whitespace().for_each(|word| self.add(word)),
            false => simplified.split_whitespace().for_each(|word| self.add(word)),
        }
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Every run of `words` consecutive words, joined by single spaces; none where there are fewer.
    pub fn runs(&self, words: usize) -> impl Iterator<Item = &str> {
        self.spans.windows(words.max(1)).filter_map(|run| Some(&self.joined[run.first()?.0..run.last()?.1]))
    }

    fn push(&mut self, word: &str) {
        if !self.joined.is_empty() {
            self.joined.push(' ');
        }
        let start = self.joined.len();
        self.joined.push_str(word);
        self.spans.push((start, self.joined.len()));
    }

    fn add(&mut self, word: &str) {
        if self.add_special(word) {
        } else if word == "0" || word.bytes().all(|byte| byte.is_ascii_lowercase()) {
            self.push(word);
        } else {
            self.peel(word);
        }
    }

    fn add_special(&mut self, word: &str) -> bool {
        // The longest has ten letters.
        let Some(parts) = (word.len() <= 12).then(|| SPECIAL.get(word)).flatten() else { return false };
        let mut rest = word;
        for &bytes in parts {
            let (part, after) = rest.split_at(bytes);
            self.push(part);
            rest = after;
        }
        true
    }

    /// Takes marks off both ends in turn until nothing changes or a known contraction is left.
    fn peel(&mut self, word: &str) {
        let is_special = |word: &str| SPECIAL.contains_key(word);
        let mut suffixes = Vec::new();
        let mut core = word;
        let first = self.spans.len();
        while !core.is_empty() && !is_special(core) {
            let before = prefix_bytes(core);
            let (prefix, rest) = core.split_at(before);
            if before > 0 && is_special(rest) {
                self.push(prefix);
                core = rest;
                break;
            }
            let after = suffix_bytes(rest);
            let (without_suffix, suffix) = core.split_at(core.len() - after);
            if after > 0 && is_special(without_suffix) {
                suffixes.push(suffix);
                core = without_suffix;
                break;
            }
            if before == 0 && after == 0 {
                break;
            }
            if before > 0 {
                self.push(prefix);
            }
            if after > 0 {
                suffixes.push(suffix);
            }
            core = &core[before..core.len() - after];
        }
        if !core.is_empty() && !self.add_special(core) {
            self.split_inside(core);
        }
        for suffix in suffixes.into_iter().rev() {
            self.push(suffix);
        }
        self.join_quoted_s(first);
    }

    fn split_inside(&mut self, word: &str) {
        let mut start = 0;
        let mut last: Option<char> = None;
        let mut chars = word.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let next = chars.peek().map(|&(_, c)| c);
            let relation = matches!(c, '<' | '=' | '>')
                && last.is_some_and(|c| is_letter(c) || c == '0')
                && next.is_some_and(is_letter);
            if at > 0 && (relation || is_symbol(c)) {
                if start < at {
                    self.push(&word[start..at]);
                }
                start = at + c.len_utf8();
                self.push(&word[at..start]);
            }
            last = Some(c);
        }
        if start < word.len() {
            self.push(&word[start..]);
        }
    }

    /// The pair `‘` `s` inside one word is a word of its own, wherever the peeling has left it.
    fn join_quoted_s(&mut self, first: usize) {
        let mut i = first + 1;
        while i < self.spans.len() {
            let (quote, s) = (self.spans[i - 1], self.spans[i]);
            if &self.joined[s.0..s.1] == "s" && &self.joined[quote.0..quote.1] == "‘" {
                self.joined.remove(quote.1);
                self.spans[i - 1].1 += s.1 - s.0;
                self.spans.remove(i);
                for span in &mut self.spans[i..] {
                    *span = (span.0 - 1, span.1 - 1);
                }
            }
            i += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(simplified: &str) -> Vec<String> {
        let mut words = Words::default();
        words.set(simplified);
        words.runs(1).map(str::to_owned).collect()
    }

    /// Values from spaCy 3.8 through datatrove 0.10.1 (`tests/parity/minhash_datatrove.py --words`).
    #[test]
    fn words_are_those_of_the_english_tokenizer() {
        for (text, want) in [
            ("i dont think so", "i|do|nt|think|so"),
            ("its whos id youllve wed", "its|who|s|i|d|you|ll|ve|we|d"),
            ("0km 0th 0in a0kg 0kmx 0m²", "0|km|0th|0|in|a0|kg|0kmx|0|m²"),
            ("£0 0£ a£ £0£", "£|0|0|£|a£|£|0|£"),
            ("·dont· ··a ©dont© •dont•", "·|do|nt|·|·|·|a|©|do|nt|©|•dont•"),
            ("a•b a©b ©", "a•b|a|©|b|©"),
            ("x=y x=0 0=x =a a= a<b>c a=ª ª=a", "x|=|y|x=0|0|=|x|=|a|a=|a|<|b|>|c|a=ª|ª=a"),
            ("john‘s ‘s ‘so a‘ ‘s©a", "john‘s|‘s|‘|so|a|‘|‘s|©|a"),
            ("0тб 0км 0тбكم", "0тб|0|км|0|тбكم"),
            ("🙂a🥱b", "🙂|a🥱b"),
            ("", ""),
        ] {
            assert_eq!(words(text).join("|"), want, "{text:?}");
        }
    }

    /// The number of characters in spaCy 3.8.18's icon class.
    #[test]
    fn the_symbols_are_spacys() {
        assert_eq!(('\0'..=char::MAX).filter(|&c| is_symbol(c)).count(), 5984);
    }

    proptest! {
        #[test]
        fn no_letter_is_lost(text in "[a-z0=<;•‘£ км]{0,40}") {
            let bare = |text: &str| text.replace(' ', "");
            prop_assert_eq!(bare(&words(&text).concat()), bare(&text));
        }

        #[test]
        fn runs_are_the_windows_of_the_words(text in "[a-d ]{0,40}", n in 1..6_usize) {
            let mut all = Words::default();
            all.set(&text);
            let single: Vec<&str> = all.runs(1).collect();
            let want: Vec<String> = single.windows(n).map(|run| run.join(" ")).collect();
            prop_assert_eq!(all.runs(n).collect::<Vec<_>>(), want);
        }
    }
}
