//! The world: the threads that carry out what the engine asks, and tell the hub what came of it.
//!
//! Promise: a write of the journal that fails ends the process; it is never tried again. It
//! deliberately decides nothing else: what is tried again, and when, the engine says.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::dead_letter::without_addresses;
use crate::driver::calls::Caller;
use crate::driver::data_dir::{FrameWriter, SegmentFiles};
use crate::driver::history::HistoryWriter;
use crate::driver::hub::Hub;
use crate::driver::inbox::ReplyInbox;
use crate::driver::mail::{Mail, MailOutcome, Mailer};
use crate::driver::{EXIT_JOURNAL_FAILED, RuntimeError};
use crate::frame::SegmentHeader;
use crate::io::{Answer, HistoryJob, Input, MailJob, MailResult, Output};
use crate::journal::FrameWrite;

/// What a world is made of.
pub(super) struct WorldParts {
    pub hub: Arc<Hub>,
    pub replies: Vec<Arc<ReplyInbox>>,
    pub segments: SegmentFiles,
    pub segment_bytes: u64,
    pub journal_id: u128,
    pub writer: HistoryWriter,
    pub caller: Caller,
    pub mailer: Mailer,
}

/// The threads that carry things out.
pub(super) struct World {
    frames: Sender<FrameWrite>,
    files: Sender<FileJob>,
    history: Sender<HistoryJob>,
    outside: tokio::runtime::Runtime,
    threads: Vec<JoinHandle<()>>,
    hub: Arc<Hub>,
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
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn start(parts: WorldParts) -> Result<World, RuntimeError> {
        let system = |error: std::io::Error| RuntimeError::System(error.to_string());
        let (frames, frames_in) = channel();
        let (files, files_in) = channel();
        let (history, history_in) = channel();
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map_err(system)
        };
        let (a, b, c) = (parts.hub.clone(), parts.hub.clone(), parts.hub.clone());
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
            hub: parts.hub,
            replies: parts.replies,
            groups,
            caller: parts.caller,
            mailer: parts.mailer,
        })
    }

    /// Sees to it that what the engine asked for is done.
    pub fn carry_out(&mut self, outputs: &mut Vec<Output>) {
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
                    let (caller, hub) = (self.caller.clone(), self.hub.clone());
                    self.outside.spawn(async move {
                        let reply = caller.call(&call).await;
                        hub.complete(Input::Called { call: call.call, reply });
                    });
                }
                Output::Mail(job) => {
                    let (mailer, hub) = (self.mailer.clone(), self.hub.clone());
                    self.outside.spawn(async move { send_mail(&mailer, job, &hub).await });
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
    pub fn end(self) {
        drop((self.frames, self.files, self.history));
        for thread in self.threads {
            let _ = thread.join();
        }
        self.outside.shutdown_timeout(Duration::from_millis(200));
    }
}

fn write_frames(mut writer: FrameWriter, frames: &Receiver<FrameWrite>, hub: &Hub) {
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
        hub.complete(Input::Written { buffer: frame.bytes });
        writer.look_ahead();
    }
}

fn keep_segments(
    segments: &SegmentFiles,
    bytes: u64,
    journal_id: u128,
    jobs: &Receiver<FileJob>,
    hub: &Hub,
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
                         one is full. Make room on the disk; `wims leftover list` tells what the \
                         stack no longer has and old segments are kept for"
                    );
                }
                complained = prepared.is_err();
                let success = prepared.is_ok();
                hub.complete(Input::Prepared { segment: number, success });
            }
            FileJob::Remove(number) => {
                if let Err(error) = segments.remove(number) {
                    tracing::warn!(segment = number, %error, "an old segment was not removed");
                }
            }
        }
    }
}

fn keep_history(mut writer: HistoryWriter, jobs: &Receiver<HistoryJob>, hub: &Hub) {
    for job in jobs {
        let stored = writer.store(&job.items, job.seq);
        if let Err(error) = &stored {
            tracing::error!(%error, "history could not be written; closed items stay in memory");
        }
        hub.complete(Input::Historied { seq: job.seq, success: stored.is_ok() });
    }
}

async fn send_mail(mailer: &Mailer, job: MailJob, hub: &Hub) {
    let mail = Mail {
        message_id: job.message_id,
        to: job.to,
        subject: job.subject,
        text: job.text,
        html: job.html,
    };
    let result = match mailer.send(&mail).await {
        MailOutcome::Sent => MailResult::Sent,
        MailOutcome::Retry { reason } => {
            let reason = without_addresses(&reason);
            tracing::warn!(mail = mail.message_id, reason, "a mail will be tried again");
            MailResult::Retry(reason)
        }
        MailOutcome::Rejected { reason } => {
            let reason = without_addresses(&reason);
            tracing::error!(mail = mail.message_id, reason, "a mail was rejected for good");
            MailResult::Rejected(reason)
        }
    };
    hub.complete(Input::Mailed { mail: job.mail, result });
}
