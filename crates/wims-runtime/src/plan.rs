//! The plan: a stack with every reference resolved, ready to run.
//!
//! Promise: what a plan does is what the stack says; a stack that refers to something missing
//! gives no plan but all its errors. It deliberately holds no state.

use std::collections::HashMap;

use wims_stack::table::Condition;
use wims_stack::{
    ApiTarget, Becomes, CompiledPattern, FunctionRef, Machine, Notices, PipeSource, PipeTarget,
    QueueRef, Retry, RuleIndex, Stack, StateKind, StreamStart, Subscription, TargetRef, Task,
    Template, TopicRef,
};

use crate::functions::{
    EnrichFn, Function, Functions, MailFn, NoticeFn, NoticedFn, OutcomeFn, PrepareFn, RouteFn,
    TransactFn,
};

/// A stack that cannot run, with all reasons.
#[derive(Debug, thiserror::Error)]
#[error("the stack cannot run: {}", .0.join("; "))]
pub struct PlanError(pub Vec<String>);

/// A stack ready to run; see the module.
pub struct Plan {
    /// Routes by name.
    pub routes: HashMap<String, RoutePlan>,
    /// Stream pipes in order of declaration.
    pub streams: Vec<StreamPlan>,
    /// API pipes in order of declaration.
    pub apis: Vec<ApiPlan>,
    /// Which rules an event matches.
    pub index: RuleIndex,
    /// Rules in order of the index.
    pub rules: Vec<RulePlan>,
    /// Workflows.
    pub workflows: Vec<WorkflowPlan>,
    /// Topics.
    pub topics: Vec<TopicPlan>,
    /// Queues by number.
    pub queues: HashMap<u16, QueuePlan>,
    /// Longest retention of a log.
    pub log_retention_ms: u64,
}

impl Plan {
    /// A plan that does nothing.
    pub fn empty() -> Plan {
        Plan {
            routes: HashMap::new(),
            streams: Vec::new(),
            apis: Vec::new(),
            index: RuleIndex::new(Vec::new()),
            rules: Vec::new(),
            workflows: Vec::new(),
            topics: Vec::new(),
            queues: HashMap::new(),
            log_retention_ms: 0,
        }
    }

    /// The notices whose mails are in this queue.
    pub fn notices_of(&self, queue: u16) -> Option<&NoticesPlan> {
        let mut notices = self.topics.iter().flat_map(|topic| &topic.notices);
        notices.find(|notices| notices.queue == queue)
    }
}

/// A route.
pub struct RoutePlan {
    /// Its function.
    pub function: RouteFn,
    /// Number of its table.
    pub table: u16,
}

/// A pipe from a stream to a bus.
pub struct StreamPlan {
    /// Its number as a consumer.
    pub number: u16,
    /// Number of the table.
    pub table: u16,
    /// The most records a batch has.
    pub batch_size: usize,
    /// Where it starts when it is new.
    pub start: StreamStart,
    /// Makes the events.
    pub enrich: EnrichFn,
    /// Number of the bus.
    pub bus: u16,
    /// Number of the queue for poison records.
    pub dead_letters: u16,
}

/// A pipe from a queue to an external API.
pub struct ApiPlan {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Number of the queue.
    pub queue: u16,
    /// Number of the table.
    pub table: u16,
    /// Hides a message while its call is under way.
    pub visibility_timeout_ms: u64,
    /// Decides what a message needs.
    pub prepare: PrepareFn,
    /// Turns an outcome into writes.
    pub outcome: OutcomeFn,
    /// As declared.
    pub target: ApiTarget,
    /// Number of the queue for messages that cannot be delivered, by the redrive of its own.
    pub dead_letters: u16,
    /// Attempts after which a message cannot be delivered, by the same redrive.
    pub attempts_max: u32,
    /// Index of the topic that is told of trouble.
    pub alarm: usize,
}

/// A rule.
pub struct RulePlan {
    /// Its name.
    pub name: String,
    /// Number of the bus.
    pub bus: u16,
    /// Who gets the event.
    pub targets: Vec<TargetPlan>,
}

/// A target of a rule.
pub struct TargetPlan {
    /// Its kind and name, e.g. `workflow/w`.
    pub name: String,
    /// Who gets the event.
    pub to: TargetKind,
    /// Number of the queue for events that cannot be delivered.
    pub dead_letters: u16,
}

/// Who gets an event.
pub enum TargetKind {
    /// Index of a workflow.
    Workflow(usize),
    /// Number of a queue and the message's template.
    Queue(u16, Template),
    /// Index of a topic.
    Topic(usize),
    /// Read from the journal; nothing to do when the event arises.
    Log,
}

/// A workflow.
pub struct WorkflowPlan {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Its states.
    pub machine: MachinePlan,
}

/// States that follow each other.
pub struct MachinePlan {
    /// Names of the states, in their order: what waits is known by them.
    pub names: Vec<String>,
    /// The states.
    pub states: Vec<StatePlan>,
}

/// One state.
pub enum StatePlan {
    /// A task.
    Task {
        /// The work.
        task: Box<TaskPlan>,
        /// As declared.
        retry: Vec<Retry>,
        /// Error names and the state to go on at.
        catch: Vec<(Vec<String>, usize)>,
    },
    /// Branches.
    Parallel(Vec<MachinePlan>),
    /// Goes on after so many milliseconds.
    Wait(u64),
    /// Ends well.
    Succeed,
    /// Ends with this error.
    Fail(String),
}

/// The work of a task.
pub enum TaskPlan {
    /// A guarded transaction.
    Transact {
        /// Number of the table.
        table: u16,
        /// Key of the guarded item.
        pk: Template,
        /// Key of the guarded item.
        sk: Template,
        /// What must hold.
        guard: Condition,
        /// Makes the writes.
        function: TransactFn,
        /// What the item becomes.
        becomes: Becomes,
    },
    /// Sends a message.
    Send {
        /// Number of the queue.
        queue: u16,
        /// The message.
        message: Template,
    },
}

/// A topic.
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// Who gets what is published.
    pub subscriptions: Vec<SubscriptionPlan>,
    /// What of it is mailed to whom it is about.
    pub notices: Vec<NoticesPlan>,
}

/// A subscription.
pub struct SubscriptionPlan {
    /// Number of the queue of mails not sent yet.
    pub queue: u16,
    /// Writes subject and text.
    pub mail: MailFn,
    /// As declared.
    pub subscription: Subscription,
}

/// Mails to whom events are about.
pub struct NoticesPlan {
    /// Number of the queue of mails not sent yet.
    pub queue: u16,
    /// Number of the table with the addresses.
    pub table: u16,
    /// Finds the address and writes the mail.
    pub notice: NoticeFn,
    /// Makes the writes of one that ended.
    pub outcome: NoticedFn,
}

/// A queue.
pub struct QueuePlan {
    /// Its name.
    pub name: String,
    /// Number of its dead-letter queue and how many receives come first.
    pub redrive: Option<(u16, u32)>,
    /// Index of the topic told when a message arrives.
    pub alarm: Option<usize>,
}

/// What a log shows: the rules that lead to it, and how its events come to be.
#[derive(Clone)]
pub struct LogPlan {
    /// Patterns of the rules that have it as a target, with the number of their bus.
    pub rules: Vec<(u16, CompiledPattern)>,
    /// Stream pipes, whose change events are made again.
    pub streams: Vec<LogStream>,
    /// Number of the first pipe the journal ever knew; events of the others are marked.
    pub first_pipe: Option<u16>,
    /// Names of queues by number, those included that no stack declares.
    pub queues: HashMap<u16, String>,
}

/// A stream pipe, as a log needs it.
#[derive(Clone)]
pub struct LogStream {
    /// Its number as a consumer.
    pub pipe: u16,
    /// Number of the table.
    pub table: u16,
    /// Number of the bus.
    pub bus: u16,
    /// Makes the events.
    pub enrich: EnrichFn,
    /// Prefixes of `pk` that are not streamed.
    pub unstreamed: Vec<String>,
}

/// Names of all resources of a stack that need a number, in order of declaration.
pub fn resource_names(stack: &Stack) -> Vec<String> {
    let tables = stack.tables.iter().map(|table| format!("table/{}", table.name.name()));
    let buses = stack.buses.iter().map(|bus| format!("bus/{}", bus.name()));
    let pipes = stack.pipes.iter().map(|pipe| format!("pipe/{}", pipe.name));
    let queues = stack.queues.iter().map(|queue| format!("queue/{}", queue.name.name()));
    let workflows = stack.workflows.iter().map(|flow| format!("workflow/{}", flow.name.name()));
    tables.chain(buses).chain(pipes).chain(queues).chain(workflows).collect()
}

fn target_name(to: &TargetRef) -> String {
    match to {
        TargetRef::Workflow(workflow) => format!("workflow/{}", workflow.name()),
        TargetRef::Queue(queue, _) => format!("queue/{}", queue.name()),
        TargetRef::Topic(topic) => format!("topic/{}", topic.name()),
        TargetRef::Log(log) => format!("log/{}", log.name()),
    }
}

/// Resolves every reference of `stack`; `number` gives a resource's number by kind and name.
///
/// # Errors
/// Everything that refers to nothing, all at once.
pub fn compile(
    stack: &Stack,
    functions: &Functions,
    number: &dyn Fn(&str) -> Option<u16>,
) -> Result<Plan, PlanError> {
    let mut compiler = Compiler { stack, functions, number, errors: Vec::new() };
    let plan = compiler.plan();
    if compiler.errors.is_empty() { Ok(plan) } else { Err(PlanError(compiler.errors)) }
}

struct Compiler<'a> {
    stack: &'a Stack,
    functions: &'a Functions,
    number: &'a dyn Fn(&str) -> Option<u16>,
    errors: Vec<String>,
}

impl Compiler<'_> {
    fn plan(&mut self) -> Plan {
        let stack = self.stack;
        let topics = stack.topics.iter().map(|topic| TopicPlan {
            name: topic.name.name().into(),
            subscriptions: topic.subscriptions.iter().map(|s| self.subscription(s)).collect(),
            notices: topic.notices.iter().filter_map(|notices| self.notices(notices)).collect(),
        });
        let topics = topics.collect();
        let (rules, index) = self.rules();
        Plan {
            routes: self.routes(),
            streams: self.streams(),
            apis: self.apis(),
            index,
            rules,
            workflows: self.workflows(),
            topics,
            queues: self.queues(),
            log_retention_ms: stack.logs.iter().map(|log| log.retention_ms).max().unwrap_or(0),
        }
    }

    fn missing(&mut self, what: &str) -> u16 {
        self.errors.push(format!("{what} is not declared"));
        u16::MAX
    }

    fn numbered(&mut self, kind: &str, name: &str) -> u16 {
        let full = format!("{kind}/{name}");
        let declared = resource_names(self.stack).contains(&full);
        match (self.number)(&full) {
            Some(number) if declared => number,
            _ => self.missing(&full),
        }
    }

    fn queue(&mut self, queue: &QueueRef) -> u16 {
        self.numbered("queue", queue.name())
    }

    fn topic(&mut self, topic: &TopicRef) -> usize {
        let at = self.stack.topics.iter().position(|declared| declared.name == *topic);
        at.unwrap_or_else(|| usize::from(self.missing(&format!("topic/{}", topic.name()))))
    }

    fn routes(&mut self) -> HashMap<String, RoutePlan> {
        let mut routes = HashMap::new();
        for route in &self.stack.routes {
            let table = self.numbered("table", route.table.name());
            if let Some(Function::Route(function)) = self.functions.get(&route.function) {
                routes.insert(route.name.clone(), RoutePlan { function, table });
            } else {
                self.no_function(&route.function, "route");
            }
        }
        routes
    }

    fn no_function(&mut self, function: &FunctionRef, kind: &str) {
        self.errors.push(format!("{kind} function {} does not exist", function.name()));
    }

    fn streams(&mut self) -> Vec<StreamPlan> {
        let mut streams = Vec::new();
        for pipe in &self.stack.pipes {
            let PipeSource::Stream { table, batch_size, start, dead_letters } = &pipe.source else {
                continue;
            };
            let PipeTarget::Bus { bus, enrichment } = &pipe.target else {
                self.errors.push(format!("pipe/{} leads a stream to no bus", pipe.name));
                continue;
            };
            let Some(Function::Enrich(enrich)) = self.functions.get(enrichment) else {
                self.no_function(enrichment, "enrichment");
                continue;
            };
            streams.push(StreamPlan {
                number: self.numbered("pipe", &pipe.name),
                table: self.numbered("table", table.name()),
                batch_size: (*batch_size).max(1),
                start: *start,
                enrich,
                bus: self.numbered("bus", bus.name()),
                dead_letters: self.queue(dead_letters),
            });
        }
        streams
    }

    fn apis(&mut self) -> Vec<ApiPlan> {
        let mut apis = Vec::new();
        for pipe in &self.stack.pipes {
            let PipeSource::Queue(queue) = &pipe.source else { continue };
            let PipeTarget::Api(target) = &pipe.target else {
                self.errors.push(format!("pipe/{} leads a queue to no API", pipe.name));
                continue;
            };
            let (prepare, outcome) =
                (self.functions.get(&target.prepare), self.functions.get(&target.outcome));
            let (Some(Function::Prepare(prepare)), Some(Function::Outcome(outcome))) =
                (prepare, outcome)
            else {
                self.no_function(&target.prepare, "prepare or outcome");
                continue;
            };
            let declared = self.stack.queues.iter().find(|declared| declared.name == *queue);
            let redrive = declared.and_then(|queue| queue.redrive.as_ref());
            let Some(redrive) = redrive else {
                self.missing(&format!("redrive of queue/{}, which a pipe reads,", queue.name()));
                continue;
            };
            apis.push(ApiPlan {
                number: self.numbered("pipe", &pipe.name),
                name: pipe.name.clone(),
                queue: self.queue(queue),
                table: self.numbered("table", target.table.name()),
                visibility_timeout_ms: declared.map_or(0, |queue| queue.visibility_timeout_ms),
                prepare,
                outcome,
                target: target.clone(),
                dead_letters: self.queue(&redrive.dead_letters),
                attempts_max: redrive.receive_count_max,
                alarm: self.topic(&target.alarm),
            });
        }
        apis
    }

    fn rules(&mut self) -> (Vec<RulePlan>, RuleIndex) {
        let (mut rules, mut patterns) = (Vec::new(), Vec::new());
        for rule in &self.stack.rules {
            let pattern = match rule.pattern.compile() {
                Ok(pattern) => pattern,
                Err(error) => {
                    self.errors.push(format!("rule/{}: {error}", rule.name));
                    continue;
                }
            };
            let bus = self.numbered("bus", rule.bus.name());
            let targets = rule.targets.iter().map(|target| TargetPlan {
                name: target_name(&target.to),
                to: self.target(&target.to),
                dead_letters: self.queue(&target.dead_letters),
            });
            let targets: Vec<TargetPlan> = targets.collect();
            // A log is read from the journal; nothing is done when the event arises.
            if targets.iter().all(|target| matches!(target.to, TargetKind::Log)) {
                continue;
            }
            patterns.push(pattern);
            rules.push(RulePlan { name: rule.name.clone(), bus, targets });
        }
        (rules, RuleIndex::new(patterns))
    }

    fn target(&mut self, to: &TargetRef) -> TargetKind {
        match to {
            TargetRef::Workflow(workflow) => {
                let at = self.stack.workflows.iter().position(|flow| flow.name == *workflow);
                let name = format!("workflow/{}", workflow.name());
                TargetKind::Workflow(at.unwrap_or_else(|| usize::from(self.missing(&name))))
            }
            TargetRef::Queue(queue, message) => {
                TargetKind::Queue(self.queue(queue), message.clone())
            }
            TargetRef::Topic(topic) => TargetKind::Topic(self.topic(topic)),
            TargetRef::Log(log) => {
                if !self.stack.logs.iter().any(|declared| declared.name == *log) {
                    self.missing(&format!("log/{}", log.name()));
                }
                TargetKind::Log
            }
        }
    }

    fn subscription(&mut self, subscription: &Subscription) -> SubscriptionPlan {
        let mail = match self.functions.get(&subscription.mail) {
            Some(Function::Mail(mail)) => mail,
            Some(
                Function::Enrich(_)
                | Function::Route(_)
                | Function::Transact(_)
                | Function::Prepare(_)
                | Function::Outcome(_)
                | Function::Notice(_)
                | Function::Noticed(_),
            )
            | None => {
                self.no_function(&subscription.mail, "mail");
                |_: &[wims_stack::Doc]| crate::functions::MailText {
                    subject: String::new(),
                    text: String::new(),
                    html: None,
                }
            }
        };
        let queue = self.queue(&subscription.queue);
        SubscriptionPlan { queue, mail, subscription: subscription.clone() }
    }

    fn notices(&mut self, notices: &Notices) -> Option<NoticesPlan> {
        let functions = (self.functions.get(&notices.notice), self.functions.get(&notices.outcome));
        let (Some(Function::Notice(notice)), Some(Function::Noticed(outcome))) = functions else {
            self.no_function(&notices.notice, "notice or noticed");
            return None;
        };
        let queue = self.queue(&notices.queue);
        let table = self.numbered("table", notices.table.name());
        Some(NoticesPlan { queue, table, notice, outcome })
    }

    fn queues(&mut self) -> HashMap<u16, QueuePlan> {
        let mut queues = HashMap::new();
        for queue in &self.stack.queues {
            let redrive = queue
                .redrive
                .as_ref()
                .map(|redrive| (self.queue(&redrive.dead_letters), redrive.receive_count_max));
            let alarm = queue.alarm.as_ref().map(|topic| self.topic(topic));
            let name = queue.name.name().to_owned();
            queues.insert(self.queue(&queue.name), QueuePlan { name, redrive, alarm });
        }
        queues
    }

    fn workflows(&mut self) -> Vec<WorkflowPlan> {
        let flows = self.stack.workflows.iter().map(|flow| WorkflowPlan {
            number: self.numbered("workflow", flow.name.name()),
            name: flow.name.name().into(),
            machine: self.machine(&flow.machine),
        });
        flows.collect()
    }

    fn machine(&mut self, machine: &Machine) -> MachinePlan {
        let states = machine.states.iter().map(|state| match &state.kind {
            StateKind::Task { task, retry, catch } => {
                let mut caught = Vec::new();
                for catch in catch {
                    match machine.states.iter().position(|state| state.name == catch.next) {
                        Some(at) => caught.push((catch.errors.clone(), at)),
                        None => {
                            self.missing(&format!("state {}", catch.next));
                        }
                    }
                }
                let task = Box::new(self.task(task));
                StatePlan::Task { task, retry: retry.clone(), catch: caught }
            }
            StateKind::Parallel { branches } => {
                StatePlan::Parallel(branches.iter().map(|branch| self.machine(branch)).collect())
            }
            StateKind::Wait { duration_ms } => StatePlan::Wait(*duration_ms),
            StateKind::Succeed => StatePlan::Succeed,
            StateKind::Fail { error } => StatePlan::Fail(error.clone()),
        });
        let names = machine.states.iter().map(|state| state.name.clone()).collect();
        MachinePlan { names, states: states.collect() }
    }

    fn task(&mut self, task: &Task) -> TaskPlan {
        match task {
            Task::SendMessage { queue, message } => {
                TaskPlan::Send { queue: self.queue(queue), message: message.clone() }
            }
            Task::Transact(transact) => {
                let function = match self.functions.get(&transact.function) {
                    Some(Function::Transact(function)) => function,
                    Some(
                        Function::Enrich(_)
                        | Function::Route(_)
                        | Function::Prepare(_)
                        | Function::Outcome(_)
                        | Function::Mail(_)
                        | Function::Notice(_)
                        | Function::Noticed(_),
                    )
                    | None => {
                        self.no_function(&transact.function, "transact");
                        |_: &crate::functions::TaskInput<'_>| Ok(Vec::new())
                    }
                };
                TaskPlan::Transact {
                    table: self.numbered("table", transact.table.name()),
                    pk: transact.pk.clone(),
                    sk: transact.sk.clone(),
                    guard: transact.guard.clone(),
                    function,
                    becomes: transact.becomes.clone(),
                }
            }
        }
    }
}
