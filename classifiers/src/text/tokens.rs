//! The tokens of spaCy's blank English pipeline, 3.8.18 (`spacy/tokenizer.pyx`).
//!
//! A text is cut at white space. From each word, marks are taken off both ends in turn until nothing
//! changes or an exception is left; what is left is an address, which stays whole, or is cut at marks
//! inside. Last, marks that have come apart though they are an exception together (`:` and `)`) are
//! put together again.

use std::sync::LazyLock;

use rustc_hash::{FxHashMap, FxHashSet};

use super::chars::{
    BEFORE_PERIOD, LETTERS, LOWER_OR_QUOTE, PREFIX, SUFFIX, SYMBOL, UPPER, UPPER_OR_QUOTE, is_space,
};
use super::exceptions::{ENGLISH, Exceptions};
use super::url::is_url;

/// Where a token stands in its text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
}

impl Token {
    /// The token itself.
    #[must_use]
    pub fn of(self, text: &str) -> &str {
        &text[self.start..self.end]
    }
}

/// Measures and currencies that come off a number (`spacy/lang/char_classes.py`). Two that its list runs
/// together are one here as well.
const AFTER_NUMBER: &str = "\
    km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa \
    mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч кПа \
    Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тбكم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ كوب \
    اكواب $ £ € ¥ ฿ US$ C$ A$ ₽ ﷼ ₴ ₠ ₡ ₢ ₣ ₤ ₥ ₦ ₧ ₨ ₩ ₪ ₫ ₭ ₮ ₯ ₰ ₱ ₲ ₳ ₵ ₶ ₷ ₸ ₹ ₺ ₻ ₼ ₾ ₿ +";

static MEASURES: LazyLock<FxHashSet<&'static str>> =
    LazyLock::new(|| AFTER_NUMBER.split_whitespace().collect());

/// The tokens of a text, in place of those that were here. White space is a token where there is more of
/// it than one space between words.
pub fn tokenize(text: &str, tokens: &mut Vec<Token>) {
    tokenize_with(&ENGLISH, text, tokens);
    join_exceptions(&ENGLISH, text, tokens);
}

/// The tokens before exceptions are put together again.
pub(super) fn tokenize_with(exceptions: &Exceptions, text: &str, tokens: &mut Vec<Token>) {
    tokens.clear();
    let mut splitter = Splitter { exceptions, text, tokens, suffixes: Vec::new() };
    let mut at = 0;
    while at < text.len() {
        let word_end = text[at..].find(is_space).map_or(text.len(), |bytes| at + bytes);
        if at < word_end {
            splitter.add_word(at, word_end);
        }
        let next = text[word_end..].find(|c| !is_space(c)).map_or(text.len(), |bytes| word_end + bytes);
        // The one space after a word belongs to the word.
        let space = word_end + usize::from(word_end > 0 && text[word_end..].starts_with(' '));
        splitter.push(space, next);
        at = next;
    }
}

struct Splitter<'t> {
    exceptions: &'t Exceptions,
    text: &'t str,
    tokens: &'t mut Vec<Token>,
    /// What has come off the end of the word at work, the last first.
    suffixes: Vec<Token>,
}

impl<'t> Splitter<'t> {
    fn push(&mut self, start: usize, end: usize) {
        if start < end {
            self.tokens.push(Token { start, end });
        }
    }

    fn add_word(&mut self, start: usize, end: usize) {
        if self.add_exception(start, end) {
            return;
        }
        let word = &self.text.as_bytes()[start..end];
        if word.iter().all(u8::is_ascii_alphabetic) || word.iter().all(u8::is_ascii_digit) {
            self.push(start, end);
        } else {
            self.peel(start, end);
        }
    }

    fn add_exception(&mut self, start: usize, end: usize) -> bool {
        let Some(parts) = self.exceptions.parts(&self.text[start..end]) else { return false };
        let mut at = start;
        for bytes in parts {
            self.tokens.push(Token { start: at, end: at + bytes });
            at += bytes;
        }
        true
    }

    /// Takes marks off both ends in turn.
    fn peel(&mut self, mut start: usize, mut end: usize) {
        let (text, exceptions) = (self.text, self.exceptions);
        let is_exception = |start: usize, end: usize| exceptions.parts(&text[start..end]).is_some();
        while start < end && !is_exception(start, end) {
            let before = prefix_bytes(&text[start..end]);
            if before > 0 && is_exception(start + before, end) {
                self.push(start, start + before);
                start += before;
                break;
            }
            let after = suffix_bytes(&text[start + before..end]);
            if after > 0 && is_exception(start, end - after) {
                self.suffixes.push(Token { start: end - after, end });
                end -= after;
                break;
            }
            if before == 0 && after == 0 {
                break;
            }
            self.push(start, start + before);
            if after > 0 {
                self.suffixes.push(Token { start: end - after, end });
            }
            start += before;
            end -= after;
        }
        if start < end && !self.add_exception(start, end) {
            if is_url(&text[start..end]) {
                self.push(start, end);
            } else {
                self.split_inside(start, end);
            }
        }
        while let Some(suffix) = self.suffixes.pop() {
            self.tokens.push(suffix);
        }
    }

    fn split_inside(&mut self, start: usize, end: usize) {
        let word = &self.text[start..end];
        let (mut piece, mut at, mut last) = (0, 0, None);
        while let Some(c) = word[at..].chars().next() {
            let bytes = infix_bytes(&word[at..], c, last);
            // A mark at the very beginning stays with what follows.
            if bytes > 0 && at > 0 {
                self.push(start + piece, start + at);
                self.push(start + at, start + at + bytes);
                piece = at + bytes;
            }
            last = word[at..at + bytes].chars().next_back().or(Some(c));
            at += bytes.max(c.len_utf8());
        }
        self.push(start + piece, end);
    }
}

/// How many bytes come off the front.
fn prefix_bytes(word: &str) -> usize {
    let Some(c) = word.chars().next() else { return 0 };
    let after = &word[c.len_utf8()..];
    match c {
        '.' => dots(word),
        '+' => usize::from(!after.starts_with(|next: char| next.is_ascii_digit())),
        'U' if after.starts_with("S$") => 3,
        'C' | 'A' if after.starts_with('$') => 2,
        c if PREFIX.contains(c) => c.len_utf8(),
        _ => 0,
    }
}

/// How many bytes come off the end: as many as any of the rules takes.
fn suffix_bytes(word: &str) -> usize {
    if let Some(digit) = word.bytes().rposition(|byte| byte.is_ascii_digit()) {
        let tail = &word[digit + 1..];
        if MEASURES.contains(tail) {
            return tail.len();
        }
    }
    let mut chars = word.chars().rev();
    let Some(c) = chars.next() else { return 0 };
    let before = chars.next();
    match (c, before) {
        ('.', Some('.')) => word.len() - word.trim_end_matches('.').len(),
        ('.', Some(before)) => {
            let second = chars.next();
            let capitals = UPPER.contains(before) && second.is_some_and(|c| UPPER.contains(c));
            let degrees = matches!(before, 'C' | 'F' | 'K') && second == Some('°');
            usize::from(BEFORE_PERIOD.contains(before) || capitals || degrees)
        }
        ('s' | 'S', Some(quote @ ('\'' | '’'))) => quote.len_utf8() + 1,
        ('…', Some('…')) => 2 * c.len_utf8(),
        _ if SUFFIX.contains(c) => c.len_utf8(),
        _ => 0,
    }
}

/// How many bytes of a mark inside a word are a token of their own. `rest` begins with `c`, and `last` is
/// the character before it.
fn infix_bytes(rest: &str, c: char, last: Option<char>) -> usize {
    if c.is_ascii_alphanumeric() {
        return 0;
    }
    let after = &rest[c.len_utf8()..];
    let next = after.chars().next();
    let is = |c: Option<char>, fits: &dyn Fn(char) -> bool| c.is_some_and(fits);
    let letter = |c: Option<char>| is(c, &|c| LETTERS.contains(c));
    let letter_or_digit = |c: Option<char>| is(c, &|c| c.is_ascii_digit() || LETTERS.contains(c));
    match c {
        '.' if next == Some('.') => dots(rest),
        '.' => usize::from(
            is(last, &|c| LOWER_OR_QUOTE.contains(c)) && is(next, &|c| UPPER_OR_QUOTE.contains(c)),
        ),
        '+' | '*' | '^' | '-'
            if is(last, &|c| c.is_ascii_digit()) && is(next, &|c| c == '-' || c.is_ascii_digit()) =>
        {
            1
        }
        ',' => usize::from(letter(last) && letter(next)),
        '-' | '–' | '—' | '~' if letter_or_digit(last) => {
            // As many of the same as a letter follows; three hyphens or two dashes at most.
            let most = match c {
                '-' => 3,
                '—' => 2,
                _ => 1,
            };
            let alike = rest.chars().take_while(|&other| other == c).count();
            let mark = alike * c.len_utf8();
            if alike <= most && letter(rest[mark..].chars().next()) { mark } else { 0 }
        }
        ':' | '<' | '>' | '=' | '/' => usize::from(letter_or_digit(last) && letter(next)),
        '…' => c.len_utf8(),
        c if SYMBOL.contains(c) => c.len_utf8(),
        _ => 0,
    }
}

/// Two or more full stops at the beginning.
fn dots(word: &str) -> usize {
    let dots = word.len() - word.trim_start_matches('.').len();
    if dots > 1 { dots } else { 0 }
}

/// Puts exceptions together again that have come apart. The longest come first, then the first; also
/// one with white space inside, which stays as it is, keeps shorter ones from its tokens.
fn join_exceptions(exceptions: &Exceptions, text: &str, tokens: &mut Vec<Token>) {
    let (mut found, mut lengths) = (Vec::new(), Vec::new());
    for at in 0..tokens.len().saturating_sub(1) {
        exceptions.sequences_at(text, tokens, at, &mut lengths);
        found.extend(lengths.drain(..).map(|length| (length, at)));
    }
    if found.is_empty() {
        return;
    }
    found.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut taken = FxHashSet::default();
    let mut joined: FxHashMap<usize, usize> = FxHashMap::default();
    for (length, at) in found {
        let free = !taken.contains(&at) && !taken.contains(&(at + length - 1));
        taken.extend(at..at + length);
        let adjacent = tokens[at..at + length].windows(2).all(|pair| pair[0].end == pair[1].start);
        if free && adjacent {
            joined.insert(at, length);
        }
    }
    let apart = std::mem::take(tokens);
    let mut at = 0;
    while at < apart.len() {
        let length = joined.get(&at).copied().unwrap_or(1);
        let mut start = apart[at].start;
        match exceptions.parts(&text[start..apart[at + length - 1].end]) {
            Some(parts) if length > 1 => {
                for bytes in parts {
                    tokens.push(Token { start, end: start + bytes });
                    start += bytes;
                }
            }
            _ => tokens.extend_from_slice(&apart[at..at + length]),
        }
        at += length;
    }
}
