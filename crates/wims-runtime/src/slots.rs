//! Places for items that stay where they are, and tables from hashes to places.
//!
//! Promise: nothing here grows all at once. A list that doubles copies everything it has, and a
//! hash table that doubles hashes everything again; with a million items every order would wait
//! for that. Places come in chunks, and a table is many small ones that grow one at a time.

use hashbrown::HashTable;

/// Places a chunk has.
const CHUNK: usize = 4_096;
/// Tables a [`SlotTable`] is made of.
const SHARDS: usize = 64;
/// Odd, with its bits well mixed: spreads 32 bits of a hash over 64.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Places by number; one that is freed is used again.
pub(crate) struct Slots<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Puts a value into a free place.
    pub fn add(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(value);
            return slot;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let at = self.chunks.len() - 1;
        self.chunks[at].push(Some(value));
        let slot = at * CHUNK + self.chunks[at].len() - 1;
        u32::try_from(slot).expect("memory ends before 4 billion items")
    }

    /// Replaces the value in a taken place.
    pub fn replace(&mut self, slot: u32, value: T) {
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(value);
    }

    /// Frees a place; what was there.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let value = self.chunks[slot as usize / CHUNK][slot as usize % CHUNK].take();
        if value.is_some() {
            self.free.push(slot);
        }
        value
    }

    /// The value in a place; `None` for a free one, and past the end.
    pub fn get(&self, slot: usize) -> Option<&T> {
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.as_ref()
    }

    /// How many places there are, free ones included.
    pub fn count(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.count() - self.free.len()
    }

    /// All values, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flatten()
    }

    /// Bytes of memory for places.
    pub fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Option<T>>() + self.free.capacity() * 4
    }
}

/// From hashes to places. It keeps 32 bits of each hash, so growing reads no item.
pub(crate) struct SlotTable {
    shards: Vec<HashTable<(u32, u32)>>,
}

impl Default for SlotTable {
    fn default() -> SlotTable {
        SlotTable { shards: (0..SHARDS).map(|_| HashTable::new()).collect() }
    }
}

impl SlotTable {
    /// The place with this hash of which `is` holds.
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let (shard, kept) = (shard_of(hash), kept_of(hash));
        let is = |(other, slot): &(u32, u32)| *other == kept && is(*slot);
        self.shards[shard].find(spread(kept), is).map(|(_, slot)| *slot)
    }

    /// Enters a place that is not there.
    pub fn insert(&mut self, hash: u64, slot: u32) {
        let kept = kept_of(hash);
        let entry = (kept, slot);
        self.shards[shard_of(hash)].insert_unique(spread(kept), entry, |(kept, _)| spread(*kept));
    }

    /// Takes a place out.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let kept = kept_of(hash);
        let shard = &mut self.shards[shard_of(hash)];
        if let Ok(entry) = shard.find_entry(spread(kept), |found| *found == (kept, slot)) {
            entry.remove();
        }
    }
}

fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

fn kept_of(hash: u64) -> u32 {
    hash as u32
}

fn spread(kept: u32) -> u64 {
    u64::from(kept).wrapping_mul(SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_and_freed_ones_are_used_again() {
        let mut slots = Slots::default();
        let places: Vec<u32> = (0..CHUNK + 10).map(|n| slots.add(n)).collect();
        assert_eq!(slots.get(places[CHUNK + 3] as usize), Some(&(CHUNK + 3)));
        assert_eq!(slots.remove(places[5]), Some(5));
        assert_eq!(slots.remove(places[5]), None);
        assert_eq!((slots.len(), slots.count(), slots.get(5)), (CHUNK + 9, CHUNK + 10, None));
        assert_eq!(slots.add(7), places[5]);
        assert_eq!(slots.iter().count(), CHUNK + 10);
    }

    #[test]
    fn a_table_finds_what_was_entered_and_not_removed_whatever_the_hashes() {
        let mut table = SlotTable::default();
        // Many share the bits that are kept, and many a shard.
        let hash = |slot: u32| u64::from(slot % 1_000) | (u64::from(slot % 7) << 32);
        (0..20_000).for_each(|slot| table.insert(hash(slot), slot));
        (0..20_000).step_by(3).for_each(|slot| table.remove(hash(slot), slot));
        for slot in 0..20_000 {
            let expected = (slot % 3 != 0).then_some(slot);
            assert_eq!(table.find(hash(slot), |found| found == slot), expected);
        }
    }
}
