use futures::FutureExt;

use super::*;
use crate::chat::{FinishReason, Message};
use crate::client::{ClientOptions, EndpointOptions};

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
    drop(budget.hold(&request(), OwnPrice::default()).await.unwrap());
    let refused = ChatError::Unreachable { url: String::new(), detail: String::new() };
    budget.hold(&request(), OwnPrice::default()).await.unwrap().settle_failed(&refused);
    let error = budget.hold(&request(), OwnPrice::default()).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Requests));
}

#[tokio::test]
async fn tokens_in_flight_are_waited_for() {
    let budget = Budget::new(BudgetOptions { max_tokens: Some(300), ..BudgetOptions::default() }).unwrap();
    let request = request();
    let first = budget.hold(&request, OwnPrice::default()).await.unwrap();
    let mut second = Box::pin(budget.hold(&request, OwnPrice::default()));
    assert!((&mut second).now_or_never().is_none(), "200 held of 300: the next 200 must wait");
    first.settle(&answer(10));
    let second = second.await.unwrap();
    second.settle(&answer(80));
    assert_eq!(
        budget.spent(),
        Spent { requests: 2, prompt_tokens: 40, completion_tokens: 90, ..Spent::default() }
    );
    let error = budget.hold(&request, OwnPrice::default()).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Tokens), "130 + 200 > 300 and nothing in flight");
}

#[tokio::test]
async fn a_lost_answer_counts_with_its_worst_case_and_a_refused_request_not_at_all() {
    let budget = Budget::new(BudgetOptions { max_tokens: Some(500), ..BudgetOptions::default() }).unwrap();
    let url = || "http://h/v1".to_owned();
    let refused =
        ChatError::Status { url: url(), status: 500, said: String::new(), retry_after_seconds: None };
    budget.hold(&request(), OwnPrice::default()).await.unwrap().settle_failed(&refused);
    assert_eq!(budget.spent().tokens(), 0);
    let lost = ChatError::TimedOut { url: url(), waited_seconds: 1.0 };
    budget.hold(&request(), OwnPrice::default()).await.unwrap().settle_failed(&lost);
    drop(budget.hold(&request(), OwnPrice::default()).await.unwrap());
    assert_eq!((budget.spent().lost_tokens, budget.spent().requests), (400, 3));
    let error = budget.hold(&request(), OwnPrice::default()).await.err().unwrap();
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
    let log = Totals { answers: 9, requests: 11, completion_tokens: 999_950, ..Totals::default() };
    let earlier = Spent::default().with_log(&log, options.price());
    let budget = Budget::resuming(options, &earlier, None).unwrap();
    assert_eq!(budget.spent().requests, 11);
    let error = budget.hold(&request(), OwnPrice::default()).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Usd), "0.99995 + 0.0001 > 1");
}

#[test]
fn a_note_of_what_was_spent_and_the_log_are_one_sum() {
    let price = Price { usd_per_million_completion_tokens: 1e6, ..Price::default() };
    let noted =
        Spent { requests: 7, completion_tokens: 100, lost_tokens: 30, usd: 500.0, ..Spent::default() };
    let log = Totals { requests: 6, completion_tokens: 120, ..Totals::default() };
    let spent = noted.with_log(&log, price);
    // The note knows the price of its tokens; 20 more stand in the log alone.
    let expected = Spent { completion_tokens: 120, usd: 520.0, ..noted };
    assert_eq!(spent, expected);
}

#[tokio::test]
async fn stages_share_the_budget_of_their_run() {
    let run = Budget::of_run(BudgetOptions { max_tokens: Some(500), ..BudgetOptions::default() }).unwrap();
    run.add_earlier(&Spent { completion_tokens: 60, ..Spent::default() });
    let stage = |max_tokens| {
        let options = BudgetOptions { max_tokens, ..BudgetOptions::default() };
        Budget::resuming(options, &Spent::default(), Some(run.clone())).unwrap()
    };
    let (one, other) = (stage(None), stage(Some(230)));
    let request = request();
    let first = one.hold(&request, OwnPrice::default()).await.unwrap();
    let second = other.hold(&request, OwnPrice::default()).await.unwrap();
    let mut third = Box::pin(one.hold(&request, OwnPrice::default()));
    assert!((&mut third).now_or_never().is_none(), "60 + 2 × 200 of 500: the next 200 must wait");
    second.settle(&answer(20));
    third.await.unwrap().settle(&answer(80));
    // 40 + 200 > 230: nothing of the stage is in flight that could be waited for.
    let error = other.hold(&request, OwnPrice::default()).await.err().unwrap();
    assert!(error.to_string().starts_with("the budget of 230 tokens"), "{error}");
    first.settle(&answer(180));
    assert_eq!((run.spent().tokens(), run.spent().requests), (60 + 40 + 100 + 200, 3));
    let error = one.hold(&request, OwnPrice::default()).await.err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("the run's budget of 500 tokens") && text.contains("[limits]"), "{text}");
}

#[tokio::test]
async fn a_server_may_have_a_price_of_its_own() {
    let options = BudgetOptions { usd_per_million_completion_tokens: 1e6, ..BudgetOptions::default() };
    let budget = Budget::new(options).unwrap();
    let endpoint = EndpointOptions {
        url: "http://h/v1".into(),
        usd_per_million_completion_tokens: Some(3e6),
        ..EndpointOptions::default()
    };
    let servers = ClientOptions {
        base_urls: vec!["http://g/v1".into()],
        endpoints: vec![endpoint],
        ..Default::default()
    };
    for (server, usd) in servers.all_endpoints().unwrap().iter().zip([10.0, 10.0 + 30.0]) {
        budget.hold(&request(), server.price).await.unwrap().settle(&answer(10));
        assert_eq!(budget.spent().usd, usd);
    }
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
    budget.hold(&request(), OwnPrice::default()).await.unwrap().settle(&answer(50));
    assert!((budget.spent().usd - 170e-6).abs() < 1e-12);
    let error = budget.hold(&request(), OwnPrice::default()).await.err().unwrap();
    assert_eq!(kind(&error), Some(BudgetKind::Usd), "170 + 400 > 450");
}

#[test]
fn wrong_settings_are_named() {
    let no_price = BudgetOptions { max_usd: Some(1.0), ..BudgetOptions::default() };
    assert!(matches!(Budget::new(no_price), Err(ClientError::NoPrice)));
    let negative = BudgetOptions { usd_per_million_prompt_tokens: -1.0, ..BudgetOptions::default() };
    assert!(matches!(Budget::new(negative), Err(ClientError::BadNumber { .. })));
}
