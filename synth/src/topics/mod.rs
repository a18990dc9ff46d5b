//! Topics: headings and the subtopics that a model finds to them, and outlines of courses.
//!
//! [`load_bisac`] reads BISAC's headings and [`load_table`] a user's; [`select`] takes top categories,
//! [`expansion_plan`] shows what would be asked, and [`expand_topics`] asks and gives the topics table
//! with a report. [`outline_stream`] turns topics into courses, unit by unit.

mod bisac;
mod clusters;
mod expand;
mod expansion;
mod heading;
mod names;
mod near;
mod options;
mod outline;
mod outline_parse;
mod parse;
mod request;
mod spread;
mod table;

pub use bisac::{BisacError, load_bisac, parse_bisac, select};
pub use clusters::{
    ClusterName, EXTRACT_CHARS, Exclusion, Nameless, PAGES_SHOWN, cluster_prompt, parse_cluster_name,
};
pub use expand::expand_topics;
pub use expansion::{AskFailure, ExpandError, Expansion, ExpansionReport, ShortHeading, topics_schema};
pub use heading::{Heading, Origin};
pub(crate) use heading::{label_name, title_case};
pub use names::{NameBounds, Rejection, Rejections, dedupe_key};
pub use near::{Embedder, NearIndex};
pub use options::{ExpandOptions, ExpansionRequest, PUBLISHED_TOPICS, expansion_plan};
pub use outline::{
    OtherTopics, OutlineError, OutlineOptions, OutlineRequest, outline_schema, outline_stream,
};
pub use outline_parse::{Outline, parse_outline};
pub use parse::{ParsedAnswer, Verdict, parse_answer, parse_subtopics, without_cut_line};
pub use table::{TableError, load_table, table_headings};
