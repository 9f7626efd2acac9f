//! Golden journals: what a version wrote, every later one recovers. `golden/README.md` says how
//! they are made and what to do when a test here fails.
//!
//! Promise: this version writes its own golden journal byte for byte, and reads those of all
//! versions as it did when they were committed. It deliberately has no engine: records are
//! written as they are, so that a change of what the engine does is no change of the format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use rust_decimal::Decimal;
use wims_runtime::frame::{FRAME_HEADER, FrameHeader, PAGE, SegmentHeader};
use wims_runtime::journal::{Journal, JournalEnd, Needed};
use wims_runtime::keys::Keyed;
use wims_runtime::record::{
    Change, Entry, Hidden, KIND_MAX, Named, Paced, Published, Record, Sent, SweptMessage, Waiting,
};
use wims_runtime::recovery::{RecoveryBugs, SegmentStore};
use wims_runtime::replay::replay;
use wims_runtime::state::State;
use wims_runtime::trace::TraceId;
use wims_stack::table::{Closed, Index};
use wims_stack::{
    BusRef, Condition, Doc, Field, FunctionRef, Pipe, PipeSource, PipeTarget, QueueRef, Stack,
    StreamStart, Table, TableRef,
};

#[path = "golden/hostile.rs"]
mod hostile;

/// The version whose journal is written.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Five pages: the first segment is full, and the sweep begins in the second one.
const SEGMENT_BYTES: u64 = 5 * PAGE as u64;
const JOURNAL_ID: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
/// Wall time before the first record; each is a millisecond later than the one before.
const BEGAN_MS: u64 = 1_700_000_000_000;
/// The clock is another one than the wall's.
const CLOCK_AHEAD_MS: u64 = 5_000_000;
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
/// What to do when this version writes other bytes.
const WRITTEN_OTHERWISE: &str = "this build does not write the journal that is committed for its \
    version. If that version is released, the format has changed: give the workspace a new version, \
    let WIMS_BLESS=1 write its folder, and leave the old folder as it is, which this build must go \
    on reading. If it is not released yet, WIMS_BLESS=1 writes its folder anew. See \
    crates/wims-runtime/tests/golden/README.md";
/// What to do when this version reads something else.
const READ_OTHERWISE: &str = "this build reads a committed journal otherwise than is committed \
    beside it. If only the text of a record or the set of digests changed, WIMS_BLESS=1 writes it \
    anew; read the difference. If what is recovered changed, old data would be lost: mend that";

/// Numbers of the resources in [`NAMES`].
const TABLE: u16 = 0;
const BUS: u16 = 1;
const STREAM_PIPE: u16 = 2;
const API_PIPE: u16 = 3;
const DEAD: u16 = 4;
const NOTED: u16 = 5;
const FLOW: u16 = 6;
/// What no stack declares any more.
const OLD: u16 = 7;
const NAMES: [&str; 8] = [
    "table/T",
    "bus/b",
    "pipe/p",
    "pipe/calls",
    "queue/dead",
    "queue/noted",
    "workflow/w",
    "queue/old",
];

/// The stack whose journals these are: the table and who reads its stream; nothing else of a stack
/// matters to a state.
fn stack() -> Stack {
    let (table, dead_letters) = (TableRef::new("T"), QueueRef::new("dead"));
    let mut stack = Stack::new("golden");
    stack.tables.push(Table {
        name: table.clone(),
        unstreamed: vec!["hidden".into()],
        indexes: vec![Index {
            attribute: "name".into(),
            prefix: "a".into(),
            unique: true,
            ordered: false,
        }],
        closed: vec![Closed { prefix: "a".into(), when: Condition::is("state", "CLOSED") }],
    });
    let (bus, enrichment) = (BusRef::new("b"), FunctionRef::new("tell"));
    let (batch_size, start) = (10, StreamStart::Horizon);
    stack.pipes.push(Pipe {
        name: "p".into(),
        source: PipeSource::Stream { table, batch_size, start, dead_letters },
        target: PipeTarget::Bus { bus, enrichment },
    });
    stack
}

/// A journal's segments without the zeroes at their ends.
#[derive(Clone, Default, PartialEq)]
struct Segments(BTreeMap<u64, Vec<u8>>);

impl Segments {
    /// Those in a folder; none when there is no folder.
    fn in_folder(folder: &Path) -> Segments {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let segments = files.filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let number = name.strip_suffix(".seg")?.parse::<u64>().ok()?;
            Some((number, fs::read(file.path()).expect("a readable segment")))
        });
        Segments(segments.collect())
    }

    /// Puts them into a folder in place of what is there.
    fn write(&self, folder: &Path) {
        for number in Segments::in_folder(folder).0.keys() {
            fs::remove_file(path_of(folder, *number)).expect("a writable source tree");
        }
        fs::create_dir_all(folder).expect("a writable source tree");
        for (number, bytes) in &self.0 {
            fs::write(path_of(folder, *number), bytes).expect("a writable source tree");
        }
    }

    /// All frames with their records, in order, by segment.
    fn frames(&self) -> Vec<(u64, FrameHeader, Vec<Entry>)> {
        let mut frames = Vec::new();
        for (number, bytes) in &self.0 {
            let mut offset = PAGE;
            while offset < bytes.len() {
                let header = FrameHeader::read(&bytes[offset..]).expect("a sound frame");
                let records = &bytes[offset + FRAME_HEADER..offset + header.len as usize];
                let entries = entries_of(&header, records);
                offset += header.padded_len();
                frames.push((*number, header, entries));
            }
        }
        frames
    }

    /// All records, in order.
    fn entries(&self) -> Vec<Entry> {
        self.frames().into_iter().flat_map(|(_, _, entries)| entries).collect()
    }
}

fn path_of(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment}.seg"))
}

fn entries_of(header: &FrameHeader, records: &[u8]) -> Vec<Entry> {
    let (mut entries, mut rest) = (Vec::new(), records);
    for seq in header.first_seq..header.first_seq + u64::from(header.count) {
        let (entry, behind) = Entry::read(rest, seq, header.wall_ms).expect("a known record");
        entries.push(entry);
        rest = behind;
    }
    assert!(rest.is_empty(), "nothing stands behind the last record of a frame");
    entries
}

/// A golden journal is sound, so nothing of it is ever cut or discarded.
impl SegmentStore for Segments {
    fn list(&mut self) -> Result<Vec<u64>, String> {
        Ok(self.0.keys().copied().collect())
    }

    fn read(&mut self, segment: u64, len: usize) -> Result<Vec<u8>, String> {
        let bytes = self.0.get(&segment).ok_or_else(|| format!("there is no {segment}"))?;
        Ok(bytes[..len.min(bytes.len())].to_vec())
    }

    fn cut(&mut self, segment: u64, offset: u64) -> Result<(), String> {
        Err(format!("segment {segment} is to be cut at {offset}"))
    }

    fn discard(&mut self, segment: u64) -> Result<(), String> {
        Err(format!("segment {segment} is to be discarded"))
    }
}

/// What a record follows from.
#[derive(Clone, Copy)]
struct Origin {
    cause: u64,
    replay: bool,
    trace: Option<TraceId>,
}

impl Origin {
    fn replayed(self) -> Origin {
        Origin { replay: true, ..self }
    }

    fn traced(self) -> Origin {
        Origin { trace: TraceId::new(TRACE), ..self }
    }
}

fn from(cause: u64) -> Origin {
    Origin { cause, replay: false, trace: None }
}

/// Writes a journal as the engine does, at times that are given.
struct Recorder {
    journal: Journal,
    segments: Segments,
}

impl Recorder {
    fn new() -> Recorder {
        let mut journal = Journal::new(SEGMENT_BYTES, JournalEnd::default());
        while let Some(segment) = journal.prepare() {
            journal.prepared(segment, true);
        }
        Recorder { journal, segments: Segments::default() }
    }

    /// Appends a record to the open frame; its sequence.
    fn put(&mut self, origin: Origin, record: Record) -> u64 {
        let Origin { cause, replay, trace } = origin;
        let seq = self.journal.next_seq();
        self.journal.append(&Entry { seq, wall_ms: wall_ms(seq), cause, replay, trace, record });
        seq
    }

    /// Ends the open frame, or closes the journal with an empty one; the segment it went to.
    fn end_frame(&mut self, recover_from: u64) -> u64 {
        let last_seq = self.journal.next_seq() - 1;
        let (clock, wall) = (clock_ms(last_seq), wall_ms(last_seq));
        let needed = Needed { recover_from, keep_from: recover_from };
        let frame = self.journal.submit(clock, wall, needed, true);
        let frame = frame.expect("a segment has room");
        let number = frame.segment;
        let first_page =
            || SegmentHeader { number, bytes: SEGMENT_BYTES, journal_id: JOURNAL_ID }.page();
        let segment = self.segments.0.entry(number).or_insert_with(first_page);
        assert_eq!(segment.len() as u64, frame.offset, "frames follow each other");
        segment.extend_from_slice(&frame.bytes);
        self.journal.written(last_seq, frame.bytes);
        number
    }
}

fn wall_ms(seq: u64) -> u64 {
    BEGAN_MS + seq
}

fn clock_ms(seq: u64) -> u64 {
    CLOCK_AHEAD_MS + 2 * seq
}

/// A document with values of every kind.
fn document() -> Doc {
    let list = Doc::build(|w| {
        w.list(|w| {
            w.int(i64::MIN);
            w.str("two");
            w.object(&[("three", Field::Bool(false))]);
        });
    });
    let nested = Doc::object(&[("empty", Field::Str("")), ("list", Field::View(list.view()))]);
    Doc::object(&[
        ("decimal", Field::Number(Decimal::new(-12_345, 3))),
        ("large", Field::Int(9_007_199_254_740_993)),
        ("nested", Field::View(nested.view())),
        ("nothing", Field::Null),
        ("text", Field::Str("Größe \"L\"\n\u{1f4e6}")),
        ("yes", Field::Bool(true)),
    ])
}

fn item(sk: &str, state: &str) -> Doc {
    document().with(&[
        ("name", Some(Field::Str(sk))),
        ("pk", Some(Field::Str("a"))),
        ("sk", Some(Field::Str(sk))),
        ("state", Some(Field::Str(state))),
    ])
}

/// The item that stays open, as it is in the end: attributes were changed, added and removed.
fn open_item() -> Doc {
    item("1", "OPEN").with(&[("added", Some(Field::Int(-1))), ("yes", None)])
}

fn change(created: u64, old: Option<Doc>, new: Option<Doc>) -> Record {
    Record::Change(Change { table: TABLE, created, old, new })
}

fn sent(queue: u16, body: Doc, attributes: Option<Doc>) -> Record {
    let visible_at_ms = CLOCK_AHEAD_MS + 77;
    Record::Sent(Sent { queue, body, attributes, visible_at_ms })
}

/// Why a dead letter is one.
fn reason() -> Doc {
    Doc::object(&[
        ("ERROR_MESSAGE", Field::Str("the API answered 422")),
        ("RETRY_ATTEMPTS", Field::Int(10)),
        ("SOURCE_QUEUE", Field::Str("noted")),
    ])
}

/// A message that a consumer holds for long.
fn held(id: u64) -> Hidden {
    let visible_at_ms = CLOCK_AHEAD_MS + 86_400_000;
    Hidden { queue: NOTED, id, visible_at_ms, receives: 3, attempts: 2, held: true }
}

/// An execution; with `id` 0 it is a new one.
fn waiting(id: u64, attempts: u32) -> Record {
    let event = Doc::object(&[
        ("detail", Field::View(document().view())),
        ("detail-type", Field::Str("told")),
        ("source", Field::Str("t")),
    ]);
    let position = format!(r#"{{"At":{{"state":"Work","attempts":{attempts},"wake_at_ms":9}}}}"#);
    let wake_at_ms = CLOCK_AHEAD_MS + 60_000;
    Record::Waiting(Waiting { id, workflow: FLOW, event, position, wake_at_ms })
}

fn paced() -> Record {
    Record::Paced(Paced {
        pipe: API_PIPE,
        rate_milli: 4_850,
        paused_until_ms: CLOCK_AHEAD_MS + 300,
        unknowns: 4,
        misdirected: true,
    })
}

fn served(subject: u64, after_ms: u64) -> Record {
    Record::Served { queue: DEAD, subject, until_ms: CLOCK_AHEAD_MS + after_ms }
}

/// A key that was used, and is forgotten so long after the journal began.
fn keyed(hash: u128, after_ms: u64) -> Record {
    let (body, id) = (0x0123_4567_89ab_cdef, u128::from(u64::MAX));
    Record::Keyed(Keyed { expires_ms: CLOCK_AHEAD_MS + after_ms, hash, body, id })
}

fn last_id() -> Record {
    Record::LastId { id: 0x018b_cfe5_6800_7000_8000_0000_0000_0001 }
}

/// Sequences that later records refer to.
struct Known {
    open: u64,
    message: u64,
    letter: u64,
    execution: u64,
    closed_at: u64,
    last_change: u64,
}

/// Names, and the first items with what follows from them.
fn begin(to: &mut Recorder) -> [u64; 6] {
    for (id, name) in (0..).zip(NAMES) {
        to.put(from(0), Record::Named(Named { id, name: name.into() }));
    }
    to.put(from(0), last_id());
    to.end_frame(1);
    let open = to.put(from(0).traced(), change(0, None, Some(item("1", "NEW"))));
    let closed = to.put(from(0), change(0, None, Some(item("2", "NEW"))));
    let removed = to.put(from(0).replayed(), change(0, None, Some(item("3", "NEW"))));
    let event = to.put(
        from(open).traced(),
        Record::Event(Published {
            bus: BUS,
            source: "t".into(),
            detail_type: "told".into(),
            detail: document(),
        }),
    );
    let message = to.put(from(event).traced(), sent(NOTED, Doc::text("1"), None));
    let execution = to.put(from(event).traced(), waiting(0, 1));
    to.put(from(event).traced().replayed(), Record::Skipped { workflow: FLOW });
    to.put(from(0), Record::Cursor { consumer: STREAM_PIPE, seq: removed });
    to.end_frame(1);
    [open, closed, removed, event, message, execution]
}

/// Records that change what is there.
fn go_on(to: &mut Recorder) -> Known {
    let [open, closed, removed, event, message, execution] = begin(to);
    let updated = change(open, Some(item("1", "NEW")), Some(open_item()));
    to.put(from(message).traced().replayed(), updated);
    let done = change(closed, Some(item("2", "NEW")), Some(item("2", "CLOSED")));
    let closed_at = to.put(from(closed), done);
    let gone = change(removed, Some(item("3", "NEW")), None);
    let last_change = to.put(from(removed).replayed(), gone);
    to.put(from(message).traced(), Record::Hidden(held(message)));
    let doomed = to.put(from(event), sent(NOTED, document(), None));
    to.put(from(doomed), Record::Deleted { queue: NOTED, id: doomed });
    let letter = to.put(from(doomed), sent(DEAD, document(), Some(reason())));
    let ended = to.put(from(event), waiting(0, 0));
    to.put(from(ended), Record::Ended { id: ended });
    to.put(from(execution).traced(), waiting(execution, 2));
    to.put(from(0), paced());
    to.put(from(0), served(u64::MAX, 900_000));
    // Its time is over before the journal ends.
    to.put(from(0), served(1, 1));
    to.put(from(0).traced(), keyed(u128::MAX, 86_400_000));
    to.put(from(0), keyed(1, 1));
    let (table, pk, sk) = (TABLE, "a".into(), "2".into());
    to.put(from(0), Record::Archived { table, pk, sk });
    to.put(from(0), Record::Historied { seq: closed_at });
    to.put(from(event), sent(OLD, Doc::text("old"), None));
    to.put(from(0), Record::Dropped { id: OLD });
    to.put(from(0), Record::Cursor { consumer: STREAM_PIPE, seq: last_change });
    to.end_frame(1);
    Known { open, message, letter, execution, closed_at, last_change }
}

/// Everything that is alive, once more.
fn sweep(to: &mut Recorder, known: &Known) {
    let began = to.put(from(0), Record::SweepBegan);
    for (id, name) in (0..).zip(NAMES) {
        to.put(from(0), Record::Named(Named { id, name: name.into() }));
    }
    to.put(from(0), Record::Cursor { consumer: STREAM_PIPE, seq: known.last_change });
    to.put(from(0), paced());
    to.put(from(0), served(u64::MAX, 900_000));
    to.put(from(0), last_id());
    to.put(from(0), Record::Historied { seq: known.closed_at });
    let (table, created, old, new) = (TABLE, known.open, None, Some(open_item()));
    to.put(from(0), Record::SweptItem(Change { table, created, old, new }));
    let message = SweptMessage {
        hidden: held(known.message),
        body: Doc::text("1"),
        attributes: None,
        sent_ms: wall_ms(known.message),
    };
    to.put(from(0).traced(), Record::SweptMessage(message));
    let (id, visible_at_ms) = (known.letter, CLOCK_AHEAD_MS + 77);
    let (receives, attempts, held) = (0, 0, false);
    let letter = SweptMessage {
        hidden: Hidden { queue: DEAD, id, visible_at_ms, receives, attempts, held },
        body: document(),
        attributes: Some(reason()),
        sent_ms: wall_ms(known.letter),
    };
    to.put(from(0), Record::SweptMessage(letter));
    to.put(from(0).traced(), waiting(known.execution, 2));
    to.put(from(0), keyed(u128::MAX, 86_400_000));
    to.put(from(0), Record::SweepEnded { began, segment: 2 });
}

/// The golden journal of this version: two segments, the second one behind a finished sweep.
fn recorded() -> Segments {
    let mut to = Recorder::new();
    let known = go_on(&mut to);
    assert_eq!(to.end_frame(1), 1, "an empty frame fills the first segment");
    sweep(&mut to, &known);
    assert_eq!(to.end_frame(1), 2, "the sweep is in the second segment");
    // No consumer has seen this one.
    let unseen = to.put(from(0).traced().replayed(), change(0, None, Some(item("4", "NEW"))));
    to.put(from(unseen).traced().replayed(), sent(NOTED, Doc::text("4"), None));
    to.end_frame(2);
    to.end_frame(2);
    to.segments
}

/// Everything that is in a journal, as text.
fn listing(segments: &Segments) -> String {
    let mut text = String::new();
    let mut shown = 0;
    for (number, header, entries) in segments.frames() {
        if number != shown {
            shown = number;
            let page = SegmentHeader::read(&segments.0[&number]).expect("a sound segment");
            let _ = writeln!(text, "{page:?}");
        }
        let _ = writeln!(text, "{header:?}");
        for entry in &entries {
            let Entry { seq, wall_ms, cause, replay, trace, record } = entry;
            let trace = trace.map_or_else(|| "none".to_owned(), |trace| trace.to_string());
            let _ = writeln!(
                text,
                "{seq} at {wall_ms} cause {cause} replay {replay} trace {trace} {record:?}"
            );
        }
    }
    text
}

/// Digests of the state a journal is recovered to.
fn recovered(segments: &Segments) -> String {
    let replayed = replay(&stack(), &mut segments.clone(), RecoveryBugs::default(), u64::MAX);
    let (ends, mut state) = replayed.expect("a golden journal is recovered");
    assert!(!ends.torn_tail, "a golden journal ends as it should");
    state.clock_ms = ends.last_clock_ms;
    state.digest().to_string()
}

/// Digests of the state after all records, those before the sweep included.
fn replayed(segments: &Segments) -> String {
    let mut state = State::new(&stack());
    segments.entries().into_iter().for_each(|entry| state.apply(entry));
    let last = segments.frames().pop().expect("a golden journal has frames");
    state.clock_ms = last.1.clock_ms;
    state.digest().to_string()
}

/// The folder with a folder a version.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Folders of all versions, this one's included; written first when `WIMS_BLESS=1` says so.
fn versions() -> Vec<PathBuf> {
    static BLESSED: Once = Once::new();
    BLESSED.call_once(|| {
        if std::env::var_os("WIMS_BLESS").is_some_and(|value| value == "1") {
            recorded().write(&golden().join(VERSION));
            folders().iter().for_each(|folder| bless_texts(folder));
        }
    });
    folders()
}

fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(golden()).expect("golden journals").flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders
}

/// The texts say what a journal means to this build; the journals themselves stay.
fn bless_texts(folder: &Path) {
    let segments = Segments::in_folder(folder);
    let texts = [("records.txt", listing(&segments)), ("state.txt", recovered(&segments))];
    for (name, text) in texts {
        fs::write(folder.join(name), text).expect("a writable source tree");
    }
}

/// Fails with the first line in which a text differs from what is committed.
fn assert_committed(folder: &Path, name: &str, made: &str) {
    let path = folder.join(name);
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let mut pairs = made.lines().zip(committed.lines().chain(std::iter::repeat("nothing")));
    if let Some((made, committed)) = pairs.find(|(made, committed)| made != committed) {
        let path = path.display();
        panic!("{READ_OTHERWISE}\n{path} has\n{committed}\nwhere this build reads\n{made}");
    }
    let (made, committed) = (made.lines().count(), committed.lines().count());
    assert_eq!(made, committed, "{READ_OTHERWISE}\nlines of {}", path.display());
}

#[test]
fn this_version_writes_its_golden_journal_byte_for_byte() {
    let folder = golden().join(VERSION);
    assert!(versions().contains(&folder), "{VERSION} has no golden journal: {WRITTEN_OTHERWISE}");
    // Not compared with a message of both: they are bytes.
    assert!(recorded() == Segments::in_folder(&folder), "{WRITTEN_OTHERWISE}");
}

#[test]
fn the_golden_journal_of_every_version_is_recovered_as_ever() {
    for folder in versions() {
        let segments = Segments::in_folder(&folder);
        assert_committed(&folder, "records.txt", &listing(&segments));
        assert_committed(&folder, "state.txt", &recovered(&segments));
        let (from_sweep, from_start) = (recovered(&segments), replayed(&segments));
        assert_eq!(from_sweep, from_start, "a recovery behind the sweep lacks nothing");
    }
}

#[test]
fn the_golden_journal_has_records_of_every_kind_with_and_without_a_trace() {
    let entries = recorded().entries();
    let kinds: BTreeSet<u8> = entries.iter().map(|entry| entry.record.kind()).collect();
    // Whoever adds a kind adds it to the golden journal too.
    assert_eq!(kinds, (1..=KIND_MAX).collect());
    let flags: BTreeSet<(bool, bool)> =
        entries.iter().map(|entry| (entry.replay, entry.trace.is_some())).collect();
    assert_eq!(flags.len(), 4, "replay and trace, each alone, both and none");
}
