//! The functions a stack refers to by name, and what they are given.
//!
//! Promise: a function is pure: it reads what it is given and returns what should be written or
//! sent; the runtime does it. It deliberately gets no clock, no randomness and no I/O of its own,
//! so a replayed or simulated run is the same run.

use std::collections::HashMap;
use std::sync::Arc;

use wims_stack::{Doc, EventView, FunctionRef, Tree, Write};

use crate::items::Items;

/// A record of a change stream, as an enrichment sees it.
#[derive(Clone, Copy, Debug)]
pub struct StreamRecord<'a> {
    /// The item before; `None` when it is new.
    pub old: Option<&'a Doc>,
    /// The item after; `None` when it is gone.
    pub new: Option<&'a Doc>,
}

/// An event an enrichment wants published.
#[derive(Clone, Debug)]
pub struct PutEvent {
    /// Index of the record it follows from.
    pub record: usize,
    /// Who publishes it.
    pub source: &'static str,
    /// What kind of event.
    pub detail_type: &'static str,
    /// The fact.
    pub detail: Tree,
    /// Whether the journal keeps it by value; otherwise it is made again from its record.
    pub by_value: bool,
}

/// Reading access to one table.
#[derive(Clone, Copy)]
pub struct Reads<'a> {
    items: &'a Items,
}

impl<'a> Reads<'a> {
    /// Access to these items.
    pub fn of(items: &'a Items) -> Reads<'a> {
        Reads { items }
    }

    /// The item with this key.
    pub fn get(&self, pk: &str, sk: &str) -> Option<&'a Doc> {
        self.items.get(pk, sk).map(|item| &item.doc)
    }

    /// The item with this value in a unique index.
    pub fn find(&self, attribute: &str, value: &str) -> Option<&'a Doc> {
        self.items.find(attribute, value).map(|item| &item.doc)
    }

    /// Items of a partition behind a sort key, in the order of their sort keys, at most `limit`.
    ///
    /// # Panics
    /// When the table declares no ordered index for such a partition.
    pub fn query(
        &self,
        pk: &str,
        after_sk: &str,
        limit: usize,
    ) -> impl Iterator<Item = &'a Doc> + use<'a> {
        self.items.query(pk, after_sk).take(limit).map(|item| &item.doc)
    }
}

/// What a function of a route gets.
pub struct RouteInput<'a> {
    /// The request's arguments, parsed and typed.
    pub arguments: &'a Doc,
    /// A closed item the request names, found in history beforehand.
    pub history: Option<&'a Doc>,
    /// The table.
    pub reads: Reads<'a>,
    /// Wall time in milliseconds since 1970.
    pub now_ms: u64,
    /// An id of its own, a UUIDv7 that is greater than every one before; of a request that is
    /// repeated, the one the first got.
    pub id: u128,
    /// A request with its key was carried out before: only a reply is wanted, the one the first
    /// got as far as that still can be told. Nothing is written.
    pub repeated: bool,
}

/// What a function of a route wants.
#[derive(Debug)]
pub struct Routed {
    /// Written in one transaction before the reply.
    pub writes: Vec<Write>,
    /// The reply.
    pub reply: Doc,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// What it names does not exist.
    NotFound,
    /// What it asks is not allowed in the present state.
    Conflict,
    /// It is well-formed but cannot be done.
    Unprocessable,
    /// Its key is that of another request.
    KeyReused,
    /// A bug of ours: the function panicked.
    Bug,
}

/// A request that is refused: the caller is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// What kind of wrong.
    pub kind: RefusalKind,
    /// What a caller should read.
    pub detail: String,
}

impl Refusal {
    /// The refusal of a request whose function panicked.
    pub fn of_panic() -> Refusal {
        let detail = "this request met a bug; nothing was written".into();
        Refusal { kind: RefusalKind::Bug, detail }
    }
}

/// What a function of a transaction task gets.
pub struct TaskInput<'a> {
    /// The event that started the workflow.
    pub event: EventView<'a>,
    /// The guarded item; its guard holds.
    pub item: &'a Doc,
    /// The table.
    pub reads: Reads<'a>,
    /// Wall time in milliseconds since 1970.
    pub now_ms: u64,
}

/// A task that failed, by the name Retry and Catch know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {cause}")]
pub struct TaskError {
    /// The error's name.
    pub name: String,
    /// What happened.
    pub cause: String,
}

/// What the functions of an API pipe get, and those of notices, whose messages are events
/// `{source, detail-type, detail}`.
pub struct DeliveryInput<'a> {
    /// The message.
    pub message: &'a Doc,
    /// The table.
    pub reads: Reads<'a>,
    /// Wall time in milliseconds since 1970.
    pub now_ms: u64,
    /// The engine's own time in milliseconds: it goes on while nothing runs, and never back.
    pub clock_ms: u64,
}

/// What a message needs.
#[derive(Debug)]
pub enum Delivery {
    /// Write, then call.
    Call {
        /// Written and durable before the call.
        writes: Vec<Write>,
        /// Key that is the same on every try.
        key: String,
        /// Body of the call.
        body: Doc,
    },
    /// Look up what became of an earlier call with this key.
    LookUp {
        /// The key.
        key: String,
        /// Written and durable before the look-up.
        writes: Vec<Write>,
    },
    /// Its time has not come: hide it this long, no attempt, no token.
    Hide {
        /// How long.
        delay_ms: u64,
    },
    /// Nothing to do any more.
    Drop,
}

/// What became of a call or look-up.
#[derive(Clone, Debug, PartialEq)]
pub enum CallOutcome {
    /// Done: 2xx, or a look-up that says so.
    Succeeded,
    /// Declined with a reason, for good.
    Declined(String),
    /// It never left: nothing was done, try later.
    NotSent,
    /// Not now: nothing was done, as the API says; try later.
    Deferred,
    /// Nobody knows whether it was done.
    Unknown(String),
    /// A look-up found nothing: not done so far.
    NotFound,
    /// This call is wrong and will never work.
    Refused(String),
    /// Unknown too often: given up, needs a person.
    Exhausted(String),
}

/// Writes made from the outcome of a call.
pub type OutcomeWrites = Vec<Write>;

/// Subject and text of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailText {
    /// The subject, one line.
    pub subject: String,
    /// The text.
    pub text: String,
    /// The same as HTML, for readers who prefer it.
    pub html: Option<String>,
}

/// What becomes of an event that is mailed to whom it is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A mail.
    Mail {
        /// The address.
        to: String,
        /// Who is told of what: two messages of one key are one mail, and it is in its
        /// Message-ID. A few dozen letters, digits, dots and dashes, nothing personal.
        key: String,
        /// What it says.
        text: MailText,
    },
    /// No mail: there is no address, or it was mailed before.
    Nobody {
        /// Written with the end of the message; of items without a stream.
        writes: Vec<Write>,
    },
}

/// How a notice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeEnd {
    /// The mail server took it.
    Sent,
    /// It was rejected, or tried too often; it is a dead letter.
    GivenUp,
}

/// Makes events from stream records.
pub type EnrichFn = fn(&[StreamRecord<'_>]) -> Vec<PutEvent>;
/// Makes the writes and the reply of a request.
pub type RouteFn = fn(&RouteInput<'_>) -> Result<Routed, Refusal>;
/// Makes the writes of a task.
pub type TransactFn = fn(&TaskInput<'_>) -> Result<Vec<Write>, TaskError>;
/// Decides what a message needs.
pub type PrepareFn = fn(&DeliveryInput<'_>) -> Delivery;
/// Turns an outcome into writes.
pub type OutcomeFn = fn(&DeliveryInput<'_>, &CallOutcome) -> OutcomeWrites;
/// Writes a mail about events `{source, detail-type, detail}`; more than one for a digest.
pub type MailFn = fn(&[Doc]) -> MailText;
/// Finds the address of whom an event is about and writes the mail. Not a plain function: what it
/// writes depends on templates that an installation may have of its own.
pub type NoticeFn = Arc<dyn Fn(&DeliveryInput<'_>) -> Notice + Send + Sync>;
/// Makes the writes of a notice that ended; they are of items without a stream.
pub type NoticedFn = fn(&DeliveryInput<'_>, NoticeEnd) -> Vec<Write>;

/// A function by kind.
#[derive(Clone)]
pub enum Function {
    /// See [`EnrichFn`].
    Enrich(EnrichFn),
    /// See [`RouteFn`].
    Route(RouteFn),
    /// See [`TransactFn`].
    Transact(TransactFn),
    /// See [`PrepareFn`].
    Prepare(PrepareFn),
    /// See [`OutcomeFn`].
    Outcome(OutcomeFn),
    /// See [`MailFn`].
    Mail(MailFn),
    /// See [`NoticeFn`].
    Notice(NoticeFn),
    /// See [`NoticedFn`].
    Noticed(NoticedFn),
}

/// The functions of a business by name.
#[derive(Clone, Default)]
pub struct Functions {
    by_name: HashMap<String, Function>,
}

impl Functions {
    /// Adds a function; a later one of the same name takes its place.
    #[must_use]
    pub fn with(mut self, name: &str, function: Function) -> Functions {
        self.by_name.insert(name.into(), function);
        self
    }

    /// The function of that name.
    pub fn get(&self, name: &FunctionRef) -> Option<Function> {
        self.by_name.get(name.name()).cloned()
    }
}
