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
    ALL_ERRORS, Becomes, CONDITION_FAILED, Doc, EventView, Field, Node, Retry, Template,
};

use crate::bus::event_doc;
use crate::engine::{Cause, Engine};
use crate::functions::{Reads, TaskError, TaskInput, TransactFn};
use crate::plan::{MachinePlan, Plan, StatePlan, TargetKind, TargetPlan, TaskPlan, WorkflowPlan};
use crate::record::{Record, Waiting};
use crate::state::Execution;
use crate::transact::TransactFailure;

/// What the present stack cannot take on waits this long before it is looked at again.
const LOOK_AGAIN_MS: u64 = 3_600_000;

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
    Failed(String),
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
    event: &'a EventView<'a>,
    cause: Cause,
}

impl Engine {
    /// Starts an execution; the error is that of one that failed at once.
    pub(crate) fn start_execution(
        &mut self,
        plan: &Plan,
        workflow: usize,
        event: &EventView<'_>,
        cause: Cause,
    ) -> Result<(), String> {
        let flow = &plan.workflows[workflow];
        let run = Run { plan, flow, event, cause };
        match self.advance(&run, &flow.machine, START) {
            Position::Done => Ok(()),
            Position::Failed(error) => Err(error),
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
        let run = Run { plan, flow, event: &event, cause };
        let position = match read_position(&flow.machine, &waiting.position) {
            Ok(position) => self.advance(&run, &flow.machine, position),
            Err(reason) => Position::Failed(format!("States.Runtime: {reason}")),
        };
        match position {
            Position::Done => {
                self.emit(cause, Record::Ended { id });
            }
            Position::Failed(error) => match DeadLetters::of(&run) {
                Some(to) => {
                    self.emit(cause, Record::Ended { id });
                    self.bury_failed(&run, &to, &error);
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
    fn bury_failed(&mut self, run: &Run<'_>, to: &DeadLetters<'_>, error: &str) {
        let DeadLetters { rule, queue } = *to;
        let reason = format!("{}: {error}", run.flow.name);
        if let Some(rule) = rule {
            return self.bury_event(run.plan, queue, rule, run.event, &reason, run.cause);
        }
        let reason = format!("{reason}; no rule starts this workflow any more");
        let attributes = Doc::object(&[("ERROR_MESSAGE", Field::Str(&reason))]);
        self.bury(run.plan, queue, event_doc(run.event), attributes, run.cause);
    }

    fn wait(&mut self, run: &Run<'_>, id: u64, position: &Position) {
        let waiting = Waiting {
            id,
            workflow: run.flow.number,
            event: event_doc(run.event),
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
            StatePlan::Succeed => Position::Done,
            StatePlan::Fail(error) => Position::Failed(error.clone()),
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
                        None => Position::Failed(error.to_string()),
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
        if let Some(Position::Failed(error)) = of.iter().find(|p| matches!(p, Position::Failed(_)))
        {
            return Position::Failed(format!("States.BranchFailed: {error}"));
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
            .unwrap_or_else(|_| Err(task_error("Lambda.Unknown", "the function panicked")))?;
        guarded.hold_to(&pk, &sk, &writes)?;
        self.transact(guarded.table, &writes, run.cause).map_err(|failure| match failure {
            TransactFailure::Condition { .. } => task_error(CONDITION_FAILED, &failure.to_string()),
            TransactFailure::Update(_) | TransactFailure::Shape(_) => {
                task_error("DynamoDB.ValidationException", &failure.to_string())
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
    /// The dead letters of the target that starts the workflow. When no rule starts it any more:
    /// any dead letters, those with an alarm first, for the event must not be lost and somebody
    /// must be told; such a letter names no rule and is not sent back. None when the stack has no
    /// dead letters at all: the execution waits on.
    fn of(run: &Run<'a>) -> Option<DeadLetters<'a>> {
        let (plan, number) = (run.plan, run.flow.number);
        let starts = |target: &&TargetPlan| match target.to {
            TargetKind::Workflow(at) => plan.workflows[at].number == number,
            TargetKind::Queue(..) | TargetKind::Topic(_) | TargetKind::Log => false,
        };
        for rule in &plan.rules {
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
    /// attribute what is declared. That the guard holds was seen in this very step.
    fn hold_to(&self, pk: &str, sk: &str, writes: &[Write]) -> Result<(), TaskError> {
        let broken = |what| Err(task_error("States.Runtime", what));
        let Some(own) = writes.iter().find(|write| write.pk == pk && write.sk == sk) else {
            return broken("the function does not write the guarded item");
        };
        let Becomes { attribute, values } = self.becomes;
        let becomes = |update: &Update| match update {
            Update::Set(name, value) => name == attribute && values.contains(value),
            Update::SetConst(name, text) => {
                name == attribute && values.iter().any(|value| value.view().as_str() == Some(text))
            }
            Update::SetInt(name, number) => {
                name == attribute && values.iter().any(|v| v.view().as_int() == Some(*number))
            }
            Update::Add(..) | Update::Remove(_) => false,
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
        StatePlan::Task { .. } | StatePlan::Succeed | StatePlan::Fail(_) => None,
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
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use wims_stack::{
        Catch, FunctionRef, Machine, QueueRef, Stack, State, StateKind, TableRef, TargetRef, Task,
        Transact, Workflow, WorkflowRef,
    };

    use super::*;
    use crate::functions::{Function, Functions};
    use crate::plan::compile;
    use crate::quiet::{self, Quiet};
    use crate::trace::TraceId;

    /// A task whose function makes the new item DONE, or fails.
    fn work(retry: Vec<Retry>, catch: Vec<Catch>) -> State {
        let task = Task::Transact(Transact {
            table: TableRef::new("T"),
            pk: Template::path("$.detail.pk"),
            sk: Template::path("$.detail.sk"),
            guard: Condition::is("state", "NEW"),
            function: FunctionRef::new("work"),
            becomes: Becomes { attribute: "state".into(), values: vec![Doc::text("DONE")] },
        });
        State { name: "Work".into(), kind: StateKind::Task { task, retry, catch } }
    }

    /// Once more, after half a second to a second.
    fn once_more() -> Vec<Retry> {
        vec![Retry {
            errors: vec![ALL_ERRORS.into()],
            interval_ms: 1_000,
            backoff: 2,
            interval_max_ms: 60_000,
            attempts_max: 1,
        }]
    }

    /// A task that sends the key of the new item to the queue `noted`.
    fn note() -> State {
        let (queue, message) = (QueueRef::new("noted"), Template::path("$.detail.sk"));
        let task = Task::SendMessage { queue, message };
        let kind = StateKind::Task { task, retry: Vec::new(), catch: Vec::new() };
        State { name: "Note".into(), kind }
    }

    /// A new item starts the workflow `w` of these states.
    fn stack(states: Vec<State>) -> Stack {
        let workflow = WorkflowRef::new("w");
        let mut stack = quiet::stack(TargetRef::Workflow(workflow.clone()));
        stack.workflows.push(Workflow { name: workflow, machine: Machine { states } });
        stack
    }

    fn functions(work: TransactFn) -> Functions {
        quiet::functions().with("work", Function::Transact(work))
    }

    /// An engine in which a new item has just started a workflow of these states.
    fn start(states: Vec<State>, work: TransactFn) -> Quiet {
        let mut quiet = Quiet::start(&stack(states), &functions(work));
        quiet.put("1");
        quiet.pass_ms(10);
        quiet
    }

    /// The engine in which an execution waits at `Work`, after the stack has become this one.
    fn wait_and_change(stack: &Stack, work: TransactFn) -> Quiet {
        let mut quiet = start(vec![self::work(once_more(), Vec::new())], throttled);
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 1));
        let state = &quiet.engine.state;
        let plan = compile(stack, &functions(work), &|name| state.number(name));
        quiet.engine.plan = Arc::new(plan.expect("the stack can run"));
        quiet.pass_ms(1_100);
        quiet
    }

    /// The attributes of the only dead letter.
    fn letter(quiet: &Quiet) -> &Doc {
        let letters = quiet.messages("dead");
        assert_eq!(letters.len(), 1);
        letters[0].attributes.as_deref().expect("a dead letter says why")
    }

    fn state_and_waiting(quiet: &Quiet) -> (Option<&str>, usize) {
        (quiet.item("1").str("state"), quiet.engine.state.executions.len())
    }

    fn done(_: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
        let action = Action::Update(vec![Update::SetConst("state", "DONE")]);
        Ok(vec![Write { pk: "a".into(), sk: "1".into(), condition: None, action }])
    }

    fn throttled(_: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
        Err(task_error("DynamoDB.ThrottlingException", "too fast"))
    }

    #[test]
    fn a_task_that_fails_once_is_retried_after_its_interval_and_succeeds() {
        static FAILED: AtomicBool = AtomicBool::new(false);
        let fails_once: TransactFn = |input| {
            if FAILED.swap(true, Ordering::Relaxed) { done(input) } else { throttled(input) }
        };
        let mut quiet = start(vec![work(once_more(), Vec::new())], fails_once);
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 1));
        quiet.pass_ms(450);
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 1), "at least half the interval");
        quiet.pass_ms(600);
        assert_eq!(state_and_waiting(&quiet), (Some("DONE"), 0));
        assert!(quiet.messages("dead").is_empty());
    }

    #[test]
    fn a_task_that_keeps_failing_goes_on_where_its_catch_says() {
        let catch = vec![Catch { errors: vec![ALL_ERRORS.into()], next: "Note".into() }];
        let states = vec![
            work(once_more(), catch),
            State { name: "Worked".into(), kind: StateKind::Succeed },
            note(),
        ];
        let mut quiet = start(states, throttled);
        assert!(quiet.messages("noted").is_empty(), "the retry comes first");
        quiet.pass_ms(1_100);
        assert_eq!(quiet.messages("noted")[0].body, Doc::text("1"));
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 0));
        assert!(quiet.messages("dead").is_empty());
    }

    #[test]
    fn an_execution_keeps_its_trace_while_it_waits_and_gives_it_to_what_it_sends() {
        let catch = vec![Catch { errors: vec![ALL_ERRORS.into()], next: "Note".into() }];
        let states = vec![work(once_more(), catch), note()];
        let mut quiet = Quiet::start(&stack(states), &functions(throttled));
        let trace = TraceId::new(7);
        quiet.put_traced("1", trace);
        quiet.put("2");
        quiet.pass_ms(10);
        let executions = quiet.engine.state.executions.values();
        let waiting: Vec<_> = executions.map(|execution| execution.trace).collect();
        assert_eq!(waiting, [trace, None]);
        quiet.pass_ms(1_100);
        let noted = quiet.messages("noted");
        let trace_of = |sk| noted.iter().find(|m| m.body == Doc::text(sk)).map(|m| m.trace);
        assert_eq!((trace_of("1"), trace_of("2")), (Some(trace), Some(None)));
    }

    #[test]
    fn a_failure_without_catch_puts_the_event_among_the_dead_letters() {
        for retry in [Vec::new(), once_more()] {
            let mut quiet = start(vec![work(retry, Vec::new())], throttled);
            quiet.pass_ms(1_100);
            assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 0));
            let letters = quiet.messages("dead");
            assert_eq!(letters.len(), 1);
            assert_eq!(letters[0].body.part("detail"), Some(quiet::item("1")));
            let attributes = letters[0].attributes.as_deref().unwrap();
            assert_eq!(attributes.str("RULE_ARN"), Some("r"));
            let reason = attributes.str("ERROR_MESSAGE");
            assert_eq!(reason, Some("w: DynamoDB.ThrottlingException: too fast"));
        }
    }

    #[test]
    fn an_execution_goes_on_at_the_state_it_waits_at_when_a_new_stack_has_one_before_it() {
        let states = vec![note(), work(once_more(), Vec::new())];
        let quiet = wait_and_change(&stack(states), done);
        assert_eq!(state_and_waiting(&quiet), (Some("DONE"), 0));
        assert!(quiet.messages("noted").is_empty(), "what stands before it is not run");
        assert!(quiet.messages("dead").is_empty());
    }

    #[test]
    fn an_execution_whose_state_is_gone_is_a_dead_letter_that_can_be_sent_back() {
        let quiet = wait_and_change(&stack(vec![note()]), done);
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 0));
        assert!(quiet.messages("noted").is_empty(), "no other state is taken for it");
        assert_eq!(letter(&quiet).str("RULE_ARN"), Some("r"));
        let reason = letter(&quiet).str("ERROR_MESSAGE");
        let gone = "the stack has no state Work any more where the execution waits";
        assert_eq!(reason, Some(format!("w: States.Runtime: {gone}").as_str()));
    }

    #[test]
    fn a_failure_of_a_workflow_that_no_rule_starts_any_more_is_a_dead_letter_too() {
        let mut stack = stack(vec![work(once_more(), Vec::new())]);
        stack.rules.clear();
        let quiet = wait_and_change(&stack, throttled);
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 0));
        assert_eq!(letter(&quiet).str("RULE_ARN"), None);
        let reason = letter(&quiet).str("ERROR_MESSAGE").unwrap();
        assert!(reason.ends_with("too fast; no rule starts this workflow any more"), "{reason}");
        // Without any dead letters it waits on.
        stack.pipes.clear();
        let quiet = wait_and_change(&stack, throttled);
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 1));
    }

    /// States of these names.
    fn machine(names: &[&str]) -> MachinePlan {
        let names: Vec<String> = names.iter().map(|name| String::from(*name)).collect();
        let states = names.iter().map(|_| StatePlan::Succeed).collect();
        MachinePlan { names, states }
    }

    /// States of these names, then the Parallel `All` of these branches.
    fn parallel(before: &[&str], branches: &[&[&str]]) -> MachinePlan {
        let mut all = machine(before);
        all.names.push("All".into());
        all.states.push(StatePlan::Parallel(branches.iter().map(|of| machine(of)).collect()));
        all
    }

    fn at(state: usize) -> Position {
        Position::At { state, attempts: 2, wake_at_ms: 7 }
    }

    /// Where a position is after a change of the stack.
    fn moved(old: &MachinePlan, new: &MachinePlan, at: &Position) -> Result<Position, String> {
        read_position(new, &write_position(old, at))
    }

    #[test]
    fn a_position_comes_back_from_its_names() {
        let machine = parallel(&["First"], &[&["A", "B"], &["C"]]);
        let in_branches = Position::Branches { state: 1, of: vec![at(1), Position::Done] };
        for position in [at(0), in_branches] {
            assert_eq!(moved(&machine, &machine, &position), Ok(position.clone()));
        }
    }

    #[test]
    fn branches_are_found_wherever_a_new_stack_has_them_and_a_new_one_starts() {
        let old = parallel(&[], &[&["A", "B"], &["C"], &["Dropped"]]);
        let of = vec![at(1), Position::Done, Position::Done];
        let position = Position::Branches { state: 0, of };
        let new = parallel(&["First"], &[&["Before", "C"], &["New"], &["Before A", "A", "B"]]);
        let of = vec![Position::Done, START, at(2)];
        assert_eq!(moved(&old, &new, &position), Ok(Position::Branches { state: 1, of }));
    }

    #[test]
    fn what_a_new_stack_does_not_have_any_more_is_told() {
        let old = parallel(&[], &[&["A"], &["B"]]);
        let position = Position::Branches { state: 0, of: vec![Position::Done, at(0)] };
        let no_parallel = machine(&["All"]);
        for (new, told) in [
            (machine(&["A", "B"]), "no state All any more"),
            (no_parallel, "state All is no Parallel any more"),
            (parallel(&["B"], &[&["A"]]), "no state B any more"),
            (parallel(&[], &[&["A", "B"]]), "the branch of state B was two branches"),
        ] {
            let reason = moved(&old, &new, &position).unwrap_err();
            assert!(reason.contains(told), "{reason}");
        }
        let by_index = r#"{"At":{"state":0,"attempts":0,"wake_at_ms":0}}"#;
        assert!(read_position(&old, by_index).unwrap_err().contains("cannot be read"));
    }
}
