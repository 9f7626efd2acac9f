//! Functions of the OrdersApi: take an order, ship an order.
//!
//! Promise: an order is taken by one conditional put of typed values; its key is unique, so no
//! order overwrites another. Its lines are of items there are, in one currency, at the prices of
//! that moment. What is personal goes into an item of its own in the same transaction, and is gone
//! with the order. It deliberately does nothing else: stock and payment follow from the event.

use uuid::Uuid;
use wims_runtime::functions::{Refusal, RefusalKind, RouteInput, Routed};
use wims_stack::{Action, Condition, Doc, DocWriter, Field, Update, Write};

use super::{asked_order, contacts, of_stock, update};
use crate::domain::{
    AMOUNT_MAX, CUSTOMER, DEFAULT_SKU, FulfillmentStatus, InventoryStatus, Line, Move,
    ORDER_QUANTITY_MAX, OrderStatus, PaymentStatus, Sku, lines, moved, stamp,
};

/// A line that is asked for, with the item it is of.
struct Asked<'a> {
    line: Line<'a>,
    item: &'a Doc,
}

impl Asked<'_> {
    fn quantity_max(&self) -> i64 {
        self.item.int("orderQuantityMax").unwrap_or(ORDER_QUANTITY_MAX)
    }

    fn currency(&self) -> &str {
        self.item.str("currency").unwrap_or("")
    }
}

/// `POST /orders`: arguments `{customerId, quantity | lines, reference?, contact?}`. A quantity
/// alone is of the article's item. A repeat is answered as the first was, wherever its order is by
/// now.
pub fn create_order(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    if input.repeated {
        return Ok(Routed { writes: Vec::new(), reply: created(&order_id(input)) });
    }
    if input.arguments.get("lines").is_some() {
        let lines = lines(input.arguments);
        return place(input, None, &asked_items(input, &lines)?);
    }
    let (sku, quantity) = (DEFAULT_SKU, input.arguments.int("quantity").unwrap_or(0));
    let item = input.reads.get(&sku.pk(), &sku.sk()).ok_or_else(|| unknown(&[sku]))?;
    place(input, Some(quantity), &[Asked { line: Line { sku, quantity }, item }])
}

fn asked_items<'a>(input: &RouteInput<'a>, lines: &[Line<'a>]) -> Result<Vec<Asked<'a>>, Refusal> {
    let (mut asked, mut missing) = (Vec::with_capacity(lines.len()), Vec::new());
    for line in lines {
        match input.reads.get(&line.sku.pk(), &line.sku.sk()) {
            Some(item) => asked.push(Asked { line: *line, item }),
            None => missing.push(line.sku),
        }
    }
    if missing.is_empty() { Ok(asked) } else { Err(unknown(&missing)) }
}

fn unknown(skus: &[Sku<'_>]) -> Refusal {
    let skus: Vec<String> = skus.iter().map(ToString::to_string).collect();
    unprocessable(format!("there is no item {}", skus.join(", ")))
}

fn unprocessable(detail: String) -> Refusal {
    Refusal { kind: RefusalKind::Unprocessable, detail }
}

/// `quantity` is that of an order of the article's shape.
fn place(
    input: &RouteInput<'_>,
    quantity: Option<i64>,
    asked: &[Asked<'_>],
) -> Result<Routed, Refusal> {
    check_quantities(asked)?;
    let currency = one_currency(asked)?;
    let amount = amount(asked)?;
    let order_id = order_id(input);
    let order = new_order(input, &order_id, NewOrder { quantity, asked, amount, currency });
    let mut writes = vec![Write {
        pk: order.str("pk").unwrap_or("").into(),
        sk: order.str("sk").unwrap_or("").into(),
        condition: Some(Condition::NotExists),
        action: Action::Put(order),
    }];
    if let Some(contact) = input.arguments.part("contact") {
        let customer_id = input.arguments.str("customerId").unwrap_or("");
        writes.push(contacts::put(&order_id, customer_id, &contact));
    }
    Ok(Routed { writes, reply: created(&order_id) })
}

fn order_id(input: &RouteInput<'_>) -> String {
    Uuid::from_u128(input.id).hyphenated().to_string()
}

/// What is said of an order that was just created.
fn created(order_id: &str) -> Doc {
    Doc::object(&[
        ("message", Field::Str("Order created!")),
        ("orderId", Field::Str(order_id)),
        ("status", Field::Str(OrderStatus::Pending.as_str())),
    ])
}

fn check_quantities(asked: &[Asked<'_>]) -> Result<(), Refusal> {
    let is_wrong = |asked: &&Asked<'_>| !(1..=asked.quantity_max()).contains(&asked.line.quantity);
    let told = |asked: &Asked<'_>| {
        let Line { sku, quantity } = asked.line;
        format!("an order of {sku} is for 1 to {} units, not {quantity}", asked.quantity_max())
    };
    let wrong: Vec<String> = asked.iter().filter(is_wrong).map(told).collect();
    if wrong.is_empty() { Ok(()) } else { Err(unprocessable(wrong.join("; "))) }
}

/// The currency all lines are priced in.
fn one_currency<'a>(asked: &'a [Asked<'_>]) -> Result<&'a str, Refusal> {
    let first = asked.first().map_or("", Asked::currency);
    if asked.iter().all(|asked| asked.currency() == first) {
        return Ok(first);
    }
    let prices: Vec<String> =
        asked.iter().map(|asked| format!("{} in {}", asked.line.sku, asked.currency())).collect();
    Err(unprocessable(format!(
        "an order is in one currency, and this one has {}; order them apart",
        prices.join(", ")
    )))
}

/// What the lines cost, at the prices of this moment.
fn amount(asked: &[Asked<'_>]) -> Result<i64, Refusal> {
    let sum = asked.iter().try_fold(0_i64, |sum, asked| {
        let price = asked.item.int("unitPrice").unwrap_or(0);
        sum.checked_add(price.checked_mul(asked.line.quantity)?)
    });
    sum.filter(|sum| (0..=AMOUNT_MAX).contains(sum)).ok_or_else(|| {
        unprocessable(format!(
            "an order comes to at most {AMOUNT_MAX} minor units of its currency; place several"
        ))
    })
}

/// What of a new order is not in the request as it stands.
struct NewOrder<'a> {
    quantity: Option<i64>,
    asked: &'a [Asked<'a>],
    amount: i64,
    currency: &'a str,
}

fn new_order(input: &RouteInput<'_>, order_id: &str, new: NewOrder<'_>) -> Doc {
    let customer_id = input.arguments.str("customerId").unwrap_or("");
    let now = stamp(input.now_ms);
    let pk = [CUSTOMER, customer_id].concat();
    let sk = format!("TIMESTAMP#{now}#{order_id}");
    let has_contact = input.arguments.get("contact").map(|_| Field::Bool(true));
    let reference = input.arguments.str("reference").map(Field::Str);
    let lines = Doc::build(|w| {
        w.list(|w| new.asked.iter().for_each(|asked| write_line(w, asked)));
    });
    let fields = [
        ("amount", Some(Field::Int(new.amount))),
        ("currency", Some(Field::Str(new.currency))),
        ("customerId", Some(Field::Str(customer_id))),
        ("fulfillmentStatus", Some(Field::Str(FulfillmentStatus::Unfulfilled.as_str()))),
        ("hasContact", has_contact),
        ("inventoryStatus", Some(Field::Str(InventoryStatus::Unreserved.as_str()))),
        ("lines", Some(Field::View(lines.view()))),
        ("orderId", Some(Field::Str(order_id))),
        ("paymentStatus", Some(Field::Str(PaymentStatus::Pending.as_str()))),
        ("pk", Some(Field::Str(&pk))),
        ("quantity", new.quantity.map(Field::Int)),
        ("reference", reference),
        ("sk", Some(Field::Str(&sk))),
        ("status", Some(Field::Str(OrderStatus::Pending.as_str()))),
        ("timestamp", Some(Field::Int(now))),
        ("updatedAt", Some(Field::Int(now))),
    ];
    // In ascending order of names, as a map is written.
    Doc::build(|w| {
        w.map(|w| {
            let there = fields.iter().filter_map(|(name, field)| Some((*name, (*field)?)));
            there.for_each(|(name, field)| w.entry(name, field));
        });
    })
}

fn write_line(w: &mut DocWriter, asked: &Asked<'_>) {
    let sku = asked.item.str("sku").unwrap_or("");
    w.object(&[("quantity", Field::Int(asked.line.quantity)), ("sku", Field::Str(sku))]);
}

/// `POST /orders/{orderId}/ship`: arguments `{orderId}`; repeating it changes nothing.
pub fn ship_order(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let order_id = input.arguments.str("orderId").unwrap_or("");
    let order = asked_order(input)?;
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
    writes.extend(lines(order).iter().map(|line| {
        let held = Condition::AtLeast("reserved".into(), line.quantity.into());
        of_stock(&line.sku, held, vec![Update::Add("reserved", (-line.quantity).into())])
    }));
    // Unless a mail needs its address.
    writes.extend(contacts::forget(input.reads, order));
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
    use wims_runtime::items::Items;

    use super::*;
    use crate::domain::{CONTACT_SK, contact_pk};
    use crate::fns::sample;

    const ORDER_ID: &str = "00000000-0000-0000-0000-000000000001";

    /// The table with items of these prices and currencies, two of each to an order at most.
    fn items(described: &[(Sku<'_>, i64, &str)]) -> Items {
        let mut items = sample::table();
        for (seq, (sku, price, currency)) in (1..).zip(described) {
            let item = Doc::object(&[
                ("currency", Field::Str(currency)),
                ("orderQuantityMax", Field::Int(2)),
                ("pk", Field::Str(&sku.pk())),
                ("sk", Field::Str(&sku.sk())),
                ("sku", Field::Str(&sku.to_string())),
                ("unitPrice", Field::Int(*price)),
            ]);
            items.set(&item.clone(), Some(item), seq, seq);
        }
        items
    }

    fn sku(text: &str) -> Sku<'_> {
        Sku::parse(text).expect("a sku")
    }

    /// Asks for an order of these lines.
    fn create(
        items: &Items,
        lines: &[(&str, i64)],
        more: &[(&str, Field<'_>)],
    ) -> Result<Routed, String> {
        let list = Doc::build(|w| {
            w.list(|w| {
                lines.iter().for_each(|(sku, quantity)| {
                    w.object(&[("quantity", Field::Int(*quantity)), ("sku", Field::Str(sku))]);
                });
            });
        });
        let fields = [("customerId", Field::Str("349")), ("lines", Field::View(list.view()))];
        let arguments = Doc::object(&[&fields[..], more].concat());
        create_order(&sample::request(items, &arguments)).map_err(|refusal| {
            assert_eq!(refusal.kind, RefusalKind::Unprocessable);
            refusal.detail
        })
    }

    #[test]
    fn an_order_of_lines_costs_their_sum_and_keeps_its_reference() {
        let items = items(&[(sku("A/1"), 250, "USD"), (sku("B/1"), 99, "USD")]);
        let reference = [("reference", Field::Str("PO 4711"))];
        let routed = create(&items, &[("B/1", 1), ("A/1", 2)], &reference).expect("it is taken");
        let [Write { action: Action::Put(order), .. }] = routed.writes.as_slice() else {
            panic!("the order alone: {:?}", routed.writes);
        };
        assert_eq!(order.int("amount"), Some(599));
        assert_eq!(order.str("reference"), Some("PO 4711"));
        assert_eq!(
            (order.get("quantity").is_some(), order.get("hasContact").is_some()),
            (false, false)
        );
        let stored: Vec<_> = lines(order).iter().map(|l| (l.sku.product, l.quantity)).collect();
        assert_eq!(stored, [("B", 1), ("A", 2)]);
        let bytes = Doc::from_bytes(order.bytes());
        assert_eq!(bytes.as_ref(), Ok(order), "its attributes are in order");
    }

    #[test]
    fn contact_data_is_put_beside_the_order_and_no_part_of_it() {
        let items = items(&[(sku("A/1"), 250, "USD")]);
        let contact = Doc::object(&[("email", Field::Str("ada@example.com"))]);
        let more = [("contact", Field::View(contact.view()))];
        let routed = create(&items, &[("A/1", 1)], &more).expect("it is taken");
        let [order, beside] = routed.writes.as_slice() else { panic!("{:?}", routed.writes) };
        assert_eq!((beside.pk.as_str(), beside.sk.as_str()), (&*contact_pk(ORDER_ID), CONTACT_SK));
        assert!(format!("{:?}", beside.action).contains("ada@example.com"));
        assert!(!format!("{:?}", order.action).contains("ada@example.com"));
        assert!(!format!("{:?}", routed.reply).contains("ada@example.com"));
    }

    #[test]
    fn every_sku_there_is_not_and_every_quantity_out_of_bounds_is_named() {
        let items = items(&[(sku("A/1"), 250, "USD"), (sku("B/1"), 99, "USD")]);
        let refused = |lines: &[(&str, i64)]| create(&items, lines, &[]).expect_err("a refusal");
        assert_eq!(refused(&[("NO/1", 1), ("A/1", 9), ("NO/2", 1)]), "there is no item NO/1, NO/2");
        let told = "an order of A/1 is for 1 to 2 units, not 3; \
            an order of B/1 is for 1 to 2 units, not 0";
        assert_eq!(refused(&[("A/1", 3), ("B/1", 0)]), told);
    }

    #[test]
    fn an_order_is_in_one_currency_and_its_amount_has_a_bound() {
        let dear = AMOUNT_MAX / 2;
        let prices =
            [("A/1", dear, "USD"), ("B/1", 1, "USD"), ("C/1", 1, "EUR"), ("D/1", i64::MAX, "USD")];
        let items = items(&prices.map(|(text, price, currency)| (sku(text), price, currency)));
        let refused = |lines: &[(&str, i64)]| create(&items, lines, &[]).expect_err("a refusal");
        let mixed = refused(&[("A/1", 1), ("C/1", 1)]);
        assert!(mixed.contains("A/1 in USD, C/1 in EUR"), "{mixed}");
        assert!(create(&items, &[("A/1", 2)], &[]).is_ok(), "the bound itself");
        for beyond in [&[("A/1", 2), ("B/1", 1)][..], &[("D/1", 2)], &[("D/1", 1), ("B/1", 1)]] {
            let told = refused(beyond);
            assert!(told.starts_with("an order comes to at most 100000000000000 "), "{told}");
        }
    }

    #[test]
    fn an_order_that_waits_for_its_hand_over_is_not_told_that_it_must_be_ready() {
        let told = |status| not_ready("7", status).detail;
        let waits = "order 7 is reserved and paid but not handed to fulfillment yet; try again";
        assert_eq!(told("READY"), waits);
        assert_eq!(told("PENDING"), "order 7 is PENDING; only a READY order can be shipped");
    }
}
