//! What the tasks of a stage share: a model, an index, lists.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// Loaded by the first task that needs it, kept for the others, and let go when the stage has ended: later stages
/// of a run have their own to hold.
#[derive(Debug)]
pub struct Loaded<T>(Arc<Mutex<Cell<T>>>);

type Cell<T> = Arc<OnceCell<Arc<T>>>;

impl<T> Default for Loaded<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Loaded<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Loaded<T> {
    /// What is loaded; `load` loads it, once, if nothing is.
    ///
    /// # Errors
    /// It cannot be loaded. The next task tries again.
    pub async fn get_or_load<E, F>(&self, load: impl FnOnce() -> F) -> Result<Arc<T>, E>
    where
        F: Future<Output = Result<Arc<T>, E>>,
    {
        let cell = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cell.get_or_try_init(load).await.cloned()
    }

    /// Lets it go; tasks that still run keep it to their end.
    pub fn release(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_loaded_once_and_again_after_it_was_let_go() {
        let loaded = Loaded::default();
        let get = async |number: u32| {
            loaded.get_or_load(|| async move { Ok::<_, String>(Arc::new(number)) }).await.unwrap()
        };
        assert_eq!(loaded.get_or_load(|| async { Err("no file") }).await, Err("no file"));
        assert_eq!((*get(1).await, *get(2).await), (1, 1));
        let held = Arc::downgrade(&get(3).await);
        loaded.clone().release();
        assert!(held.upgrade().is_none());
        assert_eq!(*get(4).await, 4);
    }
}
