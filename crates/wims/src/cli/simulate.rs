//! `wims simulate`: run the whole system in a hostile world, seed after seed.
//!
//! Promise: a seed that breaks a promise is printed with what broke and the command that shows it
//! again. It deliberately touches no disk, no network and no clock.

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::cli::{EXIT_CONFIG, EXIT_REFUSED, Failure};
use crate::simulate::{ORDERS, PLANTED, SimPlan, main_loop, plan_with};

/// What `simulate` takes.
#[derive(Args)]
pub struct SimulateArgs {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Orders of a seed
    #[arg(long, default_value_t = ORDERS)]
    orders: u64,
    /// Plant a bug, to see it found
    #[arg(long, value_parser = PossibleValuesParser::new(PLANTED))]
    plant: Option<String>,
}

/// Simulates.
///
/// # Errors
/// When a seed broke a promise.
pub fn run(args: &SimulateArgs) -> Result<(), Failure> {
    let plan = match &args.plant {
        None => SimPlan { orders: args.orders, ..SimPlan::default() },
        Some(name) => plan_with(name, args.orders)
            .ok_or_else(|| Failure::new(EXIT_CONFIG, format!("there is no bug {name}")))?,
    };
    let more = args.plant.as_ref().map_or(String::new(), |name| format!(" --plant {name}"));
    let totals = main_loop(args.seed..args.seed.saturating_add(args.seeds), &plan, &more);
    println!(
        "{} seeds kept every promise, {} did not: {} orders, {} crashes",
        totals.passed, totals.failed, totals.orders, totals.crashes
    );
    if totals.failed > 0 {
        return Err(Failure::new(EXIT_REFUSED, format!("{} seeds broke a promise", totals.failed)));
    }
    Ok(())
}
