//! `DocWriter`: appends values in canonical bytes, and merges changes into a map.

use rust_decimal::Decimal;

use super::map::{MapView, Marked, mark, split};
use super::{
    DECIMAL, Doc, FALSE, Field, INTEGER, LIST, MAP, MAP_BYTES_MAX, NULL, STRING, TRUE, View,
    WIDE_MAP,
};

/// Appends one value in canonical bytes.
#[derive(Default)]
pub struct DocWriter {
    bytes: Vec<u8>,
    /// Where the attributes of the map being written begin.
    base: usize,
    /// Where the attributes of the maps being written start behind their bases, two bytes each.
    /// Of a map too wide for a table they are wrong, and dropped.
    starts: Vec<u8>,
    /// Their marks.
    marks: Vec<u8>,
}

impl DocWriter {
    pub(super) const fn new() -> DocWriter {
        DocWriter { bytes: Vec::new(), base: 0, starts: Vec::new(), marks: Vec::new() }
    }

    pub(super) fn build(&mut self, write: impl FnOnce(&mut DocWriter)) -> Doc {
        self.bytes.clear();
        self.starts.clear();
        self.marks.clear();
        write(self);
        Doc::from_slice(&self.bytes)
    }

    /// JSON null.
    pub fn null(&mut self) {
        self.bytes.push(NULL);
    }

    /// JSON true or false.
    pub fn bool(&mut self, value: bool) {
        self.bytes.push(if value { TRUE } else { FALSE });
    }

    /// A whole number.
    pub fn int(&mut self, value: i64) {
        self.bytes.push(INTEGER);
        write_varint(&mut self.bytes, zigzag(value));
    }

    /// A number, normalised: `5.0` is `5`.
    pub fn number(&mut self, value: Decimal) {
        let value = value.normalize();
        match i64::try_from(value.mantissa()) {
            Ok(whole) if value.scale() == 0 => self.int(whole),
            _ => {
                self.bytes.push(DECIMAL);
                self.bytes.push(value.scale() as u8);
                self.bytes.extend_from_slice(&value.mantissa().to_le_bytes());
            }
        }
    }

    /// Text.
    pub fn str(&mut self, value: &str) {
        self.bytes.push(STRING);
        write_varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value.as_bytes());
    }

    /// A value that is a document already.
    pub fn view(&mut self, value: View<'_>) {
        self.bytes.extend_from_slice(value.bytes);
    }

    /// The value of one attribute.
    pub fn field(&mut self, field: Field<'_>) {
        match field {
            Field::Null => self.null(),
            Field::Bool(value) => self.bool(value),
            Field::Int(value) => self.int(value),
            Field::Number(value) => self.number(value),
            Field::Str(value) => self.str(value),
            Field::View(value) => self.view(value),
        }
    }

    /// A list; `write` appends its elements.
    pub fn list(&mut self, write: impl FnOnce(&mut DocWriter)) {
        let at = self.begin(LIST);
        write(self);
        self.end(at);
    }

    /// A map; `write` appends attributes with [`DocWriter::entry`] in ascending order of names.
    pub fn map(&mut self, write: impl FnOnce(&mut DocWriter)) {
        let (at, outer) = (self.begin(MAP), self.marks.len());
        let outer_base = std::mem::replace(&mut self.base, at + 4);
        write(self);
        if self.bytes.len() - self.base > MAP_BYTES_MAX {
            self.bytes[at - 1] = WIDE_MAP;
        } else {
            let count = (self.marks.len() - outer) as u16;
            self.bytes.extend_from_slice(&self.starts[2 * outer..]);
            self.bytes.extend_from_slice(&self.marks[outer..]);
            self.bytes.extend_from_slice(&count.to_le_bytes());
        }
        self.base = outer_base;
        self.starts.truncate(2 * outer);
        self.marks.truncate(outer);
        self.end(at);
    }

    /// The name of an attribute inside [`DocWriter::map`]; its value must follow.
    ///
    /// # Panics
    /// When the name is longer than [`KEY_BYTES_MAX`](super::KEY_BYTES_MAX).
    #[inline]
    pub fn key(&mut self, name: &str) {
        self.raw_key(name.as_bytes(), mark(name.as_bytes()));
    }

    fn raw_key(&mut self, name: &[u8], mark: u8) {
        let start = (self.bytes.len() - self.base) as u16;
        self.starts.extend_from_slice(&start.to_le_bytes());
        self.marks.push(mark);
        self.bytes.push(u8::try_from(name.len()).expect("attribute names are at most 255 bytes"));
        self.bytes.extend_from_slice(name);
    }

    /// An attribute inside [`DocWriter::map`].
    pub fn entry(&mut self, name: &str, field: Field<'_>) {
        self.key(name);
        self.field(field);
    }

    /// A map of attributes given in any order, each name once.
    pub fn object(&mut self, fields: &[(&str, Field<'_>)]) {
        if fields.is_sorted_by(|a, b| a.0 < b.0) {
            return self.map(|w| fields.iter().for_each(|(name, field)| w.entry(name, *field)));
        }
        let mut sorted = fields.to_vec();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        assert!(sorted.is_sorted_by(|a, b| a.0 < b.0), "an attribute is given once");
        self.map(|w| sorted.iter().for_each(|(name, field)| w.entry(name, *field)));
    }

    pub(super) fn merge(&mut self, map: View<'_>, changes: &[(&str, Option<Field<'_>>)]) {
        match map.bytes[0] {
            MAP => self.merge_marked(&Marked::of(map.bytes), changes),
            _ => self.merge_wide(MapView::of(map.bytes), changes),
        }
    }

    /// What lies between two changed attributes is copied in one piece.
    fn merge_marked(&mut self, map: &Marked<'_>, changes: &[(&str, Option<Field<'_>>)]) {
        self.map(|w| {
            let mut from = 0;
            for (name, field) in changes {
                let (to, next) = match map.position(name.as_bytes()) {
                    Ok(at) => (at, at + 1),
                    Err(at) => (at, at),
                };
                w.entries(map, from, to);
                w.optional(name, *field);
                from = next;
            }
            w.entries(map, from, map.count);
        });
    }

    fn entries(&mut self, map: &Marked<'_>, from: usize, to: usize) {
        let (start, here) = (map.start(from), self.bytes.len() - self.base);
        if here == start {
            self.starts.extend_from_slice(map.starts(from, to));
        } else {
            for index in from..to {
                let moved = (here + map.start(index) - start) as u16;
                self.starts.extend_from_slice(&moved.to_le_bytes());
            }
        }
        self.marks.extend_from_slice(map.marks(from, to));
        self.bytes.extend_from_slice(&map.entries()[start..map.start(to)]);
    }

    fn merge_wide(&mut self, mut map: MapView<'_>, changes: &[(&str, Option<Field<'_>>)]) {
        self.map(|w| {
            let mut changes = changes.iter().peekable();
            while let Some((name, value)) = map.next_raw().map(split) {
                while let Some((new, field)) = changes.next_if(|c| c.0.as_bytes() < name) {
                    w.optional(new, *field);
                }
                match changes.next_if(|change| change.0.as_bytes() == name) {
                    Some((name, field)) => w.optional(name, *field),
                    None => {
                        w.raw_key(name, mark(name));
                        w.view(value);
                    }
                }
            }
            changes.for_each(|(name, field)| w.optional(name, *field));
        });
    }

    fn optional(&mut self, name: &str, field: Option<Field<'_>>) {
        if let Some(field) = field {
            self.entry(name, field);
        }
    }

    /// Begins a list or map; its length is filled in at the end.
    fn begin(&mut self, tag: u8) -> usize {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.len() - 4
    }

    fn end(&mut self, at: usize) {
        let len = u32::try_from(self.bytes.len() - at - 4).expect("far below 4 GiB");
        self.bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Appends an unsigned number, seven bits a byte, least significant first.
pub fn write_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
