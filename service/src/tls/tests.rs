use std::path::PathBuf;
use std::time::Duration;

use axum::serve::Listener;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn files(&self) -> TlsFiles {
        TlsFiles { certificate: self.path("cert.pem"), key: self.path("key.pem") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a certificate for `localhost` that ends in a year; the certificate.
    fn certify(&self, year: i32) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(self.path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()
    }
}

fn refusal(files: &TlsFiles) -> String {
    Certificates::read(files.clone()).unwrap_err().to_string()
}

#[test]
fn each_mistake_names_its_file_and_the_mend() {
    let folder = Folder::new();
    let files = folder.files();
    let error = refusal(&files);
    assert!(error.contains("cert.pem") && error.contains("--tls-cert"), "{error}");
    folder.certify(2120);
    assert!(Certificates::read(files.clone()).unwrap().expires().to_string().starts_with("2120-01-01"));
    std::fs::remove_file(&files.key).unwrap();
    let error = refusal(&files);
    assert!(error.contains("key.pem") && error.contains("--tls-key"), "{error}");
    for wrong in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        std::fs::write(&files.key, wrong).unwrap();
        let error = refusal(&files);
        assert!(error.contains("key.pem holds no"), "{wrong}: {error}");
    }
    folder.certify(2120);
    for wrong in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&files.certificate, wrong).unwrap();
        let error = refusal(&files);
        assert!(error.contains("cert.pem holds no certificate"), "{wrong}: {error}");
    }
    folder.certify(2120);
    let key = std::fs::read(&files.key).unwrap();
    folder.certify(2120);
    std::fs::write(&files.key, key).unwrap();
    let error = refusal(&files);
    assert!(error.contains("is not that of the certificate"), "{error}");
    folder.certify(2021);
    let error = refusal(&files);
    assert!(error.contains("expired at 2021-01-01") && error.contains("renewed"), "{error}");
}

/// Shakes hands, trusting one certificate, in a version; the word that the other side sends.
async fn hello(
    address: std::net::SocketAddr,
    trusted: &CertificateDer<'static>,
    version: &'static rustls::SupportedProtocolVersion,
) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let mut said = [0; 5];
    stream.read_exact(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// A server that greets each connection.
async fn greeter(certificates: Arc<Certificates>, patience: Duration) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = TlsListener::patient(listener, certificates, patience).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await;
            stream.write_all(b"hello").await.unwrap();
            // The other side may be gone by now.
            let _ = stream.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn both_versions_are_spoken_and_a_stalled_handshake_holds_nobody_up() {
    let folder = Folder::new();
    let trusted = folder.certify(2120);
    let certificates = Certificates::read(folder.files()).unwrap();
    let address = greeter(certificates.clone(), LONG).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(TcpStream::connect(address).await.unwrap());
    }
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let said = tokio::time::timeout(LONG, hello(address, &trusted, version)).await;
        assert_eq!(said.unwrap().unwrap(), "hello");
    }
    // Who never shakes hands is sent away in the end.
    let address = greeter(certificates, Duration::from_millis(50)).await;
    let mut stalled = TcpStream::connect(address).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(LONG, stalled.read(&mut byte)).await;
    assert_eq!(read.unwrap().unwrap_or(0), 0);
}

#[tokio::test]
async fn renewed_files_are_taken_up_and_bad_ones_are_not() {
    let folder = Folder::new();
    let first = folder.certify(2120);
    let certificates = Certificates::read(folder.files()).unwrap();
    let address = greeter(certificates.clone(), LONG).await;
    let keeping = tokio::spawn(certificates.clone().keep_fresh(Duration::from_millis(10)));
    let version = &rustls::version::TLS13;
    assert_eq!(hello(address, &first, version).await.unwrap(), "hello");
    std::fs::write(folder.path("cert.pem"), "half of a ").unwrap();
    assert!(certificates.refresh().is_err());
    assert_eq!(hello(address, &first, version).await.unwrap(), "hello");
    let second = folder.certify(2121);
    let taken_up = async {
        while !certificates.expires().to_string().starts_with("2121") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, taken_up).await.unwrap();
    assert_eq!(hello(address, &second, version).await.unwrap(), "hello");
    assert!(hello(address, &first, version).await.is_err());
    keeping.abort();
}
