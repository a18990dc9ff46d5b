//! The dataset card: README.md as the Hub reads it.

use std::collections::BTreeMap;
use std::fmt::{Result, Write};

use serde_json::{Value as Json, json};

use super::figures::Figures;
use super::{DatasetConfig, Published, Told};
use crate::report::plot::{self, Bar, bars};
use crate::runner::progress::group;
use crate::stages::Given;

/// Where the card's plots lie, in the dataset's folder.
fn plot_path(subset: &str) -> String {
    format!("plots/{subset}-lengths.svg")
}

/// The card's plots: path in the dataset's folder, and content.
pub fn plots(subsets: &BTreeMap<String, Published>) -> Vec<(String, String)> {
    let plot = |(name, subset): (&String, &Published)| {
        let classes = subset.figures.lengths.classes().map(|(from, to, documents)| Bar {
            label: format!("{} – {}", group(from), group(to)),
            value: documents as f64,
        });
        (plot_path(name), plot::file(&bars(&classes.collect::<Vec<_>>())))
    };
    subsets.iter().filter(|(_, subset)| subset.figures.documents > 0).map(plot).collect()
}

/// Renders the card from the figures of the subsets and what other stages measured.
pub fn render(config: &DatasetConfig, subsets: &BTreeMap<String, Published>, told: &Told) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let figures_of = || subsets.iter().map(|(name, subset)| (name.as_str(), &subset.figures));
    let _ = front_matter(&mut text, config, subsets)
        .and_then(|()| writeln!(text, "# {}\n\n{}\n", config.title, config.description))
        .and_then(|()| sizes(&mut text, config, subsets, &told.packed))
        .and_then(|()| mixture(&mut text, &told.mixture))
        .and_then(|()| lengths(&mut text, figures_of()))
        .and_then(|()| parts(&mut text, figures_of()))
        .and_then(|()| figures(&mut text, &told.evaluation))
        .and_then(|()| writeln!(text, "Made with Corpusmith {}.", env!("CARGO_PKG_VERSION")));
    text
}

fn front_matter(text: &mut String, config: &DatasetConfig, subsets: &BTreeMap<String, Published>) -> Result {
    let documents = subsets.values().map(|subset| subset.figures.documents).sum();
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

fn sizes(
    text: &mut String,
    config: &DatasetConfig,
    subsets: &BTreeMap<String, Published>,
    packed: &BTreeMap<String, Json>,
) -> Result {
    let cell = |number: Option<u64>| number.map(group).unwrap_or_default();
    writeln!(text, "## Subsets\n")?;
    writeln!(text, "| subset | licence | documents | bytes of text | tokens | tokens packed for training |")?;
    writeln!(text, "|---|---|---:|---:|---:|---:|")?;
    for (name, Published { figures, .. }) in subsets {
        let own = config.subsets.get(name).and_then(|subset| subset.licence.as_ref());
        let licence = own.unwrap_or(&config.licence);
        let packed = packed.get("subsets").and_then(|subsets| subsets.get(name)?.get("tokens")?.as_u64());
        let (documents, bytes) = (group(figures.documents), group(figures.bytes));
        let (tokens, packed) = (cell(figures.tokens), cell(packed));
        writeln!(text, "| {name} | {licence} | {documents} | {bytes} | {tokens} | {packed} |")?;
    }
    let name = subsets.keys().next().map_or("…", String::as_str);
    writeln!(text, "\n```python\nfrom datasets import load_dataset\n")?;
    writeln!(text, "rows = load_dataset(\"path/of/this/folder\", \"{name}\", split=\"train\")\n```\n")
}

/// How the subsets were mixed for training: what each has, and how much of it was taken, by tokens.
fn mixture(text: &mut String, mixture: &BTreeMap<String, Json>) -> Result {
    let given = Given::read(mixture);
    if given.is_empty() {
        return Ok(());
    }
    let weights: f64 = given.values().map(|given| given.weight).sum();
    let taken = given.values().map(|given| given.tokens_taken).sum::<u64>().max(1) as f64;
    writeln!(text, "## The mixture\n")?;
    writeln!(
        text,
        "| subset | weight | documents | tokens | documents taken | tokens taken | share | epochs |"
    )?;
    writeln!(text, "|---|---:|---:|---:|---:|---:|---:|---:|")?;
    for (name, given) in &given {
        writeln!(
            text,
            "| {name} | {:.1} % | {} | {} | {} | {} | {:.1} % | {:.2} |",
            100.0 * given.weight / weights,
            group(given.documents),
            group(given.tokens),
            group(given.documents_taken),
            group(given.tokens_taken),
            100.0 * given.tokens_taken as f64 / taken,
            given.epochs(),
        )?;
    }
    writeln!(text)
}

fn lengths<'a>(text: &mut String, subsets: impl Iterator<Item = (&'a str, &'a Figures)>) -> Result {
    writeln!(text, "## Lengths\n")?;
    for (name, figures) in subsets.filter(|(_, figures)| figures.documents > 0) {
        let (unit, all) = figures.tokens.map_or(("bytes", figures.bytes), |tokens| ("tokens", tokens));
        let shortest = figures.lengths.shortest.unwrap_or(0);
        writeln!(
            text,
            "{name}: {} to {} {unit} a document, {} on average.\n\n![Documents of {name} by {unit}]({})\n",
            group(shortest),
            group(figures.lengths.longest),
            group(all / figures.documents),
            plot_path(name)
        )?;
    }
    Ok(())
}

fn parts<'a>(text: &mut String, subsets: impl Iterator<Item = (&'a str, &'a Figures)>) -> Result {
    for (name, figures) in subsets.filter(|(_, figures)| !figures.parts.is_empty()) {
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
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::super::figures::Part;
    use super::*;

    #[test]
    fn a_card_has_a_config_a_subset_sizes_and_figures() {
        let config = DatasetConfig {
            title: "A \"small\" corpus".into(),
            description: "For tests.".into(),
            licence: "odc-by".into(),
            repository: None,
            language: "en".into(),
            subsets: BTreeMap::new(),
        };
        let part =
            Part { audience: "college".into(), format: "textbook".into(), documents: 300, tokens: 90_000 };
        let mut figures = Figures {
            documents: 1200,
            bytes: 34_567,
            tokens: Some(400_000),
            parts: vec![part],
            ..Figures::default()
        };
        [300, 700].into_iter().for_each(|length| figures.lengths.add(length));
        let subset = Published { figures, schema: Arc::new(Schema::empty()) };
        let subsets = [("cosmopedia-v2".to_owned(), subset)].into();
        let packed = [("subsets".to_owned(), json!({"cosmopedia-v2": {"tokens": 9876}}))].into();
        let evaluation =
            [("heldout".to_owned(), json!({"web": {"texts": 3, "per_token": 12.34, "bits_per_byte": 1.5}}))];
        let web = json!({"documents": 1200, "tokens": 1000, "documents_taken": 3600, "tokens_taken": 3000, "weight": 0.6});
        let code = json!({"documents": 10, "tokens": 4000, "documents_taken": 5, "tokens_taken": 1000, "weight": 0.2});
        let mixture = [("mixture".to_owned(), json!({"web": web, "code": code}))].into();
        let told = Told { packed, evaluation: evaluation.into(), mixture };
        let text = render(&config, &subsets, &told);
        assert!(text.starts_with("---\nlicense: odc-by\n"));
        assert!(text.contains("pretty_name: \"A \\\"small\\\" corpus\""));
        assert!(text.contains("    path: data/cosmopedia-v2/train-*.parquet\n---\n"), "{text}");
        assert!(text.contains("| cosmopedia-v2 | odc-by | 1,200 | 34,567 | 400,000 | 9,876 |"), "{text}");
        assert!(text.contains("cosmopedia-v2: 300 to 700 tokens a document, 333 on average."), "{text}");
        let plots = plots(&subsets);
        assert!(text.contains(&format!("]({})", plots[0].0)), "{text}");
        assert!(plots[0].1.contains("256 – 511") && plots[0].1.contains("xmlns="), "{}", plots[0].1);

        assert!(text.contains("| college | textbook | 300 | 25.0 % | 90,000 | 300 |"), "{text}");
        assert!(text.contains("| web | 3 | 12.3 | 1.500 |"));
        assert!(text.contains("1K<n<10K"));
        assert!(text.contains("| web | 75.0 % | 1,200 | 1,000 | 3,600 | 3,000 | 75.0 % | 3.00 |"), "{text}");
        assert!(text.contains("| code | 25.0 % | 10 | 4,000 | 5 | 1,000 | 25.0 % | 0.25 |"), "{text}");
        assert!(!render(&config, &subsets, &Told::default()).contains("mixture"));
    }
}
