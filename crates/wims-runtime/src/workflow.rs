//! Workflows: executions run as far as they get in their turn; what waits is in the journal.
//!
//! Promise: at least once, in bounded time, with Retry and Catch as declared; a failed branch
//! fails its Parallel and what the others did stays done. A task whose guard does not hold is a
//! recorded no-op. What waits is in the journal by the names of states, so it goes on at the same
//! state when a new stack has it elsewhere. When a new stack does not have it at all, the execution
//! fails with `States.Runtime`: its event is a dead letter, which loses nothing and tells somebody.
//! It deliberately keeps no history of an execution that ended.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};
use wims_stack::table::{Action, Condition, Update, Write};
use wims_stack::{
    ALL_ERRORS, Becomes, CONDITION_FAILED, Decimal, Doc, EventView, Field, Node, Retry, Template,
};

use crate::bus::event_doc;
use crate::dead_letter::{Failure, INVALID_WRITES, Origin, PANICKED};
use crate::engine::{Cause, Engine};
use crate::functions::{Reads, TaskError, TaskInput, TransactFn};
use crate::plan::{MachinePlan, Plan, StatePlan, TargetKind, TargetPlan, TaskPlan, WorkflowPlan};
use crate::record::{Record, Waiting};
use crate::state::Execution;
use crate::transact::TransactFailure;

/// What the present stack cannot take on waits this long before it is looked at again.
const LOOK_AGAIN_MS: u64 = 3_600_000;
/// Attribute of the event an execution waits with: the rule that started it.
const STARTED_BY: &str = "rule";
/// The error of what the runtime itself cannot do.
const RUNTIME: &str = "States.Runtime";

/// Where an execution stands in a machine, by indexes of the present stack.
#[derive(Clone, Debug, PartialEq)]
enum Position {
    /// At a state, after some attempts; it goes on at `wake_at_ms`.
    At { state: usize, attempts: u32, wake_at_ms: u64 },
    /// In the branches of a Parallel.
    Branches { state: usize, of: Vec<Position> },
    /// Ended well.
    Done,
    /// Ended with an error.
    Failed(Failure),
}

const START: Position = Position::At { state: 0, attempts: 0, wake_at_ms: 0 };

/// A [`Position`] as the journal keeps it: by names of states, which are unique in a workflow. A
/// branch is the one that has the named state, whatever its place.
#[derive(Debug, Serialize, Deserialize)]
enum NamedPosition {
    /// At a state.
    At { state: String, attempts: u32, wake_at_ms: u64 },
    /// In the branches of a Parallel.
    Branches { state: String, of: Vec<NamedPosition> },
    /// A branch that ended well, by its first state.
    Done { first: String },
}

/// What an execution works on.
struct Run<'a> {
    plan: &'a Plan,
    flow: &'a WorkflowPlan,
    /// The rule that started it; executions of former versions do not know it.
    rule: Option<&'a str>,
    event: &'a EventView<'a>,
    cause: Cause,
}

impl Run<'_> {
    /// A failure as a dead letter tells it.
    fn told(&self, failure: Failure) -> Failure {
        Failure { message: format!("{}: {}", self.flow.name, failure.message), ..failure }
    }

    /// The event, with the rule that started it.
    fn event_and_rule(&self) -> Doc {
        let event = event_doc(self.event);
        match self.rule {
            Some(rule) => event.with(&[(STARTED_BY, Some(Field::Str(rule)))]),
            None => event,
        }
    }
}

impl Engine {
    /// Starts an execution; the error is that of one that failed at once.
    pub(crate) fn start_execution(
        &mut self,
        plan: &Plan,
        workflow: usize,
        rule: &str,
        event: &EventView<'_>,
        cause: Cause,
    ) -> Result<(), Failure> {
        let flow = &plan.workflows[workflow];
        let run = Run { plan, flow, rule: Some(rule), event, cause };
        match self.advance(&run, &flow.machine, START) {
            Position::Done => Ok(()),
            Position::Failed(failure) => Err(run.told(failure)),
            waiting => {
                self.wait(&run, 0, &waiting);
                Ok(())
            }
        }
    }

    /// Goes on with executions whose time has come.
    pub(crate) fn wake_executions(&mut self, plan: &Plan) {
        while let Some(&(at, id)) = self.state.wakes.first() {
            if at > self.state.clock_ms || !self.journal.has_room() {
                return;
            }
            let execution = self.state.executions[&id].clone();
            self.resume(plan, id, &execution);
        }
    }

    /// Goes on with one execution. What the present stack does not have any more fails: see the
    /// module. Without its workflow it waits on: a later stack may have it again.
    fn resume(&mut self, plan: &Plan, id: u64, execution: &Execution) {
        let Execution { waiting, trace } = execution;
        let cause = Cause { seq: id, replay: false, trace: *trace };
        let Some(flow) = plan.workflows.iter().find(|flow| flow.number == waiting.workflow) else {
            return self.look_again_later(cause, waiting);
        };
        let event = event_view(&waiting.event);
        let run = Run { plan, flow, rule: waiting.event.str(STARTED_BY), event: &event, cause };
        let position = match read_position(&flow.machine, &waiting.position) {
            Ok(position) => self.advance(&run, &flow.machine, position),
            Err(reason) => Position::Failed(Failure::new(RUNTIME, format!("{RUNTIME}: {reason}"))),
        };
        match position {
            Position::Done => {
                self.emit(cause, Record::Ended { id });
            }
            Position::Failed(failure) => match DeadLetters::of(&run) {
                Some(to) => {
                    self.emit(cause, Record::Ended { id });
                    self.bury_failed(&run, &to, failure);
                }
                None => self.look_again_later(cause, waiting),
            },
            still => self.wait(&run, id, &still),
        }
    }

    /// Leaves an execution as it is, for some time.
    fn look_again_later(&mut self, cause: Cause, waiting: &Waiting) {
        let wake_at_ms = self.state.clock_ms + LOOK_AGAIN_MS;
        self.emit(cause, Record::Waiting(Waiting { wake_at_ms, ..waiting.clone() }));
    }

    /// An execution that failed after waiting: its event becomes a dead letter.
    fn bury_failed(&mut self, run: &Run<'_>, to: &DeadLetters<'_>, failure: Failure) {
        let DeadLetters { rule, queue } = *to;
        let mut failure = run.told(failure);
        if rule.is_none() {
            failure.message.push_str("; no rule starts this workflow any more");
        }
        let target = format!("workflow/{}", run.flow.name);
        let origin = Origin { rule, target: Some(&target), queue: None };
        let attributes = origin.attributes(&failure);
        self.bury(run.plan, queue, event_doc(run.event), attributes, run.cause);
    }

    fn wait(&mut self, run: &Run<'_>, id: u64, position: &Position) {
        let waiting = Waiting {
            id,
            workflow: run.flow.number,
            event: run.event_and_rule(),
            position: write_position(&run.flow.machine, position),
            wake_at_ms: wake_at_ms(position).unwrap_or(self.state.clock_ms),
        };
        self.emit(run.cause, Record::Waiting(waiting));
    }

    /// Runs a machine as far as it gets.
    fn advance(&mut self, run: &Run<'_>, machine: &MachinePlan, from: Position) -> Position {
        let mut position = from;
        loop {
            position = match position {
                Position::Done | Position::Failed(_) => return position,
                Position::At { wake_at_ms, .. } if wake_at_ms > self.state.clock_ms => {
                    return position;
                }
                Position::At { state, attempts, .. } => match machine.states.get(state) {
                    None => Position::Done,
                    Some(plan) => self.enter(run, plan, state, attempts),
                },
                Position::Branches { state, of } => {
                    match self.advance_branches(run, machine, state, of) {
                        still @ Position::Branches { .. } => return still,
                        moved => moved,
                    }
                }
            };
        }
    }

    fn enter(&mut self, run: &Run<'_>, plan: &StatePlan, state: usize, attempts: u32) -> Position {
        match plan {
            // Come to for the first time, it waits; for the second, it has waited.
            StatePlan::Wait(duration_ms) if attempts == 0 => {
                let wake_at_ms = self.state.clock_ms + duration_ms.max(&1);
                Position::At { state, attempts: 1, wake_at_ms }
            }
            StatePlan::Wait(_) => Position::At { state: state + 1, attempts: 0, wake_at_ms: 0 },
            StatePlan::Succeed => Position::Done,
            StatePlan::Fail(error) => Position::Failed(Failure::new(error, error)),
            StatePlan::Parallel(branches) => {
                Position::Branches { state, of: vec![START; branches.len()] }
            }
            StatePlan::Task { task, retry, catch } => match self.task(run, task) {
                Ok(()) => Position::At { state: state + 1, attempts: 0, wake_at_ms: 0 },
                Err(error) => {
                    if let Some(delay_ms) = self.retry_delay_ms(retry, &error.name, attempts) {
                        let wake_at_ms = self.state.clock_ms + delay_ms;
                        return Position::At { state, attempts: attempts + 1, wake_at_ms };
                    }
                    match catch.iter().find(|(errors, _)| names(errors, &error.name)) {
                        Some((_, next)) => {
                            Position::At { state: *next, attempts: 0, wake_at_ms: 0 }
                        }
                        None => {
                            let failure = Failure::new(&error.name, error.to_string());
                            Position::Failed(failure.after(attempts).exhausted(attempts > 0))
                        }
                    }
                }
            },
        }
    }

    fn advance_branches(
        &mut self,
        run: &Run<'_>,
        machine: &MachinePlan,
        state: usize,
        of: Vec<Position>,
    ) -> Position {
        let branches = branches(machine, state).expect("only a Parallel has branches");
        let of: Vec<Position> = branches
            .iter()
            .zip(of)
            .map(|(branch, position)| self.advance(run, branch, position))
            .collect();
        let failed = of.iter().find_map(|position| match position {
            Position::Failed(failure) => Some(failure),
            Position::At { .. } | Position::Branches { .. } | Position::Done => None,
        });
        if let Some(Failure { message, retries, is_exhausted, .. }) = failed {
            let code = "States.BranchFailed";
            let failure = Failure::new(code, format!("{code}: {message}"));
            let (retries, is_exhausted) = (*retries, *is_exhausted);
            return Position::Failed(Failure { retries, is_exhausted, ..failure });
        }
        if of.iter().all(|position| *position == Position::Done) {
            return Position::At { state: state + 1, attempts: 0, wake_at_ms: 0 };
        }
        Position::Branches { state, of }
    }

    fn retry_delay_ms(&mut self, retry: &[Retry], error: &str, attempts: u32) -> Option<u64> {
        let retry = retry.iter().find(|retry| names(&retry.errors, error))?;
        if attempts >= retry.attempts_max {
            return None;
        }
        let factor = u64::from(retry.backoff).saturating_pow(attempts);
        let longest = retry.interval_ms.saturating_mul(factor).min(retry.interval_max_ms);
        Some(self.rng.u64(longest / 2..=longest))
    }

    fn task(&mut self, run: &Run<'_>, task: &TaskPlan) -> Result<(), TaskError> {
        match task {
            TaskPlan::Send { queue, message } => {
                self.send(*queue, message.render(run.event), None, run.cause);
                Ok(())
            }
            TaskPlan::Transact { table, pk, sk, guard, function, becomes } => {
                let guarded = Guarded { table: *table, pk, sk, guard, becomes };
                self.transact_task(run, &guarded, *function)
            }
        }
    }

    fn transact_task(
        &mut self,
        run: &Run<'_>,
        guarded: &Guarded<'_>,
        function: TransactFn,
    ) -> Result<(), TaskError> {
        let (pk, sk) = (key(guarded.pk, run.event), key(guarded.sk, run.event));
        let items = self.state.table(guarded.table);
        let item = items.get(&pk, &sk).map(|item| item.doc.clone());
        let Some(item) = item.filter(|item| guarded.guard.holds(Some(item))) else {
            self.emit(run.cause, Record::Skipped { workflow: run.flow.number });
            return Ok(());
        };
        let input = TaskInput {
            event: *run.event,
            item: &item,
            reads: Reads::of(self.state.table(guarded.table)),
            now_ms: self.now.wall_ms,
        };
        let writes = catch_unwind(AssertUnwindSafe(|| function(&input)))
            .unwrap_or_else(|_| Err(task_error(PANICKED, "the function panicked")))?;
        guarded.hold_to(&pk, &sk, &writes)?;
        self.transact(guarded.table, &writes, run.cause).map_err(|failure| match failure {
            TransactFailure::Condition { .. } => task_error(CONDITION_FAILED, &failure.to_string()),
            TransactFailure::Update(_) | TransactFailure::Shape(_) => {
                task_error(INVALID_WRITES, &failure.to_string())
            }
        })
    }
}

/// Where the event of an execution goes that failed after waiting.
struct DeadLetters<'a> {
    /// The rule that can start the workflow anew with it.
    rule: Option<&'a str>,
    /// Number of the queue.
    queue: u16,
}

impl<'a> DeadLetters<'a> {
    /// The dead letters of the target that started the workflow; when that is not known, or gone,
    /// those of the first that would. When no rule starts it any more:
    /// any dead letters, those with an alarm first, for the event must not be lost and somebody
    /// must be told; such a letter names no rule and is not sent back. None when the stack has no
    /// dead letters at all: the execution waits on.
    fn of(run: &Run<'a>) -> Option<DeadLetters<'a>> {
        let (plan, number) = (run.plan, run.flow.number);
        let starts = |target: &&TargetPlan| match target.to {
            TargetKind::Workflow(at) => plan.workflows[at].number == number,
            TargetKind::Queue(..) | TargetKind::Topic(_) | TargetKind::Log => false,
        };
        let started_by = plan.rules.iter().find(|rule| Some(rule.name.as_str()) == run.rule);
        for rule in started_by.into_iter().chain(&plan.rules) {
            if let Some(target) = rule.targets.iter().find(starts) {
                let queue = target.dead_letters;
                return Some(DeadLetters { rule: Some(rule.name.as_str()), queue });
            }
        }
        let of_rules = plan.rules.iter().flat_map(|rule| &rule.targets).map(|to| to.dead_letters);
        let of_streams = plan.streams.iter().map(|stream| stream.dead_letters);
        let of_apis = plan.apis.iter().map(|api| api.dead_letters);
        let all: Vec<u16> = of_rules.chain(of_streams).chain(of_apis).collect();
        let has_alarm =
            |number: &&u16| plan.queues.get(*number).is_some_and(|queue| queue.alarm.is_some());
        let queue = *all.iter().find(has_alarm).or(all.first())?;
        Some(DeadLetters { rule: None, queue })
    }
}

/// The item a transaction task is about, and what holds before and after.
struct Guarded<'a> {
    table: u16,
    pk: &'a Template,
    sk: &'a Template,
    guard: &'a Condition,
    becomes: &'a Becomes,
}

impl Guarded<'_> {
    /// Holds the function to its declaration: one write is the guarded item's and makes of the
    /// attribute what is declared; where a number is to be lowered, none may be that item's. That
    /// the guard holds was seen in this very step.
    fn hold_to(&self, pk: &str, sk: &str, writes: &[Write]) -> Result<(), TaskError> {
        let broken = |what| Err(task_error(RUNTIME, what));
        let Becomes { attribute, values, lower } = self.becomes;
        let Some(own) = writes.iter().find(|write| write.pk == pk && write.sk == sk) else {
            let what = "the function does not write the guarded item";
            return if *lower { Ok(()) } else { broken(what) };
        };
        let becomes = |update: &Update| match update {
            Update::Set(name, value) => name == attribute && values.contains(value),
            Update::SetConst(name, text) => {
                name == attribute && values.iter().any(|value| value.view().as_str() == Some(text))
            }
            Update::SetInt(name, number) => {
                name == attribute && values.iter().any(|v| v.view().as_int() == Some(*number))
            }
            Update::Add(name, number) => *lower && name == attribute && *number <= -Decimal::ONE,
            Update::Remove(_) => false,
        };
        match &own.action {
            Action::Update(updates) if updates.iter().any(becomes) => Ok(()),
            Action::Update(_) | Action::Put(_) | Action::Delete | Action::Check => {
                broken("the function does not make of the item what is declared")
            }
        }
    }
}

fn task_error(name: &str, cause: &str) -> TaskError {
    TaskError { name: name.into(), cause: cause.into() }
}

fn names(errors: &[String], error: &str) -> bool {
    errors.iter().any(|name| name == error || name == ALL_ERRORS)
}

fn key(template: &Template, event: &EventView<'_>) -> String {
    template.render(event).view().as_str().unwrap_or("").to_owned()
}

/// A position as text for the journal.
fn write_position(machine: &MachinePlan, position: &Position) -> String {
    let named = NamedPosition::of(machine, position);
    serde_json::to_string(&named).expect("a position is plain data")
}

/// Where a position of the journal is in the present stack.
///
/// # Errors
/// Why it is nowhere: the stack changed while the execution waited.
fn read_position(machine: &MachinePlan, text: &str) -> Result<Position, String> {
    let named: NamedPosition = serde_json::from_str(text)
        .map_err(|error| format!("the execution's position cannot be read: {error}"))?;
    named.resolve(machine)
}

impl NamedPosition {
    fn of(machine: &MachinePlan, position: &Position) -> NamedPosition {
        match position {
            Position::At { state, attempts, wake_at_ms } => {
                let (attempts, wake_at_ms) = (*attempts, *wake_at_ms);
                NamedPosition::At { state: machine.names[*state].clone(), attempts, wake_at_ms }
            }
            Position::Branches { state, of } => {
                let branches = branches(machine, *state).unwrap_or_default().iter();
                let of = branches.zip(of).map(|(branch, at)| NamedPosition::of(branch, at));
                NamedPosition::Branches { state: machine.names[*state].clone(), of: of.collect() }
            }
            Position::Done => {
                NamedPosition::Done { first: machine.names.first().cloned().unwrap_or_default() }
            }
            Position::Failed(_) => unreachable!("a failed branch fails its Parallel at once"),
        }
    }

    fn resolve(self, machine: &MachinePlan) -> Result<Position, String> {
        match self {
            NamedPosition::At { state, attempts, wake_at_ms } => {
                let at = state_named(machine, &state).ok_or_else(|| gone(&state))?;
                Ok(Position::At { state: at, attempts, wake_at_ms })
            }
            NamedPosition::Branches { state, of } => {
                let at = state_named(machine, &state).ok_or_else(|| gone(&state))?;
                let branches = branches(machine, at)
                    .ok_or_else(|| format!("state {state} is no Parallel any more"))?;
                Ok(Position::Branches { state: at, of: resolve_branches(branches, of)? })
            }
            NamedPosition::Done { .. } => Ok(Position::Done),
        }
    }

    /// A state of the machine it is in.
    fn state(&self) -> &str {
        match self {
            NamedPosition::At { state, .. } | NamedPosition::Branches { state, .. } => state,
            NamedPosition::Done { first } => first,
        }
    }
}

/// A branch that the journal does not know is new and starts now; one that ended and is not in
/// the stack any more is owed nothing.
fn resolve_branches(
    branches: &[MachinePlan],
    of: Vec<NamedPosition>,
) -> Result<Vec<Position>, String> {
    let mut resolved: Vec<Option<Position>> = vec![None; branches.len()];
    for named in of {
        let is_in = |branch: &MachinePlan| state_named(branch, named.state()).is_some();
        match branches.iter().position(is_in) {
            Some(at) if resolved[at].is_some() => {
                return Err(format!("the branch of state {} was two branches", named.state()));
            }
            Some(at) => resolved[at] = Some(named.resolve(&branches[at])?),
            None if matches!(named, NamedPosition::Done { .. }) => {}
            None => return Err(gone(named.state())),
        }
    }
    Ok(resolved.into_iter().map(|position| position.unwrap_or(START)).collect())
}

fn state_named(machine: &MachinePlan, state: &str) -> Option<usize> {
    machine.names.iter().position(|name| name == state)
}

fn branches(machine: &MachinePlan, state: usize) -> Option<&[MachinePlan]> {
    match machine.states.get(state)? {
        StatePlan::Parallel(branches) => Some(branches),
        StatePlan::Task { .. } | StatePlan::Wait(_) | StatePlan::Succeed | StatePlan::Fail(_) => {
            None
        }
    }
}

fn gone(state: &str) -> String {
    format!("the stack has no state {state} any more where the execution waits")
}

fn wake_at_ms(position: &Position) -> Option<u64> {
    match position {
        Position::At { wake_at_ms, .. } => Some(*wake_at_ms),
        Position::Branches { of, .. } => of.iter().filter_map(wake_at_ms).min(),
        Position::Done | Position::Failed(_) => None,
    }
}

/// The event a waiting execution was started with.
pub(crate) fn event_view(doc: &Doc) -> EventView<'_> {
    EventView {
        source: doc.str("source").unwrap_or(""),
        detail_type: doc.str("detail-type").unwrap_or(""),
        detail: doc.get("detail").map_or(Node::Str(""), Node::View),
    }
}

#[cfg(test)]
mod tests;
