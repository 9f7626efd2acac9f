//! Functions of the refunds queue: what a refund needs, and what its outcome means.
//!
//! Promise: only a canceled order that was charged is refunded, under the key it was charged with,
//! which makes it one refund however often it is asked for. So an unknown outcome is tried again
//! and never looked up. The order is CANCELED, and closed, once its money is back.

use wims_runtime::functions::{CallOutcome, Delivery, DeliveryInput};
use wims_stack::{Condition, Doc, Field, Write};

use super::payments::{find_order, reason_of};
use super::{contacts, update};
use crate::domain::{Move, PaymentStatus, States, charge_key};

/// Decides what a message `{orderId}` needs; the order says it, not the message.
pub fn prepare_refund(input: &DeliveryInput<'_>) -> Delivery {
    let Some((order, states)) = find(input) else { return Delivery::Drop };
    let writes = match states.payment {
        PaymentStatus::RefundPending => Vec::new(),
        // It was given up, and a person sent its message back.
        PaymentStatus::RefundFailed => {
            let to = Move::Payment(PaymentStatus::RefundPending);
            let guard = Condition::is("paymentStatus", states.payment.as_str());
            vec![update(order, Some(guard), states.moved(to, input.now_ms))]
        }
        PaymentStatus::Pending
        | PaymentStatus::Processing
        | PaymentStatus::Unknown
        | PaymentStatus::Paid
        | PaymentStatus::Declined
        | PaymentStatus::Failed
        | PaymentStatus::Voided
        | PaymentStatus::Refunded => return Delivery::Drop,
    };
    Delivery::Call { writes, key: charge_key(order), body: request(order) }
}

fn find<'a>(input: &DeliveryInput<'a>) -> Option<(&'a Doc, States)> {
    let order = find_order(input)?;
    Some((order, States::of(order)?))
}

fn request(order: &Doc) -> Doc {
    let text = |name| Field::Str(order.str(name).unwrap_or(""));
    Doc::object(&[
        ("amount", Field::Int(order.int("amount").unwrap_or(0))),
        ("currency", text("currency")),
        ("orderId", text("orderId")),
    ])
}

/// Turns an outcome into the order's next payment status. What is tried again changes nothing.
pub fn refund_outcome(input: &DeliveryInput<'_>, outcome: &CallOutcome) -> Vec<Write> {
    let Some((order, states)) = find(input) else { return Vec::new() };
    let (to, reason) = match outcome {
        CallOutcome::Succeeded => (PaymentStatus::Refunded, None),
        CallOutcome::Declined(reason)
        | CallOutcome::Refused(reason)
        | CallOutcome::Exhausted(reason) => (PaymentStatus::RefundFailed, Some(reason.as_str())),
        CallOutcome::NotSent
        | CallOutcome::Deferred
        | CallOutcome::Unknown(_)
        | CallOutcome::NotFound => {
            return Vec::new();
        }
    };
    let mut updates = states.moved(Move::Payment(to), input.now_ms);
    updates.push(reason_of(input, order, reason));
    let guard = Condition::is("paymentStatus", PaymentStatus::RefundPending.as_str());
    let mut writes = vec![update(order, Some(guard), updates)];
    if to == PaymentStatus::Refunded {
        writes.extend(contacts::forget(input.reads, order));
    }
    writes
}
