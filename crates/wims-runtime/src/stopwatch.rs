//! The stopwatch: how long frames take, and which frame settles which requests.
//!
//! Promise: a request is settled by the frame with which all of this is durable: its changes,
//! their events, what the targets of these did at once, and the events of that. When a frame was
//! full in between, that is a later frame than the request's own. It deliberately knows steps and
//! not requests, which therefore cost it nothing.

use std::collections::VecDeque;

use crate::io::Timings;

/// Requests of one step that are not settled yet.
struct OpenCalls {
    /// When the step took them, in microseconds of monotonic time.
    taken_us: u64,
    count: u64,
    /// The change that every consumer of the stream has to see first.
    awaited_seq: u64,
}

/// Measures what `/metrics` shows as durations; see the module.
pub(crate) struct Stopwatch {
    pub timings: Timings,
    open: VecDeque<OpenCalls>,
    /// Of the first so many, their own changes were seen; what is awaited followed from them.
    followed: usize,
    /// Requests that the frame in flight settles.
    settling: Vec<OpenCalls>,
    submitted_us: u64,
    /// Records of the frame in flight.
    records: u64,
    /// The first sequence of the frame behind it.
    next_seq: u64,
}

impl Stopwatch {
    /// A stopwatch for frames from this sequence on.
    pub fn new(next_seq: u64) -> Stopwatch {
        Stopwatch {
            timings: Timings::default(),
            open: VecDeque::new(),
            followed: 0,
            settling: Vec::new(),
            submitted_us: 0,
            records: 0,
            next_seq,
        }
    }

    /// A step took requests; `last_change` is the last one of the stream, theirs included.
    pub fn took(&mut self, now_us: u64, count: u64, last_change: u64) {
        if count > 0 {
            self.open.push_back(OpenCalls { taken_us: now_us, count, awaited_seq: last_change });
        }
    }

    /// A frame that ends at `last_seq` is on its way. In it, or before, all consumers of the stream
    /// have seen everything up to `seen`; `last_change` is the last one there is to see.
    pub fn submitted(&mut self, now_us: u64, last_seq: u64, seen: u64, last_change: u64) {
        self.submitted_us = now_us;
        self.records = (last_seq + 1).saturating_sub(self.next_seq);
        self.next_seq = last_seq + 1;
        let is_seen = |calls: Option<&OpenCalls>| calls.is_some_and(|c| c.awaited_seq <= seen);
        while is_seen(self.open.get(self.followed)) {
            // What followed is in the stream by now, behind other changes perhaps.
            self.open[self.followed].awaited_seq = last_change;
            self.followed += 1;
        }
        while self.followed > 0 && is_seen(self.open.front()) {
            self.followed -= 1;
            self.settling.extend(self.open.pop_front());
        }
    }

    /// The frame in flight is durable.
    pub fn durable(&mut self, now_us: u64) {
        let since = |us: u64| now_us.saturating_sub(us);
        self.timings.commit_us.record(since(self.submitted_us), 1);
        self.timings.group_records.record(self.records, 1);
        for calls in self.settling.drain(..) {
            self.timings.settle_us.record(since(calls.taken_us), calls.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use wims_stack::{QueueRef, TargetRef, Template};

    use super::*;
    use crate::engine::EngineOptions;
    use crate::quiet::{self, Quiet};

    #[test]
    fn a_request_is_settled_with_the_events_of_what_followed_from_it() {
        let mut stopwatch = Stopwatch::new(1);
        let mut frame = |now_us: u64, last_seq: u64, seen: u64, last_change: u64| {
            if now_us == 100 {
                stopwatch.took(100, 2, 5);
            }
            stopwatch.submitted(now_us, last_seq, seen, last_change);
            stopwatch.durable(now_us + 50);
            (stopwatch.timings.settle_us.count(), stopwatch.timings.settle_us.sum())
        };
        assert_eq!(frame(100, 6, 4, 5), (0, 0), "an event is not published yet");
        assert_eq!(frame(200, 9, 5, 9), (0, 0), "what followed is not published yet");
        assert_eq!(frame(300, 10, 9, 9), (2, 2 * 250));
        assert_eq!(frame(400, 11, 9, 9), (2, 2 * 250), "once");
        assert_eq!((stopwatch.timings.commit_us.count(), stopwatch.records), (4, 1));
    }

    #[test]
    fn requests_that_fill_a_frame_are_settled_later_than_it_is_durable() {
        const REQUESTS: u64 = 120;
        let (queue, message) = (QueueRef::new("noted"), Template::path("$.detail.sk"));
        let stack = quiet::stack(TargetRef::Queue(queue, message));
        // Two frames that are full do not fit into one segment.
        let options = EngineOptions { segment_bytes: 2 << 20, ..EngineOptions::default() };
        let mut quiet = Quiet::start_with(&stack, &quiet::functions(), options);
        let before = quiet.engine.stopwatch.timings.commit_us.count();
        (0..REQUESTS).for_each(|i| quiet.put(&format!("{i}{}", "x".repeat(10_000))));
        quiet.pass_ms(2);
        let timings = &quiet.engine.stopwatch.timings;
        assert!(timings.commit_us.count() > before, "a frame full of requests is durable");
        assert_eq!(timings.settle_us.count(), 0, "their events are in no frame yet");
        assert!(quiet.messages("noted").len() < 120, "the next frame is full as well");
        quiet.pass_ms(20);
        assert_eq!(quiet.messages("noted").len(), 120);
        let settled = &quiet.engine.stopwatch.timings.settle_us;
        assert_eq!(settled.count(), REQUESTS);
        // A step a millisecond, and a frame is durable one step after its own.
        let within_1_ms = settled.cumulative().find(|(bound, _)| *bound == Some(1_000));
        assert_eq!(within_1_ms, Some((Some(1_000), 0)));
    }
}
