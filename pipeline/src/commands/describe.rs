//! `pipeline stages`, `explain` and `schema`: the stage table and the config structs' docs.

use serde_json::Value as Json;

use super::Failure;
use crate::stages::{self, InputCount, OutputKind};
use crate::workflow::json_schema::workflow_schema;
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
    let schema = Json::from((kind.schema)());
    let properties = schema.get("properties").and_then(Json::as_object);
    println!("\nFields:");
    for (field, property) in properties.into_iter().flatten() {
        let default = property.get("default").map(|value| format!(" = {value}")).unwrap_or_default();
        println!("  {field}{default}");
        let about = property.get("description").and_then(Json::as_str).unwrap_or_default();
        for line in about.lines() {
            println!("      {line}");
        }
    }
    if properties.is_none_or(serde_json::Map::is_empty) {
        println!("  none");
    }
    Ok(())
}

/// Prints the JSON schema of workflow files.
///
/// # Errors
/// None.
pub fn schema() -> Result<(), Failure> {
    println!("{:#}", workflow_schema());
    Ok(())
}
