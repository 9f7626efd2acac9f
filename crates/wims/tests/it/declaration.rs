//! The stack is what runs: an edited declaration changes what happens, and nothing else does it.

use serde_json::Value;

use crate::harness::{Folder, Server, await_condition, wims};

/// The built-in stack as data.
pub fn declaration() -> Value {
    let output = wims(&["graph", "--format=declaration"]);
    serde_json::from_str(&output.stdout).expect("the declaration is JSON")
}

/// Starts a server that runs this stack.
pub fn serve(name: &str, stack: &Value, more: &[&str]) -> Server {
    let folder = Folder::new(name);
    let path = folder.join("stack.json");
    std::fs::write(&path, stack.to_string()).expect("written");
    let argument = format!("--stack={}", path.display());
    let arguments: Vec<&str> =
        std::iter::once(argument.as_str()).chain(more.iter().copied()).collect();
    Server::in_folder(folder, &arguments)
}

/// Stops a server and starts it again with this stack.
fn restart(server: Server, stack: &Value) -> Server {
    let path = server.folder.join("stack.json");
    std::fs::write(&path, stack.to_string()).expect("written");
    server.restart(&[&format!("--stack={}", path.display())])
}

/// The names of what the stack no longer has.
fn leftovers(server: &Server) -> Vec<String> {
    let (status, page) = server.get("/leftovers");
    assert_eq!(status, 200, "{page}");
    let rows = page["items"].as_array().expect("rows").iter();
    rows.map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

/// A rule of the stack, by name.
pub fn rule<'a>(stack: &'a mut Value, name: &str) -> &'a mut Value {
    let rules = stack["rules"].as_array_mut().expect("rules");
    rules.iter_mut().find(|rule| rule["name"] == name).expect("the rule is there")
}

#[test]
fn without_the_orders_rule_nothing_happens_to_an_order() {
    let mut stack = declaration();
    let rules = stack["rules"].as_array_mut().expect("rules");
    rules.retain(|rule| rule["name"] != "OrdersStateMachine");
    let server = serve("no-rule", &stack, &[]);
    let order = server.order("349", 7);
    await_condition("the change to pass", || server.metric("wims_change_lag") == 0.0);
    let (_, order) = server.get(&format!("/orders/{order}"));
    assert_eq!(order["inventoryStatus"], "UNRESERVED");
    assert_eq!(server.get("/inventory").1["quantity"], 1_000_000);
    assert_eq!(server.queue("payments-queue")["messages"], 0);
}

#[test]
fn a_changed_number_in_a_pattern_changes_which_orders_are_worked_on() {
    let mut stack = declaration();
    let data = &mut rule(&mut stack, "OrdersStateMachine")["pattern"]["detail"]["data"];
    data["NewImage"] = serde_json::json!({"quantity": [{"numeric": ["<=", 5]}]});
    let server = serve("numeric", &stack, &[]);
    let (large, small) = (server.order("1", 6), server.order("2", 5));
    server.await_status(&small, "READY");
    let (_, order) = server.get(&format!("/orders/{large}"));
    assert_eq!(order["inventoryStatus"], "UNRESERVED");
    assert_eq!(server.get("/inventory").1["reserved"], 5);
}

#[test]
fn a_rule_pointed_at_another_queue_sends_there() {
    let mut stack = declaration();
    let mut queue = stack["queues"][0].clone();
    queue["name"] = "elsewhere".into();
    queue["alarm"] = Value::Null;
    queue["redrive"] = Value::Null;
    stack["queues"].as_array_mut().expect("queues").push(queue);
    let target = &mut rule(&mut stack, "OrdersStateMachine")["targets"][0];
    target["to"] = serde_json::json!({"Queue": ["elsewhere", {"Path": "$.detail.data.NewImage"}]});
    let server = serve("elsewhere", &stack, &[]);
    let order = server.order("349", 7);
    await_condition("the message", || server.queue("elsewhere")["messages"] == 1);
    let (_, page) = server.get("/queues/elsewhere/messages");
    assert_eq!(page["items"][0]["body"]["orderId"], order.as_str());
    assert_eq!(server.get("/inventory").1["quantity"], 1_000_000);
}

/// The stack without its stream pipe.
fn without_cdc(stack: &Value) -> Value {
    let mut stack = stack.clone();
    let pipes = stack["pipes"].as_array_mut().expect("pipes");
    pipes.retain(|pipe| pipe["name"] != "CDCStreamPipe");
    stack
}

const CDC: &str = "pipe/CDCStreamPipe";

#[test]
fn a_pipe_taken_out_of_the_stack_and_put_back_goes_on_where_it_was() {
    let stack = declaration();
    let server = serve("away", &stack, &[]);
    let before = server.order("1", 1);
    server.await_status(&before, "READY");
    assert!(leftovers(&server).is_empty());

    let server = restart(server, &without_cdc(&stack));
    assert!(server.log().contains("the stack does not have it"), "{}", server.log());
    let away = server.order("2", 1);
    assert_eq!(leftovers(&server), [CDC]);
    let (_, order) = server.get(&format!("/orders/{away}"));
    assert_eq!(order["inventoryStatus"], "UNRESERVED");

    let server = restart(server, &stack);
    server.await_status(&away, "READY");
    assert!(leftovers(&server).is_empty());
    assert_eq!(server.get("/inventory").1["reserved"], 2);
}

#[test]
fn what_the_stack_no_longer_has_is_listed_and_dropped_by_name() {
    let stack = declaration();
    let server = serve("leftovers", &stack, &[]);
    let before = server.order("1", 1);
    server.await_status(&before, "READY");
    let server = restart(server, &without_cdc(&stack));
    let missed = server.order("2", 1);
    let url = server.process.url.clone();
    let told = |arguments: &[&str]| wims(&[arguments, &["--url", url.as_str()]].concat());
    let listed = told(&["leftover", "list"]);
    assert!(listed.stdout.starts_with("LEFTOVER "), "{}{}", listed.stdout, listed.stderr);
    assert!(listed.stdout.contains(CDC), "{}", listed.stdout);

    let delete = |path: &str| server.send(reqwest::Method::DELETE, path, "");
    let (status, problem) = delete("/leftovers/pipe/PaymentsPipe");
    assert_eq!(status, 409, "{problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("pipe/PaymentsPipe is in the stack"), "{problem}");
    assert_eq!(delete("/leftovers/pipe/nobody").0, 404);
    let dropped = told(&["leftover", "drop", CDC]);
    assert_eq!(dropped.stdout, format!("{CDC} is dropped\n"), "{}", dropped.stderr);
    assert_eq!(delete(&format!("/leftovers/{CDC}")).0, 404, "it is gone");
    assert!(leftovers(&server).is_empty());

    let server = restart(server, &without_cdc(&stack));
    assert!(leftovers(&server).is_empty());
    // Back from now on, it is told nothing of what was before.
    let mut from_now = stack;
    let pipes = from_now["pipes"].as_array_mut().expect("pipes");
    let pipe = pipes.iter_mut().find(|pipe| pipe["name"] == "CDCStreamPipe");
    pipe.expect("the pipe is there")["source"]["Stream"]["start"] = "Now".into();
    let server = restart(server, &from_now);
    let after = server.order("3", 1);
    server.await_status(&after, "READY");
    let (_, order) = server.get(&format!("/orders/{missed}"));
    assert_eq!(order["inventoryStatus"], "UNRESERVED");
}

#[test]
fn a_stack_with_a_dangling_reference_does_not_start_and_check_says_why() {
    let mut stack = declaration();
    rule(&mut stack, "FulfillmentRule")["targets"][0]["to"] =
        serde_json::json!({"Workflow": "nobody"});
    let folder = Folder::new("dangling");
    let path = folder.join("stack.json");
    std::fs::write(&path, stack.to_string()).expect("written");
    let path = path.display().to_string();
    let checked = wims(&["check", "--stack", &path]);
    assert_eq!(checked.code, Some(78));
    assert!(checked.stdout.contains("nobody"), "{}", checked.stdout);
    let data = folder.join("data").display().to_string();
    let served = wims(&[
        "serve",
        "--listen=127.0.0.1:0",
        "--sandbox-listen=127.0.0.1:0",
        "--stack",
        &path,
        "--data-dir",
        &data,
    ]);
    assert_eq!(served.code, Some(78), "{}", served.stderr);
    assert!(served.stderr.contains("nobody"), "{}", served.stderr);
}

#[test]
fn a_stack_the_check_finds_wrong_does_not_start() {
    let mut stack = declaration();
    // It refers to nothing that is missing; only the check sees that it can never match.
    rule(&mut stack, "FulfillmentRule")["pattern"]["nowhere"] = serde_json::json!(["x"]);
    let folder = Folder::new("wrong");
    let path = folder.join("stack.json");
    std::fs::write(&path, stack.to_string()).expect("written");
    let path = path.display().to_string();
    assert_eq!(wims(&["check", "--stack", &path]).code, Some(78));
    let data = folder.join("data").display().to_string();
    let served = wims(&["serve", "--listen=127.0.0.1:0", "--stack", &path, "--data-dir", &data]);
    assert_eq!(served.code, Some(78), "{}", served.stderr);
    assert!(served.stderr.contains("FulfillmentRule"), "{}", served.stderr);
    assert!(!folder.join("data").exists());
}

/// What `check` finds wrong with a stack; `serve` refuses it with the same words, before anything
/// is touched.
fn refused(name: &str, stack: &Value) -> String {
    let folder = Folder::new(name);
    let path = folder.join("stack.json");
    std::fs::write(&path, stack.to_string()).expect("written");
    let path = path.display().to_string();
    let checked = wims(&["check", "--stack", &path]);
    assert_eq!(checked.code, Some(78), "{}", checked.stderr);
    let errors: Vec<&str> =
        checked.stdout.lines().filter(|line| line.starts_with("error ")).collect();
    let errors = errors.join("\n");
    let data = folder.join("data").display().to_string();
    let served = wims(&["serve", "--listen=127.0.0.1:0", "--stack", &path, "--data-dir", &data]);
    assert_eq!(served.code, Some(78), "{}", served.stderr);
    assert!(served.stderr.contains(&errors), "{}", served.stderr);
    assert!(!folder.join("data").exists());
    errors
}

#[test]
fn an_api_nobody_has_an_address_of_is_refused_by_name() {
    let mut stack = declaration();
    stack["apis"].as_array_mut().expect("apis").push("FraudApi".into());
    let told = "error api/FraudApi: serve has no address for it, only for PaymentsApi";
    assert_eq!(refused("no-address", &stack), told);
}

#[test]
fn a_reader_of_mails_who_has_no_address_is_refused() {
    let mut stack = declaration();
    stack["topics"][0]["subscriptions"][0]["email"] = "nobody".into();
    let errors = refused("no-reader", &stack);
    let told = "error topic/TeamAlertsTopic: mails nobody: it is no mail address";
    assert!(errors.starts_with(told) && errors.lines().count() == 1, "{errors}");
}

/// A route of the stack, by name, taken out of it.
fn without_route(stack: &mut Value, name: &str) {
    let routes = stack["routes"].as_array_mut().expect("routes");
    let before = routes.len();
    routes.retain(|route| route["name"] != name);
    assert_eq!(routes.len(), before - 1, "{name} was there");
}

/// A route of the stack, by name.
fn route<'a>(stack: &'a mut Value, name: &str) -> &'a mut Value {
    let routes = stack["routes"].as_array_mut().expect("routes");
    routes.iter_mut().find(|route| route["name"] == name).expect("the route is there")
}

#[test]
fn a_route_that_is_not_served_as_declared_is_refused_with_what_is_served() {
    let mut stack = declaration();
    route(&mut stack, "create-order")["http"]["path"] = "/bestellungen".into();
    route(&mut stack, "ship-order")["http"]["method"] = "PUT".into();
    route(&mut stack, "put-item")["http"] = Value::Null;
    route(&mut stack, "seed-inventory")["http"] =
        serde_json::json!({"method": "POST", "path": "/seed"});
    route(&mut stack, "receive-stock")["name"] = "return-stock".into();
    let told = "\
error route/create-order: serve has it as POST /orders, not as POST /bestellungen
error route/ship-order: serve has it as POST /orders/{orderId}/ship, not as PUT \
/orders/{orderId}/ship
error route/put-item: serve has it as PUT /inventory/{product}/{model}, not as an internal route
error route/return-stock: serve has no such route; it has create-order, ship-order, \
cancel-order, pay-order, erase-contacts, put-item, receive-stock, seed-inventory
error route/seed-inventory: serve has it as an internal route, not as POST /seed";
    assert_eq!(refused("other-routes", &stack), told);
}

#[test]
fn every_request_the_stack_declares_is_one_the_server_answers() {
    let stack = declaration();
    let server = Server::start("requests", &[]);
    let routes = stack["routes"].as_array().expect("routes");
    let requests: Vec<&Value> =
        routes.iter().map(|route| &route["http"]).filter(|http| !http.is_null()).collect();
    assert_eq!(requests.len(), 7);
    for request in requests {
        let text = |name: &str| request[name].as_str().expect("text").to_owned();
        let method = reqwest::Method::from_bytes(text("method").as_bytes()).expect("a method");
        let (status, problem) = server.send(method, &text("path").replace(['{', '}'], ""), "[]");
        // The path is known when it is the body, or what the path names, that is wrong.
        assert_ne!(problem["detail"], "there is no such route", "{request}");
        assert!([400, 404].contains(&status), "{request}: {status} {problem}");
    }
}

#[test]
fn what_the_stack_has_no_route_for_is_answered_with_404() {
    let mut stack = declaration();
    without_route(&mut stack, "create-order");
    let server = serve("no-orders", &stack, &[]);
    let (status, problem) = server.post("/orders", r#"{"customerId":"349","quantity":7}"#);
    assert_eq!(status, 404, "{problem}");
    assert_eq!(problem["detail"], "the stack has no route create-order");
    let (_, page) = server.get("/orders");
    assert_eq!(page["items"], serde_json::json!([]));
}

#[test]
fn a_stack_that_does_not_seed_has_only_the_stock_it_is_given() {
    let mut stack = declaration();
    without_route(&mut stack, "seed-inventory");
    let server = serve("no-seed", &stack, &[]);
    assert_eq!(server.get("/inventory").0, 404);
    let item = r#"{"productName":"MacGuffin","unitPrice":2500}"#;
    let put = |body| server.send(reqwest::Method::PUT, "/inventory/MACGUFFIN/LX", body);
    assert_eq!(put(item).0, 201, "orders are taken once the URL is told");
    assert_eq!(server.get("/inventory").1["quantity"], 0);
}

#[test]
fn a_seed_that_is_refused_ends_the_start_in_its_own_words() {
    let mut stack = declaration();
    route(&mut stack, "seed-inventory")["function"] = "ship-order".into();
    let folder = Folder::new("wrong-seed");
    let path = folder.join("stack.json");
    std::fs::write(&path, stack.to_string()).expect("written");
    let (stack, data) = (path.display().to_string(), folder.join("data").display().to_string());
    let arguments = ["serve", "--listen=127.0.0.1:0", "--sandbox-listen=127.0.0.1:0"];
    let files = ["--stack", &stack, "--data-dir", &data];
    let failed = wims(&[&arguments[..], &files[..]].concat());
    assert_eq!(failed.code, Some(78), "{}", failed.stderr);
    let told = "the stack's route seed-inventory is refused: there is no order";
    assert!(failed.stderr.contains(told), "{}", failed.stderr);
}

#[test]
fn settings_of_the_built_in_stack_are_refused_beside_another_stack() {
    let settings = [
        "--payments-rate=5",
        "--payments-burst=5",
        "--payments-in-flight=64",
        "--payments-timeout=10",
        "--team-email=theteam@ourcompany.com",
        "--decline-grace=72h",
        "--log-retention-hours=24",
    ];
    for setting in settings {
        let refused = wims(&["serve", "--listen=127.0.0.1:0", "--stack=stack.json", setting]);
        assert_eq!(refused.code, Some(2), "{setting}: {}", refused.stderr);
        assert!(refused.stderr.contains("--stack"), "{setting}: {}", refused.stderr);
    }
}
