//! A workflow file: TOML in, typed and checked stages out.
//!
//! ```toml
//! name = "cosmopedia_v2"
//! [vars]                       # used as "${topics}"; "${env:NAME}" reads the environment
//! topics = 24
//! [stage.topics]
//! kind = "topics"
//! target = "${topics}"
//! [stage.retrieve]
//! kind = "retrieve"
//! inputs = { topics = "topics", index = "index" }
//! [profile.full.vars]          # laid over the file with --profile full
//! topics = 34000
//! ```

mod callers;
mod check;
mod interpolate;
pub mod json_schema;
pub mod problem;
pub mod service_tables;
pub mod tree;
mod vocabulary;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use miette::NamedSource;
use serde::{Deserialize, Serialize};

use crate::dag;
use crate::engine::Engine;
use crate::stages::{self, InputCount, LimitsConfig, Shape, Stage, StageKind};
use callers::Confinement;
use problem::{Problem, Problems, nearest};
use service::run::StageShape;
use service::workflows::WorkflowShape;
use service_tables::ServiceTables;
use tree::{Node, Place, Table, Value};

/// The profile that runs when none is named.
pub const DEFAULT_PROFILE: &str = "sample";

/// The environment variable that holds overrides, separated by `;` or new lines.
pub const OVERRIDES_VARIABLE: &str = "CORPUSMITH_SET";

/// Where a caller's override stands, for messages.
const OVERRIDE: &str = "--set";

/// A checked workflow.
pub struct Workflow {
    /// Its name; also the folder of its runs.
    pub name: String,
    /// What it makes, in a sentence.
    pub description: String,
    /// The profile that was laid over the file.
    pub profile: String,
    /// The profiles that the file has, beside the default.
    pub profiles: Vec<String>,
    /// The run's folder under the workflow's; the profile's name by default.
    pub run_name: String,
    /// Where its tasks are done, if the file says so.
    pub engine: Option<Engine>,
    /// What its stages may spend together on language models.
    pub limits: LimitsConfig,
    /// What it says to `pipeline serve`.
    pub service: ServiceTables,
    /// The stages in an order in which each comes after its inputs.
    pub stages: Vec<StageNode>,
    /// What it was read from.
    pub text: WorkflowText,
}

/// One stage of a workflow.
pub struct StageNode {
    /// Its name in the file.
    pub id: String,
    /// Its kind.
    pub kind: &'static StageKind,
    /// The worker with its typed config.
    pub stage: Arc<dyn Stage>,
    /// The config with every default filled in, keys sorted: a part of the fingerprint.
    pub config: serde_json::Value,
    /// The stages that feed it, by role.
    pub inputs: BTreeMap<String, Vec<String>>,
    /// What happens to dropped rows.
    pub dropped_rows: DroppedRows,
    /// Whether its output is written or fused into its consumers' plans.
    pub output: OutputMode,
}

impl StageNode {
    /// The typed config, if the stage is of that kind.
    pub fn as_kind<T: Stage>(&self) -> Option<&T> {
        let stage: &dyn Any = self.stage.as_ref();
        stage.downcast_ref()
    }
}

/// What a stage does with the rows that it drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DroppedRows {
    /// Count them by reason.
    Count,
    /// Count them and write them to a side table (`keep_dropped = true`).
    Keep,
}

/// Whether a stage's rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputMode {
    /// Written to Parquet shards (the default).
    Materialize,
    /// Computed anew inside each consumer's plan (`materialize = false`).
    Fuse,
}

impl Workflow {
    /// What the service needs to know of the workflow.
    pub fn shape(&self) -> WorkflowShape {
        let stage = |node: &StageNode| StageShape {
            id: node.id.clone(),
            kind: node.kind.name.to_owned(),
            reads: node.upstream().into_iter().map(str::to_owned).collect(),
        };
        let ServiceTables { schedule, trigger, run } = self.service.clone();
        WorkflowShape {
            name: self.name.clone(),
            description: self.description.clone(),
            profile: self.profile.clone(),
            profiles: self.profiles.clone(),
            stages: self.stages.iter().map(stage).collect(),
            schedule,
            trigger,
            run,
        }
    }

    /// Whether a stage's tasks are done where the run is: those of a whole are one, and some share what only
    /// one process may hold, perhaps by way of a stage that is fused into them.
    pub fn stays(&self, node: &StageNode) -> bool {
        let fused = |id: &&str| {
            self.stages.iter().find(|node| node.id == **id).filter(|node| node.output == OutputMode::Fuse)
        };
        node.stage.shape() != Shape::PerShard
            || node.stage.stays()
            || node.upstream().iter().filter_map(fused).any(|node| self.stays(node))
    }
}

impl StageNode {
    /// All the stages that this one reads, without repeats, in role order.
    pub fn upstream(&self) -> Vec<&str> {
        let mut seen = Vec::new();
        for id in self.inputs.values().flatten() {
            if !seen.contains(&id.as_str()) {
                seen.push(id.as_str());
            }
        }
        seen
    }
}

/// What the caller lays over the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Overrides {
    /// The profile; [`DEFAULT_PROFILE`] when absent.
    pub profile: Option<String>,
    /// `key=value` texts in order; later ones win.
    pub set: Vec<String>,
    /// The run's folder under the workflow's; the profile's name when absent.
    pub run_name: Option<String>,
}

/// A workflow file's text with all that is laid over it: enough to read it again elsewhere.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkflowText {
    /// The file's name, for messages.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What [`OVERRIDES_VARIABLE`] lays over it.
    pub environment: String,
    /// What the caller lays over that.
    pub overrides: Overrides,
}

/// Reads, merges, interpolates and checks a workflow file.
///
/// # Errors
/// Every problem that the file and the overrides have, together.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Workflow, Problems> {
    let name = path.display().to_string();
    let fail = |problem| Problems { workflow: name.clone(), problems: vec![problem] };
    let text = std::fs::read(path).map_err(|error| {
        let place = whole_text(&name, String::new());
        fail(
            Problem::at(&place, format!("cannot read {name}: {error}"), "no file here")
                .help("name a workflow file, for example workflows/cosmopedia_v2.toml"),
        )
    })?;
    let text = String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let place = whole_text(&name, String::new());
        fail(
            Problem::at(&place, format!("{name} is not UTF-8 at byte {at}"), "")
                .help("save the file as UTF-8"),
        )
    })?;
    let environment = std::env::var(OVERRIDES_VARIABLE).unwrap_or_default();
    WorkflowText { name, text, environment, overrides: overrides.clone() }.workflow()
}

impl WorkflowText {
    /// Merges, interpolates and checks it.
    ///
    /// # Errors
    /// As [`load`].
    pub fn workflow(self) -> Result<Workflow, Problems> {
        let fail = |problems| Problems { workflow: self.name.clone(), problems };
        let named = Arc::new(NamedSource::new(&self.name, self.text.clone()));
        let mut root = tree::parse(&named).map_err(fail)?;
        let mut problems = Vec::new();
        let profiles =
            root.as_table().and_then(|table| table.get("profile")).and_then(|entry| entry.node.as_table());
        let profiles = profiles.map(|table| table.keys().cloned().collect()).unwrap_or_default();
        let confinement = Confinement::from_environment().filter(|_| !self.overrides.set.is_empty());
        let mut without = confinement.is_some().then(|| root.clone());
        let profile = apply_overrides(&mut root, &self, &mut problems);
        interpolate::interpolate(&mut root, &mut problems);
        if let (Some(confinement), Some(without)) = (confinement, &mut without) {
            // What is wrong without the caller's overrides is wrong with them, or mended by them.
            let overrides = Overrides { set: Vec::new(), ..self.overrides.clone() };
            let text = Self { overrides, ..self.clone() };
            apply_overrides(without, &text, &mut Vec::new());
            interpolate::interpolate(without, &mut Vec::new());
            confinement.check(&root, Some(without), &mut problems);
        }
        match build(&root, profile, &mut problems) {
            Some(workflow) if problems.is_empty() => {
                let run_name = self.overrides.run_name.clone().unwrap_or(workflow.run_name);
                Ok(Workflow { profiles, run_name, text: self, ..workflow })
            }
            _ => Err(fail(problems)),
        }
    }
}

fn whole_text(name: &str, text: String) -> Place {
    let range = 0..text.len();
    Place { source: Arc::new(NamedSource::new(name, text)), range }
}

/// Lays the profile, the environment's overrides and the caller's over the tree, in this order.
fn apply_overrides(root: &mut Node, text: &WorkflowText, problems: &mut Vec<Problem>) -> String {
    let overrides = &text.overrides;
    let wanted = overrides.profile.clone().unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
    if let Value::Table(table) = &mut root.value
        && let Some(profiles) = table.remove("profile")
    {
        let profiles_table = profiles.node.as_table().cloned().unwrap_or_default();
        match profiles_table.get(&wanted) {
            Some(profile) => root.merge(profile.node.clone()),
            None if overrides.profile.is_some() && wanted != DEFAULT_PROFILE => {
                problems.push(unknown_profile(&wanted, &profiles.key, &profiles_table));
            }
            None => {}
        }
    } else if wanted != DEFAULT_PROFILE {
        let place = Place { source: root.place.source.clone(), range: 0..0 };
        problems.push(unknown_profile(&wanted, &place, &Table::new()));
    }
    let from_environment = text
        .environment
        .split([';', '\n'])
        .filter(|text| !text.trim().is_empty())
        .map(|text| (OVERRIDES_VARIABLE, text));
    let from_caller = overrides.set.iter().map(|text| (OVERRIDE, text.as_str()));
    for (origin, text) in from_environment.chain(from_caller) {
        match tree::parse_override(origin, text) {
            Ok(node) => root.merge(node),
            Err(problem) => problems.push(problem),
        }
    }
    wanted
}

fn unknown_profile(wanted: &str, place: &Place, profiles: &Table) -> Problem {
    let names = profiles.keys().map(String::as_str).chain([DEFAULT_PROFILE]);
    let names = names.collect::<Vec<_>>().join(", ");
    Problem::at(place, format!("there is no profile `{wanted}`"), "the profiles of this workflow")
        .help(format!("the profiles are: {names}"))
}

fn build(root: &Node, profile: String, problems: &mut Vec<Problem>) -> Option<Workflow> {
    let empty = Table::new();
    let table = root.as_table().unwrap_or(&empty);
    let shape = json_schema::workflow_shape();
    check::check_table(table, &start_of(&root.place), &shape, &shape, problems);
    let text = |key: &str| table.get(key).and_then(|e| e.node.as_str()).unwrap_or("").to_owned();
    if let Some(entry) = table.get("name") {
        check_id(&text("name"), &entry.node.place, "the workflow's name", problems);
    }
    let stage_tables = table.get("stage").and_then(|entry| entry.node.as_table()).unwrap_or(&empty);
    let mut nodes = Vec::new();
    for (id, entry) in stage_tables {
        check_id(id, &entry.key, "a stage's name", problems);
        if let Some(node) = build_stage(id, entry, stage_tables, problems) {
            nodes.push(node);
        }
    }
    if stage_tables.is_empty() && problems.is_empty() {
        let place = start_of(&root.place);
        problems.push(Problem::at(&place, "a workflow needs at least one [stage.<name>]", "none"));
    }
    let stages = match dag::sort(nodes) {
        Ok(stages) => stages,
        Err(cycle) => {
            let place = stage_tables.get(&cycle[0]).map_or(&root.place, |entry| &entry.key);
            let path = cycle.join(" → ");
            problems.push(
                Problem::at(place, format!("the stages form a cycle: {path}"), "part of the cycle")
                    .help("a stage may read only stages that do not depend on it"),
            );
            return None;
        }
    };
    vocabulary::check(&stages, stage_tables, problems);
    Some(Workflow {
        name: text("name"),
        description: text("description"),
        run_name: profile.clone(),
        profile,
        profiles: Vec::new(),
        engine: table.get("engine").and_then(|entry| engine(entry, problems)),
        limits: limits(table, &stages, problems),
        service: service_tables::read(table, problems),
        stages,
        text: WorkflowText::default(),
    })
}

/// Reads `[limits]`.
fn limits(table: &Table, stages: &[StageNode], problems: &mut Vec<Problem>) -> LimitsConfig {
    let Some(entry) = table.get("limits") else { return LimitsConfig::default() };
    // What is wrong in it, the check against the schema has said.
    let limits: LimitsConfig = serde_json::from_value(entry.node.to_json()).unwrap_or_default();
    if limits.max_usd.is_some() && stages.iter().all(|node| node.stage.prices().is_empty()) {
        problems
            .push(Problem::at(&entry.key, "max_usd limits nothing: no stage has prices", "this table").help(
            "set usd_per_million_prompt_tokens and usd_per_million_completion_tokens in the `llm` of a stage",
        ));
    }
    limits
}

fn engine(entry: &tree::Entry, problems: &mut Vec<Problem>) -> Option<Engine> {
    match entry.node.as_str()?.parse() {
        Ok(engine) => Some(engine),
        Err(message) => {
            problems.push(Problem::at(&entry.node.place, message, "no engine"));
            None
        }
    }
}

fn start_of(place: &Place) -> Place {
    Place { source: place.source.clone(), range: 0..0 }
}

/// Names become folder names, so they are kept plain.
fn check_id(id: &str, place: &Place, what: &str, problems: &mut Vec<Problem>) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !id.starts_with(|c: char| c.is_ascii_lowercase()) || !id.chars().all(plain) {
        problems.push(
            Problem::at(place, format!("`{id}` cannot be {what}"), "this name")
                .help("use lower-case letters, digits and _, beginning with a letter"),
        );
    }
}

fn build_stage(id: &str, entry: &tree::Entry, all: &Table, problems: &mut Vec<Problem>) -> Option<StageNode> {
    let before = problems.len();
    let Some(table) = entry.node.as_table() else {
        problems.push(Problem::at(&entry.node.place, format!("stage `{id}` is a table"), "not one"));
        return None;
    };
    let kind_node = table.get("kind").map(|kind| &kind.node);
    let Some(kind_name) = kind_node.and_then(Node::as_str) else {
        problems.push(
            Problem::at(&entry.key, format!("stage `{id}` has no kind"), "add kind = \"…\"")
                .help("`pipeline stages` lists the kinds"),
        );
        return None;
    };
    let Some(kind) = stages::find(kind_name) else {
        let place = kind_node.map_or(&entry.key, |node| &node.place);
        let names = stages::STAGES.iter().map(|kind| kind.name);
        let mut problem = Problem::at(place, format!("unknown stage kind `{kind_name}`"), "no such kind");
        problem = match nearest(kind_name, names) {
            Some(name) => problem.help(format!("did you mean \"{name}\"?")),
            None => problem.help("`pipeline stages` lists the kinds"),
        };
        problems.push(problem);
        return None;
    };
    let mut config_table = table.clone();
    for key in json_schema::ENVELOPE_FIELDS {
        config_table.remove(*key);
    }
    let schema = serde_json::Value::from((kind.schema)());
    check::check_table(&config_table, &entry.key, &schema, &schema, problems);
    let envelope = json_schema::envelope_shape();
    for (key, envelope_entry) in table.iter().filter(|(key, _)| key.as_str() != "kind") {
        if let Some(property) = envelope.pointer(&format!("/properties/{key}")) {
            check::check_value(&envelope_entry.node, property, &envelope, key, problems);
        }
    }
    let inputs = build_inputs(id, kind, entry, table, all, problems);
    if problems.len() > before {
        return None;
    }
    let config_node = Node { value: Value::Table(config_table), place: entry.key.clone() };
    let stage = match (kind.build)(config_node.to_json()) {
        Ok(stage) => stage,
        Err(error) => {
            problems.push(Problem::at(&entry.key, format!("stage `{id}`: {error}"), "this stage"));
            return None;
        }
    };
    for mistake in stage.validate(&inputs) {
        let place = table.get(mistake.field).map_or(&entry.key, |entry| &entry.node.place);
        problems.push(Problem::at(place, mistake.message, format!("in stage `{id}`")).help(mistake.help));
    }
    let flag = |key: &str| table.get(key).map(|entry| &entry.node.value);
    Some(StageNode {
        id: id.to_owned(),
        kind,
        config: stage.config(),
        stage,
        inputs,
        dropped_rows: match flag("keep_dropped") {
            Some(Value::Boolean(true)) => DroppedRows::Keep,
            _ => DroppedRows::Count,
        },
        output: match flag("materialize") {
            Some(Value::Boolean(false)) => OutputMode::Fuse,
            _ => OutputMode::Materialize,
        },
    })
}

/// Reads `inputs = { role = "stage" }` or, for a stage with one role that must be played,
/// `input = "stage"`.
fn build_inputs(
    id: &str,
    kind: &StageKind,
    entry: &tree::Entry,
    table: &Table,
    all: &Table,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Vec<String>> {
    let mut inputs = BTreeMap::new();
    let mut take = |role: &str, node: &Node, problems: &mut Vec<Problem>| {
        let items = match &node.value {
            Value::Array(items) => items.iter().collect(),
            _ => vec![node],
        };
        let mut names = Vec::new();
        for item in items {
            let Some(name) = item.as_str() else { continue };
            if all.contains_key(name) {
                names.push(name.to_owned());
            } else {
                let mut problem =
                    Problem::at(&item.place, format!("there is no stage `{name}`"), "not a stage");
                if let Some(near) = nearest(name, all.keys().map(String::as_str)) {
                    problem = problem.help(format!("did you mean \"{near}\"?"));
                }
                problems.push(problem);
            }
        }
        inputs.insert(role.to_owned(), names);
    };
    let roles = || kind.inputs.iter().map(|input| input.role);
    if let Some(single) = table.get("input") {
        match kind.inputs {
            [first, rest @ ..] if rest.iter().all(|role| role.count.may_be_left_out()) => {
                take(first.role, &single.node, problems);
            }
            _ => problems.push(
                Problem::at(
                    &single.key,
                    format!("`{}` takes {} inputs", kind.name, kind.inputs.len()),
                    "`input` is for stages with exactly one",
                )
                .help(match kind.inputs {
                    [] => "take this line out".to_owned(),
                    _ => format!(
                        "inputs = {{ {} }}",
                        roles().map(|r| format!("{r} = \"…\"")).collect::<Vec<_>>().join(", ")
                    ),
                }),
            ),
        }
    }
    let given = table.get("inputs").and_then(|entry| entry.node.as_table());
    for (role, role_entry) in given.into_iter().flatten() {
        if roles().any(|known| known == role) {
            take(role, &role_entry.node, problems);
        } else {
            let known = roles().collect::<Vec<_>>().join(", ");
            let message = format!("`{}` has no input `{role}`", kind.name);
            problems.push(
                Problem::at(&role_entry.key, message, "not an input of this kind")
                    .help(format!("its inputs are: {known}")),
            );
        }
    }
    for input in kind.inputs {
        let count = inputs.get(input.role).map(Vec::len);
        let wrong = match (input.count, count) {
            (InputCount::One, Some(1)) | (InputCount::Optional, None | Some(1)) => None,
            (InputCount::Many, Some(n)) if n > 0 => None,
            (InputCount::Any, _) => None,
            (InputCount::One | InputCount::Many, None) => Some("is missing"),
            (InputCount::Many, _) => Some("names no stage"),
            (_, Some(0)) => None,
            _ => Some("takes one stage"),
        };
        if let Some(wrong) = wrong {
            problems.push(
                Problem::at(
                    &entry.key,
                    format!("stage `{id}`: input `{}` {wrong}", input.role),
                    "this stage",
                )
                .help(format!("{}: {}", input.role, input.about)),
            );
        }
    }
    inputs
}

#[cfg(test)]
mod tests;
