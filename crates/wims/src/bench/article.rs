//! `wims bench article`: the article's benchmark of v1 against v2, on this machine.
//!
//! Article section "Benchmarking v1 vs. v2". Promise: both get the same orders in the same order,
//! durable stores on the same disk and a payments API of the same pace, every run on fresh
//! servers; and what the article leaves open is shown too: whether all payments went through.
//! It deliberately says nothing about how fast WIMS can be: that is `wims bench load`.

mod report;
mod script;

use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Serialize;
use serde_json::Value;

use crate::bench::BenchError;
use crate::bench::child::{Scratch, ServeChild, ask};
use crate::bench::v1::V1;
use crate::cli::{EXIT_UNAVAILABLE, Failure, block_on, stop_signal};

use report::{Pair, Report, console_time};
use script::{Played, Script};

/// The most for which the stock of a fresh store surely suffices.
const ORDERS_MAX: i64 = 100_000;
/// The script as published awaits each request before the next.
const SERIAL: u32 = 1;
/// The article's "10 concurrent events".
const TOGETHER: u32 = 10;
/// The article's burst, also for a slower payments API.
const BURST_MIN: u32 = 5;
/// How often a draining queue is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// How often a waiting person is told something.
const PROGRESS_PAUSE: Duration = Duration::from_secs(10);
/// The most orders a page of the API has.
const PAGE: &str = "500";
/// Ended by a signal, as shells tell it.
const EXIT_INTERRUPTED: u8 = 130;

/// What `bench article` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims bench article  # as published\n  \
    wims bench article --orders 200 --payments-rate 50 --json  # short\n\n\
    The last run waits until all payments are through: orders divided by rate, 200 seconds unless \
    told otherwise. Stores are folders in TMPDIR; choose one on the disk you mean.\n\n\
    Exits with 1 when a run does not reconcile, with 130 when it is interrupted.")]
pub struct ArticleArgs {
    /// Orders a run places; the article's number
    #[arg(long, env = "WIMS_BENCH_ARTICLE_ORDERS", default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=ORDERS_MAX))]
    orders: u32,
    /// Calls a second the payments API takes; the article's number
    #[arg(long, env = "WIMS_BENCH_ARTICLE_PAYMENTS_RATE", default_value_t = 5.0,
        value_parser = rate)]
    payments_rate: f64,
    /// Only JSON on standard output
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "this is no number".to_owned())?;
    if (0.1..=100_000.0).contains(&rate) { Ok(rate) } else { Err("0.1 to 100000".to_owned()) }
}

/// Pace of the payments API.
#[derive(Clone, Copy)]
struct Pace {
    rate_per_second: f64,
    burst: u32,
}

/// What came of one run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    #[serde(flatten)]
    played: Played,
    payments: Payments,
    /// v1 has no queues.
    queues: Option<Queues>,
    /// How the payments drained, if that was waited for.
    drained: Option<Drained>,
}

/// What the payments API has counted.
#[derive(Serialize)]
struct Payments {
    calls: u64,
    charges: u64,
    throttled: u64,
}

/// Messages in v2's queues of payments, in whatever state.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Queues {
    payments_queue: u64,
    payments_dlq: u64,
}

/// The end of a run, once no payment waits.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Drained {
    /// False when it took too long to go on waiting.
    is_complete: bool,
    seconds_after_first_order: f64,
    ready_orders: u64,
}

/// Runs v1 and v2, serially and with ten in flight, and prints the article's report.
///
/// # Errors
/// When a server does not start or does not answer, a run does not reconcile or a signal ends it.
pub fn run(args: &ArticleArgs) -> Result<(), Failure> {
    let burst = (args.payments_rate.round() as u32).max(BURST_MIN);
    let pace = Pace { rate_per_second: args.payments_rate, burst };
    let serial = Script { orders: args.orders, in_flight: SERIAL };
    let together = Script { orders: args.orders, in_flight: TOGETHER };
    let (v1_serial, v1_together) = (run_v1(&serial, pace)?, run_v1(&together, pace)?);
    let v2_serial = run_v2(&serial, pace, false)?;
    let v2_together = run_v2(&together, pace, true)?;
    let report = Report {
        orders: args.orders,
        payments_rate_per_second: pace.rate_per_second,
        payments_burst: pace.burst,
        serial: Pair { v1: v1_serial, v2: v2_serial },
        ten_in_flight: Pair { v1: v1_together, v2: v2_together },
    };
    if args.json {
        println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

/// v1: its server in this process, its payments API a child.
fn run_v1(script: &Script, pace: Pace) -> Result<Run, Failure> {
    let scratch = Scratch::new()?;
    let sandbox = ServeChild::start(&[
        "payments-sandbox".to_owned(),
        "--listen=127.0.0.1:0".into(),
        format!("--ledger={}", scratch.path().join("payments-ledger.jsonl").display()),
        format!("--rate={}", pace.rate_per_second),
        format!("--burst={}", pace.burst),
    ])?;
    let v1 = V1::start(scratch.path(), sandbox.url())?;
    let played = play("v1", script, v1.url())?;
    let payments = Payments::of(sandbox.url())?;
    Ok(Run { played, payments, queues: None, drained: None })
}

/// v2: `wims serve`, with its own payments sandbox.
fn run_v2(script: &Script, pace: Pace, waits: bool) -> Result<Run, Failure> {
    let scratch = Scratch::new()?;
    let server = ServeChild::start(&[
        "serve".to_owned(),
        "--listen=127.0.0.1:0".into(),
        "--sandbox-listen=127.0.0.1:0".into(),
        format!("--data-dir={}", scratch.path().join("data").display()),
        format!("--sandbox-rate={}", pace.rate_per_second),
        format!("--sandbox-burst={}", pace.burst),
    ])?;
    let sandbox_url = server.sandbox_url().ok_or_else(|| {
        Failure::new(EXIT_UNAVAILABLE, "wims serve did not tell where its payments sandbox is")
    })?;
    let played = play("v2", script, server.url())?;
    let drained = if waits {
        let wait = Drain { server: server.url(), sandbox: sandbox_url, script, pace };
        Some(interruptible(wait.until_empty(played.started))?)
    } else {
        None
    };
    let (payments, queues) = (Payments::of(sandbox_url)?, Some(Queues::of(server.url())?));
    Ok(Run { played, payments, queues, drained })
}

fn play(version: &str, script: &Script, url: &str) -> Result<Played, Failure> {
    let (orders, in_flight) = (script.orders, script.in_flight);
    eprintln!("{version}: {orders} orders, {in_flight} in flight");
    let played = interruptible(script.play(url))?;
    eprintln!("{version}: done in {}", console_time(played.elapsed_ms));
    Ok(played)
}

/// Does a job that a signal ends early, so that servers and folders are cleared away.
fn interruptible<T>(job: impl Future<Output = Result<T, BenchError>>) -> Result<T, Failure> {
    block_on(async {
        tokio::select! {
            done = job => done.map_err(Failure::from),
            () = stop_signal() => Err(Failure::new(EXIT_INTERRUPTED, "stopped before the end")),
        }
    })?
}

/// Waits for the payments of a run.
struct Drain<'a> {
    server: &'a str,
    sandbox: &'a str,
    script: &'a Script,
    pace: Pace,
}

impl Drain<'_> {
    /// Until no payment waits and no order is PENDING, or twice the time that should take.
    async fn until_empty(&self, started: Instant) -> Result<Drained, BenchError> {
        let expected_s = f64::from(self.script.orders) / self.pace.rate_per_second;
        let limit = Duration::from_secs_f64(expected_s * 2.0 + 60.0);
        eprintln!("v2: waiting for its payments, about {expected_s:.0} s");
        let mut told = Instant::now();
        loop {
            let is_empty = Queues::of(self.server)?.payments_queue == 0;
            let is_complete = is_empty && !has_pending(self.server)?;
            let elapsed = started.elapsed();
            if is_complete || elapsed > limit {
                let seconds_after_first_order = elapsed.as_secs_f64();
                let ready_orders = count_ready(self.server)?;
                return Ok(Drained { is_complete, seconds_after_first_order, ready_orders });
            }
            if told.elapsed() > PROGRESS_PAUSE {
                told = Instant::now();
                let charges = Payments::of(self.sandbox)?.charges;
                eprintln!("v2: {charges} of {} payments charged", self.script.orders);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

impl Payments {
    fn of(sandbox_url: &str) -> Result<Payments, BenchError> {
        let stats = get(sandbox_url, "/stats")?;
        let count = |name| stats[name].as_u64().unwrap_or(0);
        Ok(Payments {
            calls: count("calls"),
            charges: count("charges"),
            throttled: count("throttled"),
        })
    }
}

impl Queues {
    fn of(url: &str) -> Result<Queues, BenchError> {
        let queues = get(url, "/queues")?;
        Ok(Queues {
            payments_queue: messages(&queues, "payments-queue"),
            payments_dlq: messages(&queues, "payments-dlq"),
        })
    }
}

/// All messages of a queue: visible, in flight and delayed.
fn messages(queues: &Value, name: &str) -> u64 {
    let mut rows = queues["items"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["name"] == name).unwrap_or(&Value::Null);
    ["messages", "inFlight", "delayed"].iter().filter_map(|state| row[*state].as_u64()).sum()
}

fn has_pending(url: &str) -> Result<bool, BenchError> {
    let page = get(url, "/orders?status=PENDING&limit=1")?;
    Ok(page["items"].as_array().is_none_or(|orders| !orders.is_empty()))
}

/// Orders that are reserved and paid, page by page: the API never counts over all.
fn count_ready(url: &str) -> Result<u64, BenchError> {
    let first = format!("/orders?status=READY&limit={PAGE}");
    let mut page = get(url, &first)?;
    let mut count = 0;
    loop {
        count += page["items"].as_array().map_or(0, Vec::len) as u64;
        let Some(next) = page["next"].as_str() else { return Ok(count) };
        page = get(url, &format!("{first}&cursor={next}"))?;
    }
}

fn get(url: &str, path: &str) -> Result<Value, BenchError> {
    let text = ask(url, "GET", path, "")?;
    serde_json::from_str(&text)
        .map_err(|_| BenchError::Reconcile(format!("GET {url}{path} answered no JSON: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_count_in_whatever_state() {
        let queues = serde_json::json!({"items": [
            {"name": "payments-queue", "messages": 1, "inFlight": 2, "delayed": 4},
            {"name": "payments-dlq", "messages": 8, "inFlight": 0, "delayed": 0}
        ]});
        assert_eq!(messages(&queues, "payments-queue"), 7);
        assert_eq!(messages(&queues, "payments-dlq"), 8);
        assert_eq!(messages(&queues, "another"), 0);
    }

    #[test]
    fn a_rate_is_a_number_that_ends_some_day() {
        assert_eq!(rate("5"), Ok(5.0));
        for wrong in ["", "x", "0", "-1", "NaN", "inf"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
