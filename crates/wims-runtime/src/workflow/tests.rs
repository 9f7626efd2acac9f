//! Executions that run, wait, fail, and go on under another stack.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wims_stack::{
    Catch, FunctionRef, Machine, QueueRef, Stack, State, StateKind, TableRef, TargetRef, Task,
    Transact, Workflow, WorkflowRef,
};

use super::*;
use crate::functions::{Function, Functions};
use crate::io::{Answer, Query};
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
        becomes: Becomes::one_of("state", vec![Doc::text("DONE")]),
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

/// A task that lowers `left` of an item that is NEW, while there is some.
fn lower(function: TransactFn) -> Quiet {
    let task = Task::Transact(Transact {
        table: TableRef::new("T"),
        pk: Template::path("$.detail.pk"),
        sk: Template::path("$.detail.sk"),
        guard: Condition::is("state", "NEW"),
        function: FunctionRef::new("work"),
        becomes: Becomes::lower("left"),
    });
    let kind = StateKind::Task { task, retry: Vec::new(), catch: Vec::new() };
    start(vec![State { name: "Work".into(), kind }], function)
}

fn update_of(sk: &str, update: Update) -> Result<Vec<Write>, TaskError> {
    let action = Action::Update(vec![update]);
    Ok(vec![Write { pk: "a".into(), sk: sk.into(), condition: None, action }])
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
    for (retry, retries) in [(Vec::new(), 0), (once_more(), 1)] {
        let mut quiet = start(vec![work(retry, Vec::new())], throttled);
        quiet.pass_ms(1_100);
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 0));
        let letters = quiet.messages("dead");
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].body.part("detail"), Some(quiet::item("1")));
        let attributes = letters[0].attributes.as_deref().unwrap();
        assert_eq!(attributes.str("RULE_ARN"), Some("rule/r"));
        assert_eq!(attributes.str("TARGET_ARN"), Some("workflow/w"));
        assert_eq!(attributes.str("ERROR_CODE"), Some("DynamoDB.ThrottlingException"));
        assert_eq!(attributes.int("RETRY_ATTEMPTS"), Some(retries));
        let condition = (retries > 0).then_some("MaximumRetryAttempts");
        assert_eq!(attributes.str("EXHAUSTED_RETRY_CONDITION"), condition);
        let reason = attributes.str("ERROR_MESSAGE");
        assert_eq!(reason, Some("w: DynamoDB.ThrottlingException: too fast"));
    }
}

#[test]
fn an_execution_that_waited_names_the_rule_that_started_it() {
    let mut stack = stack(vec![work(once_more(), Vec::new())]);
    let mut other = stack.rules[0].clone();
    other.name = "other".into();
    stack.rules.push(other);
    for is_known in [true, false] {
        let mut quiet = Quiet::start(&stack, &functions(throttled));
        quiet.put("1");
        quiet.pass_ms(10);
        assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 2));
        if !is_known {
            // As a former version wrote it.
            let executions = quiet.engine.state.executions.values_mut();
            executions.for_each(|execution| {
                let event = &mut execution.waiting.event;
                *event = event.with(&[(STARTED_BY, None)]);
            });
        }
        quiet.pass_ms(1_100);
        let letters = quiet.messages("dead");
        let rules = letters.iter().map(|letter| letter.attributes.as_deref()?.str("RULE_ARN"));
        let mut rules: Vec<_> = rules.flatten().collect();
        rules.sort_unstable();
        assert_eq!(rules, if is_known { ["rule/other", "rule/r"] } else { ["rule/r"; 2] });
        let body = &letters[0].body;
        assert!(body.get(STARTED_BY).is_none(), "it is sent back as it came");
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
fn a_wait_lasts_as_declared_and_a_restart_does_not_end_it() {
    let wait = State { name: "Grace".into(), kind: StateKind::Wait { duration_ms: 5_000 } };
    let states = vec![wait, work(Vec::new(), Vec::new())];
    let mut quiet = start(states.clone(), done);
    assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 1));
    quiet.pass_ms(4_900);
    assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 1));
    let mut quiet = quiet.restart(&stack(states), &functions(done));
    assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 1));
    quiet.pass_ms(5_100);
    assert_eq!(state_and_waiting(&quiet), (Some("DONE"), 0));
}

#[test]
fn an_execution_whose_state_is_gone_is_a_dead_letter_that_can_be_sent_back() {
    let quiet = wait_and_change(&stack(vec![note()]), done);
    assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 0));
    assert!(quiet.messages("noted").is_empty(), "no other state is taken for it");
    assert_eq!(letter(&quiet).str("RULE_ARN"), Some("rule/r"));
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

#[test]
fn a_redrive_sends_an_event_to_the_target_that_could_not_take_it_and_to_no_other() {
    let mut stack = stack(vec![work(Vec::new(), Vec::new())]);
    // Both share their dead letters, and the queue comes first.
    let mut noted = stack.rules[0].targets[0].clone();
    noted.to = TargetRef::Queue(QueueRef::new("noted"), Template::path("$.detail.sk"));
    stack.rules[0].targets.insert(0, noted);
    let mut quiet = Quiet::start(&stack, &functions(throttled));
    quiet.put("1");
    quiet.pass_ms(10);
    assert_eq!(letter(&quiet).str("TARGET_ARN"), Some("workflow/w"));
    let event = quiet.messages("dead")[0].body.clone();

    let mut quiet = quiet.restart(&stack, &functions(done));
    let redrive = || Query::Redrive { queue: "dead".into(), limit: 10, dry_run: false };
    quiet.ask(redrive());
    assert_eq!(state_and_waiting(&quiet), (Some("DONE"), 0));
    assert_eq!(quiet.texts("noted"), ["1"], "it was sent there when it arose");
    assert!(quiet.messages("dead").is_empty());

    // A letter of a former version names its rule alone, and not as a resource.
    let dead = quiet.engine.state.number("queue/dead").expect("it is declared");
    let attributes = Doc::object(&[("RULE_ARN", Field::Str("r"))]);
    quiet.engine.send(dead, event, Some(attributes), Cause::default());
    quiet.ask(redrive());
    assert_eq!(quiet.texts("noted"), ["1", "1"]);
    assert!(quiet.messages("dead").is_empty());
}

#[test]
fn what_waits_is_memory_of_a_kind_of_its_own_and_part_of_the_whole() {
    let mut quiet = start(vec![work(once_more(), Vec::new())], throttled);
    let Answer::Status(status) = quiet.ask(Query::Status) else { panic!("no status") };
    assert_eq!(state_and_waiting(&quiet), (Some("NEW"), 1));
    let of =
        |kind: &str| status.memory.iter().find(|(name, _)| name == kind).map(|(_, bytes)| *bytes);
    assert_eq!(of("stream"), Some(0), "the pipe has seen it");
    assert!(of("executions").is_some_and(|bytes| bytes > 100), "{:?}", status.memory);
    let kinds: usize = status.memory.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(kinds as u64, quiet.engine.memory_bytes());
}

#[test]
fn a_task_that_lowers_a_number_lowers_it_or_leaves_its_item_alone() {
    // The item has no such number, so a lowering gets past the declaration and no further.
    let told = |function| letter(&lower(function)).str("ERROR_MESSAGE").map(str::to_owned);
    let lowers: TransactFn = |_| update_of("1", Update::Add("left", Decimal::NEGATIVE_ONE));
    assert!(told(lowers).is_some_and(|why| why.contains("does not exist in the item")));
    let raises: TransactFn = |_| update_of("1", Update::Add("left", Decimal::ONE));
    let other: TransactFn = |_| update_of("1", Update::Add("right", Decimal::NEGATIVE_ONE));
    let sets: TransactFn = |_| update_of("1", Update::SetInt("left", 0));
    for wrong in [raises, other, sets] {
        assert!(told(wrong).is_some_and(|why| why.contains("what is declared")));
    }
    // What writes another item, or nothing, is no failure.
    let elsewhere: TransactFn = |_| update_of("2", Update::SetInt("left", 3));
    let nothing: TransactFn = |_| Ok(Vec::new());
    let quiet = lower(elsewhere);
    assert_eq!((quiet.item("2").int("left"), quiet.messages("dead").len()), (Some(3), 0));
    assert_eq!(lower(nothing).messages("dead").len(), 0);
}
