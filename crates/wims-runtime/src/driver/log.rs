//! Logs: events read back from the journal, where they are. There is no second copy.
//!
//! Promise: what a log shows is durable, complete and in the journal's order; a change event is
//! made from its record by the same enrichment that made it when it was published, and not for a
//! pipe that began later. Where a sound frame is missing the log says so; it never passes for
//! shorter than it is. It deliberately keeps nothing of the journal in memory between two reads
//! but where the pipes began.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::panic::catch_unwind;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use uuid::Uuid;
use wims_stack::{EventView, Node};

use crate::driver::data_dir::SegmentFiles;
use crate::frame::{FRAME_HEADER, FrameHeader, PAGE};
use crate::functions::{PutEvent, StreamRecord};
use crate::plan::LogPlan;
use crate::record::{Change, Entry, Published, Record};
use crate::recovery::SegmentStore;
use crate::trace::TraceId;

mod beginnings;
pub mod timeline;

use beginnings::Beginnings;

/// Frames larger than this are not ours; the journal's own are about a megabyte.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// Events of a log, oldest first.
#[derive(Debug, Default)]
pub struct LogPage {
    /// Each as the JSON text of its envelope.
    pub events: Vec<String>,
    /// Go on after this sequence.
    pub next: u64,
    /// Nothing more is there now.
    pub end: bool,
}

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A segment could not be read.
    #[error("failed to read the journal: {0}")]
    Segment(String),
    /// Records that are durable are not where they must be.
    #[error(
        "the journal is unsound: the frame that must come next is neither in segment {segment} at \
         byte {offset} nor first in the next segment"
    )]
    Unsound {
        /// Segment where the sound frames end.
        segment: u64,
        /// Offset of the first unsound one.
        offset: u64,
    },
}

/// Reads logs from segments.
#[derive(Clone)]
pub struct LogReader {
    files: SegmentFiles,
    plan: LogPlan,
    /// The last change before each stream pipe's beginning, once all of them were found: a
    /// declared pipe begins no more.
    last_unseen: Arc<OnceLock<Vec<u64>>>,
}

/// Where a frame is.
struct Place {
    segment: u64,
    offset: u64,
    header: FrameHeader,
}

/// How a walk over frames ended.
struct Walked {
    /// The journal reaches back to where it was to begin.
    is_whole: bool,
    /// Nothing more is there now.
    end: bool,
}

impl Place {
    /// The sequence behind its last record.
    fn end_seq(&self) -> u64 {
        self.header.first_seq.saturating_add(self.header.count.into())
    }

    /// The offset behind it.
    fn end_offset(&self) -> u64 {
        self.offset + self.header.padded_len() as u64
    }

    fn unsound(&self) -> LogError {
        LogError::Unsound { segment: self.segment, offset: self.offset }
    }
}

impl LogReader {
    /// A reader of one log.
    pub fn new(files: SegmentFiles, plan: LogPlan) -> LogReader {
        LogReader { files, plan, last_unseen: Arc::default() }
    }

    /// At least `limit` events after a sequence, if there are so many up to `durable`: a record's
    /// events are never split.
    ///
    /// # Errors
    /// When a segment cannot be read, or a frame before `durable` is unsound.
    pub fn after(&self, after: u64, limit: usize, durable: u64) -> Result<LogPage, LogError> {
        let mut page = LogPage { next: after, ..LogPage::default() };
        let read = |place: &Place| self.read_frame(place, after, limit, durable, &mut page);
        page.end = self.walk(after, durable, read)?.end;
        Ok(page)
    }

    /// Hands over the frames with records behind `after`, in order, until `each` says that it is
    /// enough, or all up to `durable` were seen.
    fn walk(
        &self,
        after: u64,
        durable: u64,
        mut each: impl FnMut(&Place) -> Result<bool, LogError>,
    ) -> Result<Walked, LogError> {
        let wanted = after.saturating_add(1);
        if wanted > durable {
            return Ok(Walked { is_whole: true, end: true });
        }
        let segments = self.segments()?;
        let starts = |first: &Option<u64>| first.is_some_and(|first| first <= wanted);
        let start = segments.iter().rposition(|(_, first)| starts(first));
        let (is_whole, start) = (start.is_some(), start.unwrap_or(0));
        // The sequence that must come next, and where it must be.
        let (first_segment, first_seq) = segments.get(start).copied().unwrap_or_default();
        let mut expected = first_seq.unwrap_or(wanted);
        let (mut segment, mut offset) = (first_segment, PAGE as u64);
        for (number, _) in &segments[start..] {
            let mut next = PAGE as u64;
            while expected <= durable
                && let Some(place) = self.frame_of(*number, next, expected)?
            {
                next = place.end_offset();
                expected = place.end_seq();
                (segment, offset) = (*number, next);
                if expected > wanted && each(&place)? {
                    return Ok(Walked { is_whole, end: false });
                }
            }
        }
        if expected <= durable {
            return Err(LogError::Unsound { segment, offset });
        }
        Ok(Walked { is_whole, end: true })
    }

    /// The last `count` events up to `durable`, or somewhat more.
    ///
    /// # Errors
    /// When a segment cannot be read, or a frame before `durable` is unsound.
    pub fn last(&self, count: usize, durable: u64) -> Result<LogPage, LogError> {
        let mut pages: Vec<LogPage> = Vec::new();
        let mut found = 0;
        // Everything from this sequence on has been seen.
        let mut until = durable.saturating_add(1);
        'segments: for (segment, first) in self.segments()?.iter().rev() {
            if first.is_none() && until <= durable {
                return Err(LogError::Unsound { segment: *segment, offset: PAGE as u64 });
            }
            for place in self.frames(*segment, until)?.iter().rev() {
                until = place.header.first_seq;
                let mut page = LogPage::default();
                self.read_frame(place, 0, usize::MAX, durable, &mut page)?;
                found += page.events.len();
                pages.push(page);
                if found >= count {
                    break 'segments;
                }
            }
        }
        let mut events: Vec<String> =
            pages.into_iter().rev().flat_map(|page| page.events).collect();
        events.drain(..events.len().saturating_sub(count));
        Ok(LogPage { events, next: durable, end: true })
    }

    /// Segments and the first sequence of each, oldest first; one that is prepared, or begins
    /// with an unsound frame, has none.
    fn segments(&self) -> Result<Vec<(u64, Option<u64>)>, LogError> {
        let mut numbers = self.files.clone().list().map_err(LogError::Segment)?;
        numbers.sort_unstable();
        // One before a gap was to be removed and could not be, as recovery has it.
        let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
        let mut segments = Vec::with_capacity(numbers.len());
        for number in numbers.drain(gap.map_or(0, |at| at + 1)..) {
            // One that was removed in between is none of ours any more.
            if let Ok(place) = self.frame_at(number, PAGE as u64) {
                segments.push((number, place.map(|place| place.header.first_seq)));
            }
        }
        Ok(segments)
    }

    /// Frames of a segment that begin before a sequence; if there are any they reach it.
    fn frames(&self, segment: u64, until: u64) -> Result<Vec<Place>, LogError> {
        let mut places: Vec<Place> = Vec::new();
        let mut offset = PAGE as u64;
        let mut expected: Option<u64> = None;
        while let Some(place) = self.frame_at(segment, offset)? {
            let first = place.header.first_seq;
            if first >= until || expected.is_some_and(|expected| expected != first) {
                break;
            }
            (offset, expected) = (place.end_offset(), Some(place.end_seq()));
            places.push(place);
        }
        if expected.is_some_and(|expected| expected < until) {
            return Err(LogError::Unsound { segment, offset });
        }
        Ok(places)
    }

    /// The frame there, if it begins with this sequence.
    fn frame_of(&self, segment: u64, offset: u64, seq: u64) -> Result<Option<Place>, LogError> {
        Ok(self.frame_at(segment, offset)?.filter(|place| place.header.first_seq == seq))
    }

    /// The frame there by its header; its checksum is not looked at.
    fn frame_at(&self, segment: u64, offset: u64) -> Result<Option<Place>, LogError> {
        let bytes = self.read(segment, offset, FRAME_HEADER)?;
        let fits = |len: u32| (FRAME_HEADER..=FRAME_BYTES_MAX).contains(&(len as usize));
        Ok(FrameHeader::peek(&bytes)
            .filter(|header| header.segment == segment && fits(header.len))
            .map(|header| Place { segment, offset, header }))
    }

    fn read(&self, segment: u64, offset: u64, len: usize) -> Result<Vec<u8>, LogError> {
        let failed = |error: std::io::Error| LogError::Segment(format!("{segment}: {error}"));
        let file = self.files.open(segment).map_err(failed)?;
        let mut bytes = vec![0; len];
        let mut read = 0;
        while read < len {
            let more = file.read_at(&mut bytes[read..], offset + read as u64).map_err(failed)?;
            if more == 0 {
                break;
            }
            read += more;
        }
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The records of a frame whose first one is durable.
    fn entries(&self, place: &Place) -> Result<Vec<Entry>, LogError> {
        let bytes = self.read(place.segment, place.offset, place.header.len as usize)?;
        // Not one on its way to the disk: its first record is durable, so all of it is.
        if FrameHeader::read(&bytes).is_none() {
            return Err(place.unsound());
        }
        read_entries(place, &bytes)
    }

    /// The last change before each stream pipe's beginning, in the order of the pipes. Until it is
    /// known, the journal is read from its oldest frame to where the youngest pipe began.
    fn last_unseen(&self, durable: u64) -> Result<Vec<u64>, LogError> {
        if let Some(found) = self.last_unseen.get() {
            return Ok(found.clone());
        }
        let segments = self.segments()?;
        let (first_segment, first_seq) = segments.first().copied().unwrap_or_default();
        let mut expected = first_seq.unwrap_or(1);
        let mut beginnings = Beginnings::of(&self.plan.streams, expected);
        let (mut segment, mut offset) = (first_segment, PAGE as u64);
        for (number, _) in &segments {
            let mut next = PAGE as u64;
            while expected <= durable
                && !beginnings.are_found()
                && let Some(place) = self.frame_of(*number, next, expected)?
            {
                next = place.end_offset();
                expected = place.end_seq();
                (segment, offset) = (*number, next);
                self.entries(&place)?.iter().for_each(|entry| beginnings.take(&entry.record));
            }
        }
        if beginnings.are_found() {
            return Ok(self.last_unseen.get_or_init(|| beginnings.last_unseen()).clone());
        }
        if expected <= durable {
            return Err(LogError::Unsound { segment, offset });
        }
        Ok(beginnings.last_unseen())
    }

    /// Adds the events of a frame whose first record is durable to the page; true when the page is
    /// full or `durable` is reached.
    fn read_frame(
        &self,
        place: &Place,
        after: u64,
        limit: usize,
        durable: u64,
        page: &mut LogPage,
    ) -> Result<bool, LogError> {
        let entries = self.entries(place)?;
        let has_changes = entries.iter().any(|entry| matches!(entry.record, Record::Change(_)));
        let last_unseen = if has_changes { self.last_unseen(durable)? } else { Vec::new() };
        let mut equals = Equals::default();
        for (entry, publisher) in entries.iter().zip(publishers(&entries)) {
            let pipe = self.mark(publisher);
            // Those before the page count too.
            let ordinal = equals.ordinal(entry, pipe);
            if entry.seq <= after {
                continue;
            }
            if entry.seq > durable {
                page.end = true;
                return Ok(true);
            }
            if page.events.len() >= limit {
                return Ok(true);
            }
            self.show(entry, pipe, ordinal, &last_unseen, &mut page.events);
            page.next = entry.seq;
        }
        Ok(false)
    }

    /// What tells events of a pipe from equal ones of another: nothing for the first pipe.
    fn mark(&self, pipe: Option<u16>) -> Option<u16> {
        pipe.filter(|pipe| Some(*pipe) != self.plan.first_pipe)
    }

    /// The events of one record that the log's rules hear.
    fn show(
        &self,
        entry: &Entry,
        pipe: Option<u16>,
        ordinal: u64,
        last_unseen: &[u64],
        events: &mut Vec<String>,
    ) {
        match &entry.record {
            Record::Event(event) => {
                let view = EventView {
                    source: &event.source,
                    detail_type: &event.detail_type,
                    detail: Node::View(event.detail.view()),
                };
                let id = event_id(entry.cause, view.source, view.detail_type, ordinal, pipe);
                self.show_event(event.bus, entry, id, &view, events);
            }
            Record::Change(change) => self.show_change(entry, change, last_unseen, events),
            Record::Named(_)
            | Record::Sent(_)
            | Record::Hidden(_)
            | Record::Deleted { .. }
            | Record::Cursor { .. }
            | Record::Waiting(_)
            | Record::Ended { .. }
            | Record::Skipped { .. }
            | Record::Paced(_)
            | Record::Served { .. }
            | Record::SweepBegan
            | Record::SweepEnded { .. }
            | Record::SweptItem(_)
            | Record::SweptMessage(_)
            | Record::LastId { .. }
            | Record::Archived { .. }
            | Record::Historied { .. }
            | Record::Dropped { .. }
            | Record::Keyed(_) => {}
        }
    }

    /// The events that are made again from a change, for the pipes that had begun before it.
    fn show_change(
        &self,
        entry: &Entry,
        change: &Change,
        last_unseen: &[u64],
        events: &mut Vec<String>,
    ) {
        let image = change.new.as_ref().or(change.old.as_ref());
        let pk = image.and_then(|doc| doc.str("pk")).unwrap_or("");
        for (stream, last_unseen) in self.plan.streams.iter().zip(last_unseen) {
            let streamed = !stream.unstreamed.iter().any(|prefix| pk.starts_with(prefix));
            if stream.table != change.table || !streamed || entry.seq <= *last_unseen {
                continue;
            }
            let pipe = self.mark(Some(stream.pipe));
            let record = StreamRecord { old: change.old.as_ref(), new: change.new.as_ref() };
            // A poison record has no events; it is among the pipe's dead letters.
            let made = catch_unwind(|| (stream.enrich)(&[record])).unwrap_or_default();
            for (at, put) in made.iter().enumerate().filter(|(_, put)| !put.by_value) {
                let view = EventView {
                    source: put.source,
                    detail_type: put.detail_type,
                    detail: put.detail.node(),
                };
                let ordinal = ordinal_of_made(&made, at);
                let id = event_id(entry.seq, view.source, view.detail_type, ordinal, pipe);
                self.show_event(stream.bus, entry, id, &view, events);
            }
        }
    }

    fn show_event(
        &self,
        bus: u16,
        entry: &Entry,
        id: Uuid,
        view: &EventView<'_>,
        events: &mut Vec<String>,
    ) {
        if self.plan.rules.iter().any(|(of, pattern)| *of == bus && pattern.matches(view)) {
            events.push(envelope(entry, id, view));
        }
    }
}

/// The records of a frame.
fn read_entries(place: &Place, bytes: &[u8]) -> Result<Vec<Entry>, LogError> {
    let header = &place.header;
    let mut rest = &bytes[FRAME_HEADER..];
    let mut entries = Vec::with_capacity(header.count as usize);
    for seq in header.first_seq..place.end_seq() {
        let Ok((entry, behind)) = Entry::read(rest, seq, header.wall_ms) else {
            return Err(LogError::Segment(format!("{} is malformed", place.segment)));
        };
        entries.push(entry);
        rest = behind;
    }
    Ok(entries)
}

/// The pipe that published each record of a frame that is an event: the one whose cursor comes
/// next, for a pipe writes its cursor behind what it published, into the same frame.
fn publishers(entries: &[Entry]) -> Vec<Option<u16>> {
    let mut publishers = vec![None; entries.len()];
    let mut next = None;
    for (entry, publisher) in entries.iter().zip(&mut publishers).rev() {
        if let Record::Cursor { consumer, .. } = &entry.record {
            next = Some(*consumer);
        }
        *publisher = next;
    }
    publishers
}

/// Counts equal business events of a frame: same change, pipe, source and detail-type. The events
/// a pipe makes of a change are in one frame, so a count a frame is enough.
#[derive(Default)]
struct Equals {
    /// How many there were, by the id of the first of them.
    told: HashMap<Uuid, u64>,
}

impl Equals {
    /// The event's ordinal among its equals, from 0; a record that is no event has 0.
    fn ordinal(&mut self, entry: &Entry, pipe: Option<u16>) -> u64 {
        let Record::Event(Published { source, detail_type, .. }) = &entry.record else {
            return 0;
        };
        let first = event_id(entry.cause, source, detail_type, 0, pipe);
        let told = self.told.entry(first).or_insert(0);
        *told += 1;
        *told - 1
    }
}

/// The ordinal among its equals of an event that is made again. Those kept by value come first:
/// they are counted by their own records, which know of no others.
fn ordinal_of_made(made: &[PutEvent], at: usize) -> u64 {
    let put = &made[at];
    let is_before = |(other_at, other): &(usize, &PutEvent)| {
        let is_equal = other.source == put.source && other.detail_type == put.detail_type;
        is_equal && (other.by_value || *other_at < at)
    };
    made.iter().enumerate().filter(is_before).count() as u64
}

/// An event of a record as a log shows it: the JSON text of its EventBridge envelope. An event
/// that has a trace has the field `traceId` in it, which is ours; any other has EventBridge's alone.
pub fn envelope(entry: &Entry, id: Uuid, view: &EventView<'_>) -> String {
    serde_json::to_string(&Envelope::of(entry, id, view)).expect("an event is JSON")
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Envelope<'a> {
    version: &'static str,
    id: Uuid,
    detail_type: &'a str,
    source: &'a str,
    account: &'static str,
    time: String,
    region: &'static str,
    resources: [&'static str; 0],
    #[serde(rename = "traceId", skip_serializing_if = "Option::is_none")]
    trace: Option<TraceId>,
    detail: Node<'a>,
}

impl<'a> Envelope<'a> {
    fn of(entry: &Entry, id: Uuid, view: &EventView<'a>) -> Envelope<'a> {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(entry.wall_ms);
        Envelope {
            version: "0",
            id,
            detail_type: view.detail_type,
            source: view.source,
            account: "000000000000",
            time: humantime::format_rfc3339_millis(time).to_string(),
            region: "local",
            resources: [],
            trace: entry.trace,
            detail: view.detail,
        }
    }
}

/// An event's id: a hash of what it follows from, so that publishing again gives the same id. The
/// first of several equal events has ordinal 0, which adds nothing to the hash; nor does the first
/// pipe, while another one adds its number, which the journal never gives to anything else.
pub fn event_id(
    change_seq: u64,
    source: &str,
    detail_type: &str,
    ordinal: u64,
    pipe: Option<u16>,
) -> Uuid {
    const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let step = |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
    let (seq, nth) = (change_seq.to_le_bytes(), ordinal.to_le_bytes());
    let first = [&seq[..], source.as_bytes(), &[0], detail_type.as_bytes()];
    let more: [&[u8]; 2] = if ordinal == 0 { [&[], &[]] } else { [&[0], &nth] };
    let number = pipe.unwrap_or_default().to_le_bytes();
    let other: [&[u8]; 2] = if pipe.is_none() { [&[], &[]] } else { [&[1], &number] };
    let parts = first.iter().chain(&more).chain(&other);
    let hash = parts.flat_map(|part| part.iter()).fold(BASIS, step);
    // Version 8: a hash of our own.
    uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use wims_stack::{Doc, Field, Pattern, Tree};

    use super::*;
    use crate::driver::data_dir::DataDir;
    use crate::frame::SegmentHeader;
    use crate::journal::FrameWrite;
    use crate::plan::LogStream;
    use crate::quiet;
    use crate::record::Named;

    /// Numbers of two stream pipes.
    pub(super) const PIPES: [u16; 2] = [5, 6];

    /// A data directory with one segment, gone with its test.
    pub(super) struct Folder {
        path: PathBuf,
        files: SegmentFiles,
    }

    impl Folder {
        pub(super) fn new(test: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("wims-log-{}-{test}", std::process::id()));
            let files = DataDir::open(&path).expect("a new data directory").segments();
            let header = SegmentHeader { number: 1, bytes: 1 << 16, journal_id: 9 };
            files.prepare(&header).expect("a segment");
            Folder { path, files }
        }

        pub(super) fn write(&self, offset: usize, bytes: Vec<u8>) {
            let frame = FrameWrite { segment: 1, offset: offset as u64, bytes };
            self.files.writer().write(&frame).expect("a durable frame");
        }

        /// A reader of every event of buses 1 and 2 from source `t`.
        pub(super) fn reader(&self) -> LogReader {
            let pattern = Pattern(serde_json::json!({"source": ["t"]}));
            let rule = |bus| (bus, pattern.compile().expect("a pattern"));
            let stream = |pipe, bus| {
                let (enrich, unstreamed) = (quiet::tell, Vec::new());
                LogStream { pipe, table: 3, bus, enrich, unstreamed }
            };
            let plan = LogPlan {
                rules: vec![rule(1), rule(2)],
                streams: vec![stream(PIPES[0], 1), stream(PIPES[1], 2)],
                first_pipe: Some(PIPES[0]),
                queues: HashMap::from([(8, "dead".to_owned())]),
            };
            LogReader::new(self.files.clone(), plan)
        }

        /// Ids of all events up to a sequence.
        fn ids(&self, durable: u64) -> Vec<String> {
            let page = self.reader().after(0, 10, durable).expect("a page");
            page.events.iter().map(|event| id(event)).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }

    /// An event `new` that follows from the first record.
    pub(super) fn event() -> Record {
        event_on(1)
    }

    fn event_on(bus: u16) -> Record {
        let detail = Doc::object(&[("a", Field::Int(1))]);
        let (source, detail_type) = ("t".into(), "new".into());
        Record::Event(Published { bus, source, detail_type, detail })
    }

    /// A pipe has passed the first record.
    fn cursor(pipe: u16) -> Record {
        Record::Cursor { consumer: pipe, seq: 1 }
    }

    /// A pipe has passed everything up to this record.
    pub(super) fn place(pipe: u16, seq: u64) -> Record {
        Record::Cursor { consumer: pipe, seq }
    }

    /// A new item of the table.
    pub(super) fn change(sk: &str) -> Record {
        let new = Some(quiet::item(sk));
        Record::Change(Change { table: 3, created: 0, old: None, new })
    }

    /// The id of an event that follows from the first record.
    fn id_of(ordinal: u64, pipe: Option<u16>) -> String {
        event_id(1, "t", "new", ordinal, pipe).to_string()
    }

    /// A frame of one page.
    pub(super) fn frame(first_seq: u64, records: Vec<Record>) -> Vec<u8> {
        let (mut bytes, mut seq) = (vec![0; FRAME_HEADER], first_seq);
        for record in records {
            let cause = u64::from(seq > 1);
            let (wall_ms, replay, trace) = (7, false, None);
            Entry { seq, wall_ms, cause, replay, trace, record }.write(&mut bytes, 7);
            seq += 1;
        }
        let header = FrameHeader {
            len: 0,
            crc: 0,
            previous_crc: 0,
            segment: 1,
            first_seq,
            count: u32::try_from(seq - first_seq).expect("few records"),
            wall_ms: 7,
            clock_ms: 7,
            recover_from: 1,
        };
        header.seal(&mut bytes);
        assert_eq!(bytes.len(), PAGE);
        bytes
    }

    fn id(event: &str) -> String {
        let event: serde_json::Value = serde_json::from_str(event).expect("an event is JSON");
        event["id"].as_str().expect("an id").to_owned()
    }

    #[test]
    fn an_envelope_is_eventbridges_and_has_the_trace_beside_it_when_there_is_one() {
        let detail = Doc::object(&[("a", Field::Int(1))]);
        let view = EventView { source: "t", detail_type: "new", detail: Node::View(detail.view()) };
        let shown = |trace| {
            let (replay, record) = (false, event());
            let entry = Entry { seq: 2, wall_ms: 7, cause: 1, replay, trace, record };
            envelope(&entry, event_id(1, "t", "new", 0, None), &view)
        };
        let begins = r#"{"version":"0","id":"8663ddd9-6d81-82b7-af53-4dc38b21253e","detail-type":"new","source":"t","account":"000000000000","time":"1970-01-01T00:00:00.007Z","region":"local","resources":[],"#;
        assert_eq!(shown(None), format!(r#"{begins}"detail":{{"a":1}}}}"#));
        let trace = r#""traceId":"0af7651916cd43dd8448eb211c80319c","#;
        let traced = shown(TraceId::new(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c));
        assert_eq!(traced, format!(r#"{begins}{trace}"detail":{{"a":1}}}}"#));
    }

    #[test]
    fn equal_events_of_one_change_have_ids_of_their_own_and_keep_them() {
        let folder = Folder::new("equals");
        folder.write(PAGE, frame(1, vec![Record::SweepBegan, event(), event()]));
        let page = folder.reader().after(0, 10, 3).expect("a page");
        assert_eq!(page.events.len(), 2);
        let ids = folder.ids(3);
        assert_eq!(ids, [0, 1].map(|ordinal| id_of(ordinal, None)));
        assert_ne!(ids[0], ids[1]);
        let second = folder.reader().after(2, 10, 3).expect("a page that begins in between");
        assert_eq!(second.events, page.events[1..]);
    }

    #[test]
    fn equal_events_of_two_pipes_have_ids_of_their_own_on_one_bus_and_on_two() {
        let known = [id_of(0, None), id_of(1, None), id_of(0, Some(PIPES[1]))];
        assert_eq!(known[0], "8663ddd9-6d81-82b7-af53-4dc38b21253e", "as it always was");
        for (test, bus) in [("one-bus", 1), ("two-buses", 2)] {
            let first = vec![Record::SweepBegan, event(), event(), cursor(PIPES[0])];
            let second = vec![event_on(bus), cursor(PIPES[1])];
            // Both in one frame, and the second one later.
            let together = Folder::new(&format!("{test}-together"));
            together.write(PAGE, frame(1, first.iter().chain(&second).cloned().collect()));
            assert_eq!(together.ids(6), known, "{test}");
            let apart = Folder::new(&format!("{test}-apart"));
            apart.write(PAGE, frame(1, first));
            apart.write(2 * PAGE, frame(5, second));
            assert_eq!(apart.ids(6), known, "{test}");
            assert_eq!(apart.ids(6), known, "{test}: read again");
        }
    }

    #[test]
    fn equal_events_that_two_pipes_make_of_a_change_have_ids_of_their_own() {
        let folder = Folder::new("changes");
        let places = PIPES.map(|pipe| place(pipe, 0));
        folder.write(PAGE, frame(1, [vec![change("1")], places.into()].concat()));
        assert_eq!(folder.ids(3), [id_of(0, None), id_of(0, Some(PIPES[1]))]);
    }

    #[test]
    fn a_pipe_that_began_later_shows_no_change_from_before_it_began() {
        let folder = Folder::new("beginning");
        folder.write(PAGE, frame(1, vec![place(PIPES[0], 0), change("1"), place(PIPES[0], 2)]));
        let name = Record::Named(Named { id: PIPES[1], name: "pipe/second".into() });
        let later = vec![name, place(PIPES[1], 4), change("2")];
        let later = [later, PIPES.map(|pipe| place(pipe, 6)).into()].concat();
        folder.write(2 * PAGE, frame(4, later));
        let id_of = |seq, pipe| event_id(seq, "t", "new", 0, pipe).to_string();
        let shown = [id_of(2, None), id_of(6, None), id_of(6, Some(PIPES[1]))];
        assert_eq!(folder.ids(8), shown);
        let reader = folder.reader();
        let last = reader.last(10, 8).expect("a page");
        assert_eq!(last.events.iter().map(|event| id(event)).collect::<Vec<_>>(), shown);
        // Known by now, the beginnings are the same for a page that begins behind them.
        let page = reader.after(5, 10, 8).expect("a page");
        assert_eq!(page.events, last.events[1..]);
    }

    #[test]
    fn events_made_again_are_counted_behind_equal_ones_kept_by_value() {
        let put = |detail_type, by_value| PutEvent {
            record: 0,
            source: "t",
            detail_type,
            detail: Tree::Doc(Doc::object(&[])),
            by_value,
        };
        let made = [put("a", false), put("b", false), put("a", true), put("a", false)];
        assert_eq!([0, 1, 3].map(|at| ordinal_of_made(&made, at)), [1, 0, 2]);
    }

    #[test]
    fn an_unsound_frame_before_the_durable_sequence_is_told_with_its_place() {
        for (test, byte) in [("header", 0), ("sequence", 24), ("records", FRAME_HEADER + 9)] {
            let folder = Folder::new(test);
            folder.write(PAGE, frame(1, vec![Record::SweepBegan]));
            let mut rotten = frame(2, vec![event()]);
            rotten[byte] ^= 0xff;
            folder.write(2 * PAGE, rotten);
            folder.write(3 * PAGE, frame(3, vec![event()]));
            let reader = folder.reader();
            for read in [reader.after(0, 10, 3), reader.after(1, 10, 3), reader.last(10, 3)] {
                let told = matches!(read, Err(LogError::Unsound { segment: 1, offset: 8192 }));
                assert!(told, "{test}: {read:?}");
            }
            // Up to the first record everything is sound; the rest may be on its way.
            let page = reader.after(0, 10, 1).expect("a page");
            assert!(page.end && page.events.is_empty(), "{test}: {page:?}");
        }
    }

    #[test]
    fn what_is_behind_the_durable_sequence_is_the_end() {
        let folder = Folder::new("end");
        folder.write(PAGE, frame(1, vec![Record::SweepBegan, event()]));
        let reader = folder.reader();
        assert!(reader.after(u64::MAX, 10, 2).expect("a page").end);
        let page = reader.after(0, 10, 2).expect("a page");
        assert_eq!((page.events.len(), page.next, page.end), (1, 2, true));
        assert_eq!(reader.last(10, 2).expect("a page").events, page.events);
    }
}
