//! Recovery: reads the segments, finds where the last finished sweep began, and hands every
//! record from there to the end to the caller, or from an older one on.
//!
//! Promise: what was durable comes back in order; a torn tail is cut and reported; a sound frame
//! behind a bad one is corruption, refused with segment and offset, and nothing is changed.
//! It deliberately repairs nothing but the tail, and makes no state: see [`crate::replay`].

use crate::frame::{FRAME_HEADER, FrameHeader, PAGE, SegmentError, SegmentHeader};
use crate::journal::{JournalEnd, SegmentInfo};
use crate::record::{COUNT_MAX, Entry, RecordError};

/// The largest segment that is believed.
const SEGMENT_BYTES_MAX: u64 = 1 << 40;

/// Reads segments; the disk of this machine or of a simulation.
pub trait SegmentStore {
    /// Numbers of all segments, in any order.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn list(&mut self) -> Result<Vec<u64>, String>;

    /// At most the first `len` bytes of a segment.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&mut self, segment: u64, len: usize) -> Result<Vec<u8>, String>;

    /// Zeroes a segment from `offset` to its end, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    fn cut(&mut self, segment: u64, offset: u64) -> Result<(), String>;

    /// Removes a segment whose preparation or removal was never finished.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn discard(&mut self, segment: u64) -> Result<(), String>;
}

/// A store that has no segments: for an engine whose frames go nowhere.
pub struct NoSegments;

impl SegmentStore for NoSegments {
    fn list(&mut self) -> Result<Vec<u64>, String> {
        Ok(Vec::new())
    }

    fn read(&mut self, segment: u64, _len: usize) -> Result<Vec<u8>, String> {
        Err(format!("there is no segment {segment}"))
    }

    fn cut(&mut self, segment: u64, _offset: u64) -> Result<(), String> {
        Err(format!("there is no segment {segment}"))
    }

    fn discard(&mut self, segment: u64) -> Result<(), String> {
        Err(format!("there is no segment {segment}"))
    }
}

/// Why the data directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The disk said no.
    #[error("failed to read the journal: {0}")]
    Store(String),
    /// A sound frame stands behind a bad one.
    #[error(
        "the journal is corrupt: segment {segment} is bad at byte {offset}, but sound data follows \
         in segment {later_segment} at byte {later_offset}; nothing was changed. Restore a backup, \
         or copy the directory away and ask for help"
    )]
    Corrupt {
        /// Segment of the bad frame.
        segment: u64,
        /// Its offset.
        offset: u64,
        /// Segment of the sound frame behind it.
        later_segment: u64,
        /// Its offset.
        later_offset: u64,
    },
    /// A segment that is needed is missing or not ours.
    #[error("segment {segment} of the journal cannot be used: {reason}")]
    Segment {
        /// Its number.
        segment: u64,
        /// Why.
        reason: String,
    },
    /// What a stream pipe has not seen is more than the memory may hold.
    #[error(
        "a stream pipe of the stack that is new or was away has to catch up with {} MB of journal, \
         more than the memory may take; allow more for this start, or start with a stack without \
         the pipe, drop it there, and let it begin now",
        .bytes >> 20
    )]
    Backlog {
        /// Bytes of the segments to catch up with.
        bytes: u64,
    },
    /// A stream pipe goes on where the journal has nothing any more.
    #[error(
        "a stream pipe of the stack goes on at record {seq}, but the oldest one the journal has is \
         {oldest}, in segment {segment}: segments are missing. Restore a backup, or start with a \
         stack without the pipe, drop it there, and let it begin anew"
    )]
    Gap {
        /// Where the pipe goes on.
        seq: u64,
        /// The oldest segment.
        segment: u64,
        /// Its first sequence.
        oldest: u64,
    },
    /// A sound frame that no version writes.
    #[error("segment {segment} at byte {offset}: {reason}")]
    Frame {
        /// Its segment.
        segment: u64,
        /// Its offset.
        offset: u64,
        /// Why.
        reason: &'static str,
    },
    /// A record this version does not know.
    #[error("segment {segment} at byte {offset}: {reason}")]
    Record {
        /// Its segment.
        segment: u64,
        /// Offset of its frame.
        offset: u64,
        /// Why.
        reason: RecordError,
    },
    /// A record that cannot be where it is.
    #[error("record {seq}, in segment {segment}, cannot be: {reason}")]
    Impossible {
        /// Its segment.
        segment: u64,
        /// Its sequence.
        seq: u64,
        /// Why.
        reason: &'static str,
    },
}

/// What a recovery found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Where the journal goes on.
    pub end: JournalEnd,
    /// Which journal this is; `None` when there are no segments yet.
    pub journal_id: Option<u128>,
    /// Size of its segments; `None` when there are none yet.
    pub segment_bytes: Option<u64>,
    /// Wall time of the last frame.
    pub last_wall_ms: u64,
    /// The engine's clock at the last frame.
    pub last_clock_ms: u64,
    /// Whether a torn tail was cut.
    pub torn_tail: bool,
    /// Frames read, by the last reading.
    pub frames: u64,
}

/// The switch of a planted bug. A build without debug assertions, so a release binary, has nothing
/// of it: the switch takes no room and is always off, and code that nothing reaches is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    #[cfg(debug_assertions)]
    is_on: bool,
}

impl Planted {
    /// Turned on, where it can be.
    pub const ON: Planted = Planted {
        #[cfg(debug_assertions)]
        is_on: true,
    };

    /// Whether the bug is there.
    #[cfg(debug_assertions)]
    pub(crate) const fn is_on(self) -> bool {
        self.is_on
    }

    /// Whether the bug is there: never.
    #[cfg(not(debug_assertions))]
    pub(crate) const fn is_on(self) -> bool {
        false
    }
}

/// Switches for planted bugs; the simulator must find each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryBugs {
    /// Takes a torn tail for a sound frame.
    pub accept_torn_tail: Planted,
    /// Looks at no checksum where a sound frame follows.
    pub accept_flipped_bit: Planted,
}

/// A journal under recovery: looked at, read once or twice, then made fit to go on. Nothing is
/// changed before [`Recovery::finish`].
pub struct Recovery {
    found: Survey,
    walk: Walk,
}

impl Recovery {
    /// Looks at the segments in `store`.
    ///
    /// # Errors
    /// When the journal must not be used.
    pub fn begin(
        store: &mut impl SegmentStore,
        bugs: RecoveryBugs,
    ) -> Result<Recovery, RecoveryError> {
        let found = survey(store)?;
        let walk = Walk::new(&found, bugs);
        Ok(Recovery { found, walk })
    }

    /// Reads from where the last frame says that recovery starts; `each` gets every record.
    ///
    /// # Errors
    /// When the journal must not be used.
    pub fn read(
        &mut self,
        store: &mut impl SegmentStore,
        mut each: impl FnMut(Entry),
    ) -> Result<(), RecoveryError> {
        match self.walk.find_start(store)? {
            Some(start) => self.walk.run(store, start, &mut each),
            None => self.walk.note_all_torn(store),
        }
    }

    /// Reads anew, from the segment that holds a record, or from the oldest one when it is gone.
    ///
    /// # Errors
    /// When the journal must not be used.
    pub fn read_from(
        &mut self,
        store: &mut impl SegmentStore,
        seq: u64,
        mut each: impl FnMut(Entry),
    ) -> Result<(), RecoveryError> {
        let start = self.segment_of(seq);
        self.walk = Walk::new(&self.found, self.walk.bugs);
        self.walk.run(store, start, &mut each)
    }

    /// Bytes of the segments from the one that holds a record to the last one with frames.
    pub fn bytes_from(&self, seq: u64) -> u64 {
        let segments = self.walk.segments.len() - self.segment_of(seq);
        segments as u64 * self.found.segment_bytes.unwrap_or(0)
    }

    fn segment_of(&self, seq: u64) -> usize {
        let begun = |segment: &SegmentInfo| segment.first_seq <= seq;
        self.walk.segments.iter().rposition(begun).unwrap_or(0)
    }

    /// Whether what was read goes back to a record, or as far as the journal does.
    pub fn reaches(&self, seq: u64) -> bool {
        let first = self.walk.segments.get(self.walk.start);
        self.walk.start == 0 || first.is_none_or(|segment| segment.first_seq <= seq)
    }

    /// Why a stream pipe that goes on at this record cannot: the journal begins later.
    pub fn gap_before(&self, seq: u64) -> Option<RecoveryError> {
        let oldest = self.walk.segments.first().filter(|oldest| oldest.first_seq > seq)?;
        let SegmentInfo { number: segment, first_seq: oldest, .. } = *oldest;
        Some(RecoveryError::Gap { seq, segment, oldest })
    }

    /// Says where a record is that was read and cannot be.
    pub fn impossible(&self, seq: u64, reason: &'static str) -> RecoveryError {
        let segment = self.walk.segments.get(self.segment_of(seq));
        let segment = segment.map_or(0, |segment| segment.number);
        RecoveryError::Impossible { segment, seq, reason }
    }

    /// Cuts what is torn, removes what was never finished, and says where the journal goes on.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn finish(self, store: &mut impl SegmentStore) -> Result<Recovered, RecoveryError> {
        finish(store, self.found, self.walk)
    }
}

/// Segments by number, with those whose preparation was never finished apart.
struct Survey {
    numbers: Vec<u64>,
    leftovers: Vec<u64>,
    unfinished: Vec<u64>,
    journal_id: Option<u128>,
    segment_bytes: Option<u64>,
}

fn survey(store: &mut impl SegmentStore) -> Result<Survey, RecoveryError> {
    let mut numbers = store.list().map_err(RecoveryError::Store)?;
    numbers.sort_unstable();
    let mut unfinished = Vec::new();
    let (mut journal_id, mut segment_bytes) = (None, None);
    let last = numbers.last().copied();
    for &number in &numbers {
        let bytes = store.read(number, PAGE).map_err(RecoveryError::Store)?;
        match SegmentHeader::read(&bytes) {
            Ok(header) if header.number == number => {
                if number > COUNT_MAX || !(PAGE as u64..=SEGMENT_BYTES_MAX).contains(&header.bytes)
                {
                    return Err(refuse(number, "its number or size is beyond that of any segment"));
                }
                if *segment_bytes.get_or_insert(header.bytes) != header.bytes {
                    return Err(refuse(number, "it has another size than the one before"));
                }
                if *journal_id.get_or_insert(header.journal_id) != header.journal_id {
                    return Err(refuse(number, "it belongs to another journal"));
                }
            }
            Ok(_) => return Err(refuse(number, "its first page names another segment")),
            // Preparation writes the first page last, so a crash leaves it empty.
            Err(SegmentError::Unsound)
                if Some(number) == last && bytes.iter().all(|byte| *byte == 0) =>
            {
                unfinished.push(number);
            }
            Err(error) => return Err(refuse(number, &error.to_string())),
        }
    }
    numbers.retain(|number| !unfinished.contains(number));
    // A segment before a gap was to be removed and could not be; if it were needed, the last
    // frame would say so, and the missing one is then told.
    let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
    let leftovers = numbers.drain(..gap.map_or(0, |at| at + 1)).collect();
    Ok(Survey { numbers, leftovers, unfinished, journal_id, segment_bytes })
}

fn refuse(segment: u64, reason: &str) -> RecoveryError {
    RecoveryError::Segment { segment, reason: reason.into() }
}

/// A walk over frames, in order.
struct Walk {
    numbers: Vec<u64>,
    bugs: RecoveryBugs,
    /// Index of the first segment that is read.
    start: usize,
    segments: Vec<SegmentInfo>,
    offset: u64,
    last: Option<FrameHeader>,
    frames: u64,
    torn: Vec<(u64, u64)>,
    /// A segment that was looked into, by its index: often it is the one to be read next.
    looked_into: Option<(usize, Vec<u8>)>,
}

impl Walk {
    fn new(found: &Survey, bugs: RecoveryBugs) -> Walk {
        Walk {
            numbers: found.numbers.clone(),
            bugs,
            start: 0,
            segments: Vec::new(),
            offset: PAGE as u64,
            last: None,
            frames: 0,
            torn: Vec::new(),
            looked_into: None,
        }
    }

    /// Index of the segment where recovery starts: what the last sound frame says. `None` when
    /// there is no frame at all.
    fn find_start(
        &mut self,
        store: &mut impl SegmentStore,
    ) -> Result<Option<usize>, RecoveryError> {
        for index in (0..self.numbers.len()).rev() {
            // Prepared and never written to, or corrupt, which the walk that follows finds.
            if self.begins_blank(store, index)? {
                continue;
            }
            let bytes = self.read(store, index)?;
            let mut offset = PAGE;
            let mut last = None;
            while let Some(header) = bytes.get(offset..).and_then(|rest| self.sound_frame(rest)) {
                check_frame(&header, self.numbers[index], offset as u64)?;
                offset += header.padded_len();
                last = Some(header);
            }
            // What an older frame says may name a segment that was removed since.
            if let Some((later, _)) = sound_frame_after(&bytes, offset) {
                return Err(self.corrupt((index, offset), (index, later)));
            }
            self.looked_into = Some((index, bytes));
            if let Some(header) = last {
                let from = self.numbers.iter().position(|n| *n == header.recover_from);
                return from.map(Some).ok_or_else(|| refuse(header.recover_from, "it is missing"));
            }
        }
        Ok(None)
    }

    /// Whether nothing stands where the first frame of a segment begins.
    fn begins_blank(
        &self,
        store: &mut impl SegmentStore,
        index: usize,
    ) -> Result<bool, RecoveryError> {
        let bytes = store.read(self.numbers[index], 2 * PAGE).map_err(RecoveryError::Store)?;
        Ok(is_blank(bytes.get(PAGE..).unwrap_or(&[])))
    }

    fn read(
        &mut self,
        store: &mut impl SegmentStore,
        index: usize,
    ) -> Result<Vec<u8>, RecoveryError> {
        match self.looked_into.take() {
            Some((looked_into, bytes)) if looked_into == index => Ok(bytes),
            _ => store.read(self.numbers[index], usize::MAX).map_err(RecoveryError::Store),
        }
    }

    fn run(
        &mut self,
        store: &mut impl SegmentStore,
        start: usize,
        each: &mut impl FnMut(Entry),
    ) -> Result<(), RecoveryError> {
        self.start = start;
        if start > 0 {
            self.remember_older(store, start)?;
        }
        for index in start..self.numbers.len() {
            let bytes = self.read(store, index)?;
            let number = self.numbers[index];
            let first = bytes.get(PAGE..).and_then(FrameHeader::read);
            if !first.is_some_and(|header| self.follows(&header, number)) {
                return self.end_at(store, index, PAGE as u64, &bytes);
            }
            self.offset = PAGE as u64;
            while let Some(header) = self.next_frame(&bytes, number) {
                self.take(number, &header, &bytes, each)?;
            }
            let next_starts = self.next_segment_follows(store, index)?;
            if !next_starts {
                return self.end_at(store, index, self.offset, &bytes);
            }
        }
        Ok(())
    }

    /// Segments before the start hold nothing to apply but are still kept for their retention.
    fn remember_older(
        &mut self,
        store: &mut impl SegmentStore,
        start: usize,
    ) -> Result<(), RecoveryError> {
        let mut first = self.first_header(store, 0)?;
        for index in 0..start {
            let next = self.first_header(store, index + 1)?;
            if next.first_seq < first.first_seq {
                return Err(refuse(
                    self.numbers[index + 1],
                    "its records are older than those before",
                ));
            }
            self.segments.push(SegmentInfo {
                number: self.numbers[index],
                first_seq: first.first_seq,
                // Its last frame is no younger than the first one behind it.
                last_wall_ms: next.wall_ms,
            });
            first = next;
        }
        Ok(())
    }

    fn first_header(
        &mut self,
        store: &mut impl SegmentStore,
        index: usize,
    ) -> Result<FrameHeader, RecoveryError> {
        let number = self.numbers[index];
        let bytes = store.read(number, PAGE + FRAME_HEADER).map_err(RecoveryError::Store)?;
        if let Some(peeked) = bytes.get(PAGE..).and_then(FrameHeader::peek) {
            // The whole of it: what is believed of a segment must have been summed up.
            let len = PAGE + peeked.len as usize;
            let bytes = store.read(number, len).map_err(RecoveryError::Store)?;
            if let Some(header) = bytes.get(PAGE..).and_then(FrameHeader::read) {
                return check_frame(&header, number, PAGE as u64).map(|()| header);
            }
        }
        for later in index..self.numbers.len() {
            let bytes = self.read(store, later)?;
            if let Some((at, _)) = sound_frame_after(&bytes, PAGE) {
                return Err(self.corrupt((index, PAGE), (later, at)));
            }
        }
        Err(refuse(number, "its first frame is unsound"))
    }

    /// The frame at the beginning of `rest`, or `None` when there is no whole and sound one.
    fn sound_frame(&self, rest: &[u8]) -> Option<FrameHeader> {
        match FrameHeader::read(rest) {
            None if self.bugs.accept_flipped_bit.is_on() => flipped_as_sound(rest),
            read => read,
        }
    }

    /// A bad frame and a sound one behind it, each by the index of its segment and its offset.
    fn corrupt(&self, bad: (usize, usize), later: (usize, usize)) -> RecoveryError {
        RecoveryError::Corrupt {
            segment: self.numbers[bad.0],
            offset: bad.1 as u64,
            later_segment: self.numbers[later.0],
            later_offset: later.1 as u64,
        }
    }

    fn next_frame(&self, bytes: &[u8], number: u64) -> Option<FrameHeader> {
        let rest = bytes.get(self.offset as usize..)?;
        match self.sound_frame(rest) {
            Some(header) => self.follows(&header, number).then_some(header),
            None if self.bugs.accept_torn_tail.is_on() => torn_as_sound(rest),
            None => None,
        }
    }

    fn follows(&self, header: &FrameHeader, number: u64) -> bool {
        let chained = match &self.last {
            None => true,
            Some(last) => {
                header.previous_crc == last.crc
                    && header.first_seq == last.first_seq + u64::from(last.count)
            }
        };
        header.segment == number && chained
    }

    fn next_segment_follows(
        &mut self,
        store: &mut impl SegmentStore,
        index: usize,
    ) -> Result<bool, RecoveryError> {
        let Some(&number) = self.numbers.get(index + 1) else { return Ok(false) };
        if self.begins_blank(store, index + 1)? {
            return Ok(false);
        }
        let bytes = self.read(store, index + 1)?;
        let first = bytes.get(PAGE..).and_then(FrameHeader::read);
        let follows = first.is_some_and(|header| self.follows(&header, number));
        self.looked_into = Some((index + 1, bytes));
        Ok(follows)
    }

    fn take(
        &mut self,
        number: u64,
        header: &FrameHeader,
        bytes: &[u8],
        each: &mut impl FnMut(Entry),
    ) -> Result<(), RecoveryError> {
        check_frame(header, number, self.offset)?;
        let at = self.offset as usize;
        let mut rest = &bytes[at + FRAME_HEADER..at + header.len as usize];
        for i in 0..u64::from(header.count) {
            let read = Entry::read(rest, header.first_seq + i, header.wall_ms);
            match read {
                Ok((entry, behind)) => {
                    each(entry);
                    rest = behind;
                }
                Err(_) if self.bugs.accept_torn_tail.is_on() => break,
                Err(reason) => {
                    let offset = self.offset;
                    return Err(RecoveryError::Record { segment: number, offset, reason });
                }
            }
        }
        if !rest.is_empty() && !self.bugs.accept_torn_tail.is_on() {
            return Err(bad_frame(number, self.offset, "it has more than its records"));
        }
        if self.segments.last().is_none_or(|segment| segment.number != number) {
            let first_seq = header.first_seq;
            self.segments.push(SegmentInfo { number, first_seq, last_wall_ms: 0 });
        }
        if let Some(segment) = self.segments.last_mut() {
            segment.last_wall_ms = header.wall_ms;
        }
        self.offset += header.padded_len() as u64;
        self.last = Some(header.clone());
        self.frames += 1;
        Ok(())
    }

    /// Nothing that follows the chain stands at this place: the end, a torn tail, or corruption.
    fn end_at(
        &mut self,
        store: &mut impl SegmentStore,
        index: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), RecoveryError> {
        let bad = (index, offset as usize);
        if let Some((at, _)) = sound_frame_after(bytes, bad.1) {
            return Err(self.corrupt(bad, (index, at)));
        }
        self.note_torn(self.numbers[index], offset, bytes);
        for later in index + 1..self.numbers.len() {
            let bytes = self.read(store, later)?;
            if let Some((at, _)) = sound_frame_after(&bytes, PAGE) {
                return Err(self.corrupt(bad, (later, at)));
            }
            self.note_torn(self.numbers[later], PAGE as u64, &bytes);
        }
        Ok(())
    }
}

impl Walk {
    /// Without any sound frame, what is not blank is the beginning of the first one.
    fn note_all_torn(&mut self, store: &mut impl SegmentStore) -> Result<(), RecoveryError> {
        for index in 0..self.numbers.len() {
            let bytes = self.read(store, index)?;
            self.note_torn(self.numbers[index], PAGE as u64, &bytes);
        }
        Ok(())
    }

    fn note_torn(&mut self, segment: u64, offset: u64, bytes: &[u8]) {
        if !is_blank(bytes.get(offset as usize..).unwrap_or(&[])) {
            self.torn.push((segment, offset));
        }
    }
}

/// Refuses a sound frame whose header no version writes.
fn check_frame(header: &FrameHeader, segment: u64, offset: u64) -> Result<(), RecoveryError> {
    let bad = |reason| Err(bad_frame(segment, offset, reason));
    if !(1..=COUNT_MAX).contains(&header.first_seq) {
        return bad("no record has the number of its first one");
    }
    if header.wall_ms.max(header.clock_ms) > COUNT_MAX {
        return bad("its time is beyond that of any frame");
    }
    if header.recover_from > header.segment {
        return bad("it lets a recovery start behind it");
    }
    Ok(())
}

fn bad_frame(segment: u64, offset: u64, reason: &'static str) -> RecoveryError {
    RecoveryError::Frame { segment, offset, reason }
}

/// Whether all bytes are zero, a page at a time: a segment has millions.
fn is_blank(bytes: &[u8]) -> bool {
    bytes.chunks(PAGE).all(|page| page.iter().fold(0, |any, byte| any | byte) == 0)
}

/// The first sound frame at a page boundary at or behind `offset`.
fn sound_frame_after(bytes: &[u8], offset: usize) -> Option<(usize, FrameHeader)> {
    (offset..bytes.len())
        .step_by(PAGE)
        .find_map(|at| FrameHeader::read(&bytes[at..]).map(|header| (at, header)))
}

/// The planted bug: believes the header of a frame whose checksum is wrong.
fn torn_as_sound(rest: &[u8]) -> Option<FrameHeader> {
    let mut copy = rest.to_vec();
    let len = u32::from_le_bytes(copy.get(8..12)?.try_into().ok()?) as usize;
    let crc = crc32c::crc32c(copy.get(8..len.max(8))?);
    copy.get_mut(4..8)?.copy_from_slice(&crc.to_le_bytes());
    FrameHeader::read(&copy)
}

/// The planted bug: believes the header of a frame that a sound one follows.
fn flipped_as_sound(rest: &[u8]) -> Option<FrameHeader> {
    let header = FrameHeader::peek(rest)?;
    let is_followed = rest.get(header.padded_len()..).and_then(FrameHeader::read).is_some();
    (is_followed && header.len as usize >= FRAME_HEADER).then_some(header)
}

fn finish(
    store: &mut impl SegmentStore,
    found: Survey,
    walk: Walk,
) -> Result<Recovered, RecoveryError> {
    for &(segment, offset) in &walk.torn {
        store.cut(segment, offset).map_err(RecoveryError::Store)?;
    }
    for segment in found.leftovers.into_iter().chain(found.unfinished) {
        store.discard(segment).map_err(RecoveryError::Store)?;
    }
    let used = walk.segments.last().map_or(0, |segment| segment.number);
    let last = walk.last.as_ref();
    Ok(Recovered {
        end: JournalEnd {
            offset: walk.offset,
            prepared: found.numbers.into_iter().filter(|number| *number > used).collect(),
            previous_crc: last.map_or(0, |header| header.crc),
            last_seq: last.map_or(0, |header| header.first_seq + u64::from(header.count) - 1),
            segments: walk.segments,
        },
        journal_id: found.journal_id,
        segment_bytes: found.segment_bytes,
        last_wall_ms: last.map_or(0, |header| header.wall_ms),
        last_clock_ms: last.map_or(0, |header| header.clock_ms),
        torn_tail: !walk.torn.is_empty(),
        frames: walk.frames,
    })
}
