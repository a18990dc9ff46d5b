//! The dataset card: README.md as the Hub reads it.

use std::collections::BTreeMap;
use std::fmt::{Result, Write};

use serde_json::{Value as Json, json};

use super::DatasetConfig;
use super::figures::Figures;
use crate::runner::progress::group;

/// Renders the card from the figures of the subsets and what the `pack` and `evaluate` stages measured.
pub fn render(
    config: &DatasetConfig,
    subsets: &BTreeMap<String, Figures>,
    packed: &BTreeMap<String, Json>,
    evaluation: &BTreeMap<String, Json>,
) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = front_matter(&mut text, config, subsets)
        .and_then(|()| writeln!(text, "# {}\n\n{}\n", config.title, config.description))
        .and_then(|()| sizes(&mut text, subsets, packed))
        .and_then(|()| parts(&mut text, subsets))
        .and_then(|()| figures(&mut text, evaluation))
        .and_then(|()| writeln!(text, "Made with Corpusmith {}.", env!("CARGO_PKG_VERSION")));
    text
}

fn front_matter(text: &mut String, config: &DatasetConfig, subsets: &BTreeMap<String, Figures>) -> Result {
    let documents = subsets.values().map(|figures| figures.documents).sum();
    writeln!(text, "---\nlicense: {}\nlanguage:\n- {}", config.licence, config.language)?;
    writeln!(text, "pretty_name: {}", json!(config.title))?;
    writeln!(text, "task_categories:\n- text-generation\nsize_categories:\n- {}", size_category(documents))?;
    writeln!(text, "configs:")?;
    for name in subsets.keys() {
        writeln!(text, "- config_name: {name}\n  data_files:\n  - split: train")?;
        writeln!(text, "    path: data/{name}/train-*.parquet")?;
    }
    writeln!(text, "---\n")
}

fn sizes(text: &mut String, subsets: &BTreeMap<String, Figures>, packed: &BTreeMap<String, Json>) -> Result {
    let cell = |number: Option<u64>| number.map(group).unwrap_or_default();
    writeln!(text, "## Subsets\n")?;
    writeln!(text, "| subset | documents | bytes of text | tokens | tokens packed for training |")?;
    writeln!(text, "|---|---:|---:|---:|---:|")?;
    for (name, figures) in subsets {
        let packed = packed.get("subsets").and_then(|subsets| subsets.get(name)?.get("tokens")?.as_u64());
        let (documents, bytes) = (group(figures.documents), group(figures.bytes));
        writeln!(text, "| {name} | {documents} | {bytes} | {} | {} |", cell(figures.tokens), cell(packed))?;
    }
    let name = subsets.keys().next().map_or("…", String::as_str);
    writeln!(text, "\n```python\nfrom datasets import load_dataset\n")?;
    writeln!(text, "rows = load_dataset(\"path/of/this/folder\", \"{name}\", split=\"train\")\n```\n")
}

fn parts(text: &mut String, subsets: &BTreeMap<String, Figures>) -> Result {
    for (name, figures) in subsets.iter().filter(|(_, figures)| !figures.parts.is_empty()) {
        writeln!(text, "## Audiences and formats of {name}\n")?;
        writeln!(text, "| audience | format | documents | share | tokens | tokens a document |")?;
        writeln!(text, "|---|---|---:|---:|---:|---:|")?;
        for part in &figures.parts {
            let share = 100.0 * part.documents as f64 / figures.documents.max(1) as f64;
            writeln!(
                text,
                "| {} | {} | {} | {share:.1} % | {} | {} |",
                part.audience,
                part.format,
                group(part.documents),
                group(part.tokens),
                part.tokens / part.documents.max(1)
            )?;
        }
        writeln!(text)?;
    }
    Ok(())
}

fn figures(text: &mut String, evaluation: &BTreeMap<String, Json>) -> Result {
    let Some(heldout) = evaluation.get("heldout").and_then(Json::as_object) else { return Ok(()) };
    writeln!(text, "## A model trained on it\n")?;
    writeln!(text, "| held-out subset | texts | perplexity a token | bits a byte |\n|---|---:|---:|---:|")?;
    for (subset, figures) in heldout {
        let figure = |key: &str| figures.get(key).and_then(Json::as_f64).unwrap_or(f64::NAN);
        let (texts, per_token, bits) = (figure("texts"), figure("per_token"), figure("bits_per_byte"));
        writeln!(text, "| {subset} | {texts} | {per_token:.1} | {bits:.3} |")?;
    }
    writeln!(text)
}

/// The Hub's size classes.
fn size_category(documents: u64) -> &'static str {
    match documents {
        ..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        100_000_000..1_000_000_000 => "100M<n<1B",
        _ => "n>1B",
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::Part;
    use super::*;

    #[test]
    fn a_card_has_a_config_a_subset_sizes_and_figures() {
        let config = DatasetConfig {
            title: "A \"small\" corpus".into(),
            description: "For tests.".into(),
            licence: "odc-by".into(),
            language: "en".into(),
            subsets: BTreeMap::new(),
        };
        let part =
            Part { audience: "college".into(), format: "textbook".into(), documents: 300, tokens: 90_000 };
        let figures = Figures { documents: 1200, bytes: 34_567, tokens: Some(400_000), parts: vec![part] };
        let packed = [("subsets".to_owned(), json!({"cosmopedia-v2": {"tokens": 9876}}))].into();
        let evaluation =
            [("heldout".to_owned(), json!({"web": {"texts": 3, "per_token": 12.34, "bits_per_byte": 1.5}}))];
        let text =
            render(&config, &[("cosmopedia-v2".to_owned(), figures)].into(), &packed, &evaluation.into());
        assert!(text.starts_with("---\nlicense: odc-by\n"));
        assert!(text.contains("pretty_name: \"A \\\"small\\\" corpus\""));
        assert!(text.contains("    path: data/cosmopedia-v2/train-*.parquet\n---\n"), "{text}");
        assert!(text.contains("| cosmopedia-v2 | 1,200 | 34,567 | 400,000 | 9,876 |"), "{text}");
        assert!(text.contains("| college | textbook | 300 | 25.0 % | 90,000 | 300 |"), "{text}");
        assert!(text.contains("| web | 3 | 12.3 | 1.500 |"));
        assert!(text.contains("1K<n<10K"));
    }
}
