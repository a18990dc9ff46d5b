use super::*;

/// A text of `n` different words that ends a sentence.
fn prose(n: usize) -> String {
    (0..n).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ") + "."
}

fn clean_as(
    options: &CleanOptions,
    text: &str,
    finish_reason: &str,
    tokens: u32,
    seed_text: &str,
) -> Result<Cleaned, Dropped> {
    clean_completion(options, &Completion { text, finish_reason, tokens, seed_text })
}

fn clean(text: &str) -> Result<Cleaned, Dropped> {
    clean_as(&CleanOptions::default(), text, "stop", 200, "")
}

fn reason(result: Result<Cleaned, Dropped>) -> Option<&'static str> {
    result.err().map(|d| d.reason.name())
}

#[test]
fn a_good_answer_is_kept_as_it_is() {
    assert_eq!(clean(&prose(50)), Ok(Cleaned { text: prose(50), removed_opening: None }));
}

#[test]
fn nothing_and_nothing_but_a_formula_are_empty() {
    for text in ["", " \n\t", "Welcome, dear students!", "Sure, here is the story: \n\n***"] {
        assert_eq!(reason(clean(text)), Some("empty"), "{text}");
    }
    assert_eq!(reason(clean("Welcome! Light.")), None);
}

#[test]
fn a_refusal_is_dropped_with_its_words() {
    let dropped = clean(&format!("I'm sorry, but I can't help with that. {}", prose(50))).unwrap_err();
    assert_eq!(dropped.reason, DropReason::Refusal);
    assert!(dropped.detail.contains("I'm sorry, but"));
}

#[test]
fn the_floor_is_150_tokens() {
    let options = CleanOptions::default();
    assert_eq!(reason(clean_as(&options, &prose(50), "stop", 149, "")), Some("too_short"));
    assert_eq!(reason(clean_as(&options, &prose(50), "stop", 150, "")), None);
    let sample = CleanOptions { min_tokens: 20, ..options };
    assert_eq!(reason(clean_as(&sample, &prose(50), "stop", 19, "")), Some("too_short"));
    assert_eq!(reason(clean_as(&sample, &prose(50), "stop", 20, "")), None);
}

#[test]
fn an_opening_is_taken_off_and_named() {
    let cleaned = clean(&format!("Hello, young friends! {}", prose(50))).unwrap();
    assert_eq!(cleaned.text, prose(50).replacen('w', "W", 1));
    assert_eq!(cleaned.removed_opening.as_deref(), Some("Hello, young friends!"));
}

#[test]
fn a_cut_answer_has_to_end_a_sentence() {
    let options = CleanOptions::default();
    let cut = |tail: &str| reason(clean_as(&options, &format!("{} {tail}", prose(50)), "length", 200, ""));
    for whole in
        ["It ends.", "Does it?", "\"It ends!\"", "*It ends.*", "So\n```\nx\n```", "So $$x$$", "其结束。"]
    {
        assert_eq!(cut(whole), None, "{whole}");
    }
    for open in ["It does not", "It, does,", "So\n```\nx = 1", "So $$x", "And then:"] {
        assert_eq!(cut(open), Some("cut_without_sentence_end"), "{open}");
    }
    assert_eq!(reason(clean(&format!("{} It does not", prose(50)))), None);
}

#[test]
fn a_cut_answer_can_be_kept_up_to_its_last_sentence() {
    let options = CleanOptions { cut_answers: CutAnswers::KeepWholeSentences, ..Default::default() };
    let cut = |text: &str| clean_as(&options, text, "length", 200, "").map(|c| c.text).map_err(|d| d.reason);
    assert_eq!(
        cut("Light is fast. \"It bends.\" It is 3.14 times as"),
        Ok("Light is fast. \"It bends.\"".into())
    );
    assert_eq!(cut("Steps follow.\n1. Mix\n2. St"), Ok("Steps follow.".into()));
    assert_eq!(cut("Code follows.\n```\nx = f(1). y\nz"), Ok("Code follows.".into()));
    assert_eq!(cut("no sentence at all"), Err(DropReason::CutWithoutSentenceEnd));
    assert_eq!(cut("It ends."), Ok("It ends.".into()));
}

#[test]
fn repetition_is_told_by_lines_and_by_words() {
    let lines = format!("{}\n{}", prose(20), "The same line again.\n".repeat(12));
    assert_eq!(reason(clean(&lines)), Some("repeated_line"));
    let words = format!("{} {}", prose(20), "the moon is round and ".repeat(12));
    assert_eq!(reason(clean(&words)), Some("repeated_ngram"));
    let loose = RepetitionLimits {
        duplicate_lines: 1.0,
        duplicate_paragraphs: 1.0,
        duplicate_line_chars: 1.0,
        duplicate_paragraph_chars: 1.0,
        top_ngram_chars: [9.0; 3],
        duplicate_ngram_chars: [9.0; 6],
    };
    let loose = CleanOptions { repetition: loose, ..Default::default() };
    assert_eq!(reason(clean_as(&loose, &lines, "stop", 200, "")), None);
}

#[test]
fn a_hundred_words_of_the_seed_are_allowed_and_one_more_is_a_copy() {
    let options = CleanOptions::default();
    let seed: Vec<String> = (0..160).map(|i| format!("seed{i}")).collect();
    let answer = |copied: usize| {
        format!("{} {} {}", prose(20), seed[20..20 + copied].join(", "), prose(30).replace("word", "other"))
    };
    let seed_text = seed.join(" ");
    assert_eq!(reason(clean_as(&options, &answer(100), "stop", 300, &seed_text)), None);
    let dropped = clean_as(&options, &answer(101), "stop", 300, &seed_text).unwrap_err();
    assert_eq!(dropped.reason.name(), "copies_seed");
    assert!(dropped.detail.contains("101 words"), "{}", dropped.detail);
}

#[test]
fn options_are_read_strictly() {
    let options: CleanOptions =
        toml::from_str("min_tokens = 20\ncut_answers = \"keep_whole_sentences\"").unwrap();
    assert_eq!((options.min_tokens, options.cut_answers), (20, CutAnswers::KeepWholeSentences));
    assert!(toml::from_str::<CleanOptions>("min_token = 20").is_err());
}
