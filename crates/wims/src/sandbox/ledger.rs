//! The ledger of the payments sandbox: what it remembers of its keys and counters, the file that
//! keeps it (a JSON line each), its replay and the one thread that writes it.
//!
//! Promise: entries are on disk (fdatasync) in the order in which they were decided, before
//! anybody is told of them; after a failed write or sync nothing more is taken. A torn last line,
//! which nobody was told of, is cut off when the file is opened; any other damage is refused.
//!
//! Deliberately absent: compaction, rotation and HTTP; who is told what is the server's business.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Bucket, Call, Payment, Refusal, SandboxError, SandboxOptions};

/// Keeps the write before one sync near 256 KiB.
const BATCH_ENTRIES_MAX: usize = 1_024;
/// How old counters may grow in memory before they are written without a payment.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

/// A payment with its place among the ledger's entries, counted from 1: a refund is another one.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) seq: usize,
    pub(super) payment: Arc<Payment>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counters {
    /// `POST /payments`, throttled, refused and repeated ones included.
    pub(super) calls: u64,
    pub(super) throttled: u64,
    /// Calls that were given the answer of an earlier charge again.
    pub(super) repeats: u64,
    pub(super) lookups: u64,
}

/// What the ledger tells of keys and charges, and what throttles and cuts under the same lock.
pub(super) struct State {
    /// By key. Never shrinks.
    pub(super) payments: HashMap<String, Known>,
    /// Entries of the ledger: payments and refunds.
    entries: usize,
    pub(super) counters: Counters,
    /// Payments charged and on disk; the writer counts them after the sync.
    pub(super) charges: u64,
    /// Those of them that were refunded, on disk as well.
    pub(super) refunds: u64,
    /// Charges since the start, on disk or not: every Nth is cut.
    decided: u64,
    pub(super) bucket: Bucket,
}

impl State {
    fn new(options: &SandboxOptions) -> State {
        State {
            payments: HashMap::new(),
            entries: 0,
            counters: Counters::default(),
            charges: 0,
            refunds: 0,
            decided: 0,
            bucket: Bucket::full(options.rate_per_second, options.burst),
        }
    }

    /// What the call's key stands for already; counts a repeat of a charge.
    pub(super) fn recall(&mut self, call: &Call) -> Result<Option<Known>, Refusal> {
        let Some(known) = self.payments.get(&call.key) else { return Ok(None) };
        if !known.payment.is_for(&call.terms) {
            return Err(Refusal::OtherTerms);
        }
        let is_charged = known.payment.is_paid() || known.payment.is_refunded();
        self.counters.repeats += u64::from(is_charged);
        Ok(Some(known.clone()))
    }

    pub(super) fn remember(&mut self, payment: Arc<Payment>) -> Known {
        self.entries += 1;
        let known = Known { seq: self.entries, payment };
        self.payments.insert(known.payment.key.clone(), known.clone());
        known
    }

    /// Counts a new charge and tells whether its connection is cut.
    pub(super) fn cuts(&mut self, every: u64) -> bool {
        self.decided += 1;
        every > 0 && self.decided.is_multiple_of(every)
    }

    fn replay(&mut self, line: &[u8]) -> Result<(), String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        match line {
            Line::Counters(counters) => self.counters = counters,
            Line::Payment(payment) => {
                let before = self.payments.get(&payment.key);
                let follows = match before {
                    None => !payment.is_refunded(),
                    Some(known) => known.payment.is_paid() && payment.is_refunded(),
                };
                if !follows {
                    return Err(format!("the key {} is settled a second time", payment.key));
                }
                self.charges += u64::from(payment.is_paid());
                self.refunds += u64::from(payment.is_refunded());
                self.remember(Arc::new(payment));
            }
        }
        Ok(())
    }
}

pub(super) fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panics while holding the sandbox's state")
}

/// A line of the ledger.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Payment(Payment),
    /// The counters so far; the last such line holds.
    Counters(Counters),
}

impl Line {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        serde_json::to_writer(&mut *bytes, self).expect("a line has only strings as its keys");
        bytes.push(b'\n');
    }
}

/// Opens, locks and replays the ledger; its torn last line, never answered, is cut off.
pub(super) fn open_ledger(options: &SandboxOptions) -> Result<(File, State), SandboxError> {
    let path = options.ledger.as_path();
    let unreadable = |cause| SandboxError::LedgerUnreadable { ledger: path.to_path_buf(), cause };
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).open(path).map_err(unreadable)?;
    lock(&file, path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut state = State::new(options);
    replay_all(&mut state, &bytes[..whole], path)?;
    if whole < bytes.len() {
        tracing::warn!(ledger = %path.display(), "the ledger's torn last line is cut off");
        file.set_len(whole as u64).map_err(unreadable)?;
    }
    file.sync_all().and_then(|()| sync_folder(path)).map_err(unreadable)?;
    Ok((file, state))
}

fn lock(file: &File, path: &Path) -> Result<(), SandboxError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        let ledger = path.to_path_buf();
        if errno == Errno::WOULDBLOCK {
            SandboxError::LedgerLocked { ledger }
        } else {
            SandboxError::LedgerUnreadable { ledger, cause: errno.into() }
        }
    })
}

fn replay_all(state: &mut State, lines: &[u8], path: &Path) -> Result<(), SandboxError> {
    for (index, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
        state.replay(line).map_err(|cause| SandboxError::LedgerCorrupted {
            ledger: path.to_path_buf(),
            line: index + 1,
            cause,
        })?;
    }
    Ok(())
}

/// Makes a new file's name as durable as its content.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The ledger as the calls see it: entries go in, and later they are on disk, or never known to be.
pub(super) struct Ledger {
    jobs: mpsc::Sender<Job>,
    progress: watch::Receiver<Progress>,
}

enum Job {
    Append { line: Vec<u8>, is_charge: bool, is_refund: bool },
    Stop,
}

#[derive(Clone, Copy)]
struct Progress {
    /// Entries on disk, which are those with a `seq` up to this.
    synced: usize,
    /// A write or sync failed; the ledger takes nothing more.
    failed: bool,
}

impl Ledger {
    pub(super) fn start(
        file: File,
        state: Arc<Mutex<State>>,
    ) -> io::Result<(Ledger, thread::JoinHandle<()>)> {
        let (jobs, taken) = mpsc::channel();
        let replayed = locked(&state);
        let (told, progress) = watch::channel(Progress { synced: replayed.entries, failed: false });
        let written = replayed.counters;
        drop(replayed);
        let writer = Writer { file, jobs: taken, progress: told, state, written };
        let name = "sandbox-ledger".to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || writer.run())?;
        Ok((Ledger { jobs, progress }, thread))
    }

    /// Hands the payment to the writer; the caller holds the state, which keeps the order.
    pub(super) fn append(&self, payment: &Payment) -> Result<(), Refusal> {
        if self.has_failed() {
            return Err(Refusal::LedgerStopped);
        }
        let mut line = Vec::with_capacity(256);
        Line::Payment(payment.clone()).write_to(&mut line);
        let (is_charge, is_refund) = (payment.is_paid(), payment.is_refunded());
        let job = Job::Append { line, is_charge, is_refund };
        self.jobs.send(job).map_err(|_| Refusal::LedgerStopped)
    }

    /// Waits until the payment is on disk; false when it cannot be known to be there.
    pub(super) async fn synced(&self, seq: usize) -> bool {
        let mut progress = self.progress.clone();
        let decided = progress.wait_for(|now| now.failed || now.synced >= seq).await;
        decided.is_ok_and(|now| now.synced >= seq)
    }

    pub(super) fn has_synced(&self, seq: usize) -> bool {
        self.progress.borrow().synced >= seq
    }

    pub(super) fn has_failed(&self) -> bool {
        self.progress.borrow().failed
    }

    /// Lets the writer end after what it was handed so far.
    pub(super) fn stop(&self) {
        // It has ended already when this fails.
        let _ = self.jobs.send(Job::Stop);
    }
}

/// The one thread that writes the ledger: what gathers during a sync shares the next one.
struct Writer {
    file: File,
    jobs: mpsc::Receiver<Job>,
    progress: watch::Sender<Progress>,
    state: Arc<Mutex<State>>,
    /// The counters as the ledger has them.
    written: Counters,
}

/// What one write and one sync make durable.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    entries: usize,
    charges: u64,
    refunds: u64,
    is_last: bool,
}

impl Batch {
    fn add(&mut self, job: Job) {
        match job {
            Job::Append { line, is_charge, is_refund } => {
                self.lines.extend_from_slice(&line);
                self.entries += 1;
                self.charges += u64::from(is_charge);
                self.refunds += u64::from(is_refund);
            }
            Job::Stop => self.is_last = true,
        }
    }

    fn has_room(&self) -> bool {
        !self.is_last && self.entries < BATCH_ENTRIES_MAX
    }
}

impl Writer {
    fn run(mut self) {
        loop {
            let batch = self.next_batch();
            if let Err(error) = self.write(&batch) {
                // The file may end in half a line now: nothing may follow it.
                tracing::error!(%error, "the sandbox's ledger failed; nothing is charged any more");
                self.progress.send_modify(|progress| progress.failed = true);
                return;
            }
            if batch.is_last {
                return;
            }
        }
    }

    /// All that waits, or nothing after a second, for then the counters are due.
    fn next_batch(&self) -> Batch {
        let mut batch = Batch::default();
        match self.jobs.recv_timeout(COUNTERS_EVERY) {
            Ok(job) => batch.add(job),
            Err(RecvTimeoutError::Timeout) => return batch,
            Err(RecvTimeoutError::Disconnected) => batch.is_last = true,
        }
        while batch.has_room()
            && let Ok(job) = self.jobs.try_recv()
        {
            batch.add(job);
        }
        batch
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let counters = locked(&self.state).counters;
        let mut bytes = Vec::with_capacity(batch.lines.len() + 128);
        // First, so that a torn batch never holds a charge without its call.
        if counters != self.written {
            Line::Counters(counters).write_to(&mut bytes);
        }
        bytes.extend_from_slice(&batch.lines);
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.written = counters;
        let mut state = locked(&self.state);
        state.charges += batch.charges;
        state.refunds += batch.refunds;
        drop(state);
        self.progress.send_modify(|progress| progress.synced += batch.entries);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Sandbox;
    use super::super::tests::{Folder, Running, any_port};
    use super::*;

    #[tokio::test]
    async fn the_ledger_survives_a_restart_without_its_torn_last_line() {
        let folder = Folder::new();
        let first = Running::start(folder.options()).await;
        let paid = first.pay("k1", "order-1").await;
        first.stop().await;
        let mut ledger = OpenOptions::new().append(true).open(folder.options().ledger).unwrap();
        Write::write_all(&mut ledger, br#"{"payment":{"key":"k2","sta"#).unwrap();
        drop(ledger);
        let second = Running::start(folder.options()).await;
        assert_eq!(second.pay("k1", "order-1").await.body, paid.body);
        assert_eq!(second.get("/payments/k2").await.status, 404);
        assert_eq!(second.pay("k2", "order-2").await.status, 200);
        second.stop().await;
        let third = Running::start(folder.options()).await;
        let expected = json!({
            "calls": 3, "charges": 2, "refunds": 0, "throttled": 0, "repeats": 1, "lookups": 1
        });
        assert_eq!(third.get("/stats").await.body, expected);
        third.stop().await;
    }

    #[tokio::test]
    async fn a_corrupted_line_is_named_by_its_number() {
        let folder = Folder::new();
        let counters = r#"{"counters":{"calls":1,"throttled":0,"repeats":0,"lookups":0}}"#;
        let lines = format!("{counters}\n{{\"payment\"\n{counters}\n");
        std::fs::write(folder.options().ledger, lines).unwrap();
        let error = Sandbox::bind(any_port(), folder.options()).await.err().unwrap();
        assert!(matches!(error, SandboxError::LedgerCorrupted { line: 2, .. }), "{error}");
    }
}
