//! What is full refuses what is new, and what was begun goes on: a disk on which no segment can be
//! prepared, and changes that wait for their pipe. Memory that is full is tested from outside.

use wims_stack::{
    Action, ApiRef, ApiTarget, Doc, FunctionRef, Pipe, PipeSource, PipeTarget, QueueRef, Redrive,
    Stack, TableRef, TargetRef, Template, Topic, TopicRef, Update, Write,
};

use super::{Quiet, functions as quiet_functions, stack as quiet_stack};
use crate::engine::{CHANGE_LAG_MAX, EngineOptions};
use crate::functions::{CallOutcome, Delivery, DeliveryInput, Function, Functions};
use crate::io::{Answer, Query};

/// Small, so that the disk is soon full: 15 frames of one page.
const SEGMENT_BYTES: u64 = 64 << 10;
/// So many items fill the disk, at most.
const ITEMS_MAX: u64 = 500;
/// A preparation that failed is tried again within this time.
const TRIED_AGAIN_MS: u64 = 1_500;
/// How a full disk is told.
const NO_SEGMENT: &str = "no journal segment could be prepared; is the disk full?";

/// A stack that calls an API for each new item.
fn stack() -> Stack {
    let noted = QueueRef::new("noted");
    let mut stack = quiet_stack(TargetRef::Queue(noted.clone(), Template::path("$.detail.sk")));
    let queue = stack.queues.iter_mut().find(|queue| queue.name == noted);
    let dead_letters = QueueRef::new("dead");
    queue.expect("it is declared").redrive = Some(Redrive { dead_letters, receive_count_max: 10 });
    let (api, alarm) = (ApiRef::new("api"), TopicRef::new("team"));
    stack.topics.push(Topic {
        name: alarm.clone(),
        subscriptions: Vec::new(),
        notices: Vec::new(),
    });
    stack.apis.push(api.clone());
    stack.pipes.push(Pipe {
        name: "calls".into(),
        source: PipeSource::Queue(noted),
        target: PipeTarget::Api(ApiTarget {
            api,
            path: "/".into(),
            idempotent: false,
            table: TableRef::new("T"),
            prepare: FunctionRef::new("prepare"),
            outcome: FunctionRef::new("outcome"),
            rate_per_second: 1_000.0,
            burst: 1_000,
            in_flight_max: 1_000,
            timeout_ms: 1_000,
            alarm,
        }),
    });
    stack
}

fn functions() -> Functions {
    let functions = quiet_functions().with("prepare", Function::Prepare(prepare));
    functions.with("outcome", Function::Outcome(outcome))
}

fn becomes(sk: &str, state: &str) -> Write {
    let action = Action::Update(vec![Update::set_str("state", state)]);
    Write { pk: "a".into(), sk: sk.into(), condition: None, action }
}

fn prepare(input: &DeliveryInput<'_>) -> Delivery {
    let sk = input.message.view().as_str().expect("a text");
    let key = sk.to_owned();
    match input.reads.get("a", sk).and_then(|item| item.str("state")) {
        Some("NEW") => {
            Delivery::Call { writes: vec![becomes(sk, "CALLED")], key, body: Doc::object(&[]) }
        }
        Some("CALLED") => Delivery::LookUp { key, writes: Vec::new() },
        _ => Delivery::Drop,
    }
}

fn outcome(input: &DeliveryInput<'_>, outcome: &CallOutcome) -> Vec<Write> {
    assert_eq!(*outcome, CallOutcome::Succeeded, "nothing else is answered here");
    vec![becomes(input.message.view().as_str().expect("a text"), "DONE")]
}

/// What is full, by an answer that says so.
fn full(answer: &Answer) -> Option<&'static str> {
    let Answer::Full { retry_after_s: 1, reason } = answer else { return None };
    Some(*reason)
}

/// Asks to see an item.
fn read(quiet: &mut Quiet, sk: &str) -> Answer {
    quiet.ask(Query::Get { table: "T", pk: "a".into(), sk: sk.into() })
}

/// How many items there are.
fn count(quiet: &Quiet) -> u64 {
    let table = quiet.engine.state.number("table/T").expect("it is declared");
    quiet.engine.state.table(table).len() as u64
}

/// A life on a disk that is full after so many items.
fn on_a_full_disk() -> (Quiet, u64) {
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &stack(), &functions());
    quiet.disk_is_full = true;
    for taken in 0..ITEMS_MAX {
        let answer = quiet.ask_to_put(&taken.to_string());
        if let Some(reason) = full(&answer) {
            assert_eq!(reason, NO_SEGMENT);
            return (quiet, taken);
        }
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    }
    panic!("the disk never was full");
}

#[test]
fn a_full_disk_refuses_what_is_new_shows_what_is_there_and_takes_answers_to_calls_made_before() {
    let (mut quiet, taken) = on_a_full_disk();
    assert_eq!(full(&quiet.ask(Query::Ready)), Some(NO_SEGMENT));
    assert!(matches!(read(&mut quiet, "0"), Answer::Item(Some(_))));
    let call = quiet.calls.first().expect("some were made before").clone();
    assert_eq!(quiet.item(&call.key).str("state"), Some("CALLED"));
    quiet.reply_to(&call, 200);
    quiet.pass_ms(10);
    assert_eq!(quiet.item(&call.key).str("state"), Some("DONE"));
    assert!(quiet.engine.is_settled(), "it is written to the reserve");
    // The process dies on the full disk, and the next one finds room.
    let quiet = quiet.restart(&stack(), &functions());
    assert_eq!(quiet.item(&call.key).str("state"), Some("DONE"));
    assert_eq!(count(&quiet), taken, "what was taken is there, what was refused is not");
}

#[test]
fn once_a_segment_can_be_prepared_again_the_same_life_takes_what_is_new() {
    let (mut quiet, taken) = on_a_full_disk();
    quiet.pass_ms(TRIED_AGAIN_MS);
    assert_eq!(full(&quiet.ask_to_put("late")), Some(NO_SEGMENT), "it was tried in vain");
    quiet.disk_is_full = false;
    quiet.pass_ms(TRIED_AGAIN_MS);
    assert!(matches!(quiet.ask_to_put("late"), Answer::Done(_)));
    assert!(matches!(quiet.ask(Query::Ready), Answer::Durable(_)));
    let quiet = quiet.restart(&stack(), &functions());
    assert_eq!(count(&quiet), taken + 1);
}

#[test]
fn once_the_reserve_is_full_too_reads_are_refused_and_answers_wait_for_room() {
    let (mut quiet, taken) = on_a_full_disk();
    let mut calls = quiet.calls.clone().into_iter();
    let mut answered = Vec::new();
    while !quiet.engine.journal.is_stuck() {
        let call = calls.next().expect("the reserve takes fewer answers than calls were made");
        quiet.reply_to(&call, 200);
        quiet.pass_ms(2);
        answered.push(call.key);
    }
    assert!(answered.len() > 1, "the reserve takes some");
    assert_eq!(full(&read(&mut quiet, "0")), Some(NO_SEGMENT));
    quiet.disk_is_full = false;
    quiet.pass_ms(TRIED_AGAIN_MS);
    assert!(matches!(read(&mut quiet, "0"), Answer::Item(Some(_))));
    let quiet = quiet.restart(&stack(), &functions());
    for key in &answered {
        assert_eq!(quiet.item(key).str("state"), Some("DONE"), "{key}");
    }
    assert_eq!(count(&quiet), taken);
}

#[test]
fn more_waiting_changes_than_the_limit_refuse_what_is_new_until_the_pipe_has_seen_them() {
    const MAX: usize = 3;
    let options = EngineOptions { change_lag_max: MAX, ..EngineOptions::default() };
    assert_eq!(EngineOptions::default().change_lag_max, CHANGE_LAG_MAX);
    let stack = super::stack_with(None);
    let mut quiet = Quiet::start_with(&stack, &quiet_functions(), options);
    // The pipe has its turn when a step has taken its requests: the changes of these wait.
    (0..=MAX).for_each(|number| quiet.put(&number.to_string()));
    let reason = "too many changes wait for the pipe";
    assert_eq!(full(&quiet.ask_to_put("late")), Some(reason));
    assert_eq!(count(&quiet), MAX as u64 + 1);
    // Now they are through.
    assert!(matches!(quiet.ask_to_put("late"), Answer::Done(_)));
    // Reads are answered all the while.
    (0..=MAX).for_each(|number| quiet.put(&format!("more {number}")));
    assert!(matches!(read(&mut quiet, "late"), Answer::Item(Some(_))));
    assert_eq!(quiet.texts("noted").len(), 2 * (MAX + 1) + 1, "nothing taken is missed");
}
