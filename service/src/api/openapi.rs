//! The OpenAPI 3.1 document, made from the table of endpoints and the schemas of their bodies.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json, json};

use super::ENDPOINTS;
use super::endpoint::{Access, Endpoint, schema_of};
use super::problem::Problem;

/// The document.
pub fn document() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut generator = SchemaGenerator::new(settings);
    let problem = json!({"application/problem+json": {"schema": schema_of::<Problem>(&mut generator)}});
    let mut paths: Map<String, Json> = Map::new();
    for endpoint in ENDPOINTS {
        let operation = operation(endpoint, &problem, &mut generator);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_lowercase()] = operation;
    }
    let mut schemas = Json::Object(generator.take_definitions(true));
    plain_enums(&mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Corpusmith",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Runs of data pipelines: start, watch, stop, schedule. All ids and names are texts; \
                            times are RFC 3339.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer",
                "description": "A token of `pipeline token create`."}},
        },
    })
}

/// Writes a choice of words, each with its description, as one `enum`. Generators of clients take a `oneOf` of
/// constants for so many types.
fn plain_enums(schema: &mut Json) {
    if let Some(choices) = schema.get("oneOf").and_then(Json::as_array)
        && choices.iter().all(|choice| choice["const"].is_string())
    {
        let words: Vec<Json> = choices.iter().map(|choice| choice["const"].clone()).collect();
        let about: Vec<String> = choices
            .iter()
            .filter_map(|choice| {
                Some(format!("`{}`: {}", choice["const"].as_str()?, choice["description"].as_str()?))
            })
            .collect();
        let before = schema
            .get("description")
            .and_then(Json::as_str)
            .map(|text| format!("{text}\n\n"))
            .unwrap_or_default();
        *schema = json!({"type": "string", "enum": words, "description": before + &about.join("\n\n")});
    }
    match schema {
        Json::Object(fields) => fields.values_mut().for_each(plain_enums),
        Json::Array(items) => items.iter_mut().for_each(plain_enums),
        _ => {}
    }
}

fn operation(endpoint: &Endpoint, problem: &Json, generator: &mut SchemaGenerator) -> Json {
    let in_path = endpoint.path.split(['{', '}']).skip(1).step_by(2);
    let parameters: Vec<Json> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .chain(endpoint.query.iter().map(|(name, about)| {
            json!({"name": name, "in": "query", "description": about, "schema": {"type": "string"}})
        }))
        .chain(endpoint.takes_key.then(|| {
            let about = "One for each request that is meant: repeated, it enters nothing new.";
            let schema = json!({"type": "string", "minLength": 1, "maxLength": 200});
            json!({"name": "Idempotency-Key", "in": "header", "description": about, "schema": schema})
        }))
        .collect();
    let content = match endpoint.answer {
        Some(schema) => json!({"application/json": {"schema": schema(generator)}}),
        None => Json::Null,
    };
    let mut good = json!({"description": "Done."});
    if !content.is_null() {
        good["content"] = content;
    }
    let mut operation = json!({
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            endpoint.status.to_string(): good,
            "default": {"description": "A problem (RFC 9457).", "content": problem},
        },
    });
    if endpoint.takes_key {
        operation["responses"]["200"] = operation["responses"][endpoint.status.to_string()].clone();
    }
    if let Some(schema) = endpoint.body {
        let schema = schema(generator);
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    operation["security"] = match endpoint.access {
        Access::Scoped(scope) => {
            operation["description"] = format!("Needs the scope `{}`.", scope.name()).into();
            json!([{"token": []}])
        }
        Access::Open | Access::Signed => json!([]),
    };
    operation
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn states_are_one_enumeration() {
        let state = &document()["components"]["schemas"]["RunState"];
        assert_eq!(state["enum"].as_array().unwrap().len(), crate::run::RunState::ALL.len());
        assert!(
            state["oneOf"].is_null() && state["description"].as_str().unwrap().contains("`queued`: "),
            "{state}"
        );
    }

    #[test]
    fn every_endpoint_and_every_reference_is_there() {
        let document = document();
        let ids: BTreeSet<_> = ENDPOINTS.iter().map(|endpoint| endpoint.id).collect();
        assert_eq!(ids.len(), ENDPOINTS.len());
        for endpoint in ENDPOINTS {
            let operation = &document["paths"][endpoint.path][endpoint.method.as_str().to_lowercase()];
            assert_eq!(operation["operationId"], endpoint.id);
        }
        let submit = &document["paths"]["/api/v1/runs"]["post"];
        assert_eq!(submit["responses"]["200"]["content"], submit["responses"]["201"]["content"]);
        assert_eq!(submit["parameters"][0]["name"], "Idempotency-Key");
        let text = document.to_string();
        let references = text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut found = 0;
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            found += 1;
        }
        assert!(found > 5);
    }
}
