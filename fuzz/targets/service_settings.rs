//! `service.toml`, what `pipeline check --json` says of a workflow file, and schedules.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        let _ = service::settings::Settings::read(&folder.file("service.toml", bytes));
    });
    if let Ok(shape) = serde_json::from_slice::<service::workflows::WorkflowShape>(bytes)
        && let Some(schedule) = shape.schedule
    {
        let _ = schedule.parsed();
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let (expression, zone) = text.split_once('\n').unwrap_or((text, "UTC"));
        if let Ok(cron) = service::schedule::Cron::parse(expression, zone) {
            let _ = cron.next_times(jiff::Timestamp::UNIX_EPOCH, 2);
        }
    }
});
