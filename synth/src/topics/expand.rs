//! From headings to topics: asks for subtopics, reads the answers, asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::expansion::{AskFailure, ExpandError, Expansion, ExpansionReport, Rows, ShortHeading};
use super::heading::{Heading, Origin};
use super::names::{Rejection, dedupe_key};
use super::near::{Embedder, NearIndex, VectorIndex};
use super::options::{ExpandOptions, ExpansionPrompt, ExpansionRequest};
use super::parse::{Verdict, parse_answer};
use super::spread::{quotas, spread_missing};
use crate::prompts::TemplateError;
use crate::reject::Reject;

/// Expands headings into topics by asking a model.
///
/// `ask` gets the request and the number of the attempt (from 0, to vary the sampling seed) and
/// returns the answer's text; at most `max_in_flight` calls run at the same time. Headings are asked
/// in rounds. After each round, names are left out that break a rule, that the top category has
/// already, that are spelled like one of its names, or that mean the same (`embedder` with
/// `same_meaning_cosine`); a heading that still misses subtopics is asked again in the next round and
/// told which names are taken, at most `max_retries` times more than its number needs. What is
/// missing then is asked of the headings that delivered, `redistributions` times.
///
/// A heading whose expansion fails is a topic nevertheless (`COM010000-00`, source `bisac`, `subtopic`
/// its own name); its subtopics are `-01` and on (source `llm:<model>:<prompt digest>`).
///
/// Answers are best sampled with a repetition penalty near 1 (a list repeats digits and line ends, and
/// small models break off under a strong one), and those cut by the length limit passed through
/// [`super::without_cut_line`].
///
/// The result depends on the answers only, not on the order in which they come.
///
/// # Errors
/// [`ExpandError`] for a wrong template, no headings, [`AskFailure::Everything`], or an embedder that
/// fails.
pub async fn expand_topics<F, Fut>(
    options: &ExpandOptions,
    headings: &[Heading],
    embedder: Option<&dyn Embedder>,
    ask: F,
) -> Result<Expansion, ExpandError>
where
    F: Fn(ExpansionRequest, u32) -> Fut,
    Fut: Future<Output = Result<String, AskFailure>>,
{
    let prompt = ExpansionPrompt::load(options.template.as_deref())?;
    let embedder = embedder.filter(|_| options.same_meaning_cosine.is_some());
    let mut expander = Expander::start(options, headings, embedder).await?;
    let mut redistributions = 0;
    loop {
        let due = expander.requests(&prompt)?;
        if due.is_empty() {
            if redistributions == options.redistributions || !expander.redistribute() {
                break;
            }
            redistributions += 1;
            continue;
        }
        let asked = due.into_iter().map(|(heading, request, attempt)| {
            let answer = ask(request, attempt);
            async move {
                match answer.await {
                    Err(AskFailure::Everything { source }) => Err((heading, source)),
                    answer => Ok((heading, answer)),
                }
            }
        });
        // The first failure for good ends the round: nothing more is asked.
        let answers = stream::iter(asked).buffered(options.max_in_flight.max(1)).try_collect().await;
        let answers = answers.map_err(|(heading, source)| expander.failed_for_good(heading, source))?;
        expander.read(answers).await?;
    }
    expander.finish(&format!("llm:{}:{}", options.model, prompt.digest()))
}

/// A heading at work.
#[derive(Default)]
struct Progress {
    /// Subtopics wanted by the first allotment.
    wanted: u32,
    /// Subtopics to reach now: more after a redistribution, fewer when it was given up.
    goal: u32,
    subtopics: Vec<String>,
    /// Names to tell the model not to give: those kept, and those that other headings have.
    taken: Vec<String>,
    attempts: u32,
    attempts_left: u32,
    /// Whether the last answer gave a new name.
    delivers: bool,
    rejects: Vec<(&'static str, String)>,
    last_failure: Option<String>,
}

impl Progress {
    fn missing(&self) -> u32 {
        self.goal.saturating_sub(u32::try_from(self.subtopics.len()).unwrap_or(u32::MAX))
    }
}

/// What a top category has already.
struct Category {
    keys: BTreeSet<String>,
    spelled: NearIndex,
    meant: VectorIndex,
}

struct Expander<'a> {
    options: &'a ExpandOptions,
    embedder: Option<&'a dyn Embedder>,
    headings: Vec<Heading>,
    progress: Vec<Progress>,
    categories: BTreeMap<String, Category>,
    /// The names of all top categories: what is called so belongs elsewhere.
    fields: BTreeSet<String>,
    report: ExpansionReport,
}

impl<'a> Expander<'a> {
    async fn start(
        options: &'a ExpandOptions,
        headings: &[Heading],
        embedder: Option<&'a dyn Embedder>,
    ) -> Result<Self, ExpandError> {
        let fields = headings.iter().map(|heading| dedupe_key(&heading.top_category)).collect();
        let quotas = quotas(options, headings);
        if quotas.headings.is_empty() {
            return Err(ExpandError::NoHeadings);
        }
        let mut expander = Self {
            options,
            embedder,
            progress: Vec::with_capacity(quotas.headings.len()),
            categories: BTreeMap::new(),
            fields,
            report: ExpansionReport { headings: quotas.headings.len() as u64, ..Default::default() },
            headings: quotas.headings,
        };
        for wanted in quotas.wanted {
            let attempts_left = expander.attempts_for(wanted);
            expander.report.wanted += u64::from(wanted);
            expander.progress.push(Progress { wanted, goal: wanted, attempts_left, ..Default::default() });
        }
        let names: Vec<String> = expander.headings.iter().map(Heading::name).collect();
        let vectors = expander.embed(&names).await?;
        for (i, name) in names.iter().enumerate() {
            let category = expander.category(i);
            category.keys.insert(dedupe_key(name));
            category.spelled.insert(name);
            if let Some(vector) = vectors.get(i) {
                category.meant.insert(vector.clone());
            }
        }
        Ok(expander)
    }

    /// The requests that a number of subtopics needs, and the retries.
    fn attempts_for(&self, wanted: u32) -> u32 {
        match wanted {
            0 => 0,
            _ => wanted.div_ceil(self.options.max_subtopics_per_request.max(1)) + self.options.max_retries,
        }
    }

    fn category(&mut self, heading: usize) -> &mut Category {
        let threshold = self.options.near_duplicate_similarity;
        let name = self.headings[heading].top_category.clone();
        self.categories.entry(name).or_insert_with(|| Category {
            keys: BTreeSet::new(),
            spelled: NearIndex::new(threshold),
            meant: VectorIndex::default(),
        })
    }

    async fn embed(&self, names: &[String]) -> Result<Vec<Vec<f32>>, ExpandError> {
        match self.embedder {
            Some(embedder) if !names.is_empty() => embedder.embed(names).await.map_err(ExpandError::Embed),
            _ => Ok(Vec::new()),
        }
    }

    /// The requests of the next round: one for each heading that misses subtopics and may be asked.
    fn requests(
        &mut self,
        prompt: &ExpansionPrompt,
    ) -> Result<Vec<(usize, ExpansionRequest, u32)>, TemplateError> {
        let mut requests = Vec::new();
        for (i, (heading, progress)) in self.headings.iter().zip(&mut self.progress).enumerate() {
            if progress.missing() == 0 || progress.attempts_left == 0 {
                continue;
            }
            let wanted = progress.missing().min(self.options.max_subtopics_per_request.max(1));
            requests.push((i, prompt.request(heading, wanted, &progress.taken)?, progress.attempts));
            progress.attempts += 1;
            progress.attempts_left -= 1;
        }
        Ok(requests)
    }

    /// Takes the answers of a round, in the order of the headings.
    async fn read(&mut self, answers: Vec<(usize, Result<String, AskFailure>)>) -> Result<(), ExpandError> {
        let bounds = self.options.bounds();
        let mut candidates: Vec<(usize, String)> = Vec::new();
        for (i, answer) in answers {
            let (heading, progress) = (&self.headings[i], &mut self.progress[i]);
            progress.delivers = false;
            let answer = match answer {
                Ok(answer) => answer,
                Err(AskFailure::ThisRequest { reason }) => {
                    self.report.failed += 1;
                    progress.last_failure = Some(reason);
                    continue;
                }
                Err(AskFailure::Everything { source }) => return Err(self.failed_for_good(i, source)),
            };
            let parsed = parse_answer(&answer, heading, &bounds);
            let opening = || answer.trim().chars().take(80).collect::<String>();
            match parsed.verdict {
                Verdict::Refused => {
                    self.report.refused += 1;
                    progress.rejects.push(("refused", opening()));
                }
                Verdict::Malformed => {
                    self.report.malformed += 1;
                    progress.rejects.push(("malformed", opening()));
                }
                Verdict::List => {}
            }
            for (reason, name) in parsed.left_out {
                self.report.reject(progress, reason, name);
            }
            candidates.extend(parsed.subtopics.into_iter().map(|name| (i, name)));
        }
        let names: Vec<String> = candidates.iter().map(|(_, name)| name.clone()).collect();
        let mut vectors = self.embed(&names).await?.into_iter();
        for (i, name) in candidates {
            self.take(i, name, vectors.next());
        }
        Ok(())
    }

    /// Keeps a name or says why not. Names beyond the number that is wanted are let go.
    fn take(&mut self, i: usize, name: String, vector: Option<Vec<f32>>) {
        if self.progress[i].missing() == 0 {
            return;
        }
        let cosine = self.options.same_meaning_cosine.unwrap_or(f64::INFINITY);
        let key = dedupe_key(&name);
        let is_field = self.fields.contains(&key);
        let category = self.category(i);
        let rejection = if is_field {
            Some(Rejection::OffTopic)
        } else if category.keys.contains(&key) {
            Some(Rejection::Duplicate)
        } else if category.spelled.find(&name).is_some() {
            Some(Rejection::NearDuplicate)
        } else if vector.as_ref().is_some_and(|vector| category.meant.has_like(vector, cosine)) {
            Some(Rejection::SameMeaning)
        } else {
            category.keys.insert(key);
            category.spelled.insert(&name);
            if let Some(vector) = vector {
                category.meant.insert(vector);
            }
            None
        };
        let progress = &mut self.progress[i];
        if !progress.taken.contains(&name) {
            progress.taken.push(name.clone());
        }
        match rejection {
            Some(reason) => self.report.reject(progress, reason, name),
            None => {
                progress.delivers = true;
                progress.subtopics.push(name);
            }
        }
    }

    fn failed_for_good(&self, i: usize, source: Box<dyn std::error::Error + Send + Sync>) -> ExpandError {
        ExpandError::Ask { bisac_code: self.headings[i].code.clone(), source }
    }

    /// Gives up what headings could not deliver and asks it of those that could. `false` when nothing
    /// is missing or nobody is left to ask.
    fn redistribute(&mut self) -> bool {
        let missing: Vec<u32> = self.progress.iter().map(Progress::missing).collect();
        let delivers = |progress: &Progress| progress.missing() == 0 && progress.delivers;
        let delivered: Vec<usize> =
            (0..self.progress.len()).filter(|i| delivers(&self.progress[*i])).collect();
        let more = spread_missing(self.options, &self.headings, &missing, &delivered);
        for (progress, missing) in self.progress.iter_mut().zip(missing) {
            progress.goal -= missing;
        }
        for (i, more) in &more {
            let attempts = self.attempts_for(*more);
            let progress = &mut self.progress[*i];
            progress.goal = progress.goal.saturating_add(*more);
            progress.attempts_left = attempts;
            self.report.redistributed += u64::from(*more);
        }
        !more.is_empty()
    }

    /// Numbers the topics and counts them.
    fn finish(mut self, source: &str) -> Result<Expansion, ExpandError> {
        let mut rows = Rows::default();
        let mut rejects = Vec::new();
        let own: BTreeSet<String> = self.headings.iter().map(Heading::topic_id).collect();
        for (heading, progress) in self.headings.iter().zip(self.progress) {
            let own_source = match heading.origin {
                Origin::Bisac => "bisac",
                Origin::Table => "table",
            };
            rows.push(heading, heading.topic_id(), heading.name(), own_source);
            // A user's ids may look like ours.
            let numbers = (1_u64..).map(|number| format!("{}-{number:02}", heading.code));
            let mut ids = numbers.filter(|id| !own.contains(id));
            let kept = u32::try_from(progress.subtopics.len()).unwrap_or(u32::MAX);
            for (subtopic, id) in progress.subtopics.into_iter().zip(&mut ids) {
                rows.push(heading, id, subtopic, source);
            }
            let id = heading.topic_id();
            rejects.extend(progress.rejects.into_iter().map(|(reason, detail)| Reject {
                id: id.clone(),
                reason: reason.to_string(),
                detail,
            }));
            let report = &mut self.report;
            report.asked += u64::from(progress.attempts);
            report.retries += u64::from(progress.attempts.saturating_sub(1));
            report.kept += u64::from(kept);
            *report.by_category.entry(heading.top_category.clone()).or_default() += 1 + u64::from(kept);
            if kept < progress.wanted {
                report.short_headings.push(ShortHeading {
                    bisac_code: heading.code.clone(),
                    wanted: progress.wanted,
                    kept,
                    last_failure: progress.last_failure,
                });
            }
        }
        Ok(Expansion { batches: rows.batches()?, rejects, report: self.report })
    }
}

impl ExpansionReport {
    fn reject(&mut self, progress: &mut Progress, reason: Rejection, name: String) {
        *self.rejected.entry(reason).or_default() += 1;
        progress.rejects.push((reason.name(), name));
    }
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
