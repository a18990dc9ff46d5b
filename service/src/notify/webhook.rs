//! Notices as JSON, posted to an address and signed.

use std::time::Duration;

use ring::hmac;

use super::Notice;
use crate::hex::hex;

/// A receiver that does not answer in this time has not got the notice.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Webhook {
    pub(super) url: String,
    pub(super) key: Option<hmac::Key>,
    pub(super) client: reqwest::Client,
}

impl Webhook {
    pub(super) async fn deliver(&self, notice: &Notice) -> Result<(), String> {
        let body = serde_json::to_vec(notice).map_err(|error| error.to_string())?;
        let mut request =
            self.client.post(&self.url).timeout(PATIENCE).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("x-corpusmith-signature", signature(key, &body));
        }
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("the receiver answered {}", answer.status())),
            // The address may hold a secret: it is not shown.
            Err(error) => Err(error.without_url().to_string()),
        }
    }
}

/// `sha256=` and the HMAC of a body, in hexadecimal digits.
pub(crate) fn signature(key: &hmac::Key, body: &[u8]) -> String {
    format!("sha256={}", hex(hmac::sign(key, body).as_ref()))
}
