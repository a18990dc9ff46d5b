//! Who may use whom: `pipeline` uses the other crates; they know neither DataFusion, nor each other, nor
//! `pipeline`, only `net` and `digests`.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

const DOMAIN: [&str; 5] = ["search", "classifiers", "synth", "model", "service"];

#[test]
fn domain_crates_stand_alone() {
    for krate in DOMAIN {
        let path = support::repository().join(krate).join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for name in dependencies.keys() {
                let forbidden = name.starts_with("datafusion")
                    || name.starts_with("corpusmith")
                    || (DOMAIN.contains(&name.as_str()) && name != krate);
                assert!(!forbidden, "{krate} must not depend on {name} ({section})");
            }
        }
    }
}
