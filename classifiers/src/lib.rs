//! Educational-value scoring of pages.
