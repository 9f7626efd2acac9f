//! `wims queue`: look at queues, and send dead letters back.
//!
//! Promise: a look receives nothing: it hides no message and uses none of its receives. It
//! deliberately cannot delete a message. A redrive sends each letter back once, also one that
//! comes back dead, and sums up the server's answers, for it takes as many as are needed.

use std::time::{Duration, Instant};

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::client::table::{Align, Table, cell, shortened};
use crate::cli::client::{Reply, Server, ServerArgs, path_segment, print, print_line};
use crate::cli::{Failure, block_on};

/// So much of a message's body fits a row.
const BODY_CHARS_MAX: usize = 100;
/// So much of the reason why a message is a dead letter fits a row.
const REASON_CHARS_MAX: usize = 60;
/// Messages one request sends back, at most: the API's own bound.
const REDRIVE_STEP_MAX: u64 = 10_000;
/// A redrive at a rate asks so often a second, or once a message.
const REDRIVE_STEPS_PER_SECOND: u32 = 10;
/// Wait before the next request when one could send nothing back: the journal was busy.
const REDRIVE_BUSY_WAIT: Duration = Duration::from_millis(100);

/// What can be done with queues.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    wims queue list  # how much waits where\n  \
    wims queue redrive payments-dlq  # dead payments are tried again")]
pub enum QueueCommand {
    /// List the queues and how much waits in each
    #[command(after_help = "Example:\n  wims queue list\n\nMESSAGES are those that could be \
        received now; those IN FLIGHT are being worked on; those DELAYED come back later. A \
        queue that the stack no longer has is marked; see wims leftover.")]
    List(ServerArgs),
    /// Look at messages of a queue, without receiving them
    #[command(after_help = "Example:\n  wims queue peek payments-dlq --limit 10\n\nREASON says \
        why a message is a dead letter.")]
    Peek(PeekArgs),
    /// Send dead letters back to the queue they came from
    #[command(after_help = "Examples:\n  \
        wims queue redrive payments-dlq --dry-run  # how many there are\n  \
        wims queue redrive payments-dlq --limit 100  # some of them\n  \
        wims queue redrive payments-dlq --rate 5  # five a second\n\n\
        A payment is charged under the same key again, so nobody pays twice.")]
    Redrive(RedriveArgs),
}

/// What `queue peek` takes.
#[derive(Args)]
pub struct PeekArgs {
    /// The queue's name
    #[arg(value_parser = path_segment)]
    name: String,
    /// Messages at most [default: 50]
    #[arg(long, env = "WIMS_QUEUE_PEEK_LIMIT", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: Option<u32>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `queue redrive` takes.
#[derive(Args)]
pub struct RedriveArgs {
    /// The dead-letter queue's name
    #[arg(value_parser = path_segment)]
    name: String,
    /// Messages at most [default: all that are there]
    #[arg(long, env = "WIMS_QUEUE_REDRIVE_LIMIT", value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Messages a second [default: as fast as the server takes them]
    #[arg(long, env = "WIMS_QUEUE_REDRIVE_RATE", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: Option<u32>,
    /// Only tell how many there are
    #[arg(long, env = "WIMS_QUEUE_REDRIVE_DRY_RUN", value_parser = BoolishValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Carries out a command.
///
/// # Errors
/// When the server is not reachable, refuses or finds nothing.
pub fn run(command: QueueCommand) -> Result<(), Failure> {
    block_on(async {
        match command {
            QueueCommand::List(server) => list(server).await,
            QueueCommand::Peek(args) => peek(args).await,
            QueueCommand::Redrive(args) => redrive(args).await,
        }
    })?
}

async fn list(server: ServerArgs) -> Result<(), Failure> {
    let reply = Server::at(&server)?.get(&["queues"], &[]).await?;
    server.show(&reply, || queues_table().page_text(reply.items(), queue_row))
}

fn queues_table() -> Table {
    Table::new(&[
        ("QUEUE", Align::Left),
        ("MESSAGES", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("DELAYED", Align::Right),
        ("OLDEST", Align::Right),
    ])
}

fn queue_row(queue: &Value) -> Vec<String> {
    let mut row: Vec<_> = ["name", "messages", "inFlight", "delayed"]
        .iter()
        .map(|name| cell(&queue[*name]))
        .collect();
    if queue["declared"] == false {
        row[0].push_str(" [not declared]");
    }
    let is_empty =
        ["messages", "inFlight", "delayed"].iter().all(|name| queue[*name].as_u64() == Some(0));
    let oldest = queue["oldestAgeSeconds"].as_u64().filter(|_| !is_empty).map(Duration::from_secs);
    row.push(oldest.map_or("-".into(), |age| humantime::format_duration(age).to_string()));
    row
}

async fn peek(args: PeekArgs) -> Result<(), Failure> {
    let query: Vec<_> = args.limit.map(|limit| ("limit", limit.to_string())).into_iter().collect();
    let path = ["queues", &args.name, "messages"];
    let reply = Server::at(&args.server)?.get(&path, &query).await?;
    args.server.show(&reply, || messages_table().page_text(reply.items(), message_row))?;
    if !args.server.json && !reply.json["next"].is_null() {
        eprintln!("there may be more: --limit shows up to 500; --json shows whole messages");
    }
    Ok(())
}

fn messages_table() -> Table {
    Table::new(&[
        ("MESSAGE", Align::Left),
        ("SENT", Align::Left),
        ("RECEIVES", Align::Right),
        ("ATTEMPTS", Align::Right),
        ("REASON", Align::Left),
        ("BODY", Align::Left),
    ])
}

fn message_row(message: &Value) -> Vec<String> {
    let shown = ["messageId", "sentAt", "receiveCount", "attempts"];
    let mut row: Vec<_> = shown.iter().map(|name| cell(&message[*name])).collect();
    let reason = &message["attributes"]["ERROR_MESSAGE"];
    row.push(shortened(&cell(reason), REASON_CHARS_MAX));
    row.push(shortened(&message["body"].to_string(), BODY_CHARS_MAX));
    row
}

async fn redrive(args: RedriveArgs) -> Result<(), Failure> {
    let server = Server::at(&args.server)?;
    if args.dry_run {
        return would_redrive(&server, &args).await;
    }
    let (moved, left) = send_back(&server, &args).await?;
    if args.server.json {
        let told = json!({"moved": moved, "left": left, "dryRun": false});
        return print_line(&told.to_string());
    }
    let more = if left > 0 { format!("; {left} are left") } else { String::new() };
    print(&format!("sent {moved} messages of {} back to their queue{more}\n", args.name))
}

async fn would_redrive(server: &Server, args: &RedriveArgs) -> Result<(), Failure> {
    let limit = args.limit.unwrap_or(u64::MAX);
    let body = json!({"dryRun": true, "limit": limit.min(REDRIVE_STEP_MAX)});
    let reply = server.post(&["queues", &args.name, "redrive"], &body).await?;
    let would = count(&reply, "left").min(limit);
    let told = || format!("would send {would} messages of {} back to their queue\n", args.name);
    args.server.show(&reply, told)
}

/// Sends letters back step by step, until all are that were there at first, or as many as asked
/// for; how many were sent and how many are left.
async fn send_back(server: &Server, args: &RedriveArgs) -> Result<(u64, u64), Failure> {
    let began = Instant::now();
    let limit = args.limit.unwrap_or(u64::MAX);
    let step = args.rate.map_or(REDRIVE_STEP_MAX, step_at);
    let (mut moved, mut goal) = (0, None);
    loop {
        let body = json!({"limit": step.min(limit - moved)});
        let reply = server.post(&["queues", &args.name, "redrive"], &body).await;
        let reply = reply.map_err(|failure| told_so_far(failure, moved))?;
        let (sent, left) = (count(&reply, "moved"), count(&reply, "left"));
        moved += sent;
        if left == 0 || moved >= *goal.get_or_insert(limit.min(sent + left)) {
            return Ok((moved, left));
        }
        let busy = if sent == 0 { REDRIVE_BUSY_WAIT } else { Duration::ZERO };
        let due = args.rate.map_or(Duration::ZERO, |rate| due_after(moved, rate));
        tokio::time::sleep(busy.max(due.saturating_sub(began.elapsed()))).await;
    }
}

fn count(reply: &Reply, name: &str) -> u64 {
    reply.json[name].as_u64().unwrap_or(0)
}

/// Messages of one request at a rate.
fn step_at(rate: u32) -> u64 {
    (rate / REDRIVE_STEPS_PER_SECOND).max(1).into()
}

/// When the next message may be sent at a rate, from the first one on.
fn due_after(moved: u64, rate: u32) -> Duration {
    Duration::from_secs_f64(moved as f64 / f64::from(rate))
}

fn told_so_far(failure: Failure, moved: u64) -> Failure {
    if moved == 0 {
        return failure;
    }
    let message = format!("{} ({moved} messages were sent back before)", failure.message);
    Failure::new(failure.code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_queue_has_no_oldest_message() {
        let queue = |messages: u64| {
            queue_row(&json!({
                "name": "payments-queue", "declared": true, "messages": messages, "inFlight": 0,
                "delayed": 0, "oldestAgeSeconds": 61
            }))
        };
        assert_eq!(queue(2), ["payments-queue", "2", "0", "0", "1m 1s"]);
        assert_eq!(queue(0), ["payments-queue", "0", "0", "0", "-"]);
    }

    #[test]
    fn a_redrive_at_a_rate_asks_in_small_steps_each_in_its_time() {
        for (rate, step) in [(1, 1), (9, 1), (25, 2), (10_000, 1_000)] {
            assert_eq!(step_at(rate), step, "at {rate} a second");
        }
        assert_eq!(due_after(1, 1), Duration::from_secs(1));
        assert_eq!(due_after(50, 25), Duration::from_secs(2));
    }

    #[test]
    fn a_redrive_that_fails_on_its_way_tells_how_far_it_came() {
        let told = |moved| told_so_far(Failure::new(1, "the disk is full"), moved).message;
        assert_eq!(told(0), "the disk is full");
        assert_eq!(told(7), "the disk is full (7 messages were sent back before)");
    }

    #[test]
    fn a_queue_that_the_stack_does_not_have_is_marked() {
        let row = queue_row(&json!({
            "name": "old-queue", "declared": false, "messages": 3, "inFlight": 0, "delayed": 0,
            "oldestAgeSeconds": 61
        }));
        assert_eq!(row, ["old-queue [not declared]", "3", "0", "0", "1m 1s"]);
    }

    #[test]
    fn a_message_is_a_row_with_the_beginning_of_its_body() {
        let long = "x".repeat(200);
        let row = message_row(&json!({
            "messageId": "7", "sentAt": "2026-01-02T03:04:05.006Z", "receiveCount": 3,
            "attempts": 1, "body": {"orderId": long}
        }));
        assert_eq!(row[..5], ["7", "2026-01-02T03:04:05.006Z", "3", "1", "-"]);
        assert_eq!(row[5].len(), BODY_CHARS_MAX + 3);
        assert!(row[5].starts_with(r#"{"orderId":"xxx"#), "{}", row[5]);
    }

    #[test]
    fn a_dead_letter_shows_why_it_is_one() {
        let letter = |reason: &str| {
            json!({
                "messageId": "7", "sentAt": "2026-01-02T03:04:05.006Z", "receiveCount": 10,
                "attempts": 10, "body": {"orderId": "a"},
                "attributes": {"ERROR_MESSAGE": reason, "SOURCE_QUEUE": "payments-queue"}
            })
        };
        assert_eq!(message_row(&letter("no answer in 10 s"))[4], "no answer in 10 s");
        let row = message_row(&letter(&"x".repeat(200)));
        assert_eq!(row[4].len(), REASON_CHARS_MAX + 3);
        let text = messages_table().page_text(&[letter("declined")], message_row);
        assert!(text.starts_with("MESSAGE") && text.contains("REASON"), "{text}");
    }
}
