//! Mails to customers: what becomes of an order is told once each, to the address it came with,
//! and to nobody where there is none.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Folder, Server, await_condition, wims};
use crate::smtp::{HOST, MailServer, free_port, header};

const EMAIL: &str = "ada.lovelace@example.com";
const SKU: &str = "NUT/M8";
/// Orders whose mails are under way when the server is killed.
const ORDERS: usize = 12;
const KILLS: usize = 4;

/// Serves in a folder that may have served before, with mails by SMTP.
fn serve(folder: Folder, port: u16) -> Server {
    let url = format!("--smtp-url=smtp://{HOST}:{port}");
    let from = "--mail-from=orders@nuts.example.com";
    Server::in_folder(folder, &[&url, from, "--sandbox-rate=100", "--sandbox-burst=50"])
}

/// Describes the item; there is none of it yet.
fn describe(server: &Server) {
    let item = json!({"productName": "Nut & Bolt", "unitPrice": 1_250}).to_string();
    assert_eq!(server.send(Method::PUT, &format!("/inventory/{SKU}"), item).0, 201);
}

fn receive(server: &Server, quantity: i64) {
    let body = json!({"quantity": quantity}).to_string();
    assert_eq!(server.post(&format!("/inventory/{SKU}/receipts"), body).0, 201);
}

/// Orders two of the item, with what else is in `more`; the order's id.
fn order(server: &Server, customer: &str, more: &Value) -> String {
    let mut body = json!({"customerId": customer, "lines": [{"sku": SKU, "quantity": 2}]});
    for (name, value) in more.as_object().expect("fields") {
        body[name] = value.clone();
    }
    let (status, reply) = server.post("/orders", body.to_string());
    assert_eq!(status, 200, "{reply}");
    reply["orderId"].as_str().expect("an id").to_owned()
}

fn ada() -> Value {
    json!({"email": EMAIL, "shipTo": {
        "name": "Ada <Lace>", "street": "St James Square 12", "postalCode": "SW1Y 4LB",
        "city": "London", "country": "GB"
    }})
}

/// Ships an order as soon as it can be.
fn ship(server: &Server, order: &str) {
    await_condition("the order to be handed over", || {
        server.get(&format!("/orders/{order}")).1["waitsFor"] == "a person to ship it"
    });
    let (status, shipped) = server.post(&format!("/orders/{order}/ship"), "");
    assert_eq!((status, &shipped["status"]), (200, &json!("SHIPPED")), "{shipped}");
}

fn is_done(server: &Server) -> bool {
    let row = server.queue("customer-mails");
    let is_empty = ["messages", "inFlight", "delayed"].iter().all(|column| row[column] == 0);
    is_empty && server.metric("wims_change_lag") == 0.0
}

/// All notices that what happened so far brings about have ended.
fn await_notices(server: &Server) {
    await_condition("the notices to end", || is_done(server));
}

/// The mails of an order by what they tell, as their Message-IDs have it.
fn told(mails: &[String], order: &str) -> BTreeMap<String, String> {
    let prefix = format!("<{order}.");
    let mails = mails.iter().filter_map(|mail| {
        let id = header(mail, "Message-ID");
        let cause = id.strip_prefix(&prefix)?.strip_suffix("@wims>")?.to_owned();
        Some((cause, mail.clone()))
    });
    mails.collect()
}

/// Fails if something personal of Ada is kept beside the journal, or shown for the order.
fn assert_forgotten(server: &Server, order: &str) {
    let (_, shown) = server.get(&format!("/orders/{order}"));
    assert_eq!(shown.get("contact"), None, "{shown}");
    let (status, told) = server.post("/customers/349/erase", "");
    assert_eq!((status, &told["erased"]), (200, &json!(0)), "nothing was left: {told}");
    for path in ["/queues/events-dlq/messages", "/queues/customer-mails/messages", "/metrics"] {
        let text = server.get_text(path);
        assert!(!text.contains(EMAIL), "{path}: {text}");
    }
    assert!(!server.log().contains(EMAIL), "{}", server.log());
}

#[test]
fn an_order_that_waits_and_is_shipped_is_three_mails_and_then_its_address_is_gone() {
    let port = free_port();
    let mail_server = MailServer::start(port);
    let server = serve(Folder::new("notices"), port);
    describe(&server);
    let order = order(&server, "349", &ada());
    await_condition("the first mail", || told(&mail_server.mails(), &order).len() == 1);
    receive(&server, 2);
    await_condition("the second mail", || told(&mail_server.mails(), &order).len() == 2);
    ship(&server, &order);
    await_condition("the third mail", || told(&mail_server.mails(), &order).len() == 3);
    await_notices(&server);

    let mails = mail_server.mails();
    let to_ada: Vec<&String> = mails.iter().filter(|mail| mail.contains(EMAIL)).collect();
    assert_eq!(to_ada.len(), 3, "each once");
    let told = told(&mails, &order);
    let causes: Vec<&str> = told.keys().map(String::as_str).collect();
    assert_eq!(causes, ["back-in-stock", "backordered", "shipped"]);
    for mail in told.values() {
        assert_eq!(header(mail, "To"), EMAIL);
        assert_eq!(header(mail, "X-RcptTo"), EMAIL);
        assert_eq!(header(mail, "X-MailFrom"), "orders@nuts.example.com");
        assert!(header(mail, "Content-Type").starts_with("multipart/alternative"), "{mail}");
        let (text, html) = mail.split_once("Content-Type: text/html").expect("both parts");
        assert!(text.contains("Content-Type: text/plain"), "{mail}");
        assert!(text.contains("Hello Ada <Lace>,"), "{mail}");
        assert!(text.contains("2 x Nut & Bolt (NUT/M8)") && text.contains("25.00 USD"), "{mail}");
        assert!(html.contains("Hello Ada &lt;Lace&gt;,"), "{mail}");
        assert!(text.contains("nuts.example.com"), "the shop's name: {mail}");
    }
    assert!(header(&told["shipped"], "Subject").ends_with("is on its way"));
    assert_forgotten(&server, &order);
}

#[test]
fn through_kills_nobody_is_mailed_of_the_same_under_two_message_ids_and_nobody_is_left_out() {
    let port = free_port();
    let mut server = serve(Folder::new("notices-kill"), port);
    describe(&server);
    let mut orders: BTreeMap<String, String> = BTreeMap::new();
    for customer in 0..ORDERS {
        let email = format!("customer{customer}@example.com");
        orders
            .insert(email.clone(), order(&server, &customer.to_string(), &json!({"email": email})));
    }
    // All of them wait for a mail server.
    await_condition("all mails to wait", || {
        let row = server.queue("customer-mails");
        let count = |column: &str| row[column].as_u64().expect("a number");
        count("messages") + count("inFlight") + count("delayed") == ORDERS as u64
    });
    server.process.kill();
    let mail_server = MailServer::start(port);
    for _ in 0..KILLS {
        let before = mail_server.mails().len();
        server = serve(server.into_folder(), port);
        await_condition("a mail, or the end of them", || {
            mail_server.mails().len() > before || is_done(&server)
        });
        server.process.kill();
    }
    let server = serve(server.into_folder(), port);
    await_notices(&server);

    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mail in mail_server.mails() {
        ids.entry(header(&mail, "X-RcptTo")).or_default().push(header(&mail, "Message-ID"));
    }
    ids.retain(|to, _| orders.contains_key(to));
    assert_eq!(ids.len(), ORDERS, "everybody is told");
    for (to, ids) in &ids {
        let distinct: BTreeSet<&String> = ids.iter().collect();
        let expected = format!("<{}.backordered@wims>", orders[to]);
        assert_eq!(distinct, BTreeSet::from([&expected]), "{to}");
        assert!(ids.len() <= 1 + KILLS, "{to} was mailed {} times", ids.len());
    }
    // Told is told: a start mails nobody again.
    let before = mail_server.mails().len();
    let server = server.restart(&[
        &format!("--smtp-url=smtp://{HOST}:{port}"),
        "--mail-from=orders@nuts.example.com",
    ]);
    await_notices(&server);
    assert_eq!(mail_server.mails().len(), before);
}

#[test]
fn who_gave_no_address_or_had_it_erased_is_mailed_nothing() {
    let port = free_port();
    let mail_server = MailServer::start(port);
    let server = serve(Folder::new("notices-nobody"), port);
    describe(&server);
    receive(&server, 6);
    let anonymous = order(&server, "349", &json!({}));
    let no_address = order(&server, "349", &json!({"shipTo": ada()["shipTo"]}));
    let erased = order(&server, "349", &ada());
    let (status, told) = server.post("/customers/349/erase", "");
    assert_eq!((status, &told["erased"]), (200, &json!(2)), "{told}");
    for order in [&anonymous, &no_address, &erased] {
        ship(&server, order);
    }
    await_notices(&server);
    // The two that came with contact data; who came without one costs nothing.
    await_condition("both to be noticed", || server.metric("wims_mails_to_nobody_total") == 2.0);
    let mails = mail_server.mails();
    assert!(mails.iter().all(|mail| header(mail, "To").starts_with("theteam@")), "{mails:?}");
    assert!(!server.log().contains("a mail "), "nothing is logged of it: {}", server.log());
    for order in [anonymous, no_address, erased] {
        assert_forgotten(&server, &order);
    }
}

#[test]
fn a_team_has_templates_of_its_own_and_a_wrong_one_stops_the_start() {
    let folder = Folder::new("notices-templates");
    let templates = folder.join("templates");
    std::fs::create_dir(&templates).expect("a folder");
    let write = |text: &str| std::fs::write(templates.join("shipped.txt"), text).expect("written");
    let flag = format!("--mail-templates={}", templates.display());
    let data = format!("--data-dir={}", folder.join("data").display());
    for (wrong, reason) in [
        ("Subject: bye\n\n{{ nobody }}\n", "shipped.txt: undefined value"),
        ("Subject: bye\n\n{% if %}\n", "shipped.txt: syntax error"),
        ("bye\n", "its first line must begin with 'Subject: '"),
    ] {
        write(wrong);
        let listen = ["--listen=127.0.0.1:0", "--sandbox-listen=127.0.0.1:0"];
        let refused = wims(&["serve", listen[0], listen[1], &data, &flag]);
        assert_eq!(refused.code, Some(78), "{}", refused.stderr);
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
        assert!(!folder.join("data").exists(), "nothing is touched");
    }

    write("Subject: {{ shop }}: bye, {{ name }}\n\nIt is {{ lines[0].product }}.\n");
    let server = Server::in_folder(folder, &[&flag, "--shop-name=Nuts", "--sandbox-rate=50"]);
    describe(&server);
    receive(&server, 2);
    let order = order(&server, "349", &ada());
    ship(&server, &order);
    await_condition("the mail in the outbox", || {
        server.outbox().iter().any(|mail| mail.contains(&format!("<{order}.shipped@wims>")))
    });
    let mails = server.outbox();
    let mail = mails.iter().find(|mail| mail.contains(EMAIL)).expect("it is to Ada");
    assert!(mail.contains("Subject: Nuts: bye, Ada <Lace>\r\n"), "{mail}");
    assert!(mail.contains("It is Nut & Bolt."), "{mail}");
    await_notices(&server);
    assert_forgotten(&server, &order);
}
