//! `wims order events`: what happened to an order, oldest first, each with what it follows from.
//!
//! Promise: all of it, page after page, as far back as the journal reaches; where that is not the
//! order's creation it says so. With `--json` each is a line, as the server told it. It deliberately
//! shows no image: `wims log show` does.

use serde_json::Value;

use crate::cli::Failure;
use crate::cli::client::order::OrderArgs;
use crate::cli::client::table::{Align, Table, cell, shortened};
use crate::cli::client::{PAGE_ROWS_MAX, Server, print};

/// So much of a reason fits a line.
const REASON_CHARS_MAX: usize = 80;

/// Prints an order's timeline.
///
/// # Errors
/// When the server is not reachable, refuses or does not know the order.
pub(super) async fn events(args: OrderArgs) -> Result<(), Failure> {
    let server = Server::at(&args.server)?;
    let mut table = timeline_table();
    let (mut after, mut is_first) = ("0".to_owned(), true);
    loop {
        let query = [("after", after), ("limit", PAGE_ROWS_MAX.to_string())];
        let page = server.get(&["orders", &args.id, "events"], &query).await?;
        if is_first && page.json["complete"] == false {
            eprintln!("the journal no longer reaches back to the order's creation");
        }
        if args.server.json {
            print(&page.items().iter().map(|item| format!("{item}\n")).collect::<String>())?;
        } else if is_first || !page.items().is_empty() {
            print(&table.page_text(page.items(), row))?;
        }
        // A page may be empty: so much of the journal tells of others only.
        let next = page.json["next"].as_str().map(str::to_owned);
        match next {
            Some(next) if page.json["end"] == false => (after, is_first) = (next, false),
            Some(_) | None => return Ok(()),
        }
    }
}

fn timeline_table() -> Table {
    Table::new(&[
        ("TIME", Align::Left),
        ("ID", Align::Right),
        ("FOLLOWS FROM", Align::Right),
        ("TYPE", Align::Left),
        ("WHAT", Align::Left),
    ])
}

fn row(item: &Value) -> Vec<String> {
    vec![
        cell(&item["time"]),
        cell(&item["id"]),
        cell(&item["cause"]),
        cell(&item["type"]),
        what(item),
    ]
}

/// What changed, where it was sent, and why.
fn what(item: &Value) -> String {
    let changes = item["changes"].as_array().into_iter().flatten();
    let change = |change: &Value| {
        let (attribute, to) = (cell(&change["attribute"]), cell(&change["to"]));
        match change["from"].as_str() {
            Some(_) => format!("{attribute} {} -> {to}", cell(&change["from"])),
            None => format!("{attribute} {to}"),
        }
    };
    let mut told: Vec<String> = changes.map(change).collect();
    told.extend(item["queue"].as_str().map(|_| format!("to {}", cell(&item["queue"]))));
    told.extend(item["reason"].as_str().map(|reason| shortened(reason, REASON_CHARS_MAX)));
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_line_has_what_it_follows_from_and_what_changed() {
        let items = [
            json!({"id": "7", "time": "T", "type": "cdcEvent", "cause": null, "changes": [
                {"attribute": "status", "from": null, "to": "PENDING"}
            ]}),
            json!({"id": "9", "time": "T", "type": "cdcEvent", "cause": "7", "changes": [
                {"attribute": "status", "from": "PENDING", "to": "ON_HOLD"},
                {"attribute": "paymentStatus", "from": "UNKNOWN", "to": "FAILED"}
            ]}),
            json!({"id": "11", "time": "T", "type": "deadLetter", "cause": "9",
                "queue": "payments-dlq", "reason": "no\u{1b} answer"}),
        ];
        let text = timeline_table().page_text(&items, row);
        let lines: Vec<Vec<&str>> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["T", "7", "-", "cdcEvent", "status", "PENDING"]);
        let told = lines[1].join(" ");
        assert_eq!(
            told,
            "T 9 7 cdcEvent status PENDING -> ON_HOLD, paymentStatus UNKNOWN -> FAILED"
        );
        let told = lines[2].join(" ");
        assert_eq!(told, "T 11 9 deadLetter to payments-dlq, no\u{fffd} answer");
    }
}
