//! The attributes of a map, found by name, walked, and compared with another map's.
//!
//! Promise: an attribute is found without reading those before it. It deliberately checks nothing:
//! bytes become a document only once they are checked.

use std::cmp::Ordering;

use super::{MAP, View, checked_str, value_len};

/// The attributes of a map, in ascending order of their names.
#[derive(Clone, Copy)]
pub struct MapView<'a> {
    rest: &'a [u8],
}

impl<'a> MapView<'a> {
    /// The bytes of the next attribute.
    #[inline]
    pub(super) fn next_raw(&mut self) -> Option<&'a [u8]> {
        let name_len = 1 + usize::from(*self.rest.first()?);
        let (raw, rest) = self.rest.split_at(name_len + value_len(&self.rest[name_len..]));
        self.rest = rest;
        Some(raw)
    }

    /// Whether a name has this byte in it.
    pub(super) fn has_name_with(mut self, byte: u8) -> bool {
        std::iter::from_fn(|| self.next_raw()).any(|raw| split(raw).0.contains(&byte))
    }

    pub(super) fn of(map: &'a [u8]) -> MapView<'a> {
        let rest = if map[0] == MAP { Marked::of(map).entries() } else { &map[5..] };
        MapView { rest }
    }
}

impl<'a> Iterator for MapView<'a> {
    type Item = (&'a str, View<'a>);

    fn next(&mut self) -> Option<(&'a str, View<'a>)> {
        self.next_raw().map(split).map(|(name, value)| (checked_str(name), value))
    }
}

/// A [`MAP`] taken apart; the number of its attributes stands at its end.
pub(super) struct Marked<'a> {
    map: &'a [u8],
    pub(super) count: usize,
    /// Where the starts of the attributes are, two bytes each; the [`mark`]s follow.
    starts_at: usize,
}

impl<'a> Marked<'a> {
    #[inline]
    pub(super) fn of(map: &'a [u8]) -> Marked<'a> {
        let count = map.last_chunk().map_or(0, |count| usize::from(u16::from_le_bytes(*count)));
        Marked { map, count, starts_at: map.len() - 2 - 3 * count }
    }

    /// Starts of some attributes, as they are stored.
    pub(super) fn starts(&self, from: usize, to: usize) -> &'a [u8] {
        &self.map[self.starts_at + 2 * from..self.starts_at + 2 * to]
    }

    /// Marks of some attributes.
    pub(super) fn marks(&self, from: usize, to: usize) -> &'a [u8] {
        let marks_at = self.starts_at + 2 * self.count;
        &self.map[marks_at + from..marks_at + to]
    }

    /// All attributes, one behind the other.
    #[inline]
    pub(super) fn entries(&self) -> &'a [u8] {
        &self.map[5..self.starts_at]
    }

    /// Where an attribute starts in [`Marked::entries`]; behind the last one, where they end.
    #[inline]
    pub(super) fn start(&self, index: usize) -> usize {
        if index == self.count {
            return self.starts_at - 5;
        }
        let at = self.starts_at + 2 * index;
        u16::from_le_bytes([self.map[at], self.map[at + 1]]) as usize
    }

    /// The bytes of an attribute: length of the name, name, value.
    #[inline]
    fn raw(&self, index: usize) -> &'a [u8] {
        // Two starts at once; behind the last one there are marks.
        let starts = self.map[self.starts_at + 2 * index..].first_chunk::<4>();
        let [a, b, c, d] = *starts.expect("a start is followed by a mark and the count");
        let (from, to) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let to = if index + 1 == self.count { self.starts_at } else { 5 + usize::from(to) };
        &self.map[5 + usize::from(from)..to]
    }

    #[inline]
    pub(super) fn entry(&self, index: usize) -> (&'a [u8], View<'a>) {
        split(self.raw(index))
    }

    /// The number and value of the attribute of this name, whose mark is given. Names with another
    /// mark are passed over without being read, eight at a time from the last one on; items are
    /// small, so this is faster than bisection.
    fn find(&self, name: &[u8], mark: u8) -> Option<(usize, View<'a>)> {
        let wanted = u64::from_ne_bytes([mark; 8]);
        let (mut end, mut left) = (self.map.len() - 2, self.count);
        while left > 0 {
            let chunk = self.map[..end].last_chunk().expect("a map is longer than eight bytes");
            let mut hits = zero_bytes(u64::from_le_bytes(*chunk) ^ wanted);
            if left < 8 {
                // What lies before the first mark is none.
                hits &= u64::MAX << (8 * (8 - left));
            }
            while hits != 0 {
                let index = left + hits.trailing_zeros() as usize / 8 - 8;
                let (key, value) = self.entry(index);
                if is_same(key, name) {
                    return Some((index, value));
                }
                hits &= hits - 1;
            }
            (end, left) = (end - 8, left.saturating_sub(8));
        }
        None
    }

    /// Where the attribute of this name is, or would be.
    pub(super) fn position(&self, name: &[u8]) -> Result<usize, usize> {
        if let Some((index, _)) = self.find(name, mark(name)) {
            return Ok(index);
        }
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.entry(middle).0.cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }
}

/// The highest bit of each byte that is zero.
#[inline]
fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    !(((word & LOW) + LOW) | word | LOW)
}

/// Whether names are the same; most have 4 to 16 bytes and need no call.
#[inline]
pub(crate) fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() || a.len() > 16 {
        return a == b;
    }
    same_ends::<8>(a, b).or_else(|| same_ends::<4>(a, b)).unwrap_or_else(|| a.iter().eq(b))
}

/// Whether the first and the last `N` bytes are the same; `None` when there are fewer.
#[inline]
fn same_ends<const N: usize>(a: &[u8], b: &[u8]) -> Option<bool> {
    let firsts = a.first_chunk::<N>()? == b.first_chunk()?;
    Some(firsts && a.last_chunk::<N>()? == b.last_chunk()?)
}

/// A byte that tells most names apart.
#[inline]
pub(super) fn mark(name: &[u8]) -> u8 {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return 0 };
    let middle = name[name.len() / 2];
    let sum = first.wrapping_add(last.rotate_left(2)).wrapping_add(middle.rotate_left(4));
    sum.wrapping_add((name.len() as u8).wrapping_mul(37))
}

/// Apart from [`View::get`], so that the mark of a name known when compiling is known then.
pub(super) fn look_through<'a>(map: &'a [u8], name: &[u8], mark: u8) -> Option<View<'a>> {
    Marked::of(map).find(name, mark).map(|(_, value)| value)
}

/// The attributes of a map by their number.
enum Attributes<'a> {
    Marked(Marked<'a>),
    Wide(Vec<&'a [u8]>),
}

impl<'a> Attributes<'a> {
    fn of(map: View<'a>) -> Attributes<'a> {
        if map.bytes[0] == MAP {
            return Attributes::Marked(Marked::of(map.bytes));
        }
        let mut map = map.as_map().expect("only a map has attributes");
        Attributes::Wide(std::iter::from_fn(|| map.next_raw()).collect())
    }

    #[inline]
    fn raw(&self, index: usize) -> Option<&'a [u8]> {
        match self {
            Attributes::Marked(map) => (index < map.count).then(|| map.raw(index)),
            Attributes::Wide(raws) => raws.get(index).copied(),
        }
    }
}

/// The name and value of an attribute.
#[inline]
pub(super) fn split(raw: &[u8]) -> (&[u8], View<'_>) {
    let (name, bytes) = raw[1..].split_at(usize::from(raw[0]));
    (name, View { bytes })
}

/// See [`View::differences`].
pub(super) fn differences<'a>(
    here: View<'a>,
    there: View<'a>,
    mut each: impl FnMut(&'a str, Option<View<'a>>, Option<View<'a>>),
) {
    let (here, there) = (Attributes::of(here), Attributes::of(there));
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (here.raw(i), there.raw(j)) {
        if a == b {
            (i, j) = (i + 1, j + 1);
            continue;
        }
        let ((name, value), (other_name, other_value)) = (split(a), split(b));
        let order = name.cmp(other_name);
        match order {
            Ordering::Less => each(checked_str(name), Some(value), None),
            Ordering::Equal => each(checked_str(name), Some(value), Some(other_value)),
            Ordering::Greater => each(checked_str(other_name), None, Some(other_value)),
        }
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    for (name, value) in (i..).map_while(|i| here.raw(i)).map(split) {
        each(checked_str(name), Some(value), None);
    }
    for (name, value) in (j..).map_while(|j| there.raw(j)).map(split) {
        each(checked_str(name), None, Some(value));
    }
}
