//! Prompts: topic × seed page × audience × style.
//!
//! A family of styles is a file: a front matter (name, style, audience, share, weight, seed, seed_chars,
//! and variants for further audiences) and a text in minijinja's language. The embedded ones are in
//! `synth/templates/`, what they share in its folder `parts/`; a folder of the user's can add and
//! replace both. [`plan_prompts`] deals them to pages, [`PromptSet::preview`] shows one prompt and
//! [`lint`] tries all of them on difficult pages.
//!
//! Seeds are data: [`seed_extract`] takes out what tokenizers and chat templates read as markers, and
//! the filter `fenced` puts the seed between two lines that do not occur in it.

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
pub(crate) use seed::clean_start;
pub use seed::seed_extract;
pub use set::{PromptSet, PromptTopic, TEMPLATE_VARIABLES};
pub(crate) use set::{body_error, environment};
pub use template::{SeedKind, ShareGroup, Template, TemplateError};
