//! The simulator: the same engine under a seeded scheduler and in a hostile world.
//!
//! Promise: a seed reproduces a run to the bit. The disk loses what was not synced and misreads
//! bits, completions come late and in any order, so do events where that is asked for, and come
//! again; the process dies at submissions and in recoveries, clocks jump; and after each death the
//! recovered state is the live state at the last durable frame, or the run fails. It deliberately
//! knows no business: what is asked, what the world outside answers and what must hold of it are
//! an [`Outside`]'s. Threads, files and sockets are absent, so the driver is the one part of the
//! runtime that is not simulated.

mod crash;
pub mod disk;
pub mod history;
#[cfg(test)]
mod tests;
mod trace;
pub mod world;

pub use history::SimHistory;
pub use world::{Counts, Outside, Verdict, Violation, World, WorldOptions};
