//! The state: everything the engine knows, and `apply`, the one place where it changes.
//!
//! Promise: live, recovered and simulated records go through the same `apply`, so the state after
//! a crash is the state at the last durable frame. It deliberately reads no clock and decides
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use wims_stack::table::{PARTITION_KEY, Table};
use wims_stack::{Doc, PipeSource, Stack, StreamStart, TableRef};

use crate::items::{Items, text};
use crate::keys::Keys;
use crate::messages::{Message, Messages};
use crate::record::{Change, Entry, Hidden, Paced, Record, Sent, SweptMessage, Waiting};
use crate::trace::TraceId;

/// A change that a consumer of the stream has not seen yet.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamChange {
    /// Its sequence.
    pub seq: u64,
    /// Its wall time.
    pub wall_ms: u64,
    /// Whether a replay is at the root of it.
    pub replay: bool,
    /// Its trace.
    pub trace: Option<TraceId>,
    /// The table's number.
    pub table: u16,
    /// The item before.
    pub old: Option<Doc>,
    /// The item after.
    pub new: Option<Doc>,
}

impl StreamChange {
    fn memory_bytes(&self) -> usize {
        let images = self.old.iter().chain(&self.new).map(Doc::heap_bytes);
        size_of::<StreamChange>() + images.sum::<usize>()
    }
}

/// An execution that goes on later.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// Where it stands.
    pub waiting: Waiting,
    /// Its trace.
    pub trace: Option<TraceId>,
}

impl Execution {
    /// With its share of the maps it is in, by id and by when it goes on.
    fn memory_bytes(&self) -> usize {
        let entries = (size_of::<Execution>() + 3 * size_of::<u64>()) * 4 / 3;
        entries + self.waiting.event.heap_bytes() + self.waiting.position.len()
    }
}

/// A declared pipe that reads the stream.
struct Consumer {
    name: String,
    start: StreamStart,
}

/// Everything the engine knows; see the module.
pub struct State {
    declared: Vec<Table>,
    /// Who reads the stream; a change stays until all of them have seen it.
    consumers: Vec<Consumer>,
    /// Changes up to here were let go of.
    let_go: u64,
    /// Changes from here on stay whatever the cursors say.
    held_from: u64,
    /// Names of resources by number.
    pub names: Vec<Option<String>>,
    numbers: HashMap<String, u16>,
    tables: Vec<Option<Items>>,
    queues: Vec<Option<Messages>>,
    /// The last sequence each consumer has seen, those included that no stack declares.
    pub cursors: BTreeMap<u16, u64>,
    /// Changes some declared consumer has not seen, oldest first.
    pub stream: VecDeque<StreamChange>,
    stream_bytes: usize,
    /// Executions that go on later, by id.
    pub executions: BTreeMap<u64, Execution>,
    executions_bytes: usize,
    /// Their ids by when they go on.
    pub wakes: BTreeSet<(u64, u64)>,
    /// What pipes have learned of their targets.
    pub paced: BTreeMap<u16, Paced>,
    /// Until when a subscription has served a subject.
    pub served: BTreeMap<(u16, u64), u64>,
    /// Keys of requests that were carried out.
    pub(crate) keys: Keys,
    /// The largest id given out.
    pub last_id: u128,
    /// History holds what closed up to this sequence.
    pub historied: u64,
    /// The last sequence applied.
    pub seq: u64,
    /// The clock, in milliseconds; it never goes back.
    pub clock_ms: u64,
    /// Where the last finished sweep began: sequence and segment.
    pub swept: (u64, u64),
}

impl State {
    /// A state that knows nothing, for a declared stack.
    pub fn new(stack: &Stack) -> State {
        let consumers = stack.pipes.iter().filter_map(|pipe| match pipe.source {
            PipeSource::Stream { start, .. } => {
                Some(Consumer { name: format!("pipe/{}", pipe.name), start })
            }
            PipeSource::Queue(_) => None,
        });
        State {
            declared: stack.tables.clone(),
            consumers: consumers.collect(),
            let_go: 0,
            held_from: u64::MAX,
            names: Vec::new(),
            numbers: HashMap::new(),
            tables: Vec::new(),
            queues: Vec::new(),
            cursors: BTreeMap::new(),
            stream: VecDeque::new(),
            stream_bytes: 0,
            executions: BTreeMap::new(),
            executions_bytes: 0,
            wakes: BTreeSet::new(),
            paced: BTreeMap::new(),
            served: BTreeMap::new(),
            keys: Keys::default(),
            last_id: 0,
            historied: 0,
            seq: 0,
            clock_ms: 0,
            swept: (0, 0),
        }
    }

    /// Changes the state by what a record says.
    pub fn apply(&mut self, entry: Entry) {
        let Entry { seq, wall_ms, replay, trace, record, .. } = entry;
        self.seq = seq;
        match record {
            Record::Named(named) => self.name(named.id, named.name),
            Record::Change(change) => self.change(seq, wall_ms, replay, trace, change),
            Record::SweptItem(change) => self.set_item(seq, &change, true),
            Record::Sent(sent) => self.sent(seq, wall_ms, trace, sent),
            Record::Hidden(hidden) => self.hidden(&hidden),
            Record::SweptMessage(message) => self.swept_message(trace, message),
            Record::Deleted { queue, id } => self.queue_mut(queue).remove(id),
            Record::Cursor { consumer, seq } => self.cursor(consumer, seq),
            Record::Waiting(waiting) => self.waiting(seq, trace, waiting),
            Record::Ended { id } => self.ended(id),
            Record::Paced(paced) => {
                self.paced.insert(paced.pipe, paced);
            }
            Record::Served { queue, subject, until_ms } => {
                self.served.insert((queue, subject), until_ms);
            }
            Record::SweepEnded { began, segment } => self.swept = (began, segment),
            Record::LastId { id } => self.last_id = self.last_id.max(id),
            Record::Historied { seq } => self.historied(seq),
            Record::Archived { table, pk, sk } => self.items_mut(table).archive(&pk, &sk),
            Record::Dropped { id } => self.dropped(id),
            Record::Keyed(keyed) => self.keys.set(keyed),
            Record::Event(_) | Record::Skipped { .. } | Record::SweepBegan => {}
        }
    }

    /// The number of a resource, e.g. of `queue/payments-queue`.
    pub fn number(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    /// The items of a table.
    pub fn table(&self, number: u16) -> &Items {
        self.tables[usize::from(number)].as_ref().expect("the number is that of a table")
    }

    /// The messages of a queue.
    pub fn queue(&self, number: u16) -> &Messages {
        self.queues[usize::from(number)].as_ref().expect("the number is that of a queue")
    }

    /// Bytes of memory of the changes in the stream, estimated from what is stored. Images that
    /// the table still has are counted there as well.
    pub fn stream_bytes(&self) -> usize {
        self.stream_bytes
    }

    /// Bytes of memory of the executions that wait, estimated from what is stored.
    pub fn executions_bytes(&self) -> usize {
        self.executions_bytes
    }

    /// Lets hidden messages appear whose time has come.
    pub fn appear(&mut self, queue: u16) {
        let clock_ms = self.clock_ms;
        self.queue_mut(queue).appear(clock_ms);
    }

    /// Whether this is the number of a table.
    pub(crate) fn is_table(&self, number: u16) -> bool {
        self.tables.get(usize::from(number)).is_some_and(Option::is_some)
    }

    /// Whether this is the number of a queue.
    pub(crate) fn is_queue(&self, number: u16) -> bool {
        self.queues.get(usize::from(number)).is_some_and(Option::is_some)
    }

    /// Numbers of all tables.
    pub fn table_numbers(&self) -> impl Iterator<Item = u16> {
        numbers_of(&self.tables)
    }

    /// Numbers of all queues.
    pub fn queue_numbers(&self) -> impl Iterator<Item = u16> {
        numbers_of(&self.queues)
    }

    /// The oldest sequence some declared consumer of the stream has not seen.
    pub fn stream_front(&self) -> u64 {
        self.stream.front().map_or(self.seq + 1, |change| change.seq)
    }

    /// Whether a declared pipe reads the stream under this number.
    pub fn is_consumer(&self, number: u16) -> bool {
        let name = self.names.get(usize::from(number)).and_then(Option::as_ref);
        name.is_some_and(|name| self.consumers.iter().any(|consumer| consumer.name == *name))
    }

    /// Up to where every declared consumer has seen the stream; one without a cursor, nothing.
    pub fn seen_by_all(&self) -> u64 {
        let seen = self.consumers.iter().map(|consumer| self.cursor_of(consumer).unwrap_or(0));
        seen.min().unwrap_or(0)
    }

    /// From where on the stream must have every change: what follows the declared consumers'
    /// cursors, everything for one that starts at the horizon, nothing for one that starts now.
    pub fn unseen_from(&self) -> u64 {
        let unseen = self.consumers.iter().map(|consumer| match self.cursor_of(consumer) {
            Some(seq) => seq + 1,
            None => match consumer.start {
                StreamStart::Horizon => 1,
                StreamStart::Now => u64::MAX,
            },
        });
        unseen.min().unwrap_or(u64::MAX)
    }

    /// The oldest sequence at which a declared consumer goes on that has a place in the stream:
    /// the journal must have it. [`u64::MAX`] when there is none.
    pub fn goes_on_from(&self) -> u64 {
        let seen = self.consumers.iter().filter_map(|consumer| self.cursor_of(consumer));
        seen.min().map_or(u64::MAX, |seq| seq + 1)
    }

    /// Whether changes from a sequence on were let go of that are to be seen again: a cursor went
    /// back.
    pub fn has_let_go(&self, seq: u64) -> bool {
        self.let_go >= seq
    }

    /// Lets no change go from a sequence on, whatever the cursors say; [`u64::MAX`] ends that.
    pub fn hold_from(&mut self, seq: u64) {
        self.held_from = seq;
    }

    /// What comes after the cursors of all consumers: the journal keeps it, for those as well that
    /// the stack does not have; memory does not. Of one that has seen every change it keeps what
    /// is no change, until a sweep moves the cursor, so that a place that is gone is always damage.
    pub fn kept_from(&self) -> Option<u64> {
        self.cursors.values().map(|seq| seq + 1).min()
    }

    fn cursor_of(&self, consumer: &Consumer) -> Option<u64> {
        let number = self.numbers.get(&consumer.name)?;
        self.cursors.get(number).copied()
    }

    fn name(&mut self, id: u16, name: String) {
        let at = usize::from(id);
        if self.names.len() <= at {
            self.names.resize(at + 1, None);
            self.tables.resize_with(at + 1, || None);
            self.queues.resize_with(at + 1, || None);
        }
        if self.names[at].as_ref() == Some(&name) {
            return;
        }
        if let Some(table) = name.strip_prefix("table/") {
            self.tables[at] = Some(Items::new(self.declaration(table)));
        } else if name.starts_with("queue/") {
            self.queues[at] = Some(Messages::default());
        }
        self.numbers.insert(name.clone(), id);
        self.names[at] = Some(name);
    }

    /// The declaration of a table; a table no longer declared keeps its items without indexes.
    fn declaration(&self, name: &str) -> Table {
        let declared = self.declared.iter().find(|table| table.name.name() == name);
        declared.cloned().unwrap_or_else(|| Table {
            name: TableRef::new(name),
            unstreamed: Vec::new(),
            indexes: Vec::new(),
            closed: Vec::new(),
        })
    }

    fn change(
        &mut self,
        seq: u64,
        wall_ms: u64,
        replay: bool,
        trace: Option<TraceId>,
        change: Change,
    ) {
        self.set_item(seq, &change, false);
        let Some(image) = change.new.as_ref().or(change.old.as_ref()) else { return };
        // Without a reader nobody would ever have seen it.
        let is_read = !self.consumers.is_empty();
        if is_read && self.table(change.table).is_streamed(image) {
            let Change { table, old, new, .. } = change;
            let change = StreamChange { seq, wall_ms, replay, trace, table, old, new };
            self.stream_bytes += change.memory_bytes();
            self.stream.push_back(change);
        }
    }

    fn set_item(&mut self, seq: u64, change: &Change, swept: bool) {
        let Some(key) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let created = if change.created == 0 { seq } else { change.created };
        let items = self.items_mut(change.table);
        if swept {
            // As it is: an item already here keeps the sequence of its last change.
            let known = items.get(text(key, PARTITION_KEY), text(key, wims_stack::table::SORT_KEY));
            if known.is_some_and(|item| Some(&item.doc) == change.new.as_ref()) {
                return;
            }
        }
        items.set(key, change.new.clone(), created, seq);
    }

    fn sent(&mut self, seq: u64, wall_ms: u64, trace: Option<TraceId>, sent: Sent) {
        let message = Message {
            body: sent.body,
            attributes: sent.attributes.map(Box::new),
            trace,
            sent_ms: wall_ms,
            visible_at_ms: sent.visible_at_ms,
            receives: 0,
            attempts: 0,
            held: false,
        };
        let clock_ms = self.clock_ms;
        self.queue_mut(sent.queue).set(seq, message, clock_ms);
    }

    fn hidden(&mut self, hidden: &Hidden) {
        // A message sent before the recovery's start is not known until the sweep brings it.
        let Some(message) = self.queue(hidden.queue).get(hidden.id) else { return };
        let message = Message {
            visible_at_ms: hidden.visible_at_ms,
            receives: hidden.receives,
            attempts: hidden.attempts,
            held: hidden.held,
            ..message.clone()
        };
        let clock_ms = self.clock_ms;
        self.queue_mut(hidden.queue).set(hidden.id, message, clock_ms);
    }

    fn swept_message(&mut self, trace: Option<TraceId>, swept: SweptMessage) {
        let message = Message {
            body: swept.body,
            attributes: swept.attributes.map(Box::new),
            trace,
            sent_ms: swept.sent_ms,
            visible_at_ms: swept.hidden.visible_at_ms,
            receives: swept.hidden.receives,
            attempts: swept.hidden.attempts,
            held: swept.hidden.held,
        };
        let clock_ms = self.clock_ms;
        self.queue_mut(swept.hidden.queue).set(swept.hidden.id, message, clock_ms);
    }

    fn queue_mut(&mut self, number: u16) -> &mut Messages {
        self.queues[usize::from(number)].as_mut().expect("a queue is named before its messages")
    }

    fn cursor(&mut self, consumer: u16, seq: u64) {
        self.cursors.insert(consumer, seq);
        let seen_by_all = self.seen_by_all().min(self.held_from - 1);
        self.let_go = self.let_go.max(seen_by_all);
        while let Some(change) = self.stream.front().filter(|change| change.seq <= seen_by_all) {
            self.stream_bytes -= change.memory_bytes();
            self.stream.pop_front();
        }
    }

    fn waiting(&mut self, seq: u64, trace: Option<TraceId>, mut waiting: Waiting) {
        if waiting.id == 0 {
            waiting.id = seq;
        }
        self.ended(waiting.id);
        self.wakes.insert((waiting.wake_at_ms, waiting.id));
        let (id, execution) = (waiting.id, Execution { waiting, trace });
        self.executions_bytes += execution.memory_bytes();
        self.executions.insert(id, execution);
    }

    fn ended(&mut self, id: u64) {
        if let Some(execution) = self.executions.remove(&id) {
            self.executions_bytes -= execution.memory_bytes();
            self.wakes.remove(&(execution.waiting.wake_at_ms, id));
        }
    }

    fn historied(&mut self, seq: u64) {
        // A batch may be of items that closed before, by a declaration that is newer.
        self.historied = self.historied.max(seq);
        for items in self.tables.iter_mut().flatten() {
            items.note_historied(seq);
        }
    }

    /// Takes every closed item for one that history may lack; for a life that begins.
    pub fn find_closed(&mut self) {
        self.tables.iter_mut().flatten().for_each(Items::find_closed);
    }

    fn items_mut(&mut self, number: u16) -> &mut Items {
        self.tables[usize::from(number)].as_mut().expect("a table is named before its items")
    }

    fn dropped(&mut self, id: u16) {
        self.cursors.remove(&id);
        self.paced.remove(&id);
        self.served.retain(|(queue, _), _| *queue != id);
        if let Some(messages) = self.queues.get_mut(usize::from(id)).and_then(Option::as_mut) {
            *messages = Messages::default();
        }
        let executions = self.executions.values().map(|execution| &execution.waiting);
        let waiting = executions.filter(|waiting| waiting.workflow == id);
        let waiting: Vec<u64> = waiting.map(|waiting| waiting.id).collect();
        waiting.into_iter().for_each(|execution| self.ended(execution));
    }
}

fn numbers_of<T>(slots: &[Option<T>]) -> impl Iterator<Item = u16> {
    let taken = slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
    taken.map(|(at, _)| u16::try_from(at).expect("numbers are 16 bits"))
}

#[cfg(test)]
mod tests {
    use wims_stack::{Field, QueueRef, TargetRef, Template};

    use super::*;
    use crate::quiet;
    use crate::record::Named;

    const TABLE: u16 = 0;
    const PIPE: u16 = 1;

    /// A state that knows the table and the pipe of the quiet stack.
    fn named() -> State {
        let noted = TargetRef::Queue(QueueRef::new("noted"), Template::path("$.detail.sk"));
        let mut state = State::new(&quiet::stack(noted));
        for (id, name) in [(TABLE, "table/T"), (PIPE, "pipe/p")] {
            apply(&mut state, Record::Named(Named { id, name: name.into() }));
        }
        state
    }

    fn apply(state: &mut State, record: Record) {
        let seq = state.seq + 1;
        state.apply(Entry { seq, wall_ms: 1, cause: 0, replay: false, trace: None, record });
    }

    #[test]
    fn a_change_counts_as_memory_until_every_pipe_has_seen_it() {
        let mut state = named();
        for sk in ["1", "2"] {
            let new = Some(quiet::item(sk));
            apply(&mut state, Record::Change(Change { table: TABLE, created: 0, old: None, new }));
        }
        let both = state.stream_bytes();
        assert!(both > 2 * quiet::item("1").heap_bytes());
        let (first, second) = (state.stream[0].seq, state.stream[1].seq);
        apply(&mut state, Record::Cursor { consumer: PIPE, seq: first });
        assert_eq!(state.stream_bytes(), both / 2);
        apply(&mut state, Record::Cursor { consumer: PIPE, seq: second });
        assert_eq!(state.stream_bytes(), 0);
    }

    #[test]
    fn the_journal_keeps_what_follows_the_cursor_of_every_consumer_the_stack_has_or_has_not() {
        let mut state = named();
        assert_eq!((state.kept_from(), state.goes_on_from()), (None, u64::MAX));
        apply(&mut state, Record::Cursor { consumer: PIPE, seq: 7 });
        assert_eq!((state.kept_from(), state.goes_on_from()), (Some(8), 8));
        apply(&mut state, Record::Named(Named { id: 2, name: "pipe/away".into() }));
        apply(&mut state, Record::Cursor { consumer: 2, seq: 5 });
        assert_eq!((state.kept_from(), state.goes_on_from()), (Some(6), 8));
    }

    #[test]
    fn an_execution_counts_as_memory_as_it_is_now_until_it_ends() {
        let mut state = named();
        let waiting = |id, text: &str| {
            let event = Doc::object(&[("detail", Field::Str(text))]);
            let position = "{}".into();
            Record::Waiting(Waiting { id, workflow: 9, event, position, wake_at_ms: 5 })
        };
        apply(&mut state, waiting(0, "x"));
        let (id, small) = (state.seq, state.executions_bytes());
        assert!(small > 0);
        apply(&mut state, waiting(id, &"x".repeat(10_000)));
        let large = state.executions_bytes();
        assert!((small + 9_000..small + 11_000).contains(&large), "{small}, then {large}");
        apply(&mut state, waiting(id, "x"));
        assert_eq!(state.executions_bytes(), small);
        apply(&mut state, Record::Ended { id });
        assert_eq!(state.executions_bytes(), 0);
    }
}
