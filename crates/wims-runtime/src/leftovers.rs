//! Leftovers: what a former stack declared and the present one does not, while something is kept
//! for it: a pipe's place in the stream, a queue's messages, a workflow's waiting executions.
//!
//! Promise: it is kept, through sweeps and recoveries, until it is dropped by name; declared again,
//! it goes on as if it had never been away. A drop is one record: all or nothing, for good. What
//! the stack has is never dropped. Tables are deliberately no leftovers: their items are data.

use crate::engine::{Cause, Engine};
use crate::functions::{Refusal, RefusalKind};
use crate::io::{Answer, LeftoverRow};
use crate::plan::resource_names;
use crate::record::Record;

impl Engine {
    /// All leftovers.
    pub fn leftovers(&self) -> Vec<LeftoverRow> {
        let numbers = 0..self.state.names.len();
        let numbers = numbers.map(|at| u16::try_from(at).expect("numbers are 16 bits"));
        numbers.filter_map(|number| self.leftover(number)).collect()
    }

    /// Drops a leftover. A full disk is no reason to refuse it: it may be what frees the disk.
    pub(crate) fn drop_leftover(&mut self, name: &str) -> Answer {
        let refuse = |kind, detail| Answer::Refused(Refusal { kind, detail });
        let is_declared = resource_names(&self.stack).iter().any(|declared| declared == name);
        let number = self.state.number(name);
        if let Some((id, row)) = number.and_then(|id| Some((id, self.leftover(id)?))) {
            let learned = self.state.paced.get(&id).cloned().filter(|_| is_declared);
            self.emit(Cause::default(), Record::Dropped { id });
            // What was dropped read the stream; the pipe of that name that the stack has reads a
            // queue, and goes on with what it has learned. One step is one frame.
            if let Some(paced) = learned {
                self.emit(Cause::default(), Record::Paced(paced));
            }
            return Answer::Dropped(row);
        }
        if is_declared {
            let detail = format!("{name} is in the stack that runs; take it out there first");
            return refuse(RefusalKind::Conflict, detail);
        }
        refuse(RefusalKind::NotFound, format!("there is no leftover {name}"))
    }

    /// The leftover with this number, if it is one.
    fn leftover(&self, number: u16) -> Option<LeftoverRow> {
        let state = &self.state;
        let name = state.names[usize::from(number)].clone()?;
        let seen_up_to = state.cursors.get(&number).copied();
        // A pipe of that name that reads a queue now is another consumer.
        let is_away = seen_up_to.is_some() && !state.is_consumer(number);
        if !is_away && resource_names(&self.stack).contains(&name) {
            return None;
        }
        let is_queue = name.starts_with("queue/");
        let messages = if is_queue { state.queue(number).len() } else { 0 };
        let executions = state.executions.values().map(|execution| &execution.waiting);
        let waiting = executions.filter(|waiting| waiting.workflow == number);
        let executions = waiting.count();
        let keeps = seen_up_to.is_some() || state.paced.contains_key(&number);
        let journal_bytes = seen_up_to.map_or(0, |seq| self.kept_bytes(seq + 1));
        let row = LeftoverRow { name, messages, executions, seen_up_to, journal_bytes };
        (keeps || messages > 0 || executions > 0).then_some(row)
    }

    /// Bytes of the segments from a record on that no recovery needs.
    fn kept_bytes(&self, seq: u64) -> u64 {
        let kept = self.needed().recover_from.saturating_sub(self.journal.segment_of(seq));
        kept * self.options.segment_bytes
    }
}

#[cfg(test)]
mod tests;
