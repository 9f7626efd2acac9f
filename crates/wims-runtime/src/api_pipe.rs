//! API pipes: messages of a queue become paced calls, and outcomes become writes.
//!
//! Promise: a call is made only after what it needs is durable, with the same key on every try.
//! Being refused for pace, or not reaching the API, uses no attempt; only an unknown outcome
//! does. An unknown outcome is looked up before anything is tried again. A message on which a
//! function fails is poison: it goes to the dead letters and is never lost. It deliberately knows
//! no payment: what a message needs and what an outcome means are functions of the business.

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
use crate::transact::TransactFailure;

/// After so many unknown outcomes, none settled in between, single messages probe.
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
    /// Calls with an unknown outcome since the last that was settled. Look-ups do not count.
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
        pipe.in_flight.insert(id, InFlight { number, look_up });
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
            path: api.target.path.clone(),
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
        let ended = if known.look_up { Ended::of_look_up(reply) } else { Ended::of_call(reply) };
        self.end_call(&plan, call, api, ended);
    }

    fn end_call(&mut self, plan: &Plan, call: CallId, api: &ApiPlan, ended: Ended) {
        if let Err(reason) = self.follow_up(plan, call, api, ended) {
            self.bury_message(plan, api, call.message, &reason);
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
    ) -> Result<(), String> {
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
            Ended::Deferred { retry_after_ms, refused } => {
                self.defer(at, api, retry_after_ms, refused);
                self.write_outcome(api, id, &CallOutcome::Deferred)?;
                self.hide(api, id, 0, 0);
            }
            Ended::Misdirected(reason) => {
                self.misdirected(plan, at, api, &reason);
                self.write_outcome(api, id, &CallOutcome::Deferred)?;
                self.hide(api, id, 0, 0);
            }
            Ended::Refused(reason) => {
                self.api_pipes[at].pace.accepted();
                self.write_outcome(api, id, &CallOutcome::Refused(reason.clone()))?;
                self.bury_message(plan, api, id, &reason);
            }
            Ended::Unknown(reason) => {
                self.note_unknown(plan, at, api, &reason);
                return self.use_attempt(plan, api, id, reason);
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
        reason: String,
    ) -> Result<(), String> {
        let Some(message) = self.state.queue(api.queue).get(id) else { return Ok(()) };
        let attempts = message.attempts + 1;
        let wait_ms = self.unknown_wait_ms(attempts);
        // Counted first, so that a dead letter tells how many attempts there were.
        self.hide(api, id, wait_ms, 1);
        if attempts >= api.attempts_max {
            self.write_outcome(api, id, &CallOutcome::Exhausted(reason.clone()))?;
            self.bury_message(plan, api, id, &reason);
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

    /// The API settled a call: it is there, takes our credentials and does its work. Nothing else
    /// ends probing.
    fn note_settled(&mut self, at: usize, api: &ApiPlan) {
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
    ) -> Result<bool, String> {
        let Some(message) = self.state.queue(api.queue).get(id) else { return Ok(false) };
        let body = message.body.clone();
        let made = catch_unwind(AssertUnwindSafe(|| {
            (api.outcome)(&self.delivery_input(api, &body), outcome)
        }));
        let writes = made.map_err(|_| format!("the outcome function panicked on {outcome:?}"))?;
        if writes.is_empty() {
            return Ok(false);
        }
        let cause = self.cause_of_message(api.queue, id);
        match self.transact(api.table, &writes, cause) {
            Ok(()) => Ok(true),
            Err(TransactFailure::Condition { .. }) => Ok(false),
            Err(failure @ (TransactFailure::Update(_) | TransactFailure::Shape(_))) => {
                Err(format!("{outcome:?} could not be written: {failure}"))
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

    fn bury_message(&mut self, plan: &Plan, api: &ApiPlan, id: u64, reason: &str) {
        let Some(message) = self.state.queue(api.queue).get(id) else { return };
        let (body, attempts) = (message.body.clone(), message.attempts);
        let cause = self.cause_of_message(api.queue, id);
        self.delete(api.queue, id);
        let attributes = Doc::object(&[
            ("ERROR_MESSAGE", Field::Str(reason)),
            ("RETRY_ATTEMPTS", Field::Int(attempts.into())),
            (SOURCE_QUEUE, Field::Str(&plan.queues[&api.queue].name)),
        ]);
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
    LookUpFailed { retry_after_ms: Option<u64> },
    LookUpMisdirected(String),
    Deferred { retry_after_ms: Option<u64>, refused: bool },
    Misdirected(String),
    Refused(String),
    Unknown(String),
}

impl Ended {
    fn of_call(reply: CallReply) -> Ended {
        let (status, retry_after_ms, body) = match reply {
            // Who made the call has told the reason; to the message it makes no difference.
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
    named("reason").or(named("detail")).or(named("message")).unwrap_or("no reason given").into()
}

#[cfg(test)]
mod tests {
    use wims_stack::{
        Action, ApiRef, ApiTarget, FunctionRef, MailLimit, Pipe, PipeSource, PipeTarget, Queue,
        QueueRef, Redrive, Stack, Subscription, TableRef, TargetRef, Template, Topic, TopicRef,
        Update, Write,
    };

    use super::*;
    use crate::functions::{Function, Functions, MailText};
    use crate::quiet::{self, Quiet};

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
        for status in [401, 403] {
            assert!(matches!(Ended::of_look_up(answered(status)), Ended::LookUpMisdirected(_)));
        }
    }

    /// A quiet stack whose queue `noted` is called for at an API: messages are the `sk` of an item.
    fn called_for(attempts_max: u32) -> Stack {
        let (dead_letters, alarm) = (QueueRef::new("dead"), TopicRef::new("team"));
        let message = Template::path("$.detail.sk");
        let mut stack = quiet::stack(TargetRef::Queue(QueueRef::new("noted"), message));
        let noted = stack.queues.iter_mut().find(|queue| queue.name.name() == "noted");
        noted.expect("it is declared").redrive =
            Some(Redrive { dead_letters, receive_count_max: attempts_max });
        stack.queues.push(Queue {
            name: QueueRef::new("mails"),
            visibility_timeout_ms: 30_000,
            redrive: None,
            alarm: None,
        });
        stack.topics.push(Topic {
            name: alarm.clone(),
            subscriptions: vec![Subscription {
                queue: QueueRef::new("mails"),
                email: "team@localhost".into(),
                mail: FunctionRef::new("mail"),
                limit: MailLimit::Digest { window_ms: 60_000 },
            }],
        });
        stack.apis.push(ApiRef::new("api"));
        stack.pipes.push(Pipe {
            name: "calls".into(),
            source: PipeSource::Queue(QueueRef::new("noted")),
            target: PipeTarget::Api(ApiTarget {
                api: ApiRef::new("api"),
                path: "/".into(),
                table: TableRef::new("T"),
                prepare: FunctionRef::new("prepare"),
                outcome: FunctionRef::new("outcome"),
                rate_per_second: 1_000.0,
                burst: 100,
                in_flight_max: 100,
                timeout_ms: 1_000,
                alarm,
            }),
        });
        stack
    }

    fn functions() -> Functions {
        quiet::functions()
            .with("prepare", Function::Prepare(prepare))
            .with("outcome", Function::Outcome(outcome))
            .with("mail", Function::Mail(mail))
    }

    fn mail(_: &[Doc]) -> MailText {
        MailText { subject: "paused".into(), text: String::new() }
    }

    fn becomes(sk: &str, state: &str) -> Write {
        let action = Action::Update(vec![Update::set_str("state", state)]);
        Write { pk: "a".into(), sk: sk.into(), condition: None, action }
    }

    fn prepare(input: &DeliveryInput<'_>) -> Delivery {
        let sk = input.message.view().as_str().expect("a text");
        let state = input.reads.get("a", sk).and_then(|item| item.str("state"));
        let key = sk.to_owned();
        match state {
            Some("NEW") => {
                Delivery::Call { writes: vec![becomes(sk, "CALLED")], key, body: Doc::object(&[]) }
            }
            Some("CALLED" | "UNKNOWN") => Delivery::LookUp { key, writes: Vec::new() },
            _ => Delivery::Drop,
        }
    }

    fn outcome(input: &DeliveryInput<'_>, outcome: &CallOutcome) -> Vec<Write> {
        let sk = input.message.view().as_str().expect("a text");
        let state = match outcome {
            CallOutcome::Succeeded if sk == "poison" => panic!("poison"),
            CallOutcome::Succeeded => "DONE",
            CallOutcome::Unknown(_) => "UNKNOWN",
            CallOutcome::Deferred | CallOutcome::NotFound => "NEW",
            CallOutcome::Declined(_) | CallOutcome::Refused(_) | CallOutcome::Exhausted(_) => {
                "FAILED"
            }
        };
        vec![becomes(sk, state)]
    }

    /// Starts with a new item for each of these, and lets their calls begin.
    fn begun(attempts_max: u32, items: &[&str]) -> Quiet {
        let mut quiet = Quiet::start(&called_for(attempts_max), &functions());
        items.iter().for_each(|sk| quiet.put(sk));
        quiet.pass_ms(1_000);
        quiet
    }

    /// Answers what is under way; how many calls, and how many look-ups.
    fn answer(quiet: &mut Quiet, to_call: u16, to_look_up: u16) -> (usize, usize) {
        let under_way: Vec<_> = quiet.engine.api_pipes[0]
            .in_flight
            .iter()
            .map(|(id, call)| (CallId { pipe: 0, message: *id, number: call.number }, call.look_up))
            .collect();
        for (call, look_up) in &under_way {
            let status = if *look_up { to_look_up } else { to_call };
            let reply = CallReply::Answered { status, retry_after_ms: None, body: None };
            quiet.engine.called(*call, reply);
        }
        let look_ups = under_way.iter().filter(|(_, look_up)| *look_up).count();
        (under_way.len() - look_ups, look_ups)
    }

    #[test]
    fn an_outcome_the_business_fails_on_is_a_dead_letter_and_its_call_is_never_forgotten() {
        let mut quiet = begun(10, &["good", "poison"]);
        assert_eq!(answer(&mut quiet, 200, 404), (2, 0));
        quiet.pass_ms(10);
        assert_eq!(quiet.item("good").str("state"), Some("DONE"));
        assert_eq!(quiet.item("poison").str("state"), Some("CALLED"), "a redrive looks it up");
        assert_eq!(quiet.messages("noted").len(), 0);
        let letters = quiet.messages("dead");
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].body.view().as_str(), Some("poison"));
        let attributes = letters[0].attributes.as_ref().expect("they say why");
        let reason = attributes.str("ERROR_MESSAGE");
        assert_eq!(reason, Some("the outcome function panicked on Succeeded"));
        assert_eq!(attributes.str(SOURCE_QUEUE), Some("noted"));
    }

    #[test]
    fn look_ups_do_not_end_probing_and_the_team_is_told_once() {
        let mut quiet = begun(10, &["1", "2", "3", "4", "5"]);
        assert_eq!(answer(&mut quiet, 500, 404), (5, 0));
        quiet.pass_ms(10);
        assert_eq!(quiet.messages("mails").len(), 1);
        quiet.engine.api_pipes[0].pace.refused(0);
        let fallen = quiet.engine.api_pipes[0].pace.rate();
        quiet.put("6");
        let (mut calls, mut look_ups) = (0, 0);
        // The pause ends within 30 s, the next one lasts at least 45 s.
        for _ in 0..400 {
            quiet.pass_ms(100);
            let (called, looked_up) = answer(&mut quiet, 500, 404);
            (calls, look_ups) = (calls + called, look_ups + looked_up);
        }
        assert_eq!(calls, 1, "one message finds out for all");
        assert!(look_ups <= 5);
        let pipe = &quiet.engine.api_pipes[0];
        assert_eq!((pipe.unknowns, pipe.pace.rate()), (PROBE_AFTER + 1, fallen));
        let attempts: u32 = quiet.messages("noted").iter().map(|message| message.attempts).sum();
        assert_eq!(attempts, 6);
        assert_eq!(quiet.messages("mails").len(), 1);
    }

    #[test]
    fn an_unknown_outcome_is_looked_up_before_anything_is_tried_again() {
        let mut quiet = begun(10, &["1"]);
        assert_eq!(answer(&mut quiet, 500, 404), (1, 0));
        quiet.pass_ms(UNKNOWN_WAIT_MS + 100);
        assert_eq!(answer(&mut quiet, 200, 404), (0, 1));
        quiet.pass_ms(100);
        assert_eq!(answer(&mut quiet, 200, 404), (1, 0));
        assert_eq!(quiet.item("1").str("state"), Some("DONE"));
        assert_eq!(quiet.engine.api_pipes[0].unknowns, 0);
    }

    #[test]
    fn a_look_up_with_wrong_credentials_pauses_the_pipe_and_the_team_is_told_once() {
        let mut quiet = begun(10, &["1"]);
        answer(&mut quiet, 500, 401);
        quiet.pass_ms(UNKNOWN_WAIT_MS + 100);
        assert_eq!(answer(&mut quiet, 500, 401), (0, 1));
        quiet.pass_ms(MISDIRECTED_WAIT_MS - 100);
        assert_eq!(quiet.engine.api_pipes[0].in_flight(), 0, "it is paused");
        quiet.pass_ms(200);
        assert_eq!(answer(&mut quiet, 500, 401), (0, 1));
        assert_eq!(quiet.messages("mails").len(), 1);
        assert_eq!(quiet.messages("noted")[0].attempts, 1, "a look-up uses none");
    }

    #[test]
    fn a_dead_letter_tells_all_attempts() {
        let mut quiet = begun(2, &["1"]);
        answer(&mut quiet, 500, 404);
        quiet.pass_ms(UNKNOWN_WAIT_MS + 100);
        answer(&mut quiet, 500, 404);
        quiet.pass_ms(100);
        assert_eq!(answer(&mut quiet, 500, 404), (1, 0));
        let letters = quiet.messages("dead");
        let attributes = letters[0].attributes.as_ref().expect("they say why");
        assert_eq!(attributes.int("RETRY_ATTEMPTS"), Some(2));
        assert_eq!(quiet.item("1").str("state"), Some("FAILED"));
    }
}
