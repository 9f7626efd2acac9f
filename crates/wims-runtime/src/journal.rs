//! The journal: one frame open, at most one frame in flight, segments prepared ahead.
//!
//! Promise: frames reach the disk in order, each wholly inside one segment, and the next one is
//! submitted only after the one before is durable. It is a state machine: it says what to write
//! and is told what was written. It deliberately never reads and never retries a failed write.

use std::collections::VecDeque;

use crate::frame::{FRAME_HEADER, FrameHeader, PAGE};
use crate::record::Entry;

/// A step stops adding work to a frame that has grown to this; 1 MiB is about 500 orders.
pub const FRAME_BYTES_SOFT_MAX: usize = 1 << 20;
/// Segments kept prepared; the last of them is the reserve for answers to calls already made.
pub const PREPARED_SEGMENTS: usize = 3;

/// A frame on its way to the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameWrite {
    /// Which segment.
    pub segment: u64,
    /// Where in it.
    pub offset: u64,
    /// Whole pages.
    pub bytes: Vec<u8>,
}

/// Which segments are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// A recovery starts with this one.
    pub recover_from: u64,
    /// The oldest of all: a consumer the stack does not have goes on there when it is back.
    pub keep_from: u64,
}

/// A segment that holds frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Sequence of the first record in it.
    pub first_seq: u64,
    /// Wall time of the last frame in it.
    pub last_wall_ms: u64,
}

/// Where the journal stands; see the module.
pub struct Journal {
    segment_bytes: u64,
    /// Segments with frames, oldest first; the last one is written to.
    segments: VecDeque<SegmentInfo>,
    offset: u64,
    prepared: VecDeque<u64>,
    preparing: Option<u64>,
    previous_crc: u32,
    next_seq: u64,
    open: OpenFrame,
    in_flight: bool,
    /// The last sequence that is durable.
    durable_seq: u64,
    /// The oldest segment that is needed, as of the frame in flight and of the last durable one.
    in_flight_keep_from: u64,
    durable_keep_from: u64,
    /// A frame of records is last on disk and nothing sound follows it yet.
    unclosed: bool,
    spare: Vec<u8>,
    /// Bytes submitted since the start.
    pub written_bytes: u64,
    /// Frames submitted since the start.
    pub written_frames: u64,
}

struct OpenFrame {
    bytes: Vec<u8>,
    first_seq: u64,
    count: u32,
    wall_ms: u64,
}

/// Where a recovery left the journal.
#[derive(Clone, Debug, Default)]
pub struct JournalEnd {
    /// Segments with frames, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// Where the next frame goes in the last of them.
    pub offset: u64,
    /// Segments that are prepared and empty, in order.
    pub prepared: Vec<u64>,
    /// Checksum of the last frame; 0 when there is none.
    pub previous_crc: u32,
    /// The last sequence.
    pub last_seq: u64,
}

impl Journal {
    /// A journal that goes on where `end` says.
    pub fn new(segment_bytes: u64, end: JournalEnd) -> Journal {
        Journal {
            segment_bytes,
            segments: end.segments.into(),
            offset: end.offset,
            prepared: end.prepared.into(),
            preparing: None,
            previous_crc: end.previous_crc,
            next_seq: end.last_seq + 1,
            open: OpenFrame { bytes: vec![0; FRAME_HEADER], first_seq: 0, count: 0, wall_ms: 0 },
            in_flight: false,
            durable_seq: end.last_seq,
            in_flight_keep_from: 0,
            durable_keep_from: 0,
            unclosed: end.last_seq > 0,
            spare: Vec::new(),
            written_bytes: 0,
            written_frames: 0,
        }
    }

    /// The sequence the next record gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The last sequence that is durable.
    pub fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// Appends an entry to the open frame; its sequence must be [`Journal::next_seq`].
    pub fn append(&mut self, entry: &Entry) {
        assert_eq!(entry.seq, self.next_seq, "sequences have no gaps");
        if self.open.count == 0 {
            self.open.first_seq = entry.seq;
            self.open.wall_ms = entry.wall_ms;
        }
        entry.write(&mut self.open.bytes, self.open.wall_ms);
        self.open.count += 1;
        self.next_seq += 1;
    }

    /// Whether the open frame has room for more work.
    pub fn has_room(&self) -> bool {
        self.open.bytes.len() < FRAME_BYTES_SOFT_MAX
    }

    /// Wall time of the first record of the open frame; 0 when it has none.
    pub fn open_wall_ms(&self) -> u64 {
        if self.open.count == 0 { 0 } else { self.open.wall_ms }
    }

    /// Whether new requests may be admitted: a segment is prepared besides the current one.
    pub fn admits(&self) -> bool {
        !self.prepared.is_empty()
    }

    /// Number of the segment the next frame goes to, as far as is known.
    pub fn current_segment(&self) -> u64 {
        self.segments.back().map_or(1, |segment| segment.number)
    }

    /// Segments with frames, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentInfo> {
        self.segments.iter()
    }

    /// The segment that holds a record, or will; the oldest one when it is gone.
    pub fn segment_of(&self, seq: u64) -> u64 {
        let begun = self.segments.partition_point(|segment| segment.first_seq <= seq);
        self.segments.get(begun.saturating_sub(1)).map_or(1, |segment| segment.number)
    }

    /// Whether nothing is open and nothing in flight.
    pub fn is_settled(&self) -> bool {
        self.open.count == 0 && !self.in_flight
    }

    /// Whether a frame is on its way to the disk.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Whether the last frame should be closed by an empty one, so that rot in it can be told
    /// from a torn tail.
    pub fn is_unclosed(&self) -> bool {
        self.unclosed && self.is_settled()
    }

    /// Whether the open frame waits for a segment that could not be prepared.
    pub fn is_stuck(&self) -> bool {
        let is_waiting = self.open.count > 0 && !self.in_flight;
        is_waiting && !self.fits() && self.prepared.is_empty()
    }

    /// Whether the current segment has room for the open frame.
    fn fits(&self) -> bool {
        let need = self.open.bytes.len().next_multiple_of(PAGE) as u64;
        !self.segments.is_empty() && self.offset + need <= self.segment_bytes
    }

    /// Submits the open frame when none is in flight and a segment has room; an empty one only
    /// when `closing`. Returns the last sequence the frame covers.
    pub fn submit(
        &mut self,
        clock_ms: u64,
        wall_ms: u64,
        needed: Needed,
        closing: bool,
    ) -> Option<FrameWrite> {
        let wanted = self.open.count > 0 || (closing && self.unclosed);
        if self.in_flight || !wanted || !self.find_room() {
            return None;
        }
        let spare = std::mem::take(&mut self.spare);
        let mut bytes = std::mem::replace(&mut self.open.bytes, spare);
        self.open.bytes.clear();
        self.open.bytes.resize(FRAME_HEADER, 0);
        let segment = self.segments.back_mut().expect("room was found in a segment");
        let empty = self.open.count == 0;
        let header = FrameHeader {
            len: 0,
            crc: 0,
            previous_crc: self.previous_crc,
            segment: segment.number,
            first_seq: if empty { self.next_seq } else { self.open.first_seq },
            count: self.open.count,
            wall_ms: if empty { wall_ms } else { self.open.wall_ms },
            clock_ms,
            recover_from: needed.recover_from.min(segment.number),
        };
        segment.last_wall_ms = wall_ms;
        self.in_flight_keep_from = needed.keep_from.min(header.recover_from);
        self.previous_crc = header.seal(&mut bytes);
        self.unclosed = !empty;
        self.open.count = 0;
        self.in_flight = true;
        let write = FrameWrite { segment: segment.number, offset: self.offset, bytes };
        self.offset += write.bytes.len() as u64;
        self.written_bytes += write.bytes.len() as u64;
        self.written_frames += 1;
        Some(write)
    }

    /// Makes the current segment one with room for the open frame, if there is any.
    fn find_room(&mut self) -> bool {
        let need = self.open.bytes.len().next_multiple_of(PAGE) as u64;
        assert!(need + PAGE as u64 <= self.segment_bytes, "a frame fits into a segment");
        if self.fits() {
            return true;
        }
        let Some(number) = self.prepared.pop_front() else { return false };
        let first_seq = self.next_seq - u64::from(self.open.count);
        self.segments.push_back(SegmentInfo { number, first_seq, last_wall_ms: 0 });
        self.offset = PAGE as u64;
        true
    }

    /// Takes note that the frame in flight, which covered everything up to `last_seq`, is
    /// durable; `buffer` is used again.
    pub fn written(&mut self, last_seq: u64, buffer: Vec<u8>) {
        assert!(self.in_flight, "one frame is in flight");
        self.in_flight = false;
        self.durable_seq = last_seq;
        self.durable_keep_from = self.in_flight_keep_from;
        self.spare = buffer;
    }

    /// The next segment to prepare, if one is wanted and none is under way.
    pub fn prepare(&mut self) -> Option<u64> {
        if self.preparing.is_some() || self.prepared.len() >= PREPARED_SEGMENTS {
            return None;
        }
        let last = self.prepared.back().copied();
        let number = last.unwrap_or_else(|| self.segments.back().map_or(0, |s| s.number)) + 1;
        self.preparing = Some(number);
        Some(number)
    }

    /// Takes note of a prepared segment; without success it is asked for again later.
    pub fn prepared(&mut self, segment: u64, success: bool) {
        assert_eq!(self.preparing.take(), Some(segment), "one segment is being prepared");
        if success {
            self.prepared.push_back(segment);
        }
    }

    /// The oldest segment, when it may go: the last durable frame needs it neither for a recovery
    /// nor for a consumer, and its own last frame is older than `keep_after_ms`.
    pub fn remove(&mut self, keep_after_ms: u64) -> Option<u64> {
        let is_removable = self.removable_in_ms(keep_after_ms) == Some(0);
        is_removable.then(|| self.segments.pop_front().expect("there is an oldest").number)
    }

    /// In how many milliseconds the oldest segment can be removed, if only its age is in the way.
    pub fn removable_in_ms(&self, keep_after_ms: u64) -> Option<u64> {
        let oldest = self.segments.front().filter(|_| self.segments.len() > 1)?;
        let is_needed = oldest.number >= self.durable_keep_from;
        (!is_needed).then(|| (oldest.last_wall_ms + 1).saturating_sub(keep_after_ms))
    }

    /// Bytes of the segments that hold frames.
    pub fn disk_bytes(&self) -> u64 {
        (self.segments.len() + self.prepared.len()) as u64 * self.segment_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    /// Submits a frame of one record; its sequence.
    fn submit(journal: &mut Journal, keep_from: u64) -> u64 {
        let (seq, record) = (journal.next_seq(), Record::SweepBegan);
        let (cause, replay, trace) = (0, false, None);
        journal.append(&Entry { seq, wall_ms: 2, cause, replay, trace, record });
        let needed = Needed { recover_from: 3, keep_from };
        journal.submit(2, 2, needed, false).expect("the segment has room");
        seq
    }

    #[test]
    fn a_segment_goes_when_the_frame_that_does_not_need_it_is_durable_and_not_before() {
        let segment = |number| SegmentInfo { number, first_seq: number * 10, last_wall_ms: 1 };
        let segments = (1..=3).map(segment).collect();
        let end = JournalEnd { segments, offset: PAGE as u64, last_seq: 39, ..Default::default() };
        let mut journal = Journal::new(64 << 10, end);
        assert_eq!([0, 10, 19, 20, 99].map(|seq| journal.segment_of(seq)), [1, 1, 1, 2, 3]);
        let seq = submit(&mut journal, 1);
        journal.written(seq, Vec::new());
        assert_eq!(journal.remove(2), None, "a consumer needs it");
        let seq = submit(&mut journal, 3);
        assert_eq!(journal.remove(2), None, "whoever dropped the consumer has no answer yet");
        journal.written(seq, Vec::new());
        assert_eq!([0; 3].map(|_| journal.remove(2)), [Some(1), Some(2), None]);
    }
}
