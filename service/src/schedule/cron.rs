//! When a cron expression fires, in a time zone.

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A cron expression in its time zone.
///
/// Where clocks are put forward or back, expressions behave as those of Debian's cron: one that names
/// its hours and minutes fires once, at the moment after a gap and the first time in a repeated hour;
/// one with `*` (or `*/n`) in hour or minute follows the time that really passes.
#[derive(Clone)]
pub struct Cron {
    expression: String,
    zone: TimeZone,
    zone_name: String,
    /// In UTC: what it finds is read as time on the wall.
    table: cronexpr::Crontab,
    /// It names its hours and minutes.
    named: bool,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.expression, self.zone_name)
    }
}

impl Cron {
    /// Reads an expression of five fields and the name of a time zone.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn parse(expression: &str, zone_name: &str) -> Result<Self, String> {
        let fields: Vec<&str> = expression.split_whitespace().collect();
        let [minute, hour, ..] = fields[..] else {
            return Err(wrong_fields(expression));
        };
        if fields.len() != 5 {
            return Err(wrong_fields(expression));
        }
        let zone = TimeZone::get(zone_name).map_err(|_| {
            format!("there is no time zone `{zone_name}`; names are like Europe/Berlin or UTC")
        })?;
        let named = !minute.starts_with('*') && !hour.starts_with('*');
        let table = cronexpr::parse_crontab(&format!("{} UTC", fields.join(" "))).map_err(|error| {
            format!("`{expression}` is no cron expression: {}", first_line(&error.to_string()))
        })?;
        Ok(Self { expression: fields.join(" "), zone, zone_name: zone_name.to_owned(), table, named })
    }

    /// The next time after `time`; none where there is none for four years.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        if self.named { self.next_named(time) } else { self.next_passing(time) }
    }

    /// Times on the wall, each once: those in a gap come as long after it as they lie behind its start.
    fn next_named(&self, time: Timestamp) -> Option<Timestamp> {
        // From a day before, since clocks may have been put back.
        let before = self.zone.to_datetime(time).checked_sub(25.hours()).ok()?;
        let mut wall = before.to_zoned(TimeZone::UTC).ok()?.timestamp();
        loop {
            let next = self.table.find_next(wall).ok()?;
            let moment = self.zone.to_ambiguous_zoned(next.datetime()).compatible().ok()?.timestamp();
            if moment > time {
                return Some(moment);
            }
            wall = next.timestamp();
        }
    }

    /// Times that really pass, between one change of the clocks and the next.
    fn next_passing(&self, time: Timestamp) -> Option<Timestamp> {
        let mut start = time;
        let mut offset = self.zone.to_offset(time);
        let mut wall = time.checked_add(SignedDuration::from(offset)).ok()?;
        loop {
            let found = self.table.find_next(wall).ok()?.timestamp();
            let moment = found.checked_sub(SignedDuration::from(offset)).ok()?;
            match self.zone.following(start).next() {
                Some(change) if moment >= change.timestamp() => {
                    (start, offset) = (change.timestamp(), change.offset());
                    // The moment of the change itself may be one.
                    let just_before =
                        SignedDuration::from(offset).checked_sub(SignedDuration::from_secs(1))?;
                    wall = start.checked_add(just_before).ok()?;
                }
                _ => return Some(moment),
            }
        }
    }

    /// The next `count` times after `time`, with the offset that holds then.
    pub fn next_times(&self, time: Timestamp, count: usize) -> Vec<String> {
        let times = std::iter::successors(self.next_after(time), |last| self.next_after(*last));
        times
            .take(count)
            .map(|time| time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M %:z").to_string())
            .collect()
    }
}

fn wrong_fields(expression: &str) -> String {
    format!("`{expression}` is no cron expression: it has five fields, minute hour day month weekday")
}

/// The parser draws the place below its message.
fn first_line(text: &str) -> String {
    text.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        Cron::parse(expression, zone).unwrap().next_times(after.parse().unwrap(), count)
    }

    #[test]
    fn a_named_time_in_the_gap_fires_after_it() {
        // Clocks go from 02:00 to 03:00 on 29 March 2026.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3),
            ["2026-03-28 02:30 +01:00", "2026-03-29 03:30 +02:00", "2026-03-30 02:30 +02:00"]
        );
    }

    #[test]
    fn a_named_time_in_the_repeated_hour_fires_once() {
        // Clocks go from 03:00 to 02:00 on 25 October 2026.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25 02:30 +02:00", "2026-10-26 02:30 +01:00"]
        );
    }

    #[test]
    fn stars_follow_the_time_that_passes() {
        assert_eq!(
            times("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 4),
            [
                "2026-10-25 02:00 +02:00",
                "2026-10-25 02:00 +01:00",
                "2026-10-25 03:00 +01:00",
                "2026-10-25 04:00 +01:00"
            ]
        );
        assert_eq!(
            times("0 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", 2),
            ["2026-03-29 03:00 +02:00", "2026-03-29 04:00 +02:00"]
        );
    }

    #[test]
    fn the_29th_of_february_comes_every_four_years() {
        assert_eq!(
            times("0 12 29 2 *", "Asia/Tokyo", "2026-01-01T00:00:00Z", 2),
            ["2028-02-29 12:00 +09:00", "2032-02-29 12:00 +09:00"]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |expression, zone| Cron::parse(expression, zone).unwrap_err();
        assert!(wrong("* * *", "UTC").contains("five fields"), "{}", wrong("* * *", "UTC"));
        assert!(wrong("61 * * * *", "UTC").contains("61 * * * *"), "{}", wrong("61 * * * *", "UTC"));
        assert!(wrong("0 0 * * *", "Mars/Olympus").contains("Mars/Olympus"));
    }
}
