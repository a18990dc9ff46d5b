use super::*;
use std::collections::BTreeSet;

/// Cases judged by the published checkers; made by `tests/parity/ifeval_lighteval.py`.
const CASES: &str = include_str!("../../../tests/fixtures/ifeval.jsonl");

#[derive(Deserialize)]
struct Case {
    id: String,
    kwargs: serde_json::Map<String, serde_json::Value>,
    answer: String,
    follows: bool,
}

#[test]
fn all_kinds_judge_as_the_published_checkers() {
    let (mut followed, mut broken) = (BTreeSet::new(), BTreeSet::new());
    let mut wrong = Vec::new();
    for line in CASES.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let instruction = Instruction::parse(&case.id, &case.kwargs).unwrap();
        if instruction.follows(&case.answer) != case.follows {
            wrong.push(line);
        }
        if case.follows { &mut followed } else { &mut broken }.insert(case.id);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Each kind with an answer that follows and one that does not.
    assert_eq!((followed.len(), broken.len()), (25, 25));
}

#[test]
fn the_published_prompts_are_understood() {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/benchmarks/ifeval_input_data.jsonl"
    ));
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("not tested: {} is absent", path.display());
        return;
    };
    let prompts = parse_prompts(&text, path).unwrap();
    assert_eq!(prompts.len(), 541);
    let ids: BTreeSet<&String> = prompts.iter().flat_map(|prompt| &prompt.ids).collect();
    assert_eq!(ids.len(), 25);
    assert_eq!(prompts.iter().map(|prompt| prompt.instructions.len()).sum::<usize>(), 834);
    // An empty answer follows nothing, not even "no commas".
    let followed: Vec<Followed> = prompts.iter().map(|prompt| prompt.check(" \n")).collect();
    let report = ifeval_report(&prompts, &followed).unwrap();
    assert_eq!((report.instruction_strict, report.instruction_loose), (0.0, 0.0));
}

fn prompt(list: &str, kwargs: &str) -> IfevalPrompt {
    let line = format!(r#"{{"key": 1, "prompt": "p", "instruction_id_list": {list}, "kwargs": {kwargs}}}"#);
    parse_prompts(&line, Path::new("x.jsonl")).unwrap().remove(0)
}

#[test]
fn the_loose_sense_forgives_what_models_add() {
    let lower = prompt(r#"["startend:quotation", "punctuation:no_comma"]"#, "[{}, {}]");
    let followed = lower.check("Sure, here it is:\n**\"all of it\"**");
    assert_eq!((followed.strict, followed.loose), (vec![false, false], vec![true, true]));
    let last = lower.check("\"a\"\nAnything else, sir?");
    assert_eq!((last.strict, last.loose), (vec![false, false], vec![true, true]));
    // One line: nothing is left without it.
    assert_eq!(lower.check("a, b").loose, [false, false]);
}

#[test]
fn shares_count_prompts_and_instructions() {
    let prompts = [
        prompt(r#"["punctuation:no_comma", "startend:quotation"]"#, "[{}, {}]"),
        prompt(r#"["punctuation:no_comma"]"#, r#"[{"relation": null}]"#),
    ];
    let followed = [prompts[0].check("no quotation"), prompts[1].check("no commas")];
    let report = ifeval_report(&prompts, &followed).unwrap();
    assert_eq!((report.prompts, report.prompt_strict, report.instruction_strict), (2, 0.5, 2.0 / 3.0));
    assert_eq!(report.kinds["punctuation:no_comma"], KindReport { count: 2, strict: 1.0, loose: 1.0 });
    assert_eq!(report.prompt_strict_stderr, 0.5);
    assert!(ifeval_report(&[], &[]).is_err());
}

#[test]
fn bad_lines_are_named() {
    let error = |list: &str, kwargs: &str| {
        let line = format!(
            "\n{{\"key\": 1, \"prompt\": \"p\", \"instruction_id_list\": {list}, \"kwargs\": {kwargs}}}"
        );
        parse_prompts(&line, Path::new("x.jsonl")).unwrap_err().to_string()
    };
    assert!(error(r#"["a:b"]"#, "[{}]").contains("x.jsonl:2: the instruction a:b is not known"));
    assert!(error(r#"["punctuation:no_comma"]"#, "[]").contains("1 instructions, but arguments of 0"));
    let relation =
        error(r#"["length_constraints:number_words"]"#, r#"[{"relation": "about", "num_words": 3}]"#);
    assert!(relation.contains("relation is \"about\", but must be `less than` or `at least`"), "{relation}");
    let letter = r#"[{"let_relation": "at least", "letter": "ab", "let_frequency": 2}]"#;
    assert!(
        error(r#"["keywords:letter_frequency"]"#, letter)
            .contains("letter is \"ab\", but must be one letter")
    );
}
