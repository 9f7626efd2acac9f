//! `Stack`: the whole system as one plain declaration.
//!
//! Promise: a stack is data. It serialises to JSON and back unchanged, and everything a running
//! system does follows from it and the named functions it refers to. It deliberately contains no
//! closures, no addresses and no secrets: those belong to the machine it runs on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::doc::Doc;
use crate::pattern::Pattern;
use crate::table::{Condition, Table};
use crate::template::Template;

macro_rules! refs {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// A reference by name.
            pub fn new(name: &str) -> $name {
                $name(name.into())
            }

            /// The name.
            pub fn name(&self) -> &str {
                &self.0
            }
        }
    )*};
}

refs! {
    /// Names a table.
    TableRef,
    /// Names an event bus.
    BusRef,
    /// Names a queue.
    QueueRef,
    /// Names a topic.
    TopicRef,
    /// Names a workflow.
    WorkflowRef,
    /// Names a log.
    LogRef,
    /// Names an external HTTP API.
    ApiRef,
    /// Names a function of the business; the one thing a stack refers to that is not data.
    FunctionRef,
}

/// The whole system, declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// Its name.
    pub name: String,
    /// Tables and their change streams.
    pub tables: Vec<Table>,
    /// Event buses.
    pub buses: Vec<BusRef>,
    /// Routes of the HTTP API that write.
    pub routes: Vec<Route>,
    /// Pipes from a stream or a queue to a bus or an API.
    pub pipes: Vec<Pipe>,
    /// Rules on buses.
    pub rules: Vec<Rule>,
    /// Workflows.
    pub workflows: Vec<Workflow>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Topics and who subscribes.
    pub topics: Vec<Topic>,
    /// Logs of events.
    pub logs: Vec<Log>,
    /// External APIs that pipes call.
    pub apis: Vec<ApiRef>,
}

impl Stack {
    /// A stack with nothing in it yet.
    pub fn new(name: &str) -> Stack {
        Stack {
            name: name.into(),
            tables: Vec::new(),
            buses: Vec::new(),
            routes: Vec::new(),
            pipes: Vec::new(),
            rules: Vec::new(),
            workflows: Vec::new(),
            queues: Vec::new(),
            topics: Vec::new(),
            logs: Vec::new(),
            apis: Vec::new(),
        }
    }
}

/// A route that writes to the table, synchronously: the reply says that it is stored. `serve` has
/// its routes built in; a stack may leave some out, and say what they call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Its name, e.g. `create-order`.
    pub name: String,
    /// The request it answers; `None` for an internal route, which nobody can ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpRoute>,
    /// Makes the writes and the reply from the request.
    pub function: FunctionRef,
    /// What it writes to.
    pub table: TableRef,
}

/// The request that a route answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    /// The method.
    pub method: String,
    /// The path, parameters in braces.
    pub path: String,
}

impl fmt::Display for HttpRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// A pipe: a source, an optional enrichment, a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pipe {
    /// Its name, e.g. `CDCStreamPipe`.
    pub name: String,
    /// Where it reads.
    pub source: PipeSource,
    /// Where it delivers.
    pub target: PipeTarget,
}

/// Where a pipe reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PipeSource {
    /// The change stream of a table, in batches of at most this many.
    Stream {
        /// The table.
        table: TableRef,
        /// The most records a batch has.
        batch_size: usize,
        /// Where the pipe starts when it is new; one the journal knows goes on where it was.
        #[serde(default)]
        start: StreamStart,
        /// Where a record goes that cannot be delivered.
        dead_letters: QueueRef,
    },
    /// A queue, one message at a time; its redrive says when and where a message is a dead letter.
    Queue(QueueRef),
}

/// Where a new stream pipe starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamStart {
    /// With the oldest change the journal still has: AWS's `TRIM_HORIZON`.
    #[default]
    Horizon,
    /// With the next change: AWS's `LATEST`.
    Now,
}

/// Where a pipe delivers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PipeTarget {
    /// Events onto a bus; the enrichment gives source, detail type and detail of each.
    Bus {
        /// The bus.
        bus: BusRef,
        /// Makes events from stream records.
        enrichment: FunctionRef,
    },
    /// Paced calls to an external API.
    Api(ApiTarget),
}

/// What stands for a call's key in the path of an [`ApiTarget`].
pub const PATH_KEY: &str = "{key}";

/// Paced calls to an external API, one a message, with their outcome written back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiTarget {
    /// The API.
    pub api: ApiRef,
    /// Path of the call, e.g. `/payments`; in it [`PATH_KEY`] stands for the call's key.
    pub path: String,
    /// A call may be made again under its key whatever became of it, as a refund may: an unknown
    /// outcome is tried again instead of looked up, and 402 is a refusal like any other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
    /// The table its functions read and write.
    pub table: TableRef,
    /// Decides what a message needs: a call, a look-up, patience, nothing.
    pub prepare: FunctionRef,
    /// Turns an outcome into writes.
    pub outcome: FunctionRef,
    /// The declared rate; never exceeded, learned downwards from refusals.
    pub rate_per_second: f64,
    /// Calls that may follow each other at once.
    pub burst: u32,
    /// The most calls under way.
    pub in_flight_max: usize,
    /// A call that takes longer has an unknown outcome.
    pub timeout_ms: u64,
    /// Told when the API's address or credentials are wrong, or its calls have no known outcome.
    pub alarm: TopicRef,
}

/// A rule on a bus: a pattern and its targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The bus it listens to.
    pub bus: BusRef,
    /// Which events it hears.
    pub pattern: Pattern,
    /// Who gets them.
    pub targets: Vec<Target>,
}

impl Rule {
    /// A rule with one target, tried again as is usual.
    pub fn new(
        name: &str,
        bus: &BusRef,
        pattern: Pattern,
        to: TargetRef,
        dead_letters: &QueueRef,
    ) -> Rule {
        let (retry, dead_letters) = (TargetRetry::default(), dead_letters.clone());
        let targets = vec![Target { to, retry, dead_letters }];
        Rule { name: name.into(), bus: bus.clone(), pattern, targets }
    }
}

/// A target of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Who gets the event.
    pub to: TargetRef,
    /// How it is tried again.
    pub retry: TargetRetry,
    /// Where it goes when it cannot be delivered.
    pub dead_letters: QueueRef,
}

/// Who gets an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TargetRef {
    /// Starts an execution.
    Workflow(WorkflowRef),
    /// Sends a message made by the template.
    Queue(QueueRef, Template),
    /// Publishes to the subscriptions.
    Topic(TopicRef),
    /// Can be read in the log.
    Log(LogRef),
}

/// How a target is tried again: EventBridge's policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetRetry {
    /// Tries after the first, at most.
    pub attempts_max: u32,
    /// An event older than this is not tried again.
    pub age_max_s: u64,
}

impl Default for TargetRetry {
    /// 185 attempts within 24 hours.
    fn default() -> TargetRetry {
        TargetRetry { attempts_max: 185, age_max_s: 86_400 }
    }
}

/// A queue, with SQS's promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: QueueRef,
    /// A received message is hidden this long.
    pub visibility_timeout_ms: u64,
    /// Where a message goes that was received too often.
    pub redrive: Option<Redrive>,
    /// Told when a message arrives; for dead-letter queues.
    pub alarm: Option<TopicRef>,
}

/// When a message leaves for the dead-letter queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Redrive {
    /// The dead-letter queue.
    pub dead_letters: QueueRef,
    /// Receives that are allowed; on a pipe to an API only unknown outcomes count.
    pub receive_count_max: u32,
}

/// A topic: broadcasts to its subscriptions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: TopicRef,
    /// Who gets what is published.
    pub subscriptions: Vec<Subscription>,
    /// What of it is mailed to whom it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notices>,
}

/// Mails what is published to one address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// Queue of the mails not sent yet.
    pub queue: QueueRef,
    /// The address.
    pub email: String,
    /// Writes subject and text.
    pub mail: FunctionRef,
    /// How often it is served.
    pub limit: MailLimit,
}

/// Mails each event to whom it is about. The address is in no event: a function finds it in the
/// table when the mail is made, and where it finds none nobody is mailed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notices {
    /// Queue of the mails not sent yet.
    pub queue: QueueRef,
    /// Where addresses are.
    pub table: TableRef,
    /// Finds the address and writes the mail.
    pub notice: FunctionRef,
    /// Makes the writes when a mail was sent, or was given up. They are of items without a stream.
    pub outcome: FunctionRef,
}

/// How often a subscription is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MailLimit {
    /// At most one mail a subject within the time; of what comes meanwhile the newest follows when
    /// it has passed.
    OncePerSubject {
        /// What makes two events the same subject, e.g. `$.detail.sku`.
        subject: Template,
        /// The time.
        window_ms: u64,
    },
    /// The first at once; what comes within the time after a mail follows in one digest.
    Digest {
        /// The time.
        window_ms: u64,
    },
}

/// A log of events: a view of the journal, not a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// Its name.
    pub name: LogRef,
    /// How long events can be read.
    pub retention_ms: u64,
}

/// A workflow, with the promises of a Step Functions Express workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workflow {
    /// Its name.
    pub name: WorkflowRef,
    /// Its states.
    pub machine: Machine,
}

/// States that follow each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The states, the first one first; each goes on to the next unless it says otherwise.
    pub states: Vec<State>,
}

impl Machine {
    /// One task with its Retry and Catch. What fails for good fails the execution by name, and the
    /// event goes to the dead letters, from where it can be sent again.
    pub fn of_task(name: &str, task: Task) -> Machine {
        let failed = format!("{name}Failed");
        let catch = Catch { errors: vec![ALL_ERRORS.into()], next: failed.clone() };
        let (retry, catch) = (vec![Retry::default()], vec![catch]);
        let state = |name: String, kind| State { name, kind };
        let states = vec![
            state(name.to_owned(), StateKind::Task { task, retry, catch }),
            state(format!("{name}Done"), StateKind::Succeed),
            state(failed.clone(), StateKind::Fail { error: failed }),
        ];
        Machine { states }
    }
}

/// One state of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Its name, unique in the workflow.
    pub name: String,
    /// What it does.
    pub kind: StateKind,
}

/// What a state does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "a stack has a handful of states")]
pub enum StateKind {
    /// One step of work.
    Task {
        /// The work.
        task: Task,
        /// Tried again on these errors.
        retry: Vec<Retry>,
        /// Goes on there on these errors.
        catch: Vec<Catch>,
    },
    /// All branches get the input; when one fails the state fails, what others did stays done.
    Parallel {
        /// The branches.
        branches: Vec<Machine>,
    },
    /// Goes on after this long, restarts or not.
    Wait {
        /// How long.
        duration_ms: u64,
    },
    /// Ends the machine well.
    Succeed,
    /// Ends the machine with this error.
    Fail {
        /// The error's name.
        error: String,
    },
}

/// One step of work of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// A transaction on a table, guarded: when the guard does not hold, a recorded no-op.
    Transact(Transact),
    /// Sends a message made by the template.
    SendMessage {
        /// The queue.
        queue: QueueRef,
        /// The message.
        message: Template,
    },
}

/// A guarded transaction: the item the event is about, its guard, the function that makes the
/// writes, and what the guarded item becomes. The runtime holds the function to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transact {
    /// The table.
    pub table: TableRef,
    /// `pk` of the guarded item.
    pub pk: Template,
    /// `sk` of the guarded item.
    pub sk: Template,
    /// What must hold of it.
    pub guard: Condition,
    /// Makes the writes.
    pub function: FunctionRef,
    /// The attribute that every run changes, and what it may become.
    pub becomes: Becomes,
}

/// What an attribute of the guarded item is after the transaction: one of some values, or a number
/// that is lower than before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Becomes {
    /// The attribute.
    pub attribute: String,
    /// One of these values.
    pub values: Vec<Doc>,
    /// Instead of values: each run that writes the item lowers this number, by 1 or more. A run
    /// may then also leave the item alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lower: bool,
}

impl Becomes {
    /// The attribute becomes one of these values.
    pub fn one_of(attribute: &str, values: Vec<Doc>) -> Becomes {
        Becomes { attribute: attribute.into(), values, lower: false }
    }

    /// The number becomes lower, or the item stays as it is.
    pub fn lower(attribute: &str) -> Becomes {
        Becomes { attribute: attribute.into(), values: Vec::new(), lower: true }
    }
}

/// Name of the error of a condition that did not hold.
pub const CONDITION_FAILED: &str = "DynamoDB.ConditionalCheckFailedException";
/// Matches every error.
pub const ALL_ERRORS: &str = "States.ALL";

/// Tries a task again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Error names, or [`ALL_ERRORS`].
    pub errors: Vec<String>,
    /// Wait before the first retry.
    pub interval_ms: u64,
    /// Each further wait is this many times longer.
    pub backoff: u32,
    /// No wait is longer.
    pub interval_max_ms: u64,
    /// Retries, at most.
    pub attempts_max: u32,
}

impl Default for Retry {
    /// Every error, eight times within about three minutes.
    fn default() -> Retry {
        Retry {
            errors: vec![ALL_ERRORS.into()],
            interval_ms: 1_000,
            backoff: 2,
            interval_max_ms: 60_000,
            attempts_max: 8,
        }
    }
}

/// Goes on at another state when a task has failed for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Catch {
    /// Error names, or [`ALL_ERRORS`].
    pub errors: Vec<String>,
    /// The state to go on at, in the same machine.
    pub next: String,
}
