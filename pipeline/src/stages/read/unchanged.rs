//! That a file in an object store is still the one that was listed, whose version is in the stage's fingerprint.

use std::future::ready;
use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::prelude::DataFrame;
use futures::{StreamExt, stream};
use object_store::path::Path as StorePath;
use object_store::{Error, ObjectStore, ObjectStoreExt};

use super::super::columns::schema_of;
use crate::engine::operator;
use crate::engine::scan::FileSlice;
use crate::engine::source::store_of;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// A file as it was listed.
struct Listed {
    store: Arc<dyn ObjectStore>,
    path: StorePath,
    address: String,
    version: String,
}

/// The rows of a file, which end with an error when it has been written anew in the meantime: that is looked at
/// after the last of them, and where reading fails.
///
/// # Errors
/// The file was not listed in this session.
pub fn unchanged(ctx: &StageContext, rows: DataFrame, slice: &FileSlice) -> Result<DataFrame, StageError> {
    let Some(version) = slice.version.clone() else {
        return Ok(rows);
    };
    let store = store_of(ctx.session(), slice).map_err(|error| ctx.plan_error(&error))?;
    let (path, address) = (StorePath::from(slice.path.as_str()), slice.address());
    let listed = Arc::new(Listed { store, path, address, version });
    let schema = schema_of(&rows);
    let check = {
        let schema = schema.clone();
        move |rows| {
            let listed = listed.clone();
            let items = to_domain(rows).map(Some).chain(stream::once(ready(None)));
            let rows = items.filter_map(move |item| {
                let listed = listed.clone();
                async move {
                    match item {
                        Some(Ok(batch)) => Some(Ok(batch)),
                        Some(Err(error)) => match listed.changed().await {
                            Ok(Some(change)) => Some(Err(change)),
                            _ => Some(Err(error)),
                        },
                        None => listed
                            .changed()
                            .await
                            .transpose()
                            .map(|change| Err(change.unwrap_or_else(|error| error))),
                    }
                }
            });
            Ok(from_domain(schema.clone(), rows))
        }
    };
    operator::apply(ctx.session(), rows, "unchanged", schema, Arc::new(check))
        .map_err(|error| ctx.plan_error(&error))
}

impl Listed {
    /// What to say of a file that is another now.
    async fn changed(&self) -> Result<Option<ArrowError>, ArrowError> {
        let is_same = match self.store.head(&self.path).await {
            Ok(now) => now.e_tag.is_none_or(|e_tag| e_tag == self.version),
            Err(Error::NotFound { .. }) => false,
            Err(error) => return Err(ArrowError::from_external_error(Box::new(error))),
        };
        let change = || {
            let what = format!(
                "{} was changed while it was read; run again to read what is there now",
                self.address
            );
            ArrowError::ExternalError(what.into())
        };
        Ok((!is_same).then(change))
    }
}
