//! Where a new pipe starts, and that recovery goes back as far as that.

use std::collections::BTreeMap;

use wims_stack::table::Closed;
use wims_stack::{Condition, Doc, Log, LogRef, StreamStart};

use super::*;
use crate::quiet::{Quiet, functions, item, numbers, stack_with};
use crate::record::Change;
use crate::sim::disk::SimDisk;

/// Small, so that sweeps come soon.
const SEGMENT_BYTES: u64 = 256 << 10;

/// [`stack_with`] and a log for which the journal keeps all its segments.
fn logged(second: Option<StreamStart>) -> Stack {
    let mut stack = stack_with(second);
    stack.logs.push(Log { name: LogRef::new("l"), retention_ms: 86_400_000 });
    stack
}

/// The keys of all new items that the journal has, oldest first.
fn in_journal(disk: &SimDisk) -> Vec<String> {
    let (mut disk, mut keys) = (disk.clone(), Vec::new());
    let recovery = Recovery::begin(&mut disk, RecoveryBugs::default());
    let read = recovery.expect("it is sound").read_from(&mut disk, 1, |entry| {
        if let Record::Change(Change { old: None, new: Some(item), .. }) = &entry.record {
            keys.extend(item.str("sk").map(str::to_owned));
        }
    });
    read.expect("it is sound");
    keys
}

#[test]
fn a_new_pipe_that_starts_now_sees_nothing_old_and_everything_new() {
    let (without, with) = (stack_with(None), stack_with(Some(StreamStart::Now)));
    let mut quiet = Quiet::start(&without, &functions());
    quiet.put_all(numbers(0..5));
    let quiet = quiet.restart(&with, &functions());
    assert!(quiet.texts("seen").is_empty());
    // It is known from its first start on, though it has seen nothing yet.
    let mut quiet = quiet.restart(&without, &functions());
    quiet.put_all(numbers(5..7));
    assert!(quiet.texts("seen").is_empty());
    let mut quiet = quiet.restart(&with, &functions());
    assert_eq!(quiet.texts("seen"), numbers(5..7));
    quiet.put_all(numbers(7..9));
    let mut quiet = quiet.restart(&with, &functions());
    quiet.put_all(numbers(9..10));
    assert_eq!(quiet.texts("seen"), numbers(5..10));
    assert_eq!(quiet.texts("noted"), numbers(0..10));
}

#[test]
fn a_new_pipe_that_starts_at_the_horizon_sees_everything_though_sweeps_have_passed() {
    let (without, with) = (logged(None), logged(Some(StreamStart::Horizon)));
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &without, &functions());
    let next = quiet.put_until_swept(0, 2);
    assert!(quiet.engine.needed().recover_from > 1, "recovery alone would not go back so far");
    let quiet = quiet.restart(&with, &functions());
    assert_eq!(quiet.texts("seen"), numbers(0..next));
    let mut quiet = quiet.restart(&with, &functions());
    quiet.put_all(numbers(next..next + 2));
    assert_eq!(quiet.texts("seen"), numbers(0..next + 2));
    assert_eq!(quiet.texts("noted"), numbers(0..next + 2));
}

#[test]
fn the_horizon_is_the_oldest_change_that_the_journal_still_has() {
    let (without, with) = (stack_with(None), stack_with(Some(StreamStart::Horizon)));
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &without, &functions());
    let next = quiet.put_until_swept(0, 2);
    let kept = in_journal(&quiet.disk);
    assert!(!kept.is_empty() && kept.len() < next as usize, "{} of {next}", kept.len());
    let quiet = quiet.restart(&with, &functions());
    assert_eq!(quiet.texts("seen"), kept);
}

#[test]
fn a_pipe_that_was_dropped_and_is_back_at_the_horizon_sees_again_what_it_had_seen() {
    let (without, with) = (logged(None), logged(Some(StreamStart::Horizon)));
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &with, &functions());
    let next = quiet.put_until_swept(0, 2);
    let mut quiet = quiet.restart(&without, &functions());
    quiet.ask(crate::io::Query::Drop { name: "pipe/second".into() });
    let quiet = quiet.restart(&with, &functions());
    let twice = [numbers(0..next), numbers(0..next)].concat();
    assert_eq!(quiet.texts("seen"), twice);
    // Its old cursors are still in the journal; they count no more after a crash either.
    let quiet = quiet.restart(&with, &functions());
    assert_eq!(quiet.texts("seen"), twice);
    assert_eq!(quiet.texts("noted"), numbers(0..next));
}

#[test]
fn a_pipe_that_has_seen_all_needs_no_second_reading_however_long_nothing_changes() {
    let stack = logged(Some(StreamStart::Horizon));
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &stack, &functions());
    let next = quiet.put_until_swept(0, 1);
    let of_last_change = quiet.engine.journal.current_segment();
    // Each life owes a sweep for the segments it finds; nothing else is written.
    for _ in 0..10 {
        quiet = quiet.restart(&stack, &functions());
        quiet.pass_ms(100);
    }
    assert!(quiet.engine.needed().recover_from > of_last_change);
    let mut recovery = Recovery::begin(&mut quiet.disk, RecoveryBugs::default()).expect("sound");
    let mut replay = Replay::of(&stack);
    recovery.read(&mut quiet.disk, |entry| replay.apply(entry)).expect("it is sound");
    let state = replay.finish(&recovery).expect("it is sound");
    assert!(recovery.reaches(state.unseen_from()));
    assert_eq!(quiet.texts("seen"), numbers(0..next));
}

#[test]
fn an_item_that_only_a_new_stack_calls_closed_goes_to_history_and_is_not_lost() {
    let closed_when = |attribute, value| {
        let mut stack = stack_with(None);
        let (prefix, when) = ("a".into(), Condition::is(attribute, value));
        stack.tables[0].closed.push(Closed { prefix, when });
        stack
    };
    let (before, after) = (closed_when("sk", "2"), closed_when("state", "NEW"));
    let held = |quiet: &Quiet| {
        let table = quiet.engine.state.number("table/T").expect("it is declared");
        quiet.engine.state.table(table).len()
    };
    let told =
        |quiet: &Quiet| -> Vec<Doc> { quiet.history.iter().map(|item| item.doc.clone()).collect() };
    let mut quiet = Quiet::start(&before, &functions());
    quiet.put_all(numbers(1..3));
    assert_eq!((told(&quiet), held(&quiet)), (vec![item("2")], 1));
    // History has all that closed up to the second item; the first one is older.
    let quiet = quiet.restart(&after, &functions());
    assert_eq!((told(&quiet), held(&quiet)), (vec![item("1")], 0));
    let quiet = quiet.restart(&after, &functions());
    assert_eq!((told(&quiet), held(&quiet)), (vec![], 0), "each is brought once");
}

#[test]
fn more_to_catch_up_with_than_the_memory_may_take_stops_the_start() {
    let (without, with) = (logged(None), logged(Some(StreamStart::Horizon)));
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &without, &functions());
    quiet.put_until_swept(1, 2);
    let mut replayed = |memory_max| {
        let bugs = RecoveryBugs::default();
        replay(&with, &mut quiet.disk, bugs, memory_max).map(|(_, state)| state.stream.len())
    };
    let refused = replayed(2 * SEGMENT_BYTES);
    assert!(matches!(refused, Err(RecoveryError::Backlog { bytes }) if bytes > 2 * SEGMENT_BYTES));
    assert!(replayed(64 * SEGMENT_BYTES).is_ok_and(|waiting| waiting > 100));
}

#[test]
fn a_missing_segment_in_which_a_pipe_goes_on_stops_the_start_and_nothing_is_changed() {
    let (with, without) = (stack_with(Some(StreamStart::Now)), stack_with(None));
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &with, &functions());
    quiet.put_all(numbers(0..5));
    let mut quiet = quiet.restart(&without, &functions());
    quiet.put_until_swept(5, 2);
    assert!(quiet.engine.needed().recover_from > 2, "recovery alone needs neither");
    let replayed = |stack: &Stack, disk: &mut SimDisk| {
        replay(stack, disk, RecoveryBugs::default(), u64::MAX).map(|(_, state)| state.seq)
    };
    assert!(replayed(&with, &mut quiet.disk.clone()).is_ok());
    for missing in [1, 2] {
        let mut disk = quiet.disk.clone();
        disk.remove(missing);
        let before = disk.stored().clone();
        let refused = replayed(&with, &mut disk);
        let oldest = missing + 1;
        let is_told = |gap: &RecoveryError| {
            matches!(gap, RecoveryError::Gap { seq, segment, oldest: first }
                if *segment == oldest && first > seq)
        };
        assert!(refused.as_ref().is_err_and(is_told), "without {missing}: {refused:?}");
        assert_eq!(*disk.stored(), before);
        // Without the pipe nothing is missing: it can be dropped there.
        assert!(replayed(&without, &mut disk).is_ok());
    }
}

/// A disk that counts how often each of its segments is read whole.
struct Counted(SimDisk, BTreeMap<u64, usize>);

impl SegmentStore for Counted {
    fn list(&mut self) -> Result<Vec<u64>, String> {
        self.0.list()
    }

    fn read(&mut self, segment: u64, len: usize) -> Result<Vec<u8>, String> {
        *self.1.entry(segment).or_default() += usize::from(len == usize::MAX);
        self.0.read(segment, len)
    }

    fn cut(&mut self, segment: u64, offset: u64) -> Result<(), String> {
        self.0.cut(segment, offset)
    }

    fn discard(&mut self, segment: u64) -> Result<(), String> {
        self.0.discard(segment)
    }
}

#[test]
fn a_recovery_reads_each_segment_it_needs_once_and_the_last_one_for_where_to_start() {
    let stack = stack_with(None);
    let mut quiet = Quiet::with_segments_of(SEGMENT_BYTES, &stack, &functions());
    // Of those with frames: the prepared ones are searched for frames behind a bad one.
    let whole = |quiet: &Quiet| {
        let mut counted = Counted(quiet.disk.clone(), BTreeMap::new());
        let replayed = replay(&stack, &mut counted, RecoveryBugs::default(), u64::MAX);
        assert!(replayed.is_ok());
        let last = quiet.engine.journal.current_segment();
        let read = counted.1.into_iter().filter(|(number, times)| *number <= last && *times > 0);
        read.map(|(_, times)| times).collect::<Vec<_>>()
    };
    quiet.put_all(numbers(0..2));
    assert_eq!(whole(&quiet), [1], "it starts in the last one");
    quiet.put_until_swept(2, 1);
    while quiet.engine.journal.current_segment() < quiet.engine.needed().recover_from + 2 {
        quiet.put(&format!("more {}", quiet.engine.last_seq()));
        quiet.pass_ms(1);
    }
    quiet.pass_ms(10);
    let (last, others) = (2, 1);
    assert_eq!(whole(&quiet), [others, others, last]);
}
