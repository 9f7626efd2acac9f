//! Canceling by the functions alone: at every step of an order's life, whatever its payment comes
//! to, nothing is held in the end.

use wims_runtime::functions::{
    CallOutcome, Delivery, DeliveryInput, RouteFn, TaskInput, TransactFn,
};
use wims_runtime::items::Items;
use wims_stack::{EventView, Field, Node};

use super::*;
use crate::domain::{DEFAULT_SKU, Sku};
use crate::fns::{backorders, declines, fulfillment, inventory, orders, payments, refunds, sample};

/// What the order has of the stock, and what there is at first.
const QUANTITY: i64 = 7;
/// A canceled order is not charged when nothing is found this long after its call ended.
const TRUSTED_AFTER_MS: u64 = 60_000;

/// The table, its time, and what became of the order's money at the payments API.
struct Shop {
    items: Items,
    seq: u64,
    now_ms: u64,
    /// The wall clock is so much before the engine's own.
    ahead_ms: i64,
    charged: bool,
    refunded: bool,
}

impl Shop {
    /// A shop with so much stock, and one order.
    fn new(stock: i64) -> Shop {
        let now_ms = 1_700_000_000_000;
        let mut shop = Shop {
            items: sample::table(),
            seq: 0,
            now_ms,
            ahead_ms: 0,
            charged: false,
            refunded: false,
        };
        let sku = DEFAULT_SKU;
        let row = Doc::object(&[
            ("backordered", Field::Int(0)),
            ("currency", Field::Str("USD")),
            ("pk", Field::Str(&sku.pk())),
            ("quantity", Field::Int(stock)),
            ("reserved", Field::Int(0)),
            ("sk", Field::Str(&sku.sk())),
            ("sku", Field::Str(&sku.to_string())),
            ("unitPrice", Field::Int(2_500)),
        ]);
        shop.set(&row, Some(row.clone()));
        // With an address, the last notice would have to be told before it goes.
        let contact = Doc::object(&[("paymentMethod", Field::Str("tok_1"))]);
        let order = [
            ("contact", Field::View(contact.view())),
            ("customerId", Field::Str("349")),
            ("quantity", Field::Int(QUANTITY)),
        ];
        shop.call(orders::create_order, &order).expect("it is taken");
        shop
    }

    fn set(&mut self, key: &Doc, item: Option<Doc>) {
        self.seq += 1;
        self.items.set(key, item, self.seq, self.seq);
    }

    fn call(&mut self, function: RouteFn, arguments: &[(&str, Field<'_>)]) -> Result<Doc, Refusal> {
        let arguments = Doc::object(arguments);
        let now_ms = self.now_ms;
        let asked = function(&RouteInput { now_ms, ..sample::request(&self.items, &arguments) });
        asked.map(|Routed { writes, reply }| {
            assert!(self.transact(&writes), "what a route has seen holds: {writes:?}");
            reply
        })
    }

    fn clock_ms(&self) -> u64 {
        self.now_ms.checked_add_signed(-self.ahead_ms).expect("clocks are far from zero")
    }

    /// Somebody sets the wall clock.
    fn leap(&mut self, ms: i64) {
        self.now_ms = self.now_ms.checked_add_signed(ms).expect("clocks are far from zero");
        self.ahead_ms += ms;
    }

    /// Carries out a transaction; false when a condition does not hold.
    fn transact(&mut self, writes: &[Write]) -> bool {
        sample::transact(&mut self.items, &mut self.seq, writes).is_some()
    }

    fn order(&self) -> Doc {
        let orders = self.items.list("customerId", "349", u64::MAX);
        orders.map(|item| item.doc.clone()).next().expect("it was placed")
    }

    fn states(&self) -> States {
        States::of(&self.order()).expect("three states")
    }

    fn row(&self) -> Doc {
        let row = self.items.get(&DEFAULT_SKU.pk(), &DEFAULT_SKU.sk());
        row.expect("it is known").doc.clone()
    }

    /// What of the stock is free, reserved, and waited for.
    fn stock(&self) -> [i64; 3] {
        let row = self.row();
        ["quantity", "reserved", "backordered"].map(|name| row.int(name).expect("a number"))
    }

    /// A task of a workflow, if what it is guarded by holds.
    fn task(&mut self, function: TransactFn, item: &Doc, guard: bool) {
        if !guard {
            return;
        }
        let input = TaskInput {
            event: EventView { source: "", detail_type: "", detail: Node::Str("") },
            item,
            reads: Reads::of(&self.items),
            now_ms: self.now_ms,
        };
        let writes = function(&input).expect("it does not fail");
        assert!(self.transact(&writes), "{writes:?}");
    }

    fn reserve(&mut self) {
        let is_new = self.states().inventory == InventoryStatus::Unreserved;
        self.task(inventory::reserve_stock, &self.order(), is_new);
    }

    fn receive(&mut self, quantity: i64) {
        let updates = vec![Update::Add("quantity", quantity.into())];
        assert!(self.transact(&[update(&self.row(), None, updates)]));
        let [free, _, waiting] = self.stock();
        let row = self.row();
        self.task(backorders::fill, &row, free > 0 && waiting > 0);
    }

    fn mark_ready(&mut self) {
        let states = self.states();
        let is_paid = (states.inventory, states.payment, states.fulfillment)
            == (InventoryStatus::Reserved, PaymentStatus::Paid, FulfillmentStatus::Unfulfilled);
        self.task(fulfillment::mark_ready, &self.order(), is_paid);
    }

    fn message(&self) -> Doc {
        let order = self.order();
        let filled = order.int("filledAt").map(Field::Int);
        let message = Doc::object(&[("orderId", Field::Str(order.str("orderId").unwrap_or("")))]);
        message.with(&[("filledAt", filled)])
    }

    fn delivery<'a>(&'a self, message: &'a Doc) -> DeliveryInput<'a> {
        DeliveryInput {
            message,
            reads: Reads::of(&self.items),
            now_ms: self.now_ms,
            clock_ms: self.clock_ms(),
        }
    }

    /// The payment message is received; whether a call or a look-up is made.
    fn receive_payment(&mut self) -> Option<Made> {
        let message = self.message();
        let prepared = payments::prepare_payment(&self.delivery(&message));
        match prepared {
            Delivery::Call { writes, .. } => self.transact(&writes).then_some(Made::Call),
            Delivery::LookUp { writes, .. } => self.transact(&writes).then_some(Made::LookUp),
            Delivery::Hide { delay_ms } => {
                assert!(delay_ms > 0 && delay_ms <= TRUSTED_AFTER_MS);
                self.now_ms += delay_ms;
                None
            }
            Delivery::Drop => None,
        }
    }

    fn end_call(&mut self, outcome: &CallOutcome) {
        let message = self.message();
        let writes = payments::payment_outcome(&self.delivery(&message), outcome);
        self.transact(&writes);
    }

    /// The grace is over that began with this image of the order.
    fn grace_over(&mut self, declined: &Doc) {
        let data = Doc::object(&[("NewImage", Field::View(declined.view()))]);
        let detail = Doc::object(&[("data", Field::View(data.view()))]);
        let order = self.order();
        let input = TaskInput {
            event: EventView { source: "", detail_type: "", detail: detail.view().into() },
            item: &order,
            reads: Reads::of(&self.items),
            now_ms: self.now_ms,
        };
        let writes = declines::cancel_declined(&input).expect("it does not fail");
        assert!(self.transact(&writes), "{writes:?}");
    }

    fn cancel(&mut self) -> Result<Doc, Refusal> {
        let order_id = self.order().str("orderId").unwrap_or("").to_owned();
        let reason = ("reason", Field::Str("found it cheaper"));
        let arguments = [("orderId", Field::Str(&order_id)), reason];
        self.call(cancel_order, &arguments)
    }

    /// Lets everything happen that follows, until nothing does: messages are received, look-ups
    /// find what the API knows, refunds are made.
    fn rest(&mut self) {
        for _ in 0..20 {
            self.reserve();
            self.mark_ready();
            match self.receive_payment() {
                Some(Made::Call) => {
                    assert!(!self.states().is_canceled(), "it is charged no more");
                    self.charged = true;
                    self.end_call(&CallOutcome::Succeeded);
                }
                Some(Made::LookUp) if self.charged => self.end_call(&CallOutcome::Succeeded),
                Some(Made::LookUp) => self.end_call(&CallOutcome::NotFound),
                None => {}
            }
            self.refund();
        }
    }

    fn refund(&mut self) {
        let message = self.message();
        let prepared = refunds::prepare_refund(&self.delivery(&message));
        let writes = match prepared {
            Delivery::Call { writes, .. } => writes,
            Delivery::Drop => return,
            Delivery::LookUp { .. } | Delivery::Hide { .. } => panic!("a refund is made or not"),
        };
        assert!(self.transact(&writes));
        assert!(self.charged, "only what was charged is refunded");
        self.refunded = true;
        let writes = refunds::refund_outcome(&self.delivery(&message), &CallOutcome::Succeeded);
        assert!(self.transact(&writes));
    }
}

/// What a payment message led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Call,
    LookUp,
}

/// A step of an order's life.
type Step = fn(&mut Shop);

fn call(shop: &mut Shop) {
    assert_eq!(shop.receive_payment(), Some(Made::Call));
}

fn look_up(shop: &mut Shop) {
    assert_eq!(shop.receive_payment(), Some(Made::LookUp));
}

/// A call that is carried out when its answer is lost.
fn charged_unseen(shop: &mut Shop) {
    shop.charged = true;
    shop.end_call(&CallOutcome::Unknown("no answer in time".into()));
}

fn unknown(shop: &mut Shop) {
    shop.end_call(&CallOutcome::Unknown("no answer in time".into()));
}

fn paid(shop: &mut Shop) {
    shop.charged = true;
    shop.end_call(&CallOutcome::Succeeded);
}

fn nothing_found(shop: &mut Shop) {
    shop.end_call(&CallOutcome::NotFound);
}

fn receipt(shop: &mut Shop) {
    shop.receive(5);
}

fn life(stock: i64, steps: &[Step]) -> (i64, Vec<Step>) {
    (stock, steps.to_vec())
}

/// Lives of orders, step by step, each with the stock it begins with.
fn lives() -> Vec<(i64, Vec<Step>)> {
    let deferred: Step = |shop| shop.end_call(&CallOutcome::Deferred);
    let declined: Step = |shop| shop.end_call(&CallOutcome::Declined("no money".into()));
    let refused: Step = |shop| shop.end_call(&CallOutcome::Refused("unknown card".into()));
    let exhausted: Step = |shop| shop.end_call(&CallOutcome::Exhausted("no answer".into()));
    vec![
        life(10, &[Shop::reserve, call, paid, Shop::mark_ready]),
        life(3, &[Shop::reserve, receipt, call, paid, Shop::mark_ready]),
        life(10, &[Shop::reserve, call, deferred, call, paid]),
        life(10, &[Shop::reserve, call, declined]),
        life(10, &[Shop::reserve, call, refused]),
        life(10, &[Shop::reserve, call, charged_unseen, look_up, paid, Shop::mark_ready]),
        life(10, &[Shop::reserve, call, unknown, look_up, nothing_found, call, paid]),
        life(10, &[Shop::reserve, call, charged_unseen, exhausted]),
        life(10, &[Shop::reserve, call, unknown, exhausted]),
        // A former life made the call: nobody waits for its answer.
        life(10, &[Shop::reserve, call, look_up, nothing_found]),
    ]
}

#[test]
fn canceled_at_any_moment_of_its_life_an_order_ends_without_stock_and_money() {
    let mut moments = 0;
    for (life, (stock, steps)) in lives().into_iter().enumerate() {
        for cancel_after in 0..=steps.len() {
            let mut shop = Shop::new(stock);
            steps[..cancel_after].iter().for_each(|step| step(&mut shop));
            let at = format!("life {life} after {cancel_after} steps, {:?}", shop.states());
            let on_hand = shop.stock()[0] + shop.stock()[1];
            let reply = shop.cancel().unwrap_or_else(|refusal| panic!("{at}: {refusal}"));
            assert_eq!(reply, shop.order(), "{at}");
            assert_eq!(shop.stock(), [on_hand, 0, 0], "{at}: its stock is free at once");
            let again = shop.cancel().expect("repeating it is allowed");
            assert_eq!(again, reply, "{at}: and changes nothing");
            shop.rest();
            assert_eq!(shop.order().str("status"), Some("CANCELED"), "{at}: {:?}", shop.order());
            assert_eq!(shop.charged, shop.refunded, "{at}: its money is back");
            assert_eq!(shop.stock(), [on_hand, 0, 0], "{at}: it takes no stock any more");
            assert_eq!(contacts::of(Reads::of(&shop.items), &shop.order()), None, "{at}");
            assert_eq!(shop.order().str("cancelReason"), Some("found it cheaper"));
            moments += 1;
        }
    }
    assert_eq!(moments, 55, "steps and one more of each life");
}

#[test]
fn an_answer_that_comes_after_the_cancellation_is_refunded_or_voids_it() {
    for (outcome, ends_as) in [
        (CallOutcome::Succeeded, "REFUNDED"),
        (CallOutcome::Declined("no money".into()), "VOIDED"),
        (CallOutcome::Deferred, "VOIDED"),
        (CallOutcome::Refused("unknown card".into()), "VOIDED"),
        (CallOutcome::Unknown("no answer in time".into()), "VOIDED"),
        (CallOutcome::Exhausted("no answer in time".into()), "VOIDED"),
    ] {
        let mut shop = Shop::new(10);
        shop.reserve();
        call(&mut shop);
        let canceled = shop.cancel().expect("it is allowed");
        assert_eq!(canceled.str("status"), Some("CANCELING"));
        shop.charged = outcome == CallOutcome::Succeeded;
        shop.end_call(&outcome);
        shop.rest();
        let order = shop.order();
        assert_eq!(order.str("paymentStatus"), Some(ends_as), "{outcome:?}");
        assert_eq!(order.str("status"), Some("CANCELED"), "{outcome:?}");
    }
}

#[test]
fn what_a_look_up_does_not_find_is_believed_a_minute_after_the_call_ended() {
    let mut shop = Shop::new(10);
    shop.reserve();
    call(&mut shop);
    unknown(&mut shop);
    let ended_ms = shop.now_ms;
    look_up(&mut shop);
    shop.cancel().expect("it is allowed");
    nothing_found(&mut shop);
    assert_eq!(shop.order().str("paymentStatus"), Some("UNKNOWN"), "it may be on the wire");
    assert_eq!(shop.receive_payment(), None);
    assert_eq!(shop.now_ms, ended_ms + TRUSTED_AFTER_MS, "until then nobody looks");
    look_up(&mut shop);
    nothing_found(&mut shop);
    assert_eq!(shop.order().str("status"), Some("CANCELED"));
}

#[test]
fn a_call_that_never_left_leaves_nothing_to_wait_for_unless_one_before_it_did() {
    let mut shop = Shop::new(10);
    shop.reserve();
    call(&mut shop);
    shop.end_call(&CallOutcome::NotSent);
    let order = shop.cancel().expect("it is allowed");
    assert_eq!(order.str("status"), Some("CANCELED"), "it was never charged: {order:?}");
    let mut shop = Shop::new(10);
    shop.reserve();
    call(&mut shop);
    shop.cancel().expect("it is allowed");
    shop.end_call(&CallOutcome::NotSent);
    assert_eq!(shop.order().str("status"), Some("CANCELED"));
    let mut shop = Shop::new(10);
    shop.reserve();
    call(&mut shop);
    shop.end_call(&CallOutcome::Deferred);
    call(&mut shop);
    shop.end_call(&CallOutcome::NotSent);
    let order = shop.cancel().expect("it is allowed");
    assert_eq!(order.str("paymentStatus"), Some("UNKNOWN"), "a proxy may have sent the first");
}

#[test]
fn a_wall_clock_that_leaps_makes_a_look_up_neither_trusted_nor_wait() {
    for leap_ms in [3_600_000, -3_600_000] {
        let mut shop = Shop::new(10);
        shop.reserve();
        call(&mut shop);
        unknown(&mut shop);
        let ended_ms = shop.clock_ms();
        shop.leap(leap_ms);
        shop.cancel().expect("it is allowed");
        assert_eq!(shop.receive_payment(), None, "{leap_ms}");
        assert_eq!(shop.clock_ms(), ended_ms + TRUSTED_AFTER_MS, "{leap_ms}");
        look_up(&mut shop);
        nothing_found(&mut shop);
        assert_eq!(shop.order().str("status"), Some("CANCELED"), "{leap_ms}");
    }
}

#[test]
fn what_the_payments_api_once_said_is_not_why_an_order_was_canceled() {
    let mut shop = Shop::new(10);
    shop.reserve();
    call(&mut shop);
    unknown(&mut shop);
    shop.cancel().expect("it is allowed");
    shop.rest();
    let order = shop.order();
    assert_eq!((order.str("status"), order.str("reason")), (Some("CANCELED"), None));
    assert_eq!(order.str("cancelReason"), Some("found it cheaper"));
}

#[test]
fn a_shipped_order_is_not_canceled_and_a_canceled_one_is_not_shipped() {
    let mut shop = Shop::new(10);
    let ship = |shop: &mut Shop| {
        let order_id = shop.order().str("orderId").unwrap_or("").to_owned();
        shop.call(orders::ship_order, &[("orderId", Field::Str(&order_id))])
    };
    let steps: [Step; 4] = [Shop::reserve, call, paid, Shop::mark_ready];
    steps.iter().for_each(|step| step(&mut shop));
    ship(&mut shop).expect("it is READY");
    let refused = shop.cancel().expect_err("it has left");
    assert_eq!(refused.kind, RefusalKind::Conflict);
    let mut shop = Shop::new(10);
    steps.iter().for_each(|step| step(&mut shop));
    shop.cancel().expect("it has not left");
    let refused = ship(&mut shop).expect_err("its stock may be another's");
    assert_eq!(refused.kind, RefusalKind::Conflict);
}

#[test]
fn the_grace_of_an_earlier_decline_does_not_end_that_of_the_last() {
    let mut shop = Shop::new(10);
    let declined = |shop: &mut Shop| {
        call(shop);
        shop.end_call(&CallOutcome::Declined("no money".into()));
        shop.order()
    };
    shop.reserve();
    let first = declined(&mut shop);
    let order_id = first.str("orderId").unwrap_or("").to_owned();
    let method = ("paymentMethod", Field::Str("tok_other"));
    let arguments = [("orderId", Field::Str(&order_id)), method];
    let pending = shop.call(declines::pay_order, &arguments).expect("it was declined");
    assert_eq!((pending.str("status"), pending.int("charge")), (Some("PENDING"), Some(2)));
    let refused =
        shop.call(declines::pay_order, &[arguments[0], ("paymentMethod", Field::Str("x"))]);
    assert_eq!(refused.map_err(|refusal| refusal.kind), Err(RefusalKind::Conflict));
    let last = declined(&mut shop);
    shop.grace_over(&first);
    assert_eq!(shop.order(), last, "another method was tried since");
    shop.grace_over(&last);
    let canceled = shop.order();
    assert_eq!(canceled.str("status"), Some("CANCELED"));
    assert_eq!(canceled.str("cancelReason"), Some("declined"));
    assert_eq!(shop.stock(), [10, 0, 0]);
}

#[test]
fn an_order_of_32_lines_that_waits_for_all_is_canceled_in_one_transaction() {
    let models: Vec<String> = (0..32).map(|number| format!("M{number}")).collect();
    let mut shop = Shop::new(10);
    let lines = Doc::build(|w| {
        w.list(|w| {
            for model in &models {
                let sku = format!("BOLT/{model}");
                w.object(&[("quantity", Field::Int(2)), ("sku", Field::Str(&sku))]);
            }
        });
    });
    let skus: Vec<Sku<'_>> =
        models.iter().map(|model| Sku { product: "BOLT", model: model.as_str() }).collect();
    for sku in &skus {
        let row = Doc::object(&[
            ("backordered", Field::Int(0)),
            ("pk", Field::Str(&sku.pk())),
            ("quantity", Field::Int(0)),
            ("reserved", Field::Int(0)),
            ("sk", Field::Str(&sku.sk())),
            ("sku", Field::Str(&sku.to_string())),
        ]);
        shop.set(&row, Some(row.clone()));
    }
    let order = shop.order().with(&[("lines", Some(Field::View(lines.view())))]);
    shop.set(&order, Some(order.clone()));
    shop.reserve();
    let waiting = |shop: &Shop| -> i64 {
        let rows = skus.iter().filter_map(|sku| shop.items.get(&sku.pk(), &sku.sk()));
        rows.map(|row| row.doc.int("backordered").expect("a number")).sum()
    };
    assert_eq!(waiting(&shop), 32);
    let canceled = shop.cancel().expect("it is allowed");
    assert_eq!(canceled.str("status"), Some("CANCELED"));
    assert_eq!(waiting(&shop), 0);
}
