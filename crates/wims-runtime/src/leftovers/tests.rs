//! What is kept for a leftover, through sweeps and restarts, and what a drop frees.

use wims_stack::{
    ApiRef, ApiTarget, Doc, FunctionRef, Pipe, PipeSource, PipeTarget, QueueRef, Redrive, Stack,
    StreamStart, TableRef, TargetRef, Template, Topic, TopicRef, Write,
};

use super::*;
use crate::functions::{CallOutcome, Delivery, DeliveryInput, Function};
use crate::io::Query;
use crate::quiet::{self, Quiet, functions, numbers, stack_with};
use crate::record::{Named, Paced, Waiting};

/// Small, so that sweeps come soon.
const SEGMENT_BYTES: u64 = 256 << 10;

fn drop_named(quiet: &mut Quiet, name: &str) -> Answer {
    quiet.ask(Query::Drop { name: name.into() })
}

/// The only leftover, once it is dropped.
fn dropped(quiet: &mut Quiet, name: &str) -> LeftoverRow {
    let expected = quiet.engine.leftovers();
    let Answer::Dropped(row) = drop_named(quiet, name) else { panic!("{name} is no leftover") };
    assert_eq!(expected, std::slice::from_ref(&row), "it is told as it was");
    assert!(quiet.engine.leftovers().is_empty());
    row
}

/// Why a drop is refused, which writes nothing.
fn refused(quiet: &mut Quiet, name: &str) -> RefusalKind {
    // A sweep under way would write.
    quiet.pass_ms(100);
    let last_seq = quiet.engine.last_seq();
    let Answer::Refused(refusal) = drop_named(quiet, name) else { panic!("{name} was dropped") };
    assert!(refusal.detail.contains(name), "{refusal}");
    assert_eq!(quiet.engine.last_seq(), last_seq);
    refusal.kind
}

/// A life with the pipe `second`, and one without it in which two sweeps pass; the next number.
fn taken_away() -> (Quiet, u64) {
    let (with, without) = (stack_with(Some(StreamStart::Now)), stack_with(None));
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &with, &functions());
    quiet.put_all(numbers(0..5));
    assert_eq!(quiet.texts("seen"), numbers(0..5));
    let mut quiet = quiet.restart(&without, &functions());
    let next = quiet.put_until_swept(5, 2);
    (quiet, next)
}

#[test]
fn a_pipe_taken_away_and_declared_again_misses_nothing_and_repeats_nothing() {
    let (with, without) = (stack_with(Some(StreamStart::Now)), stack_with(None));
    let (quiet, next) = taken_away();
    assert_eq!(quiet.texts("seen"), numbers(0..5));
    assert_eq!(quiet.engine.state.stream.len(), 0, "memory keeps nothing for it");
    assert!(quiet.engine.needed().recover_from > 1, "recovery needs nothing for it");
    assert!(!quiet.disk.bytes(1).is_empty(), "the journal keeps all for it");
    let mut quiet = quiet.restart(&without, &functions());
    let next = quiet.put_until_swept(next, 1);
    let rows = quiet.engine.leftovers();
    assert_eq!((rows.len(), rows[0].name.as_str(), rows[0].messages), (1, "pipe/second", 0));
    assert!(rows[0].seen_up_to.is_some() && rows[0].journal_bytes >= SEGMENT_BYTES, "{rows:?}");
    assert!(!quiet.disk.bytes(1).is_empty(), "a restart changes nothing");
    let mut quiet = quiet.restart(&with, &functions());
    assert!(quiet.engine.leftovers().is_empty());
    assert_eq!(quiet.texts("seen"), numbers(0..next));
    // From now on it is one like the others, and its segments go.
    let next = quiet.put_until_swept(next, 2);
    assert!(quiet.disk.bytes(1).is_empty());
    let quiet = quiet.restart(&with, &functions());
    assert_eq!(quiet.texts("seen"), numbers(0..next));
    assert_eq!(quiet.texts("noted"), numbers(0..next));
}

#[test]
fn a_pipe_that_is_dropped_frees_its_segments_and_starts_as_declared_when_it_is_back() {
    let (mut quiet, next) = taken_away();
    assert!(!quiet.disk.bytes(1).is_empty());
    let row = dropped(&mut quiet, "pipe/second");
    assert_eq!(row.name, "pipe/second");
    quiet.pass_ms(100);
    assert!(quiet.disk.bytes(1).is_empty());
    let quiet = quiet.restart(&stack_with(None), &functions());
    assert!(quiet.engine.leftovers().is_empty());
    let with = stack_with(Some(StreamStart::Now));
    let mut quiet = quiet.restart(&with, &functions());
    assert_eq!(quiet.texts("seen"), numbers(0..5), "it starts now");
    quiet.put_all(numbers(next..next + 2));
    assert_eq!(quiet.texts("seen"), [numbers(0..5), numbers(next..next + 2)].concat());
}

/// A stack without the queue `noted`: what was sent there is sent to the dead letters.
fn without_noted() -> Stack {
    let (queue, message) = (QueueRef::new("dead"), Template::path("$.detail.sk"));
    let mut stack = quiet::stack(TargetRef::Queue(queue, message));
    stack.queues.retain(|queue| queue.name.name() != "noted");
    stack
}

/// The row of the queue `noted`: whether it is declared, and its messages.
fn noted_row(quiet: &mut Quiet) -> Option<(bool, usize)> {
    let Answer::Queues(rows) = quiet.ask(Query::Queues) else { panic!("no queues") };
    let row = rows.into_iter().find(|row| row.name == "noted");
    row.map(|row| (row.declared, row.messages))
}

#[test]
fn a_queue_taken_away_keeps_its_messages_until_it_is_dropped() {
    let (with, without) = (stack_with(None), without_noted());
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &with, &functions());
    quiet.put_all(numbers(0..3));
    assert_eq!(noted_row(&mut quiet), Some((true, 3)));
    let mut quiet = quiet.restart(&without, &functions());
    quiet.put_until_swept(3, 2);
    assert!(quiet.disk.bytes(1).is_empty(), "sweeps bring them on, segments are not kept for them");
    let mut quiet = quiet.restart(&without, &functions());
    assert_eq!(noted_row(&mut quiet), Some((false, 3)));
    assert_eq!(quiet.texts("noted"), numbers(0..3));
    let row = dropped(&mut quiet, "queue/noted");
    assert_eq!((row.messages, row.seen_up_to, row.journal_bytes), (3, None, 0));
    assert_eq!(noted_row(&mut quiet), None);
    let peek = Query::Peek { queue: "noted".into(), from: 0, limit: 9 };
    assert!(matches!(quiet.ask(peek), Answer::Messages(None)));
    assert_eq!(refused(&mut quiet, "queue/noted"), RefusalKind::NotFound);
    let quiet = quiet.restart(&without, &functions());
    assert!(quiet.engine.leftovers().is_empty());
    let mut quiet = quiet.restart(&with, &functions());
    assert_eq!(noted_row(&mut quiet), Some((true, 0)));
    quiet.put_all(["x".to_owned()]);
    assert_eq!(quiet.texts("noted"), ["x"]);
}

#[test]
fn a_workflow_taken_away_keeps_what_waits_until_it_is_dropped() {
    let stack = stack_with(None);
    let mut quiet = Quiet::start(&stack, &functions());
    let workflow = u16::try_from(quiet.engine.state.names.len()).expect("few names");
    let named = Named { id: workflow, name: "workflow/old".into() };
    let waiting = Waiting {
        id: 0,
        workflow,
        event: Doc::object(&[]),
        position: "{}".into(),
        wake_at_ms: quiet.engine.state.clock_ms + 3_600_000,
    };
    quiet.engine.emit(Cause::default(), Record::Named(named));
    quiet.engine.emit(Cause::default(), Record::Waiting(waiting));
    quiet.pass_ms(10);
    let mut quiet = quiet.restart(&stack, &functions());
    assert_eq!(dropped(&mut quiet, "workflow/old").executions, 1);
    let quiet = quiet.restart(&stack, &functions());
    let state = &quiet.engine.state;
    assert_eq!((state.executions.len(), state.wakes.len()), (0, 0));
}

/// A stack whose pipe `second` calls an API for the messages of the queue `seen`.
fn with_second_at_an_api() -> Stack {
    let (mut stack, alarm) = (stack_with(None), TopicRef::new("team"));
    let seen = stack.queues.iter_mut().find(|queue| queue.name.name() == "seen");
    let redrive = Redrive { dead_letters: QueueRef::new("dead"), receive_count_max: 10 };
    seen.expect("it is declared").redrive = Some(redrive);
    stack.topics.push(Topic {
        name: alarm.clone(),
        subscriptions: Vec::new(),
        notices: Vec::new(),
    });
    stack.apis.push(ApiRef::new("api"));
    let target = ApiTarget {
        api: ApiRef::new("api"),
        path: "/".into(),
        idempotent: false,
        table: TableRef::new("T"),
        prepare: FunctionRef::new("prepare"),
        outcome: FunctionRef::new("outcome"),
        rate_per_second: 100.0,
        burst: 5,
        in_flight_max: 5,
        timeout_ms: 1_000,
        alarm,
    };
    stack.pipes.push(Pipe {
        name: "second".into(),
        source: PipeSource::Queue(QueueRef::new("seen")),
        target: PipeTarget::Api(target),
    });
    stack
}

fn prepare(_: &DeliveryInput<'_>) -> Delivery {
    Delivery::Drop
}

fn outcome(_: &DeliveryInput<'_>, _: &CallOutcome) -> Vec<Write> {
    Vec::new()
}

#[test]
fn a_pipe_that_reads_a_queue_now_keeps_what_it_has_learned_when_its_place_is_dropped() {
    let reads_stream = stack_with(Some(StreamStart::Now));
    let mut quiet = Quiet::start(&reads_stream, &functions());
    quiet.put_all(numbers(0..2));
    let reads_queue = with_second_at_an_api();
    let functions = functions()
        .with("prepare", Function::Prepare(prepare))
        .with("outcome", Function::Outcome(outcome));
    let mut quiet = quiet.restart(&reads_queue, &functions);
    let pipe = quiet.engine.state.number("pipe/second").expect("it is declared");
    let (rate_milli, paused_until_ms, unknowns, misdirected) = (7_000, 3, 2, true);
    let paced = Paced { pipe, rate_milli, paused_until_ms, unknowns, misdirected };
    quiet.engine.emit(Cause::default(), Record::Paced(paced.clone()));
    quiet.pass_ms(10);
    assert!(dropped(&mut quiet, "pipe/second").seen_up_to.is_some());
    assert_eq!(quiet.engine.state.paced.get(&pipe), Some(&paced));
    let quiet = quiet.restart(&reads_queue, &functions);
    assert!(quiet.engine.leftovers().is_empty());
    assert_eq!(quiet.engine.state.paced.get(&pipe), Some(&paced));
    // Nobody has it any more: then all of it goes.
    let mut quiet = quiet.restart(&stack_with(None), &functions);
    assert_eq!(dropped(&mut quiet, "pipe/second").seen_up_to, None);
    assert!(quiet.engine.state.paced.is_empty());
}

#[test]
fn what_the_stack_has_and_what_was_never_there_is_not_dropped() {
    let mut quiet = Quiet::start(&stack_with(None), &functions());
    quiet.put_all(numbers(0..3));
    for declared in ["pipe/p", "queue/noted", "table/T", "bus/b"] {
        assert_eq!(refused(&mut quiet, declared), RefusalKind::Conflict, "{declared}");
    }
    for unknown in ["pipe/second", "queue/old", "noted"] {
        assert_eq!(refused(&mut quiet, unknown), RefusalKind::NotFound, "{unknown}");
    }
    assert_eq!(quiet.texts("noted"), numbers(0..3));
}
