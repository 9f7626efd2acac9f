//! `wims inventory`: look at, describe and receive stock.
//!
//! Promise: without a sku the article's item is meant, as in its `GET /inventory`. It deliberately
//! checks of a sku only its form, which the path needs.

use clap::{Args, Subcommand};
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use crate::cli::client::table::{Align, Table, cell, fields, money};
use crate::cli::client::{PAGE_ROWS_MAX, Server, ServerArgs, idempotency_key, path_segment};
use crate::cli::{Failure, block_on};
use crate::domain;

/// What can be done with stock.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    wims inventory list  # all items and what is left of each\n  \
    wims inventory receive MACGUFFIN/LX 500  # units have arrived")]
pub enum InventoryCommand {
    /// Show an item's stock
    #[command(after_help = "Examples:\n  \
        wims inventory get  # the article's item\n  \
        wims inventory get MACGUFFIN/LX  # any item")]
    Get(GetArgs),
    /// List all items, newest first
    #[command(after_help = "Example:\n  wims inventory list\n\nWith --json each page of the \
        server's answer is a line.")]
    List(ServerArgs),
    /// Create an item, or change what describes it; its stock stays as it is
    #[command(after_help = "Example:\n  wims inventory put MACGUFFIN/XL --name 'MacGuffin XL' \
        --price 4900 --reorder-point 50\n\nA new item has no stock: see `wims inventory receive`.")]
    Put(PutArgs),
    /// Add units that have arrived
    #[command(after_help = "Example:\n  wims inventory receive MACGUFFIN/LX 500")]
    Receive(ReceiveArgs),
}

/// A sku on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sku {
    product: String,
    model: String,
}

fn sku(text: &str) -> Result<Sku, String> {
    let parts = domain::Sku::parse(text)
        .and_then(|sku| Some((path_segment(sku.product).ok()?, path_segment(sku.model).ok()?)));
    let (product, model) = parts.ok_or(
        "a sku is PRODUCT/MODEL, each of capitals, digits, dots, dashes and underscores, e.g. \
         MACGUFFIN/LX",
    )?;
    Ok(Sku { product, model })
}

/// What `inventory get` takes.
#[derive(Args)]
pub struct GetArgs {
    /// The item, PRODUCT/MODEL [default: the article's item]
    #[arg(value_parser = sku)]
    sku: Option<Sku>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `inventory put` takes.
#[derive(Args)]
pub struct PutArgs {
    /// The item, PRODUCT/MODEL
    #[arg(value_parser = sku)]
    sku: Sku,
    /// What people call it
    #[arg(long, env = "WIMS_INVENTORY_PUT_NAME")]
    name: String,
    /// Its price in minor units: 2500 is 25.00 USD
    #[arg(long, env = "WIMS_INVENTORY_PUT_PRICE", value_name = "MINOR")]
    price: Option<i64>,
    /// Its price's currency, three capitals
    #[arg(long, env = "WIMS_INVENTORY_PUT_CURRENCY")]
    currency: Option<String>,
    /// The team is told when no more than this is left
    #[arg(long, env = "WIMS_INVENTORY_PUT_REORDER_POINT", value_name = "N")]
    reorder_point: Option<i64>,
    /// Units one order may have, so that none blocks the shop
    #[arg(long, env = "WIMS_INVENTORY_PUT_ORDER_QUANTITY_MAX", value_name = "N")]
    order_quantity_max: Option<i64>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `inventory receive` takes.
#[derive(Args)]
pub struct ReceiveArgs {
    /// The item, PRODUCT/MODEL
    #[arg(value_parser = sku)]
    sku: Sku,
    /// How many units arrived
    quantity: i64,
    /// Book them once under this key, however often this is said within a day
    #[arg(long, env = "WIMS_INVENTORY_RECEIVE_IDEMPOTENCY_KEY", value_name = "KEY",
        value_parser = idempotency_key)]
    idempotency_key: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Carries out a command.
///
/// # Errors
/// When the server is not reachable, refuses or finds nothing.
pub fn run(command: InventoryCommand) -> Result<(), Failure> {
    block_on(async {
        match command {
            InventoryCommand::Get(args) => get(args).await,
            InventoryCommand::List(args) => list(args).await,
            InventoryCommand::Put(args) => put(args).await,
            InventoryCommand::Receive(args) => receive(args).await,
        }
    })?
}

async fn get(args: GetArgs) -> Result<(), Failure> {
    let path = match &args.sku {
        None => vec!["inventory"],
        Some(sku) => vec!["inventory", &sku.product, &sku.model],
    };
    let reply = Server::at(&args.server)?.get(&path, &[]).await?;
    args.server.show(&reply, || fields(&reply.json))
}

async fn list(args: ServerArgs) -> Result<(), Failure> {
    let server = Server::at(&args)?;
    let mut table = items_table();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", PAGE_ROWS_MAX.to_string())];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let reply = server.get(&["inventory", "items"], &query).await?;
        args.show(&reply, || table.page_text(reply.items(), item_row))?;
        cursor = reply.json["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(());
        }
    }
}

async fn put(args: PutArgs) -> Result<(), Failure> {
    let path = ["inventory", &args.sku.product, &args.sku.model];
    let reply = Server::at(&args.server)?.put(&path, &put_body(&args)).await?;
    let done = if reply.status == StatusCode::CREATED { "created" } else { "updated" };
    args.server.show(&reply, || format!("{done}\n{}", fields(&reply.json)))
}

fn put_body(args: &PutArgs) -> Value {
    let mut body = Map::new();
    body.insert("productName".into(), args.name.as_str().into());
    let optional = [
        ("unitPrice", args.price.map(Value::from)),
        ("currency", args.currency.clone().map(Value::from)),
        ("reorderPoint", args.reorder_point.map(Value::from)),
        ("orderQuantityMax", args.order_quantity_max.map(Value::from)),
    ];
    body.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Value::Object(body)
}

async fn receive(args: ReceiveArgs) -> Result<(), Failure> {
    let path = ["inventory", &args.sku.product, &args.sku.model, "receipts"];
    let body = json!({"quantity": args.quantity});
    let server = Server::at(&args.server)?.under(args.idempotency_key);
    let reply = server.post(&path, &body).await?;
    let quantity = args.quantity;
    let [sku, on_hand, reserved] = ["sku", "onHand", "reserved"].map(|name| reply.field(name));
    args.server.show(&reply, || {
        format!("received {quantity}: {sku} has {on_hand} on hand, {reserved} of them reserved\n")
    })
}

fn items_table() -> Table {
    Table::new(&[
        ("SKU", Align::Left),
        ("NAME", Align::Left),
        ("QUANTITY", Align::Right),
        ("RESERVED", Align::Right),
        ("ON HAND", Align::Right),
        ("BACKORDERED", Align::Right),
        ("REORDER POINT", Align::Right),
        ("PRICE", Align::Right),
    ])
}

fn item_row(item: &Value) -> Vec<String> {
    let shown = ["sku", "productName", "quantity", "reserved", "onHand", "backordered"];
    let mut row: Vec<_> = shown.iter().map(|name| cell(&item[*name])).collect();
    row.push(cell(&item["reorderPoint"]));
    let currency = item["currency"].as_str().unwrap_or("");
    row.push(money(item["unitPrice"].as_i64().unwrap_or(0), currency));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sku_has_two_parts_that_fit_a_path() {
        let known = Sku { product: "MACGUFFIN".into(), model: "LX".into() };
        assert_eq!(sku("MACGUFFIN/LX"), Ok(known));
        for wrong in ["MACGUFFIN", "macguffin/lx", "../LX", "A/..", "A/B/C"] {
            assert!(sku(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_item_is_a_row_with_its_price() {
        let item = json!({
            "sku": "MACGUFFIN/LX", "productName": "MacGuffin", "quantity": 7, "reserved": 3,
            "onHand": 10, "backordered": 0, "reorderPoint": 100, "unitPrice": 2_500,
            "currency": "USD"
        });
        let cells = ["MACGUFFIN/LX", "MacGuffin", "7", "3", "10", "0", "100", "25.00 USD"];
        assert_eq!(item_row(&item), cells);
        assert_eq!(items_table().page_text(&[item], item_row).lines().count(), 2);
    }
}
