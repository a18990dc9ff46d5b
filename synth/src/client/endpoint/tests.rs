use super::*;

/// An answer as fast as any.
const ANSWERED: Verdict = Verdict::Answered { latency: Duration::from_millis(10), tokens: 100 };

fn endpoint() -> (EndpointState, Instant) {
    let options = ClientOptions {
        base_urls: vec!["http://h/v1".into()],
        max_in_flight: 64,
        start_in_flight: 4,
        breaker_failures: 3,
        breaker_open_seconds: 10.0,
        ..ClientOptions::default()
    };
    let endpoint = options.all_endpoints().unwrap().remove(0);
    (EndpointState::new(Tuning::new(&options, &endpoint)), Instant::now())
}

fn fill(state: &mut EndpointState, now: Instant) -> usize {
    let mut taken = 0;
    while matches!(state.readiness(now), Readiness::Now(_)) {
        state.take();
        taken += 1;
    }
    taken
}

#[test]
fn places_double_then_grow_one_a_round() {
    let (mut state, now) = endpoint();
    assert_eq!(fill(&mut state, now), 4);
    for _ in 0..4 {
        state.finish(now, ANSWERED, now);
        fill(&mut state, now);
    }
    assert_eq!(state.places(), 8, "one more with each answer");
    let later = now + Duration::from_secs(1);
    state.overload = 1.0;
    state.finish(now, Verdict::Overloaded(None), later);
    state.finish(now, Verdict::Overloaded(None), later);
    assert_eq!(state.places(), 4, "halved once for a round");
    while state.in_flight > 4 {
        state.finish(now, Verdict::Overloaded(None), later);
    }
    for _ in 0..4 {
        state.finish(later, ANSWERED, later);
        fill(&mut state, later);
    }
    // Four answers with 1/limit each: just under one place, as the limit itself grows.
    assert!((4.9..5.0).contains(&state.limit), "{}", state.limit);
    state.finish(later, ANSWERED, later);
    assert_eq!(state.places(), 5);
}

#[test]
fn answers_that_become_slow_make_places_fewer() {
    let (mut state, now) = endpoint();
    let answered =
        |seconds: f64| Verdict::Answered { latency: Duration::from_secs_f64(seconds), tokens: 100 };
    let mut at = now;
    let mut round = |state: &mut EndpointState, seconds: f64| {
        at += Duration::from_secs(60);
        let taken = fill(state, at);
        for _ in 0..taken.max(state.places()) {
            state.finish(at, answered(seconds), at + Duration::from_secs(30));
            fill(state, at);
        }
    };
    for _ in 0..10 {
        round(&mut state, 2.0);
    }
    assert_eq!(state.places(), 64);
    round(&mut state, 6.0);
    assert_eq!(state.places(), 64, "three times as slow is what batching costs");
    round(&mut state, 60.0);
    assert_eq!(state.places(), 51, "a fifth less, once for a round");
    for _ in 0..40 {
        round(&mut state, 60.0);
    }
    assert!(state.places() < 8, "{}", state.places());
    for _ in 0..200 {
        round(&mut state, 2.0);
    }
    assert_eq!(state.places(), 64, "and back");
}

#[test]
fn quick_answers_are_never_too_slow() {
    let (mut state, now) = endpoint();
    for micros in [1, 900_000] {
        for _ in 0..200 {
            fill(&mut state, now);
            let latency = Duration::from_micros(micros);
            state.finish(now, Verdict::Answered { latency, tokens: 1 }, now);
        }
    }
    assert_eq!(state.places(), 64);
}

#[test]
fn unavailable_is_overload_and_failure() {
    let (mut state, now) = endpoint();
    for second in 0..3 {
        assert!(state.works());
        let at = now + Duration::from_secs(second);
        state.take();
        state.finish(at, Verdict::Unavailable(None), at);
    }
    assert!(!state.works() && state.places() == 1);
}

#[test]
fn refusals_by_chance_cost_few_places() {
    let (mut state, now) = endpoint();
    let (mut at, mut sum) = (now, 0);
    for round in 0..400 {
        at += Duration::from_secs(1);
        fill(&mut state, at);
        for number in 0..state.places() {
            // Each twentieth, somewhere in its round.
            let refused = (round * 7 + number) % 20 == 0;
            let verdict = if refused { Verdict::Overloaded(None) } else { ANSWERED };
            state.finish(at, verdict, at + Duration::from_millis(500));
            fill(&mut state, at);
        }
        sum += state.places();
    }
    // Halving in each such round would leave about five.
    assert!(sum / 400 > 16, "{} places on average", sum / 400);
}

#[test]
fn places_stay_between_one_and_the_maximum() {
    let (mut state, now) = endpoint();
    for second in 0..20 {
        let at = now + Duration::from_secs(second);
        state.take();
        state.finish(at, Verdict::Overloaded(None), at);
    }
    assert_eq!(state.places(), 1);
    let (mut state, now) = endpoint();
    for _ in 0..200 {
        fill(&mut state, now);
        state.finish(now, ANSWERED, now);
    }
    assert_eq!(state.places(), 64);
}

#[test]
fn an_idle_endpoint_does_not_grow() {
    let (mut state, now) = endpoint();
    for _ in 0..50 {
        state.take();
        state.finish(now, ANSWERED, now);
    }
    assert_eq!(state.places(), 4);
}

#[test]
fn retry_after_pauses_and_is_capped() {
    let (mut state, now) = endpoint();
    state.take();
    state.finish(now, Verdict::Overloaded(Some(Duration::from_secs(7))), now);
    assert_eq!(state.readiness(now), Readiness::At(now + Duration::from_secs(7)));
    state.finish(now, Verdict::Overloaded(Some(Duration::from_secs(1_000_000))), now);
    assert_eq!(state.readiness(now), Readiness::At(now + Duration::from_secs(300)));
    assert!(matches!(state.readiness(now + Duration::from_secs(300)), Readiness::Now(_)));
}

#[test]
fn the_circuit_opens_probes_and_closes() {
    let (mut state, now) = endpoint();
    for _ in 0..3 {
        assert!(state.works());
        state.take();
        state.finish(now, Verdict::Failed(None), now);
    }
    assert!(!state.works());
    let first = now + Duration::from_secs(10);
    assert_eq!(state.readiness(now), Readiness::At(first));
    assert_eq!(fill(&mut state, first), 1, "one probe at a time");
    state.finish(first, Verdict::Failed(None), first);
    let second = first + Duration::from_secs(20);
    assert_eq!(state.readiness(first), Readiness::At(second), "twice as long");
    state.take();
    state.give_up(second);
    assert_eq!(fill(&mut state, second), 1, "a probe that was given up makes room for another");
    state.finish(second, ANSWERED, second);
    assert!(state.works());
    assert_eq!(fill(&mut state, second), 4);
}

#[test]
fn an_answer_between_failures_keeps_the_circuit_closed() {
    let (mut state, now) = endpoint();
    for verdict in
        [Verdict::Failed(None), Verdict::TimedOut, ANSWERED, Verdict::Failed(None), Verdict::Failed(None)]
    {
        state.take();
        state.finish(now, verdict, now);
    }
    assert!(state.works());
}
