//! The driver: the real world around the engine. Threads, disk, sockets, mail.
//!
//! Promise: it carries out what the engine asks and tells it what came of it, nothing more. A
//! write of the journal that fails ends the process; it is never tried again. It deliberately
//! decides nothing.

pub mod calls;
pub mod data_dir;
pub mod history;
pub mod inbox;
pub mod log;
pub mod mail;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use wims_stack::Stack;

use crate::engine::{Engine, EngineOptions, StartError};
use crate::frame::SegmentHeader;
use crate::functions::Functions;
use crate::io::{Answer, HistoryJob, Input, MailJob, MailResult, Now, Output};
use crate::journal::FrameWrite;
use crate::plan::LogPlan;
use calls::{ApiAddress, Caller};
use data_dir::{DataDir, SegmentFiles};
use history::{HistoryError, HistoryItem, HistoryWriter};
use inbox::{Client, EngineInbox, ReplyInbox};
use log::LogReader;
use mail::{Mail, MailError, MailOptions, MailOutcome, Mailer};

/// Exit code of a process whose journal could not be written: `EX_IOERR`.
pub const EXIT_JOURNAL_FAILED: i32 = 74;
/// Requests that wake the engine while a frame is on its way. Each wake-up costs about as much as
/// a request; so many take less time than a commit.
const GROUP: usize = 64;
/// A clean stop waits this long for calls under way.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How a runtime is set up.
pub struct RuntimeOptions {
    /// The data directory, locked.
    pub data_dir: DataDir,
    /// The engine's options.
    pub engine: EngineOptions,
    /// Where external APIs are, by name.
    pub apis: HashMap<String, ApiAddress>,
    /// URL of the SMTP server; without one mails go to the outbox.
    pub smtp_url: Option<String>,
    /// Who mails come from.
    pub mail_from: String,
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
    /// Mail.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// Threads or TLS.
    #[error("failed to start: {0}")]
    System(String),
}

/// A running system.
pub struct Runtime {
    engine: Arc<EngineInbox>,
    replies: Vec<Arc<ReplyInbox>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
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
    /// When something is wrong with the directory, the stack or the settings.
    pub fn start(
        stack: &Stack,
        functions: &Functions,
        options: RuntimeOptions,
    ) -> Result<Runtime, RuntimeError> {
        let data = options.data_dir;
        let mailer = Mailer::new(MailOptions {
            smtp_url: options.smtp_url,
            from: options.mail_from,
            outbox: data.join("outbox"),
        })?;
        let history = data.join("history.db");
        let writer = HistoryWriter::open(&history)?;
        let caller = Caller::new(options.apis).map_err(RuntimeError::System)?;
        let clock = Clock { started: Instant::now() };
        let mut segments = data.segments();
        let (engine, recovered) =
            Engine::start(stack, functions, &mut segments, options.engine.clone(), clock.now())?;
        let recovery = format!(
            "{} frames in {:?}{}",
            recovered.frames,
            clock.started.elapsed(),
            if recovered.torn_tail { ", a torn tail was cut" } else { "" }
        );
        let logs = engine.log_plans();
        let inbox = Arc::new(EngineInbox::default());
        let replies: Vec<_> = (0..options.inboxes).map(|_| Arc::default()).collect();
        let stopping = Arc::new(AtomicBool::new(false));
        let journal_id = recovered.journal_id.unwrap_or_else(|| u128::from(fastrand::u64(1..)));
        let world = World::start(WorldParts {
            inbox: inbox.clone(),
            replies: replies.clone(),
            segments: segments.clone(),
            segment_bytes: recovered.segment_bytes.unwrap_or(options.engine.segment_bytes),
            journal_id,
            writer,
            caller,
            mailer,
        })?;
        let (loop_inbox, loop_stopping) = (inbox.clone(), stopping.clone());
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                run_engine(engine, world, &loop_inbox, &loop_stopping, clock);
                drop(data);
            })
            .map_err(|error| RuntimeError::System(error.to_string()))?;
        Ok(Runtime {
            engine: inbox,
            replies,
            stopping,
            thread: Some(thread),
            history,
            segments,
            logs,
            recovery,
        })
    }

    /// A client for the thread with this number; [`ReplyInbox::serve`] must run there.
    pub fn client(&self, inbox: u32) -> (Client, Arc<ReplyInbox>) {
        let replies = self.replies[inbox as usize].clone();
        (Client::new(self.engine.clone(), replies.clone(), inbox), replies)
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

    /// Finishes calls under way, syncs and ends; the backlog stays on disk.
    pub fn stop(mut self) {
        self.stopping.store(true, Ordering::Release);
        self.engine.wake();
        if let Some(thread) = self.thread.take() {
            // The engine's thread ends the process itself when it must not go on.
            let _ = thread.join();
        }
    }
}

/// The real clocks.
#[derive(Clone, Copy)]
struct Clock {
    started: Instant,
}

impl Clock {
    fn now(self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            mono_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

fn run_engine(
    mut engine: Engine,
    mut world: World,
    inbox: &EngineInbox,
    stopping: &AtomicBool,
    clock: Clock,
) {
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let mut stop_at: Option<Instant> = None;
    loop {
        engine.step(clock.now(), &mut inputs, &mut outputs);
        world.carry_out(&mut outputs);
        if stop_at.is_none() && stopping.load(Ordering::Acquire) {
            engine.stop_outside();
            stop_at = Some(Instant::now() + STOP_PATIENCE);
        }
        if stop_at.is_some_and(|at| is_finished(&engine, at)) {
            break;
        }
        let due_us = engine.next_step_us();
        let now_us = clock.now().mono_us;
        let patience = due_us.map(|due| Duration::from_micros(due.saturating_sub(now_us)));
        let patience = if stop_at.is_some() {
            Some(patience.map_or(Duration::from_millis(20), |p| p.min(Duration::from_millis(20))))
        } else {
            patience
        };
        // Requests left over from a full frame come first.
        let left_over = !inputs.is_empty();
        let wanted = engine.wants_requests();
        let patience = if left_over && wanted { Some(Duration::ZERO) } else { patience };
        // While a frame is on its way nobody can be answered: gather a group before working on it.
        let enough = if engine.is_frame_in_flight() { GROUP } else { 1 };
        inbox.take(&mut inputs, (wanted && !left_over).then_some(enough), patience);
    }
    engine.close(&mut outputs);
    world.carry_out(&mut outputs);
    world.end();
}

fn is_finished(engine: &Engine, stop_at: Instant) -> bool {
    let settled = engine.is_settled();
    settled && (engine.outside_in_flight() == 0 || Instant::now() >= stop_at)
}

struct WorldParts {
    inbox: Arc<EngineInbox>,
    replies: Vec<Arc<ReplyInbox>>,
    segments: SegmentFiles,
    segment_bytes: u64,
    journal_id: u128,
    writer: HistoryWriter,
    caller: Caller,
    mailer: Mailer,
}

/// The threads that carry things out.
struct World {
    frames: Sender<FrameWrite>,
    files: Sender<FileJob>,
    history: Sender<HistoryJob>,
    outside: tokio::runtime::Runtime,
    threads: Vec<JoinHandle<()>>,
    inbox: Arc<EngineInbox>,
    replies: Vec<Arc<ReplyInbox>>,
    groups: Vec<Vec<(u64, Answer)>>,
    caller: Caller,
    mailer: Mailer,
}

enum FileJob {
    Prepare(u64),
    Remove(u64),
}

impl World {
    fn start(parts: WorldParts) -> Result<World, RuntimeError> {
        let system = |error: std::io::Error| RuntimeError::System(error.to_string());
        let (frames, frames_in) = channel();
        let (files, files_in) = channel();
        let (history, history_in) = channel();
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map_err(system)
        };
        let (a, b, c) = (parts.inbox.clone(), parts.inbox.clone(), parts.inbox.clone());
        let (segments, writer) = (parts.segments.clone(), parts.segments.writer());
        let (bytes, journal_id, store) = (parts.segment_bytes, parts.journal_id, parts.writer);
        let threads = vec![
            spawn("journal", Box::new(move || write_frames(writer, &frames_in, &a)))?,
            spawn(
                "segments",
                Box::new(move || {
                    keep_segments(&segments, bytes, journal_id, &files_in, &b);
                }),
            )?,
            spawn("history", Box::new(move || keep_history(store, &history_in, &c)))?,
        ];
        let outside = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("outside")
            .enable_all()
            .build()
            .map_err(system)?;
        let groups = parts.replies.iter().map(|_| Vec::new()).collect();
        Ok(World {
            frames,
            files,
            history,
            outside,
            threads,
            inbox: parts.inbox,
            replies: parts.replies,
            groups,
            caller: parts.caller,
            mailer: parts.mailer,
        })
    }

    fn carry_out(&mut self, outputs: &mut Vec<Output>) {
        for output in outputs.drain(..) {
            match output {
                Output::Reply(ticket, answer) => {
                    self.groups[ticket.inbox as usize].push((ticket.slot, answer));
                }
                // A receiver that is gone has ended the process, or is about to.
                Output::Write(frame) => drop(self.frames.send(frame)),
                Output::Prepare { segment } => drop(self.files.send(FileJob::Prepare(segment))),
                Output::Remove { segment } => drop(self.files.send(FileJob::Remove(segment))),
                Output::History(job) => drop(self.history.send(job)),
                Output::Call(call) => {
                    let (caller, inbox) = (self.caller.clone(), self.inbox.clone());
                    self.outside.spawn(async move {
                        let reply = caller.call(&call).await;
                        inbox.complete(Input::Called { call: call.call, reply });
                    });
                }
                Output::Mail(job) => {
                    let (mailer, inbox) = (self.mailer.clone(), self.inbox.clone());
                    self.outside.spawn(async move { send_mail(&mailer, job, &inbox).await });
                }
            }
        }
        for (replies, group) in self.replies.iter().zip(&mut self.groups) {
            if !group.is_empty() {
                replies.deliver(group);
            }
        }
    }

    /// Lets the threads finish what they were given.
    fn end(self) {
        drop((self.frames, self.files, self.history));
        for thread in self.threads {
            let _ = thread.join();
        }
        self.outside.shutdown_timeout(Duration::from_millis(200));
    }
}

fn write_frames(
    mut writer: data_dir::FrameWriter,
    frames: &Receiver<FrameWrite>,
    inbox: &EngineInbox,
) {
    for frame in frames {
        if let Err(error) = writer.write(&frame) {
            tracing::error!(
                segment = frame.segment,
                offset = frame.offset,
                %error,
                "the journal could not be written; stopping, nothing more is accepted"
            );
            std::process::exit(EXIT_JOURNAL_FAILED);
        }
        inbox.complete(Input::Written { buffer: frame.bytes });
    }
}

fn keep_segments(
    segments: &SegmentFiles,
    bytes: u64,
    journal_id: u128,
    jobs: &Receiver<FileJob>,
    inbox: &EngineInbox,
) {
    let mut complained = false;
    for job in jobs {
        match job {
            FileJob::Prepare(number) => {
                let prepared = segments.prepare(&SegmentHeader { number, bytes, journal_id });
                if let Err(error) = &prepared
                    && !complained
                {
                    tracing::error!(
                        segment = number,
                        %error,
                        "no journal segment could be prepared; intake is refused when the current \
                         one is full. Make room on the disk"
                    );
                }
                complained = prepared.is_err();
                let success = prepared.is_ok();
                inbox.complete(Input::Prepared { segment: number, success });
            }
            FileJob::Remove(number) => {
                if let Err(error) = segments.remove(number) {
                    tracing::warn!(segment = number, %error, "an old segment was not removed");
                }
            }
        }
    }
}

fn keep_history(mut writer: HistoryWriter, jobs: &Receiver<HistoryJob>, inbox: &EngineInbox) {
    for job in jobs {
        let items: Vec<HistoryItem> = job
            .items
            .into_iter()
            .map(|item| HistoryItem {
                table: item.table.to_string(),
                doc: item.doc,
                created: item.created,
                changed: item.changed,
                indexed: item.indexed,
            })
            .collect();
        let stored = writer.store(&items, job.seq);
        if let Err(error) = &stored {
            tracing::error!(%error, "history could not be written; closed items stay in memory");
        }
        inbox.complete(Input::Historied { seq: job.seq, success: stored.is_ok() });
    }
}

async fn send_mail(mailer: &Mailer, job: MailJob, inbox: &EngineInbox) {
    let mail = Mail {
        message_id: job.message_id,
        to: job.to,
        subject: job.subject,
        text: job.text,
        html: None,
    };
    let result = match mailer.send(&mail).await {
        MailOutcome::Sent => MailResult::Sent,
        MailOutcome::Retry { reason } => {
            tracing::warn!(mail = mail.message_id, reason, "a mail will be tried again");
            MailResult::Retry(reason)
        }
        MailOutcome::Rejected { reason } => {
            tracing::error!(mail = mail.message_id, reason, "a mail was rejected for good");
            MailResult::Rejected(reason)
        }
    };
    inbox.complete(Input::Mailed { mail: job.mail, result });
}
