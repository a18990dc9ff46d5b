//! From hits to prompts: which style each page gets, and the finished prompt.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::apportion::Quota;
use super::seed::{clean_start, seed_extract};
use super::set::{PromptSet, PromptTopic};
use super::template::{ShareGroup, TemplateError};
use crate::columns::{optional_strings, strings, text_at};
use crate::reject::{OnReject, Reject};

/// Rows are dealt styles in blocks of this many, so that the order within a block (by hash) does not
/// follow the order of the topics. A batch of the output is a block.
const BLOCK_ROWS: usize = 256;

/// Blocks rendered at the same time.
const BLOCKS_IN_FLIGHT: usize = 4;

/// How many of the prompts ask for which kind of text; only the proportions matter.
///
/// 40 % middle school, 30 % college, 30 % other is the mixture of Cosmopedia v2 (SmolLM blog post).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shares {
    /// Part of the prompts for middle school textbooks.
    pub middle_school: f64,
    /// Part of the prompts for college textbooks and lectures.
    pub college: f64,
    /// Part of the prompts for stories, posts, lessons and articles.
    pub other: f64,
    /// Part of the prompts for code textbooks; above 0 only where the seeds are Python files.
    pub code: f64,
    /// Part of the prompts for mathematics textbooks; above 0 only where the seeds are mathematical
    /// texts (AutoMathText).
    pub math: f64,
    /// Part of the prompts for stories and posts; above 0 only where the seeds are instructions
    /// (UltraChat, OpenHermes).
    pub instruction: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { middle_school: 0.4, college: 0.3, other: 0.3, code: 0.0, math: 0.0, instruction: 0.0 }
    }
}

impl Shares {
    /// Only code textbooks, for Python seeds.
    #[must_use]
    pub fn code_only() -> Self {
        Self { middle_school: 0.0, college: 0.0, other: 0.0, code: 1.0, math: 0.0, instruction: 0.0 }
    }

    fn of(&self, group: ShareGroup) -> f64 {
        match group {
            ShareGroup::MiddleSchool => self.middle_school,
            ShareGroup::College => self.college,
            ShareGroup::Other => self.other,
            ShareGroup::Code => self.code,
            ShareGroup::Math => self.math,
            ShareGroup::Instruction => self.instruction,
        }
    }
}

/// How prompts are made from pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptOptions {
    /// At most this many prompts, taken from the start of the input; none means one a row. To spread
    /// a cap over the topics, order the rows by rank and then by topic.
    pub prompts: Option<u64>,
    /// The audiences' parts.
    pub shares: Shares,
    /// Seed of the hash that deals styles to pages.
    pub seed: u64,
    /// A folder with more `*.jinja` templates; one with an embedded template's name replaces it.
    pub templates_dir: Option<PathBuf>,
    /// Only these templates; empty means all.
    pub templates: Vec<String>,
    /// A cut of seed extracts below the template's own, in characters, for models with a short
    /// context; none leaves the template's (1,000; 600 for OpenStax-like sections).
    pub max_seed_chars: Option<usize>,
}

/// Why no prompts can be planned.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A template is wrong or unknown.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The shares cannot be dealt.
    #[error("shares {shares}: every share has to be a number of 0 or more, and one has to be above 0")]
    Shares {
        /// The shares as given.
        shares: String,
    },
    /// A share has no template to be filled by.
    #[error(
        "share `{group}` is above 0 but no chosen template belongs to it: set it to 0, or add a template with share = \"{group}\""
    )]
    EmptyGroup {
        /// The share.
        group: &'static str,
    },
}

/// The columns of the prompts table: `prompt_id, prompt, topic_id, seed_doc_id, audience, style,
/// template_digest, seed_text`, all `Utf8`.
#[must_use]
pub fn prompts_schema() -> SchemaRef {
    let names = [
        "prompt_id",
        "prompt",
        "topic_id",
        "seed_doc_id",
        "audience",
        "style",
        "template_digest",
        "seed_text",
    ];
    Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::Utf8, false)).to_vec()))
}

/// One prompt for each row of the input, in its order.
///
/// In: `topic_id, doc_id, text, top_category, subcategory, subtopic`, and `course` and
/// `previous_units` (one a line) where topics are units of a course. Out: [`prompts_schema`]. A row
/// without text is rejected as `empty_seed` and takes no part in the shares.
///
/// Audience and style are dealt in blocks of 256 rows: within a block, rows are taken in the order
/// of a seeded hash of (topic, page), and the sequence of styles holds the shares to less than one
/// prompt, through all blocks. The styles that tell which units came before go to units of courses
/// first. So the result is a function of the rows, the options and the
/// templates; batch sizes and timing play no part.
///
/// # Errors
/// [`PromptError`] when the templates or shares are wrong; the stream ends with an error when a
/// column is missing or a template cannot be rendered.
pub fn plan_prompts(
    options: &PromptOptions,
    hits: BoxStream<'static, Result<RecordBatch, ArrowError>>,
    on_reject: OnReject,
) -> Result<BoxStream<'static, Result<RecordBatch, ArrowError>>, PromptError> {
    let set = Arc::new(PromptSet::load(options.templates_dir.as_deref())?);
    let dealer = Dealer::new(options, &set)?;
    let max_seed_chars = dealer.seed_chars.iter().copied().max().unwrap_or(0);
    let seed = options.seed;
    let reader =
        Reader { hits, rows: Vec::new(), left: options.prompts, max_seed_chars, on_reject, hits_end: false };

    let blocks = stream::try_unfold((reader, dealer), |(mut reader, mut dealer)| async move {
        let rows = reader.next_block().await?;
        let styles = rows.iter().map(|_| dealer.deal()).collect::<Vec<_>>();
        Ok::<_, ArrowError>((!rows.is_empty()).then_some(((rows, styles), (reader, dealer))))
    });
    let rendered = blocks.map_ok(move |(rows, styles)| {
        let set = Arc::clone(&set);
        async move {
            tokio::task::spawn_blocking(move || render_block(&set, seed, rows, &styles))
                .await
                .map_err(|e| ArrowError::ExternalError(Box::new(e)))?
        }
    });
    Ok(rendered.try_buffered(BLOCKS_IN_FLIGHT).boxed())
}

/// A row of the input, its seed text already short.
struct Row {
    topic_id: String,
    doc_id: String,
    seed_text: String,
    topic: PromptTopic,
}

/// Takes rows from the input until a block is full.
struct Reader {
    hits: BoxStream<'static, Result<RecordBatch, ArrowError>>,
    /// Rows of the batch at hand that are still to be used, the next one last.
    rows: Vec<Row>,
    left: Option<u64>,
    max_seed_chars: usize,
    on_reject: OnReject,
    hits_end: bool,
}

impl Reader {
    async fn next_block(&mut self) -> Result<Vec<Row>, ArrowError> {
        let mut block = Vec::with_capacity(BLOCK_ROWS);
        while block.len() < BLOCK_ROWS && self.left != Some(0) {
            match self.rows.pop() {
                Some(row) if row.seed_text.is_empty() => (self.on_reject)(Reject {
                    id: row.doc_id,
                    reason: "empty_seed".to_string(),
                    detail: format!("the page has no text; topic {}", row.topic_id),
                }),
                Some(row) => {
                    block.push(row);
                    self.left = self.left.map(|left| left - 1);
                }
                None if self.hits_end => break,
                None => match self.hits.next().await {
                    Some(batch) => self.rows = self.read(&batch?)?,
                    None => self.hits_end = true,
                },
            }
        }
        Ok(block)
    }

    fn read(&self, batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
        let column = |name: &str| strings(batch, name);
        let (topic_ids, doc_ids, texts) = (column("topic_id")?, column("doc_id")?, column("text")?);
        let (tops, subs, subtopics) = (column("top_category")?, column("subcategory")?, column("subtopic")?);
        let courses = optional_strings(batch, "course")?;
        let previous = optional_strings(batch, "previous_units")?;
        let row = |i: usize| Row {
            topic_id: text_at(&topic_ids, i).to_string(),
            doc_id: text_at(&doc_ids, i).to_string(),
            // One character more than any style takes shows each that the page goes on.
            seed_text: clean_start(text_at(&texts, i), self.max_seed_chars.saturating_add(1)),
            topic: PromptTopic::from_columns(
                text_at(&tops, i),
                text_at(&subs, i),
                text_at(&subtopics, i),
                courses.as_ref().map_or("", |c| text_at(c, i)),
                previous.as_ref().map_or("", |p| text_at(p, i)),
            ),
        };
        Ok((0..batch.num_rows()).rev().map(row).collect())
    }
}

/// A template to use, and where its seed is cut.
#[derive(Clone, Copy)]
struct Style {
    template: usize,
    seed_chars: usize,
    /// Whether it tells which units of a course came before.
    takes_units: bool,
}

/// Deals first the share, then a template within it.
struct Dealer {
    groups: Quota,
    members: Vec<(Quota, Vec<Style>)>,
    seed_chars: Vec<usize>,
}

impl Dealer {
    fn new(options: &PromptOptions, set: &PromptSet) -> Result<Self, PromptError> {
        let chosen: Vec<&str> = options.templates.iter().map(String::as_str).collect();
        for name in &chosen {
            set.get(name)?;
        }
        let bad_shares = || PromptError::Shares { shares: format!("{:?}", options.shares) };
        if ShareGroup::ALL
            .iter()
            .any(|g| !(options.shares.of(*g).is_finite() && options.shares.of(*g) >= 0.0))
        {
            return Err(bad_shares());
        }
        let (mut shares, mut members, mut seed_chars) = (Vec::new(), Vec::new(), Vec::new());
        for group in ShareGroup::ALL.into_iter().filter(|g| options.shares.of(*g) > 0.0) {
            let (mut weights, mut styles) = (Vec::new(), Vec::new());
            for (template, t) in set.templates().iter().enumerate() {
                if t.share == group && (chosen.is_empty() || chosen.contains(&t.name.as_str())) {
                    let chars = t.seed_chars.min(options.max_seed_chars.unwrap_or(usize::MAX));
                    weights.push(t.weight);
                    styles.push(Style { template, seed_chars: chars, takes_units: set.takes_units(t) });
                    seed_chars.push(chars);
                }
            }
            let quota = Quota::new(&weights).ok_or(PromptError::EmptyGroup { group: group.name() })?;
            shares.push(options.shares.of(group));
            members.push((quota, styles));
        }
        let groups = Quota::new(&shares).ok_or_else(bad_shares)?;
        Ok(Self { groups, members, seed_chars })
    }

    fn deal(&mut self) -> Style {
        let (quota, styles) = &mut self.members[self.groups.deal()];
        styles[quota.deal()]
    }
}

fn render_block(
    set: &PromptSet,
    seed: u64,
    rows: Vec<Row>,
    styles: &[Style],
) -> Result<RecordBatch, ArrowError> {
    let style_of = assign(seed, &rows, styles);
    let mut columns: [Vec<String>; 8] = Default::default();
    for (row, style) in rows.into_iter().zip(style_of) {
        let template = &set.templates()[style.template];
        let seed_text = seed_extract(&row.seed_text, style.seed_chars, template.seed_kind);
        let prompt = set
            .render(template, &row.topic, &seed_text)
            .map_err(|e| ArrowError::ExternalError(Box::new(PromptError::Template(e))))?;
        let values = [
            prompt_id(&prompt, &row.topic_id, &row.doc_id),
            prompt,
            row.topic_id,
            row.doc_id,
            template.audience.clone(),
            template.style.clone(),
            template.digest.clone(),
            seed_text,
        ];
        for (column, value) in columns.iter_mut().zip(values) {
            column.push(value);
        }
    }
    let columns = columns.map(|c| Arc::new(StringArray::from(c)) as ArrayRef).to_vec();
    RecordBatch::try_new(prompts_schema(), columns)
}

/// Which style each row of a block gets: rows in the order of their hashes, those that are units of
/// courses first as long as there are styles that tell which units came before.
fn assign(seed: u64, rows: &[Row], styles: &[Style]) -> Vec<Style> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_cached_key(|i| (deal_hash(seed, &rows[*i]), *i));
    let mut style_of = styles.to_vec();
    let (mut left, mut for_units): (Vec<Style>, Vec<Style>) = (Vec::new(), Vec::new());
    let mut units = order.iter().filter(|i| rows[**i].topic.is_unit()).count();
    for style in styles {
        if style.takes_units && units > 0 {
            units -= 1;
            for_units.push(*style);
        } else {
            left.push(*style);
        }
    }
    let (mut left, mut for_units) = (left.into_iter(), for_units.into_iter());
    for row in order {
        let own = if rows[row].topic.is_unit() { for_units.next() } else { None };
        if let Some(style) = own.or_else(|| left.next()) {
            style_of[row] = style;
        }
    }
    style_of
}

/// Each part is preceded by its length, so that no two lists of parts hash alike by accident.
fn hash_parts(parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

fn deal_hash(seed: u64, row: &Row) -> [u8; 32] {
    *hash_parts(&[&seed.to_le_bytes(), row.topic_id.as_bytes(), row.doc_id.as_bytes()]).as_bytes()
}

/// The first 16 hex digits of blake3 over prompt, topic and page.
#[must_use]
pub fn prompt_id(prompt: &str, topic_id: &str, doc_id: &str) -> String {
    let hash = hash_parts(&[prompt.as_bytes(), topic_id.as_bytes(), doc_id.as_bytes()]);
    hash.to_hex().as_str().chars().take(16).collect()
}
