//! The service in front of the program `pipeline`: a ledger of runs, a queue with named pools, schedules,
//! an HTTP API and a web page.
//!
//! It computes nothing itself. A run is a child process, `pipeline run`, and a look into a file is one,
//! `pipeline inspect`: whatever happens in them harms neither the service nor other runs.

pub mod api;
pub mod auth;
mod chat;
pub mod client;
pub mod clock;
#[doc(hidden)]
pub mod fuzzing;
mod hex;
pub mod ledger;
pub mod ledger_check;
mod looking;
mod metrics;
pub mod notify;
mod oidc;
mod page;
pub mod pools;
pub mod run;
pub mod schedule;
pub mod service;
pub mod settings;
pub mod submit;
pub mod supervisor;
pub mod tls;
pub mod trace;
mod web;
pub mod words;
pub mod workflows;

pub use service::{Listening, Service, ServiceError, ServiceOptions, ledger_path};
