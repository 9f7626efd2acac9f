//! An event in one line for people: when, what, whose, and what changed.
//!
//! Promise: of a change event it tells the difference between old and new image, so that the log
//! reads as the article tells the flow; of an event of a trace it ends with the trace. It
//! deliberately leaves out what changes with every update.

use serde_json::{Map, Value};

use crate::cli::client::table::{cell, shortened};

/// Attributes that are keys, or change with every update.
const UNTOLD: [&str; 4] = ["pk", "sk", "updatedAt", "lastOrderId"];
/// The longest of our detail types is `payment.deadLettered`.
const DETAIL_TYPE_CHARS: usize = 20;
/// So much of a value fits a line.
const VALUE_CHARS_MAX: usize = 60;

/// The line of an event in its EventBridge envelope.
pub fn line(event: &Value) -> String {
    let (time, detail_type) = (cell(&event["time"]), cell(&event["detail-type"]));
    let detail = &event["detail"];
    let (subject, change) = match detail.get("data") {
        Some(data) if data["eventType"].is_string() => (row_of(data), change_of(data)),
        Some(_) | None => (subject_of(detail).unwrap_or_default(), outcome_of(detail)),
    };
    let line = format!("{time}  {detail_type:<DETAIL_TYPE_CHARS$}  {subject}  {change}");
    let trace = event.get("traceId").map(|trace| format!("  trace {}", cell(trace)));
    line.trim_end().to_owned() + &trace.unwrap_or_default()
}

/// The changed row: the item or order it is, or its keys.
fn row_of(data: &Value) -> String {
    let image = data.get("NewImage").or(data.get("OldImage")).unwrap_or(&Value::Null);
    let keys = || format!("{} {}", cell(&data["pk"]), cell(&data["sk"]));
    subject_of(image).unwrap_or_else(keys)
}

fn change_of(data: &Value) -> String {
    match (data["OldImage"].as_object(), data["NewImage"].as_object()) {
        (Some(old), Some(new)) => differences(old, new),
        (None, Some(new)) => {
            format!("created: {}", told(new, &["customerId", "status", "quantity"]))
        }
        (Some(_), None) => "removed".to_owned(),
        (None, None) => cell(&data["eventType"]),
    }
}

/// `status PENDING -> READY, ...`, in the order of the new image.
fn differences(old: &Map<String, Value>, new: &Map<String, Value>) -> String {
    let is_told = |name: &str| !UNTOLD.contains(&name);
    let changed =
        new.iter().filter(|(name, value)| is_told(name) && old.get(*name) != Some(*value));
    let mut told: Vec<_> = changed
        .map(|(name, value)| match old.get(name) {
            Some(before) => format!("{name} {} -> {}", short(before), short(value)),
            None => format!("{name} {}", short(value)),
        })
        .collect();
    let gone = old.keys().filter(|name| is_told(name) && !new.contains_key(*name));
    told.extend(gone.map(|name| format!("{name} removed")));
    if told.is_empty() { "nothing of note".to_owned() } else { told.join(", ") }
}

/// What an image or a business event is about: an item or an order.
fn subject_of(object: &Value) -> Option<String> {
    let named = ["sku", "orderId"].iter().find_map(|name| object[*name].as_str());
    named.map(|name| shortened(name, VALUE_CHARS_MAX))
}

fn outcome_of(detail: &Value) -> String {
    let Some(object) = detail.as_object() else { return short(detail) };
    let is_item = object.contains_key("sku");
    told(object, if is_item { &["quantity", "reserved", "orderId"] } else { &["status", "reason"] })
}

/// Those of the fields that are there: `status READY, reason ...`.
fn told(object: &Map<String, Value>, names: &[&str]) -> String {
    let there = names.iter().filter_map(|name| Some((name, object.get(*name)?)));
    let told: Vec<_> = there.map(|(name, value)| format!("{name} {}", short(value))).collect();
    told.join(", ")
}

fn short(value: &Value) -> String {
    shortened(&cell(value), VALUE_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(old: Value, new: Value) -> Value {
        let mut data = json!({
            "pk": "CUSTOMER#349", "sk": "TIMESTAMP#1#a", "eventName": "MODIFY",
            "eventType": "UPDATE"
        });
        for (name, image) in [("NewImage", new), ("OldImage", old)] {
            if !image.is_null() {
                data[name] = image;
            }
        }
        let detail = json!({"meta": {"fn": "cdc-enrichment"}, "data": data});
        json!({"time": "2026-01-02T03:04:05Z", "detail-type": "cdcEvent", "detail": detail})
    }

    #[test]
    fn a_change_tells_what_is_different() {
        let old = json!({"orderId": "a", "status": "PENDING", "updatedAt": 1, "reason": "x"});
        let new = json!({"orderId": "a", "status": "READY", "updatedAt": 2, "paid": true});
        assert_eq!(
            line(&change(old, new)),
            "2026-01-02T03:04:05Z  cdcEvent              a  status PENDING -> READY, paid true, \
             reason removed"
        );
    }

    #[test]
    fn a_change_of_stock_is_told_under_its_sku() {
        let stock = |quantity: u64, order: &str| {
            json!({
                "lastOrderId": order, "quantity": quantity, "reserved": 10 - quantity,
                "sku": "MACGUFFIN/LX"
            })
        };
        let reserved = line(&change(stock(10, "a"), stock(3, "b")));
        let told = "  MACGUFFIN/LX  quantity 10 -> 3, reserved 0 -> 7";
        assert!(reserved.ends_with(told), "{reserved}");
    }

    #[test]
    fn an_event_of_a_trace_is_told_with_it_at_the_end() {
        let stock = || json!({"sku": "MACGUFFIN/LX", "quantity": 7});
        let mut event = change(stock(), stock());
        let untraced = line(&event);
        event["traceId"] = json!("4bf92f3577b34da6a3ce929d0e0e4736");
        let traced = format!("{untraced}  trace 4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(line(&event), traced);
    }

    #[test]
    fn a_new_order_is_told_with_its_customer() {
        let order = json!({
            "customerId": "349", "orderId": "a", "quantity": 7, "status": "PENDING"
        });
        let created = line(&change(Value::Null, order));
        let told = "  a  created: customerId 349, status PENDING, quantity 7";
        assert!(created.ends_with(told), "{created}");
    }

    #[test]
    fn an_insert_and_a_removal_are_told_without_the_other_image() {
        let stock = || json!({"quantity": 7});
        let created = line(&change(Value::Null, stock()));
        assert!(created.ends_with("CUSTOMER#349 TIMESTAMP#1#a  created: quantity 7"), "{created}");
        assert!(line(&change(stock(), Value::Null)).ends_with("  removed"));
        assert!(line(&change(stock(), stock())).ends_with("  nothing of note"));
    }

    #[test]
    fn an_outcome_tells_its_order_or_item() {
        let event = |detail_type: &str, detail: Value| {
            line(&json!({
                "time": "2026-01-02T03:04:05Z", "detail-type": detail_type, "detail": detail
            }))
        };
        assert_eq!(
            event("payment.deadLettered", json!({"orderId": "a", "status": "ON_HOLD"})),
            "2026-01-02T03:04:05Z  payment.deadLettered  a  status ON_HOLD"
        );
        let low = json!({"sku": "MACGUFFIN/LX", "quantity": 9, "reserved": 1, "orderId": "a"});
        assert_eq!(
            event("stock.low", low),
            "2026-01-02T03:04:05Z  stock.low             MACGUFFIN/LX  quantity 9, reserved 1, \
             orderId a"
        );
        let odd = event("x", json!("a\u{1b}b"));
        assert!(odd.ends_with("  a\u{fffd}b"), "{odd}");
    }
}
