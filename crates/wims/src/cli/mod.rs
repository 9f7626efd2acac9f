//! The command line: one binary, its roles as subcommands.
//!
//! Promise: `--help` teaches, each flag is also an environment variable, and exit codes mean what
//! the table below says. Trouble of the user's making is told in one plain sentence.
//! A variable is `WIMS_`, the command and the flag, as `WIMS_ORDER_LIST_LIMIT`, so that none meant
//! for one command surprises another. Without the command are those that mean the same everywhere,
//! `WIMS_URL`, `WIMS_TOKEN_FILE`, `WIMS_CA`, `WIMS_JSON`, `WIMS_DATA_DIR` and `WIMS_STACK`, and
//! those of `serve`; both sandboxes share `WIMS_SANDBOX_...`. A flag that is given wins over its
//! variable. Secrets are variables or files only: anybody may read a command line.

pub mod backup;
pub mod client;
pub mod descriptors;
pub mod entrance;
pub mod mail_templates;
pub mod serve;
pub mod simulate;
pub mod stack;
pub mod token;

use std::io::Write;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::bench::{self, BenchCommand};
use crate::cli::client::customer::{self, CustomerCommand};
use crate::cli::client::inventory::{self, InventoryCommand};
use crate::cli::client::leftover::{self, LeftoverCommand};
use crate::cli::client::log::{self, LogCommand};
use crate::cli::client::order::{self, OrderCommand};
use crate::cli::client::queue::{self, QueueCommand};
use crate::cli::token::TokenCommand;
use crate::sandbox::{Sandbox, SandboxError, SandboxOptions};

/// Event-driven order intake for a warehouse, in one binary.
#[derive(Parser)]
#[command(
    version,
    about,
    long_about = "Event-driven order intake for a warehouse, in one binary.\n\nIt says yes to a \
        customer as soon as the order is on disk, and then makes everything else happen exactly \
        once in effect: stock reserved, payment charged at the pace the payments provider takes, \
        fulfilment.",
    after_help = "Exit codes: 0 well, 1 the request was refused or found nothing, a simulation \
        broke a promise or a benchmark does not reconcile, 2 wrong usage, 69 a server or port is \
        not available, 70 the engine met a bug and stopped, 73 the data directory or a file cannot \
        be used, or history.db and the journal are not of one backup, 74 the journal could not be \
        written, or not to its end in a stop, 78 the stack or a setting is wrong, 130 a benchmark \
        was interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take orders: the HTTP API, the engine and, unless told otherwise, the payments sandbox
    Serve(Box<serve::ServeArgs>),
    /// Run the payments sandbox alone: a payments API that throttles, declines and has bad days
    PaymentsSandbox(PaymentsSandboxArgs),
    /// Place, look at and ship orders
    #[command(subcommand)]
    Order(OrderCommand),
    /// Erase what is personal of a customer
    #[command(subcommand)]
    Customer(CustomerCommand),
    /// Look at, describe and receive stock
    #[command(subcommand)]
    Inventory(InventoryCommand),
    /// Look at queues, and send dead letters back
    #[command(subcommand)]
    Queue(QueueCommand),
    /// See and drop what the stack no longer has
    #[command(subcommand)]
    Leftover(LeftoverCommand),
    /// Read the log of events, once or as it grows
    #[command(subcommand)]
    Log(LogCommand),
    /// Make, list and revoke the tokens that the API asks for
    #[command(subcommand)]
    Token(TokenCommand),
    /// Copy the data directory while the server runs, or prove that a copy is whole
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup
    Restore(backup::RestoreArgs),
    /// Draw the stack: as text, Mermaid or JSON
    Graph(stack::GraphArgs),
    /// Find what is wrong with the stack: dangling references, rules that never match, cycles
    Check(stack::CheckArgs),
    /// Run the whole system in a hostile simulated world and check that nothing is lost
    Simulate(simulate::SimulateArgs),
    /// Measure this machine: orders a second against a bare server
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// Bad days and pace of the sandbox.
#[derive(Args, Clone)]
#[command(after_help = "Examples:\n  \
    wims payments-sandbox  # on 127.0.0.1:8081, 5 calls a second\n  \
    wims payments-sandbox --rate 1 --burst 1  # it throttles early\n  \
    wims payments-sandbox --error-percent 30 --delay-ms 2000  # a bad day\n  \
    wims serve --payments-url http://127.0.0.1:8081  # a server that pays there")]
struct PaymentsSandboxArgs {
    /// Where it listens
    #[arg(long, env = "WIMS_SANDBOX_LISTEN", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// Where its ledger of payments is
    #[arg(long, env = "WIMS_SANDBOX_LEDGER", default_value = "payments-ledger.jsonl")]
    ledger: PathBuf,
    /// Calls a second it takes
    #[arg(long, env = "WIMS_SANDBOX_RATE", default_value_t = 5.0, value_parser = calls_per_second)]
    rate: f64,
    /// Calls it takes at once
    #[arg(long, env = "WIMS_SANDBOX_BURST", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..))]
    burst: u32,
    /// Percent of payments it declines
    #[arg(long, env = "WIMS_SANDBOX_DECLINE_PERCENT", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    decline_percent: u8,
    /// Percent of calls it answers with 500
    #[arg(long, env = "WIMS_SANDBOX_ERROR_PERCENT", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    error_percent: u8,
    /// Percent of refunds it answers with 500
    #[arg(long, env = "WIMS_SANDBOX_REFUND_ERROR_PERCENT", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    refund_error_percent: u8,
    /// Wait before each answer, in milliseconds
    #[arg(long, env = "WIMS_SANDBOX_DELAY_MS", default_value_t = 0)]
    delay_ms: u64,
    /// Charge, then cut the connection, every so many charges; 0 for never
    #[arg(long, env = "WIMS_SANDBOX_DROP_AFTER_CHARGE_EVERY", default_value_t = 0)]
    drop_after_charge_every: u64,
    /// Charge this long after the call arrived, in milliseconds
    #[arg(long, env = "WIMS_SANDBOX_LATE_CHARGE_MS", default_value_t = 0)]
    late_charge_ms: u64,
}

/// Slower than a call in 100 seconds nothing gets done, faster than this no API is.
const CALLS_PER_SECOND: RangeInclusive<f64> = 0.01..=1e6;

/// The server refused, or found nothing; or what was run did not keep what it promises.
pub const EXIT_REFUSED: u8 = 1;
/// The service is not available: `EX_UNAVAILABLE`.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// The data directory, or a file to write, cannot be used: `EX_CANTCREAT`.
pub const EXIT_DATA_DIR: u8 = 73;
/// The stack or a setting is wrong: `EX_CONFIG`.
pub const EXIT_CONFIG: u8 = 78;

/// A failure with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What the user reads.
    pub message: String,
}

impl Failure {
    /// A failure that says `message`.
    pub fn new(code: u8, message: impl ToString) -> Failure {
        Failure { code, message: message.to_string() }
    }
}

/// Prints a line; a reader that has gone away, as `head` does, is no trouble.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Reads a rate in calls a second.
///
/// # Errors
/// When it is no number, or out of bounds.
pub fn calls_per_second(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| CALLS_PER_SECOND.contains(rate));
    rate.ok_or_else(|| "a rate is a number from 0.01 to 1000000 calls a second".to_owned())
}

/// Why the sandbox does not start; `option` says where it listens.
pub fn sandbox_failure(error: &SandboxError, option: &str) -> Failure {
    match error {
        SandboxError::AddressInUse { .. } => {
            Failure::new(EXIT_UNAVAILABLE, format!("failed to {error} with {option}"))
        }
        SandboxError::Listen { .. } | SandboxError::Writer { .. } => {
            Failure::new(EXIT_UNAVAILABLE, format!("failed to {error}"))
        }
        SandboxError::LedgerUnreadable { .. }
        | SandboxError::LedgerCorrupted { .. }
        | SandboxError::LedgerLocked { .. } => {
            Failure::new(EXIT_DATA_DIR, format!("failed to {error}"))
        }
    }
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(*args),
        Command::PaymentsSandbox(args) => payments_sandbox(args),
        Command::Order(command) => order::run(command),
        Command::Customer(command) => customer::run(command),
        Command::Inventory(command) => inventory::run(command),
        Command::Queue(command) => queue::run(command),
        Command::Leftover(command) => leftover::run(command),
        Command::Log(command) => log::run(command),
        Command::Token(command) => token::run(command),
        Command::Backup(args) => backup::make(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Graph(args) => stack::graph(&args),
        Command::Check(args) => stack::check(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Bench(command) => bench::run(&command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("wims: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// A runtime for one job.
///
/// # Errors
/// When the system has no threads or descriptors left for it.
pub fn block_on<T>(job: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::new(EXIT_UNAVAILABLE, error))?.block_on(job))
}

/// Ends when the process is asked to stop; from the call on, not only when it is awaited, being
/// asked does not kill the process.
pub fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut term), Ok(mut int)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    }
}

fn payments_sandbox(args: PaymentsSandboxArgs) -> Result<(), Failure> {
    let options = SandboxOptions {
        rate_per_second: args.rate,
        burst: args.burst,
        ledger: args.ledger,
        decline_percent: args.decline_percent,
        error_percent: args.error_percent,
        refund_error_percent: args.refund_error_percent,
        delay_ms: args.delay_ms,
        drop_after_charge_every: args.drop_after_charge_every,
        late_charge_ms: args.late_charge_ms,
    };
    serve::log_to_stderr();
    block_on(async move {
        let sandbox = Sandbox::bind(args.listen, options)
            .await
            .map_err(|error| sandbox_failure(&error, "--listen"))?;
        let asked_to_stop = stop_signal();
        println!("http://{}", sandbox.local_addr());
        sandbox.run(asked_to_stop).await;
        Ok(())
    })?
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    /// Flags that mean the same in every command that has them.
    const SHARED: [&str; 6] = ["url", "token-file", "ca", "json", "data-dir", "stack"];

    /// A command and all those below it, with their paths: `order list`.
    fn commands<'a>(command: &'a clap::Command, path: &str) -> Vec<(String, &'a clap::Command)> {
        let mut commands = vec![(path.to_owned(), command)];
        for below in command.get_subcommands() {
            let path = format!("{path} {}", below.get_name());
            commands.extend(self::commands(below, path.trim()));
        }
        commands
    }

    /// All flags: command, flag, variable. Those clap adds itself, `--help` and `--version`, are
    /// not among them.
    fn flags(root: &clap::Command) -> Vec<[String; 3]> {
        let mut flags = Vec::new();
        for (path, command) in commands(root, "") {
            for flag in command.get_arguments() {
                let Some(name) = flag.get_long() else { continue };
                let variable = flag.get_env().unwrap_or_default().to_string_lossy();
                flags.push([path.clone(), name.to_owned(), variable.into_owned()]);
            }
        }
        flags
    }

    /// The variable that a flag is to have.
    fn variable(path: &str, name: &str) -> String {
        let command = match path {
            "serve" => "",
            "payments-sandbox" => "sandbox",
            _ if SHARED.contains(&name) => "",
            _ => path,
        };
        let words = ["wims", command, name].into_iter().filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("_").to_uppercase().replace([' ', '-'], "_")
    }

    #[test]
    fn each_flag_is_a_variable_named_after_its_command() {
        let flags = flags(&Cli::command());
        let known = ["order list", "limit", "WIMS_ORDER_LIST_LIMIT"].map(str::to_owned);
        assert!(flags.contains(&known), "{flags:?}");
        let is_wrong = |flag: &&[String; 3]| flag[2] != variable(&flag[0], &flag[1]);
        let wrong: Vec<_> = flags.iter().filter(is_wrong).collect();
        assert!(wrong.is_empty(), "flags without their variable: {wrong:?}");
    }

    /// The words of an example as a shell splits them, without variables before them and a
    /// comment or another command behind them.
    fn words(example: &str) -> Vec<&str> {
        let ends = [" #", " |", " >"].iter().filter_map(|mark| example.find(mark));
        let command = &example[..ends.min().unwrap_or(example.len())];
        let mut words = Vec::new();
        for (at, part) in command.split('\'').enumerate() {
            let is_quoted = at % 2 == 1;
            if is_quoted { words.push(part) } else { words.extend(part.split_whitespace()) }
        }
        words.into_iter().skip_while(|word| *word != "wims").collect()
    }

    #[test]
    fn every_help_has_examples_and_they_are_command_lines() {
        for (path, command) in commands(&Cli::command(), "") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<_> =
                help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert!(path.is_empty() || !examples.is_empty(), "{path} has no example");
            for example in examples {
                let parsed = Cli::try_parse_from(words(example));
                assert!(parsed.is_ok(), "{example}: {:?}", parsed.err());
            }
        }
    }

    #[test]
    fn every_flag_of_the_sandbox_contradicts_a_payments_api() {
        let flags = flags(&Cli::command());
        let of_sandbox = |flag: &&[String; 3]| flag[0] == "serve" && flag[1].starts_with("sandbox");
        let names: Vec<&str> = flags.iter().filter(of_sandbox).map(|flag| &*flag[1]).collect();
        assert!(names.contains(&"sandbox-rate"), "{names:?}");
        for name in names {
            let value = if name == "sandbox-listen" { "127.0.0.1:0" } else { "1" };
            let given = format!("--{name}={value}");
            let beside = ["wims", "serve", "--payments-url=http://127.0.0.1:9", given.as_str()];
            let refused = Cli::try_parse_from(beside).err().map(|error| error.kind());
            assert_eq!(refused, Some(ErrorKind::ArgumentConflict), "{name}");
        }
    }

    #[test]
    fn no_command_contradicts_itself() {
        Cli::command().debug_assert();
    }
}
