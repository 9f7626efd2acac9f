//! Keys of requests: what a repeated request is known by.
//!
//! Promise: of all requests with one key only the first takes effect, for a day and through every
//! crash: its key is recorded in the frame of what it wrote. A key is kept as hashes beside the id
//! the first request got, from which its answer is made again; no answer is stored. When there is
//! no room a new key is refused, and none is forgotten early. It deliberately does not know what a
//! key is of: that is the route's.

use std::collections::VecDeque;

use ring::digest::{Context, SHA256};
use wims_stack::Doc;

use crate::engine::{Cause, Engine};
use crate::functions::{Refusal, RefusalKind};
use crate::io::Answer;
use crate::record::Record;
use crate::slots::SlotTable;
use crate::trace::TraceId;

/// Keys kept unless configured otherwise: 46 requests a second, in 256 MB.
pub const KEYS_MAX: usize = 4_000_000;
/// So long a key is kept.
pub const KEY_LIFE_MS: u64 = 86_400_000;
/// Bytes of a key in a record.
pub(crate) const KEYED_BYTES: usize = 48;
/// Keys a chunk has.
const CHUNK: usize = 4_096;
/// Bytes of memory of a key's place in the table: its share of what is free included.
const PLACE_BYTES: usize = 16;
/// Keys forgotten in one step, at most: more than the requests that fit its frame.
const FORGOTTEN_MAX: usize = 1_024;
/// Who finds no room is told to come back within this.
const RETRY_AFTER_MAX_S: u64 = 3_600;

const KEYS_FULL: &str = "no more idempotency keys can be kept; requests without one are taken";
const OTHER_BODY: &str =
    "this idempotency key belongs to another request; a new one needs a key of its own";

/// A request's key and what it asks for, as hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Of scope, route and key.
    pub hash: u128,
    /// Of the arguments.
    pub body: u64,
}

impl RequestKey {
    /// The key that a request through `route` has, told within `scope`. Both hashes are parts of a
    /// SHA-256: nobody finds a key that is taken for another one's, and they are the same in every
    /// version that reads the same arguments.
    pub fn of(scope: &[u8], route: &str, key: &[u8], arguments: &Doc) -> RequestKey {
        let mut context = Context::new(&SHA256);
        for part in [scope, route.as_bytes(), key] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let hash = u128::from_le_bytes(beginning(context));
        let mut context = Context::new(&SHA256);
        context.update(arguments.bytes());
        RequestKey { hash, body: u64::from_le_bytes(beginning(context)) }
    }
}

/// The first bytes of a hash.
fn beginning<const N: usize>(context: Context) -> [u8; N] {
    let digest = context.finish();
    let bytes: &[u8] = digest.as_ref();
    bytes[..N].try_into().expect("a SHA-256 has 32 bytes")
}

/// A key that was used; see [`Record::Keyed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keyed {
    /// When it is forgotten, in clock milliseconds.
    pub expires_ms: u64,
    /// Of scope, route and key.
    pub hash: u128,
    /// Of the arguments.
    pub body: u64,
    /// The id that the request got.
    pub id: u128,
}

impl Keyed {
    /// Appends it to a record.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.hash.to_le_bytes());
        to.extend_from_slice(&self.id.to_le_bytes());
        to.extend_from_slice(&self.body.to_le_bytes());
        to.extend_from_slice(&self.expires_ms.to_le_bytes());
    }

    /// What was written.
    pub(crate) fn read(bytes: &[u8]) -> Option<Keyed> {
        let (hash, rest) = bytes.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (body, rest) = rest.split_first_chunk()?;
        Some(Keyed {
            hash: u128::from_le_bytes(*hash),
            id: u128::from_le_bytes(*id),
            body: u64::from_le_bytes(*body),
            expires_ms: u64::from_le_bytes(rest.try_into().ok()?),
        })
    }

    /// Whether it is still kept; what has expired may linger in memory.
    pub(crate) fn is_live(&self, clock_ms: u64) -> bool {
        self.expires_ms > clock_ms
    }
}

/// Keys in the order in which they expire, each with a number that stays while it is there.
#[derive(Default)]
pub(crate) struct Keys {
    /// All but the last chunk are full.
    chunks: VecDeque<Vec<Keyed>>,
    /// Keys of the first chunk that are gone.
    gone: usize,
    len: usize,
    /// The oldest key's number.
    first: u64,
    /// By hash, the low 32 bits of its number.
    places: SlotTable,
    /// A key expires before one that stands in front of it.
    is_disordered: bool,
}

impl Keys {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The number that the next key gets.
    pub fn end(&self) -> u64 {
        self.first + self.len as u64
    }

    /// Takes a key that was used. One that is known stays: a sweep has written it again. Of one
    /// that was used anew after it had expired, the newer counts.
    pub fn set(&mut self, keyed: Keyed) {
        if let Some(slot) = self.slot_of(keyed.hash) {
            if self.at(slot).expires_ms >= keyed.expires_ms {
                return;
            }
            self.places.remove(low(keyed.hash), slot);
        }
        let last_ms = self.chunks.back().and_then(|chunk| chunk.last()).map(|last| last.expires_ms);
        self.is_disordered |= last_ms.is_some_and(|last_ms| last_ms > keyed.expires_ms);
        self.places.insert(low(keyed.hash), self.end() as u32);
        if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push_back(Vec::with_capacity(CHUNK));
        }
        self.chunks.back_mut().expect("a chunk was added").push(keyed);
        self.len += 1;
    }

    /// The key with this hash.
    pub fn get(&self, hash: u128) -> Option<&Keyed> {
        self.slot_of(hash).map(|slot| self.at(slot))
    }

    /// The one that expires first.
    pub fn oldest(&self) -> Option<&Keyed> {
        (self.len > 0).then(|| self.at(self.first as u32))
    }

    /// Keys from a number on, with their numbers.
    pub fn from(&self, number: u64) -> impl Iterator<Item = (u64, &Keyed)> {
        let numbers = number.max(self.first)..self.end();
        numbers.map(|number| (number, self.at(number as u32)))
    }

    /// Forgets what has expired, but at most so many.
    pub fn forget(&mut self, clock_ms: u64, at_most: usize) {
        for _ in 0..at_most {
            let Some(oldest) = self.oldest().filter(|oldest| !oldest.is_live(clock_ms)) else {
                return;
            };
            let hash = low(oldest.hash);
            self.places.remove(hash, self.first as u32);
            self.first += 1;
            self.len -= 1;
            self.gone += 1;
            if self.gone == CHUNK {
                self.chunks.pop_front();
                self.gone = 0;
            }
        }
    }

    /// Puts them into their order, for a life that begins: a recovery meets what a sweep has
    /// written again between what was new then.
    pub fn sort(&mut self, clock_ms: u64) {
        if !self.is_disordered {
            self.forget(clock_ms, usize::MAX);
            return;
        }
        let all = std::mem::take(self);
        let live = all.from(0).map(|(_, keyed)| *keyed).filter(|keyed| keyed.is_live(clock_ms));
        let mut live: Vec<Keyed> = live.collect();
        live.sort_unstable();
        live.into_iter().for_each(|keyed| self.set(keyed));
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Keyed>() + self.len * PLACE_BYTES
    }

    fn slot_of(&self, hash: u128) -> Option<u32> {
        self.places.find(low(hash), |slot| self.at(slot).hash == hash)
    }

    fn at(&self, slot: u32) -> &Keyed {
        let at = self.gone + slot.wrapping_sub(self.first as u32) as usize;
        &self.chunks[at / CHUNK][at % CHUNK]
    }
}

/// The part of a hash that a table needs.
fn low(hash: u128) -> u64 {
    hash as u64
}

impl Engine {
    /// The id that the first request with this key got; `None` when this is the first.
    ///
    /// # Errors
    /// The answer, when the key is that of another request or there is no room for it.
    pub(crate) fn first_with(&self, key: &RequestKey) -> Result<Option<u128>, Answer> {
        let (keys, clock_ms) = (&self.state.keys, self.state.clock_ms);
        match keys.get(key.hash).filter(|keyed| keyed.is_live(clock_ms)) {
            Some(keyed) if keyed.body == key.body => Ok(Some(keyed.id)),
            Some(_) => {
                let (kind, detail) = (RefusalKind::KeyReused, OTHER_BODY.into());
                Err(Answer::Refused(Refusal { kind, detail }))
            }
            None if keys.len() >= self.options.keys_max => {
                let free_at_ms = keys.oldest().map_or(0, |oldest| oldest.expires_ms);
                let free_in_s = free_at_ms.saturating_sub(clock_ms).div_ceil(1_000);
                let retry_after_s = free_in_s.clamp(1, RETRY_AFTER_MAX_S);
                Err(Answer::Full { retry_after_s, reason: KEYS_FULL })
            }
            None => Ok(None),
        }
    }

    /// Records that a request got this id, in the frame of what it wrote.
    pub(crate) fn record_key(&mut self, key: &RequestKey, id: u128, trace: Option<TraceId>) {
        let expires_ms = self.state.clock_ms + KEY_LIFE_MS;
        let keyed = Keyed { expires_ms, hash: key.hash, body: key.body, id };
        if self.options.bugs.late_keys.is_on() {
            self.late_keys.push((keyed, trace));
        } else {
            self.emit(Cause::of_trace(trace), Record::Keyed(keyed));
        }
    }

    /// The planted bug: records the keys of the step before.
    pub(crate) fn record_late_keys(&mut self) {
        for (keyed, trace) in std::mem::take(&mut self.late_keys) {
            self.emit(Cause::of_trace(trace), Record::Keyed(keyed));
        }
    }

    /// Forgets keys whose time is over, some of them.
    pub(crate) fn forget_keys(&mut self) {
        self.state.keys.forget(self.state.clock_ms, FORGOTTEN_MAX);
    }
}

#[cfg(test)]
mod tests;
