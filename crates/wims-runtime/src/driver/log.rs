//! Logs: events read back from the journal, where they are. There is no second copy.
//!
//! Promise: what a log shows is durable, complete and in the journal's order; a change event is
//! made from its record by the same enrichment that made it when it was published. It
//! deliberately keeps nothing in memory between two reads.

use std::os::unix::fs::FileExt;
use std::panic::catch_unwind;

use serde::Serialize;
use uuid::Uuid;
use wims_stack::{EventView, Node};

use crate::driver::data_dir::SegmentFiles;
use crate::frame::{FRAME_HEADER, FrameHeader, PAGE};
use crate::functions::StreamRecord;
use crate::plan::LogPlan;
use crate::record::{Entry, Record};
use crate::recovery::SegmentStore;

/// Frames larger than this are not ours; the journal's own are about a megabyte.
const FRAME_BYTES_MAX: u32 = 64 << 20;

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
}

/// Reads logs from segments.
#[derive(Clone)]
pub struct LogReader {
    files: SegmentFiles,
    plan: LogPlan,
}

/// Where a frame is.
struct Place {
    segment: u64,
    offset: u64,
    header: FrameHeader,
}

impl LogReader {
    /// A reader of one log.
    pub fn new(files: SegmentFiles, plan: LogPlan) -> LogReader {
        LogReader { files, plan }
    }

    /// At least `limit` events after a sequence, if there are so many up to `durable`: a record's
    /// events are never split.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn after(&self, after: u64, limit: usize, durable: u64) -> Result<LogPage, LogError> {
        let mut page = LogPage { next: after, ..LogPage::default() };
        let wanted = after.saturating_add(1);
        let segments = self.segments()?;
        let start = segments.iter().rposition(|(_, first)| *first <= wanted).unwrap_or(0);
        for (segment, _) in &segments[start..] {
            let mut offset = PAGE as u64;
            while let Some(place) = self.frame_at(*segment, offset)? {
                offset += place.header.padded_len() as u64;
                let last = place.header.first_seq + u64::from(place.header.count);
                if last > wanted && self.read_frame(&place, after, limit, durable, &mut page)? {
                    return Ok(page);
                }
            }
        }
        page.end = true;
        Ok(page)
    }

    /// The last `count` events up to `durable`, or somewhat more.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn last(&self, count: usize, durable: u64) -> Result<LogPage, LogError> {
        let mut pages: Vec<LogPage> = Vec::new();
        let mut found = 0;
        'segments: for (segment, _) in self.segments()?.iter().rev() {
            for place in self.frames(*segment)?.iter().rev() {
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

    /// Segments that hold frames and the first sequence of each, oldest first.
    fn segments(&self) -> Result<Vec<(u64, u64)>, LogError> {
        let mut numbers = self.files.clone().list().map_err(LogError::Segment)?;
        numbers.sort_unstable();
        let mut segments = Vec::with_capacity(numbers.len());
        for number in numbers {
            // One that was removed in between is none of ours any more.
            if let Ok(Some(place)) = self.frame_at(number, PAGE as u64) {
                segments.push((number, place.header.first_seq));
            }
        }
        Ok(segments)
    }

    fn frames(&self, segment: u64) -> Result<Vec<Place>, LogError> {
        let (mut places, mut offset) = (Vec::new(), PAGE as u64);
        while let Some(place) = self.frame_at(segment, offset)? {
            offset += place.header.padded_len() as u64;
            places.push(place);
        }
        Ok(places)
    }

    fn frame_at(&self, segment: u64, offset: u64) -> Result<Option<Place>, LogError> {
        let bytes = self.read(segment, offset, FRAME_HEADER)?;
        let header = FrameHeader::peek(&bytes);
        Ok(header
            .filter(|header| header.segment == segment && header.len <= FRAME_BYTES_MAX)
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

    /// Adds a frame's events to the page; true when the page is full or `durable` is reached.
    fn read_frame(
        &self,
        place: &Place,
        after: u64,
        limit: usize,
        durable: u64,
        page: &mut LogPage,
    ) -> Result<bool, LogError> {
        let bytes = self.read(place.segment, place.offset, place.header.len as usize)?;
        // A frame on its way to the disk may be there in part.
        if FrameHeader::read(&bytes).is_none() {
            page.end = true;
            return Ok(true);
        }
        let mut rest = &bytes[FRAME_HEADER..];
        for i in 0..u64::from(place.header.count) {
            let read = Entry::read(rest, place.header.first_seq + i, place.header.wall_ms);
            let Ok((entry, behind)) = read else {
                return Err(LogError::Segment(format!("{} is malformed", place.segment)));
            };
            rest = behind;
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
            self.show(&entry, &mut page.events);
            page.next = entry.seq;
        }
        Ok(false)
    }

    /// The events of one record that the log's rules hear.
    fn show(&self, entry: &Entry, events: &mut Vec<String>) {
        match &entry.record {
            Record::Event(event) => {
                let view = EventView {
                    source: &event.source,
                    detail_type: &event.detail_type,
                    detail: Node::View(event.detail.view()),
                };
                self.show_event(event.bus, entry, entry.cause, &view, events);
            }
            Record::Change(change) => {
                let image = change.new.as_ref().or(change.old.as_ref());
                let pk = image.and_then(|doc| doc.str("pk")).unwrap_or("");
                for (table, bus, enrich, unstreamed) in &self.plan.streams {
                    let streamed = !unstreamed.iter().any(|prefix| pk.starts_with(prefix));
                    if *table != change.table || !streamed {
                        continue;
                    }
                    let record =
                        StreamRecord { old: change.old.as_ref(), new: change.new.as_ref() };
                    // A poison record has no events; it is among the pipe's dead letters.
                    let made = catch_unwind(|| enrich(&[record])).unwrap_or_default();
                    for put in made.into_iter().filter(|put| !put.by_value) {
                        let view = EventView {
                            source: put.source,
                            detail_type: put.detail_type,
                            detail: put.detail.node(),
                        };
                        self.show_event(*bus, entry, entry.seq, &view, events);
                    }
                }
            }
            _ => {}
        }
    }

    fn show_event(
        &self,
        bus: u16,
        entry: &Entry,
        change_seq: u64,
        view: &EventView<'_>,
        events: &mut Vec<String>,
    ) {
        if self.plan.rules.iter().any(|(of, pattern)| *of == bus && pattern.matches(view)) {
            let envelope = Envelope::of(entry, change_seq, view);
            events.push(serde_json::to_string(&envelope).expect("an event is JSON"));
        }
    }
}

/// The EventBridge envelope.
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
    detail: Node<'a>,
}

impl<'a> Envelope<'a> {
    fn of(entry: &Entry, change_seq: u64, view: &EventView<'a>) -> Envelope<'a> {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(entry.wall_ms);
        Envelope {
            version: "0",
            id: event_id(change_seq, view.source, view.detail_type),
            detail_type: view.detail_type,
            source: view.source,
            account: "000000000000",
            time: humantime::format_rfc3339_millis(time).to_string(),
            region: "local",
            resources: [],
            detail: view.detail,
        }
    }
}

/// An event's id: a hash of what it follows from, so that publishing again gives the same id.
fn event_id(change_seq: u64, source: &str, detail_type: &str) -> Uuid {
    const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let step = |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
    let parts = [&change_seq.to_le_bytes()[..], source.as_bytes(), &[0], detail_type.as_bytes()];
    let hash = parts.iter().flat_map(|part| part.iter()).fold(BASIS, step);
    // Version 8: a hash of our own.
    uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}
