//! `wims simulate`: run the whole system in a hostile world, seed after seed.
//!
//! Promise: a seed that breaks something is printed with what broke and the command that shows it
//! again. It deliberately touches no disk, no network and no clock.

use clap::{Args, ValueEnum};
use wims_runtime::EngineBugs;
use wims_runtime::recovery::RecoveryBugs;

use crate::cli::{EXIT_REFUSED, Failure};
use crate::simulate::{BusinessBug, ORDERS_SHORT, SimPlan, main_loop};

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
    #[arg(long, default_value_t = ORDERS_SHORT)]
    orders: usize,
    /// Plant a bug, to see it found
    #[arg(long)]
    plant: Option<Plant>,
}

/// A bug to plant.
#[derive(Clone, Copy, ValueEnum)]
enum Plant {
    ReplyBeforeSync,
    SkipSync,
    CursorApart,
    NewKeyOnRetry,
    AcceptTornTail,
    ReserveWithoutGuard,
    ChargeBeforeReserved,
}

impl Plant {
    fn plan(self, orders: usize) -> SimPlan {
        let mut bugs = EngineBugs::default();
        let mut business_bug = None;
        match self {
            Plant::ReplyBeforeSync => bugs.reply_before_sync = true,
            Plant::SkipSync => bugs.skip_sync = true,
            Plant::CursorApart => bugs.cursor_apart = true,
            Plant::NewKeyOnRetry => bugs.new_key_on_retry = true,
            Plant::AcceptTornTail => bugs.recovery = RecoveryBugs { accept_torn_tail: true },
            Plant::ReserveWithoutGuard => business_bug = Some(BusinessBug::ReserveWithoutGuard),
            Plant::ChargeBeforeReserved => business_bug = Some(BusinessBug::ChargeBeforeReserved),
        }
        SimPlan { orders, bugs, business_bug }
    }
}

/// Simulates.
///
/// # Errors
/// When a seed breaks something.
pub fn run(args: &SimulateArgs) -> Result<(), Failure> {
    let orders = args.orders;
    let sound = SimPlan { orders, ..SimPlan::default() };
    let plan = args.plant.map_or(sound, |plant| plant.plan(orders));
    let totals = main_loop(args.seed, args.seeds, &plan)
        .map_err(|failure| Failure::new(EXIT_REFUSED, format!("seed {} broke", failure.seed)))?;
    println!(
        "{} seeds broke nothing: {} orders, {} payment calls, {} crashes, {} recoveries",
        totals.seeds, totals.orders, totals.calls, totals.crashes, totals.recoveries
    );
    Ok(())
}
