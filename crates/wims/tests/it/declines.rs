//! A declined order can be paid in another way, once; without that its stock is kept for a time that
//! is declared, and then it is canceled.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::answering::Answering;
use crate::harness::{Server, await_condition, wims};

/// What was asked, as key and method.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A payments API that declines one payment method.
fn declining(bad: &'static str) -> (Answering, Asked) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let api = Answering::start(move |request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let method = body["paymentMethod"].as_str().unwrap_or("").to_owned();
        let is_bad = method == bad;
        noted.lock().expect("whole").push((request.header("idempotency-key"), method));
        Some(if is_bad {
            ("402 Payment Required", r#"{"reason":"insufficient_funds"}"#)
        } else {
            ("200 OK", r#"{"message":"Payment Success!"}"#)
        })
    });
    (api, asked)
}

fn placed(server: &Server) -> String {
    let body = r#"{"customerId":"349","quantity":7,"paymentMethod":"tok_bad"}"#;
    let (status, reply) = server.post("/orders", body);
    assert_eq!(status, 200, "{reply}");
    reply["orderId"].as_str().expect("an id").to_owned()
}

fn pay(server: &Server, order: &str, method: &str) -> (u16, Value) {
    let body = json!({"paymentMethod": method}).to_string();
    server.post(&format!("/orders/{order}/payment"), body)
}

#[test]
fn a_declined_order_is_paid_by_another_method_under_another_key() {
    let (api, asked) = declining("tok_bad");
    let url = format!("--payments-url={}", api.url());
    let server = Server::start("pay-anew", &[&url, "--payments-rate=50"]);
    let order = placed(&server);
    let held = server.await_status(&order, "ON_HOLD");
    assert_eq!(held["paymentStatus"], "DECLINED");
    let (status, pending) = pay(&server, &order, "tok_good");
    assert_eq!((status, &pending["paymentStatus"]), (200, &json!("PENDING")), "{pending}");
    assert_eq!(pending.get("reason"), None, "{pending}");
    let ready = server.await_status(&order, "READY");
    assert_eq!(ready["paymentStatus"], "PAID");
    let asked = asked.lock().expect("whole").clone();
    let call = |key: &str, method: &str| (format!("{order}-{key}"), method.to_owned());
    assert_eq!(asked, [call("1", "tok_bad"), call("2", "tok_good")]);
    assert_eq!(pay(&server, &order, "tok_good").0, 200, "it may be said again");
    assert_eq!(pay(&server, &order, "tok_other").0, 409);
    assert_eq!(pay(&server, "nobody", "tok_good").0, 404);
    assert_eq!(server.post(&format!("/orders/{order}/payment"), "").0, 400);
    let events = server.get_text("/logs/observer?limit=500");
    assert!(events.contains(&order) && !events.contains("tok_"), "{events}");
}

#[test]
fn an_order_whose_payment_stays_declined_is_canceled_when_its_grace_is_over() {
    let (api, _asked) = declining("tok_bad");
    let url = format!("--payments-url={}", api.url());
    let arguments = [url.as_str(), "--payments-rate=50", "--decline-grace=3s"];
    let server = Server::start("grace", &arguments);
    let (first, second) = (placed(&server), placed(&server));
    server.await_status(&first, "ON_HOLD");
    server.await_status(&second, "ON_HOLD");
    assert_eq!(pay(&server, &second, "tok_good").0, 200);
    // What waits is in the journal.
    let server = server.restart(&arguments);
    let canceled = server.await_status(&first, "CANCELED");
    assert_eq!(canceled["cancelReason"], "declined");
    assert_eq!(canceled["paymentStatus"], "VOIDED");
    let counted = || {
        let (_, item) = server.get("/inventory");
        (item["quantity"].clone(), item["reserved"].clone())
    };
    await_condition("only the paid order to hold stock", || {
        counted() == (json!(999_993), json!(7))
    });
    server.await_status(&second, "READY");
}

#[test]
fn the_command_line_pays_anew() {
    let (api, _asked) = declining("tok_bad");
    let payments = format!("--payments-url={}", api.url());
    let server = Server::start("pay-cli", &[&payments, "--payments-rate=50"]);
    let order = placed(&server);
    server.await_status(&order, "ON_HOLD");
    let url = format!("--url={}", server.process.url);
    let paid = wims(&["order", "pay", &order, "--payment-method=tok_good", &url]);
    assert_eq!((paid.code, paid.stdout), (Some(0), format!("{order} is PENDING\n")));
    server.await_status(&order, "READY");
}
