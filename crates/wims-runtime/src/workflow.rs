//! Workflows: executions run as far as they get in their turn; what waits is in the journal.
//!
//! Promise: at least once, in bounded time, with Retry and Catch as declared; a failed branch
//! fails its Parallel and what the others did stays done. A task whose guard does not hold is a
//! recorded no-op. It deliberately keeps no history of an execution that ended.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};
use wims_stack::table::{Action, Condition, Update, Write};
use wims_stack::{ALL_ERRORS, Becomes, CONDITION_FAILED, Doc, EventView, Node, Retry, Template};

use crate::bus::event_doc;
use crate::engine::{Cause, Engine};
use crate::functions::{Reads, TaskError, TaskInput, TransactFn};
use crate::plan::{MachinePlan, Plan, StatePlan, TaskPlan, WorkflowPlan};
use crate::record::{Record, Waiting};
use crate::transact::TransactFailure;

/// Where an execution stands in a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
            let waiting = self.state.executions[&id].clone();
            self.resume(plan, id, &waiting);
        }
    }

    fn resume(&mut self, plan: &Plan, id: u64, waiting: &Waiting) {
        let cause = Cause { seq: id, replay: false };
        let flow = plan.workflows.iter().find(|flow| flow.number == waiting.workflow);
        let position = serde_json::from_str(&waiting.position);
        let (Some(flow), Ok(position)) = (flow, position) else {
            // A stack without this workflow: look again in an hour, lose nothing.
            let wake_at_ms = self.state.clock_ms + 3_600_000;
            self.emit(cause, Record::Waiting(Waiting { wake_at_ms, ..waiting.clone() }));
            return;
        };
        let event = event_view(&waiting.event);
        let run = Run { plan, flow, event: &event, cause };
        match self.advance(&run, &flow.machine, position) {
            Position::Done => {
                self.emit(cause, Record::Ended { id });
            }
            Position::Failed(error) => {
                self.emit(cause, Record::Ended { id });
                self.bury_failed(&run, &error);
            }
            still => self.wait(&run, id, &still),
        }
    }

    /// An execution that failed after waiting: its event goes to the dead letters of the target
    /// that started it.
    fn bury_failed(&mut self, run: &Run<'_>, error: &str) {
        let target = run.plan.rules.iter().find_map(|rule| {
            let starts = |to: &crate::plan::TargetKind| {
                matches!(to, crate::plan::TargetKind::Workflow(at)
                    if run.plan.workflows[*at].number == run.flow.number)
            };
            let target = rule.targets.iter().find(|target| starts(&target.to))?;
            Some((rule.name.as_str(), target.dead_letters))
        });
        if let Some((rule, dead_letters)) = target {
            let reason = format!("{}: {error}", run.flow.name);
            self.bury_event(run.plan, dead_letters, rule, run.event, &reason, run.cause);
        }
    }

    fn wait(&mut self, run: &Run<'_>, id: u64, position: &Position) {
        let waiting = Waiting {
            id,
            workflow: run.flow.number,
            event: event_doc(run.event),
            position: serde_json::to_string(position).expect("a position is plain data"),
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
        let StatePlan::Parallel(branches) = &machine.states[state] else {
            return Position::Failed("States.Runtime: the state is no Parallel any more".into());
        };
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use wims_stack::{
        Catch, FunctionRef, Machine, QueueRef, State, StateKind, TableRef, TargetRef, Task,
        Transact, Workflow, WorkflowRef,
    };

    use super::*;
    use crate::functions::Function;
    use crate::quiet::{self, Quiet};

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

    /// An engine in which a new item has just started a workflow of these states.
    fn start(states: Vec<State>, work: TransactFn) -> Quiet {
        let workflow = WorkflowRef::new("w");
        let mut stack = quiet::stack(TargetRef::Workflow(workflow.clone()));
        stack.workflows.push(Workflow { name: workflow, machine: Machine { states } });
        let functions = quiet::functions().with("work", Function::Transact(work));
        let mut quiet = Quiet::start(&stack, &functions);
        quiet.put("1");
        quiet.pass_ms(10);
        quiet
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
        let (queue, message) = (QueueRef::new("noted"), Template::path("$.detail.sk"));
        let task = Task::SendMessage { queue, message };
        let note = StateKind::Task { task, retry: Vec::new(), catch: Vec::new() };
        let states = vec![
            work(once_more(), catch),
            State { name: "Worked".into(), kind: StateKind::Succeed },
            State { name: "Note".into(), kind: note },
        ];
        let mut quiet = start(states, throttled);
        assert!(quiet.messages("noted").is_empty(), "the retry comes first");
        quiet.pass_ms(1_100);
        assert_eq!(quiet.messages("noted")[0].body, Doc::text("1"));
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 0));
        assert!(quiet.messages("dead").is_empty());
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
}
