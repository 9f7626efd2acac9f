//! `wims order`: place, look at, ship and cancel orders.
//!
//! Promise: an order is placed once a call, never again on its own. It deliberately checks nothing
//! the server checks: its refusals say what is wrong.

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::client::order_export::{self, ExportArgs};
use crate::cli::client::order_ready::{self, ReadyArgs};
use crate::cli::client::order_ship::{self, ShipArgs};
use crate::cli::client::table::{Align, Table, cell, fields, money};
use crate::cli::client::{PAGE_ROWS_MAX, Server, ServerArgs, idempotency_key, path_segment, print};
use crate::cli::client::{order_events, order_why};
use crate::cli::{Failure, block_on};

/// What can be done with orders.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    wims order create --customer 349 --quantity 7  # place one\n  \
    wims order list --status ON_HOLD  # those a person must look at")]
pub enum OrderCommand {
    /// Place an order
    #[command(after_help = "Examples:\n  \
        wims order create --customer 349 --quantity 7  # of the default item\n  \
        wims order create --customer 349 --line MACGUFFIN/LX=7 --line BOLT/M8=40  # several\n  \
        wims order create --customer 349 --quantity 7 --idempotency-key cart-4711  # again is \
        the same order\n\n\
        The order is on disk when this returns. Stock and payment follow on their own: see \
        `wims order get`.")]
    Create(CreateArgs),
    /// Show an order, and what it waits for
    #[command(after_help = "Example:\n  wims order get 01890a5d-ac96-774b-bcce-b302099a8057")]
    Get(OrderArgs),
    /// Tell what an order waits for, with its place in line
    #[command(after_help = "Example:\n  wims order why 01890a5d-ac96-774b-bcce-b302099a8057\n\n\
        It waits for one thing: an event under way, a time, stock, its payment's turn, or a \
        person's act. With --json it is the order, as `wims order get` prints it.")]
    Why(OrderArgs),
    /// Show what happened to an order, with cause and effect
    #[command(
        after_help = "Example:\n  wims order events 01890a5d-ac96-774b-bcce-b302099a8057\n\n\
        As far back as the journal is kept, for closed orders too. FOLLOWS FROM is the ID of what \
        led to it: of another line, or of another item's change; a dash is a request or a timer. \
        With --json each is a line of JSON."
    )]
    Events(OrderArgs),
    /// List orders, newest first
    #[command(after_help = "Examples:\n  \
        wims order list --status ON_HOLD  # those a person must look at\n  \
        wims order list --customer 349 --all --json | wc -l  # how many a customer has\n\n\
        Statuses: PENDING, BACKORDERED, ON_HOLD, READY, SHIPPED, CANCELING, CANCELED.")]
    List(ListArgs),
    /// Write all orders, open and closed, as CSV or lines of JSON
    Export(ExportArgs),
    /// List READY orders, oldest first: what to pick
    #[command(after_help = "Examples:\n  \
        wims order ready  # the pick list\n  \
        wims order ready --addresses --json  # with where each goes, a line of JSON each\n\n\
        As CSV: `wims order export --status READY`.")]
    Ready(ReadyArgs),
    /// Tell that READY orders have left the warehouse
    #[command(after_help = "Examples:\n  \
        wims order ship 01890a5d-ac96-774b-bcce-b302099a8057\n  \
        wims order ship --file left.txt  # an id a line; goes on after a refusal\n\n\
        Repeating it changes nothing. Of a file each id is told as shipped, already shipped, or \
        refused with the reason; exit code 1 when one was refused.")]
    Ship(ShipArgs),
    /// Cancel an order that was not shipped
    #[command(after_help = "Example:\n  \
        wims order cancel 01890a5d-ac96-774b-bcce-b302099a8057 --reason 'found it cheaper'\n\n\
        Its stock is free at once. It is CANCELING until it is known whether it was charged, and \
        until its money is back; then it is CANCELED. Repeating it changes nothing.")]
    Cancel(CancelArgs),
    /// Try another payment method after a decline
    #[command(after_help = "Example:\n  \
        wims order pay 01890a5d-ac96-774b-bcce-b302099a8057 --payment-method tok_4711\n\n\
        Only of an order whose payment is DECLINED.")]
    Pay(PayArgs),
}

/// What `order create` takes.
#[derive(Args)]
pub struct CreateArgs {
    /// The customer's id, 1 to 128 characters
    #[arg(long, env = "WIMS_ORDER_CREATE_CUSTOMER", value_name = "ID")]
    customer: String,
    /// Units of the default item; instead of lines
    #[arg(
        long,
        env = "WIMS_ORDER_CREATE_QUANTITY",
        value_name = "N",
        required_unless_present = "lines",
        conflicts_with = "lines"
    )]
    quantity: Option<i64>,
    /// A line: so many units of an item; again for each item, commas between several in a variable
    #[arg(long = "line", env = "WIMS_ORDER_CREATE_LINE", value_name = "SKU=N",
        value_parser = order_line, value_delimiter = ',')]
    lines: Vec<OrderLine>,
    /// Your own number of the order
    #[arg(long, env = "WIMS_ORDER_CREATE_REFERENCE", value_name = "TEXT")]
    reference: Option<String>,
    /// The customer's mail address; kept beside the order until it ships, and erasable
    #[arg(long, env = "WIMS_ORDER_CREATE_EMAIL", value_name = "ADDRESS")]
    email: Option<String>,
    /// Place it once under this key, however often this is said within a day
    #[arg(long, env = "WIMS_ORDER_CREATE_IDEMPOTENCY_KEY", value_name = "KEY",
        value_parser = idempotency_key)]
    idempotency_key: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// A line as it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OrderLine {
    sku: String,
    quantity: i64,
}

fn order_line(text: &str) -> Result<OrderLine, String> {
    let line = text.rsplit_once('=').and_then(|(sku, quantity)| {
        Some(OrderLine { sku: sku.to_owned(), quantity: quantity.parse().ok()? })
    });
    line.ok_or_else(|| "a line is a sku and a whole number, such as MACGUFFIN/LX=7".to_owned())
}

/// What commands about one order take.
#[derive(Args)]
pub struct OrderArgs {
    /// The order's id
    #[arg(value_parser = path_segment)]
    pub(super) id: String,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// What `order cancel` takes.
#[derive(Args)]
pub struct CancelArgs {
    /// The order's id
    #[arg(value_parser = path_segment)]
    id: String,
    /// Why; kept with the order
    #[arg(long, env = "WIMS_ORDER_CANCEL_REASON", value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `order pay` takes.
#[derive(Args)]
pub struct PayArgs {
    /// The order's id
    #[arg(value_parser = path_segment)]
    id: String,
    /// What the payments provider knows the card or account by
    #[arg(long, env = "WIMS_ORDER_PAY_PAYMENT_METHOD", value_name = "TOKEN")]
    payment_method: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `order list` takes.
#[derive(Args)]
pub struct ListArgs {
    /// Only orders of this status
    #[arg(long, env = "WIMS_ORDER_LIST_STATUS")]
    status: Option<String>,
    /// Only orders of this customer
    #[arg(long, env = "WIMS_ORDER_LIST_CUSTOMER", value_name = "ID")]
    customer: Option<String>,
    /// Orders at most; with --all, orders a request [default: 50; with --all 500]
    #[arg(long, env = "WIMS_ORDER_LIST_LIMIT", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: Option<u32>,
    /// All of them, page after page; with --json a line of JSON each
    #[arg(long, env = "WIMS_ORDER_LIST_ALL", value_parser = BoolishValueParser::new())]
    all: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Carries out a command.
///
/// # Errors
/// When the server is not reachable, refuses or finds nothing.
pub fn run(command: OrderCommand) -> Result<(), Failure> {
    block_on(async {
        match command {
            OrderCommand::Create(args) => create(args).await,
            OrderCommand::Get(args) => get(args).await,
            OrderCommand::Why(args) => order_why::why(args).await,
            OrderCommand::Events(args) => order_events::events(args).await,
            OrderCommand::List(args) => list(args).await,
            OrderCommand::Export(args) => order_export::export(args).await,
            OrderCommand::Ready(args) => order_ready::ready(args).await,
            OrderCommand::Ship(args) => order_ship::ship(args).await,
            OrderCommand::Cancel(args) => cancel(args).await,
            OrderCommand::Pay(args) => pay(args).await,
        }
    })?
}

async fn create(args: CreateArgs) -> Result<(), Failure> {
    let order = new_order(&args);
    let server = Server::at(&args.server)?.under(args.idempotency_key);
    let reply = server.post(&["orders"], &order).await?;
    let [message, id, status] = ["message", "orderId", "status"].map(|name| reply.field(name));
    args.server.show(&reply, || format!("{message} {id} is {status}\n"))
}

/// The body that places an order.
fn new_order(args: &CreateArgs) -> Value {
    let mut order = json!({"customerId": args.customer});
    match args.quantity {
        Some(quantity) => order["quantity"] = quantity.into(),
        None => {
            let line = |line: &OrderLine| json!({"sku": line.sku, "quantity": line.quantity});
            order["lines"] = args.lines.iter().map(line).collect();
        }
    }
    for (name, text) in [("reference", &args.reference), ("email", &args.email)] {
        if let Some(text) = text {
            order[name] = text.as_str().into();
        }
    }
    order
}

async fn get(args: OrderArgs) -> Result<(), Failure> {
    let reply = Server::at(&args.server)?.get(&["orders", &args.id], &[]).await?;
    args.server.show(&reply, || fields(&without_waiting(&reply.json)))
}

/// An order without its place in line, which `order why` tells.
fn without_waiting(order: &Value) -> Value {
    let mut order = order.clone();
    if let Some(fields) = order.as_object_mut() {
        fields.shift_remove("waiting");
    }
    order
}

async fn cancel(args: CancelArgs) -> Result<(), Failure> {
    let path = ["orders", &args.id, "cancel"];
    let body = args.reason.as_ref().map_or(json!({}), |reason| json!({"reason": reason}));
    let reply = Server::at(&args.server)?.post(&path, &body).await?;
    let told = || format!("{} is {}\n", reply.field("orderId"), reply.field("status"));
    args.server.show(&reply, told)
}

async fn pay(args: PayArgs) -> Result<(), Failure> {
    let path = ["orders", &args.id, "payment"];
    let body = json!({"paymentMethod": args.payment_method});
    let reply = Server::at(&args.server)?.post(&path, &body).await?;
    let told = || format!("{} is {}\n", reply.field("orderId"), reply.field("status"));
    args.server.show(&reply, told)
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let server = Server::at(&args.server)?;
    let mut table = orders_table();
    let mut cursor = None;
    loop {
        let reply = server.get(&["orders"], &query(&args, cursor.as_ref())).await?;
        let next = reply.json["next"].as_str().map(str::to_owned);
        if args.server.json && args.all {
            print(&json_lines(reply.items()))?;
        } else {
            args.server.show(&reply, || table.page_text(reply.items(), order_row))?;
        }
        if next.is_none() || !args.all {
            tell_of_more(next.is_some());
            return Ok(());
        }
        cursor = next;
    }
}

fn query(args: &ListArgs, cursor: Option<&String>) -> Vec<(&'static str, String)> {
    let limit = args.limit.or(args.all.then_some(PAGE_ROWS_MAX));
    let parts = [
        ("status", args.status.clone()),
        ("customerId", args.customer.clone()),
        ("limit", limit.map(|limit| limit.to_string())),
        ("cursor", cursor.cloned()),
    ];
    parts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn json_lines(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

fn tell_of_more(has_more: bool) {
    if has_more {
        eprintln!("there may be more: --all lists all, --limit up to {PAGE_ROWS_MAX}");
    }
}

fn orders_table() -> Table {
    Table::new(&[
        ("ORDER", Align::Left),
        ("CUSTOMER", Align::Left),
        ("STATUS", Align::Left),
        ("UNITS", Align::Right),
        ("AMOUNT", Align::Right),
        ("CREATED", Align::Left),
        ("WAITS FOR", Align::Left),
    ])
}

fn order_row(order: &Value) -> Vec<String> {
    let currency = order["currency"].as_str().unwrap_or("");
    vec![
        cell(&order["orderId"]),
        cell(&order["customerId"]),
        cell(&order["status"]),
        units(order).to_string(),
        money(order["amount"].as_i64().unwrap_or(0), currency),
        cell(&order["createdAt"]),
        cell(&order["waitsFor"]),
    ]
}

/// Units over all lines.
pub(super) fn units(order: &Value) -> i64 {
    let lines = order["lines"].as_array().into_iter().flatten();
    lines.filter_map(|line| line["quantity"].as_i64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OrderStatus;

    #[test]
    fn the_help_of_list_names_every_status_an_order_can_have() {
        let orders = OrderCommand::augment_subcommands(clap::Command::new("order"));
        let list = orders.find_subcommand("list").expect("there is a list");
        let help = list.get_after_help().map(ToString::to_string).unwrap_or_default();
        let all: Vec<&str> = OrderStatus::ALL.iter().map(|status| status.as_str()).collect();
        assert!(help.contains(&format!("Statuses: {}.", all.join(", "))), "{help}");
    }

    /// The body that `order create` sends when it is called so.
    fn body_of(arguments: &[&str]) -> Value {
        #[derive(clap::Parser)]
        struct Create {
            #[command(flatten)]
            args: CreateArgs,
        }
        let customer = ["create", "--customer=349"];
        let parsed = <Create as clap::Parser>::try_parse_from(customer.iter().chain(arguments));
        new_order(&parsed.unwrap_or_else(|error| panic!("{error}")).args)
    }

    #[test]
    fn an_order_is_placed_by_a_quantity_or_by_lines() {
        let quantity = body_of(&["--quantity=7"]);
        assert_eq!(quantity, json!({"customerId": "349", "quantity": 7}));
        let several = body_of(&["--line=A/1=2", "--line", "B/1=-3", "--reference=PO 4711"]);
        let lines = json!([{"sku": "A/1", "quantity": 2}, {"sku": "B/1", "quantity": -3}]);
        let expected = json!({"customerId": "349", "lines": lines, "reference": "PO 4711"});
        assert_eq!(several, expected);
        for wrong in ["", "A/1", "A/1=", "A/1=x", "A/1=1.5"] {
            assert!(order_line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_order_is_a_row_with_what_it_waits_for() {
        let order = json!({
            "orderId": "a", "customerId": "349", "status": "READY", "amount": 17_500,
            "currency": "USD", "lines": [{"sku": "MACGUFFIN/LX", "quantity": 7}],
            "createdAt": "2026-01-02T03:04:05.006Z", "waitsFor": "a person to ship it"
        });
        let text = orders_table().page_text(&[order], order_row);
        let row = "a      349       READY       7  175.00 USD  2026-01-02T03:04:05.006Z  a person \
            to ship it";
        assert_eq!(text.lines().nth(1), Some(row), "{text}");
    }
}
