//! The program `pipeline`.
fn main() {}
