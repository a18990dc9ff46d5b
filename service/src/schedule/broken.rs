//! Workflow files that are none any more: their schedules would rest in silence.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::workflows::WorkflowFile;

/// Files with problems, each with whether that was told.
#[derive(Debug, Default)]
pub(super) struct Broken(Mutex<BTreeMap<String, (String, bool)>>);

impl Broken {
    /// The problems of a file that are to be told: at the second look, once. At the first it may be half
    /// written.
    pub(super) fn news<'a>(&self, file: &'a WorkflowFile) -> Option<&'a str> {
        let mut broken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(problems) = &file.problems else {
            broken.remove(&file.file);
            return None;
        };
        match broken.get_mut(&file.file) {
            Some((known, told)) if known == problems => {
                (!std::mem::replace(told, true)).then_some(problems.as_str())
            }
            _ => {
                broken.insert(file.file.clone(), (problems.clone(), false));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_that_last_are_told_once() {
        let broken = Broken::default();
        let look = |problems: Option<&str>| {
            let problems = problems.map(str::to_owned);
            let file = WorkflowFile { file: "w.toml".to_owned(), shape: None, problems };
            broken.news(&file).map(str::to_owned)
        };
        assert_eq!(look(Some("half")), None);
        assert_eq!(look(None), None);
        assert_eq!(look(Some("a")), None);
        assert_eq!(look(Some("a")).as_deref(), Some("a"));
        assert_eq!(look(Some("a")), None);
        // Others, and the same after it was good.
        assert_eq!([look(Some("b")), look(Some("b"))], [None, Some("b".to_owned())]);
        assert_eq!(look(None), None);
        assert_eq!([look(Some("b")), look(Some("b"))], [None, Some("b".to_owned())]);
    }
}
