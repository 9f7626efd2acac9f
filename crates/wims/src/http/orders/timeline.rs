//! `GET /orders/{orderId}/events`: what happened to an order, with cause and effect.
//!
//! Promise: the log's own events of the order and the messages that named it, oldest first, as far
//! back as the journal reaches; a page says whether that is its creation. Each has the number of its
//! place in the journal as id, and that of what it follows from as cause: of another one here, or of
//! another item's change. It deliberately repeats no image: the states that changed are enough, and
//! `GET /logs/observer` has the rest.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wims_runtime::driver::log::timeline::{About, Happened, Timeline, What};
use wims_runtime::io::{Answer, Query};

use super::find;
use crate::http::logs::read_log;
use crate::http::problem::Problem;
use crate::http::query::{PathParameters, QueryString, page_limit};
use crate::http::{App, json_reply, odd};

/// The log that has every event of ours.
const LOG: &str = "observer";
/// The states of an order.
const STATES: [&str; 4] = ["status", "inventoryStatus", "paymentStatus", "fulfillmentStatus"];

/// What `GET /orders/{orderId}/events` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

/// A page of a timeline.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TimelineView {
    items: Vec<HappenedView>,
    /// What `after` goes on with.
    next: String,
    /// Nothing more is there now.
    end: bool,
    /// The journal has all there was from where the page begins.
    complete: bool,
}

/// Something that happened.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct HappenedView {
    id: String,
    time: String,
    /// The event's detail type, or `message` or `deadLetter`.
    #[serde(rename = "type")]
    kind: String,
    /// The id of what it follows from; none when that is a request or a timer.
    cause: Option<String>,
    /// The event's id in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    /// Of a change: the states that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<ChangeView>>,
    /// Of an event that has one, or of a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Of a message: where it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

/// A state that changed.
#[derive(Debug, PartialEq, Serialize)]
struct ChangeView {
    attribute: &'static str,
    from: Option<String>,
    to: Option<String>,
}

/// `GET /orders/{orderId}/events?after=&limit=`, oldest first.
pub async fn read(
    State(app): State<App>,
    PathParameters(order_id): PathParameters<String>,
    QueryString(query): QueryString<EventsQuery>,
) -> Result<Response, Problem> {
    let limit = page_limit("limit", query.limit)?;
    let (_, created) = find(&app, &order_id).await?;
    let reader = app.logs.get(LOG).cloned();
    let reader = reader.ok_or_else(|| Problem::not_found(format!("there is no log {LOG}")))?;
    let Answer::Durable(durable) = app.query(Query::Durable).await? else { return Err(odd()) };
    let about = About { attribute: "orderId", value: order_id, created };
    let after = query.after.unwrap_or(0);
    let read = move || reader.timeline(&about, after, limit, durable);
    let page = read_log(LOG.to_owned(), read).await?;
    let body = serde_json::to_string(&TimelineView::from(page)).expect("a timeline is JSON");
    Ok(json_reply(StatusCode::OK, body))
}

impl From<Timeline> for TimelineView {
    fn from(page: Timeline) -> TimelineView {
        TimelineView {
            items: page.happened.into_iter().map(HappenedView::from).collect(),
            next: page.next.to_string(),
            end: page.end,
            complete: page.is_whole,
        }
    }
}

impl From<Happened> for HappenedView {
    fn from(happened: Happened) -> HappenedView {
        let Happened { seq, cause, time, what } = happened;
        let bare = HappenedView {
            id: seq.to_string(),
            time,
            kind: "message".to_owned(),
            cause: (cause != 0).then(|| cause.to_string()),
            event_id: None,
            changes: None,
            reason: None,
            queue: None,
            trace_id: None,
        };
        match what {
            What::Sent { queue, attributes: None } => HappenedView { queue: Some(queue), ..bare },
            What::Sent { queue, attributes: Some(attributes) } => HappenedView {
                kind: "deadLetter".to_owned(),
                reason: attributes.str("ERROR_MESSAGE").map(str::to_owned),
                queue: Some(queue),
                ..bare
            },
            What::Event(envelope) => of_event(bare, &envelope),
        }
    }
}

/// What an event's envelope tells.
fn of_event(bare: HappenedView, envelope: &str) -> HappenedView {
    let event: Value = serde_json::from_str(envelope).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (detail, data) = (&event["detail"], &event["detail"]["data"]);
    let is_change = data["eventType"].is_string();
    HappenedView {
        kind: text(&event["detail-type"]).unwrap_or_default(),
        event_id: text(&event["id"]),
        changes: is_change.then(|| changes(&data["OldImage"], &data["NewImage"])),
        reason: text(&detail["reason"]),
        trace_id: text(&event["traceId"]),
        ..bare
    }
}

/// The states that differ between two images; one may be missing.
fn changes(old: &Value, new: &Value) -> Vec<ChangeView> {
    let text = |image: &Value, name: &str| image[name].as_str().map(str::to_owned);
    let changed = STATES.into_iter().filter(|name| old[*name] != new[*name]);
    changed
        .map(|name| ChangeView { attribute: name, from: text(old, name), to: text(new, name) })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wims_stack::{Doc, Field};

    use super::*;

    fn shown(cause: u64, what: What) -> Value {
        let happened = Happened { seq: 9, cause, time: "T".into(), what };
        serde_json::to_value(HappenedView::from(happened)).expect("it is JSON")
    }

    fn change(old: &Value, new: &Value) -> Value {
        let mut data = json!({"eventType": "UPDATE"});
        for (name, image) in [("OldImage", old), ("NewImage", new)] {
            if !image.is_null() {
                data[name] = image.clone();
            }
        }
        let event = json!({"id": "e", "detail-type": "cdcEvent", "detail": {"data": data}});
        shown(7, What::Event(event.to_string()))
    }

    #[test]
    fn a_change_is_told_by_the_states_that_changed() {
        let old = json!({"status": "PENDING", "paymentStatus": "PROCESSING", "updatedAt": 1});
        let new = json!({"status": "READY", "paymentStatus": "PAID", "updatedAt": 2});
        let expected = json!({
            "id": "9", "time": "T", "type": "cdcEvent", "cause": "7", "eventId": "e",
            "changes": [
                {"attribute": "status", "from": "PENDING", "to": "READY"},
                {"attribute": "paymentStatus", "from": "PROCESSING", "to": "PAID"}
            ]
        });
        assert_eq!(change(&old, &new), expected);
        let created = change(&Value::Null, &json!({"status": "PENDING"}));
        let first = json!([{"attribute": "status", "from": null, "to": "PENDING"}]);
        assert_eq!(created["changes"], first);
        assert_eq!(change(&old, &old)["changes"], json!([]));
    }

    #[test]
    fn an_outcome_is_told_with_its_reason_and_without_changes() {
        let detail = json!({"orderId": "a", "reason": "card expired"});
        let event = json!({"id": "e", "detail-type": "payment.declined", "detail": detail});
        let expected = json!({
            "id": "9", "time": "T", "type": "payment.declined", "cause": "7", "eventId": "e",
            "reason": "card expired"
        });
        assert_eq!(shown(7, What::Event(event.to_string())), expected);
    }

    #[test]
    fn a_message_is_told_with_its_queue_and_a_dead_letter_with_why() {
        let sent = |attributes| shown(0, What::Sent { queue: "q".into(), attributes });
        let message =
            json!({"id": "9", "time": "T", "type": "message", "cause": null, "queue": "q"});
        assert_eq!(sent(None), message);
        let why = Doc::object(&[("ERROR_MESSAGE", Field::Str("no answer"))]);
        let letter = sent(Some(why));
        assert_eq!(
            (&letter["type"], &letter["reason"]),
            (&json!("deadLetter"), &json!("no answer"))
        );
    }
}
