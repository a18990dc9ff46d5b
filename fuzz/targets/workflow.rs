//! A workflow file: TOML, interpolation, and the check of every stage's config.
#![no_main]

use corpusmith::workflow::{Overrides, load};
use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| match load(&folder.file("workflow.toml", bytes), &Overrides::default()) {
        Ok(workflow) => drop(workflow.shape()),
        // The places that it names are cut out of the file.
        Err(problems) => drop(format!("{:?}", miette::Report::new(problems))),
    });
});
