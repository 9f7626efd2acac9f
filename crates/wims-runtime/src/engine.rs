//! The engine: owns all state, is synchronous and deterministic, and never waits.
//!
//! A step takes inputs, carries them and everything that follows from them as far as its budget
//! goes, and hands out what is to be done. Promise: nothing leaves before the frame that holds
//! everything it saw is durable; a consumer's cursor, its effects and their events are one frame.
//! It deliberately reads no clock, no disk and no network.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use wims_stack::{Action, Doc, Stack, Write};

use crate::api_pipe::ApiPipe;
use crate::functions::{Functions, Refusal, RouteInput, Routed};
use crate::io::{Answer, Input, Now, Output, Ticket};
use crate::journal::{Journal, Needed};
use crate::keys::{KEYS_MAX, Keyed, RequestKey};
use crate::mails::Mails;
use crate::plan::{Plan, PlanError, compile, resource_names};
use crate::record::{Entry, Named, Record, Waiting};
use crate::recovery::{Planted, Recovered, RecoveryBugs, RecoveryError, SegmentStore};
use crate::replay::replay;
use crate::state::{Execution, State};
use crate::stopwatch::Stopwatch;
use crate::sweep::Sweep;
use crate::trace::TraceId;
use crate::transact::TransactFailure;

mod redelivery;

pub use redelivery::Redeliver;
use redelivery::Redelivery;

/// Changes not yet through the pipe at which intake is refused, unless configured otherwise.
pub const CHANGE_LAG_MAX: usize = 100_000;
/// Bytes of a segment unless configured otherwise.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Segments removed in one step, at most.
const REMOVED_MAX: usize = 8;
/// An idle journal is closed with an empty frame after this long.
const CLOSE_AFTER_MS: u64 = 500;
/// Longer than anybody waits: a year.
const NEVER_MS: u64 = 365 * 86_400_000;

const NO_SEGMENT_REASON: &str = "no journal segment could be prepared; is the disk full?";
const MEMORY_FULL: &str = "what is open fills the memory";
const NO_SEGMENT: Answer = Answer::Full { retry_after_s: 1, reason: NO_SEGMENT_REASON };

/// How an engine is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Intake is refused above this estimate of memory in bytes.
    pub memory_max: u64,
    /// Intake is refused when more changes than this wait for a pipe.
    pub change_lag_max: usize,
    /// New keys of requests are refused when so many are kept.
    pub keys_max: usize,
    /// Seed of ids and jitter.
    pub seed: u64,
    /// Delivers to targets out of order and again; off except in the simulator.
    pub redeliver: Option<Redeliver>,
    /// Planted bugs; all off except in the simulator's own tests.
    pub bugs: EngineBugs,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            segment_bytes: SEGMENT_BYTES,
            memory_max: u64::MAX,
            change_lag_max: CHANGE_LAG_MAX,
            keys_max: KEYS_MAX,
            seed: 0,
            redeliver: None,
            bugs: EngineBugs::default(),
        }
    }
}

/// Planted bugs; the simulator must find each. A release binary has none: see [`Planted`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineBugs {
    /// Replies before the frame is durable.
    pub reply_before_sync: Planted,
    /// Writes without waiting for the disk; the simulated disk looks at it.
    pub skip_sync: Planted,
    /// Makes a new key for each try of a call.
    pub new_key_on_retry: Planted,
    /// Writes a consumer's cursor without its effects being in the same frame.
    pub cursor_apart: Planted,
    /// Does not know any more when the executions go on that a former life left waiting.
    pub lose_timers: Planted,
    /// Records a request's key a step late, so that what comes in between does not know of it.
    pub late_keys: Planted,
    /// See [`RecoveryBugs`].
    pub recovery: RecoveryBugs,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The stack refers to something that is not there.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The journal must not be used.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// What something follows from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cause {
    /// Sequence of a record; 0 for a request or a timer.
    pub seq: u64,
    /// Whether a replay is at its root.
    pub replay: bool,
    /// The trace it belongs to.
    pub trace: Option<TraceId>,
}

impl Cause {
    /// No record is the cause, but this is known to belong to a trace, if to any.
    pub fn of_trace(trace: Option<TraceId>) -> Cause {
        Cause { trace, ..Cause::default() }
    }
}

/// The engine; see the module.
pub struct Engine {
    pub(crate) plan: Arc<Plan>,
    pub(crate) stack: Arc<Stack>,
    pub(crate) state: State,
    pub(crate) journal: Journal,
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Now,
    pub(crate) options: EngineOptions,
    /// Outputs that wait until everything up to a sequence is durable, in order.
    held: VecDeque<(u64, Output)>,
    in_flight_seq: u64,
    pub(crate) stopwatch: Stopwatch,
    /// Requests that were carried out in this step.
    calls: u64,
    pub(crate) api_pipes: Vec<ApiPipe>,
    pub(crate) mails: Mails,
    pub(crate) sweep: Sweep,
    redelivery: Redelivery,
    /// The last sequence each stream pipe has seen, cursors not yet written included.
    pub(crate) positions: Vec<u64>,
    pub(crate) found: Vec<usize>,
    /// Keys that the planted bug has not recorded yet; none without it.
    pub(crate) late_keys: Vec<(Keyed, Option<TraceId>)>,
    pub(crate) history_busy: bool,
    pub(crate) history_retry_ms: u64,
    ids_given: bool,
    prepare_retry_ms: u64,
    last_write_ms: u64,
}

impl Engine {
    /// An engine for `stack` on the journal in `store`, recovered.
    ///
    /// # Errors
    /// When the stack cannot run or the journal must not be used; nothing was changed then.
    pub fn start(
        stack: &Stack,
        functions: &Functions,
        store: &mut impl SegmentStore,
        options: EngineOptions,
        now: Now,
    ) -> Result<(Engine, Recovered), StartError> {
        let names = resource_names(stack);
        let planned = |name: &str| names.iter().position(|n| n == name).map(|at| at as u16);
        compile(stack, functions, &planned)?;
        let (recovered, mut state) =
            replay(stack, store, options.bugs.recovery, options.memory_max)?;
        let slept_ms = now.wall_ms.saturating_sub(recovered.last_wall_ms);
        state.clock_ms = recovered.last_clock_ms + if recovered.frames > 0 { slept_ms } else { 0 };
        // A journal keeps the segment size it began with.
        let segment_bytes = recovered.segment_bytes.unwrap_or(options.segment_bytes);
        let options = EngineOptions { segment_bytes, ..options };
        let journal = Journal::new(segment_bytes, recovered.end.clone());
        let mut engine = Engine {
            plan: Arc::new(Plan::empty()),
            stack: Arc::new(stack.clone()),
            state,
            journal,
            rng: fastrand::Rng::with_seed(options.seed),
            now,
            options,
            held: VecDeque::new(),
            in_flight_seq: 0,
            stopwatch: Stopwatch::new(recovered.end.last_seq + 1),
            calls: 0,
            api_pipes: Vec::new(),
            mails: Mails::default(),
            sweep: Sweep::default(),
            redelivery: Redelivery::default(),
            positions: Vec::new(),
            found: Vec::new(),
            late_keys: Vec::new(),
            history_busy: false,
            history_retry_ms: 0,
            ids_given: false,
            prepare_retry_ms: 0,
            last_write_ms: 0,
        };
        engine.begin(functions)?;
        Ok((engine, recovered))
    }

    /// Gives new resources their numbers, resolves the stack, and takes up what a former life
    /// left: messages it held can be received again.
    fn begin(&mut self, functions: &Functions) -> Result<(), StartError> {
        for name in resource_names(&self.stack) {
            if self.state.number(&name).is_none() {
                let id = u16::try_from(self.state.names.len()).expect("far below 65,536 names");
                self.emit(Cause::default(), Record::Named(Named { id, name }));
            }
        }
        let plan = compile(&self.stack, functions, &|name| self.state.number(name))?;
        for stream in &plan.streams {
            let at = self.place_of(stream);
            self.positions.push(at);
        }
        self.plan = Arc::new(plan);
        self.state.find_closed();
        self.state.keys.sort(self.state.clock_ms);
        self.appear_everywhere();
        self.start_api_pipes();
        self.release_held();
        self.find_waiting_mails();
        if self.options.bugs.lose_timers.is_on() {
            self.lose_timers();
        }
        self.sweep.owe(self.journal.segments().count() as u64 * self.options.segment_bytes);
        Ok(())
    }

    /// The planted bug: what a former life left waiting goes on no more.
    fn lose_timers(&mut self) {
        let wake_at_ms = self.state.clock_ms + NEVER_MS;
        for Execution { waiting, trace } in self.state.executions.clone().into_values() {
            let waiting = Waiting { wake_at_ms, ..waiting };
            self.emit(Cause::of_trace(trace), Record::Waiting(waiting));
        }
    }

    /// One step: takes inputs and appends what is to be done to `outputs`. Requests that find the
    /// frame full are left in `inputs`.
    pub fn step(&mut self, now: Now, inputs: &mut Vec<Input>, outputs: &mut Vec<Output>) {
        self.advance_clock(now);
        self.appear_everywhere();
        self.forget_keys();
        if self.options.bugs.cursor_apart.is_on() {
            self.write_late_cursors(&self.plan.clone());
        }
        if self.options.bugs.late_keys.is_on() {
            self.record_late_keys();
        }
        let mut left = Vec::new();
        for input in inputs.drain(..) {
            let is_request = input.ticket().is_some();
            if is_request && !self.journal.has_room() && !self.journal.is_stuck() {
                left.push(input);
            } else {
                self.take(input, outputs, now.mono_us);
            }
        }
        *inputs = left;
        self.stopwatch.took(now.mono_us, std::mem::take(&mut self.calls), self.last_change());
        let plan = self.plan.clone();
        self.wake_executions(&plan);
        self.deliver_again(&plan);
        // First what is outside: a stream with much to catch up fills every frame.
        self.pump_outside(&plan);
        self.run_streams(&plan);
        self.pump_outside(&plan);
        self.run_streams(&plan);
        self.deliver_put_off(&plan);
        self.run_sweep();
        self.note_ids();
        self.feed_history();
        self.submit(outputs, now.mono_us);
        self.release(outputs);
    }

    /// Hands out calls and mails.
    fn pump_outside(&mut self, plan: &Plan) {
        // The last segment is for what comes of calls already made.
        if self.journal.admits() {
            self.pump_api_pipes(plan);
            self.pump_mails(plan);
        }
    }

    /// When the next step is due without any input, in microseconds of monotonic time.
    pub fn next_step_us(&self) -> Option<u64> {
        let clock_ms = self.state.clock_ms;
        let queues = self.state.queue_numbers();
        let appears = queues.filter_map(|queue| self.state.queue(queue).next_appears_ms());
        let wakes = self.state.wakes.first().map(|(at, _)| *at);
        let close = self.journal.is_unclosed().then_some(self.last_write_ms + CLOSE_AFTER_MS);
        let retry = Some(self.prepare_retry_ms);
        let history = Some(self.history_retry_ms);
        let (mails, pipes) = (self.mails_due_ms(), self.pipes_due_ms());
        let others = [wakes, close, retry, history, mails, pipes, self.redelivery_due_ms()];
        // What was due until now was done in this step, or waits for a completion.
        let due_ms = appears.chain(others.into_iter().flatten()).filter(|at| *at > clock_ms).min();
        let removal_ms = self.journal.removable_in_ms(self.keep_after_ms());
        let in_ms = [due_ms.map(|at| at - clock_ms), removal_ms].into_iter().flatten().min();
        let by_clock = in_ms.map(|ms| self.now.mono_us + ms * 1_000);
        if !self.journal.has_room() {
            return by_clock;
        }
        let more = self.has_more_work().then_some(self.now.mono_us);
        if !self.journal.admits() {
            return [by_clock, more].into_iter().flatten().min();
        }
        [by_clock, self.tokens_due_us(), self.sweep_due_us(), more].into_iter().flatten().min()
    }

    /// Wall time after which the logs of the stack keep everything.
    fn keep_after_ms(&self) -> u64 {
        self.now.wall_ms.saturating_sub(self.plan.log_retention_ms)
    }

    /// Whether work is left that this step's budget did not cover.
    fn has_more_work(&self) -> bool {
        let last = self.last_change();
        let is_wake_due =
            self.state.wakes.first().is_some_and(|(at, _)| *at <= self.state.clock_ms);
        let is_due = is_wake_due || self.is_redelivery_due();
        is_due || self.positions.iter().any(|position| *position < last)
    }

    /// The last change that some consumer of the stream has not seen; 0 when there is none.
    pub(crate) fn last_change(&self) -> u64 {
        self.state.stream.back().map_or(0, |change| change.seq)
    }

    /// Whether more requests may be handed to a step: the open frame has room.
    pub fn wants_requests(&self) -> bool {
        self.journal.has_room()
    }

    /// Whether a frame is on its way to the disk.
    pub fn is_frame_in_flight(&self) -> bool {
        self.journal.is_in_flight()
    }

    /// Whether everything is durable and nothing is under way inside.
    pub fn is_settled(&self) -> bool {
        self.journal.is_settled() && !self.has_more_work()
    }

    /// Calls and mails under way outside.
    pub fn outside_in_flight(&self) -> usize {
        self.api_pipes.iter().map(ApiPipe::in_flight).sum::<usize>() + self.mails.in_flight()
    }

    /// The journal's last durable sequence.
    pub fn durable_seq(&self) -> u64 {
        self.journal.durable_seq()
    }

    /// Stops admitting calls to the outside, and the sweep: a stop has been asked for.
    pub fn stop_outside(&mut self) {
        self.sweep.stop();
        self.mails.stopped = true;
        self.api_pipes.iter_mut().for_each(ApiPipe::stop);
    }

    /// Appends a record to the open frame and applies it; returns its sequence.
    pub(crate) fn emit(&mut self, cause: Cause, record: Record) -> u64 {
        let seq = self.journal.next_seq();
        let entry = Entry {
            seq,
            wall_ms: self.now.wall_ms,
            cause: cause.seq,
            replay: cause.replay,
            trace: cause.trace,
            record,
        };
        self.journal.append(&entry);
        self.state.apply(entry);
        seq
    }

    /// A message as a cause: its trace goes on.
    pub(crate) fn cause_of_message(&self, queue: u16, id: u64) -> Cause {
        let message = self.state.queue(queue).get(id);
        Cause { seq: id, replay: false, trace: message.and_then(|message| message.trace) }
    }

    /// Hands out an output once everything seen so far is durable.
    pub(crate) fn hold(&mut self, output: Output) {
        self.held.push_back((self.journal.next_seq() - 1, output));
    }

    fn advance_clock(&mut self, now: Now) {
        let passed_us = now.mono_us.saturating_sub(self.now.mono_us);
        // Whole milliseconds only; the rest stays for the next step.
        let passed_ms = passed_us / 1_000;
        self.state.clock_ms += passed_ms;
        // A frame's records are stamped in order, whatever the wall clock does.
        let wall_ms = now.wall_ms.max(self.journal.open_wall_ms());
        self.now = Now { wall_ms, mono_us: self.now.mono_us + passed_ms * 1_000 };
        self.refill_tokens(now.mono_us);
    }

    fn appear_everywhere(&mut self) {
        for queue in self.state.queue_numbers().collect::<Vec<_>>() {
            self.state.appear(queue);
        }
    }

    fn take(&mut self, input: Input, outputs: &mut Vec<Output>, now_us: u64) {
        match input {
            Input::Call { ticket, route, arguments, history, trace, key } => {
                let key = key.as_deref();
                let answer = self.call(route, &arguments, history.as_ref(), trace, key);
                self.calls += u64::from(matches!(answer, Answer::Done(_)));
                self.reply(ticket, answer, outputs);
            }
            Input::Query { ticket, query } => {
                // What it would see cannot become durable.
                let answer = if self.journal.is_stuck() { NO_SEGMENT } else { self.query(query) };
                self.reply(ticket, answer, outputs);
            }
            Input::Written { buffer } => {
                self.journal.written(self.in_flight_seq, buffer);
                self.stopwatch.durable(now_us);
            }
            Input::Prepared { segment, success } => {
                self.journal.prepared(segment, success);
                self.prepare_retry_ms = self.state.clock_ms + if success { 0 } else { 1_000 };
            }
            Input::Called { call, reply } => self.called(call, reply),
            Input::Mailed { mail, result } => self.mailed(&mail, &result),
            Input::Historied { seq, success } => self.historied(seq, success),
        }
    }

    fn reply(&mut self, ticket: Ticket, answer: Answer, outputs: &mut Vec<Output>) {
        // Being full has seen nothing and must not wait for a disk that is.
        let at_once = matches!(answer, Answer::Full { .. });
        let output = Output::Reply(ticket, answer);
        if at_once || self.options.bugs.reply_before_sync.is_on() {
            outputs.push(output);
        } else {
            self.hold(output);
        }
    }

    /// Carries out a request through a route, in one transaction, or makes the answer of the first
    /// one with its key again.
    fn call(
        &mut self,
        route: &str,
        arguments: &Doc,
        history: Option<&Doc>,
        trace: Option<TraceId>,
        key: Option<&RequestKey>,
    ) -> Answer {
        if let Some(reason) = self.refuses_calls() {
            return Answer::Full { retry_after_s: 1, reason };
        }
        let plan = self.plan.clone();
        let Some(route) = plan.routes.get(route) else {
            return Answer::Refused(crate::functions::Refusal {
                kind: crate::functions::RefusalKind::NotFound,
                detail: format!("the stack has no route {route}"),
            });
        };
        let first = match key.map_or(Ok(None), |key| self.first_with(key)) {
            Ok(first) => first,
            Err(answer) => return answer,
        };
        let id = first.unwrap_or_else(|| self.next_id());
        let input = RouteInput {
            arguments,
            history,
            reads: crate::functions::Reads::of(self.state.table(route.table)),
            now_ms: self.now.wall_ms,
            id,
            repeated: first.is_some(),
        };
        let routed = catch_unwind(AssertUnwindSafe(|| (route.function)(&input)));
        match routed.unwrap_or_else(|_| Err(Refusal::of_panic())) {
            Err(refusal) => Answer::Refused(refusal),
            Ok(routed) if first.is_some() => Answer::Repeated(routed.reply),
            // What is open must be able to come to its end, or memory never gets free.
            Ok(routed) if self.is_memory_full() && self.adds_items(route.table, &routed.writes) => {
                Answer::Full { retry_after_s: 1, reason: MEMORY_FULL }
            }
            Ok(Routed { writes, reply }) => {
                match self.transact(route.table, &writes, Cause::of_trace(trace)) {
                    Ok(()) => {
                        if let Some(key) = key {
                            self.record_key(key, id, trace);
                        }
                        Answer::Done(reply)
                    }
                    Err(failure) => Answer::Refused(refusal_of(&failure)),
                }
            }
        }
    }

    fn adds_items(&self, table: u16, writes: &[Write]) -> bool {
        let items = self.state.table(table);
        let adds = |write: &Write| match write.action {
            Action::Put(_) | Action::Update(_) => items.get(&write.pk, &write.sk).is_none(),
            Action::Delete | Action::Check => false,
        };
        writes.iter().any(adds)
    }

    /// What is full, if anything is: why new orders are refused.
    pub(crate) fn full(&self) -> Option<&'static str> {
        self.refuses_calls().or_else(|| self.is_memory_full().then_some(MEMORY_FULL))
    }

    fn is_memory_full(&self) -> bool {
        self.memory_bytes() > self.options.memory_max
    }

    /// Why no route can be taken, if none can.
    pub(crate) fn refuses_calls(&self) -> Option<&'static str> {
        if !self.journal.admits() {
            return Some(NO_SEGMENT_REASON);
        }
        let is_behind = self.state.stream.len() > self.options.change_lag_max;
        is_behind.then_some("too many changes wait for the pipe")
    }

    /// A UUIDv7 greater than every one before.
    fn next_id(&mut self) -> u128 {
        self.ids_given = true;
        let random = (u128::from(self.rng.u64(..)) << 64) | u128::from(self.rng.u64(..));
        let version_and_variant = (0x7u128 << 76) | (0x2u128 << 62);
        let random = random & ((0xfffu128 << 64) | ((1 << 62) - 1));
        let fresh = (u128::from(self.now.wall_ms) << 80) | version_and_variant | random;
        let id = if fresh > self.state.last_id { fresh } else { follow(self.state.last_id) };
        self.state.last_id = id;
        id
    }

    fn note_ids(&mut self) {
        if std::mem::take(&mut self.ids_given) {
            let id = self.state.last_id;
            self.emit(Cause::default(), Record::LastId { id });
        }
    }

    fn submit(&mut self, outputs: &mut Vec<Output>, now_us: u64) {
        let clock_ms = self.state.clock_ms;
        let closing = self.journal.is_unclosed() && clock_ms >= self.last_write_ms + CLOSE_AFTER_MS;
        let needed = self.needed();
        let last_seq = self.journal.next_seq() - 1;
        let write = self.journal.submit(clock_ms, self.now.wall_ms, needed, closing);
        if let Some(write) = write {
            self.in_flight_seq = last_seq;
            self.last_write_ms = clock_ms;
            let seen = self.positions.iter().copied().min().unwrap_or(u64::MAX);
            self.stopwatch.submitted(now_us, last_seq, seen, self.last_change());
            outputs.push(Output::Write(write));
        }
        if clock_ms >= self.prepare_retry_ms
            && let Some(segment) = self.journal.prepare()
        {
            outputs.push(Output::Prepare { segment });
        }
        let keep_after_ms = self.keep_after_ms();
        for _ in 0..REMOVED_MAX {
            let Some(segment) = self.journal.remove(keep_after_ms) else { break };
            outputs.push(Output::Remove { segment });
        }
    }

    /// Closes the journal with an empty frame if the last one is not; for a clean stop.
    pub fn close(&mut self, outputs: &mut Vec<Output>) {
        let (clock_ms, needed) = (self.state.clock_ms, self.needed());
        let write = self.journal.submit(clock_ms, self.now.wall_ms, needed, true);
        self.in_flight_seq = self.journal.next_seq() - 1;
        outputs.extend(write.map(Output::Write));
    }

    /// A recovery has to start where the last finished sweep began, or earlier when a declared
    /// consumer of the stream is behind. What one needs that the stack does not have is kept, and
    /// read only when it is back.
    pub(crate) fn needed(&self) -> Needed {
        let front = self.journal.segment_of(self.state.stream_front());
        let oldest = self.journal.segment_of(0);
        let recover_from = self.state.swept.1.min(front).max(oldest);
        let kept = self.state.kept_from().map(|seq| self.journal.segment_of(seq));
        Needed { recover_from, keep_from: kept.unwrap_or(recover_from).min(recover_from) }
    }

    fn release(&mut self, outputs: &mut Vec<Output>) {
        let durable = self.journal.durable_seq();
        while self.held.front().is_some_and(|(seq, _)| *seq <= durable) {
            outputs.extend(self.held.pop_front().map(|(_, output)| output));
        }
    }
}

/// The next UUIDv7 after one, keeping version and variant.
fn follow(id: u128) -> u128 {
    let low_mask = (1u128 << 62) - 1;
    let low = id & low_mask;
    if low < low_mask {
        return id + 1;
    }
    // The 62 low bits are used up: count on in the 12 bits above the version.
    let high = ((id >> 64) & 0xfff) + 1;
    if high <= 0xfff {
        return (id & !((0xfffu128 << 64) | low_mask)) | (high << 64);
    }
    ((id >> 80) + 1) << 80 | (0x7u128 << 76) | (0x2u128 << 62)
}

fn refusal_of(failure: &TransactFailure) -> crate::functions::Refusal {
    crate::functions::Refusal {
        kind: crate::functions::RefusalKind::Conflict,
        detail: failure.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use wims_stack::{QueueRef, TargetRef, Template};

    use super::*;
    use crate::io::Query;
    use crate::quiet;
    use crate::recovery::NoSegments;

    #[test]
    fn the_id_after_an_id_is_greater_and_stays_a_uuid_of_version_7() {
        let versioned = |id: u128| (id >> 76) & 0xf == 7 && (id >> 62) & 3 == 2;
        let full = (5u128 << 80) | (0x7u128 << 76) | (0x2u128 << 62) | ((1u128 << 62) - 1);
        for id in [full, full | (0xfff << 64), full - 1] {
            assert!(follow(id) > id && versioned(follow(id)), "{id:x}");
        }
    }

    #[test]
    fn what_is_asked_while_nothing_can_become_durable_is_refused_at_once() {
        let (queue, message) = (QueueRef::new("noted"), Template::path("$.detail.sk"));
        let stack = quiet::stack(TargetRef::Queue(queue, message));
        let now = Now { wall_ms: 1_700_000_000_000, mono_us: 0 };
        let options = EngineOptions::default();
        let started = Engine::start(&stack, &quiet::functions(), &mut NoSegments, options, now);
        let (mut engine, _) = started.expect("the stack can run");
        let ask = || Input::Query { ticket: Ticket { inbox: 0, slot: 0 }, query: Query::Durable };
        let mut answer_to = |inputs: &mut Vec<Input>| {
            let mut outputs = Vec::new();
            engine.step(now, inputs, &mut outputs);
            outputs.into_iter().find_map(|output| match output {
                Output::Reply(_, answer) => Some(answer),
                _ => None,
            })
        };
        assert!(matches!(answer_to(&mut vec![ask()]), Some(Answer::Full { .. })));
        // With a segment the names can be written, and the answer waits for that.
        let prepared = Input::Prepared { segment: 1, success: true };
        assert!(answer_to(&mut vec![prepared, ask()]).is_none());
        let written = Input::Written { buffer: Vec::new() };
        assert!(matches!(answer_to(&mut vec![written]), Some(Answer::Durable(_))));
    }
}
