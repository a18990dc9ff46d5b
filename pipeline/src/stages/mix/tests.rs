use arrow::array::RecordBatch;
use serde_json::json;

use super::super::testing;
use super::*;

#[tokio::test]
async fn subsets_stand_one_after_the_other_and_a_share_is_held_out() {
    let stage = config(json!({"subsets": {"a": {"stage": "sources"}}, "heldout_share": 0.2}));
    let rows: Vec<Json> =
        (0..500).map(|i| serde_json::json!({"id": format!("d{i}"), "text": format!("t{i}")})).collect();
    let mut rows = rows;
    rows.push(serde_json::json!({"id": "x", "text": "  "}));
    let (rows, ctx) = testing::plan(&stage, "sources", testing::batch(rows.into())).await.unwrap();
    let splits = testing::strings(&rows, "split");
    let heldout = splits.iter().filter(|split| *split == HELD_OUT).count();
    assert_eq!(splits.len(), 500);
    assert!((60..140).contains(&heldout), "{heldout}");
    assert_eq!(testing::strings(&rows, "id")[17], "d17");
    assert_eq!(ctx.ledger.dropped()[0].reason, "empty_text");
}

#[test]
fn mistakes_in_subsets_and_weights_are_told() {
    let inputs = [("sources".to_owned(), vec!["x".to_owned()])].into();
    for (subsets, target, said) in [
        (json!({"a": {"stage": "y"}}), json!(null), "`y`"),
        (json!({"a": {"stage": "x", "weight": 1.0}, "b": {"stage": "x"}}), json!(null), "`b` has no weight"),
        (json!({"a": {"stage": "x"}}), json!(10), "needs the subsets' weights"),
        (json!({"a": {"stage": "x", "weight": -1.0}}), json!(null), "numbers from 0"),
        (json!({"a": {"stage": "x", "weight": 0.0}}), json!(null), "all weights are 0"),
    ] {
        let mistakes = config(json!({"subsets": subsets, "target_tokens": target})).validate(&inputs);
        assert_eq!(mistakes.len(), 1, "{said}");
        assert!(mistakes[0].message.contains(said), "{}", mistakes[0].message);
    }
}

/// Two sources of 300 documents: `a` with 10 tokens each, `b` with 5.
async fn mixed(settings: Json) -> Result<(Vec<RecordBatch>, StageContext), StageError> {
    let rows = |name: &str, tokens: u64| {
        let row = |i: u64| {
            let counted = json!({"n": tokens});
            json!({"id": format!("{name}{i}"), "text": format!("t {i}"), "n": tokens, "metadata": counted})
        };
        testing::batch((0..300).map(row).collect())
    };
    let mut all = json!({"heldout_share": 0.1, "subsets": {
        "a": {"stage": "sources", "weight": 0.8, "token_column": "n"},
        "b": {"stage": "others", "weight": 0.2, "token_column": "metadata.n"},
    }});
    merge(&mut all, settings);
    testing::plan_named(&config(all), "sources", &[("sources", rows("a", 10)), ("others", rows("b", 5))])
        .await
}

fn merge(into: &mut Json, from: Json) {
    match (into, from) {
        (Json::Object(into), Json::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Json::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// Documents of the training split, by id.
fn train(rows: &[RecordBatch]) -> Vec<String> {
    let splits = testing::strings(rows, "split");
    testing::strings(rows, "id")
        .into_iter()
        .zip(splits)
        .filter(|(_, s)| s == TRAIN)
        .map(|(id, _)| id)
        .collect()
}

#[tokio::test]
async fn subsets_have_their_shares_of_the_tokens() {
    let (rows, ctx) = mixed(json!({})).await.unwrap();
    let ids = train(&rows);
    let of = |name: char| ids.iter().filter(|id| id.starts_with(name)).count();
    let heldout = 600 - ctx.ledger.dropped().len() - ids.len();
    assert!((30..100).contains(&heldout), "{heldout}");
    // All of `a`, and a quarter of its tokens from `b`.
    let wanted = (of('a') * 10) as f64 / 4.0 / 5.0;
    assert!((of('b') as f64 - wanted).abs() <= 0.51, "{} of {wanted}", of('b'));
    assert!(ctx.ledger.dropped().iter().all(|row| row.reason == "over_share" && row.id.starts_with('b')));
    let (again, _) = mixed(json!({})).await.unwrap();
    assert_eq!(train(&again), ids);
}

#[tokio::test]
async fn a_subset_that_has_too_little_is_repeated_up_to_its_bound() {
    let settings = json!({"target_tokens": 3000, "shuffle": true, "subsets": {
        "b": {"weight": 1.2, "max_repeats": 3.0}}});
    let (rows, _) = mixed(settings.clone()).await.unwrap();
    let ids = train(&rows);
    let of = |name: char| ids.iter().filter(|id| id.starts_with(name)).count();
    // 2 of 5 parts of 3,000 tokens are 120 documents of `a`, 3 of 5 are 360 of `b`.
    assert_eq!((of('a'), of('b')), (120, 360));
    let first_half = ids[..240].iter().filter(|id| id.starts_with('a')).count();
    assert!((40..80).contains(&first_half), "the subsets are not mixed: {first_half}");
    let mut few = settings;
    merge(&mut few, json!({"subsets": {"b": {"max_repeats": 1.0}}}));
    let error = mixed(few).await.unwrap_err();
    assert!(error.to_string().contains("subset `b` has") || format!("{error:?}").contains("subset `b` has"));
}

fn config(json: Json) -> MixConfig {
    serde_json::from_value(json).unwrap()
}
