//! `wims simulate`: the whole business in a hostile world, seed by seed.
//!
//! Promise: the stack and the functions that run are those of `serve`; only disk, clock, clients,
//! payments API and mail server are simulated. In odd seeds events reach the targets of rules out
//! of order and again, as consumers must expect. A seed that fails reproduces the failure to the
//! bit. Workload and auditor are apart: the one only asks, the other only judges; facts pass from
//! one to the other. Deliberately absent: HTTP, the driver's threads, real files.

mod auditor;
mod books;
mod inspection;
mod keys;
mod notices;
mod payments;
#[cfg(any(test, debug_assertions))]
mod planted;
#[cfg(test)]
mod tests;
mod workload;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use serde::Serialize;
use wims_runtime::functions::RefusalKind;
use wims_runtime::io::{Answer, ApiCall, CallReply, Input, MailJob, MailResult, Ticket};
use wims_runtime::record::Entry;
use wims_runtime::sim::world::SECOND_US;
use wims_runtime::sim::{Counts, Outside, SimHistory, Verdict, Violation, World, WorldOptions};
use wims_runtime::{EngineBugs, Functions};
use wims_stack::{Doc, Stack};

use crate::constructs::payments_api::PaymentsPace;
use crate::fns;
use crate::stack::{Settings, wims_stack};
use auditor::{Auditor, MAIL_REJECTED, Stage};
use keys::KeyedOrder;
use payments::Payments;
use workload::Workload;

#[cfg(any(test, debug_assertions))]
pub use planted::{PLANTED, plan_with};

/// Orders of a short run.
pub const ORDERS: u64 = 60;
/// Inbox of the clients.
const WORKLOAD: u32 = 0;
/// Inbox of the auditor.
const AUDITOR: u32 = 1;
/// Microseconds of an hour.
const HOUR_US: u64 = 3_600 * SECOND_US;
/// The workload cancels nothing yet, and clocks leap over days: ten years.
const DECLINE_GRACE_MS: u64 = 10 * 365 * 86_400_000;
/// Turns of the world an order takes, at most; more is a run that does not end.
const TURNS_PER_ORDER_MAX: u64 = 5_000;

/// What is simulated.
#[derive(Clone)]
pub struct SimPlan {
    /// How many orders are placed.
    pub orders: u64,
    /// Bugs planted in the engine.
    pub bugs: EngineBugs,
    /// The business, with a bug if one is planted there.
    pub functions: Functions,
    /// Declares the system.
    pub stack: fn(&Settings) -> Stack,
}

impl Default for SimPlan {
    fn default() -> SimPlan {
        let (bugs, functions) = (EngineBugs::default(), fns::all());
        SimPlan { orders: ORDERS, bugs, functions, stack: wims_stack }
    }
}

/// What a seed did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimReport {
    /// Hash over everything that went into the engine and came out.
    pub trace: u64,
    /// Orders that were acknowledged.
    pub orders: usize,
    /// What happened in the world.
    pub counts: Counts,
}

/// A seed that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("seed {seed}, {at_ms} ms after the beginning: {what}")]
pub struct SimFailure {
    /// The seed.
    pub seed: u64,
    /// When, in simulated milliseconds.
    pub at_ms: u64,
    /// Which promise.
    pub what: String,
}

/// How many seeds went how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SimTotals {
    /// Seeds whose promises were kept.
    pub passed: u64,
    /// Seeds that broke one.
    pub failed: u64,
    /// Deaths of the process.
    pub crashes: u64,
    /// Orders acknowledged.
    pub orders: u64,
}

/// Something asked of the engine.
#[derive(Clone, Debug)]
pub enum Request {
    /// An order.
    Order {
        /// Who orders.
        customer: String,
        /// How many.
        quantity: i64,
    },
    /// An order under a key, perhaps not for the first time.
    Keyed(KeyedOrder),
    /// A receipt of stock.
    Receive {
        /// How many.
        quantity: i64,
    },
    /// What the item is.
    Describe,
    /// That an order leaves.
    Ship {
        /// Which.
        order_id: String,
    },
    /// To see something.
    Look,
    /// That dead payments are tried again.
    Redrive,
}

/// What clients know.
pub enum Fact {
    /// It was asked.
    Asked(Request),
    /// It was done.
    Done(Request, Doc),
    /// It had been done before.
    Repeated(Request, Doc),
    /// It was refused, or there was no room for it; nothing was written.
    Refused(Request, Option<RefusalKind>),
    /// These items were shown.
    Read(Vec<Doc>),
}

/// Runs the seeds one after the other; of one that fails `failed` is told before the next.
pub fn main_loop(
    seeds: Range<u64>,
    plan: &SimPlan,
    mut failed: impl FnMut(SimFailure),
) -> SimTotals {
    let mut totals = SimTotals::default();
    for seed in seeds {
        match run_seed(seed, plan) {
            Ok(report) => {
                totals.passed += 1;
                totals.crashes += report.counts.crashes;
                totals.orders += report.orders as u64;
            }
            Err(failure) => {
                totals.failed += 1;
                failed(failure);
            }
        }
    }
    totals
}

/// Runs one seed.
///
/// # Errors
/// When a promise is broken; a panic is one.
pub fn run_seed(seed: u64, plan: &SimPlan) -> Result<SimReport, SimFailure> {
    let mut now_us = 0;
    let run = catch_unwind(AssertUnwindSafe(|| run(seed, plan, &mut now_us)));
    let what = match run {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(violation)) => violation.0,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            format!("a panic: {}", text.unwrap_or_default())
        }
    };
    Err(SimFailure { seed, at_ms: now_us / 1_000, what })
}

fn run(seed: u64, plan: &SimPlan, now_us: &mut u64) -> Result<SimReport, Violation> {
    let mut rng = Rng::with_seed(seed);
    let stack = (plan.stack)(&settings(&mut rng));
    let redelivered = redelivered_percent(seed);
    let mut shop = Shop::new(&mut rng, plan.orders, redelivered.is_some());
    shop.workload.has_addresses = notices::has_addresses(seed);
    let mut world = World::new(&stack, &plan.functions, world_options(&mut rng, plan))?;
    if let Some(percent) = redelivered {
        world.redeliver(percent);
    }
    let outcome = live_through(&mut world, &mut shop, &mut rng, plan);
    *now_us = world.now_us();
    outcome?;
    Ok(SimReport {
        trace: world.trace(),
        orders: shop.auditor.acknowledged(),
        counts: world.counts(),
    })
}

/// How many of a hundred deliveries come out of order, and how many again: none in even seeds.
/// Drawn apart from everything else, so that those do what they did without it.
fn redelivered_percent(seed: u64) -> Option<u8> {
    (seed & 1 == 1).then(|| Rng::with_seed(!seed).u8(10..=60))
}

fn settings(rng: &mut Rng) -> Settings {
    let rate_per_second = [5.0, 20.0, 100.0][rng.usize(0..3)];
    let payments = PaymentsPace {
        rate_per_second,
        burst: rng.u32(1..=10),
        in_flight_max: rng.usize(1..=16),
        timeout_ms: 10_000,
    };
    Settings { payments, decline_grace_ms: DECLINE_GRACE_MS, ..Settings::default() }
}

/// Short runs have segments so small that sweeps and removals happen in them.
fn world_options(rng: &mut Rng, plan: &SimPlan) -> WorldOptions {
    let segment_bytes = if plan.orders <= 2 * ORDERS { 256 << 10 } else { 8 << 20 };
    let shortest = rng.u64(2..=20);
    let longest = shortest + rng.u64(10..=90);
    let frames_per_life = shortest..=longest;
    WorldOptions { seed: rng.u64(..), segment_bytes, frames_per_life, bugs: plan.bugs }
}

/// Trouble while orders come and for some time after; then hours of calm, and what is left is
/// sent back, shipped and accounted for.
fn live_through(world: &mut World<'_>, shop: &mut Shop, rng: &mut Rng, plan: &SimPlan) -> Verdict {
    let turns_max = TURNS_PER_ORDER_MAX * (plan.orders + ORDERS);
    for turn in 0.. {
        if shop.workload.is_done() {
            break;
        }
        if turn == turns_max || !world.turn(shop, u64::MAX)? {
            return Err(Violation("the run does not end".into()));
        }
    }
    let aftermath_us = rng.u64(0..=HOUR_US);
    world.run_until(shop, world.now_us() + aftermath_us)?;
    world.calm();
    shop.calm();
    rest(world, shop, Stage::Calm)?;
    shop.workload.redrive();
    rest(world, shop, Stage::Redriven)?;
    shop.workload.ship(shop.auditor.orders_with("READY"));
    rest(world, shop, Stage::Shipped)
}

/// Lets hours pass and looks at everything.
fn rest(world: &mut World<'_>, shop: &mut Shop, stage: Stage) -> Verdict {
    world.run_until(shop, world.now_us() + 6 * HOUR_US)?;
    let mut questions = Vec::new();
    shop.auditor.questions(&mut questions);
    shop.auditor.questions_about_queues(&mut questions);
    world.ask_at_once(questions);
    world.run_until(shop, world.now_us() + 10 * SECOND_US)?;
    shop.payments.land_until(world.now_us());
    shop.auditor.at_rest(stage, &shop.payments, world.history())
}

/// Everything around the engine: clients, payments API, mail server, auditor.
struct Shop {
    workload: Workload,
    payments: Payments,
    auditor: Auditor,
    rng: Rng,
    calm: bool,
}

impl Shop {
    fn new(rng: &mut Rng, orders: u64, redelivers: bool) -> Shop {
        Shop {
            workload: Workload::new(rng.u64(..), orders),
            payments: Payments::new(rng.u64(..)),
            auditor: Auditor::new(redelivers),
            rng: rng.fork(),
            calm: false,
        }
    }

    fn calm(&mut self) {
        self.calm = true;
        self.payments.calm();
    }

    fn note(&mut self, fact: Option<Fact>) -> Verdict {
        fact.map_or(Ok(()), |fact| self.auditor.note(fact))
    }
}

impl Outside for Shop {
    fn due_us(&self) -> Option<u64> {
        self.workload.due_us()
    }

    fn ask(&mut self, now_us: u64, history: &SimHistory, inputs: &mut Vec<Input>) {
        let mut facts = Vec::new();
        self.workload.ask(now_us, history, inputs, &mut facts);
        for fact in facts {
            self.auditor.note(fact).expect("asking breaks no promise");
        }
    }

    fn answered(
        &mut self,
        _now_us: u64,
        ticket: Ticket,
        answer: Answer,
        history: &SimHistory,
    ) -> Verdict {
        if ticket.inbox == AUDITOR {
            return self.auditor.answered(ticket.slot, answer, history);
        }
        let fact = self.workload.answered(ticket.slot, answer);
        self.note(fact)
    }

    fn called(&mut self, now_us: u64, call: &ApiCall) -> Result<(u64, CallReply), Violation> {
        self.payments.land_until(now_us);
        self.auditor.called(call, &self.payments)?;
        Ok(self.payments.call(now_us, call))
    }

    fn mailed(&mut self, _now_us: u64, mail: &MailJob) -> Result<MailResult, Violation> {
        let first = if self.calm { 3 } else { 0 };
        let result = match self.rng.u8(first..20) {
            0 => MailResult::Rejected(MAIL_REJECTED.into()),
            1 | 2 => MailResult::Retry("the server is busy".into()),
            _ => MailResult::Sent,
        };
        self.auditor.noticed(mail, &result)?;
        self.auditor.mailed(mail, &result);
        Ok(result)
    }

    fn durable(&mut self, now_us: u64, entries: &[Entry]) -> Verdict {
        self.payments.land_until(now_us);
        self.auditor.durable(entries, &self.payments)
    }

    fn restarted(&mut self, _now_us: u64, _history: &SimHistory, inputs: &mut Vec<Input>) {
        self.workload.forget();
        self.auditor.forget_questions();
        self.auditor.questions(inputs);
    }
}
