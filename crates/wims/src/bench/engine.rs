//! `wims bench engine`: what an order costs the engine alone, on a disk that takes no time.
//!
//! Promise: the engine does all it does for an order: conditional put, stream, enrichment, rules,
//! workflow, reservation, payment message, frame. It deliberately leaves out HTTP and the disk,
//! so that a profile shows only the engine.

use std::time::Instant;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Serialize;
use wims_runtime::io::{Input, Now, Output, Ticket};
use wims_runtime::recovery::NoSegments;
use wims_runtime::{Engine, EngineOptions};
use wims_stack::{Doc, Field};

use crate::cli::{EXIT_CONFIG, Failure, say};
use crate::fns;
use crate::stack::{Settings, wims_stack};

/// What `bench engine` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims bench engine  # 200,000 orders, 64 a step\n  \
    wims bench engine --orders 1000000 --group 256  # more, in larger groups\n  \
    wims bench engine --json  # for a program")]
pub struct EngineArgs {
    /// Orders, in whole groups
    #[arg(long, env = "WIMS_BENCH_ENGINE_ORDERS", default_value_t = 200_000,
        value_parser = clap::value_parser!(u64).range(1..))]
    orders: u64,
    /// Orders a step takes
    #[arg(long, env = "WIMS_BENCH_ENGINE_GROUP", default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(1..))]
    group: u64,
    /// Only JSON on standard output
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

/// What was measured.
#[derive(Serialize)]
struct Report {
    orders: u64,
    us_per_order: f64,
    journal_bytes_per_order: f64,
}

/// Measures and prints.
///
/// # Errors
/// When the stack cannot run.
pub fn run(args: &EngineArgs) -> Result<(), Failure> {
    let stack = wims_stack(&Settings::default());
    let now = Now { wall_ms: 1_700_000_000_000, mono_us: 0 };
    let started =
        Engine::start(&stack, &fns::all(), &mut NoSegments, EngineOptions::default(), now);
    let (engine, _) = started.map_err(|error| Failure::new(EXIT_CONFIG, error))?;
    let mut bench = Bench { engine, inputs: Vec::new(), now, replies: 0, bytes: 0 };
    bench.settle();
    bench.ask("seed-inventory", Doc::object(&[]));
    let receipt = Doc::object(&[
        ("product", Field::Str("MACGUFFIN")),
        ("model", Field::Str("LX")),
        ("quantity", Field::Int(100_000_000_000)),
    ]);
    bench.ask("receive-stock", receipt);
    bench.settle();
    bench.bytes = 0;
    let before = bench.replies;
    let clock = Instant::now();
    for group in 0..args.orders.div_ceil(args.group.max(1)) {
        for i in 0..args.group {
            let customer = (group * args.group + i) % 10_000;
            let order = Doc::object(&[
                ("customerId", Field::Str(&customer.to_string())),
                ("quantity", Field::Int(1 + i64::try_from(i % 10).unwrap_or(0))),
            ]);
            bench.ask("create-order", order);
        }
        bench.step();
    }
    bench.settle();
    let (elapsed, orders) = (clock.elapsed(), bench.replies - before);
    let report = Report {
        orders,
        us_per_order: elapsed.as_secs_f64() * 1e6 / orders as f64,
        journal_bytes_per_order: bench.bytes as f64 / orders as f64,
    };
    say(&if args.json {
        serde_json::to_string(&report).expect("a report is JSON")
    } else {
        let Report { us_per_order, journal_bytes_per_order, .. } = report;
        format!("{us_per_order:.2} us and {journal_bytes_per_order:.0} journal bytes an order")
    });
    Ok(())
}

struct Bench {
    engine: Engine,
    inputs: Vec<Input>,
    now: Now,
    replies: u64,
    bytes: u64,
}

impl Bench {
    fn ask(&mut self, route: &'static str, arguments: Doc) {
        let ticket = Ticket { inbox: 0, slot: 0 };
        let (history, trace, key) = (None, None, None);
        self.inputs.push(Input::Call { ticket, route, arguments, history, trace, key });
    }

    /// One step; what it asks for is done at once.
    fn step(&mut self) {
        let mut outputs = Vec::new();
        self.now.mono_us += 100;
        self.engine.step(self.now, &mut self.inputs, &mut outputs);
        for output in outputs {
            match output {
                Output::Reply(..) => self.replies += 1,
                Output::Write(frame) => {
                    self.bytes += frame.bytes.len() as u64;
                    self.inputs.push(Input::Written { buffer: frame.bytes });
                }
                Output::Prepare { segment } => {
                    self.inputs.push(Input::Prepared { segment, success: true });
                }
                Output::Remove { .. } | Output::Call(_) | Output::Mail(_) | Output::History(_) => {}
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..10 {
            self.step();
        }
    }
}
