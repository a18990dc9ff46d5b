//! Scaling laws: loss = E + A / N^α + B / D^β, fitted to finished runs.
//!
//! N are a model's parameters, D the tokens it was trained on. A decay from a stable checkpoint makes a finished
//! run of its length ([`crate::pretrain::PretrainOptions::branch_from`]), so one long run with several decays gives
//! a curve in D for the price of little more than the run (Hägele et al. 2024, arXiv 2405.18392).
//!
//! The fit is approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556, §3.3 and D.2): the Huber loss (δ = 10⁻³) of the
//! logarithms, from the best of a grid of starts. Sums, no means, are minimised, and to convergence: a mean stops
//! optimizers early (Besiroglu et al. 2024, arXiv 2404.10102).

mod minimise;

use minimise::minimise;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Where squares turn into absolute values: the residual, in logarithms of the loss.
const HUBER: f64 = 1e-3;
/// Exponents beyond say that the runs do not tell: sizes, or lengths, whose losses hardly differ. Published laws
/// have a third.
pub const MOST_EXPONENT: f64 = 2.0;
/// What an exponent outside its bounds costs.
const OUTSIDE: f64 = 1e6;
/// Starts that are followed to their minimum: the best of the grid.
const STARTS: usize = 48;

/// A finished run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Trained parameters (N).
    pub parameters: f64,
    /// Training tokens (D).
    pub tokens: f64,
    /// Loss at the end (nats a token).
    pub loss: f64,
}

/// `factor / x^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// A or B.
    pub factor: f64,
    /// α or β.
    pub exponent: f64,
}

impl Term {
    fn at(&self, x: f64) -> f64 {
        self.factor * x.powf(-self.exponent)
    }
}

/// Constants of a law.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Law {
    /// E: what no size and no amount of data takes away (nats a token). Where all runs have one size, what its
    /// parameters lack is in it.
    pub irreducible: f64,
    /// A and α; absent where all runs have one size.
    pub parameters: Option<Term>,
    /// B and β.
    pub tokens: Term,
}

impl Law {
    /// The loss of a model of `parameters` parameters after `tokens` tokens.
    #[must_use]
    pub fn loss(&self, parameters: f64, tokens: f64) -> f64 {
        let size = self.parameters.map_or(0.0, |term| term.at(parameters));
        self.irreducible + size + self.tokens.at(tokens)
    }

    /// The parameters and tokens that make the least loss with `operations` floating-point operations, at six an
    /// parameter and token (Hoffmann et al. 2022, equation 4); none for runs of one size.
    #[must_use]
    pub fn optimum(&self, operations: f64) -> Option<(f64, f64)> {
        let size = self.parameters?;
        let sum = size.exponent + self.tokens.exponent;
        let ratio = size.exponent * size.factor / (self.tokens.exponent * self.tokens.factor);
        let balance = ratio.powf(1.0 / sum);
        let work = operations / 6.0;
        Some((balance * work.powf(self.tokens.exponent / sum), work.powf(size.exponent / sum) / balance))
    }
}

/// Lowest and highest value of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Intervals of a law's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intervals {
    /// Of E.
    pub irreducible: Interval,
    /// Of A and α.
    pub parameters: Option<TermInterval>,
    /// Of B and β.
    pub tokens: TermInterval,
    /// Of the exponent with which the best size grows with compute, β / (α + β).
    pub optimum_exponent: Option<Interval>,
}

/// Intervals of a term's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermInterval {
    /// Of A or B.
    pub factor: Interval,
    /// Of α or β.
    pub exponent: Interval,
}

/// How to fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FitOptions {
    /// Samples with replacement from which the intervals come; 0 leaves them out.
    pub bootstrap_samples: usize,
    /// Share of the samples inside the intervals.
    pub confidence: f64,
    /// Seed of the samples.
    pub seed: u64,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self { bootstrap_samples: 200, confidence: 0.95, seed: 1 }
    }
}

/// A law with what is known of its quality.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The constants.
    pub law: Law,
    /// Their bootstrap intervals.
    pub intervals: Option<Intervals>,
    /// Sum of the Huber losses of the logarithms.
    pub objective: f64,
    /// Root of the mean square of `ln(predicted / measured)`.
    pub log_deviation: f64,
    /// The law's loss of every point, in order.
    pub predicted: Vec<f64>,
}

/// Why no law can be fitted.
#[derive(Debug, thiserror::Error)]
pub enum ScalingLawError {
    /// A number is unusable.
    #[error("run {index} has {field} = {value}; it must be a number above 0")]
    Value {
        /// Number of the point, from 0.
        index: usize,
        /// Its field.
        field: &'static str,
        /// The value.
        value: f64,
    },
    /// Too few different runs.
    #[error("the runs have {found} different {what} where the law needs {wanted}; add runs of other {what}")]
    TooFew {
        /// Of what.
        what: &'static str,
        /// Different values.
        found: usize,
        /// Needed.
        wanted: &'static str,
    },
    /// An option is unusable.
    #[error("option {field}: {rule}")]
    Option {
        /// The option's name.
        field: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// No start led to finite constants.
    #[error("no start leads to a finite law; look for runs whose loss does not fall with size or tokens")]
    NoFit,
}

/// Fits a law to `points`: of tokens alone where all have one size, else of both, for which three different sizes
/// and three different amounts of tokens are needed.
///
/// The same points and options give the same bits.
///
/// # Errors
/// [`ScalingLawError`] for unusable or too few points, or if nothing fits.
pub fn fit(points: &[Point], options: &FitOptions) -> Result<Fit, ScalingLawError> {
    let problem = Problem::new(points)?;
    if !(options.confidence > 0.0 && options.confidence < 1.0) {
        return Err(ScalingLawError::Option { field: "confidence", rule: "it must lie between 0 and 1" });
    }
    let all: Vec<usize> = (0..points.len()).collect();
    let best = problem.search(&all, &problem.grid(), STARTS).ok_or(ScalingLawError::NoFit)?;
    let law = problem.law(&best.1);
    let intervals = match options.bootstrap_samples {
        0 => None,
        _ => Some(problem.intervals(&best.1, options)),
    };
    let predicted: Vec<f64> = points.iter().map(|point| law.loss(point.parameters, point.tokens)).collect();
    let squares = points.iter().zip(&predicted).map(|(point, loss)| (loss / point.loss).ln().powi(2));
    let log_deviation = (squares.sum::<f64>() / points.len() as f64).sqrt();
    Ok(Fit { law, intervals, objective: best.0 * HUBER * HUBER, log_deviation, predicted })
}

/// The points in logarithms around their means: there, factors and exponents are hardly correlated.
///
/// The unknowns are ln E, ln B′, β, and for several sizes ln A′, α, where B′ and A′ are the terms at the means.
struct Problem {
    /// ln N, ln D and ln loss of each point, the first two without their means.
    logs: Vec<[f64; 3]>,
    means: [f64; 2],
    several_sizes: bool,
}

impl Problem {
    fn new(points: &[Point]) -> Result<Self, ScalingLawError> {
        for (index, point) in points.iter().enumerate() {
            for (field, value) in
                [("parameters", point.parameters), ("tokens", point.tokens), ("loss", point.loss)]
            {
                if !(value.is_finite() && value > 0.0) {
                    return Err(ScalingLawError::Value { index, field, value });
                }
            }
        }
        let different = |value: fn(&Point) -> f64| {
            let mut values: Vec<f64> = points.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            values.len()
        };
        let (sizes, amounts) = (different(|point| point.parameters), different(|point| point.tokens));
        if amounts < 3 {
            return Err(ScalingLawError::TooFew { what: "tokens", found: amounts, wanted: "3" });
        }
        if sizes == 2 {
            return Err(ScalingLawError::TooFew {
                what: "parameters",
                found: sizes,
                wanted: "1, or 3 and more",
            });
        }
        if sizes > 1 && points.len() < 5 {
            return Err(ScalingLawError::TooFew { what: "runs", found: points.len(), wanted: "5" });
        }
        let mut logs: Vec<[f64; 3]> =
            points.iter().map(|p| [p.parameters.ln(), p.tokens.ln(), p.loss.ln()]).collect();
        let means = [0, 1].map(|i| logs.iter().map(|log| log[i]).sum::<f64>() / logs.len() as f64);
        for log in &mut logs {
            log[0] -= means[0];
            log[1] -= means[1];
        }
        Ok(Self { logs, means, several_sizes: sizes > 1 })
    }

    /// Shares of the terms in the loss at the means, and exponents, from which searches start.
    fn grid(&self) -> Vec<Vec<f64>> {
        let level = self.logs.iter().map(|log| log[2]).sum::<f64>() / self.logs.len() as f64;
        let (shares, exponents) = ([0.02, 0.05, 0.1, 0.2, 0.4], [0.1, 0.2, 0.35, 0.5, 0.8, 1.2]);
        let mut starts = Vec::new();
        for (share, exponent) in shares.iter().flat_map(|s| exponents.map(|e| (*s, e))) {
            let tokens = [level + f64::ln(share), exponent];
            if !self.several_sizes {
                starts.push(vec![level + (1.0 - share).ln(), tokens[0], tokens[1]]);
                continue;
            }
            for (other, size_exponent) in shares.iter().flat_map(|s| exponents.map(|e| (*s, e))) {
                let rest = level + (1.0 - share - other).ln();
                starts.push(vec![rest, tokens[0], tokens[1], level + other.ln(), size_exponent]);
            }
        }
        starts
    }

    /// The least objective (in units of δ²) and its unknowns over the `count` best of `starts`.
    fn search(&self, chosen: &[usize], starts: &[Vec<f64>], count: usize) -> Option<(f64, Vec<f64>)> {
        let mut order: Vec<(f64, usize)> =
            starts.iter().enumerate().map(|(i, x)| (self.objective(chosen, x).0, i)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        order.truncate(count);
        let ends: Vec<(f64, Vec<f64>)> = order
            .par_iter()
            .map(|&(_, start)| minimise(|x| self.objective(chosen, x), starts[start].clone()))
            .collect();
        let finite =
            ends.into_iter().filter(|(value, x)| value.is_finite() && x.iter().all(|x| x.is_finite()));
        finite.min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// `Σ huber(residual / δ)`, with a wall around the exponents, and its gradient.
    fn objective(&self, chosen: &[usize], x: &[f64]) -> (f64, Vec<f64>) {
        let (mut value, mut gradient) = (0.0, vec![0.0; x.len()]);
        for &[size, tokens, loss] in chosen.iter().map(|&i| &self.logs[i]) {
            let mut terms = [x[0], x[1] - x[2] * tokens, f64::NEG_INFINITY];
            if let [_, _, _, factor, exponent] = x {
                terms[2] = factor - exponent * size;
            }
            let top = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let shares = terms.map(|term| (term - top).exp());
            let sum: f64 = shares.iter().sum();
            let residual = (top + sum.ln() - loss) / HUBER;
            value += if residual.abs() <= 1.0 { residual * residual / 2.0 } else { residual.abs() - 0.5 };
            let pull = residual.clamp(-1.0, 1.0) / HUBER / sum;
            gradient[0] += pull * shares[0];
            gradient[1] += pull * shares[1];
            gradient[2] -= pull * shares[1] * tokens;
            if x.len() == 5 {
                gradient[3] += pull * shares[2];
                gradient[4] -= pull * shares[2] * size;
            }
        }
        for place in [2, 4].into_iter().filter(|place| *place < x.len()) {
            let outside = x[place] - x[place].clamp(0.0, MOST_EXPONENT);
            value += OUTSIDE * outside * outside / 2.0;
            gradient[place] += OUTSIDE * outside;
        }
        (value, gradient)
    }

    fn law(&self, x: &[f64]) -> Law {
        let term = |factor: f64, exponent: f64, mean: f64| Term {
            factor: (factor + exponent * mean).exp(),
            exponent,
        };
        Law {
            irreducible: x[0].exp(),
            tokens: term(x[1], x[2], self.means[1]),
            parameters: match x {
                [_, _, _, factor, exponent] => Some(term(*factor, *exponent, self.means[0])),
                _ => None,
            },
        }
    }

    fn intervals(&self, best: &[f64], options: &FitOptions) -> Intervals {
        let count = self.logs.len();
        let laws: Vec<Law> = (0..options.bootstrap_samples)
            .into_par_iter()
            .filter_map(|sample| {
                let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
                rng.set_stream(sample as u64);
                let chosen: Vec<usize> = (0..count).map(|_| rng.random_range(0..count)).collect();
                // The sample's minimum lies near the whole's; starts around it find it.
                let mut starts = vec![best.to_vec()];
                for factor in [0.5, 0.8, 1.25, 2.0] {
                    for place in [2, 4] {
                        let mut start = best.to_vec();
                        if let Some(exponent) = start.get_mut(place) {
                            *exponent *= factor;
                            starts.push(start);
                        }
                    }
                }
                self.search(&chosen, &starts, starts.len()).map(|(_, x)| self.law(&x))
            })
            .collect();
        let interval = |value: &dyn Fn(&Law) -> f64| {
            let mut values: Vec<f64> = laws.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            let at = |share: f64| {
                let place = (share * values.len().saturating_sub(1) as f64).round() as usize;
                values.get(place).copied().unwrap_or(f64::NAN)
            };
            let outside = (1.0 - options.confidence) / 2.0;
            Interval { low: at(outside), high: at(1.0 - outside) }
        };
        let term = |get: &dyn Fn(&Law) -> Term| TermInterval {
            factor: interval(&|law| get(law).factor),
            exponent: interval(&|law| get(law).exponent),
        };
        let none = Term { factor: f64::NAN, exponent: f64::NAN };
        let size = |law: &Law| law.parameters.unwrap_or(none);
        Intervals {
            irreducible: interval(&|law| law.irreducible),
            tokens: term(&|law| law.tokens),
            parameters: self.several_sizes.then(|| term(&size)),
            optimum_exponent: self
                .several_sizes
                .then(|| interval(&|law| law.tokens.exponent / (size(law).exponent + law.tokens.exponent))),
        }
    }
}

#[cfg(test)]
mod tests;
