//! `wims order ship`: tells that orders have left the warehouse, one or a file of many.
//!
//! Promise: each of a file is told as shipped, as shipped before, or as refused with the server's
//! reason; after a refusal it goes on with the others, and ends with exit code 1. Repeating it, or
//! an id in it, ships nothing twice. A server that is gone ends it at once. It deliberately knows
//! no status: what can be shipped is the server's word.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::client::table::cell;
use crate::cli::client::{Server, ServerArgs, path_segment, print_line};
use crate::cli::{EXIT_DATA_DIR, EXIT_REFUSED, Failure};

/// Where ids come from instead of a file.
const STANDARD_INPUT: &str = "-";

/// What `order ship` takes.
#[derive(Args)]
pub struct ShipArgs {
    /// The order's id
    #[arg(value_parser = path_segment, required_unless_present = "file", conflicts_with = "file")]
    id: Option<String>,
    /// A file with an id a line; - is standard input
    #[arg(long, env = "WIMS_ORDER_SHIP_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What became of one of many.
enum Shipping {
    Shipped,
    AlreadyShipped,
    Refused(String),
}

/// Ships an order, or all of a file.
///
/// # Errors
/// When the server is not reachable or refuses, or the file cannot be read.
pub(super) async fn ship(args: ShipArgs) -> Result<(), Failure> {
    let server = Server::at(&args.server)?;
    let Some(id) = &args.id else {
        let file = args.file.as_deref().unwrap_or(Path::new(STANDARD_INPUT));
        return ship_all(&server, &ids(file)?, args.server.json).await;
    };
    let reply = server.post(&["orders", id, "ship"], &json!({})).await?;
    let told = || format!("{} is {}\n", reply.field("orderId"), reply.field("status"));
    args.server.show(&reply, told)
}

/// The ids of a file; lines without one are passed over.
fn ids(file: &Path) -> Result<Vec<String>, Failure> {
    let text = if file == Path::new(STANDARD_INPUT) {
        io::read_to_string(io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let failed = |error: io::Error| {
        Failure::new(EXIT_DATA_DIR, format!("failed to read {}: {error}", file.display()))
    };
    Ok(ids_in(&text.map_err(failed)?))
}

fn ids_in(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

async fn ship_all(server: &Server, ids: &[String], is_json: bool) -> Result<(), Failure> {
    let mut refused = 0;
    for id in ids {
        let shipping = ship_one(server, id).await?;
        refused += usize::from(matches!(shipping, Shipping::Refused(_)));
        print_line(&told(id, &shipping, is_json))?;
    }
    if refused == 0 {
        return Ok(());
    }
    let message = format!("{refused} of {} orders were refused", ids.len());
    Err(Failure::new(EXIT_REFUSED, message))
}

/// Ships one of many. That it was shipped before is seen from the order, for shipping it again is
/// answered as the first time.
async fn ship_one(server: &Server, id: &str) -> Result<Shipping, Failure> {
    if let Err(reason) = path_segment(id) {
        return Ok(Shipping::Refused(reason));
    }
    match was_shipped(server, id).await {
        Ok(true) => Ok(Shipping::AlreadyShipped),
        Ok(false) => Ok(Shipping::Shipped),
        Err(Failure { code: EXIT_REFUSED, message }) => Ok(Shipping::Refused(message)),
        Err(failure) => Err(failure),
    }
}

/// Ships an order that may be shipped already, and whether it was.
async fn was_shipped(server: &Server, id: &str) -> Result<bool, Failure> {
    let before = server.get(&["orders", id], &[]).await?;
    let reply = server.post(&["orders", id, "ship"], &json!({})).await?;
    Ok(before.json["status"] == reply.json["status"])
}

fn told(id: &str, shipping: &Shipping, is_json: bool) -> String {
    let (result, reason) = match shipping {
        Shipping::Shipped => ("shipped", None),
        Shipping::AlreadyShipped => ("alreadyShipped", None),
        Shipping::Refused(reason) => ("refused", Some(reason)),
    };
    if is_json {
        let mut line = json!({"orderId": id, "result": result});
        if let Some(reason) = reason {
            line["reason"] = reason.as_str().into();
        }
        return line.to_string();
    }
    let id = cell(&Value::from(id));
    match shipping {
        Shipping::Shipped => format!("{id} shipped"),
        Shipping::AlreadyShipped => format!("{id} already shipped"),
        Shipping::Refused(reason) => format!("{id} refused: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lines_and_what_is_none_is_passed_over() {
        assert_eq!(ids_in("a\r\n\n  b \nc"), ["a", "b", "c"]);
        assert!(ids_in(" \n").is_empty());
    }

    #[test]
    fn each_is_told_as_shipped_as_shipped_before_or_with_why_not() {
        let refused = Shipping::Refused("there is no order a".into());
        assert_eq!(told("a", &Shipping::Shipped, false), "a shipped");
        assert_eq!(told("a", &Shipping::AlreadyShipped, false), "a already shipped");
        assert_eq!(told("a\u{1b}", &refused, false), "a\u{fffd} refused: there is no order a");
        let line = r#"{"orderId":"a","result":"refused","reason":"there is no order a"}"#;
        assert_eq!(told("a", &refused, true), line);
        let line = r#"{"orderId":"a","result":"alreadyShipped"}"#;
        assert_eq!(told("a", &Shipping::AlreadyShipped, true), line);
    }
}
