//! `wims leftover`: see and drop what the stack no longer has.
//!
//! Promise: what is dropped was named and shown as the server names it. It deliberately cannot drop
//! several at once: what was kept is gone for good.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::client::table::{Align, Table, cell};
use crate::cli::client::{Server, ServerArgs, path_segment};
use crate::cli::{Failure, block_on};

/// What can be done with leftovers.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    wims leftover list  # what is kept though the stack no longer has it\n  \
    wims leftover drop queue/old-queue  # its messages are gone for good")]
pub enum LeftoverCommand {
    /// List what the stack no longer has, and what is kept for it
    #[command(after_help = "Example:\n  wims leftover list\n\nA pipe keeps its place in the \
        stream: it has SEEN changes UP TO a sequence, and JOURNAL is what is kept of it for that. \
        A queue keeps its MESSAGES, a workflow its EXECUTIONS that wait. Declared again, they go \
        on where they were.")]
    List(ServerArgs),
    /// Drop what is kept for one of them, for good
    #[command(after_help = "Examples:\n  \
        wims leftover drop pipe/OldPipe  # should it come back, it starts as declared\n  \
        wims leftover drop queue/old-queue  # look first: wims queue peek old-queue\n\n\
        What the stack has is not dropped.")]
    Drop(DropArgs),
}

/// What `leftover drop` takes.
#[derive(Args)]
pub struct DropArgs {
    /// Kind and name as they are listed, e.g. queue/old-queue
    #[arg(value_parser = leftover_name)]
    name: LeftoverName,
    #[command(flatten)]
    server: ServerArgs,
}

/// Kind and name of a leftover: two segments of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LeftoverName {
    kind: String,
    name: String,
}

fn leftover_name(text: &str) -> Result<LeftoverName, String> {
    let Some((kind, name)) = text.split_once('/') else {
        return Err("a leftover is named as it is listed, e.g. queue/old-queue".to_owned());
    };
    Ok(LeftoverName { kind: path_segment(kind)?, name: path_segment(name)? })
}

/// Carries out a command.
///
/// # Errors
/// When the server is not reachable, refuses or finds nothing.
pub fn run(command: LeftoverCommand) -> Result<(), Failure> {
    block_on(async {
        match command {
            LeftoverCommand::List(server) => list(server).await,
            LeftoverCommand::Drop(args) => drop_one(args).await,
        }
    })?
}

async fn list(server: ServerArgs) -> Result<(), Failure> {
    let reply = Server::at(&server)?.get(&["leftovers"], &[]).await?;
    server.show(&reply, || leftovers_table().page_text(reply.items(), leftover_row))
}

async fn drop_one(args: DropArgs) -> Result<(), Failure> {
    let LeftoverName { kind, name } = &args.name;
    let reply = Server::at(&args.server)?.delete(&["leftovers", kind, name]).await?;
    args.server.show(&reply, || format!("{} is dropped\n", reply.field("name")))
}

fn leftovers_table() -> Table {
    Table::new(&[
        ("LEFTOVER", Align::Left),
        ("MESSAGES", Align::Right),
        ("EXECUTIONS", Align::Right),
        ("SEEN UP TO", Align::Right),
        ("JOURNAL", Align::Right),
    ])
}

fn leftover_row(leftover: &Value) -> Vec<String> {
    let shown = ["name", "messages", "executions", "seenUpTo"];
    let mut row: Vec<_> = shown.iter().map(|name| cell(&leftover[*name])).collect();
    let megabytes = leftover["journalBytes"].as_u64().unwrap_or(0) >> 20;
    row.push(format!("{megabytes} MB"));
    row
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_leftover_is_a_row_with_what_is_kept_for_it() {
        let pipe = json!({
            "name": "pipe/OldPipe", "messages": 0, "executions": 0, "seenUpTo": 4711,
            "journalBytes": 128 << 20
        });
        assert_eq!(leftover_row(&pipe), ["pipe/OldPipe", "0", "0", "4711", "128 MB"]);
        let queue = json!({"name": "queue/old", "messages": 3, "executions": 0, "journalBytes": 0});
        assert_eq!(leftover_row(&queue), ["queue/old", "3", "0", "-", "0 MB"]);
    }

    #[test]
    fn a_leftover_is_named_by_kind_and_name() {
        let named = |kind: &str, name: &str| LeftoverName { kind: kind.into(), name: name.into() };
        assert_eq!(leftover_name("queue/old"), Ok(named("queue", "old")));
        assert_eq!(leftover_name("pipe/a/b"), Ok(named("pipe", "a/b")));
        for wrong in ["", "queue", "queue/", "/old", "queue/..", "../old"] {
            assert!(leftover_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
