//! The program `pipeline`. Exit codes: 0 done, 1 the run failed, 2 the input was wrong.

use std::panic;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    leave_quietly_when_nobody_reads();
    corpusmith::allocator::keep_few_arenas();
    corpusmith::commands::main(corpusmith::cli::Cli::parse())
}

/// `pipeline explain generate | head` closes the output early, which `println!` takes for a panic.
fn leave_quietly_when_nobody_reads() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            std::process::exit(0);
        }
        report(panic);
    }));
}
