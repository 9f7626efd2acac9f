//! `Doc`: a JSON value as canonical bytes, the one form items, events and messages have inside.
//!
//! Promise: equal values have equal bytes (maps are sorted by key, numbers normalised), so an
//! image can be compared, journalled and shared between consumers without being parsed again.
//! A `Doc` is cheap to clone: parts of one buffer share it.
//! It deliberately does not keep the order in which keys were written, as DynamoDB does not.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rust_decimal::Decimal;

mod map;
mod writer;

pub use map::MapView;
pub(crate) use map::is_same;
use map::{Marked, look_through, mark};
pub use writer::{DocWriter, write_varint};

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INTEGER: u8 = 3;
const DECIMAL: u8 = 4;
const STRING: u8 = 5;
const LIST: u8 = 6;
/// A map: length, attributes, then a table of where each attribute starts and of a byte made from
/// its name, so that others are passed over without being read.
const MAP: u8 = 7;
/// A map whose attributes take more bytes than the table's offsets can say; it has none.
const WIDE_MAP: u8 = 8;
/// The most bytes the attributes of a [`MAP`] take.
const MAP_BYTES_MAX: usize = u16::MAX as usize;

/// The deepest nesting of lists and maps; a bound for recursion, far above any item of ours.
pub const DEPTH_MAX: usize = 64;
/// The longest attribute name in bytes; its length is one byte.
pub const KEY_BYTES_MAX: usize = 255;

/// One value in canonical bytes, sharing its buffer with whatever it was taken from.
#[derive(Clone)]
pub struct Doc {
    buffer: Arc<[u8]>,
    start: u32,
    end: u32,
}

/// A borrowed value inside a [`Doc`].
#[derive(Clone, Copy)]
pub struct View<'a> {
    bytes: &'a [u8],
}

/// What a [`View`] is, one level deep.
pub enum Kind<'a> {
    /// JSON null.
    Null,
    /// JSON true or false.
    Bool(bool),
    /// An exact decimal number.
    Number(Decimal),
    /// Text.
    Str(&'a str),
    /// A list of values.
    List(ListView<'a>),
    /// Attributes in ascending order of their names.
    Map(MapView<'a>),
}

/// The value of one attribute while a document is built.
#[derive(Clone, Copy)]
pub enum Field<'a> {
    /// JSON null.
    Null,
    /// JSON true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// An exact decimal number.
    Number(Decimal),
    /// Text.
    Str(&'a str),
    /// A value that already is a document or a part of one.
    View(View<'a>),
}

/// Bytes that are not a document, met when reading a journal or a message from outside.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a document at byte {at}: {what}")]
pub struct DocError {
    /// Offset of the byte where reading stopped.
    pub at: usize,
    /// What was expected there.
    pub what: &'static str,
}

thread_local! {
    /// Documents are built here and copied once into their shared buffer.
    static SCRATCH: RefCell<DocWriter> = const { RefCell::new(DocWriter::new()) };
}

impl Doc {
    /// Builds a document with `write`, which must leave exactly one value in the writer.
    pub fn build(write: impl FnOnce(&mut DocWriter)) -> Doc {
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut writer) => writer.build(write),
            // A document built while another one is.
            Err(_) => DocWriter::new().build(write),
        })
    }

    /// A map of the given attributes; they may stand in any order, each name once.
    pub fn object(fields: &[(&str, Field<'_>)]) -> Doc {
        Doc::build(|w| w.object(fields))
    }

    /// Text as a document.
    pub fn text(text: &str) -> Doc {
        Doc::build(|w| w.str(text))
    }

    /// Checks `bytes` and takes them as one document.
    ///
    /// # Errors
    /// When the bytes are not exactly one canonical value.
    pub fn from_bytes(bytes: &[u8]) -> Result<Doc, DocError> {
        let end = check_value(bytes, 0, 0)?;
        if end != bytes.len() {
            return Err(DocError { at: end, what: "nothing after the value" });
        }
        Ok(Doc::from_slice(bytes))
    }

    fn from_slice(bytes: &[u8]) -> Doc {
        let end = u32::try_from(bytes.len()).expect("a document is far below 4 GiB");
        Doc { buffer: Arc::from(bytes), start: 0, end }
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start as usize..self.end as usize]
    }

    /// The value, borrowed.
    pub fn view(&self) -> View<'_> {
        View { bytes: self.bytes() }
    }

    /// The value of an attribute, borrowed.
    #[inline]
    pub fn get(&self, name: &str) -> Option<View<'_>> {
        self.view().get(name)
    }

    /// The text of an attribute, or `None` when it is missing or no text.
    #[inline]
    pub fn str(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// The whole number of an attribute, or `None` when it is missing or none.
    #[inline]
    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_int()
    }

    /// An attribute as a document that shares this one's buffer.
    pub fn part(&self, name: &str) -> Option<Doc> {
        Some(self.share(self.get(name)?))
    }

    /// A view into this very document as a document of its own that shares the buffer.
    ///
    /// # Panics
    /// When `view` is no part of this document.
    pub fn share(&self, view: View<'_>) -> Doc {
        let base = self.buffer.as_ptr() as usize;
        let start = (view.bytes.as_ptr() as usize).wrapping_sub(base);
        let end = start.wrapping_add(view.bytes.len());
        assert!(start <= end && end <= self.buffer.len(), "the view belongs to this document");
        Doc { buffer: self.buffer.clone(), start: start as u32, end: end as u32 }
    }

    /// This map with some attributes set (`Some`) or removed (`None`); `changes` in any order.
    ///
    /// # Panics
    /// When the document is not a map.
    pub fn with(&self, changes: &[(&str, Option<Field<'_>>)]) -> Doc {
        let map = self.view();
        assert!(matches!(map.bytes[0], MAP | WIDE_MAP), "only a map has attributes");
        if changes.is_sorted_by(|a, b| a.0 < b.0) {
            return Doc::build(|w| w.merge(map, changes));
        }
        let mut sorted: Vec<_> = changes.to_vec();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        assert!(sorted.is_sorted_by(|a, b| a.0 < b.0), "an attribute is changed once");
        Doc::build(|w| w.merge(map, &sorted))
    }

    /// Bytes this document keeps alive, for accounting.
    pub fn heap_bytes(&self) -> usize {
        self.buffer.len() + 16
    }
}

impl PartialEq for Doc {
    fn eq(&self, other: &Doc) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Doc {}

impl fmt::Debug for Doc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::json::to_string(self.view().into()))
    }
}

impl<'a> View<'a> {
    /// The canonical bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// What the value is, one level deep.
    #[inline]
    pub fn kind(self) -> Kind<'a> {
        let body = &self.bytes[1..];
        match self.bytes[0] {
            NULL => Kind::Null,
            FALSE => Kind::Bool(false),
            TRUE => Kind::Bool(true),
            INTEGER => Kind::Number(Decimal::from(read_int(body).0)),
            DECIMAL => Kind::Number(read_decimal(body)),
            STRING => Kind::Str(read_str(body)),
            LIST => Kind::List(ListView { rest: &body[4..] }),
            MAP | WIDE_MAP => Kind::Map(MapView::of(self.bytes)),
            tag => unreachable!("documents are checked when they are read, tag {tag}"),
        }
    }

    /// The value of an attribute; `None` when missing or when this is no map.
    #[inline]
    pub fn get(self, name: &str) -> Option<View<'a>> {
        match self.bytes[0] {
            MAP => look_through(self.bytes, name.as_bytes(), mark(name.as_bytes())),
            WIDE_MAP => MapView::of(self.bytes).find(|(key, _)| *key == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Whether this is a map one of whose names has this byte in it.
    pub(crate) fn has_name_with(self, byte: u8) -> bool {
        let is_map = matches!(self.bytes[0], MAP | WIDE_MAP);
        // Most maps do not have the byte anywhere.
        is_map && self.bytes.contains(&byte) && MapView::of(self.bytes).has_name_with(byte)
    }

    /// The bytes of the text, if this is text.
    #[inline]
    pub fn text_bytes(self) -> Option<&'a [u8]> {
        (self.bytes[0] == STRING).then(|| read_text(&self.bytes[1..]))
    }

    /// The text, if this is text.
    #[inline]
    pub fn as_str(self) -> Option<&'a str> {
        (self.bytes[0] == STRING).then(|| read_str(&self.bytes[1..]))
    }

    /// The number, if this is one.
    pub fn as_number(self) -> Option<Decimal> {
        match self.kind() {
            Kind::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The whole number, if this is one that fits 64 bits.
    #[inline]
    pub fn as_int(self) -> Option<i64> {
        (self.bytes[0] == INTEGER).then(|| read_int(&self.bytes[1..]).0)
    }

    /// The elements, if this is a list.
    pub fn as_list(self) -> Option<ListView<'a>> {
        match self.kind() {
            Kind::List(list) => Some(list),
            _ => None,
        }
    }

    /// The attributes, if this is a map.
    pub fn as_map(self) -> Option<MapView<'a>> {
        match self.kind() {
            Kind::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Calls `each` with every attribute in which two maps differ: its name and its values here
    /// and there, in ascending order of names.
    ///
    /// # Panics
    /// When one of the two is no map.
    pub fn differences(
        self,
        other: View<'a>,
        each: impl FnMut(&'a str, Option<View<'a>>, Option<View<'a>>),
    ) {
        map::differences(self, other, each);
    }

    /// A document of its own, copied.
    pub fn to_doc(self) -> Doc {
        Doc::from_slice(self.bytes)
    }
}

/// The elements of a list, in order.
#[derive(Clone, Copy)]
pub struct ListView<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ListView<'a> {
    type Item = View<'a>;

    fn next(&mut self) -> Option<View<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (value, rest) = self.rest.split_at(value_len(self.rest));
        self.rest = rest;
        Some(View { bytes: value })
    }
}

/// Reads what [`write_varint`] wrote: the number and its length in bytes, or `None` when cut off.
#[inline]
pub fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

#[inline]
fn varint(bytes: &[u8]) -> (u64, usize) {
    read_varint(bytes).expect("documents are checked when they are read")
}

#[inline]
fn read_int(body: &[u8]) -> (i64, usize) {
    let (raw, len) = varint(body);
    (((raw >> 1) as i64) ^ -((raw & 1) as i64), len)
}

fn read_decimal(body: &[u8]) -> Decimal {
    let mantissa = i128::from_le_bytes(body[1..17].try_into().expect("sixteen bytes"));
    Decimal::from_i128_with_scale(mantissa, u32::from(body[0]))
}

#[inline]
fn read_str(body: &[u8]) -> &str {
    checked_str(read_text(body))
}

#[inline]
fn read_text(body: &[u8]) -> &[u8] {
    let (len, at) = varint(body);
    &body[at..at + len as usize]
}

#[inline]
fn checked_str(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("documents are checked when they are read")
}

/// Length in bytes of the value that `bytes` begin with.
#[inline]
fn value_len(bytes: &[u8]) -> usize {
    match bytes[0] {
        NULL | FALSE | TRUE => 1,
        INTEGER => 1 + varint(&bytes[1..]).1,
        DECIMAL => 18,
        STRING => {
            let (len, at) = varint(&bytes[1..]);
            1 + at + len as usize
        }
        _ => 5 + u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize,
    }
}

fn check_value(bytes: &[u8], at: usize, depth: usize) -> Result<usize, DocError> {
    let err = |what| DocError { at, what };
    let tag = *bytes.get(at).ok_or_else(|| err("a value"))?;
    let body = &bytes[at + 1..];
    match tag {
        NULL | FALSE | TRUE => Ok(at + 1),
        INTEGER => Ok(at + 1 + read_varint(body).ok_or_else(|| err("a whole number"))?.1),
        DECIMAL => {
            let scale = *body.first().ok_or_else(|| err("a decimal"))?;
            let raw = body.get(1..17).ok_or_else(|| err("a decimal"))?;
            let mantissa = i128::from_le_bytes(raw.try_into().expect("sixteen bytes"));
            Decimal::try_from_i128_with_scale(mantissa, u32::from(scale))
                .map_err(|_| err("a decimal within range"))?;
            Ok(at + 18)
        }
        STRING => {
            let (len, used) = read_varint(body).ok_or_else(|| err("the length of a text"))?;
            let end = used.checked_add(len as usize).ok_or_else(|| err("a text"))?;
            let text = body.get(used..end).ok_or_else(|| err("a whole text"))?;
            std::str::from_utf8(text).map_err(|_| err("UTF-8"))?;
            Ok(at + 1 + end)
        }
        LIST | MAP | WIDE_MAP => check_container(bytes, at, depth),
        _ => Err(err("a known tag")),
    }
}

fn check_container(bytes: &[u8], at: usize, depth: usize) -> Result<usize, DocError> {
    let err = |at, what| DocError { at, what };
    if depth == DEPTH_MAX {
        return Err(err(at, "less nesting"));
    }
    let raw = bytes.get(at + 1..at + 5).ok_or_else(|| err(at, "a length"))?;
    let len = u32::from_le_bytes(raw.try_into().expect("four bytes")) as usize;
    let end = at + 5 + len;
    if end > bytes.len() {
        return Err(err(at, "a whole list or map"));
    }
    match bytes[at] {
        MAP => check_table(bytes, at, end, depth)?,
        WIDE_MAP => drop(check_entries(bytes, at + 5, end, depth)?),
        _ => {
            let mut next = at + 5;
            while next < end {
                next = check_value(&bytes[..end], next, depth + 1)?;
            }
        }
    }
    Ok(end)
}

/// Checks the attributes of a map against its table.
fn check_table(bytes: &[u8], at: usize, end: usize, depth: usize) -> Result<(), DocError> {
    let err = || DocError { at, what: "a map with a sound table" };
    let count_at = end.checked_sub(2).filter(|count_at| *count_at >= at + 5).ok_or_else(err)?;
    let count = u16::from_le_bytes([bytes[count_at], bytes[count_at + 1]]) as usize;
    let table_at = count_at.checked_sub(3 * count).filter(|t| *t >= at + 5).ok_or_else(err)?;
    let starts = check_entries(bytes, at + 5, table_at, depth)?;
    let (map, marks) = (Marked::of(&bytes[at..end]), &bytes[table_at + 2 * count..count_at]);
    let told = (0..count).map(|index| at + 5 + map.start(index));
    let is_marked = || (0..count).all(|index| marks[index] == mark(map.entry(index).0));
    if starts.into_iter().eq(told) && is_marked() { Ok(()) } else { Err(err()) }
}

/// Checks attributes from `next` to `end`; where each starts.
fn check_entries(
    bytes: &[u8],
    mut next: usize,
    end: usize,
    depth: usize,
) -> Result<Vec<usize>, DocError> {
    let err = |at, what| DocError { at, what };
    let (mut starts, mut last): (Vec<usize>, Option<&[u8]>) = (Vec::new(), None);
    while next < end {
        starts.push(next);
        let key_end = next + 1 + bytes[next] as usize;
        let key = bytes[..end].get(next + 1..key_end).ok_or_else(|| err(next, "a name"))?;
        std::str::from_utf8(key).map_err(|_| err(next, "a name in UTF-8"))?;
        if last.is_some_and(|last| last >= key) {
            return Err(err(next, "names in ascending order"));
        }
        last = Some(key);
        next = check_value(&bytes[..end], key_end, depth + 1)?;
    }
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Doc {
        Doc::object(&[
            ("quantity", Field::Int(7)),
            ("customerId", Field::Str("349")),
            ("price", Field::Number(Decimal::new(2550, 2))),
        ])
    }

    #[test]
    fn equal_values_have_equal_bytes_in_whatever_order_they_were_given() {
        let same = Doc::object(&[
            ("price", Field::Number(Decimal::new(255, 1))),
            ("quantity", Field::Number(Decimal::new(70, 1))),
            ("customerId", Field::Str("349")),
        ]);
        assert_eq!(order(), same);
        assert_eq!(order().int("quantity"), Some(7));
        assert_eq!(order().str("customerId"), Some("349"));
        assert_eq!(order().get("price").and_then(View::as_number), Some(Decimal::new(255, 1)));
        assert!(order().get("missing").is_none());
    }

    #[test]
    fn with_sets_and_removes_attributes_and_keeps_the_order() {
        let changed = order().with(&[
            ("status", Some(Field::Str("PENDING"))),
            ("aardvark", Some(Field::Int(-1))),
            ("price", None),
            ("quantity", Some(Field::Int(8))),
        ]);
        let direct = Doc::object(&[
            ("aardvark", Field::Int(-1)),
            ("customerId", Field::Str("349")),
            ("quantity", Field::Int(8)),
            ("status", Field::Str("PENDING")),
        ]);
        assert_eq!(changed, direct);
        assert_eq!(Doc::from_bytes(changed.bytes()), Ok(direct));
    }

    #[test]
    fn a_map_too_wide_for_a_table_is_read_all_the_same() {
        let long = "x".repeat(50_000);
        let wide = Doc::object(&[
            ("a", Field::Str(&long)),
            ("b", Field::Str(&long)),
            ("c", Field::Int(3)),
        ]);
        assert_eq!((wide.int("c"), wide.str("b").map(str::len)), (Some(3), Some(50_000)));
        assert_eq!(Doc::from_bytes(wide.bytes()), Ok(wide.clone()));
        let narrow = wide.with(&[("a", None)]);
        assert_eq!(Doc::from_bytes(narrow.bytes()), Ok(narrow));
    }

    #[test]
    fn every_attribute_is_found_and_no_other_however_many_there_are() {
        for count in 0..40 {
            let names: Vec<String> =
                (0..count).map(|i| format!("name{:0width$}", i, width = i % 9)).collect();
            let mut fields: Vec<_> =
                names.iter().map(|name| (name.as_str(), Field::Str(name))).collect();
            fields.sort_by_key(|field| field.0);
            fields.dedup_by_key(|field| field.0);
            let doc = Doc::object(&fields);
            assert!(fields.iter().all(|(name, _)| doc.str(name) == Some(name)), "{doc:?}");
            assert!(["", "n", "nam", "name", "names0"].iter().all(|name| doc.get(name).is_none()));
        }
        assert_eq!(Doc::object(&[("", Field::Int(1))]).int(""), Some(1));
    }

    #[test]
    fn two_maps_differ_in_what_was_changed_added_and_removed() {
        let long = "x".repeat(70_000);
        let new = order().with(&[
            ("aa", Some(Field::Int(1))),
            ("price", None),
            ("quantity", Some(Field::Int(8))),
            ("zz", Some(Field::Null)),
        ]);
        // In one with a table and in one too wide for it.
        let wide = |doc: &Doc| doc.with(&[("b", Some(Field::Str(&long)))]);
        for (old, new) in [(order(), new.clone()), (wide(&order()), wide(&new))] {
            let mut seen = Vec::new();
            old.view().differences(new.view(), |name, before, after| {
                seen.push((name, before.is_some(), after.is_some()));
            });
            let all = [("aa", false, true), ("price", true, false)];
            assert_eq!(seen[..2], all);
            assert_eq!(seen[2..], [("quantity", true, true), ("zz", false, true)]);
        }
    }

    #[test]
    fn bytes_that_are_no_document_are_refused_at_every_cut() {
        let doc = order();
        for cut in 0..doc.bytes().len() {
            assert!(Doc::from_bytes(&doc.bytes()[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Doc::from_bytes(&[9]).is_err());
        assert!(Doc::from_bytes(&[STRING, 2, 0xc3, 0x28]).is_err());
    }
}
