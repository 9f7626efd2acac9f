//! `cdc-enrichment`: the article's function, and the business events that follow from the images.
//!
//! Promise: its change event is the article's, field for field, and a pure function of the record.
//! Business events tell outcomes; they follow from old and new image, never from a second send,
//! so a bulk correction of the table tells them too.

use wims_runtime::functions::{PutEvent, StreamRecord};
use wims_stack::{Doc, Field, Tree, View};

use crate::domain::{
    BUSINESS_SOURCE, CDC_EVENT, CUSTOMER, FulfillmentStatus, INVENTORY, InventoryStatus,
    PROJECT_SOURCE, PaymentStatus, flat_item, flat_order,
};

/// Business events this function can publish.
pub const BUSINESS_EVENTS: [&str; 14] = [
    "order.received",
    "stock.reserved",
    "order.backordered",
    "payment.succeeded",
    "payment.declined",
    "payment.unknown",
    "payment.deadLettered",
    "payment.refunded",
    "order.ready",
    "order.shipped",
    "order.canceled",
    "stock.received",
    "stock.low",
    "stock.out",
];

/// Makes the article's change event of every record, and the business events beside it.
pub fn cdc_enrichment(records: &[StreamRecord<'_>]) -> Vec<PutEvent> {
    let mut events = Vec::with_capacity(records.len() * 2);
    for (record, images) in records.iter().enumerate() {
        events.push(PutEvent {
            record,
            source: PROJECT_SOURCE,
            detail_type: CDC_EVENT,
            detail: cdc_event_v1(images),
            by_value: false,
        });
        business_events(images, &mut |detail_type, detail| {
            events.push(PutEvent {
                record,
                source: BUSINESS_SOURCE,
                detail_type,
                detail: Tree::Doc(detail),
                by_value: true,
            });
        });
    }
    events
}

/// The article's `{meta, data}`. Frozen: another shape is another function.
pub fn cdc_event_v1(images: &StreamRecord<'_>) -> Tree {
    let (event_name, event_type) = match (images.old, images.new) {
        (Some(_), Some(_)) => ("MODIFY", "UPDATE"),
        (Some(_), None) => ("REMOVE", "REMOVE"),
        (None, _) => ("INSERT", "INSERT"),
    };
    let image = images.old.or(images.new);
    let key = |name| image.and_then(|doc| doc.part(name)).map_or(Tree::Const(""), Tree::Doc);
    let mut data = Vec::with_capacity(6);
    data.push(("pk", key("pk")));
    data.push(("sk", key("sk")));
    data.push(("eventName", Tree::Const(event_name)));
    data.push(("eventType", Tree::Const(event_type)));
    data.extend(images.new.map(|doc| ("NewImage", Tree::Doc(doc.clone()))));
    data.extend(images.old.map(|doc| ("OldImage", Tree::Doc(doc.clone()))));
    let meta = vec![("fn", Tree::Const("cdc-enrichment"))];
    Tree::Map(vec![("meta", Tree::Map(meta)), ("data", Tree::Map(data))])
}

fn business_events(images: &StreamRecord<'_>, publish: &mut impl FnMut(&'static str, Doc)) {
    let Some(new) = images.new else { return };
    let pk = new.get("pk").and_then(View::text_bytes).unwrap_or(b"");
    if pk.starts_with(CUSTOMER.as_bytes()) {
        order_events(images.old, new, publish);
    } else if pk.starts_with(INVENTORY.as_bytes()) {
        stock_events(images.old, new, publish);
    }
}

fn order_events(old: Option<&Doc>, new: &Doc, publish: &mut impl FnMut(&'static str, Doc)) {
    if old.is_none() {
        publish("order.received", flat_order(new));
    }
    let became = |attribute: &'static str| {
        let (was, is) = (old.and_then(|old| old.get(attribute)), new.get(attribute)?);
        (was.map(View::bytes) != Some(is.bytes())).then(|| is.as_str())?
    };
    let payment = became("paymentStatus").and_then(PaymentStatus::parse);
    let outcomes = [
        became("inventoryStatus").and_then(InventoryStatus::parse).and_then(stock_outcome),
        payment.and_then(|status| payment_outcome(old, status)),
        became("fulfillmentStatus").and_then(FulfillmentStatus::parse).and_then(order_outcome),
    ];
    for event in outcomes.into_iter().flatten() {
        publish(event, flat_order(new));
    }
    // Its stock was released before: its money is the last it held.
    if matches!(payment, Some(PaymentStatus::Voided | PaymentStatus::Refunded)) {
        publish("order.canceled", flat_order(new));
    }
}

fn stock_outcome(status: InventoryStatus) -> Option<&'static str> {
    match status {
        InventoryStatus::Reserved => Some("stock.reserved"),
        InventoryStatus::Backordered => Some("order.backordered"),
        InventoryStatus::Unreserved | InventoryStatus::Shipped | InventoryStatus::Released => None,
    }
}

fn payment_outcome(old: Option<&Doc>, status: PaymentStatus) -> Option<&'static str> {
    match status {
        PaymentStatus::Paid => Some("payment.succeeded"),
        PaymentStatus::Declined => Some("payment.declined"),
        PaymentStatus::Unknown if had(old, PaymentStatus::Processing) => Some("payment.unknown"),
        PaymentStatus::Failed => Some("payment.deadLettered"),
        // Charged after its order was canceled.
        PaymentStatus::RefundPending
            if had(old, PaymentStatus::Processing) || had(old, PaymentStatus::Unknown) =>
        {
            Some("payment.succeeded")
        }
        PaymentStatus::Refunded => Some("payment.refunded"),
        // That an earlier call is to be looked up, or a refund to be made, is no outcome.
        PaymentStatus::Unknown
        | PaymentStatus::Pending
        | PaymentStatus::Processing
        | PaymentStatus::Voided
        | PaymentStatus::RefundPending
        | PaymentStatus::RefundFailed => None,
    }
}

fn order_outcome(status: FulfillmentStatus) -> Option<&'static str> {
    match status {
        FulfillmentStatus::Ready => Some("order.ready"),
        FulfillmentStatus::Shipped => Some("order.shipped"),
        FulfillmentStatus::Unfulfilled => None,
    }
}

fn had(old: Option<&Doc>, payment: PaymentStatus) -> bool {
    old.and_then(|order| order.str("paymentStatus")) == Some(payment.as_str())
}

fn stock_events(old: Option<&Doc>, new: &Doc, publish: &mut impl FnMut(&'static str, Doc)) {
    let number = |doc: &Doc, name: &str| doc.int(name).unwrap_or(0);
    let was = |name: &str| old.map_or(0, |old| number(old, name));
    let (quantity, reorder_point) = (number(new, "quantity"), number(new, "reorderPoint"));
    if was("quantity") + was("reserved") < quantity + number(new, "reserved") {
        publish("stock.received", flat_item(new));
    }
    let Some(old) = old else { return };
    let was_low = number(old, "quantity") <= number(old, "reorderPoint");
    if quantity <= reorder_point && !was_low {
        publish("stock.low", item_and_order(old, new));
    }
    if quantity == 0 && was("quantity") > 0 {
        publish("stock.out", item_and_order(old, new));
    }
}

/// The item, with the order that made this change if one did.
fn item_and_order(old: &Doc, new: &Doc) -> Doc {
    let item = flat_item(new);
    let order = new.str("lastOrderId").filter(|order| old.str("lastOrderId") != Some(*order));
    match order {
        Some(order) => item.with(&[("orderId", Some(Field::Str(order)))]),
        None => item,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stock(quantity: i64, reorder_point: i64) -> Doc {
        Doc::object(&[
            ("pk", Field::Str("INVENTORY#MACGUFFIN")),
            ("sk", Field::Str("MODEL#LX")),
            ("quantity", Field::Int(quantity)),
            ("reorderPoint", Field::Int(reorder_point)),
            ("reserved", Field::Int(1_000 - quantity)),
        ])
    }

    fn events(old: Option<&Doc>, new: &Doc) -> Vec<&'static str> {
        let put = cdc_enrichment(&[StreamRecord { old, new: Some(new) }]);
        put.iter().map(|event| event.detail_type).collect()
    }

    #[test]
    fn the_change_event_is_the_articles_field_for_field() {
        let new = stock(100, 100);
        let event = cdc_event_v1(&StreamRecord { old: None, new: Some(&new) });
        let golden = r#"{"meta":{"fn":"cdc-enrichment"},"data":{"pk":"INVENTORY#MACGUFFIN","sk":"MODEL#LX","eventName":"INSERT","eventType":"INSERT","NewImage":{"pk":"INVENTORY#MACGUFFIN","quantity":100,"reorderPoint":100,"reserved":900,"sk":"MODEL#LX"}}}"#;
        assert_eq!(wims_stack::json::to_string(event.node()), golden);
        let removed = cdc_event_v1(&StreamRecord { old: Some(&new), new: None });
        let text = wims_stack::json::to_string(removed.node());
        assert!(text.contains(r#""eventName":"REMOVE","eventType":"REMOVE","OldImage""#), "{text}");
    }

    #[test]
    fn stock_is_low_on_crossing_downwards_only_and_when_the_point_is_raised_past_it() {
        assert_eq!(events(Some(&stock(101, 100)), &stock(100, 100)), ["cdcEvent", "stock.low"]);
        assert_eq!(events(Some(&stock(100, 100)), &stock(99, 100)), ["cdcEvent"]);
        assert_eq!(events(Some(&stock(99, 100)), &stock(100, 100)), ["cdcEvent"]);
        assert_eq!(events(Some(&stock(150, 100)), &stock(150, 200)), ["cdcEvent", "stock.low"]);
        assert_eq!(
            events(Some(&stock(7, 0)), &stock(0, 0)),
            ["cdcEvent", "stock.low", "stock.out"]
        );
    }

    #[test]
    fn a_payment_that_is_unknown_is_told_unless_a_person_sent_it_back() {
        let order = |payment| {
            let pk = ("pk", Field::Str("CUSTOMER#349"));
            Doc::object(&[pk, ("paymentStatus", Field::Str(payment))])
        };
        let told = |from, to| events(Some(&order(from)), &order(to));
        assert_eq!(told("PROCESSING", "UNKNOWN"), ["cdcEvent", "payment.unknown"]);
        assert_eq!(told("FAILED", "UNKNOWN"), ["cdcEvent"]);
        assert_eq!(told("UNKNOWN", "FAILED"), ["cdcEvent", "payment.deadLettered"]);
        assert_eq!(told("PENDING", "UNKNOWN"), ["cdcEvent"]);
    }

    #[test]
    fn a_cancellation_is_told_when_the_last_it_held_is_gone() {
        let order = |payment| {
            let pk = ("pk", Field::Str("CUSTOMER#349"));
            Doc::object(&[pk, ("paymentStatus", Field::Str(payment))])
        };
        let told = |from, to| events(Some(&order(from)), &order(to));
        assert_eq!(told("PENDING", "VOIDED"), ["cdcEvent", "order.canceled"]);
        assert_eq!(told("PAID", "REFUND_PENDING"), ["cdcEvent"]);
        assert_eq!(told("UNKNOWN", "REFUND_PENDING"), ["cdcEvent", "payment.succeeded"]);
        assert_eq!(told("REFUND_FAILED", "REFUND_PENDING"), ["cdcEvent"]);
        let done = ["cdcEvent", "payment.refunded", "order.canceled"];
        assert_eq!(told("REFUND_PENDING", "REFUNDED"), done);
    }

    #[test]
    fn events_of_an_item_carry_the_order_that_made_the_change_and_no_earlier_one() {
        let told = |old: &Doc, new: &Doc| -> Vec<(&'static str, Option<String>)> {
            let put = cdc_enrichment(&[StreamRecord { old: Some(old), new: Some(new) }]);
            let business = put.iter().filter(|event| event.by_value);
            let of = |event: &PutEvent| {
                let detail = event.detail.to_doc();
                assert_eq!(detail.str("lastOrderId"), None);
                (event.detail_type, detail.str("orderId").map(str::to_owned))
            };
            business.map(of).collect()
        };
        let by = |order: &str, item: Doc| item.with(&[("lastOrderId", Some(Field::Str(order)))]);
        let b = || Some("b".to_owned());
        assert_eq!(
            told(&by("a", stock(7, 5)), &by("b", stock(0, 5))),
            [("stock.low", b()), ("stock.out", b())]
        );
        let raised = told(&by("a", stock(7, 5)), &by("a", stock(7, 9)));
        assert_eq!(raised, [("stock.low", None)]);
        let more = by("a", stock(7, 5)).with(&[("quantity", Some(Field::Int(9)))]);
        assert_eq!(told(&by("a", stock(7, 5)), &more), [("stock.received", None)]);
    }
}
