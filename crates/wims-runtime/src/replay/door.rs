//! The door of replay: whether a record that can be read can be where it is.
//!
//! Promise: what passes is applied without a panic, and what live code computes from it later
//! overflows nowhere; what does not pass refuses the start. Checks are here, so `apply` and live
//! code need none. It deliberately does not ask whether a record is true: that is the checksum's.

use crate::record::{COUNT_MAX, Change, Entry, Hidden, Named, Record};
use crate::state::State;

/// Numbers of resources end here: a new stack's resources get theirs behind it, within 16 bits.
const NUMBERS_MAX: u16 = 60_000;
/// No message is received or tried so often.
const TRIES_MAX: u32 = 1 << 31;
/// Ids are UUIDv7s; one beyond this is of a time that never comes.
const ID_MAX: u128 = 1 << 127;

type Checked = Result<(), &'static str>;

/// Whether a record is possible in a state.
///
/// # Errors
/// Why it is not.
pub(super) fn check(state: &State, entry: &Entry) -> Checked {
    let seq = entry.seq;
    check_times(&[entry.wall_ms])?;
    match &entry.record {
        Record::Named(named) => check_name(state, named),
        Record::Change(change) => check_change(state, seq, change),
        Record::SweptItem(change) => {
            check_change(state, seq, change)?;
            holds(change.new.is_some(), "it sweeps an item that is gone")
        }
        Record::Event(event) => check_number(state, event.bus, "bus/"),
        Record::Sent(sent) => {
            check_queue(state, sent.queue)?;
            check_times(&[sent.visible_at_ms])
        }
        Record::Hidden(hidden) => check_hidden(state, seq, hidden),
        Record::SweptMessage(message) => {
            check_times(&[message.sent_ms])?;
            check_hidden(state, seq, &message.hidden)
        }
        Record::Deleted { queue, id } => {
            check_queue(state, *queue)?;
            check_older(seq, *id)
        }
        Record::Cursor { consumer, seq: seen } => {
            check_number(state, *consumer, "pipe/")?;
            check_older(seq, *seen)
        }
        Record::Waiting(waiting) => {
            check_number(state, waiting.workflow, "workflow/")?;
            check_times(&[waiting.wake_at_ms])?;
            check_older(seq, waiting.id)
        }
        Record::Ended { id } => check_older(seq, *id),
        Record::Skipped { workflow } => check_number(state, *workflow, "workflow/"),
        Record::Paced(paced) => {
            check_number(state, paced.pipe, "pipe/")?;
            check_times(&[paced.paused_until_ms])
        }
        Record::Served { queue, until_ms, .. } => {
            check_queue(state, *queue)?;
            check_times(&[*until_ms])
        }
        Record::SweepBegan => Ok(()),
        Record::SweepEnded { began, .. } => check_older(seq, *began),
        Record::LastId { id } => holds(*id < ID_MAX, "its id is beyond all times"),
        Record::Archived { table, .. } => check_table(state, *table),
        Record::Historied { seq: closed } => check_older(seq, *closed),
        Record::Dropped { id } => check_number(state, *id, ""),
        Record::Keyed(keyed) => {
            check_times(&[keyed.expires_ms])?;
            holds(keyed.id < ID_MAX, "its id is beyond all times")
        }
    }
}

fn holds(is_so: bool, otherwise: &'static str) -> Checked {
    if is_so { Ok(()) } else { Err(otherwise) }
}

/// A number has one name, and a name one number, for good.
fn check_name(state: &State, named: &Named) -> Checked {
    holds(named.id < NUMBERS_MAX, "its number is beyond that of any resource")?;
    let known = state.names.get(usize::from(named.id)).and_then(Option::as_ref);
    holds(known.is_none_or(|known| *known == named.name), "its number has another name")?;
    let number = state.number(&named.name);
    holds(number.is_none_or(|number| number == named.id), "its name has another number")
}

fn check_number(state: &State, number: u16, kind: &str) -> Checked {
    let name = state.names.get(usize::from(number)).and_then(Option::as_ref);
    let is_named = name.is_some_and(|name| name.starts_with(kind));
    holds(is_named, "the resource it names is unknown or of another kind")
}

fn check_table(state: &State, number: u16) -> Checked {
    holds(state.is_table(number), "it is of a table that is unknown")
}

fn check_queue(state: &State, number: u16) -> Checked {
    holds(state.is_queue(number), "it is of a queue that is unknown")
}

/// What a record refers to was there before it; 0 says nothing.
fn check_older(seq: u64, other: u64) -> Checked {
    holds(other < seq, "what it refers to is not older than it")
}

fn check_times(times_ms: &[u64]) -> Checked {
    holds(times_ms.iter().all(|ms| *ms <= COUNT_MAX), "a time of it never comes")
}

fn check_change(state: &State, seq: u64, change: &Change) -> Checked {
    check_table(state, change.table)?;
    check_older(seq, change.created)
}

fn check_hidden(state: &State, seq: u64, hidden: &Hidden) -> Checked {
    check_queue(state, hidden.queue)?;
    check_older(seq, hidden.id)?;
    check_times(&[hidden.visible_at_ms])?;
    let is_tried = hidden.receives.max(hidden.attempts) < TRIES_MAX;
    holds(is_tried, "its message was tried more often than can be")
}
