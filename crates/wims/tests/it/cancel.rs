//! An order that was not shipped can be canceled: its stock is free at once, its money goes back,
//! and it never comes back itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::answering::Answering;
use crate::harness::{Server, await_condition, wims};

/// All the article's item has.
const ALL: i64 = 1_000_000;
/// No payment is made while a test runs.
const NO_PAYMENTS: [&str; 1] = ["--payments-rate=0.01"];

fn cancel(server: &Server, order: &str) -> (u16, Value) {
    server.post(&format!("/orders/{order}/cancel"), "")
}

fn read(server: &Server, order: &str) -> Value {
    server.get(&format!("/orders/{order}")).1
}

/// Waits until a field of the order is this; the order then.
fn await_field(server: &Server, order: &str, field: &str, value: &str) -> Value {
    let mut last = Value::Null;
    await_condition(&format!("{field} of order {order} to be {value}"), || {
        last = read(server, order);
        last[field] == value
    });
    last
}

/// What of an item is free, reserved and waited for.
fn counted(server: &Server, sku: &str) -> [i64; 3] {
    let (_, item) = server.get(&format!("/inventory/{sku}"));
    ["quantity", "reserved", "backordered"].map(|name| item[name].as_i64().expect("a number"))
}

fn refunds(server: &Server) -> Value {
    server.sandbox_stats()["refunds"].clone()
}

#[test]
fn an_order_that_was_not_charged_is_canceled_at_once() {
    let server = Server::start("cancel-pending", &NO_PAYMENTS);
    let order = server.order("349", 7);
    await_field(&server, &order, "inventoryStatus", "RESERVED");
    let (status, canceled) =
        server.post(&format!("/orders/{order}/cancel"), r#"{"reason":"found it cheaper"}"#);
    assert_eq!((status, &canceled["status"]), (200, &json!("CANCELED")), "{canceled}");
    assert_eq!(canceled["inventoryStatus"], "RELEASED");
    assert_eq!(canceled["paymentStatus"], "VOIDED");
    assert_eq!(canceled["cancelReason"], "found it cheaper");
    assert!(canceled["cancelRequestedAt"].is_string(), "{canceled}");
    assert_eq!(canceled["waitsFor"], Value::Null);
    assert_eq!(counted(&server, "MACGUFFIN/LX"), [ALL, 0, 0]);
    let again = server.post(&format!("/orders/{order}/cancel"), r#"{"reason":"another"}"#);
    assert_eq!(again, (200, canceled.clone()));
    assert_eq!(server.post(&format!("/orders/{order}/ship"), "").0, 409);
    assert_eq!(read(&server, &order), canceled);
    await_condition("its events", || server.metric("wims_change_lag") == 0.0);
    let (_, page) = server.get("/logs/observer?limit=500");
    let events = page["items"].as_array().expect("events").iter();
    let of_order = events.filter(|event| event["detail"]["orderId"] == order.as_str());
    let told: Vec<&Value> = of_order.map(|event| &event["detail-type"]).collect();
    assert_eq!(told, ["order.received", "stock.reserved", "order.canceled"]);
}

#[test]
fn who_waits_behind_a_canceled_order_is_served() {
    let server = Server::start("cancel-head", &NO_PAYMENTS);
    let described = json!({"productName": "bolt"}).to_string();
    assert_eq!(server.send(Method::PUT, "/inventory/BOLT/M8", described).0, 201);
    let received = server.post("/inventory/BOLT/M8/receipts", r#"{"quantity":5}"#);
    assert_eq!(received.0, 201);
    let placed = |quantity: i64| {
        let lines = json!([{"sku": "BOLT/M8", "quantity": quantity}]);
        let (_, reply) =
            server.post("/orders", json!({"customerId": "349", "lines": lines}).to_string());
        reply["orderId"].as_str().expect("an id").to_owned()
    };
    let (head, behind) = (placed(6), placed(3));
    for order in [&head, &behind] {
        await_field(&server, order, "inventoryStatus", "BACKORDERED");
    }
    assert_eq!(counted(&server, "BOLT/M8"), [5, 0, 2]);
    let (status, canceled) = cancel(&server, &head);
    assert_eq!((status, &canceled["status"]), (200, &json!("CANCELED")), "{canceled}");
    await_field(&server, &behind, "inventoryStatus", "RESERVED");
    assert_eq!(counted(&server, "BOLT/M8"), [2, 3, 0]);
}

#[test]
fn an_order_that_was_paid_is_refunded_once() {
    let server = Server::start("cancel-paid", &["--sandbox-rate=50"]);
    let order = server.order("349", 7);
    await_field(&server, &order, "fulfillmentStatus", "READY");
    let (status, canceling) = cancel(&server, &order);
    assert_eq!((status, &canceling["status"]), (202, &json!("CANCELING")), "{canceling}");
    assert_eq!(canceling["waitsFor"], "its refund's turn in refunds-queue");
    assert_eq!(canceling["fulfillmentStatus"], "UNFULFILLED");
    assert_eq!(counted(&server, "MACGUFFIN/LX"), [ALL, 0, 0], "its stock is free at once");
    let canceled = server.await_status(&order, "CANCELED");
    assert_eq!(canceled["paymentStatus"], "REFUNDED");
    assert_eq!(cancel(&server, &order), (200, canceled));
    let stats = server.sandbox_stats();
    assert_eq!((&stats["charges"], &stats["refunds"]), (&json!(1), &json!(1)), "{stats}");
    let (_, shipped) = server.get("/orders?status=READY");
    assert_eq!(shipped["items"], json!([]));
    let (_, page) = server.get("/orders?status=CANCELED");
    assert_eq!(page["items"][0]["orderId"], order.as_str());
}

#[test]
fn a_payment_that_succeeds_after_the_cancellation_is_refunded() {
    let server = Server::start("cancel-late", &["--sandbox-rate=50", "--sandbox-delay-ms=1500"]);
    let order = server.order("349", 7);
    await_field(&server, &order, "paymentStatus", "PROCESSING");
    let (status, canceling) = cancel(&server, &order);
    assert_eq!((status, &canceling["status"]), (202, &json!("CANCELING")), "{canceling}");
    assert_eq!(refunds(&server), 0);
    let canceled = server.await_status(&order, "CANCELED");
    assert_eq!(canceled["paymentStatus"], "REFUNDED");
    assert_eq!(refunds(&server), 1);
    assert_eq!(counted(&server, "MACGUFFIN/LX"), [ALL, 0, 0]);
}

#[test]
fn an_order_whose_payment_is_unknown_is_canceled_when_that_is_known() {
    let arguments = ["--sandbox-rate=50", "--sandbox-drop-after-charge-every=1"];
    let server = Server::start("cancel-unknown", &arguments);
    let order = server.order("349", 7);
    await_field(&server, &order, "paymentStatus", "UNKNOWN");
    let (status, canceling) = cancel(&server, &order);
    assert_eq!((status, &canceling["status"]), (202, &json!("CANCELING")), "{canceling}");
    assert_eq!(canceling["paymentStatus"], "UNKNOWN", "it was charged, which nobody knows yet");
    assert_eq!(canceling["waitsFor"], "a look-up of what became of its payment");
    assert_eq!(counted(&server, "MACGUFFIN/LX"), [ALL, 0, 0]);
}

#[test]
fn a_declined_order_is_canceled_at_once_and_a_shipped_one_never() {
    let server = Server::start("cancel-declined", &["--sandbox-decline-percent=100"]);
    let order = server.order("349", 7);
    server.await_status(&order, "ON_HOLD");
    let (status, canceled) = cancel(&server, &order);
    assert_eq!((status, &canceled["status"]), (200, &json!("CANCELED")), "{canceled}");
    assert_eq!(counted(&server, "MACGUFFIN/LX"), [ALL, 0, 0]);

    let server = Server::start("cancel-shipped", &["--sandbox-rate=50"]);
    let order = server.order("349", 7);
    await_field(&server, &order, "fulfillmentStatus", "READY");
    assert_eq!(server.post(&format!("/orders/{order}/ship"), "").0, 200);
    let (status, problem) = cancel(&server, &order);
    assert_eq!(status, 409);
    let detail = format!("order {order} is SHIPPED; it cannot be canceled any more");
    assert_eq!(problem["detail"], detail.as_str());
    assert_eq!(cancel(&server, "nobody").0, 404);
    let wrong = server.post(&format!("/orders/{order}/cancel"), r#"{"because":1}"#);
    assert_eq!(wrong.0, 400, "{}", wrong.1);
}

#[test]
fn a_refused_refund_is_a_dead_letter_until_a_person_redrives_it() {
    let relents = Arc::new(AtomicBool::new(false));
    let relented = Arc::clone(&relents);
    let api = Answering::start(move |request| {
        let is_refund = request.line.ends_with("/refund");
        Some(if is_refund && !relented.load(Ordering::SeqCst) {
            ("422 Unprocessable Content", r#"{"detail":"the account is closed"}"#)
        } else {
            ("200 OK", r#"{"message":"Payment Success!"}"#)
        })
    });
    let url = format!("--payments-url={}", api.url());
    let server = Server::start("cancel-refused", &[&url, "--payments-rate=50"]);
    let order = server.order("349", 7);
    await_field(&server, &order, "fulfillmentStatus", "READY");
    assert_eq!(cancel(&server, &order).0, 202);
    let held = server.await_status(&order, "ON_HOLD");
    assert_eq!(held["paymentStatus"], "REFUND_FAILED");
    assert_eq!(held["reason"], "the API answered 422: the account is closed");
    assert_eq!(held["waitsFor"], "a person to redrive its refund from refunds-dlq");
    assert_eq!(cancel(&server, &order).0, 202, "it is asked for, and not done");
    assert_eq!(server.queue("refunds-dlq")["messages"], 1);
    let is_told = |mail: &String| mail.contains("refunds-dlq");
    await_condition("the team to be told", || server.outbox().iter().any(is_told));
    relents.store(true, Ordering::SeqCst);
    let (status, moved) = server.post("/queues/refunds-dlq/redrive", "{}");
    assert_eq!((status, &moved["moved"]), (200, &json!(1)), "{moved}");
    let canceled = server.await_status(&order, "CANCELED");
    assert_eq!((&canceled["paymentStatus"], canceled.get("reason")), (&json!("REFUNDED"), None));
}

#[test]
fn the_command_line_cancels() {
    let server = Server::start("cancel-cli", &NO_PAYMENTS);
    let order = server.order("349", 7);
    await_field(&server, &order, "inventoryStatus", "RESERVED");
    let url = format!("--url={}", server.process.url);
    let canceled = wims(&["order", "cancel", &order, "--reason=found it cheaper", &url]);
    assert_eq!(canceled.code, Some(0), "{}", canceled.stderr);
    assert_eq!(canceled.stdout, format!("{order} is CANCELED\n"));
    assert_eq!(read(&server, &order)["cancelReason"], "found it cheaper");
}
