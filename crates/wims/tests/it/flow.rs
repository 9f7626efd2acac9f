//! The good case: an order is taken, reserved, paid and READY; what was said survives a restart.

use crate::harness::{Server, await_condition};

#[test]
fn the_articles_requests_give_the_articles_answers() {
    let server = Server::start("article", &[]);
    let (status, item) = server.get("/inventory");
    assert_eq!(status, 200);
    assert_eq!(item["model"], "LX");
    assert_eq!(item["productName"], "MacGuffin");
    assert_eq!(item["quantity"], 1_000_000);
    let order = server.order("349", 7);
    let ready = server.await_status(&order, "READY");
    assert_eq!(ready["inventoryStatus"], "RESERVED");
    assert_eq!(ready["paymentStatus"], "PAID");
    assert_eq!(ready["amount"], 17_500);
    assert_eq!(server.get("/inventory").1["quantity"], 999_993);
}

#[test]
fn orders_and_stock_are_there_after_a_clean_restart() {
    let server = Server::start("restart", &["--sandbox-rate=200"]);
    let orders: Vec<String> = (0..20).map(|i| server.order(&format!("{i}"), 3)).collect();
    let server = server.restart(&["--sandbox-rate=200"]);
    for order in &orders {
        server.await_status(order, "READY");
    }
    let (_, item) = server.get("/inventory");
    assert_eq!((&item["quantity"], &item["reserved"]), (&999_940.into(), &60.into()));
}

#[test]
fn a_shipped_order_leaves_memory_and_can_still_be_read_and_shipped_again() {
    let server = Server::start("ship", &[]);
    let order = server.order("349", 2);
    assert_eq!(server.post(&format!("/orders/{order}/ship"), "").0, 409);
    server.await_status(&order, "READY");
    let (status, shipped) = server.post(&format!("/orders/{order}/ship"), "{}");
    assert_eq!((status, shipped["status"].as_str()), (200, Some("SHIPPED")));
    await_condition("the closed order to leave memory", || {
        server.metric("wims_closed_waiting") == 0.0
    });
    let (status, read) = server.get(&format!("/orders/{order}"));
    assert_eq!((status, read["status"].as_str()), (200, Some("SHIPPED")));
    assert_eq!(server.post(&format!("/orders/{order}/ship"), "").0, 200);
    let (_, item) = server.get("/inventory");
    assert_eq!((&item["onHand"], &item["reserved"]), (&999_998.into(), &0.into()));
    let (_, page) = server.get("/orders?status=SHIPPED");
    assert_eq!(page["items"][0]["orderId"], order.as_str());
}

#[test]
fn an_item_is_created_once_and_then_described_anew() {
    let server = Server::start("item", &[]);
    let put = |body: &'static str| server.send(reqwest::Method::PUT, "/inventory/SMALL/X", body);
    assert_eq!(put(r#"{"productName":"Small"}"#).0, 201);
    let (status, item) = put(r#"{"productName":"Tiny"}"#);
    assert_eq!((status, item["productName"].as_str()), (200, Some("Tiny")));
}
