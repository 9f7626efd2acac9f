//! The functions of the business: the only thing of the stack that is not data.
//!
//! Promise: each is pure; it reads what it is given and says what should be written. One file an
//! area, named as in the article where the article has a name for it.

pub mod backorders;
pub mod cdc_enrichment;
pub mod contacts;
pub mod fulfillment;
#[cfg(test)]
mod golden;
pub mod inventory;
pub mod mails;
pub mod orders;
pub mod payments;
#[cfg(test)]
mod sample;
pub mod waits;

use wims_runtime::{Function, Functions};
use wims_stack::check::FunctionKind;
use wims_stack::{Action, Condition, Doc, FunctionRef, Update, Write};

/// All functions, by the names constructs refer to.
const ALL: [(&str, Function); 15] = [
    ("create-order", Function::Route(orders::create_order)),
    ("ship-order", Function::Route(orders::ship_order)),
    ("erase-contacts", Function::Route(contacts::erase_contacts)),
    ("put-item", Function::Route(inventory::put_item)),
    ("receive-stock", Function::Route(inventory::receive_stock)),
    ("seed-inventory", Function::Route(inventory::seed_inventory)),
    ("cdc-enrichment", Function::Enrich(cdc_enrichment::cdc_enrichment)),
    ("reserve-stock", Function::Transact(inventory::reserve_stock)),
    ("fill-backorders", Function::Transact(backorders::fill)),
    ("fill-backorders-skip", Function::Transact(backorders::fill_skipping)),
    ("mark-ready", Function::Transact(fulfillment::mark_ready)),
    ("prepare-payment", Function::Prepare(payments::prepare_payment)),
    ("payment-outcome", Function::Outcome(payments::payment_outcome)),
    ("mail-stock-low", Function::Mail(mails::stock_low)),
    ("mail-alerts", Function::Mail(mails::alerts)),
];

/// All functions, for a runtime.
pub fn all() -> Functions {
    ALL.iter().fold(Functions::default(), |all, (name, function)| all.with(name, *function))
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
    };
    ALL.iter().map(|(name, function)| (kind(function), (*name).to_owned())).collect()
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
