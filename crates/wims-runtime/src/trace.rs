//! Trace ids, those of W3C Trace Context: read from a request's `traceparent`, written into every
//! record that follows from the request, sent on with the calls that do.
//!
//! Promise: a header that is not as the standard has it gives no trace and is no error. It
//! deliberately keeps no spans and passes on no `tracestate`: what happened is in the journal,
//! under the trace's id.

use std::fmt;
use std::num::NonZeroU128;

use serde::{Serialize, Serializer};

/// Bytes of a `traceparent` of version 00: `00-<trace id>-<parent id>-<flags>`.
const TRACEPARENT_BYTES: usize = 55;
/// Odd, with its bits well mixed: what is multiplied by it stays unique and is spread.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Names a trace; never zero. Text is 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// The trace of this number; none is zero.
    pub fn new(id: u128) -> Option<TraceId> {
        NonZeroU128::new(id).map(TraceId)
    }

    /// The number.
    pub fn get(self) -> u128 {
        self.0.get()
    }

    /// The trace of a `traceparent`; `None` when the header is malformed. One of a later version
    /// may say more behind another dash.
    ///
    /// Source: W3C Trace Context, 3.2 and 4.3.
    pub fn of_traceparent(header: &[u8]) -> Option<TraceId> {
        let (known, more) = header.split_at_checked(TRACEPARENT_BYTES)?;
        let is_dashed = [2, 35, 52].into_iter().all(|at: usize| known[at] == b'-');
        let (version, flags) = (hex(&known[..2])?, hex(&known[53..]));
        let (trace, parent) = (hex(&known[3..35])?, hex(&known[36..52])?);
        let may_end_here = more.is_empty() || (version != 0 && more[0] == b'-');
        let is_sound = is_dashed && flags.is_some() && parent != 0 && may_end_here;
        TraceId::new(trace).filter(|_| is_sound && version != 0xff)
    }

    /// The `traceparent` of a call about a message. Message and number of the call make the id of
    /// its span, so the same run makes the same one. The trace is told as recorded, which it is:
    /// in the journal.
    pub fn traceparent(self, message: u64, call: u64) -> String {
        let span = (message.wrapping_mul(SPREAD) ^ call).wrapping_mul(SPREAD).max(1);
        format!("00-{self}-{span:016x}-01")
    }
}

/// The number of hex digits in lower case, the only ones the standard allows.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u128::from(value))
    })
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.get())
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard's own example.
    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn read(header: &str) -> Option<String> {
        TraceId::of_traceparent(header.as_bytes()).map(|trace| trace.to_string())
    }

    #[test]
    fn a_traceparent_names_its_trace_whatever_its_flags() {
        assert_eq!(read(TRACEPARENT).as_deref(), Some(TRACE));
        let unsampled = TRACEPARENT.replace("-01", "-00");
        assert_eq!(read(&unsampled).as_deref(), Some(TRACE));
        let short = "00-0000000000000000000000000000000a-0000000000000001-ff";
        assert_eq!(read(short).as_deref(), Some("0000000000000000000000000000000a"));
    }

    #[test]
    fn a_malformed_traceparent_names_no_trace() {
        let zeroes = "0".repeat(32);
        let malformed = [
            String::new(),
            TRACE.to_owned(),
            TRACEPARENT[..54].to_owned(),
            format!("{TRACEPARENT}0"),
            format!("{TRACEPARENT}-00"),
            TRACEPARENT.replace(TRACE, &zeroes),
            TRACEPARENT.replace("00f067aa0ba902b7", &zeroes[..16]),
            TRACEPARENT.to_uppercase(),
            TRACEPARENT.replace('-', "_"),
            TRACEPARENT.replace("4bf9", "4bg9"),
            TRACEPARENT.replace("-01", "-0x"),
            TRACEPARENT.replacen("00-", "ff-", 1),
            TRACEPARENT.replacen("00-", "0x-", 1),
        ];
        for header in malformed {
            assert_eq!(read(&header), None, "{header}");
        }
    }

    #[test]
    fn a_traceparent_of_a_later_version_may_say_more_behind_a_dash() {
        let later = TRACEPARENT.replacen("00-", "cc-", 1);
        assert_eq!(read(&later).as_deref(), Some(TRACE));
        assert_eq!(read(&format!("{later}-what-the-future")).as_deref(), Some(TRACE));
        assert_eq!(read(&format!("{later}.what-the-future")), None);
    }

    #[test]
    fn every_call_has_a_span_of_its_own_and_the_same_one_in_the_same_run() {
        let trace = TraceId::of_traceparent(TRACEPARENT.as_bytes()).expect("it is sound");
        let calls = (0..100).flat_map(|message| (0..100).map(move |call| (message, call)));
        let made: Vec<String> =
            calls.map(|(message, call)| trace.traceparent(message, call)).collect();
        for traceparent in &made {
            assert_eq!(read(traceparent).as_deref(), Some(TRACE), "{traceparent}");
        }
        let distinct: std::collections::HashSet<&String> = made.iter().collect();
        assert_eq!(distinct.len(), made.len());
        assert_eq!(trace.traceparent(3, 4), made[304]);
    }
}
