//! Where ONNX Runtime computes: processors besides the CPU.

use crate::BackboneError;
use ort::ep::{CUDA, CoreML, ExecutionProvider, ExecutionProviderDispatch, TensorRT};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An execution provider of ONNX Runtime. The library that `pipeline assets pull` fetches has the CPU's
/// only (on macOS CoreML too); others need a library built with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// The CPU; it is always there, and takes what the others cannot.
    Cpu,
    /// NVIDIA's CUDA.
    Cuda,
    /// NVIDIA's TensorRT.
    TensorRt,
    /// Apple's CoreML.
    CoreMl,
}

impl Provider {
    /// The name by which ONNX Runtime knows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => ort::ep::CPU::NAME,
            Self::Cuda => CUDA::NAME,
            Self::TensorRt => TensorRT::NAME,
            Self::CoreMl => CoreML::NAME,
        }
    }

    fn is_available(self) -> bool {
        let is_available = match self {
            Self::Cpu => Ok(true),
            Self::Cuda => CUDA::is_available(),
            Self::TensorRt => TensorRT::is_available(),
            Self::CoreMl => CoreML::is_available(),
        };
        is_available.unwrap_or(false)
    }

    /// For a session, which does not open if the provider fails. The CPU needs no asking.
    pub(crate) fn dispatch(self) -> Option<ExecutionProviderDispatch> {
        let dispatch = match self {
            Self::Cpu => return None,
            Self::Cuda => CUDA::default().build(),
            Self::TensorRt => TensorRT::default().build(),
            Self::CoreMl => CoreML::default().build(),
        };
        Some(dispatch.error_on_failure())
    }

    /// Checks that the loaded library has all of them.
    pub(crate) fn check(providers: &[Self]) -> Result<(), BackboneError> {
        match providers.iter().find(|provider| !provider.is_available()) {
            Some(missing) => Err(BackboneError::NoProvider { provider: missing.name() }),
            None => Ok(()),
        }
    }
}
