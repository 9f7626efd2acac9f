//! Records: what the journal holds. Each is an effect with absolute values, never a request.
//!
//! Promise: the numbers of kinds are never used again for anything else; a kind or version this
//! build does not know refuses to start instead of being skipped. It deliberately does not apply
//! anything: that is the state's `apply`, the same line for live, replayed and simulated records.

use wims_stack::doc::{read_varint, write_varint};
use wims_stack::{Doc, Field, Kind};

use crate::keys::{KEYED_BYTES, Keyed};
use crate::trace::TraceId;

/// One record with where it stands and what it follows from.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its place in the journal, from 1, without gaps.
    pub seq: u64,
    /// Wall time of the turn that wrote it, in milliseconds since 1970.
    pub wall_ms: u64,
    /// Sequence of the record it follows from; 0 when it follows from a request or a timer.
    pub cause: u64,
    /// Whether a replay is at the root of it; inherited through `cause`.
    pub replay: bool,
    /// The trace of the request at the root of it, if that told one; inherited through `cause`.
    pub trace: Option<TraceId>,
    /// What happened.
    pub record: Record,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A resource got its number; records name resources by number.
    Named(Named),
    /// An item was created, changed or removed.
    Change(Change),
    /// A business event was published, kept by value.
    Event(Published),
    /// A message was sent; its id is this record's sequence.
    Sent(Sent),
    /// A message was hidden until a time.
    Hidden(Hidden),
    /// A message left its queue.
    Deleted {
        /// The queue's number.
        queue: u16,
        /// The message.
        id: u64,
    },
    /// A consumer of the stream has seen everything up to a sequence.
    Cursor {
        /// The consumer's number.
        consumer: u16,
        /// The last sequence it has seen.
        seq: u64,
    },
    /// An execution goes on later; with `id` 0 it is a new one and this sequence is its id.
    Waiting(Waiting),
    /// A waiting execution ended.
    Ended {
        /// The execution.
        id: u64,
    },
    /// A task found its guard false: the event came again or late.
    Skipped {
        /// The workflow's number.
        workflow: u16,
    },
    /// What a pipe has learned of its target's pace.
    Paced(Paced),
    /// A subscription was served for a subject; others of it wait until then.
    Served {
        /// Number of the subscription's queue.
        queue: u16,
        /// Hash of the subject.
        subject: u64,
        /// Until when, in clock milliseconds.
        until_ms: u64,
    },
    /// A sweep began: everything alive is written again behind this record.
    SweepBegan,
    /// The sweep that began at this sequence has passed everything.
    SweepEnded {
        /// Sequence of its beginning.
        began: u64,
        /// Segment of its beginning.
        segment: u64,
    },
    /// An item as it is; no change.
    SweptItem(Change),
    /// A message as it is.
    SweptMessage(SweptMessage),
    /// The largest id given out so far; ids never go back.
    LastId {
        /// The id.
        id: u128,
    },
    /// An item left for history, which holds it.
    Archived {
        /// The table's number.
        table: u16,
        /// Its partition key.
        pk: String,
        /// Its sort key.
        sk: String,
    },
    /// History durably holds everything that closed up to a sequence.
    Historied {
        /// The sequence.
        seq: u64,
    },
    /// A resource that no stack declares was dropped: what was kept for it is gone. Its number
    /// stays, and is its number again should it come back.
    Dropped {
        /// The resource's number.
        id: u16,
    },
    /// A request with a key was carried out; a sweep writes it again as it is.
    Keyed(Keyed),
}

/// See [`Record::Named`].
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// The number, never used again.
    pub id: u16,
    /// Kind and name, e.g. `queue/payments-queue`.
    pub name: String,
}

/// See [`Record::Change`].
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The table's number.
    pub table: u16,
    /// Sequence at which the item was created; 0 for this very record.
    pub created: u64,
    /// The item before; `None` when it is new.
    pub old: Option<Doc>,
    /// The item after; `None` when it is gone.
    pub new: Option<Doc>,
}

/// See [`Record::Event`].
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The bus's number.
    pub bus: u16,
    /// Who published it.
    pub source: String,
    /// What kind of event.
    pub detail_type: String,
    /// The fact.
    pub detail: Doc,
}

/// See [`Record::Sent`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The queue's number.
    pub queue: u16,
    /// The message.
    pub body: Doc,
    /// Why it is here, for dead letters.
    pub attributes: Option<Doc>,
    /// When it can first be received, in clock milliseconds.
    pub visible_at_ms: u64,
}

/// See [`Record::Hidden`].
#[derive(Clone, Debug, PartialEq)]
pub struct Hidden {
    /// The queue's number.
    pub queue: u16,
    /// The message.
    pub id: u64,
    /// Until when, in clock milliseconds.
    pub visible_at_ms: u64,
    /// Receives so far.
    pub receives: u32,
    /// Attempts used so far.
    pub attempts: u32,
    /// Whether a consumer holds it now.
    pub held: bool,
}

/// See [`Record::SweptMessage`].
#[derive(Clone, Debug, PartialEq)]
pub struct SweptMessage {
    /// Where it is and since when hidden.
    pub hidden: Hidden,
    /// The message.
    pub body: Doc,
    /// Why it is here, for dead letters.
    pub attributes: Option<Doc>,
    /// Wall time when it was sent.
    pub sent_ms: u64,
}

/// See [`Record::Waiting`].
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The execution; 0 for a new one.
    pub id: u64,
    /// The workflow's number.
    pub workflow: u16,
    /// The event it was started with: `{source, detail-type, detail, cause, replay}`.
    pub event: Doc,
    /// Where it stands, as JSON text.
    pub position: String,
    /// When it goes on, in clock milliseconds.
    pub wake_at_ms: u64,
}

/// See [`Record::Paced`].
#[derive(Clone, Debug, PartialEq)]
pub struct Paced {
    /// The pipe's number.
    pub pipe: u16,
    /// The learned rate in thousandths of a call a second.
    pub rate_milli: u64,
    /// No call before this, in clock milliseconds.
    pub paused_until_ms: u64,
    /// Unknown outcomes in a row.
    pub unknowns: u32,
    /// Whether address or credentials are wrong as far as is known.
    pub misdirected: bool,
}

/// Bytes that are no record of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// A kind or version from a newer build.
    #[error("record kind {kind} version {version} is unknown to this version of wims")]
    Unknown {
        /// The kind's number.
        kind: u8,
        /// The kind's version.
        version: u8,
    },
    /// Flags from a newer build.
    #[error("record kind {kind} has flags {flags:#04x}, unknown to this version of wims")]
    Flags {
        /// The kind's number.
        kind: u8,
        /// All its flags.
        flags: u8,
    },
    /// A record that does not hold what its kind says.
    #[error("record kind {kind} is malformed")]
    Malformed {
        /// The kind's number.
        kind: u8,
    },
}

const VERSION: u8 = 1;
/// Flag of a record with a replay at its root.
const REPLAY: u8 = 1;
/// Flag of a record that has a trace: sixteen bytes behind its cause, the first one the highest.
const TRACED: u8 = 2;
/// The most bytes of a number; the last one has room for a single bit.
const VARINT_BYTES_MAX: usize = 10;

impl Record {
    /// The kind's number in the journal.
    pub fn kind(&self) -> u8 {
        match self {
            Record::Named(_) => 1,
            Record::Change(_) => 2,
            Record::Event(_) => 3,
            Record::Sent(_) => 4,
            Record::Hidden(_) => 5,
            Record::Deleted { .. } => 6,
            Record::Cursor { .. } => 7,
            Record::Waiting(_) => 8,
            Record::Ended { .. } => 9,
            Record::Skipped { .. } => 10,
            Record::Paced(_) => 11,
            Record::Served { .. } => 12,
            Record::SweepBegan => 13,
            Record::SweepEnded { .. } => 14,
            Record::SweptItem(_) => 15,
            Record::SweptMessage(_) => 16,
            Record::LastId { .. } => 17,
            Record::Historied { .. } => 18,
            Record::Dropped { .. } => 19,
            Record::Archived { .. } => 20,
            Record::Keyed(_) => 21,
        }
    }

    fn write_body(&self, to: &mut Vec<u8>) {
        match self {
            Record::Named(named) => {
                write_varint(to, named.id.into());
                write_bytes(to, named.name.as_bytes());
            }
            Record::Change(change) | Record::SweptItem(change) => write_change(to, change),
            Record::Event(event) => {
                write_varint(to, event.bus.into());
                write_bytes(to, event.source.as_bytes());
                write_bytes(to, event.detail_type.as_bytes());
                write_bytes(to, event.detail.bytes());
            }
            Record::Sent(sent) => {
                write_varint(to, sent.queue.into());
                write_varint(to, sent.visible_at_ms);
                write_bytes(to, sent.body.bytes());
                write_optional(to, sent.attributes.as_ref());
            }
            Record::Hidden(hidden) => write_hidden(to, hidden),
            Record::Deleted { queue, id } => write_numbers(to, &[u64::from(*queue), *id]),
            Record::Cursor { consumer, seq } => write_numbers(to, &[u64::from(*consumer), *seq]),
            Record::Waiting(waiting) => write_waiting(to, waiting),
            Record::Ended { id } => write_varint(to, *id),
            Record::Skipped { workflow } => write_varint(to, (*workflow).into()),
            Record::Paced(p) => write_numbers(
                to,
                &[
                    p.pipe.into(),
                    p.rate_milli,
                    p.paused_until_ms,
                    p.unknowns.into(),
                    p.misdirected.into(),
                ],
            ),
            Record::Served { queue, subject, until_ms } => {
                write_numbers(to, &[u64::from(*queue), *subject, *until_ms]);
            }
            Record::SweepBegan => {}
            Record::SweepEnded { began, segment } => write_numbers(to, &[*began, *segment]),
            Record::SweptMessage(message) => {
                write_hidden(to, &message.hidden);
                write_varint(to, message.sent_ms);
                write_bytes(to, message.body.bytes());
                write_optional(to, message.attributes.as_ref());
            }
            Record::LastId { id } => to.extend_from_slice(&id.to_le_bytes()),
            Record::Historied { seq } => write_varint(to, *seq),
            Record::Archived { table, pk, sk } => {
                write_varint(to, (*table).into());
                write_bytes(to, pk.as_bytes());
                write_bytes(to, sk.as_bytes());
            }
            Record::Dropped { id } => write_varint(to, (*id).into()),
            Record::Keyed(keyed) => keyed.write(to),
        }
    }

    fn read_body(kind: u8, from: &mut Reader<'_>) -> Option<Record> {
        Some(match kind {
            1 => Record::Named(Named { id: from.small()?, name: from.text()? }),
            2 => Record::Change(from.change()?),
            3 => Record::Event(Published {
                bus: from.small()?,
                source: from.text()?,
                detail_type: from.text()?,
                detail: from.doc()?,
            }),
            4 => {
                let (queue, visible_at_ms) = (from.small()?, from.number()?);
                let (body, attributes) = (from.doc()?, from.optional()?);
                Record::Sent(Sent { queue, body, attributes, visible_at_ms })
            }
            5 => Record::Hidden(from.hidden()?),
            6 => Record::Deleted { queue: from.small()?, id: from.number()? },
            7 => Record::Cursor { consumer: from.small()?, seq: from.number()? },
            8 => Record::Waiting(from.waiting()?),
            9 => Record::Ended { id: from.number()? },
            10 => Record::Skipped { workflow: from.small()? },
            11 => Record::Paced(Paced {
                pipe: from.small()?,
                rate_milli: from.number()?,
                paused_until_ms: from.number()?,
                unknowns: u32::try_from(from.number()?).ok()?,
                misdirected: from.number()? != 0,
            }),
            12 => Record::Served {
                queue: from.small()?,
                subject: from.number()?,
                until_ms: from.number()?,
            },
            13 => Record::SweepBegan,
            14 => Record::SweepEnded { began: from.number()?, segment: from.number()? },
            15 => Record::SweptItem(from.change()?),
            16 => {
                let (hidden, sent_ms) = (from.hidden()?, from.number()?);
                let (body, attributes) = (from.doc()?, from.optional()?);
                Record::SweptMessage(SweptMessage { hidden, body, attributes, sent_ms })
            }
            17 => Record::LastId { id: u128::from_le_bytes(from.take(16)?.try_into().ok()?) },
            18 => Record::Historied { seq: from.number()? },
            19 => Record::Dropped { id: from.small()? },
            20 => Record::Archived { table: from.small()?, pk: from.text()?, sk: from.text()? },
            21 => Record::Keyed(Keyed::read(from.take(KEYED_BYTES)?)?),
            _ => return None,
        })
    }
}

/// The largest kind this build knows.
pub const KIND_MAX: u8 = 21;

/// No sequence, time in milliseconds or number of a segment gets here: a million records a second
/// take 285 years. Below it, what is computed from them overflows nowhere.
pub const COUNT_MAX: u64 = 1 << 53;

impl Entry {
    /// Appends the entry to a frame whose first sequence and wall time are given.
    pub fn write(&self, to: &mut Vec<u8>, frame_wall_ms: u64) {
        to.extend_from_slice(&[self.record.kind(), VERSION, self.flags()]);
        write_varint(to, self.wall_ms.saturating_sub(frame_wall_ms));
        write_varint(to, if self.cause == 0 { 0 } else { self.seq - self.cause });
        if let Some(trace) = self.trace {
            to.extend_from_slice(&trace.get().to_be_bytes());
        }
        let at = to.len();
        to.extend_from_slice(&[0; 4]);
        self.record.write_body(to);
        let len = u32::try_from(to.len() - at - 4).expect("a record is far below 4 GiB");
        to[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }

    fn flags(&self) -> u8 {
        let replay = if self.replay { REPLAY } else { 0 };
        replay | if self.trace.is_some() { TRACED } else { 0 }
    }

    /// Reads the entry that `bytes` begin with and the rest behind it.
    ///
    /// # Errors
    /// When its kind, version or a flag is unknown, or it is malformed.
    pub fn read(bytes: &[u8], seq: u64, frame_wall_ms: u64) -> Result<(Entry, &[u8]), RecordError> {
        let [kind, version, flags, rest @ ..] = bytes else {
            return Err(RecordError::Malformed { kind: 0 });
        };
        let (kind, version, flags) = (*kind, *version, *flags);
        if kind == 0 || kind > KIND_MAX || version != VERSION {
            return Err(RecordError::Unknown { kind, version });
        }
        if flags & !(REPLAY | TRACED) != 0 {
            return Err(RecordError::Flags { kind, flags });
        }
        let mut reader = Reader { bytes: rest };
        reader
            .entry(kind, seq, frame_wall_ms, flags)
            .map(|entry| (entry, reader.bytes))
            .ok_or(RecordError::Malformed { kind })
    }
}

fn write_numbers(to: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| write_varint(to, *number));
}

fn write_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

/// A document that may be missing; no document is empty, so length 0 says missing.
fn write_optional(to: &mut Vec<u8>, doc: Option<&Doc>) {
    write_bytes(to, doc.map_or(&[], Doc::bytes));
}

fn write_hidden(to: &mut Vec<u8>, hidden: &Hidden) {
    write_numbers(
        to,
        &[
            hidden.queue.into(),
            hidden.id,
            hidden.visible_at_ms,
            hidden.receives.into(),
            hidden.attempts.into(),
            hidden.held.into(),
        ],
    );
}

fn write_waiting(to: &mut Vec<u8>, waiting: &Waiting) {
    write_numbers(to, &[waiting.id, waiting.workflow.into(), waiting.wake_at_ms]);
    write_bytes(to, waiting.event.bytes());
    write_bytes(to, waiting.position.as_bytes());
}

/// An update is the full new image plus the old values of what changed: first those that had a
/// value, then the names of those that had none.
fn write_change(to: &mut Vec<u8>, change: &Change) {
    write_numbers(to, &[change.table.into(), change.created]);
    write_optional(to, change.new.as_ref());
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => {
            let (had, new_names) = old_values(old, new);
            write_bytes(to, Doc::object(&had).bytes());
            write_varint(to, new_names.len() as u64);
            new_names.iter().for_each(|name| write_bytes(to, name.as_bytes()));
        }
        (old, _) => {
            write_optional(to, old.as_ref());
            write_varint(to, 0);
        }
    }
}

/// Old values of attributes that changed or went, and names of attributes that are new.
fn old_values<'a>(old: &'a Doc, new: &'a Doc) -> (Vec<(&'a str, Field<'a>)>, Vec<&'a str>) {
    let (mut had, mut new_names) = (Vec::new(), Vec::new());
    old.view().differences(new.view(), |name, before, _| match before {
        Some(before) => had.push((name, Field::View(before))),
        None => new_names.push(name),
    });
    (had, new_names)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn entry(&mut self, kind: u8, seq: u64, frame_wall_ms: u64, flags: u8) -> Option<Entry> {
        let wall_ms = frame_wall_ms.checked_add(self.number()?)?;
        let distance = self.number()?;
        let cause = if distance == 0 { 0 } else { seq.checked_sub(distance)? };
        let trace = if flags & TRACED == 0 { None } else { Some(self.trace()?) };
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        let mut body = Reader { bytes: self.take(len as usize)? };
        let record = Record::read_body(kind, &mut body)?;
        body.bytes.is_empty().then_some(Entry {
            seq,
            wall_ms,
            cause,
            replay: flags & REPLAY != 0,
            trace,
            record,
        })
    }

    fn trace(&mut self) -> Option<TraceId> {
        TraceId::new(u128::from_be_bytes(self.take(16)?.try_into().ok()?))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let (number, used) = read_varint(self.bytes)?;
        let (read, rest) = self.bytes.split_at(used);
        self.bytes = rest;
        // What does not fit 64 bits is no number of ours.
        (used < VARINT_BYTES_MAX || read[used - 1] <= 1).then_some(number)
    }

    fn small(&mut self) -> Option<u16> {
        u16::try_from(self.number()?).ok()
    }

    fn slice(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(usize::try_from(len).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.slice()?.to_vec()).ok()
    }

    fn doc(&mut self) -> Option<Doc> {
        Doc::from_bytes(self.slice()?).ok()
    }

    fn optional(&mut self) -> Option<Option<Doc>> {
        match self.slice()? {
            [] => Some(None),
            bytes => Some(Some(Doc::from_bytes(bytes).ok()?)),
        }
    }

    /// A document that may be missing, and is a map.
    fn item(&mut self) -> Option<Option<Doc>> {
        let item = self.optional()?;
        let is_item = |doc: &Doc| matches!(doc.view().kind(), Kind::Map(_));
        item.as_ref().is_none_or(is_item).then_some(item)
    }

    fn hidden(&mut self) -> Option<Hidden> {
        Some(Hidden {
            queue: self.small()?,
            id: self.number()?,
            visible_at_ms: self.number()?,
            receives: u32::try_from(self.number()?).ok()?,
            attempts: u32::try_from(self.number()?).ok()?,
            held: self.number()? != 0,
        })
    }

    fn waiting(&mut self) -> Option<Waiting> {
        let (id, workflow, wake_at_ms) = (self.number()?, self.small()?, self.number()?);
        let (event, position) = (self.doc()?, self.text()?);
        Some(Waiting { id, workflow, event, position, wake_at_ms })
    }

    fn change(&mut self) -> Option<Change> {
        let (table, created) = (self.small()?, self.number()?);
        let (new, had) = (self.item()?, self.item()?);
        if new.is_none() && had.is_none() {
            return None;
        }
        let mut added = Vec::new();
        for _ in 0..self.number()? {
            added.push(self.text()?);
        }
        let old = match (&new, had) {
            (Some(new), Some(had)) => {
                let mut back: Vec<(&str, Option<Field<'_>>)> =
                    had.view().as_map()?.map(|(name, v)| (name, Some(Field::View(v)))).collect();
                back.extend(added.iter().map(|name| (name.as_str(), None)));
                back.sort_unstable_by(|a, b| a.0.cmp(b.0));
                // An attribute had a value or had none.
                let is_once = back.is_sorted_by(|a, b| a.0 < b.0);
                if !is_once {
                    return None;
                }
                Some(new.with(&back))
            }
            (_, had) => had,
        };
        Some(Change { table, created, old, new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a record and reads it back, with and without a trace.
    fn round(record: Record) {
        for trace in [None, TraceId::new(1), TraceId::new(u128::MAX - 1)] {
            let record = record.clone();
            let entry = Entry { seq: 9, wall_ms: 1_005, cause: 7, replay: true, trace, record };
            let mut bytes = Vec::new();
            entry.write(&mut bytes, 1_000);
            for cut in 0..bytes.len() {
                assert!(Entry::read(&bytes[..cut], 9, 1_000).is_err(), "cut at {cut}");
            }
            bytes.push(77);
            assert_eq!(Entry::read(&bytes, 9, 1_000), Ok((entry, &[77][..])));
        }
    }

    #[test]
    fn both_images_of_an_update_follow_from_its_record() {
        let old = Doc::object(&[("a", Field::Int(1)), ("b", Field::Int(2)), ("c", Field::Int(3))]);
        let new =
            old.with(&[("a", None), ("b", Some(Field::Str("two"))), ("d", Some(Field::Null))]);
        for (old, new) in
            [(Some(old.clone()), Some(new.clone())), (None, Some(new)), (Some(old), None)]
        {
            round(Record::Change(Change { table: 3, created: 5, old, new }));
        }
    }

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        let doc = Doc::text("x");
        let hidden =
            Hidden { queue: 1, id: 2, visible_at_ms: 3, receives: 4, attempts: 5, held: true };
        round(Record::Named(Named { id: 1, name: "queue/q".into() }));
        round(Record::Sent(Sent {
            queue: 1,
            body: doc.clone(),
            attributes: Some(doc.clone()),
            visible_at_ms: 9,
        }));
        round(Record::Hidden(hidden.clone()));
        round(Record::SweptMessage(SweptMessage {
            hidden,
            body: doc.clone(),
            attributes: None,
            sent_ms: 4,
        }));
        round(Record::Waiting(Waiting {
            id: 1,
            workflow: 2,
            event: doc,
            position: "{}".into(),
            wake_at_ms: 3,
        }));
        round(Record::LastId { id: u128::MAX - 1 });
        round(Record::Dropped { id: 300 });
        round(Record::Keyed(Keyed { expires_ms: 1 << 40, hash: u128::MAX - 2, body: 3, id: 4 }));
    }

    #[test]
    fn a_trace_is_a_flag_and_sixteen_bytes_behind_the_cause() {
        let written = |replay, trace| {
            let (record, mut bytes) = (Record::Ended { id: 5 }, Vec::new());
            let entry = Entry { seq: 9, wall_ms: 1_005, cause: 7, replay, trace, record };
            entry.write(&mut bytes, 1_000);
            bytes
        };
        assert_eq!(written(false, None), [9, 1, 0, 5, 2, 1, 0, 0, 0, 5]);
        assert_eq!(written(true, None), [9, 1, 1, 5, 2, 1, 0, 0, 0, 5]);
        let mut traced = vec![9, 1, 2, 5, 2];
        traced.extend(1..=16);
        traced.extend([1, 0, 0, 0, 5]);
        let trace = TraceId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        assert_eq!(written(false, trace), traced);
        // None is zero, so sixteen zeroes are no trace.
        traced[5..21].fill(0);
        assert_eq!(Entry::read(&traced, 9, 1_000), Err(RecordError::Malformed { kind: 9 }));
    }

    /// A record of a kind with this body.
    fn with_body(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, VERSION, 0, 0, 0];
        bytes.extend(u32::try_from(body.len()).expect("a short body").to_le_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_number_that_does_not_fit_64_bits_is_malformed() {
        let mut body = [0xff; VARINT_BYTES_MAX];
        body[VARINT_BYTES_MAX - 1] = 1;
        let largest = Entry::read(&with_body(9, &body), 9, 0).map(|(entry, _)| entry.record);
        assert_eq!(largest, Ok(Record::Ended { id: u64::MAX }));
        for last in [2, 3, 0x7f, 0x81] {
            body[VARINT_BYTES_MAX - 1] = last;
            let read = Entry::read(&with_body(9, &body), 9, 0).map(|_| ());
            assert_eq!(read, Err(RecordError::Malformed { kind: 9 }), "{last}");
        }
    }

    #[test]
    fn a_change_whose_images_cannot_be_is_malformed() {
        let (item, text) = (Doc::object(&[("a", Field::Int(1))]), Doc::text("x"));
        let body = |new: Option<&Doc>, old: Option<&Doc>, added: &[&str]| {
            let mut body = vec![3, 5];
            write_optional(&mut body, new);
            write_optional(&mut body, old);
            write_varint(&mut body, added.len() as u64);
            added.iter().for_each(|name| write_bytes(&mut body, name.as_bytes()));
            body
        };
        let read = |body: &[u8]| Entry::read(&with_body(2, body), 9, 0).map(|_| ());
        assert_eq!(read(&body(Some(&item), Some(&item), &["b"])), Ok(()));
        let mut more = body(Some(&item), Some(&item), &[]);
        more.pop();
        write_varint(&mut more, u64::MAX);
        let impossible = [
            body(None, None, &[]),
            body(Some(&text), None, &[]),
            body(None, Some(&text), &[]),
            body(Some(&text), Some(&item), &[]),
            body(Some(&item), Some(&text), &[]),
            // It had a value, and had none; or it was new twice.
            body(Some(&item), Some(&item), &["a"]),
            body(Some(&item), Some(&item), &["b", "b"]),
            more,
        ];
        for (at, body) in impossible.iter().enumerate() {
            assert_eq!(read(body), Err(RecordError::Malformed { kind: 2 }), "number {at}");
        }
    }

    #[test]
    fn a_flag_of_a_newer_version_refuses() {
        let bytes = [9, 1, 4, 5, 2, 1, 0, 0, 0, 5];
        let unknown = RecordError::Flags { kind: 9, flags: 4 };
        assert_eq!(Entry::read(&bytes, 9, 1_000), Err(unknown));
    }

    #[test]
    fn a_kind_of_a_newer_version_refuses() {
        let bytes = [99, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Entry::read(&bytes, 1, 0), Err(RecordError::Unknown { kind: 99, version: 1 }));
    }
}
