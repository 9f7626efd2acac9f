//! Golden events: what others read of WIMS, as JSON files beside the functions that make it.
//!
//! Promise: an order and an item go through the functions of the business, nothing else, and the
//! events that follow are those committed in `golden/`, field for field. `cdc_event_v1` is frozen:
//! its file changes only when what is stored does. Only `WIMS_BLESS=1` writes the files.

use std::path::Path;

use serde_json::{Value, json};
use wims_runtime::driver::log::{envelope, event_id};
use wims_runtime::functions::{
    CallOutcome, Delivery, DeliveryInput, Reads, RouteFn, RouteInput, Routed, StreamRecord,
    TaskInput, TransactFn,
};
use wims_runtime::items::Items;
use wims_runtime::record::{Change, Entry, Record};
use wims_runtime::trace::TraceId;
use wims_stack::json::to_value;
use wims_stack::{Action, Doc, EventView, Field, Node, Update, Write};

use super::cdc_enrichment::{BUSINESS_EVENTS, cdc_enrichment, cdc_event_v1};
use super::{cancel, fulfillment, inventory, orders, payments, refunds, sample};
use crate::domain::{CDC_EVENT, CUSTOMER, DEFAULT_SKU, INVENTORY, PROJECT_SOURCE};

/// Wall time of the first change; each is a millisecond later than the one before.
const BEGAN_MS: u64 = 1_700_000_000_000;
/// The first id given out, a UUIDv7.
const FIRST_ID: u128 = 0x018b_cfe5_6800_7000_8000_0000_0000_0001;
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

/// The table, as the functions read it, and all changes of it.
struct Store {
    items: Items,
    changes: Vec<Change>,
}

impl Store {
    fn new() -> Store {
        Store { items: sample::table(), changes: Vec::new() }
    }

    fn now_ms(&self) -> u64 {
        BEGAN_MS + self.changes.len() as u64
    }

    /// Carries out writes; that their conditions hold is the engine's business.
    fn write(&mut self, writes: Vec<Write>) {
        for Write { pk, sk, action, .. } in writes {
            let seq = 1 + self.changes.len() as u64;
            let item = self.items.get(&pk, &sk);
            let created = item.map_or(seq, |item| item.created);
            let old = item.map(|item| item.doc.clone());
            let new = match action {
                Action::Put(item) => Some(item),
                Action::Update(updates) => {
                    let item = old.as_ref().expect("what is updated is there");
                    Some(Update::apply_all(&updates, item).expect("numbers are added to numbers"))
                }
                Action::Delete => None,
                Action::Check => old.clone(),
            };
            let key = new.clone().or_else(|| old.clone()).expect("an item before or after");
            self.items.set(&key, new.clone(), created, seq);
            self.changes.push(Change { table: 0, created, old, new });
        }
    }

    /// A request through a route; its reply.
    fn call(&mut self, function: RouteFn, arguments: &[(&str, Field<'_>)]) -> Doc {
        let arguments = Doc::object(arguments);
        let input = RouteInput {
            arguments: &arguments,
            history: None,
            reads: Reads::of(&self.items),
            now_ms: self.now_ms(),
            id: FIRST_ID + self.changes.len() as u128,
            repeated: false,
        };
        let Routed { writes, reply } = function(&input).expect("it is not refused");
        self.write(writes);
        reply
    }

    /// A task of a workflow about an order.
    fn task(&mut self, function: TransactFn, order_id: &str) {
        let order = self.items.find("orderId", order_id).expect("the order is there").doc.clone();
        let input = TaskInput {
            event: EventView { source: "", detail_type: "", detail: Node::Str("") },
            item: &order,
            reads: Reads::of(&self.items),
            now_ms: self.now_ms(),
        };
        let writes = function(&input).expect("it does not fail");
        self.write(writes);
    }

    /// Takes an order and decides on its stock; its id.
    fn order(&mut self, quantity: i64) -> String {
        let arguments = [("customerId", Field::Str("349")), ("quantity", Field::Int(quantity))];
        let reply = self.call(orders::create_order, &arguments);
        let order_id = reply.str("orderId").expect("an id").to_owned();
        self.task(inventory::reserve_stock, &order_id);
        order_id
    }

    /// A call for an order's payment, or a look-up of an earlier one, and how it ends.
    fn pay(&mut self, order_id: &str, outcome: &CallOutcome) {
        let message = Doc::object(&[("orderId", Field::Str(order_id))]);
        let prepared = payments::prepare_payment(&self.delivery(&message));
        if let Delivery::Call { writes, .. } = prepared {
            self.write(writes);
        }
        let writes = payments::payment_outcome(&self.delivery(&message), outcome);
        self.write(writes);
    }

    /// How the refund of an order ends.
    fn refund(&mut self, order_id: &str, outcome: &CallOutcome) {
        let message = Doc::object(&[("orderId", Field::Str(order_id))]);
        let writes = refunds::refund_outcome(&self.delivery(&message), outcome);
        self.write(writes);
    }

    fn delivery<'a>(&'a self, message: &'a Doc) -> DeliveryInput<'a> {
        DeliveryInput {
            message,
            reads: Reads::of(&self.items),
            now_ms: self.now_ms(),
            clock_ms: self.now_ms(),
        }
    }
}

/// A store in which everything has happened that is told.
fn lived() -> Store {
    let mut store = Store::new();
    let (product, model) =
        (("product", Field::Str(DEFAULT_SKU.product)), ("model", Field::Str(DEFAULT_SKU.model)));
    let (name, price) =
        (("productName", Field::Str("MacGuffin")), ("unitPrice", Field::Int(2_500)));
    store.call(inventory::put_item, &[product, model, name, price]);
    store.call(inventory::receive_stock, &[product, model, ("quantity", Field::Int(120))]);
    let shipped = store.order(7);
    store.pay(&shipped, &CallOutcome::Succeeded);
    store.task(fulfillment::mark_ready, &shipped);
    store.call(orders::ship_order, &[("orderId", Field::Str(&shipped))]);
    // The stock falls below its reorder point of 100, then to nothing.
    let declined = store.order(20);
    store.pay(&declined, &CallOutcome::Declined("the card has expired".into()));
    let failed = store.order(93);
    store.pay(&failed, &CallOutcome::Unknown("no answer in time".into()));
    store.pay(&failed, &CallOutcome::Exhausted("no answer in time".into()));
    // There is none left for this one.
    store.order(1);
    // A look-up finds the failed payment after all.
    let reason = ("reason", Field::Str("found it cheaper"));
    store.call(cancel::cancel_order, &[("orderId", Field::Str(&failed)), reason]);
    store.pay(&failed, &CallOutcome::Succeeded);
    store.refund(&failed, &CallOutcome::Succeeded);
    store
}

/// The first two changes of what has keys of this prefix, and its removal, which nobody does yet.
fn life_of(prefix: &str, store: &Store) -> [Change; 3] {
    let is_of = |change: &&Change| {
        let image = change.new.as_ref().and_then(|image| image.str("pk"));
        image.is_some_and(|pk| pk.starts_with(prefix))
    };
    let mut changes = store.changes.iter().filter(is_of).cloned();
    let (insert, modify) = (changes.next().expect("one"), changes.next().expect("another"));
    let remove = Change { old: modify.new.clone(), new: None, ..modify.clone() };
    [insert, modify, remove]
}

/// The change event of a change, as the observer log shows it.
fn shown(seq: u64, trace: Option<TraceId>, change: &Change) -> Value {
    let (old, new) = (change.old.as_ref(), change.new.as_ref());
    let detail = cdc_event_v1(&StreamRecord { old, new });
    let (source, detail_type) = (PROJECT_SOURCE, CDC_EVENT);
    let view = EventView { source, detail_type, detail: detail.node() };
    let (wall_ms, cause, replay) = (BEGAN_MS + seq, 0, false);
    let record = Record::Change(change.clone());
    let entry = Entry { seq, wall_ms, cause, replay, trace, record };
    let text = envelope(&entry, event_id(seq, source, detail_type, 0, None), &view);
    serde_json::from_str(&text).expect("an event is JSON")
}

/// The first business event of each kind: all but its envelope.
fn business_events(store: &Store) -> Vec<Value> {
    let records: Vec<_> = store
        .changes
        .iter()
        .map(|change| StreamRecord { old: change.old.as_ref(), new: change.new.as_ref() })
        .collect();
    let events = cdc_enrichment(&records);
    let first_of = |kind: &&'static str| {
        let event = events.iter().find(|event| event.detail_type == *kind);
        let event = event.unwrap_or_else(|| panic!("nothing tells of {kind}"));
        let detail = to_value(event.detail.node());
        json!({"source": event.source, "detail-type": event.detail_type, "detail": detail})
    };
    BUSINESS_EVENTS.iter().map(first_of).collect()
}

/// Compares events with a committed file, which `WIMS_BLESS=1` writes first.
fn assert_golden(name: &str, events: Vec<Value>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fns/golden");
    let path = folder.join(name);
    let made = serde_json::to_string_pretty(&Value::Array(events)).expect("events are JSON") + "\n";
    if std::env::var_os("WIMS_BLESS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(&folder).expect("a writable source tree");
        std::fs::write(&path, &made).expect("a writable source tree");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        made, committed,
        "others read these events: a new attribute may be blessed with WIMS_BLESS=1, another shape \
         is another event"
    );
}

#[test]
fn change_events_of_an_order_and_an_item_are_those_committed() {
    let store = lived();
    // Only the order was asked for within a trace.
    let lives = [(CUSTOMER, TraceId::new(TRACE)), (INVENTORY, None)];
    let changes = lives.into_iter().flat_map(|(prefix, trace)| {
        life_of(prefix, &store).into_iter().map(move |change| (trace, change))
    });
    let events = (1..).zip(changes).map(|(seq, (trace, change))| shown(seq, trace, &change));
    assert_golden("cdc_event_v1.json", events.collect());
}

#[test]
fn business_events_are_those_committed() {
    assert_golden("business_events.json", business_events(&lived()));
}
