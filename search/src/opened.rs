//! What index folders lead to: indexes in this process, or a server's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{LocalBackend, SearchBackend};
use crate::error::{IndexError, RetrieveError, SearchError};
use crate::filter::PageFilters;
use crate::layout;
use crate::opensearch::{OpenSearch, OpenSearchBackend, OpenSearchOptions};
use crate::retrieve::RetrieveOptions;
use crate::searcher::{SearchHit, Searcher};
use crate::shard_reader::damaged;

/// The file of a folder whose index lies on a server.
const SERVER_FILE: &str = "opensearch.json";

/// One index to search, behind whatever folders name it.
pub enum OpenedIndex {
    /// Folders of [`crate::build_index`], opened as one.
    Local(Arc<Searcher>),
    /// The index of a server, named by [`write_server_file`].
    Server(Box<OpenSearch>),
}

impl OpenedIndex {
    /// Opens the folders. Either all are local, or all name the same index of one server (into which
    /// several dumps were loaded). Blocks the calling thread.
    ///
    /// # Errors
    /// [`SearchError`] if a folder holds no index, or if the folders do not go together.
    pub fn open(dirs: &[PathBuf]) -> Result<Self, SearchError> {
        let mut servers = Vec::new();
        for dir in dirs {
            let path = dir.join(SERVER_FILE);
            servers.extend(layout::read_record::<OpenSearchOptions>(&path).map_err(damaged)?);
        }
        let Some(first) = servers.first() else {
            return Searcher::open_all(dirs).map(|searcher| Self::Local(Arc::new(searcher)));
        };
        let same = |other: &OpenSearchOptions| (&other.url, &other.index) == (&first.url, &first.index);
        if servers.len() < dirs.len() || !servers.iter().all(same) {
            return Err(SearchError::DoNotGoTogether);
        }
        Ok(Self::Server(Box::new(OpenSearch::new(first)?)))
    }

    /// Answers topics with this index.
    ///
    /// # Errors
    /// [`RetrieveError`] for options that cannot work.
    pub fn backend(&self, options: &RetrieveOptions) -> Result<Arc<dyn SearchBackend>, RetrieveError> {
        Ok(match self {
            Self::Local(searcher) => Arc::new(LocalBackend::new(searcher.clone(), options)?),
            Self::Server(server) => Arc::new(OpenSearchBackend::new((**server).clone(), options)?),
        })
    }

    /// The `k` pages that match any term of `query` best among those that pass the filters, at most
    /// `max_pages_per_host` of one URL host.
    ///
    /// # Errors
    /// [`SearchError`] if the index cannot be read or the server does not answer.
    pub async fn search(
        &self,
        query: &str,
        k: usize,
        filters: &PageFilters,
        max_pages_per_host: Option<u32>,
    ) -> Result<Vec<SearchHit>, SearchError> {
        match self {
            Self::Local(searcher) => searcher.search_filtered(query, k, filters, max_pages_per_host),
            Self::Server(server) => Ok(server.search_text(query, k, filters, max_pages_per_host).await?),
        }
    }
}

/// Makes `dir` a folder whose index lies on a server; [`OpenedIndex::open`] finds it there.
///
/// # Errors
/// [`IndexError`] if the file cannot be written.
pub fn write_server_file(dir: &Path, server: &OpenSearchOptions) -> Result<(), IndexError> {
    std::fs::create_dir_all(dir).map_err(IndexError::io(dir))?;
    layout::write_record(&dir.join(SERVER_FILE), server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_one_server_go_together_others_do_not() {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let dirs: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        let server = OpenSearchOptions::new("http://localhost:9200", "pages");
        write_server_file(&dirs[0], &server).unwrap();
        write_server_file(&dirs[1], &server).unwrap();
        assert!(matches!(OpenedIndex::open(&dirs[..2]), Ok(OpenedIndex::Server(_))));
        assert!(matches!(OpenedIndex::open(&dirs), Err(SearchError::DoNotGoTogether)));
        write_server_file(&dirs[2], &OpenSearchOptions::new("http://localhost:9200", "others")).unwrap();
        assert!(matches!(OpenedIndex::open(&dirs), Err(SearchError::DoNotGoTogether)));
        assert!(matches!(OpenedIndex::open(&[]), Ok(OpenedIndex::Local(_))));
    }
}
