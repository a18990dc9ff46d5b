use super::*;
use crate::topics::Origin;
use proptest::prelude::*;

fn topic() -> Heading {
    Heading {
        code: "COM010000".into(),
        top_category: "COMPUTERS".into(),
        subcategory: "Compilers".into(),
        subtopic: String::new(),
        origin: Origin::Bisac,
    }
}

fn parse(answer: &str) -> ParsedAnswer {
    parse_answer(answer, &topic(), &NameBounds::default())
}

const THREE: [&str; 3] = ["Lexical Analysis", "Register Allocation", "Garbage Collection"];

#[test]
fn every_layout_gives_the_same_names() {
    for answer in [
        "1. Lexical Analysis\n2. Register Allocation\n3. Garbage Collection",
        "Here are 3 subtopics:\n\n1) Lexical Analysis\n2) Register Allocation\n3) Garbage Collection\n\nLet me know if you want more!",
        "(1) Lexical Analysis\r\n(2) Register Allocation\r\n(3) Garbage Collection",
        "- Lexical Analysis\n- Register Allocation.\n- Garbage Collection;",
        "* **Lexical Analysis**: how text becomes tokens\n* **Register Allocation** – which value lives where\n* **Garbage Collection:** freeing memory",
        "*Lexical Analysis\n*Register Allocation\n*Garbage Collection",
        "**1. Lexical Analysis**\n   - tokens\n   - automata\n**2. Register Allocation**\n   - graphs\n**3. Garbage Collection**",
        "• “Lexical Analysis”\n• ‘Register Allocation’\n• \"Garbage Collection\" (memory)",
        "Sure! 1. Lexical Analysis 2. Register Allocation 3. Garbage Collection",
        "Lexical Analysis\nRegister Allocation\nGarbage Collection",
        "The main ones are: lexical analysis, register allocation, and garbage collection.",
        "A course would include Lexical Analysis, Register Allocation, Garbage Collection",
        "```json\n[\"Lexical Analysis\", \"Register Allocation\", \"Garbage Collection\"]\n```",
        "1. 1) Lexical Analysis\n2. 2) Register Allocation - 20 different subtopics\n3. 3) Garbage Collection",
        "1. Subtopic 1: Lexical Analysis\n2. Subtopic 2: Register Allocation\n3. Topic: Garbage Collection",
        "a) Lexical Analysis\nb) Register Allocation\nc) Garbage Collection",
        "1. [Lexical Analysis](https://example.org)\n2. `Register Allocation`\n3. __Garbage Collection__",
        "### 1. Lexical Analysis\nText about it.\n### 2. Register Allocation\nMore text, with commas, and more.\n### 3. Garbage Collection",
    ] {
        let names: Vec<String> = parse(answer).subtopics.iter().map(|n| n.to_lowercase()).collect();
        assert_eq!(names, THREE.map(str::to_lowercase), "{answer}");
        assert_eq!(parse(answer).verdict, Verdict::List);
    }
}

#[test]
fn what_small_models_really_say_is_survived() {
    // Shapes of answers as SmolLM2-135M-Instruct gives them at temperature 0.6.
    let looped =
        "The list would include Genetics, Genomics, Genetics, Genetics, Genomics, Genetics, Genomics";
    assert_eq!(parse(looped).subtopics, ["Genetics", "Genomics"]);
    assert_eq!(parse(looped).rejected[&Rejection::Duplicate], 5);

    let nested = "Topics in compilers:\n\n1. Parsing:\n- Grammar\n- Grammar\n- Tree";
    assert_eq!(parse(nested).subtopics, ["Grammar", "Tree"]);

    let numbers =
        "281\nThe first 4 numbers in each row are the number \"A\" followed by three digits (and a point).";
    assert_eq!(parse(numbers).verdict, Verdict::Malformed);

    let prose = "The topic of compilers would be the study of programs at the machine level, which explores the work of translation.";
    assert_eq!(parse(prose).verdict, Verdict::Malformed);

    let explained = "1. Skin – the most fundamental part - made of layers. \n2. Hair & nails — hair has a protein called keratin; nails\n3. Bones — they provide support";
    assert_eq!(parse(explained).subtopics, ["Skin", "Hair & nails", "Bones"]);

    let doubled =
        "*Fantasy and Fantasy\n*Games and Game\n*Type Inference\n*Compilers\n*Introduction to compilers";
    assert_eq!(parse(doubled).subtopics, ["Type Inference"]);
    assert_eq!(parse(doubled).rejected, Rejections::from([(Rejection::Repeats, 2), (Rejection::Echo, 2)]));

    let numbered_in_words = "The 1st topic in this category: Gene Editing\n\
        2nd Topic: Cell Growth, 47192\n3rd Topic: DNA- 1 topic";
    assert_eq!(parse(numbered_in_words).subtopics, ["Gene Editing", "Cell Growth", "DNA"]);

    assert_eq!(parse("- \"Computer History\"").subtopics, ["Computer History"]);
    assert_eq!(parse("").verdict, Verdict::Malformed);
    assert_eq!(parse("1.\n2.\n3.").verdict, Verdict::Malformed);
}

#[test]
fn refusals_are_not_lists() {
    for answer in [
        "I'm sorry, but I can't assist with that.",
        "I am sorry, but as an AI language model, I cannot list subtopics.",
        "I cannot provide a list of 10 topics, parts, and names.",
    ] {
        assert_eq!(parse(answer).verdict, Verdict::Refused, "{answer}");
        assert!(parse(answer).subtopics.is_empty());
    }
}

#[test]
fn a_cut_answer_loses_its_unfinished_end() {
    assert_eq!(without_cut_line("1. Parsing\n2. Linking\n3. Optim"), "1. Parsing\n2. Linking");
    assert_eq!(without_cut_line("Parsing, Linking, Optim"), "Parsing, Linking");
    assert_eq!(without_cut_line("Optim"), "");
}

proptest! {
    #[test]
    fn a_list_in_any_common_layout_is_read_whole(
        names in proptest::collection::btree_set("[A-Z][bcdfgm]{3,7}[a-e] [A-Z][kpqrtv]{3,8}[a-e]", 2..12),
        marker in proptest::sample::select(vec!["#. ", "#) ", "(#) ", "- ", "* ", "• ", "  #. "]),
        wrap in proptest::sample::select(vec!["@", "**@**", "\"@\"", "@: about @", "**@** - about", "@ (about)", "@."]),
        lead in proptest::sample::select(vec!["", "Here are the subtopics:\n\n", "Sure!\n"]),
    ) {
        let lines: Vec<String> = names.iter().enumerate().map(|(i, name)| marker.replace('#', &(i + 1).to_string()) + &wrap.replace('@', name)).collect();
        let parsed = parse(&format!("{lead}{}\n", lines.join("\n")));
        prop_assert_eq!(parsed.subtopics, names.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn no_answer_panics_and_every_name_keeps_the_bounds(
        parts in proptest::collection::vec(prop_oneof!["[ -~]{0,12}".boxed(), "\\PC{0,6}".boxed(), proptest::sample::select(vec!["\n1. ", "\n- ", "**", "\"", ": ", ", ", "[", "]", "é", "\n\n", "(", "–"]).prop_map(String::from).boxed()], 0..30)
    ) {
        let parsed = parse(&parts.concat());
        for name in &parsed.subtopics {
            prop_assert!((3..=80).contains(&name.chars().count()));
        }
        let keys: std::collections::BTreeSet<_> = parsed.subtopics.iter().map(|n| dedupe_key(n)).collect();
        prop_assert_eq!(keys.len(), parsed.subtopics.len());
    }
}
