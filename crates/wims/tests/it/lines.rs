//! Orders of several lines are reserved and shipped whole or not at all; what is personal of an
//! order is seen by who asks for that order, by the payments API, and by nobody else, and can be
//! erased.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};

use crate::answering::Answering;
use crate::declaration::declaration;
use crate::harness::{Folder, Server, await_condition, wims};

/// What is personal, each at its place: it is looked for in places where it must not be.
const EMAIL: &str = "ada.lovelace@example.com";
const NAME: &str = "Ada King Lovelace";
const STREET: &str = "St James Square 12";
const METHOD: &str = "tok_4711_analytical";
const PERSONAL: [&str; 4] = [EMAIL, NAME, STREET, METHOD];

/// Describes an item and receives stock of it.
fn stock(server: &Server, sku: &str, quantity: i64, described: &Value) {
    let mut body = json!({"productName": sku});
    for (name, value) in described.as_object().expect("fields") {
        body[name] = value.clone();
    }
    let path = format!("/inventory/{sku}");
    assert_eq!(server.send(Method::PUT, &path, body.to_string()).0, 201, "{sku}");
    if quantity > 0 {
        let body = json!({"quantity": quantity}).to_string();
        assert_eq!(server.post(&format!("{path}/receipts"), body).0, 201, "{sku}");
    }
}

/// The body of an order of these lines, with more fields.
fn body(customer: &str, lines: &[(&str, i64)], more: &Value) -> String {
    let line = |(sku, quantity): &(&str, i64)| json!({"sku": sku, "quantity": quantity});
    let lines: Vec<Value> = lines.iter().map(line).collect();
    let mut body = json!({"customerId": customer, "lines": lines});
    for (name, value) in more.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body.to_string()
}

/// Places an order; its id.
fn placed(server: &Server, body: String) -> String {
    let (status, reply) = server.post("/orders", body);
    assert_eq!((status, reply["message"].as_str()), (200, Some("Order created!")), "{reply}");
    reply["orderId"].as_str().expect("an id").to_owned()
}

fn contact() -> Value {
    json!({
        "email": EMAIL,
        "paymentMethod": METHOD,
        "shipTo": {
            "name": NAME, "street": STREET, "postalCode": "SW1Y 4LB", "city": "London",
            "country": "GB"
        }
    })
}

/// The order once a person can ship it.
fn await_hand_over(server: &Server, order: &str) -> Value {
    let mut last = Value::Null;
    await_condition("the order to be handed over", || {
        last = server.get(&format!("/orders/{order}")).1;
        last["waitsFor"] == "a person to ship it"
    });
    last
}

/// What of an item is available, reserved and on hand.
fn counted(server: &Server, sku: &str) -> [i64; 3] {
    let (_, item) = server.get(&format!("/inventory/{sku}"));
    ["quantity", "reserved", "onHand"].map(|name| item[name].as_i64().expect("a number"))
}

/// Erases what is personal of a customer; how many orders had any.
fn erase(server: &Server, customer: &str) -> i64 {
    let (status, told) = server.post(&format!("/customers/{customer}/erase"), "");
    assert_eq!((status, &told["done"]), (200, &json!(true)), "{told}");
    told["erased"].as_i64().expect("a number")
}

#[test]
fn all_lines_of_an_order_are_reserved_and_shipped_together() {
    let server = Server::start("lines", &["--sandbox-rate=50"]);
    stock(&server, "BOLT/M8", 10, &json!({"unitPrice": 30}));
    stock(&server, "NUT/M8", 9, &json!({"unitPrice": 20}));
    let lines = [("NUT/M8", 4), ("BOLT/M8", 3), ("MACGUFFIN/LX", 1)];
    let order = placed(&server, body("349", &lines, &json!({"reference": "PO 4711"})));
    let read = await_hand_over(&server, &order);
    assert_eq!((&read["amount"], &read["currency"]), (&json!(2_670), &json!("USD")), "{read}");
    assert_eq!(read["reference"], "PO 4711");
    assert_eq!((read.get("quantity"), read.get("contact")), (None, None), "{read}");
    let told: Vec<_> = read["lines"].as_array().expect("lines").iter().collect();
    let expected = lines.map(|(sku, quantity)| json!({"sku": sku, "quantity": quantity}));
    assert_eq!(told, expected.iter().collect::<Vec<_>>());
    assert_eq!(counted(&server, "BOLT/M8"), [7, 3, 10]);
    assert_eq!(counted(&server, "NUT/M8"), [5, 4, 9]);
    assert_eq!(counted(&server, "MACGUFFIN/LX"), [999_999, 1, 1_000_000]);
    assert_eq!(server.post(&format!("/orders/{order}/ship"), "").0, 200);
    assert_eq!(counted(&server, "BOLT/M8"), [7, 0, 7]);
    assert_eq!(counted(&server, "NUT/M8"), [5, 0, 5]);
    assert_eq!(counted(&server, "MACGUFFIN/LX"), [999_999, 0, 999_999]);
}

#[test]
fn an_order_short_of_one_line_waits_and_reserves_nothing() {
    let server = Server::start("short-line", &["--sandbox-rate=50"]);
    stock(&server, "BOLT/M8", 10, &json!({}));
    stock(&server, "NUT/M8", 2, &json!({}));
    let order = placed(&server, body("349", &[("BOLT/M8", 3), ("NUT/M8", 3)], &json!({})));
    let waiting = server.await_status(&order, "BACKORDERED");
    assert_eq!(waiting["inventoryStatus"], "BACKORDERED");
    assert_eq!(counted(&server, "BOLT/M8"), [10, 0, 10]);
    assert_eq!(counted(&server, "NUT/M8"), [2, 0, 2]);
    let waits = |sku: &str| server.get(&format!("/inventory/{sku}")).1["backordered"].clone();
    assert_eq!((waits("BOLT/M8"), waits("NUT/M8")), (json!(0), json!(1)));
}

#[test]
fn a_quantity_alone_stays_the_order_of_the_article() {
    let server = Server::start("quantity-alone", &[]);
    let order = server.order("349", 7);
    await_condition("its change", || server.metric("wims_change_lag") == 0.0);
    let (_, page) = server.get("/logs/observer?limit=500");
    let events = page["items"].as_array().expect("events");
    let image = |event: &&Value| {
        let data = &event["detail"]["data"];
        data["eventName"] == "INSERT" && data["NewImage"]["orderId"] == order.as_str()
    };
    let insert = events.iter().find(image).expect("the order's change");
    let stored = insert["detail"]["data"]["NewImage"].as_object().expect("an image");
    let names: Vec<&str> = stored.keys().map(String::as_str).collect();
    let expected = [
        "amount",
        "currency",
        "customerId",
        "fulfillmentStatus",
        "inventoryStatus",
        "lines",
        "orderId",
        "paymentStatus",
        "pk",
        "quantity",
        "sk",
        "status",
        "timestamp",
        "updatedAt",
    ];
    assert_eq!(names, expected);
    assert_eq!(stored["lines"], json!([{"quantity": 7, "sku": "MACGUFFIN/LX"}]));
}

#[test]
fn bad_lines_and_bad_contact_data_are_clear_refusals_and_nothing_is_stored() {
    let server = Server::start("bad-lines", &[]);
    stock(&server, "SMALL/X", 5, &json!({"orderQuantityMax": 3}));
    stock(&server, "EURO/X", 5, &json!({"currency": "EUR"}));
    let line = |sku: &str, quantity: i64| body("1", &[(sku, quantity)], &json!({}));
    let with = |more: Value| body("1", &[("SMALL/X", 1)], &more);
    let mut no_city = contact();
    no_city["shipTo"]["city"] = Value::Null;
    let many: Vec<String> = (0..33).map(|at| format!("SMALL/{at}")).collect();
    let many: Vec<(&str, i64)> = many.iter().map(|sku| (sku.as_str(), 1)).collect();
    let cases: [(u16, String, &[&str]); 22] = [
        (400, r#"{"customerId":"1"}"#.into(), &["quantity", "lines"]),
        (400, with(json!({"quantity": 1})), &["quantity", "lines"]),
        (400, body("1", &[], &json!({})), &["lines"]),
        (400, body("1", &many, &json!({})), &["lines", "33"]),
        (400, body("1", &[("SMALL/X", 1), ("SMALL/X", 1)], &json!({})), &["lines[1].sku"]),
        (400, line("small/x", 1), &["lines[0].sku"]),
        (400, line("SMALL/X", 0), &["lines[0].quantity"]),
        (400, line("SMALL/X", 10_001), &["lines[0].quantity"]),
        (422, line("SMALL/X", 4), &["SMALL/X", "1 to 3"]),
        (
            422,
            body("1", &[("NO/1", 1), ("SMALL/X", 1), ("NO/2", 1)], &json!({})),
            &["NO/1", "NO/2"],
        ),
        (422, body("1", &[("SMALL/X", 1), ("EURO/X", 1)], &json!({})), &["USD", "EUR"]),
        (400, with(json!({"reference": ""})), &["reference"]),
        (400, with(json!({"reference": "x".repeat(129)})), &["reference"]),
        (400, with(json!({"reference": "a\nb"})), &["reference"]),
        (400, with(json!({"email": "a@b.example,c@d.example"})), &["email"]),
        (400, with(json!({"email": "a@b.example\r\nBcc: c@d.example"})), &["email"]),
        (400, with(json!({"email": null})), &["email"]),
        (400, with(json!({"paymentMethod": "two words"})), &["paymentMethod"]),
        (400, with(json!({"paymentMethod": "x".repeat(256)})), &["paymentMethod"]),
        (400, with(json!({"shipTo": "London"})), &["shipTo"]),
        (400, with(no_city), &["shipTo.city"]),
        (400, with(json!({"shipTo": {"planet": "Earth"}})), &["shipTo.planet", "shipTo.name"]),
    ];
    for (expected, body, named) in cases {
        let (status, problem) = server.post("/orders", body.clone());
        assert_eq!(status, expected, "{body}: {problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        named
            .iter()
            .for_each(|name| assert!(detail.contains(name), "{name} for {body}: {problem}"));
    }
    let (_, page) = server.get("/orders");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(0));
    assert_eq!(erase(&server, "1"), 0);
    assert_eq!(counted(&server, "SMALL/X"), [5, 0, 5]);
}

#[test]
fn an_amount_beyond_the_bound_is_refused() {
    let server = Server::start("dear", &[]);
    let skus: Vec<String> = (0..11).map(|at| format!("DEAR/{at}")).collect();
    skus.iter().for_each(|sku| stock(&server, sku, 0, &json!({"unitPrice": 1_000_000_000})));
    let lines: Vec<(&str, i64)> = skus.iter().map(|sku| (sku.as_str(), 10_000)).collect();
    let (status, problem) = server.post("/orders", body("1", &lines, &json!({})));
    assert_eq!(status, 422, "{problem}");
    let order = placed(&server, body("1", &lines[..10], &json!({})));
    let (_, order) = server.get(&format!("/orders/{order}"));
    assert_eq!(order["amount"], 100_000_000_000_000_i64);
}

/// Files below a folder, without the journal's.
fn files_beside_the_journal(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let folders = folders.iter().filter(|path| !path.ends_with("journal"));
    files.into_iter().chain(folders.flat_map(|path| files_beside_the_journal(path))).collect()
}

fn holds(path: &Path, text: &str) -> bool {
    let bytes = std::fs::read(path).expect("a file");
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Fails if something personal is in a text.
fn assert_impersonal(what: &str, text: &str) {
    for personal in PERSONAL {
        assert!(!text.contains(personal), "{personal} in {what}:\n{text}");
    }
}

#[test]
fn contact_data_is_shown_to_who_asks_for_that_order_and_is_nowhere_else() {
    let server = Server::debugging("personal", &["--sandbox-rate=50", "--no-customer-mails"]);
    let order = placed(&server, body("349", &[("MACGUFFIN/LX", 2)], &contact()));
    // A refusal is one more place where it could be told.
    let mut refused = contact();
    refused["email"] = json!(format!("{EMAIL} "));
    let (status, problem) = server.post("/orders", body("349", &[("NO/ITEM", 0)], &refused));
    assert_eq!(status, 400);
    assert_impersonal("a refusal", &problem.to_string());

    let path = format!("/orders/{order}");
    let read = await_hand_over(&server, &order);
    let shown = json!({"email": EMAIL, "shipTo": contact()["shipTo"]});
    assert_eq!(read["contact"], shown, "{read}");
    assert!(!read.to_string().contains(METHOD), "{read}");
    let shown = wims(&["order", "get", &order, "--url", &server.url("")]).stdout;
    assert!(shown.contains(EMAIL), "{shown}");

    let (status, shipped) = server.post(&format!("{path}/ship"), "");
    assert_eq!((status, &shipped["status"]), (200, &json!("SHIPPED")));
    assert_impersonal("the answer of ship", &shipped.to_string());
    await_condition("the last notice to end", || {
        let row = server.queue("customer-mails");
        let is_empty = ["messages", "inFlight", "delayed"].iter().all(|column| row[column] == 0);
        is_empty && server.metric("wims_mails_to_nobody_total") > 0.0
    });
    assert_eq!(erase(&server, "349"), 0, "it went with the shipment");
    await_condition("the closed order to leave memory", || {
        server.metric("wims_closed_waiting") == 0.0 && server.metric("wims_change_lag") == 0.0
    });
    assert_eq!(server.get(&path).1.get("contact"), None);

    for path in
        ["/orders", "/logs/observer?limit=500", "/metrics", "/queues/payments-queue/messages"]
    {
        assert_impersonal(path, &server.get_text(path));
    }
    let export = server.folder.join("events.jsonl");
    let export = export.to_str().expect("text");
    let exported = wims(&["log", "show", "--export", export, "--url", &server.url("")]);
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    let events = std::fs::read_to_string(export).expect("events");
    assert!(events.contains(&order) && events.contains("order.shipped"), "{events}");
    assert_impersonal("the export", &events);

    let log = server.folder.join("stderr.log");
    let mut server = server;
    assert_eq!(server.process.terminate(), Some(0), "a clean stop");
    let told = std::fs::read_to_string(log).expect("the log");
    assert!(told.contains(" DEBUG "), "{told}");
    assert_impersonal("what the server logs", &told);
    assert_only_the_journal_holds_it(&server.folder, &order);
}

/// Fails if a file of the data directory beside the journal has something personal, or if the
/// looking for it finds nothing anywhere.
fn assert_only_the_journal_holds_it(folder: &Folder, order: &str) {
    let data = folder.join("data");
    let files = files_beside_the_journal(&data);
    let is_history = |file: &&PathBuf| {
        file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("history.db"))
    };
    let mut history = files.iter().filter(is_history);
    assert!(history.any(|file| holds(file, order)), "the order is in history");
    for file in &files {
        for personal in PERSONAL {
            assert!(!holds(file, personal), "{personal} in {}", file.display());
        }
    }
    let segments = std::fs::read_dir(data.join("journal")).expect("a folder").flatten();
    let segments: Vec<PathBuf> = segments.map(|entry| entry.path()).collect();
    for personal in PERSONAL {
        assert!(segments.iter().any(|segment| holds(segment, personal)), "{personal} can be found");
    }
}

#[test]
fn a_charge_carries_the_payment_method_and_the_units_of_all_lines() {
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let recorded = Arc::clone(&seen);
    let payments = Answering::start(move |request| {
        let body = serde_json::from_slice(&request.body).expect("JSON");
        recorded.lock().expect("whole").push(body);
        Some(("200 OK", r#"{"message":"Payment Success!"}"#))
    });
    let url = format!("--payments-url={}", payments.url());
    let server = Server::start("method", &[&url, "--payments-rate=100"]);
    stock(&server, "NUT/M8", 9, &json!({"unitPrice": 20}));
    let lines = [("NUT/M8", 4), ("MACGUFFIN/LX", 1)];
    let order = placed(&server, body("349", &lines, &contact()));
    server.await_status(&order, "READY");
    let expected = json!({
        "amount": 2_580, "currency": "USD", "customerId": "349", "orderId": order,
        "paymentMethod": METHOD, "quantity": 5
    });
    assert_eq!(*seen.lock().expect("whole"), [expected]);
    let without = server.order("350", 1);
    server.await_status(&without, "READY");
    assert_eq!(seen.lock().expect("whole")[1].get("paymentMethod"), None);
}

#[test]
fn erasing_takes_the_contact_data_of_all_open_orders_of_a_customer_and_survives_a_restart() {
    let server = Server::start("erase", &["--sandbox-rate=50"]);
    let place =
        |customer: &str| placed(&server, body(customer, &[("MACGUFFIN/LX", 1)], &contact()));
    // More than one transaction takes.
    let erased: Vec<String> = (0..130).map(|_| place("349")).collect();
    let (plain, other) = (server.order("349", 1), place("350"));
    let (status, told) = server.post("/customers/349/erase", "{}");
    assert_eq!(
        (status, &told["erased"], &told["done"]),
        (200, &json!(130), &json!(true)),
        "{told}"
    );
    for stays in ["stays", "journal"] {
        assert!(told[stays].as_str().is_some_and(|text| !text.is_empty()), "{told}");
    }
    let check = |server: &Server| {
        for order in [&erased[0], &erased[129], &plain] {
            let (status, order) = server.get(&format!("/orders/{order}"));
            assert_eq!((status, order.get("contact")), (200, None), "{order}");
        }
        let (_, order) = server.get(&format!("/orders/{other}"));
        assert_eq!(order["contact"]["email"], EMAIL, "{order}");
    };
    check(&server);
    let server = server.restart(&["--sandbox-rate=50"]);
    check(&server);
    assert_eq!(erase(&server, "349"), 0);
    let told = wims(&["customer", "erase", "350", "--url", &server.url("")]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    let first = "erased the contact data of 1 orders of 350";
    assert_eq!(told.stdout.lines().next(), Some(first), "{}", told.stdout);
    assert!(told.stdout.contains("the journal holds"), "{}", told.stdout);
    assert_eq!(server.get(&format!("/orders/{other}")).1.get("contact"), None);
    assert_eq!(server.post("/customers/349/erase", r#"{"colour":"red"}"#).0, 400);
    server.await_status(&erased[0], "READY");
}

#[test]
fn the_command_line_places_orders_of_lines() {
    let server = Server::start("cli-lines", &["--sandbox-rate=50"]);
    stock(&server, "NUT/M8", 9, &json!({"unitPrice": 20}));
    let url = server.url("");
    let create = ["order", "create", "--customer=349", "--line=NUT/M8=4", "--line=MACGUFFIN/LX=1"];
    let more = ["--reference=PO 4711", "--email", EMAIL, "--json", "--url", &url];
    let created = wims(&[&create[..], &more].concat());
    assert_eq!(created.code, Some(0), "{}", created.stderr);
    let reply: Value = serde_json::from_str(&created.stdout).expect("JSON");
    let order = reply["orderId"].as_str().expect("an id");
    await_hand_over(&server, order);
    let shown = wims(&["order", "get", order, "--url", &url]).stdout;
    for shown_text in ["4 x NUT/M8, 1 x MACGUFFIN/LX", "PO 4711", EMAIL, "25.80 USD"] {
        assert!(shown.contains(shown_text), "{shown_text} in {shown}");
    }
    let listed = wims(&["order", "list", "--url", &url]).stdout;
    assert!(listed.contains("      5  25.80 USD"), "{listed}");
    assert!(!listed.contains(EMAIL), "{listed}");
    let refused = wims(&["order", "create", "--customer=1", "--line=NO/ITEM=1", "--url", &url]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("there is no item NO/ITEM"), "{}", refused.stderr);
}

#[test]
fn a_stack_that_would_stream_contact_data_or_not_find_it_or_who_waits_is_refused() {
    let folder = Folder::new("exposed");
    let path = folder.join("stack.json");
    let check = |stack: &Value| {
        std::fs::write(&path, stack.to_string()).expect("written");
        wims(&["check", "--stack", path.to_str().expect("text")])
    };
    let sound = declaration();
    assert_eq!(check(&sound).code, Some(0));
    for (part, gone, words) in [
        ("unstreamed", json!("CONTACT#"), "CONTACT# is not unstreamed"),
        ("indexes", json!("contactOf"), "CONTACT# has no index contactOf"),
        ("indexes", json!("sk"), "BACKORDER# has no ordered index"),
    ] {
        let mut stack = sound.clone();
        let list = stack["tables"][0][part].as_array_mut().expect("a list");
        list.retain(|entry| *entry != gone && entry["attribute"] != gone);
        let refused = check(&stack);
        assert_eq!(refused.code, Some(78), "{}", refused.stdout);
        assert!(refused.stdout.contains(words), "{}", refused.stdout);
    }
}
