//! The sweep: rewrites what is alive to the journal's head, a slice a turn.
//!
//! Promise: a recovery that starts where the last finished sweep began finds everything, so old
//! segments can go and recovery is bounded without a second format. Swept records are no changes
//! and reach no stream. What has a trace keeps it: the trace of a swept record is its own.

use crate::engine::{Cause, Engine};
use crate::messages::Message;
use crate::record::{Change, Hidden, Named, Record, SweptMessage};
use crate::state::Execution;

/// Items, messages or keys looked at in one slice.
const SLICE: usize = 64;
/// From one slice to the next: a sweep takes a few percent of a processor, and two of a million
/// items overlap no more than disk for as much again.
const SLICE_EVERY_US: u64 = 1_000;
/// A sweep begins when this many bytes were written since the last one began, at least.
const BYTES_BETWEEN_MIN_SEGMENTS: u64 = 3;

/// Where the sweep stands.
#[derive(Default)]
pub(crate) struct Sweep {
    running: Option<Running>,
    began_at_bytes: u64,
    /// Bytes of former lives that no sweep has passed.
    owed_bytes: u64,
    stopped: bool,
    pub finished: u64,
}

impl Sweep {
    /// Takes note of what former lives wrote.
    pub fn owe(&mut self, bytes: u64) {
        self.owed_bytes = bytes;
    }

    /// Gives up the sweep under way and begins no other: the next life owes it.
    pub fn stop(&mut self) {
        (self.running, self.stopped) = (None, true);
    }
}

struct Running {
    began: u64,
    segment: u64,
    place: Place,
    /// When the next slice is due, in microseconds of monotonic time.
    due_us: u64,
}

/// What comes next; of keys, those from a number on that were there when they were come to.
enum Place {
    Items { table: u16, slot: usize },
    Messages { queue: u16, id: u64 },
    Executions { id: u64 },
    Keys { number: u64, end: u64 },
    End,
}

impl Engine {
    /// Does a slice of the sweep, and begins one when it is time.
    pub(crate) fn run_sweep(&mut self) {
        let may_begin = self.journal.admits() && !self.sweep.stopped;
        if self.sweep.running.is_none() && may_begin && self.is_sweep_due() {
            self.begin_sweep();
        }
        let Some(mut running) = self.sweep.running.take() else { return };
        let is_due = running.due_us <= self.now.mono_us;
        if !is_due || !self.journal.has_room() || !self.journal.admits() {
            self.sweep.running = Some(running);
            return;
        }
        running.due_us = self.now.mono_us + SLICE_EVERY_US;
        running.place = self.sweep_slice(running.place);
        if matches!(running.place, Place::End) {
            let Running { began, segment, .. } = running;
            self.emit(Cause::default(), Record::SweepEnded { began, segment });
            self.sweep.finished += 1;
        } else {
            self.sweep.running = Some(running);
        }
    }

    /// When the next slice of a sweep under way is due, in microseconds of monotonic time.
    pub(crate) fn sweep_due_us(&self) -> Option<u64> {
        self.sweep.running.as_ref().map(|running| running.due_us)
    }

    fn is_sweep_due(&self) -> bool {
        let since = self.journal.written_bytes - self.sweep.began_at_bytes + self.sweep.owed_bytes;
        let alive = 2 * self.memory_bytes();
        since > (BYTES_BETWEEN_MIN_SEGMENTS * self.options.segment_bytes).max(alive)
    }

    /// Small things are written at once, when it begins.
    fn begin_sweep(&mut self) {
        self.sweep.began_at_bytes = self.journal.written_bytes;
        self.sweep.owed_bytes = 0;
        // The frame may still go to the current segment, so recovery starts there at the latest.
        let segment = self.journal.current_segment();
        let none = Cause::default();
        let began = self.emit(none, Record::SweepBegan);
        for (id, name) in self.state.names.clone().into_iter().enumerate() {
            let id = u16::try_from(id).expect("numbers are 16 bits");
            if let Some(name) = name {
                self.emit(none, Record::Named(Named { id, name }));
            }
        }
        for (consumer, seq) in self.state.cursors.clone() {
            let seq = self.caught_up(consumer).unwrap_or(seq);
            self.emit(none, Record::Cursor { consumer, seq });
        }
        for paced in self.state.paced.values().cloned().collect::<Vec<_>>() {
            self.emit(none, Record::Paced(paced));
        }
        let clock_ms = self.state.clock_ms;
        self.state.served.retain(|_, until| *until > clock_ms);
        for ((queue, subject), until_ms) in self.state.served.clone() {
            self.emit(none, Record::Served { queue, subject, until_ms });
        }
        let (id, seq) = (self.state.last_id, self.state.historied);
        self.emit(none, Record::LastId { id });
        self.emit(none, Record::Historied { seq });
        let place = self.next_table(None);
        self.sweep.running = Some(Running { began, segment, place, due_us: 0 });
    }

    fn sweep_slice(&mut self, place: Place) -> Place {
        match place {
            Place::Items { table, slot } => self.sweep_items(table, slot),
            Place::Messages { queue, id } => self.sweep_messages(queue, id),
            Place::Executions { id } => self.sweep_executions(id),
            Place::Keys { number, end } => self.sweep_keys(number, end),
            Place::End => Place::End,
        }
    }

    fn next_table(&self, after: Option<u16>) -> Place {
        let next = self.state.table_numbers().find(|table| after.is_none_or(|a| *table > a));
        next.map_or_else(|| self.next_queue(None), |table| Place::Items { table, slot: 0 })
    }

    fn next_queue(&self, after: Option<u16>) -> Place {
        let next = self.state.queue_numbers().find(|queue| after.is_none_or(|a| *queue > a));
        next.map_or(Place::Executions { id: 0 }, |queue| Place::Messages { queue, id: 0 })
    }

    fn sweep_items(&mut self, table: u16, slot: usize) -> Place {
        let end = slot + SLICE;
        for at in slot..end.min(self.state.table(table).slot_count()) {
            let Some(item) = self.state.table(table).in_slot(at).cloned() else { continue };
            let (created, new) = (item.created, Some(item.doc));
            let swept = Change { table, created, old: None, new };
            self.emit(Cause::default(), Record::SweptItem(swept));
        }
        if end < self.state.table(table).slot_count() {
            return Place::Items { table, slot: end };
        }
        self.next_table(Some(table))
    }

    fn sweep_messages(&mut self, queue: u16, id: u64) -> Place {
        let messages: Vec<(u64, Message)> = self
            .state
            .queue(queue)
            .from(id)
            .take(SLICE)
            .map(|(id, message)| (id, message.clone()))
            .collect();
        let last = messages.last().map(|(id, _)| *id);
        let more = messages.len() == SLICE;
        for (id, message) in messages {
            let cause = Cause::of_trace(message.trace);
            self.emit(cause, Record::SweptMessage(swept_message(queue, id, message)));
        }
        match last {
            Some(id) if more => Place::Messages { queue, id: id + 1 },
            _ => self.next_queue(Some(queue)),
        }
    }

    fn sweep_executions(&mut self, id: u64) -> Place {
        let executions = self.state.executions.range(id..).take(SLICE);
        let executions: Vec<_> = executions.map(|(_, execution)| execution.clone()).collect();
        let last = executions.last().map(|execution| execution.waiting.id);
        let more = executions.len() == SLICE;
        for Execution { waiting, trace } in executions {
            self.emit(Cause::of_trace(trace), Record::Waiting(waiting));
        }
        match last {
            Some(id) if more => Place::Executions { id: id + 1 },
            _ => Place::Keys { number: 0, end: self.state.keys.end() },
        }
    }

    /// Keys have no trace of their own: nothing follows from them.
    fn sweep_keys(&mut self, number: u64, end: u64) -> Place {
        let keys = self.state.keys.from(number).take_while(|(number, _)| *number < end);
        let keys: Vec<_> = keys.take(SLICE).map(|(number, keyed)| (number, *keyed)).collect();
        let last = keys.last().map(|(number, _)| *number);
        let (more, clock_ms) = (keys.len() == SLICE, self.state.clock_ms);
        for (_, keyed) in keys.into_iter().filter(|(_, keyed)| keyed.is_live(clock_ms)) {
            self.emit(Cause::default(), Record::Keyed(keyed));
        }
        match last {
            Some(number) if more => Place::Keys { number: number + 1, end },
            _ => Place::End,
        }
    }
}

fn swept_message(queue: u16, id: u64, message: Message) -> SweptMessage {
    SweptMessage {
        hidden: Hidden {
            queue,
            id,
            visible_at_ms: message.visible_at_ms,
            receives: message.receives,
            attempts: message.attempts,
            held: message.held,
        },
        body: message.body,
        attributes: message.attributes.map(|doc| *doc),
        sent_ms: message.sent_ms,
    }
}
