//! The article's report, v1 and v2 side by side, and the same figures as JSON.
//!
//! Promise: what the article's script prints is printed word for word, below it what it leaves
//! open. It deliberately judges nothing: the figures stand next to each other.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::script::Played;
use super::{Drained, Queues, Run};

/// All four runs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Orders of a run.
    pub orders: u32,
    /// Calls a second the payments API took.
    pub payments_rate_per_second: f64,
    /// Calls it took at once.
    pub payments_burst: u32,
    /// As published.
    pub serial: Pair,
    /// As the article says.
    pub ten_in_flight: Pair,
}

/// The same script against both versions.
#[derive(Serialize)]
pub struct Pair {
    /// The article's first design.
    pub v1: Run,
    /// WIMS.
    pub v2: Run,
}

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} orders of 1 to 10 units, the same in every run; the payments API takes {} calls a \
             second, {} at once.",
            self.orders, self.payments_rate_per_second, self.payments_burst
        );
        for (title, pair) in [
            ("Serial: each request awaited before the next, as published", &self.serial),
            ("Ten in flight: ten at once, all awaited, then the next ten", &self.ten_in_flight),
        ] {
            let _ = write!(text, "\n{title}\n\n{}", self.beside(pair));
        }
        text.push_str(
            "\nHow many orders v1 gets paid depends on how long its run takes: the rate times \
             that, and the burst.\n",
        );
        text
    }

    fn beside(&self, pair: &Pair) -> String {
        let (mut left, mut right) = (vec!["v1".to_owned()], vec!["v2".to_owned()]);
        left.extend(script_lines(self.orders, &pair.v1.played));
        right.extend(script_lines(self.orders, &pair.v2.played));
        left.extend(self.v1_lines(&pair.v1));
        right.extend(v2_lines(&pair.v2));
        columns(&left, &right)
    }

    fn v1_lines(&self, run: &Run) -> Vec<String> {
        let unpaid = u64::from(self.orders).saturating_sub(run.payments.charges);
        vec![
            format!(
                "Payments: {} charged, {} calls throttled.",
                run.payments.charges, run.payments.throttled
            ),
            format!("{unpaid} orders are taken and never charged."),
        ]
    }
}

fn v2_lines(run: &Run) -> Vec<String> {
    let Some(queues) = &run.queues else { return Vec::new() };
    match &run.drained {
        None => vec![
            format!(
                "Payments: {} charged, {} wait in payments-queue.",
                run.payments.charges, queues.payments_queue
            ),
            format!("payments-dlq: {}. Not waited for in this run.", queues.payments_dlq),
        ],
        Some(drained) => vec![
            drained_line(drained, queues),
            format!(
                "{} charged, {} calls throttled, {} orders READY.",
                run.payments.charges, run.payments.throttled, drained.ready_orders
            ),
            format!("payments-dlq: {}.", queues.payments_dlq),
        ],
    }
}

fn drained_line(drained: &Drained, queues: &Queues) -> String {
    let seconds = drained.seconds_after_first_order;
    if drained.is_complete {
        format!("Payments: drained {seconds:.1} s after the first order.")
    } else {
        format!("Payments: {} still wait after {seconds:.1} s.", queues.payments_queue)
    }
}

/// The lines of the article's script.
fn script_lines(orders: u32, played: &Played) -> Vec<String> {
    let reduced_to = |inventory: i64| {
        let reduced = played.starting_inventory - inventory;
        format!("Inventory reduced by: {reduced} of sales total {}.", played.sales_total)
    };
    vec![
        format!("Starting Inventory: {}", played.starting_inventory),
        format!("Inventory at next tick: {}", played.inventory_at_next_tick),
        reduced_to(played.inventory_at_next_tick),
        format!("Time for {orders} orders.: {}", console_time(played.elapsed_ms)),
        console_object(&played.status_counts),
        format!("Inventory after 500ms: {}", played.inventory_after_500_ms),
        reduced_to(played.inventory_after_500_ms),
        "Waited 500 ms.".to_owned(),
    ]
}

/// Two columns of lines.
fn columns(left: &[String], right: &[String]) -> String {
    let width = left.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for row in 0..left.len().max(right.len()) {
        let line = |column: &[String]| column.get(row).cloned().unwrap_or_default();
        let both = format!("{:<width$}{}", line(left), line(right));
        text.push_str(both.trim_end());
        text.push('\n');
    }
    text
}

/// A time as Node's `console.timeEnd` prints it: `2:04.980 (m:ss.mmm)`, `39.588s`, `12.5ms`.
pub fn console_time(ms: f64) -> String {
    const SECOND: f64 = 1_000.0;
    const MINUTE: f64 = 60.0 * SECOND;
    const HOUR: f64 = 60.0 * MINUTE;
    if ms < SECOND {
        return format!("{}ms", (ms * 1_000.0).round() / 1_000.0);
    }
    if ms < MINUTE {
        return format!("{:.3}s", ms / SECOND);
    }
    let (hours, minutes) = ((ms / HOUR).floor(), (ms % HOUR / MINUTE).floor());
    let seconds = ms % MINUTE / SECOND;
    if hours > 0.0 {
        format!("{hours}:{minutes:02}:{seconds:06.3} (h:mm:ss.mmm)")
    } else {
        format!("{minutes}:{seconds:06.3} (m:ss.mmm)")
    }
}

/// Counts as Node's `console.log` prints an object: `{ '200': 613, '429': 387 }`.
fn console_object(counts: &BTreeMap<u16, u32>) -> String {
    if counts.is_empty() {
        return "{}".to_owned();
    }
    let pairs: Vec<_> =
        counts.iter().map(|(status, count)| format!("'{status}': {count}")).collect();
    format!("{{ {} }}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::Payments;
    use super::*;

    #[test]
    fn times_look_as_in_the_article() {
        assert_eq!(console_time(124_980.0), "2:04.980 (m:ss.mmm)");
        assert_eq!(console_time(39_588.0), "39.588s");
        assert_eq!(console_time(12.5), "12.5ms");
        assert_eq!(console_time(3_723_004.0), "1:02:03.004 (h:mm:ss.mmm)");
    }

    #[test]
    fn counts_look_as_in_the_article() {
        let counts = BTreeMap::from([(429, 387), (200, 613)]);
        assert_eq!(console_object(&counts), "{ '200': 613, '429': 387 }");
        assert_eq!(console_object(&BTreeMap::new()), "{}");
    }

    fn run(charges: u64, v2: Option<(Queues, Option<Drained>)>) -> Run {
        let played = Played {
            started: Instant::now(),
            elapsed_ms: 124_980.0,
            status_counts: BTreeMap::from([(200, 613), (429, 387)]),
            starting_inventory: 1_000_000,
            inventory_at_next_tick: 994_536,
            inventory_after_500_ms: 994_464,
            sales_total: 5_536,
        };
        let payments = Payments { calls: 1_000, charges, throttled: 387 };
        let (queues, drained) =
            v2.map_or((None, None), |(queues, drained)| (Some(queues), drained));
        Run { played, payments, queues, drained }
    }

    fn report() -> Report {
        let waiting = Queues { payments_queue: 991, payments_dlq: 0 };
        let empty = Queues { payments_queue: 0, payments_dlq: 0 };
        let drained =
            Drained { is_complete: true, seconds_after_first_order: 200.04, ready_orders: 1_000 };
        Report {
            orders: 1_000,
            payments_rate_per_second: 5.0,
            payments_burst: 5,
            serial: Pair { v1: run(613, None), v2: run(9, Some((waiting, None))) },
            ten_in_flight: Pair {
                v1: run(613, None),
                v2: run(1_000, Some((empty, Some(drained)))),
            },
        }
    }

    #[test]
    fn both_versions_stand_side_by_side_in_lines_that_fit() {
        let text = report().text();
        let lines: Vec<_> = text.lines().collect();
        for wanted in [
            "Time for 1000 orders.: 2:04.980 (m:ss.mmm)        Time for 1000 orders.: 2:04.980 \
             (m:ss.mmm)",
            "387 orders are taken and never charged.           payments-dlq: 0. Not waited for in \
             this run.",
        ] {
            assert!(lines.contains(&wanted), "{wanted}\nis not in\n{text}");
        }
        assert!(text.contains("Inventory reduced by: 5464 of sales total 5536."), "{text}");
        assert!(text.contains("Payments: drained 200.0 s after the first order."), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 110), "{text}");
    }

    #[test]
    fn the_json_has_all_figures() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["serial"]["v1"]["statusCounts"]["429"], 387);
        assert_eq!(json["serial"]["v2"]["queues"]["paymentsQueue"], 991);
        assert_eq!(json["tenInFlight"]["v2"]["drained"]["readyOrders"], 1_000);
        assert_eq!(json["tenInFlight"]["v1"]["inventoryAfter500Ms"], 994_464);
    }
}
