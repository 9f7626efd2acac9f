//! A quiet world for unit tests of the engine: a disk that is durable at once, a clock that is
//! told, nobody outside. A life ends when the test says so, and the next one has the disk. It
//! deliberately is not hostile; that world is [`crate::sim`].

mod full;

use wims_stack::table::{Action, Condition, Write};
use wims_stack::{
    BusRef, Doc, Field, FunctionRef, Pattern, Pipe, PipeSource, PipeTarget, Queue, QueueRef, Route,
    Rule, Stack, StreamStart, Table, TableRef, Target, TargetRef, TargetRetry, Template, Tree,
};

use crate::engine::{Engine, EngineOptions};
use crate::functions::{Function, Functions, PutEvent, Refusal, RouteInput, Routed, StreamRecord};
use crate::io::{
    Answer, ApiCall, CallReply, ClosedItem, Input, MailJob, Now, Output, Query, Ticket,
};
use crate::messages::Message;
use crate::sim::disk::SimDisk;
use crate::trace::TraceId;

/// When the first life begins.
const WALL_BEGAN_MS: u64 = 1_700_000_000_000;
/// The inbox of who asks.
const ASKER: u32 = 1;
/// So many items are put until a sweep has finished, at most.
const PUT_MAX: u64 = 5_000;

/// A table `T`; each new item of it is an event `new` that the rule `r` hands to a target. Queues
/// are `dead`, for dead letters, and `noted`.
pub fn stack(to: TargetRef) -> Stack {
    let (table, bus) = (TableRef::new("T"), BusRef::new("b"));
    let mut stack = Stack::new("quiet");
    stack.tables.push(Table {
        name: table.clone(),
        unstreamed: Vec::new(),
        indexes: Vec::new(),
        closed: Vec::new(),
    });
    stack.buses.push(bus.clone());
    stack.routes.push(Route {
        name: "put".into(),
        http: None,
        function: FunctionRef::new("put"),
        table,
    });
    stack.pipes.push(pipe("p", &bus, StreamStart::Horizon));
    stack.rules.push(rule("r", bus, to));
    stack.queues.extend(["dead", "noted"].map(queue));
    stack
}

/// A stack whose new items are noted, and seen as well when it has the pipe `second`, which starts
/// like this: it tells another bus, and what it tells is sent to the queue `seen`.
pub fn stack_with(second: Option<StreamStart>) -> Stack {
    let to = |queue| TargetRef::Queue(QueueRef::new(queue), Template::path("$.detail.sk"));
    let (mut stack, bus) = (stack(to("noted")), BusRef::new("b2"));
    stack.buses.push(bus.clone());
    stack.pipes.extend(second.map(|start| pipe("second", &bus, start)));
    stack.rules.push(rule("r2", bus, to("seen")));
    stack.queues.push(queue("seen"));
    stack
}

fn rule(name: &str, bus: BusRef, to: TargetRef) -> Rule {
    let (retry, dead_letters) = (TargetRetry::default(), QueueRef::new("dead"));
    Rule {
        name: name.into(),
        bus,
        pattern: Pattern(serde_json::json!({"detail-type": ["new"]})),
        targets: vec![Target { to, retry, dead_letters }],
    }
}

fn pipe(name: &str, bus: &BusRef, start: StreamStart) -> Pipe {
    let (table, dead_letters) = (TableRef::new("T"), QueueRef::new("dead"));
    Pipe {
        name: name.into(),
        source: PipeSource::Stream { table, batch_size: 10, start, dead_letters },
        target: PipeTarget::Bus { bus: bus.clone(), enrichment: FunctionRef::new("tell") },
    }
}

fn queue(name: &str) -> Queue {
    Queue { name: QueueRef::new(name), visibility_timeout_ms: 30_000, redrive: None, alarm: None }
}

/// The functions of [`stack`].
pub fn functions() -> Functions {
    Functions::default().with("put", Function::Route(put)).with("tell", Function::Enrich(tell))
}

/// Numbers as texts.
pub fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// The item with this `sk`, as it is put.
pub fn item(sk: &str) -> Doc {
    let (pk, sk) = (("pk", Field::Str("a")), ("sk", Field::Str(sk)));
    Doc::object(&[pk, sk, ("state", Field::Str("NEW"))])
}

fn put(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let sk = input.arguments.str("sk").unwrap_or("");
    let write = Write {
        pk: "a".into(),
        sk: sk.into(),
        condition: Some(Condition::NotExists),
        action: Action::Put(item(sk)),
    };
    Ok(Routed { writes: vec![write], reply: Doc::text("") })
}

/// Makes an event of each new item.
pub fn tell(records: &[StreamRecord<'_>]) -> Vec<PutEvent> {
    let new = records.iter().enumerate().filter(|(_, images)| images.old.is_none());
    let event = new.map(|(record, images)| PutEvent {
        record,
        source: "t",
        detail_type: "new",
        detail: Tree::Doc(images.new.expect("an item that is new").clone()),
        by_value: false,
    });
    event.collect()
}

/// An engine and its quiet world.
pub struct Quiet {
    /// The engine.
    pub engine: Engine,
    /// The disk.
    pub disk: SimDisk,
    /// No segment can be prepared on it.
    pub disk_is_full: bool,
    /// Mails that were handed out.
    pub mails: Vec<MailJob>,
    /// Calls that were handed out.
    pub calls: Vec<ApiCall>,
    /// Closed items that history got in this life.
    pub history: Vec<ClosedItem>,
    now: Now,
    inputs: Vec<Input>,
    answers: Vec<Answer>,
}

impl Quiet {
    /// Starts an engine on an empty disk and lets it prepare its segments.
    pub fn start(stack: &Stack, functions: &Functions) -> Quiet {
        Quiet::start_with(stack, functions, EngineOptions::default())
    }

    /// Starts an engine that is set up in another way.
    pub fn start_with(stack: &Stack, functions: &Functions, options: EngineOptions) -> Quiet {
        let disk = SimDisk::new(options.segment_bytes, 1, false);
        Quiet::live(disk, options, WALL_BEGAN_MS, stack, functions)
    }

    /// Does so with segments of another size.
    pub fn with_segments_of(segment_bytes: u64, stack: &Stack, functions: &Functions) -> Quiet {
        let options = EngineOptions { segment_bytes, ..EngineOptions::default() };
        Quiet::start_with(stack, functions, options)
    }

    /// The process ends where it is, and another one goes on with this stack.
    pub fn restart(self, stack: &Stack, functions: &Functions) -> Quiet {
        Quiet::live(self.disk, self.engine.options, self.now.wall_ms, stack, functions)
    }

    fn live(
        mut disk: SimDisk,
        options: EngineOptions,
        wall_ms: u64,
        stack: &Stack,
        functions: &Functions,
    ) -> Quiet {
        let now = Now { wall_ms, mono_us: 0 };
        let started = Engine::start(stack, functions, &mut disk, options, now);
        let (engine, _) = started.expect("the stack can run");
        let mut quiet = Quiet {
            engine,
            disk,
            disk_is_full: false,
            mails: Vec::new(),
            history: Vec::new(),
            calls: Vec::new(),
            now,
            inputs: Vec::new(),
            answers: Vec::new(),
        };
        quiet.pass_ms(10);
        quiet
    }

    /// Puts a new item in the next step.
    pub fn put(&mut self, sk: &str) {
        self.put_traced(sk, None);
    }

    /// Puts a new item in the next step, as a request of a trace.
    pub fn put_traced(&mut self, sk: &str, trace: Option<TraceId>) {
        let (ticket, arguments) =
            (Ticket { inbox: 0, slot: 0 }, Doc::object(&[("sk", Field::Str(sk))]));
        let (route, history, key) = ("put", None, None);
        self.inputs.push(Input::Call { ticket, route, arguments, history, trace, key });
    }

    /// Puts new items, one after the other.
    pub fn put_all(&mut self, items: impl IntoIterator<Item = String>) {
        for sk in items {
            self.put(&sk);
            self.pass_ms(2);
        }
        self.pass_ms(10);
    }

    /// Puts items named by numbers from this one on, until so many sweeps have finished in this
    /// life; the next number.
    pub fn put_until_swept(&mut self, first: u64, sweeps: u64) -> u64 {
        let mut next = first;
        while self.engine.sweep.finished < sweeps {
            assert!(next < first + PUT_MAX, "no sweep was finished");
            self.put(&next.to_string());
            self.pass_ms(1);
            next += 1;
        }
        self.pass_ms(50);
        next
    }

    /// The answer to a question.
    pub fn ask(&mut self, query: Query) -> Answer {
        self.answer_to(|ticket| Input::Query { ticket, query })
    }

    /// The answer to putting a new item.
    pub fn ask_to_put(&mut self, sk: &str) -> Answer {
        let arguments = Doc::object(&[("sk", Field::Str(sk))]);
        let (route, history, trace, key) = ("put", None, None, None);
        self.answer_to(|ticket| Input::Call { ticket, route, arguments, history, trace, key })
    }

    /// The answer to a request.
    pub fn answer_to(&mut self, request: impl FnOnce(Ticket) -> Input) -> Answer {
        self.ask_in_the_next_step(request);
        self.pass_ms(10);
        self.answers.pop().expect("it is answered")
    }

    /// Asks; the answer is among [`Quiet::take_answers`] once it is durable.
    pub fn ask_in_the_next_step(&mut self, request: impl FnOnce(Ticket) -> Input) {
        self.inputs.push(request(Ticket { inbox: ASKER, slot: 0 }));
    }

    /// Answers nobody has looked at, in the order they came.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// The API answers a call with this status, in the next step.
    pub fn reply_to(&mut self, call: &ApiCall, status: u16) {
        let reply = CallReply::Answered { status, retry_after_ms: None, body: None };
        self.inputs.push(Input::Called { call: call.call, reply });
    }

    /// Lets time pass, a step each millisecond.
    pub fn pass_ms(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.leap_ms(1));
    }

    /// Lets time pass in one step.
    pub fn leap_ms(&mut self, ms: u64) {
        let mut outputs = Vec::new();
        let Now { wall_ms, mono_us } = self.now;
        self.now = Now { wall_ms: wall_ms + ms, mono_us: mono_us + ms * 1_000 };
        self.engine.step(self.now, &mut self.inputs, &mut outputs);
        outputs.into_iter().for_each(|output| self.carry_out(output));
    }

    /// Disk and history are there, who asks is told, mails and calls are kept; nobody else is outside.
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Write(frame) => {
                self.disk.write(frame).expect("the room is blank");
                self.inputs.push(Input::Written { buffer: self.disk.sync() });
            }
            Output::Prepare { segment } => {
                self.disk.begin_preparing(segment);
                let success = !self.disk_is_full;
                self.disk.finish_preparing(segment, success);
                self.inputs.push(Input::Prepared { segment, success });
            }
            Output::Remove { segment } => self.disk.remove(segment),
            Output::Reply(ticket, answer) if ticket.inbox == ASKER => self.answers.push(answer),
            Output::Mail(mail) => self.mails.push(mail),
            Output::Call(call) => self.calls.push(call),
            Output::History(job) => {
                self.history.extend(job.items);
                self.inputs.push(Input::Historied { seq: job.seq, success: true });
            }
            Output::Reply(..) => {}
        }
    }

    /// The stored item with this `sk`.
    pub fn item(&self, sk: &str) -> &Doc {
        let table = self.engine.state.number("table/T").expect("it is declared");
        &self.engine.state.table(table).get("a", sk).expect("it was put").doc
    }

    /// The messages of a queue, oldest first.
    pub fn messages(&self, queue: &str) -> Vec<&Message> {
        let number = self.engine.state.number(&format!("queue/{queue}"));
        let messages = self.engine.state.queue(number.expect("it is declared"));
        messages.from(0).map(|(_, message)| message).collect()
    }

    /// The messages of a queue that are texts, oldest first.
    pub fn texts(&self, queue: &str) -> Vec<String> {
        let bodies = self.messages(queue).into_iter().map(|message| message.body.view());
        bodies.filter_map(|body| body.as_str().map(str::to_owned)).collect()
    }
}
