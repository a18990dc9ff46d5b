//! What became of generated texts, by audience and format: kept, dropped by reason, lengths.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::error::ArrowError;
use datafusion::error::Result;
use serde::Serialize;
use synth::cleanup::Lengths;

use super::table;
use crate::engine::{Plan, Session, streams};
use crate::stages::text_column;

/// Tokens of a bin of the histograms.
pub const BIN_TOKENS: u32 = 100;

/// The outcome of a text that was kept.
const KEPT: &str = "kept";

/// The outcome of a dropped text where no side table tells the reason (`keep_dropped = false`).
const REASON_NOT_KEPT: &str = "dropped";

/// One audience and format.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GroupStatistics {
    /// For whom the texts are written.
    pub audience: String,
    /// Their format (the prompts' `style`).
    pub format: String,
    /// Texts generated.
    pub generated: u64,
    /// Texts kept by the clean-up.
    pub kept: u64,
    /// Texts dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Tokens of a kept text on average; none when no text was kept.
    pub mean_tokens: Option<f64>,
    /// Kept texts by bins of [`BIN_TOKENS`]: the first length of a bin and its texts.
    pub histogram: Vec<(u32, u64)>,
}

/// The statistics of a run: `generate` and `clean` are the folders of its two stages. The reasons of
/// dropped texts are known where the clean-up has `keep_dropped = true`.
///
/// # Errors
/// A text that names what cannot be read.
pub async fn of_run(
    session: &Session,
    generate: &Path,
    clean: &Path,
) -> std::result::Result<Vec<GroupStatistics>, String> {
    let generated = table(session, generate)?;
    let cleaned = table(session, clean)?;
    let side_table = clean.join("dropped");
    let dropped = if side_table.is_dir() { Some(table(session, &side_table)?) } else { None };
    by_group(session, generated.into(), cleaned.into(), dropped.map(Plan::from))
        .await
        .map_err(|error| error.to_string())
}

/// The statistics of a `generate` stage's rows, a `clean` stage's, and the latter's side table of
/// dropped rows. Texts stay where they are: only ids and lengths are joined, and joins spill.
///
/// # Errors
/// A column is missing, or a row cannot be read.
pub async fn by_group(
    session: &Session,
    generated: Plan,
    cleaned: Plan,
    dropped: Option<Plan>,
) -> Result<Vec<GroupStatistics>> {
    const TABLES: [&str; 3] = ["__generated", "__cleaned", "__dropped"];
    for name in TABLES {
        session.deregister_table(name)?;
    }
    session.register_table(TABLES[0], generated.frame().into_view())?;
    session.register_table(TABLES[1], cleaned.frame().into_view())?;
    let (reason, join) = match dropped {
        Some(dropped) => {
            session.register_table(TABLES[2], dropped.frame().into_view())?;
            ("d.reason", "LEFT JOIN __dropped d ON d.id = g.prompt_id")
        }
        None => ("NULL", ""),
    };
    let sql = format!(
        "SELECT g.audience, g.style, \
           CASE WHEN c.id IS NOT NULL THEN '{KEPT}' WHEN {reason} IS NOT NULL THEN {reason} \
             ELSE '{REASON_NOT_KEPT}' END AS outcome, \
           CAST(g.completion_tokens AS BIGINT) AS tokens, count(*) AS texts \
         FROM __generated g LEFT JOIN __cleaned c ON c.id = g.prompt_id {join} \
         GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    );
    let rows = streams::query(session, &sql).await;
    for name in TABLES {
        session.deregister_table(name)?;
    }
    let mut groups: BTreeMap<(String, String), (GroupStatistics, Lengths)> = BTreeMap::new();
    for batch in rows? {
        add(&mut groups, &batch)?;
    }
    let finish = |(group, lengths): (GroupStatistics, Lengths)| GroupStatistics {
        mean_tokens: lengths.mean(),
        histogram: lengths.histogram(BIN_TOKENS),
        ..group
    };
    Ok(groups.into_values().map(finish).collect())
}

fn add(
    groups: &mut BTreeMap<(String, String), (GroupStatistics, Lengths)>,
    batch: &RecordBatch,
) -> std::result::Result<(), ArrowError> {
    let column = |name| text_column(batch, name);
    let (audiences, formats, outcomes) = (column("audience")?, column("style")?, column("outcome")?);
    let number = |i: usize| cast(batch.column(i), &DataType::Int64);
    let (tokens, texts) = (number(3)?, number(4)?);
    let (tokens, texts) = (tokens.as_primitive::<Int64Type>(), texts.as_primitive::<Int64Type>());
    for row in 0..batch.num_rows() {
        let (audience, format) = (audiences.value(row).to_owned(), formats.value(row).to_owned());
        let (group, lengths) = groups.entry((audience.clone(), format.clone())).or_default();
        (group.audience, group.format) = (audience, format);
        let count = u64::try_from(texts.value(row)).unwrap_or(0);
        group.generated += count;
        match outcomes.value(row) {
            KEPT => {
                group.kept += count;
                lengths.add_many(u32::try_from(tokens.value(row)).unwrap_or(0), count);
            }
            reason => *group.dropped.entry(reason.to_owned()).or_default() += count,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::testing::batch;
    use datafusion::prelude::SessionContext;
    use serde_json::json;

    #[tokio::test]
    async fn texts_are_counted_by_audience_format_and_outcome() {
        let session = Session::from(SessionContext::new());
        let frame = |rows| Plan::from(session.read_batch(batch(rows)).unwrap());
        let row = |id: &str, audience: &str, tokens: u32| json!({"prompt_id": id, "audience": audience, "style": "post", "completion_tokens": tokens});
        let generated =
            || frame(json!([row("1", "a", 50), row("2", "a", 150), row("3", "a", 30), row("4", "b", 9)]));
        let cleaned = || frame(json!([{"id": "1"}, {"id": "2"}]));
        let dropped = frame(json!([{"id": "3", "reason": "refusal"}, {"id": "4", "reason": "too_short"}]));
        let groups = by_group(&session, generated(), cleaned(), Some(dropped)).await.unwrap();
        let a = GroupStatistics {
            audience: "a".into(),
            format: "post".into(),
            generated: 3,
            kept: 2,
            dropped: [("refusal".to_owned(), 1)].into(),
            mean_tokens: Some(100.0),
            histogram: vec![(0, 1), (100, 1)],
        };
        assert_eq!(groups[0], a);
        assert_eq!((groups[1].kept, groups[1].mean_tokens), (0, None));
        let without = by_group(&session, generated(), cleaned(), None).await.unwrap();
        assert_eq!(without[0].dropped, [("dropped".to_owned(), 1)].into());
    }
}
