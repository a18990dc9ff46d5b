//! The program `pipeline`. Exit codes: 0 done, 1 the run failed, 2 the input was wrong.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    corpusmith::commands::main(corpusmith::cli::Cli::parse())
}
