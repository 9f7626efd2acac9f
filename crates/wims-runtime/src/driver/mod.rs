//! The driver: the real world around the engine. Threads, disk, sockets, mail.
//!
//! Promise: it carries out what the engine asks and tells it what came of it, nothing more. A
//! write of the journal that fails ends the process; it is never tried again. It deliberately
//! decides nothing.

pub mod backup;
pub mod calls;
pub mod data_dir;
pub mod history;
pub mod hub;
pub mod inbox;
pub mod log;
pub mod mail;
mod world;

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wims_stack::Stack;

use crate::engine::{Engine, EngineOptions, StartError};
use crate::functions::Functions;
use crate::plan::LogPlan;
use calls::Caller;
use data_dir::{DataDir, SegmentFiles};
use history::{HistoryError, HistoryWriter};
use hub::{Clock, Hub};
use inbox::{Client, ReplyInbox};
use log::LogReader;
use mail::{MailError, Mailer};
use world::{World, WorldParts};

/// Exit code of a process whose journal could not be written: `EX_IOERR`.
pub const EXIT_JOURNAL_FAILED: i32 = 74;
/// A clean stop has this long for requests, calls and mails under way, all of them together.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How a runtime is set up.
pub struct RuntimeOptions {
    /// The data directory, locked.
    pub data_dir: DataDir,
    /// The engine's options.
    pub engine: EngineOptions,
    /// Makes the calls of external APIs.
    pub caller: Caller,
    /// Sends the mails; its outbox, if it has one, need not be there yet.
    pub mailer: Mailer,
    /// How many threads ask: each gets an inbox for replies.
    pub inboxes: u32,
}

/// Why a runtime does not start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The stack or the journal.
    #[error(transparent)]
    Start(#[from] StartError),
    /// History.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// History lacks closed items that the journal no longer has. Nothing was changed.
    #[error(
        "{} is missing or older than the journal; restore it from the same backup (it goes up to \
         {found}, the journal counts on {historied})",
        .path.display()
    )]
    HistoryBehind {
        /// The history database.
        path: PathBuf,
        /// The sequence up to which it holds everything.
        found: u64,
        /// The sequence up to which the journal says it does.
        historied: u64,
    },
    /// The journal lacks records that were durable before history was written. History was not
    /// changed.
    #[error(
        "the journal is missing or older than {}; restore it from the same backup (it goes up to \
         {durable}, history to {found})",
        .path.display()
    )]
    JournalBehind {
        /// The history database.
        path: PathBuf,
        /// The sequence up to which history holds everything.
        found: u64,
        /// The journal's last sequence.
        durable: u64,
    },
    /// The outbox of mails.
    #[error("failed to {0}")]
    Outbox(#[from] MailError),
    /// Threads.
    #[error("failed to start: {0}")]
    System(String),
}

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Everything the engine took is on the disk.
    pub is_durable: bool,
    /// Calls and mails that were still under way; the next start takes them up.
    pub cut: usize,
}

/// Whether mail can be sent to or from an address, as far as its text tells.
///
/// # Errors
/// What is wrong with it.
pub fn check_mail_address(address: &str) -> Result<(), String> {
    let parsed = address.parse::<lettre::message::Mailbox>();
    parsed.map(drop).map_err(|error| format!("it is no mail address: {error}"))
}

/// A running system.
pub struct Runtime {
    hub: Arc<Hub>,
    replies: Vec<Arc<ReplyInbox>>,
    timer: JoinHandle<()>,
    data_dir: DataDir,
    history: PathBuf,
    segments: SegmentFiles,
    logs: HashMap<String, LogPlan>,
    /// What recovery took and found, for the log.
    pub recovery: String,
}

impl Runtime {
    /// Recovers the data directory and starts the threads.
    ///
    /// # Errors
    /// When something is wrong with the directory or the stack.
    pub fn start(
        stack: &Stack,
        functions: &Functions,
        options: RuntimeOptions,
    ) -> Result<Runtime, RuntimeError> {
        let data = options.data_dir;
        options.mailer.prepare()?;
        let history_path = data.join("history.db");
        let found = history::found_cursor(&history_path)?;
        let clock = Clock::start();
        let mut segments = data.segments();
        let (engine, recovered) =
            Engine::start(stack, functions, &mut segments, options.engine.clone(), clock.now())?;
        check_history(&history_path, found, &engine)?;
        for row in engine.leftovers() {
            let leftover = row.name;
            tracing::warn!(leftover, "the stack does not have it; it is kept until it is dropped");
        }
        // Created only now: a new, empty one must not hide that the old one is missing.
        let writer = HistoryWriter::open(&history_path)?;
        let recovery = format!(
            "{} frames in {:?}{}",
            recovered.frames,
            clock.elapsed(),
            if recovered.torn_tail { ", a torn tail was cut" } else { "" }
        );
        let logs = engine.log_plans();
        let replies: Vec<_> = (0..options.inboxes).map(|_| Arc::default()).collect();
        let hub = Arc::new(Hub::new(engine, clock, replies.clone()));
        let journal_id = recovered.journal_id.unwrap_or_else(|| u128::from(fastrand::u64(1..)));
        hub.connect(World::start(WorldParts {
            hub: hub.clone(),
            replies: replies.clone(),
            segments: segments.clone(),
            segment_bytes: recovered.segment_bytes.unwrap_or(options.engine.segment_bytes),
            journal_id,
            writer,
            caller: options.caller,
            mailer: options.mailer,
        })?);
        let timed = hub.clone();
        let timer = std::thread::Builder::new()
            .name("timer".into())
            .spawn(move || timed.keep_time())
            .map_err(|error| RuntimeError::System(error.to_string()))?;
        let (data_dir, history) = (data, history_path);
        Ok(Runtime { hub, replies, timer, data_dir, history, segments, logs, recovery })
    }

    /// A client for the thread with this number; [`Client::serve`] must run there.
    pub fn client(&self, inbox: u32) -> Client {
        Client::new(self.hub.clone(), self.replies[inbox as usize].clone(), inbox)
    }

    /// Path of the history database, for readers.
    pub fn history_path(&self) -> PathBuf {
        self.history.clone()
    }

    /// Readers of the logs, by name.
    pub fn logs(&self) -> HashMap<String, LogReader> {
        let readers = self.logs.iter();
        let reader = |plan: &LogPlan| LogReader::new(self.segments.clone(), plan.clone());
        readers.map(|(name, plan)| (name.clone(), reader(plan))).collect()
    }

    /// Begins no more calls and mails, while requests are still served: the beginning of a stop.
    pub fn stop_outside(&self) {
        self.hub.stop_outside();
    }

    /// Finishes calls under way until the deadline, syncs and ends; the backlog stays on disk.
    pub fn stop(self, deadline: Instant) -> Ending {
        let ending = self.hub.stop(deadline);
        // It ends the process itself when it must not go on.
        let _ = self.timer.join();
        drop(self.data_dir);
        ending
    }
}

/// History is written after the journal's records and before the journal notes it, so its cursor
/// lies between the two; anything else comes from another backup, or from nowhere.
fn check_history(path: &Path, found: u64, engine: &Engine) -> Result<(), RuntimeError> {
    let (historied, durable) = (engine.state.historied, engine.durable_seq());
    if found < historied {
        return Err(RuntimeError::HistoryBehind { path: path.into(), found, historied });
    }
    if found > durable {
        return Err(RuntimeError::JournalBehind { path: path.into(), found, durable });
    }
    Ok(())
}

/// The value of a mutex. Whoever panicked while holding it has left it whole: what is kept in one
/// here is changed in single steps, and the engine's own lock ends the process instead.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error and what caused it, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
