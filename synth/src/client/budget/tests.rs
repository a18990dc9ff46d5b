use futures::FutureExt;

use super::*;
use crate::chat::{FinishReason, Message};

fn request() -> ChatRequest {
    // Worst case: 84 + 16 prompt tokens and 100 of the answer.
    ChatRequest { max_new_tokens: 100, ..ChatRequest::new("m", vec![Message::user("x".repeat(84))]) }
}

fn answer(completion_tokens: u32) -> ChatAnswer {
    ChatAnswer {
        text: String::new(),
        finish_reason: FinishReason::Stop,
        prompt_tokens: 20,
        completion_tokens,
        model: String::new(),
        endpoint: String::new(),
        attempts: 1,
        latency_ms: 0,
    }
}

fn kind(error: &ChatError) -> Option<BudgetKind> {
    match error {
        ChatError::BudgetExhausted { kind, .. } => Some(*kind),
        _ => None,
    }
}

#[tokio::test]
async fn the_last_request_is_the_last() {
    let budget = Budget::new(BudgetOptions { max_requests: Some(2), ..BudgetOptions::default() }).unwrap();
    drop(budget.hold(&request()).await.unwrap());
    let refused = ChatError::Unreachable { url: String::new(), detail: String::new() };
    budget.hold(&request()).await.unwrap().settle_failed(&refused);
    let error = budget.hold(&request()).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Requests));
}

#[tokio::test]
async fn tokens_in_flight_are_waited_for() {
    let budget = Budget::new(BudgetOptions { max_tokens: Some(300), ..BudgetOptions::default() }).unwrap();
    let request = request();
    let first = budget.hold(&request).await.unwrap();
    let mut second = Box::pin(budget.hold(&request));
    assert!((&mut second).now_or_never().is_none(), "200 held of 300: the next 200 must wait");
    first.settle(&answer(10));
    let second = second.await.unwrap();
    second.settle(&answer(80));
    assert_eq!(
        budget.spent(),
        Spent { requests: 2, prompt_tokens: 40, completion_tokens: 90, ..Spent::default() }
    );
    let error = budget.hold(&request).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Tokens), "130 + 200 > 300 and nothing in flight");
}

#[tokio::test]
async fn a_lost_answer_counts_with_its_worst_case_and_a_refused_request_not_at_all() {
    let budget = Budget::new(BudgetOptions { max_tokens: Some(500), ..BudgetOptions::default() }).unwrap();
    let url = || "http://h/v1".to_owned();
    let refused =
        ChatError::Status { url: url(), status: 500, said: String::new(), retry_after_seconds: None };
    budget.hold(&request()).await.unwrap().settle_failed(&refused);
    assert_eq!(budget.spent().tokens(), 0);
    let lost = ChatError::TimedOut { url: url(), waited_seconds: 1.0 };
    budget.hold(&request()).await.unwrap().settle_failed(&lost);
    drop(budget.hold(&request()).await.unwrap());
    assert_eq!((budget.spent().lost_tokens, budget.spent().requests), (400, 3));
    let error = budget.hold(&request()).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Tokens));
    assert!(error.to_string().contains("up to 400 tokens of lost answers"), "{error}");
}

#[tokio::test]
async fn what_earlier_runs_spent_counts() {
    let options = BudgetOptions {
        max_usd: Some(1.0),
        usd_per_million_completion_tokens: 1.0,
        ..BudgetOptions::default()
    };
    let earlier = Totals { answers: 9, requests: 11, completion_tokens: 999_950, ..Totals::default() };
    let budget = Budget::resuming(options, &earlier).unwrap();
    assert_eq!(budget.spent().requests, 11);
    let error = budget.hold(&request()).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Usd), "0.99995 + 0.0001 > 1");
}

#[tokio::test]
async fn dollars_are_counted_by_price() {
    let options = BudgetOptions {
        max_usd: Some(450e-6),
        usd_per_million_prompt_tokens: 1.0,
        usd_per_million_completion_tokens: 3.0,
        ..BudgetOptions::default()
    };
    let budget = Budget::new(options).unwrap();
    budget.hold(&request()).await.unwrap().settle(&answer(50));
    assert!((budget.spent().usd - 170e-6).abs() < 1e-12);
    let error = budget.hold(&request()).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Usd), "170 + 400 > 450");
}

#[test]
fn wrong_settings_are_named() {
    let no_price = BudgetOptions { max_usd: Some(1.0), ..BudgetOptions::default() };
    assert!(matches!(Budget::new(no_price), Err(ClientError::NoPrice)));
    let negative = BudgetOptions { usd_per_million_prompt_tokens: -1.0, ..BudgetOptions::default() };
    assert!(matches!(Budget::new(negative), Err(ClientError::BadNumber { .. })));
}
