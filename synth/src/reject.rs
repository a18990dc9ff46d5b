//! Rows that an operator leaves out, by name.

use std::sync::Arc;

/// One row that an operator did not pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The id of the row: `prompt_id` where there is one, else the page's id.
    pub id: String,
    /// The rule that took the row out, in snake_case, e.g. `too_short`.
    pub reason: String,
    /// What was found, for a person to read.
    pub detail: String,
}

/// Called once for each row left out, in the order of the rows.
pub type OnReject = Arc<dyn Fn(Reject) + Send + Sync>;
