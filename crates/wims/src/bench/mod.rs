//! `wims bench`: measures, prints ratios, reconciles. Never a test: no figure here is asserted.

pub mod article;
pub mod child;
pub mod engine;
pub mod generator;
pub mod load;
pub mod noop;
pub mod v1;

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use crate::cli::{EXIT_REFUSED, EXIT_UNAVAILABLE, Failure};

/// What can be measured.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    wims bench load  # orders a second, in minutes\n  \
    wims bench article --orders 100  # the article's script, its payments in 20 s\n  \
    wims bench engine  # the engine alone, in seconds\n\n\
    Exits with 1 when a run does not reconcile; article with 130 when it is interrupted.")]
pub enum BenchCommand {
    /// Orders a second until settled, against a bare no-op server, alternating
    Load(load::LoadArgs),
    /// The article's benchmark: its first design against this one, side by side
    Article(article::ArticleArgs),
    /// What an order costs the engine alone: no disk, no HTTP
    Engine(engine::EngineArgs),
    /// The no-op server alone
    #[command(hide = true)]
    Noop(NoopArgs),
}

/// What the no-op server takes.
#[derive(Args)]
#[command(after_help = "Example:\n  wims bench noop --listen 127.0.0.1:9000")]
pub struct NoopArgs {
    /// Where it listens
    #[arg(long, env = "WIMS_BENCH_NOOP_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// With the accept loops and the parser of serve
    #[arg(long, env = "WIMS_BENCH_NOOP_OWN", value_parser = clap::builder::BoolishValueParser::new())]
    own: bool,
}

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A server could not be started or asked.
    #[error("failed to start or ask a server: {0}")]
    Child(#[source] std::io::Error),
    /// A server printed no URL.
    #[error("a server ended before it printed its URL; what it said stands above")]
    NoUrl,
    /// The generator could not do its work.
    #[error("failed to {0}")]
    Load(#[from] generator::LoadError),
    /// The books do not balance.
    #[error("the run does not reconcile: {0}")]
    Reconcile(String),
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Failure {
        let code = match error {
            BenchError::Reconcile(_) => EXIT_REFUSED,
            BenchError::Child(_) | BenchError::NoUrl | BenchError::Load(_) => EXIT_UNAVAILABLE,
        };
        Failure::new(code, error)
    }
}

/// Measures.
///
/// # Errors
/// When a server does not start, a run does not reconcile or a signal ends it.
pub fn run(command: &BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Load(args) => load::run(args),
        BenchCommand::Article(args) => article::run(args),
        BenchCommand::Engine(args) => engine::run(args),
        BenchCommand::Noop(args) => {
            let run = if args.own { noop::run_own } else { noop::run };
            run(args.listen).map_err(|error| Failure::new(EXIT_UNAVAILABLE, error))
        }
    }
}
