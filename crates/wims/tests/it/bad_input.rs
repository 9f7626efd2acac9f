//! Bad input gets a clear 4xx and changes nothing. Quantities that count no units, and attributes a
//! caller must not set, are among the faults.

use reqwest::Method;
use serde_json::Value;

use crate::harness::Server;

#[test]
fn a_bad_order_is_a_clear_refusal_and_nothing_is_stored() {
    let server = Server::start("bad", &[]);
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let deep_field = format!(r#"{{"customerId":"1","quantity":{deep}}}"#);
    let bodies: [(&str, Vec<u8>); 14] = [
        ("no customer", br#"{"quantity":1}"#.to_vec()),
        ("empty customer", br#"{"customerId":"","quantity":1}"#.to_vec()),
        ("no quantity", br#"{"customerId":"1"}"#.to_vec()),
        ("doubled field", br#"{"customerId":"1","quantity":1,"quantity":2}"#.to_vec()),
        ("too large", format!(r#"{{"customerId":"{}"}}"#, "x".repeat(2 << 20)).into_bytes()),
        ("nested", deep_field.into_bytes()),
        ("broken JSON", br#"{"customerId":"1","quantity":1"#.to_vec()),
        ("broken UTF-8", b"{\"customerId\":\"\xff\xfe\",\"quantity\":1}".to_vec()),
        ("empty", Vec::new()),
        ("a list", b"[]".to_vec()),
        ("null", br#"{"customerId":null,"quantity":1}"#.to_vec()),
        ("too many", br#"{"customerId":"1","quantity":10001}"#.to_vec()),
        ("quantity and lines", br#"{"customerId":"1","quantity":1,"lines":[]}"#.to_vec()),
        ("control", b"{\"customerId\":\"a\\u0000b\",\"quantity\":1}".to_vec()),
    ];
    for (what, body) in bodies {
        let (status, problem) = server.post("/orders", body);
        assert!((400..500).contains(&status), "{what}: {status} {problem}");
        let detail = problem["detail"].as_str().unwrap_or("");
        assert!(!detail.is_empty(), "{what}: {problem}");
    }
    let (_, page) = server.get("/orders");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(0));
    assert_eq!(server.get("/inventory").1["quantity"], 1_000_000);
}

#[test]
fn every_error_of_a_body_is_told_at_once() {
    let server = Server::start("all-errors", &[]);
    let (status, problem) = server.post("/orders", r#"{"quantity":0.5,"colour":"red"}"#);
    assert_eq!(status, 400);
    let fields: Vec<_> =
        problem["errors"].as_array().expect("errors").iter().map(|e| &e["field"]).collect();
    assert_eq!(fields.len(), 3, "{problem}");
}

#[test]
fn a_route_that_takes_no_idempotency_key_refuses_it_rather_than_ignores_it() {
    let server = Server::start("key", &[]);
    let client = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
    let writing = [
        (Method::POST, "/orders/nobody/ship", ""),
        (Method::PUT, "/inventory/SMALL/X", r#"{"productName":"Small"}"#),
        (Method::POST, "/queues/payments-dlq/redrive", ""),
        (Method::DELETE, "/leftovers/queue/nobody", ""),
    ];
    for (method, path, body) in writing {
        let request = client.request(method, server.url(path)).header("idempotency-key", "abc");
        let response = request.body(body).send().expect("an answer");
        assert_eq!(response.status(), 400, "{path}");
        let problem: Value = response.json().expect("JSON");
        assert_eq!(problem["errors"][0]["field"], "Idempotency-Key", "{path}: {problem}");
    }
    assert_eq!(server.get("/inventory/SMALL/X").0, 404);
}

#[test]
fn the_reason_of_a_receipt_is_refused_rather_than_thrown_away() {
    let server = Server::start("reason", &[]);
    let body = r#"{"quantity":1,"reason":"delivery 4711"}"#;
    let (status, problem) = server.post("/inventory/MACGUFFIN/LX/receipts", body);
    assert_eq!(status, 400, "{problem}");
    assert_eq!(problem["errors"][0]["field"], "reason", "{problem}");
    assert_eq!(server.get("/inventory").1["quantity"], 1_000_000);
}

#[test]
fn what_is_not_there_is_a_404_and_another_method_a_405() {
    let server = Server::start("missing", &[]);
    for path in ["/nothing", "/orders/nobody", "/inventory/NO/ITEM", "/queues/none/messages"] {
        assert_eq!(server.get(path).0, 404, "{path}");
    }
    assert_eq!(server.send(Method::DELETE, "/orders", "").0, 405);
    assert_eq!(server.post("/inventory/NO/ITEM/receipts", r#"{"quantity":1}"#).0, 404);
    assert_eq!(server.get("/orders?status=red").0, 400);
    for list in ["/orders", "/inventory/items"] {
        for wrong in ["limit=0", "limit=501", "cursor=x", "colour=red"] {
            assert_eq!(server.get(&format!("{list}?{wrong}")).0, 400, "{list}?{wrong}");
        }
    }
}

#[test]
fn a_path_that_is_no_text_is_refused_with_a_problem() {
    let server = Server::start("path", &[]);
    let client = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
    let refused = [
        (Method::POST, "/customers/%FF/erase"),
        (Method::GET, "/orders/%FF"),
        (Method::POST, "/orders/%FF/ship"),
        (Method::GET, "/inventory/%FF/LX"),
        (Method::PUT, "/inventory/MACGUFFIN/%FF"),
        (Method::POST, "/inventory/%FF/LX/receipts"),
        (Method::GET, "/queues/%FF/messages"),
        (Method::POST, "/queues/%FF/redrive"),
        (Method::GET, "/logs/%FF"),
    ];
    for (method, path) in refused {
        let response = client.request(method, server.url(path)).send().expect("an answer");
        assert_eq!(response.status(), 400, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        let problem: Value = response.json().expect("JSON");
        let detail = problem["detail"].as_str().unwrap_or("");
        assert!(detail.contains("UTF-8"), "{path}: {problem}");
    }
}

#[test]
fn a_log_is_read_from_a_place_on_or_from_its_end_never_both() {
    let server = Server::start("log-query", &[]);
    for wrong in ["last=3&limit=10", "last=3&after=1", "last=0", "limit=501", "after=-1"] {
        let (status, problem) = server.get(&format!("/logs/observer?{wrong}"));
        assert_eq!(status, 400, "{wrong}: {problem}");
    }
    let (status, page) = server.get(&format!("/logs/observer?after={}", u64::MAX));
    assert_eq!(status, 200, "{page}");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(0));
    assert_eq!(page["end"], true);
}
