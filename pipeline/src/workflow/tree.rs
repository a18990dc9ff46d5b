//! A TOML document as a tree in which every key and value knows where it was written, so that
//! profiles and overrides can be merged and errors still point at the right place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use miette::NamedSource;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// A text that values come from: the workflow file, a `--set` argument, an environment variable.
pub type Source = Arc<NamedSource<String>>;

/// A place in a source text, in bytes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The text.
    pub source: Source,
    /// The byte range in it.
    pub range: Range<usize>,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it was written.
    pub place: Place,
}

/// A TOML value. Date-times are kept as their text.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string or a date-time.
    String(String),
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float.
    Float(f64),
    /// A boolean.
    Boolean(bool),
    /// An array.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
}

/// A table: the keys in alphabetical order, each with its place.
pub type Table = BTreeMap<String, Entry>;

/// One `key = value` of a table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where the key was written.
    pub key: Place,
    /// The value.
    pub node: Node,
}

impl Value {
    /// The type's name in TOML's words.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::Boolean(_) => "boolean",
            Self::Array(_) => "array",
            Self::Table(_) => "table",
        }
    }
}

impl Node {
    /// The table, if it is one.
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value without places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::String(text) => text.clone().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Boolean(flag) => (*flag).into(),
            Value::Array(items) => items.iter().map(Node::to_json).collect(),
            Value::Table(table) => serde_json::Value::Object(
                table.iter().map(|(key, entry)| (key.clone(), entry.node.to_json())).collect(),
            ),
        }
    }

    /// Lays `over` on top of this node: tables merge key by key, anything else is replaced.
    /// A stage table that names another `kind` replaces the whole table, since the fields of one
    /// kind mean nothing to another.
    pub fn merge(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(base), Value::Table(over_table)) => {
                let kind = |table: &Table| {
                    table.get("kind").and_then(|entry| entry.node.as_str().map(str::to_owned))
                };
                match (kind(base), kind(&over_table)) {
                    (Some(old), Some(new)) if old != new => *base = over_table,
                    _ => {
                        for (key, entry) in over_table {
                            match base.get_mut(&key) {
                                Some(existing) => existing.node.merge(entry.node),
                                None => {
                                    base.insert(key, entry);
                                }
                            }
                        }
                    }
                }
            }
            (slot, value) => {
                *slot = value;
                self.place = over.place;
            }
        }
    }
}

/// Parses a TOML text; every syntax error is reported, not only the first.
///
/// # Errors
/// The syntax errors, each with its place.
pub fn parse(source: &Source) -> Result<Node, Vec<Problem>> {
    let text = source.inner().as_str();
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .into_iter()
            .map(|error| {
                let range = error.span().unwrap_or(0..0);
                let place = Place { source: source.clone(), range };
                Problem::at(&place, error.message(), "not valid TOML here")
            })
            .collect());
    }
    let mut problems = Vec::new();
    let range = table.span();
    let value = Value::Table(convert_table(source, table.into_inner(), &mut problems));
    if problems.is_empty() {
        Ok(Node { value, place: Place { source: source.clone(), range } })
    } else {
        Err(problems)
    }
}

fn convert_table(source: &Source, table: DeTable<'_>, problems: &mut Vec<Problem>) -> Table {
    table
        .into_iter()
        .map(|(key, value)| {
            let place = Place { source: source.clone(), range: key.span() };
            let node = convert(source, value, problems);
            (key.into_inner().into_owned(), Entry { key: place, node })
        })
        .collect()
}

fn convert(source: &Source, value: Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Node {
    let place = Place { source: source.clone(), range: value.span() };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => {
            match i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    problems.push(Problem::at(&place, "this integer does not fit in 64 bits", "too large"));
                    Value::Integer(0)
                }
            }
        }
        DeValue::Float(number) => Value::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Datetime(datetime) => Value::String(datetime.to_string()),
        DeValue::Array(items) => {
            Value::Array(items.into_iter().map(|item| convert(source, item, problems)).collect())
        }
        DeValue::Table(table) => Value::Table(convert_table(source, table, problems)),
    };
    Node { value, place }
}

/// Parses an override `dotted.key=value` into a tree of one leaf. The value is TOML; a text that
/// is not TOML is taken as a string, so that `--set vars.dump=CC-MAIN-2024-10` needs no quotes.
///
/// # Errors
/// A text without `=` or with an empty key.
pub fn parse_override(origin: &str, text: &str) -> Result<Node, Problem> {
    let source: Source = Arc::new(NamedSource::new(origin, text.to_owned()));
    let place = |range: Range<usize>| Place { source: source.clone(), range };
    let whole = place(0..text.len());
    let Some((path, raw)) = text.split_once('=') else {
        return Err(Problem::at(&whole, "an override has the form key=value", "no `=` here")
            .help("for example: --set vars.topics=24"));
    };
    let path = path.trim();
    if path.is_empty() || path.split('.').any(str::is_empty) {
        return Err(Problem::at(&whole, "the key of an override is a dotted path", "empty key"));
    }
    let value_place = place(text.len() - raw.len()..text.len());
    let mut ignored = Vec::new();
    let parsed = DeValue::parse(raw.trim()).ok().map(|value| {
        let mut node = convert(&source, value, &mut ignored);
        set_place(&mut node, &value_place);
        node
    });
    let mut node = match parsed {
        Some(node) if ignored.is_empty() => node,
        _ => Node { value: Value::String(raw.trim().to_owned()), place: value_place },
    };
    for key in path.rsplit('.') {
        let entry = Entry { key: place(0..path.len()), node };
        node = Node { value: Value::Table(BTreeMap::from([(key.to_owned(), entry)])), place: whole.clone() };
    }
    Ok(node)
}

fn set_place(node: &mut Node, place: &Place) {
    node.place = place.clone();
    match &mut node.value {
        Value::Array(items) => items.iter_mut().for_each(|item| set_place(item, place)),
        Value::Table(table) => {
            for entry in table.values_mut() {
                entry.key = place.clone();
                set_place(&mut entry.node, place);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        parse(&Arc::new(NamedSource::new("test.toml", text.to_owned()))).unwrap()
    }

    #[test]
    fn merging_replaces_leaves_and_keeps_the_rest() {
        let mut base = tree("[a]\nx = 1\ny = [1, 2]\n[b]\nz = true");
        base.merge(tree("[a]\ny = [3]"));
        let json = serde_json::json!({"a": {"x": 1, "y": [3]}, "b": {"z": true}});
        assert_eq!(base.to_json(), json);
    }

    #[test]
    fn another_kind_replaces_the_stage() {
        let mut base = tree("[s]\nkind = \"a\"\nx = 1");
        base.merge(tree("[s]\nkind = \"b\"\ny = 2"));
        assert_eq!(base.to_json(), serde_json::json!({"s": {"kind": "b", "y": 2}}));
    }

    #[test]
    fn overrides_take_toml_values_or_plain_text() {
        let node = parse_override("--set", "a.b = 3").unwrap();
        assert_eq!(node.to_json(), serde_json::json!({"a": {"b": 3}}));
        let node = parse_override("--set", "a=CC-MAIN-2024-10").unwrap();
        assert_eq!(node.to_json(), serde_json::json!({"a": "CC-MAIN-2024-10"}));
        assert!(parse_override("--set", "novalue").is_err());
        assert!(parse_override("--set", "a..b=1").is_err());
    }

    #[test]
    fn all_syntax_errors_are_found() {
        let source = Arc::new(NamedSource::new("bad.toml", "a = \nb = 1\nc = [".to_owned()));
        assert!(parse(&source).unwrap_err().len() >= 2);
    }
}
