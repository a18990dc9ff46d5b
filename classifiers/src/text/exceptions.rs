//! Words that the English tokenizer takes whole, or apart in a way of their own
//! (`spacy/lang/en/tokenizer_exceptions.py` and `spacy/lang/tokenizer_exceptions.py`, 3.8.18).

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::tokens::{Token, tokenize_with};

/// Contractions: words, and the endings that each of them takes. A bar divides an ending that is two
/// words itself. Each stands for itself and for the same with a capital, with `’` for `'`, and without.
const CONTRACTIONS: [(&str, &str); 11] = [
    (
        "i you he she it we they who what when where why how there that this these those",
        "'ll 'll|'ve 'd 'd|'ve",
    ),
    ("i you we they who what when where why how there these those", "'ve"),
    ("you we they who what when where why how there these those", "'re"),
    ("he she it who what when where why how there that this", "'s"),
    ("i", "'m 'm|a"),
    ("ca could do does did had may might must need ought sha should wo would", "n't n't|'ve"),
    ("ai are is was were have has dare", "n't"),
    ("could might must should would not", "'ve"),
    ("can", "not"),
    ("gon", "na"),
    ("got", "ta"),
];

/// Contractions that are known with their apostrophes only.
const WITH_APOSTROPHES: &str = "let|'s Let|'s c'm|on C'm|on how|'d|'y How|'d|'y y'|all";

/// Without their apostrophes these are words of their own.
const OTHER_WORDS: &str = "ill Ill its Its hell Hell shell Shell shed Shed were Were well Well \
    whore Whore";

/// Words that stay whole, with `'` or `’`.
const WHOLE: &str = "\
    ' '' 'S 's 'd 'll 're 'em 'nuff 'bout 'Cause 'cause 'Cos 'cos 'Coz 'coz 'Cuz 'cuz em ll nuff \
    doin doin' Doin Doin' goin goin' Goin Goin' havin havin' Havin Havin' lovin lovin' Lovin Lovin' nothin nothin' \
    Nothin Nothin' nuthin nuthin' Nuthin Nuthin' ol ol' Ol Ol' somethin somethin' Somethin Somethin' ma'am Ma'am \
    o'clock O'clock ‘S ‘s and/or w/o — C++ \\t \\n <space> \\\") \
    Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. E.G. E.g. Feb. Fla. \
    Ga. Gen. Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar. Mass. Md. Messrs. \
    Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. \
    Ore. Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. Sept. St. Tenn. Va. Wash. Wis. a.m. co. e.g. i.e. p.m. v.s. vs. \
    a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü. \
    :) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( \
    :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 \
    :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< \
    ._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 \
    (^_^) (-_-) (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>";

/// The exceptions, ready to be looked up.
#[derive(Debug, Default)]
pub(super) struct Exceptions {
    /// The lengths of the tokens that a word becomes, in bytes.
    parts: FxHashMap<String, Vec<usize>>,
    /// By first token: the tokens into which an exception falls where it is not recognised as a word.
    sequences: FxHashMap<String, Vec<Vec<String>>>,
    /// Whether a sequence begins with tokens of these first bytes, the first byte × 256 + the second.
    pairs: Vec<bool>,
    longest_bytes: usize,
}

/// Those of English.
pub(super) static ENGLISH: LazyLock<Exceptions> = LazyLock::new(Exceptions::english);

impl Exceptions {
    fn english() -> Self {
        let mut this = Self::default();
        for tokens in all() {
            this.parts.insert(tokens.concat(), tokens.iter().map(String::len).collect());
        }
        this.longest_bytes = this.parts.keys().map(String::len).max().unwrap_or(0);
        this.pairs = vec![false; 1 << 16];
        let (none, mut tokens) = (Self::default(), Vec::new());
        for word in this.parts.keys() {
            tokenize_with(&none, word, &mut tokens);
            let sequence: Vec<String> = tokens.iter().map(|token| token.of(word).to_owned()).collect();
            if let [first, second, ..] = sequence.as_slice() {
                this.pairs[pair(first.as_bytes()[0], second.as_bytes()[0])] = true;
                this.sequences.entry(first.clone()).or_default().push(sequence);
            }
        }
        this
    }

    /// The lengths of the tokens that this word becomes, in bytes; `None` for a word like any other.
    pub(super) fn parts(&self, word: &str) -> Option<&[usize]> {
        if word.len() > self.longest_bytes {
            return None;
        }
        self.parts.get(word).map(Vec::as_slice)
    }

    /// How many tokens, from the one at `at`, are an exception that was not recognised as a word; with
    /// each length once.
    pub(super) fn sequences_at(&self, text: &str, tokens: &[Token], at: usize, found: &mut Vec<usize>) {
        let [first, second, ..] = &tokens[at..] else { return };
        let bytes = text.as_bytes();
        if !self.pairs.get(pair(bytes[first.start], bytes[second.start])).copied().unwrap_or(false) {
            return;
        }
        for sequence in self.sequences.get(first.of(text)).into_iter().flatten() {
            let here = tokens[at..].iter().map(|token| token.of(text));
            if here.take(sequence.len()).eq(sequence.iter().map(String::as_str)) {
                found.push(sequence.len());
            }
        }
    }
}

fn pair(first: u8, second: u8) -> usize {
    (usize::from(first) << 8) | usize::from(second)
}

/// The tokens of every exception.
fn all() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut add = |parts: &str| all.push(parts.split('|').map(str::to_owned).collect());
    for (words, endings) in CONTRACTIONS {
        for word in words.split(' ') {
            for word in [word.to_owned(), capitalised(word)] {
                for ending in endings.split(' ') {
                    let parts = format!("{word}|{ending}");
                    add(&parts);
                    add(&parts.replace('\'', "’"));
                    let bare = parts.replace('\'', "");
                    if !OTHER_WORDS.split(' ').any(|other| other == bare.replace('|', "")) {
                        add(&bare);
                    }
                }
            }
        }
    }
    for parts in WITH_APOSTROPHES.split(' ') {
        add(parts);
        add(&parts.replace('\'', "’"));
    }
    add("y|all");
    for hour in 1..=12 {
        for half in ["a.m.", "am", "p.m.", "pm"] {
            add(&format!("{hour}|{half}"));
        }
    }
    for scale in ["c", "f", "k", "C", "F", "K"] {
        add(&format!("°|{scale}|."));
    }
    for word in WHOLE.split(' ') {
        all.push(vec![word.to_owned()]);
        all.push(vec![word.replace('\'', "’")]);
    }
    all
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From spaCy 3.8.18 (`tests/parity/rules_datatrove.py --exceptions`): how many there are, and the FNV-1a
    /// hash of their lines in order. White space is left out, which is a token in any case.
    #[test]
    fn the_exceptions_are_spacys() {
        let mut lines: Vec<String> = all().iter().map(|tokens| tokens.join("|")).collect();
        lines.sort_unstable();
        lines.dedup();
        let bytes = lines.join("\n");
        let hash = bytes.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!((lines.len(), hash), (1343, 0x474a_3260_a5c8_0a45));
    }
}
