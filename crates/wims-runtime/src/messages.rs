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
}
