//! `wims order export`: all orders, open and closed, for reports: as CSV or as lines of JSON.
//!
//! Promise: columns stand where they stood, new ones come behind them; a file is whole or not there
//! at all; no cell becomes a formula of a spreadsheet. Orders are read page after page, newest
//! first, and never all held in memory. One is told as it was when its page was read, and what
//! is placed after the first page is not among them.
//! Deliberately absent: sums. What a report counts, a spreadsheet or SQL counts.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::client::log::NewFile;
use crate::cli::client::order::units;
use crate::cli::client::{PAGE_ROWS_MAX, Server, ServerArgs, print, print_line};
use crate::cli::{EXIT_DATA_DIR, Failure};

/// The columns of CSV, for good: fields of an order as the API shows it. `quantity` is that of all
/// lines together, `amount` is in minor units, `lines` is JSON.
const COLUMNS: [&str; 14] = [
    "orderId",
    "customerId",
    "status",
    "inventoryStatus",
    "paymentStatus",
    "fulfillmentStatus",
    "quantity",
    "amount",
    "currency",
    "reason",
    "createdAt",
    "updatedAt",
    "waitsFor",
    "lines",
];
/// RFC 4180.
const LINE_END: &str = "\r\n";
/// Where an export goes unless a file is named.
const STANDARD_OUTPUT: &str = "-";

/// What `order export` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims order export --output orders.csv  # all of them, newest first\n  \
    wims order export --format jsonl --status READY | wc -l  # how many can be picked\n  \
    wims order export --since 2026-11-01 --until 2026-12-01 --output november.csv\n\n\
    CSV is as RFC 4180 has it, with these columns: orderId, customerId, status, inventoryStatus, \
    paymentStatus, fulfillmentStatus, quantity, amount, currency, reason, createdAt, updatedAt, \
    waitsFor, lines. Amounts are in minor units, as cents; lines are JSON. New columns come last. A text \
    that begins with = + - @ or a tab gets an apostrophe before it, so that no spreadsheet takes it \
    for a formula.")]
pub struct ExportArgs {
    /// How orders are written
    #[arg(long, env = "WIMS_ORDER_EXPORT_FORMAT", value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Only orders of this status
    #[arg(long, env = "WIMS_ORDER_EXPORT_STATUS")]
    status: Option<String>,
    /// Only orders created then or later: a day (from midnight, UTC) or a time as in RFC 3339
    #[arg(long, env = "WIMS_ORDER_EXPORT_SINCE", value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// Only orders created before that
    #[arg(long, env = "WIMS_ORDER_EXPORT_UNTIL", value_name = "TIME", value_parser = time)]
    until: Option<SystemTime>,
    /// The file to write; - is standard output
    #[arg(long, env = "WIMS_ORDER_EXPORT_OUTPUT", value_name = "FILE",
        default_value = STANDARD_OUTPUT)]
    output: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

fn time(text: &str) -> Result<SystemTime, String> {
    let midnight = if text.len() == "2026-11-24".len() { "T00:00:00Z" } else { "" };
    let parsed = humantime::parse_rfc3339(&format!("{text}{midnight}"));
    parsed.map_err(|_| "a time is like 2026-11-24 or 2026-11-24T18:30:00Z".to_owned())
}

/// Writes all orders that are asked for.
///
/// # Errors
/// When the server is not reachable or refuses, or the file cannot be written.
pub(super) async fn export(args: ExportArgs) -> Result<(), Failure> {
    if args.output == Path::new(STANDARD_OUTPUT) {
        write_all(&args, print).await?;
        return Ok(());
    }
    let refused = |error: io::Error| {
        let message = format!("cannot write {}: {error}", args.output.display());
        Failure::new(EXIT_DATA_DIR, message)
    };
    let mut file = NewFile::create(&args.output).map_err(refused)?;
    let orders = write_all(&args, |text| file.write(text).map_err(refused)).await?;
    file.finish().map_err(refused)?;
    print_line(&written(orders, &args.output, args.server.json))
}

fn written(orders: u64, path: &Path, is_json: bool) -> String {
    if is_json {
        return json!({"orders": orders, "file": path.to_string_lossy()}).to_string();
    }
    format!("{orders} orders are in {}", path.display())
}

/// Reads page after page to the end, and writes each as it comes; how many orders were written.
async fn write_all(
    args: &ExportArgs,
    mut write: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let server = Server::at(&args.server)?;
    if args.format == Format::Csv {
        write(&csv_line(COLUMNS.map(str::to_owned)))?;
    }
    let (mut orders, mut cursor) = (0, None);
    loop {
        let page = server.get(&["orders"], &query(args, cursor)).await?;
        for order in page.items().iter().filter(|order| is_wanted(args, order)) {
            write(&line(args.format, order))?;
            orders += 1;
        }
        cursor = page.json["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(orders);
        }
    }
}

fn query(args: &ExportArgs, cursor: Option<String>) -> Vec<(&'static str, String)> {
    let mut query = vec![("limit", PAGE_ROWS_MAX.to_string())];
    query.extend(args.status.clone().map(|status| ("status", status)));
    query.extend(cursor.map(|cursor| ("cursor", cursor)));
    query
}

/// Whether an order was created when it is asked for. The clock may have gone back between two of
/// them, so an old one does not end an export.
fn is_wanted(args: &ExportArgs, order: &Value) -> bool {
    if args.since.is_none() && args.until.is_none() {
        return true;
    }
    let created = order["createdAt"].as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    created.is_some_and(|created| {
        args.since.is_none_or(|since| since <= created)
            && args.until.is_none_or(|until| created < until)
    })
}

fn line(format: Format, order: &Value) -> String {
    match format {
        Format::Jsonl => format!("{order}\n"),
        Format::Csv => csv_line(COLUMNS.map(|column| match column {
            "quantity" => units(order).to_string(),
            column => cell(&order[column]),
        })),
    }
}

/// A value as a cell; what there is not is empty.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
            format!("'{text}")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv_line(cells: [String; COLUMNS.len()]) -> String {
    cells.map(|cell| quoted(&cell)).join(",") + LINE_END
}

/// A cell in quotes, if something in it would not be part of it otherwise.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell.to_owned()
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn args(more: &[&str]) -> ExportArgs {
        let command = ExportArgs::augment_args(Command::new("export"));
        let matches = command.get_matches_from([&["export"][..], more].concat());
        ExportArgs::from_arg_matches(&matches).expect("they are right")
    }

    fn order() -> Value {
        json!({
            "orderId": "a", "customerId": "=1+1,\"x\"", "status": "READY",
            "inventoryStatus": "RESERVED", "paymentStatus": "PAID", "fulfillmentStatus": "READY",
            "lines": [{"quantity": 3, "sku": "M/A"}, {"quantity": 4, "sku": "M/B"}],
            "amount": -5, "currency": "USD", "createdAt": "2026-01-02T03:04:05.006Z",
            "updatedAt": "2026-01-02T03:04:06.006Z", "waitsFor": "a person to ship it"
        })
    }

    #[test]
    fn a_line_of_csv_is_quoted_has_all_columns_and_no_formula() {
        let told = "a,\"'=1+1,\"\"x\"\"\",READY,RESERVED,PAID,READY,7,-5,USD,,\
            2026-01-02T03:04:05.006Z,2026-01-02T03:04:06.006Z,a person to ship it,\
            \"[{\"\"quantity\"\":3,\"\"sku\"\":\"\"M/A\"\"},{\"\"quantity\"\":4,\"\"sku\"\":\"\"M/B\"\"}]\"\r\n";
        assert_eq!(line(Format::Csv, &order()), told);
    }

    #[test]
    fn a_text_that_a_spreadsheet_would_compute_gets_an_apostrophe_and_a_number_none() {
        for text in ["=1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"] {
            assert_eq!(cell(&json!(text)), format!("'{text}"));
        }
        for text in ["1-1", "a=b", " =1", "", "'"] {
            assert_eq!(cell(&json!(text)), text);
        }
        assert_eq!(cell(&json!(-5)), "-5");
        assert_eq!(cell(&Value::Null), "");
        assert_eq!(quoted("a\nb"), "\"a\nb\"");
    }

    #[test]
    fn a_line_of_json_is_the_order_as_the_server_told_it() {
        assert_eq!(line(Format::Jsonl, &order()), format!("{}\n", order()));
    }

    #[test]
    fn since_is_within_and_until_is_not() {
        let is = |more: &[&str]| is_wanted(&args(more), &order());
        assert!(is(&[]));
        assert!(is(&["--since=2026-01-02T03:04:05.006Z", "--until=2026-01-03"]));
        assert!(!is(&["--since=2026-01-02T03:04:05.007Z"]));
        assert!(!is(&["--until=2026-01-02T03:04:05.006Z"]));
        assert!(!is(&["--since=2026-01-03"]));
        assert!(!is_wanted(&args(&["--since=2026-01-01"]), &json!({})));
        for wrong in ["", "yesterday", "2026-13-01", "2026-01-02T03:04"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_help_tells_the_columns() {
        let command = ExportArgs::augment_args(Command::new("export"));
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains(&format!("these columns: {}.", COLUMNS.join(", "))), "{help}");
    }
}
