//! Stream pipes and the bus: changes become events, events reach the targets of rules.
//!
//! Promise: every change passes the enrichment once, in order; a record that makes it fail is
//! found by bisection and goes to the pipe's dead letters, and never blocks the rest. It
//! deliberately gives consumers no order and may deliver twice as far as they know.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wims_stack::{Doc, EventView, Field, Node, StreamStart, Tree};

use crate::dead_letter::{ERROR_MESSAGE, Failure, Origin, PANICKED};
use crate::engine::{Cause, Engine};
use crate::functions::{PutEvent, StreamRecord};
use crate::plan::{Plan, StreamPlan, TargetKind, TargetPlan};
use crate::record::{Published, Record, Sent};
use crate::state::StreamChange;

impl Engine {
    /// Where a stream pipe goes on. Where a new one starts is written at once: from then on the
    /// journal knows it, whatever it sees and whatever the next stack declares.
    pub(crate) fn place_of(&mut self, stream: &StreamPlan) -> u64 {
        if let Some(seq) = self.state.cursors.get(&stream.number) {
            return *seq;
        }
        let now = self.journal.next_seq() - 1;
        let oldest = self.state.stream.front().map(|change| change.seq - 1);
        let place = match stream.start {
            StreamStart::Horizon => oldest.unwrap_or(now),
            StreamStart::Now => now,
        };
        self.write_cursor(stream, place);
        place
    }

    /// The place of a consumer that has seen every change: the journal's end. Left at the last
    /// change it saw, it would seem to need old segments when none comes for long.
    pub(crate) fn caught_up(&mut self, consumer: u16) -> Option<u64> {
        let at = self.plan.streams.iter().position(|stream| stream.number == consumer)?;
        let last = self.state.stream.back().map_or(0, |change| change.seq);
        if self.positions[at] < last {
            return None;
        }
        self.positions[at] = self.journal.next_seq() - 1;
        Some(self.positions[at])
    }

    /// Lets every stream pipe see the changes it has not seen, as far as the frame has room; a batch
    /// each in turn, so that one that is far behind holds up no other.
    pub(crate) fn run_streams(&mut self, plan: &Plan) {
        let before = self.positions.clone();
        let mut is_behind = true;
        while is_behind && self.journal.has_room() {
            is_behind = false;
            for (at, stream) in plan.streams.iter().enumerate() {
                is_behind |= self.run_batch(plan, stream, at);
            }
        }
        for (at, stream) in plan.streams.iter().enumerate() {
            if self.positions[at] != before[at] && !self.options.bugs.cursor_apart.is_on() {
                self.write_cursor(stream, self.positions[at]);
            }
        }
    }

    /// Lets a stream pipe see a batch; whether there may be more.
    fn run_batch(&mut self, plan: &Plan, stream: &StreamPlan, at: usize) -> bool {
        let batch = self.next_batch(stream, self.positions[at]);
        let Some(last) = batch.last() else {
            // What is left are changes of other tables.
            self.positions[at] = self.positions[at].max(self.last_change());
            return false;
        };
        self.positions[at] = last.seq;
        self.enrich(plan, stream, &batch);
        true
    }

    /// The planted bug: cursors of an earlier step, written apart from their effects.
    pub(crate) fn write_late_cursors(&mut self, plan: &Plan) {
        for (at, stream) in plan.streams.iter().enumerate() {
            self.write_cursor(stream, self.positions[at]);
        }
    }

    /// In the same frame as the effects of what it covers.
    fn write_cursor(&mut self, stream: &StreamPlan, seq: u64) {
        if self.state.cursors.get(&stream.number) != Some(&seq) {
            self.emit(Cause::default(), Record::Cursor { consumer: stream.number, seq });
        }
    }

    fn next_batch(&self, stream: &StreamPlan, after: u64) -> Vec<StreamChange> {
        let changes = &self.state.stream;
        let start = changes.partition_point(|change| change.seq <= after);
        let of_table = changes.range(start..).filter(|change| change.table == stream.table);
        of_table.take(stream.batch_size).cloned().collect()
    }

    /// Enriches a batch; when that fails, its halves, down to the poison record.
    fn enrich(&mut self, plan: &Plan, stream: &StreamPlan, batch: &[StreamChange]) {
        let records: Vec<_> = batch
            .iter()
            .map(|change| StreamRecord { old: change.old.as_ref(), new: change.new.as_ref() })
            .collect();
        match catch_unwind(AssertUnwindSafe(|| (stream.enrich)(&records))) {
            Ok(events) => {
                events.into_iter().for_each(|event| self.publish(plan, stream.bus, batch, event));
            }
            Err(_) => match batch {
                [poison] => self.bury_change(plan, stream, poison),
                _ => {
                    let (left, right) = batch.split_at(batch.len() / 2);
                    self.enrich(plan, stream, left);
                    self.enrich(plan, stream, right);
                }
            },
        }
    }

    fn publish(&mut self, plan: &Plan, bus: u16, batch: &[StreamChange], event: PutEvent) {
        let change = &batch[event.record];
        let mut cause = cause_of(change);
        let mut detail = event.detail;
        if event.by_value {
            let doc = detail.to_doc();
            detail = Tree::Doc(doc.clone());
            cause.seq = self.emit(
                cause,
                Record::Event(Published {
                    bus,
                    source: event.source.into(),
                    detail_type: event.detail_type.into(),
                    detail: doc,
                }),
            );
        }
        let view = EventView {
            source: event.source,
            detail_type: event.detail_type,
            detail: detail.node(),
        };
        self.route(plan, bus, &view, cause);
    }

    /// Hands an event to the targets of every rule of the bus that matches.
    fn route(&mut self, plan: &Plan, bus: u16, event: &EventView<'_>, cause: Cause) {
        let mut found = std::mem::take(&mut self.found);
        plan.index.matching(event, &mut found);
        for at in found.drain(..) {
            let rule = &plan.rules[at];
            for (nth, target) in rule.targets.iter().enumerate().filter(|_| rule.bus == bus) {
                if !self.put_off(plan, (at, nth), event, cause) {
                    self.deliver(plan, &rule.name, target, event, cause);
                }
            }
        }
        self.found = found;
    }

    pub(crate) fn deliver(
        &mut self,
        plan: &Plan,
        rule: &str,
        target: &TargetPlan,
        event: &EventView<'_>,
        cause: Cause,
    ) {
        match &target.to {
            TargetKind::Workflow(at) => {
                if let Err(failure) = self.start_execution(plan, *at, rule, event, cause) {
                    let (rule, name) = (Some(rule), Some(target.name.as_str()));
                    let attributes =
                        Origin { rule, target: name, queue: None }.attributes(&failure);
                    self.bury(plan, target.dead_letters, event_doc(event), attributes, cause);
                }
            }
            TargetKind::Queue(queue, message) => {
                let body = message.render(event);
                self.send(*queue, body, None, cause);
            }
            TargetKind::Topic(topic) => self.publish_to_topic(plan, *topic, event, cause),
            TargetKind::Log => {}
        }
    }

    /// Sends a message, visible at once.
    pub(crate) fn send(&mut self, queue: u16, body: Doc, attributes: Option<Doc>, cause: Cause) {
        let visible_at_ms = self.state.clock_ms;
        self.emit(cause, Record::Sent(Sent { queue, body, attributes, visible_at_ms }));
    }

    fn bury_change(&mut self, plan: &Plan, stream: &StreamPlan, change: &StreamChange) {
        let image = |doc: &Option<Doc>| doc.clone().unwrap_or_else(|| Doc::build(|w| w.null()));
        let (old, new) = (image(&change.old), image(&change.new));
        let body = Doc::object(&[
            ("NewImage", Field::View(new.view())),
            ("OldImage", Field::View(old.view())),
            ("sequence", Field::Int(i64::try_from(change.seq).unwrap_or(i64::MAX))),
        ]);
        let bus = self.state.names[usize::from(stream.bus)].clone();
        let failure = Failure::new(PANICKED, "the enrichment failed on this record");
        let origin = Origin { target: bus.as_deref(), ..Origin::default() };
        let attributes = origin.attributes(&failure);
        self.bury(plan, stream.dead_letters, body, attributes, cause_of(change));
    }

    /// Sends a dead letter and tells whoever wants to know.
    pub(crate) fn bury(
        &mut self,
        plan: &Plan,
        dead_letters: u16,
        body: Doc,
        attributes: Doc,
        cause: Cause,
    ) {
        let reason = attributes.str(ERROR_MESSAGE).unwrap_or("").to_owned();
        self.send(dead_letters, body, Some(attributes), cause);
        let Some(queue) = plan.queues.get(&dead_letters) else { return };
        if let Some(topic) = queue.alarm {
            let detail =
                Doc::object(&[("queue", Field::Str(&queue.name)), ("reason", Field::Str(&reason))]);
            self.raise_alarm(plan, topic, "deadLetter", &detail, cause);
        }
    }

    /// Tells a topic of trouble inside the runtime.
    pub(crate) fn raise_alarm(
        &mut self,
        plan: &Plan,
        topic: usize,
        detail_type: &str,
        detail: &Doc,
        cause: Cause,
    ) {
        let event =
            EventView { source: "wims.runtime", detail_type, detail: Node::View(detail.view()) };
        self.publish_to_topic(plan, topic, &event, cause);
    }
}

/// What follows from a change follows from its request.
fn cause_of(change: &StreamChange) -> Cause {
    Cause { seq: change.seq, replay: change.replay, trace: change.trace }
}

/// The event as a message carries it: `{source, detail-type, detail}`.
pub(crate) fn event_doc(event: &EventView<'_>) -> Doc {
    Doc::build(|w| {
        w.map(|w| {
            w.key("detail");
            event.detail.write(w);
            w.entry("detail-type", Field::Str(event.detail_type));
            w.entry("source", Field::Str(event.source));
        });
    })
}

#[cfg(test)]
mod tests {
    use wims_stack::{QueueRef, TargetRef, Template};

    use crate::functions::{Function, PutEvent, StreamRecord};
    use crate::quiet::{self, Quiet};

    fn tell_or_panic(records: &[StreamRecord<'_>]) -> Vec<PutEvent> {
        let is_poison = |images: &StreamRecord<'_>| {
            images.new.and_then(|item| item.str("sk")) == Some("poison")
        };
        assert!(!records.iter().any(is_poison), "poison");
        quiet::tell(records)
    }

    #[test]
    fn a_record_that_makes_the_enrichment_fail_is_buried_and_holds_up_no_other() {
        let message = Template::path("$.detail.sk");
        let stack = quiet::stack(TargetRef::Queue(QueueRef::new("noted"), message));
        let functions = quiet::functions().with("tell", Function::Enrich(tell_or_panic));
        let mut quiet = Quiet::start(&stack, &functions);
        // One batch, and one that comes later.
        ["1", "2", "poison", "4", "5"].into_iter().for_each(|sk| quiet.put(sk));
        quiet.pass_ms(10);
        quiet.put("6");
        quiet.pass_ms(10);
        let noted = quiet.messages("noted");
        let noted: Vec<_> = noted.iter().filter_map(|m| m.body.view().as_str()).collect();
        assert_eq!(noted, ["1", "2", "4", "5", "6"]);
        let letters = quiet.messages("dead");
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].body.part("NewImage"), Some(quiet::item("poison")));
        let attributes = letters[0].attributes.as_deref().unwrap();
        assert_eq!(attributes.str("ERROR_CODE"), Some("Lambda.Unknown"));
        assert_eq!(attributes.str("TARGET_ARN"), Some("bus/b"));
        assert_eq!(quiet.engine.state.stream.len(), 0, "nothing waits for the pipe");
    }
}
