//! The items of one table in memory, with their indexes.
//!
//! Promise: an item is found by key or index in constant or logarithmic time, and slots stay
//! where they are, so a sweep can walk them while they change. It deliberately has no iteration
//! over hash tables: nothing here depends on a hash's order.

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::ops::Bound;

use hashbrown::DefaultHashBuilder;
use wims_stack::table::{Index, PARTITION_KEY, SORT_KEY, Table};
use wims_stack::{Doc, View};

use crate::slots::{SlotTable, Slots};

/// An item with when it was created and last changed, as sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The item.
    pub doc: Doc,
    /// Sequence of its creation; lists are ordered by it.
    pub created: u64,
    /// Sequence of its last change.
    pub changed: u64,
    key: Key,
}

/// Where the key of an item is in the bytes of its document, as offset and length: looked for
/// once, asked for often.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Key {
    pk: (u32, u32),
    sk: (u32, u32),
}

impl Item {
    fn new(doc: Doc, created: u64, changed: u64) -> Item {
        Item { key: Key::of(&doc), doc, created, changed }
    }

    /// Partition and sort key.
    pub fn key(&self) -> (String, String) {
        (as_text(self.pk()), as_text(self.sk()))
    }

    fn pk(&self) -> &[u8] {
        self.key.pk(&self.doc)
    }

    fn sk(&self) -> &[u8] {
        self.key.sk(&self.doc)
    }
}

impl Key {
    fn of(doc: &Doc) -> Key {
        let place = |text: &[u8]| {
            let at = (text.as_ptr() as usize).wrapping_sub(doc.bytes().as_ptr() as usize);
            // No text is anywhere.
            (if text.is_empty() { 0 } else { at as u32 }, text.len() as u32)
        };
        Key { pk: place(text_bytes(doc, PARTITION_KEY)), sk: place(text_bytes(doc, SORT_KEY)) }
    }

    fn pk(self, doc: &Doc) -> &[u8] {
        at_place(doc, self.pk)
    }

    fn sk(self, doc: &Doc) -> &[u8] {
        at_place(doc, self.sk)
    }
}

fn at_place(doc: &Doc, (at, len): (u32, u32)) -> &[u8] {
    &doc.bytes()[at as usize..][..len as usize]
}

/// The items of one table; see the module.
pub struct Items {
    table: Table,
    hasher: DefaultHashBuilder,
    slots: Slots<Item>,
    by_key: SlotTable,
    indexes: Vec<ItemIndex>,
    /// Closed items by the sequence at which they closed, oldest first.
    closed: VecDeque<(u64, u32)>,
    heap_bytes: usize,
}

/// Items of one partition by sort key.
type Partition = BTreeMap<Box<[u8]>, u32>;

struct ItemIndex {
    index: Index,
    unique: SlotTable,
    /// By hash of the value, then creation; readers check the value itself.
    listed: BTreeMap<(u64, u64), u32>,
    /// How many items have each value, for indexes of few values.
    counts: Vec<(String, usize)>,
    /// Of an ordered index: by partition key, then by sort key.
    partitions: BTreeMap<Box<[u8]>, Partition>,
    /// How many items are in them.
    partitioned: usize,
    /// The item being replaced has to be entered again.
    stale: bool,
}

/// Bytes of memory an item takes in an ordered index, estimated.
const PARTITIONED_BYTES: usize = 100;

/// Indexes with more values than this are not counted by value.
const COUNTED_VALUES_MAX: usize = 16;

impl Items {
    /// No items of a table.
    pub fn new(table: Table) -> Items {
        let indexes = table.indexes.iter().map(|index| ItemIndex {
            index: index.clone(),
            unique: SlotTable::default(),
            listed: BTreeMap::new(),
            counts: Vec::new(),
            partitions: BTreeMap::new(),
            partitioned: 0,
            stale: false,
        });
        Items {
            indexes: indexes.collect(),
            table,
            hasher: DefaultHashBuilder::default(),
            slots: Slots::default(),
            by_key: SlotTable::default(),
            closed: VecDeque::new(),
            heap_bytes: 0,
        }
    }

    /// The item with this key.
    pub fn get(&self, pk: &str, sk: &str) -> Option<&Item> {
        self.slot_of(pk.as_bytes(), sk.as_bytes()).and_then(|slot| self.slots.get(slot as usize))
    }

    /// The item with this value in a unique index.
    pub fn find(&self, attribute: &str, value: &str) -> Option<&Item> {
        let index = self.indexes.iter().find(|i| i.index.attribute == attribute)?;
        let value = value.as_bytes();
        let hash = self.hasher.hash_one(value);
        let is = |slot| text_bytes(&self.at(slot).doc, attribute) == value;
        index.unique.find(hash, is).map(|slot| self.at(slot))
    }

    /// Items with this value in an index, newest first, those created before a sequence.
    pub fn list<'a>(
        &'a self,
        attribute: &'a str,
        value: &'a str,
        before: u64,
    ) -> impl Iterator<Item = &'a Item> {
        let value = value.as_bytes();
        let hash = self.hasher.hash_one(value);
        let index = self.indexes.iter().find(|i| i.index.attribute == attribute);
        let slots = index.into_iter().flat_map(move |index| {
            index.listed.range((hash, 0)..(hash, before)).rev().map(|(_, slot)| *slot)
        });
        slots
            .map(|slot| self.at(slot))
            .filter(move |item| text_bytes(&item.doc, attribute) == value)
    }

    /// Whether the table declares an ordered index for such a partition.
    pub fn is_ordered(&self, pk: &str) -> bool {
        self.ordered(pk).is_some()
    }

    fn ordered(&self, pk: &str) -> Option<&ItemIndex> {
        let mut indexes = self.indexes.iter();
        indexes.find(|index| index.index.ordered && pk.starts_with(&index.index.prefix))
    }

    /// Items of a partition behind a sort key, in the order of their sort keys.
    ///
    /// # Panics
    /// When the table declares no ordered index for such a partition.
    pub fn query<'a>(
        &'a self,
        pk: &str,
        after_sk: &str,
    ) -> impl Iterator<Item = &'a Item> + use<'a> {
        let index = self.ordered(pk);
        let index = index.expect("a partition is read by sort key under a declared prefix");
        let behind: (Bound<&[u8]>, Bound<&[u8]>) =
            (Bound::Excluded(after_sk.as_bytes()), Bound::Unbounded);
        let partition = index.partitions.get(pk.as_bytes());
        let slots = partition.map(|slots| slots.range::<[u8], _>(behind));
        slots.into_iter().flatten().map(move |(_, slot)| self.at(*slot))
    }

    /// Sets or removes the item with the key of `old` or `new`.
    pub fn set(&mut self, key: &Doc, new: Option<Doc>, created: u64, seq: u64) {
        let Some(doc) = new else {
            let place = Key::of(key);
            if let Some(slot) = self.slot_of(place.pk(key), place.sk(key)) {
                self.remove(slot);
            }
            return;
        };
        let item = Item::new(doc, created, seq);
        match self.slot_of(item.pk(), item.sk()) {
            Some(slot) => self.replace(slot, item),
            None => self.insert(item),
        }
    }

    /// Closed items that history does not hold yet, by when they closed.
    pub fn closed(&self) -> impl Iterator<Item = &Item> {
        self.closed.iter().filter_map(|(seq, slot)| {
            self.slots.get(*slot as usize).filter(|item| item.changed == *seq)
        })
    }

    /// Takes every closed item for one that history may lack, whatever it was told before: what
    /// counts as closed may be declared otherwise than in the life before.
    pub fn find_closed(&mut self) {
        self.closed.clear();
        for slot in 0..self.slots.count() {
            if self.slots.get(slot).is_some() {
                self.note_closed(u32::try_from(slot).expect("slots are 32 bits"));
            }
        }
        self.closed.make_contiguous().sort_unstable();
    }

    /// Prefixes of partition keys whose changes are not in the stream.
    pub fn unstreamed(&self) -> &[String] {
        &self.table.unstreamed
    }

    /// Whether changes of an item are in the stream: a matter of its partition key.
    pub fn is_streamed(&self, item: &Doc) -> bool {
        let pk = text_bytes(item, PARTITION_KEY);
        !self.table.unstreamed.iter().any(|prefix| pk.starts_with(prefix.as_bytes()))
    }

    /// How many closed items wait for history.
    pub fn closed_waiting(&self) -> usize {
        self.closed.len()
    }

    /// What closed up to a sequence needs to be brought to history no more.
    pub fn note_historied(&mut self, seq: u64) {
        while self.closed.front().is_some_and(|(closed, _)| *closed <= seq) {
            self.closed.pop_front();
        }
    }

    /// Lets go of an item that history holds.
    pub fn archive(&mut self, pk: &str, sk: &str) {
        if let Some(slot) = self.slot_of(pk.as_bytes(), sk.as_bytes()) {
            self.remove(slot);
        }
    }

    /// How many items are in memory.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many items have each value of a listed index; values come in no particular order.
    pub fn counts(&self, attribute: &str) -> Vec<(String, usize)> {
        let index = self.indexes.iter().find(|i| i.index.attribute == attribute);
        index.map_or(Vec::new(), |index| index.counts.clone())
    }

    /// Under what an item is found and listed: attributes and values.
    pub fn indexed(&self, item: &Item) -> Vec<(String, String)> {
        let indexes = self.indexes.iter().filter(|index| !index.index.ordered);
        let values = indexes.filter_map(|index| {
            index.value(item).map(|value| (index.index.attribute.clone(), as_text(value)))
        });
        values.collect()
    }

    /// All items, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Item> {
        self.slots.iter()
    }

    /// The item in a slot; `None` for a free one, and past the end.
    pub fn in_slot(&self, slot: usize) -> Option<&Item> {
        self.slots.get(slot)
    }

    /// How many slots there are, free ones included.
    pub fn slot_count(&self) -> usize {
        self.slots.count()
    }

    /// Bytes of memory, estimated from what is stored.
    pub fn memory_bytes(&self) -> usize {
        let of_index =
            |index: &ItemIndex| index.listed.len() * 40 + index.partitioned * PARTITIONED_BYTES;
        let listed: usize = self.indexes.iter().map(of_index).sum();
        self.heap_bytes
            + self.slots.memory_bytes()
            + listed
            + self.len() * 12 * (1 + self.indexes.len())
    }

    fn at(&self, slot: u32) -> &Item {
        self.slots.get(slot as usize).expect("indexes point to items")
    }

    fn key_hash(&self, pk: &[u8], sk: &[u8]) -> u64 {
        self.hasher.hash_one((pk, sk))
    }

    fn slot_of(&self, pk: &[u8], sk: &[u8]) -> Option<u32> {
        let is = |slot| {
            let item = self.at(slot);
            item.sk() == sk && item.pk() == pk
        };
        self.by_key.find(self.key_hash(pk, sk), is)
    }

    fn insert(&mut self, item: Item) {
        let hash = self.key_hash(item.pk(), item.sk());
        self.heap_bytes += item.doc.heap_bytes();
        let slot = self.slots.add(item);
        self.by_key.insert(hash, slot);
        for index in &mut self.indexes {
            index.insert(&self.slots, &self.hasher, slot);
        }
        self.note_closed(slot);
    }

    fn replace(&mut self, slot: u32, item: Item) {
        let (old, created) = (self.at(slot).doc.clone(), self.at(slot).created);
        self.heap_bytes += item.doc.heap_bytes();
        self.heap_bytes -= old.heap_bytes();
        for at in 0..self.indexes.len() {
            let index = &self.indexes[at];
            let same =
                |a: Option<View<'_>>, b: Option<View<'_>>| a.map(View::bytes) == b.map(View::bytes);
            let name = &index.index.attribute;
            // Lists are ordered by creation, so another one is another place; a key stays.
            if index.index.ordered
                || !item.pk().starts_with(index.index.prefix.as_bytes())
                || (created == item.created && same(old.get(name), item.doc.get(name)))
            {
                continue;
            }
            self.indexes[at].remove(&self.slots, &self.hasher, slot);
            // The index is filled again below, when the slot holds the new item.
            self.indexes[at].stale = true;
        }
        self.slots.replace(slot, item);
        for index in self.indexes.iter_mut().filter(|index| index.stale) {
            index.stale = false;
            index.insert(&self.slots, &self.hasher, slot);
        }
        self.note_closed(slot);
    }

    fn remove(&mut self, slot: u32) {
        for index in &mut self.indexes {
            index.remove(&self.slots, &self.hasher, slot);
        }
        let Some(item) = self.slots.remove(slot) else { return };
        self.by_key.remove(self.key_hash(item.pk(), item.sk()), slot);
        self.heap_bytes -= item.doc.heap_bytes();
    }

    fn note_closed(&mut self, slot: u32) {
        let item = self.at(slot);
        let is_closed = self.table.closed.iter().any(|closed| {
            item.pk().starts_with(closed.prefix.as_bytes()) && closed.when.holds(Some(&item.doc))
        });
        if is_closed {
            self.closed.push_back((item.changed, slot));
        }
    }
}

impl ItemIndex {
    fn value<'a>(&self, item: &'a Item) -> Option<&'a [u8]> {
        let is_indexed = item.pk().starts_with(self.index.prefix.as_bytes());
        is_indexed.then(|| item.doc.get(&self.index.attribute)?.text_bytes())?
    }

    fn insert(&mut self, slots: &Slots<Item>, hasher: &DefaultHashBuilder, slot: u32) {
        let item = slots.get(slot as usize).expect("indexes point to items");
        let Some(value) = self.value(item) else { return };
        if self.index.ordered {
            return self.enter(item.pk(), value, slot);
        }
        let hash = hasher.hash_one(value);
        if self.index.unique {
            self.unique.insert(hash, slot);
        } else {
            self.listed.insert((hash, item.created), slot);
            count(&mut self.counts, value, 1);
        }
    }

    fn remove(&mut self, slots: &Slots<Item>, hasher: &DefaultHashBuilder, slot: u32) {
        let item = slots.get(slot as usize).expect("indexes point to items");
        let Some(value) = self.value(item) else { return };
        if self.index.ordered {
            return self.leave(item.pk(), value);
        }
        let hash = hasher.hash_one(value);
        if self.index.unique {
            self.unique.remove(hash, slot);
        } else {
            self.listed.remove(&(hash, item.created));
            count(&mut self.counts, value, -1);
        }
    }

    fn enter(&mut self, pk: &[u8], sk: &[u8], slot: u32) {
        let partition = match self.partitions.get_mut(pk) {
            Some(partition) => partition,
            None => self.partitions.entry(pk.into()).or_default(),
        };
        self.partitioned += usize::from(partition.insert(sk.into(), slot).is_none());
    }

    fn leave(&mut self, pk: &[u8], sk: &[u8]) {
        let Some(partition) = self.partitions.get_mut(pk) else { return };
        self.partitioned -= usize::from(partition.remove(sk).is_some());
        if partition.is_empty() {
            self.partitions.remove(pk);
        }
    }
}

fn count(counts: &mut Vec<(String, usize)>, value: &[u8], by: isize) {
    let full = counts.len() >= COUNTED_VALUES_MAX;
    match counts.iter_mut().find(|(counted, _)| counted.as_bytes() == value) {
        Some((_, count)) => *count = count.saturating_add_signed(by),
        None if !full => counts.push((as_text(value), usize::from(by > 0))),
        None => {}
    }
}

/// The text of an attribute as bytes, which need no check; empty when missing.
pub(crate) fn text_bytes<'a>(doc: &'a Doc, attribute: &str) -> &'a [u8] {
    doc.get(attribute).and_then(View::text_bytes).unwrap_or(b"")
}

fn as_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The text of an attribute; empty when missing.
pub(crate) fn text<'a>(doc: &'a Doc, attribute: &str) -> &'a str {
    doc.str(attribute).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wims_stack::table::Closed;
    use wims_stack::{Condition, Field, TableRef};

    fn items() -> Items {
        let index = |attribute: &str, unique| Index {
            attribute: attribute.into(),
            prefix: "CUSTOMER#".into(),
            unique,
            ordered: false,
        };
        let queued = Index {
            attribute: "sk".into(),
            prefix: "QUEUED#".into(),
            unique: false,
            ordered: true,
        };
        Items::new(Table {
            name: TableRef::new("WIMS"),
            unstreamed: Vec::new(),
            indexes: vec![index("orderId", true), index("status", false), queued],
            closed: vec![Closed {
                prefix: "CUSTOMER#".into(),
                when: Condition::is("status", "SHIPPED"),
            }],
        })
    }

    fn order(id: &str, status: &str) -> Doc {
        Doc::object(&[
            ("pk", Field::Str("CUSTOMER#1")),
            ("sk", Field::Str(id)),
            ("orderId", Field::Str(id)),
            ("status", Field::Str(status)),
        ])
    }

    #[test]
    fn items_are_found_by_key_and_id_and_listed_newest_first() {
        let mut items = items();
        for (seq, id) in ["a", "b", "c"].iter().enumerate() {
            let doc = order(id, "PENDING");
            items.set(&doc.clone(), Some(doc), seq as u64 + 1, seq as u64 + 1);
        }
        let moved = order("b", "READY");
        items.set(&moved.clone(), Some(moved), 2, 9);
        assert_eq!(items.find("orderId", "b").map(|item| item.changed), Some(9));
        let pending: Vec<_> =
            items.list("status", "PENDING", u64::MAX).map(|i| text(&i.doc, "sk")).collect();
        assert_eq!(pending, ["c", "a"]);
        assert_eq!(items.list("status", "PENDING", 3).count(), 1);
        items.set(&order("a", ""), None, 0, 10);
        assert!(items.get("CUSTOMER#1", "a").is_none());
        assert_eq!(items.len(), 2);
    }

    #[test]
    fn an_item_whose_creation_is_told_otherwise_is_listed_once_and_leaves_whole() {
        let mut items = items();
        let doc = order("a", "PENDING");
        items.set(&doc, Some(doc.clone()), 1, 1);
        items.set(&doc, Some(doc.clone()), 2, 2);
        assert_eq!(items.list("status", "PENDING", u64::MAX).count(), 1);
        items.set(&doc, None, 0, 3);
        assert_eq!(items.list("status", "PENDING", u64::MAX).count(), 0);
    }

    #[test]
    fn a_closed_item_leaves_memory_once_history_holds_it() {
        let mut items = items();
        let doc = order("a", "SHIPPED");
        items.set(&doc.clone(), Some(doc), 1, 5);
        assert_eq!(items.closed().count(), 1);
        items.note_historied(4);
        assert_eq!((items.len(), items.closed_waiting()), (1, 1));
        items.archive("CUSTOMER#1", "a");
        items.note_historied(5);
        assert_eq!((items.len(), items.closed_waiting()), (0, 0));
        assert!(items.find("orderId", "a").is_none());
    }

    fn queued(pk: &str, sk: &str) -> Doc {
        Doc::object(&[("pk", Field::Str(pk)), ("sk", Field::Str(sk))])
    }

    fn keys(items: &Items, pk: &str, after_sk: &str) -> Vec<String> {
        items.query(pk, after_sk).map(|item| item.key().1).collect()
    }

    #[test]
    fn a_partition_is_read_in_the_order_of_its_sort_key_whatever_came_when() {
        let mut items = items();
        for (seq, sk) in (1..).zip(["c", "a", "d", "b"]) {
            items.set(&queued("QUEUED#1", sk), Some(queued("QUEUED#1", sk)), seq, seq);
        }
        let other = queued("QUEUED#10", "a");
        items.set(&other, Some(other.clone()), 5, 5);
        // It changes, is told with another creation, as a sweep may, and leaves.
        let changed = queued("QUEUED#1", "b").with(&[("quantity", Some(Field::Int(3)))]);
        items.set(&changed, Some(changed.clone()), 9, 9);
        assert_eq!(keys(&items, "QUEUED#1", ""), ["a", "b", "c", "d"]);
        assert_eq!(items.query("QUEUED#1", "a").next().map(|item| &item.doc), Some(&changed));
        assert_eq!(keys(&items, "QUEUED#1", "bb"), ["c", "d"]);
        assert_eq!(keys(&items, "QUEUED#10", ""), ["a"]);
        items.set(&queued("QUEUED#1", "a"), None, 0, 10);
        items.archive("QUEUED#1", "c");
        assert_eq!(keys(&items, "QUEUED#1", ""), ["b", "d"]);
        ["b", "d"].iter().for_each(|sk| items.archive("QUEUED#1", sk));
        assert_eq!(keys(&items, "QUEUED#1", "").len(), 0);
        let index = &items.indexes[2];
        assert_eq!((index.partitions.len(), index.partitioned), (1, 1), "what left is gone");
    }

    #[test]
    #[should_panic(expected = "under a declared prefix")]
    fn a_partition_under_no_declared_prefix_is_not_taken_for_an_empty_one() {
        let _ = items().query("CUSTOMER#1", "").next();
    }
}
