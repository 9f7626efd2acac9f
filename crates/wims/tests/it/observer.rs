//! The observer log: every event of ours, read back from the journal.

use crate::harness::{Server, wims};

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
