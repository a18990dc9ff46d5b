//! `"${name}"` in a workflow: variables of `[vars]` and the environment.
//!
//! A string that is nothing but one reference takes the variable's value with its type, so that
//! `target = "${topics}"` can be an integer. `${env:NAME}` reads the environment, and
//! `${env:NAME:-text}` falls back to `text`. `$${` stands for a plain `${`.

use std::collections::BTreeSet;

use service::workflows::CALLERS_VARIABLE;

use super::OVERRIDE;
use super::problem::{Problem, nearest};
use super::tree::{Node, Place, Table, Value};

/// Replaces every reference in the tree. Variables may refer to each other, though not in a circle.
pub fn interpolate(root: &mut Node, problems: &mut Vec<Problem>) {
    let Value::Table(table) = &mut root.value else {
        return;
    };
    let mut vars = Variables::default();
    if let Some(entry) = table.get_mut("vars") {
        let given = entry.node.as_table().cloned().unwrap_or_default();
        vars = variables(given, problems);
        if let Value::Table(table) = &mut entry.node.value {
            table.clone_from(&vars.done);
        }
    }
    for (key, entry) in table.iter_mut() {
        if key != "vars" {
            walk(&mut entry.node, &vars, problems);
        }
    }
}

/// The variables without references.
#[derive(Default)]
struct Variables {
    done: Table,
    /// Those that hold what was read from the environment.
    secret: BTreeSet<String>,
}

/// The variables, each done once those are that it mentions.
fn variables(mut given: Table, problems: &mut Vec<Problem>) -> Variables {
    let mut vars = Variables::default();
    loop {
        let waits = |node: &Node| given.keys().any(|name| mentions(node, &|text| refers_to(text, name)));
        let ready = given.iter().find(|(_, entry)| !waits(&entry.node)).map(|(name, _)| name.clone());
        let Some((name, mut entry)) = ready.and_then(|name| given.remove_entry(&name)) else { break };
        let is_secret = mentions(&entry.node, &|text| {
            text.contains("${env:") || vars.secret.iter().any(|name| refers_to(text, name))
        });
        walk(&mut entry.node, &vars, problems);
        if is_secret {
            vars.secret.insert(name.clone());
        }
        vars.done.insert(name, entry);
    }
    for (name, entry) in given {
        let problem =
            Problem::at(&entry.node.place, format!("variable `{name}` depends on itself"), "refers here");
        problems.push(problem.help("give one variable of the circle a value of its own"));
        vars.done.insert(name, entry);
    }
    vars
}

/// Whether one of the texts in a node is such a one.
fn mentions(node: &Node, is_such: &dyn Fn(&str) -> bool) -> bool {
    match &node.value {
        Value::Array(items) => items.iter().any(|item| mentions(item, is_such)),
        Value::Table(table) => table.values().any(|entry| mentions(&entry.node, is_such)),
        Value::String(text) => is_such(text),
        _ => false,
    }
}

fn refers_to(text: &str, name: &str) -> bool {
    text.contains(&format!("${{{name}}}"))
}

fn walk(node: &mut Node, vars: &Variables, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, vars, problems)),
        Value::Table(table) => {
            table.values_mut().for_each(|entry| walk(&mut entry.node, vars, problems));
        }
        Value::String(text) if text.contains("${") => match replace(text, &node.place, vars) {
            Ok(value) => node.value = value,
            Err(problem) => problems.push(problem),
        },
        _ => {}
    }
}

fn replace(text: &str, place: &Place, vars: &Variables) -> Result<Value, Problem> {
    if let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
        && !name.contains("${")
    {
        return lookup(name, place, vars);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let Some(end) = rest[start..].find('}') else {
            return Err(Problem::at(place, "a reference `${` without its `}`", "not closed"));
        };
        match lookup(&rest[start + 2..start + end], place, vars)? {
            Value::String(value) => out.push_str(&value),
            Value::Integer(value) => out.push_str(&value.to_string()),
            Value::Float(value) => out.push_str(&value.to_string()),
            Value::Boolean(value) => out.push_str(&value.to_string()),
            other => {
                return Err(Problem::at(
                    place,
                    format!("a variable inside a text cannot be of type {}", other.type_name()),
                    "used here",
                ));
            }
        }
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    Ok(Value::String(out))
}

fn lookup(name: &str, place: &Place, vars: &Variables) -> Result<Value, Problem> {
    // Whoever may ask a service for runs may not read its secrets that way.
    let is_secret = name.starts_with("env:") || vars.secret.contains(name);
    if is_secret && place.source.name() == OVERRIDE && std::env::var_os(CALLERS_VARIABLE).is_some() {
        return Err(Problem::at(
            place,
            "what a caller lays over a workflow may not read the service's environment",
            "read here",
        )
        .help("take the variable in the workflow's file, or give the value itself"));
    }
    if let Some(variable) = name.strip_prefix("env:") {
        let (variable, fallback) = match variable.split_once(":-") {
            Some((variable, fallback)) => (variable, Some(fallback)),
            None => (variable, None),
        };
        return match (std::env::var(variable), fallback) {
            (Ok(value), _) => Ok(Value::String(value)),
            (Err(_), Some(fallback)) => Ok(Value::String(fallback.to_owned())),
            (Err(_), None) => Err(Problem::at(
                place,
                format!("the environment variable `{variable}` is not set"),
                "read here",
            )
            .help(format!("set it, or write ${{env:{variable}:-default}}"))),
        };
    }
    match vars.done.get(name) {
        Some(entry) => Ok(entry.node.value.clone()),
        None => {
            let problem = Problem::at(place, format!("there is no variable `{name}`"), "used here");
            Err(match nearest(name, vars.done.keys().map(String::as_str)) {
                Some(near) => problem.help(format!("did you mean `${{{near}}}`?")),
                None => problem.help("variables stand under [vars]"),
            })
        }
    }
}
