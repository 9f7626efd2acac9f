//! Logs over HTTP: events read back from the journal.

use axum::extract::{Path, Query as QueryString, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use wims_runtime::driver::log::LogPage;
use wims_runtime::io::{Answer, Query};

use crate::http::problem::Problem;
use crate::http::{App, json_reply};

/// Events of a page unless asked otherwise.
const LIMIT: usize = 50;
/// Events of a page, at most, but for the rest of one record's.
const LIMIT_MAX: usize = 500;

/// What `GET /logs/{name}` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    after: Option<u64>,
    limit: Option<usize>,
    last: Option<usize>,
}

/// `GET /logs/{name}?after=&limit=` from there on, or `?last=`; oldest first.
pub async fn read(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Result<QueryString<LogQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let QueryString(query) = query.map_err(|error| bad(error.body_text()))?;
    let limit = query.limit.or(query.last).unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) || (query.last.is_some() && query.after.is_some()) {
        let detail = format!("give `after` and `limit`, or `last`; both count 1 to {LIMIT_MAX}");
        return Err(bad(detail));
    }
    let reader = app.logs.get(&name).cloned();
    let reader = reader.ok_or_else(|| Problem::not_found(format!("there is no log {name}")))?;
    let Answer::Durable(durable) = app.query(Query::Durable).await? else {
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine is elsewhere"));
    };
    let (after, from_end) = (query.after.unwrap_or(0), query.last.is_some());
    let read = tokio::task::spawn_blocking(move || {
        if from_end { reader.last(limit, durable) } else { reader.after(after, limit, durable) }
    });
    match read.await {
        Ok(Ok(page)) => Ok(json_reply(StatusCode::OK, page_json(&page))),
        Ok(Err(error)) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a reader failed")),
    }
}

fn page_json(page: &LogPage) -> String {
    let (events, next, end) = (page.events.join(","), page.next, page.end);
    format!(r#"{{"items":[{events}],"next":"{next}","end":{end}}}"#)
}
