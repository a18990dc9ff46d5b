//! `pipeline assets`
use super::Failure;
use crate::cli::AssetsCommand;
/// x
pub fn assets(_c: &AssetsCommand) -> Result<(), Failure> {
    Ok(())
}
