//! The language of a page: by the `whatlang` crate (trigrams and alphabets), or by a fastText model.

use whatlang::Lang;

use crate::FastText;

/// A language and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detected<'m> {
    /// Its code: two letters of ISO 639-1, as in FineWeb's column `language`; with a model, its label.
    pub language: &'m str,
    /// The detector's confidence, 0–1.
    pub score: f64,
}

/// Who tells the language.
#[derive(Debug, Default)]
pub enum LanguageDetector {
    /// The `whatlang` crate, with 70 languages.
    #[default]
    Whatlang,
    /// A model such as fastText's lid.176, whose labels are languages (FineWeb's way).
    FastText(Box<FastText>),
}

impl LanguageDetector {
    /// The language of a text. `None` where it is empty; without a model, also where it has no letters of a
    /// known script.
    #[must_use]
    pub fn detect(&self, text: &str) -> Option<Detected<'_>> {
        match self {
            Self::Whatlang => {
                let found = whatlang::detect(text)?;
                Some(Detected { language: code(found.lang()), score: found.confidence() })
            }
            Self::FastText(_) if text.trim().is_empty() => None,
            Self::FastText(model) => {
                let found = model.predict(text)?;
                Some(Detected { language: found.label, score: f64::from(found.probability) })
            }
        }
    }
}

/// The two letters of ISO 639-1. `whatlang` has the three of ISO 639-3.
fn code(language: Lang) -> &'static str {
    match language {
        Lang::Epo => "eo",
        Lang::Eng => "en",
        Lang::Rus => "ru",
        Lang::Cmn => "zh",
        Lang::Spa => "es",
        Lang::Por => "pt",
        Lang::Ita => "it",
        Lang::Ben => "bn",
        Lang::Fra => "fr",
        Lang::Deu => "de",
        Lang::Ukr => "uk",
        Lang::Kat => "ka",
        Lang::Ara => "ar",
        Lang::Hin => "hi",
        Lang::Jpn => "ja",
        Lang::Heb => "he",
        Lang::Yid => "yi",
        Lang::Pol => "pl",
        Lang::Amh => "am",
        Lang::Jav => "jv",
        Lang::Kor => "ko",
        Lang::Nob => "no",
        Lang::Dan => "da",
        Lang::Swe => "sv",
        Lang::Fin => "fi",
        Lang::Tur => "tr",
        Lang::Nld => "nl",
        Lang::Hun => "hu",
        Lang::Ces => "cs",
        Lang::Ell => "el",
        Lang::Bul => "bg",
        Lang::Bel => "be",
        Lang::Mar => "mr",
        Lang::Kan => "kn",
        Lang::Ron => "ro",
        Lang::Slv => "sl",
        Lang::Hrv => "hr",
        Lang::Srp => "sr",
        Lang::Mkd => "mk",
        Lang::Lit => "lt",
        Lang::Lav => "lv",
        Lang::Est => "et",
        Lang::Tam => "ta",
        Lang::Vie => "vi",
        Lang::Urd => "ur",
        Lang::Tha => "th",
        Lang::Guj => "gu",
        Lang::Uzb => "uz",
        Lang::Pan => "pa",
        Lang::Aze => "az",
        Lang::Ind => "id",
        Lang::Tel => "te",
        Lang::Pes => "fa",
        Lang::Mal => "ml",
        Lang::Ori => "or",
        Lang::Mya => "my",
        Lang::Nep => "ne",
        Lang::Sin => "si",
        Lang::Khm => "km",
        Lang::Tuk => "tk",
        Lang::Aka => "ak",
        Lang::Zul => "zu",
        Lang::Sna => "sn",
        Lang::Afr => "af",
        Lang::Lat => "la",
        Lang::Slk => "sk",
        Lang::Cat => "ca",
        Lang::Tgl => "tl",
        Lang::Hye => "hy",
        Lang::Cym => "cy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_apart() {
        for (text, language) in [
            ("The sea was calm, and the ships lay in the harbour until the morning.", "en"),
            ("Das Meer war ruhig, und die Schiffe lagen bis zum Morgen im Hafen.", "de"),
            ("海は穏やかで、船は朝まで港に泊まっていた。", "ja"),
        ] {
            let found = LanguageDetector::Whatlang.detect(text).unwrap();
            assert_eq!(found.language, language);
            assert!((0.0..=1.0).contains(&found.score));
        }
        for text in ["", "123 — 456"] {
            assert_eq!(LanguageDetector::Whatlang.detect(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_language_has_a_code_of_its_own() {
        let mut codes: Vec<&str> = Lang::all().iter().map(|&language| code(language)).collect();
        assert!(codes.iter().all(|code| code.len() == 2));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Lang::all().len());
    }
}
