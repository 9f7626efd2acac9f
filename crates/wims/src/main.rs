//! WIMS: event-driven order intake for a warehouse, in one binary.
//!
//! Start reading at `stack.rs`, the whole system on one screen; then a construct of your choice,
//! then its functions in `fns`.

mod bench;
mod cli;
mod constructs;
mod domain;
mod fns;
mod http;
mod sandbox;
mod simulate;

mod stack;

/// Documents are made on one thread and dropped on another all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
