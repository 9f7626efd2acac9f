//! What goes into the engine and what comes out of it: its whole connection to the world.
//!
//! Promise: an engine fed the same inputs gives the same outputs. It deliberately has no sockets
//! and no files; the driver carries outputs out and brings completions back as inputs.

use std::sync::Arc;

use wims_stack::Doc;

use crate::functions::Refusal;
use crate::histogram::Histogram;
use crate::journal::FrameWrite;
use crate::keys::RequestKey;
use crate::messages::Counted;
use crate::stuck::{Look, Stuck};
use crate::trace::TraceId;

/// The time, as a step is told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Wall time in milliseconds since 1970: for stamps only; it may jump.
    pub wall_ms: u64,
    /// Monotonic time in microseconds since the process started: for durations.
    pub mono_us: u64,
}

/// Names a request until its reply: which inbox, which slot of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The inbox the reply goes to.
    pub inbox: u32,
    /// The request in that inbox.
    pub slot: u64,
}

/// What the engine is told.
#[derive(Debug)]
pub enum Input {
    /// A request that writes, through a route of the stack.
    Call {
        /// Where the reply goes.
        ticket: Ticket,
        /// The route's name.
        route: &'static str,
        /// Its arguments.
        arguments: Doc,
        /// A closed item it names, found in history.
        history: Option<Doc>,
        /// The trace it belongs to, as who asks has told.
        trace: Option<TraceId>,
        /// Under this key it is carried out once. Few have one, and those that have none are not
        /// to carry its room around.
        key: Option<Box<RequestKey>>,
    },
    /// A request that reads.
    Query {
        /// Where the reply goes.
        ticket: Ticket,
        /// What is asked.
        query: Query,
    },
    /// The frame in flight is durable.
    Written {
        /// Its buffer, to be used again.
        buffer: Vec<u8>,
    },
    /// A segment was prepared, or could not be.
    Prepared {
        /// Its number.
        segment: u64,
        /// Whether it can be used.
        success: bool,
    },
    /// A call or look-up ended.
    Called {
        /// The call.
        call: CallId,
        /// How.
        reply: CallReply,
    },
    /// A mail was carried out, or not.
    Mailed {
        /// Which mail.
        mail: MailId,
        /// How.
        result: MailResult,
    },
    /// History durably holds what closed up to a sequence.
    Historied {
        /// The sequence.
        seq: u64,
        /// Whether it worked; otherwise it is tried again later.
        success: bool,
    },
}

impl Input {
    /// Where the reply goes, of a request.
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Input::Call { ticket, .. } | Input::Query { ticket, .. } => Some(*ticket),
            Input::Written { .. }
            | Input::Prepared { .. }
            | Input::Called { .. }
            | Input::Mailed { .. }
            | Input::Historied { .. } => None,
        }
    }
}

/// A question to the engine.
#[derive(Debug)]
pub enum Query {
    /// The item with this key.
    Get {
        /// The table's name.
        table: &'static str,
        /// The partition key.
        pk: String,
        /// The sort key.
        sk: String,
    },
    /// The item with this value in a unique index of the table.
    Find {
        /// The table's name.
        table: &'static str,
        /// The index.
        attribute: &'static str,
        /// The value.
        value: String,
    },
    /// The first item of a partition, by sort key; the table orders such partitions.
    First {
        /// The table's name.
        table: &'static str,
        /// The partition key.
        pk: String,
    },
    /// Items with this value in an index, newest first.
    List {
        /// The table's name.
        table: &'static str,
        /// The index.
        attribute: &'static str,
        /// The value.
        value: String,
        /// Only those created before this sequence.
        before: u64,
        /// At most this many.
        limit: usize,
    },
    /// All queues.
    Queues,
    /// Messages of a queue, oldest first; nothing is received.
    Peek {
        /// The queue's name.
        queue: String,
        /// From this id on.
        from: u64,
        /// At most this many.
        limit: usize,
    },
    /// Where the message stands whose body has this value.
    Turn {
        /// The queue's name.
        queue: &'static str,
        /// The attribute of the body.
        attribute: &'static str,
        /// Its value.
        value: String,
        /// It was sent after this sequence.
        from: u64,
        /// About when it was sent, wall time, if that was much later.
        since_ms: Option<u64>,
    },
    /// Where an item stands in its partition; the table orders such partitions.
    Place {
        /// The table's name.
        table: &'static str,
        /// The partition key.
        pk: String,
        /// The sort key.
        sk: String,
        /// An attribute that is summed up over the items before it.
        sum_of: &'static str,
    },
    /// Which items wait for something that is not there.
    Stuck(Box<Look>),
    /// Moves dead letters back to where they came from.
    Redrive {
        /// The dead-letter queue's name.
        queue: String,
        /// At most this many.
        limit: usize,
        /// Only says what would be moved.
        dry_run: bool,
    },
    /// What the stack no longer has and something is kept for.
    Leftovers,
    /// Drops what is kept for something the stack no longer has.
    Drop {
        /// Its kind and name, e.g. `queue/old`.
        name: String,
    },
    /// Up to which sequence the journal is durable when the answer leaves.
    Durable,
    /// Whether new items are taken: [`Answer::Full`] when not.
    Ready,
    /// How the engine is.
    Status,
}

/// The engine's answer to a request.
#[derive(Debug)]
pub enum Answer {
    /// A call was carried out and is durable.
    Done(Doc),
    /// A call with this key was carried out before; this is its answer, made again.
    Repeated(Doc),
    /// A request was refused; nothing was written.
    Refused(Refusal),
    /// Too much is under way; nothing was written.
    Full {
        /// Come back then.
        retry_after_s: u64,
        /// What is full.
        reason: &'static str,
    },
    /// An item and when it was created.
    Item(Option<(Doc, u64)>),
    /// Items and when they were created.
    Items(Vec<(Doc, u64)>),
    /// Rows of queues.
    Queues(Vec<QueueRow>),
    /// Messages; `None` when there is no such queue.
    Messages(Option<Vec<MessageRow>>),
    /// Where a message stands; `None` when there is no such queue.
    Turn(Option<Turn>),
    /// Where an item stands; `None` when there is no such item.
    Place(Option<Place>),
    /// What waits for something that is not there.
    Stuck(Box<Stuck>),
    /// How far a redrive came; `None` when there is no such queue.
    Moved(Option<Redriven>),
    /// What the stack no longer has and something is kept for.
    Leftovers(Vec<LeftoverRow>),
    /// What was dropped, as it was.
    Dropped(LeftoverRow),
    /// Everything up to this sequence is durable.
    Durable(u64),
    /// How the engine is.
    Status(Box<Status>),
}

/// How far a redrive came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// Messages that were moved, or would be.
    pub moved: usize,
    /// Messages that could be moved and are still there; those that came meanwhile do not count.
    pub left: usize,
}

/// A queue as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// Its name.
    pub name: String,
    /// Whether the stack has it; otherwise it is a leftover.
    pub declared: bool,
    /// Messages visible now.
    pub messages: usize,
    /// Messages a consumer holds.
    pub in_flight: usize,
    /// Messages that appear later.
    pub delayed: usize,
    /// Age of the oldest message.
    pub oldest_age_s: u64,
}

/// What the stack no longer has, with what is kept for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftoverRow {
    /// Its kind and name, e.g. `queue/old`.
    pub name: String,
    /// Messages of a queue.
    pub messages: usize,
    /// Executions of a workflow that wait.
    pub executions: usize,
    /// The last sequence a pipe of a stream has seen.
    pub seen_up_to: Option<u64>,
    /// Bytes of segments that are kept for such a pipe and would not be needed otherwise.
    pub journal_bytes: u64,
}

/// A message as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageRow {
    /// Its id.
    pub id: u64,
    /// What was sent.
    pub body: Doc,
    /// Why it is there, for dead letters.
    pub attributes: Option<Doc>,
    /// When it was sent, wall time.
    pub sent_ms: u64,
    /// Receives so far.
    pub receives: u32,
    /// Attempts used so far.
    pub attempts: u32,
}

/// Where a message stands, and how fast its queue goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// Where it stands.
    pub stand: Stand,
    /// Of the pipe that empties the queue into an API; `None` when there is none.
    pub pace: Option<PipePace>,
}

/// Where a message stands in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It can be received, after so many others.
    Ready {
        /// How many can be received before it.
        ahead: Counted,
    },
    /// It can be received later.
    Hidden {
        /// Then, wall time.
        until_ms: u64,
    },
    /// A consumer holds it: a call is under way.
    Held,
    /// It is not in the queue.
    Absent,
    /// Not found among as many as may be looked at.
    Unknown,
}

/// The pace of a pipe to an API.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PipePace {
    /// The learned rate, in calls a second.
    pub rate_per_second: f64,
    /// Until when no call is made, wall time, and why.
    pub paused: Option<(u64, Pause)>,
}

/// Why a pipe makes no call for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The API asked for it, or could not be reached.
    Asked,
    /// Several calls in a row had no known outcome: one at a time finds out.
    Unknowns,
    /// Address or credentials are wrong.
    Misdirected,
}

/// Where an item stands in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many come before it.
    pub ahead: Counted,
    /// What those that were counted add up to.
    pub sum_ahead: i64,
}

/// How the engine is: what `/metrics` shows.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Items in memory by table.
    pub items: Vec<(String, usize)>,
    /// Items by status, of tables that have such an index.
    pub by_status: Vec<(String, usize)>,
    /// Queues.
    pub queues: Vec<QueueRow>,
    /// Pipes to APIs.
    pub pipes: Vec<PipeRow>,
    /// Changes some declared consumer has not seen.
    pub change_lag: usize,
    /// Last sequence, and last durable one.
    pub seq: u64,
    /// Last durable sequence.
    pub durable_seq: u64,
    /// Bytes of segments.
    pub journal_disk_bytes: u64,
    /// Bytes written to the journal since the start.
    pub journal_written_bytes: u64,
    /// Frames written since the start.
    pub frames: u64,
    /// Estimated bytes of memory by kind.
    pub memory: Vec<(String, usize)>,
    /// Executions that go on later.
    pub executions: usize,
    /// Closed items that wait for history.
    pub closed_waiting: usize,
    /// Finished sweeps since the start.
    pub sweeps: u64,
    /// Messages since the start that would have been a mail and had nobody to go to.
    pub mails_to_nobody: u64,
    /// What took how long.
    pub timings: Timings,
}

/// Durations in microseconds and sizes, since the start.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// From a frame's submission until it was durable.
    pub commit_us: Histogram,
    /// From a request's step until it, its events, what their targets did at once and the events
    /// of that were durable, in one frame or, when it was full, in several. One value a request.
    pub settle_us: Histogram,
    /// Records of a frame.
    pub group_records: Histogram,
}

/// A pipe to an API.
#[derive(Clone, Debug, Default)]
pub struct PipeRow {
    /// Its name.
    pub name: String,
    /// Calls made since the start.
    pub calls: u64,
    /// Look-ups made since the start.
    pub look_ups: u64,
    /// Deferrals since the start.
    pub deferrals: u64,
    /// Unknown outcomes since the start.
    pub unknowns: u64,
    /// Calls under way.
    pub in_flight: usize,
    /// The learned rate, in calls a second.
    pub rate_per_second: f64,
    /// Whether it is paused now.
    pub paused: bool,
}

/// What the engine wants done.
#[derive(Debug)]
pub enum Output {
    /// Answer a request.
    Reply(Ticket, Answer),
    /// Write a frame and make it durable; only one is ever under way.
    Write(FrameWrite),
    /// Prepare a segment.
    Prepare {
        /// Its number.
        segment: u64,
    },
    /// Remove a segment.
    Remove {
        /// Its number.
        segment: u64,
    },
    /// Call an API or look up an earlier call.
    Call(ApiCall),
    /// Send a mail.
    Mail(MailJob),
    /// Make closed items durable in history.
    History(HistoryJob),
}

/// Names a call until its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    /// Index of the pipe.
    pub pipe: usize,
    /// The message.
    pub message: u64,
    /// Which call of this life of the process; an answer to another one is ignored.
    pub number: u64,
}

/// A call of an external API.
#[derive(Clone, Debug)]
pub struct ApiCall {
    /// Names it.
    pub call: CallId,
    /// The API's name.
    pub api: String,
    /// The path, e.g. `/payments`.
    pub path: String,
    /// The same on every try.
    pub key: String,
    /// The trace it belongs to, if any, and the span it is in it: another one on every try.
    pub traceparent: Option<String>,
    /// What is posted; `None` looks up what became of the key.
    pub body: Option<Doc>,
    /// After this its outcome is unknown.
    pub timeout_ms: u64,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub enum CallReply {
    /// An answer came.
    Answered {
        /// HTTP status.
        status: u16,
        /// What `Retry-After` says.
        retry_after_ms: Option<u64>,
        /// The body, when it is JSON.
        body: Option<Doc>,
    },
    /// It was never sent, for this reason: no connection, no name, no TLS.
    NotSent(String),
    /// It was sent and no answer came, for this reason.
    Lost(String),
}

/// Names a mail: the queue and the messages it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailId {
    /// The queue's number.
    pub queue: u16,
    /// The messages.
    pub messages: Vec<u64>,
}

/// A mail to be sent.
#[derive(Clone, Debug)]
pub struct MailJob {
    /// Names it.
    pub mail: MailId,
    /// The same on every try.
    pub message_id: String,
    /// The address.
    pub to: String,
    /// The subject.
    pub subject: String,
    /// The text.
    pub text: String,
    /// The same as HTML.
    pub html: Option<String>,
}

/// How a mail went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailResult {
    /// The server said yes.
    Sent,
    /// Try again later.
    Retry(String),
    /// Never.
    Rejected(String),
}

/// Closed items for history.
#[derive(Clone, Debug)]
pub struct HistoryJob {
    /// The items.
    pub items: Vec<ClosedItem>,
    /// They all changed at or before this sequence.
    pub seq: u64,
}

/// A closed item.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosedItem {
    /// Name of its table.
    pub table: Arc<str>,
    /// The item.
    pub doc: Doc,
    /// When it was created.
    pub created: u64,
    /// When it last changed.
    pub changed: u64,
    /// Under what it is found and listed.
    pub indexed: Vec<(String, String)>,
}
