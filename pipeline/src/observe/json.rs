//! The log as lines of JSON: one object an event, with the fields of the spans around it.

use std::fmt;

use serde_json::{Map, Value as Json, json};
use service::supervisor::RUN_VARIABLE;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::redact::redacted;
use super::write_line;

/// Writes events.
pub(super) struct JsonLog;

/// The fields of a span.
struct Fields(Map<String, Json>);

/// Fields that an event has of itself: others of the same name stand behind an underscore.
const OWN: [&str; 4] = ["timestamp", "level", "target", "message"];

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLog {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Map::new();
            attributes.record(&mut Collector(&mut fields));
            span.extensions_mut().insert(Fields(fields));
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(Fields(fields)) = extensions.get_mut() {
            record.record(&mut Collector(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut own = Map::new();
        event.record(&mut Collector(&mut own));
        let message = own.remove("message").and_then(|text| text.as_str().map(str::to_owned));
        let mut fields = Map::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            if let Some(Fields(outer)) = extensions.get() {
                fields.extend(outer.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        }
        fields.extend(own);
        line(metadata.level().as_str(), metadata.target(), message.as_deref().unwrap_or_default(), fields);
    }
}

/// Writes an event of the program itself, whatever the log leaves out.
pub(super) fn write(level: &str, message: &str, fields: Map<String, Json>) {
    line(level, "corpusmith", message, fields);
}

fn line(level: &str, target: &str, message: &str, fields: Map<String, Json>) {
    let mut whole = Map::new();
    whole.insert("timestamp".to_owned(), json!(jiff::Timestamp::now().to_string()));
    whole.insert("level".to_owned(), json!(level));
    whole.insert("target".to_owned(), json!(target));
    whole.insert("message".to_owned(), json!(redacted(message)));
    if let Ok(run) = std::env::var(RUN_VARIABLE) {
        whole.insert("run".to_owned(), json!(run));
    }
    for (name, value) in fields {
        // What OpenTelemetry is told says nothing new here.
        if name.starts_with("otel.") {
            continue;
        }
        let name = if OWN.contains(&name.as_str()) { format!("{name}_") } else { name };
        let value = match value {
            Json::String(text) => Json::String(redacted(&text)),
            other => other,
        };
        whole.insert(name, value);
    }
    write_line(Json::Object(whole).to_string());
}

struct Collector<'a>(&'a mut Map<String, Json>);

impl Collector<'_> {
    fn put(&mut self, field: &Field, value: Json) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Collector<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, json!(crate::runner::error::chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, json!(format!("{value:?}")));
    }
}
