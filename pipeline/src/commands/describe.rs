//! `pipeline stages`, `explain` and `schema`: the stage table and the config structs' docs. `completions` and
//! `man`: the command line's own.

use std::path::Path;

use clap::CommandFactory;
use serde_json::Value as Json;

use super::Failure;
use crate::cli::Cli;
use crate::stages::{self, InputCount, OutputKind};
use crate::workflow::json_schema::{inline_references, workflow_schema};
use crate::workflow::problem::nearest;

/// Lists the stage kinds.
///
/// # Errors
/// None.
pub fn stages() -> Result<(), Failure> {
    let width = stages::STAGES.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    for kind in stages::STAGES {
        println!("{:width$}  {}", kind.name, kind.summary);
    }
    Ok(())
}

/// Prints what a shell needs to complete commands.
///
/// # Errors
/// None.
pub fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // Printed by us: the generator takes a reader that goes away for a defect.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pipeline", &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    Ok(())
}

/// Writes the manual pages.
///
/// # Errors
/// The folder cannot be written.
pub fn man(folder: &Path) -> Result<(), Failure> {
    crate::durable::make_folder(folder).map_err(Failure::run)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(Failure::run)
}

/// Explains one kind.
///
/// # Errors
/// There is no such kind.
pub fn explain(name: &str) -> Result<(), Failure> {
    let Some(kind) = stages::find(name) else {
        let names = stages::STAGES.iter().map(|kind| kind.name);
        let help = match nearest(name, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`pipeline stages` lists the kinds".to_owned(),
        };
        return Err(Failure::message(format!("there is no stage kind `{name}`"), &help));
    };
    println!("{name}: {}\n", kind.summary);
    match kind.inputs {
        [] => println!("Inputs: none."),
        inputs => {
            println!("Inputs:");
            for input in inputs {
                let count = match input.count {
                    InputCount::One => "",
                    InputCount::Optional => " (may be left out)",
                    InputCount::Many => " (one or more)",
                    InputCount::Any => " (any number)",
                };
                println!("  {}{count}: {}", input.role, input.about);
            }
        }
    }
    println!(
        "Leaves: {}.",
        match kind.output {
            OutputKind::Table => "a table (Parquet shards)",
            OutputKind::Folder => "a folder",
        }
    );
    println!("\nFields:");
    let mut schema = Json::from((kind.schema)());
    inline_references(&mut schema);
    match print_fields(&schema, 1) {
        0 => println!("  none"),
        _ => println!(
            "\nA field inside another is set as `llm.max_in_flight = 8` or `llm = {{ max_in_flight = 8 }}`."
        ),
    }
    Ok(())
}

/// Prints the fields of an object's schema, those of fields that are objects indented below them; how
/// many the object has.
fn print_fields(schema: &Json, depth: usize) -> usize {
    let indent = "  ".repeat(depth);
    let properties = schema.get("properties").and_then(Json::as_object);
    for (field, property) in properties.into_iter().flatten() {
        // The default of an object is told by its fields.
        let inner = inner_object(property);
        let default = property.get("default").filter(|_| inner.is_none());
        let default = default.map(|value| format!(" = {value}")).unwrap_or_default();
        println!("{indent}{field}{default}");
        let about = property.get("description").and_then(Json::as_str).unwrap_or_default();
        for line in about.lines() {
            println!("{indent}    {line}");
        }
        if let Some(inner) = inner {
            print_fields(inner, depth + 1);
        }
    }
    properties.map_or(0, serde_json::Map::len)
}

/// The schema of the object that a field is, holds a list of, or may be.
fn inner_object(property: &Json) -> Option<&Json> {
    if property.get("properties").is_some() {
        return Some(property);
    }
    let one_of = ["anyOf", "oneOf"].into_iter().filter_map(|key| property.get(key)?.as_array()).flatten();
    property.get("items").into_iter().chain(one_of).find_map(inner_object)
}

/// Prints the JSON schema of workflow files.
///
/// # Errors
/// None.
pub fn schema() -> Result<(), Failure> {
    println!("{:#}", workflow_schema());
    Ok(())
}
