//! Who may come in to `wims serve`: tokens, TLS and limits, as its flags have them.
//!
//! Promise: beyond loopback nobody comes in without a token, and no token goes over the wire
//! unencrypted; what does not work is refused before anything is touched.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;
use tokio_rustls::TlsAcceptor;

use crate::cli::{EXIT_CONFIG, EXIT_UNAVAILABLE, Failure, token};
use crate::http::auth::{self, Guard};
use crate::http::server::Entrance;
use crate::http::tls::{self, TlsError};
use crate::http::tokens::{self, Stamp, Tokens};

/// Requests a second of one client beyond loopback, unless told otherwise: more than a shop sends,
/// and a small part of what the server takes.
const RATE_BEYOND_LOOPBACK: u32 = 1_000;

/// The flags.
#[derive(Args)]
pub struct EntranceArgs {
    /// Ask for a token on loopback too, as behind a reverse proxy on this machine; elsewhere it is
    /// always asked for. See `wims token`
    #[arg(long, env = "WIMS_REQUIRE_TOKENS", value_parser = BoolishValueParser::new())]
    require_tokens: bool,
    /// A reverse proxy in front ends TLS; tokens are asked for
    #[arg(long, env = "WIMS_BEHIND_PROXY", value_parser = BoolishValueParser::new())]
    behind_proxy: bool,
    /// PEM file of the server's certificate, those that signed it behind
    #[arg(long, env = "WIMS_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, env = "WIMS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Requests a second of one token, or of one address where there is no token, twice as many at
    /// once; 0 for any number [default: any number on loopback, else 1000]
    #[arg(long, env = "WIMS_RATE_LIMIT", value_name = "N",
        value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    rate_limit: Option<u32>,
}

impl EntranceArgs {
    /// What requests pass at this address; from now on changes of the tokens are seen.
    ///
    /// # Errors
    /// When others could come in unprotected or nobody could, or when a file does not work.
    pub fn open(&self, listen: SocketAddr, data_dir: &Path) -> Result<Entrance, Failure> {
        let is_local = listen.ip().is_loopback();
        let tls = self.acceptor()?;
        let mut lacks = Vec::new();
        if !is_local && tls.is_none() && !self.behind_proxy {
            lacks.push(format!(
                "{listen} is not a loopback address: give --tls-cert and --tls-key, or \
                 --behind-proxy when a reverse proxy in front ends TLS"
            ));
        }
        let wants_tokens = !is_local || self.require_tokens || self.behind_proxy;
        let path = data_dir.join(tokens::FILE);
        let known = if wants_tokens {
            tokens::read(&path).map_err(|error| token::failure(&error))?
        } else {
            None
        };
        if wants_tokens && known.as_ref().is_none_or(|(tokens, _)| tokens.is_empty()) {
            let command = token::first_command(data_dir);
            lacks.push(format!("there is no token, so that nobody could ask; make one: {command}"));
        }
        if !lacks.is_empty() {
            return Err(Failure::new(EXIT_CONFIG, lacks.join("; ")));
        }
        let per_second = self.rate_limit.unwrap_or(if is_local { 0 } else { RATE_BEYOND_LOOPBACK });
        Ok(Entrance { guard: guard(path, known, NonZeroU32::new(per_second))?, tls })
    }

    fn acceptor(&self) -> Result<Option<TlsAcceptor>, Failure> {
        // One without the other is a wrong usage that the command line refuses.
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let failed = |error: TlsError| Failure::new(EXIT_CONFIG, format!("failed to {error}"));
        tls::acceptor(cert, key).map(Some).map_err(failed)
    }
}

/// A guard, unless there is nothing to look at; it sees when the tokens change.
fn guard(
    path: PathBuf,
    known: Option<(Tokens, Stamp)>,
    per_second: Option<NonZeroU32>,
) -> Result<Option<Arc<Guard>>, Failure> {
    let Some((tokens, stamp)) = known else {
        return Ok(per_second.map(|_| Arc::new(Guard::new(None, per_second))));
    };
    let guard = Arc::new(Guard::new(Some(tokens), per_second));
    auth::watch(&guard, path, stamp).map_err(|error| Failure::new(EXIT_UNAVAILABLE, error))?;
    Ok(Some(guard))
}
