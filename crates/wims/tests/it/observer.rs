//! The observer log: every event of ours, read back from the journal, under the trace of the
//! request that it follows from.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::declaration::{declaration, rule, serve};
use crate::harness::{Server, await_condition, wims};

/// A request's trace, and its `traceparent`.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Events of the log that tell of an order: its own, and those of the stock it took last.
fn events_of(server: &Server, order: &str) -> Vec<Value> {
    let (_, page) = server.get("/logs/observer?limit=500");
    let mut events = page["items"].as_array().expect("events").clone();
    events.retain(|event| {
        let (detail, image) = (&event["detail"], &event["detail"]["data"]["NewImage"]);
        let told = [&detail["orderId"], &image["orderId"], &image["lastOrderId"]];
        told.iter().any(|told| *told == order)
    });
    events
}

/// Kinds of events, in the log's order.
fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["detail-type"].as_str()).collect()
}

#[test]
fn the_observer_log_holds_every_event_and_survives_a_restart() {
    let server = Server::start("observer", &["--sandbox-rate=50"]);
    let order = server.order("349", 7);
    server.await_status(&order, "READY");
    let server = server.restart(&["--sandbox-rate=50"]);
    let (status, page) = server.get("/logs/observer?limit=500");
    assert_eq!(status, 200);
    let events = page["items"].as_array().expect("events");
    let kinds: Vec<&str> = events
        .iter()
        .filter(|event| event["source"] == "wims")
        .filter_map(|event| event["detail-type"].as_str())
        .collect();
    for kind in ["order.received", "stock.reserved", "payment.succeeded", "order.ready"] {
        assert_eq!(kinds.iter().filter(|k| **k == kind).count(), 1, "{kind} in {kinds:?}");
    }
    let insert = events
        .iter()
        .find(|event| event["detail"]["data"]["NewImage"]["orderId"] == order.as_str())
        .expect("the order's change");
    assert_eq!(insert["source"], "freeCodeCamp");
    assert_eq!(insert["detail-type"], "cdcEvent");
    assert_eq!(insert["detail"]["meta"]["fn"], "cdc-enrichment");
    assert_eq!(insert["detail"]["data"]["eventName"], "INSERT");
    assert_eq!(insert["account"], "000000000000");
    let (_, last) = server.get("/logs/observer?last=3");
    let tail = last["items"].as_array().expect("events");
    assert_eq!(tail.len(), 3);
    assert_eq!(tail[2], events[events.len() - 1]);
    let shown = wims(&["log", "show", "observer", "--url", &server.url("")]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains("order.ready"), "{}", shown.stdout);
    assert_eq!(server.get("/logs/nobody").0, 404);
}

/// Events of the observer log, oldest first.
fn events(server: &Server) -> Vec<Value> {
    let (status, page) = server.get("/logs/observer?limit=500");
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().expect("events").clone()
}

#[test]
fn equal_events_of_two_pipes_on_two_buses_have_ids_of_their_own_and_keep_them() {
    let mut stack = declaration();
    stack["buses"].as_array_mut().expect("buses").push("second".into());
    let pipes = stack["pipes"].as_array_mut().expect("pipes");
    let changes = pipes.iter().find(|pipe| pipe["name"] == "CDCStreamPipe");
    let mut pipe = changes.expect("the pipe is there").clone();
    pipe["name"] = "SecondPipe".into();
    pipe["target"]["Bus"]["bus"] = "second".into();
    pipes.push(pipe);
    let mut observer = rule(&mut stack, "ObserverRule").clone();
    observer["name"] = "SecondObserverRule".into();
    observer["bus"] = "second".into();
    stack["rules"].as_array_mut().expect("rules").push(observer);
    let server = serve("two-pipes", &stack, &[]);
    let order = server.order("349", 7);
    server.await_status(&order, "READY");
    await_condition("all changes to pass", || server.metric("wims_change_lag") == 0.0);

    let told = events(&server);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &told {
        *kinds.entry(event["detail-type"].as_str().expect("a kind")).or_default() += 1;
    }
    assert!(kinds["cdcEvent"] >= 2 && kinds.values().all(|count| count % 2 == 0), "{kinds:?}");
    assert_eq!(kinds["order.ready"], 2, "{kinds:?}");
    let ids: BTreeSet<&str> = told.iter().filter_map(|event| event["id"].as_str()).collect();
    assert_eq!(ids.len(), told.len(), "each event has an id of its own");

    let stack = format!("--stack={}", server.folder.join("stack.json").display());
    let server = server.restart(&[&stack]);
    assert_eq!(events(&server)[..told.len()], told, "read again they have the same ids");
}

#[test]
fn every_event_that_follows_from_a_traced_request_has_its_trace_and_no_other_event_has_one() {
    let server = Server::start("traced", &["--sandbox-rate=50"]);
    let traced = server.order_with("traceparent", TRACEPARENT);
    let untraced = server.order("350", 2);
    // A malformed header is no reason to refuse, and none to believe half of it.
    let malformed = server.order_with("traceparent", &TRACEPARENT.to_uppercase());
    for order in [&traced, &untraced, &malformed] {
        await_condition("the order to be ready", || {
            kinds(&events_of(&server, order)).contains(&"order.ready")
        });
    }
    let events = events_of(&server, &traced);
    for kind in ["order.received", "stock.reserved", "payment.succeeded", "order.ready"] {
        assert!(kinds(&events).contains(&kind), "{kind} in {events:?}");
    }
    let changes = kinds(&events).iter().filter(|kind| **kind == "cdcEvent").count();
    assert!(changes >= 6, "five of the order, one of the stock: {events:?}");
    for event in &events {
        assert_eq!(event["traceId"], TRACE, "{event}");
    }
    for order in [&untraced, &malformed] {
        for event in events_of(&server, order) {
            assert_eq!(event.get("traceId"), None, "{event}");
        }
    }
    let shown = wims(&["log", "show", "observer", "--url", &server.url("")]);
    let lines = shown.stdout.lines().filter(|line| line.ends_with(&format!("  trace {TRACE}")));
    assert_eq!(lines.count(), events.len(), "{}", shown.stdout);
}
