//! Timelines: what a log tells of one item, with what each follows from.
//!
//! Promise: what is told of the item is what the log tells of it, and besides the messages that
//! name it, for they stand between a cause and its effect; all of it durable and in the journal's
//! order. A page reads a bounded number of bytes. It deliberately has no index: frames that do not
//! name the item are passed over unread, but for their checksum.

use std::time::{Duration, UNIX_EPOCH};

use wims_stack::Doc;

use super::{Equals, LogError, LogReader, Place, publishers, read_entries};
use crate::frame::FrameHeader;
use crate::record::{Entry, Record, Sent};

/// Bytes of the journal a page reads, at most, and the frame after them.
const BYTES_MAX: u64 = 32 << 20;

/// Which item a timeline is of.
#[derive(Clone, Debug)]
pub struct About {
    /// The attribute that names it, in images, details of events and bodies of messages.
    pub attribute: &'static str,
    /// Its value.
    pub value: String,
    /// The sequence of its creation.
    pub created: u64,
}

/// What happened, oldest first.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Each with its place in the journal.
    pub happened: Vec<Happened>,
    /// Go on after this sequence.
    pub next: u64,
    /// Nothing more is there now.
    pub end: bool,
    /// The journal reaches back to where the page begins, and nothing is missing.
    pub is_whole: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Its place in the journal.
    pub seq: u64,
    /// The sequence it follows from; 0 when that is a request or a timer.
    pub cause: u64,
    /// When, as RFC 3339.
    pub time: String,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An event of the log: the JSON text of its envelope.
    Event(String),
    /// A message was sent.
    Sent {
        /// Name of the queue.
        queue: String,
        /// Why it is a dead letter, if it is one.
        attributes: Option<Doc>,
    },
}

impl LogReader {
    /// What happened to an item after a sequence, at least `limit` if there is so much within as
    /// many bytes as a page reads.
    ///
    /// # Errors
    /// When a segment cannot be read, or a frame before `durable` is unsound.
    pub fn timeline(
        &self,
        about: &About,
        after: u64,
        limit: usize,
        durable: u64,
    ) -> Result<Timeline, LogError> {
        let after = after.max(about.created.saturating_sub(1));
        let mut page = Timeline { next: after, ..Timeline::default() };
        let mut read_bytes = 0;
        let walked = self.walk(after, durable, |place| {
            if self.tell_frame(place, about, after, limit, durable, &mut page)? {
                return Ok(true);
            }
            let last = place.end_seq() - 1;
            page.next = page.next.max(last.min(durable));
            read_bytes += place.header.padded_len() as u64;
            Ok(read_bytes >= BYTES_MAX && last < durable)
        })?;
        (page.is_whole, page.end) = (walked.is_whole, walked.end);
        Ok(page)
    }

    /// Adds what a frame tells of the item; true when the page is full.
    fn tell_frame(
        &self,
        place: &Place,
        about: &About,
        after: u64,
        limit: usize,
        durable: u64,
        page: &mut Timeline,
    ) -> Result<bool, LogError> {
        let bytes = self.read(place.segment, place.offset, place.header.len as usize)?;
        if FrameHeader::read(&bytes).is_none() {
            return Err(place.unsound());
        }
        if !has(&bytes, about.value.as_bytes()) {
            return Ok(false);
        }
        let entries = read_entries(place, &bytes)?;
        let last_unseen = self.last_unseen(durable)?;
        let mut equals = Equals::default();
        for (entry, publisher) in entries.iter().zip(publishers(&entries)) {
            let pipe = self.mark(publisher);
            let ordinal = equals.ordinal(entry, pipe);
            if entry.seq <= after || entry.seq > durable || !about.is_meant(entry) {
                continue;
            }
            if page.happened.len() >= limit {
                return Ok(true);
            }
            let mut events = Vec::new();
            self.show(entry, pipe, ordinal, &last_unseen, &mut events);
            let mut told: Vec<What> = events.into_iter().map(What::Event).collect();
            if let Record::Sent(sent) = &entry.record {
                told.push(self.told_of(sent));
            }
            let (seq, cause, time) = (entry.seq, entry.cause, time_of(entry.wall_ms));
            let happened = told.into_iter();
            page.happened.extend(happened.map(|what| Happened {
                seq,
                cause,
                time: time.clone(),
                what,
            }));
            page.next = entry.seq;
        }
        Ok(false)
    }

    fn told_of(&self, sent: &Sent) -> What {
        let queue = self.plan.queues.get(&sent.queue).cloned().unwrap_or_default();
        What::Sent { queue, attributes: sent.attributes.clone() }
    }
}

impl About {
    /// Whether a record is of the item: a change of it, an event or a message that names it, or a
    /// dead letter with an event that does.
    fn is_meant(&self, entry: &Entry) -> bool {
        let names = |doc: &Doc| doc.str(self.attribute) == Some(self.value.as_str());
        if let Record::Change(change) = &entry.record {
            return change.new.as_ref().or(change.old.as_ref()).is_some_and(names);
        }
        if let Record::Event(event) = &entry.record {
            return names(&event.detail);
        }
        let Record::Sent(sent) = &entry.record else { return false };
        let is_letter =
            || sent.attributes.is_some() && has(sent.body.bytes(), self.value.as_bytes());
        names(&sent.body) || is_letter()
    }
}

fn time_of(wall_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(wall_ms)).to_string()
}

/// Whether bytes have others among them: Horspool's search, which looks at few of them.
fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    let Some(last) = wanted.len().checked_sub(1) else { return true };
    let mut steps = [wanted.len(); 256];
    for (at, byte) in wanted[..last].iter().enumerate() {
        steps[usize::from(*byte)] = last - at;
    }
    let mut at = 0;
    while let Some(window) = bytes.get(at..at + wanted.len()) {
        if window == wanted {
            return true;
        }
        at += steps[usize::from(window[last])];
    }
    false
}

#[cfg(test)]
mod tests {
    use wims_stack::Field;

    use super::super::tests::{Folder, PIPES, change, event, frame, place};
    use super::*;
    use crate::frame::PAGE;

    #[test]
    fn a_timeline_has_what_names_its_item_from_its_creation_on_page_by_page() {
        let folder = Folder::new("timeline");
        let body = Doc::object(&[("sk", Field::Str("1"))]);
        let sent = Record::Sent(Sent { queue: 8, body, attributes: None, visible_at_ms: 0 });
        let begin = vec![place(PIPES[0], 0), place(PIPES[1], 0), change("2"), change("1")];
        folder.write(PAGE, frame(1, begin));
        folder.write(2 * PAGE, frame(5, vec![change("2"), sent, change("1"), event()]));
        let about = About { attribute: "sk", value: "1".into(), created: 4 };
        let timeline =
            |after, limit| folder.reader().timeline(&about, after, limit, 8).expect("it");
        let seqs = |page: &Timeline| page.happened.iter().map(|one| one.seq).collect::<Vec<_>>();
        let all = timeline(0, 10);
        // Two pipes make an event each of a change.
        assert_eq!((seqs(&all), all.end, all.is_whole), (vec![4, 4, 6, 7, 7], true, true));
        assert_eq!(all.happened[2].what, What::Sent { queue: "dead".into(), attributes: None });
        let first = timeline(0, 1);
        assert_eq!((seqs(&first), first.next, first.end), (vec![4, 4], 4, false));
        let rest = timeline(first.next, 10);
        assert_eq!((seqs(&rest), rest.end), (vec![6, 7, 7], true));
        assert!(timeline(8, 10).end);
    }

    #[test]
    fn bytes_are_found_wherever_they_are_and_only_when_they_are_whole() {
        let bytes = b"abcabdabcabcabd";
        for wanted in [&b"abc"[..], b"abd", b"abcabcabd", b"abcabdabcabcabd", b"a", b"d", b""] {
            assert!(has(bytes, wanted), "{wanted:?}");
        }
        for wanted in [&b"abdd"[..], b"dd", b"x", b"abcabdabcabcabdx", b"cba"] {
            assert!(!has(bytes, wanted), "{wanted:?}");
        }
        assert!(!has(b"", b"a"));
    }
}
