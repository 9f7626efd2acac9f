//! What is wrong with a stack, told before it runs: broken references, limits, patterns, cycles.
//!
//! Promise: [`check`] returns all findings at once, the worst first and otherwise in the order
//! of declaration; a stack without errors refers only to what exists, and no workflow of it goes
//! round through the change stream without end.
//!
//! It deliberately reads no code: what a function writes is its own business, and two workflows
//! that undo each other's work are not found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::pattern::CompiledPattern;
use crate::stack::{
    ALL_ERRORS, ApiRef, ApiTarget, Becomes, BusRef, Catch, FunctionRef, HttpRoute, LogRef, Machine,
    MailLimit, PATH_KEY, Pipe, PipeSource, PipeTarget, Queue, QueueRef, Retry, Route, Rule, Stack,
    State, StateKind, TableRef, Target, TargetRef, TargetRetry, Task, Topic, TopicRef, Workflow,
    WorkflowRef,
};
use crate::table::{SORT_KEY, Table};

mod cycle;

use cycle::{CHANGED_KEYS, may_match};

/// The most records a batch of a stream may have, the number of Pipes.
pub const BATCH_SIZE_MAX: usize = 10_000;
/// The most targets a rule may have, EventBridge's number.
pub const TARGETS_MAX: usize = 5;
/// The most rules a bus has before EventBridge wants a higher quota.
pub const RULES_MAX: usize = 300;
/// The most tries after the first that EventBridge makes for a target.
pub const TARGET_ATTEMPTS_MAX: u32 = 185;
/// The least age, in seconds, that can be declared for an event's last try, EventBridge's number.
pub const TARGET_AGE_MIN_S: u64 = 60;
/// The most, EventBridge's number.
pub const TARGET_AGE_MAX_S: u64 = 86_400;

/// One thing that [`check`] has to say about a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about, e.g. `rule/OrdersStateMachine`.
    pub resource: String,
    /// What there is to say, a fragment without a full stop.
    pub message: String,
}

/// How much a finding matters, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The stack cannot run as declared.
    Error,
    /// The stack runs, probably not as meant.
    Warning,
    /// Worth knowing, nothing to do.
    Note,
}

/// The functions that exist, by name; the one part of a system that its stack does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionNames {
    /// Every function with its kind.
    pub names: Vec<(FunctionKind, String)>,
    /// What the enrichments publish; nothing is concluded about one that is not listed.
    pub publishes: Vec<Published>,
}

/// Which place in a stack a function is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// Makes events from stream records.
    Enrichment,
    /// Makes the writes of a workflow's transaction.
    Transact,
    /// Makes the writes and the reply of a route.
    Route,
    /// Decides what a message of an API pipe needs.
    Prepare,
    /// Turns the outcome of an API call into writes.
    Outcome,
    /// Writes a mail.
    Mail,
    /// Writes a mail to whom an event is about.
    Notice,
    /// Makes the writes when a notice is done.
    Noticed,
}

/// A kind of event that an enrichment can publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The enrichment.
    pub function: String,
    /// The event's source.
    pub source: String,
    /// The event's detail type.
    pub detail_type: String,
    /// For change events: what `pk` of the changed item starts with, e.g. `CUSTOMER#`.
    pub about: Option<String>,
}

/// Everything there is to say about a stack and the functions it names.
pub fn check(stack: &Stack, functions: &FunctionNames) -> Vec<Finding> {
    let mut checker = Checker { stack, functions, findings: Vec::new() };
    checker.names();
    stack.tables.iter().for_each(|table| checker.table(table));
    stack.buses.iter().for_each(|bus| checker.bus(bus));
    stack.routes.iter().for_each(|route| checker.route(route));
    stack.pipes.iter().for_each(|pipe| checker.pipe(pipe));
    stack.rules.iter().for_each(|rule| checker.rule(rule));
    stack.workflows.iter().for_each(|workflow| checker.workflow(workflow));
    stack.queues.iter().for_each(|queue| checker.queue(queue));
    stack.topics.iter().for_each(|topic| checker.topic(topic));
    checker.cycles();
    checker.findings.sort_by_key(|finding| finding.severity);
    checker.findings
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{} {}: {}", self.severity, self.resource, self.message);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        f.write_str(&lines.join(" "))
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for FunctionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FunctionKind::Enrichment => "enrichment",
            FunctionKind::Transact => "transact",
            FunctionKind::Route => "route",
            FunctionKind::Prepare => "prepare",
            FunctionKind::Outcome => "outcome",
            FunctionKind::Mail => "mail",
            FunctionKind::Notice => "notice",
            FunctionKind::Noticed => "noticed",
        })
    }
}

struct Checker<'a> {
    stack: &'a Stack,
    functions: &'a FunctionNames,
    findings: Vec<Finding>,
}

/// Each kind of resource.
impl<'a> Checker<'a> {
    fn names(&mut self) {
        let stack = self.stack;
        self.unique("table", stack.tables.iter().map(|table| table.name.0.clone()));
        self.unique("bus", stack.buses.iter().map(|bus| bus.0.clone()));
        self.unique("route", stack.routes.iter().map(|route| route.name.clone()));
        let requests = stack.routes.iter().filter_map(|route| route.http.as_ref());
        self.unique("route", requests.map(HttpRoute::to_string));
        self.unique("pipe", stack.pipes.iter().map(|pipe| pipe.name.clone()));
        self.unique("rule", stack.rules.iter().map(|rule| rule.name.clone()));
        self.unique("workflow", stack.workflows.iter().map(|workflow| workflow.name.0.clone()));
        self.unique("queue", stack.queues.iter().map(|queue| queue.name.0.clone()));
        self.unique("topic", stack.topics.iter().map(|topic| topic.name.0.clone()));
        self.unique("log", stack.logs.iter().map(|log| log.name.0.clone()));
        self.unique("api", stack.apis.iter().map(|api| api.0.clone()));
    }

    fn table(&mut self, table: &Table) {
        let at = format!("table/{}", table.name.name());
        for index in table.indexes.iter().filter(|index| index.ordered) {
            let (attribute, prefix) = (&index.attribute, &index.prefix);
            if attribute != SORT_KEY || index.unique {
                let order = format!("an ordered index is one of {SORT_KEY}, and not unique");
                self.error(&at, format!("index {attribute} of {prefix}: {order}"));
            }
        }
    }

    fn bus(&mut self, bus: &BusRef) {
        let rules = self.stack.rules.iter().filter(|rule| rule.bus == *bus).count();
        if rules > RULES_MAX {
            let message = format!("has {rules} rules, EventBridge allows {RULES_MAX} unless asked");
            self.warning(&format!("bus/{}", bus.name()), message);
        }
    }

    fn route(&mut self, route: &Route) {
        let at = format!("route/{}", route.name);
        self.needs_function(&at, FunctionKind::Route, &route.function);
        self.needs_table(&at, "writes to", &route.table);
    }

    fn pipe(&mut self, pipe: &Pipe) {
        let at = format!("pipe/{}", pipe.name);
        match &pipe.source {
            PipeSource::Stream { table, batch_size, start: _, dead_letters } => {
                self.needs_queue(&at, "sends dead letters to", dead_letters);
                self.needs_table(&at, "reads", table);
                self.positive(&at, "batch size", *batch_size as u64);
                if *batch_size > BATCH_SIZE_MAX {
                    self.error(&at, format!("batch size is above {BATCH_SIZE_MAX}"));
                }
            }
            PipeSource::Queue(queue) => {
                self.needs_queue(&at, "reads", queue);
                self.needs_redrive(&at, queue);
            }
        }
        match &pipe.target {
            PipeTarget::Bus { bus, enrichment } => {
                self.needs_bus(&at, "publishes on", bus);
                self.needs_function(&at, FunctionKind::Enrichment, enrichment);
            }
            PipeTarget::Api(api) => self.api_target(&at, api),
        }
        match (&pipe.source, &pipe.target) {
            (PipeSource::Stream { .. }, PipeTarget::Bus { .. })
            | (PipeSource::Queue(_), PipeTarget::Api(_)) => {}
            _ => self.error(&at, "goes from a stream to a bus, or from a queue to an API"),
        }
    }

    /// What a pipe cannot deliver goes where its queue says.
    fn needs_redrive(&mut self, at: &str, queue: &QueueRef) {
        let lacks = |known: &Queue| known.name == *queue && known.redrive.is_none();
        if self.stack.queues.iter().any(lacks) {
            let name = queue.name();
            self.error(at, format!("reads queue {name}, which declares no dead-letter queue"));
        }
    }

    fn api_target(&mut self, at: &str, target: &ApiTarget) {
        self.needs_api(at, "calls", &target.api);
        self.needs_table(at, "writes to", &target.table);
        self.needs_function(at, FunctionKind::Prepare, &target.prepare);
        self.needs_function(at, FunctionKind::Outcome, &target.outcome);
        self.needs_topic(at, "sounds the alarm on", &target.alarm);
        if !(target.rate_per_second.is_finite() && target.rate_per_second > 0.0) {
            self.error(at, format!("rate of {} a second moves nothing", target.rate_per_second));
        }
        self.positive(at, "burst", u64::from(target.burst));
        self.positive(at, "number of calls under way", target.in_flight_max as u64);
        self.positive(at, "timeout", target.timeout_ms);
        if target.path.contains(PATH_KEY) && !target.idempotent {
            let path = &target.path;
            self.error(at, format!("looks up calls of {path}, whose key is inside the path"));
        }
    }

    fn rule(&mut self, rule: &Rule) {
        let at = format!("rule/{}", rule.name);
        self.needs_bus(&at, "listens to", &rule.bus);
        self.pattern(&at, rule);
        if rule.targets.len() > TARGETS_MAX {
            let count = rule.targets.len();
            self.error(&at, format!("has {count} targets, EventBridge allows {TARGETS_MAX}"));
        }
        rule.targets.iter().for_each(|target| self.target(&at, target));
    }

    fn pattern(&mut self, at: &str, rule: &Rule) {
        let pattern = match rule.pattern.compile() {
            Ok(pattern) => pattern,
            Err(error) => return self.error(at, error.to_string()),
        };
        if let Some(why) = pattern.contradiction() {
            return self.error(at, format!("can never match: {why}"));
        }
        let is_fed = self.enrichments_onto(&rule.bus).into_iter().any(|enrichment| {
            let events = self.events_of(enrichment);
            events.is_empty() || events.iter().any(|event| may_match(rule, &pattern, event))
        });
        if !is_fed {
            let (bus, wanted) = (rule.bus.name(), wanted(rule, &pattern));
            let message = format!("no pipe onto bus {bus} publishes {wanted}");
            self.warning(at, format!("{message}; it hears only what others send there"));
        }
    }

    fn target(&mut self, at: &str, target: &Target) {
        self.needs_queue(at, "sends dead letters to", &target.dead_letters);
        self.target_retry(at, &target.retry);
        match &target.to {
            TargetRef::Workflow(workflow) => self.needs_workflow(at, "starts", workflow),
            TargetRef::Queue(queue, _) => {
                self.needs_queue(at, "sends to", queue);
                self.not_its_own_dead_letters(at, queue, &target.dead_letters);
            }
            TargetRef::Topic(topic) => self.needs_topic(at, "publishes to", topic),
            TargetRef::Log(log) => self.needs_log(at, "writes to", log),
        }
    }

    fn target_retry(&mut self, at: &str, retry: &TargetRetry) {
        if retry.attempts_max > TARGET_ATTEMPTS_MAX {
            self.error(at, format!("tries a target again more than {TARGET_ATTEMPTS_MAX} times"));
        }
        if !(TARGET_AGE_MIN_S..=TARGET_AGE_MAX_S).contains(&retry.age_max_s) {
            let bounds = format!("{TARGET_AGE_MIN_S} to {TARGET_AGE_MAX_S} s");
            let age = retry.age_max_s;
            self.error(at, format!("tries a target for {age} s, EventBridge allows {bounds}"));
        }
    }

    fn queue(&mut self, queue: &Queue) {
        let at = format!("queue/{}", queue.name.name());
        self.positive(&at, "visibility timeout", queue.visibility_timeout_ms);
        self.patience(&at, queue);
        if let Some(alarm) = &queue.alarm {
            self.needs_topic(&at, "sounds the alarm on", alarm);
        }
        let Some(redrive) = &queue.redrive else { return };
        self.needs_queue(&at, "sends dead letters to", &redrive.dead_letters);
        self.positive(&at, "number of receives", u64::from(redrive.receive_count_max));
        if self.comes_back(&queue.name) {
            self.error(&at, "its dead letters come back to it");
        }
    }

    /// A message must stay hidden while a call for it is under way, or a second call starts.
    fn patience(&mut self, at: &str, queue: &Queue) {
        for pipe in &self.stack.pipes {
            let (PipeSource::Queue(source), PipeTarget::Api(api)) = (&pipe.source, &pipe.target)
            else {
                continue;
            };
            if *source == queue.name && queue.visibility_timeout_ms <= api.timeout_ms {
                let (hidden, call) = (queue.visibility_timeout_ms, api.timeout_ms);
                let calls = format!("the {call} ms a call of pipe {} may take", pipe.name);
                self.error(at, format!("hides a message {hidden} ms, not longer than {calls}"));
            }
        }
    }

    /// Whether dead letters of dead letters end up in the queue again.
    fn comes_back(&self, queue: &QueueRef) -> bool {
        let mut at = queue;
        for _ in &self.stack.queues {
            match self.dead_letters_of(at) {
                Some(next) if next == queue => return true,
                Some(next) => at = next,
                None => return false,
            }
        }
        false
    }

    fn dead_letters_of(&self, name: &QueueRef) -> Option<&'a QueueRef> {
        let stack = self.stack;
        let queue = stack.queues.iter().find(|queue| queue.name == *name)?;
        queue.redrive.as_ref().map(|redrive| &redrive.dead_letters)
    }

    fn topic(&mut self, topic: &Topic) {
        let at = format!("topic/{}", topic.name.name());
        for subscription in &topic.subscriptions {
            self.needs_queue(&at, "keeps mails in", &subscription.queue);
            self.needs_function(&at, FunctionKind::Mail, &subscription.mail);
            self.mail_limit(&at, &subscription.limit);
        }
        for notices in &topic.notices {
            self.needs_queue(&at, "keeps mails in", &notices.queue);
            self.needs_table(&at, "finds addresses in", &notices.table);
            self.needs_function(&at, FunctionKind::Notice, &notices.notice);
            self.needs_function(&at, FunctionKind::Noticed, &notices.outcome);
        }
    }

    fn mail_limit(&mut self, at: &str, limit: &MailLimit) {
        match limit {
            MailLimit::OncePerSubject { subject: _, window_ms } => {
                self.positive(at, "window of one mail a subject", *window_ms);
            }
            MailLimit::Digest { window_ms } => self.positive(at, "window of a digest", *window_ms),
        }
    }
}

/// Workflows.
impl Checker<'_> {
    fn workflow(&mut self, workflow: &Workflow) {
        let at = format!("workflow/{}", workflow.name.name());
        let names = states(&workflow.machine).into_iter().map(|state| state.name.clone());
        for name in repeated(names) {
            self.error(&at, format!("state {name} is declared more than once"));
        }
        self.machine(&at, "it", &workflow.machine);
    }

    fn machine(&mut self, at: &str, whose: &str, machine: &Machine) {
        if machine.states.is_empty() {
            return self.error(at, format!("{whose} has no states"));
        }
        let reached = reachable(machine, 0);
        for (position, state) in machine.states.iter().enumerate() {
            if !reached[position] {
                self.error(at, format!("state {} cannot be reached", state.name));
            }
            self.state(at, machine, position, state);
        }
    }

    fn state(&mut self, at: &str, machine: &Machine, position: usize, state: &State) {
        match &state.kind {
            StateKind::Task { task, retry, catch } => {
                self.task(at, &state.name, task);
                self.retries(at, &state.name, retry);
                self.catches(at, machine, position, catch);
                if let Some(lacks) = lacking(retry, catch) {
                    self.warning(at, format!("state {} has {lacks}", state.name));
                }
            }
            StateKind::Parallel { branches } => {
                if branches.is_empty() {
                    self.error(at, format!("state {} has no branches", state.name));
                }
                let whose = format!("a branch of state {}", state.name);
                branches.iter().for_each(|branch| self.machine(at, &whose, branch));
            }
            StateKind::Wait { duration_ms } => {
                self.positive(at, &format!("wait of state {}", state.name), *duration_ms);
            }
            StateKind::Succeed | StateKind::Fail { .. } => {}
        }
    }

    fn task(&mut self, at: &str, state: &str, task: &Task) {
        match task {
            Task::Transact(transact) => {
                self.needs_table(at, &format!("state {state} writes to"), &transact.table);
                self.needs_function(at, FunctionKind::Transact, &transact.function);
                let Becomes { attribute, values, lower } = &transact.becomes;
                if values.is_empty() && !lower {
                    self.error(at, format!("state {state} does not say what {attribute} becomes"));
                }
                if !values.is_empty() && *lower {
                    let both = format!("lowers {attribute} and says what it becomes");
                    self.error(at, format!("state {state} {both}"));
                }
            }
            Task::SendMessage { queue, message: _ } => {
                self.needs_queue(at, &format!("state {state} sends to"), queue);
            }
        }
    }

    fn retries(&mut self, at: &str, state: &str, retries: &[Retry]) {
        self.errors_named(at, state, "Retry", retries.iter().map(|retry| &retry.errors));
        if retries.iter().any(|retry| retry.backoff == 0) {
            self.error(at, format!("state {state}: the backoff of a Retry is below 1"));
        }
    }

    fn catches(&mut self, at: &str, machine: &Machine, position: usize, catches: &[Catch]) {
        let state = &machine.states[position].name;
        self.errors_named(at, state, "Catch", catches.iter().map(|catch| &catch.errors));
        for Catch { next, .. } in catches {
            let Some(to) = machine.states.iter().position(|state| state.name == *next) else {
                let message = format!("state {state} catches to {next}, no state of its machine");
                self.error(at, message);
                continue;
            };
            if reachable(machine, to)[position] {
                let message = format!("state {state} catches to {next}, which leads back to it");
                self.error(at, message);
            }
        }
    }

    fn errors_named<'n>(
        &mut self,
        at: &str,
        state: &str,
        what: &str,
        lists: impl ExactSizeIterator<Item = &'n Vec<String>>,
    ) {
        let last = lists.len().saturating_sub(1);
        for (position, names) in lists.enumerate() {
            if names.is_empty() {
                self.error(at, format!("state {state}: a {what} names no error"));
            }
            let has_all = names.iter().any(|name| name == ALL_ERRORS);
            if has_all && (names.len() > 1 || position < last) {
                let rule = format!("{ALL_ERRORS} stands alone and in the last {what}");
                self.error(at, format!("state {state}: {rule}"));
            }
        }
    }
}

/// What things refer to, and what is said about them.
impl<'a> Checker<'a> {
    fn needs_table(&mut self, at: &str, verb: &str, table: &TableRef) {
        let is_declared = self.stack.tables.iter().any(|known| known.name == *table);
        self.needs(at, verb, "table", table.name(), is_declared);
    }

    fn needs_bus(&mut self, at: &str, verb: &str, bus: &BusRef) {
        let is_declared = self.stack.buses.contains(bus);
        self.needs(at, verb, "bus", bus.name(), is_declared);
    }

    fn needs_queue(&mut self, at: &str, verb: &str, queue: &QueueRef) {
        let is_declared = self.stack.queues.iter().any(|known| known.name == *queue);
        self.needs(at, verb, "queue", queue.name(), is_declared);
    }

    fn needs_topic(&mut self, at: &str, verb: &str, topic: &TopicRef) {
        let is_declared = self.stack.topics.iter().any(|known| known.name == *topic);
        self.needs(at, verb, "topic", topic.name(), is_declared);
    }

    fn needs_workflow(&mut self, at: &str, verb: &str, workflow: &WorkflowRef) {
        let is_declared = self.stack.workflows.iter().any(|known| known.name == *workflow);
        self.needs(at, verb, "workflow", workflow.name(), is_declared);
    }

    fn needs_log(&mut self, at: &str, verb: &str, log: &LogRef) {
        let is_declared = self.stack.logs.iter().any(|known| known.name == *log);
        self.needs(at, verb, "log", log.name(), is_declared);
    }

    fn needs_api(&mut self, at: &str, verb: &str, api: &ApiRef) {
        let is_declared = self.stack.apis.contains(api);
        self.needs(at, verb, "api", api.name(), is_declared);
    }

    fn needs(&mut self, at: &str, verb: &str, kind: &str, name: &str, is_declared: bool) {
        if !is_declared {
            self.error(at, format!("{verb} {kind} {name}, which is not declared"));
        }
    }

    fn needs_function(&mut self, at: &str, kind: FunctionKind, function: &FunctionRef) {
        let name = function.name();
        let named = self.functions.names.iter().filter(|(_, known)| known == name);
        let kinds: Vec<FunctionKind> = named.map(|(kind, _)| *kind).collect();
        match kinds.first() {
            None => self.error(at, format!("calls {kind} function {name}, which does not exist")),
            Some(other) if !kinds.contains(&kind) => {
                self.error(at, format!("calls {name} as {kind} function, which is for {other}"));
            }
            Some(_) => {}
        }
    }

    fn enrichments_onto(&self, bus: &BusRef) -> Vec<&'a FunctionRef> {
        let stack = self.stack;
        let enrichment = |pipe: &'a Pipe| match &pipe.target {
            PipeTarget::Bus { bus: onto, enrichment } if onto == bus => Some(enrichment),
            PipeTarget::Bus { .. } | PipeTarget::Api(_) => None,
        };
        stack.pipes.iter().filter_map(enrichment).collect()
    }

    fn events_of(&self, enrichment: &FunctionRef) -> Vec<&'a Published> {
        let functions = self.functions;
        functions.publishes.iter().filter(|event| event.function == enrichment.name()).collect()
    }

    fn unique(&mut self, kind: &str, names: impl Iterator<Item = String>) {
        for name in repeated(names) {
            self.error(&format!("{kind}/{name}"), "is declared more than once");
        }
    }

    fn not_its_own_dead_letters(&mut self, at: &str, queue: &QueueRef, dead_letters: &QueueRef) {
        if queue == dead_letters {
            self.error(at, format!("queue {} is its own dead-letter queue", queue.name()));
        }
    }

    fn positive(&mut self, at: &str, what: &str, value: u64) {
        if value == 0 {
            self.error(at, format!("{what} is zero"));
        }
    }

    fn error(&mut self, at: &str, message: impl Into<String>) {
        self.say(Severity::Error, at, message.into());
    }

    fn warning(&mut self, at: &str, message: impl Into<String>) {
        self.say(Severity::Warning, at, message.into());
    }

    fn note(&mut self, at: &str, message: impl Into<String>) {
        self.say(Severity::Note, at, message.into());
    }

    fn say(&mut self, severity: Severity, at: &str, message: String) {
        self.findings.push(Finding { severity, resource: at.into(), message });
    }
}

/// The event a rule asks for, in words.
fn wanted(rule: &Rule, pattern: &CompiledPattern) -> String {
    let exact = |field: &str| {
        let texts = pattern.exact_strings(&[field])?;
        Some(format!("{field} {}", texts.join(" or ")))
    };
    let key = CHANGED_KEYS.iter().find_map(|key| rule.pattern.0.pointer(key));
    let mut wanted: Vec<String> = ["source", "detail-type"].into_iter().filter_map(exact).collect();
    wanted.extend(key.map(|tests| format!("pk {tests}")));
    if wanted.is_empty() { "an event it matches".into() } else { wanted.join(" with ") }
}

fn lacking(retry: &[Retry], catch: &[Catch]) -> Option<&'static str> {
    match (retry.is_empty(), catch.is_empty()) {
        (true, true) => Some("neither Retry nor Catch"),
        (true, false) => Some("no Retry"),
        (false, true) => Some("no Catch"),
        (false, false) => None,
    }
}

/// Every state of a machine, those of branches after the state they belong to.
fn states(machine: &Machine) -> Vec<&State> {
    let mut all = Vec::new();
    for state in &machine.states {
        all.push(state);
        if let StateKind::Parallel { branches } = &state.kind {
            all.extend(branches.iter().flat_map(states));
        }
    }
    all
}

/// Which states of a machine, by position, a run that is at `from` may come to.
fn reachable(machine: &Machine, from: usize) -> Vec<bool> {
    let mut reached = vec![false; machine.states.len()];
    let mut open = vec![from];
    while let Some(position) = open.pop() {
        if position < reached.len() && !reached[position] {
            reached[position] = true;
            open.extend(successors(machine, position));
        }
    }
    reached
}

fn successors(machine: &Machine, position: usize) -> Vec<usize> {
    match &machine.states[position].kind {
        StateKind::Task { catch, .. } => {
            let place = |catch: &Catch| machine.states.iter().position(|s| s.name == catch.next);
            catch.iter().filter_map(place).chain([position + 1]).collect()
        }
        StateKind::Parallel { .. } | StateKind::Wait { .. } => vec![position + 1],
        StateKind::Succeed | StateKind::Fail { .. } => Vec::new(),
    }
}

/// The names that occur more than once, each once.
fn repeated(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut repeated = Vec::new();
    for name in names {
        let times = seen.entry(name.clone()).or_insert(0);
        *times += 1;
        if *times == 2 {
            repeated.push(name);
        }
    }
    repeated
}

#[cfg(test)]
mod tests;
