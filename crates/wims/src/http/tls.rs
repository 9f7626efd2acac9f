//! TLS for the API: a certificate and its key from files, and the handshake.
//!
//! Promise: files that do not work are told by name before anything else is done; a client that does
//! not finish its handshake holds its place for seconds only. It deliberately asks no client for a
//! certificate (tokens say who asks), and reads the files once: new ones need a new start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// A handshake is two round trips; whoever takes longer means something else.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why TLS does not work.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of the certificate is damaged, or has none.
    #[error("use {}: it is no PEM file of certificates", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file of the key is damaged, or has none.
    #[error("use {}: it is no PEM file of a private key that is not encrypted", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not work, or not with each other.
    #[error("use the certificate {} with the key {}: {reason}", .cert.display(), .key.display())]
    Unfit {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls says.
        reason: tokio_rustls::rustls::Error,
    },
}

/// Makes what accepts TLS connections, of a PEM file with the server's certificate first and those
/// that signed it behind, and of one with its private key.
///
/// # Errors
/// When the files do not work.
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pem = read(cert)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| TlsError::NoCertificate { path: cert.to_owned() })?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|_| TlsError::NoKey { path: key.to_owned() })?;
    let unfit = |reason| TlsError::Unfit { cert: cert.to_owned(), key: key.to_owned(), reason };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

/// Does the handshake; none when the client does not, or when the server stops meanwhile. Who
/// speaks no TLS here is no trouble of ours, and not logged: anybody may knock.
pub async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    acceptor: &TlsAcceptor,
    stream: S,
    stop: &mut oneshot::Receiver<()>,
) -> Option<TlsStream<S>> {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    tokio::select! {
        made = handshake => made.ok().and_then(Result::ok),
        _ = stop => None,
    }
}
