//! BFGS for a handful of unknowns.
//!
//! The line search brackets the weak Wolfe conditions by halving and doubling, which also works where the second
//! derivative jumps, as the Huber loss's does (Lewis and Overton 2013, "Nonsmooth optimization via quasi-Newton
//! methods").

const ITERATIONS: usize = 2_000;
const LINE_STEPS: usize = 60;

/// Follows `function` (value and gradient) from `x` downhill to a minimum; the value there and the place.
pub(super) fn minimise(function: impl Fn(&[f64]) -> (f64, Vec<f64>), mut x: Vec<f64>) -> (f64, Vec<f64>) {
    let n = x.len();
    let (mut value, mut gradient) = function(&x);
    let mut inverse = identity(n);
    let mut fresh = true;
    for _ in 0..ITERATIONS {
        let mut direction: Vec<f64> = (0..n).map(|i| -dot(&inverse[i * n..][..n], &gradient)).collect();
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 || !slope.is_finite() {
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
            inverse = identity(n);
            fresh = true;
        }
        // A first step of unit length at most: the gradient's length says nothing of how far to go.
        let length = dot(&direction, &direction).sqrt();
        let first = if fresh { 1f64.min(0.1 / length.max(1e-300)) } else { 1.0 };
        let Some((next, next_value, next_gradient)) =
            line_search(&function, &x, value, &direction, slope, first)
        else {
            // No descent left along this direction: done, unless old curvature misled us.
            if fresh {
                break;
            }
            inverse = identity(n);
            fresh = true;
            continue;
        };
        let moved: Vec<f64> = next.iter().zip(&x).map(|(a, b)| a - b).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let gain = value - next_value;
        (x, value, gradient) = (next, next_value, next_gradient);
        update(&mut inverse, &moved, &change, fresh);
        fresh = false;
        let steepest = gradient.iter().fold(0f64, |a, b| a.max(b.abs()));
        if steepest < 1e-10 || (gain <= 1e-15 * value.abs() && dot(&moved, &moved).sqrt() < 1e-13) {
            break;
        }
    }
    (value, x)
}

/// A step along `direction` that meets the weak Wolfe conditions.
fn line_search(
    function: &impl Fn(&[f64]) -> (f64, Vec<f64>),
    x: &[f64],
    value: f64,
    direction: &[f64],
    slope: f64,
    first: f64,
) -> Option<(Vec<f64>, f64, Vec<f64>)> {
    let (mut low, mut high, mut step) = (0.0, f64::INFINITY, first);
    let mut best = None;
    for _ in 0..LINE_STEPS {
        let next: Vec<f64> = x.iter().zip(direction).map(|(x, d)| x + step * d).collect();
        let (next_value, gradient) = function(&next);
        // A place without a value is too far, too.
        if next_value.is_nan() || next_value >= value + 1e-4 * step * slope {
            high = step;
        } else if dot(&gradient, direction) < 0.9 * slope {
            low = step;
            best = Some((next, next_value, gradient));
        } else {
            return Some((next, next_value, gradient));
        }
        step = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * step };
    }
    best
}

/// The BFGS update of the inverse Hessian.
fn update(inverse: &mut [f64], moved: &[f64], change: &[f64], fresh: bool) {
    let n = moved.len();
    let curvature = dot(moved, change);
    if curvature <= 1e-300 || !curvature.is_finite() {
        return;
    }
    if fresh {
        // The scale of the first curvature seen (Nocedal and Wright, equation 6.20).
        let scale = curvature / dot(change, change);
        for i in 0..n {
            inverse[i * n + i] = scale;
        }
    }
    let turned: Vec<f64> = (0..n).map(|i| dot(&inverse[i * n..][..n], change)).collect();
    let stretch = 1.0 + dot(change, &turned) / curvature;
    for i in 0..n {
        for j in 0..n {
            inverse[i * n + j] +=
                (stretch * moved[i] * moved[j] - turned[i] * moved[j] - moved[i] * turned[j]) / curvature;
        }
    }
}

fn identity(n: usize) -> Vec<f64> {
    (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_floor_of_a_bent_valley() {
        // Rosenbrock's function; its minimum is 0 at (1, 1).
        let rosenbrock = |x: &[f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            (a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b])
        };
        let (value, x) = minimise(rosenbrock, vec![-1.2, 1.0]);
        assert!(value < 1e-18 && (x[0] - 1.0).abs() < 1e-8 && (x[1] - 1.0).abs() < 1e-8, "{value} at {x:?}");
    }

    #[test]
    fn absolute_values_do_not_stop_it() {
        let corner = |x: &[f64]| ((x[0] - 3.0).abs() + x[1].powi(2), vec![(x[0] - 3.0).signum(), 2.0 * x[1]]);
        let (value, _) = minimise(corner, vec![-50.0, 7.0]);
        assert!(value < 1e-6, "{value}");
    }
}
