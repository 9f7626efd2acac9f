//! Logs over HTTP: events read back from the journal.
//!
//! Promise: a page has durable events alone, oldest first, and says where the next one begins; a
//! log that cannot be read is an error, never a page that is short. It deliberately waits for
//! nothing new and knows no order: who wants to follow a log asks again.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use wims_runtime::driver::log::{LogError, LogPage};
use wims_runtime::io::{Answer, Query};

use crate::http::problem::Problem;
use crate::http::query::{PathParameters, QueryString, page_limit};
use crate::http::{App, json_reply, odd};

/// What `GET /logs/{name}` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    after: Option<u64>,
    limit: Option<usize>,
    last: Option<usize>,
}

/// `GET /logs/{name}?after=&limit=` from there on, or `?last=`; oldest first. A page from `after`
/// on may have more events than its limit: the rest of one record's.
pub async fn read(
    State(app): State<App>,
    PathParameters(name): PathParameters<String>,
    QueryString(query): QueryString<LogQuery>,
) -> Result<Response, Problem> {
    if query.last.is_some() && (query.after.is_some() || query.limit.is_some()) {
        return Err(Problem::bad_request("give `after` and `limit`, or `last`"));
    }
    let limit = match query.last {
        Some(last) => page_limit("last", Some(last))?,
        None => page_limit("limit", query.limit)?,
    };
    let reader = app.logs.get(&name).cloned();
    let reader = reader.ok_or_else(|| Problem::not_found(format!("there is no log {name}")))?;
    let Answer::Durable(durable) = app.query(Query::Durable).await? else { return Err(odd()) };
    let (after, from_end) = (query.after.unwrap_or(0), query.last.is_some());
    let page = read_log(name, move || {
        if from_end { reader.last(limit, durable) } else { reader.after(after, limit, durable) }
    });
    Ok(json_reply(StatusCode::OK, page_json(&page.await?)))
}

/// Reads a log on a thread that may wait for the disk.
///
/// # Errors
/// 500 when it cannot be read; our own log says why.
pub async fn read_log<T: Send + 'static>(
    name: String,
    read: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::error!(%error, log = %name, "a log could not be read");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the log could not be read"))
        }
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a reader failed")),
    }
}

fn page_json(page: &LogPage) -> String {
    let (events, next, end) = (page.events.join(","), page.next, page.end);
    format!(r#"{{"items":[{events}],"next":"{next}","end":{end}}}"#)
}
