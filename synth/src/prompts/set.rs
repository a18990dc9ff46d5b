//! All templates of a run: the embedded ones and the user's, compiled and ready to render.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};

use super::template::{Template, TemplateError};

/// The folder of the embedded templates in the sources; named in errors about them.
const EMBEDDED_DIR: &str = "synth/templates";

/// The folder, beside the templates, of what they include.
const PARTS_DIR: &str = "parts";

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/", $name, ".jinja")))),*]
    };
}

/// The families of huggingface/cosmopedia `prompts/` and of the SmolLM blog post, in our own words.
const EMBEDDED: &[(&str, &str)] = embedded![
    "blog_post",
    "code_textbook",
    "forum_post",
    "khan_academy_lesson",
    "lecture",
    "math_textbook",
    "morality_story",
    "openstax_section",
    "problem_solving_story",
    "question_answer",
    "reddit_thread",
    "stanford_course_unit",
    "textbook",
    "wikihow_article",
    "young_children_story",
];

/// What the families share: the frame of a prompt, the seed's place, the readers.
const EMBEDDED_PARTS: &[(&str, &str)] =
    embedded!["parts/course", "parts/prompt", "parts/readers", "parts/seed"];

/// What a template may name between `{{` and `}}`.
pub const TEMPLATE_VARIABLES: [&str; 8] =
    ["topic", "field", "subcategory", "course", "previous_units", "audience", "seed", "seed_kind"];

/// Longest name that stands in a prompt, in characters; user's tables may hold longer ones.
const NAME_CHARS: usize = 200;

/// A topic as templates see it. Every field is one line without chat markers: topics come from
/// language models and from users' tables, and are data as the seed is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptTopic {
    /// `topic`: the name of the topic, e.g. `Compilers`.
    pub topic: String,
    /// `field`: the top category as written in a sentence, e.g. `Computers`.
    pub field: String,
    /// `subcategory`: the rest of the label, e.g. `Programming Languages / C`.
    pub subcategory: String,
    /// `course`: the course that the topic is a unit of; empty for other topics.
    pub course: String,
    /// `previous_units`: units of the same course that come before, in one line; often empty.
    pub previous_units: String,
}

impl PromptTopic {
    /// The topic of a row of the topics table: the subtopic, else the last part of the subcategory
    /// that says something, else the top category. `previous_units` has one a line.
    #[must_use]
    pub fn from_columns(
        top_category: &str,
        subcategory: &str,
        subtopic: &str,
        course: &str,
        previous_units: &str,
    ) -> Self {
        let units = previous_units.lines().map(one_line).filter(|unit| !unit.is_empty());
        let subtopic = one_line(subtopic);
        Self {
            topic: if subtopic.is_empty() {
                one_line(&crate::topics::label_name(top_category, subcategory))
            } else {
                subtopic
            },
            field: one_line(&crate::topics::title_case(top_category)),
            subcategory: one_line(subcategory),
            course: one_line(course),
            previous_units: units.collect::<Vec<_>>().join("; "),
        }
    }

    /// Whether the topic is a unit of a course.
    #[must_use]
    pub fn is_unit(&self) -> bool {
        !self.course.is_empty() || !self.previous_units.is_empty()
    }
}

/// A name as one line, with plain quotes inside the double ones that templates put around it.
fn one_line(name: &str) -> String {
    let clean = super::seed::clean_start(name, NAME_CHARS);
    clean.replace('"', "'").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that templates include or extend, by its name, e.g. `parts/seed.jinja`.
#[derive(Debug)]
struct Part {
    name: String,
    path: PathBuf,
    text: String,
}

/// The templates of a run, in the order of their names.
#[derive(Debug)]
pub struct PromptSet {
    templates: Vec<Template>,
    parts: Vec<Part>,
    environment: Environment<'static>,
}

impl PromptSet {
    /// The embedded templates and, over them, the `*.jinja` files of a folder: a file of the same
    /// name takes the place of the embedded one with all its variants. Files in its folder `parts/`
    /// add to, and replace, what templates include.
    ///
    /// # Errors
    /// [`TemplateError`] with file and line for a file that cannot be read or compiled.
    pub fn load(templates_dir: Option<&Path>) -> Result<Self, TemplateError> {
        let embedded = |name: &str| Path::new(EMBEDDED_DIR).join(format!("{name}.jinja"));
        let (mut families, mut parts) = (BTreeMap::new(), BTreeMap::new());
        for (name, text) in EMBEDDED {
            families.insert((*name).to_string(), Template::parse(&embedded(name), text)?);
        }
        for (name, text) in EMBEDDED_PARTS {
            let part =
                Part { name: format!("{name}.jinja"), path: embedded(name), text: (*text).to_string() };
            parts.insert(part.name.clone(), part);
        }
        if let Some(dir) = templates_dir {
            for path in template_files(dir)? {
                let templates = Template::parse(&path, &read(&path)?)?;
                let family = templates.first().map(|t| t.family.clone()).unwrap_or_default();
                families.insert(family, templates);
            }
            let own_parts = dir.join(PARTS_DIR);
            for path in if own_parts.is_dir() { template_files(&own_parts)? } else { Vec::new() } {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                let part =
                    Part { name: format!("{PARTS_DIR}/{file}"), text: read(&path)?, path: path.clone() };
                parts.insert(part.name.clone(), part);
            }
        }
        Self::build(families.into_values().flatten().collect(), parts.into_values().collect())
    }

    /// A set of given templates, which may include the embedded parts.
    ///
    /// # Errors
    /// [`TemplateError::Body`] for one that does not compile.
    pub fn from_templates(templates: Vec<Template>) -> Result<Self, TemplateError> {
        let part = |(name, text): &(&str, &str)| {
            let name = format!("{name}.jinja");
            Part { path: Path::new(EMBEDDED_DIR).join(&name), name, text: (*text).to_string() }
        };
        Self::build(templates, EMBEDDED_PARTS.iter().map(part).collect())
    }

    fn build(mut templates: Vec<Template>, parts: Vec<Part>) -> Result<Self, TemplateError> {
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = templates.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(TemplateError::Twice {
                name: pair[0].name.clone(),
                first: pair[0].path.clone(),
                second: pair[1].path.clone(),
            });
        }
        let mut environment = environment();
        environment.add_filter("fenced", fenced);
        for part in &parts {
            environment
                .add_template_owned(part.name.clone(), part.text.clone())
                .map_err(|error| body_error(&part.path, 1, &error))?;
        }
        for template in &templates {
            environment
                .add_template_owned(template.family.clone(), template.body.clone())
                .map_err(|error| body_error(&template.path, template.body_line, &error))?;
        }
        for template in &mut templates {
            let mut hasher = blake3::Hasher::new();
            hasher.update(template.digest.as_bytes()).update(template.name.as_bytes());
            for part in parts_of(&parts, &template.body) {
                hasher.update(&[0]).update(part.name.as_bytes()).update(&[0]).update(part.text.as_bytes());
            }
            template.digest = hasher.finalize().to_hex().to_string();
        }
        Ok(Self { templates, parts, environment })
    }

    /// The templates, by name.
    #[must_use]
    pub fn templates(&self) -> &[Template] {
        &self.templates
    }

    /// The template of that name.
    ///
    /// # Errors
    /// [`TemplateError::Unknown`] with the names there are.
    pub fn get(&self, name: &str) -> Result<&Template, TemplateError> {
        self.templates.iter().find(|t| t.name == name).ok_or_else(|| TemplateError::Unknown {
            name: name.to_string(),
            known: self.templates.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// blake3 over all templates, in hex: changes when any of them does.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for template in &self.templates {
            hasher.update(template.name.as_bytes());
            hasher.update(&[0]);
            hasher.update(template.digest.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The finished prompt; `seed` stands in it as given (see [`super::seed_extract`]).
    ///
    /// # Errors
    /// [`TemplateError::Body`] with file and line, e.g. for a variable that does not exist.
    pub fn render(
        &self,
        template: &Template,
        topic: &PromptTopic,
        seed: &str,
    ) -> Result<String, TemplateError> {
        let variables = context! {
            topic => topic.topic.as_str(),
            field => topic.field.as_str(),
            subcategory => topic.subcategory.as_str(),
            course => topic.course.as_str(),
            previous_units => topic.previous_units.as_str(),
            audience => template.audience.as_str(),
            seed => seed,
            seed_kind => template.seed_kind.name(),
        };
        let rendered = self.environment.get_template(&template.family).and_then(|t| t.render(variables));
        let prompt = rendered.map_err(|error| self.placed(template, &error))?;
        Ok(prompt.trim().to_string())
    }

    /// The error with the file that it happened in: the template's own, or that of a part.
    fn placed(&self, template: &Template, error: &minijinja::Error) -> TemplateError {
        // An error in an included part is the cause of one in the template.
        let mut error = error;
        while let Some(cause) = error.source().and_then(|cause| cause.downcast_ref()) {
            error = cause;
        }
        match self.parts.iter().find(|part| error.name() == Some(&part.name)) {
            Some(part) => body_error(&part.path, 1, error),
            None => body_error(&template.path, template.body_line, error),
        }
    }

    /// The names that the template, or a part that it includes, takes from the row.
    #[must_use]
    pub fn variables_read(&self, template: &Template) -> BTreeSet<String> {
        let names = parts_of(&self.parts, &template.body).into_iter().map(|part| part.name.as_str());
        let texts = names.chain([template.family.as_str()]);
        texts
            .filter_map(|name| self.environment.get_template(name).ok())
            .flat_map(|text| text.undeclared_variables(false))
            .collect()
    }

    /// Whether the template tells which units of a course came before.
    #[must_use]
    pub fn takes_units(&self, template: &Template) -> bool {
        self.variables_read(template).contains("previous_units")
    }

    /// Parts that no template includes, with their files.
    pub(super) fn unused_parts(&self) -> Vec<(&str, &Path)> {
        let used: BTreeSet<&str> = self
            .templates
            .iter()
            .flat_map(|template| parts_of(&self.parts, &template.body))
            .map(|part| part.name.as_str())
            .collect();
        let unused = self.parts.iter().filter(|part| !used.contains(part.name.as_str()));
        unused.map(|part| (part.name.as_str(), part.path.as_path())).collect()
    }

    /// The prompt for a topic and the text of a page, as `plan_prompts` makes it.
    ///
    /// # Errors
    /// [`TemplateError`] for an unknown name or a template that does not render.
    pub fn preview(
        &self,
        template: &str,
        topic: &PromptTopic,
        page_text: &str,
    ) -> Result<String, TemplateError> {
        let template = self.get(template)?;
        let seed = super::seed_extract(page_text, template.seed_chars, template.seed_kind);
        self.render(template, topic, &seed)
    }
}

/// The filter `fenced`: text between two lines that it cannot contain. `{{ seed|fenced }}` gives
/// quotation marks, `{{ seed|fenced("python") }}` a Markdown code block.
#[allow(clippy::needless_pass_by_value)] // The signature of a filter.
fn fenced(text: String, language: Option<String>) -> String {
    let mark = if language.is_some() { '`' } else { '"' };
    let fence = super::seed::fence(&text, mark);
    format!("{fence}{}\n{text}\n{fence}", language.unwrap_or_default())
}

/// The parts that a text names, and those that they name.
fn parts_of<'a>(parts: &'a [Part], text: &str) -> Vec<&'a Part> {
    let named_in = |text: &str| -> Vec<&'a Part> {
        let quoted =
            |part: &&Part| ['"', '\''].iter().any(|q| text.contains(&format!("{q}{}{q}", part.name)));
        parts.iter().filter(quoted).collect()
    };
    let mut found = named_in(text);
    let mut next = 0;
    while next < found.len() {
        for part in named_in(&found[next].text) {
            if !found.iter().any(|known| known.name == part.name) {
                found.push(part);
            }
        }
        next += 1;
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn read(path: &Path) -> Result<String, TemplateError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| TemplateError::Read { path: path.to_path_buf(), source })?;
    Ok(text.replace("\r\n", "\n"))
}

fn template_files(dir: &Path) -> Result<Vec<PathBuf>, TemplateError> {
    let read = |source| TemplateError::Read { path: dir.to_path_buf(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "jinja") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Plain text out, and a name that does not exist is an error rather than an empty string.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // A line that holds only a tag leaves no empty line behind.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

/// The place in the file and the cause; `first_line` is the line on which the template's text starts.
pub(crate) fn body_error(path: &Path, first_line: usize, error: &minijinja::Error) -> TemplateError {
    let mut what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if error.kind() == minijinja::ErrorKind::UndefinedError {
        what.push_str(&format!(" (a template may use: {})", TEMPLATE_VARIABLES.join(", ")));
    }
    TemplateError::Body { path: path.to_path_buf(), line: first_line + error.line().unwrap_or(1) - 1, what }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
