//! `pipeline inspect`: look into Parquet outputs.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::json::LineDelimitedWriter;
use arrow::util::pretty::pretty_format_batches;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use futures::StreamExt;
use serde_json::json;

use super::{Failure, runtime};
use crate::cli::InspectArgs;
use crate::engine::streams::execute;
use crate::inspect;
use crate::manifest::Manifest;
use crate::runner::error::StageError;
use crate::runner::progress::{group, size};
use crate::units;

/// Rows shown when nothing is asked for.
const DEFAULT_ROWS: usize = 5;

/// Shows a table, or a run's stages.
///
/// # Errors
/// There is no table under the path, or the query is wrong.
pub fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let files = inspect::parquet_files(&args.path).map_err(|message| Failure::message(message, ""))?;
    if files.is_empty() {
        let stages = inspect::manifests(&args.path);
        if stages.is_empty() {
            return Err(Failure::message(
                format!("{} holds neither Parquet files nor a run", args.path.display()),
                "give a .parquet file, a stage's folder or a run's folder",
            ));
        }
        show_run(&args.path, &stages);
        return Ok(());
    }
    if args.count {
        let rows: u64 = files.iter().map(|(_, rows)| rows).sum();
        if args.json {
            println!("{}", json!({"rows": rows}))
        } else {
            println!("{}", group(rows))
        }
        return Ok(());
    }
    if args.columns {
        for page in inspect::page::columns(&files).map_err(|message| Failure::message(message, ""))? {
            let page = serde_json::to_value(page).map_err(Failure::run)?;
            if args.json { println!("{page}") } else { println!("{page:#}") }
        }
        return Ok(());
    }
    if let Some(offset) = args.offset {
        let rows = args.sample.unwrap_or(DEFAULT_ROWS) as u64;
        let batches =
            inspect::page::rows(&files, offset, rows).map_err(|message| Failure::message(message, ""))?;
        return show_rows(&batches, args.json);
    }
    let session = inspect::session().map_err(Failure::run)?;
    let frame = inspect::open(&session, &files).map_err(|message| Failure::message(message, ""))?;
    if args.schema {
        for field in frame.schema().fields() {
            let (name, kind) = (field.name(), field.data_type());
            let null = if field.is_nullable() { "" } else { " not null" };
            match args.json {
                true => println!(
                    "{}",
                    json!({"column": name, "type": kind.to_string(), "nullable": field.is_nullable()})
                ),
                false => println!("{name}: {kind}{null}"),
            }
        }
        return Ok(());
    }
    let runtime = runtime(units::machine_threads())?;
    let wrong = |error: DataFusionError| Failure::input(StageError::plan("inspect", "", &error));
    let frame = if let Some(sql) = &args.sql {
        session.register_table("data", frame.into_view()).map_err(wrong)?;
        let read_only =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        runtime.block_on(session.sql_with_options(sql, read_only)).map_err(wrong)?
    } else if args.stats {
        inspect::statistics(frame).map_err(wrong)?
    } else {
        if args.sample.is_none() && !args.json {
            let rows: u64 = files.iter().map(|(_, rows)| rows).sum();
            println!("{} files, {} rows", files.len(), group(rows));
        }
        frame.limit(0, Some(args.sample.unwrap_or(DEFAULT_ROWS))).map_err(wrong)?
    };
    if args.json {
        // Row by row: whoever reads may have enough of them early, and there may be more than fit in memory.
        return runtime.block_on(async {
            let mut rows = execute(frame).await.map_err(wrong)?;
            while let Some(batch) = rows.next().await {
                show_rows(&[batch.map_err(wrong)?], true)?;
            }
            Ok(())
        });
    }
    let batches = runtime.block_on(frame.collect()).map_err(wrong)?;
    show_rows(&batches, false)
}

fn show_rows(batches: &[RecordBatch], as_json: bool) -> Result<(), Failure> {
    if as_json {
        let mut writer = LineDelimitedWriter::new(std::io::stdout().lock());
        let written = batches.iter().try_for_each(|batch| writer.write(batch)).and_then(|()| writer.finish());
        return match written {
            // Whoever read has seen enough.
            Err(error) if error.to_string().contains("Broken pipe") => std::process::exit(0),
            written => written.map_err(Failure::run),
        };
    }
    let shortened: Vec<_> = batches.iter().map(inspect::shorten).collect();
    println!("{}", pretty_format_batches(&shortened).map_err(Failure::run)?);
    Ok(())
}

fn show_run(path: &Path, stages: &[Manifest]) {
    println!("{}", path.display());
    let width = stages.iter().map(|manifest| manifest.stage.len()).max().unwrap_or(0);
    for manifest in stages {
        let (rows, files) = (group(manifest.rows_out), manifest.files.len());
        println!(
            "{:width$}  {:<12}  {rows:>10} out  {files:>4} files  {}",
            manifest.stage,
            manifest.kind,
            size(manifest.bytes())
        );
    }
}
