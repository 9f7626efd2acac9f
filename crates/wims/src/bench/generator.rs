//! The load generator: `POST /orders` on keep-alive sockets, prebuilt bytes out, a count back.
//!
//! Promise: every request sent is in the report exactly once, under the status of its answer or
//! under 0 when none came; no request is sent twice; and the generator takes so little of the
//! cores it shares with the server (one write, one read and no allocation a request) that the
//! server is what is measured.
//! It deliberately knows no TLS, no pipelining, no chunked bodies and no other route, and it
//! never looks into a body: whether the orders are right is for the reconciliation to say.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinError, spawn_local};
use tokio::time::{sleep, timeout};

mod latencies;

pub use latencies::Latencies;

/// Below the number of ports one address can connect from.
const CONNECTIONS_MAX: usize = 16_384;
/// No run is longer; far from where an instant would overflow.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Above what one thread can send, and far below what a semaphore can hold.
const RATE_PER_SECOND_MAX: f64 = 10_000_000.0;
/// Enough different orders that no cache in the server sees the same bytes again soon.
const REQUESTS_MIN: u32 = 1_024;
/// About 10 MB of prebuilt bytes; customers beyond this many never order.
const REQUESTS_MAX: u32 = 65_536;
/// Units of one order: the article's orders are small.
const UNITS: RangeInclusive<u32> = 1..=10;
/// A reply is 90 bytes and a head; a problem document stays far below this too.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// How long the last answers may take after the load has ended.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// A connection to loopback that takes longer is refused by a full accept queue.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// A refused connection goes on after this long, whatever longer time it was asked to wait.
const REFUSAL_PAUSE_MAX: Duration = Duration::from_millis(100);
/// The pause before a lost connection is opened again.
const SETBACK_PAUSE: Duration = Duration::from_millis(100);
/// Lost requests and failed connects in a row, five seconds of them: a restart is shorter.
const SETBACKS_MAX: u32 = 50;
/// How often a paced run releases what is due; the runtime's own timer has only milliseconds.
const BEAT: Duration = Duration::from_micros(200);

const STATUS_UNANSWERED: u16 = 0;
const STATUS_OK: u16 = 200;
const STATUS_TOO_MANY_REQUESTS: u16 = 429;
const STATUS_UNAVAILABLE: u16 = 503;

/// What to send, where to, and until when: the deadline or the last request, whichever is first.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The server, usually on loopback.
    pub address: SocketAddr,
    /// Sockets kept open, each with at most one request on its way.
    pub connections: usize,
    /// How long requests are sent; answers are awaited somewhat longer.
    pub duration: Duration,
    /// No more requests than this, if given.
    pub requests_max: Option<u64>,
    /// Customer ids cycle over this many: `"1"` to `"customers"`.
    pub customers: u32,
    /// Equal seeds send equal orders.
    pub seed: u64,
    /// Requests a second over all connections; without it a connection sends once it is answered.
    pub rate_per_second: Option<f64>,
}

impl LoadPlan {
    /// The first thing in the plan that cannot be done, if any.
    fn check(&self) -> Result<(), LoadError> {
        let rate = self.rate_per_second.unwrap_or(1.0);
        let reachable = rate > 0.0 && rate <= RATE_PER_SECOND_MAX;
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            Err(LoadError::Plan("connections must be 1 to 16384"))
        } else if self.customers == 0 {
            Err(LoadError::Plan("customers must be at least 1"))
        } else if self.duration > DURATION_MAX {
            Err(LoadError::Plan("duration must be at most a day"))
        } else if !reachable {
            Err(LoadError::Plan("rate a second must be above 0 and at most 10 million"))
        } else {
            Ok(())
        }
    }

    /// How many turns there will be at most: in a paced run those due before the deadline.
    fn turns_max(&self) -> u64 {
        let paced = self
            .rate_per_second
            .map_or(u64::MAX, |rate| (self.duration.as_secs_f64() * rate).ceil() as u64);
        paced.min(self.requests_max.unwrap_or(u64::MAX))
    }
}

/// What came of a run; `requests` is the sum of `status_counts`.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Requests sent.
    pub requests: u64,
    /// Requests answered with 200.
    pub ok: u64,
    /// The sum of the quantities of the orders answered with 200.
    pub units: u64,
    /// Requests by status; 0 is a request whose answer never came, so its order may exist.
    pub status_counts: BTreeMap<u16, u64>,
    /// From the start of sending to the last answer; zero when there was none.
    pub elapsed: Duration,
    /// Processor time of the generator's own threads.
    pub cpu: Duration,
    /// Of the requests answered with 200: in a paced run from when the request was due.
    pub latencies: Latencies,
}

impl LoadReport {
    fn count(&mut self, turn: &Turn<'_>, status: u16, answered_at: Instant) {
        if status == STATUS_OK {
            self.ok += 1;
            self.units += turn.request.units;
            self.latencies.record(answered_at.saturating_duration_since(turn.due));
        } else {
            *self.status_counts.entry(status).or_default() += 1;
        }
    }

    /// Adds what is only known once the run has ended.
    fn close(&mut self, sent: u64, cpu: Duration) {
        let answered = self.ok + self.status_counts.values().sum::<u64>();
        assert!(answered <= sent, "an answer belongs to a request that was sent");
        for (status, count) in [(STATUS_OK, self.ok), (STATUS_UNANSWERED, sent - answered)] {
            if count > 0 {
                self.status_counts.insert(status, count);
            }
        }
        self.requests = sent;
        self.cpu = cpu;
    }
}

/// Why a run could not take place; trouble with single requests is in the report instead.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan asks for something that cannot be done.
    #[error("follow the plan of the load: {0}")]
    Plan(&'static str),
    /// A thread could not be started.
    #[error("start a thread of the generator")]
    Thread(#[source] io::Error),
    /// The runtime could not be started.
    #[error("start the runtime of the generator")]
    Runtime(#[source] io::Error),
    /// The server was not there at the start.
    #[error("connect to {address}")]
    Connect {
        /// Where it should have been.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not tell how long a thread has run.
    #[error("read the processor time of a thread")]
    CpuTime(#[source] io::Error),
    /// The task of a connection broke off: a bug in the generator.
    #[error("finish the task of a connection")]
    Task(#[source] JoinError),
    /// A thread of the generator panicked: a bug.
    #[error("finish a thread of the generator, which panicked")]
    Panicked,
}

/// Puts the load on the server, on a thread of its own, and waits for the report.
///
/// # Errors
/// When the plan cannot be done or the server cannot be reached at the start.
pub fn run(plan: &LoadPlan) -> Result<LoadReport, LoadError> {
    plan.check()?;
    let plan = plan.clone();
    let generator = thread::Builder::new()
        .name("bench-generator".to_owned())
        .spawn(move || run_on_this_thread(&plan))
        .map_err(LoadError::Thread)?;
    generator.join().unwrap_or(Err(LoadError::Panicked))
}

fn run_on_this_thread(plan: &LoadPlan) -> Result<LoadReport, LoadError> {
    let requests = prebuilt_requests(plan);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(LoadError::Runtime)?;
    runtime.block_on(perform(plan, requests))
}

/// Connects, lets every connection take turns until none is left, and closes the report.
async fn perform(plan: &LoadPlan, requests: Vec<Request>) -> Result<LoadReport, LoadError> {
    let connections = connect(plan).await?;
    let beat = plan.rate_per_second.map(|_| Beat::start()).transpose()?;
    let cpu_before = thread_cpu()?;
    let load = Rc::new(Load::start(plan, requests));
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| spawn_local(converse(Rc::clone(&load), connection)))
        .collect();
    let all = async {
        load.release_turns(beat.as_ref()).await;
        for task in tasks {
            task.await.map_err(LoadError::Task)?;
        }
        Ok::<(), LoadError>(())
    };
    match timeout(plan.duration + ANSWER_WAIT_MAX, all).await {
        Ok(finished) => finished?,
        Err(_) => tracing::warn!(address = %plan.address, "answers are still missing"),
    }
    let cpu_own = thread_cpu()?.saturating_sub(cpu_before);
    let cpu_beat = beat.map_or(Ok(Duration::ZERO), Beat::stop)?;
    Ok(load.report(cpu_own + cpu_beat))
}

async fn connect(plan: &LoadPlan) -> Result<Vec<Connection>, LoadError> {
    let address = plan.address;
    let mut connections = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        let opened = Connection::open(address).await;
        connections.push(opened.map_err(|source| LoadError::Connect { address, source })?);
    }
    Ok(connections)
}

/// The life of one connection: a turn, its answer, the next turn.
async fn converse(load: Rc<Load>, mut connection: Connection) {
    let mut setbacks = 0;
    while let Some(turn) = load.next_turn().await {
        match connection.exchange(&turn.request.bytes).await {
            Ok(answer) => {
                setbacks = 0;
                load.count(&turn, answer.status);
                if let Some(pause) = answer.pause() {
                    sleep(pause).await;
                }
                if !answer.closes {
                    continue;
                }
            }
            // Not counted here: what was sent and not answered is counted at the end.
            Err(error) => {
                setbacks += 1;
                tracing::debug!(address = %load.address, %error, "a request is lost");
            }
        }
        match load.reconnect(setbacks).await {
            Some(fresh) => connection = fresh,
            None => return,
        }
    }
}

/// What the connections of one run share: they live on one thread, so cells suffice.
struct Load {
    address: SocketAddr,
    connections: usize,
    requests: Vec<Request>,
    turns_max: u64,
    pace: Option<Pace>,
    started: Instant,
    deadline: Instant,
    sent: Cell<u64>,
    report: RefCell<LoadReport>,
}

/// When turns are released in a paced run: a turn is due by the clock, not by an answer.
struct Pace {
    rate_per_second: f64,
    /// Turns that are due and not taken. Whichever connection is free takes the next one in
    /// fair order, so a slow answer delays no other turn.
    released: Semaphore,
}

/// The right to send one request.
struct Turn<'a> {
    request: &'a Request,
    due: Instant,
}

impl Load {
    /// Starts the clock of the run.
    fn start(plan: &LoadPlan, requests: Vec<Request>) -> Self {
        let started = Instant::now();
        let pace = plan
            .rate_per_second
            .map(|rate_per_second| Pace { rate_per_second, released: Semaphore::new(0) });
        Self {
            address: plan.address,
            connections: plan.connections,
            requests,
            turns_max: plan.turns_max(),
            pace,
            started,
            deadline: started + plan.duration,
            sent: Cell::new(0),
            report: RefCell::default(),
        }
    }

    /// Waits until a request may be sent; none when the run is over.
    ///
    /// A paced turn that was due before the deadline is sent even if that has passed by now:
    /// leaving it out would hide the very delay that is measured.
    async fn next_turn(&self) -> Option<Turn<'_>> {
        if let Some(pace) = &self.pace {
            pace.released.acquire().await.ok()?.forget();
        }
        let number = self.sent.get();
        if number >= self.turns_max {
            return None;
        }
        let due = self.due(number);
        if due >= self.deadline {
            return None;
        }
        self.sent.set(number + 1);
        Some(Turn { request: &self.requests[number as usize % self.requests.len()], due })
    }

    fn due(&self, number: u64) -> Instant {
        match &self.pace {
            Some(pace) => {
                self.started + Duration::from_secs_f64(number as f64 / pace.rate_per_second)
            }
            None => Instant::now(),
        }
    }

    /// In a paced run, releases every turn at the beat after it is due, and at the end one more
    /// for each connection, which then finds that the run is over.
    async fn release_turns(&self, beat: Option<&Beat>) {
        let (Some(pace), Some(beat)) = (&self.pace, beat) else { return };
        let mut released = 0;
        while released < self.turns_max {
            beat.ticks.notified().await;
            let seconds = self.started.elapsed().as_secs_f64();
            let due = ((seconds * pace.rate_per_second) as u64 + 1).min(self.turns_max);
            pace.released.add_permits((due - released) as usize);
            released = due;
        }
        pace.released.add_permits(self.connections);
    }

    fn count(&self, turn: &Turn<'_>, status: u16) {
        let answered_at = Instant::now();
        let mut report = self.report.borrow_mut();
        report.count(turn, status, answered_at);
        report.elapsed = answered_at.saturating_duration_since(self.started);
    }

    /// A new connection for a lost one; none after too many setbacks or past the deadline.
    async fn reconnect(&self, mut setbacks: u32) -> Option<Connection> {
        while setbacks <= SETBACKS_MAX && Instant::now() < self.deadline {
            if setbacks > 0 {
                sleep(SETBACK_PAUSE).await;
            }
            match Connection::open(self.address).await {
                Ok(connection) => return Some(connection),
                Err(_) => setbacks += 1,
            }
        }
        tracing::warn!(address = %self.address, setbacks, "a connection stays closed");
        None
    }

    fn report(&self, cpu: Duration) -> LoadReport {
        let mut report = self.report.take();
        report.close(self.sent.get(), cpu);
        report
    }
}

/// One keep-alive socket and the buffer its answers arrive in.
struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = timeout(CONNECT_WAIT_MAX, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; ANSWER_BYTES_MAX].into_boxed_slice() })
    }

    /// Sends one request and reads the whole answer to it.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request).await?;
        self.receive().await
    }

    async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        let written = match self.stream.try_write(request) {
            Ok(written) if written == request.len() => return Ok(()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.stream.write_all(&request[written..]).await
    }

    /// Reads until the answer is complete, as a rule with one call.
    ///
    /// `read` and not `try_read`: a read that leaves room in the buffer tells tokio that the
    /// socket is empty, which saves the second call that would find nothing.
    async fn receive(&mut self) -> io::Result<Answer> {
        let mut filled = 0;
        while filled < self.buffer.len() {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some(answer) = Answer::parse(&self.buffer[..filled])? {
                return Ok(answer);
            }
        }
        Err(invalid("an answer longer than the buffer"))
    }
}

/// What the generator wants to know of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body_bytes: Option<usize>,
    retry_after: Option<Duration>,
    /// The server will close the connection, so it must not be used again.
    closes: bool,
}

impl Answer {
    /// The answer that these bytes are; none while some are missing.
    ///
    /// Source: RFC 9112, sections 2 to 6, without transfer codings.
    fn parse(received: &[u8]) -> io::Result<Option<Self>> {
        let Some(head_bytes) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let answer = Self::from_head(&received[..head_bytes])?;
        let body_bytes = answer.body_bytes.ok_or_else(|| invalid("an answer without a length"))?;
        match (received.len() - head_bytes - 4).cmp(&body_bytes) {
            Ordering::Less => Ok(None),
            Ordering::Equal => Ok(Some(answer)),
            Ordering::Greater => Err(invalid("more than the answer that was asked for")),
        }
    }

    fn from_head(head: &[u8]) -> io::Result<Self> {
        let mut lines = head.split(|byte| *byte == b'\n');
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix(b"HTTP/1.1 "))
            .and_then(|rest| number::<u16>(rest.get(..3)?))
            .ok_or_else(|| invalid("an answer that is not HTTP/1.1"))?;
        let mut answer = Self { status, body_bytes: None, retry_after: None, closes: false };
        for line in lines {
            if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                answer.read_field(&line[..colon], line[colon + 1..].trim_ascii());
            }
        }
        Ok(answer)
    }

    fn read_field(&mut self, name: &[u8], value: &[u8]) {
        if name.eq_ignore_ascii_case(b"content-length") {
            self.body_bytes = number(value);
        } else if name.eq_ignore_ascii_case(b"retry-after") {
            self.retry_after = number(value).map(Duration::from_secs);
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.closes = value.eq_ignore_ascii_case(b"close");
        }
    }

    /// How long a refused connection rests before its next turn.
    fn pause(&self) -> Option<Duration> {
        let refused = matches!(self.status, STATUS_TOO_MANY_REQUESTS | STATUS_UNAVAILABLE);
        refused.then(|| self.retry_after.unwrap_or(REFUSAL_PAUSE_MAX).min(REFUSAL_PAUSE_MAX))
    }
}

fn number<N: FromStr>(digits: &[u8]) -> Option<N> {
    str::from_utf8(digits).ok()?.parse().ok()
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// One order, as the bytes that go over the wire.
struct Request {
    bytes: Box<[u8]>,
    units: u64,
}

impl Request {
    fn new(address: SocketAddr, customer: u32, units: u32) -> Self {
        let body = format!(r#"{{"customerId":"{customer}","quantity":{units}}}"#);
        let text = format!(
            "POST /orders HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self { bytes: text.into_bytes().into_boxed_slice(), units: u64::from(units) }
    }
}

/// The requests a run cycles over: whole rounds of all customers, so all order equally often.
fn prebuilt_requests(plan: &LoadPlan) -> Vec<Request> {
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let customers = plan.customers.min(REQUESTS_MAX);
    let rounds = REQUESTS_MIN.div_ceil(customers);
    (0..customers * rounds)
        .map(|index| Request::new(plan.address, index % customers + 1, random.u32(UNITS)))
        .collect()
}

/// A thread that ticks more finely than the runtime's timer, for as long as somebody listens.
struct Beat {
    ticks: Arc<Notify>,
    thread: thread::JoinHandle<io::Result<Duration>>,
}

impl Beat {
    fn start() -> Result<Self, LoadError> {
        let ticks = Arc::new(Notify::new());
        let listener = Arc::downgrade(&ticks);
        let thread = thread::Builder::new()
            .name("bench-beat".to_owned())
            .spawn(move || tick(&listener))
            .map_err(LoadError::Thread)?;
        Ok(Self { ticks, thread })
    }

    /// Ends the ticking; returns the processor time it took.
    fn stop(self) -> Result<Duration, LoadError> {
        drop(self.ticks);
        self.thread.join().map_err(|_| LoadError::Panicked)?.map_err(LoadError::CpuTime)
    }
}

fn tick(listener: &Weak<Notify>) -> io::Result<Duration> {
    while let Some(ticks) = listener.upgrade() {
        ticks.notify_one();
        drop(ticks);
        thread::sleep(BEAT);
    }
    own_cpu()
}

fn thread_cpu() -> Result<Duration, LoadError> {
    own_cpu().map_err(LoadError::CpuTime)
}

/// The processor time this thread has used so far.
///
/// Source: the first field of `schedstat` in nanoseconds, proc(5).
fn own_cpu() -> io::Result<Duration> {
    // The scheduler books the time of a running thread when it is entered, or at its next tick.
    thread::yield_now();
    let figures = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: Option<u64> = figures.split_ascii_whitespace().next().and_then(|f| f.parse().ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| invalid("schedstat without figures"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use tokio::sync::oneshot;

    use super::*;
    use crate::bench::noop;

    /// The no-op server on a thread of its own, gone when the test ends.
    struct Server {
        address: SocketAddr,
        running: Option<oneshot::Sender<()>>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl Server {
        fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
            let address = listener.local_addr().expect("a bound socket has an address");
            let (running, stopped) = oneshot::channel();
            let thread = thread::spawn(move || serve_until(listener, stopped));
            Self { address, running: Some(running), thread: Some(thread) }
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.running.take());
            if let Some(server) = self.thread.take() {
                assert!(server.join().is_ok() || thread::panicking(), "the server panicked");
            }
        }
    }

    fn serve_until(listener: TcpListener, stopped: oneshot::Receiver<()>) {
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let runtime =
            Builder::new_current_thread().enable_all().build().expect("a runtime can start");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)
                .expect("a listening socket can be registered");
            tokio::select! {
                served = noop::serve(listener) => served.expect("the server goes on"),
                _ = stopped => {}
            }
        });
    }

    fn plan(address: SocketAddr, connections: usize, requests_max: u64) -> LoadPlan {
        LoadPlan {
            address,
            connections,
            duration: Duration::from_secs(60),
            requests_max: Some(requests_max),
            customers: 100,
            seed: 7,
            rate_per_second: None,
        }
    }

    #[test]
    fn two_hundred_requests_over_four_connections_are_all_answered_and_counted_once() {
        let server = Server::start();
        let plan = plan(server.address, 4, 200);
        let report = run(&plan).expect("the server is there");

        let units: u64 = prebuilt_requests(&plan).iter().take(200).map(|r| r.units).sum();
        assert_eq!(report.status_counts, BTreeMap::from([(200, 200)]));
        assert_eq!((report.requests, report.ok, report.units), (200, 200, units));
        assert!(report.latencies.percentile(100.0) > Duration::ZERO);
        assert!(report.elapsed > Duration::ZERO);
        assert!(report.cpu > Duration::ZERO);
    }

    #[test]
    fn a_paced_run_sends_no_turn_before_it_is_due_and_leaves_none_out() {
        let server = Server::start();
        let paced = LoadPlan { rate_per_second: Some(1_000.0), ..plan(server.address, 4, 100) };
        let report = run(&paced).expect("the server is there");

        assert_eq!((report.requests, report.ok), (100, 100));
        // The hundredth turn is due after 99 ms.
        assert!(report.elapsed >= Duration::from_millis(98), "{:?}", report.elapsed);
    }

    #[test]
    fn a_run_ends_at_its_deadline() {
        let server = Server::start();
        let short = LoadPlan {
            duration: Duration::from_millis(50),
            requests_max: None,
            ..plan(server.address, 2, 0)
        };
        let report = run(&short).expect("the server is there");

        assert!(report.ok > 0);
        assert_eq!(report.ok, report.requests);
    }

    #[test]
    fn a_request_whose_connection_breaks_counts_as_status_0_and_is_not_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let report = thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("the generator connects");
                let read = stream.read(&mut [0; 1024]).expect("the generator sends");
                assert!(read > 0);
            });
            run(&plan(address, 1, 1)).expect("the listener accepts")
        });

        assert_eq!(report.status_counts, BTreeMap::from([(0, 1)]));
        assert_eq!((report.requests, report.ok), (1, 0));
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error_and_not_a_report() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        drop(listener);
        assert!(matches!(run(&plan(address, 1, 1)), Err(LoadError::Connect { .. })));
    }

    #[test]
    fn a_plan_that_cannot_be_done_is_refused() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let refused = [
            plan(address, 0, 1),
            LoadPlan { customers: 0, ..plan(address, 1, 1) },
            LoadPlan { duration: Duration::MAX, ..plan(address, 1, 1) },
            LoadPlan { rate_per_second: Some(0.0), ..plan(address, 1, 1) },
            LoadPlan { rate_per_second: Some(f64::NAN), ..plan(address, 1, 1) },
        ];
        for plan in refused {
            assert!(matches!(run(&plan), Err(LoadError::Plan(_))), "{plan:?}");
        }
    }

    #[test]
    fn all_customers_order_equally_often() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let requests = prebuilt_requests(&plan(address, 1, 1));
        let of_customer = |customer: u32| {
            let field = format!("\"customerId\":\"{customer}\"");
            let bought = |r: &&Request| String::from_utf8_lossy(&r.bytes).contains(&field);
            requests.iter().filter(bought).count()
        };
        assert_eq!(requests.len(), 1_100);
        assert_eq!([of_customer(1), of_customer(57), of_customer(100)], [11, 11, 11]);
        assert_eq!([of_customer(0), of_customer(101)], [0, 0]);
    }

    #[test]
    fn a_request_has_exactly_the_bytes_of_its_order() {
        let request = Request::new(SocketAddr::from(([127, 0, 0, 1], 8080)), 349, 7);
        let text = "POST /orders HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n\
                    content-type: application/json\r\ncontent-length: 33\r\n\r\n\
                    {\"customerId\":\"349\",\"quantity\":7}";
        assert_eq!(String::from_utf8_lossy(&request.bytes), text);
        assert_eq!(request.units, 7);
    }

    #[test]
    fn an_answer_is_read_only_once_it_is_complete() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\
                      RETRY-AFTER: 1\r\nConnection: close\r\n\r\n{}";
        for end in 0..whole.len() {
            let partial = Answer::parse(&whole[..end]).expect("a beginning is not an error");
            assert_eq!(partial, None, "{end} bytes");
        }
        let answer = Answer::parse(whole).expect("it is an answer").expect("it is complete");
        assert_eq!((answer.status, answer.closes), (503, true));
        assert_eq!(answer.retry_after, Some(Duration::from_secs(1)));
        assert_eq!(answer.pause(), Some(REFUSAL_PAUSE_MAX));
    }

    #[test]
    fn bytes_that_are_no_answer_break_the_connection() {
        let broken: [&[u8]; 4] = [
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 abc\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        ];
        for bytes in broken {
            assert!(Answer::parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
