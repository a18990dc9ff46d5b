//! Words, sentences and languages.

use whatlang::{Detector, Lang, Script};

/// Number of runs of letters, digits and underscores (NLTK's `RegexpTokenizer(r"\w+")`).
pub(super) fn words(text: &str) -> usize {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count()
}

/// Abbreviations that a full stop ends without ending the sentence, in lower case.
const ABBREVIATIONS: [&str; 26] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "cf", "inc", "ltd", "co",
    "corp", "gen", "col", "sgt", "capt", "lt", "rev", "no", "fig", "vol",
];

/// Number of sentences: a sentence ends with `.`, `?` or `!` (and closing quotes or brackets) before white space
/// or the end. A full stop after an abbreviation, an initial or a list's number ends none, nor does one before a
/// small letter. Text without an end counts as a sentence too.
pub(super) fn sentences(text: &str) -> usize {
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let ends = |index: usize| {
        let token = tokens[index].trim_end_matches(['"', '\'', ')', ']', '”', '’', '*', '_']);
        let Some(next) = tokens.get(index + 1) else { return true };
        let Some(stem) = token.strip_suffix('.') else {
            return token.ends_with(['?', '!', '。', '？', '！', '।', '۔', '؟']);
        };
        let stem = stem.trim_start_matches(['"', '\'', '(', '[', '“', '‘', '*', '_']);
        let letters = stem.chars().count();
        let initial = letters == 1 && stem.chars().all(char::is_uppercase) && stem != "I";
        let numbered = letters <= 2 && stem.chars().all(|c| c.is_ascii_digit());
        let known = ABBREVIATIONS.contains(&stem.to_lowercase().as_str());
        !(initial || numbered || known || next.starts_with(char::is_lowercase))
    };
    (0..tokens.len()).filter(|&index| ends(index)).count()
}

/// Whether there is a cased letter and all of them are capitals (Python's `str.isupper`).
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}

/// Whether there is a cased letter and all of them are small (Python's `str.islower`).
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

/// Endings that NLTK's word tokenizer cuts off as words of their own.
const CONTRACTIONS: [&str; 7] = ["N'T", "'S", "'M", "'D", "'LL", "'RE", "'VE"];

/// Number of words all in capitals, as NLTK's `word_tokenize` cuts words: hyphenated ones are one, contractions
/// two, and punctuation other than between digits or inside abbreviations ends one.
pub(super) fn capital_words(text: &str) -> usize {
    let marks = |c: char| {
        matches!(
            c,
            ',' | ';' | ':' | '(' | ')' | '[' | ']' | '{' | '}' | '!' | '?' | '"' | '“' | '”' | '<' | '>'
        )
    };
    let pieces = text.split(|c: char| c.is_whitespace() || marks(c));
    let in_piece = |piece: &str| {
        let piece = piece.replace('’', "'");
        let cut = |ending: &&str| {
            let (stem, tail) = piece.split_at_checked(piece.len().checked_sub(ending.len())?)?;
            tail.eq_ignore_ascii_case(ending).then_some((stem, tail))
        };
        let (stem, tail) = CONTRACTIONS.iter().find_map(cut).unwrap_or((&piece, ""));
        usize::from(is_upper(stem)) + usize::from(is_upper(tail))
    };
    pieces.map(in_piece).sum()
}

/// ISO 639-1 codes of the languages that are told apart.
const LANGUAGES: [(&str, Lang); 44] = [
    ("af", Lang::Afr),
    ("ar", Lang::Ara),
    ("bg", Lang::Bul),
    ("bn", Lang::Ben),
    ("ca", Lang::Cat),
    ("cs", Lang::Ces),
    ("cy", Lang::Cym),
    ("da", Lang::Dan),
    ("de", Lang::Deu),
    ("el", Lang::Ell),
    ("en", Lang::Eng),
    ("es", Lang::Spa),
    ("et", Lang::Est),
    ("fa", Lang::Pes),
    ("fi", Lang::Fin),
    ("fr", Lang::Fra),
    ("gu", Lang::Guj),
    ("he", Lang::Heb),
    ("hi", Lang::Hin),
    ("hu", Lang::Hun),
    ("id", Lang::Ind),
    ("it", Lang::Ita),
    ("ja", Lang::Jpn),
    ("kn", Lang::Kan),
    ("ko", Lang::Kor),
    ("ml", Lang::Mal),
    ("mr", Lang::Mar),
    ("ne", Lang::Nep),
    ("nl", Lang::Nld),
    ("no", Lang::Nob),
    ("pa", Lang::Pan),
    ("pl", Lang::Pol),
    ("pt", Lang::Por),
    ("ro", Lang::Ron),
    ("ru", Lang::Rus),
    ("sv", Lang::Swe),
    ("ta", Lang::Tam),
    ("te", Lang::Tel),
    ("th", Lang::Tha),
    ("tr", Lang::Tur),
    ("uk", Lang::Ukr),
    ("ur", Lang::Urd),
    ("vi", Lang::Vie),
    ("zh", Lang::Cmn),
];

/// Frequent words of Swahili, which `whatlang` does not know.
const SWAHILI: [&str; 24] = [
    "na", "ya", "wa", "kwa", "ni", "katika", "la", "za", "cha", "kuwa", "hii", "huu", "hiyo", "yako", "wako",
    "lakini", "kama", "sana", "watu", "wakati", "pia", "au", "kila", "yangu",
];

/// Whether a text is in the language with this ISO 639-1 code. A text without letters counts as being in each.
pub(super) fn is_language(text: &str, code: &str) -> bool {
    let lower = text.to_lowercase();
    let tokens: Vec<&str> =
        lower.split(|c: char| !c.is_alphabetic()).filter(|token| !token.is_empty()).collect();
    if tokens.is_empty() {
        return true;
    }
    // Texts of other languages hold "na" or "la" now and then, not a quarter of such words.
    let swahili = 4 * tokens.iter().filter(|token| SWAHILI.contains(token)).count() >= tokens.len();
    let latin = whatlang::detect_script(text) == Some(Script::Latin);
    if latin && (swahili || code == "sw") {
        return swahili == (code == "sw");
    }
    let detector = Detector::with_allowlist(LANGUAGES.map(|(_, lang)| lang).to_vec());
    let found = detector.detect_lang(text);
    LANGUAGES.iter().any(|&(known, lang)| known == code && found == Some(lang))
}
