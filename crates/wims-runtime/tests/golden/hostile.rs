//! Journals with sound checksums and wrong contents. Promise: a recovery ends with a state or says
//! why not; it never panics. It deliberately does not ask which: what is wrong is not always
//! impossible.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wims_runtime::frame::{FRAME_HEADER, FrameHeader, PAGE, SegmentHeader};
use wims_runtime::record::Entry;
use wims_runtime::recovery::{RecoveryBugs, RecoveryError};
use wims_runtime::replay::replay;

use super::{JOURNAL_ID, SEGMENT_BYTES, Segments, recorded, stack};

/// A frame taken out of its segment: its header and the bytes of its records.
type Loose = (FrameHeader, Vec<u8>);

/// All frames of the golden journal.
fn loose() -> Vec<Loose> {
    let segments = recorded();
    let mut frames = Vec::new();
    for bytes in segments.0.values() {
        let mut offset = PAGE;
        while offset < bytes.len() {
            let header = FrameHeader::read(&bytes[offset..]).expect("a sound frame");
            let records = bytes[offset + FRAME_HEADER..offset + header.len as usize].to_vec();
            offset += header.padded_len();
            frames.push((header, records));
        }
    }
    frames
}

/// The same, and recovery starts with the first record.
fn from_the_first() -> Vec<Loose> {
    let mut frames = loose();
    frames.iter_mut().for_each(|(header, _)| header.recover_from = 1);
    frames
}

/// The bytes of each record of a frame.
fn apart((header, records): &Loose) -> Vec<Vec<u8>> {
    let mut rest = &records[..];
    let seqs = header.first_seq..header.first_seq + u64::from(header.count);
    let record = |seq| {
        let (_, behind) = Entry::read(rest, seq, header.wall_ms).expect("a known record");
        let (record, _) = rest.split_at(rest.len() - behind.len());
        rest = behind;
        record.to_vec()
    };
    seqs.map(record).collect()
}

/// A journal of these frames; each is sealed and knows the one before.
fn sealed(frames: &[Loose]) -> Segments {
    let mut segments = Segments::default();
    let mut previous_crc = 0;
    for (header, records) in frames {
        let number = header.segment;
        let first_page =
            || SegmentHeader { number, bytes: SEGMENT_BYTES, journal_id: JOURNAL_ID }.page();
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend_from_slice(records);
        previous_crc = FrameHeader { previous_crc, ..header.clone() }.seal(&mut frame);
        segments.0.entry(number).or_insert_with(first_page).extend_from_slice(&frame);
    }
    segments
}

/// Recovers a journal and looks at everything in it; it is changed only if it is recovered.
fn recover(frames: &[Loose], what: &str) -> Result<(), RecoveryError> {
    let journal = sealed(frames);
    let mut store = journal.clone();
    let recovered = catch_unwind(AssertUnwindSafe(|| {
        let replayed = replay(&stack(), &mut store, RecoveryBugs::default(), u64::MAX);
        replayed.map(|(_, mut state)| {
            state.find_closed();
            let queues: Vec<u16> = state.queue_numbers().collect();
            queues.into_iter().for_each(|queue| state.appear(queue));
            state.digest();
        })
    }));
    let recovered = recovered.unwrap_or_else(|_| panic!("{what} makes a recovery panic"));
    assert!(recovered.is_ok() || store == journal, "{what} is refused, but was changed");
    recovered
}

#[test]
fn frames_that_are_sealed_again_are_the_golden_journal() {
    let frames = loose();
    assert!(sealed(&frames) == recorded());
    assert!(recover(&frames, "nothing").is_ok());
}

#[test]
fn no_byte_of_a_record_that_is_another_one_makes_a_recovery_panic() {
    let (mut taken, mut refused) = (0, 0);
    for frames in [loose(), from_the_first()] {
        for (at, (_, records)) in frames.iter().enumerate() {
            for (byte, value) in records.iter().enumerate() {
                for other in [0xff, value ^ 1, value ^ 0x80, value.wrapping_add(1)] {
                    let mut hostile = frames.clone();
                    hostile[at].1[byte] = other;
                    let what = format!("{other:#04x} at byte {byte} of frame {at}");
                    let found = recover(&hostile, &what);
                    taken += u32::from(found.is_ok());
                    refused += u32::from(found.is_err());
                }
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[test]
fn records_that_are_cut_or_stuffed_are_refused() {
    let frames = from_the_first();
    for (at, (_, records)) in frames.iter().enumerate() {
        for byte in 0..records.len() {
            let mut cut = frames.clone();
            cut[at].1.truncate(byte);
            let refused = recover(&cut, &format!("frame {at} cut at {byte}"));
            assert!(refused.is_err(), "frame {at} cut at {byte} is recovered");
        }
        let mut stuffed = frames.clone();
        stuffed[at].1.push(0);
        let refused = recover(&stuffed, &format!("frame {at} with a byte more"));
        assert!(refused.is_err(), "frame {at} with a byte more is recovered");
    }
}

#[test]
fn no_record_in_the_place_of_another_one_makes_a_recovery_panic() {
    let frames = from_the_first();
    let golden: Vec<Vec<Vec<u8>>> = frames.iter().map(apart).collect();
    let (mut taken, mut refused) = (0, 0);
    for (at, records) in golden.iter().enumerate() {
        for place in 0..records.len() {
            for (from, other) in golden.iter().flatten().enumerate() {
                let (mut hostile, mut moved) = (frames.clone(), records.clone());
                moved[place].clone_from(other);
                hostile[at].1 = moved.concat();
                let what = format!("record {from} in place {place} of frame {at}");
                let found = recover(&hostile, &what);
                taken += u32::from(found.is_ok());
                refused += u32::from(found.is_err());
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[test]
fn a_record_that_cannot_be_where_it_is_is_refused_with_its_place() {
    let mut frames = from_the_first();
    // The first item in place of the first name, which is that of its table.
    let mut first = apart(&frames[0]);
    first[0] = apart(&frames[1]).swap_remove(0);
    frames[0].1 = first.concat();
    let refused = recover(&frames, "an item of a table without a name");
    let refused = refused.expect_err("there is no such table").to_string();
    let told = "record 1, in segment 1, cannot be: it is of a table that is unknown";
    assert_eq!(refused, told);
}

#[test]
fn numbers_of_a_frame_beyond_all_bounds_are_refused() {
    type Change = (&'static str, fn(&mut FrameHeader));
    let changes: [Change; 7] = [
        ("no sequence", |header| header.first_seq = 0),
        ("the last sequence", |header| header.first_seq = u64::MAX),
        ("no record", |header| header.count = 0),
        ("many records", |header| header.count = u32::MAX),
        ("the last time", |header| header.wall_ms = u64::MAX),
        ("the last time of the clock", |header| header.clock_ms = u64::MAX),
        ("a later start", |header| header.recover_from = 3),
    ];
    let frames = from_the_first();
    for at in [0, frames.len() - 1] {
        for (what, change) in changes {
            let mut hostile = frames.clone();
            let sound = hostile[at].0.clone();
            change(&mut hostile[at].0);
            let refused = recover(&hostile, what);
            assert!(refused.is_err() || hostile[at].0 == sound, "frame {at} with {what}");
        }
    }
}
