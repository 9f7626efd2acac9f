//! Backorders by their functions alone, with orders of several lines: a store that holds conditions
//! to their word, and a rule that runs for every change of a stock row, in any order and again.

use std::collections::BTreeMap;

use fastrand::Rng;
use wims_runtime::functions::TransactFn;
use wims_runtime::items::Items;
use wims_stack::{EventView, Node};

use super::*;
use crate::domain::{CUSTOMER, FulfillmentStatus, PaymentStatus};
use crate::fns::inventory::reserve_stock;
use crate::fns::sample;

const A: Sku<'static> = Sku { product: "BOLT", model: "A" };
const B: Sku<'static> = Sku { product: "BOLT", model: "B" };
const C: Sku<'static> = Sku { product: "NUT", model: "C" };

/// The table, and the stock rows whose changes nobody has heard of yet.
struct Store {
    items: Items,
    seq: u64,
    changed: Vec<(String, String)>,
    fill: TransactFn,
}

impl Store {
    fn new(fill: TransactFn, stock: &[(Sku<'_>, i64)]) -> Store {
        let mut store = Store { items: sample::table(), seq: 0, changed: Vec::new(), fill };
        for (sku, quantity) in stock {
            let row = Doc::object(&[
                ("backordered", Field::Int(0)),
                ("pk", Field::Str(&sku.pk())),
                ("quantity", Field::Int(*quantity)),
                ("reserved", Field::Int(0)),
                ("sk", Field::Str(&sku.sk())),
                ("sku", Field::Str(&sku.to_string())),
            ]);
            store.set(&row, Some(row.clone()));
        }
        store
    }

    fn set(&mut self, key: &Doc, item: Option<Doc>) {
        self.seq += 1;
        self.items.set(key, item, self.seq, self.seq);
    }

    fn get(&self, pk: &str, sk: &str) -> Option<&Doc> {
        self.items.get(pk, sk).map(|item| &item.doc)
    }

    /// Whether all conditions of a transaction hold.
    fn allows(&self, writes: &[Write]) -> bool {
        writes.iter().all(|Write { pk, sk, condition, .. }| {
            condition.as_ref().is_none_or(|c| c.holds(self.get(pk, sk)))
        })
    }

    /// Carries out a transaction whose conditions hold.
    fn transact(&mut self, writes: &[Write]) {
        let changed = sample::transact(&mut self.items, &mut self.seq, writes);
        let changed = changed.unwrap_or_else(|| panic!("a condition does not hold: {writes:?}"));
        self.changed.extend(changed.into_iter().filter(|(pk, _)| pk.starts_with("INVENTORY#")));
    }

    fn task(&self, function: TransactFn, item: &Doc) -> Vec<Write> {
        let input = TaskInput {
            event: EventView { source: "", detail_type: "", detail: Node::Str("") },
            item,
            reads: Reads::of(&self.items),
            now_ms: 1_700_000_000_000 + self.seq,
        };
        function(&input).expect("it does not fail")
    }

    /// Places an order and decides on its stock.
    fn order(&mut self, id: &str, of: &[(Sku<'_>, i64)]) {
        let order = order(id, of);
        self.set(&order, Some(order.clone()));
        let writes = self.task(reserve_stock, &order);
        self.transact(&writes);
    }

    fn receive(&mut self, sku: Sku<'_>, quantity: i64) {
        let row = self.get(&sku.pk(), &sku.sk()).expect("it is known").clone();
        let updates = vec![Update::Add("quantity", quantity.into())];
        self.transact(&[update(&row, None, updates)]);
    }

    /// The rule hears of a change: the workflow runs if its guard holds. What it filled.
    fn hear(&mut self, (pk, sk): &(String, String)) -> Vec<String> {
        let row = self.get(pk, sk).expect("it is known").clone();
        let has = |name| row.int(name).is_some_and(|number| number > 0);
        if !has("quantity") || !has("backordered") {
            return Vec::new();
        }
        let writes = self.task(self.fill, &row);
        let is_order = |write: &&Write| write.pk.starts_with(CUSTOMER);
        let filled: Vec<String> = writes.iter().filter(is_order).map(|w| w.sk.clone()).collect();
        self.transact(&writes);
        let after = self.get(pk, sk).expect("it is known");
        let waiting = |row: &Doc| row.int("backordered");
        assert!(*after == row || waiting(after) < waiting(&row), "it is lowered: {after:?}");
        filled
    }

    /// Lets the rule hear of all changes, those included that follow; how many runs that takes.
    fn settle(&mut self) -> usize {
        let mut runs = 0;
        while let Some(key) = self.changed.pop() {
            self.hear(&key);
            runs += 1;
            assert!(runs < 10_000, "it never ends");
        }
        runs
    }

    fn queue(&self, sku: Sku<'_>) -> Vec<String> {
        let entries = self.items.query(&queue_of(&sku), "");
        entries.map(|entry| entry.doc.str("orderId").unwrap_or("").to_owned()).collect()
    }

    fn stock(&self, sku: Sku<'_>) -> (i64, i64, i64) {
        let row = self.get(&sku.pk(), &sku.sk()).expect("it is known");
        let number = |name| row.int(name).expect("a number");
        (number("quantity"), number("reserved"), number("backordered"))
    }

    fn inventory_status(&self, id: &str) -> String {
        let order = self.items.find("orderId", id).expect("it was placed");
        order.doc.str("inventoryStatus").unwrap_or("").to_owned()
    }
}

fn order(id: &str, of: &[(Sku<'_>, i64)]) -> Doc {
    let lines = Doc::build(|w| {
        w.list(|w| {
            for (sku, quantity) in of {
                let sku = sku.to_string();
                w.object(&[("quantity", Field::Int(*quantity)), ("sku", Field::Str(&sku))]);
            }
        });
    });
    Doc::object(&[
        ("fulfillmentStatus", Field::Str(FulfillmentStatus::Unfulfilled.as_str())),
        ("inventoryStatus", Field::Str(InventoryStatus::Unreserved.as_str())),
        ("lines", Field::View(lines.view())),
        ("orderId", Field::Str(id)),
        ("paymentStatus", Field::Str(PaymentStatus::Pending.as_str())),
        ("pk", Field::Str("CUSTOMER#349")),
        ("sk", Field::Str(id)),
        ("status", Field::Str("PENDING")),
    ])
}

#[test]
fn no_new_order_overtakes_one_that_waits() {
    let mut store = Store::new(fill, &[(A, 5)]);
    store.order("1", &[(A, 6)]);
    store.order("2", &[(A, 1)]);
    assert_eq!(store.settle(), 2, "neither run did anything");
    assert_eq!(store.queue(A), ["1", "2"]);
    assert_eq!(store.stock(A), (5, 0, 2));
    store.receive(A, 1);
    store.settle();
    assert_eq!((store.inventory_status("1").as_str(), store.queue(A).len()), ("RESERVED", 1));
    store.receive(A, 1);
    store.settle();
    assert_eq!((store.inventory_status("2").as_str(), store.stock(A)), ("RESERVED", (0, 7, 0)));
}

#[test]
fn a_receipt_between_the_failed_reserve_and_the_backordered_write_loses_no_wake_up() {
    let mut store = Store::new(fill, &[(A, 0)]);
    let (first, second) = (order("1", &[(A, 5)]), order("2", &[(A, 5)]));
    for order in [&first, &second] {
        store.set(order, Some(order.clone()));
    }
    // Both decide on an empty shelf; then stock comes, before either has written.
    let late = [store.task(reserve_stock, &first), store.task(reserve_stock, &second)];
    store.receive(A, 3);
    assert!(store.allows(&late[0]), "it is too little still");
    store.transact(&late[0]);
    store.receive(A, 7);
    // The one that waits has not been looked at: it counts, and its change wakes both.
    store.transact(&late[1]);
    store.settle();
    assert_eq!((store.stock(A), store.queue(A).len()), ((0, 10, 0), 0));

    let mut store = Store::new(fill, &[(A, 0)]);
    store.set(&first, Some(first.clone()));
    let late = store.task(reserve_stock, &first);
    store.receive(A, 5);
    assert!(!store.allows(&late), "there is enough now, so it decides again");
    let again = store.task(reserve_stock, &first);
    store.transact(&again);
    assert_eq!(store.inventory_status("1"), "RESERVED");
}

#[test]
fn who_is_skipped_waits_on_while_those_behind_get_what_there_is() {
    let mut store = Store::new(fill_skipping, &[(A, 5)]);
    for (id, quantity) in [("1", 6), ("2", 3), ("3", 3), ("4", 2)] {
        store.order(id, &[(A, quantity)]);
        store.settle();
    }
    assert_eq!(store.queue(A), ["1", "3"]);
    assert_eq!(store.stock(A), (0, 5, 2));
    store.receive(A, 6);
    store.settle();
    assert_eq!(store.queue(A), ["3"], "it was first, and there was enough");
}

#[test]
fn an_order_found_short_of_another_sku_joins_that_queue_at_its_own_place() {
    let mut store = Store::new(fill, &[(A, 0), (B, 5)]);
    store.order("1", &[(A, 5), (B, 5)]);
    assert_eq!((store.queue(A), store.queue(B).len()), (vec!["1".to_owned()], 0));
    store.order("2", &[(B, 3)]);
    store.order("3", &[(B, 3)]);
    assert_eq!(store.queue(B), ["3"], "the first was not short of it");
    store.receive(A, 5);
    store.settle();
    assert_eq!(store.queue(A), ["1"], "it keeps its place, and what it waits with");
    assert_eq!(store.queue(B), ["1", "3"]);
    assert_eq!((store.stock(A), store.stock(B)), ((5, 0, 1), (2, 3, 2)));
    store.receive(B, 3);
    store.settle();
    assert_eq!(store.inventory_status("1"), "RESERVED");
    assert_eq!((store.queue(A).len(), store.queue(B)), (0, vec!["3".to_owned()]));
}

#[test]
fn who_is_skipped_for_want_of_another_sku_waits_for_that_one_alone() {
    let mut store = Store::new(fill_skipping, &[(A, 0), (B, 5)]);
    store.order("1", &[(A, 5), (B, 5)]);
    store.order("2", &[(B, 3)]);
    store.receive(A, 5);
    store.settle();
    assert_eq!((store.queue(A).len(), store.queue(B)), (0, vec!["1".to_owned()]));
    store.receive(B, 3);
    store.settle();
    assert_eq!(store.inventory_status("1"), "RESERVED");
}

#[test]
fn an_order_of_32_lines_is_filled_in_one_transaction() {
    let models: Vec<String> = (0..32).map(|number| format!("M{number}")).collect();
    let skus: Vec<Sku<'_>> =
        models.iter().map(|model| Sku { product: "BOLT", model: model.as_str() }).collect();
    let with = |quantity: i64| -> Vec<(Sku<'_>, i64)> {
        skus.iter().map(|sku| (*sku, quantity)).collect()
    };
    for function in [fill as TransactFn, fill_skipping] {
        let mut store = Store::new(function, &with(0));
        store.order("1", &with(2));
        store.order("2", &with(1));
        for sku in &skus {
            store.receive(*sku, 3);
            store.settle();
        }
        for sku in &skus {
            assert_eq!(store.stock(*sku), (0, 3, 0));
        }
    }
}

#[test]
fn a_run_fills_what_a_transaction_holds_and_the_next_one_goes_on() {
    let mut store = Store::new(fill, &[(A, 0)]);
    for number in 0..200 {
        store.order(&format!("{number:03}"), &[(A, 1)]);
    }
    store.settle();
    store.receive(A, 150);
    let key = store.changed[0].clone();
    // An order and its entry each, and the stock row.
    assert_eq!(store.hear(&key).len(), 49);
    store.settle();
    assert_eq!((store.stock(A), store.queue(A)[0].as_str()), ((0, 150, 50), "150"));
    assert!(store.hear(&key).is_empty(), "a repeated event fills nobody");
}

/// What must hold after every transaction.
fn audit(store: &Store, orders: &BTreeMap<String, Vec<(Sku<'_>, i64)>>) {
    for sku in [A, B, C] {
        let (quantity, reserved, backordered) = store.stock(sku);
        let reserves = |id: &str| store.inventory_status(id) == "RESERVED";
        let placed = orders.iter().filter(|(id, _)| reserves(id.as_str()));
        let lines = placed.flat_map(|(_, of)| of).filter(|line| line.0 == sku);
        assert_eq!(reserved, lines.map(|line| line.1).sum::<i64>());
        let queue = store.queue(sku);
        assert!(quantity >= 0 && usize::try_from(backordered) == Ok(queue.len()));
        let waits = |id: &String| store.inventory_status(id) == "BACKORDERED";
        assert!(queue.is_sorted() && queue.iter().all(waits));
    }
    for id in orders.keys().filter(|id| store.inventory_status(id) == "BACKORDERED") {
        assert!([A, B, C].iter().any(|sku| store.queue(*sku).contains(id)), "{id} waits nowhere");
    }
}

/// When nothing is under way, nobody waits who could be filled.
fn audit_at_rest(store: &Store, orders: &BTreeMap<String, Vec<(Sku<'_>, i64)>>, is_strict: bool) {
    for sku in [A, B, C] {
        let queue = store.queue(sku);
        let tried = if is_strict { queue.len().min(1) } else { queue.len() };
        for id in &queue[..tried] {
            let is_short = |(sku, quantity): &(Sku<'_>, i64)| {
                let before = store.queue(*sku).first().is_some_and(|head| head < id);
                store.stock(*sku).0 < *quantity || (is_strict && before)
            };
            assert!(orders[id].iter().any(is_short), "{id} could be filled");
        }
    }
}

/// Orders of up to three lines, receipts, and changes heard in any order and again.
fn live(seed: u64, fill: TransactFn, is_strict: bool) {
    let mut rng = Rng::with_seed(seed);
    let mut store = Store::new(fill, &[(A, 10), (B, 3), (C, 0)]);
    let mut orders = BTreeMap::new();
    for number in 0..150 {
        match rng.u8(0..10) {
            0..=4 => {
                let mut skus = [A, B, C];
                rng.shuffle(&mut skus);
                let of = rng.usize(1..=3);
                let of: Vec<_> = skus[..of].iter().map(|sku| (*sku, rng.i64(1..=9))).collect();
                let id = format!("{number:03}");
                store.order(&id, &of);
                orders.insert(id, of);
            }
            5..=6 => store.receive([A, B, C][rng.usize(0..3)], rng.i64(1..=12)),
            _ if store.changed.is_empty() => {}
            heard => {
                let at = rng.usize(0..store.changed.len());
                let key = store.changed[at].clone();
                if heard < 9 {
                    store.changed.swap_remove(at);
                }
                for id in store.hear(&key).iter().filter(|_| is_strict) {
                    let overtaken = |(sku, _): &(Sku<'_>, i64)| {
                        store.queue(*sku).first().is_some_and(|head| head < id)
                    };
                    assert!(!orders[id].iter().any(overtaken), "{id} overtakes");
                }
            }
        }
        audit(&store, &orders);
    }
    store.settle();
    audit_at_rest(&store, &orders, is_strict);
    for sku in [A, B, C] {
        store.receive(sku, 10_000);
    }
    store.settle();
    audit(&store, &orders);
    assert!([A, B, C].iter().all(|sku| store.queue(*sku).is_empty()), "two wait for each other");
}

#[test]
fn whatever_comes_in_whatever_order_nobody_is_overtaken_forgotten_or_waited_for_in_a_circle() {
    (0..100).for_each(|seed| live(seed, fill, true));
}

#[test]
fn with_skipping_nobody_is_forgotten_or_waited_for_in_a_circle() {
    (0..100).for_each(|seed| live(seed, fill_skipping, false));
}
