//! A disk that loses what was not synced.
//!
//! Promise: what was synced is there after a crash; of a frame under way each sector is kept or
//! lost on its own. It reads what it stores, unless it is told to misread a bit. A frame goes only
//! to blank room of a prepared segment, or the write is refused. Zeroes behind the last written
//! byte are implied, so a segment costs what was written to it. It deliberately reads no frame:
//! what lies on it is recovery's to judge.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;

use crate::frame::{PAGE, SegmentHeader};
use crate::journal::FrameWrite;
use crate::recovery::SegmentStore;

/// The unit a disk keeps or loses as a whole.
const SECTOR: usize = 512;
/// Frames a disk that skips syncs has not written yet, at most.
const UNSYNCED_MAX: usize = 4;
/// What an operation says in whose middle the process died.
const INTERRUPTED: &str = "the process died in the middle of it";

/// The disk; see the module.
#[derive(Clone)]
pub struct SimDisk {
    rng: Rng,
    segment_bytes: u64,
    journal_id: u128,
    skips_sync: bool,
    durable: BTreeMap<u64, Vec<u8>>,
    unsynced: VecDeque<FrameCopy>,
    preparing: Option<u64>,
    dies_after: Option<u32>,
    /// A segment and its bit that is read otherwise than it is stored.
    misread: Option<(u64, usize)>,
}

#[derive(Clone)]
struct FrameCopy {
    segment: u64,
    offset: usize,
    bytes: Vec<u8>,
}

impl SimDisk {
    /// An empty disk for segments of this size; with `skips_sync` it says that frames are durable
    /// which are not.
    pub fn new(segment_bytes: u64, seed: u64, skips_sync: bool) -> SimDisk {
        SimDisk {
            rng: Rng::with_seed(seed),
            segment_bytes,
            journal_id: u128::from(seed) + 1,
            skips_sync,
            durable: BTreeMap::new(),
            unsynced: VecDeque::new(),
            preparing: None,
            dies_after: None,
            misread: None,
        }
    }

    /// Begins to write a frame.
    ///
    /// # Errors
    /// When its place is not blank room of a prepared segment.
    pub fn write(&mut self, frame: FrameWrite) -> Result<(), String> {
        let (start, len) = (frame.offset as usize, frame.bytes.len());
        let fits = frame.offset + len as u64 <= self.segment_bytes;
        let aligned = start.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && start >= PAGE;
        let place = self.durable.get(&frame.segment).filter(|_| fits && aligned);
        let blank = place.is_some_and(|bytes| {
            let end = bytes.len().min(start + len);
            bytes.get(start..end).is_none_or(|there| there.iter().all(|byte| *byte == 0))
        });
        if !blank {
            return Err(format!(
                "a frame of {len} bytes was written to segment {} at byte {start}, which is no \
                 blank room",
                frame.segment
            ));
        }
        let FrameWrite { segment, bytes, .. } = frame;
        self.unsynced.push_back(FrameCopy { segment, offset: start, bytes });
        Ok(())
    }

    /// Makes the frame under way durable, or only says so; gives its buffer back.
    pub fn sync(&mut self) -> Vec<u8> {
        if self.skips_sync {
            while self.unsynced.len() > UNSYNCED_MAX {
                self.keep_oldest();
            }
            return self.unsynced.back().map_or(Vec::new(), |frame| frame.bytes.clone());
        }
        self.keep_oldest()
    }

    fn keep_oldest(&mut self) -> Vec<u8> {
        let frame = self.unsynced.pop_front().expect("a frame is under way");
        self.extend(&frame)[frame.offset..][..frame.bytes.len()].copy_from_slice(&frame.bytes);
        frame.bytes
    }

    /// The segment of a frame, its zeroes spelled out to the frame's end.
    fn extend(&mut self, frame: &FrameCopy) -> &mut Vec<u8> {
        let place = self.durable.entry(frame.segment).or_default();
        let end = frame.offset + frame.bytes.len();
        place.resize(place.len().max(end), 0);
        place
    }

    /// Begins to prepare a segment: it is there, and zero.
    pub fn begin_preparing(&mut self, segment: u64) {
        self.durable.insert(segment, Vec::new());
        self.preparing = Some(segment);
    }

    /// Ends the preparation with the first page, or fails, which may leave zeroes behind.
    pub fn finish_preparing(&mut self, segment: u64, success: bool) {
        self.preparing = None;
        if success {
            self.durable.insert(segment, self.first_page(segment));
        } else if self.rng.u8(0..4) > 0 {
            self.durable.remove(&segment);
        }
    }

    fn first_page(&self, number: u64) -> Vec<u8> {
        let (bytes, journal_id) = (self.segment_bytes, self.journal_id);
        SegmentHeader { number, bytes, journal_id }.page()
    }

    /// Removes a segment, if it is there.
    pub fn remove(&mut self, segment: u64) {
        self.durable.remove(&segment);
    }

    /// The power fails: what was under way is kept, lost or torn.
    pub fn crash(&mut self) {
        for frame in std::mem::take(&mut self.unsynced) {
            self.tear(&frame);
        }
        if let Some(segment) = self.preparing.take() {
            match self.rng.u8(0..4) {
                0 => drop(self.durable.remove(&segment)),
                1 => drop(self.durable.insert(segment, self.first_page(segment))),
                2 => drop(self.durable.insert(segment, vec![0; 3 * PAGE])),
                _ => {}
            }
        }
        self.dies_after = None;
    }

    fn tear(&mut self, frame: &FrameCopy) {
        let kept_percent = match self.rng.u8(0..10) {
            0..=2 => 100,
            3 | 4 => 0,
            5 | 6 => 80,
            _ => 40,
        };
        let unit = if self.rng.bool() { SECTOR } else { PAGE };
        let kept: Vec<bool> =
            frame.bytes.chunks(unit).map(|_| self.rng.u8(0..100) < kept_percent).collect();
        let place = &mut self.extend(frame)[frame.offset..];
        let pieces = frame.bytes.chunks(unit).zip(place.chunks_mut(unit));
        for ((new, old), _) in pieces.zip(kept).filter(|(_, kept)| *kept) {
            old[..new.len()].copy_from_slice(new);
        }
    }

    /// Lets the process die after so many operations of a recovery.
    pub fn die_after(&mut self, operations: u32) {
        self.dies_after = Some(operations);
    }

    /// Lets recoveries live again.
    pub fn live(&mut self) {
        self.dies_after = None;
    }

    /// From now on a bit of a segment is read otherwise than it is stored.
    pub fn misread(&mut self, segment: u64, bit: usize) {
        self.misread = Some((segment, bit));
    }

    /// Reads what it stores again.
    pub fn read_well(&mut self) {
        self.misread = None;
    }

    /// Flips a bit of what is durable; false when there is no such bit.
    pub fn flip_bit(&mut self, segment: u64, bit: usize) -> bool {
        let byte = self.durable.get_mut(&segment).and_then(|bytes| bytes.get_mut(bit / 8));
        byte.map(|byte| *byte ^= 1 << (bit % 8)).is_some()
    }

    /// What is durable, by segment, without the zeroes behind it.
    pub fn stored(&self) -> &BTreeMap<u64, Vec<u8>> {
        &self.durable
    }

    /// What is durable of a segment, without the zeroes behind it.
    pub fn bytes(&self, segment: u64) -> &[u8] {
        self.durable.get(&segment).map_or(&[], Vec::as_slice)
    }

    fn operate(&mut self) -> Result<(), String> {
        match &mut self.dies_after {
            None => Ok(()),
            Some(0) => Err(INTERRUPTED.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl SegmentStore for SimDisk {
    fn list(&mut self) -> Result<Vec<u64>, String> {
        self.operate()?;
        let mut numbers: Vec<u64> = self.durable.keys().copied().collect();
        self.rng.shuffle(&mut numbers);
        Ok(numbers)
    }

    fn read(&mut self, segment: u64, len: usize) -> Result<Vec<u8>, String> {
        self.operate()?;
        let bytes = self.durable.get(&segment).ok_or("there is no such segment")?;
        let mut read = bytes[..len.min(bytes.len())].to_vec();
        if let Some((_, bit)) = self.misread.filter(|(misread, _)| *misread == segment)
            && let Some(byte) = read.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
        Ok(read)
    }

    fn cut(&mut self, segment: u64, offset: u64) -> Result<(), String> {
        let lives = self.operate();
        let bytes = self.durable.get_mut(&segment).ok_or("there is no such segment")?;
        if lives.is_ok() {
            bytes.truncate(offset as usize);
        } else {
            // Some sectors of the tail are zero already, in no order.
            for sector in bytes[offset as usize..].chunks_mut(SECTOR) {
                if self.rng.bool() {
                    sector.fill(0);
                }
            }
        }
        lives
    }

    fn discard(&mut self, segment: u64) -> Result<(), String> {
        let lives = self.operate();
        if lives.is_ok() || self.rng.bool() {
            self.durable.remove(&segment);
        }
        lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FRAME_HEADER, FrameHeader};
    use crate::journal::{Journal, JournalEnd, Needed};
    use crate::record::{Entry, Record};
    use crate::recovery::{Recovery, RecoveryBugs, RecoveryError};

    const SEGMENT_BYTES: u64 = 64 << 10;

    /// A disk with frames of one record each; the last one is not synced yet.
    fn written(frames: u64, seed: u64) -> SimDisk {
        let mut disk = SimDisk::new(SEGMENT_BYTES, seed, false);
        let mut journal = Journal::new(SEGMENT_BYTES, JournalEnd::default());
        while let Some(segment) = journal.prepare() {
            disk.begin_preparing(segment);
            disk.finish_preparing(segment, true);
            journal.prepared(segment, true);
        }
        for seq in 1..=frames {
            let record = Record::LastId { id: u128::from(seq) };
            let (wall_ms, cause, replay, trace) = (seq, 0, false, None);
            journal.append(&Entry { seq, wall_ms, cause, replay, trace, record });
            let needed = Needed { recover_from: 1, keep_from: 1 };
            let frame = journal.submit(seq, seq, needed, false).expect("a segment has room");
            disk.write(frame).expect("the room is blank");
            if seq < frames {
                journal.written(seq, disk.sync());
            }
        }
        disk
    }

    fn recovered(disk: &mut SimDisk) -> Result<Vec<u64>, RecoveryError> {
        let mut seqs = Vec::new();
        let mut recovery = Recovery::begin(disk, RecoveryBugs::default())?;
        recovery.read(disk, |entry| seqs.push(entry.seq))?;
        recovery.finish(disk)?;
        Ok(seqs)
    }

    #[test]
    fn a_flipped_bit_of_an_old_frame_is_corruption_and_nothing_is_changed() {
        let mut disk = written(4, 1);
        disk.sync();
        let len = FrameHeader::peek(&disk.bytes(1)[PAGE..]).expect("a frame").len as usize;
        for bit in (PAGE * 8..(PAGE + len) * 8).step_by(5) {
            let mut rotten = disk.clone();
            assert!(rotten.flip_bit(1, bit));
            let before = rotten.bytes(1).to_vec();
            let found = recovered(&mut rotten);
            assert!(matches!(found, Err(RecoveryError::Corrupt { .. })), "bit {bit}: {found:?}");
            assert_eq!(rotten.bytes(1), before);
        }
    }

    #[test]
    fn a_bit_that_is_misread_is_refused_changes_nothing_and_is_right_the_next_time() {
        let mut disk = written(4, 1);
        disk.sync();
        let before = disk.stored().clone();
        disk.misread(1, (PAGE + FRAME_HEADER) * 8);
        let found = recovered(&mut disk);
        assert!(matches!(found, Err(RecoveryError::Corrupt { .. })), "{found:?}");
        assert_eq!(*disk.stored(), before);
        disk.read_well();
        assert_eq!(recovered(&mut disk).expect("nothing is wrong"), [1, 2, 3, 4]);
    }

    #[test]
    fn a_flipped_bit_of_the_last_frame_cannot_be_told_from_a_torn_tail() {
        let mut disk = written(4, 1);
        disk.sync();
        assert!(disk.flip_bit(1, 4 * PAGE * 8 + 100));
        assert_eq!(recovered(&mut disk).expect("it is cut"), [1, 2, 3]);
        assert_eq!(recovered(&mut disk).expect("it was cut"), [1, 2, 3]);
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_at_most_the_frame_under_way() {
        for seed in 0..200 {
            let mut disk = written(9 + seed % 20, seed);
            disk.crash();
            let frames = recovered(&mut disk).expect("a torn tail is no corruption").len() as u64;
            assert!([8, 9].contains(&(frames - seed % 20)), "seed {seed}: {frames}");
        }
    }

    #[test]
    fn a_recovery_that_dies_anywhere_is_begun_again_without_loss() {
        for seed in 0..200 {
            let mut disk = written(7, seed);
            disk.crash();
            let whole = recovered(&mut disk.clone()).expect("a torn tail is no corruption");
            disk.die_after((seed % 20) as u32);
            let first = recovered(&mut disk);
            assert!(matches!(first, Ok(_) | Err(RecoveryError::Store(_))), "seed {seed}");
            disk.live();
            assert_eq!(recovered(&mut disk).expect("again"), whole, "seed {seed}");
        }
    }

    #[test]
    fn frames_are_refused_on_room_that_is_not_blank() {
        let mut disk = written(1, 1);
        disk.sync();
        let bytes = vec![1; PAGE];
        for (segment, offset) in [(1, PAGE as u64), (9, PAGE as u64), (1, 100), (1, SEGMENT_BYTES)]
        {
            let frame = FrameWrite { segment, offset, bytes: bytes.clone() };
            assert!(disk.write(frame).is_err(), "segment {segment} at {offset}");
        }
    }
}
