//! Functions of the PaymentsQueue: what a payment message needs, and what an outcome means.
//!
//! Promise: an order is never charged before its stock is reserved, always under one key, and an
//! unknown outcome is looked up before anything is tried again. Pace, waits and attempts are the
//! pipe's business, not ours. Of an order that is canceled nothing is charged any more: what became
//! of a call already made is looked up, and a success is refunded.

use wims_runtime::functions::{CallOutcome, Delivery, DeliveryInput, Reads};
use wims_stack::{Condition, Doc, Field, Template, Update, Write};

use super::{contacts, update};
use crate::domain::{
    InventoryStatus, Move, OrderStatus, PaymentStatus, States, charge_key, lines, stamp,
};

/// A message whose order waits for its stock decision is looked at again after this long.
const UNRESERVED_WAIT_MS: u64 = 1_000;
/// A canceled order is not charged when a look-up finds nothing this long after its call ended:
/// until then the call may be on the wire.
const NOT_FOUND_TRUSTED_AFTER_MS: u64 = 60_000;
/// When the last call ended that did not tell what became of it, on the engine's own clock: people
/// set the wall clock forward and back.
pub(super) const CALL_ENDED: &str = "callEndedClock";
/// A call is under way: only then can one be deferred.
const PROCESSING: &str = PaymentStatus::Processing.as_str();
/// A call is under way, or what became of it is looked up.
const UNDER_WAY: [&str; 2] = [PROCESSING, PaymentStatus::Unknown.as_str()];

/// What is sent when a payment is to be made anew, or a refund: a reference to the order, for it
/// says what is needed then. `filledAt` tells it from the messages that came before.
pub fn message() -> Template {
    let path = |name: &str| Template::path(&format!("$.detail.data.NewImage.{name}"));
    Template::Object(vec![
        ("filledAt".into(), path("filledAt")),
        ("orderId".into(), path("orderId")),
    ])
}

/// Decides what a message `{orderId}` needs; the order says it, not the message.
pub fn prepare_payment(input: &DeliveryInput<'_>) -> Delivery {
    let Some(order) = find_order(input) else { return Delivery::Drop };
    if is_of_before(input.message, order) {
        return Delivery::Drop;
    }
    let Some(states) = States::of(order) else { return Delivery::Drop };
    match (states.inventory, states.payment) {
        (InventoryStatus::Released, PaymentStatus::Unknown) => look_up_canceled(input, order),
        (InventoryStatus::Unreserved, PaymentStatus::Pending) => {
            Delivery::Hide { delay_ms: UNRESERVED_WAIT_MS }
        }
        (InventoryStatus::Reserved, PaymentStatus::Pending) => Delivery::Call {
            writes: vec![processing(input, order, states)],
            key: charge_key(order),
            body: request(input.reads, order),
        },
        // PROCESSING: a call is found under way though nobody waits for its answer, for a former
        // life made it. FAILED: it was given up, and a person sent its message back.
        (_, PaymentStatus::Processing | PaymentStatus::Failed) => {
            let writes = vec![unknown(input, order, states)];
            Delivery::LookUp { key: charge_key(order), writes }
        }
        (_, PaymentStatus::Unknown) => {
            Delivery::LookUp { key: charge_key(order), writes: Vec::new() }
        }
        (
            InventoryStatus::Backordered | InventoryStatus::Shipped | InventoryStatus::Released,
            PaymentStatus::Pending,
        )
        | (
            _,
            PaymentStatus::Paid
            | PaymentStatus::Declined
            | PaymentStatus::Voided
            | PaymentStatus::RefundPending
            | PaymentStatus::Refunded
            | PaymentStatus::RefundFailed,
        ) => Delivery::Drop,
    }
}

/// Nobody waits for the answer of an earlier look-up: it would not be trusted.
fn look_up_canceled(input: &DeliveryInput<'_>, order: &Doc) -> Delivery {
    match not_found_trusted_in_ms(order, input.clock_ms) {
        0 => Delivery::LookUp { key: charge_key(order), writes: Vec::new() },
        delay_ms => Delivery::Hide { delay_ms },
    }
}

/// How long it takes until a look-up that finds nothing means that the order is not charged.
fn not_found_trusted_in_ms(order: &Doc, clock_ms: u64) -> u64 {
    let ended_ms = order.int(CALL_ENDED).and_then(|ended| u64::try_from(ended).ok());
    let trusted_ms = ended_ms.map_or(0, |ended| ended.saturating_add(NOT_FOUND_TRUSTED_AFTER_MS));
    trusted_ms.saturating_sub(clock_ms)
}

/// Whether a message was sent before the order's stock came: the one that was sent then is its
/// payment's, and one is enough.
fn is_of_before(message: &Doc, order: &Doc) -> bool {
    let filled = order.int("filledAt");
    filled.is_some() && message.int("filledAt") != filled
}

/// The order a message is about.
pub(super) fn find_order<'a>(input: &DeliveryInput<'a>) -> Option<&'a Doc> {
    input.reads.find("orderId", input.message.str("orderId")?)
}

fn processing(input: &DeliveryInput<'_>, order: &Doc, states: States) -> Write {
    let guard = Condition::All(vec![
        Condition::is("inventoryStatus", InventoryStatus::Reserved.as_str()),
        Condition::is("paymentStatus", PaymentStatus::Pending.as_str()),
    ]);
    let to = Move::Payment(PaymentStatus::Processing);
    update(order, Some(guard), states.moved(to, input.now_ms))
}

/// Nobody knows what became of its payment: from now on the order waits for a look-up.
fn unknown(input: &DeliveryInput<'_>, order: &Doc, states: States) -> Write {
    let guard = Condition::is("paymentStatus", states.payment.as_str());
    let mut updates = states.moved(Move::Payment(PaymentStatus::Unknown), input.now_ms);
    if states.payment == PaymentStatus::Processing {
        updates.push(call_ended(input));
    }
    update(order, Some(guard), updates)
}

/// A call ended, or was found ended, that did not tell what became of it: a cancellation must know
/// when.
fn call_ended(input: &DeliveryInput<'_>) -> Update {
    Update::SetInt(CALL_ENDED, stamp(input.clock_ms))
}

/// The body of a charge. The payment method is the customer's and nowhere but here and in the
/// order's contact data.
fn request(reads: Reads<'_>, order: &Doc) -> Doc {
    let text = |name| Field::Str(order.str(name).unwrap_or(""));
    let units = || -> i64 { lines(order).iter().map(|line| line.quantity).sum() };
    let fields = [
        ("amount", Field::Int(order.int("amount").unwrap_or(0))),
        ("currency", text("currency")),
        ("customerId", text("customerId")),
        ("orderId", text("orderId")),
        ("quantity", Field::Int(order.int("quantity").unwrap_or_else(units))),
    ];
    let body = Doc::object(&fields);
    match contacts::of(reads, order).and_then(|contact| contact.str("paymentMethod")) {
        Some(method) => body.with(&[("paymentMethod", Some(Field::Str(method)))]),
        None => body,
    }
}

/// What an outcome means for an order: from which payment statuses to which, and why. `None` when
/// it means nothing yet.
type Meaning<'a> = Option<(&'static [&'static str], PaymentStatus, Option<&'a str>)>;

/// Turns an outcome into the order's next payment status.
pub fn payment_outcome(input: &DeliveryInput<'_>, outcome: &CallOutcome) -> Vec<Write> {
    let Some(order) = find_order(input) else { return Vec::new() };
    let Some(states) = States::of(order) else { return Vec::new() };
    let meaning = if states.is_canceled() {
        meaning_for_canceled(input, order, outcome)
    } else {
        meaning_for_live(outcome)
    };
    let Some((from, to, reason)) = meaning else { return Vec::new() };
    let mut updates = states.moved(Move::Payment(to), input.now_ms);
    updates.push(reason_of(input, order, reason));
    if is_of_open_end(outcome) {
        updates.push(call_ended(input));
    }
    if to == PaymentStatus::Declined {
        updates.push(Update::SetInt("graces", 1));
    }
    let guard = Condition::is_one_of("paymentStatus", from);
    let mut writes = vec![update(order, Some(guard), updates)];
    if (States { payment: to, ..states }).status() == OrderStatus::Canceled {
        writes.extend(contacts::forget(input.reads, order));
    }
    writes
}

fn meaning_for_live(outcome: &CallOutcome) -> Meaning<'_> {
    Some(match outcome {
        CallOutcome::Succeeded => (&UNDER_WAY, PaymentStatus::Paid, None),
        CallOutcome::Declined(reason) => (&UNDER_WAY, PaymentStatus::Declined, Some(reason)),
        CallOutcome::NotSent | CallOutcome::Deferred => {
            (&[PROCESSING], PaymentStatus::Pending, None)
        }
        CallOutcome::NotFound => (&UNDER_WAY, PaymentStatus::Pending, None),
        CallOutcome::Unknown(reason) => (&UNDER_WAY, PaymentStatus::Unknown, Some(reason)),
        CallOutcome::Refused(reason) | CallOutcome::Exhausted(reason) => {
            (&UNDER_WAY, PaymentStatus::Failed, Some(reason))
        }
    })
}

/// What an outcome means for an order that was canceled in the meantime: it is not charged again,
/// and what was charged is refunded. A call that was given up is looked up once more.
fn meaning_for_canceled<'a>(
    input: &DeliveryInput<'_>,
    order: &Doc,
    outcome: &'a CallOutcome,
) -> Meaning<'a> {
    let (to, reason) = match outcome {
        CallOutcome::Succeeded => (PaymentStatus::RefundPending, None),
        CallOutcome::Declined(reason) => (PaymentStatus::Voided, Some(reason.as_str())),
        CallOutcome::NotFound if not_found_trusted_in_ms(order, input.clock_ms) == 0 => {
            (PaymentStatus::Voided, None)
        }
        CallOutcome::NotFound => return None,
        // Unless an earlier call may have been carried out.
        CallOutcome::NotSent if order.get(CALL_ENDED).is_none() => (PaymentStatus::Voided, None),
        CallOutcome::NotSent | CallOutcome::Deferred => (PaymentStatus::Unknown, None),
        CallOutcome::Unknown(reason) => (PaymentStatus::Unknown, Some(reason.as_str())),
        CallOutcome::Refused(reason) | CallOutcome::Exhausted(reason) => {
            (PaymentStatus::Failed, Some(reason.as_str()))
        }
    };
    Some((&UNDER_WAY, to, reason))
}

/// The payments API's reason as an order keeps it, and with it events and history: without its
/// payment method, which the API may repeat. None takes away the one before.
pub(super) fn reason_of(input: &DeliveryInput<'_>, order: &Doc, reason: Option<&str>) -> Update {
    let Some(reason) = reason else { return Update::Remove("reason") };
    let contact = contacts::of(input.reads, order);
    match contact.and_then(|contact| contact.str("paymentMethod")) {
        Some(method) => Update::set_str("reason", &reason.replace(method, "(the payment method)")),
        None => Update::set_str("reason", reason),
    }
}

/// Whether a call that ended so may have been carried out, or may be yet. A deferral says that
/// nothing was done, which a proxy between us cannot know.
fn is_of_open_end(outcome: &CallOutcome) -> bool {
    match outcome {
        CallOutcome::Deferred | CallOutcome::Unknown(_) | CallOutcome::Exhausted(_) => true,
        CallOutcome::Succeeded
        | CallOutcome::Declined(_)
        | CallOutcome::NotSent
        | CallOutcome::NotFound
        | CallOutcome::Refused(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use wims_stack::Action;

    use super::*;
    use crate::fns::sample;

    #[test]
    fn a_charge_has_the_payment_method_of_the_order_until_it_is_erased() {
        let mut items = sample::table();
        let contact = Doc::object(&[("paymentMethod", Field::Str("tok_1"))]);
        let Action::Put(item) = contacts::put("a", "349", &contact).action else {
            panic!("contact data is put");
        };
        items.set(&item, Some(item.clone()), 1, 1);
        let lines = serde_json::json!([
            {"sku": "A/1", "quantity": 2},
            {"sku": "B/1", "quantity": 3},
        ]);
        let lines = wims_stack::json::to_doc(&lines).expect("it is a document");
        let order = Doc::object(&[
            ("hasContact", Field::Bool(true)),
            ("lines", Field::View(lines.view())),
            ("orderId", Field::Str("a")),
        ]);
        let charged = request(Reads::of(&items), &order);
        assert_eq!(
            (charged.str("paymentMethod"), charged.int("quantity")),
            (Some("tok_1"), Some(5))
        );
        items.set(&item, None, 1, 2);
        assert_eq!(request(Reads::of(&items), &order).str("paymentMethod"), None);
    }
}
