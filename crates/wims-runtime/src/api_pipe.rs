//! API pipes: messages of a queue become paced calls, and outcomes become writes.
//!
//! Promise: a call is made only after what it needs is durable, with the same key on every try.
//! Being refused for pace, or not reaching the API, uses no attempt; only an unknown outcome
//! does. An unknown outcome is looked up before anything is tried again. It deliberately knows no
//! payment: what a message needs and what an outcome means are functions of the business.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use wims_stack::{Doc, Field};

use crate::bus::SOURCE_QUEUE;
use crate::engine::{Cause, Engine};
use crate::functions::{CallOutcome, Delivery, DeliveryInput, Reads};
use crate::io::{ApiCall, CallId, CallReply, Output, PipeRow};
use crate::pacing::Pace;
use crate::plan::{ApiPlan, Plan};
use crate::record::{Hidden, Paced, Record};

/// Unknown outcomes in a row after which single messages probe.
const PROBE_AFTER: u32 = 5;
/// First wait after an unknown outcome; it doubles.
const UNKNOWN_WAIT_MS: u64 = 30_000;
/// No wait after an unknown outcome, and no pause the API asks for, is longer.
const WAIT_MAX_MS: u64 = 900_000;
/// Wait after a deferral that names no time.
const DEFERRED_WAIT_MS: u64 = 1_000;
/// While address or credentials are wrong one message a minute finds out whether they still are.
const MISDIRECTED_WAIT_MS: u64 = 60_000;
/// Wait before a look-up that failed, or that nobody understood, is made again.
const LOOK_UP_AGAIN_MS: u64 = 5_000;
/// Messages looked at in one step; bounds a step over many that only need patience.
const LOOKED_AT_MAX: usize = 512;

/// What a pipe knows in this life; what must survive is a [`Paced`] record.
pub(crate) struct ApiPipe {
    pace: Pace,
    paused_until_ms: u64,
    unknowns: u32,
    misdirected: bool,
    in_flight: BTreeMap<u64, InFlight>,
    calls_made: u64,
    stopped: bool,
    row: PipeRow,
}

struct InFlight {
    number: u64,
    look_up: bool,
}

impl ApiPipe {
    /// Calls under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Makes no more calls.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    fn may_call(&self, plan: &ApiPlan, clock_ms: u64) -> bool {
        let careful = self.unknowns >= PROBE_AFTER || self.misdirected;
        let most = if careful { 1 } else { plan.target.in_flight_max };
        !self.stopped && clock_ms >= self.paused_until_ms && self.in_flight.len() < most
    }
}

impl Engine {
    /// Sets up the pipes with what a former life had learned.
    pub(crate) fn start_api_pipes(&mut self) {
        let (plan, now_us) = (self.plan.clone(), self.now.mono_us);
        // Answers of a former life must not be taken for answers to calls of this one.
        let first_call = self.rng.u64(..) >> 1;
        let pipes = plan.apis.iter().map(|api| {
            let paced = self.state.paced.get(&api.number);
            let learned = paced.map(|paced| paced.rate_milli as f64 / 1_000.0);
            let target = &api.target;
            ApiPipe {
                pace: Pace::new(target.rate_per_second, target.burst, learned, now_us),
                paused_until_ms: paced.map_or(0, |paced| paced.paused_until_ms),
                unknowns: paced.map_or(0, |paced| paced.unknowns),
                misdirected: paced.is_some_and(|paced| paced.misdirected),
                in_flight: BTreeMap::new(),
                calls_made: first_call,
                stopped: false,
                row: PipeRow { name: api.name.clone(), ..PipeRow::default() },
            }
        });
        self.api_pipes = pipes.collect();
    }

    /// Messages a former life held can be received again: its calls are over for us, and what
    /// became of them is looked up.
    pub(crate) fn release_held(&mut self) {
        for queue in self.state.queue_numbers().collect::<Vec<_>>() {
            let held: Vec<_> = self
                .state
                .queue(queue)
                .from(0)
                .filter(|(_, message)| message.held)
                .map(|(id, message)| (id, message.receives, message.attempts))
                .collect();
            for (id, receives, attempts) in held {
                let visible_at_ms = self.state.clock_ms;
                let hidden = Hidden { queue, id, visible_at_ms, receives, attempts, held: false };
                self.emit(Cause::default(), Record::Hidden(hidden));
            }
        }
    }

    pub(crate) fn refill_tokens(&mut self, now_us: u64) {
        self.api_pipes.iter_mut().for_each(|pipe| pipe.pace.refill(now_us));
    }

    /// Makes the calls that are due.
    pub(crate) fn pump_api_pipes(&mut self, plan: &Plan) {
        for (at, api) in plan.apis.iter().enumerate() {
            self.state.appear(api.queue);
            for _ in 0..LOOKED_AT_MAX {
                let clock_ms = self.state.clock_ms;
                if !self.api_pipes[at].may_call(api, clock_ms) || !self.journal.has_room() {
                    break;
                }
                let Some(id) = self.state.queue(api.queue).first_ready() else { break };
                if !self.receive(plan, at, api, id) {
                    break;
                }
            }
        }
    }

    /// Gives a message what it needs; false when it needs a token and there is none.
    fn receive(&mut self, plan: &Plan, at: usize, api: &ApiPlan, id: u64) -> bool {
        let message = self.state.queue(api.queue).get(id).expect("it is ready").body.clone();
        let prepared =
            catch_unwind(AssertUnwindSafe(|| (api.prepare)(&self.delivery_input(api, &message))));
        match prepared {
            Err(_) => self.bury_message(plan, api, id, "the prepare function panicked"),
            Ok(Delivery::Drop) => self.delete(api.queue, id),
            Ok(Delivery::Hide { delay_ms }) => self.hide(api, id, delay_ms, 0),
            Ok(Delivery::Call { writes, key, body }) => {
                return self.start_call(at, api, id, &writes, key, Some(body));
            }
            Ok(Delivery::LookUp { key, writes }) => {
                return self.start_call(at, api, id, &writes, key, None);
            }
        }
        true
    }

    fn delivery_input<'a>(&'a self, api: &ApiPlan, message: &'a Doc) -> DeliveryInput<'a> {
        let reads = Reads::of(self.state.table(api.table));
        DeliveryInput { message, reads, now_ms: self.now.wall_ms }
    }

    fn start_call(
        &mut self,
        at: usize,
        api: &ApiPlan,
        id: u64,
        writes: &[wims_stack::Write],
        key: String,
        body: Option<Doc>,
    ) -> bool {
        if !self.api_pipes[at].pace.take() {
            return false;
        }
        let cause = Cause { seq: id, replay: false };
        if self.transact(api.table, writes, cause).is_err() {
            // Somebody changed the order in between: look at it again shortly.
            self.hide(api, id, DEFERRED_WAIT_MS, 0);
            return true;
        }
        let message = self.state.queue(api.queue).get(id).expect("it is ready");
        let (receives, attempts) = (message.receives + 1, message.attempts);
        let visible_at_ms = self.state.clock_ms + api.visibility_timeout_ms;
        let queue = api.queue;
        let hidden = Hidden { queue, id, visible_at_ms, receives, attempts, held: true };
        self.emit(cause, Record::Hidden(hidden));
        let pipe = &mut self.api_pipes[at];
        pipe.calls_made += 1;
        let (number, look_up) = (pipe.calls_made, body.is_none());
        pipe.in_flight.insert(id, InFlight { number, look_up });
        if look_up {
            pipe.row.look_ups += 1;
        } else {
            pipe.row.calls += 1;
        }
        let key =
            if self.options.bugs.new_key_on_retry { format!("{key}.{receives}") } else { key };
        self.hold(Output::Call(ApiCall {
            call: CallId { pipe: at, message: id, number },
            api: api.target.api.name().into(),
            path: api.target.path.clone(),
            key,
            body,
            timeout_ms: api.target.timeout_ms,
        }));
        true
    }

    /// Takes note of how a call ended.
    pub(crate) fn called(&mut self, call: CallId, reply: CallReply) {
        let plan = self.plan.clone();
        let (Some(api), Some(pipe)) = (plan.apis.get(call.pipe), self.api_pipes.get_mut(call.pipe))
        else {
            return;
        };
        // An answer to a call of a former life, or given twice: what became of it is looked up.
        if pipe.in_flight.get(&call.message).is_none_or(|known| known.number != call.number) {
            return;
        }
        let Some(known) = pipe.in_flight.remove(&call.message) else { return };
        let ended = if known.look_up { Ended::of_look_up(reply) } else { Ended::of_call(reply) };
        self.end_call(&plan, call, api, ended);
    }

    fn end_call(&mut self, plan: &Plan, call: CallId, api: &ApiPlan, ended: Ended) {
        let (at, id) = (call.pipe, call.message);
        match ended {
            Ended::Settled(outcome) => {
                self.note_health(at, api);
                self.write_outcome(api, id, &outcome);
                self.delete(api.queue, id);
            }
            Ended::LookedUp(outcome) => {
                self.note_health(at, api);
                let wrote = self.write_outcome(api, id, &outcome);
                self.hide(api, id, if wrote { 0 } else { LOOK_UP_AGAIN_MS }, 0);
            }
            Ended::LookUpFailed { retry_after_ms } => {
                let asked = retry_after_ms.map(|ms| ms.min(WAIT_MAX_MS));
                self.pause(at, asked.unwrap_or(0));
                self.hide(api, id, asked.unwrap_or(LOOK_UP_AGAIN_MS), 0);
            }
            Ended::Deferred { retry_after_ms, refused } => {
                self.defer(at, api, retry_after_ms, refused);
                self.write_outcome(api, id, &CallOutcome::Deferred);
                self.hide(api, id, 0, 0);
            }
            Ended::Misdirected(reason) => {
                self.misdirected(plan, at, api, &reason);
                self.write_outcome(api, id, &CallOutcome::Deferred);
                self.hide(api, id, 0, 0);
            }
            Ended::Refused(reason) => {
                self.note_health(at, api);
                self.write_outcome(api, id, &CallOutcome::Refused(reason.clone()));
                self.bury_message(plan, api, id, &reason);
            }
            Ended::Unknown(reason) => self.unknown(plan, at, api, id, reason),
        }
    }

    /// An unknown outcome: an attempt is used unless the pipe only probes.
    fn unknown(&mut self, plan: &Plan, at: usize, api: &ApiPlan, id: u64, reason: String) {
        let pipe = &mut self.api_pipes[at];
        pipe.row.unknowns += 1;
        pipe.unknowns += 1;
        let in_a_row = pipe.unknowns;
        if in_a_row >= PROBE_AFTER {
            let wait_ms = self.unknown_wait_ms(in_a_row - PROBE_AFTER + 1);
            self.pause(at, wait_ms);
        }
        self.note_paced(at, api);
        let Some(message) = self.state.queue(api.queue).get(id) else { return };
        let attempts = message.attempts + 1;
        let redrive = plan.queues.get(&api.queue).and_then(|queue| queue.redrive);
        if redrive.is_some_and(|(_, attempts_max)| attempts >= attempts_max) {
            self.write_outcome(api, id, &CallOutcome::Exhausted(reason.clone()));
            return self.bury_message(plan, api, id, &reason);
        }
        self.write_outcome(api, id, &CallOutcome::Unknown(reason));
        let wait_ms = self.unknown_wait_ms(attempts);
        self.hide(api, id, wait_ms, 1);
    }

    fn unknown_wait_ms(&mut self, attempt: u32) -> u64 {
        let longest = (UNKNOWN_WAIT_MS << (attempt - 1).min(10)).min(WAIT_MAX_MS);
        self.rng.u64(longest * 3 / 4..=longest)
    }

    fn defer(&mut self, at: usize, api: &ApiPlan, retry_after_ms: Option<u64>, refused: bool) {
        let now_us = self.now.mono_us;
        let pipe = &mut self.api_pipes[at];
        pipe.row.deferrals += 1;
        if refused {
            pipe.pace.refused(now_us);
        }
        self.pause(at, retry_after_ms.unwrap_or(DEFERRED_WAIT_MS).min(WAIT_MAX_MS));
        self.note_paced(at, api);
    }

    fn misdirected(&mut self, plan: &Plan, at: usize, api: &ApiPlan, reason: &str) {
        self.pause(at, MISDIRECTED_WAIT_MS);
        if !std::mem::replace(&mut self.api_pipes[at].misdirected, true) {
            let detail =
                Doc::object(&[("pipe", Field::Str(&api.name)), ("reason", Field::Str(reason))]);
            self.raise_alarm(plan, api.alarm, "pipePaused", &detail, Cause::default());
        }
        self.note_paced(at, api);
    }

    fn pause(&mut self, at: usize, wait_ms: u64) {
        let until = self.state.clock_ms + wait_ms;
        let pipe = &mut self.api_pipes[at];
        pipe.paused_until_ms = pipe.paused_until_ms.max(until);
    }

    /// The API answered sensibly: it is there and takes our credentials.
    fn note_health(&mut self, at: usize, api: &ApiPlan) {
        let pipe = &mut self.api_pipes[at];
        pipe.pace.accepted();
        if pipe.unknowns > 0 || pipe.misdirected {
            // A pause it asked for itself goes on; ours was to find out whether it is there.
            if pipe.unknowns >= PROBE_AFTER || pipe.misdirected {
                pipe.paused_until_ms = 0;
            }
            pipe.unknowns = 0;
            pipe.misdirected = false;
            self.note_paced(at, api);
        }
    }

    fn note_paced(&mut self, at: usize, api: &ApiPlan) {
        let pipe = &self.api_pipes[at];
        let paced = Paced {
            pipe: api.number,
            rate_milli: (pipe.pace.rate() * 1_000.0) as u64,
            paused_until_ms: pipe.paused_until_ms,
            unknowns: pipe.unknowns,
            misdirected: pipe.misdirected,
        };
        self.emit(Cause::default(), Record::Paced(paced));
    }

    /// Writes what the business makes of an outcome; false when it makes nothing of it.
    fn write_outcome(&mut self, api: &ApiPlan, id: u64, outcome: &CallOutcome) -> bool {
        let Some(message) = self.state.queue(api.queue).get(id) else { return false };
        let body = message.body.clone();
        // A panic makes nothing of it; the message is looked at again and found as it is.
        let made = catch_unwind(AssertUnwindSafe(|| {
            (api.outcome)(&self.delivery_input(api, &body), outcome)
        }));
        let writes = made.unwrap_or_default();
        let cause = Cause { seq: id, replay: false };
        !writes.is_empty() && self.transact(api.table, &writes, cause).is_ok()
    }

    fn hide(&mut self, api: &ApiPlan, id: u64, delay_ms: u64, attempts_used: u32) {
        let Some(message) = self.state.queue(api.queue).get(id) else { return };
        let hidden = Hidden {
            queue: api.queue,
            id,
            visible_at_ms: self.state.clock_ms + delay_ms,
            receives: message.receives,
            attempts: message.attempts + attempts_used,
            held: false,
        };
        self.emit(Cause { seq: id, replay: false }, Record::Hidden(hidden));
    }

    fn bury_message(&mut self, plan: &Plan, api: &ApiPlan, id: u64, reason: &str) {
        let Some(message) = self.state.queue(api.queue).get(id) else { return };
        let (body, attempts) = (message.body.clone(), message.attempts);
        self.delete(api.queue, id);
        let attributes = Doc::object(&[
            ("ERROR_MESSAGE", Field::Str(reason)),
            ("RETRY_ATTEMPTS", Field::Int(attempts.into())),
            (SOURCE_QUEUE, Field::Str(&plan.queues[&api.queue].name)),
        ]);
        let cause = Cause { seq: id, replay: false };
        self.bury(plan, api.dead_letters, body, attributes, cause);
    }

    /// When a pause ends behind which messages wait, in clock milliseconds.
    pub(crate) fn pipes_due_ms(&self) -> Option<u64> {
        let paused =
            self.ready_pipes().filter(|(_, pipe)| pipe.paused_until_ms > self.state.clock_ms);
        paused.map(|(_, pipe)| pipe.paused_until_ms).min()
    }

    /// When a token is there for which messages wait, in microseconds of monotonic time.
    pub(crate) fn tokens_due_us(&self) -> Option<u64> {
        let able = self.ready_pipes().filter(|(api, pipe)| pipe.may_call(api, self.state.clock_ms));
        able.map(|(_, pipe)| pipe.pace.next_token_us()).min()
    }

    fn ready_pipes(&self) -> impl Iterator<Item = (&ApiPlan, &ApiPipe)> {
        let pipes = self.plan.apis.iter().zip(&self.api_pipes);
        pipes.filter(|(api, pipe)| {
            !pipe.stopped && self.state.queue(api.queue).first_ready().is_some()
        })
    }

    /// The pipes as people see them.
    pub(crate) fn pipe_rows(&self) -> Vec<PipeRow> {
        let rows = self.api_pipes.iter().map(|pipe| PipeRow {
            in_flight: pipe.in_flight.len(),
            rate_per_second: pipe.pace.rate(),
            paused: pipe.paused_until_ms > self.state.clock_ms,
            ..pipe.row.clone()
        });
        rows.collect()
    }
}

/// What the end of a call means for the pipe.
#[derive(Debug, PartialEq)]
enum Ended {
    Settled(CallOutcome),
    LookedUp(CallOutcome),
    LookUpFailed { retry_after_ms: Option<u64> },
    Deferred { retry_after_ms: Option<u64>, refused: bool },
    Misdirected(String),
    Refused(String),
    Unknown(String),
}

impl Ended {
    fn of_call(reply: CallReply) -> Ended {
        let (status, retry_after_ms, body) = match reply {
            CallReply::NotSent(_) => {
                return Ended::Deferred { retry_after_ms: None, refused: false };
            }
            CallReply::Lost(reason) => return Ended::Unknown(reason),
            CallReply::Answered { status, retry_after_ms, body } => (status, retry_after_ms, body),
        };
        match status {
            200..=299 => Ended::Settled(CallOutcome::Succeeded),
            402 => Ended::Settled(CallOutcome::Declined(reason_in(body.as_ref()))),
            408 | 409 | 425 | 503 => Ended::Deferred { retry_after_ms, refused: false },
            429 => Ended::Deferred { retry_after_ms, refused: true },
            401 | 403 | 404 | 405 => Ended::Misdirected(format!("the API answered {status}")),
            400..=499 => {
                Ended::Refused(format!("the API answered {status}: {}", reason_in(body.as_ref())))
            }
            _ => Ended::Unknown(format!("the API answered {status}")),
        }
    }

    fn of_look_up(reply: CallReply) -> Ended {
        let CallReply::Answered { status, retry_after_ms, body } = reply else {
            return Ended::LookUpFailed { retry_after_ms: None };
        };
        let found = body.as_ref().and_then(|body| body.str("status"));
        match (status, found) {
            (404, _) => Ended::LookedUp(CallOutcome::NotFound),
            (200..=299, Some("PAID")) => Ended::LookedUp(CallOutcome::Succeeded),
            (200..=299, Some("DECLINED")) => {
                Ended::LookedUp(CallOutcome::Declined(reason_in(body.as_ref())))
            }
            _ => Ended::LookUpFailed { retry_after_ms },
        }
    }
}

fn reason_in(body: Option<&Doc>) -> String {
    let named = |name| body.and_then(|body| body.str(name));
    named("reason").or(named("detail")).or(named("message")).unwrap_or("no reason given").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> CallReply {
        CallReply::Answered { status, retry_after_ms: Some(2_000), body: None }
    }

    #[test]
    fn every_status_of_the_payments_contract_means_what_the_contract_says() {
        let of = |status| Ended::of_call(answered(status));
        for status in [200, 201, 204] {
            assert_eq!(of(status), Ended::Settled(CallOutcome::Succeeded));
        }
        assert!(matches!(of(402), Ended::Settled(CallOutcome::Declined(_))));
        for status in [408, 409, 425, 429, 503] {
            assert!(matches!(of(status), Ended::Deferred { retry_after_ms: Some(2_000), .. }));
        }
        for status in [401, 403, 404, 405] {
            assert!(matches!(of(status), Ended::Misdirected(_)));
        }
        for status in [400, 410, 422] {
            assert!(matches!(of(status), Ended::Refused(_)));
        }
        for status in [500, 502, 504, 302] {
            assert!(matches!(of(status), Ended::Unknown(_)));
        }
        let lost = Ended::of_call(CallReply::Lost("timeout".into()));
        assert_eq!(lost, Ended::Unknown("timeout".into()));
        let unsent = Ended::of_call(CallReply::NotSent("refused".into()));
        assert!(matches!(unsent, Ended::Deferred { refused: false, .. }));
        assert_eq!(Ended::of_look_up(answered(404)), Ended::LookedUp(CallOutcome::NotFound));
        assert!(matches!(Ended::of_look_up(answered(500)), Ended::LookUpFailed { .. }));
    }
}
