//! What the engine answers about itself and its items, and what it hands to history.
//!
//! Promise: an answer leaves only after everything it saw is durable. Nothing here changes the
//! state, redrive aside, which moves dead letters back where they came from, and what drops a
//! leftover.

use std::collections::HashMap;
use std::sync::Arc;

use wims_stack::table::SORT_KEY;
use wims_stack::{Doc, LogRef, Rule, TargetRef};

use crate::dead_letter::Way;
use crate::engine::{Cause, Engine};
use crate::io::{
    Answer, ClosedItem, HistoryJob, MessageRow, Output, Place, Query, QueueRow, Redriven, Status,
};
use crate::items::{Item, Items, text_bytes};
use crate::mails::attributes_sent_back;
use crate::messages::Counted;
use crate::plan::{LogPlan, LogStream};
use crate::record::Record;
use crate::workflow::event_view;

/// Closed items handed to history at once.
const HISTORY_BATCH: usize = 2_000;
/// Wait before a batch history refused is offered again.
const HISTORY_RETRY_MS: u64 = 1_000;
/// Dead letters moved back in one request, at most.
const REDRIVE_MAX: usize = 10_000;
/// Items counted before one, at most.
const COUNTED_MAX: usize = 10_000;

impl Engine {
    pub(crate) fn query(&mut self, query: Query) -> Answer {
        match query {
            Query::Get { table, pk, sk } => {
                let item = self.items_of(table).and_then(|items| items.get(&pk, &sk));
                Answer::Item(item.map(with_creation))
            }
            Query::Find { table, attribute, value } => {
                let item = self.items_of(table).and_then(|items| items.find(attribute, &value));
                Answer::Item(item.map(with_creation))
            }
            Query::First { table, pk } => {
                // A stack without the index has no order to ask for.
                let items = self.items_of(table).filter(|items| items.is_ordered(&pk));
                let item = items.and_then(|items| items.query(&pk, "").next());
                Answer::Item(item.map(with_creation))
            }
            Query::List { table, attribute, value, before, limit } => {
                let items = self
                    .items_of(table)
                    .into_iter()
                    .flat_map(|items| items.list(attribute, &value, before).take(limit));
                Answer::Items(items.map(with_creation).collect())
            }
            Query::Queues => Answer::Queues(self.queue_rows()),
            Query::Peek { queue, from, limit } => Answer::Messages(self.peek(&queue, from, limit)),
            Query::Turn { queue, attribute, value, from, since_ms } => {
                Answer::Turn(self.turn(queue, attribute, &value, from, since_ms))
            }
            Query::Place { table, pk, sk, sum_of } => {
                let items = self.items_of(table);
                Answer::Place(items.and_then(|items| place(items, &pk, &sk, sum_of)))
            }
            Query::Stuck(look) => Answer::Stuck(Box::new(self.stuck(&look))),
            Query::Redrive { queue, limit, dry_run } => match self.refuses_calls() {
                Some(reason) if !dry_run => Answer::Full { retry_after_s: 1, reason },
                _ => Answer::Moved(self.redrive(&queue, limit.min(REDRIVE_MAX), dry_run)),
            },
            Query::Leftovers => Answer::Leftovers(self.leftovers()),
            Query::Drop { name } => self.drop_leftover(&name),
            Query::Ready => match self.full() {
                Some(reason) => Answer::Full { retry_after_s: 1, reason },
                None => Answer::Durable(self.journal.next_seq() - 1),
            },
            Query::Durable => Answer::Durable(self.journal.next_seq() - 1),
            Query::Status => Answer::Status(Box::new(self.status())),
        }
    }

    pub(crate) fn items_of(&self, table: &str) -> Option<&Items> {
        let number = self.state.number(&format!("table/{table}"))?;
        Some(self.state.table(number))
    }

    /// What each log of the stack shows.
    pub fn log_plans(&self) -> HashMap<String, LogPlan> {
        let streams = self.plan.streams.iter().map(|stream| LogStream {
            pipe: stream.number,
            table: stream.table,
            bus: stream.bus,
            enrich: stream.enrich,
            unstreamed: self.state.table(stream.table).unstreamed().to_vec(),
        });
        let streams: Vec<LogStream> = streams.collect();
        // Names stay for good, also those of pipes no stack declares any more.
        let mut names = (0u16..).zip(&self.state.names);
        let is_pipe = |name: &Option<String>| name.as_ref().is_some_and(|n| n.starts_with("pipe/"));
        let first_pipe = names.find(|(_, name)| is_pipe(name)).map(|(number, _)| number);
        let queues: HashMap<u16, String> =
            self.state.queue_numbers().map(|n| (n, self.name_of(n, "queue/"))).collect();
        let plan = |log: &LogRef| {
            let leads_here = |rule: &&Rule| {
                rule.targets.iter().any(|target| target.to == TargetRef::Log(log.clone()))
            };
            let rules = self.stack.rules.iter().filter(leads_here).filter_map(|rule| {
                let bus = self.state.number(&format!("bus/{}", rule.bus.name()))?;
                Some((bus, rule.pattern.compile().ok()?))
            });
            let (rules, streams, queues) = (rules.collect(), streams.clone(), queues.clone());
            LogPlan { rules, streams, first_pipe, queues }
        };
        let logs = self.stack.logs.iter();
        logs.map(|log| (log.name.name().to_owned(), plan(&log.name))).collect()
    }

    fn queue_rows(&self) -> Vec<QueueRow> {
        let shown = self.state.queue_numbers().filter(|number| self.shows_queue(*number));
        let rows = shown.map(|number| {
            let queue = self.state.queue(number);
            let oldest_ms = queue.oldest_sent_ms().unwrap_or(self.now.wall_ms);
            QueueRow {
                name: self.name_of(number, "queue/"),
                declared: self.plan.queues.contains_key(&number),
                messages: queue.visible(),
                in_flight: queue.in_flight(),
                delayed: queue.len() - queue.visible() - queue.in_flight(),
                oldest_age_s: self.now.wall_ms.saturating_sub(oldest_ms) / 1_000,
            }
        });
        rows.collect()
    }

    /// A queue the stack does not have is there as long as it holds messages.
    fn shows_queue(&self, number: u16) -> bool {
        self.plan.queues.contains_key(&number) || !self.state.queue(number).is_empty()
    }

    /// The number of a queue that is there.
    pub(crate) fn queue_named(&self, queue: &str) -> Option<u16> {
        let number = self.state.number(&format!("queue/{queue}"));
        number.filter(|number| self.shows_queue(*number))
    }

    fn name_of(&self, number: u16, kind: &str) -> String {
        let name = self.state.names[usize::from(number)].as_deref().unwrap_or("");
        name.strip_prefix(kind).unwrap_or(name).to_owned()
    }

    fn peek(&self, queue: &str, from: u64, limit: usize) -> Option<Vec<MessageRow>> {
        let number = self.queue_named(queue)?;
        let rows = self.state.queue(number).from(from).take(limit).map(|(id, m)| MessageRow {
            id,
            body: m.body.clone(),
            attributes: m.attributes.as_deref().cloned(),
            sent_ms: m.sent_ms,
            receives: m.receives,
            attempts: m.attempts,
        });
        Some(rows.collect())
    }

    /// Moves dead letters back: a message to the queue it came from, an event to the target of
    /// the rule that could not take it. A frame that is full ends it.
    fn redrive(&mut self, queue: &str, limit: usize, dry_run: bool) -> Option<Redriven> {
        let plan = self.plan.clone();
        let number = self.queue_named(queue)?;
        let messages = self.state.queue(number).from(0);
        let mut letters = messages.filter_map(|(id, message)| {
            let way = Way::of(&plan, number, message.attributes.as_deref()?)?;
            let attributes = match way {
                Way::Queue(source) => attributes_sent_back(&plan, source, id, message),
                Way::Rule(..) => None,
            };
            Some((id, message.body.clone(), attributes, way))
        });
        let first: Vec<_> = letters.by_ref().take(limit).collect();
        let all = first.len() + letters.count();
        if dry_run {
            return Some(Redriven { moved: first.len(), left: all });
        }
        let mut moved = 0;
        for (id, body, attributes, way) in first {
            if !self.journal.has_room() {
                break;
            }
            moved += 1;
            let cause = self.cause_of_message(number, id);
            let deleted = Record::Deleted { queue: number, id };
            self.emit(Cause::of_trace(cause.trace), deleted);
            match way {
                Way::Queue(source) => self.send(source, body, attributes, cause),
                Way::Rule(rule, target) => {
                    self.deliver(&plan, &rule.name, target, &event_view(&body), cause);
                }
            }
        }
        Some(Redriven { moved, left: all - moved })
    }

    /// Estimated bytes of memory that grow with what is open.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let tables = self.state.table_numbers().map(|n| self.state.table(n).memory_bytes());
        let queues = self.state.queue_numbers().map(|n| self.state.queue(n).memory_bytes());
        let waiting = self.state.executions_bytes() + self.state.stream_bytes();
        let others = waiting + self.state.keys.memory_bytes();
        (others + tables.chain(queues).sum::<usize>()) as u64
    }

    fn status(&self) -> Status {
        let tables: Vec<u16> = self.state.table_numbers().collect();
        let of_tables = |size: &dyn Fn(u16) -> usize| -> Vec<(String, usize)> {
            tables.iter().map(|number| (self.name_of(*number, "table/"), size(*number))).collect()
        };
        let mut memory = of_tables(&|number| self.state.table(number).memory_bytes());
        memory.extend(
            self.state
                .queue_numbers()
                .map(|number| (self.name_of(number, ""), self.state.queue(number).memory_bytes())),
        );
        memory.push(("executions".into(), self.state.executions_bytes()));
        memory.push(("stream".into(), self.state.stream_bytes()));
        memory.push(("keys".into(), self.state.keys.memory_bytes()));
        Status {
            items: of_tables(&|number| self.state.table(number).len()),
            by_status: self.by_status(&tables),
            queues: self.queue_rows(),
            pipes: self.pipe_rows(),
            change_lag: self.state.stream.len(),
            seq: self.state.seq,
            durable_seq: self.journal.durable_seq(),
            journal_disk_bytes: self.journal.disk_bytes(),
            journal_written_bytes: self.journal.written_bytes,
            frames: self.journal.written_frames,
            memory,
            executions: self.state.executions.len(),
            closed_waiting: tables.iter().map(|n| self.state.table(*n).closed_waiting()).sum(),
            sweeps: self.sweep.finished,
            mails_to_nobody: self.mails.to_nobody,
            timings: self.stopwatch.timings.clone(),
        }
    }

    /// Open items by the value of their `status`, from the indexes that have one.
    fn by_status(&self, tables: &[u16]) -> Vec<(String, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for table in tables {
            for (value, count) in self.state.table(*table).counts("status") {
                *counts.entry(value.to_owned()).or_insert(0) += count;
            }
        }
        counts.into_iter().collect()
    }

    /// Hands closed items to history, one batch at a time.
    pub(crate) fn feed_history(&mut self) {
        if self.history_busy || self.state.clock_ms < self.history_retry_ms {
            return;
        }
        let mut items = Vec::new();
        for number in self.state.table_numbers() {
            let name: Arc<str> = self.name_of(number, "table/").into();
            let table = self.state.table(number);
            let closed = table.closed().take(HISTORY_BATCH);
            items.extend(closed.map(|item| ClosedItem {
                table: name.clone(),
                doc: item.doc.clone(),
                created: item.created,
                changed: item.changed,
                indexed: table.indexed(item),
            }));
        }
        items.sort_by_key(|item| item.changed);
        items.truncate(HISTORY_BATCH);
        if let Some(last) = items.last() {
            let seq = last.changed;
            self.history_busy = true;
            self.hold(Output::History(HistoryJob { items, seq }));
        }
    }

    pub(crate) fn historied(&mut self, seq: u64, success: bool) {
        self.history_busy = false;
        if success {
            self.archive(seq);
            self.emit(Cause::default(), Record::Historied { seq });
        } else {
            self.history_retry_ms = self.state.clock_ms + HISTORY_RETRY_MS;
        }
    }
}

impl Engine {
    /// Lets go of what closed up to a sequence and has not changed since.
    fn archive(&mut self, seq: u64) {
        for table in self.state.table_numbers().collect::<Vec<_>>() {
            let gone = self.state.table(table).closed().take_while(|item| item.changed <= seq);
            let keys: Vec<_> = gone.map(Item::key).collect();
            for (pk, sk) in keys {
                self.emit(Cause::default(), Record::Archived { table, pk, sk });
            }
        }
    }
}

/// Where an item stands in its partition, and what an attribute of those before it comes to.
fn place(items: &Items, pk: &str, sk: &str, sum_of: &str) -> Option<Place> {
    items.get(pk, sk)?;
    let mut place = Place { ahead: Counted { number: 0, is_more: false }, sum_ahead: 0 };
    for item in items.query(pk, "") {
        if text_bytes(&item.doc, SORT_KEY) >= sk.as_bytes() {
            break;
        }
        if place.ahead.number == COUNTED_MAX {
            place.ahead.is_more = true;
            break;
        }
        place.ahead.number += 1;
        place.sum_ahead = place.sum_ahead.saturating_add(item.doc.int(sum_of).unwrap_or(0));
    }
    Some(place)
}

fn with_creation(item: &Item) -> (Doc, u64) {
    (item.doc.clone(), item.created)
}

#[cfg(test)]
mod tests {
    use wims_stack::{Field, QueueRef, Template};

    use super::*;
    use crate::journal::FRAME_BYTES_SOFT_MAX;
    use crate::quiet::{self, Quiet};

    const LETTERS: usize = 10;

    /// An engine with dead letters of `noted`, four of which fill a frame, and one that nobody
    /// knows the way back of.
    fn with_letters() -> Quiet {
        let noted = TargetRef::Queue(QueueRef::new("noted"), Template::path("$.detail.sk"));
        let mut quiet = Quiet::start(&quiet::stack(noted), &quiet::functions());
        let dead = quiet.engine.state.number("queue/dead").expect("it is declared");
        let from = |queue| Some(Doc::object(&[("SOURCE_QUEUE", Field::Str(queue))]));
        for number in 0..LETTERS {
            let body = Doc::text(&number.to_string().repeat(FRAME_BYTES_SOFT_MAX / 4));
            quiet.engine.send(dead, body, from("noted"), Cause::default());
            quiet.pass_ms(10);
        }
        quiet.engine.send(dead, Doc::text("stays"), from("nobody"), Cause::default());
        quiet.pass_ms(10);
        quiet
    }

    fn redrive(quiet: &mut Quiet, limit: usize, dry_run: bool) -> Redriven {
        match quiet.ask(Query::Redrive { queue: "dead".into(), limit, dry_run }) {
            Answer::Moved(Some(redriven)) => redriven,
            other => panic!("nothing is sent back: {other:?}"),
        }
    }

    #[test]
    fn a_redrive_that_a_full_frame_ends_tells_how_many_are_left_until_none_is() {
        let mut quiet = with_letters();
        let dry = redrive(&mut quiet, 3, true);
        assert_eq!(dry, Redriven { moved: 3, left: LETTERS });
        assert_eq!(redrive(&mut quiet, 1, false), Redriven { moved: 1, left: LETTERS - 1 });
        let mut moved = 1;
        loop {
            let redriven = redrive(&mut quiet, LETTERS, false);
            assert!((1..=4).contains(&redriven.moved), "a frame has room for four: {redriven:?}");
            moved += redriven.moved;
            assert_eq!(redriven.left, LETTERS - moved);
            if redriven.left == 0 {
                break;
            }
        }
        let first = |text: String| text.chars().next();
        let texts: Vec<_> = quiet.texts("noted").into_iter().filter_map(first).collect();
        assert_eq!(texts, ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
        assert_eq!(quiet.texts("dead"), ["stays"]);
    }
}
