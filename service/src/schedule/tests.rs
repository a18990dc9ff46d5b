use jiff::ToSpan;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn missed_slots_follow_the_policy() {
    let cron = Cron::parse("0 * * * *", "UTC").unwrap();
    let (seen, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T05:00:30Z"));
    let fired = |catch_up| {
        let due = due(&cron, catch_up, seen, now);
        (due.fire.iter().map(|slot| slot.to_zoned(TimeZone::UTC).hour()).collect::<Vec<_>>(), due.passed_by)
    };
    assert_eq!(fired(CatchUp::None), (vec![5], 4));
    assert_eq!(fired(CatchUp::Latest), (vec![4, 5], 3));
    assert_eq!(fired(CatchUp::All), (vec![1, 2, 3, 4, 5], 0));
}

#[test]
fn a_month_without_a_service_is_caught_up_with_in_bounds() {
    let cron = Cron::parse("*/5 * * * *", "UTC").unwrap();
    let due = due(&cron, CatchUp::All, at("2026-01-01T00:00:00Z"), at("2026-01-31T00:00:00Z"));
    assert_eq!(due.fire.len(), 101);
    assert_eq!(due.fire.last(), Some(&at("2026-01-31T00:00:00Z")));
    assert_eq!(due.passed_by, 30 * 24 * 12 - 101);
}

/// The minutes of a time span with what stands on the wall then.
fn minutes(zone: &str, from: Timestamp, until: Timestamp) -> Vec<(Timestamp, DateTime)> {
    let zone = TimeZone::get(zone).unwrap();
    let times = std::iter::successors(Some(from), |time| time.checked_add(1.minute()).ok());
    times.take_while(|time| *time <= until).map(|time| (time, zone.to_datetime(time))).collect()
}

/// What Debian's cron would do, minute by minute over the time that really passes.
fn slots_by_minutes(expression: &str, minutes: &[(Timestamp, DateTime)]) -> Vec<Timestamp> {
    let fields: Vec<&str> = expression.split(' ').collect();
    let matches = |field: &str, value: i8| match field.strip_prefix("*/") {
        Some(step) => i32::from(value) % step.parse::<i32>().unwrap() == 0,
        None => field == "*" || field.split(',').any(|part| part.parse::<i8>().unwrap() == value),
    };
    let fires = |wall: DateTime| {
        matches(fields[0], wall.minute())
            && matches(fields[1], wall.hour())
            && matches(fields[2], wall.day())
            && matches(fields[3], wall.month())
    };
    let named = !fields[0].starts_with('*') && !fields[1].starts_with('*');
    let mut slots = Vec::new();
    let mut furthest = minutes[0].1;
    for pair in minutes.windows(2) {
        let ((_, before), (time, wall)) = (pair[0], pair[1]);
        if !named {
            slots.extend(fires(wall).then_some(time));
        } else if wall > furthest {
            // Minutes that the clock jumped over are made up for, each as long after the jump as it lies
            // behind its start.
            let jump = before.checked_add(1.minute()).unwrap();
            let mut skipped = jump;
            while skipped < wall {
                if fires(skipped) {
                    slots.push(time.checked_add(jump.until(skipped).unwrap()).unwrap());
                }
                skipped = skipped.checked_add(1.minute()).unwrap();
            }
            slots.extend(fires(wall).then_some(time));
        }
        furthest = furthest.max(wall);
    }
    slots.sort();
    slots.dedup();
    slots
}

const ZONES: [&str; 24] = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "Asia/Tokyo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/St_Johns",
    "Asia/Tehran",
    "America/Havana",
    "Asia/Beirut",
    "Atlantic/Azores",
    "Pacific/Apia",
    "America/Santiago",
    "Africa/Johannesburg",
    "Asia/Shanghai",
];

const EXPRESSIONS: [&str; 8] = [
    "30 2 * * *",
    "0 0 * * *",
    "15 1,3 * * *",
    "*/20 * * * *",
    "0 * * * *",
    "45 23 28 2 *",
    "5 */6 * * *",
    "59 1 * 3,10 *",
];

/// A year of every expression in every zone, with 29 February and both jumps of the clocks, by a clock that is
/// stepped back and jumps over outages: no slot is missed and none comes twice. `CORPUSMITH_CRON_YEARS=10`
/// runs ten.
#[test]
fn every_slot_comes_exactly_once() {
    let years: i64 = std::env::var("CORPUSMITH_CRON_YEARS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let from = at("2027-09-01T00:00:00Z");
    let until = from.checked_add((years * 366 * 24).hours()).unwrap();
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |limit: i64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit as u64) as i64
    };
    let mut checked = 0;
    for zone in ZONES {
        let minutes = minutes(zone, from, until);
        for expression in EXPRESSIONS {
            let cron = Cron::parse(expression, zone).unwrap();
            let expected = slots_by_minutes(expression, &minutes);
            // An outage holds fewer slots than are caught up with.
            let outage_hours = if expression.ends_with("* * * *") { 26 } else { 20 * 24 };
            let (mut seen, mut now, mut fired) = (from, from, Vec::new());
            while now < until {
                let step = match below(10) {
                    0 => -3_600,
                    1 => below(outage_hours * 3_600),
                    _ => below(20 * 3_600),
                };
                now = now.checked_add(step.seconds()).unwrap().clamp(from, until);
                let due = due(&cron, CatchUp::All, seen, now);
                assert_eq!(due.passed_by, 0);
                fired.extend(due.fire);
                seen = seen.max(now);
            }
            assert_eq!(fired, expected, "{expression} {zone}");
            checked += fired.len();
        }
    }
    assert!(checked > 100_000, "{checked} slots");
}
