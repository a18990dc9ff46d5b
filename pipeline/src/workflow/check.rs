//! Checks a TOML tree against a JSON schema made by `schemars`, and reports every mismatch with its
//! place. Serde alone would stop at the first one and lose the place after a merge.

use serde_json::Value as Json;

use super::problem::{Problem, nearest};
use super::tree::{Node, Place, Table, Value};

/// Checks `node` against `schema`; `root` holds the `$defs`.
pub fn check_value(node: &Node, schema: &Json, root: &Json, name: &str, out: &mut Vec<Problem>) {
    let schema = resolve(schema, root);
    if let Some(choices) = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Json::as_array) {
        check_choices(node, choices, root, name, out);
        return;
    }
    if let Some(allowed) = constants(schema) {
        check_constant(node, &allowed, name, out);
        return;
    }
    let types = type_names(schema);
    if !types.is_empty() && !types.iter().any(|kind| has_type(&node.value, kind)) {
        let wanted = types.iter().filter(|t| **t != "null").map(|t| toml_type(t));
        let wanted = wanted.collect::<Vec<_>>().join(" or ");
        out.push(Problem::at(
            &node.place,
            format!("`{name}` takes {wanted}, not {}", article(node.value.type_name())),
            format!("this is {}", article(node.value.type_name())),
        ));
        return;
    }
    match &node.value {
        Value::Integer(number) => check_range(node, *number as f64, schema, name, out),
        Value::Float(number) => check_range(node, *number, schema, name, out),
        Value::Array(items) => {
            if let Some(item_schema) = schema.get("items") {
                for item in items {
                    check_value(item, item_schema, root, name, out);
                }
            }
        }
        Value::Table(table) if schema.get("properties").is_some() => {
            check_table(table, &node.place, schema, root, out);
        }
        Value::Table(table) => {
            if let Some(value_schema @ Json::Object(_)) = schema.get("additionalProperties") {
                for (key, entry) in table {
                    check_value(&entry.node, value_schema, root, key, out);
                }
            }
        }
        _ => {}
    }
}

/// Checks the keys of a table against the schema's properties: unknown keys, missing ones, values.
pub fn check_table(table: &Table, place: &Place, schema: &Json, root: &Json, out: &mut Vec<Problem>) {
    let schema = resolve(schema, root);
    let empty = serde_json::Map::new();
    let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
    for (key, entry) in table {
        match properties.get(key) {
            Some(property) => check_value(&entry.node, property, root, key, out),
            None => {
                let mut problem =
                    Problem::at(&entry.key, format!("unknown field `{key}`"), "not a field here");
                let names = || properties.keys().map(String::as_str);
                if let Some(name) = nearest(key, names()) {
                    problem = problem.help(format!("did you mean `{name}`?"));
                } else if !properties.is_empty() {
                    let names = names().collect::<Vec<_>>().join(", ");
                    problem = problem.help(format!("the fields are: {names}"));
                }
                out.push(problem);
            }
        }
    }
    for required in schema.get("required").and_then(Json::as_array).into_iter().flatten() {
        if let Some(name) = required.as_str().filter(|name| !table.contains_key(*name)) {
            let about = properties.get(name).and_then(|p| p.get("description")).and_then(Json::as_str);
            let mut problem = Problem::at(place, format!("the field `{name}` is missing"), "needed here");
            if let Some(about) = about {
                problem = problem.help(format!("{name}: {}", about.replace('\n', " ")));
            }
            out.push(problem);
        }
    }
}

fn resolve<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    match schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

fn constants(schema: &Json) -> Option<Vec<&Json>> {
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return Some(values.iter().collect());
    }
    schema.get("const").map(|value| vec![value])
}

fn check_choices(node: &Node, choices: &[Json], root: &Json, name: &str, out: &mut Vec<Problem>) {
    let mut best: Option<Vec<Problem>> = None;
    let mut allowed = Vec::new();
    for choice in choices {
        let choice = resolve(choice, root);
        if choice.get("type").and_then(Json::as_str) == Some("null") {
            continue;
        }
        if let Some(values) = constants(choice) {
            allowed.extend(values);
        }
        let mut problems = Vec::new();
        check_value(node, choice, root, name, &mut problems);
        if problems.is_empty() {
            return;
        }
        if best.as_ref().is_none_or(|old| problems.len() < old.len()) {
            best = Some(problems);
        }
    }
    if allowed.is_empty() {
        out.extend(best.unwrap_or_default());
    } else {
        check_constant(node, &allowed, name, out);
    }
}

fn check_constant(node: &Node, allowed: &[&Json], name: &str, out: &mut Vec<Problem>) {
    let json = node.to_json();
    if allowed.contains(&&json) {
        return;
    }
    let names: Vec<&str> = allowed.iter().filter_map(|value| value.as_str()).collect();
    let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let mut problem =
        Problem::at(&node.place, format!("`{name}` is one of {list}"), "not one of the choices");
    if let Some(near) = node.as_str().and_then(|word| nearest(word, names.iter().copied())) {
        problem = problem.help(format!("did you mean \"{near}\"?"));
    }
    out.push(problem);
}

fn check_range(node: &Node, number: f64, schema: &Json, name: &str, out: &mut Vec<Problem>) {
    let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
    let mut say = |words: String| {
        out.push(Problem::at(&node.place, format!("`{name}` must be {words}"), "out of range"));
    };
    if number.is_nan() {
        say("a number".to_owned());
    } else if let Some(low) = bound("minimum").filter(|low| number < *low) {
        say(format!("at least {low}"));
    } else if let Some(high) = bound("maximum").filter(|high| number > *high) {
        say(format!("at most {high}"));
    } else if let Some(low) = bound("exclusiveMinimum").filter(|low| number <= *low) {
        say(format!("more than {low}"));
    }
}

fn type_names(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(name)) => vec![name],
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn has_type(value: &Value, kind: &str) -> bool {
    matches!(
        (value, kind),
        (Value::String(_), "string")
            | (Value::Integer(_), "integer" | "number")
            | (Value::Float(_), "number")
            | (Value::Boolean(_), "boolean")
            | (Value::Array(_), "array")
            | (Value::Table(_), "object")
    )
}

fn toml_type(json_type: &str) -> &'static str {
    match json_type {
        "string" => "a string",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "an array",
        _ => "a table",
    }
}

fn article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}
