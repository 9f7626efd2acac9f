//! `wims order ready`: the pick list.
//!
//! Promise: every READY order, oldest first, with what to pick and, when asked for, where it goes.
//! Addresses are asked for order by order, for lists deliberately do not show what is personal.

use clap::Args;
use clap::builder::BoolishValueParser;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::client::table::{Align, Table, cell, lines};
use crate::cli::client::{PAGE_ROWS_MAX, Server, ServerArgs, print};

/// What `order ready` takes.
#[derive(Args)]
pub struct ReadyArgs {
    /// Show where each goes, as long as its contact data is there
    #[arg(long, env = "WIMS_ORDER_READY_ADDRESSES", value_parser = BoolishValueParser::new())]
    addresses: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Prints the pick list.
///
/// # Errors
/// When the server is not reachable or refuses.
pub(super) async fn ready(args: ReadyArgs) -> Result<(), Failure> {
    let server = Server::at(&args.server)?;
    let mut orders = all_ready(&server).await?;
    if args.addresses {
        for order in &mut orders {
            let id = order["orderId"].as_str().unwrap_or_default().to_owned();
            *order = server.get(&["orders", &id], &[]).await?.json;
        }
        // Meanwhile some may have been shipped.
        orders.retain(|order| order["status"] == "READY");
    }
    if args.server.json {
        return print(&orders.iter().map(|order| format!("{order}\n")).collect::<String>());
    }
    print(&pick_list(&orders, args.addresses))
}

/// All of them, oldest first.
async fn all_ready(server: &Server) -> Result<Vec<Value>, Failure> {
    let (mut orders, mut cursor) = (Vec::new(), None);
    loop {
        let mut query = vec![("status", "READY".to_owned()), ("limit", PAGE_ROWS_MAX.to_string())];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let page = server.get(&["orders"], &query).await?;
        orders.extend_from_slice(page.items());
        cursor = page.json["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            orders.reverse();
            return Ok(orders);
        }
    }
}

fn pick_list(orders: &[Value], addresses: bool) -> String {
    let mut columns = vec![
        ("ORDER", Align::Left),
        ("CUSTOMER", Align::Left),
        ("REFERENCE", Align::Left),
        ("CREATED", Align::Left),
        ("LINES", Align::Left),
    ];
    columns.extend(addresses.then_some(("SHIP TO", Align::Left)));
    let row = |order: &Value| {
        let names = ["orderId", "customerId", "reference", "createdAt"];
        let mut row: Vec<String> = names.iter().map(|name| cell(&order[*name])).collect();
        row.push(lines(&order["lines"]));
        row.extend(addresses.then(|| address(&order["contact"]["shipTo"])));
        row
    };
    Table::new(&columns).page_text(orders, row)
}

/// An address in one line; a dash when there is none.
fn address(ship_to: &Value) -> String {
    let streets = ship_to["street"].as_str().unwrap_or("").lines().map(str::to_owned);
    let city = ["postalCode", "city"].map(|name| &ship_to[name]);
    let city: Vec<String> = city.into_iter().filter(|part| !part.is_null()).map(cell).collect();
    let name = Some(&ship_to["name"]).filter(|name| !name.is_null()).map(cell);
    let mut parts: Vec<String> = name.into_iter().chain(streets).collect();
    parts.push(city.join(" "));
    let rest = ["region", "country"].map(|name| &ship_to[name]);
    parts.extend(rest.into_iter().filter(|part| !part.is_null()).map(cell));
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_has_what_to_pick_and_where_it_goes_when_asked_for() {
        let order = json!({
            "orderId": "a", "customerId": "349", "createdAt": "T",
            "lines": [{"sku": "M/A", "quantity": 2}, {"sku": "M/B", "quantity": 1}],
            "contact": {"shipTo": {
                "name": "Ada", "street": "1 Way\nFlat 2", "postalCode": "N1", "city": "London",
                "country": "GB"
            }}
        });
        let row = |addresses| {
            let text = pick_list(std::slice::from_ref(&order), addresses);
            text.lines().nth(1).map(str::to_owned).unwrap_or_default()
        };
        assert!(row(false).ends_with("T        2 x M/A, 1 x M/B"), "{}", row(false));
        assert!(row(true).ends_with("  Ada, 1 Way, Flat 2, N1 London, GB"), "{}", row(true));
        assert_eq!(address(&Value::Null), "-");
    }
}
