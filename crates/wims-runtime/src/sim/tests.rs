//! The smallest stack in a hostile world: a table of notes, one route, one pipe that tells nobody.

use std::collections::{BTreeMap, BTreeSet};

use wims_stack::table::{Action, Condition, Index, Table, Write};
use wims_stack::{
    BusRef, Doc, Field, FunctionRef, Pipe, PipeSource, PipeTarget, Queue, QueueRef, Route, Stack,
    TableRef,
};

use super::world::SECOND_US;
use super::*;
use crate::engine::EngineBugs;
use crate::functions::{Function, Functions, PutEvent, Refusal, RouteInput, Routed, StreamRecord};
use crate::io::{Answer, ApiCall, CallReply, Input, MailJob, MailResult, Query, Ticket};
use crate::record::{Entry, Record};
use crate::recovery::RecoveryBugs;

const NOTES: u64 = 250;
/// Longer than a sector, so that a frame can be torn.
const TEXT_BYTES: usize = 500;

fn stack() -> Stack {
    let (table, bus, dead_letters) =
        (TableRef::new("NOTES"), BusRef::new("default"), QueueRef::new("notes-dlq"));
    let mut stack = Stack::new("notes");
    stack.tables.push(Table {
        name: table.clone(),
        unstreamed: Vec::new(),
        indexes: vec![Index { attribute: "noteId".into(), prefix: "NOTE#".into(), unique: true }],
        closed: Vec::new(),
    });
    stack.buses.push(bus.clone());
    stack.queues.push(Queue {
        name: dead_letters.clone(),
        visibility_timeout_ms: 30_000,
        redrive: None,
        alarm: None,
    });
    stack.pipes.push(Pipe {
        name: "NotesPipe".into(),
        source: PipeSource::Stream { table: table.clone(), batch_size: 10, dead_letters },
        target: PipeTarget::Bus { bus, enrichment: FunctionRef::new("tell-nobody") },
    });
    stack.routes.push(Route {
        name: "write-note".into(),
        method: "POST".into(),
        path: "/notes".into(),
        function: FunctionRef::new("write-note"),
        table,
    });
    stack
}

fn functions() -> Functions {
    Functions::default()
        .with("write-note", Function::Route(write_note))
        .with("tell-nobody", Function::Enrich(tell_nobody))
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
        let (route, history, trace) = ("write-note", None, None);
        inputs.push(Input::Call { ticket, route, arguments, history, trace });
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
            | Answer::Refused(_)
            | Answer::Full { .. }
            | Answer::Items(_)
            | Answer::Queues(_)
            | Answer::Messages(_)
            | Answer::Moved(_)
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

fn run(seed: u64, bugs: EngineBugs) -> Result<(u64, Counts, usize), Violation> {
    let (stack, functions) = (stack(), functions());
    let options = WorldOptions { seed, segment_bytes: 256 << 10, frames_per_life: 5..=40, bugs };
    let mut world = World::new(&stack, &functions, options)?;
    let mut writer = Writer::default();
    while writer.asked < NOTES {
        world.turn(&mut writer, u64::MAX)?;
    }
    world.calm();
    let until_us = world.now_us() + 60 * SECOND_US;
    world.run_until(&mut writer, until_us)?;
    Ok((world.trace(), world.counts(), writer.acknowledged.len()))
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
fn a_seed_reproduces_to_the_bit() {
    let run = |seed| run(seed, EngineBugs::default()).unwrap();
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}

#[test]
fn bugs_of_the_disk_and_of_recovery_are_found() {
    let torn = RecoveryBugs { accept_torn_tail: true, ..RecoveryBugs::default() };
    let planted = [
        EngineBugs { reply_before_sync: true, ..EngineBugs::default() },
        EngineBugs { skip_sync: true, ..EngineBugs::default() },
        EngineBugs { recovery: torn, ..EngineBugs::default() },
    ];
    for bugs in planted {
        let found = (0..20).any(|seed| run(seed, bugs).is_err());
        assert!(found, "{bugs:?}");
    }
}
