//! The power goes: what no sync has put on disk is gone, bytes and names.

use crate::fixture::{Fixture, IN_FLIGHT, kept_answers};
use crate::language_model::Server;
use crate::shim::{self, Fault};

#[test]
fn after_a_power_cut_nothing_is_wrong_and_no_answer_is_lost() {
    if !shim::ready() {
        return;
    }
    let calls = shim::count_calls(&Fixture::new(Server::faithful()));
    for at in shim::points(calls, 16, "CORPUSMITH_POWER_CUTS", 77) {
        let (fixture, runs) = (Fixture::new(Server::faithful()), tempfile::tempdir().unwrap());
        let (said, made) = shim::run_with(&fixture, runs.path(), &Fault { mode: "power", at, ever: false });
        let place = made.iter().find(|call| call.starts_with('!')).cloned().unwrap_or_default();
        let after = format!("power cut at call {at} of {calls} ({place})");
        assert!(said.code.is_none() || said.code == Some(0), "{after}: {}", said.err);
        // An answer is on disk before the next is asked in its stead, so but those in flight may be missing.
        let (asked, kept) = (fixture.server.asked().len(), kept_answers(runs.path()).len());
        assert!(asked <= kept + IN_FLIGHT, "{after}: {asked} prompts were answered, {kept} answers are left");
        fixture.keep_answers(runs.path());
        fixture.complete(runs.path(), &format!("going on after a {after}"));
    }
}
