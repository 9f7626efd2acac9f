//! The cut: what of a journal that somebody may be writing to is copied.
//!
//! Promise: the copy is the journal as a crash at the cut would have left it, with everything that
//! was durable when the cut was chosen. It is only read, by recovery's own reader.
//!
//! A frame and the one behind it may be written while their pages are read, so one look can show
//! the second without the first. But one frame is in flight at a time: what lies before a frame
//! that was seen sound is durable by then, and every later look shows it. So the cut is chosen at
//! such a frame first, and the journal is read after that, as if nothing were behind it. A frame
//! that is missing before the cut even then is corruption, and refused as recovery refuses it.

use wims_stack::Stack;

use crate::frame::{FrameHeader, PAGE};
use crate::record::Record;
use crate::recovery::{Recovery, RecoveryBugs, RecoveryError, SegmentStore};
use crate::replay::replay;

/// A store of segments that shows nothing behind a place, and is never changed.
pub(super) struct Cut<S> {
    store: S,
    /// The segment of the last frame that is shown; later ones are not.
    segment: u64,
    /// Where that frame ends.
    offset: usize,
    /// The last sequence in it, or before it.
    last_seq: u64,
}

/// What a journal up to its cut says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Its last sequence.
    pub last_seq: u64,
    /// History must hold everything that closed up to this sequence.
    pub historied: u64,
}

impl<S: SegmentStore> Cut<S> {
    /// Cuts behind the last frame that is sound now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn now(mut store: S) -> Result<Cut<S>, RecoveryError> {
        let mut numbers = store.list().map_err(RecoveryError::Store)?;
        numbers.sort_unstable();
        for &segment in numbers.iter().rev() {
            let bytes = store.read(segment, usize::MAX).map_err(RecoveryError::Store)?;
            if let Some((offset, last_seq)) = sound_end(&bytes, segment) {
                return Ok(Cut { store, segment, offset, last_seq });
            }
        }
        Ok(Cut { store, segment: 0, offset: 0, last_seq: 0 })
    }

    /// The last sequence there was when the cut was chosen.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Cuts nothing: a store that nobody writes to.
    pub fn nowhere(store: S) -> Cut<S> {
        Cut { store, segment: u64::MAX, offset: usize::MAX, last_seq: u64::MAX }
    }

    /// Cuts before the first frame that lets go of what a history up to `cursor` does not hold, or
    /// may not hold; it was copied when the journal had gone up to `began`, or farther. What is let
    /// go of is told right before the sequence up to which history has it, and never before
    /// history has it, so everything older than that history stays.
    ///
    /// # Errors
    /// When the journal must not be used.
    pub fn before_history(&mut self, cursor: u64, began: u64) -> Result<(), RecoveryError> {
        // An earlier end makes recovery start earlier, where there may be one more.
        while let Some(seq) = self.first_beyond(cursor, began)? {
            (self.segment, self.offset) = self.place_of(seq)?;
        }
        Ok(())
    }

    /// The first record, from where recovery starts, that lets go of what history may not hold.
    fn first_beyond(&mut self, cursor: u64, began: u64) -> Result<Option<u64>, RecoveryError> {
        let mut releases = Releases { cursor, began, known: 0, batch: None, beyond: None };
        let mut recovery = Recovery::begin(self, RecoveryBugs::default())?;
        recovery.read(self, |entry| releases.note(entry.seq, &entry.record))?;
        releases.end_batch();
        Ok(releases.beyond)
    }

    /// Segment and offset of the frame that holds a record.
    fn place_of(&mut self, seq: u64) -> Result<(u64, usize), RecoveryError> {
        for segment in self.numbers()?.into_iter().rev() {
            let bytes = self.read(segment, usize::MAX).map_err(RecoveryError::Store)?;
            let mut offset = PAGE;
            while let Some(header) = bytes.get(offset..).and_then(FrameHeader::read) {
                let end_seq = header.first_seq.saturating_add(header.count.into());
                if (header.first_seq..end_seq).contains(&seq) {
                    return Ok((segment, offset));
                }
                offset += header.padded_len();
            }
        }
        let reason = "it was read, and is not found again";
        Err(RecoveryError::Impossible { segment: self.segment, seq, reason })
    }

    /// Numbers of the segments that are shown, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn numbers(&mut self) -> Result<Vec<u64>, RecoveryError> {
        let mut numbers = self.list().map_err(RecoveryError::Store)?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads all that a recovery would, frame by frame, and keeps nothing of it in memory.
    ///
    /// # Errors
    /// When the journal must not be used.
    pub fn read_through(&mut self) -> Result<Told, RecoveryError> {
        let mut historied = 0;
        let mut recovery = Recovery::begin(self, RecoveryBugs::default())?;
        recovery.read(self, |entry| {
            if let Record::Historied { seq } = entry.record {
                historied = historied.max(seq);
            }
        })?;
        let recovered = recovery.finish(self)?;
        Ok(Told { last_seq: recovered.end.last_seq, historied })
    }

    /// Recovers it whole, into a state in memory, as a start would: of any stack, since what one
    /// does not declare is kept.
    ///
    /// # Errors
    /// When the journal must not be used.
    pub fn recover(&mut self) -> Result<Told, RecoveryError> {
        let stack = Stack::new("any");
        let (recovered, state) = replay(&stack, self, RecoveryBugs::default(), u64::MAX)?;
        Ok(Told { last_seq: recovered.end.last_seq, historied: state.historied })
    }
}

/// What a journal lets go of, batch by batch, beside a copy of history.
struct Releases {
    /// Up to where the copy goes.
    cursor: u64,
    /// The journal had gone so far when it was made, or farther.
    began: u64,
    /// The highest sequence that history was said to hold.
    known: u64,
    /// Where the batch begins that is being let go of.
    batch: Option<u64>,
    /// Where the first batch begins that the copy may not hold.
    beyond: Option<u64>,
}

impl Releases {
    fn note(&mut self, seq: u64, record: &Record) {
        if matches!(record, Record::Archived { .. }) {
            self.batch.get_or_insert(seq);
            return;
        }
        let Record::Historied { seq: closed } = *record else { return self.end_batch() };
        let start = self.batch.take().unwrap_or(seq);
        // A newer declaration may close what is older than all that history was said to hold: its
        // place does not tell whether it came before the copy.
        let is_late = closed < self.known && self.may_be_after_copy(start);
        self.known = self.known.max(closed);
        if closed > self.cursor || is_late {
            self.beyond.get_or_insert(start);
        }
    }

    /// A batch whose sequence is cut off, or was by a crash.
    fn end_batch(&mut self) {
        if let Some(start) = self.batch.take()
            && self.may_be_after_copy(start)
        {
            self.beyond.get_or_insert(start);
        }
    }

    /// Whether what is let go of here may have come to history after it was copied. What a record
    /// tells had come before it; and who holds something newer was copied after it.
    fn may_be_after_copy(&self, start: u64) -> bool {
        start > self.began && start > self.cursor
    }
}

impl<S: SegmentStore> SegmentStore for Cut<S> {
    fn list(&mut self) -> Result<Vec<u64>, String> {
        let mut numbers = self.store.list()?;
        numbers.retain(|number| *number <= self.segment);
        Ok(numbers)
    }

    fn read(&mut self, segment: u64, len: usize) -> Result<Vec<u8>, String> {
        let mut bytes = self.store.read(segment, len)?;
        if segment == self.segment
            && let Some(behind) = bytes.get_mut(self.offset..)
        {
            behind.fill(0);
        }
        Ok(bytes)
    }

    /// What is torn stays: it is somebody else's.
    fn cut(&mut self, _segment: u64, _offset: u64) -> Result<(), String> {
        Ok(())
    }

    /// What was never finished stays, too.
    fn discard(&mut self, _segment: u64) -> Result<(), String> {
        Ok(())
    }
}

/// Where the last sound frame of a segment ends, whatever is missing before it, and the last
/// sequence up to there.
fn sound_end(bytes: &[u8], segment: u64) -> Option<(usize, u64)> {
    let (mut at, mut end) = (PAGE, None);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match FrameHeader::read(rest).filter(|header| header.segment == segment) {
            Some(header) => {
                at += header.padded_len();
                let next_seq = header.first_seq.saturating_add(header.count.into());
                end = Some((at, next_seq.saturating_sub(1)));
            }
            None => at += PAGE,
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::frame::SegmentHeader;
    use crate::journal::{FrameWrite, Journal, JournalEnd, Needed};
    use crate::record::{Entry, Named};

    const SEGMENT_BYTES: usize = 8 * PAGE;

    /// Segments in memory, and the frames that are in them.
    #[derive(Clone, Default)]
    struct Disk {
        segments: BTreeMap<u64, Vec<u8>>,
        /// A look at a segment that comes first and shows it as it was before.
        first_look: Option<(u64, Vec<u8>)>,
    }

    impl SegmentStore for Disk {
        fn list(&mut self) -> Result<Vec<u64>, String> {
            Ok(self.segments.keys().copied().collect())
        }

        fn read(&mut self, segment: u64, len: usize) -> Result<Vec<u8>, String> {
            let old = self.first_look.take_if(|(number, _)| *number == segment);
            let bytes = old.map(|(_, bytes)| bytes);
            let bytes = bytes.or_else(|| self.segments.get(&segment).cloned());
            let mut bytes = bytes.ok_or_else(|| format!("no segment {segment}"))?;
            bytes.truncate(len);
            Ok(bytes)
        }

        fn cut(&mut self, _segment: u64, _offset: u64) -> Result<(), String> {
            panic!("a copy changes nothing");
        }

        fn discard(&mut self, _segment: u64) -> Result<(), String> {
            panic!("a copy changes nothing");
        }
    }

    impl Disk {
        fn prepare(&mut self, number: u64) {
            let header = SegmentHeader { number, bytes: SEGMENT_BYTES as u64, journal_id: 7 };
            let mut bytes = header.page();
            bytes.resize(SEGMENT_BYTES, 0);
            self.segments.insert(number, bytes);
        }

        fn page(&mut self, frame: &FrameWrite) -> &mut [u8] {
            let at = usize::try_from(frame.offset).expect("it is small");
            let segment = self.segments.get_mut(&frame.segment).expect("it is prepared");
            &mut segment[at..at + frame.bytes.len()]
        }

        fn write(&mut self, frame: &FrameWrite) {
            self.page(frame).copy_from_slice(&frame.bytes);
        }
    }

    /// A disk with a frame a record, each of a page; and the frames.
    fn written(records: Vec<Record>) -> (Disk, Vec<FrameWrite>) {
        let mut disk = Disk::default();
        let mut journal = Journal::new(SEGMENT_BYTES as u64, JournalEnd::default());
        let mut frames = Vec::new();
        for record in records {
            while let Some(number) = journal.prepare() {
                disk.prepare(number);
                journal.prepared(number, true);
            }
            let seq = journal.next_seq();
            let (cause, replay, trace) = (0, false, None);
            journal.append(&Entry { seq, wall_ms: 1, cause, replay, trace, record });
            let needed = Needed { recover_from: 1, keep_from: 1 };
            let frame = journal.submit(1, 1, needed, false).expect("there is room");
            journal.written(seq, Vec::new());
            disk.write(&frame);
            frames.push(frame);
        }
        (disk, frames)
    }

    fn named(id: u16) -> Record {
        Record::Named(Named { id, name: format!("bus/{id}") })
    }

    fn ten() -> (Disk, Vec<FrameWrite>) {
        written((0..10).map(named).collect())
    }

    #[test]
    fn all_that_is_sound_is_copied_over_segments_and_nothing_is_changed() {
        let (disk, frames) = ten();
        assert!(frames.iter().any(|frame| frame.segment == 2), "there are two segments");
        let before = disk.segments.clone();
        let mut cut = Cut::now(disk).expect("it can be read");
        let told = Told { last_seq: 10, historied: 0 };
        assert_eq!(cut.read_through().expect("it is sound"), told);
        assert_eq!(cut.recover().expect("it is sound"), told);
        assert_eq!(cut.numbers().expect("it can be read"), [1, 2], "prepared ones are not needed");
        assert!(cut.store.segments == before);
    }

    #[test]
    fn a_journal_without_frames_is_copied_as_nothing() {
        let mut disk = Disk::default();
        disk.prepare(1);
        let mut cut = Cut::now(disk).expect("it can be read");
        assert_eq!(cut.read_through().expect("fine"), Told { last_seq: 0, historied: 0 });
        assert!(cut.numbers().expect("it can be read").is_empty());
    }

    #[test]
    fn a_look_that_shows_a_frame_without_the_one_before_it_costs_nothing() {
        for missing in [7, 8] {
            let (mut disk, frames) = ten();
            let mut early = disk.clone();
            early.page(&frames[missing]).fill(0);
            // The frame became durable before the one behind it, so the next look shows both.
            let segment = frames[missing].segment;
            disk.first_look = Some((segment, early.segments.remove(&segment).expect("there")));
            let mut cut = Cut::now(disk).expect("it can be read");
            let told = cut.read_through().expect("nothing is missing any more");
            assert_eq!(told.last_seq, 10, "{missing}");
        }
    }

    #[test]
    fn what_is_written_after_the_cut_is_not_seen_with_or_without_gaps() {
        let (mut disk, frames) = ten();
        let last = frames.len() - 1;
        disk.page(&frames[last]).fill(0);
        disk.page(&frames[last - 1]).fill(0);
        let mut cut = Cut::now(disk).expect("it can be read");
        cut.store.write(&frames[last]);
        assert_eq!(cut.read_through().expect("sound").last_seq, 8, "the ninth is not there yet");
        cut.store.write(&frames[last - 1]);
        assert_eq!(cut.read_through().expect("sound").last_seq, 8);
    }

    #[test]
    fn half_a_frame_at_the_end_is_not_copied() {
        let (mut disk, frames) = ten();
        let last = frames.last().expect("ten");
        disk.page(last)[FrameHeader::read(&last.bytes).expect("sound").len as usize - 1] ^= 1;
        let mut cut = Cut::now(disk).expect("it can be read");
        assert_eq!(cut.read_through().expect("sound").last_seq, 9);
        let copied = cut.read(last.segment, usize::MAX).expect("it can be read");
        let at = usize::try_from(last.offset).expect("small");
        assert!(copied[at..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_frame_that_stays_missing_before_a_sound_one_is_corruption() {
        for missing in [0, 3, 6, 8] {
            let (mut disk, frames) = ten();
            disk.page(&frames[missing]).fill(0);
            let mut cut = Cut::now(disk).expect("it can be read");
            let refused = cut.read_through().expect_err("it is gone for good");
            assert!(matches!(refused, RecoveryError::Corrupt { .. }), "{missing}: {refused}");
        }
    }

    #[test]
    fn the_cut_is_before_the_first_frame_that_counts_on_more_history() {
        let historied = |seq| Record::Historied { seq };
        let records =
            vec![named(0), named(1), historied(1), named(2), historied(3), named(3), historied(4)];
        for (cursor, last_seq, told) in [(9, 7, 4), (4, 7, 4), (3, 6, 3), (1, 4, 1), (0, 2, 0)] {
            let mut cut = Cut::now(written(records.clone()).0).expect("it can be read");
            cut.before_history(cursor, 0).expect("it is sound");
            let expected = Told { last_seq, historied: told };
            assert_eq!(cut.read_through().expect("sound"), expected, "history up to {cursor}");
        }
    }

    #[test]
    fn what_closed_long_ago_and_came_to_history_after_its_copy_stays() {
        let historied = |seq| Record::Historied { seq };
        let archived = || Record::Archived { table: 0, pk: "p".into(), sk: "s".into() };
        // A newer declaration closes what is of sequence 2.
        let late = vec![named(0), named(1), named(2), archived(), historied(3), named(3)];
        let late = [late, vec![archived(), archived(), historied(2), named(4)]].concat();
        // History up to 3, copied when the journal had gone so far.
        for (began, last_seq) in [(5, 6), (6, 6), (7, 10), (10, 10)] {
            let mut cut = Cut::now(written(late.clone()).0).expect("it can be read");
            assert_eq!(cut.last_seq(), 10);
            cut.before_history(3, began).expect("it is sound");
            assert_eq!(cut.read_through().expect("sound").last_seq, last_seq, "{began}");
        }
        // One that holds something newer was copied after all that.
        let mut cut = Cut::now(written(late.clone()).0).expect("it can be read");
        cut.before_history(10, 5).expect("it is sound");
        assert_eq!(cut.read_through().expect("sound").last_seq, 10);
        // The sequence of the batch is not there yet.
        let mut cut = Cut::now(written(late[..8].to_vec()).0).expect("it can be read");
        cut.before_history(3, 6).expect("it is sound");
        assert_eq!(cut.read_through().expect("sound").last_seq, 6);
    }
}
