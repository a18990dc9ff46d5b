use super::*;

/// Hoffmann et al. 2022, table A3 (approach 3).
const CHINCHILLA: Law = Law {
    irreducible: 1.69,
    parameters: Some(Term { factor: 406.4, exponent: 0.34 }),
    tokens: Term { factor: 410.7, exponent: 0.28 },
};

/// Besiroglu et al. 2024, table 1: the same data, fitted to convergence.
const REPLICATION: Law = Law {
    irreducible: 1.8172,
    parameters: Some(Term { factor: 482.01, exponent: 0.3478 }),
    tokens: Term { factor: 2085.43, exponent: 0.3658 },
};

/// Runs of 44 M to 10 B parameters and 1 B to 400 B tokens, with normal noise in the logarithm of the loss.
fn runs(law: &Law, noise: f64) -> Vec<Point> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut points = Vec::new();
    for size in 0..9 {
        for amount in 0..8 {
            let (parameters, tokens) = (44e6 * 1.97f64.powi(size), 1e9 * 2.35f64.powi(amount));
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * rng.random::<f64>()).cos();
            points.push(Point {
                parameters,
                tokens,
                loss: law.loss(parameters, tokens) * (noise * normal).exp(),
            });
        }
    }
    points
}

fn constants(law: &Law) -> Vec<f64> {
    let size = law.parameters.map_or(vec![], |term| vec![term.factor, term.exponent]);
    [vec![law.irreducible, law.tokens.factor, law.tokens.exponent], size].concat()
}

#[track_caller]
fn close(got: &Law, wanted: &Law, tolerance: f64) {
    for (got, wanted) in constants(got).iter().zip(constants(wanted)) {
        assert!((got / wanted - 1.0).abs() < tolerance, "{got} for {wanted}");
    }
}

const NO_INTERVALS: FitOptions = FitOptions { bootstrap_samples: 0, confidence: 0.95, seed: 1 };

#[test]
fn planted_constants_come_back() {
    for law in [CHINCHILLA, REPLICATION] {
        let fit = fit(&runs(&law, 0.0), &NO_INTERVALS).unwrap();
        close(&fit.law, &law, 1e-5);
        assert!(fit.log_deviation < 1e-8, "{}", fit.log_deviation);
    }
}

#[test]
fn intervals_hold_the_truth_and_grow_with_the_noise() {
    let options = FitOptions { bootstrap_samples: 60, ..FitOptions::default() };
    let wide = |noise| {
        let fit = fit(&runs(&CHINCHILLA, noise), &options).unwrap();
        let intervals = fit.intervals.unwrap();
        let exponent = intervals.tokens.exponent;
        assert!(exponent.low < 0.28 && 0.28 < exponent.high, "{noise}: {exponent:?}");
        let irreducible = intervals.irreducible;
        assert!(irreducible.low < 1.69 && 1.69 < irreducible.high, "{noise}: {irreducible:?}");
        let optimum = intervals.optimum_exponent.unwrap();
        assert!(optimum.low < 0.4516 && 0.4516 < optimum.high, "{noise}: {optimum:?}");
        exponent.high - exponent.low
    };
    assert!(2.0 * wide(1e-3) < wide(1e-2));
}

#[test]
fn outliers_hardly_move_the_law() {
    let mut points = runs(&CHINCHILLA, 0.0);
    for place in [3, 20, 41, 60] {
        points[place].loss *= 1.3;
    }
    close(&fit(&points, &NO_INTERVALS).unwrap().law, &CHINCHILLA, 2e-2);
}

#[test]
fn runs_of_one_size_give_a_law_of_tokens() {
    let truth = Law { parameters: None, irreducible: 2.3, ..REPLICATION };
    let points: Vec<Point> = (0..8)
        .map(|i| {
            let tokens = 1e9 * 2f64.powi(i);
            Point { parameters: 135e6, tokens, loss: truth.loss(135e6, tokens) }
        })
        .collect();
    let fit = fit(&points, &FitOptions { bootstrap_samples: 20, ..FitOptions::default() }).unwrap();
    close(&fit.law, &truth, 1e-5);
    assert!(fit.law.optimum(1e21).is_none() && fit.intervals.unwrap().parameters.is_none());
}

#[test]
fn the_best_size_has_the_least_loss_for_its_compute() {
    // Published: N grows as C^0.46 (0.4516 with the constants as printed), about 70 B parameters for 5.76e23.
    let operations = 5.76e23;
    let (parameters, tokens) = CHINCHILLA.optimum(operations).unwrap();
    assert!((6.0 * parameters * tokens / operations - 1.0).abs() < 1e-9);
    assert!(30e9 < parameters && parameters < 80e9, "{parameters}");
    let least = CHINCHILLA.loss(parameters, tokens);
    for factor in [0.9, 1.1] {
        assert!(CHINCHILLA.loss(parameters * factor, tokens / factor) > least);
    }
    let more = CHINCHILLA.optimum(100.0 * operations).unwrap().0;
    assert!(((more / parameters).log10() / 2.0 - 0.28 / 0.62).abs() < 1e-9);
}

#[test]
fn unusable_runs_are_named() {
    let message = |points: &[Point]| fit(points, &NO_INTERVALS).unwrap_err().to_string();
    let points = runs(&CHINCHILLA, 0.0);
    let mut bad = points.clone();
    bad[5].loss = f64::NAN;
    assert!(message(&bad).contains("run 5 has loss = NaN"));
    assert!(message(&points[..2]).contains("2 different tokens where the law needs 3"));
    // Two sizes: E and A / N^α cannot be told apart.
    assert!(message(&points[..16]).contains("2 different parameters"));
    assert!(message(&[]).contains("0 different tokens"));
}

#[test]
fn sizes_that_do_not_differ_reach_the_bound_and_not_infinity() {
    // Losses of the sample's three sizes: tokens tell, parameters do not.
    let lengths = [98_304.0, 196_608.0, 393_216.0, 786_432.0];
    let losses = [
        (836_448.0, [6.1911, 5.5847, 5.0743, 4.5753]),
        (1_835_568.0, [6.1464, 5.5628, 5.0660, 4.5440]),
        (3_443_136.0, [6.1137, 5.5090, 5.0445, 4.5694]),
    ];
    let points: Vec<Point> = losses
        .iter()
        .flat_map(|&(parameters, losses)| {
            lengths.iter().zip(losses).map(move |(&tokens, loss)| Point { parameters, tokens, loss })
        })
        .collect();
    let Fit { law, log_deviation, .. } = fit(&points, &NO_INTERVALS).unwrap();
    let size = law.parameters.unwrap();
    assert!((0.0..=MOST_EXPONENT + 1e-3).contains(&size.exponent) && size.factor.is_finite(), "{law:?}");
    assert!((0.1..0.2).contains(&law.tokens.exponent) && log_deviation < 0.01, "{law:?} {log_deviation}");
}
