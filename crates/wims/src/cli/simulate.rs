//! `wims simulate`: run the whole system in a hostile world, seed after seed.
//!
//! Promise: a seed that breaks a promise is told with what broke and the command that shows it
//! again. It deliberately touches no disk, no network and no clock.

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Serialize;

use crate::cli::{EXIT_REFUSED, Failure, say};
use crate::simulate::{self, ORDERS, SimFailure, SimPlan, SimTotals};

/// What `simulate` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims simulate --seeds 100  # seeds 0 to 99, one after the other\n  \
    wims simulate --seed 7 --orders 1000  # one seed, a long run\n  \
    wims simulate --seeds 100 --json | jq .failures  # what broke, for a program\n\n\
    Exits with 1 when a seed broke a promise.")]
pub struct SimulateArgs {
    /// The first seed
    #[arg(long, env = "WIMS_SIMULATE_SEED", default_value_t = 0)]
    seed: u64,
    /// How many seeds
    #[arg(long, env = "WIMS_SIMULATE_SEEDS", default_value_t = 1)]
    seeds: u64,
    /// Orders of a seed
    #[arg(long, env = "WIMS_SIMULATE_ORDERS", default_value_t = ORDERS)]
    orders: u64,
    /// Only JSON on standard output, once all seeds have run
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// Plant a bug, to see it found; a release binary has no such flag
    #[cfg(any(test, debug_assertions))]
    #[arg(long, env = "WIMS_SIMULATE_PLANT",
        value_parser = clap::builder::PossibleValuesParser::new(simulate::PLANTED))]
    plant: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    seeds: u64,
    #[serde(flatten)]
    totals: SimTotals,
    failures: Vec<Broken>,
}

/// A seed that broke a promise, and the command that shows it again.
#[derive(Serialize)]
struct Broken {
    #[serde(flatten)]
    failure: SimFailure,
    once_more: String,
}

/// Simulates.
///
/// # Errors
/// When a seed broke a promise.
pub fn run(args: &SimulateArgs) -> Result<(), Failure> {
    let (plan, more) = (SimPlan { orders: args.orders, ..SimPlan::default() }, String::new());
    #[cfg(any(test, debug_assertions))]
    let (plan, more) = match &args.plant {
        None => (plan, more),
        Some(name) => {
            let planted = simulate::plan_with(name, args.orders);
            (planted.expect("clap lets only these names pass"), format!(" --plant {name}"))
        }
    };
    let (seeds, orders) = (args.seed..args.seed.saturating_add(args.seeds), args.orders);
    let mut failures = Vec::new();
    let totals = simulate::main_loop(seeds, &plan, |failure| {
        let seed = failure.seed;
        let once_more = format!("wims simulate --seed {seed} --orders {orders}{more}");
        if args.json {
            failures.push(Broken { failure, once_more });
        } else {
            say(&format!("{failure}\n  once more: {once_more}"));
        }
    });
    tell(args.json, totals, failures);
    if totals.failed > 0 {
        return Err(Failure::new(EXIT_REFUSED, format!("{} seeds broke a promise", totals.failed)));
    }
    Ok(())
}

fn tell(is_json: bool, totals: SimTotals, failures: Vec<Broken>) {
    let SimTotals { passed, failed, crashes, orders } = totals;
    if is_json {
        let report = Report { seeds: passed + failed, totals, failures };
        return say(&serde_json::to_string(&report).expect("a report is JSON"));
    }
    say(&format!(
        "{passed} seeds kept every promise, {failed} did not: {orders} orders, {crashes} crashes"
    ));
}
