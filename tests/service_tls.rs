//! `pipeline serve` over TLS.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the result of the test")]

#[path = "support/certify.rs"]
mod certify;
#[path = "support/service.rs"]
mod place;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use certify::Authority;
use place::{PATIENCE, Place, Served, text, wait_until};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use support::{pipeline, run};

fn token(place: &Place) -> String {
    let said =
        run(pipeline().args(["token", "create", "a", "--scope", "read", "--data", &text(&place.data())]));
    said.out.trim().to_owned()
}

/// A connection that trusts the authority.
fn connect(
    served: &Served,
    authority: &Authority,
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(&served.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    rustls::StreamOwned::new(connection, stream)
}

/// The head of an answer, in lower case, and the certificate that came with it.
fn ask(served: &Served, authority: &Authority, method: &str, path: &str, body: &str) -> (String, Vec<u8>) {
    let mut stream = connect(served, authority);
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        served.address,
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // An end without a farewell is no error here.
    let _ = stream.read_to_end(&mut answer);
    let certificate = stream.conn.peer_certificates().unwrap()[0].to_vec();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.split("\r\n\r\n").next().unwrap().to_lowercase(), certificate)
}

#[test]
fn the_service_speaks_tls_and_the_command_line_with_it() {
    let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(folder.path());
    authority.certify(2120);
    let [certificate, key] = authority.files();
    let token = token(&place);
    let files = ["--tls-cert", certificate.as_str(), "--tls-key", key.as_str()];
    // Who never shakes hands holds nobody up.
    let served = place.serve(&files);
    let _stalled: Vec<_> = (0..10).map(|_| TcpStream::connect(&served.address).unwrap()).collect();
    let (head, first) = ask(&served, &authority, "POST", "/login", &format!("token={token}"));
    assert!(head.starts_with("http/1.1 303"), "{head}");
    assert!(head.contains("strict-transport-security: max-age=31536000"), "{head}");
    assert!(head.contains("set-cookie: corpusmith_token=") && head.contains("; secure"), "{head}");
    // In the clear nothing is said.
    let mut plain = TcpStream::connect(&served.address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"));
    // The command line trusts the authority that it is told of, and only then.
    let url = format!("https://{}", served.address);
    let ls = || {
        let mut command = pipeline();
        command.args(["--server", &url, "ls"]).env("CORPUSMITH_TOKEN", &token);
        command
    };
    let refused = run(&mut ls());
    assert!(refused.code == Some(1) && refused.err.contains("certificate"), "{}", refused.err);
    let said = run(ls().env("CORPUSMITH_CA_FILE", authority.file()));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let said = run(ls().env("CORPUSMITH_CA_FILE", &key));
    assert!(said.code == Some(1) && said.err.contains("CORPUSMITH_CA_FILE"), "{}", said.err);
    // Renewed files are taken up while the service works.
    authority.certify(2121);
    wait_until("the renewed certificate", || ask(&served, &authority, "GET", "/health", "").1 != first);
}

#[test]
fn what_cannot_serve_tls_is_named() {
    let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(folder.path());
    authority.certify(2120);
    let [certificate, key] = authority.files();
    let old = std::fs::read(&key).unwrap();
    let serve = |arguments: &[&str]| {
        let mut command = pipeline();
        command.arg("serve").arg("--data").arg(place.data()).arg("--workflows").arg(place.workflows());
        run(command.args(arguments))
    };
    let with = |certificate: &str, key: &str| {
        serve(&["--listen", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key])
    };
    for (said, word) in [
        (with("missing.pem", &key), "missing.pem"),
        (with(&certificate, "missing.pem"), "missing.pem"),
        (with(&key, &key), "holds no certificate"),
        (with(&certificate, &certificate), "holds no private key"),
        (serve(&["--tls-cert", &certificate]), "--tls-key"),
        (serve(&["--listen", "0.0.0.0:0"]), "--tls-cert"),
    ] {
        assert!(said.code == Some(2) && said.err.contains(word), "{word}: {}", said.err);
    }
    authority.certify(2120);
    std::fs::write(&key, old).unwrap();
    let said = with(&certificate, &key);
    assert!(said.code == Some(2) && said.err.contains("not that of the certificate"), "{}", said.err);
    authority.certify(2021);
    let said = with(&certificate, &key);
    assert!(said.code == Some(2) && said.err.contains("expired at 2021"), "{}", said.err);
    // TLS does not make up for a missing token on an address that others reach; with both it is served.
    authority.certify(2120);
    let public = ["--listen", "0.0.0.0:0", "--tls-cert", certificate.as_str(), "--tls-key", key.as_str()];
    let said = serve(&public);
    assert!(said.code == Some(2) && said.err.contains("there is no token"), "{}", said.err);
    token(&place);
    drop(place.serve(&public[2..]));
}
