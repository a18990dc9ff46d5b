//! A way on which notices go, and how it fares.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::Notice;
use super::email::Email;
use super::webhook::Webhook;

const ATTEMPTS: u32 = 3;
/// The wait before the second attempt; each later one is longer by as much.
const WAIT: Duration = Duration::from_secs(2);

/// Where notices go.
pub(super) enum Receiver {
    Webhook(Webhook),
    Email(Email),
}

impl Receiver {
    fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Email(_) => "email",
        }
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), String> {
        match self {
            Self::Webhook(webhook) => webhook.deliver(notice).await,
            Self::Email(email) => email.deliver(notice).await,
        }
    }
}

/// How a way of notices fares.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChannelView {
    /// `webhook` or `email`.
    pub name: &'static str,
    /// Notices that arrived, since the service began.
    pub delivered: u64,
    /// Notices that did not.
    pub failed: u64,
    /// When the last one was sent.
    #[schemars(with = "Option<String>")]
    pub last_at: Option<Timestamp>,
    /// Why the last one did not arrive; none where it did.
    pub last_error: Option<String>,
}

pub(super) struct Channel {
    receiver: Receiver,
    view: Mutex<ChannelView>,
    wait: Duration,
}

impl Channel {
    pub(super) fn new(receiver: Receiver) -> Self {
        let name = receiver.name();
        let view = ChannelView { name, delivered: 0, failed: 0, last_at: None, last_error: None };
        Self { receiver, view: Mutex::new(view), wait: WAIT }
    }

    #[cfg(test)]
    pub(super) fn impatient(self) -> Self {
        Self { wait: Duration::from_millis(1), ..self }
    }

    pub(super) fn name(&self) -> &'static str {
        self.receiver.name()
    }

    pub(super) fn view(&self) -> ChannelView {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Delivers a notice, in several attempts if it must be.
    ///
    /// # Errors
    /// Why it did not arrive.
    pub(super) async fn send(&self, notice: &Notice) -> Result<(), String> {
        let mut result = Ok(());
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(self.wait * attempt).await;
            result = self.receiver.deliver(notice).await;
            if result.is_ok() {
                break;
            }
        }
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.last_at = Some(Timestamp::now());
        view.last_error = result.as_ref().err().cloned();
        *(if result.is_ok() { &mut view.delivered } else { &mut view.failed }) += 1;
        if let Err(error) = &result {
            tracing::error!(channel = view.name, %error, "a notice was not delivered");
        }
        result
    }
}
