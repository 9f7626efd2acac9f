//! The picture of a stack: as text for a terminal, as Mermaid for a page, as JSON for a program.
//!
//! Promise: all three are written from one graph, so they cannot disagree; the same stack gives
//! the same picture, byte for byte; and any stack can be drawn, a wrong one too: what nothing
//! declares is drawn and marked.
//!
//! It deliberately judges nothing, and leaves out how tasks are tried again and what functions do.

use serde::Serialize;

use crate::stack::{
    ApiTarget, Catch, HttpRoute, Machine, MailLimit, Pipe, PipeSource, PipeTarget, Queue, Route,
    Rule, Stack, StateKind, StreamStart, Subscription, Target, TargetRef, Task, Topic, Workflow,
};

/// Who gets a mail whose address is found when it is made.
const WHOM_IT_IS_ABOUT: &str = "whom it is about";

/// The stack as readable text: one section for each thing that holds or passes something on.
///
/// `->` pushes, `~>` is read by; what stands in parentheses belongs to the name before it.
pub fn text(stack: &Stack) -> String {
    let graph = Graph::of(stack);
    let sections = (0..graph.nodes.len()).filter(|node| graph.starts_section(*node));
    sections.flat_map(|node| graph.section(node)).map(|line| line + "\n").collect()
}

/// The stack as a Mermaid flowchart; dotted arrows are taken only when something went wrong.
pub fn mermaid(stack: &Stack) -> String {
    let graph = Graph::of(stack);
    let nodes = graph.nodes.iter().map(Node::mermaid);
    let edges = graph.drawn().into_iter().map(|edge| graph.mermaid_edge(edge));
    let lines = nodes.chain(edges).map(|line| format!("    {line}\n"));
    std::iter::once("flowchart LR\n".to_string()).chain(lines).collect()
}

/// The stack as a graph in JSON: nodes, and edges with what each promises.
pub fn json(stack: &Stack) -> String {
    let graph = Graph::of(stack);
    let nodes = graph.nodes.iter().map(Node::json).collect();
    let edges = graph.drawn().into_iter().map(|edge| graph.json_edge(edge)).collect();
    serde_json::to_string_pretty(&GraphJson { nodes, edges }).expect("a graph is always JSON")
}

#[derive(Serialize)]
struct GraphJson<'a> {
    nodes: Vec<NodeJson<'a>>,
    edges: Vec<EdgeJson<'a>>,
}

#[derive(Serialize)]
struct NodeJson<'a> {
    id: &'a str,
    kind: &'static str,
    name: &'a str,
}

#[derive(Serialize)]
struct EdgeJson<'a> {
    from: &'a str,
    to: &'a str,
    label: &'a str,
    promise: &'static str,
}

/// What all pictures are drawn from; nodes and edges are known by their position.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

struct Node {
    /// Unique, and an identifier in Mermaid.
    id: String,
    kind: Kind,
    name: String,
    /// What the text says about it besides its edges; empty when nothing.
    note: String,
    is_declared: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Route,
    Table,
    Bus,
    Pipe,
    Rule,
    Workflow,
    Queue,
    Topic,
    Log,
    Api,
    Mail,
}

struct Edge {
    from: usize,
    to: usize,
    /// Empty when there is nothing to say.
    label: String,
    promise: Promise,
    flow: Flow,
}

/// Whether an edge is the way things go, or where they end up when that way is closed.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    Main,
    /// Beside an edge, or beside all edges of its node.
    Side {
        of: Option<usize>,
    },
}

#[derive(Clone, Copy)]
enum Promise {
    DurableBeforeReply,
    InOrder,
    AtLeastOnce,
    Paced,
    Guarded,
    Kept,
}

impl Promise {
    fn words(self) -> &'static str {
        match self {
            Promise::DurableBeforeReply => "durable before the reply",
            Promise::InOrder => "in order, exactly once in effect",
            Promise::AtLeastOnce => "at least once, unordered",
            Promise::Paced => "paced, at least once, idempotent by key",
            Promise::Guarded => "guarded, once in effect",
            Promise::Kept => "kept until redriven",
        }
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Route => "route",
            Kind::Table => "table",
            Kind::Bus => "bus",
            Kind::Pipe => "pipe",
            Kind::Rule => "rule",
            Kind::Workflow => "workflow",
            Kind::Queue => "queue",
            Kind::Topic => "topic",
            Kind::Log => "log",
            Kind::Api => "api",
            Kind::Mail => "mail",
        }
    }

    /// What encloses the label of such a node in Mermaid; it makes the shape.
    fn brackets(self) -> (&'static str, &'static str) {
        match self {
            Kind::Route => ("(", ")"),
            Kind::Table => ("[(", ")]"),
            Kind::Bus => ("{{", "}}"),
            Kind::Pipe => ("[/", "/]"),
            Kind::Rule => ("{", "}"),
            Kind::Workflow => ("([", "])"),
            Kind::Queue => ("[[", "]]"),
            Kind::Topic => ("[/", "\\]"),
            Kind::Log => ("[\\", "\\]"),
            Kind::Api => ("((", "))"),
            Kind::Mail => (">", "]"),
        }
    }
}

/// From a stack to its graph: first what is declared, then what leads where.
impl Graph {
    fn of(stack: &Stack) -> Graph {
        let mut graph = Graph::default();
        graph.declare_all(stack);
        stack.routes.iter().for_each(|route| graph.route(route));
        stack.pipes.iter().for_each(|pipe| graph.pipe(pipe));
        stack.rules.iter().for_each(|rule| graph.rule(rule));
        stack.workflows.iter().for_each(|workflow| graph.workflow(workflow));
        stack.queues.iter().for_each(|queue| graph.queue(queue));
        stack.topics.iter().for_each(|topic| graph.topic(topic));
        graph
    }

    /// In the order in which the text has its sections.
    fn declare_all(&mut self, stack: &Stack) {
        for route in &stack.routes {
            self.declare(Kind::Route, &route.name, request(route));
        }
        for table in &stack.tables {
            self.declare(Kind::Table, table.name.name(), String::new());
        }
        for pipe in &stack.pipes {
            self.declare(Kind::Pipe, &pipe.name, String::new());
        }
        for bus in &stack.buses {
            self.declare(Kind::Bus, bus.name(), String::new());
        }
        for rule in &stack.rules {
            self.declare(Kind::Rule, &rule.name, rule.pattern.0.to_string());
        }
        for workflow in &stack.workflows {
            self.declare(Kind::Workflow, workflow.name.name(), shape(&workflow.machine));
        }
        for queue in &stack.queues {
            let hidden = format!("hidden {}", duration(queue.visibility_timeout_ms));
            self.declare(Kind::Queue, queue.name.name(), hidden);
        }
        for topic in &stack.topics {
            self.declare(Kind::Topic, topic.name.name(), String::new());
        }
        for log in &stack.logs {
            let kept = format!("kept {}", duration(log.retention_ms));
            self.declare(Kind::Log, log.name.name(), kept);
        }
        for api in &stack.apis {
            self.declare(Kind::Api, api.name(), String::new());
        }
    }

    fn route(&mut self, route: &Route) {
        let from = self.node(Kind::Route, &route.name);
        let to = self.node(Kind::Table, route.table.name());
        self.main(from, to, "", Promise::DurableBeforeReply);
    }

    fn pipe(&mut self, pipe: &Pipe) {
        let node = self.node(Kind::Pipe, &pipe.name);
        let promise = match &pipe.source {
            PipeSource::Stream { .. } => Promise::InOrder,
            PipeSource::Queue(_) => Promise::AtLeastOnce,
        };
        let (source, label) = match &pipe.source {
            PipeSource::Stream { table, batch_size, start, .. } => {
                let label = format!("batches of {batch_size}{}", beginning(*start));
                (self.node(Kind::Table, table.name()), label)
            }
            PipeSource::Queue(queue) => (self.node(Kind::Queue, queue.name()), String::new()),
        };
        self.main(source, node, &label, promise);
        match &pipe.target {
            PipeTarget::Bus { bus, enrichment } => {
                let bus = self.node(Kind::Bus, bus.name());
                self.main(node, bus, &format!("enrichment {}", enrichment.name()), promise);
            }
            PipeTarget::Api(target) => self.api_target(node, target),
        }
        // A queue says it itself.
        if let PipeSource::Stream { dead_letters, .. } = &pipe.source {
            let dead_letters = self.node(Kind::Queue, dead_letters.name());
            self.side(node, None, dead_letters, "dead letters", Promise::Kept);
        }
    }

    fn api_target(&mut self, pipe: usize, target: &ApiTarget) {
        let api = self.node(Kind::Api, target.api.name());
        let table = self.node(Kind::Table, target.table.name());
        let alarm = self.node(Kind::Topic, target.alarm.name());
        let pace = format!("{}/s, burst {}", target.rate_per_second, target.burst);
        self.main(pipe, api, &format!("POST {}, {pace}", target.path), Promise::Paced);
        let outcome = format!("outcome {}", target.outcome.name());
        self.main(pipe, table, &outcome, Promise::Guarded);
        self.side(pipe, None, alarm, "alarm", Promise::AtLeastOnce);
    }

    fn rule(&mut self, rule: &Rule) {
        let bus = self.node(Kind::Bus, rule.bus.name());
        let node = self.node(Kind::Rule, &rule.name);
        self.main(bus, node, "", Promise::AtLeastOnce);
        rule.targets.iter().for_each(|target| self.target(node, target));
    }

    fn target(&mut self, rule: usize, target: &Target) {
        let to = match &target.to {
            TargetRef::Workflow(workflow) => self.node(Kind::Workflow, workflow.name()),
            TargetRef::Queue(queue, _) => self.node(Kind::Queue, queue.name()),
            TargetRef::Topic(topic) => self.node(Kind::Topic, topic.name()),
            TargetRef::Log(log) => self.node(Kind::Log, log.name()),
        };
        let age = duration(target.retry.age_max_s.saturating_mul(1_000));
        let label = format!("retry {} in {age}", target.retry.attempts_max);
        let edge = self.main(rule, to, &label, Promise::AtLeastOnce);
        let dead_letters = self.node(Kind::Queue, target.dead_letters.name());
        self.side(rule, Some(edge), dead_letters, "dead letters", Promise::Kept);
    }

    fn workflow(&mut self, workflow: &Workflow) {
        let node = self.node(Kind::Workflow, workflow.name.name());
        self.machine(node, &workflow.machine);
    }

    fn machine(&mut self, workflow: usize, machine: &Machine) {
        for state in &machine.states {
            match &state.kind {
                StateKind::Task { task, .. } => self.task(workflow, &state.name, task),
                StateKind::Parallel { branches } => {
                    branches.iter().for_each(|branch| self.machine(workflow, branch));
                }
                StateKind::Wait { .. } | StateKind::Succeed | StateKind::Fail { .. } => {}
            }
        }
    }

    fn task(&mut self, workflow: usize, state: &str, task: &Task) {
        match task {
            Task::Transact(transact) => {
                let table = self.node(Kind::Table, transact.table.name());
                self.main(workflow, table, state, Promise::Guarded);
            }
            Task::SendMessage { queue, message: _ } => {
                let queue = self.node(Kind::Queue, queue.name());
                self.main(workflow, queue, state, Promise::AtLeastOnce);
            }
        }
    }

    fn queue(&mut self, queue: &Queue) {
        let from = self.node(Kind::Queue, queue.name.name());
        if let Some(redrive) = &queue.redrive {
            let to = self.node(Kind::Queue, redrive.dead_letters.name());
            let label = format!("after {} receives", redrive.receive_count_max);
            self.side(from, None, to, &label, Promise::Kept);
        }
        if let Some(alarm) = &queue.alarm {
            let to = self.node(Kind::Topic, alarm.name());
            self.side(from, None, to, "alarm", Promise::AtLeastOnce);
        }
    }

    fn topic(&mut self, topic: &Topic) {
        let node = self.node(Kind::Topic, topic.name.name());
        for subscription in &topic.subscriptions {
            let queue = self.node(Kind::Queue, subscription.queue.name());
            self.declare(Kind::Mail, &subscription.email, String::new());
            let mail = self.node(Kind::Mail, &subscription.email);
            self.main(node, queue, "", Promise::AtLeastOnce);
            self.main(queue, mail, &terms(subscription), Promise::AtLeastOnce);
        }
        for notices in &topic.notices {
            let queue = self.node(Kind::Queue, notices.queue.name());
            self.declare(Kind::Mail, WHOM_IT_IS_ABOUT, String::new());
            let mail = self.node(Kind::Mail, WHOM_IT_IS_ABOUT);
            self.main(node, queue, "", Promise::AtLeastOnce);
            let terms = format!("{}, each once", notices.notice.name());
            self.main(queue, mail, &terms, Promise::AtLeastOnce);
        }
    }

    fn declare(&mut self, kind: Kind, name: &str, note: String) {
        if self.find(kind, name).is_none() {
            self.add(kind, name, note, true);
        }
    }

    /// The node of this name, which is added when nothing declares it.
    fn node(&mut self, kind: Kind, name: &str) -> usize {
        self.find(kind, name).unwrap_or_else(|| self.add(kind, name, String::new(), false))
    }

    fn find(&self, kind: Kind, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.kind == kind && node.name == name)
    }

    fn add(&mut self, kind: Kind, name: &str, note: String, is_declared: bool) -> usize {
        let id = self.free_id(kind, name);
        self.nodes.push(Node { id, kind, name: name.into(), note, is_declared });
        self.nodes.len() - 1
    }

    /// Kind and name as an identifier; a number follows when two names look alike as one.
    fn free_id(&self, kind: Kind, name: &str) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        let name: String = name.chars().map(plain).collect();
        let id = format!("{}_{name}", kind.word());
        let is_taken = |id: &str| self.nodes.iter().any(|node| node.id == id);
        if !is_taken(&id) {
            return id;
        }
        let mut numbered = (2..).map(|number| format!("{id}_{number}"));
        numbered.find(|id| !is_taken(id)).expect("there are more numbers than nodes")
    }

    fn main(&mut self, from: usize, to: usize, label: &str, promise: Promise) -> usize {
        self.edges.push(Edge { from, to, label: label.into(), promise, flow: Flow::Main });
        self.edges.len() - 1
    }

    fn side(&mut self, from: usize, of: Option<usize>, to: usize, label: &str, promise: Promise) {
        let flow = Flow::Side { of };
        self.edges.push(Edge { from, to, label: label.into(), promise, flow });
    }

    /// The edges without those that would be drawn twice over each other.
    fn drawn(&self) -> Vec<&Edge> {
        let mut drawn: Vec<&Edge> = Vec::new();
        for edge in &self.edges {
            let is_same = |other: &&Edge| {
                (other.from, other.to, &other.label) == (edge.from, edge.to, &edge.label)
            };
            if !drawn.iter().any(is_same) {
                drawn.push(edge);
            }
        }
        drawn
    }
}

/// The graph as text.
impl Graph {
    /// Pipes, rules and mails stand in the section of what leads to them.
    fn starts_section(&self, node: usize) -> bool {
        match self.nodes[node].kind {
            Kind::Route
            | Kind::Table
            | Kind::Bus
            | Kind::Workflow
            | Kind::Queue
            | Kind::Topic
            | Kind::Log => true,
            Kind::Api => !self.edges.iter().any(|edge| edge.to == node),
            Kind::Pipe | Kind::Rule | Kind::Mail => false,
        }
    }

    fn section(&self, at: usize) -> Vec<String> {
        let node = &self.nodes[at];
        if node.kind == Kind::Route {
            return vec![node.route() + &self.onward(at)];
        }
        let mut lines = vec![self.heading(at)];
        lines.extend(self.main_edges(at).into_iter().flat_map(|edge| self.entry(edge)));
        lines
    }

    fn heading(&self, at: usize) -> String {
        let node = &self.nodes[at];
        if node.kind == Kind::Workflow && !node.note.is_empty() {
            return format!("{}: {}", node.title(), node.note);
        }
        let mut remarks = vec![node.note.clone()];
        remarks.extend(self.sides(at, None));
        node.title() + &parentheses(remarks)
    }

    fn entry(&self, edge: usize) -> Vec<String> {
        let Edge { from, to, label, .. } = &self.edges[edge];
        let target = &self.nodes[*to];
        if self.nodes[*from].kind == Kind::Workflow {
            return vec![format!("  {label} -> {}", target.title())];
        }
        if target.kind == Kind::Pipe {
            let pipe = format!("  ~> {}", self.hop(edge));
            return vec![pipe, format!("   {}", self.onward(*to))];
        }
        if target.kind == Kind::Rule {
            let targets = self.main_edges(*to).into_iter();
            let targets = targets.map(|edge| format!("    -> {}", self.hop(edge)));
            let rule = format!("  {}  {}", target.title(), target.note);
            return std::iter::once(rule).chain(targets).collect();
        }
        vec![format!("  -> {}", self.hop(edge))]
    }

    /// Where an edge leads, with what is to be said about it.
    fn hop(&self, edge: usize) -> String {
        let Edge { from, to, label, .. } = &self.edges[edge];
        let target = &self.nodes[*to];
        let mut remarks = vec![label.clone()];
        remarks.extend(self.sides(*from, Some(edge)));
        if target.kind == Kind::Pipe {
            remarks.extend(self.sides(*to, None));
        }
        target.title() + &parentheses(remarks)
    }

    fn onward(&self, node: usize) -> String {
        let edges = self.main_edges(node).into_iter();
        edges.map(|edge| format!(" -> {}", self.hop(edge))).collect()
    }

    fn main_edges(&self, node: usize) -> Vec<usize> {
        let edges = self.edges.iter().enumerate();
        let main = edges.filter(|(_, edge)| edge.from == node && edge.flow == Flow::Main);
        main.map(|(position, _)| position).collect()
    }

    fn sides(&self, node: usize, of: Option<usize>) -> Vec<String> {
        let edges = self.edges.iter();
        let sides = edges.filter(|edge| edge.from == node && edge.flow == Flow::Side { of });
        sides.map(|edge| format!("{}: {}", edge.label, self.nodes[edge.to].name)).collect()
    }
}

/// The graph as Mermaid and as JSON.
impl Graph {
    fn mermaid_edge(&self, edge: &Edge) -> String {
        let arrow = match edge.flow {
            Flow::Main => "-->",
            Flow::Side { .. } => "-.->",
        };
        let (from, to) = (&self.nodes[edge.from].id, &self.nodes[edge.to].id);
        if edge.label.is_empty() {
            return format!("{from} {arrow} {to}");
        }
        format!("{from} {arrow}|\"{}\"| {to}", escaped(&edge.label))
    }

    fn json_edge<'a>(&'a self, edge: &'a Edge) -> EdgeJson<'a> {
        EdgeJson {
            from: &self.nodes[edge.from].id,
            to: &self.nodes[edge.to].id,
            label: &edge.label,
            promise: edge.promise.words(),
        }
    }
}

impl Node {
    fn title(&self) -> String {
        let mark = if self.is_declared { "" } else { " [not declared]" };
        format!("{} {}{mark}", self.kind.word(), self.name)
    }

    /// A route in the text: its request first, or only its title when it is internal.
    fn route(&self) -> String {
        if self.note.is_empty() {
            return self.title();
        }
        format!("{}  {}", self.note, self.name)
    }

    fn mermaid(&self) -> String {
        let (open, close) = self.kind.brackets();
        let has_request = self.kind == Kind::Route && !self.note.is_empty();
        let title = if has_request { self.note.clone() } else { self.title() };
        format!("{}{open}\"{}\"{close}", self.id, escaped(&title))
    }

    fn json(&self) -> NodeJson<'_> {
        NodeJson { id: &self.id, kind: self.kind.word(), name: &self.name }
    }
}

/// Text inside a quoted Mermaid label: Mermaid's own entities for what would end or format it.
fn escaped(text: &str) -> String {
    let mut label = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' => label.push_str("#quot;"),
            '#' => label.push_str("#35;"),
            '&' => label.push_str("#amp;"),
            '<' => label.push_str("#lt;"),
            '>' => label.push_str("#gt;"),
            '`' => label.push_str("#96;"),
            letter if letter.is_control() => label.push(' '),
            letter => label.push(letter),
        }
    }
    label
}

/// Where a new stream pipe starts, when it is not with all there is.
fn beginning(start: StreamStart) -> &'static str {
    match start {
        StreamStart::Horizon => "",
        StreamStart::Now => ", from now on",
    }
}

/// Remarks after a name; nothing when all are empty.
fn parentheses(mut remarks: Vec<String>) -> String {
    remarks.retain(|remark| !remark.is_empty());
    if remarks.is_empty() { String::new() } else { format!(" ({})", remarks.join(", ")) }
}

/// Method and path of a route; nothing for an internal one.
fn request(route: &Route) -> String {
    route.http.as_ref().map(HttpRoute::to_string).unwrap_or_default()
}

/// The order of a machine's work on one line, e.g. `Parallel(ReserveStock | EnqueuePayment)`.
fn shape(machine: &Machine) -> String {
    let (mut text, mut joint) = (String::new(), "");
    for state in &machine.states {
        let step = match &state.kind {
            StateKind::Task { catch, .. } => state.name.clone() + &detour(machine, catch),
            StateKind::Parallel { branches } => {
                let branches: Vec<String> = branches.iter().map(shape).collect();
                format!("Parallel({})", branches.join(" | "))
            }
            StateKind::Wait { duration_ms } => {
                format!("{} ({})", state.name, duration(*duration_ms))
            }
            // What follows an end is only come to by a detour.
            StateKind::Succeed | StateKind::Fail { .. } => {
                joint = if text.is_empty() { "" } else { "; " };
                continue;
            }
        };
        text.push_str(joint);
        text.push_str(&step);
        joint = ", then ";
    }
    text
}

/// Where a task goes on when it fails, unless that only ends the machine.
fn detour(machine: &Machine, catch: &[Catch]) -> String {
    let work = |name: &&str| {
        machine.states.iter().any(|state| state.name == *name && is_work(&state.kind))
    };
    let names: Vec<&str> = catch.iter().map(|catch| catch.next.as_str()).filter(work).collect();
    if names.is_empty() { String::new() } else { format!(" (else {})", names.join(" or ")) }
}

fn is_work(kind: &StateKind) -> bool {
    match kind {
        StateKind::Task { .. } | StateKind::Parallel { .. } | StateKind::Wait { .. } => true,
        StateKind::Succeed | StateKind::Fail { .. } => false,
    }
}

/// Who writes the mails of a subscription, and how often.
fn terms(subscription: &Subscription) -> String {
    let mail = subscription.mail.name();
    match &subscription.limit {
        MailLimit::OncePerSubject { subject: _, window_ms } => {
            format!("{mail}, at most one a subject in {}", duration(*window_ms))
        }
        MailLimit::Digest { window_ms } => {
            format!("{mail}, the first at once, then a digest every {}", duration(*window_ms))
        }
    }
}

/// A time in the largest unit that gives a whole number; a single day reads as 24 h.
fn duration(ms: u64) -> String {
    const UNITS: [(u64, u64, &str); 4] =
        [(86_400_000, 2, "d"), (3_600_000, 1, "h"), (60_000, 1, "min"), (1_000, 1, "s")];
    let unit =
        UNITS.iter().find(|(unit, least, _)| ms.is_multiple_of(*unit) && ms / unit >= *least);
    unit.map_or_else(|| format!("{ms} ms"), |(unit, _, word)| format!("{} {word}", ms / unit))
}

#[cfg(test)]
mod tests;
