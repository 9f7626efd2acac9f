//! Stuck: which items wait for something that is not there.
//!
//! Promise: an item is told as stuck only when what it needs is nowhere: its change is through the
//! stream, and there is no message, no execution and no dead letter for it. All of it is looked at
//! in one step, so that nothing moves in between; the number of items, messages and executions is
//! bounded, and what could not be found within that is told apart. It deliberately knows no item:
//! what one needs is a function of the business.

use std::collections::{BTreeMap, BTreeSet};

use wims_stack::Doc;

use crate::engine::Engine;
use crate::functions::Reads;

/// Messages of a queue, and executions, that are looked at, at most: milliseconds of work.
const LOOKED_AT_MAX: usize = 10_000;

/// Where no message is needed.
const NO_QUEUES: &[&str] = &[];

/// What must be there for an item, as the business reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: a person acts, or it is at its end.
    Nothing,
    /// What it needed is known to be gone.
    Gone,
    /// An event that is under way, or dead.
    Event,
    /// A message in one of these queues, or an event that leads there.
    Message(&'static [&'static str]),
}

/// How the business tells what items wait for.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// The attribute that names an item, and the item a message is for.
    pub attribute: &'static str,
    /// What an item needs.
    pub needs: fn(&Doc, Reads<'_>) -> Needs,
    /// The item that an event is about.
    pub subject: fn(&Doc) -> Option<&str>,
    /// The queue of events whose targets could not take them.
    pub dead_events: &'static str,
}

/// Which items are looked at.
#[derive(Clone, Debug)]
pub struct Look {
    /// The table's name.
    pub table: &'static str,
    /// Those with a value of this attribute, which is listed.
    pub attribute: &'static str,
    /// The value.
    pub value: &'static str,
    /// Those created before this sequence, newest first.
    pub before: u64,
    /// At most this many.
    pub limit: usize,
    /// What they wait for.
    pub waits: Waits,
}

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// Names of items that are stuck.
    pub stuck: Vec<String>,
    /// Items whose messages or events are too many to tell.
    pub untold: usize,
    /// Where the next look goes on; none when this was the last.
    pub next: Option<u64>,
}

impl Engine {
    pub(crate) fn stuck(&self, look: &Look) -> Stuck {
        let mut found = Stuck::default();
        let Some(items) = self.items_of(look.table) else { return found };
        let (unseen_from, mut from) = (self.state.stream_front(), u64::MAX);
        let (mut looked_at, mut open) = (0, BTreeMap::new());
        for item in items.list(look.attribute, look.value, look.before).take(look.limit) {
            looked_at += 1;
            from = item.created;
            // What follows from its change is still to come.
            if item.changed >= unseen_from {
                continue;
            }
            let name = item.doc.str(look.waits.attribute).unwrap_or("");
            match (look.waits.needs)(&item.doc, Reads::of(items)) {
                Needs::Nothing => {}
                Needs::Gone => found.stuck.push(name.to_owned()),
                Needs::Event => {
                    open.insert(name, NO_QUEUES);
                }
                Needs::Message(queues) => {
                    open.insert(name, queues);
                }
            }
        }
        found.next = (looked_at == look.limit).then_some(from);
        let is_searched = self.strike_messages(&mut open, &look.waits, from);
        let are_told = open.is_empty() || self.strike_events(&mut open, &look.waits);
        for (name, queues) in open {
            if are_told && (is_searched || queues.is_empty()) {
                found.stuck.push(name.to_owned());
            } else {
                found.untold += 1;
            }
        }
        found
    }

    /// Strikes out what has its message; true when no message was left unseen.
    fn strike_messages(
        &self,
        open: &mut BTreeMap<&str, &'static [&'static str]>,
        waits: &Waits,
        from: u64,
    ) -> bool {
        let queues: BTreeSet<&str> =
            open.values().flat_map(|queues| queues.iter().copied()).collect();
        let mut is_searched = true;
        for queue in queues {
            let Some(number) = self.queue_named(queue) else { continue };
            // A message comes after what it is for.
            for (looked_at, (_, message)) in self.state.queue(number).from(from).enumerate() {
                if looked_at == LOOKED_AT_MAX {
                    is_searched = false;
                    break;
                }
                let Some(name) = message.body.str(waits.attribute) else { continue };
                if open.get(name).is_some_and(|queues| queues.contains(&queue)) {
                    open.remove(name);
                }
            }
        }
        is_searched
    }

    /// Strikes out what has an event that goes on later, or a dead one; false when there are too
    /// many to tell.
    fn strike_events(
        &self,
        open: &mut BTreeMap<&str, &'static [&'static str]>,
        waits: &Waits,
    ) -> bool {
        let dead = self.queue_named(waits.dead_events).map(|number| self.state.queue(number));
        let dead_count = dead.map_or(0, |queue| queue.len());
        if self.state.executions.len().max(dead_count) > LOOKED_AT_MAX {
            return false;
        }
        let waiting = self.state.executions.values().map(|execution| &execution.waiting.event);
        let letters = dead.into_iter().flat_map(|queue| queue.from(0));
        for event in waiting.chain(letters.map(|(_, letter)| &letter.body)) {
            if let Some(name) = (waits.subject)(event) {
                open.remove(name);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use wims_stack::table::Index;
    use wims_stack::{Field, QueueRef, TargetRef, Template};

    use super::*;
    use crate::engine::Cause;
    use crate::io::{Answer, Query};
    use crate::quiet::{self, Quiet};

    /// Items `1` need a message in `noted`, `2` an event, `3` have lost what they needed.
    fn needs(item: &Doc, _: Reads<'_>) -> Needs {
        match item.str("sk") {
            Some("1") => Needs::Message(&["noted"]),
            Some("2") => Needs::Event,
            Some("3") => Needs::Gone,
            Some(_) | None => Needs::Nothing,
        }
    }

    fn subject(event: &Doc) -> Option<&str> {
        event.str("about")
    }

    fn look(quiet: &mut Quiet, before: u64, limit: usize) -> Stuck {
        let waits = Waits { attribute: "sk", needs, subject, dead_events: "dead" };
        let (table, attribute, value) = ("T", "state", "NEW");
        let look = Look { table, attribute, value, before, limit, waits };
        match quiet.ask(Query::Stuck(Box::new(look))) {
            Answer::Stuck(found) => *found,
            other => panic!("nothing is told: {other:?}"),
        }
    }

    /// A quiet engine whose items are listed by their state and lead to no message.
    fn quiet() -> Quiet {
        let nowhere = TargetRef::Queue(QueueRef::new("seen"), Template::path("$.detail.sk"));
        let mut stack = quiet::stack(nowhere);
        stack.rules.clear();
        let (attribute, prefix) = ("state".into(), String::new());
        let (unique, ordered) = (false, false);
        stack.tables[0].indexes.push(Index { attribute, prefix, unique, ordered });
        let mut quiet = Quiet::start(&stack, &quiet::functions());
        for sk in ["0", "1", "2", "3"] {
            quiet.put(sk);
            quiet.pass_ms(10);
        }
        quiet
    }

    fn send(quiet: &mut Quiet, queue: &str, name: &str, value: &str) {
        let number = quiet.engine.state.number(queue).expect("it is declared");
        let body = Doc::object(&[(name, Field::Str(value))]);
        quiet.engine.send(number, body, None, Cause::default());
        quiet.pass_ms(10);
    }

    #[test]
    fn an_item_is_stuck_while_what_it_needs_is_nowhere() {
        let mut quiet = quiet();
        assert_eq!(look(&mut quiet, u64::MAX, 10).stuck, ["3", "1", "2"]);
        send(&mut quiet, "queue/dead", "sk", "1");
        assert_eq!(look(&mut quiet, u64::MAX, 10).stuck, ["3", "1", "2"], "in another queue");
        send(&mut quiet, "queue/noted", "sk", "1");
        assert_eq!(look(&mut quiet, u64::MAX, 10).stuck, ["3", "2"]);
        send(&mut quiet, "queue/dead", "about", "2");
        assert_eq!(look(&mut quiet, u64::MAX, 10).stuck, ["3"]);
    }

    #[test]
    fn a_look_goes_on_where_the_one_before_it_ended() {
        let mut quiet = quiet();
        let (mut before, mut found) = (u64::MAX, Vec::new());
        loop {
            let page = look(&mut quiet, before, 1);
            assert_eq!(page.untold, 0);
            found.extend(page.stuck);
            let Some(next) = page.next else { break };
            before = next;
        }
        assert_eq!(found, ["3", "2", "1"]);
    }
}
