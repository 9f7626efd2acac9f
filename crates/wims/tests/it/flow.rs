//! The good case: an order is taken, reserved, paid and READY; what was said survives a restart.

use crate::harness::{Server, await_condition, wims};

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

fn create_item(server: &Server, sku: &str) {
    let path = format!("/inventory/{sku}");
    let (status, item) =
        server.send(reqwest::Method::PUT, &path, r#"{"productName":"One of many"}"#);
    assert_eq!((status, item["sku"].as_str()), (201, Some(sku)));
}

#[test]
fn items_are_listed_page_after_page_newest_first_and_each_once() {
    let server = Server::start("items", &[]);
    ["SMALL/A", "SMALL/B", "SMALL/C"].iter().for_each(|sku| create_item(&server, sku));
    // An item that changes keeps its place.
    assert_eq!(server.post("/inventory/SMALL/A/receipts", r#"{"quantity":5}"#).0, 201);
    let (mut skus, mut path) = (Vec::new(), "/inventory/items?limit=2".to_owned());
    loop {
        let (status, page) = server.get(&path);
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2, "{page}");
        skus.extend(items.iter().map(|item| item["sku"].as_str().expect("a sku").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/inventory/items?limit=2&cursor={next}");
    }
    assert_eq!(skus, ["SMALL/C", "SMALL/B", "SMALL/A", "MACGUFFIN/LX"]);
    let (_, page) = server.get("/inventory/items");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(4));
    assert!(page["next"].is_null(), "{page}");
}

#[test]
fn the_command_line_lists_more_items_than_a_page_has() {
    let server = Server::start("many-items", &[]);
    // With the article's item one more than the largest page.
    (0..500).for_each(|number| create_item(&server, &format!("BOLT/{number}")));
    let listed = wims(&["inventory", "list", "--url", &server.url("")]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let skus: Vec<&str> =
        listed.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(skus.len(), 1 + 501, "headings and items");
    assert_eq!((skus[0], skus[1], skus[501]), ("SKU", "BOLT/499", "MACGUFFIN/LX"));
}
