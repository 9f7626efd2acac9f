//! API pipes: messages of a queue become paced calls, and outcomes become writes.
//!
//! Promise: a call is made only after what it needs is durable, with the same key on every try.
//! Being refused for pace, or not reaching the API, uses no attempt; only an unknown outcome
//! does. An unknown outcome is looked up before anything is tried again; where calls are declared
//! idempotent they are just made again. A message on which a function fails is poison: it goes to
//! the dead letters and is never lost. It deliberately knows no payment: what a message needs and
//! what an outcome means are functions of the business.

mod turn;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use wims_stack::{Doc, Field, PATH_KEY};

use crate::dead_letter::{Failure, INVALID_WRITES, Origin, PANICKED, without_addresses};
use crate::engine::{Cause, Engine};
use crate::functions::{CallOutcome, Delivery, DeliveryInput, Reads};
use crate::io::{ApiCall, CallId, CallReply, Output, PipeRow};
use crate::pacing::Pace;
use crate::plan::{ApiPlan, Plan};
use crate::record::{Hidden, Paced, Record};
use crate::transact::TransactFailure;

/// After so many unknown outcomes, no other answer in between, single messages probe.
const PROBE_AFTER: u32 = 5;
/// First wait after an unknown outcome; it doubles.
const UNKNOWN_WAIT_MS: u64 = 30_000;
/// No wait after an unknown outcome, and no pause the API asks for, is longer.
const WAIT_MAX_MS: u64 = 900_000;
/// Wait after a deferral that names no time.
const DEFERRED_WAIT_MS: u64 = 1_000;
/// While address or credentials are wrong one message a minute finds out whether they still are.
const MISDIRECTED_WAIT_MS: u64 = 60_000;
/// The code of a call that was sent and not answered.
const NO_ANSWER: &str = "NoAnswer";
/// Wait before a look-up that failed, or that nobody understood, is made again.
const LOOK_UP_AGAIN_MS: u64 = 5_000;
/// Messages looked at in one step; bounds a step over many that only need patience.
const LOOKED_AT_MAX: usize = 512;

/// What a pipe knows in this life; what must survive is a [`Paced`] record.
pub(crate) struct ApiPipe {
    pace: Pace,
    paused_until_ms: u64,
    /// Calls with an unknown outcome since the API last gave one another answer. Look-ups do not
    /// count.
    unknowns: u32,
    /// Address or credentials are wrong as far as is known; the team was told.
    misdirected: bool,
    in_flight: BTreeMap<u64, InFlight>,
    calls_made: u64,
    stopped: bool,
    row: PipeRow,
}

struct InFlight {
    number: u64,
    look_up: bool,
    /// When it was handed out, in microseconds of monotonic time.
    began_us: u64,
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
        let most = plan.target.in_flight_max.min(self.pace.under_way_max());
        let most = if careful { 1 } else { most };
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
                .map(|(id, message)| (id, message.receives, message.attempts, message.trace))
                .collect();
            for (id, receives, attempts, trace) in held {
                let visible_at_ms = self.state.clock_ms;
                let hidden = Hidden { queue, id, visible_at_ms, receives, attempts, held: false };
                self.emit(Cause::of_trace(trace), Record::Hidden(hidden));
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
            Err(_) => {
                let failure = Failure::new(PANICKED, "the prepare function panicked");
                self.bury_message(plan, api, id, failure);
            }
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
        DeliveryInput { message, reads, now_ms: self.now.wall_ms, clock_ms: self.state.clock_ms }
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
        let cause = self.cause_of_message(api.queue, id);
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
        let began_us = self.now.mono_us;
        pipe.in_flight.insert(id, InFlight { number, look_up, began_us });
        if look_up {
            pipe.row.look_ups += 1;
        } else {
            pipe.row.calls += 1;
        }
        let is_new = self.options.bugs.new_key_on_retry.is_on();
        let key = if is_new { format!("{key}.{receives}") } else { key };
        self.hold(Output::Call(ApiCall {
            call: CallId { pipe: at, message: id, number },
            api: api.target.api.name().into(),
            path: api.target.path.replace(PATH_KEY, &key),
            key,
            traceparent: cause.trace.map(|trace| trace.traceparent(id, number)),
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
        if matches!(reply, CallReply::Answered { .. }) {
            pipe.pace.answered(self.now.mono_us.saturating_sub(known.began_us));
        }
        let ended = match (known.look_up, api.target.idempotent) {
            (true, _) => Ended::of_look_up(reply),
            (false, false) => Ended::of_call(reply),
            (false, true) => Ended::of_idempotent_call(reply),
        };
        self.end_call(&plan, call, api, ended);
    }

    fn end_call(&mut self, plan: &Plan, call: CallId, api: &ApiPlan, ended: Ended) {
        if let Err(failure) = self.follow_up(plan, call, api, ended) {
            self.bury_message(plan, api, call.message, failure);
        }
    }

    /// Does what the end of a call asks for.
    ///
    /// # Errors
    /// When the business fails on the outcome: the message is poison, for this reason.
    fn follow_up(
        &mut self,
        plan: &Plan,
        call: CallId,
        api: &ApiPlan,
        ended: Ended,
    ) -> Result<(), Failure> {
        let (at, id) = (call.pipe, call.message);
        match ended {
            Ended::Settled(outcome) => {
                self.note_settled(at, api);
                self.write_outcome(api, id, &outcome)?;
                self.delete(api.queue, id);
            }
            // Look-ups may work where calls do not, so they say nothing of the pipe's health.
            Ended::LookedUp(outcome) => {
                let wrote = self.write_outcome(api, id, &outcome)?;
                self.hide(api, id, if wrote { 0 } else { LOOK_UP_AGAIN_MS }, 0);
            }
            Ended::LookUpFailed { retry_after_ms } => {
                let asked = retry_after_ms.map(|ms| ms.min(WAIT_MAX_MS));
                self.pause(at, asked.unwrap_or(0));
                self.hide(api, id, asked.unwrap_or(LOOK_UP_AGAIN_MS), 0);
            }
            Ended::LookUpMisdirected(reason) => {
                self.misdirected(plan, at, api, &reason);
                self.hide(api, id, LOOK_UP_AGAIN_MS, 0);
            }
            Ended::NotSent => {
                self.defer(at, api, None, false);
                self.write_outcome(api, id, &CallOutcome::NotSent)?;
                self.hide(api, id, 0, 0);
            }
            Ended::Deferred { retry_after_ms, refused } => {
                self.end_row(at, api);
                self.defer(at, api, retry_after_ms, refused);
                self.write_outcome(api, id, &CallOutcome::Deferred)?;
                self.hide(api, id, 0, 0);
            }
            Ended::Misdirected(reason) => {
                self.end_row(at, api);
                self.misdirected(plan, at, api, &reason);
                self.write_outcome(api, id, &CallOutcome::Deferred)?;
                self.hide(api, id, 0, 0);
            }
            Ended::Refused(failure) => {
                self.api_pipes[at].pace.accepted();
                self.end_row(at, api);
                self.write_outcome(api, id, &CallOutcome::Refused(failure.message.clone()))?;
                self.bury_message(plan, api, id, failure);
            }
            Ended::Unknown(failure) => {
                self.note_unknown(plan, at, api, &failure.message);
                return self.use_attempt(plan, api, id, failure);
            }
        }
        Ok(())
    }

    /// Counts an unknown outcome; the pipe probes when there are too many, and says so once.
    fn note_unknown(&mut self, plan: &Plan, at: usize, api: &ApiPlan, reason: &str) {
        let pipe = &mut self.api_pipes[at];
        pipe.row.unknowns += 1;
        pipe.unknowns = pipe.unknowns.saturating_add(1);
        let in_a_row = pipe.unknowns;
        if in_a_row >= PROBE_AFTER {
            let wait_ms = self.unknown_wait_ms(in_a_row - PROBE_AFTER + 1);
            self.pause(at, wait_ms);
        }
        if in_a_row == PROBE_AFTER {
            let told = format!("{in_a_row} calls in a row had no known outcome: {reason}");
            self.tell_paused(plan, api, &told);
        }
        self.note_paced(at, api);
    }

    /// An unknown outcome uses an attempt of its message; after the last one it needs a person.
    /// While the pipe probes no other message is tried, so no other one uses an attempt.
    fn use_attempt(
        &mut self,
        plan: &Plan,
        api: &ApiPlan,
        id: u64,
        failure: Failure,
    ) -> Result<(), Failure> {
        let Some(message) = self.state.queue(api.queue).get(id) else { return Ok(()) };
        let reason = failure.message.clone();
        let attempts = message.attempts + 1;
        let wait_ms = self.unknown_wait_ms(attempts);
        // Counted first, so that a dead letter tells how many attempts there were.
        self.hide(api, id, wait_ms, 1);
        if attempts >= api.attempts_max {
            self.write_outcome(api, id, &CallOutcome::Exhausted(reason))?;
            self.bury_message(plan, api, id, failure.exhausted(true));
        } else {
            self.write_outcome(api, id, &CallOutcome::Unknown(reason))?;
        }
        Ok(())
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

    /// Address or credentials are wrong: few calls from now on, and the team is told once.
    fn misdirected(&mut self, plan: &Plan, at: usize, api: &ApiPlan, reason: &str) {
        self.pause(at, MISDIRECTED_WAIT_MS);
        if !std::mem::replace(&mut self.api_pipes[at].misdirected, true) {
            self.tell_paused(plan, api, reason);
        }
        self.note_paced(at, api);
    }

    fn tell_paused(&mut self, plan: &Plan, api: &ApiPlan, reason: &str) {
        let detail =
            Doc::object(&[("pipe", Field::Str(&api.name)), ("reason", Field::Str(reason))]);
        self.raise_alarm(plan, api.alarm, "pipePaused", &detail, Cause::default());
    }

    fn pause(&mut self, at: usize, wait_ms: u64) {
        let until = self.state.clock_ms + wait_ms;
        let pipe = &mut self.api_pipes[at];
        pipe.paused_until_ms = pipe.paused_until_ms.max(until);
    }

    /// The API settled a call: it is there, takes our credentials and does its work.
    fn note_settled(&mut self, at: usize, api: &ApiPlan) {
        let pipe = &mut self.api_pipes[at];
        pipe.pace.accepted();
        if std::mem::take(&mut pipe.misdirected) {
            pipe.paused_until_ms = 0;
            self.note_paced(at, api);
        }
        self.end_row(at, api);
    }

    /// The API gave a call an answer that tells what became of it, if only that it did nothing: it
    /// is there, so a row of unknown outcomes ends, and with it probing. Nothing else ends it.
    fn end_row(&mut self, at: usize, api: &ApiPlan) {
        let pipe = &mut self.api_pipes[at];
        let row = std::mem::take(&mut pipe.unknowns);
        // A pause it asked for itself goes on; ours was to find out whether it is there.
        if row >= PROBE_AFTER && !pipe.misdirected {
            pipe.paused_until_ms = 0;
        }
        if row > 0 {
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

    /// Writes what the business makes of an outcome; false when it makes nothing of it, or when
    /// its condition does not hold any more.
    ///
    /// # Errors
    /// When the function panics or its writes make no sense: a bug, told with the outcome.
    fn write_outcome(
        &mut self,
        api: &ApiPlan,
        id: u64,
        outcome: &CallOutcome,
    ) -> Result<bool, Failure> {
        let Some(message) = self.state.queue(api.queue).get(id) else { return Ok(false) };
        let body = message.body.clone();
        let made = catch_unwind(AssertUnwindSafe(|| {
            (api.outcome)(&self.delivery_input(api, &body), outcome)
        }));
        let writes = made.map_err(|_| {
            Failure::new(PANICKED, format!("the outcome function panicked on {outcome:?}"))
        })?;
        if writes.is_empty() {
            return Ok(false);
        }
        let cause = self.cause_of_message(api.queue, id);
        match self.transact(api.table, &writes, cause) {
            Ok(()) => Ok(true),
            Err(TransactFailure::Condition { .. }) => Ok(false),
            Err(failure @ (TransactFailure::Update(_) | TransactFailure::Shape(_))) => {
                let told = format!("{outcome:?} could not be written: {failure}");
                Err(Failure::new(INVALID_WRITES, told))
            }
        }
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
        self.emit(self.cause_of_message(api.queue, id), Record::Hidden(hidden));
    }

    fn bury_message(&mut self, plan: &Plan, api: &ApiPlan, id: u64, failure: Failure) {
        let Some(message) = self.state.queue(api.queue).get(id) else { return };
        let (body, attempts) = (message.body.clone(), message.attempts);
        let cause = self.cause_of_message(api.queue, id);
        self.delete(api.queue, id);
        let (target, queue) = (format!("api/{}", api.target.api.name()), &plan.queues[&api.queue]);
        let origin = Origin { rule: None, target: Some(&target), queue: Some(&queue.name) };
        let attributes = origin.attributes(&failure.after(attempts));
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
        able.filter_map(|(_, pipe)| pipe.pace.next_token_us()).min()
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
    LookUpFailed {
        retry_after_ms: Option<u64>,
    },
    LookUpMisdirected(String),
    /// No connection: unlike a deferral no answer of the API.
    NotSent,
    Deferred {
        retry_after_ms: Option<u64>,
        refused: bool,
    },
    Misdirected(String),
    Refused(Failure),
    Unknown(Failure),
}

impl Ended {
    fn of_call(reply: CallReply) -> Ended {
        let (status, retry_after_ms, body) = match reply {
            // Who made the call has told the reason; to the message it makes no difference.
            CallReply::NotSent(_) => return Ended::NotSent,
            CallReply::Lost(reason) => return Ended::Unknown(Failure::new(NO_ANSWER, reason)),
            CallReply::Answered { status, retry_after_ms, body } => (status, retry_after_ms, body),
        };
        let failure = |told: String| Failure::new(status.to_string(), told);
        match status {
            200..=299 => Ended::Settled(CallOutcome::Succeeded),
            402 => Ended::Settled(CallOutcome::Declined(reason_in(body.as_ref()))),
            408 | 409 | 425 | 503 => Ended::Deferred { retry_after_ms, refused: false },
            429 => Ended::Deferred { retry_after_ms, refused: true },
            401 | 403 | 404 | 405 => Ended::Misdirected(format!("the API answered {status}")),
            400..=499 => {
                let reason = reason_in(body.as_ref());
                Ended::Refused(failure(format!("the API answered {status}: {reason}")))
            }
            _ => Ended::Unknown(failure(format!("the API answered {status}"))),
        }
    }

    /// Nothing is declined where calls are idempotent, and the key is part of the path: what will
    /// never work, and a key that the API does not know, is a dead letter.
    fn of_idempotent_call(reply: CallReply) -> Ended {
        match reply {
            CallReply::Answered { status: status @ (402 | 404), body, .. } => {
                let told = format!("the API answered {status}: {}", reason_in(body.as_ref()));
                Ended::Refused(Failure::new(status.to_string(), told))
            }
            other => Ended::of_call(other),
        }
    }

    fn of_look_up(reply: CallReply) -> Ended {
        let CallReply::Answered { status, retry_after_ms, body } = reply else {
            return Ended::LookUpFailed { retry_after_ms: None };
        };
        let found = body.as_ref().and_then(|body| body.str("status"));
        match (status, found) {
            (404, _) => Ended::LookedUp(CallOutcome::NotFound),
            (401 | 403, _) => {
                Ended::LookUpMisdirected(format!("the API answered a look-up with {status}"))
            }
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
    let told = named("reason").or(named("detail")).or(named("message"));
    without_addresses(told.unwrap_or("no reason given"))
}

#[cfg(test)]
mod tests;
