//! Corpusmith.
