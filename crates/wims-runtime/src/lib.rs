//! Runs a stack in one process: journal, engine, table, stream, pipes, bus, queues, topics,
//! workflows, pacing.
//!
//! Promise: what was acknowledged is durable and takes effect once. The engine and all it is
//! made of are synchronous state machines; only [`driver`] touches threads, files and sockets.
//! It deliberately knows no order and no MacGuffin.

pub mod digest;
pub mod driver;
pub mod engine;
pub mod frame;
pub mod functions;
pub mod histogram;
pub mod io;
pub mod items;
pub mod journal;
pub mod keys;
pub mod messages;
pub mod pacing;
pub mod plan;
pub mod record;
pub mod recovery;
pub mod replay;
pub mod sim;
pub mod state;
pub mod stuck;
pub mod trace;

mod api_pipe;
mod bus;
mod dead_letter;
mod fnv;
mod leftovers;
mod mails;
mod notices;
mod query;
mod slots;
mod stopwatch;
mod sweep;
mod transact;
mod workflow;

pub use engine::{Engine, EngineBugs, EngineOptions, StartError};
pub use functions::{Function, Functions};

#[cfg(test)]
mod quiet;
