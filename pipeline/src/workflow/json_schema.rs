//! The JSON schema of workflow files, for editors (Taplo completes and checks with it) and for our
//! own check. It is made from the stage table and the config structs' doc comments.

use serde_json::{Map, Value as Json, json};

use service::schedule::{RunConfig, ScheduleConfig, TriggerConfig};

use crate::stages::{self, InputCount, LimitsConfig, StageKind};

/// The fields that every stage table has beside its config.
pub const ENVELOPE_FIELDS: &[&str] = &["kind", "input", "inputs", "keep_dropped", "materialize"];

/// The schema of the fields that every stage has.
pub fn envelope_shape() -> Json {
    let names = json!({
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    });
    json!({
        "type": "object",
        "properties": {
            "kind": {"type": "string", "description": "What the stage does."},
            "input": names,
            "inputs": {"type": "object", "additionalProperties": names,
                "description": "The stages that feed this one, by role."},
            "keep_dropped": {"type": "boolean", "default": false,
                "description": "Write the dropped rows, each with its reason, to a side table."},
            "materialize": {"type": "boolean", "default": true,
                "description": "Write the rows to Parquet; false computes them inside each consumer's plan."},
        }
    })
}

/// The schema of a workflow file without the stages' own fields.
pub fn workflow_shape() -> Json {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$",
                "description": "The workflow's name; its runs are kept in a folder of this name."},
            "description": {"type": "string", "description": "What it makes, in a sentence."},
            "engine": {"type": "string",
                "description": "Where tasks are done: `embedded`, or `ballista://HOST:PORT`, a cluster's scheduler."},
            "vars": {"type": "object", "description": "Values used as \"${name}\"."},
            "stage": {"type": "object", "description": "The stages by name."},
            "limits": inlined::<LimitsConfig>("What all stages of a run together may spend on language models."),
            "schedule": inlined::<ScheduleConfig>("When `pipeline serve` runs the workflow by itself."),
            "trigger": inlined::<TriggerConfig>("What else makes `pipeline serve` run the workflow."),
            "run": inlined::<RunConfig>("What a run takes of the pools of `pipeline serve`."),
            "profile": {"type": "object",
                "description": "Tables laid over the file by --profile <name>; `sample` is the default."},
        }
    })
}

/// The schema of a table of the workflow, with its definitions inside.
fn inlined<T: schemars::JsonSchema>(about: &str) -> Json {
    let mut schema = Json::from(schemars::schema_for!(T));
    inline_references(&mut schema);
    schema["description"] = about.into();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("$schema");
        schema.remove("title");
    }
    schema
}

/// The whole schema, with every stage kind.
pub fn workflow_schema() -> Json {
    let mut defs = Map::new();
    let mut kinds = Vec::new();
    for kind in stages::STAGES {
        defs.insert(format!("stage_{}", kind.name), stage_schema(kind));
        kinds.push(json!({
            "if": {"properties": {"kind": {"const": kind.name}}, "required": ["kind"]},
            "then": {"$ref": format!("#/$defs/stage_{}", kind.name)},
        }));
    }
    let names: Vec<&str> = stages::STAGES.iter().map(|kind| kind.name).collect();
    defs.insert(
        "stage".to_owned(),
        json!({
            "type": "object",
            "required": ["kind"],
            "properties": {"kind": {"enum": names}},
            "allOf": kinds,
        }),
    );
    let mut schema = workflow_shape();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Corpusmith workflow".into();
    schema["properties"]["stage"]["additionalProperties"] = json!({"$ref": "#/$defs/stage"});
    schema["properties"]["profile"]["additionalProperties"] = json!({
        "type": "object",
        "properties": {"vars": {"type": "object"}, "stage": {"type": "object"}, "limits": {"type": "object"},
            "description": {"type": "string"}},
    });
    schema["$defs"] = Json::Object(defs);
    schema
}

/// One kind's schema with the envelope's fields merged in and its own definitions inlined, so that
/// every reference is local to it.
fn stage_schema(kind: &StageKind) -> Json {
    let mut schema = Json::from((kind.schema)());
    inline_references(&mut schema);
    let envelope = envelope_shape();
    let properties = &mut schema["properties"];
    if !properties.is_object() {
        *properties = json!({});
    }
    for field in ENVELOPE_FIELDS {
        properties[*field] = envelope["properties"][*field].clone();
    }
    properties["kind"] = json!({"const": kind.name, "description": kind.summary});
    let roles: Map<String, Json> = kind
        .inputs
        .iter()
        .map(|input| {
            let mut role = match input.count {
                InputCount::Many | InputCount::Any => json!({"type": "array", "items": {"type": "string"}}),
                InputCount::One | InputCount::Optional => json!({"type": "string"}),
            };
            role["description"] = input.about.into();
            (input.role.to_owned(), role)
        })
        .collect();
    properties["inputs"] = json!({
        "type": "object", "additionalProperties": false, "properties": roles,
        "description": "The stages that feed this one, by role.",
    });
    schema["description"] = kind.summary.into();
    schema
}

/// Puts what `$ref`s point to in their place.
pub fn inline_references(schema: &mut Json) {
    let defs = schema.as_object_mut().and_then(|map| map.remove("$defs")).unwrap_or_default();
    fn walk(node: &mut Json, defs: &Json) {
        let target = node
            .get("$ref")
            .and_then(Json::as_str)
            .and_then(|path| path.strip_prefix("#/$defs/"))
            .and_then(|name| defs.get(name))
            .cloned();
        if let Some(mut target) = target {
            if let (Some(map), Some(own)) = (target.as_object_mut(), node.as_object()) {
                for (key, value) in own.iter().filter(|(key, _)| *key != "$ref") {
                    map.insert(key.clone(), value.clone());
                }
            }
            *node = target;
        }
        match node {
            Json::Object(map) => map.values_mut().for_each(|value| walk(value, defs)),
            Json::Array(items) => items.iter_mut().for_each(|value| walk(value, defs)),
            _ => {}
        }
    }
    walk(schema, &defs);
}
