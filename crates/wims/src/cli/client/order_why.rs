//! `wims order why`: what an order waits for, in plain sentences.
//!
//! Promise: it tells what the server told, place, numbers and times included, and the command with
//! which a person ends the waiting where one can. It deliberately works out nothing on its own.

use serde_json::Value;

use crate::cli::Failure;
use crate::cli::client::Server;
use crate::cli::client::order::OrderArgs;
use crate::cli::client::table::cell;

/// Asks for an order and tells what it waits for.
///
/// # Errors
/// When the server is not reachable, refuses or does not know the order.
pub(super) async fn why(args: OrderArgs) -> Result<(), Failure> {
    let reply = Server::at(&args.server)?.get(&["orders", &args.id], &[]).await?;
    args.server.show(&reply, || told(&reply.json))
}

/// What an order waits for, as text.
fn told(order: &Value) -> String {
    let (id, status) = (cell(&order["orderId"]), cell(&order["status"]));
    if order["waitsFor"].is_null() {
        return format!("{id} is {status} and waits for nothing\n");
    }
    let waiting = &order["waiting"];
    let details = match waiting["kind"].as_str() {
        Some("stock") => stock(waiting),
        Some("payment") => payment(waiting),
        Some("timer") => vec![timer(waiting)],
        Some("person") => person(waiting, &id).into_iter().collect(),
        Some("event") => vec![event(waiting)],
        // Of a newer server: the short text says it.
        Some(_) | None => Vec::new(),
    };
    let first = format!("{id} is {status} and waits for {}\n", cell(&order["waitsFor"]));
    let details = details.iter().map(|line| format!("  {line}\n"));
    std::iter::once(first).chain(details).collect()
}

fn stock(waiting: &Value) -> Vec<String> {
    let skus = waiting["skus"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |sku: &Value| {
        let more = if sku["isMore"] == true { "more than " } else { "" };
        format!(
            "{}: place {more}{} in line, {more}{} units are wanted before it, it wants {}, {} are \
             there: {more}{} missing",
            cell(&sku["sku"]),
            cell(&sku["place"]),
            cell(&sku["unitsAhead"]),
            cell(&sku["quantity"]),
            cell(&sku["available"]),
            cell(&sku["missing"]),
        )
    };
    skus.iter().map(line).collect()
}

fn payment(waiting: &Value) -> Vec<String> {
    let (more, queue) = (waiting["isMore"] == true, cell(&waiting["queue"]));
    let mut lines = vec![match waiting["ahead"].as_u64() {
        None => format!("it is somewhere in {queue}, which is too long to be searched"),
        Some(0) => format!("it is the next in {queue}"),
        Some(ahead) => {
            let more = if more { "more than " } else { "" };
            format!("{more}{ahead} are before it in {queue}")
        }
    }];
    if let Some(until) = waiting["pausedUntil"].as_str() {
        let because = cell(&waiting["pausedBecause"]);
        lines.push(format!("payments pause until {until}: {because}"));
    }
    if let Some(seconds) = waiting["expectedSeconds"].as_u64() {
        let (rate, at) = (cell(&waiting["ratePerSecond"]), cell(&waiting["expectedAt"]));
        let about = if more { "not before" } else { "about" };
        lines.push(format!("at {rate} payments a second its turn is {about} {at}, in {seconds} s"));
    }
    lines
}

fn timer(waiting: &Value) -> String {
    let then = match waiting["then"].as_str() {
        Some("lookUp") => "what became of its payment is looked up",
        Some("refund") => "its refund is tried again",
        _ => "its payment is tried",
    };
    format!("at {} {then}", cell(&waiting["until"]))
}

fn event(waiting: &Value) -> String {
    let event = match waiting["event"].as_str() {
        Some("stock") => "its stock is being decided on",
        Some("payment") => "its payment is on the way to its queue",
        Some("paymentAnswer") => "the payments API was asked and has not answered yet",
        Some("handOver") => "it is being handed over",
        _ => "something is under way",
    };
    event.to_owned()
}

/// The command that ends the waiting, if there is one.
fn person(waiting: &Value, id: &str) -> Option<String> {
    match waiting["act"].as_str()? {
        "ship" => Some(format!("wims order ship {id}")),
        "redrive" => Some(format!("wims queue redrive {}", cell(&waiting["queue"]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn waiting(waits_for: &str, waiting: Value) -> String {
        told(&json!({
            "orderId": "a", "status": "PENDING", "waitsFor": waits_for, "waiting": waiting
        }))
    }

    #[test]
    fn a_place_in_line_is_told_with_what_is_missing() {
        let sku = json!({
            "sku": "MACGUFFIN/LX", "quantity": 3, "place": 3, "unitsAhead": 9, "isMore": false,
            "available": 5, "missing": 7
        });
        let text = waiting("stock to arrive", json!({"kind": "stock", "skus": [sku]}));
        let expected = "a is PENDING and waits for stock to arrive\n  MACGUFFIN/LX: place 3 in \
            line, 9 units are wanted before it, it wants 3, 5 are there: 7 missing\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_payments_turn_is_told_with_its_place_its_pause_and_its_time() {
        let turn = json!({
            "kind": "payment", "queue": "payments-queue", "ahead": 9, "isMore": true,
            "ratePerSecond": 2.5, "expectedSeconds": 4, "expectedAt": "T",
            "pausedUntil": "P", "pausedBecause": "it asked"
        });
        let text = waiting("its turn", turn);
        let expected = "a is PENDING and waits for its turn\n  more than 9 are before it in \
            payments-queue\n  payments pause until P: it asked\n  at 2.5 payments a second its \
            turn is not before T, in 4 s\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn who_waits_for_a_person_is_told_with_the_command() {
        let redrive = json!({"kind": "person", "act": "redrive", "queue": "payments-dlq"});
        let text = waiting("a person", redrive);
        assert!(text.ends_with("\n  wims queue redrive payments-dlq\n"), "{text}");
        let ship = waiting("a person", json!({"kind": "person", "act": "ship"}));
        assert!(ship.ends_with("\n  wims order ship a\n"), "{ship}");
    }

    #[test]
    fn who_waits_for_nothing_or_for_what_is_not_known_here_is_told_shortly() {
        let closed = json!({"orderId": "a", "status": "SHIPPED", "waitsFor": null});
        assert_eq!(told(&closed), "a is SHIPPED and waits for nothing\n");
        let newer = waiting("the moon", json!({"kind": "moon"}));
        assert_eq!(newer, "a is PENDING and waits for the moon\n");
    }
}
