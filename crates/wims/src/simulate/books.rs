//! The books: what the durable records say, kept by nobody but the auditor.
//!
//! Promise: a record that breaks an invariant of the domain is refused with a sentence: a change
//! that does not start from the last image, a state that may not follow, stock that does not add
//! up, an event that arises twice, a payment message sent more often than its event was delivered,
//! a trace that is not that of the cause. It deliberately shares no code with the engine's state;
//! of the domain it shares words and the one function of `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use wims_runtime::record::{Change, Entry, Record, Sent};
use wims_runtime::sim::{Verdict, Violation};
use wims_runtime::trace::TraceId;
use wims_stack::Doc;

use super::payments::{Outcome, Payments};
use crate::domain::{
    BACKORDER, CONTACT_SK, CUSTOMER, DEFAULT_QUANTITY, FulfillmentStatus, INVENTORY,
    InventoryStatus, PaymentStatus, States, charge_key, contact_pk, lines,
};

/// Which `inventoryStatus` may follow which.
const INVENTORY_MOVES: [(&str, &str); 7] = [
    ("UNRESERVED", "RESERVED"),
    ("UNRESERVED", "BACKORDERED"),
    ("UNRESERVED", "RELEASED"),
    ("BACKORDERED", "RESERVED"),
    ("BACKORDERED", "RELEASED"),
    ("RESERVED", "SHIPPED"),
    ("RESERVED", "RELEASED"),
];
/// Which `paymentStatus` may follow which. A redriven payment is UNKNOWN until it is looked up.
const PAYMENT_MOVES: [(&str, &str); 19] = [
    ("PENDING", "PROCESSING"),
    ("PENDING", "VOIDED"),
    ("PROCESSING", "PAID"),
    ("PROCESSING", "DECLINED"),
    ("PROCESSING", "UNKNOWN"),
    ("PROCESSING", "FAILED"),
    ("PROCESSING", "PENDING"),
    ("UNKNOWN", "PAID"),
    ("UNKNOWN", "DECLINED"),
    ("UNKNOWN", "PENDING"),
    ("UNKNOWN", "FAILED"),
    ("FAILED", "UNKNOWN"),
    ("FAILED", "VOIDED"),
    ("DECLINED", "PENDING"),
    ("DECLINED", "VOIDED"),
    ("PAID", "REFUND_PENDING"),
    ("REFUND_PENDING", "REFUNDED"),
    ("REFUND_PENDING", "REFUND_FAILED"),
    ("REFUND_FAILED", "REFUND_PENDING"),
];
/// Which `fulfillmentStatus` may follow which.
const FULFILLMENT_MOVES: [(&str, &str); 3] =
    [("UNFULFILLED", "READY"), ("READY", "SHIPPED"), ("READY", "UNFULFILLED")];
/// What an order keeps for ever.
const FIXED: [&str; 7] =
    ["amount", "currency", "customerId", "lines", "orderId", "quantity", "timestamp"];

/// A stock item and what the orders say about it.
#[derive(Clone, Copy, Debug, Default)]
struct Stock {
    quantity: i64,
    reserved: i64,
    backordered: i64,
    /// Quantities of orders that are RESERVED.
    promised: i64,
    /// How many entries its queue has.
    waiting: i64,
    shipped: i64,
    received: i64,
}

/// When an item last ran low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Low {
    /// How many units it had.
    pub quantity: i64,
    /// The record that says so.
    pub seq: u64,
}

/// What came into being and has not been checked against what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum New {
    /// An order of a customer.
    Order(String, i64),
    /// A receipt of stock.
    Receipt(i64),
}

/// The books; see the module.
#[derive(Default)]
pub struct Books {
    /// Whether events may reach the targets of rules twice.
    redelivers: bool,
    names: BTreeMap<u16, String>,
    items: BTreeMap<(String, String), Doc>,
    orders: BTreeMap<String, (String, String)>,
    /// What the last frame made of orders, and of what.
    moments: BTreeMap<String, Vec<Doc>>,
    /// Hashes of all images items ever had.
    images: BTreeSet<u64>,
    published: BTreeSet<(u64, String)>,
    /// How many payment messages followed from a record.
    payment_messages: BTreeMap<u64, u32>,
    /// Traces of the records that have one.
    traces: BTreeMap<u64, TraceId>,
    stock: BTreeMap<String, Stock>,
    /// Who waits for a sku, and for how many units: first who came first.
    queues: BTreeMap<String, BTreeMap<String, i64>>,
    low: BTreeMap<String, Low>,
    new: Vec<New>,
}

impl Books {
    /// Empty books of a world that may deliver events twice, or does not.
    pub fn new(redelivers: bool) -> Books {
        Books { redelivers, ..Books::default() }
    }

    /// What follows is of another frame.
    pub fn begin_frame(&mut self) {
        self.moments.clear();
    }

    /// Enters a durable record.
    ///
    /// # Errors
    /// When it breaks an invariant.
    pub fn enter(&mut self, entry: &Entry, payments: &Payments) -> Verdict {
        self.inherited(entry)?;
        match &entry.record {
            Record::Named(named) => {
                self.names.insert(named.id, named.name.clone());
                Ok(())
            }
            Record::Change(change) => self.change(change, payments),
            Record::SweptItem(change) => self.swept(change),
            Record::Event(event) => {
                let fact = (entry.cause, event.detail_type.clone());
                self.once(entry, !self.published.contains(&fact), &event.detail_type)?;
                self.published.insert(fact);
                if event.detail_type == "stock.low" {
                    let quantity = event.detail.int("quantity").unwrap_or(0);
                    let low = Low { quantity, seq: entry.seq };
                    self.low.insert(text(&event.detail, "sku").to_owned(), low);
                }
                Ok(())
            }
            Record::Sent(sent) => self.sent(entry, sent),
            Record::Hidden(_)
            | Record::Deleted { .. }
            | Record::Cursor { .. }
            | Record::Waiting(_)
            | Record::Ended { .. }
            | Record::Skipped { .. }
            | Record::Paced(_)
            | Record::Served { .. }
            | Record::SweepBegan
            | Record::SweepEnded { .. }
            | Record::SweptMessage(_)
            | Record::LastId { .. }
            | Record::Historied { .. }
            | Record::Archived { .. }
            | Record::Dropped { .. }
            | Record::Keyed(_) => Ok(()),
        }
    }

    /// Checks that stock adds up; holds wherever a frame ends.
    ///
    /// # Errors
    /// When it does not.
    pub fn balance(&self) -> Verdict {
        for (sku, stock) in &self.stock {
            let adds_up = stock.quantity >= 0
                && stock.reserved >= 0
                && stock.reserved == stock.promised
                && stock.backordered == stock.waiting
                && stock.quantity + stock.reserved + stock.shipped == stock.received;
            if !adds_up {
                return violated(format!("the stock of {sku} does not add up: {stock:?}"));
            }
        }
        Ok(())
    }

    /// The present image of an order.
    pub fn order(&self, order_id: &str) -> Option<&Doc> {
        self.orders.get(order_id).and_then(|key| self.items.get(key))
    }

    /// The present contact data of an order.
    pub fn contact(&self, order_id: &str) -> Option<&Doc> {
        self.items.get(&(contact_pk(order_id), CONTACT_SK.to_owned()))
    }

    /// Images of an order from the beginning of the last frame on, if that changed it.
    pub fn moments(&self, order_id: &str) -> &[Doc] {
        self.moments.get(order_id).map_or(&[], Vec::as_slice)
    }

    /// The present images of all orders.
    pub fn orders(&self) -> impl Iterator<Item = &Doc> {
        self.orders.values().filter_map(|key| self.items.get(key))
    }

    /// The present images of all stock items.
    pub fn stock_items(&self) -> impl Iterator<Item = &Doc> {
        let items = self.items.iter().filter(|((pk, _), _)| pk.starts_with(INVENTORY));
        items.map(|(_, item)| item)
    }

    /// Who waits for a sku, and for how many units, first who came first.
    pub fn queue(&self, sku: &str) -> impl Iterator<Item = (&str, i64)> {
        let queue = self.queues.get(sku).into_iter().flatten();
        queue.map(|(order_id, quantity)| (order_id.as_str(), *quantity))
    }

    /// Skus that somebody waits for.
    pub fn backordered(&self) -> impl Iterator<Item = &str> {
        let queues = self.queues.iter().filter(|(_, queue)| !queue.is_empty());
        queues.map(|(sku, _)| sku.as_str())
    }

    /// How much of a sku is free.
    pub fn free(&self, sku: &str) -> i64 {
        self.stock.get(sku).map_or(0, |stock| stock.quantity)
    }

    /// Items that ran low, and when each last did.
    pub fn low(&self) -> impl Iterator<Item = (&str, Low)> {
        self.low.iter().map(|(sku, low)| (sku.as_str(), *low))
    }

    /// Whether some item once was exactly this.
    pub fn ever_was(&self, image: &Doc) -> bool {
        self.images.contains(&hash(image))
    }

    /// What came into being since this was last called.
    pub fn take_new(&mut self) -> Vec<New> {
        std::mem::take(&mut self.new)
    }

    fn once(&self, entry: &Entry, allowed: bool, what: &str) -> Verdict {
        if allowed || entry.cause == 0 {
            return Ok(());
        }
        violated(format!(
            "{what} follows too often from record {}, again in {}",
            entry.cause, entry.seq
        ))
    }

    /// A record that follows from another one belongs to its trace, and to none if that has none. Of
    /// a message that is deleted once more, nothing is left that could tell.
    fn inherited(&mut self, entry: &Entry) -> Verdict {
        let of_cause = self.traces.get(&entry.cause).copied();
        let may_be_lost = matches!(entry.record, Record::Deleted { .. }) && entry.trace.is_none();
        if entry.cause != 0 && entry.trace != of_cause && !may_be_lost {
            return violated(format!("the trace of {entry:?} is not {of_cause:?}, its cause's"));
        }
        self.traces.extend(entry.trace.map(|trace| (entry.seq, trace)));
        Ok(())
    }

    fn sent(&mut self, entry: &Entry, sent: &Sent) -> Verdict {
        if self.names.get(&sent.queue).map(String::as_str) == Some("queue/payments-queue") {
            let sent_most = if self.redelivers { 2 } else { 1 };
            let so_far = self.payment_messages.entry(entry.cause).or_default();
            *so_far += 1;
            let allowed = *so_far <= sent_most;
            self.once(entry, allowed, "a payment message")?;
        }
        Ok(())
    }

    fn swept(&self, change: &Change) -> Verdict {
        let Some(image) = &change.new else { return violated("a sweep writes no item".into()) };
        if self.items.get(&key(image)) != Some(image) {
            return violated(format!("a sweep writes {image:?}, which is not the item's image"));
        }
        Ok(())
    }

    fn change(&mut self, change: &Change, payments: &Payments) -> Verdict {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        let Some(image) = new.or(old) else { return violated("a change of nothing".into()) };
        let key = key(image);
        if self.items.get(&key) != old {
            return violated(format!("the change to {image:?} does not start from the last image"));
        }
        if key.0.starts_with(CUSTOMER) {
            let Some(new) = new else { return violated(format!("{image:?} is removed")) };
            self.order_changed(old, new, payments)?;
            let order_id = text(new, "orderId").to_owned();
            let moments = self.moments.entry(order_id.clone()).or_default();
            moments.extend(old.into_iter().chain([new]).cloned());
            self.orders.insert(order_id, key.clone());
        } else if key.0.starts_with(INVENTORY) {
            let Some(new) = new else { return violated(format!("{image:?} is removed")) };
            self.stock_changed(old, new)?;
        } else if key.0.starts_with(BACKORDER) {
            self.queue_changed(old, image, new.is_some())?;
        }
        match new {
            Some(new) => {
                self.images.insert(hash(new));
                self.items.insert(key, new.clone());
            }
            None => drop(self.items.remove(&key)),
        }
        Ok(())
    }

    fn order_changed(&mut self, old: Option<&Doc>, new: &Doc, payments: &Payments) -> Verdict {
        match old {
            None => {
                if self.orders.contains_key(text(new, "orderId")) {
                    return violated(format!("an order has the id of another one: {new:?}"));
                }
                check_first(new)?;
                let quantity = new.int("quantity").unwrap_or(0);
                self.new.push(New::Order(text(new, "customerId").to_owned(), quantity));
            }
            Some(old) => check_moves(old, new)?,
        }
        check_states(new, payments)?;
        let before = old.map_or("", |old| text(old, "inventoryStatus"));
        self.check_turn(before, new)?;
        self.count_stock(before, new);
        Ok(())
    }

    /// What an order's move from one `inventoryStatus` to another means for stock.
    fn count_stock(&mut self, before: &str, order: &Doc) {
        let after = text(order, "inventoryStatus");
        for line in lines(order) {
            let stock = self.stock.entry(line.sku.to_string()).or_default();
            let changed = |status: &str| i64::from(after == status) - i64::from(before == status);
            stock.promised += line.quantity * changed("RESERVED");
            stock.shipped += line.quantity * changed("SHIPPED");
        }
    }

    /// Nobody gets stock that somebody waits for who came before; one who is new, none that
    /// anybody waits for.
    fn check_turn(&self, before: &str, order: &Doc) -> Verdict {
        let order_id = text(order, "orderId");
        if before == "RESERVED" || text(order, "inventoryStatus") != "RESERVED" {
            return Ok(());
        }
        for line in lines(order) {
            let first = self.queue(&line.sku.to_string()).next().map(|(first, _)| first);
            if first.is_some_and(|first| first < order_id || before == "UNRESERVED") {
                let sku = line.sku;
                return violated(format!(
                    "order {order_id} overtakes {first:?}, who waits for {sku}"
                ));
            }
        }
        Ok(())
    }

    /// An entry of a queue comes, or goes.
    fn queue_changed(&mut self, old: Option<&Doc>, entry: &Doc, is_there: bool) -> Verdict {
        if old.is_some() && is_there {
            return violated(format!("the entry {entry:?} of a queue changes"));
        }
        let sku = text(entry, "pk").trim_start_matches(BACKORDER).to_owned();
        let (order_id, quantity) = (text(entry, "sk"), entry.int("quantity").unwrap_or(0));
        let queue = self.queues.entry(sku.clone()).or_default();
        if is_there {
            queue.insert(order_id.to_owned(), quantity);
        } else {
            queue.remove(order_id);
        }
        self.stock.entry(sku).or_default().waiting += if is_there { 1 } else { -1 };
        Ok(())
    }

    fn stock_changed(&mut self, old: Option<&Doc>, new: &Doc) -> Verdict {
        let number = |name| new.int(name).unwrap_or(0);
        let on_hand =
            |item: &Doc| item.int("quantity").unwrap_or(0) + item.int("reserved").unwrap_or(0);
        let received = on_hand(new) - old.map_or(0, on_hand);
        let stock = self.stock.entry(text(new, "sku").to_owned()).or_default();
        stock.quantity = number("quantity");
        stock.reserved = number("reserved");
        stock.backordered = number("backordered");
        stock.received += received.max(0);
        match old {
            Some(_) if received > 0 => self.new.push(New::Receipt(received)),
            // The article's item comes with the article's stock.
            None if ![0, DEFAULT_QUANTITY].contains(&received) => {
                return violated(format!("an item begins with stock that nobody brought: {new:?}"));
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

/// A new order has not moved yet.
fn check_first(order: &Doc) -> Verdict {
    let first = States {
        inventory: InventoryStatus::Unreserved,
        payment: PaymentStatus::Pending,
        fulfillment: FulfillmentStatus::Unfulfilled,
    };
    if States::of(order) != Some(first) {
        return violated(format!("an order begins as {order:?}"));
    }
    Ok(())
}

fn check_moves(old: &Doc, new: &Doc) -> Verdict {
    if let Some(name) = FIXED.iter().find(|name| old.part(name) != new.part(name)) {
        return violated(format!("{name} of an order changed: {new:?}"));
    }
    let moves: [(&str, &[(&str, &str)]); 3] = [
        ("inventoryStatus", &INVENTORY_MOVES),
        ("paymentStatus", &PAYMENT_MOVES),
        ("fulfillmentStatus", &FULFILLMENT_MOVES),
    ];
    for (name, allowed) in moves {
        let (from, to) = (text(old, name), text(new, name));
        if from != to && !allowed.contains(&(from, to)) {
            return violated(format!("{name} moves from {from} to {to}: {new:?}"));
        }
    }
    Ok(())
}

/// What must hold of an order whenever it is written.
fn check_states(order: &Doc, payments: &Payments) -> Verdict {
    let Some(states) = States::of(order) else {
        return violated(format!("an order is in no state there is: {order:?}"));
    };
    let (inventory, payment, fulfillment) =
        (states.inventory.as_str(), states.payment.as_str(), states.fulfillment.as_str());
    let status = states.status().as_str();
    if text(order, "status") != status {
        return violated(format!("status is not {status}: {order:?}"));
    }
    let holds_stock = ["RESERVED", "SHIPPED"].contains(&inventory);
    if ["PROCESSING", "UNKNOWN", "PAID"].contains(&payment) && !holds_stock {
        return violated(format!("the payment of an order without stock moves: {order:?}"));
    }
    if payment == "PAID" && payments.outcome(&charge_key(order)) != Some(Outcome::Paid) {
        return violated(format!("an order is PAID that was not charged: {order:?}"));
    }
    let is_fulfilled = ["READY", "SHIPPED"].contains(&fulfillment);
    if is_fulfilled && !(holds_stock && payment == "PAID") {
        return violated(format!("an order is {fulfillment}, not reserved and paid: {order:?}"));
    }
    if (fulfillment == "SHIPPED") != (inventory == "SHIPPED") {
        return violated(format!("an order is shipped by halves: {order:?}"));
    }
    Ok(())
}

fn key(item: &Doc) -> (String, String) {
    (text(item, "pk").to_owned(), text(item, "sk").to_owned())
}

fn hash(doc: &Doc) -> u64 {
    let mut hasher = DefaultHasher::new();
    doc.bytes().hash(&mut hasher);
    hasher.finish()
}

/// The text of an attribute; empty when missing.
pub fn text<'a>(doc: &'a Doc, name: &str) -> &'a str {
    doc.str(name).unwrap_or("")
}

/// A broken promise.
pub fn violated<T>(what: String) -> Result<T, Violation> {
    Err(Violation(what))
}
