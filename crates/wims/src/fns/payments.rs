//! Functions of the PaymentsQueue: what a payment message needs, and what an outcome means.
//!
//! Promise: an order is never charged before its stock is reserved, always under one key, and an
//! unknown outcome is looked up before anything is tried again. Pace, waits and attempts are the
//! pipe's business, not ours.

use wims_runtime::functions::{CallOutcome, Delivery, DeliveryInput};
use wims_stack::{Action, Condition, Doc, Field, Update, Write};

use crate::domain::{charge_key, inventory_status, moved, payment_status};

/// A message whose order waits for its stock decision is looked at again after this long.
const UNRESERVED_WAIT_MS: u64 = 1_000;

/// Decides what a message `{orderId}` needs; the order says it, not the message.
pub fn prepare_payment(input: &DeliveryInput<'_>) -> Delivery {
    let Some(order) = find_order(input) else { return Delivery::Drop };
    let inventory = order.str("inventoryStatus").unwrap_or("");
    let payment = order.str("paymentStatus").unwrap_or("");
    match (inventory, payment) {
        (inventory_status::UNRESERVED, payment_status::PENDING) => {
            Delivery::Hide { delay_ms: UNRESERVED_WAIT_MS }
        }
        (inventory_status::RESERVED, payment_status::PENDING) => Delivery::Call {
            writes: vec![processing(input, order)],
            key: charge_key(order),
            body: request(order),
        },
        // PROCESSING: a call is found under way though nobody waits for its answer, for a former
        // life made it. FAILED: it was given up, and a person sent its message back.
        (_, payment_status::PROCESSING | payment_status::FAILED) => {
            let writes = vec![unknown(input, order, payment)];
            Delivery::LookUp { key: charge_key(order), writes }
        }
        (_, payment_status::UNKNOWN) => {
            Delivery::LookUp { key: charge_key(order), writes: Vec::new() }
        }
        _ => Delivery::Drop,
    }
}

fn find_order<'a>(input: &DeliveryInput<'a>) -> Option<&'a Doc> {
    input.reads.find("orderId", input.message.str("orderId")?)
}

fn processing(input: &DeliveryInput<'_>, order: &Doc) -> Write {
    let guard = Condition::All(vec![
        Condition::is("inventoryStatus", inventory_status::RESERVED),
        Condition::is("paymentStatus", payment_status::PENDING),
    ]);
    let updates = moved(order, "paymentStatus", payment_status::PROCESSING, input.now_ms);
    update(order, guard, updates)
}

/// Nobody knows what became of its payment: from now on the order waits for a look-up.
fn unknown(input: &DeliveryInput<'_>, order: &Doc, from: &str) -> Write {
    let guard = Condition::is("paymentStatus", from);
    update(order, guard, moved(order, "paymentStatus", payment_status::UNKNOWN, input.now_ms))
}

fn request(order: &Doc) -> Doc {
    let text = |name| Field::Str(order.str(name).unwrap_or(""));
    let mut fields = vec![
        ("amount", Field::Int(order.int("amount").unwrap_or(0))),
        ("currency", text("currency")),
        ("customerId", text("customerId")),
        ("orderId", text("orderId")),
    ];
    fields.extend(order.int("quantity").map(|quantity| ("quantity", Field::Int(quantity))));
    Doc::object(&fields)
}

/// Turns an outcome into the order's next payment status.
pub fn payment_outcome(input: &DeliveryInput<'_>, outcome: &CallOutcome) -> Vec<Write> {
    let Some(order) = find_order(input) else { return Vec::new() };
    let under_way = [payment_status::PROCESSING, payment_status::UNKNOWN];
    let (from, to, reason): (&[&str], _, Option<&str>) = match outcome {
        CallOutcome::Succeeded => (&under_way, payment_status::PAID, None),
        CallOutcome::Declined(reason) => (&under_way, payment_status::DECLINED, Some(reason)),
        CallOutcome::Deferred => (&under_way[..1], payment_status::PENDING, None),
        CallOutcome::NotFound => (&under_way, payment_status::PENDING, None),
        CallOutcome::Unknown(reason) => (&under_way[..1], payment_status::UNKNOWN, Some(reason)),
        CallOutcome::Refused(reason) | CallOutcome::Exhausted(reason) => {
            (&under_way, payment_status::FAILED, Some(reason))
        }
    };
    let mut updates = moved(order, "paymentStatus", to, input.now_ms);
    updates.push(match reason {
        Some(reason) => Update::set_str("reason", reason),
        None => Update::Remove("reason"),
    });
    vec![update(order, Condition::is_one_of("paymentStatus", from), updates)]
}

fn update(order: &Doc, guard: Condition, updates: Vec<Update>) -> Write {
    Write {
        pk: order.str("pk").unwrap_or("").into(),
        sk: order.str("sk").unwrap_or("").into(),
        condition: Some(guard),
        action: Action::Update(updates),
    }
}
