//! Canceling an order: what it holds is free at once, its money when its outcome is known.
//!
//! Promise: one transaction marks the order, releases its stock or takes it out of the queues it
//! waits in, and says what is next for its money. An order that is canceled never comes back: every
//! step of its life is guarded by a state it has left. It is CANCELED, and closed, only when it
//! holds neither stock nor money. Repeating it changes nothing. It deliberately calls nobody: what
//! became of a call, and a refund, are the business of the pipes that follow from the change.

use wims_runtime::functions::{Reads, Refusal, RefusalKind, RouteInput, Routed};
use wims_stack::{Condition, Doc, Update, Write};

use super::backorders::{departure, queue_of};
use super::payments::CALL_ENDED;
use super::{asked_order, contacts, of_stock, update};
use crate::domain::{
    FulfillmentStatus, InventoryStatus, Line, Move, OrderStatus, PaymentStatus, States, lines,
    stamp,
};

/// `POST /orders/{orderId}/cancel`: arguments `{orderId, reason?}`. The reply is the order: it is
/// CANCELED, or on its way there.
pub fn cancel_order(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let order = asked_order(input)?;
    let states = States::of(order).expect("a stored order has its three states");
    if states.is_canceled() {
        return Ok(Routed { writes: Vec::new(), reply: order.clone() });
    }
    if states.inventory == InventoryStatus::Shipped {
        let order_id = order.str("orderId").unwrap_or("");
        let detail = format!("order {order_id} is SHIPPED; it cannot be canceled any more");
        return Err(Refusal { kind: RefusalKind::Conflict, detail });
    }
    let reason = input.arguments.str("reason");
    let (reads, now_ms) = (input.reads, input.now_ms);
    let (writes, reply) = cancellation(reads, order, states, reason, Vec::new(), now_ms);
    Ok(Routed { writes, reply })
}

/// The writes that cancel an order which is neither canceled nor shipped, with more updates of it,
/// and the order after them. Of 32 lines it is at most the order, its contact data, and an entry and a stock row each.
pub(super) fn cancellation(
    reads: Reads<'_>,
    order: &Doc,
    states: States,
    reason: Option<&str>,
    more: Vec<Update>,
    now_ms: u64,
) -> (Vec<Write>, Doc) {
    let after = States {
        inventory: InventoryStatus::Released,
        payment: payment_after(order, states.payment),
        fulfillment: FulfillmentStatus::Unfulfilled,
    };
    let mut updates = after.moved(Move::Inventory(after.inventory), now_ms);
    updates.push(Update::SetConst("paymentStatus", after.payment.as_str()));
    updates.push(Update::SetConst("fulfillmentStatus", after.fulfillment.as_str()));
    updates.push(Update::SetInt("cancelRequestedAt", stamp(now_ms)));
    updates.extend(reason.map(|reason| Update::set_str("cancelReason", reason)));
    updates.extend(more);
    let canceled = Update::apply_all(&updates, order).expect("the updates only set attributes");
    let is_as_seen = Condition::All(vec![
        Condition::is("inventoryStatus", states.inventory.as_str()),
        Condition::is("paymentStatus", states.payment.as_str()),
    ]);
    let mut writes = vec![update(order, Some(is_as_seen), updates)];
    for line in lines(order) {
        match states.inventory {
            InventoryStatus::Reserved => writes.push(release(&line)),
            InventoryStatus::Backordered => {
                writes.extend(leave(reads, order, &line).into_iter().flatten());
            }
            // It holds nothing yet.
            InventoryStatus::Unreserved => {}
            InventoryStatus::Shipped | InventoryStatus::Released => {
                unreachable!("neither is canceled")
            }
        }
    }
    if after.status() == OrderStatus::Canceled {
        writes.extend(contacts::forget(reads, order));
    }
    (writes, canceled)
}

/// What is next for the money of an order that is canceled. Of one whose last call ended without
/// telling what became of it that is found out first, though it is tried anew since.
fn payment_after(order: &Doc, payment: PaymentStatus) -> PaymentStatus {
    match payment {
        PaymentStatus::Pending if order.get(CALL_ENDED).is_some() => PaymentStatus::Unknown,
        PaymentStatus::Pending | PaymentStatus::Declined => PaymentStatus::Voided,
        PaymentStatus::Paid => PaymentStatus::RefundPending,
        PaymentStatus::Processing
        | PaymentStatus::Unknown
        | PaymentStatus::Failed
        | PaymentStatus::Voided
        | PaymentStatus::RefundPending
        | PaymentStatus::Refunded
        | PaymentStatus::RefundFailed => payment,
    }
}

/// What was reserved for a line can be promised again: the change wakes who waits for it.
fn release(line: &Line<'_>) -> Write {
    let held = Condition::AtLeast("reserved".into(), line.quantity.into());
    let updates = vec![
        Update::Add("quantity", line.quantity.into()),
        Update::Add("reserved", (-line.quantity).into()),
    ];
    of_stock(&line.sku, held, updates)
}

/// The order leaves the queue of a line's sku, if it waits there: that its stock row changes wakes
/// those behind it.
fn leave(reads: Reads<'_>, order: &Doc, line: &Line<'_>) -> Option<[Write; 2]> {
    let order_id = order.str("orderId")?;
    reads.get(&queue_of(&line.sku), order_id)?;
    let waits = Condition::AtLeast("backordered".into(), 1.into());
    let count = of_stock(&line.sku, waits, vec![Update::Add("backordered", (-1).into())]);
    Some([departure(order_id, &line.sku), count])
}

#[cfg(test)]
mod tests;
