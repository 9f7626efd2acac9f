//! Declined payments: another payment method, or the cancellation when none comes.
//!
//! Promise: a new method is a new charge, under a key of its own, and only of an order whose last
//! one was declined, so never a second one that succeeds. Without one an order keeps its stock for
//! a time that is declared, counted from each decline; then it is canceled. It deliberately keeps
//! the method nowhere but in the order's contact data.

use wims_runtime::functions::{Refusal, RefusalKind, RouteInput, Routed, TaskError, TaskInput};
use wims_stack::{Condition, Doc, Field, Template, Update, Write};

use super::cancel::cancellation;
use super::payments::CALL_ENDED;
use super::{asked_order, contacts, update};
use crate::domain::{Move, PaymentStatus, States, stamp};

/// Why an order is canceled that nobody paid in another way.
const DECLINED: &str = "declined";

/// `POST /orders/{orderId}/payment`: arguments `{orderId, paymentMethod}`. The method that is being
/// charged already, or was, may be sent again.
pub fn pay_order(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let order = asked_order(input)?;
    let states = States::of(order).expect("a stored order has its three states");
    let method = input.arguments.str("paymentMethod").unwrap_or("");
    let contact = contacts::of(input.reads, order);
    if states.payment != PaymentStatus::Declined {
        let stored = contact.and_then(|contact| contact.str("paymentMethod"));
        if order.get("charge").is_some() && !states.is_canceled() && stored == Some(method) {
            return Ok(Routed { writes: Vec::new(), reply: order.clone() });
        }
        let order_id = order.str("orderId").unwrap_or("");
        let payment = states.payment.as_str();
        let detail = format!("the payment of order {order_id} is {payment}, not DECLINED");
        return Err(Refusal { kind: RefusalKind::Conflict, detail });
    }
    let mut updates = states.moved(Move::Payment(PaymentStatus::Pending), input.now_ms);
    updates.push(Update::SetInt("charge", order.int("charge").unwrap_or(1) + 1));
    // By it the payment message of this change is told from one that was sent before.
    updates.push(Update::SetInt("filledAt", stamp(input.now_ms)));
    updates.push(Update::Set("hasContact", Doc::build(|w| w.bool(true))));
    updates.extend([CALL_ENDED, "graces", "reason"].map(Update::Remove));
    let after = Update::apply_all(&updates, order).expect("the updates only set attributes");
    let guard = Condition::is("paymentStatus", PaymentStatus::Declined.as_str());
    let writes = vec![update(order, Some(guard), updates), stored(order, contact, method)];
    Ok(Routed { writes, reply: after })
}

/// The method goes into the order's contact data, which there may be none of.
fn stored(order: &Doc, contact: Option<&Doc>, method: &str) -> Write {
    if let Some(contact) = contact {
        let updates = vec![Update::set_str("paymentMethod", method)];
        return update(contact, Some(Condition::Exists), updates);
    }
    let text = |name| order.str(name).unwrap_or("");
    let contact = Doc::object(&[("paymentMethod", Field::Str(method))]);
    contacts::put(text("orderId"), text("customerId"), &contact)
}

/// `CancelDeclined`, when the grace is over: the order is canceled, unless another method was tried
/// since, for then this is not its last decline.
pub fn cancel_declined(input: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
    let order = input.item;
    let charge = Template::path("$.detail.data.NewImage.charge").render(&input.event);
    if charge.view().as_int() != order.int("charge") {
        return Ok(Vec::new());
    }
    let states = States::of(order).expect("a stored order has its three states");
    let spent = Update::Add("graces", (-1).into());
    let reads = input.reads;
    Ok(cancellation(reads, order, states, Some(DECLINED), vec![spent], input.now_ms).0)
}
