//! A quiet world for unit tests of the engine: a disk that is durable at once, a clock that is
//! told, nobody outside. It deliberately is not hostile; that world is [`crate::sim`].

use wims_stack::table::{Action, Condition, Write};
use wims_stack::{
    BusRef, Doc, Field, FunctionRef, Pattern, Pipe, PipeSource, PipeTarget, Queue, QueueRef, Route,
    Rule, Stack, Table, TableRef, Target, TargetRef, TargetRetry, Tree,
};

use crate::engine::{Engine, EngineOptions};
use crate::functions::{Function, Functions, PutEvent, Refusal, RouteInput, Routed, StreamRecord};
use crate::io::{Input, MailJob, Now, Output, Ticket};
use crate::messages::Message;
use crate::recovery::NoSegments;
use crate::trace::TraceId;

/// A table `T`; each new item of it is an event `new` that the rule `r` hands to a target. Queues
/// are `dead`, for dead letters, and `noted`.
pub fn stack(to: TargetRef) -> Stack {
    let (table, bus, dead_letters) = (TableRef::new("T"), BusRef::new("b"), QueueRef::new("dead"));
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
        method: "POST".into(),
        path: "/".into(),
        function: FunctionRef::new("put"),
        table: table.clone(),
    });
    stack.pipes.push(Pipe {
        name: "p".into(),
        source: PipeSource::Stream { table, batch_size: 10, dead_letters: dead_letters.clone() },
        target: PipeTarget::Bus { bus: bus.clone(), enrichment: FunctionRef::new("tell") },
    });
    stack.rules.push(Rule {
        name: "r".into(),
        bus,
        pattern: Pattern(serde_json::json!({"detail-type": ["new"]})),
        targets: vec![Target { to, retry: TargetRetry::default(), dead_letters }],
    });
    stack.queues.extend(["dead", "noted"].map(|name| Queue {
        name: QueueRef::new(name),
        visibility_timeout_ms: 30_000,
        redrive: None,
        alarm: None,
    }));
    stack
}

/// The functions of [`stack`].
pub fn functions() -> Functions {
    Functions::default().with("put", Function::Route(put)).with("tell", Function::Enrich(tell))
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
    /// Mails that were handed out.
    pub mails: Vec<MailJob>,
    now: Now,
    inputs: Vec<Input>,
}

impl Quiet {
    /// Starts an engine and lets it prepare its segments.
    pub fn start(stack: &Stack, functions: &Functions) -> Quiet {
        Quiet::start_with(stack, functions, EngineOptions::default())
    }

    /// Starts an engine that is set up in another way.
    pub fn start_with(stack: &Stack, functions: &Functions, options: EngineOptions) -> Quiet {
        let now = Now { wall_ms: 1_700_000_000_000, mono_us: 0 };
        let started = Engine::start(stack, functions, &mut NoSegments, options, now);
        let (engine, _) = started.expect("the stack can run");
        let mut quiet = Quiet { engine, mails: Vec::new(), now, inputs: Vec::new() };
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
        self.inputs.push(Input::Call { ticket, route: "put", arguments, history: None, trace });
    }

    /// Lets time pass, a step each millisecond.
    pub fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            let mut outputs = Vec::new();
            self.now = Now { mono_us: self.now.mono_us + 1_000, ..self.now };
            self.engine.step(self.now, &mut self.inputs, &mut outputs);
            outputs.into_iter().for_each(|output| self.carry_out(output));
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

    /// The disk is there, mails are kept; nobody else is outside.
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Write(frame) => self.inputs.push(Input::Written { buffer: frame.bytes }),
            Output::Prepare { segment } => {
                self.inputs.push(Input::Prepared { segment, success: true });
            }
            Output::Mail(mail) => self.mails.push(mail),
            Output::Reply(..) | Output::Remove { .. } | Output::Call(_) | Output::History(_) => {}
        }
    }
}
