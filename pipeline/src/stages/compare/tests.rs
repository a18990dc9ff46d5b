use super::super::{InputTable, testing};
use super::*;
use serde_json::json;

fn answer(text: &str, tokens: u32, finish_reason: &str) -> Json {
    json!({
        "completion": text, "finish_reason": finish_reason, "model": "m", "prompt_tokens": 100,
        "completion_tokens": tokens, "latency_ms": 20,
    })
}

async fn compare(config: &CompareConfig, tables: &[(&str, Json)]) -> Result<Vec<RecordBatch>, StageError> {
    let ctx = testing::context();
    let table = |(stage, rows): &(&str, Json)| InputTable {
        stage: (*stage).to_owned(),
        plan: ctx.session().read_batch(testing::batch(rows.clone())).unwrap().into(),
        rows: None,
    };
    let tables: Vec<InputTable> = tables.iter().map(table).collect();
    let tables = BTreeMap::from([("tables".to_owned(), tables)]);
    let task = Task { name: "all".into(), slice: None };
    let rows = config.plan(&ctx, &task, &Inputs::new(tables, BTreeMap::new())).await?;
    rows.collect().await.map_err(|error| ctx.plan_error(&error))
}

fn figure(rows: &[RecordBatch], column: &str, row: usize) -> Option<f64> {
    let column = cast(&rows[0][column], &DataType::Float64).unwrap();
    let column = column.as_primitive::<Float64Type>();
    (!column.is_null(row)).then(|| column.value(row))
}

#[tokio::test]
async fn each_generator_gets_a_row_of_what_its_answers_are_like() {
    let prose = "Light travels in straight lines until glass or water bends it, and each colour bends a little differently from all others.";
    let loops = "again and again we say it. ".repeat(20);
    let good =
        json!([answer(prose, 30, "stop"), answer("Plants eat light with their green leaves.", 10, "stop")]);
    let bad = json!([
        answer("I'm sorry, but I can't help with that.", 10, "stop"),
        answer(&loops, 120, "length"),
        answer(prose, 30, "stop"),
        answer(&prose.to_uppercase(), 30, "stop"),
    ]);
    let config = CompareConfig {
        generators: [
            (
                "a".to_owned(),
                Generator {
                    generated: "good".into(),
                    cleaned: Some("good_clean".into()),
                    scored: Some("good_score".into()),
                    usd_per_million_prompt_tokens: 1.0,
                    usd_per_million_completion_tokens: 10.0,
                },
            ),
            ("b".to_owned(), Generator { generated: "bad".into(), ..Default::default() }),
        ]
        .into(),
        near_duplicate_documents: 100,
    };
    let tables = [
        ("good", good),
        ("good_clean", json!([{"id": "x"}])),
        ("good_score", json!([{"score": 3.5}, {"score": 1.0}])),
        ("bad", bad),
    ];
    let rows = compare(&config, &tables).await.unwrap();
    assert_eq!(testing::strings(&rows, "generator"), ["a", "b"]);
    let of = |column: &str| [figure(&rows, column, 0), figure(&rows, column, 1)];
    assert_eq!(of("documents"), [Some(2.0), Some(4.0)]);
    assert_eq!(of("tokens_mean"), [Some(20.0), Some(47.5)]);
    assert_eq!(of("tokens_p95"), [Some(30.0), Some(120.0)]);
    assert_eq!(of("refusal_share"), [Some(0.0), Some(0.25)]);
    assert_eq!(of("repetition_share"), [Some(0.0), Some(0.25)]);
    assert_eq!(of("cut_share"), [Some(0.0), Some(0.25)]);
    assert_eq!(of("near_duplicate_share"), [Some(0.0), Some(0.25)]);
    assert_eq!(of("kept_share"), [Some(0.5), None]);
    assert_eq!(of("edu_score_mean"), [Some(2.25), None]);
    assert_eq!(of("edu_share"), [Some(0.5), None]);
    assert_eq!(of("usd"), [Some((200.0 + 400.0) / 1e6), Some(0.0)]);
}

#[test]
fn a_stage_that_is_no_input_is_a_mistake() {
    let config: CompareConfig =
        serde_json::from_value(json!({"generators": {"a": {"generated": "x", "cleaned": "y"}}})).unwrap();
    let inputs = [("tables".to_owned(), vec!["x".to_owned()])].into();
    assert!(config.validate(&inputs)[0].message.contains("`y`"));
    let empty: CompareConfig = serde_json::from_value(json!({"generators": {}})).unwrap();
    assert_eq!(empty.validate(&inputs).len(), 1);
}
