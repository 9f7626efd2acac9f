//! Tests of the checker: one sound stack, and what each change makes wrong with it.

use serde_json::{Value, json};

use super::*;
use crate::doc::Doc;
use crate::pattern::Pattern;
use crate::stack::{Becomes, Redrive, StreamStart, Subscription, Transact};
use crate::table::{Condition, Index, Table};
use crate::template::Template;

fn functions() -> FunctionNames {
    let names = [
        (FunctionKind::Route, "create-order"),
        (FunctionKind::Enrichment, "cdc-enrichment"),
        (FunctionKind::Transact, "reserve-stock"),
        (FunctionKind::Prepare, "payment-prepare"),
        (FunctionKind::Outcome, "payment-outcome"),
        (FunctionKind::Mail, "alarm-mail"),
    ];
    let event = |source: &str, detail_type: &str, about: Option<&str>| Published {
        function: "cdc-enrichment".into(),
        source: source.into(),
        detail_type: detail_type.into(),
        about: about.map(String::from),
    };
    FunctionNames {
        names: names.map(|(kind, name)| (kind, name.into())).into(),
        publishes: vec![
            event("freeCodeCamp", "cdcEvent", Some("CUSTOMER#")),
            event("wims", "order.ready", None),
        ],
    }
}

fn task(name: &str, task: Task) -> Machine {
    let errors = || vec![ALL_ERRORS.to_string()];
    let retry = Retry {
        errors: errors(),
        interval_ms: 1_000,
        backoff: 2,
        interval_max_ms: 60_000,
        attempts_max: 3,
    };
    let failed = format!("{name}Failed");
    let catch = Catch { errors: errors(), next: failed.clone() };
    let kind = StateKind::Task { task, retry: vec![retry], catch: vec![catch] };
    let done = State { name: format!("{name}Done"), kind: StateKind::Succeed };
    let fail = StateKind::Fail { error: "Failed".into() };
    let states = vec![State { name: name.into(), kind }, done, State { name: failed, kind: fail }];
    Machine { states }
}

fn transact() -> Transact {
    Transact {
        table: TableRef::new("WIMS"),
        pk: Template::path("$.detail.data.pk"),
        sk: Template::path("$.detail.data.sk"),
        guard: Condition::is("inventoryStatus", "UNRESERVED"),
        function: FunctionRef::new("reserve-stock"),
        becomes: Becomes::one_of(
            "inventoryStatus",
            vec![Doc::text("RESERVED"), Doc::text("BACKORDERED")],
        ),
    }
}

fn queue(name: &str, dead_letters: Option<&str>) -> Queue {
    let redrive = dead_letters
        .map(|name| Redrive { dead_letters: QueueRef::new(name), receive_count_max: 10 });
    Queue { name: QueueRef::new(name), visibility_timeout_ms: 30_000, redrive, alarm: None }
}

fn stream(batch_size: usize) -> PipeSource {
    let (table, dead_letters) = (TableRef::new("WIMS"), QueueRef::new("events-dlq"));
    PipeSource::Stream { table, batch_size, start: StreamStart::Horizon, dead_letters }
}

fn pipes() -> Vec<Pipe> {
    let source = stream(BATCH_SIZE_MAX);
    let bus = BusRef::new("default");
    let target = PipeTarget::Bus { bus, enrichment: FunctionRef::new("cdc-enrichment") };
    let changes = Pipe { name: "CDCStreamPipe".into(), source, target };
    let api = ApiTarget {
        api: ApiRef::new("PaymentsApi"),
        path: "/payments".into(),
        idempotent: false,
        table: TableRef::new("WIMS"),
        prepare: FunctionRef::new("payment-prepare"),
        outcome: FunctionRef::new("payment-outcome"),
        rate_per_second: 5.0,
        burst: 5,
        in_flight_max: 10,
        timeout_ms: 10_000,
        alarm: TopicRef::new("Alarm"),
    };
    let payments = Pipe {
        name: "PaymentsPipe".into(),
        source: PipeSource::Queue(QueueRef::new("payments-queue")),
        target: PipeTarget::Api(api),
    };
    vec![changes, payments]
}

fn order_rule() -> Rule {
    let target = Target {
        to: TargetRef::Workflow(WorkflowRef::new("orders")),
        retry: TargetRetry::default(),
        dead_letters: QueueRef::new("events-dlq"),
    };
    let pattern = json!({
        "source": ["freeCodeCamp"],
        "detail-type": ["cdcEvent"],
        "detail": {"data": {"eventName": ["INSERT"], "pk": [{"prefix": "CUSTOMER#"}]}},
    });
    Rule {
        name: "Orders".into(),
        bus: BusRef::new("default"),
        pattern: Pattern(pattern),
        targets: vec![target],
    }
}

fn orders() -> Workflow {
    let queue = QueueRef::new("payments-queue");
    let send = Task::SendMessage { queue, message: Template::path("$.detail.data.pk") };
    let branches =
        vec![task("ReserveStock", Task::Transact(transact())), task("EnqueuePayment", send)];
    let state = State { name: "Both".into(), kind: StateKind::Parallel { branches } };
    Workflow { name: WorkflowRef::new("orders"), machine: Machine { states: vec![state] } }
}

fn stack() -> Stack {
    let mut stack = Stack::new("wims");
    let name = TableRef::new("WIMS");
    let (unstreamed, indexes, closed) = (Vec::new(), Vec::new(), Vec::new());
    stack.tables.push(Table { name, unstreamed, indexes, closed });
    stack.buses.push(BusRef::new("default"));
    stack.routes.push(Route {
        name: "create-order".into(),
        http: Some(HttpRoute { method: "POST".into(), path: "/orders".into() }),
        function: FunctionRef::new("create-order"),
        table: TableRef::new("WIMS"),
    });
    stack.pipes = pipes();
    stack.rules.push(order_rule());
    stack.workflows.push(orders());
    let letters = [queue("payments-dlq", None), queue("events-dlq", None)];
    stack.queues.push(queue("payments-queue", Some("payments-dlq")));
    stack.queues.push(queue("alarm-mails", Some("events-dlq")));
    stack.queues.extend(letters);
    let subscription = Subscription {
        queue: QueueRef::new("alarm-mails"),
        email: "team@example.org".into(),
        mail: FunctionRef::new("alarm-mail"),
        limit: MailLimit::OncePerSubject { subject: Template::text("api"), window_ms: 1_000 },
    };
    let name = TopicRef::new("Alarm");
    stack.topics.push(Topic { name, subscriptions: vec![subscription], notices: Vec::new() });
    stack.apis.push(ApiRef::new("PaymentsApi"));
    stack
}

fn findings(change: impl FnOnce(&mut Stack)) -> Vec<Finding> {
    let mut stack = stack();
    change(&mut stack);
    check(&stack, &functions())
}

fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::to_string).collect()
}

/// Exactly one finding is no note, and it reads so.
#[track_caller]
fn finds(expected: &str, change: impl FnOnce(&mut Stack)) {
    let mut findings = findings(change);
    findings.retain(|finding| finding.severity != Severity::Note);
    assert_eq!(lines(&findings), [expected]);
}

fn with_transact(stack: &mut Stack, change: impl FnOnce(&mut Transact)) {
    let mut changed = transact();
    change(&mut changed);
    stack.workflows[0].machine = task("ReserveStock", Task::Transact(changed));
}

fn api(stack: &mut Stack) -> &mut ApiTarget {
    match &mut stack.pipes[1].target {
        PipeTarget::Api(api) => api,
        PipeTarget::Bus { .. } => panic!("the second pipe calls an api"),
    }
}

#[test]
fn a_sound_stack_gets_notes_about_its_cycles_and_nothing_else() {
    let way = "table WIMS -> pipe CDCStreamPipe -> rule Orders -> workflow orders";
    let reserve = format!(
        "note rule/Orders: cycle {way} (state ReserveStock) -> table WIMS ends: the guard does \
         not hold once inventoryStatus is \"RESERVED\" or \"BACKORDERED\""
    );
    let pay = format!(
        "note rule/Orders: cycle {way} (state EnqueuePayment) -> queue payments-queue -> pipe \
         PaymentsPipe -> api PaymentsApi -> table WIMS passes through a queue and ends only if \
         payment-prepare and payment-outcome guard against a second round"
    );
    assert_eq!(lines(&findings(|_| {})), [reserve, pay]);
}

#[test]
fn a_dangling_reference_is_found_with_the_name_of_its_rule() {
    finds("error rule/Orders: starts workflow gone, which is not declared", |stack| {
        stack.rules[0].targets[0].to = TargetRef::Workflow(WorkflowRef::new("gone"));
    });
    finds("error pipe/PaymentsPipe: sounds the alarm on topic gone, which is not declared", |s| {
        api(s).alarm = TopicRef::new("gone");
    });
    finds("error queue/payments-dlq: sounds the alarm on topic gone, which is not declared", |s| {
        s.queues[2].alarm = Some(TopicRef::new("gone"));
    });
}

#[test]
fn a_function_must_exist_and_be_of_the_right_kind() {
    finds("error route/create-order: calls route function gone, which does not exist", |stack| {
        stack.routes[0].function = FunctionRef::new("gone");
    });
    let wrong = "calls alarm-mail as route function, which is for mail";
    finds(&format!("error route/create-order: {wrong}"), |stack| {
        stack.routes[0].function = FunctionRef::new("alarm-mail");
    });
}

#[test]
fn a_request_has_one_route_and_internal_routes_have_none() {
    let again = |stack: &mut Stack| {
        let name = "seed-inventory".into();
        stack.routes.push(Route { name, ..stack.routes[0].clone() });
    };
    finds("error route/POST /orders: is declared more than once", again);
    let internal = findings(|stack| {
        again(stack);
        for route in &mut stack.routes {
            route.http = None;
        }
    });
    assert_eq!(internal, findings(|_| {}));
}

#[test]
fn a_cycle_whose_guard_still_holds_may_go_on_for_ever() {
    let found = findings(|stack| {
        with_transact(stack, |transact| transact.guard = Condition::Exists);
    });
    assert_eq!(found[0].severity, Severity::Error);
    let way = "cycle table WIMS -> pipe CDCStreamPipe -> rule Orders -> workflow orders (state \
               ReserveStock) -> table WIMS may go on for ever";
    assert!(found[0].message.starts_with(way), "{}", found[0]);
}

#[test]
fn a_cycle_ends_when_the_pattern_excludes_what_the_item_becomes() {
    let pattern = |allowed: Value| {
        json!({
            "source": ["freeCodeCamp"],
            "detail-type": ["cdcEvent"],
            "detail": {"data": {"NewImage": {"inventoryStatus": allowed}}},
        })
    };
    let end_with = |allowed: Value| {
        findings(|stack| {
            stack.rules[0].pattern = Pattern(pattern(allowed));
            with_transact(stack, |transact| transact.guard = Condition::Exists);
        })
    };
    let ends = end_with(json!(["UNRESERVED"]));
    assert_eq!(ends[0].severity, Severity::Note, "{}", ends[0]);
    assert!(ends[0].message.contains("ends: the pattern does not match once"), "{}", ends[0]);
    let goes_on = end_with(json!(["UNRESERVED", "BACKORDERED"]));
    assert_eq!(goes_on[0].severity, Severity::Error, "{}", goes_on[0]);
}

#[test]
fn an_event_that_is_no_change_is_not_excluded_by_a_pattern_on_the_new_image() {
    let found = findings(|stack| {
        let status = json!(["UNRESERVED", {"exists": false}]);
        let image = json!({"NewImage": {"inventoryStatus": status}});
        stack.rules[0].pattern = Pattern(json!({"detail": {"data": image}}));
        with_transact(stack, |transact| transact.guard = Condition::Exists);
    });
    assert_eq!(found[0].severity, Severity::Error, "{}", found[0]);
}

#[test]
fn a_transaction_must_say_what_its_item_becomes() {
    let found = findings(|stack| with_transact(stack, |t| t.becomes.values.clear()));
    let errors: Vec<_> = found.iter().filter(|f| f.severity == Severity::Error).collect();
    assert_eq!(errors.len(), 2, "{found:?}");
    assert_eq!(errors[0].resource, "workflow/orders");
    assert!(errors[1].message.contains("may go on for ever"));
}

#[test]
fn a_cycle_ends_when_each_run_lowers_a_number_that_the_guard_bounds() {
    let lowering = |guard: Condition| {
        findings(|stack| {
            with_transact(stack, |transact| {
                transact.guard = guard;
                transact.becomes = Becomes::lower("backordered");
            });
        })
    };
    let ends = lowering(Condition::AtLeast("backordered".into(), 1.into()));
    assert_eq!(ends[0].severity, Severity::Note, "{}", ends[0]);
    let told = "ends: each run that writes the item lowers backordered, and the guard does not \
                hold below 1";
    assert!(ends[0].message.ends_with(told), "{}", ends[0]);
    // A bound on something else, or from above only, ends nothing.
    for unbounded in [
        Condition::AtLeast("quantity".into(), 1.into()),
        Condition::Below("backordered".into(), 1.into()),
    ] {
        let goes_on = lowering(unbounded);
        assert_eq!(goes_on[0].severity, Severity::Error, "{}", goes_on[0]);
        assert!(goes_on[0].message.ends_with("once backordered is lower"), "{}", goes_on[0]);
    }
}

#[test]
fn a_transaction_that_lowers_a_number_names_no_values_besides() {
    finds("error workflow/orders: state ReserveStock lowers n and says what it becomes", |stack| {
        with_transact(stack, |transact| {
            transact.becomes =
                Becomes { lower: true, ..Becomes::one_of("n", vec![Doc::text("1")]) };
            transact.guard = Condition::AtLeast("n".into(), 1.into());
        });
    });
}

#[test]
fn an_ordered_index_is_one_of_the_sort_key() {
    let order = "an ordered index is one of sk, and not unique";
    finds(&format!("error table/WIMS: index orderId of BACKORDER#: {order}"), |stack| {
        let (attribute, prefix) = ("orderId".into(), "BACKORDER#".into());
        stack.tables[0].indexes.push(Index { attribute, prefix, unique: false, ordered: true });
    });
    let sound = findings(|stack| {
        let (attribute, prefix) = ("sk".into(), "BACKORDER#".into());
        stack.tables[0].indexes.push(Index { attribute, prefix, unique: false, ordered: true });
    });
    assert_eq!(sound, findings(|_| {}));
}

#[test]
fn a_rule_that_can_never_match_is_found() {
    let rule = |pattern: Value| findings(|stack| stack.rules[0].pattern = Pattern(pattern));
    let broken = rule(json!({"source": "freeCodeCamp"}));
    assert!(broken[0].message.starts_with("Event pattern is not valid."), "{}", broken[0]);
    let never = rule(json!({"source": [7]}));
    assert_eq!(never[0].severity, Severity::Error);
    assert!(never[0].message.starts_with("can never match: "), "{}", never[0]);
}

#[test]
fn a_rule_for_events_that_no_pipe_publishes_is_found() {
    let unheard = |wanted: &str| {
        let publishes = format!("no pipe onto bus default publishes {wanted}");
        format!("warning rule/Orders: {publishes}; it hears only what others send there")
    };
    finds(&unheard("source wims with detail-type order.reddy"), |stack| {
        let pattern = json!({"source": ["wims"], "detail-type": ["order.reddy"]});
        stack.rules[0].pattern = Pattern(pattern);
    });
    let stock = r#"source freeCodeCamp with pk [{"prefix":"INVENTORY#"}]"#;
    finds(&unheard(stock), |stack| {
        let data = json!({"data": {"pk": [{"prefix": "INVENTORY#"}]}});
        stack.rules[0].pattern = Pattern(json!({"source": ["freeCodeCamp"], "detail": data}));
    });
}

#[test]
fn a_message_stays_hidden_longer_than_a_call_may_take() {
    let text = "error queue/payments-queue: hides a message 30000 ms, not longer than the \
                30000 ms a call of pipe PaymentsPipe may take";
    finds(text, |stack| api(stack).timeout_ms = 30_000);
}

#[test]
fn a_pipe_goes_from_a_stream_to_a_bus_or_from_a_queue_to_an_api() {
    let ways = "goes from a stream to a bus, or from a queue to an API";
    for [here, there] in [[0, 1], [1, 0]] {
        let name = ["CDCStreamPipe", "PaymentsPipe"][here];
        let found = lines(&findings(|stack| {
            stack.pipes[here].target = stack.pipes[there].target.clone();
        }));
        assert!(found.contains(&format!("error pipe/{name}: {ways}")), "{found:?}");
    }
}

#[test]
fn limits_have_a_floor_and_a_ceiling() {
    finds("error pipe/PaymentsPipe: burst is zero", |stack| api(stack).burst = 0);
    finds("error pipe/PaymentsPipe: rate of 0 a second moves nothing", |stack| {
        api(stack).rate_per_second = 0.0;
    });
    let path =
        "error pipe/PaymentsPipe: looks up calls of /p/{key}/r, whose key is inside the path";
    finds(path, |stack| api(stack).path = "/p/{key}/r".into());
    finds("error pipe/CDCStreamPipe: batch size is zero", |s| s.pipes[0].source = stream(0));
    finds("error pipe/CDCStreamPipe: batch size is above 10000", |stack| {
        stack.pipes[0].source = stream(BATCH_SIZE_MAX + 1);
    });
    finds("error queue/payments-queue: number of receives is zero", |stack| {
        let dead_letters = QueueRef::new("payments-dlq");
        stack.queues[0].redrive = Some(Redrive { dead_letters, receive_count_max: 0 });
    });
    finds("error rule/Orders: has 6 targets, EventBridge allows 5", |stack| {
        stack.workflows[0].machine = task("Reserve", Task::Transact(transact()));
        stack.rules[0].targets = vec![stack.rules[0].targets[0].clone(); 6];
    });
}

#[test]
fn a_limit_of_mails_has_a_window() {
    let limit = |stack: &mut Stack, limit| stack.topics[0].subscriptions[0].limit = limit;
    let subject = Template::text("api");
    let once = MailLimit::OncePerSubject { subject, window_ms: 0 };
    finds("error topic/Alarm: window of one mail a subject is zero", |s| limit(s, once));
    let digest = MailLimit::Digest { window_ms: 0 };
    finds("error topic/Alarm: window of a digest is zero", |s| limit(s, digest));
}

#[test]
fn a_queue_is_never_its_own_dead_letter_queue() {
    finds("error queue/events-dlq: its dead letters come back to it", |stack| {
        stack.queues[3] = queue("events-dlq", Some("events-dlq"));
    });
    finds("error rule/Orders: queue events-dlq is its own dead-letter queue", |stack| {
        let (queue, message) = (QueueRef::new("events-dlq"), Template::path("$.detail"));
        stack.rules[0].targets[0].to = TargetRef::Queue(queue, message);
    });
}

#[test]
fn the_queue_of_a_pipe_says_where_its_dead_letters_go() {
    let lacks = "reads queue payments-queue, which declares no dead-letter queue";
    finds(&format!("error pipe/PaymentsPipe: {lacks}"), |stack| stack.queues[0].redrive = None);
}

#[test]
fn a_task_without_retry_and_catch_is_warned_about() {
    finds("warning workflow/orders: state Lonely has neither Retry nor Catch", |stack| {
        let task = Task::Transact(transact());
        let kind = StateKind::Task { task, retry: Vec::new(), catch: Vec::new() };
        stack.workflows[0].machine.states = vec![State { name: "Lonely".into(), kind }];
    });
}

#[test]
fn a_catch_goes_on_to_a_state_of_its_machine_and_never_back() {
    let catch_to = |stack: &mut Stack, next: &str| {
        let mut machine = task("Reserve", Task::Transact(transact()));
        if let StateKind::Task { catch, .. } = &mut machine.states[0].kind {
            catch.push(Catch { errors: vec!["E".into()], next: next.into() });
            catch.rotate_left(1);
        }
        stack.workflows[0].machine = machine;
    };
    let text = "error workflow/orders: state Reserve catches to";
    finds(&format!("{text} Gone, no state of its machine"), |s| catch_to(s, "Gone"));
    finds(&format!("{text} Reserve, which leads back to it"), |s| catch_to(s, "Reserve"));
}

#[test]
fn every_state_has_a_name_of_its_own_and_can_be_reached() {
    let append = |stack: &mut Stack, name: &str| {
        let state = State { name: name.into(), kind: StateKind::Succeed };
        stack.workflows[0].machine = task("Reserve", Task::Transact(transact()));
        stack.workflows[0].machine.states.push(state);
    };
    let text = "error workflow/orders: state Island cannot be reached";
    finds(text, |stack| append(stack, "Island"));
    let found = lines(&findings(|stack| append(stack, "Reserve")));
    assert_eq!(found[0], "error workflow/orders: state Reserve is declared more than once");
    let empty = |stack: &mut Stack| stack.workflows[0].machine.states.clear();
    finds("error workflow/orders: it has no states", empty);
}

#[test]
fn all_findings_come_at_once_the_worst_first() {
    let found = findings(|stack| {
        stack.queues.push(queue("events-dlq", None));
        stack.routes[0].table = TableRef::new("GONE");
        stack.rules[0].pattern = Pattern(json!({"source": ["elsewhere"]}));
        stack.rules[0].targets[0].retry.attempts_max = 186;
        stack.topics[0].subscriptions[0].mail = FunctionRef::new("gone");
    });
    let errors = ["queue/events-dlq", "route/create-order", "rule/Orders", "topic/Alarm"];
    let resources: Vec<&str> = found.iter().map(|f| f.resource.as_str()).collect();
    assert_eq!(resources[..4], errors);
    assert_eq!((found.len(), found[4].severity), (5, Severity::Warning), "{found:?}");
}

#[test]
fn a_finding_is_one_line_and_one_json_object() {
    let message = "not valid\n  at line 1".into();
    let finding = Finding { severity: Severity::Error, resource: "rule/X".into(), message };
    assert_eq!(finding.to_string(), "error rule/X: not valid at line 1");
    let json = serde_json::to_value(&finding).expect("a finding is JSON");
    assert_eq!(json["severity"], "error");
}
