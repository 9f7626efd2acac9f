//! Functions of the PaymentsQueue: what a payment message needs, and what an outcome means.
//!
//! Promise: an order is never charged before its stock is reserved, always under one key, and an
//! unknown outcome is looked up before anything is tried again. Pace, waits and attempts are the
//! pipe's business, not ours.

use wims_runtime::functions::{CallOutcome, Delivery, DeliveryInput, Reads};
use wims_stack::{Condition, Doc, Field, Update, Write};

use super::{contacts, update};
use crate::domain::{InventoryStatus, Move, PaymentStatus, States, charge_key, lines, moved};

/// A message whose order waits for its stock decision is looked at again after this long.
const UNRESERVED_WAIT_MS: u64 = 1_000;
/// A call is under way: only then can one be deferred, or its outcome become unknown.
const PROCESSING: &str = PaymentStatus::Processing.as_str();
/// A call is under way, or what became of it is looked up.
const UNDER_WAY: [&str; 2] = [PROCESSING, PaymentStatus::Unknown.as_str()];

/// Decides what a message `{orderId}` needs; the order says it, not the message.
pub fn prepare_payment(input: &DeliveryInput<'_>) -> Delivery {
    let Some(order) = find_order(input) else { return Delivery::Drop };
    if is_of_before(input.message, order) {
        return Delivery::Drop;
    }
    let Some(states) = States::of(order) else { return Delivery::Drop };
    match (states.inventory, states.payment) {
        (InventoryStatus::Unreserved, PaymentStatus::Pending) => {
            Delivery::Hide { delay_ms: UNRESERVED_WAIT_MS }
        }
        (InventoryStatus::Reserved, PaymentStatus::Pending) => Delivery::Call {
            writes: vec![processing(input, order)],
            key: charge_key(order),
            body: request(input.reads, order),
        },
        // PROCESSING: a call is found under way though nobody waits for its answer, for a former
        // life made it. FAILED: it was given up, and a person sent its message back.
        (_, PaymentStatus::Processing | PaymentStatus::Failed) => {
            let writes = vec![unknown(input, order, states.payment)];
            Delivery::LookUp { key: charge_key(order), writes }
        }
        (_, PaymentStatus::Unknown) => {
            Delivery::LookUp { key: charge_key(order), writes: Vec::new() }
        }
        (InventoryStatus::Backordered | InventoryStatus::Shipped, PaymentStatus::Pending)
        | (_, PaymentStatus::Paid | PaymentStatus::Declined) => Delivery::Drop,
    }
}

/// Whether a message was sent before the order's stock came: the one that was sent then is its
/// payment's, and one is enough.
fn is_of_before(message: &Doc, order: &Doc) -> bool {
    let filled = order.int("filledAt");
    filled.is_some() && message.int("filledAt") != filled
}

fn find_order<'a>(input: &DeliveryInput<'a>) -> Option<&'a Doc> {
    input.reads.find("orderId", input.message.str("orderId")?)
}

fn processing(input: &DeliveryInput<'_>, order: &Doc) -> Write {
    let guard = Condition::All(vec![
        Condition::is("inventoryStatus", InventoryStatus::Reserved.as_str()),
        Condition::is("paymentStatus", PaymentStatus::Pending.as_str()),
    ]);
    let to = Move::Payment(PaymentStatus::Processing);
    update(order, Some(guard), moved(order, to, input.now_ms))
}

/// Nobody knows what became of its payment: from now on the order waits for a look-up.
fn unknown(input: &DeliveryInput<'_>, order: &Doc, from: PaymentStatus) -> Write {
    let guard = Condition::is("paymentStatus", from.as_str());
    update(order, Some(guard), moved(order, Move::Payment(PaymentStatus::Unknown), input.now_ms))
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

/// Turns an outcome into the order's next payment status.
pub fn payment_outcome(input: &DeliveryInput<'_>, outcome: &CallOutcome) -> Vec<Write> {
    let Some(order) = find_order(input) else { return Vec::new() };
    let (from, to, reason): (&[&str], _, Option<&str>) = match outcome {
        CallOutcome::Succeeded => (&UNDER_WAY, PaymentStatus::Paid, None),
        CallOutcome::Declined(reason) => (&UNDER_WAY, PaymentStatus::Declined, Some(reason)),
        CallOutcome::Deferred => (&[PROCESSING], PaymentStatus::Pending, None),
        CallOutcome::NotFound => (&UNDER_WAY, PaymentStatus::Pending, None),
        CallOutcome::Unknown(reason) => (&[PROCESSING], PaymentStatus::Unknown, Some(reason)),
        CallOutcome::Refused(reason) | CallOutcome::Exhausted(reason) => {
            (&UNDER_WAY, PaymentStatus::Failed, Some(reason))
        }
    };
    let mut updates = moved(order, Move::Payment(to), input.now_ms);
    updates.push(match reason {
        Some(reason) => Update::set_str("reason", reason),
        None => Update::Remove("reason"),
    });
    vec![update(order, Some(Condition::is_one_of("paymentStatus", from)), updates)]
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
