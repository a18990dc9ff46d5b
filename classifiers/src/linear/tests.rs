use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Pages whose score is a known linear function of the vector, plus noise.
pub(crate) fn made_up(count: usize, noise: f32, seed: u64) -> Vec<(Vec<f32>, f32)> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut page = || {
        let vector: Vec<f32> = (0..6).map(|_| random.random_range(-0.1..0.1)).collect();
        let score = 2.5 + 20.0 * vector[0] - 10.0 * vector[1] + noise * random.random_range(-1.0..1.0);
        (vector, score.clamp(0.0, 5.0))
    };
    (0..count).map(|_| page()).collect()
}

pub(crate) fn as_pages(owned: &[(Vec<f32>, f32)]) -> Vec<Page<'_>> {
    owned.iter().map(|(vector, score)| Page { vector, features: 0, score: *score }).collect()
}

#[test]
fn cholesky_solves_a_small_system() {
    // [[4, 2], [2, 3]] with λ = 1: [[5, 2], [2, 4]]·[1, -2] = [1, -6].
    let solution = solve_positive(&[4.0, 0.0, 2.0, 3.0], &[1.0, -6.0], 1.0);
    assert!((solution[0] - 1.0).abs() < 1e-12 && (solution[1] + 2.0).abs() < 1e-12);
}

#[test]
fn ridge_finds_the_plane_and_shrinks_with_lambda() {
    let owned = made_up(200, 0.0, 1);
    let fits = ridge(&as_pages(&owned), ClassWeighting::Uniform, &[1e-8, 10.0]);
    let inside: Vec<&(Vec<f32>, f32)> = owned.iter().filter(|(_, s)| *s > 0.0 && *s < 5.0).collect();
    assert!(inside.len() > 150);
    for (vector, score) in inside {
        assert!((fits[0].predict(vector) - score).abs() < 0.05, "{score}");
    }
    let length = |fit: &Linear| fit.weights.iter().map(|w| w * w).sum::<f64>();
    assert!(length(&fits[1]) < length(&fits[0]) / 10.0);
}

#[test]
fn ridge_is_the_minimum_of_its_cost() {
    let owned = made_up(60, 0.5, 2);
    let pages = as_pages(&owned);
    let lambda = 0.1;
    let fit = &ridge(&pages, ClassWeighting::Balanced, &[lambda])[0];
    let standard = Standard::of(&pages);
    let page_weights = page_weights(&pages, ClassWeighting::Balanced);
    let cost = |model: &Linear| {
        let mut sum = 0.0;
        for (page, weight) in pages.iter().zip(&page_weights) {
            sum += weight * f64::from(page.score - model.predict(page.vector)).powi(2);
        }
        let scaled = model.weights.iter().zip(&standard.scale).map(|(w, s)| (w / s).powi(2));
        sum / pages.len() as f64 + lambda * scaled.sum::<f64>()
    };
    let least = cost(fit);
    for at in 0..fit.weights.len() {
        for change in [-0.3, 0.3] {
            let mut moved = fit.clone();
            moved.weights[at] += change;
            assert!(cost(&moved) > least, "dimension {at}");
        }
    }
    for change in [-0.01, 0.01] {
        let mut moved = fit.clone();
        moved.bias += change;
        assert!(cost(&moved) > least);
    }
}

#[test]
fn adamw_learns_and_is_the_same_twice() {
    let (train, test) = (made_up(300, 0.2, 3), made_up(100, 0.2, 4));
    let options = AdamwOptions { learning_rate: 3e-3, ..Default::default() };
    let fit = || {
        adamw(&as_pages(&train), &as_pages(&test), ClassWeighting::Uniform, Sampling::Shuffled, &options, 42)
    };
    let figures = fit().evaluate(&as_pages(&test));
    assert!(figures.f1_at(3) > 0.9 && figures.mean_absolute_error < 0.3, "{figures:?}");
    assert_eq!(fit(), fit());
}

#[test]
fn rare_scores_weigh_more_and_the_mean_is_one() {
    let owned: Vec<(Vec<f32>, f32)> = (0..10).map(|i| (vec![0.0], if i < 8 { 0.0 } else { 4.0 })).collect();
    let pages = as_pages(&owned);
    let ratio = |weighting| {
        let weights = page_weights(&pages, weighting);
        assert!((weights.iter().sum::<f64>() - 10.0).abs() < 1e-9);
        weights[9] / weights[0]
    };
    assert!((ratio(ClassWeighting::Uniform) - 1.0).abs() < 1e-9);
    assert!((ratio(ClassWeighting::SquareRoot) - 2.0).abs() < 1e-9);
    assert!((ratio(ClassWeighting::Balanced) - 4.0).abs() < 1e-9);
}

#[test]
fn balanced_batches_show_each_score_equally_often_and_learn_too() {
    let owned: Vec<(Vec<f32>, f32)> =
        (0..100).map(|i| (vec![i as f32], if i < 95 { 0.0 } else { 4.0 })).collect();
    let mut batches = Batches::new(&as_pages(&owned), 1_000, Sampling::Balanced, 1);
    let rare = batches.next().iter().filter(|&&index| index >= 95).count();
    // Binomial with p = 1/2: 6 deviations are 95 pages.
    assert!((405..595).contains(&rare), "{rare}");

    let (train, test) = (made_up(300, 0.2, 3), made_up(100, 0.2, 4));
    let options = AdamwOptions { learning_rate: 3e-3, ..Default::default() };
    let fit =
        adamw(&as_pages(&train), &as_pages(&test), ClassWeighting::Uniform, Sampling::Balanced, &options, 42);
    assert!(fit.evaluate(&as_pages(&test)).f1_at(3) > 0.9);
}

#[test]
fn the_published_recipe_takes_its_passes_and_no_more() {
    let published = AdamwOptions::published();
    assert_eq!((published.learning_rate, published.epochs, published.batch_pages), (3e-4, 20, 256));
    // 512 pages: 2 steps a pass, 40 in all, each moving a weight by at most about the learning rate.
    let train = made_up(512, 0.0, 5);
    let fit = adamw(&as_pages(&train), &[], ClassWeighting::Uniform, Sampling::Shuffled, &published, 42);
    let standard = Standard::of(&as_pages(&train));
    for (weight, scale) in fit.weights.iter().zip(&standard.scale) {
        assert!((weight / scale).abs() <= 40.0 * 3e-4, "{weight}");
    }
}

#[test]
fn a_feature_is_held_back_less_than_a_dimension() {
    // Two columns that say the same: the ridge shares the weight by their emphasis.
    let owned: Vec<(Vec<f32>, f32)> =
        made_up(200, 0.0, 1).into_iter().map(|(v, score)| (vec![v[0], v[0]], score)).collect();
    let pages: Vec<Page> =
        owned.iter().map(|(vector, score)| Page { vector, features: 1, score: *score }).collect();
    let fit = &ridge(&pages, ClassWeighting::Uniform, &[1.0])[0];
    assert!((fit.weights[1] / fit.weights[0] - FEATURE_EMPHASIS).abs() < 1e-6, "{:?}", fit.weights);
}
