//! The command line: what `--help` says is so, a variable is as good as its flag, and each client
//! command tells people and programs the same. What the server answers, and when it does not
//! start, is tested elsewhere; here it is how that is told.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::declaration::{declaration, rule};
use crate::harness::{Folder, Output, Server, await_condition, wims};
use crate::payments::RefusingPayments;

/// Nobody listens there; the system refuses at once.
const NOBODY: &str = "http://127.0.0.1:1";
/// A line that has not come after this time does not come.
const LINE_WAIT: Duration = Duration::from_secs(30);
const SIGTERM: i32 = 15;

/// Runs the binary to its end with variables in its environment.
fn wims_with(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wims"));
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().expect("the binary runs");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a client command against a server.
fn ask(server: &Server, arguments: &[&str]) -> Output {
    wims(&[arguments, &["--url", server.process.url.as_str()]].concat())
}

/// What a client command that does well prints.
fn told(server: &Server, arguments: &[&str]) -> String {
    let output = ask(server, arguments);
    assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.stderr);
    output.stdout
}

/// The same for a program.
fn told_json(server: &Server, arguments: &[&str]) -> Value {
    parsed(&told(server, &[arguments, &["--json"]].concat()))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON, {error}: {text}"))
}

/// An order nothing more happens to until a person ships it; its id.
fn ready_order(server: &Server, customer: &str) -> String {
    let order = server.order(customer, 7);
    await_condition("the order to be handed over", || {
        let (_, order) = server.get(&format!("/orders/{order}"));
        order["waitsFor"] == "a person to ship it"
    });
    await_condition("its last event", || server.metric("wims_change_lag") == 0.0);
    order
}

/// Commands that a help lists, without clap's own.
fn listed(help: &str) -> Vec<&str> {
    let commands = help.split_once("Commands:\n").map_or("", |(_, commands)| commands);
    let rows = commands.lines().take_while(|row| !row.is_empty());
    // What goes on in a second line stands further to the right.
    let names = rows.filter_map(|row| row.strip_prefix("  ").filter(|row| !row.starts_with(' ')));
    names.filter_map(|row| row.split(' ').next()).filter(|name| *name != "help").collect()
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let (mut seen, mut left) = (BTreeSet::new(), vec![String::new()]);
    while let Some(path) = left.pop() {
        let arguments: Vec<&str> = path.split_whitespace().chain(["--help"]).collect();
        let help = wims(&arguments);
        assert_eq!(help.code, Some(0), "{path}: {}", help.stderr);
        assert!(path.is_empty() || help.stdout.contains("\nExample"), "{path}:\n{}", help.stdout);
        left.extend(listed(&help.stdout).into_iter().map(|name| format!("{path} {name}")));
        seen.insert(path.trim().to_owned());
    }
    let known = "serve,payments-sandbox,order create,order get,order list,order ship,customer \
        erase,inventory get,inventory list,inventory put,inventory receive,queue list,queue peek,queue redrive,\
        leftover list,leftover drop,log show,log tail,graph,check,simulate,bench load,bench \
        article,bench engine";
    let unseen: Vec<&str> = known.split(',').filter(|command| !seen.contains(*command)).collect();
    assert!(unseen.is_empty(), "{unseen:?} are not among {seen:?}");
}

#[test]
fn exit_codes_are_those_the_help_tells() {
    let help = wims(&["--help"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let folder = Folder::new("exit-codes");
    std::fs::write(folder.join("file"), "x").expect("written");
    let path = |name: &str| folder.join(name).display().to_string();
    let (below, absent) = (path("file/below"), path("absent.json"));
    let serve = ["serve", "--listen=127.0.0.1:0", "--sandbox-listen=127.0.0.1:0", "--data-dir"];
    let [unavailable, unusable] =
        ["69 a server or port is not available", "73 the data directory or a file cannot be used"];
    let cases: [(&str, Vec<&str>, &str); 9] = [
        ("2 wrong usage", vec!["order", "list", "--colour=red"], "--colour"),
        ("2 wrong usage", vec!["order", "create", "--customer=349"], "--quantity"),
        (
            "2 wrong usage",
            vec!["order", "create", "--customer=349", "--quantity=1", "--line=MACGUFFIN/LX=1"],
            "--line",
        ),
        (unavailable, vec!["order", "list", "--url", NOBODY], "is wims serve running?"),
        (unavailable, vec!["queue", "list", "--url", NOBODY], "is wims serve running?"),
        (unusable, [&serve[..], &[below.as_str()]].concat(), &below),
        (unusable, vec!["log", "show", "--export", &below], &below),
        ("78 the stack or a setting is wrong", vec!["graph", "--stack", &absent], &absent),
        ("78 the stack or a setting is wrong", vec!["check", "--stack", &absent], &absent),
    ];
    for (meaning, arguments, words) in cases {
        assert!(help.contains(meaning), "{meaning} is not in {help}");
        let code: Option<i32> = meaning.split(' ').next().and_then(|code| code.parse().ok());
        let failed = wims(&arguments);
        assert_eq!(failed.code, code, "{arguments:?}: {}", failed.stderr);
        assert!(failed.stderr.contains(words), "{arguments:?}: {}", failed.stderr);
        assert_eq!(failed.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_variable_is_as_good_as_its_flag_and_the_flag_wins() {
    let server = Server::start("variables", &[]);
    let there = ("WIMS_URL", server.process.url.as_str());
    let queues = |variables: &[(&str, &str)], more: &[&str]| {
        wims_with(variables, &[&["queue", "list"][..], more].concat())
    };
    let listed = queues(&[there], &[]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert!(listed.stdout.starts_with("QUEUE "), "{}", listed.stdout);
    assert_eq!(queues(&[there], &["--url", NOBODY]).code, Some(69));
    assert_eq!(queues(&[("WIMS_URL", NOBODY)], &["--url", there.1]).code, Some(0));
    for (value, is_json) in [("true", true), ("1", true), ("Yes", true), ("no", false)] {
        let listed = queues(&[there, ("WIMS_JSON", value)], &[]).stdout;
        assert_eq!(listed.starts_with("{\"items\":["), is_json, "{value}: {listed}");
    }
    assert!(queues(&[there, ("WIMS_JSON", "no")], &["--json"]).stdout.starts_with('{'));
    let refused = queues(&[there, ("WIMS_JSON", "perhaps")], &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("'perhaps' for '--json'"), "{}", refused.stderr);

    let customer = ("WIMS_ORDER_CREATE_CUSTOMER", "from-a-variable");
    let ordered =
        wims_with(&[there, customer, ("WIMS_ORDER_CREATE_QUANTITY", "3")], &["order", "create"]);
    assert_eq!(ordered.code, Some(0), "{}", ordered.stderr);
    let (_, page) = server.get("/orders?customerId=from-a-variable");
    assert_eq!(page["items"][0]["quantity"], 3, "{page}");
}

#[test]
fn a_setting_of_the_sandbox_beside_a_payments_api_is_refused_before_anything_is_touched() {
    // Nobody's data directory: taken as one, it would be refused with another exit code.
    let folder = Folder::new("sandbox-and-api");
    std::fs::write(folder.join("holiday.jpg"), "x").expect("written");
    let data = folder.0.display().to_string();
    let serve = ["serve", "--listen=127.0.0.1:0", "--data-dir", data.as_str()];
    let (api, rate) = ("--payments-url=http://127.0.0.1:9", "--sandbox-rate=50");
    let in_variables = [("WIMS_PAYMENTS_URL", "http://127.0.0.1:9"), ("WIMS_SANDBOX_RATE", "50")];
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 4] = [
        (&[], &[api, rate]),
        (&in_variables[..1], &[rate]),
        (&in_variables[1..], &[api]),
        (&in_variables, &[]),
    ];
    for (variables, flags) in cases {
        let refused = wims_with(variables, &[&serve[..], flags].concat());
        assert_eq!(refused.code, Some(2), "{variables:?} {flags:?}: {}", refused.stderr);
        for named in ["--payments-url", "--sandbox-rate"] {
            assert!(refused.stderr.contains(named), "{named}: {}", refused.stderr);
        }
    }
    assert_eq!(std::fs::read_dir(&folder.0).expect("there").count(), 1);
    // Alone, each is as good as ever: it is the directory that is refused.
    for setting in [api, "--sandbox-listen=127.0.0.1:0"] {
        let refused = wims(&[&serve[..], &[setting]].concat());
        assert_eq!(refused.code, Some(73), "{setting}: {}", refused.stderr);
    }
}

/// Fails unless a table of fields has these.
fn assert_fields(shown: &str, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        let mut rows = shown.lines().filter_map(|row| row.split_once(' '));
        let found = rows.find(|(field, _)| field == name).map(|(_, value)| value.trim());
        assert_eq!(found, Some(*value), "{name} in\n{shown}");
    }
}

#[test]
fn an_order_is_placed_shown_and_shipped() {
    let server = Server::start("cli-order", &["--sandbox-rate=50"]);
    let placed = told(&server, &["order", "create", "--customer=349", "--quantity=7"]);
    let id = placed.strip_prefix("Order created! ").and_then(|p| p.strip_suffix(" is PENDING\n"));
    let id = id.unwrap_or_else(|| panic!("{placed}"));
    let path = format!("/orders/{id}");
    await_condition("the order to be handed over", || {
        server.get(&path).1["waitsFor"] == "a person to ship it"
    });
    let shown = told(&server, &["order", "get", id]);
    let fields = [
        ("orderId", id),
        ("customerId", "349"),
        ("status", "READY"),
        ("lines", "7 x MACGUFFIN/LX"),
        ("amount", "175.00 USD"),
        ("waitsFor", "a person to ship it"),
    ];
    assert_fields(&shown, &fields);
    assert_eq!(told_json(&server, &["order", "get", id]), server.get(&path).1);

    assert_eq!(told(&server, &["order", "ship", id]), format!("{id} is SHIPPED\n"));
    assert_eq!(server.get(&path).1["status"], "SHIPPED");
    let again = told_json(&server, &["order", "ship", id]);
    assert_eq!((&again["orderId"], &again["status"]), (&json!(id), &json!("SHIPPED")));

    let placed = told_json(&server, &["order", "create", "--customer=350", "--quantity=1"]);
    assert_eq!(placed["message"], "Order created!", "{placed}");
    let path = format!("/orders/{}", placed["orderId"].as_str().expect("an id"));
    assert_eq!(server.get(&path).1["customerId"], "350");
}

#[test]
fn orders_are_listed_in_rows_a_page_or_lines_of_json() {
    let server = Server::start("cli-orders", &["--sandbox-rate=50"]);
    let [old, new] = ["349", "350"].map(|customer| ready_order(&server, customer));
    let first_words = |text: &str| -> Vec<String> {
        text.lines().map(|row| row.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    let listed = told(&server, &["order", "list"]);
    assert_eq!(first_words(&listed), ["ORDER", new.as_str(), old.as_str()]);
    let row: Vec<&str> = listed.lines().nth(2).unwrap_or_default().split("  ").collect();
    assert_eq!(row.first().zip(row.last()), Some((&old.as_str(), &"a person to ship it")));
    let of_one = told(&server, &["order", "list", "--customer=349"]);
    assert_eq!(first_words(&of_one), ["ORDER", old.as_str()]);
    assert_eq!(first_words(&told(&server, &["order", "list", "--status=SHIPPED"])), ["ORDER"]);

    let page = told_json(&server, &["order", "list", "--status=READY"]);
    assert_eq!(page, server.get("/orders?status=READY").1);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2), "{page}");
    // A request an order, and still each once.
    let lines = told(&server, &["order", "list", "--all", "--limit=1", "--json"]);
    let ids: Vec<Value> = lines.lines().map(|line| parsed(line)["orderId"].clone()).collect();
    assert_eq!(ids, [json!(new), json!(old)]);

    let short = ask(&server, &["order", "list", "--limit=1"]);
    assert_eq!(first_words(&short.stdout), ["ORDER", new.as_str()]);
    assert_eq!(short.stderr, "there may be more: --all lists all, --limit up to 500\n");
}

#[test]
fn what_is_not_there_or_is_refused_is_told_in_the_servers_words() {
    let server = Server::start("cli-refused", &[]);
    let cases = [
        ("order get nobody", "there is no order nobody"),
        ("order ship nobody", "there is no order nobody"),
        ("order create --customer=349 --quantity=0", "quantity must be a whole number between"),
        ("order list --status=RED", "status is one of "),
        ("inventory get NO/ITEM", "there is no item NO/ITEM"),
        ("inventory receive NO/ITEM 5", "there is no item NO/ITEM"),
        ("queue peek nobody", "there is no queue nobody"),
        ("queue redrive nobody", "there is no queue nobody"),
        ("leftover drop queue/nobody", "there is no leftover queue/nobody"),
        ("leftover drop queue/payments-queue", "queue/payments-queue is in the stack that runs"),
        ("log show nobody", "there is no log nobody"),
        ("log tail nobody --follow", "there is no log nobody"),
    ];
    let forms: [&[&str]; 2] = [&[], &["--json"]];
    for (command, words) in cases {
        let arguments: Vec<&str> = command.split(' ').collect();
        for more in forms {
            let refused = ask(&server, &[&arguments[..], more].concat());
            assert_eq!(refused.code, Some(1), "{command}: {}", refused.stderr);
            let message = refused.stderr.strip_prefix("wims: ").unwrap_or_default();
            assert!(message.starts_with(words), "{command}: {}", refused.stderr);
            assert_eq!(refused.stdout, "", "{command}");
        }
    }
}

#[test]
fn stock_is_described_received_shown_and_listed() {
    let server = Server::start("cli-inventory", &[]);
    let put = ["inventory", "put", "SMALL/X", "--name=Small", "--price=4900", "--currency=EUR"];
    let created = told(&server, &put);
    assert!(created.starts_with("created\nsku "), "{created}");
    assert_fields(&created, &[("productName", "Small"), ("unitPrice", "49.00 EUR")]);
    let updated = told(&server, &[&put[..], &["--reorder-point=5"]].concat());
    assert!(updated.starts_with("updated\nsku "), "{updated}");
    assert_fields(&updated, &[("sku", "SMALL/X"), ("reorderPoint", "5")]);
    let updated = told_json(&server, &[&put[..], &["--order-quantity-max=3"]].concat());
    assert_eq!(updated["orderQuantityMax"], 3, "{updated}");
    assert_eq!(updated, server.get("/inventory/SMALL/X").1);

    let received = told(&server, &["inventory", "receive", "SMALL/X", "500"]);
    assert_eq!(received, "received 500: SMALL/X has 500 on hand, 0 of them reserved\n");
    let received = told_json(&server, &["inventory", "receive", "SMALL/X", "1"]);
    assert_eq!(received["onHand"], 501, "{received}");

    assert_fields(&told(&server, &["inventory", "get"]), &[("sku", "MACGUFFIN/LX")]);
    let shown = told(&server, &["inventory", "get", "SMALL/X"]);
    assert_fields(&shown, &[("quantity", "501"), ("unitPrice", "49.00 EUR")]);
    let shown = told_json(&server, &["inventory", "get", "SMALL/X"]);
    assert_eq!(shown, server.get("/inventory/SMALL/X").1);

    let page = told_json(&server, &["inventory", "list"]);
    assert_eq!(page, server.get("/inventory/items?limit=500").1);
    assert_eq!(page["items"][0], shown, "the newest first");
}

/// What is in a row of the table of queues, up to its oldest message.
fn queue_row(server: &Server, name: &str) -> Vec<String> {
    let listed = told(server, &["queue", "list"]);
    assert!(listed.starts_with("QUEUE "), "{listed}");
    let mut rows = listed.lines().map(|row| row.split_whitespace().map(str::to_owned));
    let row = rows.find_map(|mut row| (row.next()? == name).then_some(row));
    row.unwrap_or_else(|| panic!("no {name} in {listed}")).take(3).collect()
}

#[test]
fn dead_letters_are_listed_looked_at_and_sent_back() {
    let payments = RefusingPayments::start();
    let url = format!("--payments-url={}", payments.url());
    let server = Server::start("cli-queue", &[&url, "--payments-rate=100"]);
    let order = server.order("349", 1);
    await_condition("the dead letter", || server.queue("payments-dlq")["messages"] == 1);
    assert_eq!(queue_row(&server, "payments-dlq"), ["1", "0", "0"]);
    let page = told_json(&server, &["queue", "list"]);
    let mut rows = page["items"].as_array().expect("rows").iter();
    let row = rows.find(|row| row["name"] == "payments-dlq").expect("the queue is there");
    let counts = ["messages", "inFlight", "delayed"].map(|state| row[state].as_u64());
    assert_eq!(counts, [Some(1), Some(0), Some(0)], "{row}");

    let seen = told(&server, &["queue", "peek", "payments-dlq"]);
    let rows: Vec<&str> = seen.lines().collect();
    assert_eq!(rows.len(), 2, "{seen}");
    assert!(rows[0].starts_with("MESSAGE ") && rows[0].contains("REASON"), "{seen}");
    assert!(rows[1].contains("422") && rows[1].contains(&order), "{seen}");
    let page = told_json(&server, &["queue", "peek", "payments-dlq", "--limit=10"]);
    assert_eq!(page["items"][0]["body"]["orderId"], order.as_str(), "{page}");
    let reason = page["items"][0]["attributes"]["ERROR_MESSAGE"].as_str();
    assert!(reason.is_some_and(|reason| reason.contains("unknown card")), "{page}");

    let redrive = ["queue", "redrive", "payments-dlq"];
    let dry_run = [&redrive[..], &["--dry-run"]].concat();
    let would = told(&server, &dry_run);
    assert_eq!(would, "would send 1 messages of payments-dlq back to their queue\n");
    assert_eq!(told_json(&server, &dry_run), json!({"moved": 1, "left": 1, "dryRun": true}));
    assert_eq!(queue_row(&server, "payments-dlq"), ["1", "0", "0"], "a dry run moves nothing");
    payments.relent();
    let sent = told(&server, &[&redrive[..], &["--limit=1"]].concat());
    assert_eq!(sent, "sent 1 messages of payments-dlq back to their queue\n");
    server.await_status(&order, "READY");
    assert_eq!(told_json(&server, &redrive), json!({"moved": 0, "left": 0, "dryRun": false}));
}

#[test]
fn an_export_has_the_events_that_are_shown() {
    let server = Server::start("cli-export", &["--sandbox-rate=50"]);
    let order = ready_order(&server, "349");
    let file = server.folder.join("events.jsonl").display().to_string();
    let exported = told(&server, &["log", "show", "observer", "--export", &file]);
    let events = std::fs::read_to_string(&file).expect("it is there");
    let count = events.lines().count();
    assert!(count >= 8, "an order has more events:\n{events}");
    assert_eq!(exported, format!("{count} events are in {file}\n"));
    assert_eq!(told(&server, &["log", "show", "observer", "--json"]), events);
    let exported = told_json(&server, &["log", "show", "--export", &file]);
    assert_eq!(exported, json!({"events": count, "file": file}));
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), events);

    // The first of them, and the others after the place that was told.
    let begun = ask(&server, &["log", "show", "observer", "--limit=3", "--json"]);
    let after = begun.stderr.strip_prefix("more follow: wims log show observer --after ");
    let after = after.unwrap_or_else(|| panic!("{}", begun.stderr)).trim();
    let rest = told(&server, &["log", "show", "observer", "--after", after, "--json"]);
    assert_eq!(begun.stdout + &rest, events);

    let last = told(&server, &["log", "tail", "observer", "-n", "2", "--json"]);
    assert!(last.lines().count() == 2 && events.ends_with(&last), "{last}");
    let shown = told(&server, &["log", "tail", "observer"]);
    let ready = shown.lines().find(|line| line.contains("  order.ready  "));
    assert!(ready.is_some_and(|line| line.ends_with(&format!("{order}  status READY"))), "{shown}");
}

/// A command that goes on until it is stopped by its process id.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(arguments: &[&str]) -> Following {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wims"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let output = child.stdout.take().expect("a pipe");
        Following::reading(child, output)
    }

    fn reading(child: Child, output: impl Read + Send + 'static) -> Following {
        let output = BufReader::new(output);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Following { child, lines }
    }

    /// The next line that contains this.
    fn line_with(&self, words: &str) -> String {
        let deadline = Instant::now() + LINE_WAIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("no line with {words:?}: {error}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// SIGTERM; the signal that ended it.
    fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
        self.child.wait().expect("it ends").signal()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_followed_log_tells_events_as_they_happen_until_it_is_stopped() {
    let server = Server::start("cli-follow", &[]);
    await_condition("the events of the first stock", || {
        let (_, page) = server.get("/logs/observer?last=1");
        page["items"][0]["detail-type"] == "stock.received"
    });
    let follow = ["log", "tail", "observer", "-n", "1", "--follow", "--url", &server.process.url];
    let mut people = Following::start(&follow);
    let mut program = Following::start(&[&follow[..], &["--json"]].concat());
    // From here on both follow.
    people.line_with("stock.received");
    program.line_with("stock.received");

    let order = server.order("349", 7);
    let line = people.line_with("  order.received  ");
    assert!(line.ends_with(&format!("{order}  status PENDING")), "{line}");
    let event = parsed(&program.line_with("\"order.received\""));
    assert_eq!(event["detail-type"], "order.received", "{event}");
    assert_eq!(event["detail"]["orderId"], order.as_str(), "{event}");
    assert_eq!(people.terminate(), Some(SIGTERM), "it was still following");
    assert_eq!(program.terminate(), Some(SIGTERM), "it was still following");
}

#[test]
fn the_stack_is_drawn_and_judged_as_json() {
    let drawn = wims(&["graph", "--format=json"]);
    assert_eq!(drawn.code, Some(0), "{}", drawn.stderr);
    assert!(parsed(&drawn.stdout).is_object(), "{}", drawn.stdout);
    let is_error = |finding: &Value| finding["severity"] == "error";
    let sound = wims(&["check", "--json"]);
    assert_eq!(sound.code, Some(0), "{}", sound.stderr);
    let findings = parsed(&sound.stdout);
    assert!(!findings.as_array().expect("findings").iter().any(is_error), "{findings}");

    let mut stack = declaration();
    let target = &mut rule(&mut stack, "FulfillmentRule")["targets"][0];
    target["to"] = json!({"Workflow": "nobody"});
    let folder = Folder::new("cli-check");
    let path = folder.join("stack.json");
    std::fs::write(&path, stack.to_string()).expect("written");
    let wrong = wims(&["check", "--json", "--stack", &path.display().to_string()]);
    assert_eq!(wrong.code, Some(78), "{}", wrong.stderr);
    let findings = parsed(&wrong.stdout);
    let mut errors = findings.as_array().expect("findings").iter().filter(|f| is_error(f));
    let told = errors.next().expect("an error");
    assert_eq!(told["resource"], "rule/FulfillmentRule", "{findings}");
    assert!(told["message"].as_str().is_some_and(|m| m.contains("nobody")), "{findings}");
}

#[test]
fn the_engines_benchmark_is_one_object_for_a_program() {
    let measured = wims(&["bench", "engine", "--orders=100", "--group=50", "--json"]);
    assert_eq!(measured.code, Some(0), "{}", measured.stderr);
    let report = parsed(&measured.stdout);
    assert_eq!(report["orders"], 100, "{report}");
    for figure in ["us_per_order", "journal_bytes_per_order"] {
        assert!(report[figure].as_f64() > Some(0.0), "{figure} in {report}");
    }
}

#[test]
fn a_benchmark_that_is_interrupted_says_so_with_its_exit_code() {
    let help = wims(&["--help"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("130 a benchmark was interrupted"), "{help}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_wims"));
    // Its payments would take minutes.
    command.args(["bench", "article", "--orders=20", "--payments-rate=0.1"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let told = child.stderr.take().expect("a pipe");
    let mut bench = Following::reading(child, told);
    for line in ["v1: done", "v1: done", "v2: done", "v2: done", "waiting for its payments"] {
        bench.line_with(line);
    }
    let pid = rustix::process::Pid::from_child(&bench.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is ours");
    assert_eq!(bench.child.wait().expect("it ends").code(), Some(130));
}

#[test]
fn a_simulation_is_one_object_for_a_program() {
    let simulated = wims(&["simulate", "--seed=3", "--seeds=2", "--orders=20", "--json"]);
    assert_eq!(simulated.code, Some(0), "{}{}", simulated.stdout, simulated.stderr);
    let report = parsed(&simulated.stdout);
    let counts = ["seeds", "passed", "failed"].map(|name| report[name].as_u64());
    assert_eq!(counts, [Some(2), Some(2), Some(0)], "{report}");
    assert!(report["orders"].as_u64() > Some(0) && report["crashes"].is_u64(), "{report}");
    assert_eq!(report["failures"], json!([]), "{report}");
}

#[cfg(debug_assertions)]
#[test]
fn a_seed_that_fails_is_told_with_the_command_that_shows_it_again() {
    let plant = ["simulate", "--plant=reserve-without-guard", "--seeds=20", "--orders=50"];
    let found = wims(&[&plant[..], &["--json"]].concat());
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    let report = parsed(&found.stdout);
    let failures = report["failures"].as_array().expect("failures");
    let failed = report["failed"].as_u64().expect("a count");
    assert!(failed > 0 && failures.len() as u64 == failed, "{report}");
    assert!(found.stderr.ends_with(&format!("wims: {failed} seeds broke a promise\n")));

    let first = &failures[0];
    let [what, once_more] = ["what", "once_more"].map(|name| first[name].as_str().expect("text"));
    let mut words = once_more.split(' ');
    assert_eq!(words.next(), Some("wims"), "{once_more}");
    let again = wims(&words.collect::<Vec<_>>());
    assert_eq!(again.code, Some(1), "{once_more}: {}", again.stdout);
    let (seed, at_ms) = (&first["seed"], &first["at_ms"]);
    let told = format!(
        "seed {seed}, {at_ms} ms after the beginning: {what}\n  once more: {once_more}\n\
         0 seeds kept every promise, 1 did not: 0 orders, 0 crashes\n"
    );
    assert_eq!(again.stdout, told);
}
