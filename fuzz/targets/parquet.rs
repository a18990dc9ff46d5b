//! A Parquet file as the data browser meets it: the footer, the statistics, some rows.
#![no_main]

use corpusmith::inspect::{page, parquet_files};
use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        if let Ok(files) = parquet_files(&folder.file("rows.parquet", bytes)) {
            let _ = page::columns(&files);
            let _ = page::rows(&files, 1, 2);
        }
    });
});
