//! The sandbox of the article's external `PaymentsApi`, the one the payments queue protects: a
//! real HTTP server that throttles, and declines, fails, is late or breaks off when told to.
//! Its callers use it synchronously; it knows nothing of orders, queues or events.
//!
//! Promise: a key is charged at most once and refunded at most once, and an outcome is on disk (fdatasync) before it is told
//! to anyone. `charges` is exact after any kill, and the counters are at least as new as the last
//! outcome on disk; what a kill may lose are the calls, throttles, repeats and look-ups of the
//! last second after it.
//!
//! A refund is of a key that was charged, once however often it is asked for.
//!
//! Deliberately absent: credentials, TLS, any look at `paymentMethod` or `quantity`, and
//! forgetting: every outcome stays in memory (some hundred bytes each) and in the ledger, which
//! only grows.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

mod ledger;
mod refunds;

use ledger::{Counters, Known, Ledger, State, locked, open_ledger};

/// A payment's body has some hundred bytes; this leaves room for a talkative caller.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longer keys than any scheme of ids needs would only fill the ledger.
const KEY_BYTES_MAX: usize = 255;
/// Below the usual hard limit of open files; further callers wait in the kernel's backlog.
const CONNECTIONS_MAX: u32 = 4_096;
/// Payments under way, also those whose caller left: 100 a second, each a minute late, and more.
/// It bounds the ledger's queue too, since a call waits with at most one entry.
const CALLS_MAX: u32 = 10_000;
/// The longest honest advice: a bucket that hardly refills says "in an hour".
const RETRY_AFTER_S_MAX: f64 = 3_600.0;
/// For a request's body, counted from the end of its head.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may be idle between two requests; hyper counts the next head into it.
/// Above the 90 s for which the usual clients pool a connection, so that none is cut under them.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// A clean stop waits for `READ_LIMIT` and some syncs, on top of the delays asked for; idle
/// connections close at once, and a head that is still incomplete then is given up.
const STOP_GRACE: Duration = Duration::from_secs(15);
/// Lets other connections end when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const INSUFFICIENT_FUNDS: &str = "insufficient_funds";
const JSON: &str = "application/json";
const PROBLEM_JSON: &str = "application/problem+json";

/// How the sandbox behaves, and where it keeps what it charged.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Calls of `POST /payments` let through per second in the long run.
    pub rate_per_second: f64,
    /// Calls let through at once after a quiet time; 0 is taken as 1, or nothing would pass.
    pub burst: u32,
    /// The file of outcomes and counters, created when absent.
    pub ledger: PathBuf,
    /// Chance in percent that a new payment is declined, which its key remembers.
    pub decline_percent: u8,
    /// Chance in percent that a call is answered 500, of which nothing is remembered.
    pub error_percent: u8,
    /// The same of a refund.
    pub refund_error_percent: u8,
    /// How long after its arrival a new payment is treated.
    pub delay_ms: u64,
    /// Every Nth new charge is kept, but its connection is cut without an answer; 0 = never.
    pub drop_after_charge_every: u64,
    /// How long after its arrival a payment is charged, also when its caller left; 0 = never late.
    pub late_charge_ms: u64,
}

/// A reason the sandbox cannot start, told as a fragment fit for "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The port is taken.
    #[error(
        "listen on {listen}: another process listens there already; stop it, or choose another port"
    )]
    AddressInUse {
        /// The address asked for.
        listen: SocketAddr,
    },
    /// The address cannot be listened on for another reason.
    #[error("listen on {listen}: {cause}")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The ledger cannot be opened, read, cut or synced.
    #[error("open the sandbox's ledger {}: {cause}", .ledger.display())]
    LedgerUnreadable {
        /// The ledger's path.
        ledger: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A whole line of the ledger is not one of ours.
    #[error(
        "read the sandbox's ledger {}: line {line} is corrupted ({cause}); \
         restore the file from a copy, or move it away to begin a new one",
        .ledger.display()
    )]
    LedgerCorrupted {
        /// The ledger's path.
        ledger: PathBuf,
        /// The line's number, counted from 1.
        line: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// Another process works with the ledger.
    #[error(
        "lock the sandbox's ledger {}: another process uses it; stop it, or name another ledger",
        .ledger.display()
    )]
    LedgerLocked {
        /// The ledger's path.
        ledger: PathBuf,
    },
    /// The thread that writes the ledger cannot be started.
    #[error("start the thread that writes the sandbox's ledger: {cause}")]
    Writer {
        /// What the system said.
        cause: io::Error,
    },
}

/// A port that is ours; callers wait in its backlog until [`Sandbox::run`]. No file is touched.
pub struct Port {
    listener: TcpListener,
    address: SocketAddr,
}

impl Port {
    /// Binds it; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(listen: SocketAddr) -> Result<Port, SandboxError> {
        let refused = |cause| listen_refused(listen, cause);
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Port { listener, address })
    }
}

/// A payments API with its port bound and its ledger open, ready to run.
pub struct Sandbox {
    port: Port,
    api: Arc<PaymentsApi>,
    writer: thread::JoinHandle<()>,
}

impl Sandbox {
    /// Binds the port and opens the ledger, in this order.
    ///
    /// # Errors
    /// When the address or the ledger cannot be had; see [`SandboxError`].
    pub async fn bind(
        listen: SocketAddr,
        options: SandboxOptions,
    ) -> Result<Sandbox, SandboxError> {
        Sandbox::open(Port::bind(listen).await?, options)
    }

    /// Opens the ledger of a sandbox whose port is bound.
    ///
    /// The ledger is read on the calling thread: it happens once, before anybody is answered.
    ///
    /// # Errors
    /// When the ledger cannot be had; see [`SandboxError`].
    pub fn open(port: Port, options: SandboxOptions) -> Result<Sandbox, SandboxError> {
        let (file, state) = open_ledger(&options)?;
        let state = Arc::new(Mutex::new(state));
        let (ledger, writer) = Ledger::start(file, Arc::clone(&state))
            .map_err(|cause| SandboxError::Writer { cause })?;
        let api = Arc::new(PaymentsApi::new(options, state, ledger));
        Ok(Sandbox { port, api, writer })
    }

    /// The address bound, with the port the system chose when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.port.address
    }

    /// Serves until `shutdown`; then answers what is under way, and syncs and closes the ledger.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let Sandbox { port, api, writer } = self;
        // Never sent to: connections learn from its drop that the sandbox stops.
        let (running, stopped) = watch::channel(());
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = shutdown.as_mut() => break,
                (stream, slot) = api.accept(&port.listener) => {
                    tokio::spawn(serve(Arc::clone(&api), stream, slot, stopped.clone()));
                }
            }
        }
        drop(port);
        drop(running);
        api.finish().await;
        close(&api.ledger, writer).await;
    }
}

fn listen_refused(listen: SocketAddr, cause: io::Error) -> SandboxError {
    match cause.kind() {
        io::ErrorKind::AddrInUse => SandboxError::AddressInUse { listen },
        _ => SandboxError::Listen { listen, cause },
    }
}

/// Serves one connection until its caller, a cut or the sandbox's stop ends it.
async fn serve(
    api: Arc<PaymentsApi>,
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<()>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let api = Arc::clone(&api);
        async move { api.answer(request).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the sandbox ended early");
    }
}

/// Lets the writer sync what it holds and waits until the ledger's lock is free again.
async fn close(ledger: &Ledger, writer: thread::JoinHandle<()>) {
    ledger.stop();
    let joined = tokio::task::spawn_blocking(move || writer.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        tracing::error!("the thread that wrote the sandbox's ledger panicked");
    }
}

/// What the service function returns to make hyper close a connection without writing to it.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut on purpose")]
struct Cut;

/// What becomes of a request that was not refused.
enum Reply {
    Answer(Response<Body>),
    Cut,
}

/// The caller is told no; the message is the problem's detail.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request is not a payment: {0}")]
    Invalid(String),
    #[error("there is no route {0}")]
    NoSuchRoute(String),
    #[error("no payment with the key {0} was charged or declined")]
    NotCharged(String),
    #[error("the payment with the key {0} was declined; there is nothing to refund")]
    NothingToRefund(String),
    #[error("the body did not arrive within {} seconds", READ_LIMIT.as_secs())]
    BodyTooSlow,
    #[error("the body has more than {BODY_BYTES_MAX} bytes")]
    BodyTooLarge,
    #[error("this Idempotency-Key belongs to a payment of another order, amount or currency")]
    OtherTerms,
    #[error("more calls than the rate allows; come back in {retry_after_s} seconds")]
    Throttled { retry_after_s: u64 },
    #[error("{CALLS_MAX} payments are under way already")]
    Busy,
    #[error("the sandbox was told to fail now and then; nothing was charged")]
    Injected,
    #[error("nothing was charged: the ledger cannot be written until the sandbox starts anew")]
    LedgerStopped,
    #[error("the ledger failed; whether this payment was charged shows when it starts anew")]
    OutcomeUnknown,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::NoSuchRoute(_) | Refusal::NotCharged(_) => StatusCode::NOT_FOUND,
            Refusal::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Refusal::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::OtherTerms | Refusal::NothingToRefund(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Injected | Refusal::LedgerStopped | Refusal::OutcomeUnknown => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    fn retry_after_s(&self) -> Option<u64> {
        match self {
            Refusal::Throttled { retry_after_s } => Some(*retry_after_s),
            Refusal::Busy => Some(1),
            Refusal::Invalid(_)
            | Refusal::NoSuchRoute(_)
            | Refusal::NotCharged(_)
            | Refusal::NothingToRefund(_)
            | Refusal::BodyTooSlow
            | Refusal::BodyTooLarge
            | Refusal::OtherTerms
            | Refusal::Injected
            | Refusal::LedgerStopped
            | Refusal::OutcomeUnknown => None,
        }
    }

    /// The problem of RFC 9457.
    fn response(&self) -> Response<Body> {
        let status = self.status();
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.to_string(),
        });
        let mut response = answer(status, PROBLEM_JSON, &problem);
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(body).expect("an answer has only strings as its keys");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The routes and what they share.
struct PaymentsApi {
    options: SandboxOptions,
    /// Held for a look or a decision, never across an await.
    state: Arc<Mutex<State>>,
    ledger: Ledger,
    connections: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

impl PaymentsApi {
    fn new(options: SandboxOptions, state: Arc<Mutex<State>>, ledger: Ledger) -> PaymentsApi {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
        let calls = Arc::new(Semaphore::new(CALLS_MAX as usize));
        PaymentsApi { options, state, ledger, connections, calls }
    }

    /// The next connection, once there is room for it.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, OwnedSemaphorePermit) {
        let slot = Arc::clone(&self.connections).acquire_owned().await;
        let slot = slot.expect("the semaphore of connections is never closed");
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Small answers shall not wait for more; a refusal only makes them slower.
                    let _ = stream.set_nodelay(true);
                    return (stream, slot);
                }
                Err(error) => {
                    tracing::warn!(%error, "the sandbox cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until no connection is open and no payment is under way.
    async fn finish(&self) {
        let delay_ms = self.options.delay_ms.max(self.options.late_charge_ms);
        let limit = Duration::from_millis(delay_ms).saturating_add(STOP_GRACE);
        let drained = async {
            let _all_connections = self.connections.acquire_many(CONNECTIONS_MAX).await;
            let _all_calls = self.calls.acquire_many(CALLS_MAX).await;
        };
        if timeout(limit, drained).await.is_err() {
            tracing::warn!("the sandbox stops although some of its callers still wait");
        }
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        match self.route(request).await {
            Ok(Reply::Answer(response)) => Ok(response),
            Ok(Reply::Cut) => Err(Cut),
            Err(refusal) => Ok(refusal.response()),
        }
    }

    async fn route(self: &Arc<Self>, request: Request<Incoming>) -> Result<Reply, Refusal> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/payments") => self.pay(request).await,
            (&Method::GET, "/stats") => Ok(Reply::Answer(self.stats())),
            (&Method::GET, "/healthz") => {
                Ok(Reply::Answer(answer(StatusCode::OK, JSON, &json!({"status": "ok"}))))
            }
            (method, path) => match path.strip_prefix("/payments/") {
                Some(key) if method == Method::GET => self.look_up(key).map(Reply::Answer),
                Some(rest) if method == Method::POST => match rest.strip_suffix("/refund") {
                    Some(key) => {
                        let key = key.to_owned();
                        self.refund(key, request).await.map(Reply::Answer)
                    }
                    None => Err(Refusal::NoSuchRoute(format!("{method} {path}"))),
                },
                _ => Err(Refusal::NoSuchRoute(format!("{method} {path}"))),
            },
        }
    }

    /// `POST /payments`: counts, throttles, checks, recalls, and only then charges or declines.
    async fn pay(self: &Arc<Self>, request: Request<Incoming>) -> Result<Reply, Refusal> {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        // Read before the bucket is asked: an unread body would cost a throttled caller its
        // connection.
        let body = read(body).await;
        self.admit()?;
        let call = Call::read(&head.headers, &body?)?;
        let recalled = self.state().recall(&call)?;
        if let Some(known) = recalled {
            return self.synced(known).await.map(|payment| Reply::Answer(payment.response()));
        }
        self.settle_detached(call, arrived).await
    }

    fn admit(&self) -> Result<(), Refusal> {
        let mut state = self.state();
        state.counters.calls += 1;
        let admitted = state.bucket.take(Instant::now());
        state.counters.throttled += u64::from(admitted.is_err());
        admitted.map_err(|retry_after_s| Refusal::Throttled { retry_after_s })
    }

    /// Settles in a task of its own: hyper drops the service of a caller who leaves, and a charge
    /// must not depend on that.
    async fn settle_detached(
        self: &Arc<Self>,
        call: Call,
        arrived: Instant,
    ) -> Result<Reply, Refusal> {
        let slot = Arc::clone(&self.calls).try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let api = Arc::clone(self);
        let settled = tokio::spawn(async move {
            let _slot = slot;
            api.settle(call, arrived).await
        });
        settled.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }

    async fn settle(&self, call: Call, arrived: Instant) -> Result<Reply, Refusal> {
        pause_until(arrived, self.options.delay_ms).await;
        if happens(self.options.error_percent) {
            return Err(Refusal::Injected);
        }
        pause_until(arrived, self.options.late_charge_ms).await;
        let (known, cut) = self.decide(call)?;
        let payment = self.synced(known).await?;
        Ok(if cut { Reply::Cut } else { Reply::Answer(payment.response()) })
    }

    /// Decides once per key and tells whether the connection is to be cut.
    ///
    /// The key is recalled again, since another call may have taken it during the delay. Looking,
    /// handing to the ledger and remembering happen under one lock, so the ledger's order is ours.
    fn decide(&self, call: Call) -> Result<(Known, bool), Refusal> {
        let mut state = self.state();
        if let Some(known) = state.recall(&call)? {
            return Ok((known, false));
        }
        let payment = Arc::new(call.into_payment(Outcome::drawn(self.options.decline_percent)));
        self.ledger.append(&payment)?;
        let cut = payment.is_paid() && state.cuts(self.options.drop_after_charge_every);
        Ok((state.remember(payment), cut))
    }

    /// The payment, once it is on disk: before that nobody is told of it.
    async fn synced(&self, known: Known) -> Result<Arc<Payment>, Refusal> {
        if self.ledger.synced(known.seq).await {
            Ok(known.payment)
        } else {
            Err(Refusal::OutcomeUnknown)
        }
    }

    /// `GET /payments/{key}`: what became of it, as far as it is on disk.
    fn look_up(&self, path_key: &str) -> Result<Response<Body>, Refusal> {
        let key = percent_decoded(path_key);
        let mut state = self.state();
        state.counters.lookups += 1;
        let known = key.and_then(|key| state.payments.get(&key).cloned());
        drop(state);
        match known {
            Some(known) if self.ledger.has_synced(known.seq) => {
                Ok(answer(StatusCode::OK, JSON, &*known.payment))
            }
            Some(known) if known.payment.is_refunded() => {
                Ok(answer(StatusCode::OK, JSON, &known.payment.before_refund()))
            }
            // A failed sync may have reached the disk all the same; 404 would be a lie then.
            Some(_) if self.ledger.has_failed() => Err(Refusal::OutcomeUnknown),
            Some(_) | None => Err(Refusal::NotCharged(path_key.to_owned())),
        }
    }

    /// `GET /stats`, over the ledger's life.
    fn stats(&self) -> Response<Body> {
        let state = self.state();
        let Counters { calls, throttled, repeats, lookups } = state.counters;
        let (charges, refunds) = (state.charges, state.refunds);
        drop(state);
        let stats = json!({
            "calls": calls,
            "charges": charges,
            "refunds": refunds,
            "throttled": throttled,
            "repeats": repeats,
            "lookups": lookups,
        });
        answer(StatusCode::OK, JSON, &stats)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    match timeout(READ_LIMIT, to_bytes(Body::new(body), BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // Or the caller broke off, and then nobody reads this.
        Ok(Err(_)) => Err(Refusal::BodyTooLarge),
        Err(_) => Err(Refusal::BodyTooSlow),
    }
}

async fn pause_until(arrived: Instant, after_ms: u64) {
    if after_ms > 0 {
        sleep_until(arrived + Duration::from_millis(after_ms)).await;
    }
}

fn happens(percent: u8) -> bool {
    fastrand::u8(..100) < percent
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut encoded = text.bytes();
    while let Some(byte) = encoded.next() {
        decoded.push(match byte {
            b'%' => (hex_digit(encoded.next()?)? << 4) | hex_digit(encoded.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A valid `POST /payments`.
struct Call {
    key: String,
    terms: Terms,
}

/// The body's fields that matter here; others are let pass.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terms {
    order_id: String,
    customer_id: String,
    /// In minor units.
    amount: u64,
    currency: String,
}

impl Call {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Call, Refusal> {
        let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
        let key = key.filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX);
        let key = key.ok_or_else(|| {
            let needed = "the header Idempotency-Key needs 1 to";
            Refusal::Invalid(format!("{needed} {KEY_BYTES_MAX} printable ASCII characters"))
        })?;
        let terms: Terms =
            serde_json::from_slice(body).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let findings = terms.findings();
        if findings.is_empty() {
            Ok(Call { key: key.to_owned(), terms })
        } else {
            Err(Refusal::Invalid(findings.join("; ")))
        }
    }

    fn into_payment(self, outcome: Outcome) -> Payment {
        let Terms { order_id, amount, currency, .. } = self.terms;
        Payment { key: self.key, outcome, order_id, amount, currency }
    }
}

impl Terms {
    fn findings(&self) -> Vec<&'static str> {
        let currency = self.currency.as_bytes();
        let is_currency = currency.len() == 3 && currency.iter().all(u8::is_ascii_alphabetic);
        let checks = [
            (!self.order_id.is_empty(), "orderId is empty"),
            (!self.customer_id.is_empty(), "customerId is empty"),
            (is_currency, "currency is not a code of three letters"),
        ];
        checks.into_iter().filter(|(holds, _)| !holds).map(|(_, finding)| finding).collect()
    }
}

/// What became of a key for good; as JSON it is both the ledger's entry and the look-up's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payment {
    key: String,
    #[serde(flatten)]
    outcome: Outcome,
    order_id: String,
    /// In minor units.
    amount: u64,
    currency: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "UPPERCASE", rename_all_fields = "camelCase")]
enum Outcome {
    Paid {
        payment_id: String,
    },
    Declined {
        reason: String,
    },
    /// Charged, and given back since.
    Refunded {
        payment_id: String,
    },
}

impl Outcome {
    fn drawn(decline_percent: u8) -> Outcome {
        if happens(decline_percent) {
            Outcome::Declined { reason: INSUFFICIENT_FUNDS.to_owned() }
        } else {
            Outcome::Paid { payment_id: format!("pay_{:032x}", fastrand::u128(..)) }
        }
    }
}

impl Payment {
    fn is_paid(&self) -> bool {
        match self.outcome {
            Outcome::Paid { .. } => true,
            Outcome::Declined { .. } | Outcome::Refunded { .. } => false,
        }
    }

    fn is_refunded(&self) -> bool {
        match self.outcome {
            Outcome::Refunded { .. } => true,
            Outcome::Paid { .. } | Outcome::Declined { .. } => false,
        }
    }

    fn is_for(&self, terms: &Terms) -> bool {
        self.order_id == terms.order_id
            && self.amount == terms.amount
            && self.currency == terms.currency
    }

    /// The answer of `POST /payments`, the same every time.
    fn response(&self) -> Response<Body> {
        match &self.outcome {
            // To charge again what was refunded is a repeat of the charge.
            Outcome::Paid { payment_id } | Outcome::Refunded { payment_id } => {
                let paid = json!({
                    "message": "Payment Success!",
                    "paymentId": payment_id,
                    "orderId": self.order_id,
                    "amount": self.amount,
                    "currency": self.currency,
                });
                answer(StatusCode::OK, JSON, &paid)
            }
            Outcome::Declined { reason } => {
                let declined = json!({"message": "Payment declined", "reason": reason});
                answer(StatusCode::PAYMENT_REQUIRED, JSON, &declined)
            }
        }
    }
}

/// The token bucket: starts full, refills steadily, holds no more than the burst.
struct Bucket {
    tokens: f64,
    burst: f64,
    rate_per_second: f64,
    filled_at: Instant,
}

impl Bucket {
    fn full(rate_per_second: f64, burst: u32) -> Bucket {
        let burst = f64::from(burst.max(1));
        let rate_per_second = rate_per_second.max(0.0);
        Bucket { tokens: burst, burst, rate_per_second, filled_at: Instant::now() }
    }

    /// Takes a token, or tells in how many whole seconds there is one.
    fn take(&mut self, now: Instant) -> Result<(), u64> {
        let passed_s = now.duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed_s * self.rate_per_second).min(self.burst);
        self.filled_at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait_s = ((1.0 - self.tokens) / self.rate_per_second).ceil();
        Err(wait_s.clamp(1.0, RETRY_AFTER_S_MAX) as u64)
    }
}

#[cfg(test)]
mod tests;
