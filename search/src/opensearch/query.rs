//! The two-step query in the server's query language, and its answers.

use serde_json::{Value as Json, json};

use super::ServerHit;
use super::http::describe;
use crate::analyzer::{analyze, clean_query};
use crate::filter::PageFilters;
use crate::query::{Matching, SUBTOPIC_WEIGHT, Topic};
use crate::schema::{ID, INT_SCORE, LANGUAGE, LANGUAGE_SCORE, TOKEN_COUNT, URL};

/// Why a server did not answer one query.
pub(super) struct Failure {
    pub(super) status: u16,
    pub(super) reason: String,
}

/// The scoring clauses of a topic; `None` if it has no term.
pub(super) fn clauses(topic: &Topic, matching: Matching) -> Option<Vec<Json>> {
    let category = clean_query(&format!("{} {}", topic.top_category, topic.subcategory));
    let subtopic = clean_query(&topic.subtopic);
    let parts = match matching {
        Matching::All => vec![(category, 1.0), (subtopic, SUBTOPIC_WEIGHT)],
        Matching::Any => vec![(format!("{category} {subtopic}"), 1.0)],
    };
    let operator = match matching {
        Matching::All => "and",
        Matching::Any => "or",
    };
    let clauses: Vec<Json> = parts
        .into_iter()
        // A clause of stop words would match nothing, and with it the whole query.
        .filter(|(text, _)| !analyze(text).is_empty())
        .map(
            |(text, boost)| json!({"match": {"text": {"query": text, "operator": operator, "boost": boost}}}),
        )
        .collect();
    (!clauses.is_empty()).then_some(clauses)
}

/// The body of a search: `size` pages, equal scores by id.
pub(super) fn body(clauses: Vec<Json>, size: usize, filters: &PageFilters) -> Json {
    json!({
        "size": size,
        "_source": [ID, URL],
        "track_total_hits": false,
        "sort": [{"_score": "desc"}, {ID: "asc"}],
        "query": {"bool": {"must": clauses, "filter": filter_clauses(filters)}},
    })
}

fn filter_clauses(filters: &PageFilters) -> Vec<Json> {
    let mut clauses = Vec::new();
    if !filters.languages.is_empty() {
        let languages: Vec<String> = filters.languages.iter().map(|l| l.to_lowercase()).collect();
        clauses.push(json!({"terms": {LANGUAGE: languages}}));
    }
    let bounds = [
        (LANGUAGE_SCORE, "gte", filters.min_language_score.map(Json::from)),
        (TOKEN_COUNT, "gte", filters.min_tokens.map(Json::from)),
        (TOKEN_COUNT, "lte", filters.max_tokens.map(Json::from)),
        (INT_SCORE, "gte", filters.min_edu_score.map(Json::from)),
    ];
    for (column, side, value) in bounds {
        clauses.extend(value.map(|value| json!({"range": {column: {side: value}}})));
    }
    clauses
}

/// The hits of one response of `_msearch`.
pub(super) fn hits(response: &Json) -> Result<Vec<ServerHit>, Failure> {
    let failure = |reason: &str| Failure {
        status: response["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(200),
        reason: reason.to_owned(),
    };
    if !response["error"].is_null() {
        return Err(failure(&describe(&response["error"]).unwrap_or_default()));
    }
    // Some shards did not answer: the best pages may be missing, which must not pass for an answer.
    let failed = response["_shards"]["failed"].as_u64().unwrap_or_default();
    if failed > 0 || response["timed_out"].as_bool() == Some(true) {
        return Err(Failure { status: 503, reason: format!("{failed} shards failed or were too slow") });
    }
    let rows = response["hits"]["hits"].as_array().ok_or_else(|| failure("the response has no hits"))?;
    rows.iter()
        .map(|row| {
            let source = &row["_source"];
            let id = source[ID].as_str().or_else(|| row["_id"].as_str());
            let score = row["_score"].as_f64().or_else(|| row["sort"][0].as_f64());
            match (id, score) {
                (Some(id), Some(score)) => Ok(ServerHit {
                    id: id.to_owned(),
                    url: source[URL].as_str().map(str::to_owned),
                    score: score as f32,
                }),
                _ => Err(failure("a hit has no `id` or no score")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtopic_weighs_double_in_query_one() {
        let topic = Topic {
            topic_id: "t".into(),
            top_category: "Science".into(),
            subcategory: "Life / Biology".into(),
            subtopic: "The Cells".into(),
        };
        let all = clauses(&topic, Matching::All).unwrap();
        assert_eq!(
            all[1],
            json!({"match": {"text": {"query": "The Cells", "operator": "and", "boost": 2.0}}})
        );
        let any = clauses(&topic, Matching::Any).unwrap();
        assert_eq!(any.len(), 1);
        assert_eq!(any[0]["match"]["text"]["operator"], "or");
        let empty = Topic { subtopic: "of the".into(), ..Topic::default() };
        assert!(clauses(&empty, Matching::All).is_none());
    }

    #[test]
    fn a_partial_answer_is_none() {
        let response = json!({"timed_out": false, "_shards": {"failed": 1}, "hits": {"hits": []}});
        assert_eq!(hits(&response).unwrap_err_status(), 503);
        let refused = json!({"error": {"type": "x", "reason": "y"}, "status": 429});
        assert_eq!(hits(&refused).unwrap_err_status(), 429);
        let hit =
            json!({"hits": {"hits": [{"_id": "a", "_score": null, "sort": [1.5, "a"], "_source": {}}]}});
        let found = hits(&hit).ok().unwrap();
        assert_eq!(found, [ServerHit { id: "a".into(), url: None, score: 1.5 }]);
    }

    trait Status {
        fn unwrap_err_status(self) -> u16;
    }

    impl Status for Result<Vec<ServerHit>, Failure> {
        fn unwrap_err_status(self) -> u16 {
            self.err().unwrap().status
        }
    }
}
