//! The words of a text, as datatrove's English word tokenizer gives them (`utils/word_tokenizers.py`,
//! release 0.10.1): the tokens that are no white space.

use super::chars::is_space;
use super::tokens::{Token, tokenize};

/// Words in order, joined by single spaces, so that any run of them is a slice.
#[derive(Debug, Default)]
pub struct Words {
    joined: String,
    /// Where each word stands in `joined`, in bytes.
    spans: Vec<Token>,
    tokens: Vec<Token>,
}

impl Words {
    /// Takes the words of a text in place of those that were here.
    pub fn set(&mut self, text: &str) {
        self.joined.clear();
        self.spans.clear();
        tokenize(text, &mut self.tokens);
        for token in &self.tokens {
            let word = token.of(text);
            if word.starts_with(is_space) {
                continue;
            }
            if !self.joined.is_empty() {
                self.joined.push(' ');
            }
            let start = self.joined.len();
            self.joined.push_str(word);
            self.spans.push(Token { start, end: self.joined.len() });
        }
    }

    /// How many words there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no word.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The words one by one.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.spans.iter().map(|span| span.of(&self.joined))
    }

    /// Every run of `words` consecutive words, joined by single spaces; none where there are fewer.
    pub fn runs(&self, words: usize) -> impl Iterator<Item = &str> {
        self.spans
            .windows(words.max(1))
            .filter_map(|run| Some(&self.joined[run.first()?.start..run.last()?.end]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut words = Words::default();
        words.set(text);
        words.iter().map(str::to_owned).collect()
    }

    /// Values from spaCy 3.8 through datatrove 0.10.1 (`tests/parity/rules_datatrove.py --words`).
    #[test]
    fn words_are_those_of_the_english_tokenizer() {
        for (text, want) in GOLDEN {
            assert_eq!(words(text).join("|"), *want, "{text:?}");
        }
        assert_eq!(words(":| foo:| (=|)"), [":|", "foo:|", "(", "=|", ")"]);
    }

    const GOLDEN: &[(&str, &str)] = &[
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
        (
            "Mr. Smith's dog didn't bark; \"Why?\" she'd've asked.",
            "Mr.|Smith|'s|dog|did|n't|bark|;|\"|Why|?|\"|she|'d|'ve|asked|.",
        ),
        (
            "U.S.A. e.g. i.e. etc. N.Y. Ph.D. a.m. 10a.m. 5pm (Mr.)",
            "U.S.A.|e.g.|i.e.|etc|.|N.Y.|Ph.D.|a.m.|10|a.m.|5|pm|(|Mr.|)",
        ),
        (
            "Don't can't CAN'T Cannot gonna It's its IT'S let's y'all ma'am",
            "Do|n't|ca|n't|CAN'T|Can|not|gon|na|It|'s|its|IT|'S|let|'s|y'|all|ma'am",
        ),
        (
            "well-known state-of-the-art a--b a---b a----b x–y 3-4 3+4 2*3 2^-1 10-year",
            "well|-|known|state|-|of|-|the|-|art|a|--|b|a|---|b|a----b|x|–|y|3|-|4|3|+|4|2|*|3|2|^|-1|10|-|year",
        ),
        ("end... wait…what……no ....start a..b (...)", "end|...|wait|…|what|…|…|no|....|start|a|..|b|(|...|)"),
        (
            "(see http://example.com/a_b?c=d,e). www.x.org, me@x.org; 8.8.8.8/x 10.0.0.1",
            "(|see|http://example.com/a_b?c=d,e|)|.|www.x.org|,|me@x.org|;|8.8.8.8/x|10.0.0.1",
        ),
        (
            "foo.Bar foo.bar Foo.Bar a,b 1,000 a:b a/b and/or w/o http: 3:4",
            "foo|.|Bar|foo.bar|Foo|.|Bar|a|,|b|1,000|a|:|b|a|/|b|and/or|w/o|http|:|3:4",
        ),
        (
            "$5 US$5 C$5 €5 5€ 5$ 5% 5km/h 5MB. 5+ +5 +a a+",
            "$|5|US$|5|C$|5|€|5|5|€|5|$|5|%|5|km/h|5|MB|.|5|+|+5|+|a|a+",
        ),
        ("°C. 20°C. 20°c. 5K. AB. Ab. aB. 1. ².", "°|C|.|20|°|C|.|20|°|c|.|5K.|AB|.|Ab|.|aB.|1|.|²|."),
        (" :) :-( foo:) (foo:) :D :P 8) <3 a<3 ):( ;-)", ":)|:-(|foo|:)|(|foo|:)|:D|:P|8)|<3|a<3|)|:(|;-)"),
        ("lead  double\tspace\n\nnew\u{a0}nbsp ", "lead|double|space|new|nbsp"),
        (
            "'Tis 'cause ’cause rock'n'roll '90s dogs' 's x's’ “quoted”, «so»",
            "'|Tis|'cause|’cause|rock'n'roll|'|90s|dogs|'|'s|x|'s|’|“|quoted|”|,|«|so|»",
        ),
        (
            "[1] {a} #tag @user a_b _c_ *d* & ~e ~ --- -- - —",
            "[|1|]|{|a|}|#|tag|@user|a_b|_|c|_|*|d|*|&|~e|~|---|--|-|—",
        ),
        (
            "café's naïve. Ünïted ÉÉ. Straße, Ελλάδα. Москва.",
            "café|'s|naïve|.|Ünïted|ÉÉ|.|Straße|,|Ελλάδα|.|Москва|.",
        ),
        (
            "C++ C# \\n \\t <space> ¯\\(ツ)/¯ o.O O_o ^_^ x.x",
            "C++|C|#|\\n|\\t|<space>|¯\\(ツ)/¯|o.O|O_o|^_^|x.x",
        ),
        (
            "don’t I’m you’re he’ll we’d’ve they've who's That'd",
            "do|n’t|I|’m|you|’re|he|’ll|we|’d|’ve|they|'ve|who|'s|That|'d",
        ),
        ("no.Yes a.\"B ).( a.'b'", "no|.|Yes|a.|\"B|)|.|(|a.|'b|'"),
        ("5'10\" 3rd's 1980s. 12:30pm 7p.m. 7 p.m.", "5'10|\"|3rd|'s|1980s|.|12:30pm|7|p.m.|7|p.m."),
        ("a.b.c. x. (x.) foo-a. bar.a", "a.b.c|.|x.|(|x.|)|foo|-|a.|bar.a"),
    ];

    proptest! {
        #[test]
        fn no_letter_is_lost(text in "[a-zA-Z0-9=<;:.,|'’()•‘£ км°-]{0,40}") {
            let bare = |text: &str| text.replace(' ', "");
            prop_assert_eq!(bare(&words(&text).concat()), bare(&text));
        }

        #[test]
        fn runs_are_the_windows_of_the_words(text in "[a-d. ]{0,40}", n in 1..6_usize) {
            let mut all = Words::default();
            all.set(&text);
            let single: Vec<&str> = all.iter().collect();
            let want: Vec<String> = single.windows(n).map(|run| run.join(" ")).collect();
            prop_assert_eq!(all.runs(n).collect::<Vec<_>>(), want);
        }
    }
}
