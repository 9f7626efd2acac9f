//! The auditor: knows the invariants of the domain, and nothing of how they are kept.
//!
//! Promise: it believes what clients were told, what is durable, what the payments API charged
//! and what the engine answers when asked after a crash or at rest, and says in a sentence where
//! two of them disagree. It deliberately does nothing that could mend or hide what it finds.

use std::collections::{BTreeMap, BTreeSet};

use wims_runtime::functions::RefusalKind;
use wims_runtime::io::{Answer, ApiCall, Input, MailJob, MailResult};
use wims_runtime::record::Entry;
use wims_runtime::sim::{SimHistory, Verdict};
use wims_stack::Doc;

use super::books::{Books, Low, New, text, violated};
use super::inspection::{Findings, Inspection};
use super::keys::{KeyBook, KeyedOrder};
use super::notices::NoticeBook;
use super::payments::{Outcome, Payments};
use super::{Fact, Request};
use crate::domain::{TABLE, charge_key, lines};

/// Errors of mails that no server takes; the only dead letters events may become.
pub const MAIL_REJECTED: &str = "the mailbox does not exist";

/// How far a run has come when it is looked at as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing went wrong for hours.
    Calm,
    /// Dead payments were sent back, hours ago.
    Redriven,
    /// Everything READY was shipped.
    Shipped,
}

/// Requests of one kind with equal contents.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    asked: u64,
    refused: u64,
    acknowledged: u64,
    found: u64,
}

/// The auditor; see the module.
#[derive(Default)]
pub struct Auditor {
    /// Events may reach the targets of rules twice and out of order.
    redelivers: bool,
    books: Books,
    keys: KeyBook,
    orders: BTreeMap<(String, i64), Tally>,
    receipts: BTreeMap<i64, Tally>,
    acknowledged: BTreeSet<String>,
    /// The key of each order's charge, as first called.
    charge_keys: BTreeMap<(String, i64), String>,
    /// Subjects of mails that a server took, or refused for good.
    mailed: BTreeSet<String>,
    /// Items the team was told of, and the last record that said it was low by then.
    told_low: BTreeMap<String, u64>,
    notices: NoticeBook,
    inspection: Inspection,
}

impl Auditor {
    /// An auditor of a world that may deliver events twice and out of order, or does not. In the
    /// one it allows that an order has a second payment message, which may settle it while the
    /// first one is under way or dead, and that a mail of low stock tells an older state. Nothing
    /// else is allowed more often or in another order there.
    pub fn new(redelivers: bool) -> Auditor {
        Auditor { redelivers, books: Books::new(redelivers), ..Auditor::default() }
    }

    /// Takes note of what a client knows.
    ///
    /// # Errors
    /// When it contradicts what is durable.
    pub fn note(&mut self, fact: Fact) -> Verdict {
        match fact {
            Fact::Asked(request) => {
                if let Some(tally) = self.tally(&request) {
                    tally.asked += 1;
                }
                Ok(())
            }
            Fact::Done(request, reply) => self.note_done(&request, &reply),
            Fact::Repeated(Request::Keyed(order), reply) => self.note_repeated(&order, &reply),
            Fact::Repeated(request, _) => violated(format!("{request:?} is said to be a repeat")),
            Fact::Refused(request, kind) => self.note_refused(&request, kind),
            Fact::Read(items) => match items.iter().find(|item| !self.books.ever_was(item)) {
                Some(item) => violated(format!("an answer shows what was never durable: {item:?}")),
                None => Ok(()),
            },
        }
    }

    /// Takes the records of a frame that is durable now.
    ///
    /// # Errors
    /// When they break an invariant.
    pub fn durable(&mut self, entries: &[Entry], payments: &Payments) -> Verdict {
        self.books.begin_frame();
        for entry in entries {
            self.books.enter(entry, payments)?;
            self.keys.enter(entry)?;
        }
        self.books.balance()?;
        self.keys.end_frame()?;
        for new in self.books.take_new() {
            let tally = match new {
                New::Order(customer, quantity) => {
                    self.orders.entry((customer, quantity)).or_default()
                }
                New::Receipt(quantity) => self.receipts.entry(quantity).or_default(),
            };
            tally.found += 1;
            tally.check()?;
        }
        Ok(())
    }

    /// Takes a call of the payments API at the moment it is made.
    ///
    /// # Errors
    /// When it must not be made.
    pub fn called(&mut self, call: &ApiCall, payments: &Payments) -> Verdict {
        let order_id = match &call.body {
            Some(body) => text(body, "orderId"),
            None => call.key.rsplit_once('-').map_or("", |(order_id, _)| order_id),
        };
        let Some(order) = self.books.order(order_id) else {
            return violated(format!("a payment is called for an order not on disk: {call:?}"));
        };
        let may_be_called = |order: &Doc| is_payable(order, call.body.is_some());
        // A call follows from the last frame. Another message of the order may have moved it since.
        let moments = if self.redelivers { self.books.moments(order_id) } else { &[] };
        if !may_be_called(order) && !moments.iter().any(may_be_called) {
            let (stock, payment) = (text(order, "inventoryStatus"), text(order, "paymentStatus"));
            return violated(format!("order {order_id} is called while {stock} and {payment}"));
        }
        let differs = |body: &Doc| {
            let names = ["amount", "currency", "customerId", "quantity"];
            names.into_iter().find(|name| body.part(name) != order.part(name))
        };
        if let Some(name) = call.body.as_ref().and_then(differs) {
            return violated(format!("{name} of the call is not the order's: {call:?}"));
        }
        let charge = (order_id.to_owned(), order.int("charge").unwrap_or(1));
        let key = self.charge_keys.entry(charge).or_insert_with(|| call.key.clone());
        if *key != call.key {
            return violated(format!("order {order_id} is called as {} after {key}", call.key));
        }
        check_charges(order_id, payments.charges(order_id))
    }

    /// Takes note of a mail and of what became of it.
    pub fn mailed(&mut self, mail: &MailJob, result: &MailResult) {
        match result {
            MailResult::Sent | MailResult::Rejected(_) => {
                self.mailed.insert(mail.subject.clone());
                let low = self.books.low().filter(|(sku, _)| tells_low(mail, sku));
                self.told_low.extend(low.map(|(sku, low)| (sku.to_owned(), low.seq)));
            }
            MailResult::Retry(_) => {}
        }
    }

    /// Takes a mail to a customer, if it is one.
    ///
    /// # Errors
    /// When it must not be sent.
    pub fn noticed(&mut self, mail: &MailJob, result: &MailResult) -> Verdict {
        self.notices.mailed(mail, result, &self.books)
    }

    /// The process died: no question gets an answer any more.
    pub fn forget_questions(&mut self) {
        self.notices.forget_life();
        self.inspection = Inspection::default();
    }

    /// Questions whose answers must agree with the books as they are now.
    pub fn questions(&mut self, inputs: &mut Vec<Input>) {
        self.inspection.ask(&self.books, &self.acknowledged, inputs);
    }

    /// Questions about queues besides.
    pub fn questions_about_queues(&mut self, inputs: &mut Vec<Input>) {
        self.inspection.ask_about_queues(inputs);
    }

    /// Takes the answer to one of the questions.
    ///
    /// # Errors
    /// When it disagrees.
    pub fn answered(&mut self, slot: u64, answer: Answer, history: &SimHistory) -> Verdict {
        self.inspection.answered(slot, answer, history)
    }

    /// Ids of orders with a status.
    pub fn orders_with(&self, status: &str) -> Vec<String> {
        let orders = self.books.orders().filter(|order| text(order, "status") == status);
        orders.map(|order| text(order, "orderId").to_owned()).collect()
    }

    /// Orders that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Looks at a run as a whole, at rest; [`Auditor::questions`] were answered before.
    ///
    /// # Errors
    /// When something is stuck, lost or unaccounted for.
    pub fn at_rest(&mut self, stage: Stage, payments: &Payments, history: &SimHistory) -> Verdict {
        let Some(findings) = self.inspection.take_findings() else {
            return violated("the engine does not answer at rest".into());
        };
        self.books.balance()?;
        for order in self.books.orders() {
            check_wait(order, stage, history)?;
            check_money(order, stage, payments)?;
        }
        for (order_id, charges) in payments.charged() {
            check_charges(order_id, charges)?;
            let stock = self.books.order(order_id).map_or("", |o| text(o, "inventoryStatus"));
            if !["RESERVED", "SHIPPED"].contains(&stock) {
                return violated(format!(
                    "order {order_id} is charged, but its stock is {stock:?}"
                ));
            }
        }
        check_backorders(&self.books)?;
        self.orders.values().chain(self.receipts.values()).try_for_each(Tally::check)?;
        self.check_mails()?;
        self.notices.at_rest(&self.books)?;
        self.check_queues(&findings, stage)
    }

    /// However often an item ran low within an hour, the last time is mailed in the end. Where an
    /// older event may come again behind it, a mail that tells the older state will do.
    fn check_mails(&self) -> Verdict {
        for (sku, Low { quantity, seq }) in self.books.low() {
            let told = self.mailed.contains(&format!("Stock is low: {sku} has {quantity} left"));
            let told_since = self.redelivers && self.told_low.get(sku) == Some(&seq);
            if !told && !told_since {
                return violated(format!("nobody was told that {sku} is low with {quantity} left"));
            }
        }
        Ok(())
    }

    fn check_queues(&self, findings: &Findings, stage: Stage) -> Verdict {
        if let Some(row) = findings.not_empty.first() {
            return violated(format!("a queue is not empty at rest: {row:?}"));
        }
        if let Some(letter) =
            findings.dead_events.iter().find(|reason| reason.as_str() != MAIL_REJECTED)
        {
            return violated(format!("an event is among the dead letters: {letter}"));
        }
        let failed = self.books.orders().filter(|order| text(order, "paymentStatus") == "FAILED");
        let failed: BTreeSet<&str> = failed.map(|order| text(order, "orderId")).collect();
        let dead: BTreeSet<&str> = findings.dead_payments.iter().map(String::as_str).collect();
        if let Some(order_id) = failed.difference(&dead).next() {
            return violated(format!("the failed payment of order {order_id} is in no queue"));
        }
        // Until it is sent back, a dead letter may be left of an order that its other message
        // settled, or of which that one is dead as well.
        if self.redelivers && stage == Stage::Calm {
            return Ok(());
        }
        if let Some(order_id) = dead.difference(&failed).next() {
            return violated(format!("order {order_id} is dead-lettered, but has not failed"));
        }
        if dead.len() != findings.dead_payments.len() {
            return violated("a payment is among the dead letters twice".into());
        }
        Ok(())
    }

    fn tally(&mut self, request: &Request) -> Option<&mut Tally> {
        match request {
            Request::Order { customer, quantity } => {
                Some(self.orders.entry((customer.clone(), *quantity)).or_default())
            }
            Request::Keyed(order) => {
                Some(self.orders.entry((order.customer(), order.quantity)).or_default())
            }
            Request::Receive { quantity } => Some(self.receipts.entry(*quantity).or_default()),
            Request::Describe | Request::Ship { .. } | Request::Look | Request::Redrive => None,
        }
    }

    fn note_done(&mut self, request: &Request, reply: &Doc) -> Verdict {
        match request {
            Request::Order { customer, quantity } => {
                self.note_order(text(reply, "orderId"), customer, *quantity)?;
            }
            Request::Keyed(order) => {
                self.note_order(text(reply, "orderId"), &order.customer(), order.quantity)?;
            }
            Request::Ship { order_id } => {
                let (was, is) = (self.books.ever_was(reply), text(reply, "orderId") == order_id);
                if !was || !is || text(reply, "status") != "SHIPPED" {
                    return violated(format!("order {order_id} was said to be shipped: {reply:?}"));
                }
            }
            Request::Receive { .. } | Request::Describe | Request::Look | Request::Redrive => {}
        }
        let Some(tally) = self.tally(request) else { return Ok(()) };
        tally.acknowledged += 1;
        tally.check()
    }

    fn note_order(&mut self, order_id: &str, customer: &str, quantity: i64) -> Verdict {
        self.check_stored(order_id, customer, quantity)?;
        if !self.acknowledged.insert(order_id.to_owned()) {
            return violated(format!("order {order_id} is acknowledged twice"));
        }
        Ok(())
    }

    /// The answer of an order that was there, of which its client may not know.
    fn note_repeated(&mut self, order: &KeyedOrder, reply: &Doc) -> Verdict {
        let order_id = text(reply, "orderId");
        self.check_stored(order_id, &order.customer(), order.quantity)?;
        if text(reply, "status") != "PENDING" {
            return violated(format!("the answer to {order:?} is not the first: {reply:?}"));
        }
        self.acknowledged.insert(order_id.to_owned());
        Ok(())
    }

    fn check_stored(&self, order_id: &str, customer: &str, quantity: i64) -> Verdict {
        let Some(order) = self.books.order(order_id) else {
            return violated(format!("order {order_id} is acknowledged, not durable"));
        };
        if text(order, "customerId") != customer || order.int("quantity") != Some(quantity) {
            return violated(format!(
                "an order of customer {customer} for {quantity} was stored as {order:?}"
            ));
        }
        Ok(())
    }

    fn note_refused(&mut self, request: &Request, kind: Option<RefusalKind>) -> Verdict {
        if let Request::Ship { order_id } = request
            && kind == Some(RefusalKind::NotFound)
            && self.books.order(order_id).is_some()
        {
            return violated(format!("order {order_id} is not found"));
        }
        let is_of_another = matches!(request, Request::Keyed(order) if self.keys.has_other(order));
        if kind == Some(RefusalKind::KeyReused) && !is_of_another {
            return violated(format!("the key of {request:?} is said to be of another request"));
        }
        let Some(tally) = self.tally(request) else { return Ok(()) };
        tally.refused += 1;
        tally.check()
    }
}

impl Tally {
    /// Each acknowledged request is there, and nothing that nobody asked for.
    fn check(&self) -> Verdict {
        if self.found < self.acknowledged || self.found + self.refused > self.asked {
            return violated(format!("requests and what became of them do not agree: {self:?}"));
        }
        Ok(())
    }
}

/// Whether a mail tells that an item is low, now or before.
fn tells_low(mail: &MailJob, sku: &str) -> bool {
    mail.subject.starts_with(&format!("Stock is low: {sku} has "))
}

/// Whether a call may be made for an order as it is: a charge, or else a look-up.
fn is_payable(order: &Doc, is_charge: bool) -> bool {
    let allowed: &[&str] = if is_charge { &["PROCESSING", "UNKNOWN"] } else { &["UNKNOWN"] };
    text(order, "inventoryStatus") == "RESERVED" && allowed.contains(&text(order, "paymentStatus"))
}

fn check_charges(order_id: &str, charges: usize) -> Verdict {
    if charges > 1 {
        return violated(format!("order {order_id} is charged {charges} times"));
    }
    Ok(())
}

/// At rest a queue holds orders that wait, each with what it wants; who waits is in a queue; and
/// there is too little of something for who is first.
fn check_backorders(books: &Books) -> Verdict {
    for sku in books.backordered() {
        for (order_id, quantity) in books.queue(sku) {
            let wants = |order: &Doc| wanted(order, sku) == quantity && waits(order);
            if !books.order(order_id).is_some_and(wants) {
                return violated(format!("order {order_id} is in the queue of {sku} for nothing"));
            }
        }
        let first = books.queue(sku).next().and_then(|(order_id, _)| books.order(order_id));
        if let Some(order) = first.filter(|order| !is_short(books, order)) {
            return violated(format!("there is enough for who waits first for {sku}: {order:?}"));
        }
    }
    let is_queued = |order: &Doc| {
        let order_id = text(order, "orderId");
        lines(order)
            .iter()
            .any(|line| books.queue(&line.sku.to_string()).any(|(queued, _)| queued == order_id))
    };
    match books.orders().filter(|order| waits(order)).find(|order| !is_queued(order)) {
        Some(order) => violated(format!("an order waits in no queue: {order:?}")),
        None => Ok(()),
    }
}

fn waits(order: &Doc) -> bool {
    text(order, "inventoryStatus") == "BACKORDERED"
}

/// How many units of a sku an order is for.
fn wanted(order: &Doc, sku: &str) -> i64 {
    let lines = lines(order);
    lines.iter().filter(|line| line.sku.to_string() == sku).map(|line| line.quantity).sum()
}

/// Whether there is too little of something for an order, or somebody before it waits for it.
fn is_short(books: &Books, order: &Doc) -> bool {
    let order_id = text(order, "orderId");
    lines(order).iter().any(|line| {
        let sku = line.sku.to_string();
        let is_behind = books.queue(&sku).next().is_some_and(|(first, _)| first < order_id);
        books.free(&sku) < line.quantity || is_behind
    })
}

/// Every open order waits for something that may legitimately take its time.
fn check_wait(order: &Doc, stage: Stage, history: &SimHistory) -> Verdict {
    let (status, payment) = (text(order, "status"), text(order, "paymentStatus"));
    let waits = match status {
        "BACKORDERED" => payment == "PENDING",
        "READY" => text(order, "fulfillmentStatus") == "READY" && stage != Stage::Shipped,
        "ON_HOLD" => payment == "DECLINED" || (payment == "FAILED" && stage == Stage::Calm),
        "SHIPPED" => true,
        _ => false,
    };
    if !waits {
        return violated(format!("an order is stuck ({stage:?}): {order:?}"));
    }
    let closed = history.find(TABLE, "orderId", text(order, "orderId"));
    if (status == "SHIPPED") != closed.is_some() || closed.is_some_and(|item| item.doc != *order) {
        return violated(format!("history holds {closed:?} of {order:?}"));
    }
    Ok(())
}

/// At rest an order says what the payments API knows; a failed one may have been charged.
fn check_money(order: &Doc, stage: Stage, payments: &Payments) -> Verdict {
    let outcome = payments.outcome(&charge_key(order));
    let agrees = match text(order, "paymentStatus") {
        "PAID" => outcome == Some(Outcome::Paid),
        "DECLINED" => outcome == Some(Outcome::Declined),
        "FAILED" => stage == Stage::Calm,
        _ => outcome.is_none(),
    };
    if agrees {
        return Ok(());
    }
    violated(format!("the payments API says {outcome:?} of {order:?}"))
}
