//! Templates and expressions of task files.

use super::EvaluateError;
use minijinja::{Environment, UndefinedBehavior};

fn bad(task: &str, part: &str, error: &minijinja::Error) -> EvaluateError {
    EvaluateError::Task { task: task.to_owned(), problem: format!("{part}: {error}") }
}

/// An environment with named templates, in which a column that is not there is an error; `task` is named in errors.
pub(super) fn environment_of<'t>(
    task: &str,
    templates: impl IntoIterator<Item = (&'static str, &'t String)>,
) -> Result<Environment<'static>, EvaluateError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    for (name, template) in templates {
        environment.add_template_owned(name, template.clone()).map_err(|error| bad(task, name, &error))?;
    }
    Ok(environment)
}

/// Whether an expression can be computed.
pub(super) fn check_expression(
    task: &str,
    environment: &Environment<'_>,
    expression: &str,
) -> Result<(), EvaluateError> {
    environment.compile_expression(expression).map(|_| ()).map_err(|error| bad(task, expression, &error))
}
