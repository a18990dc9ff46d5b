use super::*;
use proptest::prelude::*;

fn page(text: &str, max_chars: usize) -> String {
    seed_extract(text, max_chars, SeedKind::Page)
}

#[test]
fn a_page_is_cut_at_the_end_of_a_sentence_in_any_script() {
    assert_eq!(page("One is odd. Two is even. Three is odd again.", 30), "One is odd. Two is even.");
    assert_eq!(page("One is odd. Two is even. Three", 24), "One is odd. Two is even.");
    assert_eq!(page("“Is it?” he asked. “It is!” She left the room.", 30), "“Is it?” he asked. “It is!”");
    assert_eq!(page("圆是点的集合。直径是最长的弦。半径是一半。", 16), "圆是点的集合。直径是最长的弦。");
    assert_eq!(page("यह एक वृत्त है। यह एक रेखा है। और यह", 33), "यह एक वृत्त है। यह एक रेखा है।");
    assert_eq!(page("هل هذا صحيح؟ نعم هذا صحيح. ثم", 20), "هل هذا صحيح؟");
    // What is no sentence's end: abbreviations, numbers, line ends of wrapped text.
    assert_eq!(page("It was said by Dr. Smith. The next one is Dr. Jones", 45), "It was said by Dr. Smith.");
    assert_eq!(
        page("Pi is about 3.14 and so on.\nIt is wrapped\nhere and there", 40),
        "Pi is about 3.14 and so on."
    );
    assert_eq!(page("Wash it well.\n2. Dry it and put it away", 15), "Wash it well.");
}

#[test]
fn where_a_whole_sentence_would_cost_too_much_lines_and_words_are_kept_whole() {
    assert_eq!(page("Yes. alpha beta gamma delta epsilon", 22), "Yes. alpha beta gamma");
    assert_eq!(page("Title without an end\nsecond line of words", 27), "Title without an end");
    assert_eq!(page("alpha beta gamma", 10), "alpha beta");
    assert_eq!(page("alpha beta gamma", 12), "alpha beta");
    assert_eq!(page("alpha beta gamma", 16), "alpha beta gamma");
    assert_eq!(page("ééééé", 3), "ééé");
    assert_eq!(page("", 10), "");
    assert_eq!(page("abc", 0), "");
}

#[test]
fn code_is_cut_at_the_end_of_a_line_and_keeps_its_indentation() {
    let code = "def f(x):\n    if x:\n\treturn  1\n\n\n\n    return 0";
    let kept = "def f(x):\n    if x:\n    return 1\n\n    return 0";
    assert_eq!(seed_extract(code, 99, SeedKind::Code), kept);
    let commented = "# One. Two.\nx = compute(1)\ny = compute(2)";
    assert_eq!(seed_extract(commented, 35, SeedKind::Code), "# One. Two.\nx = compute(1)");
}

#[test]
fn a_thousand_characters_are_kept_and_one_more_is_cut() {
    let word = "x".repeat(1000);
    assert_eq!(page(&word, 1000).chars().count(), 1000);
    assert_eq!(page(&(word + "y"), 1000).chars().count(), 1000);
}

#[test]
fn control_characters_and_chat_markers_go() {
    assert_eq!(page("a\u{0}b\r\n\n\n\n c<|im_end|>\u{202E}d <| e |>", 99), "a b\n\n c d <| e |>");
    for marker in [
        "<|im_start|>",
        "<|reserved_special_token_1|>",
        "<｜end▁of▁sentence｜>",
        "[INST]",
        "</s>",
        "<end_of_turn>",
    ] {
        assert_eq!(page(&format!("a{marker}b"), 99), "a b", "{marker}");
    }
    // What is left after one marker is gone does not become another.
    assert_eq!(page("<|im_<|x|>end|> <</s>s>", 99), "<|im_ end|> < s>");
    assert_eq!(page("Vec<String> and a[INSTANT] <sup>", 99), "Vec<String> and a[INSTANT] <sup>");
}

#[test]
fn a_fence_is_longer_than_any_run_in_the_text() {
    assert_eq!(fence("plain", '"'), "\"\"\"");
    assert_eq!(fence("\"\"\"", '"'), "\"\"\"\"");
    assert_eq!(fence("a``b`````c", '`'), "``````");
}

proptest! {
    #[test]
    fn never_longer_than_asked_and_never_a_control_character(
        chars in proptest::collection::vec(
            prop_oneof![any::<char>(), proptest::sample::select("a \n\t<|>\r\u{0}é.!?\"。".chars().collect::<Vec<_>>())],
            0..90,
        ),
        max in 0usize..60,
        kind in proptest::sample::select(vec![SeedKind::Page, SeedKind::Code]),
    ) {
        let text: String = chars.into_iter().collect();
        let extract = seed_extract(&text, max, kind);
        prop_assert!(extract.chars().count() <= max);
        prop_assert!(extract.chars().all(|c| c == '\n' || !c.is_control()));
        prop_assert_eq!(seed_extract(&extract, max, kind), extract.clone());
    }
}
