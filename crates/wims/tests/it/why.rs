//! Answers, not guesses: what an order waits for and where in line it is, what happened to it and
//! why, what can be picked, and what became of each that was shipped.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::backorders::{receive, stocked, unseeded};
use crate::declaration::{declaration, serve};
use crate::harness::{Output, Server, await_condition, wims};
use crate::payments::RefusingPayments;

fn order_of(server: &Server, id: &str) -> Value {
    server.get(&format!("/orders/{id}")).1
}

fn asked(server: &Server, arguments: &[&str]) -> Output {
    let url = server.url("");
    wims(&[arguments, &["--url", url.as_str()]].concat())
}

/// What the command line tells, when it is well.
fn told(server: &Server, arguments: &[&str]) -> String {
    let output = asked(server, arguments);
    assert_eq!(output.code, Some(0), "{arguments:?}: {}{}", output.stdout, output.stderr);
    output.stdout
}

#[test]
fn who_waits_for_stock_is_told_its_place_which_shrinks_as_others_are_served() {
    let server = stocked("why-stock", &unseeded(), 1);
    let first = server.order("1", 1);
    server.await_status(&first, "READY");
    let waiting: Vec<String> = (0..3).map(|_| server.order("1", 2)).collect();
    waiting.iter().for_each(|order| drop(server.await_status(order, "BACKORDERED")));
    let place = |place: usize, ahead: i64| {
        json!({"kind": "stock", "skus": [{
            "sku": "MACGUFFIN/LX", "quantity": 2, "place": place, "unitsAhead": ahead,
            "isMore": false, "available": 0, "missing": ahead + 2
        }]})
    };
    let last = &waiting[2];
    assert_eq!(order_of(&server, last)["waiting"], place(3, 4));
    assert_eq!(order_of(&server, last)["waitsFor"], "stock to arrive");
    assert_eq!(server.metric("wims_orders_stuck"), 0.0, "they wait for what is to come");
    receive(&server, 2);
    server.await_status(&waiting[0], "READY");
    assert_eq!(order_of(&server, last)["waiting"], place(2, 2));
    let why = told(&server, &["order", "why", last]);
    assert!(why.contains("MACGUFFIN/LX: place 2 in line, 2 units are wanted before it"), "{why}");
    receive(&server, 4);
    server.await_status(last, "READY");
    await_condition("a person to be waited for", || {
        order_of(&server, last)["waiting"] == json!({"kind": "person", "act": "ship"})
    });
    // A list tells the short text alone.
    let (_, page) = server.get("/orders?status=READY");
    assert!(page["items"][0].get("waiting").is_none(), "{page}");
}

#[test]
fn a_payment_is_told_how_many_come_before_it_and_about_when_it_is_its_turn() {
    const ORDERS: u64 = 30;
    let server = Server::start("why-payment", &["--sandbox-rate=1", "--sandbox-burst=1"]);
    let orders: Vec<String> = (0..ORDERS).map(|_| server.order("1", 1)).collect();
    let last = orders.last().expect("there are some");
    let mut turn = Value::Null;
    await_condition("the last payment to be in its queue", || {
        turn = order_of(&server, last)["waiting"].clone();
        turn["kind"] == "payment"
    });
    let ahead = turn["ahead"].as_u64().expect("it is counted");
    // At one a second, as many as this machine is slow have gone meanwhile.
    assert!((ORDERS / 2..ORDERS).contains(&ahead), "{turn}");
    assert_eq!((&turn["queue"], &turn["isMore"]), (&json!("payments-queue"), &json!(false)));
    let seconds = turn["expectedSeconds"].as_u64().expect("a rate is known");
    assert!((ahead / 4..ahead * 4).contains(&seconds), "{turn}");
    assert_eq!(server.metric("wims_orders_stuck"), 0.0);
    let why = told(&server, &["order", "why", last]);
    assert!(why.contains(" are before it in payments-queue\n"), "{why}");
    await_condition("its place to shrink", || {
        order_of(&server, last)["waiting"]["ahead"].as_u64().is_some_and(|now| now < ahead)
    });
}

#[test]
fn a_payment_that_a_person_must_send_back_is_told_with_its_queue() {
    let payments = RefusingPayments::start();
    let server = Server::start("why-redrive", &[&format!("--payments-url={}", payments.url())]);
    let order = server.order("349", 7);
    let held = server.await_status(&order, "ON_HOLD");
    let redrive = json!({"kind": "person", "act": "redrive", "queue": "payments-dlq"});
    assert_eq!(held["waiting"], redrive);
    let why = told(&server, &["order", "why", &order]);
    assert!(why.ends_with("  wims queue redrive payments-dlq\n"), "{why}");
    let (_, page) = server.get(&format!("/orders/{order}/events"));
    let items = page["items"].as_array().expect("a list").iter();
    let queue = items.filter(|item| item["type"] == "deadLetter").map(|item| &item["queue"]);
    assert_eq!(queue.collect::<Vec<_>>(), ["payments-dlq"], "{page}");
    payments.relent();
    assert_eq!(server.post("/queues/payments-dlq/redrive", "{}").1["moved"], 1);
    let ready = server.await_status(&order, "READY");
    assert_ne!(ready["waiting"]["act"], "redrive");
}

#[test]
fn an_order_that_waits_for_what_never_comes_is_counted_as_stuck_and_told() {
    let mut stack = declaration();
    let rules = stack["rules"].as_array_mut().expect("rules");
    rules.retain(|rule| rule["name"] != "OrdersStateMachine");
    let server = serve("why-stuck", &stack, &[]);
    let order = server.order("349", 7);
    await_condition("it to be stuck", || server.metric("wims_orders_stuck") == 1.0);
    let log = server.log();
    let is_told = |line: &str| line.contains("that is not there") && line.contains(&order);
    assert!(log.lines().any(is_told), "{log}");
}

#[test]
fn a_shipped_order_has_a_timeline_whose_causes_are_in_it() {
    let server = Server::start("why-timeline", &[]);
    let order = server.order("349", 7);
    server.await_status(&order, "READY");
    await_condition("the hand-over", || order_of(&server, &order)["fulfillmentStatus"] == "READY");
    assert_eq!(server.post(&format!("/orders/{order}/ship"), "{}").0, 200);
    let path = format!("/orders/{order}/events");
    let mut page = Value::Null;
    await_condition("the last event", || {
        page = server.get(&path).1;
        let items = page["items"].as_array().expect("a list");
        items.last().is_some_and(|item| item["type"] == "order.shipped")
    });
    assert_eq!((&page["end"], &page["complete"]), (&json!(true), &json!(true)));
    let items = page["items"].as_array().expect("a list");
    let id = |item: &Value| item["id"].as_str().and_then(|id| id.parse::<u64>().ok());
    let ids: Vec<u64> = items.iter().map(|item| id(item).expect("a number")).collect();
    assert!(ids.is_sorted(), "newest last: {page}");
    let known: BTreeSet<&str> = items.iter().filter_map(|item| item["id"].as_str()).collect();
    let causes: Vec<&str> = items.iter().filter_map(|item| item["cause"].as_str()).collect();
    assert!(causes.iter().all(|cause| known.contains(cause)), "{page}");
    // What was asked for has no cause: the order, and its shipment.
    let asked = items.iter().filter(|item| item["cause"].is_null());
    assert_eq!(asked.map(|item| &item["type"]).collect::<Vec<_>>(), ["cdcEvent", "cdcEvent"]);
    let of = |kind: &str| items.iter().filter(|item| item["type"] == kind).count();
    let outcomes = ["order.received", "stock.reserved", "payment.succeeded", "order.ready"];
    assert_eq!(outcomes.map(of), [1, 1, 1, 1], "{page}");
    assert_eq!(of("message"), 1, "its payment's: {page}");
    let paid = json!({"attribute": "paymentStatus", "from": "PROCESSING", "to": "PAID"});
    let has = |item: &&Value| item["changes"].as_array().is_some_and(|all| all.contains(&paid));
    assert_eq!(items.iter().filter(has).count(), 1, "{page}");
    check_pages(&server, &order, items);
    assert_eq!(server.get("/orders/nobody/events").0, 404);
}

/// Short pages come to the same as a long one, over HTTP and on the command line.
fn check_pages(server: &Server, order: &str, items: &[Value]) {
    let (mut found, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let (_, page) = server.get(&format!("/orders/{order}/events?limit=2&after={after}"));
        found.extend(page["items"].as_array().expect("a list").clone());
        after = page["next"].as_str().expect("where to go on").to_owned();
        if page["end"] == true {
            break;
        }
    }
    assert_eq!(found, items);
    let lines = told(server, &["order", "events", order, "--json"]);
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(lines, items);
    let text = told(server, &["order", "events", order]);
    assert_eq!(text.lines().count(), 1 + items.len(), "{text}");
}

#[test]
fn a_file_of_orders_is_shipped_with_each_told_and_a_refusal_ends_nothing() {
    let server = Server::start("why-ship", &["--sandbox-rate=50"]);
    let body = json!({
        "customerId": "349", "quantity": 1,
        "shipTo": {"name": "Ada", "street": "1 Way", "postalCode": "N1", "city": "London",
            "country": "GB"}
    });
    let (status, reply) = server.post("/orders", body.to_string());
    assert_eq!(status, 200, "{reply}");
    let first = reply["orderId"].as_str().expect("an id").to_owned();
    let second = server.order("350", 1);
    [&first, &second].iter().for_each(|order| drop(server.await_status(order, "READY")));
    let ready = told(&server, &["order", "ready", "--addresses"]);
    let rows: Vec<&str> = ready.lines().skip(1).collect();
    assert_eq!(rows.len(), 2, "{ready}");
    assert!(
        rows[0].starts_with(&first) && rows[0].ends_with("Ada, 1 Way, N1 London, GB"),
        "{ready}"
    );
    assert!(rows[1].starts_with(&second) && rows[1].contains("1 x MACGUFFIN/LX"), "{ready}");
    let (path, wrong) = (server.folder.join("left.txt"), "01890a5d-ac96-774b-bcce-b302099a8057");
    std::fs::write(&path, format!("{first}\n{first}\n{wrong}\n\n{second}\n")).expect("written");
    let path = path.display().to_string();
    let shipped = asked(&server, &["order", "ship", "--file", &path]);
    let expected = format!(
        "{first} shipped\n{first} already shipped\n{wrong} refused: there is no order {wrong}\n\
         {second} shipped\n"
    );
    assert_eq!((shipped.code, &shipped.stdout), (Some(1), &expected), "{}", shipped.stderr);
    assert!(shipped.stderr.contains("1 of 4 orders were refused"), "{}", shipped.stderr);
    assert_eq!(told(&server, &["order", "ready", "--json"]), "");
    assert_eq!(asked(&server, &["order", "ship"]).code, Some(2));
    assert_eq!(asked(&server, &["order", "ship", "--file", "/no/such/file"]).code, Some(73));
}
