//! The template of a request for topics or outlines: the embedded one or the user's.

use std::path::{Path, PathBuf};

use minijinja::Environment;

use crate::prompts::{TemplateError, body_error, environment};

/// A compiled template of a request.
pub(super) struct RequestTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    /// The first 16 hex digits of blake3 of the template.
    pub(super) digest: String,
}

impl RequestTemplate {
    /// The template of the file, or the embedded one: its path in the sources and its text.
    pub(super) fn load(own: Option<&Path>, embedded: (&str, &str)) -> Result<Self, TemplateError> {
        let (path, text) = match own {
            None => (PathBuf::from(embedded.0), embedded.1.to_string()),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| TemplateError::Read { path: path.to_path_buf(), source })?;
                (path.to_path_buf(), text)
            }
        };
        let text = text.replace("\r\n", "\n");
        let digest = blake3::hash(text.as_bytes()).to_hex().as_str().chars().take(16).collect();
        let mut environment = environment();
        environment.add_template_owned("request", text).map_err(|e| body_error(&path, 1, &e))?;
        Ok(Self { environment, path, digest })
    }

    pub(super) fn render(&self, variables: minijinja::Value) -> Result<String, TemplateError> {
        let rendered = self.environment.get_template("request").and_then(|t| t.render(variables));
        Ok(rendered.map_err(|e| body_error(&self.path, 1, &e))?.trim().to_string())
    }
}
