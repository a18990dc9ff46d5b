//! `pipeline assets`: fetch, list and verify models and data.

use std::str::FromStr;

use super::Failure;
use crate::assets::{Asset, AssetState, AssetStatus, AssetStore, PullEvent};
use crate::cli::AssetsCommand;
use crate::runner::error::chain;
use crate::runner::progress::size;

/// Runs an `assets` command.
///
/// # Errors
/// An unknown asset, a package client that fails, or a damaged file.
pub fn assets(command: &AssetsCommand) -> Result<(), Failure> {
    let store = AssetStore::from_environment().map_err(|error| Failure::message(chain(&error), ""))?;
    match command {
        AssetsCommand::Pull { names, dry_run } => pull(&store, names, *dry_run),
        AssetsCommand::List => {
            println!("{}", store.folder().display());
            show(&store.list());
            Ok(())
        }
        AssetsCommand::Verify => {
            let statuses = store.verify();
            show(&statuses);
            let bad = statuses.iter().filter(|status| matches!(status.state, AssetState::Bad(_))).count();
            if bad == 0 {
                return Ok(());
            }
            Err(Failure::message(
                format!("{bad} assets are damaged"),
                "`pipeline assets pull` fetches them anew",
            ))
        }
    }
}

fn pull(store: &AssetStore, names: &[String], dry_run: bool) -> Result<(), Failure> {
    let wanted = if names.is_empty() {
        Asset::ALL.to_vec()
    } else {
        let parsed: Result<Vec<Asset>, _> = names.iter().map(|name| Asset::from_str(name)).collect();
        parsed.map_err(|error| Failure::message(chain(&error), "`pipeline assets list` shows the names"))?
    };
    if dry_run {
        let all = store.list();
        let missing: Vec<_> = all
            .into_iter()
            .filter(|status| wanted.contains(&status.asset) && !matches!(status.state, AssetState::Verified))
            .collect();
        println!("{} assets would be fetched into {}", missing.len(), store.folder().display());
        show(&missing);
        return Ok(());
    }
    let said = |event: PullEvent| match event {
        PullEvent::Present { .. } => {}
        PullEvent::Started { asset, size_bytes } => eprintln!("{asset}: fetching {}", size(size_bytes)),
        PullEvent::Done { asset, seconds, .. } => eprintln!("{asset}: here, {seconds:.1} s"),
    };
    store.pull(&wanted, &said).map_err(|error| Failure::message(chain(&error), ""))?;
    println!("{} assets are in {}", wanted.len(), store.folder().display());
    Ok(())
}

fn show(statuses: &[AssetStatus]) {
    let width = statuses.iter().map(|status| status.asset.name().len()).max().unwrap_or(0);
    for status in statuses {
        let bytes = status.size_bytes.map(size).unwrap_or_default();
        let state = match &status.state {
            AssetState::Verified => "here".to_owned(),
            AssetState::Missing => "not fetched".to_owned(),
            AssetState::Bad(error) => chain(error),
        };
        println!("{:width$}  {bytes:>10}  {:<24}  {state}", status.asset.name(), status.licence);
    }
}
