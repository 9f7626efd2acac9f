//! Digests: what of the state must be the same after a recovery, as one hash a part.
//!
//! Promise: two states of one journal that end at the same frame have equal digests, whatever
//! sweeps, evictions and passing time made of their insides; states that differ in an effect
//! differ in a digest. Deliberately left out: the clock itself, the sequence of an item's last
//! change (a sweep writes it anew), closed items (which of them wait for history is no effect),
//! and services and keys that have expired.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};

use wims_stack::Doc;
use wims_stack::table::{PARTITION_KEY, SORT_KEY};

use crate::engine::Engine;
use crate::fnv::Fnv;
use crate::items::{Item, text};
use crate::keys::Keyed;
use crate::state::{Execution, State};

/// A state as hashes of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    parts: Vec<(String, u64)>,
}

impl Digest {
    /// Names of the parts that differ, missing ones included.
    pub fn differences(&self, other: &Digest) -> Vec<String> {
        let lacks = |digest: &Digest, part: &(String, u64)| !digest.parts.contains(part);
        let mine = self.parts.iter().filter(|part| lacks(other, part));
        let theirs = other.parts.iter().filter(|part| lacks(self, part));
        let names: BTreeSet<&String> = mine.chain(theirs).map(|(name, _)| name).collect();
        names.into_iter().cloned().collect()
    }
}

/// A part a line: its hash and its name.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|(name, hash)| writeln!(f, "{hash:016x} {name}"))
    }
}

impl Engine {
    /// The digest of the engine's state.
    pub fn digest(&self) -> Digest {
        self.state.digest()
    }

    /// The last sequence given out, durable or not.
    pub fn last_seq(&self) -> u64 {
        self.journal.next_seq() - 1
    }
}

impl State {
    /// The digest of everything that must survive a crash.
    pub fn digest(&self) -> Digest {
        let tables = self.table_numbers().map(|number| (number, hash_items(self, number)));
        let queues = self.queue_numbers().map(|number| (number, hash_messages(self, number)));
        let name = |number: u16| self.names[usize::from(number)].clone().unwrap_or_default();
        let resources = tables.chain(queues).map(|(number, hash)| (name(number), hash));
        let others = [
            ("names", hashed(|to| self.names.hash(to))),
            ("cursors", hashed(|to| self.cursors.hash(to))),
            ("stream", hash_stream(self)),
            ("executions", hash_executions(self)),
            ("paced", hash_paced(self)),
            ("served", hash_served(self)),
            ("keys", hash_keys(self)),
            ("ids", hashed(|to| self.last_id.hash(to))),
            ("history", hashed(|to| self.historied.hash(to))),
            ("sweep", hashed(|to| self.swept.hash(to))),
            ("sequence", hashed(|to| self.seq.hash(to))),
        ];
        let others = others.into_iter().map(|(name, hash)| (name.to_owned(), hash));
        Digest { parts: resources.chain(others).collect() }
    }
}

/// Digests are committed beside golden journals, so the hash is one that stays.
fn hashed(write: impl FnOnce(&mut Fnv)) -> u64 {
    let mut hasher = Fnv::default();
    write(&mut hasher);
    hasher.finish()
}

fn hash_doc(doc: Option<&Doc>, to: &mut Fnv) {
    doc.map(Doc::bytes).hash(to);
}

fn key(item: &Item) -> (&str, &str) {
    (text(&item.doc, PARTITION_KEY), text(&item.doc, SORT_KEY))
}

fn hash_items(state: &State, table: u16) -> u64 {
    let items = state.table(table);
    let closed: BTreeSet<_> = items.closed().map(key).collect();
    let mut open: Vec<&Item> = items.iter().filter(|item| !closed.contains(&key(item))).collect();
    open.sort_by(|a, b| key(a).cmp(&key(b)));
    hashed(|to| {
        for item in open {
            hash_doc(Some(&item.doc), to);
            item.created.hash(to);
        }
    })
}

fn hash_messages(state: &State, queue: u16) -> u64 {
    hashed(|to| {
        for (id, message) in state.queue(queue).from(0) {
            // A message whose time has come is held by nobody, noticed or not.
            let held = message.held && message.visible_at_ms > state.clock_ms;
            (id, message.sent_ms, message.visible_at_ms).hash(to);
            (message.receives, message.attempts, held, message.trace).hash(to);
            hash_doc(Some(&message.body), to);
            hash_doc(message.attributes.as_deref(), to);
        }
    })
}

/// Changes some declared consumer has not seen; those all have seen may linger until the next
/// cursor.
fn hash_stream(state: &State) -> u64 {
    let seen_by_all = state.seen_by_all();
    hashed(|to| {
        for change in state.stream.iter().filter(|change| change.seq > seen_by_all) {
            (change.seq, change.replay, change.trace, change.table).hash(to);
            hash_doc(change.old.as_ref(), to);
            hash_doc(change.new.as_ref(), to);
        }
    })
}

fn hash_executions(state: &State) -> u64 {
    hashed(|to| {
        for Execution { waiting, trace } in state.executions.values() {
            (waiting.id, waiting.workflow, waiting.wake_at_ms, &waiting.position).hash(to);
            trace.hash(to);
            hash_doc(Some(&waiting.event), to);
        }
    })
}

fn hash_paced(state: &State) -> u64 {
    hashed(|to| {
        for paced in state.paced.values() {
            (paced.pipe, paced.rate_milli, paced.paused_until_ms).hash(to);
            (paced.unknowns, paced.misdirected).hash(to);
        }
    })
}

/// A sweep forgets services that have expired, a recovery from before it does not.
fn hash_served(state: &State) -> u64 {
    hashed(|to| {
        for served in state.served.iter().filter(|(_, until_ms)| **until_ms > state.clock_ms) {
            served.hash(to);
        }
    })
}

/// In whatever order they are in memory: a recovery meets them in another one.
fn hash_keys(state: &State) -> u64 {
    let all = state.keys.from(0).map(|(_, keyed)| *keyed);
    let mut live: Vec<Keyed> = all.filter(|keyed| keyed.is_live(state.clock_ms)).collect();
    live.sort_unstable();
    hashed(|to| live.hash(to))
}
