//! Backorders: who finds too little stock waits in line and is served when stock comes, nobody
//! twice, nobody out of turn.

use serde_json::Value;

use crate::declaration::{declaration, serve};
use crate::harness::{Server, await_condition, wims};

const CLIENTS: usize = 50;
const ORDERS_OF_A_CLIENT: usize = 10;
const ORDERS: usize = CLIENTS * ORDERS_OF_A_CLIENT;
/// Payments are no part of the waiting.
const FAST: [&str; 2] = ["--sandbox-rate=5000", "--sandbox-burst=500"];

/// A stack without the article's million units.
pub fn unseeded() -> Value {
    let mut stack = declaration();
    let routes = stack["routes"].as_array_mut().expect("routes");
    routes.retain(|route| route["name"] != "seed-inventory");
    // What `FAST` lets the sandbox take.
    let pipes = stack["pipes"].as_array_mut().expect("pipes");
    let pipe = pipes.iter_mut().find(|pipe| pipe["name"] == "PaymentsPipe").expect("it is there");
    pipe["target"]["Api"]["rate_per_second"] = 2_000.0.into();
    pipe["target"]["Api"]["burst"] = 100.into();
    stack
}

/// A server with the article's item and so many units of it.
pub fn stocked(name: &str, stack: &Value, quantity: i64) -> Server {
    let server = serve(name, stack, &FAST);
    let item = r#"{"productName":"MacGuffin","unitPrice":2500}"#;
    assert_eq!(server.send(reqwest::Method::PUT, "/inventory/MACGUFFIN/LX", item).0, 201);
    receive(&server, quantity);
    server
}

pub fn receive(server: &Server, quantity: i64) {
    let body = format!(r#"{{"quantity":{quantity}}}"#);
    assert_eq!(server.post("/inventory/MACGUFFIN/LX/receipts", body).0, 201);
}

/// What is free, reserved and waited for, once no change is under way inside.
fn stock(server: &Server) -> [i64; 3] {
    await_condition("all changes to pass", || server.metric("wims_change_lag") == 0.0);
    let (_, item) = server.get("/inventory");
    ["quantity", "reserved", "backordered"].map(|name| item[name].as_i64().expect("a number"))
}

fn orders_of(server: &Server, client: usize) -> Vec<String> {
    let customer = client.to_string();
    (0..ORDERS_OF_A_CLIENT).map(|_| server.order(&customer, 1)).collect()
}

/// Places orders of one unit from many clients at once; their ids, in their order.
fn order_at_once(server: &Server) -> Vec<String> {
    let mut orders: Vec<String> = std::thread::scope(|scope| {
        let spawn = |client| scope.spawn(move || orders_of(server, client));
        let clients: Vec<_> = (0..CLIENTS).map(spawn).collect();
        clients.into_iter().flat_map(|client| client.join().expect("it ends")).collect()
    });
    orders.sort();
    orders
}

/// Ids of all orders whose stock is in this state, in their order.
fn with_stock(server: &Server, inventory_status: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = server.get(&format!("/orders?limit=500{cursor}"));
        let items = page["items"].as_array().expect("a list").iter();
        let of = items.filter(|order| order["inventoryStatus"] == inventory_status);
        found.extend(of.map(|order| order["orderId"].as_str().expect("an id").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    found.sort();
    found
}

#[test]
fn of_500_orders_for_100_units_400_wait_and_are_served_in_their_order_by_receipts() {
    let server = stocked("backorders", &unseeded(), 100);
    let orders = order_at_once(&server);
    assert_eq!(orders.len(), ORDERS);
    assert_eq!(stock(&server), [0, 100, 400]);
    let waiting = with_stock(&server, "BACKORDERED");
    assert_eq!(waiting.len(), 400);
    for served in (50..=400).step_by(50) {
        receive(&server, 50);
        assert_eq!(stock(&server), [0, 100 + served, 400 - served]);
        let left = with_stock(&server, "BACKORDERED");
        assert_eq!(left, waiting[usize::try_from(served).expect("it is small")..]);
    }
    await_condition("every order to be paid", || {
        let text = server.get_text("/metrics");
        text.contains(&format!("{{status=\"READY\"}} {ORDERS}\n"))
    });
    assert_eq!(server.sandbox_stats()["charges"], ORDERS, "each is charged once");
    for queue in ["payments-queue", "payments-dlq", "events-dlq", "cdc-dlq"] {
        await_condition("no message to be left", || server.queue(queue)["messages"] == 0);
    }
    // With nobody waiting, a new order is served at once.
    receive(&server, 1);
    let order = server.order("349", 1);
    server.await_status(&order, "READY");
    assert_eq!(stock(&server), [0, 501, 0]);
}

#[test]
fn stock_that_the_first_in_line_holds_back_says_for_whom() {
    let server = stocked("blocked", &unseeded(), 5);
    let blocked_by = |path: &str| server.get(path).1["blockedBy"].clone();
    assert!(blocked_by("/inventory").is_null());
    let large = server.order("1", 9);
    server.await_status(&large, "BACKORDERED");
    let small = server.order("2", 1);
    server.await_status(&small, "BACKORDERED");
    assert_eq!(stock(&server), [5, 0, 2]);
    assert_eq!(blocked_by("/inventory"), large.as_str());
    assert_eq!(blocked_by("/inventory/MACGUFFIN/LX"), large.as_str());
    let (_, page) = server.get("/inventory/items");
    assert_eq!(page["items"][0]["blockedBy"], large.as_str());
    receive(&server, 5);
    for order in [&large, &small] {
        server.await_status(order, "READY");
    }
    assert!(blocked_by("/inventory").is_null());
    assert_eq!(stock(&server), [0, 10, 0]);
}

#[test]
fn a_stack_that_declares_skipping_serves_those_behind_who_can_be_served() {
    let mut stack = unseeded();
    let workflows = stack["workflows"].as_array_mut().expect("workflows");
    let flow = workflows.iter_mut().find(|flow| flow["name"] == "backorders-state-machine");
    let task = &mut flow.expect("it is there")["machine"]["states"][0]["kind"]["Task"]["task"];
    assert_eq!(task["Transact"]["function"], "fill-backorders");
    task["Transact"]["function"] = "fill-backorders-skip".into();
    let server = stocked("skipping", &stack, 5);
    let large = server.order("1", 9);
    server.await_status(&large, "BACKORDERED");
    let small = server.order("2", 1);
    server.await_status(&small, "READY");
    assert_eq!(stock(&server), [4, 1, 1]);
    receive(&server, 5);
    server.await_status(&large, "READY");
}

#[test]
fn who_waits_is_served_after_a_restart_and_the_built_in_stack_is_sound() {
    let server = Server::start("waits-on", &FAST);
    (0..99).for_each(|_| drop(server.order("1", 10_000)));
    let large = server.order("1", 10_000);
    server.await_status(&large, "READY");
    let order = server.order("349", 3);
    server.await_status(&order, "BACKORDERED");
    let server = server.restart(&FAST);
    receive(&server, 3);
    server.await_status(&order, "READY");
    assert_eq!(stock(&server), [0, 1_000_003, 0]);
    let checked = wims(&["check"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    let told = "ends: each run that writes the item lowers backordered";
    assert!(checked.stdout.contains(told), "{}", checked.stdout);
}
