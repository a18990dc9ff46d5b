//! All templates of a run: the embedded ones and the user's, compiled and ready to render.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};

use super::template::{Template, TemplateError};

/// The folder of the embedded templates in the sources; named in errors about them.
const EMBEDDED_DIR: &str = "synth/templates";

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/", $name, ".jinja")))),*]
    };
}

/// The families of huggingface/cosmopedia `prompts/` and of the SmolLM blog post, in our own words.
const EMBEDDED: &[(&str, &str)] = embedded![
    "blog_post",
    "code_textbook",
    "college_lecture",
    "college_textbook",
    "forum_post",
    "khan_academy_lesson",
    "middle_school_textbook",
    "morality_story",
    "openstax_section",
    "problem_solving_story",
    "reddit_thread",
    "stanford_course_unit",
    "wikihow_article",
    "young_children_story",
];

/// What a template may name between `{{` and `}}`.
pub const TEMPLATE_VARIABLES: [&str; 5] = ["topic", "field", "subcategory", "seed", "previous_units"];

/// A topic as templates see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptTopic {
    /// `topic`: the name of the topic, e.g. `Compilers`.
    pub topic: String,
    /// `field`: the top category as written in a sentence, e.g. `Computers`.
    pub field: String,
    /// `subcategory`: the rest of the label, e.g. `Programming Languages / C`.
    pub subcategory: String,
    /// `previous_units`: units of the same course that come before, in one line; often empty.
    pub previous_units: String,
}

impl PromptTopic {
    /// The topic of a row of the topics table: the subtopic, else the last part of the subcategory
    /// that says something, else the top category.
    #[must_use]
    pub fn from_columns(top_category: &str, subcategory: &str, subtopic: &str, previous_units: &str) -> Self {
        let units: Vec<&str> =
            previous_units.split(['\n', ';']).map(str::trim).filter(|u| !u.is_empty()).collect();
        Self {
            topic: if subtopic.trim().is_empty() {
                crate::topics::label_name(top_category, subcategory)
            } else {
                subtopic.trim().to_string()
            },
            field: crate::topics::title_case(top_category),
            subcategory: subcategory.trim().to_string(),
            previous_units: units.join("; "),
        }
    }
}

/// The templates of a run, in the order of their names.
#[derive(Debug)]
pub struct PromptSet {
    templates: Vec<Template>,
    environment: Environment<'static>,
}

impl PromptSet {
    /// The embedded templates and, over them, the `*.jinja` files of a folder: a file of the same
    /// name takes the place of the embedded one.
    ///
    /// # Errors
    /// [`TemplateError`] with file and line for a file that cannot be read or compiled.
    pub fn load(templates_dir: Option<&Path>) -> Result<Self, TemplateError> {
        let mut templates = BTreeMap::new();
        for (name, text) in EMBEDDED {
            let template = Template::parse(&Path::new(EMBEDDED_DIR).join(format!("{name}.jinja")), text)?;
            templates.insert(template.name.clone(), template);
        }
        for path in templates_dir.map(template_files).transpose()?.unwrap_or_default() {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| TemplateError::Read { path: path.clone(), source })?;
            let template = Template::parse(&path, &text)?;
            templates.insert(template.name.clone(), template);
        }
        Self::from_templates(templates.into_values().collect())
    }

    /// A set of given templates.
    ///
    /// # Errors
    /// [`TemplateError::Body`] for one that does not compile.
    pub fn from_templates(mut templates: Vec<Template>) -> Result<Self, TemplateError> {
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        let mut environment = environment();
        for template in &templates {
            environment
                .add_template_owned(template.name.clone(), template.body.clone())
                .map_err(|error| body_error(&template.path, template.body_line, &error))?;
        }
        Ok(Self { templates, environment })
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
            previous_units => topic.previous_units.as_str(),
            seed => seed,
        };
        let rendered = self.environment.get_template(&template.name).and_then(|t| t.render(variables));
        let prompt = rendered.map_err(|error| body_error(&template.path, template.body_line, &error))?;
        Ok(prompt.trim().to_string())
    }

    /// Names that the template reads and no row can give.
    pub(super) fn variables_read(&self, template: &Template) -> Vec<String> {
        let read = self.environment.get_template(&template.name).map(|t| t.undeclared_variables(false));
        let mut names: Vec<String> = read.unwrap_or_default().into_iter().collect();
        names.sort();
        names
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
        self.render(template, topic, &super::seed_extract(page_text, template.seed_chars))
    }
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
