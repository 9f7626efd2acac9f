//! Frames and segments: how records lie on disk.
//!
//! A segment is a file of fixed size, zero-filled before use. Its first page names it; frames
//! follow, each starting on a page. A frame is one commit: length, CRC-32C, segment, first
//! sequence and the checksum of the frame before it, so nothing can be missing in between.
//! It deliberately knows nothing of what records mean.

use std::ops::Range;

/// Frames start on multiples of this many bytes, the unit a disk writes.
pub const PAGE: usize = 4096;
/// Bytes of a frame before its records.
pub const FRAME_HEADER: usize = 64;
/// Version of everything in this file; another one refuses to start.
pub const FORMAT_VERSION: u32 = 1;

const FRAME_MAGIC: [u8; 4] = *b"WIMF";
const SEGMENT_MAGIC: [u8; 8] = *b"WIMSSEG\n";

/// What a frame says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of header and records.
    pub len: u32,
    /// Checksum of everything behind it.
    pub crc: u32,
    /// Checksum of the frame before; 0 for the first.
    pub previous_crc: u32,
    /// Number of the segment it was written to.
    pub segment: u64,
    /// Sequence of its first record.
    pub first_seq: u64,
    /// How many records it has.
    pub count: u32,
    /// Wall time of its first record in milliseconds since 1970.
    pub wall_ms: u64,
    /// The engine's clock, which never goes back, in milliseconds.
    pub clock_ms: u64,
    /// Segment where a recovery has to start.
    pub recover_from: u64,
}

impl FrameHeader {
    /// Fills the first [`FRAME_HEADER`] bytes of `frame`, whose records are in place, pads it to
    /// whole pages and returns its checksum. `crc` and `len` of `self` are computed.
    pub fn seal(&self, frame: &mut Vec<u8>) -> u32 {
        let len = u32::try_from(frame.len()).expect("a frame is far below 4 GiB");
        frame[..4].copy_from_slice(&FRAME_MAGIC);
        put(frame, 8..12, &len.to_le_bytes());
        put(frame, 12..16, &self.previous_crc.to_le_bytes());
        put(frame, 16..24, &self.segment.to_le_bytes());
        put(frame, 24..32, &self.first_seq.to_le_bytes());
        put(frame, 32..36, &self.count.to_le_bytes());
        put(frame, 36..40, &[0; 4]);
        put(frame, 40..48, &self.wall_ms.to_le_bytes());
        put(frame, 48..56, &self.clock_ms.to_le_bytes());
        put(frame, 56..64, &self.recover_from.to_le_bytes());
        let crc = crc32c::crc32c(&frame[8..]);
        put(frame, 4..8, &crc.to_le_bytes());
        frame.resize(frame.len().next_multiple_of(PAGE), 0);
        crc
    }

    /// The frame at the beginning of `bytes`, or `None` when there is no whole and sound one.
    pub fn read(bytes: &[u8]) -> Option<FrameHeader> {
        if bytes.get(..4)? != FRAME_MAGIC {
            return None;
        }
        let header = FrameHeader::peek(bytes)?;
        let whole = bytes.get(8..header.len as usize)?;
        let sound = header.len as usize >= FRAME_HEADER && crc32c::crc32c(whole) == header.crc;
        sound.then_some(header)
    }

    /// The header alone, its checksum not looked at.
    pub fn peek(bytes: &[u8]) -> Option<FrameHeader> {
        let header = bytes.get(..FRAME_HEADER)?;
        (header[..4] == FRAME_MAGIC).then(|| FrameHeader {
            len: u32_at(header, 8),
            crc: u32_at(header, 4),
            previous_crc: u32_at(header, 12),
            segment: u64_at(header, 16),
            first_seq: u64_at(header, 24),
            count: u32_at(header, 32),
            wall_ms: u64_at(header, 40),
            clock_ms: u64_at(header, 48),
            recover_from: u64_at(header, 56),
        })
    }

    /// Bytes it takes on disk.
    pub fn padded_len(&self) -> usize {
        (self.len as usize).next_multiple_of(PAGE)
    }
}

/// The first page of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number; segments follow each other without gaps.
    pub number: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Which journal it belongs to.
    pub journal_id: u128,
}

/// Why a segment's first page is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SegmentError {
    /// Not a segment, or a rotten first page.
    #[error("its first page is not that of a sound segment")]
    Unsound,
    /// Written by a version with another format.
    #[error("it has format version {0}, this version of wims reads {FORMAT_VERSION}")]
    Version(u32),
}

impl SegmentHeader {
    /// The first page.
    pub fn page(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        put(&mut page, 0..8, &SEGMENT_MAGIC);
        put(&mut page, 12..16, &FORMAT_VERSION.to_le_bytes());
        put(&mut page, 16..24, &self.number.to_le_bytes());
        put(&mut page, 24..32, &self.bytes.to_le_bytes());
        put(&mut page, 32..48, &self.journal_id.to_le_bytes());
        let crc = crc32c::crc32c(&page[12..]);
        put(&mut page, 8..12, &crc.to_le_bytes());
        page
    }

    /// Reads a first page.
    ///
    /// # Errors
    /// When it is unsound or of another format.
    pub fn read(page: &[u8]) -> Result<SegmentHeader, SegmentError> {
        let page = page.get(..PAGE).ok_or(SegmentError::Unsound)?;
        if page[..8] != SEGMENT_MAGIC || u32_at(page, 8) != crc32c::crc32c(&page[12..]) {
            return Err(SegmentError::Unsound);
        }
        let version = u32_at(page, 12);
        if version != FORMAT_VERSION {
            return Err(SegmentError::Version(version));
        }
        let id = page[32..48].try_into().expect("sixteen bytes");
        Ok(SegmentHeader {
            number: u64_at(page, 16),
            bytes: u64_at(page, 24),
            journal_id: u128::from_le_bytes(id),
        })
    }
}

fn put(bytes: &mut [u8], at: Range<usize>, value: &[u8]) {
    bytes[at].copy_from_slice(value);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend_from_slice(b"records");
        let header = FrameHeader {
            len: 0,
            crc: 0,
            previous_crc: 1,
            segment: 2,
            first_seq: 3,
            count: 4,
            wall_ms: 5,
            clock_ms: 6,
            recover_from: 7,
        };
        header.seal(&mut frame);
        frame
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_frame_is_seen() {
        let frame = sealed();
        let len = FrameHeader::read(&frame).expect("sound").len as usize;
        for bit in 0..len * 8 {
            let mut rotten = frame.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::read(&rotten), None, "bit {bit}");
        }
    }

    #[test]
    fn a_segment_of_another_format_is_refused_by_its_version() {
        let header = SegmentHeader { number: 1, bytes: 1 << 26, journal_id: 9 };
        let mut page = header.page();
        assert_eq!(SegmentHeader::read(&page), Ok(header));
        put(&mut page, 12..16, &2u32.to_le_bytes());
        let crc = crc32c::crc32c(&page[12..]);
        put(&mut page, 8..12, &crc.to_le_bytes());
        assert_eq!(SegmentHeader::read(&page), Err(SegmentError::Version(2)));
    }
}
