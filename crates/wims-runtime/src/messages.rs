//! The messages of one queue in memory.
//!
//! Promise: SQS's: a received message is hidden and comes back unless deleted; a delete of a
//! message that is gone does nothing. Messages come oldest first where nothing hides them. It
//! deliberately decides nothing: who receives, hides and deletes are the pipes.

use std::collections::{BTreeMap, BTreeSet};

use wims_stack::Doc;

use crate::trace::TraceId;

/// A message and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What was sent.
    pub body: Doc,
    /// Why it is here, for dead letters.
    pub attributes: Option<Box<Doc>>,
    /// Its trace, which goes on with what becomes of it.
    pub trace: Option<TraceId>,
    /// Wall time when it was sent.
    pub sent_ms: u64,
    /// Hidden until then, in clock milliseconds.
    pub visible_at_ms: u64,
    /// Receives so far.
    pub receives: u32,
    /// Attempts used so far.
    pub attempts: u32,
    /// Whether a consumer holds it.
    pub held: bool,
}

/// What a look for a message among a bounded number came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// It is this one.
    Found(u64),
    /// There is none.
    Absent,
    /// There are more than could be looked at, and it was not among those.
    GaveUp,
}

/// A number that was counted as far as was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub number: usize,
    /// There are more than that.
    pub is_more: bool,
}

/// The messages of one queue; see the module.
#[derive(Default)]
pub struct Messages {
    all: BTreeMap<u64, Message>,
    ready: BTreeSet<u64>,
    hidden: BTreeSet<(u64, u64)>,
    held: usize,
    heap_bytes: usize,
}

impl Messages {
    /// Puts a message in place of one with the same id.
    pub fn set(&mut self, id: u64, message: Message, clock_ms: u64) {
        if self.all.last_key_value().is_some_and(|(last, _)| *last >= id) {
            self.remove(id);
        }
        self.heap_bytes += heap_bytes(&message);
        self.held += usize::from(message.held);
        if message.visible_at_ms > clock_ms {
            self.hidden.insert((message.visible_at_ms, id));
        } else {
            self.ready.insert(id);
        }
        self.all.insert(id, message);
    }

    /// Removes a message, if it is there.
    pub fn remove(&mut self, id: u64) {
        if let Some(message) = self.all.remove(&id) {
            self.heap_bytes -= heap_bytes(&message);
            self.held -= usize::from(message.held);
            if !self.ready.remove(&id) {
                self.hidden.remove(&(message.visible_at_ms, id));
            }
        }
    }

    /// A message.
    pub fn get(&self, id: u64) -> Option<&Message> {
        self.all.get(&id)
    }

    /// Lets messages appear whose time has come.
    pub fn appear(&mut self, clock_ms: u64) {
        while let Some(&(at, id)) = self.hidden.first() {
            if at > clock_ms {
                return;
            }
            self.hidden.remove(&(at, id));
            self.ready.insert(id);
            if let Some(message) = self.all.get_mut(&id) {
                self.held -= usize::from(message.held);
                message.held = false;
            }
        }
    }

    /// The oldest message that can be received.
    pub fn first_ready(&self) -> Option<u64> {
        self.ready.first().copied()
    }

    /// When the next hidden message appears, in clock milliseconds.
    pub fn next_appears_ms(&self) -> Option<u64> {
        self.hidden.first().map(|(at, _)| *at)
    }

    /// Messages from an id on, oldest first.
    pub fn from(&self, id: u64) -> impl Iterator<Item = (u64, &Message)> {
        self.all.range(id..).map(|(id, message)| (*id, message))
    }

    /// The first message from an id on that is meant; so many are looked at, at most.
    pub fn find(
        &self,
        from: u64,
        looked_at_max: usize,
        is_meant: impl Fn(&Message) -> bool,
    ) -> Search {
        for (looked_at, (id, message)) in self.from(from).enumerate() {
            if looked_at == looked_at_max {
                return Search::GaveUp;
            }
            if is_meant(message) {
                return Search::Found(id);
            }
        }
        Search::Absent
    }

    /// From which id on messages were sent at this wall time or later, as long as wall time went
    /// forward; bisected, so that few are looked at.
    pub fn sent_since(&self, from: u64, sent_ms: u64) -> u64 {
        let last = self.all.last_key_value().map_or(0, |(id, _)| *id);
        // What is before `low` was sent before, what is from `high` on was not.
        let (mut low, mut high) = (from, last.saturating_add(1));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.all.range(middle..high).next() {
                Some((id, message)) if message.sent_ms < sent_ms => low = id + 1,
                Some(_) | None => high = middle,
            }
        }
        low
    }

    /// How many messages that can be received come before this id. Counted from both ends at once,
    /// so that it is known near either; in between, up to a number.
    pub fn ready_before(&self, id: u64, counted_max: usize) -> Counted {
        let (mut before, mut behind) = (self.ready.range(..id), self.ready.range(id..));
        for number in 0..=counted_max {
            if before.next().is_none() {
                return Counted { number, is_more: false };
            }
            if behind.next().is_none() {
                return Counted { number: self.ready.len() - number, is_more: false };
            }
        }
        Counted { number: counted_max, is_more: true }
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Messages that can be received now.
    pub fn visible(&self) -> usize {
        self.ready.len()
    }

    /// Messages a consumer holds.
    pub fn in_flight(&self) -> usize {
        self.held
    }

    /// Wall time when the oldest message was sent.
    pub fn oldest_sent_ms(&self) -> Option<u64> {
        self.all.first_key_value().map(|(_, message)| message.sent_ms)
    }

    /// Bytes of memory, estimated from what is stored.
    pub fn memory_bytes(&self) -> usize {
        self.heap_bytes + self.all.len() * (size_of::<Message>() + 8) * 4 / 3 + self.all.len() * 12
    }
}

fn heap_bytes(message: &Message) -> usize {
    message.body.heap_bytes() + message.attributes.as_ref().map_or(0, |doc| doc.heap_bytes() + 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(visible_at_ms: u64, held: bool) -> Message {
        Message {
            body: Doc::text("x"),
            attributes: None,
            trace: None,
            sent_ms: 1,
            visible_at_ms,
            receives: 0,
            attempts: 0,
            held,
        }
    }

    #[test]
    fn a_hidden_message_comes_back_in_its_old_place() {
        let mut messages = Messages::default();
        messages.set(1, message(0, false), 0);
        messages.set(2, message(0, false), 0);
        messages.set(1, message(30, true), 0);
        assert_eq!((messages.first_ready(), messages.in_flight()), (Some(2), 1));
        messages.appear(29);
        assert_eq!(messages.first_ready(), Some(2));
        messages.appear(30);
        assert_eq!((messages.first_ready(), messages.in_flight()), (Some(1), 0));
        messages.remove(1);
        messages.remove(1);
        assert_eq!((messages.len(), messages.visible()), (1, 1));
    }
    fn sent(sent_ms: u64) -> Message {
        Message { sent_ms, ..message(0, false) }
    }

    #[test]
    fn a_message_is_looked_for_among_a_bounded_number_from_an_id_on() {
        let mut messages = Messages::default();
        (1..=9).for_each(|id| messages.set(id * 10, sent(id), 0));
        let find = |from, most, at| messages.find(from, most, |message| message.sent_ms == at);
        assert_eq!(find(0, 9, 9), Search::Found(90));
        assert_eq!(find(0, 8, 9), Search::GaveUp);
        assert_eq!(find(20, 8, 9), Search::Found(90));
        assert_eq!(find(20, 8, 1), Search::Absent);
        assert_eq!(find(100, 0, 1), Search::Absent);
    }

    #[test]
    fn messages_sent_since_a_time_are_found_by_bisection() {
        let mut messages = Messages::default();
        assert_eq!(messages.sent_since(5, 1), 5, "there is none");
        (1..=9).for_each(|id| messages.set(id * 10, sent(id), 0));
        let first = |from, at| messages.from(messages.sent_since(from, at)).next();
        let id_of = |from, at| first(from, at).map(|(id, _)| id);
        for at in 1..=9 {
            assert_eq!(id_of(0, at), Some(at * 10));
        }
        assert_eq!(id_of(0, 10), None);
        assert_eq!(id_of(45, 1), Some(50), "nothing from before is meant");
    }

    #[test]
    fn a_place_is_counted_from_both_ends_and_leaves_out_what_is_hidden() {
        let mut messages = Messages::default();
        (1..=9).for_each(|id| messages.set(id, message(0, false), 0));
        messages.set(2, message(30, true), 0);
        let before = |id, most| messages.ready_before(id, most);
        let known = |number| Counted { number, is_more: false };
        assert_eq!([before(1, 9), before(3, 9), before(9, 9)], [known(0), known(1), known(7)]);
        // Eight can be received; the last two have one behind them, or none.
        assert_eq!([before(9, 1), before(10, 0)], [known(7), known(8)]);
        assert_eq!(before(6, 2), Counted { number: 2, is_more: true });
    }
}
