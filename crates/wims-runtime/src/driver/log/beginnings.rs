//! Beginnings: behind which change each stream pipe began, as the journal tells it.
//!
//! Promise: a change from before a pipe began, which it never saw, is told from those it did. A
//! pipe whose beginning the journal no longer has began before all that is left. It deliberately
//! looks for the first beginning only: it reads no further than it must, so of a pipe that was
//! dropped and is back it does not tell what came in between.

use crate::plan::LogStream;
use crate::record::Record;

/// What is known of a pipe's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    /// It may lie before what was read.
    Unknown,
    /// It comes later: so far the pipe had no place in the stream.
    Ahead,
    /// Behind this change.
    After(u64),
}

/// The beginnings of some stream pipes; takes the records of a journal, oldest first.
pub(super) struct Beginnings {
    pipes: Vec<(u16, Beginning)>,
    /// The records at hand are those a sweep begins with: all names, then all places.
    in_sweep_head: bool,
}

impl Beginnings {
    /// Nothing is read yet of a journal that begins with this record.
    pub fn of(streams: &[LogStream], first_seq: u64) -> Beginnings {
        // Before the first record of all there was no pipe.
        let beginning = if first_seq <= 1 { Beginning::Ahead } else { Beginning::Unknown };
        let pipes = streams.iter().map(|stream| (stream.pipe, beginning)).collect();
        Beginnings { pipes, in_sweep_head: false }
    }

    /// Takes the next record.
    pub fn take(&mut self, record: &Record) {
        match record {
            Record::SweepBegan => self.in_sweep_head = true,
            Record::Cursor { consumer, seq } => self.placed(*consumer, *seq),
            // A sweep repeats all names; any other naming is the first.
            Record::Named(_) if self.in_sweep_head => {}
            Record::Named(named) => self.had_no_place(|pipe| pipe == named.id),
            Record::Dropped { id } => self.had_no_place(|pipe| pipe == *id),
            Record::Change(_)
            | Record::Event(_)
            | Record::Sent(_)
            | Record::Hidden(_)
            | Record::Deleted { .. }
            | Record::Waiting(_)
            | Record::Ended { .. }
            | Record::Skipped { .. }
            | Record::Paced(_)
            | Record::Served { .. }
            | Record::SweepEnded { .. }
            | Record::SweptItem(_)
            | Record::SweptMessage(_)
            | Record::LastId { .. }
            | Record::Archived { .. }
            | Record::Historied { .. }
            | Record::Keyed(_) => {
                // What has a place was among the places that the sweep began with.
                if std::mem::take(&mut self.in_sweep_head) {
                    self.had_no_place(|_| true);
                }
            }
        }
    }

    fn placed(&mut self, consumer: u16, seq: u64) {
        for (_, beginning) in self.pipes.iter_mut().filter(|(pipe, _)| *pipe == consumer) {
            *beginning = match *beginning {
                Beginning::Unknown => Beginning::After(0),
                Beginning::Ahead => Beginning::After(seq),
                Beginning::After(first) => Beginning::After(first),
            };
        }
    }

    fn had_no_place(&mut self, is_meant: impl Fn(u16) -> bool) {
        for (pipe, beginning) in &mut self.pipes {
            if *beginning == Beginning::Unknown && is_meant(*pipe) {
                *beginning = Beginning::Ahead;
            }
        }
    }

    /// Whether all were found, and nothing more needs to be read.
    pub fn are_found(&self) -> bool {
        self.pipes.iter().all(|(_, beginning)| matches!(beginning, Beginning::After(_)))
    }

    /// The last change before each pipe's beginning, in the order of the pipes.
    pub fn last_unseen(&self) -> Vec<u64> {
        let last_unseen = self.pipes.iter().map(|(_, beginning)| match beginning {
            Beginning::Unknown => 0,
            Beginning::Ahead => u64::MAX,
            Beginning::After(seq) => *seq,
        });
        last_unseen.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quiet;
    use crate::record::Named;

    const PIPE: u16 = 5;

    fn named(id: u16) -> Record {
        Record::Named(Named { id, name: format!("pipe/{id}") })
    }

    fn place(consumer: u16, seq: u64) -> Record {
        Record::Cursor { consumer, seq }
    }

    fn other() -> Record {
        Record::LastId { id: 1 }
    }

    /// What is found of the pipe in a journal that begins with this record.
    fn found(first_seq: u64, records: &[Record]) -> Option<u64> {
        let (enrich, unstreamed) = (quiet::tell, Vec::new());
        let stream = LogStream { pipe: PIPE, table: 3, bus: 1, enrich, unstreamed };
        let mut beginnings = Beginnings::of(&[stream], first_seq);
        records.iter().for_each(|record| beginnings.take(record));
        beginnings.are_found().then(|| beginnings.last_unseen()[0])
    }

    #[test]
    fn a_pipe_begins_at_its_first_place_when_it_was_named_before_it() {
        let records = [other(), named(PIPE), place(4, 2), place(PIPE, 9), place(PIPE, 12)];
        assert_eq!(found(1, &records[..3]), None);
        for first_seq in [1, 100] {
            assert_eq!(found(first_seq, &records), Some(9), "from {first_seq} on");
        }
    }

    #[test]
    fn a_pipe_that_has_a_place_before_it_is_named_began_before_what_is_left() {
        assert_eq!(found(100, &[other(), place(PIPE, 109)]), Some(0));
        assert_eq!(found(1, &[other(), place(PIPE, 9)]), Some(9), "unless nothing is gone");
        let sweep = [Record::SweepBegan, named(4), named(PIPE), place(4, 109), place(PIPE, 98)];
        assert_eq!(found(100, &sweep), Some(0), "a sweep names it again");
    }

    #[test]
    fn a_pipe_that_had_no_place_in_a_sweep_or_was_dropped_begins_later() {
        let sweep = [Record::SweepBegan, named(4), named(PIPE), place(4, 109), other()];
        assert_eq!(found(100, &[&sweep[..], &[place(PIPE, 150)]].concat()), Some(150));
        let dropped = [Record::Dropped { id: PIPE }, other(), place(PIPE, 150)];
        assert_eq!(found(100, &dropped), Some(150));
    }
}
