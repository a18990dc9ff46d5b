//! The shape of a SmolLM model.

use serde::{Deserialize, Serialize};

/// The published sizes, and one small enough to train in a minute on a laptop.
///
/// Source: huggingface/smollm `text/pretraining/smollm1/config_smollm1_{135M,360M,1B}.yaml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Preset {
    /// SmolLM-135M.
    #[default]
    #[serde(rename = "135m")]
    M135,
    /// SmolLM-360M.
    #[serde(rename = "360m")]
    M360,
    /// SmolLM-1.7B.
    #[serde(rename = "1.7b")]
    B1_7,
    /// About 3.4 million parameters with a vocabulary of 4,096: for the sample profile.
    #[serde(rename = "sample")]
    Sample,
}

/// A preset with single fields replaced; what a workflow file holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelOptions {
    /// The published size to start from: `135m`, `360m`, `1.7b` or `sample`.
    pub preset: Preset,
    /// Vocabulary size (entries); the tokenizer's size must not exceed it.
    pub vocab_size: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Width of the feed-forward layer.
    pub intermediate_size: Option<usize>,
    /// Number of transformer layers.
    pub layers: Option<usize>,
    /// Number of query heads.
    pub heads: Option<usize>,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: Option<usize>,
    /// Longest context the model is declared for (tokens).
    pub context_tokens: Option<usize>,
    /// Base of the rotary position embedding's frequencies.
    pub rope_theta: Option<f64>,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: Option<f64>,
    /// Whether the embedding table is also the output layer, as in every published SmolLM.
    pub tied_embeddings: Option<bool>,
}

/// The complete shape of a Llama-architecture model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Vocabulary size (entries).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Longest context the model is declared for (tokens).
    pub context_tokens: usize,
    /// Base of the rotary position embedding's frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the embedding table is also the output layer.
    #[serde(default = "tied")]
    pub tied_embeddings: bool,
}

/// What checkpoints without the field are.
fn tied() -> bool {
    true
}

/// Why a model shape cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A field is zero or out of range.
    #[error("model.{field} = {value} is not usable: {rule}; change it in the model options")]
    Field {
        /// The option's name.
        field: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The parameter count does not fit in memory arithmetic.
    #[error("the model has too many parameters to address; lower hidden_size, layers or vocab_size")]
    TooLarge,
}

impl ModelOptions {
    /// The full shape: the preset, then the replaced fields.
    ///
    /// # Errors
    /// [`ConfigError`] if the shape is inconsistent.
    pub fn resolve(&self) -> Result<ModelConfig, ConfigError> {
        let base = ModelConfig::preset(self.preset);
        let config = ModelConfig {
            vocab_size: self.vocab_size.unwrap_or(base.vocab_size),
            hidden_size: self.hidden_size.unwrap_or(base.hidden_size),
            intermediate_size: self.intermediate_size.unwrap_or(base.intermediate_size),
            layers: self.layers.unwrap_or(base.layers),
            heads: self.heads.unwrap_or(base.heads),
            kv_heads: self.kv_heads.unwrap_or(base.kv_heads),
            context_tokens: self.context_tokens.unwrap_or(base.context_tokens),
            rope_theta: self.rope_theta.unwrap_or(base.rope_theta),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(base.rms_norm_eps),
            tied_embeddings: self.tied_embeddings.unwrap_or(base.tied_embeddings),
        };
        config.check()?;
        Ok(config)
    }
}

impl From<Preset> for ModelOptions {
    fn from(preset: Preset) -> Self {
        Self { preset, ..Self::default() }
    }
}

impl ModelConfig {
    /// The shape of a published size.
    ///
    /// Source: huggingface/smollm `text/pretraining/smollm1/`.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        let shape = |hidden_size, intermediate_size, layers, heads, kv_heads| Self {
            vocab_size: 49_152,
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            context_tokens: 2_048,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tied_embeddings: true,
        };
        match preset {
            Preset::M135 => shape(576, 1_536, 30, 9, 3),
            Preset::M360 => shape(960, 2_560, 32, 15, 5),
            Preset::B1_7 => shape(2_048, 8_192, 24, 32, 32),
            Preset::Sample => Self { vocab_size: 4_096, context_tokens: 256, ..shape(192, 512, 6, 3, 3) },
        }
    }

    /// Width of one attention head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// Width of the fused query, key and value projection.
    #[must_use]
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim()
    }

    /// Checks that the fields fit together.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first field that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |field, value: &dyn std::fmt::Display, rule| {
            Err(ConfigError::Field { field, value: value.to_string(), rule })
        };
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("context_tokens", self.context_tokens),
        ] {
            if value == 0 || value > 1 << 24 {
                return bad(field, &value, "it must lie between 1 and 16,777,216");
            }
        }
        if !self.hidden_size.is_multiple_of(self.heads) {
            return bad("heads", &self.heads, "it must divide hidden_size");
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad("kv_heads", &self.kv_heads, "it must divide heads");
        }
        if !self.head_dim().is_multiple_of(2) {
            return bad("heads", &self.heads, "hidden_size / heads must be even, for the rotary embedding");
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return bad("rope_theta", &self.rope_theta, "it must be above 1");
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps > 0.0) {
            return bad("rms_norm_eps", &self.rms_norm_eps, "it must be above 0");
        }
        self.parameters().map(|_| ())
    }

    /// Number of trained parameters (an embedding that is also the output layer counts once).
    ///
    /// # Errors
    /// [`ConfigError::TooLarge`] if the count overflows.
    pub fn parameters(&self) -> Result<usize, ConfigError> {
        let hidden = self.hidden_size as u128;
        let layer = 2 * hidden
            + hidden * self.qkv_width() as u128
            + hidden * hidden
            + 3 * hidden * self.intermediate_size as u128;
        let tables = if self.tied_embeddings { 1 } else { 2 };
        let total = tables * self.vocab_size as u128 * hidden + self.layers as u128 * layer + hidden;
        // Bytes of f32 must be addressable too.
        if total > (isize::MAX as u128) / 4 {
            return Err(ConfigError::TooLarge);
        }
        Ok(total as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_published_parameter_counts() {
        let count = |preset| ModelConfig::preset(preset).parameters().unwrap();
        assert_eq!(count(Preset::M135), 134_515_008);
        assert_eq!(count(Preset::M360), 361_821_120);
        assert_eq!(count(Preset::B1_7), 1_711_376_384);
        assert!(count(Preset::Sample) < 5_000_000);
    }

    #[test]
    fn one_field_can_be_replaced_and_bad_shapes_are_named() {
        let options: ModelOptions = serde_json::from_str(r#"{"preset": "360m", "layers": 2}"#).unwrap();
        let config = options.resolve().unwrap();
        assert_eq!((config.hidden_size, config.layers), (960, 2));
        let error = ModelOptions { heads: Some(7), ..options.clone() }.resolve().unwrap_err().to_string();
        assert!(error.contains("model.heads = 7"), "{error}");
        assert!(ModelOptions { layers: Some(0), ..options.clone() }.resolve().is_err());
        assert!(
            ModelOptions {
                layers: Some(1 << 24),
                hidden_size: Some(1 << 24),
                heads: Some(1),
                kv_heads: Some(1),
                intermediate_size: Some(1 << 24),
                ..options
            }
            .resolve()
            .is_err()
        );
        assert!(serde_json::from_str::<ModelOptions>(r#"{"layer": 2}"#).is_err());
    }
}
