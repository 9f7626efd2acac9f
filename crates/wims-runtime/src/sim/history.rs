//! History in memory: closed items and the cursor of the consumer that brings them.
//!
//! Promise: items and cursor of a batch are kept together or not at all, also by a crash. It
//! deliberately has no files and no lists: what the simulator asks is where one item went.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::io::{ClosedItem, HistoryJob};

/// Table, attribute and value under which an item is found.
type Place = (String, String, String);

/// The history; see the module.
#[derive(Default)]
pub struct SimHistory {
    found: BTreeMap<Place, ClosedItem>,
    cursor: u64,
    under_way: Option<HistoryJob>,
}

impl SimHistory {
    /// Begins to store a batch.
    pub fn begin(&mut self, job: HistoryJob) {
        self.under_way = Some(job);
    }

    /// Ends the batch under way, stored or refused as a whole; gives its sequence.
    pub fn finish(&mut self, success: bool) -> Option<u64> {
        let job = self.under_way.take()?;
        let seq = job.seq;
        if success {
            self.store(job);
        }
        Some(seq)
    }

    /// The power fails: a batch under way is kept or lost, told to nobody.
    pub fn crash(&mut self, rng: &mut Rng) {
        if let Some(job) = self.under_way.take().filter(|_| rng.bool()) {
            self.store(job);
        }
    }

    /// A closed item by the value of an attribute that no other item shares.
    pub fn find(&self, table: &str, attribute: &str, value: &str) -> Option<&ClosedItem> {
        self.found.get(&(table.to_owned(), attribute.to_owned(), value.to_owned()))
    }

    /// Everything that closed up to this sequence is here.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    fn store(&mut self, job: HistoryJob) {
        for item in job.items {
            for (attribute, value) in item.indexed.clone() {
                self.found.insert((item.table.to_string(), attribute, value), item.clone());
            }
        }
        self.cursor = self.cursor.max(job.seq);
    }
}
