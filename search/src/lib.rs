//! Full-text retrieval of seed pages.
