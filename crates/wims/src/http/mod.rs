//! The HTTP API: the article's contract unchanged, and the warehouse's routes beside it.
//!
//! Promise: a 200 means stored; a refusal changes nothing and says why. It deliberately contains
//! no business: it reads requests into typed arguments, asks the engine, and writes what it says.

pub mod auth;
pub mod customers;
pub mod idempotency;
pub mod inventory;
pub mod limits;
pub mod logs;
pub mod operations;
pub mod orders;
pub mod patience;
pub mod problem;
pub mod query;
pub mod server;
pub mod strict;
pub mod stuck;
pub mod tls;
pub mod tokens;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::{delete, get, post};
use http_body_util::BodyExt;
use wims_runtime::driver::history::HistoryReader;
use wims_runtime::driver::inbox::Client;
use wims_runtime::driver::locked;
use wims_runtime::driver::log::LogReader;
use wims_runtime::io::{Answer, Input, Query};
use wims_runtime::trace::TraceId;
use wims_stack::Doc;

use idempotency::refuse_idempotency_key;
use problem::Problem;
use strict::{Fields, parse};
use stuck::StuckOrders;

/// The largest body of a request; an order is far below it.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Of a body that is too large, so much is read before the refusal.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
/// A body must have arrived after this long.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What handlers need.
#[derive(Clone)]
pub struct App {
    client: Client,
    history: Arc<Mutex<HistoryReader>>,
    logs: Arc<HashMap<String, LogReader>>,
    stuck: Arc<StuckOrders>,
}

impl App {
    /// An app that asks through `client`, reads closed orders from `history` and events from
    /// `logs`.
    pub fn new(client: Client, history: HistoryReader, logs: HashMap<String, LogReader>) -> App {
        let (history, logs) = (Arc::new(Mutex::new(history)), Arc::new(logs));
        App { client, history, logs, stuck: Arc::default() }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/orders", post(orders::create).get(orders::list))
            .route("/orders/{orderId}", get(orders::read))
            .route("/orders/{orderId}/events", get(orders::timeline::read))
            .route("/orders/{orderId}/ship", post(orders::ship))
            .route("/orders/{orderId}/cancel", post(orders::cancel))
            .route("/orders/{orderId}/payment", post(orders::pay))
            .route("/customers/{customerId}/erase", post(customers::erase))
            .route("/inventory", get(inventory::default_item))
            .route("/inventory/items", get(inventory::items))
            .route("/inventory/{product}/{model}", get(inventory::read).put(inventory::put))
            .route("/inventory/{product}/{model}/receipts", post(inventory::receive))
            .route("/queues", get(operations::queues))
            .route("/queues/{name}/messages", get(operations::messages))
            .route("/queues/{name}/redrive", post(operations::redrive))
            .route("/leftovers", get(operations::leftovers))
            .route("/leftovers/{kind}/{name}", delete(operations::drop_leftover))
            .route("/logs/{name}", get(logs::read))
            .route("/healthz", get(operations::healthz))
            .route("/readyz", get(operations::readyz))
            .route("/metrics", get(operations::metrics))
            .fallback(|| async { Problem::not_found("there is no such route") })
            .method_not_allowed_fallback(|| async {
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this route has other methods")
            })
            .with_state(self)
    }

    /// Carries out a route of the stack; `headers` may tell a trace, `history` is a closed item it
    /// names.
    ///
    /// # Errors
    /// What the route refuses with, or 404 when the stack has no such route; 503 when something is
    /// full.
    pub async fn call(
        &self,
        headers: &HeaderMap,
        route: &'static str,
        arguments: Doc,
        history: Option<Doc>,
    ) -> Result<Doc, Problem> {
        let trace = trace_of(headers);
        let ask = |ticket| Input::Call { ticket, route, arguments, history, trace, key: None };
        reply_of(self.client.ask(ask).await).map(|(reply, _)| reply)
    }

    /// Asks the engine.
    ///
    /// # Errors
    /// When it refuses, or 503 when something is full.
    pub async fn query(&self, query: Query) -> Result<Answer, Problem> {
        match self.client.ask(|ticket| Input::Query { ticket, query }).await {
            Some(Answer::Full { retry_after_s, reason }) => {
                Err(Problem::unavailable(reason, retry_after_s))
            }
            Some(Answer::Refused(refusal)) => Err(refusal.into()),
            Some(answer) => Ok(answer),
            None => Err(busy()),
        }
    }

    /// Reads history on a thread that may wait for the disk.
    ///
    /// # Errors
    /// 500 when it cannot be read; the log says why.
    pub async fn history<T: Send + 'static>(
        &self,
        read: impl FnOnce(&HistoryReader) -> Result<T, wims_runtime::driver::history::HistoryError>
        + Send
        + 'static,
    ) -> Result<T, Problem> {
        let history = self.history.clone();
        let answer = tokio::task::spawn_blocking(move || read(&locked(&history)));
        match answer.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                tracing::error!(%error, "history could not be read");
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "history could not be read"))
            }
            Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a reader failed")),
        }
    }
}

/// The reply to a call, and whether the call was carried out before.
fn reply_of(answer: Option<Answer>) -> Result<(Doc, bool), Problem> {
    match answer {
        Some(Answer::Done(reply)) => Ok((reply, false)),
        Some(Answer::Repeated(reply)) => Ok((reply, true)),
        Some(Answer::Refused(refusal)) => Err(refusal.into()),
        Some(Answer::Full { retry_after_s, reason }) => {
            Err(Problem::unavailable(reason, retry_after_s))
        }
        Some(_) | None => Err(busy()),
    }
}

/// The trace a request belongs to. A `traceparent` that is malformed, or there twice, tells none.
fn trace_of(headers: &HeaderMap) -> Option<TraceId> {
    let mut told = headers.get_all("traceparent").iter();
    let first = told.next()?;
    if told.next().is_some() {
        return None;
    }
    TraceId::of_traceparent(first.as_bytes())
}

fn busy() -> Problem {
    Problem::unavailable("too many requests wait; try again", 1)
}

/// A bug of ours: the answer does not belong to the question.
fn odd() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine gave another answer")
}

/// Reads a body of JSON fields, refusing one that is too large, too slow or of another type, or
/// that comes with an idempotency key: of a route that takes none.
///
/// # Errors
/// What is wrong with it.
pub async fn read_fields(headers: &HeaderMap, body: Body) -> Result<Fields, Problem> {
    refuse_idempotency_key(headers)?;
    read_keyed_fields(headers, body).await
}

/// Reads a body of JSON fields that may come with an idempotency key.
///
/// # Errors
/// What is wrong with it, as in [`read_fields`].
pub async fn read_keyed_fields(headers: &HeaderMap, body: Body) -> Result<Fields, Problem> {
    let bytes = read_body(headers, body).await?;
    Ok(Fields::of(parse(&bytes)?))
}

/// Reads a body that may be absent; an absent one has no fields.
///
/// # Errors
/// What is wrong with it, as in [`read_fields`].
pub async fn read_optional_fields(headers: &HeaderMap, body: Body) -> Result<Fields, Problem> {
    refuse_idempotency_key(headers)?;
    let bytes = read_body(headers, body).await?;
    let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
    Ok(Fields::of(parse(&bytes)?))
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
        // Scripts such as the article's send JSON as what their client says by default.
        let accepted = ["application/json", "text/plain", "application/x-www-form-urlencoded"];
        if !accepted.iter().any(|accepted| kind.eq_ignore_ascii_case(accepted)) {
            let detail = format!("send application/json, not {kind}");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    }
    let mut read = std::pin::pin!(gather(body));
    // The body of a small request came with its head: no timer is set for it.
    let at_once = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
    let slow = || Problem::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly");
    match at_once {
        Poll::Ready(read) => read,
        Poll::Pending => {
            tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| Err(slow()))
        }
    }
}

/// Reads a body. One that is too large is read to its end all the same, within reason: a client
/// that is still sending would not see the refusal otherwise.
async fn gather(mut body: Body) -> Result<Bytes, Problem> {
    let (mut gathered, mut len) = (Bytes::new(), 0);
    let mut more = Vec::new();
    while let Some(frame) = body.frame().await {
        let broken = |_| Problem::new(StatusCode::BAD_REQUEST, "the body broke off");
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        len += data.len();
        if len > DISCARDED_BYTES_MAX {
            break;
        }
        if len <= BODY_BYTES_MAX && gathered.is_empty() {
            gathered = data;
        } else if len <= BODY_BYTES_MAX {
            more.extend_from_slice(&data);
        }
    }
    if len > BODY_BYTES_MAX {
        let detail = format!("a body has at most {BODY_BYTES_MAX} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    Ok(if more.is_empty() { gathered } else { [&gathered[..], &more].concat().into() })
}

/// A reply of JSON text.
pub fn json_reply(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Milliseconds since 1970 as RFC 3339.
pub fn rfc3339(ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_tells_a_trace_only_when_it_is_sound_and_there_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(trace_of(&headers), None);
        let told = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let value = header::HeaderValue::from_static(told);
        headers.append("traceparent", value.clone());
        let trace = trace_of(&headers).map(|trace| trace.to_string());
        assert_eq!(trace.as_deref(), Some(&told[3..35]));
        headers.append("traceparent", value);
        assert_eq!(trace_of(&headers), None);
        headers.insert("traceparent", header::HeaderValue::from_static("00-0af7"));
        assert_eq!(trace_of(&headers), None);
    }
}
