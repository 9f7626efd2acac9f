//! The domain: orders and stock as they are stored, their states, and the one function that
//! derives an order's `status`.
//!
//! Promise: every word here is one of the article's or the warehouse's; the names are the wire's.
//! A state is one of a closed set, so that a state more is a compiler error wherever it counts.
//! It deliberately contains no flow: who changes what, and when, are the functions in `fns`.

use serde_json::{Value, json};
use wims_stack::{Doc, Field, Pattern, Update};

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
/// Prefix of the partition key of an order's contact data: all that is personal of it and not
/// needed to keep the books. Not streamed, so never in an event, a log or history. Whoever closes
/// an order deletes it in the same transaction, or leaves it to the order's last notice if there is
/// somebody to mail, so that none is left without its order.
pub const CONTACT: &str = "CONTACT#";
/// Sort key of contact data: an order has one item of it.
pub const CONTACT_SK: &str = "CONTACT";
/// The attribute of contact data that says whose it is: by it a customer's is found and erased.
pub const CONTACT_OF: &str = "contactOf";

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
/// The largest amount of an order in minor units: ten times what one line can come to, and far
/// below 2^53, up to which every reader of JSON has whole numbers exactly.
pub const AMOUNT_MAX: i64 = 100_000_000_000_000;
/// The most lines of an order: with its stock rows and queue entries it fits one transaction.
pub const LINES_MAX: usize = 32;

/// Declares a closed set of states: the enum, and for each state the text it is stored as.
/// Neither way between the two takes memory.
macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $state:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $state,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$state),+];

            /// As it is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$state => $text,)+ }
            }

            /// Reads what is stored or asked for; `None` when it is no such state.
            pub fn parse(text: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|state| state.as_str() == text)
            }
        }
    };
}

states! {
    /// `inventoryStatus` of an order: what of the stock is its.
    InventoryStatus {
        /// Placed, nothing promised yet: the decision on its stock is to come.
        Unreserved = "UNRESERVED",
        /// It waits for stock, in the queue of each sku it is short of.
        Backordered = "BACKORDERED",
        /// Stock is promised to it, for all its lines.
        Reserved = "RESERVED",
        /// Its stock left with it.
        Shipped = "SHIPPED",
        /// Its cancellation was asked: what it held is free again, or it does not wait any more.
        /// No other order is so.
        Released = "RELEASED",
    }
}

states! {
    /// `paymentStatus` of an order: what of its money is ours.
    PaymentStatus {
        /// Not charged; also after a deferral, which uses no attempt.
        Pending = "PENDING",
        /// A call is under way. Found at recovery, it is UNKNOWN.
        Processing = "PROCESSING",
        /// Nobody knows whether it was charged; always looked up by its key first.
        Unknown = "UNKNOWN",
        /// Charged.
        Paid = "PAID",
        /// Refused by the payments API for good; its stock is kept.
        Declined = "DECLINED",
        /// Given up, in the DLQ; its stock is kept until a person redrives it.
        Failed = "FAILED",
        /// Canceled and not charged, nor will it be.
        Voided = "VOIDED",
        /// Canceled and charged: the money is on its way back.
        RefundPending = "REFUND_PENDING",
        /// The money is back.
        Refunded = "REFUNDED",
        /// The refund was given up, in the refunds' DLQ, until a person redrives it.
        RefundFailed = "REFUND_FAILED",
    }
}

states! {
    /// `fulfillmentStatus` of an order: what the warehouse has to do with it.
    FulfillmentStatus {
        /// Nothing to pick yet.
        Unfulfilled = "UNFULFILLED",
        /// Reserved and paid, and handed over: it can be picked.
        Ready = "READY",
        /// It left the warehouse.
        Shipped = "SHIPPED",
    }
}

states! {
    /// `status` of an order: derived from the three that move on their own by
    /// [`States::status`], written with every update of them.
    OrderStatus {
        /// None of the others: its stock or its payment is on its way.
        Pending = "PENDING",
        /// It waits for stock.
        Backordered = "BACKORDERED",
        /// Its payment is DECLINED or FAILED, or its refund is: it waits for a person.
        OnHold = "ON_HOLD",
        /// RESERVED and PAID.
        Ready = "READY",
        /// It left the warehouse; the order is closed.
        Shipped = "SHIPPED",
        /// Its cancellation was asked; what became of its money is not known, or it is not back.
        Canceling = "CANCELING",
        /// It holds no stock and no money; the order is closed.
        Canceled = "CANCELED",
    }
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
pub struct States {
    /// See [`InventoryStatus`].
    pub inventory: InventoryStatus,
    /// See [`PaymentStatus`].
    pub payment: PaymentStatus,
    /// See [`FulfillmentStatus`].
    pub fulfillment: FulfillmentStatus,
}

impl States {
    /// The states of a stored order; `None` of what is none.
    pub fn of(order: &Doc) -> Option<States> {
        Some(States {
            inventory: InventoryStatus::parse(order.str("inventoryStatus")?)?,
            payment: PaymentStatus::parse(order.str("paymentStatus")?)?,
            fulfillment: FulfillmentStatus::parse(order.str("fulfillmentStatus")?)?,
        })
    }

    /// Whether its cancellation was asked: the same transaction releases what it holds.
    pub fn is_canceled(&self) -> bool {
        self.inventory == InventoryStatus::Released
    }

    /// The order's `status`: the first that holds. CANCELING ends by itself, so a refund that was
    /// given up is ON_HOLD.
    pub fn status(&self) -> OrderStatus {
        if self.is_canceled() {
            match self.payment {
                PaymentStatus::Voided | PaymentStatus::Refunded => OrderStatus::Canceled,
                PaymentStatus::RefundFailed => OrderStatus::OnHold,
                PaymentStatus::Pending
                | PaymentStatus::Processing
                | PaymentStatus::Unknown
                | PaymentStatus::Paid
                | PaymentStatus::Declined
                | PaymentStatus::Failed
                | PaymentStatus::RefundPending => OrderStatus::Canceling,
            }
        } else if self.fulfillment == FulfillmentStatus::Shipped {
            OrderStatus::Shipped
        } else if matches!(self.payment, PaymentStatus::Declined | PaymentStatus::Failed) {
            OrderStatus::OnHold
        } else if self.inventory == InventoryStatus::Reserved && self.payment == PaymentStatus::Paid
        {
            OrderStatus::Ready
        } else if self.inventory == InventoryStatus::Backordered {
            OrderStatus::Backordered
        } else {
            OrderStatus::Pending
        }
    }

    /// Updates of an order in these states that move one of them, its derived status and its time
    /// with it.
    pub fn moved(mut self, to: Move, now_ms: u64) -> Vec<Update> {
        let (attribute, text) = match to {
            Move::Inventory(status) => {
                self.inventory = status;
                ("inventoryStatus", status.as_str())
            }
            Move::Payment(status) => {
                self.payment = status;
                ("paymentStatus", status.as_str())
            }
            Move::Fulfillment(status) => {
                self.fulfillment = status;
                ("fulfillmentStatus", status.as_str())
            }
        };
        vec![
            Update::SetConst(attribute, text),
            Update::SetConst("status", self.status().as_str()),
            Update::SetInt("updatedAt", stamp(now_ms)),
        ]
    }
}

/// A move of one of an order's three states; where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Of its `inventoryStatus`.
    Inventory(InventoryStatus),
    /// Of its `paymentStatus`.
    Payment(PaymentStatus),
    /// Of its `fulfillmentStatus`.
    Fulfillment(FulfillmentStatus),
}

/// Updates of an order that move one of its states; see [`States::moved`].
///
/// # Panics
/// When the item is no order.
pub fn moved(order: &Doc, to: Move, now_ms: u64) -> Vec<Update> {
    States::of(order).expect("a stored order has its three states").moved(to, now_ms)
}

/// Matches change events with this `data`.
pub fn changes(data: &Value) -> Pattern {
    Pattern(json!({
        "source": [PROJECT_SOURCE],
        "detail-type": [CDC_EVENT],
        "detail": {"data": data}
    }))
}

/// A line of an order: a sku and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// What.
    pub sku: Sku<'a>,
    /// How many.
    pub quantity: i64,
}

/// The lines of an order, stored or asked for.
pub fn lines(order: &Doc) -> Vec<Line<'_>> {
    let list = order.get("lines").and_then(|lines| lines.as_list());
    let lines = list.into_iter().flatten().filter_map(|line| {
        let sku = Sku::parse(line.get("sku")?.as_str()?)?;
        Some(Line { sku, quantity: line.get("quantity")?.as_int()? })
    });
    lines.collect()
}

/// Partition key of an order's contact data.
pub fn contact_pk(order_id: &str) -> String {
    [CONTACT, order_id].concat()
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
        let status = |inventory, payment, fulfillment| {
            let states = [
                ("inventoryStatus", Field::Str(inventory)),
                ("paymentStatus", Field::Str(payment)),
                ("fulfillmentStatus", Field::Str(fulfillment)),
            ];
            States::of(&Doc::object(&states)).expect("three states").status().as_str()
        };
        assert_eq!(status("UNRESERVED", "PENDING", "UNFULFILLED"), "PENDING");
        assert_eq!(status("RESERVED", "PROCESSING", "UNFULFILLED"), "PENDING");
        assert_eq!(status("BACKORDERED", "PENDING", "UNFULFILLED"), "BACKORDERED");
        assert_eq!(status("RESERVED", "PAID", "UNFULFILLED"), "READY");
        assert_eq!(status("RESERVED", "PAID", "READY"), "READY");
        assert_eq!(status("BACKORDERED", "FAILED", "UNFULFILLED"), "ON_HOLD");
        assert_eq!(status("RESERVED", "DECLINED", "UNFULFILLED"), "ON_HOLD");
        assert_eq!(status("SHIPPED", "PAID", "SHIPPED"), "SHIPPED");
        for done in ["VOIDED", "REFUNDED"] {
            assert_eq!(status("RELEASED", done, "UNFULFILLED"), "CANCELED");
        }
        for under_way in ["PROCESSING", "UNKNOWN", "FAILED", "REFUND_PENDING"] {
            assert_eq!(status("RELEASED", under_way, "UNFULFILLED"), "CANCELING");
        }
        assert_eq!(status("RELEASED", "REFUND_FAILED", "UNFULFILLED"), "ON_HOLD");
    }

    #[test]
    fn each_state_is_stored_by_a_text_of_its_own_and_read_back() {
        let inventory = ["UNRESERVED", "BACKORDERED", "RESERVED", "SHIPPED", "RELEASED"];
        let read = |text| InventoryStatus::parse(text).map(InventoryStatus::as_str);
        assert_eq!(inventory.map(read), inventory.map(Some));
        let payment = ["PENDING", "PROCESSING", "UNKNOWN", "PAID", "DECLINED", "FAILED"];
        let read = |text| PaymentStatus::parse(text).map(PaymentStatus::as_str);
        assert_eq!(payment.map(read), payment.map(Some));
        let after_cancel = ["VOIDED", "REFUND_PENDING", "REFUNDED", "REFUND_FAILED"];
        assert_eq!(after_cancel.map(read), after_cancel.map(Some));
        let fulfillment = ["UNFULFILLED", "READY", "SHIPPED"];
        let read = |text| FulfillmentStatus::parse(text).map(FulfillmentStatus::as_str);
        assert_eq!(fulfillment.map(read), fulfillment.map(Some));
        let status =
            ["PENDING", "BACKORDERED", "ON_HOLD", "READY", "SHIPPED", "CANCELING", "CANCELED"];
        let read = |text| OrderStatus::parse(text).map(OrderStatus::as_str);
        assert_eq!(status.map(read), status.map(Some));
        for wrong in ["", "ready", "READY ", "RED"] {
            assert_eq!(OrderStatus::parse(wrong), None, "{wrong}");
        }
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
