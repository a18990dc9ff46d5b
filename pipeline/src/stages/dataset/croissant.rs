//! The dataset's description for other tools: `croissant.json`.
//!
//! Source of the form: MLCommons, Croissant Format Specification 1.0
//! (<https://docs.mlcommons.org/croissant/docs/croissant-spec.html>).

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Map, Value as Json, json};

use super::{DatasetConfig, Published};

/// The specification's context: short names of the terms that are used below.
fn context() -> Json {
    let mut context = json!({
        "@language": "en",
        "@vocab": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "sc": "https://schema.org/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
    });
    const TERMS: [&str; 24] = [
        "citeAs",
        "column",
        "extract",
        "field",
        "fileObject",
        "fileProperty",
        "fileSet",
        "format",
        "includes",
        "isLiveDataset",
        "jsonPath",
        "key",
        "md5",
        "parentField",
        "path",
        "recordSet",
        "references",
        "regex",
        "repeated",
        "replace",
        "separator",
        "source",
        "subField",
        "transform",
    ];
    if let Some(context) = context.as_object_mut() {
        for term in TERMS {
            context.insert(term.to_owned(), json!(format!("cr:{term}")));
        }
    }
    context
}

/// Renders the description. Files are named by patterns, relative to the description itself.
pub fn render(config: &DatasetConfig, subsets: &BTreeMap<String, Published>) -> String {
    let files_of = |name: &str| format!("{name}-files");
    let files = subsets.keys().map(|name| {
        json!({
            "@type": "cr:FileSet",
            "@id": files_of(name),
            "name": files_of(name),
            "encodingFormat": "application/x-parquet",
            "includes": format!("data/{name}/*.parquet"),
        })
    });
    let records = subsets.iter().map(|(name, subset)| {
        json!({
            "@type": "cr:RecordSet",
            "@id": name,
            "name": name,
            "field": fields(name, subset.schema.fields(), &|column| {
                json!({"fileSet": {"@id": files_of(name)}, "extract": {"column": column}})
            }),
        })
    });
    let mut description = json!({
        "@context": context(),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": config.title,
        "description": config.description,
        "inLanguage": config.language,
        "license": config.licence,
        "distribution": files.collect::<Vec<_>>(),
        "recordSet": records.collect::<Vec<_>>(),
    });
    if let Some(repository) = &config.repository {
        description["url"] = json!(format!("https://huggingface.co/datasets/{repository}"));
    }
    format!("{description:#}\n")
}

/// The fields of a table, or of a column that has fields inside.
fn fields(parent: &str, fields: &Fields, source: &dyn Fn(&str) -> Json) -> Vec<Json> {
    let field = |field: &std::sync::Arc<Field>| {
        let id = format!("{parent}/{}", field.name());
        let mut described = Map::new();
        described.insert("@type".to_owned(), json!("cr:Field"));
        described.insert("@id".to_owned(), json!(id));
        described.insert("name".to_owned(), json!(field.name()));
        let (data_type, is_list) = match field.data_type() {
            DataType::List(item) | DataType::LargeList(item) => (item.data_type(), true),
            plain => (plain, false),
        };
        if is_list {
            described.insert("repeated".to_owned(), json!(true));
        }
        match data_type {
            DataType::Struct(inner) => {
                let of_inner = |path: &str| {
                    let mut source = source(field.name());
                    // A field of a field of a column is found by its path in the column.
                    let outer =
                        source["transform"]["jsonPath"].as_str().map(|outer| format!("{outer}.{path}"));
                    source["transform"] = json!({"jsonPath": outer.unwrap_or_else(|| path.to_owned())});
                    source
                };
                let inner = self::fields(&id, inner, &of_inner);
                described.insert("subField".to_owned(), json!(inner));
            }
            plain => {
                described.insert("dataType".to_owned(), json!(type_name(plain)));
                described.insert("source".to_owned(), source(field.name()));
            }
        }
        Json::Object(described)
    };
    fields.iter().map(field).collect()
}

/// The specification's name of a type.
fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "sc:Boolean",
        whole if whole.is_integer() => "sc:Integer",
        number if number.is_numeric() => "sc:Float",
        DataType::Date32 | DataType::Date64 => "sc:Date",
        DataType::Timestamp(..) => "sc:DateTime",
        _ => "sc:Text",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::super::figures::Figures;
    use super::*;

    #[test]
    fn each_column_says_its_type_and_where_it_stands() {
        let inner = |name: &str, data_type| Field::new(name, data_type, true);
        let metadata = DataType::Struct(
            vec![
                inner("url", DataType::Utf8),
                inner("more", DataType::Struct(vec![inner("score", DataType::Float64)].into())),
            ]
            .into(),
        );
        let tags = DataType::List(Arc::new(inner("item", DataType::Utf8)));
        let columns =
            [("text", DataType::Utf8), ("n", DataType::Int64), ("tags", tags), ("metadata", metadata)];
        let schema = Schema::new(columns.map(|(name, data_type)| inner(name, data_type)).to_vec());
        let subset = Published { figures: Figures::default(), schema: Arc::new(schema) };
        let config: DatasetConfig =
            serde_json::from_value(json!({"title": "T", "repository": "me/t", "subsets": {}})).unwrap();
        let text = render(&config, &[("web".to_owned(), subset)].into());
        let description: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(description["url"], "https://huggingface.co/datasets/me/t");
        assert_eq!(description["distribution"][0]["includes"], "data/web/*.parquet");
        let field = |at: usize| &description["recordSet"][0]["field"][at];
        assert_eq!(field(0)["@id"], "web/text");
        assert_eq!(
            field(0)["source"],
            json!({"fileSet": {"@id": "web-files"}, "extract": {"column": "text"}})
        );
        assert_eq!((&field(1)["dataType"], &field(2)["repeated"]), (&json!("sc:Integer"), &json!(true)));
        let score = &field(3)["subField"][1]["subField"][0];
        assert_eq!(score["dataType"], "sc:Float");
        assert_eq!(score["source"]["extract"]["column"], "metadata");
        assert_eq!(score["source"]["transform"]["jsonPath"], "more.score");
    }
}
