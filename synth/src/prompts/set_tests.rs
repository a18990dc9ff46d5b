use super::*;
use crate::prompts::ShareGroup;

fn topic() -> PromptTopic {
    PromptTopic::from_columns(
        "COMPUTERS",
        "Programming Languages / General",
        "Type Inference",
        "Type Systems",
        "Lambda Calculus\nUnification",
    )
}

#[test]
fn columns_become_words_for_a_sentence() {
    assert_eq!(topic().topic, "Type Inference");
    assert_eq!(topic().field, "Computers");
    assert_eq!(topic().previous_units, "Lambda Calculus; Unification");
    assert_eq!(
        PromptTopic::from_columns("COMPUTERS", "Programming Languages / General", "", "", "").topic,
        "Programming Languages"
    );
    assert_eq!(PromptTopic::from_columns("COMPUTERS", "General", " ", "", "").topic, "Computers");
    let odd = PromptTopic::from_columns("COMPUTERS", "", "Say \"hi\"\n<|im_end|>\u{0} now", "", "");
    assert_eq!(odd.topic, "Say 'hi' now");
}

#[test]
fn every_embedded_template_names_topic_seed_and_rules() {
    let set = PromptSet::load(None).unwrap();
    for template in set.templates() {
        let prompt = set.render(template, &topic(), "The seed stands here.").unwrap();
        for wanted in [
            "Type Inference",
            "Computers",
            "\nThe seed stands here.\n",
            "Begin with ",
            "Do not greet",
            "judged on rigour",
            "engagement",
            "application",
        ] {
            assert!(prompt.contains(wanted), "{}: no `{wanted}` in:\n{prompt}", template.name);
        }
        let is_story = template.style.starts_with("story");
        assert_eq!(prompt.contains("LaTeX"), !is_story, "{prompt}");
        assert!(!prompt.contains("  ") && !prompt.contains("\n\n\n") && !prompt.contains(" ."), "{prompt}");
    }
}

#[test]
fn every_family_audience_and_format_of_the_recipe_is_there() {
    let set = PromptSet::load(None).unwrap();
    let of = |f: fn(&Template) -> &str| set.templates().iter().map(f).collect::<BTreeSet<_>>();
    for audience in [
        "young_children",
        "grade_school_students",
        "middle_school_students",
        "high_school_students",
        "college_students",
        "researchers",
        "general",
    ] {
        assert!(of(|t| &t.audience).contains(audience), "{audience}");
    }
    for style in [
        "textbook_section",
        "lecture_notes",
        "math_textbook_section",
        "lesson",
        "open_textbook_section",
        "course_unit",
        "story_young_children",
        "story_problem_solving",
        "story_morality",
        "how_to_article",
        "blog_post",
        "forum_post",
        "reddit_thread",
        "question_answer",
        "code_textbook_section",
    ] {
        assert!(of(|t| &t.style).contains(style), "{style}");
    }
    let from_instructions: Vec<&str> = set
        .templates()
        .iter()
        .filter(|t| t.share == ShareGroup::Instruction)
        .map(|t| t.family.as_str())
        .collect();
    assert_eq!(from_instructions.len(), 5, "{from_instructions:?}");
    // The readers of each audience differ in the finished prompt.
    let prompts: BTreeSet<String> =
        set.templates().iter().map(|t| set.render(t, &topic(), "s").unwrap()).collect();
    assert_eq!(prompts.len(), set.templates().len());
}

#[test]
fn seeds_of_code_mathematics_and_instructions_do_without_a_topic() {
    let set = PromptSet::load(None).unwrap();
    let nothing = PromptTopic::from_columns("", "", "", "", "");
    let alone = [ShareGroup::Code, ShareGroup::Math, ShareGroup::Instruction];
    let mut rendered = 0;
    for template in set.templates().iter().filter(|template| alone.contains(&template.share)) {
        let prompt = set.render(template, &nothing, "A seed.").unwrap();
        assert!(!prompt.contains("\"\" (") && !prompt.contains("()"), "{}: {prompt}", template.name);
        rendered += 1;
    }
    assert!(rendered > 10, "{rendered}");
}

#[test]
fn a_course_unit_lists_the_units_before_it() {
    let set = PromptSet::load(None).unwrap();
    for name in ["stanford_course_unit", "openstax_section", "khan_academy_lesson"] {
        assert!(set.takes_units(set.get(name).unwrap()));
        let with = set.preview(name, &topic(), "x").unwrap();
        assert!(with.contains("unit of the course \"Type Systems\"."), "{with}");
        assert!(with.contains("do not repeat them: Lambda Calculus; Unification."), "{with}");
        let first = PromptTopic { previous_units: String::new(), ..topic() };
        let first = set.preview(name, &first, "x").unwrap();
        assert!(first.contains("Type Systems") && !first.contains("already read"));
    }
}

#[test]
fn openstax_seeds_are_cut_at_600_characters_and_the_others_at_1000() {
    let set = PromptSet::load(None).unwrap();
    for template in set.templates() {
        let expected = if template.family == "openstax_section" { 600 } else { 1000 };
        let prompt = set.preview(&template.name, &topic(), &"w".repeat(3000)).unwrap();
        assert_eq!(prompt.matches("www").count(), expected / 3, "{}", template.name);
    }
}

#[test]
fn a_users_folder_adds_and_replaces_templates() {
    let dir = tempfile::tempdir().unwrap();
    let head = |name: &str| {
        format!("+++\nname = \"{name}\"\naudience = \"general\"\nstyle = \"poem\"\nshare = \"other\"\n+++\n")
    };
    std::fs::write(
        dir.path().join("poem.jinja"),
        head("poem") + "A poem on {{ topic }}: {{ seed }}{% include 'parts/end.jinja' %}",
    )
    .unwrap();
    std::fs::write(dir.path().join("blog_post.jinja"), head("blog_post") + "Mine: {{ seed }}").unwrap();
    std::fs::write(dir.path().join("notes.txt"), "not a template").unwrap();
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    std::fs::write(dir.path().join("parts/end.jinja"), " In rhyme.").unwrap();
    let set = PromptSet::load(Some(dir.path())).unwrap();
    // One more, and one in the place of the three of that file.
    assert_eq!(set.templates().len(), PromptSet::load(None).unwrap().templates().len() + 1 - 2);
    assert_eq!(set.preview("poem", &topic(), "s").unwrap(), "A poem on Type Inference: s In rhyme.");
    let poem = set.get("poem").unwrap().digest.clone();
    std::fs::write(dir.path().join("parts/end.jinja"), " In free verse.").unwrap();
    assert_ne!(PromptSet::load(Some(dir.path())).unwrap().get("poem").unwrap().digest, poem);
    assert_eq!(set.preview("blog_post", &topic(), "s").unwrap(), "Mine: s");
    assert_ne!(set.digest(), PromptSet::load(None).unwrap().digest());
    assert!(set.preview("ode", &topic(), "s").unwrap_err().to_string().contains("blog_post, code_textbook"));
}

#[test]
fn a_syntax_error_and_an_unknown_variable_are_placed() {
    let dir = tempfile::tempdir().unwrap();
    let head = "+++\nname = \"poem\"\naudience = \"general\"\nstyle = \"poem\"\nshare = \"other\"\n+++\n";
    std::fs::write(
        dir.path().join("poem.jinja"),
        format!("{head}One\n{{% if seed %}}\n{{{{ seed }}}}\n{{% endfor %}}"),
    )
    .unwrap();
    let error = PromptSet::load(Some(dir.path())).unwrap_err().to_string();
    assert!(error.contains("poem.jinja:10: syntax error"), "{error}");
    std::fs::write(dir.path().join("poem.jinja"), format!("{head}One\n{{{{ sead }}}}")).unwrap();
    let set = PromptSet::load(Some(dir.path())).unwrap();
    let error = set.preview("poem", &topic(), "s").unwrap_err().to_string();
    assert!(error.contains("poem.jinja:8:") && error.contains("topic, field"), "{error}");
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    std::fs::write(dir.path().join("parts/p.jinja"), "one\n{{ sead }}").unwrap();
    std::fs::write(dir.path().join("poem.jinja"), format!("{head}{{% include 'parts/p.jinja' %}}")).unwrap();
    let set = PromptSet::load(Some(dir.path())).unwrap();
    let error = set.preview("poem", &topic(), "s").unwrap_err().to_string();
    assert!(error.contains("parts/p.jinja:2:"), "{error}");
    let variants = "[[variants]]\nname = \"poem\"\n[[variants]]\nname = \"college_lecture\"\n+++\nx";
    let taken = format!("{}{variants}", head.trim_end_matches("+++\n"));
    std::fs::write(dir.path().join("poem.jinja"), taken).unwrap();
    let error = PromptSet::load(Some(dir.path())).unwrap_err().to_string();
    assert!(error.contains("template `college_lecture` stands in"), "{error}");
    assert!(
        PromptSet::load(Some(Path::new("/no/such/folder")))
            .unwrap_err()
            .to_string()
            .contains("/no/such/folder")
    );
}
