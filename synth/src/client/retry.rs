//! When to send again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wait before attempt `attempt + 1` (`attempt` counts from 1): `first` doubled each time, at most
/// `longest`, less up to half of it by `chance` (0 to 1), so that requests that failed together do not
/// come back together.
pub(super) fn backoff(attempt: u32, first: Duration, longest: Duration, chance: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(30);
    let full = first.saturating_mul(1 << doublings).min(longest);
    full.mul_f64(1.0 - 0.5 * chance.clamp(0.0, 1.0))
}

/// Seconds asked for by a `Retry-After` header: a number of seconds or an HTTP date (RFC 9110 §10.2.3).
/// None for anything else; a date gone by is 0.
pub(super) fn retry_after_seconds(value: &str, now: SystemTime) -> Option<f64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // So many digits that it is no u32 means: very long.
        return Some(f64::from(value.parse::<u32>().unwrap_or(u32::MAX)));
    }
    let at = http_date(value)?;
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some((at as f64 - now).max(0.0))
}

/// Seconds since 1970 of a date like `Sun, 06 Nov 1994 08:49:37 GMT`, the one form senders may write.
fn http_date(text: &str) -> Option<i64> {
    let (_weekday, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: i64 = parts.next()?.parse().ok()?;
    let month = match parts.next()? {
        "Jan" => 1,
        "Feb" => 2,
        "Mar" => 3,
        "Apr" => 4,
        "May" => 5,
        "Jun" => 6,
        "Jul" => 7,
        "Aug" => 8,
        "Sep" => 9,
        "Oct" => 10,
        "Nov" => 11,
        "Dec" => 12,
        _ => return None,
    };
    let year: i64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(str::parse::<i64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let zone_ends = (parts.next(), parts.next(), clock.next());
    let in_range = (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if zone_ends != (Some("GMT"), None, None) || !in_range {
        return None;
    }
    Some(((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days of the Gregorian calendar, with years that begin in March so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<u64> =
            (1..=6).map(|attempt| backoff(attempt, SECOND, 10 * SECOND, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff(u32::MAX, SECOND, 10 * SECOND, 1.0), 5 * SECOND);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after_seconds(" 120 ", now), Some(120.0));
        assert_eq!(retry_after_seconds("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(10.0));
        assert_eq!(retry_after_seconds("Sun, 06 Nov 1994 08:49:07 GMT", now), Some(0.0));
        assert_eq!(retry_after_seconds("99999999999999999999", now), Some(f64::from(u32::MAX)));
        for text in [
            "",
            "-1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37:1 GMT",
        ] {
            assert_eq!(retry_after_seconds(text, now), None, "{text}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 2, 29), 11_016);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        assert_eq!(days_since_1970(2024, 12, 31), 20_088);
    }
}
