//! Turns: where a message stands in its queue, and how fast the queue goes on.
//!
//! Promise: a look costs a bounded number of messages, however many there are; what was not counted
//! to its end says so. It deliberately promises no time: pace and place are told, and both change.

use wims_stack::View;

use super::{ApiPipe, PROBE_AFTER};
use crate::engine::Engine;
use crate::io::{Pause, PipePace, Stand, Turn};
use crate::messages::{Message, Messages, Search};

/// Messages whose bodies are looked at, at most: a millisecond's work.
const LOOKED_AT_MAX: usize = 10_000;
/// Messages counted before one, at most.
const COUNTED_MAX: usize = 10_000;

impl Engine {
    /// Where the message stands whose body has this value; `None` when there is no such queue. It
    /// was sent after `from`, and `since_ms` tells about when, if that was much later.
    pub(crate) fn turn(
        &self,
        queue: &str,
        attribute: &str,
        value: &str,
        from: u64,
        since_ms: Option<u64>,
    ) -> Option<Turn> {
        let number = self.queue_named(queue)?;
        let messages = self.state.queue(number);
        let is_meant =
            |message: &Message| message.body.get(attribute).and_then(View::as_str) == Some(value);
        let found = search(messages, from, since_ms, is_meant);
        let stand = match found {
            Search::Found(id) => self.stand_of(messages, id),
            Search::Absent => Stand::Absent,
            Search::GaveUp => Stand::Unknown,
        };
        let mut pipes = self.plan.apis.iter().zip(&self.api_pipes);
        let pipe = pipes.find(|(api, _)| api.queue == number);
        Some(Turn { stand, pace: pipe.map(|(_, pipe)| self.pace_of(pipe)) })
    }

    fn stand_of(&self, messages: &Messages, id: u64) -> Stand {
        let clock_ms = self.state.clock_ms;
        match messages.get(id) {
            None => Stand::Absent,
            Some(message) if message.held => Stand::Held,
            Some(message) if message.visible_at_ms > clock_ms => {
                Stand::Hidden { until_ms: self.wall_of(message.visible_at_ms) }
            }
            Some(_) => Stand::Ready { ahead: messages.ready_before(id, COUNTED_MAX) },
        }
    }

    fn pace_of(&self, pipe: &ApiPipe) -> PipePace {
        let is_paused = pipe.paused_until_ms > self.state.clock_ms;
        PipePace {
            rate_per_second: pipe.pace.rate(),
            paused: is_paused.then(|| (self.wall_of(pipe.paused_until_ms), pipe.pause())),
        }
    }

    /// A time of the clock as wall time, as far as that can be told.
    fn wall_of(&self, clock_ms: u64) -> u64 {
        self.now.wall_ms.saturating_add(clock_ms.saturating_sub(self.state.clock_ms))
    }
}

impl ApiPipe {
    /// Why it is paused, when it is.
    fn pause(&self) -> Pause {
        if self.misdirected {
            Pause::Misdirected
        } else if self.unknowns >= PROBE_AFTER {
            Pause::Unknowns
        } else {
            Pause::Asked
        }
    }
}

/// Looks where the message is likely first, and from the beginning if it is not there.
fn search(
    messages: &Messages,
    from: u64,
    since_ms: Option<u64>,
    is_meant: impl Fn(&Message) -> bool,
) -> Search {
    if let Some(since_ms) = since_ms {
        let likely = messages.sent_since(from, since_ms);
        let found = messages.find(likely, LOOKED_AT_MAX, &is_meant);
        if matches!(found, Search::Found(_)) {
            return found;
        }
    }
    messages.find(from, LOOKED_AT_MAX, &is_meant)
}

#[cfg(test)]
mod tests {
    use wims_stack::{Doc, Field, QueueRef, TargetRef, Template};

    use super::*;
    use crate::engine::Cause;
    use crate::io::{Answer, Query};
    use crate::messages::Counted;
    use crate::quiet::{self, Quiet};

    /// Where the message of a name stands in `noted`, looked for from an id on.
    fn stand(quiet: &mut Quiet, name: &str, from: u64) -> Option<Stand> {
        let (queue, attribute, value) = ("noted", "name", name.to_owned());
        match quiet.ask(Query::Turn { queue, attribute, value, from, since_ms: None }) {
            Answer::Turn(turn) => turn.map(|turn| turn.stand),
            other => panic!("no turn is told: {other:?}"),
        }
    }

    #[test]
    fn a_message_is_found_by_what_it_says_with_those_before_it_counted() {
        let noted = TargetRef::Queue(QueueRef::new("noted"), Template::path("$.detail.sk"));
        let mut quiet = Quiet::start(&quiet::stack(noted), &quiet::functions());
        let number = quiet.engine.state.number("queue/noted").expect("it is declared");
        for name in ["a", "b", "c"] {
            let body = Doc::object(&[("name", Field::Str(name))]);
            quiet.engine.send(number, body, None, Cause::default());
            quiet.pass_ms(10);
        }
        let ready = |number| Some(Stand::Ready { ahead: Counted { number, is_more: false } });
        assert_eq!(stand(&mut quiet, "a", 0), ready(0));
        assert_eq!(stand(&mut quiet, "c", 0), ready(2));
        assert_eq!(stand(&mut quiet, "d", 0), Some(Stand::Absent));
        let (id, _) = quiet.engine.state.queue(number).from(0).next().expect("the first");
        assert_eq!(stand(&mut quiet, "a", id + 1), Some(Stand::Absent));
    }
}
