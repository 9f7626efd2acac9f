//! `wims bench load`: orders a second until settled, against a bare no-op server, alternating.
//!
//! Promise: numerator and denominator are measured in the same run by the same generator; each
//! wims run starts from an empty data directory and is reconciled at its end: stock sold is stock
//! missing, every order is there once, nothing is among the dead letters. Settled means durable
//! before its 200, stock reserved, payment enqueued, all events in the journal.
//! It deliberately asserts no time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Serialize;

use crate::bench::BenchError;
use crate::bench::child::{Scratch, ServeChild, sum_cpu, written_bytes};
use crate::bench::generator::{self, LoadPlan, LoadReport};
use crate::cli::Failure;

/// Customers that orders cycle over.
const CUSTOMERS: u32 = 10_000;
/// Units received before a run, so that none ends BACKORDERED.
const STOCK: i64 = 100_000_000_000;
/// Disk of one run, in orders: bounds a run on a fast machine to about a gigabyte.
const ORDERS_MAX: u64 = 450_000;
/// Waits for a run to settle.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What `bench load` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims bench load  # seven rounds at 64 and at 256 connections\n  \
    wims bench load --connections 16 --rounds 1 --seconds 2 --no-latency  # a look\n  \
    wims bench load --serve-arg=--segment-mb=128  # another setting of the server\n\n\
    Stores are folders in TMPDIR, of about a gigabyte at most; each is removed after its run.")]
pub struct LoadArgs {
    /// Connection counts, a row each
    #[arg(long, env = "WIMS_BENCH_LOAD_CONNECTIONS", value_delimiter = ',',
        default_values_t = [64, 256])]
    connections: Vec<usize>,
    /// Rounds; each alternates no-op and wims, the row is their median. Many short ones see
    /// through a noisy machine better than few long ones
    #[arg(long, env = "WIMS_BENCH_LOAD_ROUNDS", default_value_t = 7)]
    rounds: usize,
    /// Seconds of load a round, for each of the two
    #[arg(long, env = "WIMS_BENCH_LOAD_SECONDS", default_value_t = 3)]
    seconds: u64,
    /// Skip the run at half the load that measures latency
    #[arg(long, env = "WIMS_BENCH_LOAD_NO_LATENCY", value_parser = BoolishValueParser::new())]
    no_latency: bool,
    /// More arguments for the server, e.g. --serve-arg=--segment-mb=128; the variable has one
    #[arg(long = "serve-arg", env = "WIMS_BENCH_LOAD_SERVE_ARG", allow_hyphen_values = true)]
    serve_args: Vec<String>,
    /// Only JSON on standard output
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

/// A row of the report.
#[derive(Clone, Debug, Default, Serialize)]
struct Row {
    connections: usize,
    ratio: f64,
    orders_per_second: f64,
    noop_per_second: f64,
    own_noop_per_second: f64,
    own_ratio: f64,
    p50_ms: f64,
    p99_ms: f64,
    noop_p99_ms: f64,
    server_cpu_us_per_order: f64,
    generator_cpu_us_per_request: f64,
    journal_bytes_per_order: f64,
    disk_bytes_per_order: f64,
    orders_per_frame: f64,
    settle_after_last_reply_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    half_load: Option<HalfLoad>,
}

/// Latencies at half the load.
#[derive(Clone, Debug, Serialize)]
struct HalfLoad {
    orders_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    settled_p99_ms: f64,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// When a server does not start or a run does not reconcile.
pub fn run(args: &LoadArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for &connections in &args.connections {
        rows.push(row(args, connections).map_err(Failure::from)?);
    }
    let report = Report { rows };
    if args.json {
        println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
    } else {
        print_table(&report.rows);
    }
    Ok(())
}

fn row(args: &LoadArgs, connections: usize) -> Result<Row, BenchError> {
    let mut rounds = Vec::new();
    for round in 1..=args.rounds.max(1) {
        let own = noop_run(args, connections, args.seconds.div_ceil(2), &["--own"])?;
        // Next to each other: a shared machine is not the same a few seconds later.
        let noop = noop_run(args, connections, args.seconds, &[])?;
        let mut row = wims_run(args, connections, round as u64)?;
        row.noop_per_second = per_second(&noop);
        row.own_noop_per_second = per_second(&own);
        row.noop_p99_ms = ms(noop.latencies.percentile(99.0));
        row.ratio = row.orders_per_second / row.noop_per_second;
        row.own_ratio = row.orders_per_second / row.own_noop_per_second;
        eprintln!(
            "{connections} connections, round {round}: {:.0} orders/s settled, no-op {:.0}/s, \
             ratio {:.3}",
            row.orders_per_second, row.noop_per_second, row.ratio
        );
        rounds.push(row);
    }
    rounds.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    let mut median = rounds[rounds.len() / 2].clone();
    if !args.no_latency {
        median.half_load = Some(half_load(args, connections, median.orders_per_second / 2.0)?);
    }
    Ok(median)
}

fn plan(args: &LoadArgs, address: SocketAddr, connections: usize) -> LoadPlan {
    LoadPlan {
        address,
        connections,
        duration: Duration::from_secs(args.seconds),
        requests_max: None,
        customers: CUSTOMERS,
        seed: 1,
        rate_per_second: None,
    }
}

/// Loads a server that does nothing.
fn noop_run(
    args: &LoadArgs,
    connections: usize,
    seconds: u64,
    more: &[&str],
) -> Result<LoadReport, BenchError> {
    let arguments: Vec<String> =
        ["bench", "noop"].iter().chain(more).map(|a| (*a).into()).collect();
    let child = ServeChild::start(&arguments)?;
    let mut plan = plan(args, child.address()?, connections);
    plan.duration = Duration::from_secs(seconds);
    Ok(generator::run(&plan)?)
}

fn per_second(report: &LoadReport) -> f64 {
    report.ok as f64 / report.elapsed.as_secs_f64()
}

fn start_wims(args: &LoadArgs, scratch: &Scratch) -> Result<ServeChild, BenchError> {
    let mut arguments = vec![
        "serve".to_owned(),
        "--listen=127.0.0.1:0".into(),
        "--sandbox-listen=127.0.0.1:0".into(),
        format!("--data-dir={}", scratch.path().join("data").display()),
    ];
    arguments.extend(args.serve_args.iter().cloned());
    let child = ServeChild::start(&arguments)?;
    child.post("/inventory/MACGUFFIN/LX/receipts", &format!("{{\"quantity\":{STOCK}}}"))?;
    Ok(child)
}

fn wims_run(args: &LoadArgs, connections: usize, seed: u64) -> Result<Row, BenchError> {
    let scratch = Scratch::new()?;
    let child = start_wims(args, &scratch)?;
    let mut plan = plan(args, child.address()?, connections);
    plan.seed = seed;
    plan.requests_max = Some(ORDERS_MAX);
    let before = Figures::of(&child)?;
    let started = Instant::now();
    let report = generator::run(&plan)?;
    let settle = settle(&child)?;
    let elapsed = started.elapsed().min(report.elapsed + settle);
    let after = Figures::of(&child)?;
    reconcile(&child, &report)?;
    let orders = report.ok.max(1) as f64;
    Ok(Row {
        connections,
        orders_per_second: report.ok as f64 / elapsed.as_secs_f64(),
        p50_ms: ms(report.latencies.percentile(50.0)),
        p99_ms: ms(report.latencies.percentile(99.0)),
        server_cpu_us_per_order: (after.cpu - before.cpu).as_secs_f64() * 1e6 / orders,
        generator_cpu_us_per_request: report.cpu.as_secs_f64() * 1e6 / orders,
        journal_bytes_per_order: (after.journal - before.journal) / orders,
        disk_bytes_per_order: (after.disk - before.disk) as f64 / orders,
        orders_per_frame: orders / (after.frames - before.frames).max(1.0),
        settle_after_last_reply_ms: ms(settle),
        ..Row::default()
    })
}

/// What a server has used so far.
struct Figures {
    cpu: Duration,
    disk: u64,
    journal: f64,
    frames: f64,
}

impl Figures {
    fn of(child: &ServeChild) -> Result<Figures, BenchError> {
        let metrics = child.get("/metrics")?;
        Ok(Figures {
            cpu: sum_cpu(child.pid()),
            disk: written_bytes(child.pid()),
            journal: metric(&metrics, "wims_journal_written_bytes_total"),
            frames: metric(&metrics, "wims_journal_frames_total"),
        })
    }
}

/// The sum of a metric's rows.
fn metric(metrics: &str, name: &str) -> f64 {
    let rows = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    rows.filter_map(|row| row.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Waits until nothing is left to do inside; how long that took after the last reply.
fn settle(child: &ServeChild) -> Result<Duration, BenchError> {
    let started = Instant::now();
    loop {
        let asked = started.elapsed();
        let metrics = child.get("/metrics")?;
        let lag = metric(&metrics, "wims_change_lag");
        let waiting = metric(&metrics, "wims_executions_waiting");
        if lag == 0.0 && waiting == 0.0 {
            return Ok(asked);
        }
        if asked > SETTLE_TIMEOUT {
            return Err(BenchError::Reconcile(format!("{lag} changes are not settled")));
        }
    }
}

/// Stock sold is stock missing, every order is there once, nothing is a dead letter.
fn reconcile(child: &ServeChild, report: &LoadReport) -> Result<(), BenchError> {
    let item: serde_json::Value = serde_json::from_str(&child.get("/inventory")?)
        .map_err(|error| BenchError::Reconcile(error.to_string()))?;
    let metrics = child.get("/metrics")?;
    let orders = metric(&metrics, "wims_orders_open");
    let dead: f64 = ["events-dlq", "cdc-dlq", "payments-dlq"]
        .iter()
        .map(|queue| metric_of(&metrics, "wims_queue_messages", queue))
        .sum();
    let reserved = item["reserved"].as_u64().unwrap_or(0);
    let sound = reserved == report.units
        && orders as u64 == report.ok
        && report.requests == report.ok
        && dead == 0.0;
    if sound {
        return Ok(());
    }
    Err(BenchError::Reconcile(format!(
        "sold {} units in {} orders of {} requests ({:?}); the store reserved {reserved} units, \
         has {orders} orders, {dead} dead letters",
        report.units, report.ok, report.requests, report.status_counts
    )))
}

fn metric_of(metrics: &str, name: &str, queue: &str) -> f64 {
    metric(metrics, &format!("{name}{{queue=\"{queue}\"}}"))
}

fn half_load(args: &LoadArgs, connections: usize, rate: f64) -> Result<HalfLoad, BenchError> {
    let scratch = Scratch::new()?;
    let child = start_wims(args, &scratch)?;
    let mut plan = plan(args, child.address()?, connections);
    plan.rate_per_second = Some(rate);
    plan.requests_max = Some(ORDERS_MAX);
    let report = generator::run(&plan)?;
    settle(&child)?;
    reconcile(&child, &report)?;
    let metrics = child.get("/metrics")?;
    Ok(HalfLoad {
        orders_per_second: report.ok as f64 / report.elapsed.as_secs_f64(),
        p50_ms: ms(report.latencies.percentile(50.0)),
        p99_ms: ms(report.latencies.percentile(99.0)),
        settled_p99_ms: quantile(&metrics, "wims_settle_seconds", 0.99) * 1_000.0,
    })
}

/// Upper bound of the bucket in which a quantile of a histogram lies.
fn quantile(metrics: &str, name: &str, q: f64) -> f64 {
    let total = metric(metrics, &format!("{name}_count"));
    let prefix = format!("{name}_bucket{{le=\"");
    let buckets = metrics.lines().filter_map(|line| {
        let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
        Some((bound.parse::<f64>().ok()?, count.parse::<f64>().ok()?))
    });
    let mut bounds = buckets.filter(|(_, count)| *count >= q * total).map(|(bound, _)| bound);
    bounds.next().unwrap_or(f64::INFINITY)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn print_table(rows: &[Row]) {
    println!(
        "{:>11} {:>6} {:>6} {:>10} {:>9} {:>8} {:>8} {:>11} {:>11} {:>11} {:>12} {:>12}",
        "connections",
        "ratio",
        "to own",
        "orders/s",
        "no-op/s",
        "p50 ms",
        "p99 ms",
        "CPU us/ord",
        "gen us/req",
        "journal B",
        "orders/frame",
        "settle ms"
    );
    for row in rows {
        println!(
            "{:>11} {:>6.3} {:>6.3} {:>10.0} {:>9.0} {:>8.2} {:>8.2} {:>11.1} {:>11.1} {:>11.0} {:>12.1} \
             {:>12.1}",
            row.connections,
            row.ratio,
            row.own_ratio,
            row.orders_per_second,
            row.noop_per_second,
            row.p50_ms,
            row.p99_ms,
            row.server_cpu_us_per_order,
            row.generator_cpu_us_per_request,
            row.journal_bytes_per_order,
            row.orders_per_frame,
            row.settle_after_last_reply_ms
        );
    }
    for row in rows {
        if let Some(half) = &row.half_load {
            println!(
                "at half the load of {} connections, {:.0} orders/s: 200 within {:.2} ms p50, \
                 {:.2} ms p99; settled within {:.1} ms p99",
                row.connections,
                half.orders_per_second,
                half.p50_ms,
                half.p99_ms,
                half.settled_p99_ms
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_metrics_by_name_and_quantile() {
        let text = "a 1\nab 5\nq{queue=\"x\"} 2\nq{queue=\"y\"} 3\n\
            h_bucket{le=\"0.001\"} 50\nh_bucket{le=\"0.002\"} 99\nh_bucket{le=\"+Inf\"} 100\nh_count 100\n";
        assert_eq!((metric(text, "a"), metric(text, "q")), (1.0, 5.0));
        assert_eq!(metric_of(text, "q", "y"), 3.0);
        assert_eq!(quantile(text, "h", 0.5), 0.001);
        assert_eq!(quantile(text, "h", 0.99), 0.002);
    }
}
