//! A request with an `Idempotency-Key` takes effect once, however often and however many at a time
//! send it, through a kill and long after its order was shipped.

use std::collections::BTreeSet;

use reqwest::blocking::Response;
use serde_json::Value;

use crate::harness::{Server, await_condition, wims};

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotent-replayed";
const ORDER: &str = r#"{"customerId":"349","quantity":7}"#;
const RECEIPTS: &str = "/inventory/MACGUFFIN/LX/receipts";

/// Status, whether it says that it is an answer given before, and body.
fn told(response: Response) -> (u16, bool, String) {
    let replayed = response.headers().get(REPLAYED).map(|value| value.as_bytes().to_vec());
    assert!(replayed.as_deref().is_none_or(|value| value == b"true"), "{replayed:?}");
    (response.status().as_u16(), replayed.is_some(), response.text().expect("text"))
}

fn post(server: &Server, path: &str, key: &str, body: &str) -> (u16, bool, String) {
    told(server.posted(path, body, &[(KEY, key)]))
}

/// How many orders there are, at most 50.
fn orders(server: &Server) -> usize {
    server.get("/orders").1["items"].as_array().expect("a page").len()
}

fn order_id(body: &str) -> String {
    let reply: Value = serde_json::from_str(body).expect("JSON");
    reply["orderId"].as_str().expect("an id").to_owned()
}

#[test]
fn a_repeated_order_gets_the_first_answer_and_creates_nothing() {
    let server = Server::start("idem-repeat", &[]);
    let first = server.posted("/orders", ORDER, &[(KEY, "cart-1")]);
    let location = first.headers()["location"].clone();
    let (status, replayed, body) = told(first);
    assert_eq!((status, replayed), (200, false), "{body}");
    // The same fields, told in another way.
    for same in [ORDER, r#" {"quantity": 7, "customerId": 349} "#] {
        let again = server.posted("/orders", same, &[(KEY, "cart-1")]);
        assert_eq!(again.headers()["location"], location);
        assert_eq!(told(again), (200, true, body.clone()));
    }
    assert_eq!(orders(&server), 1);
    // Another key, and none, are other orders.
    assert!(!post(&server, "/orders", "cart-2", ORDER).1);
    assert!(!told(server.posted("/orders", ORDER, &[])).1);
    assert_eq!(orders(&server), 3);
}

#[test]
fn a_key_with_another_body_is_a_422_and_the_first_stays_what_it_was() {
    let server = Server::start("idem-other", &[]);
    let (_, _, body) = post(&server, "/orders", "k", ORDER);
    let other = r#"{"customerId":"349","quantity":8}"#;
    let (status, replayed, problem) = post(&server, "/orders", "k", other);
    assert_eq!((status, replayed), (422, false), "{problem}");
    assert!(problem.contains("belongs to another request"), "{problem}");
    assert_eq!(post(&server, "/orders", "k", ORDER), (200, true, body));
    assert_eq!(orders(&server), 1);
    // Another route has keys of its own.
    assert_eq!(post(&server, RECEIPTS, "k", r#"{"quantity":5}"#).0, 201);
}

#[test]
fn a_refused_order_uses_up_no_key() {
    let server = Server::start("idem-refused", &[]);
    let item = |most: u32| {
        let described = r#""productName":"MacGuffin","unitPrice":2500"#;
        let body = format!(r#"{{{described},"orderQuantityMax":{most}}}"#);
        let put = server.send(reqwest::Method::PUT, "/inventory/MACGUFFIN/LX", body);
        assert_eq!(put.0, 200, "{}", put.1);
    };
    item(5);
    assert_eq!(post(&server, "/orders", "k", ORDER).0, 422);
    item(10);
    let (status, replayed, body) = post(&server, "/orders", "k", ORDER);
    assert_eq!((status, replayed), (200, false), "{body}");
    // What was created stays created, whatever would be refused by now.
    item(5);
    assert_eq!(post(&server, "/orders", "k", ORDER), (200, true, body));
}

#[test]
fn a_key_outlives_a_kill_and_a_stop() {
    let mut server = Server::start("idem-kill", &[]).may_fail();
    let (_, _, body) = post(&server, "/orders", "k", ORDER);
    server.process.kill();
    let server = Server::in_folder(server.into_folder(), &[]);
    assert_eq!(post(&server, "/orders", "k", ORDER), (200, true, body.clone()));
    let server = server.restart(&[]);
    assert_eq!(post(&server, "/orders", "k", ORDER), (200, true, body));
    assert_eq!(orders(&server), 1);
}

#[test]
fn of_many_at_once_one_creates_the_order_and_all_are_told_the_same() {
    let server = Server::start("idem-crowd", &[]);
    let told: Vec<_> = std::thread::scope(|scope| {
        let server = &server;
        let client = |_| scope.spawn(move || post(server, "/orders", "k", ORDER));
        let clients: Vec<_> = (0..16).map(client).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let bodies: BTreeSet<&str> = told.iter().map(|(_, _, body)| body.as_str()).collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(told.iter().all(|(status, ..)| *status == 200), "{told:?}");
    assert_eq!(told.iter().filter(|(_, replayed, _)| !replayed).count(), 1);
    assert_eq!(orders(&server), 1);
}

#[test]
fn an_order_that_was_shipped_is_still_answered_as_it_was_created() {
    let server = Server::start("idem-shipped", &[]);
    let (_, _, body) = post(&server, "/orders", "k", ORDER);
    let id = order_id(&body);
    server.await_status(&id, "READY");
    // Its hand-over may be a moment behind.
    await_condition("the order to be shipped", || {
        server.post(&format!("/orders/{id}/ship"), "").0 == 200
    });
    server.await_status(&id, "SHIPPED");
    assert_eq!(post(&server, "/orders", "k", ORDER), (200, true, body));
}

#[test]
fn a_receipt_is_booked_once_a_key_and_a_repeat_shows_the_item_as_it_is() {
    let server = Server::start("idem-receipt", &[]);
    let receipt = r#"{"quantity":500}"#;
    let (status, replayed, first) = post(&server, RECEIPTS, "delivery-1", receipt);
    assert_eq!((status, replayed), (201, false), "{first}");
    assert_eq!(post(&server, RECEIPTS, "delivery-1", receipt), (201, true, first));
    assert_eq!(server.get("/inventory").1["quantity"], 1_000_500);
    assert_eq!(post(&server, RECEIPTS, "delivery-1", r#"{"quantity":501}"#).0, 422);
    post(&server, RECEIPTS, "delivery-2", receipt);
    let (status, replayed, now) = post(&server, RECEIPTS, "delivery-1", receipt);
    let item: Value = serde_json::from_str(&now).expect("JSON");
    assert_eq!((status, replayed, &item["quantity"]), (201, true, &1_001_000.into()));
    // The path is part of what is asked.
    let body = r#"{"productName":"Other"}"#;
    assert_eq!(server.send(reqwest::Method::PUT, "/inventory/OTHER/X", body).0, 201);
    assert_eq!(post(&server, "/inventory/OTHER/X/receipts", "delivery-1", receipt).0, 422);
    assert_eq!(server.get("/inventory/OTHER/X").1["quantity"], 0);
}

#[test]
fn what_is_no_key_is_a_400_and_nothing_is_stored() {
    let server = Server::start("idem-bad", &[]);
    let longest = "k".repeat(255);
    let too_long = "k".repeat(256);
    for (path, body) in [("/orders", ORDER), (RECEIPTS, r#"{"quantity":1}"#)] {
        for wrong in ["", "a b", "k\u{e9}", &too_long] {
            let (status, _, problem) = post(&server, path, wrong, body);
            assert_eq!(status, 400, "{path} {wrong}: {problem}");
            let problem: Value = serde_json::from_str(&problem).expect("JSON");
            assert_eq!(problem["errors"][0]["field"], "Idempotency-Key", "{problem}");
        }
        let twice = told(server.posted(path, body, &[(KEY, "k"), (KEY, "k")]));
        assert_eq!(twice.0, 400, "{path}: {}", twice.2);
    }
    assert_eq!(orders(&server), 0);
    assert_eq!(server.get("/inventory").1["quantity"], 1_000_000);
    assert_eq!(post(&server, "/orders", &longest, ORDER).0, 200);
}

#[test]
fn the_command_line_tells_a_key_and_places_an_order_once() {
    let server = Server::start("idem-cli", &[]);
    let url = server.url("");
    let create = |key| {
        let order = ["order", "create", "--customer", "349", "--quantity", "7", "--json"];
        let more = ["--url", &url, "--idempotency-key", key];
        wims(&[&order[..], &more[..]].concat())
    };
    let first = create("cart-1");
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert_eq!(create("cart-1").stdout, first.stdout);
    assert_eq!(orders(&server), 1);
    let wrong = create("two words");
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    let receive = || {
        let item = ["inventory", "receive", "MACGUFFIN/LX", "500"];
        wims(&[&item[..], &["--url", &url, "--idempotency-key", "delivery-1"]].concat())
    };
    assert_eq!((receive().code, receive().code), (Some(0), Some(0)));
    // One order may have been reserved by now.
    assert_eq!(server.get("/inventory").1["onHand"], 1_000_500);
}

#[test]
fn the_memory_of_keys_is_a_metric() {
    let server = Server::start("idem-metric", &[]);
    let counted = r#"wims_memory_bytes{kind="keys"}"#;
    assert_eq!(server.metric(counted), 0.0);
    post(&server, "/orders", "k", ORDER);
    assert!(server.metric(counted) > 48.0);
}
