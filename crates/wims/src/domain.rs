//! The domain: orders and stock as they are stored, their states, and the one function that
//! derives an order's `status`.
//!
//! Promise: every word here is one of the article's or the warehouse's; the names are the wire's.
//! It deliberately contains no flow: who changes what, and when, are the functions in `fns`.

use wims_stack::{Doc, Field, Update};

/// The one table, as in the article.
pub const TABLE: &str = "WIMS";
/// The source of change events, the article's own.
pub const PROJECT_SOURCE: &str = "freeCodeCamp";
/// The detail type of change events, the article's own.
pub const CDC_EVENT: &str = "cdcEvent";
/// The source of business events.
pub const BUSINESS_SOURCE: &str = "wims";
/// Prefix of an order's partition key.
pub const CUSTOMER: &str = "CUSTOMER#";
/// Prefix of a stock item's partition key.
pub const INVENTORY: &str = "INVENTORY#";
/// Prefix of a backorder queue entry's partition key; not streamed.
pub const BACKORDER: &str = "BACKORDER#";

/// The article's one item.
pub const DEFAULT_SKU: Sku<'static> = Sku { product: "MACGUFFIN", model: "LX" };
/// Its stock in a fresh store, the article's number.
pub const DEFAULT_QUANTITY: i64 = 1_000_000;
/// Its price in minor units.
pub const DEFAULT_UNIT_PRICE: i64 = 2_500;
/// Its currency.
pub const DEFAULT_CURRENCY: &str = "USD";
/// Low-stock threshold unless an item says otherwise, the article's number.
pub const REORDER_POINT: i64 = 100;
/// The largest order of an item unless it says otherwise.
pub const ORDER_QUANTITY_MAX: i64 = 10_000;
/// The most units a receipt or an item holds: keeps every sum within 64 bits.
pub const STOCK_MAX: i64 = 1_000_000_000_000;

/// `inventoryStatus` of an order.
pub mod inventory_status {
    /// Placed, nothing promised yet.
    pub const UNRESERVED: &str = "UNRESERVED";
    /// Stock is promised to it.
    pub const RESERVED: &str = "RESERVED";
    /// It waits for stock.
    pub const BACKORDERED: &str = "BACKORDERED";
    /// Its stock left with it.
    pub const SHIPPED: &str = "SHIPPED";
}

/// `paymentStatus` of an order.
pub mod payment_status {
    /// Not charged.
    pub const PENDING: &str = "PENDING";
    /// A call is under way.
    pub const PROCESSING: &str = "PROCESSING";
    /// Charged.
    pub const PAID: &str = "PAID";
    /// Refused by the payments API for good.
    pub const DECLINED: &str = "DECLINED";
    /// Nobody knows whether it was charged.
    pub const UNKNOWN: &str = "UNKNOWN";
    /// Given up; among the dead letters.
    pub const FAILED: &str = "FAILED";
}

/// `fulfillmentStatus` of an order.
pub mod fulfillment_status {
    /// Nothing to pick yet.
    pub const UNFULFILLED: &str = "UNFULFILLED";
    /// Reserved and paid: it can be picked.
    pub const READY: &str = "READY";
    /// It left the warehouse.
    pub const SHIPPED: &str = "SHIPPED";
}

/// A sku: product and model, each `[A-Z0-9._-]{1,64}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sku<'a> {
    /// The product.
    pub product: &'a str,
    /// The model.
    pub model: &'a str,
}

impl<'a> Sku<'a> {
    /// Reads `PRODUCT/MODEL`; `None` when it is no sku.
    pub fn parse(text: &'a str) -> Option<Sku<'a>> {
        let (product, model) = text.split_once('/')?;
        Sku::new(product, model)
    }

    /// A sku of these parts; `None` when one is not allowed.
    pub fn new(product: &'a str, model: &'a str) -> Option<Sku<'a>> {
        let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "._-".contains(c);
        let is_part = |part: &str| (1..=64).contains(&part.len()) && part.chars().all(allowed);
        (is_part(product) && is_part(model)).then_some(Sku { product, model })
    }

    /// Partition key of its stock item.
    pub fn pk(&self) -> String {
        [INVENTORY, self.product].concat()
    }

    /// Sort key of its stock item.
    pub fn sk(&self) -> String {
        ["MODEL#", self.model].concat()
    }
}

impl std::fmt::Display for Sku<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.product, self.model)
    }
}

/// An order's three states that move on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States<'a> {
    /// See [`inventory_status`].
    pub inventory: &'a str,
    /// See [`payment_status`].
    pub payment: &'a str,
    /// See [`fulfillment_status`].
    pub fulfillment: &'a str,
}

impl<'a> States<'a> {
    /// The states of a stored order.
    pub fn of(order: &'a Doc) -> States<'a> {
        let state = |name| order.str(name).unwrap_or("");
        States {
            inventory: state("inventoryStatus"),
            payment: state("paymentStatus"),
            fulfillment: state("fulfillmentStatus"),
        }
    }

    /// The order's `status`: the first that holds.
    pub fn status(&self) -> &'static str {
        if self.fulfillment == fulfillment_status::SHIPPED {
            "SHIPPED"
        } else if [payment_status::DECLINED, payment_status::FAILED].contains(&self.payment) {
            "ON_HOLD"
        } else if self.inventory == inventory_status::RESERVED
            && self.payment == payment_status::PAID
        {
            "READY"
        } else if self.inventory == inventory_status::BACKORDERED {
            "BACKORDERED"
        } else {
            "PENDING"
        }
    }
}

/// Updates of an order that move one of its states, its derived status and its time with it.
pub fn moved(order: &Doc, attribute: &'static str, to: &'static str, now_ms: u64) -> Vec<Update> {
    let mut states = States::of(order);
    match attribute {
        "inventoryStatus" => states.inventory = to,
        "paymentStatus" => states.payment = to,
        "fulfillmentStatus" => states.fulfillment = to,
        other => unreachable!("an order has three states, {other} is none of them"),
    }
    vec![
        Update::SetConst(attribute, to),
        Update::SetConst("status", states.status()),
        Update::SetInt("updatedAt", stamp(now_ms)),
    ]
}

/// A line of an order: a sku and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// What.
    pub sku: Sku<'a>,
    /// How many.
    pub quantity: i64,
}

/// The lines of a stored order.
pub fn lines(order: &Doc) -> Vec<Line<'_>> {
    let list = order.get("lines").and_then(|lines| lines.as_list());
    let lines = list.into_iter().flatten().filter_map(|line| {
        let sku = Sku::parse(line.get("sku")?.as_str()?)?;
        Some(Line { sku, quantity: line.get("quantity")?.as_int()? })
    });
    lines.collect()
}

/// The key under which an order is charged: the same on every try.
pub fn charge_key(order: &Doc) -> String {
    let charge = order.int("charge").unwrap_or(1);
    format!("{}-{charge}", order.str("orderId").unwrap_or(""))
}

/// Wall time as it is stored: milliseconds since 1970.
pub fn stamp(now_ms: u64) -> i64 {
    i64::try_from(now_ms).unwrap_or(i64::MAX)
}

/// An order without its keys: the detail of business events.
pub fn flat_order(order: &Doc) -> Doc {
    order.with(&[("pk", None), ("sk", None)])
}

/// A stock item as it is shown and as events carry it: without its keys and what only we look at.
pub fn flat_item(item: &Doc) -> Doc {
    let on_hand = item.int("quantity").unwrap_or(0) + item.int("reserved").unwrap_or(0);
    item.with(&[
        ("catalog", None),
        ("lastOrderId", None),
        ("onHand", Some(Field::Int(on_hand))),
        ("pk", None),
        ("sk", None),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_the_first_that_holds() {
        let status =
            |inventory, payment, fulfillment| States { inventory, payment, fulfillment }.status();
        assert_eq!(status("UNRESERVED", "PENDING", "UNFULFILLED"), "PENDING");
        assert_eq!(status("RESERVED", "PROCESSING", "UNFULFILLED"), "PENDING");
        assert_eq!(status("BACKORDERED", "PENDING", "UNFULFILLED"), "BACKORDERED");
        assert_eq!(status("RESERVED", "PAID", "UNFULFILLED"), "READY");
        assert_eq!(status("RESERVED", "PAID", "READY"), "READY");
        assert_eq!(status("BACKORDERED", "FAILED", "UNFULFILLED"), "ON_HOLD");
        assert_eq!(status("RESERVED", "DECLINED", "UNFULFILLED"), "ON_HOLD");
        assert_eq!(status("SHIPPED", "PAID", "SHIPPED"), "SHIPPED");
    }

    #[test]
    fn an_item_reads_without_keys_and_last_order_and_with_what_is_on_hand() {
        let shown = [("quantity", Field::Int(3)), ("reserved", Field::Int(7))];
        let ours = ["pk", "sk", "catalog", "lastOrderId"].map(|name| (name, Field::Str("x")));
        let stored = Doc::object(&[&shown[..], &ours[..]].concat());
        let on_hand = ("onHand", Some(Field::Int(10)));
        assert_eq!(flat_item(&stored), Doc::object(&shown).with(&[on_hand]));
    }

    #[test]
    fn a_sku_is_two_parts_of_capitals_digits_dots_and_dashes() {
        assert_eq!(Sku::parse("MACGUFFIN/LX"), Some(DEFAULT_SKU));
        for wrong in ["", "A", "A/", "/B", "a/B", "A/B/C", "A/B#", "A/ B"] {
            assert_eq!(Sku::parse(wrong), None, "{wrong}");
        }
    }
}
