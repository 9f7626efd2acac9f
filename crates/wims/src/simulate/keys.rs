//! Orders under idempotency keys: clients that send them again, and the book that is kept of them.
//!
//! Promise: a key is asked for once and again, now and after deaths, by two at once and now and
//! then with another body; the book says when a key made two orders within its life, or was not
//! recorded in the frame of its order. Each key is of a customer of its own, so that its orders are
//! known by them. It deliberately does not know how the engine keeps a key.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use uuid::Uuid;
use wims_runtime::io::{Input, Ticket};
use wims_runtime::keys::{KEY_LIFE_MS, Keyed, RequestKey};
use wims_runtime::record::{Change, Entry, Record};
use wims_runtime::sim::Verdict;
use wims_runtime::trace::TraceId;
use wims_stack::{Doc, Field};

use super::books::{text, violated};

/// Customers who use keys.
const CUSTOMER: &str = "key-";
/// Units of an order under a key, at most.
const QUANTITY_MAX: i64 = 12;

/// An order under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedOrder {
    key: usize,
    /// How many.
    pub quantity: i64,
}

impl KeyedOrder {
    /// Who orders: the key is of nobody else.
    pub fn customer(&self) -> String {
        format!("{CUSTOMER}{}", self.key)
    }

    /// The request.
    pub fn input(&self, ticket: Ticket, trace: Option<TraceId>) -> Input {
        let (route, customer) = ("create-order", self.customer());
        let arguments = Doc::object(&[
            ("customerId", Field::Str(&customer)),
            ("quantity", Field::Int(self.quantity)),
        ]);
        let key = RequestKey::of(b"", route, customer.as_bytes(), &arguments);
        let (history, key) = (None, Some(Box::new(key)));
        Input::Call { ticket, route, arguments, history, trace, key }
    }
}

/// Clients who use keys.
pub struct KeyedOrders {
    rng: Rng,
    /// What was first asked under each key.
    asked: Vec<KeyedOrder>,
}

impl KeyedOrders {
    /// Clients who draw apart from everybody else.
    pub fn new(seed: u64) -> KeyedOrders {
        KeyedOrders { rng: Rng::with_seed(!seed), asked: Vec::new() }
    }

    /// What is asked now, if anything: under a new key, or once more, or wrongly once more.
    pub fn ask(&mut self) -> Vec<KeyedOrder> {
        let order = match self.rng.u8(0..16) {
            0 | 1 => self.under_a_new_key(),
            2..=4 => self.again(),
            5 => {
                let order = self.again();
                KeyedOrder { quantity: order.quantity % QUANTITY_MAX + 1, ..order }
            }
            _ => return Vec::new(),
        };
        let at_once = if self.rng.u8(0..4) == 0 { 2 } else { 1 };
        vec![order; at_once]
    }

    fn under_a_new_key(&mut self) -> KeyedOrder {
        let (key, quantity) = (self.asked.len(), self.rng.i64(1..=QUANTITY_MAX));
        let order = KeyedOrder { key, quantity };
        self.asked.push(order.clone());
        order
    }

    fn again(&mut self) -> KeyedOrder {
        if self.asked.is_empty() {
            return self.under_a_new_key();
        }
        self.asked[self.rng.usize(0..self.asked.len())].clone()
    }
}

/// What is durable of keys and their orders.
#[derive(Default)]
pub struct KeyBook {
    /// Quantities of the orders of each customer who uses a key.
    orders: BTreeMap<String, Vec<i64>>,
    /// The last use of each key, by its hash.
    used: BTreeMap<u128, Keyed>,
    /// Ids of orders that are new in this frame.
    new: BTreeSet<u128>,
    /// Ids that keys are recorded with in this frame.
    recorded: BTreeSet<u128>,
}

impl KeyBook {
    /// Enters a durable record.
    ///
    /// # Errors
    /// When a key is used again before it may be.
    pub fn enter(&mut self, entry: &Entry) -> Verdict {
        if let Record::Keyed(keyed) = &entry.record {
            return self.enter_use(keyed);
        }
        if let Record::Change(Change { old: None, new: Some(item), .. }) = &entry.record
            && text(item, "customerId").starts_with(CUSTOMER)
        {
            let customer = text(item, "customerId").to_owned();
            self.orders.entry(customer).or_default().extend(item.int("quantity"));
            let id = Uuid::parse_str(text(item, "orderId")).ok();
            self.new.extend(id.map(|id| id.as_u128()));
        }
        Ok(())
    }

    fn enter_use(&mut self, keyed: &Keyed) -> Verdict {
        match self.used.insert(keyed.hash, *keyed) {
            // A sweep wrote it again.
            Some(known) if known == *keyed => Ok(()),
            Some(known) if keyed.expires_ms < known.expires_ms + KEY_LIFE_MS => {
                violated(format!("a key was forgotten before its time: {known:?}, then {keyed:?}"))
            }
            Some(_) | None => {
                self.recorded.insert(keyed.id);
                Ok(())
            }
        }
    }

    /// Looks at what a frame brought.
    ///
    /// # Errors
    /// When an order and its key are not in one frame.
    pub fn end_frame(&mut self) -> Verdict {
        let (new, recorded) = (std::mem::take(&mut self.new), std::mem::take(&mut self.recorded));
        match new.symmetric_difference(&recorded).next() {
            None => Ok(()),
            Some(id) => violated(format!("order {id:032x} and its key are not in one frame")),
        }
    }

    /// Whether an order of this key, but for another quantity, was ever there.
    pub fn has_other(&self, order: &KeyedOrder) -> bool {
        let orders = self.orders.get(&order.customer());
        orders.is_some_and(|orders| orders.iter().any(|quantity| *quantity != order.quantity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u128 = 0x0189_0a5d_ac96_774b_bcce_b302_099a_8057;

    fn entered(book: &mut KeyBook, record: Record) -> Verdict {
        book.enter(&Entry { seq: 1, wall_ms: 1, cause: 0, replay: false, trace: None, record })
    }

    fn order() -> Record {
        let new = Doc::object(&[
            ("customerId", Field::Str("key-1")),
            ("orderId", Field::Str(&Uuid::from_u128(ID).to_string())),
            ("quantity", Field::Int(3)),
        ]);
        Record::Change(Change { table: 0, created: 0, old: None, new: Some(new) })
    }

    fn keyed(id: u128, expires_ms: u64) -> Record {
        Record::Keyed(Keyed { expires_ms, hash: 1, body: 2, id })
    }

    #[test]
    fn an_order_and_its_key_are_of_one_frame() {
        let mut book = KeyBook::default();
        entered(&mut book, order()).unwrap();
        entered(&mut book, keyed(ID, 5)).unwrap();
        book.end_frame().unwrap();
        let is_other = |quantity| book.has_other(&KeyedOrder { key: 1, quantity });
        assert_eq!((is_other(3), is_other(4)), (false, true));
        for record in [order(), keyed(ID, 5 + KEY_LIFE_MS)] {
            entered(&mut book, record).unwrap();
            assert!(book.end_frame().is_err(), "one of the two is not enough");
        }
    }

    #[test]
    fn a_key_that_is_swept_is_no_new_use_and_one_enter_use_too_early_was_forgotten() {
        let mut book = KeyBook::default();
        entered(&mut book, order()).unwrap();
        entered(&mut book, keyed(ID, 5)).unwrap();
        book.end_frame().unwrap();
        entered(&mut book, keyed(ID, 5)).unwrap();
        book.end_frame().unwrap();
        assert!(entered(&mut book, keyed(ID + 1, 4 + KEY_LIFE_MS)).is_err());
    }

    #[test]
    fn clients_ask_under_new_keys_again_and_otherwise() {
        let mut clients = KeyedOrders::new(7);
        let all: Vec<KeyedOrder> = (0..200).flat_map(|_| clients.ask()).collect();
        let (same, other): (Vec<&KeyedOrder>, Vec<&KeyedOrder>) =
            all.iter().partition(|order| clients.asked[order.key] == **order);
        assert!(clients.asked.len() > 5 && other.len() > 2, "{all:?}");
        assert!(same.len() > clients.asked.len() + 5, "{all:?}");
    }
}
