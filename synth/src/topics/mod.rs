//! Topics: BISAC headings and the subtopics that a model finds to them.
//!
//! [`load_bisac`] reads the headings, [`select`] takes top categories, [`expansion_plan`] shows what
//! would be asked, and [`expand_topics`] asks and gives the topics table with a report.

mod bisac;
mod clusters;
mod expand;
mod names;
mod options;
mod parse;

pub use bisac::{BisacError, BisacTopic, load_bisac, parse_bisac, select};
pub(crate) use bisac::{label_name, title_case};
pub use clusters::{
    ClusterName, EXTRACT_CHARS, Exclusion, Nameless, PAGES_SHOWN, cluster_prompt, parse_cluster_name,
};
pub use expand::{
    AskFailure, ExpandError, Expansion, ExpansionReport, ShortHeading, expand_topics, topics_schema,
};
pub use names::{NameBounds, Rejection, Rejections, dedupe_key};
pub use options::{ExpandOptions, ExpansionRequest, PUBLISHED_TOPICS, expansion_plan};
pub use parse::{ParsedAnswer, Verdict, parse_answer, parse_subtopics, without_cut_line};
