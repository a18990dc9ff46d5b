//! Accepts connections over TLS. Handshakes run side by side, so that one that stalls holds nobody up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::Certificates;

/// A client that has not shaken hands in this time is sent away.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes side by side; further connections wait in the kernel's queue.
const MOST_HANDSHAKES: usize = 1_024;
/// Connections that wait to be taken.
const MOST_WAITING: usize = 64;
/// The rest after an error of the port, such as too many open files.
const REST: Duration = Duration::from_secs(1);

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// A port that speaks TLS.
pub(crate) struct TlsListener {
    address: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
    _accepting: AbortOnDropHandle<()>,
}

impl TlsListener {
    /// Begins to accept.
    pub(crate) fn new(listener: TcpListener, certificates: Arc<Certificates>) -> io::Result<Self> {
        Self::patient(listener, certificates, HANDSHAKE)
    }

    pub(super) fn patient(
        listener: TcpListener,
        certificates: Arc<Certificates>,
        patience: Duration,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(MOST_WAITING);
        let accepting = tokio::spawn(accept_all(listener, certificates, sender, patience));
        Ok(Self { address, accepted, _accepting: AbortOnDropHandle::new(accepting) })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The accepting task ends with this listener only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

async fn accept_all(
    listener: TcpListener,
    certificates: Arc<Certificates>,
    sender: mpsc::Sender<Accepted>,
    patience: Duration,
) {
    let places = Arc::new(Semaphore::new(MOST_HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "a connection cannot be accepted");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let (acceptor, sender) = (TlsAcceptor::from(certificates.config()), sender.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(patience, acceptor.accept(stream)).await;
            drop(place);
            match shaken {
                Ok(Ok(stream)) => {
                    // Fails only when the service ends.
                    let _ = sender.send((stream, peer)).await;
                }
                // Port scans and clients that do not trust the certificate are no news.
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS came about"),
                Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
            }
        });
    }
}
