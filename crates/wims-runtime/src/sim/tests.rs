//! The smallest stack in a hostile world: a table of notes, one route, one pipe that tells nobody.

use std::collections::{BTreeMap, BTreeSet};

use wims_stack::table::{Action, Condition, Index, Table, Write};
use wims_stack::{
    BusRef, Doc, Field, FunctionRef, Pattern, Pipe, PipeSource, PipeTarget, Queue, QueueRef, Route,
    Rule, Stack, StreamStart, TableRef, Target, TargetRef, TargetRetry, Template, Tree,
};

use super::world::SECOND_US;
use super::*;
use crate::engine::EngineBugs;
use crate::functions::{Function, Functions, PutEvent, Refusal, RouteInput, Routed, StreamRecord};
use crate::io::{Answer, ApiCall, CallReply, Input, MailJob, MailResult, Query, Ticket};
use crate::record::{Entry, Record};
#[cfg(debug_assertions)]
use crate::recovery::{Planted, RecoveryBugs};

const NOTES: u64 = 250;
/// Longer than a sector, so that a frame can be torn.
const TEXT_BYTES: usize = 500;

fn stack() -> Stack {
    let (table, bus) = (TableRef::new("NOTES"), BusRef::new("default"));
    let mut stack = Stack::new("notes");
    stack.tables.push(Table {
        name: table.clone(),
        unstreamed: Vec::new(),
        indexes: vec![Index {
            attribute: "noteId".into(),
            prefix: "NOTE#".into(),
            unique: true,
            ordered: false,
        }],
        closed: Vec::new(),
    });
    stack.buses.push(bus.clone());
    stack.queues.push(queue("notes-dlq"));
    stack.pipes.push(pipe("NotesPipe", bus, "tell-nobody"));
    stack.routes.push(Route {
        name: "write-note".into(),
        http: None,
        function: FunctionRef::new("write-note"),
        table,
    });
    stack
}

/// The same with a second pipe, which has the id of each note sent to the queue `seen`.
fn stack_that_sees() -> Stack {
    let (mut stack, bus, seen) = (stack(), BusRef::new("second"), QueueRef::new("seen"));
    stack.buses.push(bus.clone());
    stack.queues.push(queue("seen"));
    stack.pipes.push(pipe("SeenPipe", bus.clone(), "tell-each"));
    stack.rules.push(Rule {
        name: "SeenRule".into(),
        bus,
        pattern: Pattern(serde_json::json!({"source": ["notes"]})),
        targets: vec![Target {
            to: TargetRef::Queue(seen, Template::path("$.detail.noteId")),
            retry: TargetRetry::default(),
            dead_letters: QueueRef::new("notes-dlq"),
        }],
    });
    stack
}

fn queue(name: &str) -> Queue {
    Queue { name: QueueRef::new(name), visibility_timeout_ms: 30_000, redrive: None, alarm: None }
}

fn pipe(name: &str, bus: BusRef, enrichment: &str) -> Pipe {
    let (table, dead_letters) = (TableRef::new("NOTES"), QueueRef::new("notes-dlq"));
    let start = StreamStart::Horizon;
    Pipe {
        name: name.into(),
        source: PipeSource::Stream { table, batch_size: 10, start, dead_letters },
        target: PipeTarget::Bus { bus, enrichment: FunctionRef::new(enrichment) },
    }
}

fn functions() -> Functions {
    Functions::default()
        .with("write-note", Function::Route(write_note))
        .with("tell-nobody", Function::Enrich(tell_nobody))
        .with("tell-each", Function::Enrich(tell_each))
}

fn tell_each(records: &[StreamRecord<'_>]) -> Vec<PutEvent> {
    let event = |(record, images): (usize, &StreamRecord<'_>)| {
        let detail = Tree::Doc(images.new?.clone());
        Some(PutEvent { record, source: "notes", detail_type: "note", detail, by_value: false })
    };
    records.iter().enumerate().filter_map(event).collect()
}

fn tell_nobody(_: &[StreamRecord<'_>]) -> Vec<PutEvent> {
    Vec::new()
}

fn write_note(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let id = format!("{:032x}", input.id);
    let note = Doc::object(&[
        ("noteId", Field::Str(&id)),
        ("pk", Field::Str("NOTE#")),
        ("sk", Field::Str(&id)),
        ("text", Field::Str(&"x".repeat(TEXT_BYTES))),
    ]);
    let write = Write {
        pk: "NOTE#".into(),
        sk: id.clone(),
        condition: Some(Condition::NotExists),
        action: Action::Put(note),
    };
    Ok(Routed { writes: vec![write], reply: Doc::object(&[("noteId", Field::Str(&id))]) })
}

/// Writes notes, and looks for each acknowledged one after every death.
#[derive(Default)]
struct Writer {
    asked: u64,
    due_us: u64,
    acknowledged: Vec<String>,
    durable: BTreeSet<String>,
    looked_for: BTreeMap<u64, String>,
}

impl Outside for Writer {
    fn due_us(&self) -> Option<u64> {
        (self.asked < NOTES).then_some(self.due_us)
    }

    fn ask(&mut self, now_us: u64, _: &SimHistory, inputs: &mut Vec<Input>) {
        if self.asked >= NOTES || now_us < self.due_us {
            return;
        }
        self.asked += 1;
        self.due_us = now_us + 7_000;
        let ticket = Ticket { inbox: 0, slot: self.asked };
        let arguments = Doc::object(&[]);
        let (route, history, trace, key) = ("write-note", None, None, None);
        inputs.push(Input::Call { ticket, route, arguments, history, trace, key });
    }

    fn answered(&mut self, _: u64, ticket: Ticket, answer: Answer, _: &SimHistory) -> Verdict {
        match answer {
            Answer::Done(reply) => {
                let id = reply.str("noteId").unwrap_or("").to_owned();
                if !self.durable.contains(&id) {
                    return Err(Violation(format!("note {id} is acknowledged, not durable")));
                }
                self.acknowledged.push(id);
            }
            Answer::Item(None) => {
                let id = self.looked_for.get(&ticket.slot);
                return Err(Violation(format!("note {id:?} is gone")));
            }
            Answer::Item(Some(_))
            | Answer::Repeated(_)
            | Answer::Refused(_)
            | Answer::Full { .. }
            | Answer::Items(_)
            | Answer::Queues(_)
            | Answer::Messages(_)
            | Answer::Turn(_)
            | Answer::Place(_)
            | Answer::Stuck(_)
            | Answer::Moved(_)
            | Answer::Leftovers(_)
            | Answer::Dropped(_)
            | Answer::Durable(_)
            | Answer::Status(_) => {}
        }
        Ok(())
    }

    fn called(&mut self, _: u64, _: &ApiCall) -> Result<(u64, CallReply), Violation> {
        Err(Violation("there is no API".into()))
    }

    fn mailed(&mut self, _: u64, _: &MailJob) -> Result<MailResult, Violation> {
        Err(Violation("there is no mail".into()))
    }

    fn durable(&mut self, _: u64, entries: &[Entry]) -> Verdict {
        for entry in entries {
            if let Record::Change(change) = &entry.record {
                let note = change.new.as_ref().and_then(|note| note.str("noteId"));
                self.durable.extend(note.map(str::to_owned));
            }
        }
        Ok(())
    }

    fn restarted(&mut self, _: u64, _: &SimHistory, inputs: &mut Vec<Input>) {
        for (slot, id) in (0..).zip(&self.acknowledged) {
            self.looked_for.insert(slot, id.clone());
            let query = Query::Find { table: "NOTES", attribute: "noteId", value: id.clone() };
            inputs.push(Input::Query { ticket: Ticket { inbox: 1, slot }, query });
        }
    }
}

fn options(seed: u64, bugs: EngineBugs) -> WorldOptions {
    WorldOptions { seed, segment_bytes: 256 << 10, frames_per_life: 5..=40, bugs }
}

fn run(seed: u64, bugs: EngineBugs) -> Result<(u64, Counts, usize), Violation> {
    let (stack, functions) = (stack(), functions());
    let mut world = World::new(&stack, &functions, options(seed, bugs))?;
    let mut writer = Writer::default();
    write_all(&mut world, &mut writer)?;
    Ok((world.trace(), world.counts(), writer.acknowledged.len()))
}

/// Lets all notes be written, and what is under way come to its end.
fn write_all(world: &mut World<'_>, writer: &mut Writer) -> Verdict {
    while writer.asked < NOTES {
        world.turn(writer, u64::MAX)?;
    }
    world.calm();
    rest(world, writer)
}

fn rest(world: &mut World<'_>, writer: &mut Writer) -> Verdict {
    let until_us = world.now_us() + 60 * SECOND_US;
    world.run_until(writer, until_us)
}

/// A world whose lives have the second pipe and do not, in turn: the notes it saw, in the end, and
/// those that are durable.
fn come_and_go(seed: u64) -> Result<(Vec<String>, Vec<String>), Violation> {
    let (with, without, functions) = (stack_that_sees(), stack(), functions());
    let mut world = World::new(&with, &functions, options(seed, EngineBugs::default()))?;
    world.alternate(&without);
    let mut writer = Writer::default();
    write_all(&mut world, &mut writer)?;
    if world.stack.pipes.len() == 1 {
        world.crash(&mut writer)?;
        rest(&mut world, &mut writer)?;
    }
    let mut seen = seen(&world);
    seen.sort();
    Ok((seen, writer.durable.into_iter().collect()))
}

/// A world that delivers again and out of order: the notes that were seen, as they came, and those
/// that are durable, in the order they were written.
fn deliver_again(seed: u64) -> Result<(Vec<String>, Vec<String>), Violation> {
    let (stack, functions) = (stack_that_sees(), functions());
    let mut world = World::new(&stack, &functions, options(seed, EngineBugs::default()))?;
    world.redeliver(30);
    let mut writer = Writer::default();
    write_all(&mut world, &mut writer)?;
    Ok((seen(&world), writer.durable.into_iter().collect()))
}

/// What is in the queue `seen`, in the order it came.
fn seen(world: &World<'_>) -> Vec<String> {
    let state = &world.engine.state;
    let queue = state.queue(state.number("queue/seen").expect("the stack that runs has it"));
    let bodies = queue.from(0).filter_map(|(_, message)| message.body.view().as_str());
    bodies.map(str::to_owned).collect()
}

#[test]
fn a_hostile_world_loses_no_note_that_was_acknowledged() {
    let mut crashes = 0;
    for seed in 0..10 {
        let (_, counts, acknowledged) =
            run(seed, EngineBugs::default()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(acknowledged > 20, "seed {seed}: {acknowledged}");
        crashes += counts.crashes;
    }
    assert!(crashes > 10, "{crashes}");
}

#[test]
fn a_pipe_that_comes_and_goes_misses_no_note_and_sees_none_twice() {
    for seed in 0..10 {
        let (seen, durable) =
            come_and_go(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(durable.len() > 20, "seed {seed}: {}", durable.len());
        assert_eq!(seen, durable, "seed {seed}");
    }
}

#[test]
fn deliveries_come_again_and_shuffled_and_none_is_lost() {
    let (mut repeated, mut disordered) = (0, 0);
    for seed in 0..10 {
        let (seen, durable) =
            deliver_again(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let once: BTreeSet<&String> = seen.iter().collect();
        assert!(once.into_iter().eq(&durable), "seed {seed}: {seen:?} of {durable:?}");
        repeated += seen.len() - durable.len();
        disordered += usize::from(!seen.is_sorted());
    }
    assert!(repeated > 20 && disordered > 5, "{repeated} again, {disordered} of 10 shuffled");
}

#[test]
fn a_seed_that_delivers_again_reproduces_to_the_bit() {
    assert_eq!(deliver_again(3), deliver_again(3));
}

#[test]
fn a_seed_reproduces_to_the_bit() {
    let run = |seed| run(seed, EngineBugs::default()).unwrap();
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}

#[cfg(not(debug_assertions))]
#[test]
fn a_release_build_has_no_room_for_bugs() {
    assert_eq!(size_of::<EngineBugs>(), 0);
}

#[cfg(debug_assertions)]
#[test]
fn bugs_of_the_disk_and_of_recovery_are_found() {
    let torn = RecoveryBugs { accept_torn_tail: Planted::ON, ..RecoveryBugs::default() };
    let planted = [
        EngineBugs { reply_before_sync: Planted::ON, ..EngineBugs::default() },
        EngineBugs { skip_sync: Planted::ON, ..EngineBugs::default() },
        EngineBugs { recovery: torn, ..EngineBugs::default() },
    ];
    for bugs in planted {
        let found = (0..20).any(|seed| run(seed, bugs).is_err());
        assert!(found, "{bugs:?}");
    }
}
