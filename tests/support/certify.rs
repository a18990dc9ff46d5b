//! Certificates of an authority of a test's own.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

/// An authority whose certificate lies in a file.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    /// A new one, with its certificate in `ca.pem` of the folder.
    pub fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder: folder.to_owned() }
    }

    /// The authority's certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Writes `cert.pem` and `key.pem` for this machine, until a year; the certificate.
    pub fn certify(&self, year: i32) -> String {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.folder.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.folder.join("key.pem"), key.serialize_pem()).unwrap();
        certificate.pem()
    }

    /// The certificate's file and that of its key.
    pub fn files(&self) -> [String; 2] {
        ["cert.pem", "key.pem"].map(|name| self.folder.join(name).display().to_string())
    }
}
