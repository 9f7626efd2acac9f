//! Replay: the journal becomes the state it ends with, by the same `apply` that made it.
//!
//! Promise: the state is the live one at the last durable frame, and its stream has every change
//! that a declared consumer has not seen, as far back as the journal goes. A record that cannot
//! be where it is refuses the start. It deliberately counts on nothing that the stack before this
//! one declared.

use wims_stack::Stack;

use crate::record::{Entry, Record};
use crate::recovery::{Recovered, Recovery, RecoveryBugs, RecoveryError, SegmentStore};
use crate::state::State;

mod door;

/// Recovers the journal in `store` into a state of `stack`, whose stream may take `memory_max`
/// bytes when it has to be read anew.
///
/// Where recovery starts was written when another stack may have run. A consumer that is new, or
/// was away, may need older changes; one that was dropped and is back needs changes that its old
/// cursors let go of. Then the journal is read a second time, which is sound from anywhere: records
/// have absolute values, and all that follow are read too.
///
/// # Errors
/// When the journal must not be used, has not all that a consumer goes on with, or there is too
/// much to catch up with; nothing was changed then.
pub fn replay(
    stack: &Stack,
    store: &mut impl SegmentStore,
    bugs: RecoveryBugs,
    memory_max: u64,
) -> Result<(Recovered, State), RecoveryError> {
    let mut recovery = Recovery::begin(store, bugs)?;
    let mut replay = Replay::of(stack);
    recovery.read(store, |entry| replay.apply(entry))?;
    let mut state = replay.finish(&recovery)?;
    if let Some(gap) = recovery.gap_before(state.goes_on_from()) {
        return Err(gap);
    }
    let unseen = state.unseen_from();
    if !recovery.reaches(unseen) || state.has_let_go(unseen) {
        // Two of them may be more than the memory holds.
        drop(state);
        let bytes = recovery.bytes_from(unseen);
        if bytes > memory_max {
            return Err(RecoveryError::Backlog { bytes });
        }
        let mut replay = Replay::of(stack);
        replay.state.hold_from(unseen);
        recovery.read_from(store, unseen, |entry| replay.apply(entry))?;
        state = replay.finish(&recovery)?;
        state.hold_from(u64::MAX);
    }
    Ok((recovery.finish(store)?, state))
}

/// Applies what is read. A reading that starts in the middle meets records whose resources are
/// named only by the sweep that follows, so these wait for the names.
struct Replay {
    state: State,
    waiting: Vec<Entry>,
    named: bool,
    sweep_seen: bool,
    /// The first record that cannot be where it is, and why; nothing is applied from there on.
    refused: Option<(u64, &'static str)>,
}

impl Replay {
    fn of(stack: &Stack) -> Replay {
        let state = State::new(stack);
        Replay { state, waiting: Vec::new(), named: false, sweep_seen: false, refused: None }
    }

    /// Takes the next record.
    fn apply(&mut self, entry: Entry) {
        if entry.seq == 1 {
            self.named = true;
        }
        if self.named || self.refused.is_some() {
            return self.admit(entry);
        }
        match &entry.record {
            Record::SweepBegan => {
                self.sweep_seen = true;
                self.waiting.push(entry);
            }
            Record::Named(_) => self.admit(entry),
            // The first record behind the names: all that waited is older.
            _ if self.sweep_seen => {
                self.apply_waiting();
                self.admit(entry);
            }
            _ => self.waiting.push(entry),
        }
    }

    /// Applies a record that can be.
    fn admit(&mut self, entry: Entry) {
        if self.refused.is_some() {
            return;
        }
        match door::check(&self.state, &entry) {
            Ok(()) => self.state.apply(entry),
            Err(reason) => self.refused = Some((entry.seq, reason)),
        }
    }

    fn apply_waiting(&mut self) {
        self.named = true;
        let seq = self.state.seq;
        std::mem::take(&mut self.waiting).into_iter().for_each(|entry| self.admit(entry));
        self.state.seq = self.state.seq.max(seq);
    }

    /// Everything was read.
    ///
    /// # Errors
    /// When a record cannot be where it is.
    fn finish(mut self, recovery: &Recovery) -> Result<State, RecoveryError> {
        self.apply_waiting();
        match self.refused {
            None => Ok(self.state),
            Some((seq, reason)) => Err(recovery.impossible(seq, reason)),
        }
    }
}

#[cfg(test)]
mod tests;
