//! Prompts: topic × seed page × audience × style.
//!
//! A style is a file: a front matter (name, audience, style, share, weight, seed_chars) and a text
//! in minijinja's language. The embedded ones are in `synth/templates/`; a folder of the user's can
//! add and replace. [`plan_prompts`] deals them to pages, [`PromptSet::preview`] shows one prompt and
//! [`lint`] tries all of them on difficult pages.

mod apportion;
mod lint;
mod plan;
#[cfg(test)]
mod plan_tests;
mod seed;
mod set;
mod template;

pub use apportion::{Quota, largest_remainder};
pub use lint::{Finding, lint};
pub use plan::{PromptError, PromptOptions, Shares, plan_prompts, prompt_id, prompts_schema};
pub use seed::seed_extract;
pub use set::{PromptSet, PromptTopic, TEMPLATE_VARIABLES};
pub(crate) use set::{body_error, environment};
pub use template::{ShareGroup, Template, TemplateError};
