//! The payments API over the wire: it sees our credentials as they were given and nobody else sees
//! them; it sees the trace of an order on every call; and a connection that does not come about
//! means that nothing was sent.
//!
//! What comes of answers, hours later, is shown by the simulator's tests.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::answering::Answering;
use crate::harness::{Folder, Server, await_condition};

/// What the payments API is to see, to the byte.
const AUTHORIZATION: &str = r#"Bearer sk-live-4711+/=; realm="wims",  as  it  is"#;
/// What of it nobody else may see.
const SECRET: &str = "sk-live-4711";
/// The `traceparent` of a request.
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
/// A payments API behind TLS.
const TLS_SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls_payments.py");
/// The root certificate of a private CA; `certs/README.md` says how it was made.
const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/ca.pem");
/// A certificate of the private CA for `127.0.0.1`, and its key.
const CERTIFICATE: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/server.pem"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/server.key"),
];

/// A call as the payments API saw it: method and path, and all values of some headers.
#[derive(Clone, Debug)]
struct Seen {
    request: String,
    authorization: Vec<String>,
    idempotency_key: Vec<String>,
    traceparent: Vec<String>,
}

/// A payments API that lets its first caller wait, says to look-ups that nothing was charged, and
/// charges everybody else; stopped when dropped.
struct RecordingPayments {
    server: Answering,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl RecordingPayments {
    /// Listens on a port the system chooses.
    fn start() -> RecordingPayments {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let recorded = Arc::clone(&seen);
        let server = Answering::start(move |request| {
            let is_look_up = request.line.starts_with("GET ");
            let mut seen = recorded.lock().expect("whole");
            seen.push(Seen {
                authorization: request.headers("authorization"),
                idempotency_key: request.headers("idempotency-key"),
                traceparent: request.headers("traceparent"),
                request: request.line,
            });
            match (seen.len(), is_look_up) {
                (1, _) => None,
                (_, true) => Some(("404 Not Found", r#"{"detail":"not charged yet"}"#)),
                (_, false) => Some(("200 OK", r#"{"message":"Payment Success!"}"#)),
            }
        });
        RecordingPayments { server, seen }
    }

    fn url(&self) -> String {
        self.server.url()
    }

    /// The calls so far, the first one first.
    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("whole").clone()
    }
}

/// `wims serve` with credentials in its environment, which logs all that developers can ask for;
/// killed by its process id when dropped.
struct Credentialed {
    child: Child,
    url: String,
}

impl Credentialed {
    /// Starts it in a folder that may have served before; it may end at once.
    fn spawn(folder: &Folder, log: &str, payments_url: &str, authorization: &str) -> Credentialed {
        let errors = std::fs::File::create(folder.join(log)).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_wims"))
            .args(["serve", "--listen=127.0.0.1:0", "--segment-mb=4", "--payments-rate=100"])
            .arg(format!("--data-dir={}", folder.join("data").display()))
            .arg(format!("--payments-url={payments_url}"))
            .env("WIMS_PAYMENTS_AUTHORIZATION", authorization)
            .env("RUST_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the binary starts");
        Credentialed { child, url: String::new() }
    }

    /// Starts it and waits until it takes orders.
    fn start(folder: &Folder, log: &str, payments: &RecordingPayments) -> Credentialed {
        let mut server = Credentialed::spawn(folder, log, &payments.url(), AUTHORIZATION);
        let mut lines = BufReader::new(server.child.stdout.take().expect("a pipe"));
        lines.read_line(&mut server.url).expect("a line");
        // What it prints later must not block it.
        std::thread::spawn(move || lines.lines().for_each(drop));
        server.url.truncate(server.url.trim_end().len());
        assert!(server.url.starts_with("http://"), "no URL: {}", read(&folder.join(log)));
        server
    }

    /// SIGKILL, and wait until it is gone.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a body, or asks without one, maybe as part of a trace; what is answered.
    fn ask(&self, path: &str, body: Option<&'static str>, traceparent: Option<&str>) -> String {
        let client = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
        let url = format!("{}{path}", self.url);
        let request = match body {
            Some(body) => client.post(url).body(body),
            None => client.get(url),
        };
        let request = match traceparent {
            Some(value) => request.header("traceparent", value),
            None => request,
        };
        request.send().and_then(reqwest::blocking::Response::text).expect("an answer")
    }

    fn get(&self, path: &str) -> String {
        self.ask(path, None, None)
    }

    /// Places an order, maybe as part of a trace; its id.
    fn order(&self, traceparent: Option<&str>) -> String {
        let body = r#"{"customerId":"349","quantity":7}"#;
        let reply = self.ask("/orders", Some(body), traceparent);
        let reply: Value = serde_json::from_str(&reply).expect("JSON");
        reply["orderId"].as_str().expect("an id").to_owned()
    }
}

impl Drop for Credentialed {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("it is there and text")
}

/// Files below a folder that hold this text.
fn files_with(folder: PathBuf, text: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(path);
                }
            }
        }
    }
    found
}

/// A payments API whose certificate is of the private CA; killed by its process id when dropped.
struct TlsPayments {
    child: Child,
    url: String,
    told: Arc<Mutex<Vec<String>>>,
}

impl TlsPayments {
    fn start() -> TlsPayments {
        let python = std::env::var_os("WIMS_TEST_PYTHON")
            .expect("WIMS_TEST_PYTHON names a Python: run ./test, which installs it");
        let [certificate, key] = CERTIFICATE;
        let mut child = Command::new(python)
            .args([TLS_SERVER, "127.0.0.1", certificate, key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut payments = TlsPayments { child, url: String::new(), told: Arc::clone(&told) };
        let port = lines.next().and_then(Result::ok).expect("its port");
        payments.url = format!("https://127.0.0.1:{port}");
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                told.lock().expect("whole").push(line);
            }
        });
        payments
    }

    /// What it said of its connections, the first one first.
    fn told(&self) -> Vec<String> {
        self.told.lock().expect("whole").clone()
    }
}

impl Drop for TlsPayments {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A figure of the pipe to the payments API.
fn of_pipe(server: &Server, figure: &str) -> f64 {
    server.metric(&format!("wims_pipe_{figure}{{pipe=\"PaymentsPipe\"}}"))
}

/// Fails unless the payment of an order waits as if it had never been tried.
fn assert_nothing_was_sent(server: &Server, order: &str) {
    let (_, order) = server.get(&format!("/orders/{order}"));
    assert_eq!(order["status"], "PENDING", "{order}");
    // The next try may be under way.
    let payment = order["paymentStatus"].as_str().unwrap_or_default();
    assert!(["PENDING", "PROCESSING"].contains(&payment), "{order}");
    let (_, page) = server.get("/queues/payments-queue/messages");
    assert_eq!(page["items"][0]["attempts"], 0, "{page}");
    assert_eq!(of_pipe(server, "unknowns_total"), 0.0);
    assert_eq!(server.queue("team-alerts-mails")["messages"], 0);
    assert!(server.outbox().is_empty(), "{:?}", server.outbox());
}

/// Places an order, maybe as part of a trace, and kills the server while its payment is called. What
/// became of that call is looked up by the next life, in which it is paid: that server, the order.
fn paid_by_the_next_life(
    folder: &Folder,
    payments: &RecordingPayments,
    traceparent: Option<&str>,
) -> (Credentialed, String) {
    let mut server = Credentialed::start(folder, "first.log", payments);
    let order = server.order(traceparent);
    await_condition("a call to be under way", || payments.seen().len() == 1);
    server.kill();
    let server = Credentialed::start(folder, "second.log", payments);
    await_condition("the payment", || {
        server.get(&format!("/orders/{order}")).contains(r#""status":"READY""#)
    });
    (server, order)
}

#[test]
fn calls_for_a_traced_order_carry_its_trace_those_of_the_next_life_too() {
    let (folder, payments) = (Folder::new("traced-calls"), RecordingPayments::start());
    let (_server, _) = paid_by_the_next_life(&folder, &payments, Some(TRACEPARENT));
    let seen = payments.seen();
    assert_eq!(seen.len(), 3, "a call, a look-up and a call: {seen:?}");
    // The trace is the request's, each call is a span of its own.
    let (trace, own) = TRACEPARENT.split_at(36);
    let mut spans = vec![&own[..16]];
    for call in &seen {
        let [traceparent] = call.traceparent.as_slice() else { panic!("no trace: {call:?}") };
        assert!(traceparent.starts_with(trace) && traceparent.ends_with("-01"), "{call:?}");
        let span = &traceparent[36..52];
        assert!(!spans.contains(&span), "{call:?} after {spans:?}");
        spans.push(span);
    }
}

#[test]
fn credentials_reach_the_payments_api_as_they_were_given_and_nobody_else() {
    let (folder, payments) = (Folder::new("credentials"), RecordingPayments::start());
    let (server, order) = paid_by_the_next_life(&folder, &payments, None);
    let seen = payments.seen();
    let look_up = format!("GET /payments/{}", seen[0].idempotency_key[0]);
    let requests: Vec<&str> = seen.iter().map(|call| call.request.as_str()).collect();
    assert_eq!(requests, ["POST /payments", look_up.as_str(), "POST /payments"]);
    assert_eq!(seen[2].idempotency_key, seen[0].idempotency_key);
    for call in &seen {
        assert_eq!(call.authorization, [AUTHORIZATION], "{}", call.request);
        assert!(call.traceparent.is_empty(), "nobody told a trace: {call:?}");
    }

    let path = format!("/orders/{order}");
    for path in ["/metrics", "/logs/observer?limit=500", "/queues", path.as_str()] {
        let text = server.get(path);
        assert!(!text.contains(SECRET), "{path}: {text}");
    }
    drop(server);
    for log in ["first.log", "second.log"] {
        let log = read(&folder.join(log));
        assert!(log.contains(" DEBUG ") && !log.contains(SECRET), "{log}");
    }
    assert!(!files_with(folder.join("data"), &order).is_empty(), "what is written can be read");
    let written = files_with(folder.join("data"), SECRET);
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn credentials_that_are_no_header_stop_the_start_and_are_not_shown() {
    let folder = Folder::new("no-header");
    for wrong in ["Bearer sk-live-4711\r\nx-more: 1", "Bearer sk-live-4711\u{7f}"] {
        let mut server = Credentialed::spawn(&folder, "stderr.log", "http://127.0.0.1:9", wrong);
        let mut ended = None;
        await_condition("the refusal", || {
            ended = server.child.try_wait().expect("it is ours");
            ended.is_some()
        });
        let log = read(&folder.join("stderr.log"));
        assert_eq!(ended.and_then(|status| status.code()), Some(78), "{log}");
        assert!(log.contains("WIMS_PAYMENTS_AUTHORIZATION"), "{log}");
        assert!(!log.contains(SECRET), "{log}");
        assert!(!folder.join("data").exists(), "it is refused before anything is touched");
    }
}

#[test]
fn an_api_whose_certificate_nobody_vouches_for_is_sent_nothing_and_payments_wait() {
    let payments = TlsPayments::start();
    let url = format!("--payments-url={}", payments.url);
    let server = Server::start("untrusted-payments", &[&url]);
    let order = server.order("349", 7);
    await_condition("deferrals", || of_pipe(&server, "deferrals_total") >= 3.0);
    assert_nothing_was_sent(&server, &order);
    assert_eq!(server.get("/inventory").1["reserved"], 7);
    await_condition("as many connections", || payments.told().len() >= 3);
    let told = payments.told();
    assert!(told.iter().all(|line| line.starts_with("no request: ")), "{told:?}");
    let log = server.log();
    let reasons = log.matches("invalid peer certificate: UnknownIssuer").count();
    assert_eq!(reasons, 1, "the log says why, once a minute:\n{log}");
}

#[test]
fn an_api_of_a_private_ca_is_paid_over_https_once_the_ca_is_named() {
    let payments = TlsPayments::start();
    let url = format!("--payments-url={}", payments.url);
    let server = Server::start("private-payments", &[&url, &format!("--payments-ca={CA}")]);
    let order = server.order("349", 7);
    server.await_status(&order, "READY");
    assert_eq!(payments.told(), ["POST /payments HTTP/1.1"]);
}

#[test]
fn an_api_that_cannot_be_called_as_told_stops_the_start() {
    let folder = Folder::new("untold-payments");
    let (url, key) = ("--payments-url=https://127.0.0.1:9", CERTIFICATE[1]);
    let absent = format!("--payments-ca={}", folder.join("absent.pem").display());
    let no_certificate = format!("--payments-ca={key}");
    for (options, code, said) in [
        (vec![url, absent.as_str()], 78, "absent.pem"),
        (vec![url, no_certificate.as_str()], 78, "a PEM file"),
        (vec![absent.as_str()], 2, "--payments-url"),
        (vec!["--payments-url=http://me:secret@127.0.0.1:9"], 78, "WIMS_PAYMENTS_AUTHORIZATION"),
    ] {
        let data = format!("--data-dir={}", folder.join("data").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_wims"));
        let output = command.args(["serve", &data, "--listen=127.0.0.1:0"]).args(&options).output();
        let output = output.expect("the binary starts");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {log}");
        assert!(log.contains(said), "{options:?}: {log}");
        assert!(!log.contains("secret"), "{options:?}: {log}");
    }
}

#[test]
fn a_connection_that_does_not_come_about_is_nothing_sent_however_short_the_timeout() {
    // The system takes connections for it, and nobody ever says a word of TLS.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("--payments-url=https://{}", silent.local_addr().expect("an address"));
    let server = Server::start("silent-payments", &[&url, "--payments-timeout=2"]);
    let order = server.order("349", 7);
    await_condition("a call to end", || {
        of_pipe(&server, "deferrals_total") + of_pipe(&server, "unknowns_total") >= 1.0
    });
    assert_nothing_was_sent(&server, &order);
}
