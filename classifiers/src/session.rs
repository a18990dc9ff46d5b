//! One ONNX session that runs pages.

use crate::{
    BackboneError, FeatureSet, Pooling, Runtime,
    onnx::{FEATURES, FEATURES_KEY, LOGITS},
    provider::Provider,
};
use ort::{
    logging::LogLevel,
    session::{Session, SessionInputValue, builder::GraphOptimizationLevel},
    value::{Outlet, TensorElementType, TensorRef, ValueType},
};
use std::{borrow::Cow, path::Path};

/// The output of an encoder, f32 `[pages, tokens, hidden]`.
pub(crate) const HIDDEN_STATE: &str = "last_hidden_state";
const INPUT_IDS: &str = "input_ids";
const ATTENTION_MASK: &str = "attention_mask";
const TOKEN_TYPES: &str = "token_type_ids";
/// The id of padding. Any would do, since the mask leaves it out.
const PADDING: i64 = 0;

/// What a model gives for its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// An encoder: a state for each token, from which pooling makes a page's vector.
    HiddenState(Pooling),
    /// A sequence classification with one label: a page's vector is that one value, its score.
    Logits,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Self::HiddenState(_) => HIDDEN_STATE,
            Self::Logits => LOGITS,
        }
    }

    fn rank(self) -> usize {
        match self {
            Self::HiddenState(_) => 3,
            Self::Logits => 2,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::HiddenState(_) => "last_hidden_state, f32 [pages, tokens, hidden]",
            Self::Logits => "logits, f32 [pages, 1]",
        }
    }
}

/// A page as a model takes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Page {
    /// Its tokens; there is one at least.
    pub(crate) ids: Vec<i64>,
    /// The features of its text, where the model asks for any.
    pub(crate) features: Vec<f32>,
}

/// A model, and how sessions run it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model<'a> {
    /// The ONNX file's bytes.
    pub(crate) bytes: &'a [u8],
    /// The file.
    pub(crate) path: &'a Path,
    /// What it gives.
    pub(crate) output: Output,
    /// Where it is computed.
    pub(crate) providers: &'a [Provider],
    /// Whether it computes in whole numbers of 8 bits. Where only its weights have 8 bits, they are unpacked
    /// once, when a session opens, and not for every page.
    pub(crate) is_quantised: bool,
}

impl Model<'_> {
    /// Whether no device computes it.
    pub(crate) fn on_cpu(&self) -> bool {
        self.providers.iter().all(|provider| *provider == Provider::Cpu)
    }
}

/// A session, with what it takes and gives.
#[derive(Debug)]
pub(crate) struct PageSession {
    session: Session,
    output: Output,
    takes_types: bool,
    features: FeatureSet,
}

impl PageSession {
    /// Opens a session whose operators run on `threads` threads.
    pub(crate) fn open(runtime: &Runtime, model: Model, threads: usize) -> Result<Self, BackboneError> {
        let session = open_session(runtime, model, threads).map_err(|error| BackboneError::NotOnnx {
            path: model.path.to_owned(),
            size_bytes: model.bytes.len(),
            reason: error.message().trim().to_owned(),
        })?;
        check_interface(&session, model.path, model.output)?;
        let takes = |name| session.inputs().iter().any(|input| input.name() == name);
        let (takes_types, features) =
            (takes(TOKEN_TYPES), features_of(&session, takes(FEATURES), model.path)?);
        Ok(Self { session, output: model.output, takes_types, features })
    }

    /// What of a page's text the model asks for.
    pub(crate) fn features(&self) -> FeatureSet {
        self.features
    }

    /// Runs pages as one batch, padded to the longest, and gives a vector each. A page alone is not padded.
    /// No page may be without tokens.
    pub(crate) fn run(&mut self, pages: &[Page]) -> Result<Vec<Vec<f32>>, String> {
        let longest = pages.iter().map(|page| page.ids.len()).max().unwrap_or(0);
        let shape = [pages.len(), longest];
        let (mut ids, mut mask) =
            (Vec::with_capacity(shape[0] * longest), Vec::with_capacity(shape[0] * longest));
        for page in pages {
            ids.extend_from_slice(&page.ids);
            ids.resize(ids.len() + longest - page.ids.len(), PADDING);
            mask.resize(mask.len() + page.ids.len(), 1_i64);
            mask.resize(ids.len(), 0);
        }
        let types = vec![0_i64; ids.len()];
        let features: Vec<f32> = pages.iter().flat_map(|page| &page.features).copied().collect();
        let features_shape = [pages.len(), self.features.names().len()];
        let output = self.output;
        let takes_types = self.takes_types;
        let takes_features = self.features != FeatureSet::None;
        let session = &mut self.session;
        let mut run = || -> ort::Result<Result<Vec<Vec<f32>>, String>> {
            let mut inputs: Vec<(Cow<str>, SessionInputValue)> = vec![
                (INPUT_IDS.into(), TensorRef::from_array_view((shape, ids.as_slice()))?.into()),
                (ATTENTION_MASK.into(), TensorRef::from_array_view((shape, mask.as_slice()))?.into()),
            ];
            if takes_types {
                inputs.push((
                    TOKEN_TYPES.into(),
                    TensorRef::from_array_view((shape, types.as_slice()))?.into(),
                ));
            }
            if takes_features {
                let features = TensorRef::from_array_view((features_shape, features.as_slice()))?;
                inputs.push((FEATURES.into(), features.into()));
            }
            let outputs = session.run(inputs)?;
            let Some(found) = outputs.get(output.name()) else {
                return Ok(Err(format!("the model gave no `{}`", output.name())));
            };
            let (found, values) = found.try_extract_tensor::<f32>()?;
            Ok(vectors(output, pages, longest, found, values))
        };
        run().unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// The pages' vectors from the model's output.
fn vectors(
    output: Output,
    pages: &[Page],
    longest: usize,
    shape: &[i64],
    values: &[f32],
) -> Result<Vec<Vec<f32>>, String> {
    let sizes: Vec<usize> = shape.iter().filter_map(|&size| usize::try_from(size).ok()).collect();
    match (output, sizes.as_slice()) {
        (Output::HiddenState(pooling), &[found, tokens, hidden])
            if found == pages.len() && tokens == longest && hidden > 0 =>
        {
            let states = values.chunks_exact(tokens * hidden);
            Ok(pages
                .iter()
                .zip(states)
                .map(|(page, states)| normalise(pooled(pooling, states, page.ids.len(), hidden)))
                .collect())
        }
        (Output::Logits, &[found, 1]) if found == pages.len() => {
            match values.iter().find(|score| !score.is_finite()) {
                Some(score) => Err(format!("`{}` is {score} for a page", output.name())),
                None => Ok(values.iter().map(|&score| vec![score]).collect()),
            }
        }
        _ => Err(format!(
            "`{}` has shape {shape:?}, expected {} for {} pages of {longest} tokens",
            output.name(),
            output.expected(),
            pages.len()
        )),
    }
}

fn open_session(runtime: &Runtime, model: Model, threads: usize) -> ort::Result<Session> {
    Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_quant_qdq(model.is_quantised)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // Threads that wait by spinning would take the cores from other sessions and stages.
        .with_intra_op_spinning(false)?
        .with_deterministic_compute(true)?
        // Fused, ONNX Runtime's processor kernel takes eight times as long as an addition and a norm.
        .with_disabled_optimizers(if model.on_cpu() { "SkipLayerNormFusion" } else { "" })?
        // Every page has a length of its own: a plan for each costs more than it saves.
        .with_memory_pattern(false)?
        // Errors come back to the caller; printed by the library they would come twice.
        .with_log_level(LogLevel::Fatal)?
        .with_execution_providers(
            model.providers.iter().filter_map(|provider| provider.dispatch()).collect::<Vec<_>>(),
        )?
        .commit_from_memory(model.bytes)
}

fn check_interface(session: &Session, path: &Path, output: Output) -> Result<(), BackboneError> {
    let fits = |outlet: &Outlet, element: TensorElementType, rank: usize| matches!(outlet.dtype(), ValueType::Tensor { ty, shape, .. } if *ty == element && shape.len() == rank);
    let inputs = session.inputs();
    let known = |outlet: &Outlet| match outlet.name() {
        INPUT_IDS | ATTENTION_MASK | TOKEN_TYPES => fits(outlet, TensorElementType::Int64, 2),
        FEATURES => output == Output::Logits && fits(outlet, TensorElementType::Float32, 2),
        _ => false,
    };
    let has = |name: &str| inputs.iter().any(|input| input.name() == name);
    if !inputs.iter().all(known) || !has(INPUT_IDS) || !has(ATTENTION_MASK) {
        return Err(BackboneError::Interface {
            path: path.to_owned(),
            side: "inputs",
            found: describe(inputs),
            expected: "input_ids, attention_mask and perhaps token_type_ids, each i64 [pages, tokens]",
        });
    }
    let outputs = session.outputs();
    let wanted = |outlet: &Outlet| {
        outlet.name() == output.name() && fits(outlet, TensorElementType::Float32, output.rank())
    };
    if !outputs.iter().any(wanted) {
        return Err(BackboneError::Interface {
            path: path.to_owned(),
            side: "outputs",
            found: describe(outputs),
            expected: output.expected(),
        });
    }
    Ok(())
}

/// The features that a model's metadata name, where it takes any.
fn features_of(session: &Session, takes_features: bool, path: &Path) -> Result<FeatureSet, BackboneError> {
    if !takes_features {
        return Ok(FeatureSet::None);
    }
    let named = session.metadata().ok().and_then(|metadata| metadata.custom(FEATURES_KEY));
    let known = named.as_deref().and_then(|name| name.parse().ok()).filter(|&set| set != FeatureSet::None);
    known.ok_or_else(|| BackboneError::Features { path: path.to_owned(), found: named.unwrap_or_default() })
}

fn describe(outlets: &[Outlet]) -> String {
    let names: Vec<String> =
        outlets.iter().map(|outlet| format!("{} {}", outlet.name(), outlet.dtype())).collect();
    if names.is_empty() {
        return "(none)".to_owned();
    }
    names.join(", ")
}

/// A page's vector before it is scaled; padding behind its own tokens is left out.
fn pooled(pooling: Pooling, states: &[f32], tokens: usize, hidden: usize) -> Vec<f32> {
    match pooling {
        Pooling::MeanL2 => mean(states, tokens, hidden),
        Pooling::ClsL2 => states.get(..hidden).unwrap_or_default().to_vec(),
    }
}

/// The mean of the page's own tokens' states.
fn mean(states: &[f32], tokens: usize, hidden: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f32; hidden];
    for state in states.chunks_exact(hidden.max(1)).take(tokens) {
        for (total, value) in sum.iter_mut().zip(state) {
            *total += value;
        }
    }
    for total in &mut sum {
        *total /= tokens as f32;
    }
    sum
}

/// Scales a vector to length 1; zeros stay zeros.
fn normalise(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        for value in &mut vector {
            *value /= norm;
        }
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_is_the_mean_of_the_pages_own_tokens_scaled_to_length_one() {
        let pooled = mean(&[1.0, 0.0, 5.0, 8.0, 99.0, 99.0], 2, 2);
        assert_eq!(pooled, [3.0, 4.0]);
        assert_eq!(normalise(pooled), [0.6, 0.8]);
        assert_eq!(normalise(vec![0.0, 0.0]), [0.0, 0.0]);
    }

    #[test]
    fn outputs_of_another_shape_are_told() {
        let pages = [vec![1, 2], vec![3]].map(|ids| Page { ids, features: Vec::new() });
        let two = vectors(Output::Logits, &pages, 2, &[2, 1], &[0.5, 2.5]).unwrap();
        assert_eq!(two, [[0.5], [2.5]]);
        let none = vectors(Output::Logits, &pages, 2, &[2, 1], &[0.5, f32::NAN]).unwrap_err();
        assert_eq!(none, "`logits` is NaN for a page");
        let six = vectors(Output::Logits, &pages, 2, &[2, 6], &[0.0; 12]).unwrap_err();
        assert!(six.contains("`logits` has shape [2, 6], expected logits, f32 [pages, 1]"), "{six}");
        let states = [2.0, 0.0, 4.0, 0.0, 0.0, 3.0, 9.0, 9.0];
        let pooled = |pooling| vectors(Output::HiddenState(pooling), &pages, 2, &[2, 2, 2], &states).unwrap();
        assert_eq!(pooled(Pooling::MeanL2), [[1.0, 0.0], [0.0, 1.0]]);
        let states = [0.0, 2.0, 4.0, 0.0, 3.0, 0.0, 9.0, 9.0];
        let first = vectors(Output::HiddenState(Pooling::ClsL2), &pages, 2, &[2, 2, 2], &states).unwrap();
        assert_eq!(first, [[0.0, 1.0], [1.0, 0.0]]);
    }
}
