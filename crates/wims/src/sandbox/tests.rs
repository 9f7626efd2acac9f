//! What the payments sandbox promises its callers, asked of a real server over a real socket, and
//! the harness for that, which the ledger's tests share.
//! Deliberately absent: a wait for the limits on slow and idle connections.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

/// Far above what any test needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of its own for one test, gone with it.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Folder {
        let name = format!("wims-sandbox-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(super) fn options(&self) -> SandboxOptions {
        SandboxOptions {
            rate_per_second: 1_000.0,
            burst: 1_000,
            ledger: self.0.join("ledger.jsonl"),
            decline_percent: 0,
            error_percent: 0,
            refund_error_percent: 0,
            delay_ms: 0,
            drop_after_charge_every: 0,
            late_charge_ms: 0,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A sandbox that runs until the test stops it.
pub(super) struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

pub(super) struct Got {
    pub(super) status: u16,
    head: String,
    pub(super) body: Value,
}

pub(super) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Running {
    pub(super) async fn start(options: SandboxOptions) -> Running {
        let sandbox = Sandbox::bind(any_port(), options).await.unwrap();
        let address = sandbox.local_addr();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(sandbox.run(async move {
            let _ = stopped.await;
        }));
        Running { address, stop, task }
    }

    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }

    /// The answer, or nothing when the connection was cut.
    async fn exchange(&self, request: &str) -> Option<Got> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap();
        read.ok()?;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Got { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap() })
    }

    pub(super) async fn pay(&self, key: &str, order_id: &str) -> Got {
        self.exchange(&post(key, order_id)).await.unwrap()
    }

    pub(super) async fn refund(&self, key: &str) -> Got {
        let head = format!(
            "POST /payments/{key}/refund HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        );
        self.exchange(&head).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Got {
        let head = format!("GET {path} HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n");
        self.exchange(&head).await.unwrap()
    }

    async fn stat(&self, name: &str) -> u64 {
        self.get("/stats").await.body[name].as_u64().unwrap()
    }

    async fn until_calls(&self, count: u64) {
        let reached = async {
            while self.stat("calls").await < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    }

    async fn until_found(&self, key: &str) -> Got {
        let found = async {
            loop {
                let got = self.get(&format!("/payments/{key}")).await;
                if got.status == 200 {
                    return got;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, found).await.unwrap()
    }
}

fn post(key: &str, order_id: &str) -> String {
    let body = json!({
        "orderId": order_id,
        "customerId": "349",
        "amount": 17_500,
        "currency": "USD",
        "quantity": 7,
    });
    post_body(&format!("Idempotency-Key: {key}\r\n"), &body.to_string())
}

fn post_body(key_line: &str, body: &str) -> String {
    let length = body.len();
    let head = "POST /payments HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n";
    format!("{head}{key_line}Content-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn the_same_key_twice_charges_once_and_counts_a_repeat() {
    let folder = Folder::new();
    let sandbox = Running::start(folder.options()).await;
    let first = sandbox.pay("order-1:1", "order-1").await;
    let second = sandbox.pay("order-1:1", "order-1").await;
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body["message"], "Payment Success!");
    assert_eq!(first.body, second.body);
    let found = sandbox.get("/payments/order-1%3A1").await;
    assert_eq!(found.status, 200);
    assert_eq!(found.body["status"], "PAID");
    assert_eq!(found.body["paymentId"], first.body["paymentId"]);
    let expected = json!({
        "calls": 2, "charges": 1, "refunds": 0, "throttled": 0, "repeats": 1, "lookups": 1
    });
    assert_eq!(sandbox.get("/stats").await.body, expected);
    sandbox.stop().await;
}

#[tokio::test]
async fn two_calls_at_once_with_a_new_key_charge_once() {
    let folder = Folder::new();
    let options = SandboxOptions { delay_ms: 50, ..folder.options() };
    let sandbox = Running::start(options).await;
    let (one, other) = tokio::join!(sandbox.pay("k", "order-1"), sandbox.pay("k", "order-1"));
    assert_eq!((one.status, other.status), (200, 200));
    assert_eq!(one.body["paymentId"], other.body["paymentId"]);
    assert_eq!((sandbox.stat("charges").await, sandbox.stat("repeats").await), (1, 1));
    sandbox.stop().await;
}

#[tokio::test]
async fn many_calls_at_once_are_all_charged_and_on_disk() {
    let folder = Folder::new();
    let sandbox = Arc::new(Running::start(folder.options()).await);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..100 {
        let sandbox = Arc::clone(&sandbox);
        callers.spawn(async move {
            let name = format!("order-{number}");
            sandbox.pay(&name, &name).await.status
        });
    }
    let statuses = callers.join_all().await;
    assert!(statuses.iter().all(|status| *status == 200));
    Arc::into_inner(sandbox).unwrap().stop().await;
    let again = Running::start(folder.options()).await;
    assert_eq!((again.stat("calls").await, again.stat("charges").await), (100, 100));
    again.stop().await;
}

#[tokio::test]
async fn calls_past_the_burst_are_told_when_to_come_back() {
    let folder = Folder::new();
    let options = SandboxOptions { rate_per_second: 0.01, burst: 2, ..folder.options() };
    let sandbox = Running::start(options).await;
    assert_eq!(sandbox.pay("k1", "order-1").await.status, 200);
    assert_eq!(sandbox.pay("k2", "order-2").await.status, 200);
    let refused = sandbox.pay("k3", "order-3").await;
    assert_eq!(refused.status, 429);
    let (_, after) = refused.head.split_once("retry-after: ").unwrap();
    let seconds: u64 = after.lines().next().unwrap().parse().unwrap();
    assert!((1..=100).contains(&seconds), "{seconds}");
    assert_eq!(sandbox.get("/payments/k3").await.status, 404);
    assert_eq!((sandbox.stat("calls").await, sandbox.stat("throttled").await), (3, 1));
    sandbox.stop().await;
}

#[test]
fn the_bucket_refills_at_its_rate_and_holds_no_more_than_the_burst() {
    let mut bucket = Bucket::full(0.5, 2);
    let start = bucket.filled_at;
    assert_eq!(bucket.take(start), Ok(()));
    assert_eq!(bucket.take(start), Ok(()));
    assert_eq!(bucket.take(start), Err(2));
    assert_eq!(bucket.take(start + Duration::from_secs(1)), Err(1));
    assert_eq!(bucket.take(start + Duration::from_secs(2)), Ok(()));
    let later = start + Duration::from_secs(1_000);
    let taken = [bucket.take(later), bucket.take(later), bucket.take(later)];
    assert_eq!(taken, [Ok(()), Ok(()), Err(2)]);
    let mut dry = Bucket::full(0.0, 0);
    assert_eq!([dry.take(later), dry.take(later)], [Ok(()), Err(3_600)]);
}

#[tokio::test]
async fn a_decline_is_remembered_by_its_key() {
    let folder = Folder::new();
    let options = SandboxOptions { decline_percent: 100, ..folder.options() };
    let strict = Running::start(options).await;
    let declined = strict.pay("k", "order-1").await;
    assert_eq!((declined.status, &declined.body["reason"]), (402, &json!(INSUFFICIENT_FUNDS)));
    strict.stop().await;
    let lenient = Running::start(folder.options()).await;
    assert_eq!(lenient.pay("k", "order-1").await.body, declined.body);
    assert_eq!(lenient.get("/payments/k").await.body["status"], "DECLINED");
    assert_eq!((lenient.stat("charges").await, lenient.stat("repeats").await), (0, 0));
    lenient.stop().await;
}

#[tokio::test]
async fn an_injected_error_leaves_nothing_behind() {
    let folder = Folder::new();
    let options = SandboxOptions { error_percent: 100, ..folder.options() };
    let sandbox = Running::start(options).await;
    assert_eq!(sandbox.pay("k", "order-1").await.status, 500);
    assert_eq!(sandbox.get("/payments/k").await.status, 404);
    assert_eq!(sandbox.stat("charges").await, 0);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_ledger_or_port_in_use_is_refused() {
    let folder = Folder::new();
    let holder = Sandbox::bind(any_port(), folder.options()).await.unwrap();
    let error = Sandbox::bind(any_port(), folder.options()).await.err().unwrap();
    assert!(matches!(error, SandboxError::LedgerLocked { .. }), "{error}");
    let other = SandboxOptions { ledger: folder.0.join("other.jsonl"), ..folder.options() };
    let error = Sandbox::bind(holder.local_addr(), other).await.err().unwrap();
    assert!(matches!(error, SandboxError::AddressInUse { .. }), "{error}");
    assert!(!folder.0.join("other.jsonl").exists());
}

#[tokio::test]
async fn a_cut_connection_leaves_its_charge_paid() {
    let folder = Folder::new();
    let options = SandboxOptions { drop_after_charge_every: 2, ..folder.options() };
    let sandbox = Running::start(options).await;
    assert_eq!(sandbox.pay("k1", "order-1").await.status, 200);
    assert!(sandbox.exchange(&post("k2", "order-2")).await.is_none());
    assert_eq!(sandbox.get("/payments/k2").await.body["status"], "PAID");
    assert_eq!(sandbox.pay("k2", "order-2").await.status, 200);
    assert_eq!((sandbox.stat("charges").await, sandbox.stat("repeats").await), (2, 1));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_late_charge_happens_although_its_caller_left() {
    let folder = Folder::new();
    let options = SandboxOptions { late_charge_ms: 1_500, ..folder.options() };
    let sandbox = Running::start(options).await;
    let mut caller = TcpStream::connect(sandbox.address).await.unwrap();
    caller.write_all(post("k", "order-1").as_bytes()).await.unwrap();
    sandbox.until_calls(1).await;
    drop(caller);
    assert_eq!(sandbox.get("/payments/k").await.status, 404);
    assert_eq!(sandbox.until_found("k").await.body["status"], "PAID");
    assert_eq!(sandbox.stat("charges").await, 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_call_that_is_no_payment_is_refused_as_a_problem() {
    let folder = Folder::new();
    let sandbox = Running::start(folder.options()).await;
    let whole = r#"{"orderId":"o","customerId":"c","amount":5,"currency":"USD"}"#;
    let negative = r#"{"orderId":"o","customerId":"c","amount":-5,"currency":"USD"}"#;
    let no_code = r#"{"orderId":"o","customerId":"c","amount":5,"currency":"US"}"#;
    let key = "Idempotency-Key: k\r\n";
    for (key_line, body) in [("", whole), (key, negative), (key, no_code), (key, "{")] {
        let refused = sandbox.exchange(&post_body(key_line, body)).await.unwrap();
        assert_eq!(refused.status, 400, "{key_line}{body}");
        assert!(refused.head.contains(PROBLEM_JSON), "{}", refused.head);
    }
    assert_eq!(sandbox.pay("k", "order-1").await.status, 200);
    assert_eq!(sandbox.pay("k", "order-2").await.status, 422);
    assert_eq!(sandbox.get("/elsewhere").await.status, 404);
    sandbox.stop().await;
}
