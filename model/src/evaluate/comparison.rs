//! Figures of several models side by side.

use super::{EvaluateError, GenerationReport, Perplexity, TaskReport};
use crate::files::failed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// A share with its standard error, or a number without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name: `acc`, `exact_match`, `pass@1`, …
    pub name: String,
    /// A share, 0 to 1; or a number, where it has no standard error.
    pub value: f64,
    /// A share's standard error over items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
}

/// What a model was found to do on a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Report {
    /// Answers written by the model.
    Generation(GenerationReport),
    /// Answers chosen by likelihood.
    Cloze(TaskReport),
    /// Texts predicted.
    Texts(TextsReport),
}

/// How well a model predicts the texts of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextsReport {
    /// `perplexity`, and the file.
    pub task: String,
    /// What was measured.
    #[serde(flatten)]
    pub perplexity: Perplexity,
}

impl Report {
    /// The task's name.
    #[must_use]
    pub fn task(&self) -> &str {
        match self {
            Self::Generation(report) => &report.task,
            Self::Cloze(report) => &report.task,
            Self::Texts(report) => &report.task,
        }
    }

    /// Items asked.
    #[must_use]
    pub fn items(&self) -> usize {
        match self {
            Self::Generation(report) => report.items,
            Self::Cloze(report) => report.all.items,
            Self::Texts(report) => usize::try_from(report.perplexity.texts).unwrap_or(usize::MAX),
        }
    }

    /// Its figures.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        match self {
            Self::Generation(report) => report.figures.clone(),
            Self::Cloze(report) => [
                ("acc", report.mean_acc, report.all.acc_stderr),
                ("acc_norm", report.mean_acc_norm, report.all.acc_norm_stderr),
            ]
            .map(|(name, value, stderr)| Figure { name: name.to_owned(), value, stderr: Some(stderr) })
            .to_vec(),
            Self::Texts(TextsReport { perplexity, .. }) => {
                [("bits_per_byte", perplexity.bits_per_byte), ("token_perplexity", perplexity.per_token)]
                    .map(|(name, value)| Figure { name: name.to_owned(), value, stderr: None })
                    .to_vec()
            }
        }
    }
}

/// A model's report on a task: a line of what `pipeline eval --json` writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The model.
    pub model: String,
    /// The report.
    pub report: Report,
}

/// Reports of models on tasks, as a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    reports: Vec<Measured>,
}

impl Comparison {
    /// Adds a report. A later one of the same model on the same task takes the place of an earlier one.
    pub fn push(&mut self, measured: Measured) {
        let same =
            |old: &Measured| old.model == measured.model && old.report.task() == measured.report.task();
        match self.reports.iter().position(same) {
            Some(place) => self.reports[place] = measured,
            None => self.reports.push(measured),
        }
    }

    /// Adds the reports of a file of JSON lines.
    ///
    /// # Errors
    /// [`EvaluateError`] if it cannot be read, or a line is no report.
    pub fn read(&mut self, path: &Path) -> Result<(), EvaluateError> {
        let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let measured = serde_json::from_str(line).map_err(|error| EvaluateError::Report {
                path: path.to_path_buf(),
                line: number + 1,
                problem: error.to_string(),
            })?;
            self.push(measured);
        }
        Ok(())
    }

    /// All reports, in order of appearance.
    #[must_use]
    pub fn reports(&self) -> &[Measured] {
        &self.reports
    }

    /// The models, in order of appearance.
    fn models(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let models = self.reports.iter().map(|measured| measured.model.as_str());
        models.filter(|model| seen.insert(*model)).collect()
    }

    /// A row a task and figure, a column a model, shares in per cent with standard errors; in Markdown. Where models were
    /// asked different numbers of items, all of them are told.
    #[must_use]
    pub fn markdown(&self) -> String {
        let models = self.models();
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let heads: Vec<String> = models.iter().map(|model| cell(model)).collect();
        let mut lines = vec![format!("| task | items | figure | {} |", heads.join(" | "))];
        lines.push(format!("|---|---:|---|{}", "---:|".repeat(models.len())));
        let mut tasks: Vec<&str> = Vec::new();
        for measured in &self.reports {
            if !tasks.contains(&measured.report.task()) {
                tasks.push(measured.report.task());
            }
        }
        for task in tasks {
            let reports: Vec<&Measured> =
                self.reports.iter().filter(|measured| measured.report.task() == task).collect();
            let items: BTreeSet<usize> = reports.iter().map(|measured| measured.report.items()).collect();
            let items = items.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            let mut names: Vec<String> = Vec::new();
            for figure in reports.iter().flat_map(|measured| measured.report.figures()) {
                if !names.contains(&figure.name) {
                    names.push(figure.name);
                }
            }
            for name in names {
                let of = |model: &&str| {
                    let report = &reports.iter().find(|measured| measured.model == **model)?.report;
                    let figure = report.figures().into_iter().find(|figure| figure.name == name)?;
                    Some(match figure.stderr {
                        Some(stderr) => format!("{:.2} ± {:.2}", 100.0 * figure.value, 100.0 * stderr),
                        None => format!("{:.4}", figure.value),
                    })
                };
                let cells = models.iter().map(|model| of(model).unwrap_or_else(|| "–".to_owned()));
                let cells = cells.collect::<Vec<_>>().join(" | ");
                lines.push(format!("| {} | {items} | {name} | {cells} |", cell(task)));
            }
        }
        lines.join("\n")
    }

    /// A line a model, task and figure, for other programs; shares from 0 to 1.
    #[must_use]
    pub fn csv(&self) -> String {
        let field = |text: &str| match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.to_owned(),
        };
        let mut lines = vec!["model,task,items,figure,value,stderr".to_owned()];
        for Measured { model, report } in &self.reports {
            let (model, task) = (field(model), field(report.task()));
            lines.extend(report.figures().into_iter().map(|Figure { name, value, stderr }| {
                let stderr = stderr.map(|stderr| stderr.to_string()).unwrap_or_default();
                format!("{model},{task},{},{},{value},{stderr}", report.items(), field(&name))
            }));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::ClozeReport;

    fn written(task: &str, figures: &[(&str, f64)]) -> Report {
        let figure =
            |&(name, value): &(&str, f64)| Figure { name: name.to_owned(), value, stderr: Some(0.01) };
        Report::Generation(GenerationReport {
            task: task.to_owned(),
            items: 164,
            samples: 20,
            figures: figures.iter().map(figure).collect(),
        })
    }

    fn chosen(items: usize, acc: f64) -> Report {
        let all = ClozeReport { items, acc, acc_norm: 0.5, acc_stderr: 0.02, acc_norm_stderr: 0.03 };
        let task = "piqa".to_owned();
        Report::Cloze(TaskReport { task, all, groups: Default::default(), mean_acc: acc, mean_acc_norm: 0.5 })
    }

    fn predicted(bits_per_byte: f64) -> Report {
        let (texts, tokens, bytes, nats, per_token, per_byte) = (7, 90, 300, 200.0, 9.25, 1.9);
        let perplexity = Perplexity { texts, tokens, bytes, nats, per_token, per_byte, bits_per_byte };
        Report::Texts(TextsReport { task: "perplexity (web.jsonl)".to_owned(), perplexity })
    }

    fn comparison() -> Comparison {
        let mut comparison = Comparison::default();
        for (model, report) in [
            ("a|b", chosen(10, 0.1)),
            ("a|b", written("humaneval", &[("pass@1", 0.25)])),
            ("c, d", chosen(20, 0.75)),
            ("a|b", chosen(10, 0.25)),
            ("c, d", predicted(0.962)),
        ] {
            comparison.push(Measured { model: model.to_owned(), report });
        }
        comparison
    }

    #[test]
    fn models_stand_side_by_side() {
        let wanted = "\
| task | items | figure | a\\|b | c, d |
|---|---:|---|---:|---:|
| piqa | 10, 20 | acc | 25.00 ± 2.00 | 75.00 ± 2.00 |
| piqa | 10, 20 | acc_norm | 50.00 ± 3.00 | 50.00 ± 3.00 |
| humaneval | 164 | pass@1 | 25.00 ± 1.00 | – |
| perplexity (web.jsonl) | 7 | bits_per_byte | – | 0.9620 |
| perplexity (web.jsonl) | 7 | token_perplexity | – | 9.2500 |";
        assert_eq!(comparison().markdown(), wanted);
        let wanted = "\
model,task,items,figure,value,stderr
a|b,piqa,10,acc,0.25,0.02
a|b,piqa,10,acc_norm,0.5,0.03
a|b,humaneval,164,pass@1,0.25,0.01
\"c, d\",piqa,20,acc,0.75,0.02
\"c, d\",piqa,20,acc_norm,0.5,0.03
\"c, d\",perplexity (web.jsonl),7,bits_per_byte,0.962,
\"c, d\",perplexity (web.jsonl),7,token_perplexity,9.25,";
        assert_eq!(comparison().csv(), wanted);
    }

    #[test]
    fn reports_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reports.jsonl");
        let written = comparison();
        let lines = written.reports.iter().map(|line| serde_json::to_string(line).unwrap() + "\n\n");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        let mut read = Comparison::default();
        read.read(&path).unwrap();
        assert_eq!(read, comparison());
        std::fs::write(&path, "{\"model\": \"a\", \"report\": {\"task\": \"x\"}}\n").unwrap();
        let error = read.read(&path).unwrap_err().to_string();
        assert!(error.contains("reports.jsonl:1"), "{error}");
    }
}
