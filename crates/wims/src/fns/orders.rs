//! Functions of the OrdersApi: take an order, ship an order.
//!
//! Promise: an order is taken by one conditional put of typed values; its key is unique, so no
//! order overwrites another. It deliberately does nothing else: stock and payment follow from the
//! event.

use uuid::Uuid;
use wims_runtime::functions::{Refusal, RefusalKind, RouteInput, Routed};
use wims_stack::{Action, Condition, Doc, Field, Update, Write};

use super::update;
use crate::domain::{
    CUSTOMER, DEFAULT_SKU, FulfillmentStatus, InventoryStatus, Move, ORDER_QUANTITY_MAX,
    OrderStatus, PaymentStatus, lines, moved, stamp,
};

/// `POST /orders`: arguments `{customerId, quantity}`. A repeat is answered as the first was,
/// wherever its order is by now.
pub fn create_order(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let order_id = Uuid::from_u128(input.id).hyphenated().to_string();
    if input.repeated {
        return Ok(Routed { writes: Vec::new(), reply: created(&order_id) });
    }
    let sku = DEFAULT_SKU;
    let item = input.reads.get(&sku.pk(), &sku.sk()).ok_or_else(|| Refusal {
        kind: RefusalKind::Unprocessable,
        detail: format!("there is no item {sku}"),
    })?;
    let quantity = input.arguments.int("quantity").unwrap_or(0);
    let quantity_max = item.int("orderQuantityMax").unwrap_or(ORDER_QUANTITY_MAX);
    if !(1..=quantity_max).contains(&quantity) {
        return Err(Refusal {
            kind: RefusalKind::Unprocessable,
            detail: format!("an order of {sku} is for 1 to {quantity_max} units, not {quantity}"),
        });
    }
    let order = new_order(input, &order_id, item, quantity);
    let put = Write {
        pk: order.str("pk").unwrap_or("").into(),
        sk: order.str("sk").unwrap_or("").into(),
        condition: Some(Condition::NotExists),
        action: Action::Put(order),
    };
    Ok(Routed { writes: vec![put], reply: created(&order_id) })
}

/// What is said of an order that was just created.
fn created(order_id: &str) -> Doc {
    Doc::object(&[
        ("message", Field::Str("Order created!")),
        ("orderId", Field::Str(order_id)),
        ("status", Field::Str(OrderStatus::Pending.as_str())),
    ])
}

fn new_order(input: &RouteInput<'_>, order_id: &str, item: &Doc, quantity: i64) -> Doc {
    let customer_id = input.arguments.str("customerId").unwrap_or("");
    let now = stamp(input.now_ms);
    let line = Doc::build(|w| {
        let sku = item.str("sku").unwrap_or("");
        w.list(|w| w.object(&[("quantity", Field::Int(quantity)), ("sku", Field::Str(sku))]));
    });
    let amount = quantity * item.int("unitPrice").unwrap_or(0);
    Doc::object(&[
        ("amount", Field::Int(amount)),
        ("currency", Field::Str(item.str("currency").unwrap_or(""))),
        ("customerId", Field::Str(customer_id)),
        ("fulfillmentStatus", Field::Str(FulfillmentStatus::Unfulfilled.as_str())),
        ("inventoryStatus", Field::Str(InventoryStatus::Unreserved.as_str())),
        ("lines", Field::View(line.view())),
        ("orderId", Field::Str(order_id)),
        ("paymentStatus", Field::Str(PaymentStatus::Pending.as_str())),
        ("pk", Field::Str(&[CUSTOMER, customer_id].concat())),
        ("quantity", Field::Int(quantity)),
        ("sk", Field::Str(&format!("TIMESTAMP#{now}#{order_id}"))),
        ("status", Field::Str(OrderStatus::Pending.as_str())),
        ("timestamp", Field::Int(now)),
        ("updatedAt", Field::Int(now)),
    ])
}

/// `POST /orders/{orderId}/ship`: arguments `{orderId}`; repeating it changes nothing.
pub fn ship_order(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let order_id = input.arguments.str("orderId").unwrap_or("");
    let order = input.reads.find("orderId", order_id).or(input.history).ok_or_else(|| Refusal {
        kind: RefusalKind::NotFound,
        detail: format!("there is no order {order_id}"),
    })?;
    match order.str("fulfillmentStatus").and_then(FulfillmentStatus::parse) {
        Some(FulfillmentStatus::Shipped) => {
            return Ok(Routed { writes: Vec::new(), reply: order.clone() });
        }
        Some(FulfillmentStatus::Ready) => {}
        Some(FulfillmentStatus::Unfulfilled) | None => {
            return Err(not_ready(order_id, order.str("status").unwrap_or("")));
        }
    }
    let (updates, shipped) = shipped(order, input.now_ms);
    let guard = Condition::is("fulfillmentStatus", FulfillmentStatus::Ready.as_str());
    let mut writes = vec![update(order, Some(guard), updates)];
    writes.extend(lines(order).iter().map(|line| Write {
        pk: line.sku.pk(),
        sk: line.sku.sk(),
        condition: Some(Condition::AtLeast("reserved".into(), line.quantity.into())),
        action: Action::Update(vec![Update::Add("reserved", (-line.quantity).into())]),
    }));
    Ok(Routed { writes, reply: shipped })
}

/// Why an order that is not READY for fulfillment is not shipped. Its `status` is READY already
/// when it is reserved and paid, a moment before `MarkReady` hands it over.
fn not_ready(order_id: &str, status: &str) -> Refusal {
    let detail = if status == OrderStatus::Ready.as_str() {
        format!(
            "order {order_id} is reserved and paid but not handed to fulfillment yet; try again"
        )
    } else {
        format!("order {order_id} is {status}; only a READY order can be shipped")
    };
    Refusal { kind: RefusalKind::Conflict, detail }
}

/// Updates that ship an order, and the order after them.
fn shipped(order: &Doc, now_ms: u64) -> (Vec<Update>, Doc) {
    let mut updates = vec![Update::SetConst("inventoryStatus", InventoryStatus::Shipped.as_str())];
    updates.extend(moved(order, Move::Fulfillment(FulfillmentStatus::Shipped), now_ms));
    let after = Update::apply_all(&updates, order).expect("the updates only set attributes");
    (updates, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_waits_for_its_hand_over_is_not_told_that_it_must_be_ready() {
        let told = |status| not_ready("7", status).detail;
        let waits = "order 7 is reserved and paid but not handed to fulfillment yet; try again";
        assert_eq!(told("READY"), waits);
        assert_eq!(told("PENDING"), "order 7 is PENDING; only a READY order can be shipped");
    }
}
