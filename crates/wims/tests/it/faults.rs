//! The thirteen faults of the article's design that ours must not have: each test is named after
//! one by its number and shows, from outside, that it is not there.
//!
//! What no door leads to is shown by unit tests of the runtime: a task that fails once and then
//! works (8, in `workflow.rs`), a poison record in a stream (12, in `bus.rs`). That no queue
//! forgets after four days (12) is shown by the simulator's tests, whose clock is told.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::declaration::{declaration, rule, serve};
use crate::harness::{Server, await_condition, wims};
use crate::payments::RefusingPayments;

/// The largest order of the seeded item.
const LARGEST: i64 = 10_000;
/// Nobody listens there: payments wait, and orders stay as the warehouse alone leaves them.
const NO_PAYMENTS: &str = "--payments-url=http://127.0.0.1:9";

/// Takes all of the seeded stock, and waits until it is reserved.
fn sell_out(server: &Server) {
    for _ in 0..1_000_000 / LARGEST {
        server.order("big", LARGEST);
    }
    await_condition("stock to be gone", || server.get("/inventory").1["quantity"] == 0);
}

/// Messages of a queue, wherever they stand.
fn backlog(server: &Server, queue: &str) -> u64 {
    let row = server.queue(queue);
    ["messages", "inFlight", "delayed"].iter().filter_map(|column| row[column].as_u64()).sum()
}

/// Business events in the observer log, oldest first, whose detail has this value.
fn events_about(server: &Server, attribute: &str, value: &str) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let (_, page) = server.get(&format!("/logs/observer?limit=500&after={after}"));
        let events = page["items"].as_array().expect("a page of events");
        let ours = events.iter().filter(|event| event["source"] == "wims");
        let about = ours.filter(|event| event["detail"][attribute] == value);
        found.extend(about.filter_map(|event| event["detail-type"].as_str()).map(str::to_owned));
        if page["end"] == true {
            return found;
        }
        after = page["next"].as_str().expect("where the next page begins").to_owned();
    }
}

fn charges(server: &Server) -> Value {
    let url = server.sandbox_url.as_ref().expect("a sandbox");
    let stats = reqwest::blocking::get(format!("{url}/stats"));
    let stats: Value = stats.and_then(reqwest::blocking::Response::json).expect("stats");
    stats["charges"].clone()
}

fn no_order_and_full_stock(server: &Server) {
    let (_, page) = server.get("/orders");
    assert_eq!(page["items"], json!([]));
    assert_eq!(server.get("/inventory").1["quantity"], 1_000_000);
}

/// Orders of one customer from eight clients at once; their ids.
fn ten_orders_of_each_of_eight_clients(server: &Server) -> Vec<String> {
    std::thread::scope(|scope| {
        let client = || (0..10).map(|_| server.order("349", 1)).collect::<Vec<_>>();
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    })
}

#[test]
fn fault_01_same_customer_same_millisecond_is_two_orders() {
    let server = Server::start("twins", &["--sandbox-rate=500", "--sandbox-burst=50"]);
    let (mut placed, mut stored, mut milliseconds) = (Vec::new(), Vec::new(), BTreeSet::new());
    // Until two share a millisecond; a page shows no more than six rounds.
    for _ in 0..6 {
        placed.extend(ten_orders_of_each_of_eight_clients(&server));
        let (_, page) = server.get("/orders?customerId=349&limit=500");
        let orders = page["items"].as_array().expect("orders");
        let texts = |name: &'static str| {
            orders.iter().map(move |o| o[name].as_str().expect(name).to_owned())
        };
        stored = texts("orderId").collect();
        milliseconds = texts("createdAt").collect();
        if milliseconds.len() < orders.len() {
            break;
        }
    }
    assert!(milliseconds.len() < placed.len(), "no two were placed in the same millisecond");
    let ids = |orders: &[String]| orders.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(ids(&placed).len(), placed.len(), "each has an id of its own");
    assert_eq!(stored.len(), placed.len(), "none has replaced another");
    assert_eq!(ids(&stored), ids(&placed));
    await_condition("each to be processed", || {
        server.get("/inventory").1["reserved"] == placed.len()
    });
}

#[test]
fn fault_02_a_write_that_is_refused_is_never_a_200() {
    let server = Server::start("refused-write", &[]);
    let body = r#"{"productName":"MacGuffin","unitPrice":2500,"orderQuantityMax":10}"#;
    assert_eq!(server.send(reqwest::Method::PUT, "/inventory/MACGUFFIN/LX", body).0, 200);
    let (status, problem) = server.post("/orders", r#"{"customerId":"349","quantity":11}"#);
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("1 to 10")));
    no_order_and_full_stock(&server);
    let order = server.order("349", 10);
    assert_eq!(server.get(&format!("/orders/{order}")).0, 200);
}

#[test]
fn fault_03_a_quantity_that_counts_no_units_is_refused_and_adds_no_stock() {
    let server = Server::start("quantity", &[]);
    for quantity in ["-1000", "-1", "0", "-0", "0.5", "1e9", r#""7""#, r#""7; drop""#, "true"] {
        let body = format!(r#"{{"customerId":"349","quantity":{quantity}}}"#);
        let (status, problem) = server.post("/orders", body);
        assert_eq!(status, 400, "{quantity}: {problem}");
        assert_eq!(problem["errors"][0]["field"], "quantity", "{quantity}: {problem}");
    }
    no_order_and_full_stock(&server);
}

#[test]
fn fault_04_a_callers_text_stays_text_and_adds_no_attribute() {
    let server = Server::start("inject", &[NO_PAYMENTS]);
    let extra = r#"{"customerId":"349","quantity":1,"status":"PAID","paymentStatus":"PAID"}"#;
    assert_eq!(server.post("/orders", extra).0, 400);
    no_order_and_full_stock(&server);
    let evil = r#"349"},"paymentStatus":{"S":"PAID"},"x":{"S":"${jndi:a}$input.path('$')"#;
    let body = json!({"customerId": evil, "quantity": 1}).to_string();
    let (status, reply) = server.post("/orders", body);
    assert_eq!(status, 200, "{reply}");
    let id = reply["orderId"].as_str().expect("an id");
    await_condition("the order to be worked on", || {
        server.get(&format!("/orders/{id}")).1["inventoryStatus"] == "RESERVED"
    });
    let (_, order) = server.get(&format!("/orders/{id}"));
    assert_eq!(order["customerId"], evil);
    assert_ne!(order["paymentStatus"], "PAID");
}

#[test]
fn fault_05_an_event_delivered_twice_takes_stock_once_and_charges_once() {
    let mut stack = declaration();
    let mut again = rule(&mut stack, "OrdersStateMachine").clone();
    again["name"] = "OrdersStateMachineAgain".into();
    stack["rules"].as_array_mut().expect("rules").push(again);
    // The payments API is slow enough for both messages to meet there.
    let server = serve("twice", &stack, &["--sandbox-rate=50", "--sandbox-late-charge-ms=600"]);
    let order = server.order("349", 7);
    server.await_status(&order, "READY");
    await_condition("both payment messages to be done with", || {
        backlog(&server, "payments-queue") == 0
    });
    let (_, item) = server.get("/inventory");
    assert_eq!((&item["quantity"], &item["reserved"]), (&999_993.into(), &7.into()));
    assert_eq!(charges(&server), 1);
    let (_, order) = server.get(&format!("/orders/{order}"));
    assert_eq!((&order["status"], &order["paymentStatus"]), (&"READY".into(), &"PAID".into()));
    let of_order = events_about(&server, "orderId", order["orderId"].as_str().expect("an id"));
    for once in ["stock.reserved", "payment.succeeded", "order.ready"] {
        assert_eq!(of_order.iter().filter(|event| *event == once).count(), 1, "{of_order:?}");
    }
    assert_eq!(backlog(&server, "events-dlq"), 0);
}

#[test]
fn fault_06_short_stock_is_a_backorder_and_is_never_charged() {
    let server = Server::start("short", &["--sandbox-rate=1000", "--sandbox-burst=200"]);
    sell_out(&server);
    let short = server.order("349", 1);
    let waiting = server.await_status(&short, "BACKORDERED");
    assert_eq!(waiting["inventoryStatus"], "BACKORDERED");
    assert_eq!(server.get("/inventory").1["backordered"], 1);
    // Its payment message was taken from the queue like all others, and came to nothing.
    await_condition("every payment to be done with", || backlog(&server, "payments-queue") == 0);
    let (_, order) = server.get(&format!("/orders/{short}"));
    assert_eq!(
        (&order["status"], &order["paymentStatus"]),
        (&"BACKORDERED".into(), &"PENDING".into())
    );
    assert_eq!(charges(&server), 1_000_000 / LARGEST);
    assert_eq!(backlog(&server, "payments-dlq"), 0);
}

#[test]
fn fault_07_a_shortage_is_told_by_an_event() {
    let server = Server::start("shortage", &[NO_PAYMENTS]);
    sell_out(&server);
    let short = server.order("349", 1);
    server.await_status(&short, "BACKORDERED");
    let of_order = events_about(&server, "orderId", &short);
    assert_eq!(of_order, ["order.received", "order.backordered"]);
    let of_stock = events_about(&server, "sku", "MACGUFFIN/LX");
    assert_eq!(of_stock.iter().filter(|event| *event == "stock.out").count(), 1, "{of_stock:?}");
}

/// Here the task fails every time, by declaration.
#[test]
fn fault_08_a_task_that_fails_is_retried_then_told_and_redriven_once_mended() {
    let mut stack = declaration();
    let flows = stack["workflows"].as_array_mut().expect("workflows");
    let flow = flows.iter_mut().find(|flow| flow["name"] == "orders-state-machine");
    let branches = &mut flow.expect("a workflow")["machine"]["states"][0]["kind"]["Parallel"];
    let task = &mut branches["branches"][0]["states"][0]["kind"]["Task"];
    // What the function does is not what is declared, so the runtime does not let it.
    task["task"]["Transact"]["becomes"]["values"] = json!(["NEVER"]);
    task["retry"][0]["attempts_max"] = 1.into();
    task["retry"][0]["interval_ms"] = 2_000.into();
    let mut server = serve("task", &stack, &[]);
    let order = server.order("349", 7);
    await_condition("the task to wait for its retry", || {
        server.metric("wims_executions_waiting") == 1.0
    });
    assert_eq!(backlog(&server, "events-dlq"), 0);
    await_condition("the event among the dead letters", || backlog(&server, "events-dlq") == 1);
    assert_eq!(server.metric("wims_executions_waiting"), 0.0);
    let (_, page) = server.get("/queues/events-dlq/messages");
    let letter = &page["items"][0];
    assert_eq!(letter["body"]["detail"]["data"]["NewImage"]["orderId"], order.as_str(), "{letter}");
    let reason = letter["attributes"]["ERROR_MESSAGE"].as_str().unwrap_or("");
    assert!(reason.contains("ReserveStockFailed"), "{letter}");
    await_condition("the team's mail", || !server.outbox().is_empty());
    // The cause is mended: the stack as it should be.
    assert_eq!(server.process.terminate(), Some(0));
    let server = Server::in_folder(server.into_folder(), &[]);
    assert_eq!(server.get(&format!("/orders/{order}")).1["inventoryStatus"], "UNRESERVED");
    let (_, moved) = server.post("/queues/events-dlq/redrive", "{}");
    assert_eq!(moved["moved"], 1, "{moved}");
    server.await_status(&order, "READY");
    await_condition("every payment to be done with", || backlog(&server, "payments-queue") == 0);
    assert_eq!(charges(&server), 1);
}

#[test]
fn fault_09_a_payments_result_reaches_the_order_and_starts_fulfilment() {
    let server = Server::start("result", &[]);
    let order = server.order("349", 7);
    let ready = server.await_status(&order, "READY");
    assert_eq!(ready["paymentStatus"], "PAID");
    await_condition("fulfilment to have heard of it", || {
        server.get(&format!("/orders/{order}")).1["fulfillmentStatus"] == "READY"
    });
    assert_eq!(
        events_about(&server, "orderId", &order),
        ["order.received", "stock.reserved", "payment.succeeded", "order.ready"]
    );
}

#[test]
fn fault_10_throttling_burns_no_attempts_and_dead_letters_nobody() {
    // Our pace is set above what the sandbox takes, so that it has to refuse.
    let server = Server::start(
        "throttle",
        &["--sandbox-rate=100", "--sandbox-burst=5", "--payments-rate=150", "--payments-burst=6"],
    );
    let orders: Vec<_> = (0..60).map(|i| server.order(&i.to_string(), 1)).collect();
    for order in &orders {
        server.await_status(order, "READY");
    }
    assert_eq!(charges(&server), 60);
    let of_pipe =
        |figure: &str| server.metric(&format!("wims_pipe_{figure}{{pipe=\"PaymentsPipe\"}}"));
    assert!(of_pipe("deferrals_total") >= 1.0, "the sandbox refused nothing");
    // Only an unknown outcome uses an attempt, and there was none.
    assert_eq!(of_pipe("unknowns_total"), 0.0);
    assert_eq!(backlog(&server, "payments-dlq"), 0);
}

#[test]
fn fault_11_low_stock_mails_once_on_crossing_downwards_and_never_upwards() {
    let server = Server::start("low", &["--team-email=buyers@example.com", NO_PAYMENTS]);
    let body = r#"{"productName":"MacGuffin","unitPrice":2500,"reorderPoint":999990}"#;
    assert_eq!(server.send(reqwest::Method::PUT, "/inventory/MACGUFFIN/LX", body).0, 200);
    let lows = || {
        let events = events_about(&server, "sku", "MACGUFFIN/LX");
        events.iter().filter(|event| *event == "stock.low").count()
    };
    let order = |quantity: i64| {
        let left = server.get("/inventory").1["quantity"].as_i64().expect("a number") - quantity;
        server.order("349", quantity);
        await_condition("it to be reserved", || server.get("/inventory").1["quantity"] == left);
    };
    let receive = |quantity: u32| {
        let body = format!(r#"{{"quantity":{quantity}}}"#);
        assert_eq!(server.post("/inventory/MACGUFFIN/LX/receipts", body).0, 201);
    };
    order(9);
    assert_eq!(lows(), 0, "it is above its reorder point");
    order(3);
    assert_eq!(lows(), 1, "it jumped past its reorder point");
    order(1);
    receive(2);
    assert_eq!(lows(), 1, "further down, or up while still below, crosses nothing");
    await_condition("the mail", || !server.outbox().is_empty());
    receive(100);
    order(101);
    assert_eq!(lows(), 2, "it was above again and crossed again");
    await_condition("the second mail to wait for the end of the hour", || {
        let row = server.queue("inventory-stock-mails");
        let columns = ["messages", "inFlight", "delayed"].map(|column| row[column].as_u64());
        columns == [Some(0), Some(0), Some(1)]
    });
    let mails = server.outbox();
    assert_eq!(mails.len(), 1, "one mail a sku in an hour: {mails:?}");
    assert!(mails[0].contains("buyers@example.com"), "{}", mails[0]);
    assert!(mails[0].contains("MACGUFFIN/LX"), "{}", mails[0]);
}

#[test]
fn fault_12_the_dead_letter_queue_keeps_a_payment_and_redrives_it() {
    let payments = RefusingPayments::start();
    let url = format!("--payments-url={}", payments.url());
    let arguments = [url.as_str(), "--payments-rate=100"];
    let server = Server::start("dlq", &arguments);
    let order = server.order("349", 7);
    let held = server.await_status(&order, "ON_HOLD");
    assert_eq!(held["paymentStatus"], "FAILED");
    assert!(held["reason"].as_str().is_some_and(|reason| reason.contains("422")), "{held}");
    let other = server.order("350", 1);
    server.await_status(&other, "READY");
    await_condition("the team's mail", || !server.outbox().is_empty());
    let mail = server.outbox().remove(0);
    assert!(mail.contains("payments-dlq"), "{mail}");

    let server = server.restart(&arguments);
    let (_, page) = server.get("/queues/payments-dlq/messages");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "{page}");
    let letter = &page["items"][0];
    assert_eq!(letter["body"]["orderId"], order.as_str(), "{letter}");
    let reason = letter["attributes"]["ERROR_MESSAGE"].as_str().unwrap_or("");
    assert!(reason.contains("422") && reason.contains("unknown card"), "{letter}");

    payments.relent();
    let redrive = |body: &'static str| server.post("/queues/payments-dlq/redrive", body);
    let dry = (200, json!({"moved": 1, "left": 1, "dryRun": true}));
    assert_eq!(redrive(r#"{"dryRun":true}"#), dry);
    assert_eq!(backlog(&server, "payments-dlq"), 1, "a dry run moves nothing");
    assert_eq!(server.get(&format!("/orders/{order}")).1["status"], "ON_HOLD");
    assert_eq!(redrive("{}"), (200, json!({"moved": 1, "left": 0, "dryRun": false})));
    server.await_status(&order, "READY");
    assert_eq!(backlog(&server, "payments-dlq"), 0);
    let keys = payments.keys_of(&order);
    assert_eq!(keys.len(), 2, "refused once, charged once");
    assert_eq!(keys[0], keys[1], "under one key");
}

#[test]
fn fault_12_an_event_its_target_cannot_take_is_kept_told_and_redriven() {
    let mut stack = declaration();
    let states = json!([{"name": "Refuse", "kind": {"Fail": {"error": "Refused"}}}]);
    let flow = json!({"name": "refusing", "machine": {"states": states}});
    stack["workflows"].as_array_mut().expect("workflows").push(flow);
    let mut refusing = rule(&mut stack, "OrdersStateMachine").clone();
    refusing["name"] = "RefusingRule".into();
    refusing["targets"][0]["to"] = json!({"Workflow": "refusing"});
    stack["rules"].as_array_mut().expect("rules").push(refusing);
    let server = serve("target", &stack, &[]);
    let order = server.order("349", 7);
    server.await_status(&order, "READY");
    let letter = || server.get("/queues/events-dlq/messages").1["items"][0].clone();
    let first = letter();
    assert_eq!(first["attributes"]["RULE_ARN"], "rule/RefusingRule", "{first}");
    assert_eq!(first["attributes"]["TARGET_ARN"], "workflow/refusing", "{first}");
    assert_eq!(first["attributes"]["ERROR_CODE"], "Refused", "{first}");
    assert_eq!(first["body"]["detail"]["data"]["NewImage"]["orderId"], order.as_str(), "{first}");
    await_condition("the team's mail", || !server.outbox().is_empty());
    assert!(server.outbox()[0].contains("events-dlq"));
    // It is sent to that target alone, which refuses it again.
    assert_eq!(server.post("/queues/events-dlq/redrive", "").1["moved"], 1);
    await_condition("it to be back", || letter()["messageId"] != first["messageId"]);
    assert_eq!(backlog(&server, "events-dlq"), 1);
    assert_eq!(server.get("/inventory").1["reserved"], 7);
    // At a rate and to the end: each letter once, though all come back.
    server.order("350", 1);
    await_condition("another letter", || backlog(&server, "events-dlq") == 2);
    let began = Instant::now();
    let paced = ["queue", "redrive", "events-dlq", "--rate=5", "--json"];
    let url = server.process.url.as_str();
    let redriven = wims(&[&paced[..], &["--url", url]].concat());
    // What is left is the first one, which is back.
    let told = "{\"moved\":2,\"left\":1,\"dryRun\":false}\n";
    assert_eq!(redriven.stdout, told, "{}", redriven.stderr);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!(backlog(&server, "events-dlq"), 2);
}

#[test]
fn fault_13_ten_clients_at_once_are_all_answered_and_stock_settles_at_once() {
    const ORDERS: i64 = 20;
    let server = Server::start("ten", &["--sandbox-rate=1000", "--sandbox-burst=200"]);
    let start = Barrier::new(10);
    std::thread::scope(|scope| {
        for client in 0..10 {
            let (server, start) = (&server, &start);
            scope.spawn(move || {
                start.wait();
                // Each asserts that its answer is a 200.
                (0..ORDERS).for_each(|_| drop(server.order(&client.to_string(), 7)));
            });
        }
    });
    // Stock is reserved in the frame of the order: who has an answer waits for nothing.
    assert_eq!(server.get("/inventory").1["reserved"], 10 * ORDERS * 7);
    assert_eq!(server.get("/inventory").1["quantity"], 1_000_000 - 10 * ORDERS * 7);
}
