//! What an open order cannot do without: a message, an event or a place in a queue.
//!
//! Promise: an order whose states say that something must be under way names what that is, so that
//! one for which nothing is can be found. It deliberately mends nothing and looks at no queue: the
//! engine does the looking.

use wims_runtime::functions::Reads;
use wims_runtime::stuck::{Needs, Waits};
use wims_stack::{Doc, View};

use super::backorders::queue_of;
use crate::domain::{
    FulfillmentStatus, InventoryStatus, OrderStatus, PaymentStatus, States, lines,
};

/// How it is told what orders wait for.
pub const WAITS: Waits = Waits { attribute: "orderId", needs, subject, dead_events: "events-dlq" };
/// Where a payment is while it is to be made; one that was sent back has not been received yet.
const PAYMENT: &[&str] = &["payments-queue", "payments-dlq"];
/// Where a refund is while it is to be made.
const REFUND: &[&str] = &["refunds-queue", "refunds-dlq"];

fn needs(order: &Doc, reads: Reads<'_>) -> Needs {
    let Some(states) = States::of(order) else { return Needs::Nothing };
    match states.status() {
        OrderStatus::Shipped | OrderStatus::Canceled => Needs::Nothing,
        OrderStatus::Canceling if states.payment == PaymentStatus::RefundPending => {
            Needs::Message(REFUND)
        }
        OrderStatus::Canceling => Needs::Message(PAYMENT),
        OrderStatus::Ready if states.fulfillment == FulfillmentStatus::Unfulfilled => Needs::Event,
        OrderStatus::Ready => Needs::Nothing,
        OrderStatus::OnHold if states.payment == PaymentStatus::Declined => Needs::Nothing,
        OrderStatus::OnHold if states.payment == PaymentStatus::RefundFailed => {
            Needs::Message(REFUND)
        }
        OrderStatus::OnHold => Needs::Message(PAYMENT),
        OrderStatus::Backordered if is_queued(order, reads) => Needs::Nothing,
        OrderStatus::Backordered => Needs::Gone,
        OrderStatus::Pending if states.inventory == InventoryStatus::Unreserved => Needs::Event,
        OrderStatus::Pending => Needs::Message(PAYMENT),
    }
}

/// Whether an order is in the queue of one of its skus.
fn is_queued(order: &Doc, reads: Reads<'_>) -> bool {
    let order_id = order.str("orderId").unwrap_or("");
    lines(order).iter().any(|line| reads.get(&queue_of(&line.sku), order_id).is_some())
}

/// The order a change event is of.
fn subject(event: &Doc) -> Option<&str> {
    let data = event.get("detail")?.get("data")?;
    data.get("NewImage")?.get("orderId").and_then(View::as_str)
}

#[cfg(test)]
mod tests {
    use wims_runtime::items::Items;
    use wims_stack::{Action, Field};

    use super::super::backorders::entry;
    use super::*;
    use crate::domain::{DEFAULT_SKU, Line};
    use crate::fns::sample;

    fn order(inventory: &str, payment: &str, fulfillment: &str) -> Doc {
        let line = serde_json::json!([{"sku": "MACGUFFIN/LX", "quantity": 2}]);
        let lines = wims_stack::json::to_doc(&line).expect("it is a document");
        Doc::object(&[
            ("fulfillmentStatus", Field::Str(fulfillment)),
            ("inventoryStatus", Field::Str(inventory)),
            ("lines", Field::View(lines.view())),
            ("orderId", Field::Str("a")),
            ("paymentStatus", Field::Str(payment)),
        ])
    }

    fn needed(items: &Items, order: &Doc) -> Needs {
        needs(order, Reads::of(items))
    }

    #[test]
    fn an_order_needs_what_its_states_say() {
        let items = sample::table();
        let of = |states: [&str; 3]| needed(&items, &order(states[0], states[1], states[2]));
        let open = "UNFULFILLED";
        assert_eq!(of(["UNRESERVED", "PENDING", open]), Needs::Event);
        assert_eq!(of(["RESERVED", "UNKNOWN", open]), Needs::Message(PAYMENT));
        assert_eq!(of(["RELEASED", "UNKNOWN", open]), Needs::Message(PAYMENT));
        assert_eq!(of(["RELEASED", "REFUND_PENDING", open]), Needs::Message(REFUND));
        assert_eq!(of(["RELEASED", "REFUND_FAILED", open]), Needs::Message(REFUND));
        assert_eq!(of(["RELEASED", "REFUNDED", open]), Needs::Nothing);
        assert_eq!(of(["RESERVED", "FAILED", open]), Needs::Message(PAYMENT));
        assert_eq!(of(["RESERVED", "DECLINED", open]), Needs::Nothing);
        assert_eq!(of(["RESERVED", "PAID", open]), Needs::Event);
        assert_eq!(of(["RESERVED", "PAID", "READY"]), Needs::Nothing);
        assert_eq!(of(["SHIPPED", "PAID", "SHIPPED"]), Needs::Nothing);
    }

    #[test]
    fn who_waits_for_stock_needs_its_place_in_a_queue() {
        let (mut items, order) = (sample::table(), order("BACKORDERED", "PENDING", "UNFULFILLED"));
        assert_eq!(needed(&items, &order), Needs::Gone);
        let Action::Put(entry) = entry("a", &Line { sku: DEFAULT_SKU, quantity: 2 }).action else {
            panic!("an entry is put");
        };
        items.set(&entry, Some(entry.clone()), 1, 1);
        assert_eq!(needed(&items, &order), Needs::Nothing);
    }

    #[test]
    fn an_event_is_about_the_order_of_its_new_image() {
        let event = serde_json::json!({"detail": {"data": {"NewImage": {"orderId": "a"}}}});
        let event = wims_stack::json::to_doc(&event).expect("it is a document");
        assert_eq!(subject(&event), Some("a"));
        assert_eq!(subject(&Doc::object(&[])), None);
    }
}
