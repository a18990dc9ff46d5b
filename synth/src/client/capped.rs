//! A budget around a model that spends none by itself.

use std::sync::Arc;

use async_trait::async_trait;

use super::budget::Budget;
use super::options::OwnPrice;
use crate::chat::{ChatAnswer, ChatError, ChatModel, ChatRequest};

/// A model with a budget around it: for models in this process, whose tokens and time may be capped as well.
/// [`OpenAiClient`](super::OpenAiClient) needs none of it, since it counts each attempt by itself.
pub struct Capped {
    model: Arc<dyn ChatModel>,
    budget: Arc<Budget>,
}

impl Capped {
    /// `model`, spending from `budget`.
    pub fn new(model: Arc<dyn ChatModel>, budget: Arc<Budget>) -> Self {
        Self { model, budget }
    }
}

#[async_trait]
impl ChatModel for Capped {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn max_in_flight(&self) -> usize {
        self.model.max_in_flight()
    }

    async fn ask(&self, request: &ChatRequest) -> Result<ChatAnswer, ChatError> {
        let hold = self.budget.in_time(self.budget.hold(request, OwnPrice::default())).await??;
        let result = self.model.ask(request).await;
        match &result {
            Ok(answer) => hold.settle(answer),
            Err(error) => hold.settle_failed(error),
        }
        result
    }
}
