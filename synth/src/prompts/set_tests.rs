use super::*;

fn topic() -> PromptTopic {
    PromptTopic::from_columns(
        "COMPUTERS",
        "Programming Languages / General",
        "Type Inference",
        "Lambda Calculus\nUnification",
    )
}

#[test]
fn columns_become_words_for_a_sentence() {
    assert_eq!(topic().topic, "Type Inference");
    assert_eq!(topic().field, "Computers");
    assert_eq!(topic().previous_units, "Lambda Calculus; Unification");
    assert_eq!(
        PromptTopic::from_columns("COMPUTERS", "Programming Languages / General", "", "").topic,
        "Programming Languages"
    );
    assert_eq!(PromptTopic::from_columns("COMPUTERS", "General", " ", "").topic, "Computers");
}

#[test]
fn every_embedded_template_names_topic_seed_and_rules() {
    let set = PromptSet::load(None).unwrap();
    assert_eq!(set.templates().len(), EMBEDDED.len());
    for template in set.templates() {
        let prompt = set.render(template, &topic(), "The seed stands here.").unwrap();
        for wanted in [
            "Type Inference",
            "Computers",
            "The seed stands here.",
            "Begin ",
            "Do not greet",
            "judged on",
            "rigour",
            "engagement",
            "application",
        ] {
            let found = prompt.contains(wanted) || (wanted == "rigour" && prompt.contains("being true"));
            assert!(found, "{}: no `{wanted}` in:\n{prompt}", template.name);
        }
    }
}

#[test]
fn a_course_unit_lists_the_units_before_it() {
    let set = PromptSet::load(None).unwrap();
    let with = set.preview("stanford_course_unit", &topic(), "x").unwrap();
    assert!(with.contains("Lambda Calculus; Unification."));
    let first = PromptTopic { previous_units: String::new(), ..topic() };
    assert!(!set.preview("stanford_course_unit", &first, "x").unwrap().contains("already read"));
}

#[test]
fn openstax_seeds_are_cut_at_600_characters_and_the_others_at_1000() {
    let set = PromptSet::load(None).unwrap();
    for template in set.templates() {
        let expected = if template.name == "openstax_section" { 600 } else { 1000 };
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
    std::fs::write(dir.path().join("poem.jinja"), head("poem") + "A poem on {{ topic }}: {{ seed }}")
        .unwrap();
    std::fs::write(dir.path().join("blog_post.jinja"), head("blog_post") + "Mine: {{ seed }}").unwrap();
    std::fs::write(dir.path().join("notes.txt"), "not a template").unwrap();
    let set = PromptSet::load(Some(dir.path())).unwrap();
    assert_eq!(set.templates().len(), EMBEDDED.len() + 1);
    assert_eq!(set.preview("poem", &topic(), "s").unwrap(), "A poem on Type Inference: s");
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
    assert!(
        PromptSet::load(Some(Path::new("/no/such/folder")))
            .unwrap_err()
            .to_string()
            .contains("/no/such/folder")
    );
}
