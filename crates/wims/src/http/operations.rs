//! What operators ask: queues, dead letters, leftovers, health, metrics.
//!
//! Promise: a look changes nothing: it receives no message, and a dry run moves none. Health is
//! about the process, readiness about the engine taking orders. It deliberately cannot delete a
//! message: dead letters are sent back, and only what the stack no longer has is dropped, by name.

use std::fmt::Write;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use wims_runtime::histogram::Histogram;
use wims_runtime::io::{
    Answer, Input, LeftoverRow, MessageRow, PipeRow, Query, QueueRow, Redriven, Status,
};
use wims_stack::Doc;

use crate::http::idempotency::refuse_idempotency_key;
use crate::http::problem::Problem;
use crate::http::query::{PathParameters, QueryString, page_limit};
use crate::http::{App, busy, json_reply, odd, read_optional_fields, stuck};

/// Messages a redrive moves, at most; the engine's own bound.
const REDRIVE_MAX: i64 = 10_000;

#[derive(Serialize)]
struct List<T> {
    items: Vec<T>,
    next: Option<String>,
}

fn list_reply<T: Serialize>(items: Vec<T>, next: Option<String>) -> Response {
    let body = serde_json::to_string(&List { items, next }).expect("a list is JSON");
    json_reply(StatusCode::OK, body)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueueView {
    name: String,
    declared: bool,
    messages: usize,
    in_flight: usize,
    delayed: usize,
    oldest_age_seconds: u64,
}

impl From<QueueRow> for QueueView {
    fn from(row: QueueRow) -> QueueView {
        QueueView {
            name: row.name,
            declared: row.declared,
            messages: row.messages,
            in_flight: row.in_flight,
            delayed: row.delayed,
            oldest_age_seconds: row.oldest_age_s,
        }
    }
}

/// `GET /queues`.
pub async fn queues(State(app): State<App>) -> Result<Response, Problem> {
    let Answer::Queues(rows) = app.query(Query::Queues).await? else { return Err(odd()) };
    Ok(list_reply(rows.into_iter().map(QueueView::from).collect(), None))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageView {
    message_id: String,
    body: Doc,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Doc>,
    sent_at: String,
    receive_count: u32,
    attempts: u32,
}

impl From<MessageRow> for MessageView {
    fn from(row: MessageRow) -> MessageView {
        MessageView {
            message_id: row.id.to_string(),
            body: row.body,
            attributes: row.attributes,
            sent_at: super::rfc3339(i64::try_from(row.sent_ms).unwrap_or(0)),
            receive_count: row.receives,
            attempts: row.attempts,
        }
    }
}

/// What `GET /queues/{name}/messages` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeekQuery {
    limit: Option<usize>,
    cursor: Option<u64>,
}

/// `GET /queues/{name}/messages`: a look; nothing is received.
pub async fn messages(
    State(app): State<App>,
    PathParameters(name): PathParameters<String>,
    QueryString(query): QueryString<PeekQuery>,
) -> Result<Response, Problem> {
    let limit = page_limit("limit", query.limit)?;
    let peek = Query::Peek { queue: name.clone(), from: query.cursor.unwrap_or(0), limit };
    let Answer::Messages(rows) = app.query(peek).await? else { return Err(odd()) };
    let rows = rows.ok_or_else(|| Problem::not_found(format!("there is no queue {name}")))?;
    let next = (rows.len() == limit).then(|| rows.last().map(|row| (row.id + 1).to_string()));
    Ok(list_reply(rows.into_iter().map(MessageView::from).collect(), next.flatten()))
}

/// `POST /queues/{name}/redrive`: `{limit?, dryRun?}`. What is left asks for another one.
pub async fn redrive(
    State(app): State<App>,
    PathParameters(name): PathParameters<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<Response, Problem> {
    let mut fields = read_optional_fields(&headers, body).await?;
    let limit = fields.optional_int("limit", 1..=REDRIVE_MAX);
    let dry_run = fields.optional_bool("dryRun");
    fields.finish(|| Some(()))?;
    let limit = usize::try_from(limit.unwrap_or(REDRIVE_MAX)).expect("it is 1 or more");
    let dry_run = dry_run.unwrap_or(false);
    let query = Query::Redrive { queue: name.clone(), limit, dry_run };
    let Answer::Moved(redriven) = app.query(query).await? else { return Err(odd()) };
    let redriven = redriven.ok_or_else(|| Problem::not_found(format!("there is no queue {name}")));
    let Redriven { moved, left } = redriven?;
    let told = format!(r#"{{"moved":{moved},"left":{left},"dryRun":{dry_run}}}"#);
    Ok(json_reply(StatusCode::OK, told))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LeftoverView {
    name: String,
    messages: usize,
    executions: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_up_to: Option<u64>,
    journal_bytes: u64,
}

impl From<LeftoverRow> for LeftoverView {
    fn from(row: LeftoverRow) -> LeftoverView {
        LeftoverView {
            name: row.name,
            messages: row.messages,
            executions: row.executions,
            seen_up_to: row.seen_up_to,
            journal_bytes: row.journal_bytes,
        }
    }
}

/// `GET /leftovers`: what the stack no longer has and something is kept for.
pub async fn leftovers(State(app): State<App>) -> Result<Response, Problem> {
    let Answer::Leftovers(rows) = app.query(Query::Leftovers).await? else { return Err(odd()) };
    Ok(list_reply(rows.into_iter().map(LeftoverView::from).collect(), None))
}

/// `DELETE /leftovers/{kind}/{name}`: what is kept for it is gone, as it is told.
pub async fn drop_leftover(
    State(app): State<App>,
    PathParameters((kind, name)): PathParameters<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    refuse_idempotency_key(&headers)?;
    let query = Query::Drop { name: format!("{kind}/{name}") };
    let Answer::Dropped(row) = app.query(query).await? else { return Err(odd()) };
    let dropped = serde_json::to_string(&LeftoverView::from(row)).expect("a leftover is JSON");
    Ok(json_reply(StatusCode::OK, dropped))
}

/// `GET /healthz`: the process is there.
pub async fn healthz() -> Response {
    json_reply(StatusCode::OK, r#"{"status":"ok"}"#.into())
}

/// `GET /readyz`: the engine answers and takes new orders; 503 when it does not. Anybody may ask, so
/// it names no leftover that keeps segments: `/leftovers` and `/metrics` do.
pub async fn readyz(State(app): State<App>) -> Result<Response, Problem> {
    let ask = |ticket| Input::Query { ticket, query: Query::Ready };
    match app.client.ask(ask).await {
        Some(Answer::Durable(_)) => Ok(json_reply(StatusCode::OK, r#"{"status":"ready"}"#.into())),
        Some(Answer::Full { retry_after_s, reason }) => {
            Err(Problem::unavailable(reason, retry_after_s))
        }
        Some(_) => Err(odd()),
        None => Err(busy()),
    }
}

/// `GET /metrics`, for Prometheus.
pub async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let Answer::Status(status) = app.query(Query::Status).await? else { return Err(odd()) };
    let Answer::Leftovers(rows) = app.query(Query::Leftovers).await? else { return Err(odd()) };
    let stuck = stuck::count(&app).await?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((kind, exposition(&status, &rows) + &stuck_gauge(stuck)).into_response())
}

fn stuck_gauge(orders: usize) -> String {
    let name = "wims_orders_stuck";
    let help = "Open orders with no message, event or place in a queue where one must be; each \
                scrape looks at 5,000 orders, so it is as old as a walk over all of them.";
    format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {orders}\n")
}

/// A value under its labels.
type Labeled = (String, f64);

fn label(key: &str, value: &str) -> String {
    format!("{{{key}=\"{value}\"}}")
}

fn write_gauge(text: &mut String, name: &str, help: &str, rows: &[Labeled]) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in rows {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

fn write_pipes(text: &mut String, pipes: &[PipeRow]) {
    let mut gauge = |name: &str, help: &str, rows: &[Labeled]| write_gauge(text, name, help, rows);
    let of_pipes = |value: &dyn Fn(&PipeRow) -> f64| -> Vec<Labeled> {
        pipes.iter().map(|row| (label("pipe", &row.name), value(row))).collect()
    };
    gauge("wims_pipe_calls_total", "Calls made.", &of_pipes(&|row| row.calls as f64));
    gauge("wims_pipe_look_ups_total", "Look-ups made.", &of_pipes(&|row| row.look_ups as f64));
    gauge("wims_pipe_deferrals_total", "Calls deferred.", &of_pipes(&|row| row.deferrals as f64));
    gauge("wims_pipe_unknowns_total", "Unknown outcomes.", &of_pipes(&|row| row.unknowns as f64));
    gauge("wims_pipe_in_flight", "Calls under way.", &of_pipes(&|row| row.in_flight as f64));
    gauge("wims_pipe_rate_per_second", "The learned rate.", &of_pipes(&|row| row.rate_per_second));
    gauge("wims_pipe_paused", "Whether it is paused.", &of_pipes(&|row| f64::from(row.paused)));
}

/// The status in Prometheus' text format.
fn exposition(status: &Status, leftovers: &[LeftoverRow]) -> String {
    let mut text = String::new();
    let mut gauge =
        |name: &str, help: &str, rows: &[Labeled]| write_gauge(&mut text, name, help, rows);
    let one = |value: u64| vec![(String::new(), value as f64)];
    let by = |key: &str, rows: &[(String, usize)]| -> Vec<Labeled> {
        rows.iter().map(|(name, value)| (label(key, name), *value as f64)).collect()
    };
    gauge("wims_orders_open", "Open orders by status.", &by("status", &status.by_status));
    gauge("wims_items", "Items in memory by table.", &by("table", &status.items));
    let of_queues = |size: &dyn Fn(&QueueRow) -> f64| -> Vec<Labeled> {
        status.queues.iter().map(|row| (label("queue", &row.name), size(row))).collect()
    };
    gauge("wims_queue_messages", "Visible messages.", &of_queues(&|row| row.messages as f64));
    gauge("wims_queue_in_flight", "Messages held.", &of_queues(&|row| row.in_flight as f64));
    gauge("wims_queue_delayed", "Messages hidden.", &of_queues(&|row| row.delayed as f64));
    gauge(
        "wims_queue_oldest_age_seconds",
        "Age of the oldest message.",
        &of_queues(&|row| row.oldest_age_s as f64),
    );
    gauge("wims_change_lag", "Changes not through the pipe.", &one(status.change_lag as u64));
    gauge("wims_journal_sequence", "The last record.", &one(status.seq));
    gauge("wims_journal_durable_sequence", "The last durable record.", &one(status.durable_seq));
    gauge("wims_journal_disk_bytes", "Bytes of segments.", &one(status.journal_disk_bytes));
    gauge("wims_journal_written_bytes_total", "Bytes written.", &one(status.journal_written_bytes));
    gauge("wims_journal_frames_total", "Frames written.", &one(status.frames));
    let kept = |row: &LeftoverRow| (label("leftover", &row.name), row.journal_bytes as f64);
    gauge(
        "wims_leftover_journal_bytes",
        "Bytes of segments kept only for what the stack no longer has.",
        &leftovers.iter().map(kept).collect::<Vec<_>>(),
    );
    gauge("wims_sweeps_total", "Sweeps finished.", &one(status.sweeps));
    gauge(
        "wims_mails_to_nobody_total",
        "Events that are mailed to whom they are about and found no address, or were mailed before.",
        &one(status.mails_to_nobody),
    );
    gauge("wims_executions_waiting", "Executions that wait.", &one(status.executions as u64));
    gauge("wims_closed_waiting", "Closed, not in history.", &one(status.closed_waiting as u64));
    gauge("wims_memory_bytes", "Estimated memory by kind.", &by("kind", &status.memory));
    write_pipes(&mut text, &status.pipes);
    let timings = &status.timings;
    histogram(
        &mut text,
        "wims_commit_seconds",
        "A frame's way to the disk.",
        &timings.commit_us,
        1e6,
    );
    histogram(
        &mut text,
        "wims_settle_seconds",
        "From a request's step until it and what followed at once was durable.",
        &timings.settle_us,
        1e6,
    );
    histogram(&mut text, "wims_group_records", "Records of a frame.", &timings.group_records, 1.0);
    text
}

fn histogram(text: &mut String, name: &str, help: &str, histogram: &Histogram, unit: f64) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    for (bound, count) in histogram.cumulative() {
        let bound = bound.map_or("+Inf".to_owned(), |bound| (bound as f64 / unit).to_string());
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
    }
    let sum = histogram.sum() as f64 / unit;
    let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {}", histogram.count());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leftover(name: &str, journal_bytes: u64) -> LeftoverRow {
        let name = name.to_owned();
        LeftoverRow { name, messages: 0, executions: 0, seen_up_to: None, journal_bytes }
    }

    #[test]
    fn bytes_kept_for_a_leftover_are_a_gauge_under_its_name() {
        let text = exposition(&Status::default(), &[leftover("pipe/old", 512)]);
        let row = "\nwims_leftover_journal_bytes{leftover=\"pipe/old\"} 512\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("# TYPE wims_leftover_journal_bytes gauge\n"), "{text}");
    }
}
