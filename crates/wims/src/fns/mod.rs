//! The functions of the business: the only thing of the stack that is not data.
//!
//! Promise: each is pure; it reads what it is given and says what should be written. One file an
//! area, named as in the article where the article has a name for it.

pub mod backorders;
pub mod cancel;
pub mod cdc_enrichment;
pub mod contacts;
pub mod declines;
pub mod fulfillment;
#[cfg(test)]
mod golden;
pub mod inventory;
pub mod mails;
pub mod notices;
pub mod orders;
pub mod payments;
pub mod refunds;
#[cfg(test)]
mod sample;
pub mod waits;

use std::sync::Arc;

use notices::templates::{SHOP, Templates};
use wims_runtime::functions::{Refusal, RefusalKind, RouteInput};
use wims_runtime::{Function, Functions};
use wims_stack::check::FunctionKind;
use wims_stack::{Action, Condition, Doc, FunctionRef, Update, Write};

use crate::domain::Sku;

/// All plain functions, by the names constructs refer to.
static ALL: [(&str, Function); 21] = [
    ("create-order", Function::Route(orders::create_order)),
    ("ship-order", Function::Route(orders::ship_order)),
    ("cancel-order", Function::Route(cancel::cancel_order)),
    ("pay-order", Function::Route(declines::pay_order)),
    ("erase-contacts", Function::Route(contacts::erase_contacts)),
    ("put-item", Function::Route(inventory::put_item)),
    ("receive-stock", Function::Route(inventory::receive_stock)),
    ("seed-inventory", Function::Route(inventory::seed_inventory)),
    ("cdc-enrichment", Function::Enrich(cdc_enrichment::cdc_enrichment)),
    ("reserve-stock", Function::Transact(inventory::reserve_stock)),
    ("fill-backorders", Function::Transact(backorders::fill)),
    ("fill-backorders-skip", Function::Transact(backorders::fill_skipping)),
    ("mark-ready", Function::Transact(fulfillment::mark_ready)),
    ("cancel-declined", Function::Transact(declines::cancel_declined)),
    ("prepare-payment", Function::Prepare(payments::prepare_payment)),
    ("payment-outcome", Function::Outcome(payments::payment_outcome)),
    ("prepare-refund", Function::Prepare(refunds::prepare_refund)),
    ("refund-outcome", Function::Outcome(refunds::refund_outcome)),
    ("mail-stock-low", Function::Mail(mails::stock_low)),
    ("mail-alerts", Function::Mail(mails::alerts)),
    ("customer-notified", Function::Noticed(notices::customer_notified)),
];
/// Functions that mail customers, with templates or not at all.
const NOTIFY_CUSTOMER: &str = "notify-customer";
const FORGET_CUSTOMER: &str = "forget-customer";

/// All functions, for a runtime that writes to customers with the built-in templates.
pub fn all() -> Functions {
    with_templates(Templates::built_in(SHOP))
}

/// All functions, for a runtime that writes to customers with these templates.
pub fn with_templates(templates: Templates) -> Functions {
    let plain =
        ALL.iter().fold(Functions::default(), |all, (name, plain)| all.with(name, plain.clone()));
    let notify = notices::notify_customer(Arc::new(templates));
    plain
        .with(NOTIFY_CUSTOMER, Function::Notice(notify))
        .with(FORGET_CUSTOMER, Function::Notice(Arc::new(notices::forget_customer)))
}

/// Names and kinds of all functions, for the checker.
pub fn kinds() -> Vec<(FunctionKind, String)> {
    let kind = |function: &Function| match function {
        Function::Enrich(_) => FunctionKind::Enrichment,
        Function::Route(_) => FunctionKind::Route,
        Function::Transact(_) => FunctionKind::Transact,
        Function::Prepare(_) => FunctionKind::Prepare,
        Function::Outcome(_) => FunctionKind::Outcome,
        Function::Mail(_) => FunctionKind::Mail,
        Function::Notice(_) => FunctionKind::Notice,
        Function::Noticed(_) => FunctionKind::Noticed,
    };
    let plain = ALL.iter().map(|(name, function)| (kind(function), (*name).to_owned()));
    let notices = [NOTIFY_CUSTOMER, FORGET_CUSTOMER];
    plain.chain(notices.map(|name| (FunctionKind::Notice, name.to_owned()))).collect()
}

/// The order a request names, open or closed.
fn asked_order<'a>(input: &RouteInput<'a>) -> Result<&'a Doc, Refusal> {
    let order_id = input.arguments.str("orderId").unwrap_or("");
    input.reads.find("orderId", order_id).or(input.history).ok_or_else(|| Refusal {
        kind: RefusalKind::NotFound,
        detail: format!("there is no order {order_id}"),
    })
}

/// The write that updates the stock row of a sku, if a condition holds of it.
fn of_stock(sku: &Sku<'_>, condition: Condition, updates: Vec<Update>) -> Write {
    let (pk, sk) = (sku.pk(), sku.sk());
    Write { pk, sk, condition: Some(condition), action: Action::Update(updates) }
}

/// The write that updates an item under its own keys, if a condition still holds of it.
fn update(item: &Doc, condition: Option<Condition>, updates: Vec<Update>) -> Write {
    Write {
        pk: item.str("pk").unwrap_or("").into(),
        sk: item.str("sk").unwrap_or("").into(),
        condition,
        action: Action::Update(updates),
    }
}

/// A reference to one of them.
pub fn function(name: &str) -> FunctionRef {
    FunctionRef::new(name)
}
