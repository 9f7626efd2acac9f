//! Who comes in: tokens and their roles, while the server runs and when it does not; TLS; limits;
//! and that beyond loopback nobody is served without the first two.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use reqwest::blocking::Response;
use serde_json::Value;

use crate::harness::{Folder, Output, Process, Server, await_condition, wims};

const ORDER: &str = r#"{"customerId":"349","quantity":7}"#;
/// The root certificate of a private CA; `certs/README.md` says how it was made.
const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/ca.pem");
/// A certificate of the private CA for `127.0.0.1`, and its key.
const CERT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/server.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/server.key");

fn data_dir(folder: &Folder) -> String {
    format!("--data-dir={}", folder.join("data").display())
}

/// Makes a token; its text.
fn create(folder: &Folder, name: &str, roles: &[&str]) -> String {
    let data_dir = data_dir(folder);
    let mut arguments = vec!["token", "create", "--name", name, &data_dir];
    roles.iter().for_each(|role| arguments.extend(["--role", *role]));
    let made = wims(&arguments);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let text = made.stdout.trim_end().to_owned();
    assert!(text.starts_with("wims_") && text.len() == 69, "{text}");
    assert!(!made.stderr.contains(&text), "it is shown once: {}", made.stderr);
    text
}

fn revoke(folder: &Folder, name: &str) -> Output {
    wims(&["token", "revoke", name, &data_dir(folder)])
}

/// What `token list` tells a program.
fn listed(folder: &Folder) -> Vec<Value> {
    let list = wims(&["token", "list", "--json", &data_dir(folder)]);
    assert_eq!(list.code, Some(0), "{}", list.stderr);
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    list["items"].as_array().expect("items").clone()
}

/// Asks with a token, or without one.
fn ask(url: &str, token: Option<&str>, method: Method, path: &str, body: &str) -> Response {
    let ca = reqwest::Certificate::from_pem(&std::fs::read(CA).expect("a file")).expect("a root");
    let client = reqwest::blocking::Client::builder()
        .timeout(Duration::from_secs(20))
        .no_proxy()
        .add_root_certificate(ca)
        .build()
        .expect("a client");
    let mut request = client.request(method, format!("{url}{path}")).body(body.to_owned());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().expect("an answer")
}

fn status_of(server: &Server, token: Option<&str>, path: &str) -> u16 {
    ask(&server.process.url, token, Method::GET, path, "").status().as_u16()
}

/// The files of a folder and those below, as bytes.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let below = entries.map(|entry| match entry.path() {
        path if path.is_dir() => files(&path),
        // A journal of SQLite may be gone by now.
        path => vec![std::fs::read(path).unwrap_or_default()],
    });
    below.flatten().collect()
}

#[test]
fn each_route_needs_the_role_that_the_table_says() {
    let folder = Folder::new("roles");
    let [shop, boss, eye] = [("shop", "orders:write"), ("boss", "operate"), ("eye", "read")]
        .map(|(name, role)| create(&folder, name, &[role]));
    let server = Server::in_folder(folder, &["--require-tokens"]);
    let (post, put, delete) = (Method::POST, Method::PUT, Method::DELETE);
    let item = r#"{"productName":"Lamp","unitPrice":100}"#;
    // What shop, boss and eye get.
    let cases = [
        (post.clone(), "/orders", ORDER, [200, 403, 403]),
        (Method::GET, "/orders", "", [403, 200, 200]),
        (Method::GET, "/inventory", "", [403, 200, 200]),
        (Method::GET, "/queues", "", [403, 200, 200]),
        (Method::GET, "/metrics", "", [403, 200, 200]),
        (Method::GET, "/no/such/route", "", [403, 404, 404]),
        (put, "/inventory/LAMP/X", item, [403, 201, 403]),
        (post.clone(), "/inventory/LAMP/X/receipts", r#"{"quantity":1}"#, [403, 201, 403]),
        (post, "/queues/no-such-queue/redrive", "", [403, 404, 403]),
        (delete, "/leftovers/queue/no-such-queue", "", [403, 404, 403]),
    ];
    for (method, path, body, expected) in cases {
        let url = &server.process.url;
        let got = [&shop, &boss, &eye]
            .map(|token| ask(url, Some(token), method.clone(), path, body).status().as_u16());
        assert_eq!(got, expected, "{method} {path}");
        for token in [None, Some("wims_"), Some("x"), Some(&shop[..68])] {
            let refused = ask(url, token, method.clone(), path, body);
            assert_eq!(refused.status().as_u16(), 401, "{method} {path} {token:?}");
            assert_eq!(refused.headers()["www-authenticate"], "Bearer");
            assert_eq!(refused.headers()["content-type"], "application/problem+json");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status_of(&server, None, path), 200);
    }
    let refused = ask(&server.process.url, Some(&eye), Method::POST, "/orders", ORDER);
    let problem: Value = refused.json().expect("JSON");
    assert_eq!(problem["detail"], "this needs a token with the role orders:write");
    let orders = ask(&server.process.url, Some(&eye), Method::GET, "/orders", "");
    let orders: Value = orders.json().expect("JSON");
    assert_eq!(orders["items"].as_array().map(Vec::len), Some(1), "a refusal changes nothing");
    // Not in the log, and nowhere in the data directory.
    for token in [&shop, &boss, &eye] {
        assert!(!server.log().contains(&token[5..]), "{}", server.log());
        let secret = &token.as_bytes()[5..];
        let holds = |file: &Vec<u8>| file.windows(secret.len()).any(|window| window == secret);
        let small = files(&server.folder.join("data")).into_iter().filter(|f| f.len() < 1 << 20);
        assert!(!small.into_iter().any(|file| holds(&file)));
    }
}

#[test]
fn a_token_of_two_roles_may_do_both() {
    let folder = Folder::new("two-roles");
    let shop = create(&folder, "shop", &["orders:write", "read"]);
    let server = Server::in_folder(folder, &["--require-tokens"]);
    let url = &server.process.url;
    let order = ask(url, Some(&shop), Method::POST, "/orders", ORDER);
    assert_eq!(order.status().as_u16(), 200);
    let path = order.headers()["location"].to_str().expect("text").to_owned();
    assert_eq!(status_of(&server, Some(&shop), &path), 200);
}

#[test]
fn a_key_of_one_token_is_not_that_of_another() {
    let folder = Folder::new("keys-of-tokens");
    let [one, other] = ["one", "other"].map(|name| create(&folder, name, &["orders:write"]));
    let server = Server::in_folder(folder, &["--require-tokens"]);
    let id = |token: &str| {
        let request = reqwest::blocking::Client::new()
            .post(format!("{}/orders", server.process.url))
            .header("authorization", format!("Bearer {token}"))
            .header("idempotency-key", "cart-4711")
            .body(ORDER);
        let order: Value = request.send().expect("an answer").json().expect("JSON");
        order["orderId"].as_str().expect("an id").to_owned()
    };
    let [first, again, others] = [&one, &one, &other].map(|token| id(token));
    assert_eq!(first, again);
    assert_ne!(first, others);
    // A token that is made anew under its name is the same client.
    assert_eq!(revoke(&server.folder, "one").code, Some(0));
    let rotated = create(&server.folder, "one", &["orders:write", "read"]);
    await_condition("the new token to be known", || {
        status_of(&server, Some(&rotated), "/orders") == 200
    });
    assert_eq!(id(&rotated), first);
}

#[test]
fn where_no_token_is_asked_for_a_key_is_everybodys() {
    let server = Server::start("keys-of-all", &[]);
    let id = |header: (&str, &str)| {
        let headers = [header, ("idempotency-key", "cart-4711")];
        let order: Value = server.posted("/orders", ORDER, &headers).json().expect("JSON");
        order["orderId"].as_str().expect("an id").to_owned()
    };
    let first = id(("authorization", "Bearer wims_a"));
    assert_eq!(id(("authorization", "Bearer wims_b")), first);
    assert_eq!(id(("x-other", "none")), first);
}

#[test]
fn a_running_server_knows_new_tokens_and_forgets_revoked_ones() {
    let folder = Folder::new("changes");
    let first = create(&folder, "first", &["read"]);
    let server = Server::in_folder(folder, &["--require-tokens"]);
    assert_eq!(status_of(&server, Some(&first), "/orders"), 200);
    let second = create(&server.folder, "second", &["read"]);
    await_condition("the new token to be known", || {
        status_of(&server, Some(&second), "/orders") == 200
    });
    assert_eq!(status_of(&server, Some(&first), "/orders"), 200);
    assert_eq!(revoke(&server.folder, "first").code, Some(0));
    await_condition("the revoked one to be unknown", || {
        status_of(&server, Some(&first), "/orders") == 401
    });
    assert_eq!(status_of(&server, Some(&second), "/orders"), 200);
}

#[test]
fn a_broken_file_of_tokens_changes_nothing_while_it_runs_and_refuses_the_next_start() {
    let folder = Folder::new("broken-tokens");
    let token = create(&folder, "eye", &["read"]);
    let mut server = Server::in_folder(folder, &["--require-tokens"]).may_fail();
    let file = server.folder.join("data/tokens.json");
    let sound = std::fs::read(&file).expect("a file");
    std::fs::write(&file, &sound[..sound.len() / 2]).expect("written");
    await_condition("the log to say so", || server.log().contains("new tokens cannot be read"));
    assert_eq!(status_of(&server, Some(&token), "/orders"), 200);
    std::fs::remove_file(&file).expect("removed");
    await_condition("the log to say so", || server.log().contains("the file of tokens is gone"));
    assert_eq!(status_of(&server, Some(&token), "/orders"), 200);
    assert_eq!(server.process.terminate(), Some(0));
    std::fs::write(&file, &sound[..sound.len() / 2]).expect("written");
    let data_dir = data_dir(&server.folder);
    let refused = wims(&["serve", "--listen=127.0.0.1:0", "--require-tokens", &data_dir]);
    assert_eq!(refused.code, Some(73), "{}", refused.stderr);
    assert!(refused.stderr.contains("tokens.json: it is no list of tokens"), "{}", refused.stderr);
    // Nor is anything made of it that would lose the others.
    let more = wims(&["token", "create", "--role=read", "--name=more", &data_dir]);
    assert_eq!(more.code, Some(73), "{}", more.stderr);
    assert_eq!(std::fs::read(&file).expect("a file"), &sound[..sound.len() / 2]);
}

#[test]
fn tokens_that_are_made_at_once_are_all_there() {
    const COUNT: usize = 24;
    let folder = Folder::new("at-once");
    let shared = &folder;
    let texts: Vec<String> = std::thread::scope(|scope| {
        let make = |number| scope.spawn(move || create(shared, &format!("t{number}"), &["read"]));
        let makers: Vec<_> = (0..COUNT).map(make).collect();
        makers.into_iter().map(|maker| maker.join().expect("a token")).collect()
    });
    assert_eq!(listed(&folder).len(), COUNT);
    let file = folder.join("data/tokens.json");
    let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = std::fs::read_to_string(&file).expect("text");
    assert!(texts.iter().all(|text| !kept.contains(&text[5..])), "{kept}");
    // The directory that began with tokens is one that serves.
    let server = Server::in_folder(folder, &["--require-tokens"]);
    assert!(texts.iter().all(|text| status_of(&server, Some(text), "/orders") == 200));
}

#[test]
fn the_commands_for_tokens_say_what_is_wrong() {
    let folder = Folder::new("token-commands");
    let data = data_dir(&folder);
    assert!(listed(&folder).is_empty());
    assert_eq!(revoke(&folder, "shop").code, Some(1));
    assert!(!folder.join("data").exists(), "looking makes nothing");
    create(&folder, "shop", &["orders:write"]);
    let again = wims(&["token", "create", "--role=read", "--name=shop", &data]);
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    assert!(again.stderr.contains("there is one named shop"), "{}", again.stderr);
    for wrong in [&["--role=admin", "--name=x"][..], &["--role=read", "--name=a b"], &["--name=x"]]
    {
        let refused = wims(&[&["token", "create", &data][..], wrong].concat());
        assert_eq!(refused.code, Some(2), "{wrong:?}: {}", refused.stderr);
    }
    let told = wims(&["token", "list", &data]).stdout;
    let rows: Vec<Vec<&str>> = told.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "ROLES", "CREATED"]);
    assert_eq!(rows[1][..2], ["shop", "orders:write"]);
    assert_eq!(revoke(&folder, "shop").code, Some(0));
    assert!(listed(&folder).is_empty());
    let foreign = Folder::new("token-foreign");
    std::fs::write(foreign.join("holiday.jpg"), "x").expect("written");
    let foreign_data = format!("--data-dir={}", foreign.0.display());
    let refused = wims(&["token", "create", "--role=read", "--name=x", &foreign_data]);
    assert_eq!(refused.code, Some(73), "{}", refused.stderr);
    assert_eq!(std::fs::read_dir(&foreign.0).expect("there").count(), 1);
}

#[test]
fn beyond_loopback_nothing_is_served_without_a_token_and_without_tls() {
    let folder = Folder::new("beyond");
    let data = data_dir(&folder);
    let serve = ["serve", "--listen=0.0.0.0:0", "--sandbox-listen=127.0.0.1:0", data.as_str()];
    let tls = [format!("--tls-cert={CERT}"), format!("--tls-key={KEY}")];
    let tls = [tls[0].as_str(), tls[1].as_str()];
    let refused = |more: &[&str], told: &[&str]| {
        let refused = wims(&[&serve[..], more].concat());
        assert_eq!(refused.code, Some(78), "{more:?}: {}", refused.stderr);
        for words in told {
            assert!(refused.stderr.contains(words), "{more:?}: {}", refused.stderr);
        }
    };
    refused(&[], &["--tls-cert", "--behind-proxy", "wims token create --role orders:write"]);
    refused(&tls, &["wims token create"]);
    refused(&["--behind-proxy"], &["wims token create"]);
    assert!(!folder.join("data").exists(), "it is refused before anything is touched");
    let token = create(&folder, "eye", &["read"]);
    refused(&[], &["--tls-cert", "--behind-proxy"]);
    let arguments = [&serve[..], &["--behind-proxy", "--segment-mb=4"]].concat();
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let mut process = Process::start(&arguments, &folder.join("stderr.log"));
    let get = |token| ask(&process.url, token, Method::GET, "/orders", "").status().as_u16();
    assert_eq!((get(None), get(Some(token.as_str()))), (401, 200));
    assert_eq!(process.terminate(), Some(0));
}

#[test]
fn tokens_that_are_wanted_must_be_there_on_loopback_too() {
    let folder = Folder::new("wanted");
    let data = data_dir(&folder);
    for wanting in ["--require-tokens", "--behind-proxy"] {
        let refused = wims(&["serve", "--listen=127.0.0.1:0", wanting, &data]);
        assert_eq!(refused.code, Some(78), "{}", refused.stderr);
        assert!(refused.stderr.contains("wims token create"), "{}", refused.stderr);
    }
    assert!(!folder.join("data").exists());
}

/// A server that speaks TLS and wants tokens, and one that may do all.
fn tls_server(name: &str) -> (Server, String) {
    let folder = Folder::new(name);
    let token = create(&folder, "all", &["orders:write", "operate"]);
    let (cert, key) = (format!("--tls-cert={CERT}"), format!("--tls-key={KEY}"));
    (Server::in_folder(folder, &["--require-tokens", &cert, &key]), token)
}

/// Runs a client command with a token in the environment.
fn client(server: &Server, token: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wims"));
    command.args(arguments).args(["--url", &server.process.url]).stdin(Stdio::null());
    command.env_remove("WIMS_TOKEN").envs(token.map(|token| ("WIMS_TOKEN", token)));
    let output = command.output().expect("the binary runs");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command line that places an order.
fn order_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["order", "create", "--customer=349", "--quantity=7"][..], more].concat()
}

#[test]
fn an_order_is_placed_over_tls_with_a_token_of_a_file_or_the_environment() {
    let (server, token) = tls_server("tls");
    assert!(server.process.url.starts_with("https://"), "{}", server.process.url);
    let file = server.folder.join("shop.token");
    std::fs::write(&file, format!("{token}\n")).expect("written");
    let file = format!("--token-file={}", file.display());
    let ca = format!("--ca={CA}");
    let placed = client(&server, None, &order_with(&[&ca, &file]));
    assert_eq!(placed.code, Some(0), "{}", placed.stderr);
    let placed = client(&server, Some(&token), &order_with(&[&ca]));
    assert_eq!(placed.code, Some(0), "{}", placed.stderr);
    let list = client(&server, Some(&token), &["order", "list", "--json", &ca]);
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    // A file that is named wins over the environment.
    let refused = client(&server, Some("wims_x"), &order_with(&[&ca, &file]));
    assert_eq!(refused.code, Some(0), "{}", refused.stderr);
    for (token, told) in [(None, "WIMS_TOKEN or --token-file"), (Some("wims_x"), "is unknown")] {
        let refused = client(&server, token, &order_with(&[&ca]));
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
    }
    let untrusting = client(&server, Some(&token), &order_with(&[]));
    assert_eq!(untrusting.code, Some(69), "{}", untrusting.stderr);
    assert!(untrusting.stderr.contains("--ca"), "{}", untrusting.stderr);
    for wrong in [&[format!("--ca={KEY}")][..], &[ca, "--token-file=/no/such/file".into()]] {
        let more: Vec<&str> = wrong.iter().map(String::as_str).collect();
        let refused = client(&server, None, &order_with(&more));
        assert_eq!(refused.code, Some(78), "{wrong:?}: {}", refused.stderr);
    }
}

#[test]
fn who_speaks_no_tls_or_says_nothing_troubles_nobody_and_no_stop() {
    let (mut server, token) = tls_server("no-tls");
    let address = server.process.url.trim_start_matches("https://").to_owned();
    let connect = || {
        let stream = TcpStream::connect(&address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    };
    let silent = connect();
    let mut plain = connect();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: wims\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    // Whether it ends or is cut, nothing of HTTP was said.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    assert_eq!(status_of(&server, Some(&token), "/orders"), 200);
    assert!(!server.log().contains(" WARN "), "{}", server.log());
    assert_eq!(server.process.terminate(), Some(0));
    drop(silent);
}

#[test]
fn files_of_tls_that_do_not_work_are_refused_before_anything_is_touched() {
    let folder = Folder::new("bad-tls");
    let data = data_dir(&folder);
    let absent = folder.join("absent.pem").display().to_string();
    for (cert, key, told) in [
        (absent.as_str(), KEY, "absent.pem"),
        (CERT, absent.as_str(), "absent.pem"),
        (KEY, KEY, "no PEM file of certificates"),
        (CERT, CERT, "no PEM file of a private key"),
        (CA, KEY, "with the key"),
    ] {
        let (cert, key) = (format!("--tls-cert={cert}"), format!("--tls-key={key}"));
        let refused = wims(&["serve", "--listen=127.0.0.1:0", &data, &cert, &key]);
        assert_eq!(refused.code, Some(78), "{cert} {key}: {}", refused.stderr);
        assert!(refused.stderr.contains(told), "{cert} {key}: {}", refused.stderr);
    }
    let alone = wims(&["serve", "--listen=127.0.0.1:0", &data, &format!("--tls-cert={CERT}")]);
    assert_eq!(alone.code, Some(2), "{}", alone.stderr);
    assert!(!folder.join("data").exists());
}

#[test]
fn a_client_that_asks_too_often_is_refused_and_so_is_its_probe() {
    let server = Server::start("rate", &["--rate-limit=1"]);
    let get = |path: &str| ask(&server.process.url, None, Method::GET, path, "");
    let refused = (0..1_000).map(|_| get("/orders")).find(|answer| !answer.status().is_success());
    let refused = refused.expect("one too many");
    assert_eq!(refused.status().as_u16(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let mut probes = (0..1_000).map(|_| get("/healthz").status().as_u16());
    assert!(probes.any(|status| status == 429));
    await_condition("its next request", || get("/orders").status().is_success());
}

#[test]
fn a_token_that_asks_too_often_does_not_use_up_what_another_has() {
    let folder = Folder::new("rate-tokens");
    let [greedy, modest] = ["greedy", "modest"].map(|name| create(&folder, name, &["read"]));
    let server = Server::in_folder(folder, &["--require-tokens", "--rate-limit=1"]);
    let mut answers = (0..1_000).map(|_| status_of(&server, Some(&greedy), "/orders"));
    assert!(answers.any(|status| status == 429));
    assert_eq!(status_of(&server, Some(&modest), "/orders"), 200);
    // Who has no token is one address.
    let mut answers = (0..1_000).map(|_| status_of(&server, Some("wims_x"), "/orders"));
    assert_eq!(answers.next(), Some(401));
    assert!(answers.any(|status| status == 429));
}
