//! The workload: clients that place orders, ship, look, receive stock and send dead letters back.
//!
//! Promise: everything asked is told to the auditor as it was asked, and everything answered as
//! it was answered. Several orders of one customer may be asked in the same instant; some are
//! larger than the stock, some than is allowed. In half of the worlds every other request tells a
//! trace. It deliberately judges nothing.

use std::collections::BTreeMap;

use fastrand::Rng;
use wims_runtime::io::{Answer, Input, Query, Ticket};
use wims_runtime::sim::SimHistory;
use wims_runtime::sim::world::SECOND_US;
use wims_runtime::trace::TraceId;
use wims_stack::{Doc, Field};

use super::keys::KeyedOrders;
use super::notices::contact_of;
use super::{Fact, Request, WORKLOAD};
use crate::domain::{DEFAULT_SKU, ORDER_QUANTITY_MAX, TABLE};

/// Customers who order.
const CUSTOMERS: u32 = 4;
/// Orders in one instant, at most.
const BURST_MAX: u64 = 5;
/// Things done after the last order was placed.
const AFTERWARDS: u32 = 25;
/// Requests without an answer that clients keep open, at most.
const OPEN_MAX: usize = 64;

/// How far the clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The item is to be described.
    Item,
    /// Its first stock is to be received.
    Stock,
    /// Orders are placed.
    Orders,
    /// All orders were placed; some things are still done.
    Afterwards(u32),
    /// Nothing is done any more.
    Done,
}

/// The clients; see the module.
pub struct Workload {
    rng: Rng,
    stage: Stage,
    /// Stock may run out: the item begins empty, and receipts are small.
    is_scarce: bool,
    /// Every other request tells a trace.
    is_traced: bool,
    wanted: u64,
    placed: u64,
    due_us: u64,
    open: BTreeMap<u64, Request>,
    slots: u64,
    /// Orders that were seen READY.
    ready: Vec<String>,
    known: Vec<String>,
    /// To be asked at once.
    errands: Vec<Request>,
    keyed: KeyedOrders,
    /// Customers have addresses, some of them.
    pub has_addresses: bool,
}

impl Workload {
    /// Clients who will place so many orders.
    pub fn new(seed: u64, orders: u64) -> Workload {
        let mut rng = Rng::with_seed(seed);
        Workload {
            is_scarce: rng.u8(0..5) < 3,
            is_traced: seed & 1 == 0,
            rng,
            stage: Stage::Item,
            wanted: orders,
            placed: 0,
            due_us: 0,
            open: BTreeMap::new(),
            slots: 0,
            ready: Vec::new(),
            known: Vec::new(),
            errands: Vec::new(),
            keyed: KeyedOrders::new(seed),
            has_addresses: false,
        }
    }

    /// Whether nothing more will be done.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Lets clients ship these orders.
    pub fn ship(&mut self, orders: Vec<String>) {
        self.errands.extend(orders.into_iter().map(|order_id| Request::Ship { order_id }));
    }

    /// Lets an operator send all dead payments back.
    pub fn redrive(&mut self) {
        self.errands.push(Request::Redrive);
    }

    /// When something is next asked.
    pub fn due_us(&self) -> Option<u64> {
        if !self.errands.is_empty() {
            return Some(0);
        }
        (self.stage != Stage::Done && self.open.len() < OPEN_MAX).then_some(self.due_us)
    }

    /// Asks what is due.
    pub fn ask(
        &mut self,
        now_us: u64,
        history: &SimHistory,
        inputs: &mut Vec<Input>,
        facts: &mut Vec<Fact>,
    ) {
        if self.due_us().is_none_or(|due_us| now_us < due_us) {
            return;
        }
        let mut requests = std::mem::take(&mut self.errands);
        if requests.is_empty() {
            requests = self.next_requests();
            if matches!(self.stage, Stage::Orders | Stage::Afterwards(_)) {
                requests.extend(self.keyed.ask().into_iter().map(Request::Keyed));
            }
            self.due_us = now_us + self.pause_us();
        }
        for request in requests {
            self.slots += 1;
            let ticket = Ticket { inbox: WORKLOAD, slot: self.slots };
            inputs.push(self.input(ticket, &request, history));
            facts.push(Fact::Asked(request.clone()));
            self.open.insert(self.slots, request);
        }
    }

    /// Mostly moments, now and then many seconds.
    fn pause_us(&mut self) -> u64 {
        let begins = matches!(self.stage, Stage::Item | Stage::Stock);
        if begins || self.rng.u8(0..10) < 7 {
            self.rng.u64(1_000..=300_000)
        } else {
            self.rng.u64(SECOND_US..=15 * SECOND_US)
        }
    }

    fn next_requests(&mut self) -> Vec<Request> {
        match self.stage {
            Stage::Item => return vec![Request::Describe],
            Stage::Stock => return vec![Request::Receive { quantity: self.rng.i64(20..=300) }],
            Stage::Orders if self.placed >= self.wanted => {
                self.stage = Stage::Afterwards(AFTERWARDS);
            }
            Stage::Afterwards(0) => {
                self.stage = Stage::Done;
                return Vec::new();
            }
            Stage::Afterwards(left) => self.stage = Stage::Afterwards(left - 1),
            Stage::Orders | Stage::Done => {}
        }
        let first = if self.stage == Stage::Orders { 0 } else { 60 };
        // Where stock is scarce, little comes often: orders wait, and are served some at a time.
        let (receives_from, most) = if self.is_scarce { (48, 40) } else { (60, 5_000) };
        match self.rng.u8(first..100) {
            drawn if drawn < receives_from => self.orders(),
            0..=65 => vec![Request::Receive { quantity: self.rng.i64(1..=most) }],
            66..=83 => match self.ready.pop() {
                Some(order_id) => vec![Request::Ship { order_id }],
                None => vec![Request::Look],
            },
            84..=88 => self.ship_twice(),
            89..=95 => vec![Request::Look],
            _ => vec![Request::Redrive],
        }
    }

    /// Some order, in whatever state, and the same again.
    fn ship_twice(&mut self) -> Vec<Request> {
        if self.known.is_empty() {
            return Vec::new();
        }
        let order_id = self.known[self.rng.usize(0..self.known.len())].clone();
        vec![Request::Ship { order_id: order_id.clone() }, Request::Ship { order_id }]
    }

    fn orders(&mut self) -> Vec<Request> {
        let burst = if self.rng.u8(0..4) == 0 { self.rng.u64(2..=BURST_MAX) } else { 1 };
        let customer = self.rng.u32(1..=CUSTOMERS).to_string();
        let most = if self.is_scarce { 15 } else { 100 };
        let quantity = |rng: &mut Rng| match rng.u8(0..50) {
            0 => ORDER_QUANTITY_MAX + 1,
            _ => rng.i64(1..=most),
        };
        (0..burst)
            .map(|_| Request::Order {
                customer: customer.clone(),
                quantity: quantity(&mut self.rng),
            })
            .collect()
    }

    fn input(&mut self, ticket: Ticket, request: &Request, history: &SimHistory) -> Input {
        let is_traced = self.is_traced && self.slots & 1 == 0;
        let trace = TraceId::new(u128::from(self.slots)).filter(|_| is_traced);
        let call = |route, arguments| {
            let (history, key) = (None, None);
            Input::Call { ticket, route, arguments, history, trace, key }
        };
        let (product, model) = (Field::Str(DEFAULT_SKU.product), Field::Str(DEFAULT_SKU.model));
        match request {
            Request::Order { customer, quantity } => {
                let contact = contact_of(customer).filter(|_| self.has_addresses);
                let contact = contact.as_ref().map(|contact| Field::View(contact.view()));
                let customer = ("customerId", Field::Str(customer));
                let arguments = Doc::object(&[customer, ("quantity", Field::Int(*quantity))]);
                call("create-order", arguments.with(&[("contact", contact)]))
            }
            Request::Keyed(order) => order.input(ticket, trace),
            Request::Receive { quantity } => {
                let quantity = ("quantity", Field::Int(*quantity));
                let arguments = Doc::object(&[("model", model), ("product", product), quantity]);
                call("receive-stock", arguments)
            }
            Request::Describe if self.is_scarce => {
                let arguments = Doc::object(&[
                    ("model", model),
                    ("product", product),
                    ("productName", Field::Str("MacGuffin")),
                    ("reorderPoint", Field::Int(40)),
                    ("unitPrice", Field::Int(2_500)),
                ]);
                call("put-item", arguments)
            }
            Request::Describe => call("seed-inventory", Doc::object(&[])),
            Request::Ship { order_id } => {
                let arguments = Doc::object(&[("orderId", Field::Str(order_id))]);
                let closed = history.find(TABLE, "orderId", order_id);
                let (route, key) = ("ship-order", None);
                let history = closed.map(|item| item.doc.clone());
                Input::Call { ticket, route, arguments, history, trace, key }
            }
            Request::Look => Input::Query { ticket, query: self.look() },
            Request::Redrive => {
                let dry_run = self.stage != Stage::Done && self.rng.u8(0..4) == 0;
                let queue = "payments-dlq".to_owned();
                Input::Query { ticket, query: Query::Redrive { queue, limit: 1_000, dry_run } }
            }
        }
    }

    fn look(&mut self) -> Query {
        let table = TABLE;
        let list = |attribute, value: String, limit| Query::List {
            table,
            attribute,
            value,
            before: u64::MAX,
            limit,
        };
        match self.rng.u8(0..10) {
            0..=4 => list("status", "READY".into(), 20),
            5 => list("customerId", self.rng.u32(1..=CUSTOMERS).to_string(), 5),
            6 => list("catalog", "items".into(), 5),
            7 => {
                let at = self.rng.usize(0..=self.known.len());
                let value = self.known.get(at).cloned().unwrap_or_default();
                Query::Find { table, attribute: "orderId", value }
            }
            8 => Query::Queues,
            _ => Query::Status,
        }
    }

    /// Takes an answer; what the client knows now.
    pub fn answered(&mut self, slot: u64, answer: Answer) -> Option<Fact> {
        let request = self.open.remove(&slot)?;
        match answer {
            Answer::Done(reply) => {
                self.note_done(&request, &reply);
                Some(Fact::Done(request, reply))
            }
            Answer::Repeated(reply) => Some(Fact::Repeated(request, reply)),
            Answer::Refused(refusal) => Some(Fact::Refused(request, Some(refusal.kind))),
            Answer::Full { .. } => Some(Fact::Refused(request, None)),
            Answer::Item(item) => Some(Fact::Read(item.into_iter().map(|item| item.0).collect())),
            Answer::Items(items) => {
                let items: Vec<Doc> = items.into_iter().map(|item| item.0).collect();
                let ready = items.iter().filter(|item| item.str("status") == Some("READY"));
                self.ready =
                    ready.filter_map(|item| item.str("orderId").map(str::to_owned)).collect();
                Some(Fact::Read(items))
            }
            Answer::Queues(_)
            | Answer::Messages(_)
            | Answer::Turn(_)
            | Answer::Place(_)
            | Answer::Stuck(_)
            | Answer::Moved(_)
            | Answer::Leftovers(_)
            | Answer::Dropped(_)
            | Answer::Durable(_)
            | Answer::Status(_) => None,
        }
    }

    fn note_done(&mut self, request: &Request, reply: &Doc) {
        match request {
            Request::Describe if self.stage == Stage::Item => {
                self.stage = if self.is_scarce { Stage::Stock } else { Stage::Orders };
            }
            Request::Receive { .. } if self.stage == Stage::Stock => self.stage = Stage::Orders,
            Request::Order { .. } => {
                self.placed += 1;
                self.known.extend(reply.str("orderId").map(str::to_owned));
            }
            Request::Keyed(_)
            | Request::Receive { .. }
            | Request::Describe
            | Request::Ship { .. }
            | Request::Look
            | Request::Redrive => {}
        }
    }

    /// The process died: what was asked gets no answer; some of it may have been done.
    pub fn forget(&mut self) {
        let orders = self.open.values().filter(|request| matches!(request, Request::Order { .. }));
        self.placed += orders.count() as u64;
        self.open.clear();
        self.ready.clear();
    }
}
