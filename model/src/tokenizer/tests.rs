use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Some varied English, enough for a few hundred merges.
fn corpus() -> Vec<String> {
    let subjects =
        ["The river", "A small engine", "Every teacher", "The old computer", "Rain", "A good proof"];
    let verbs = ["carries", "teaches", "needs", "remembers", "follows", "breaks"];
    let objects = [
        "stones to the sea",
        "the next lesson",
        "1234 numbers",
        "a careful reader",
        "warm water",
        "the rule",
    ];
    let mut texts = Vec::new();
    for (i, s) in subjects.iter().enumerate() {
        for (j, v) in verbs.iter().enumerate() {
            for (k, o) in objects.iter().enumerate() {
                texts.push(format!("{s} {v} {o}, and {} is {}.\n", i * 17 + j, k * 31));
            }
        }
    }
    texts
}

fn options(vocab_size: usize) -> TokenizerOptions {
    TokenizerOptions { vocab_size, ..TokenizerOptions::default() }
}

fn trained(vocab_size: usize) -> (tempfile::TempDir, Encoder) {
    let folder = tempfile::tempdir().unwrap();
    let encoder = train(&options(vocab_size), corpus(), folder.path()).unwrap();
    (folder, encoder)
}

#[test]
fn two_trainings_give_the_same_bytes_and_order_does_not_matter() {
    let (a, _) = trained(400);
    let b = tempfile::tempdir().unwrap();
    train(&options(400), corpus().into_iter().rev(), b.path()).unwrap();
    for file in [TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json"] {
        let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(file)).unwrap();
        assert_eq!(read(&a), read(&b), "{file}");
    }
}

#[test]
fn merges_are_those_of_the_tokenizers_crate() {
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    let (_folder, ours) = trained(420);
    let special = SPECIAL_TOKENS.map(|token| tokenizers::AddedToken::from(token, true)).to_vec();
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(420)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let mut theirs = tokenizers::Tokenizer::new(BPE::default());
    theirs.with_pre_tokenizer(Some(pre_tokenizer()));
    theirs.train(&mut trainer, corpus().into_iter()).unwrap();
    let vocabulary =
        |tokenizer: &tokenizers::Tokenizer| tokenizer.get_vocab(true).into_iter().collect::<BTreeSet<_>>();
    let ours = tokenizers::Tokenizer::from_file(ours.folder().join(TOKENIZER_FILE)).unwrap();
    assert_eq!(vocabulary(&ours), vocabulary(&theirs));
}

#[test]
fn special_tokens_come_first_and_corpus_text_cannot_forge_them() {
    let (_folder, encoder) = trained(300);
    for (id, token) in SPECIAL_TOKENS.iter().enumerate() {
        assert_eq!(encoder.encode_with_special_tokens(token).unwrap(), [id as u32]);
        assert!(encoder.encode(token).unwrap().iter().all(|&t| t as usize >= SPECIAL_TOKENS.len()));
    }
    assert_eq!(encoder.vocab_size(), 300);
}

#[test]
fn digits_stand_alone_and_merges_compress() {
    let (_folder, encoder) = trained(420);
    assert_eq!(encoder.encode("1234").unwrap().len(), 4);
    let text = corpus().concat();
    let counts = count_by_subset(&encoder, [("a", text.as_str()), ("b", "xyz"), ("a", "river")]).unwrap();
    assert_eq!(counts["a"].texts, 2);
    assert_eq!(counts["b"], SubsetCount { texts: 1, bytes: 3, tokens: 3 });
    assert!(counts["a"].bytes_per_token() > 2.0, "{counts:?}");
}

#[test]
fn counting_forgets_rare_words_within_its_limit() {
    let mut tight = WordCounts::new(8);
    for text in ["a a a b b c ", "d e f g h i j k l m n "] {
        tight.push(&text.repeat((5 << 20) / text.len()));
    }
    assert!(tight.forgotten() > 0);
    assert!(tight.finish().len() <= 8);
}

#[test]
fn unusable_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = |options: &TokenizerOptions, texts: Vec<&str>| {
        train(options, texts, folder.path()).unwrap_err().to_string()
    };
    assert!(error(&options(100), vec!["x"]).contains("vocab_size = 100"));
    assert!(error(&options(70_000), vec!["x"]).contains("65,536"));
    assert!(error(&options(300), vec!["", ""]).contains("no text"));
    let broken = folder.path().join("broken.json");
    std::fs::write(&broken, "{\"model\": 3}").unwrap();
    assert!(Encoder::load(&broken).unwrap_err().to_string().contains("broken.json"));
    assert!(
        Encoder::load(&folder.path().join("missing.json")).unwrap_err().to_string().contains("missing.json")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_survives_encoding(text in "\\PC{0,40}|[a-z \n\t0-9]{0,60}") {
        use std::sync::LazyLock;
        static ENCODER: LazyLock<(tempfile::TempDir, Encoder)> = LazyLock::new(|| trained(400));
        let tokens = ENCODER.1.encode(&text).unwrap();
        prop_assert_eq!(ENCODER.1.decode(&tokens).unwrap(), text);
    }
}

/// A tokenizer that knows the pairs of many scripts, and the library's with the same file.
fn both() -> (Encoder, tokenizers::Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    let more = [
        "naïve café déjà vu ",
        "слово и слова ",
        "中文字符 中文 ",
        "👍🏽👍 ",
        "aaaa aaaaaaaa abab ",
        "\n\n  \t ",
    ];
    let texts = corpus().into_iter().chain(more.iter().map(|text| text.repeat(40)));
    let encoder = train(&options(900), texts, folder.path()).unwrap();
    assert!(encoder.is_fast());
    let mut library = tokenizers::Tokenizer::from_file(folder.path().join(TOKENIZER_FILE)).unwrap();
    library.set_encode_special_tokens(true);
    (encoder, library)
}

fn assert_like_library(encoder: &Encoder, library: &tokenizers::Tokenizer, text: &str) {
    let theirs = library.encode_fast(text, false).unwrap();
    assert_eq!(encoder.encode(text).unwrap(), theirs.get_ids(), "{text:?}");
}

#[test]
fn long_words_are_encoded_as_the_library_does() {
    let (encoder, library) = both();
    for letters in ["a", "ab", "теслово", "中", "stonesriver", "👍🏽"] {
        for times in [1, 7, 30, 47, 48, 49, 200, 5_000] {
            assert_like_library(&encoder, &library, &letters.repeat(times));
        }
    }
    // Memories of words come and go.
    let many: String =
        (0..90_000).map(|n| format!("w{} ", blake3::hash(&[n as u8, (n >> 8) as u8]))).collect();
    assert_like_library(&encoder, &library, &many);
    assert_like_library(&encoder, &library, &corpus().concat());
}

#[test]
fn tokenizers_of_other_families_are_the_library_s() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = train(&options(420), corpus(), folder.path()).unwrap();
    let path = encoder.folder().join(TOKENIZER_FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"individual_digits\": true", "\"individual_digits\": false"),
        ("\"ignore_merges\": false", "\"ignore_merges\": true"),
        ("\"special\": true", "\"special\": false"),
        ("\"use_regex\": true", "\"use_regex\": false"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let other = Encoder::load(&path).unwrap();
        assert!(!other.is_fast(), "{to}");
        let mut library = tokenizers::Tokenizer::from_file(&path).unwrap();
        library.set_encode_special_tokens(true);
        assert_like_library(&other, &library, "The river 1234 carries <|endoftext|> stones");
    }
}

proptest! {
    #[test]
    fn texts_are_encoded_as_the_library_does(texts in prop::collection::vec("\\PC{0,60}|[ab \\n'sтл中👍1<|>]{0,80}|(the|river|слова|café|  |<\\|endoftext\\|>){0,12}", 1..4)) {
        use std::sync::OnceLock;
        static BOTH: OnceLock<(Encoder, tokenizers::Tokenizer)> = OnceLock::new();
        let (encoder, library) = BOTH.get_or_init(both);
        for text in texts {
            assert_like_library(encoder, library, &text);
        }
    }
}
