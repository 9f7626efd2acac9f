//! `wims customer`: erase what is personal of a customer.
//!
//! Promise: when it ends well nothing is left to erase, and it has said what stays. It deliberately
//! asks nobody whether he is sure: an erasing is asked for by name, and is the law's business.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::client::{Server, ServerArgs, path_segment, print, print_line};
use crate::cli::{Failure, block_on};

/// What can be done with customers.
#[derive(Subcommand)]
#[command(after_help = "Example:\n  \
    wims customer erase 349  # mail and shipping addresses and payment methods of open orders")]
pub enum CustomerCommand {
    /// Erase mail and shipping addresses and payment methods of a customer's open orders
    #[command(after_help = "Example:\n  wims customer erase 349\n\n\
        Orders and their events stay, with the customer's id. A payment still to come is charged \
        without a payment method. The journal holds what was erased until its segments are \
        removed, not before the log's retention has passed; copies of the data directory keep \
        it. Repeating it erases what has come since.")]
    Erase(EraseArgs),
}

/// What `customer erase` takes.
#[derive(Args)]
pub struct EraseArgs {
    /// The customer's id, as the orders have it
    #[arg(value_parser = path_segment)]
    id: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Carries out a command.
///
/// # Errors
/// When the server is not reachable, or refuses.
pub fn run(command: CustomerCommand) -> Result<(), Failure> {
    block_on(async {
        match command {
            CustomerCommand::Erase(args) => erase(args).await,
        }
    })?
}

/// A request erases so many; asks until none is left. With `--json` each answer is a line.
async fn erase(args: EraseArgs) -> Result<(), Failure> {
    let server = Server::at(&args.server)?;
    let mut erased = 0;
    loop {
        let reply = server.post(&["customers", &args.id, "erase"], &json!({})).await?;
        erased += reply.json["erased"].as_u64().unwrap_or(0);
        if args.server.json {
            print_line(&reply.text)?;
        }
        if reply.json["done"] == false {
            continue;
        }
        if args.server.json {
            return Ok(());
        }
        let [id, stays, journal] = ["customerId", "stays", "journal"].map(|name| reply.field(name));
        return print(&format!(
            "erased the contact data of {erased} orders of {id}\n{stays}\n{journal}\n"
        ));
    }
}
