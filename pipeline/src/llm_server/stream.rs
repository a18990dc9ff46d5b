//! An answer sent while it is written, as server-sent events that end with `[DONE]`.

use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use model::infer::{GenerateError, StreamItem};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::Head;
use super::error::ApiError;

/// What ends every stream that is whole.
const DONE: &str = "[DONE]";

/// Answers with a stream. An error before the first word has a status code of its own; a later one is an
/// event in the stream, which then ends without `[DONE]`. The slot is free again when the stream ends or
/// the client goes.
pub(super) async fn respond(
    head: Head,
    mut items: impl Stream<Item = Result<StreamItem, GenerateError>> + Send + Unpin + 'static,
    include_usage: bool,
    slot: OwnedSemaphorePermit,
) -> Result<Response, ApiError> {
    let first = items.next().await.unwrap_or(Err(GenerateError::Stopped))?;
    let opening = head.opening().map(|body| event(&body));
    let items = stream::iter([Ok(first)]).chain(items);
    let state = Some((items, head, slot));
    // One step for each of the engine's items; the state is gone after the last one.
    let events = stream::unfold(state, move |state| async move {
        let (mut items, head, slot) = state?;
        let item = items.next().await.unwrap_or(Err(GenerateError::Stopped));
        let goes_on = matches!(item, Ok(StreamItem::Text(_)));
        let events = events_of(&head, item, include_usage);
        Some((stream::iter(events), goes_on.then_some((items, head, slot))))
    });
    let events = stream::iter(opening).chain(events.flatten()).map(Ok::<_, Infallible>);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// The events of one item.
fn events_of(head: &Head, item: Result<StreamItem, GenerateError>, include_usage: bool) -> Vec<Event> {
    match item {
        Ok(StreamItem::Text(text)) => vec![event(&head.piece(&text))],
        Ok(StreamItem::End(generation)) => {
            let usage = include_usage.then(|| event(&head.counted(&generation)));
            let end = [event(&head.ending(generation.finish_reason))];
            end.into_iter().chain(usage).chain([Event::default().data(DONE)]).collect()
        }
        Err(error) => vec![event(&ApiError::from(error).to_json())],
    }
}

fn event(body: &Value) -> Event {
    // JSON has no line breaks of its own, which events could not carry.
    Event::default().data(body.to_string())
}
