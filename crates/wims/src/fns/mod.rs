//! The functions of the business: the only thing of the stack that is not data.
//!
//! Promise: each is pure; it reads what it is given and says what should be written. One file an
//! area, named as in the article where the article has a name for it.

pub mod cdc_enrichment;
pub mod fulfillment;
pub mod inventory;
pub mod mails;
pub mod orders;
pub mod payments;

use wims_runtime::{Function, Functions};
use wims_stack::FunctionRef;

/// All functions, by the names constructs refer to.
pub fn all() -> Functions {
    Functions::default()
        .with("create-order", Function::Route(orders::create_order))
        .with("ship-order", Function::Route(orders::ship_order))
        .with("put-item", Function::Route(inventory::put_item))
        .with("receive-stock", Function::Route(inventory::receive_stock))
        .with("seed-inventory", Function::Route(inventory::seed_inventory))
        .with("cdc-enrichment", Function::Enrich(cdc_enrichment::cdc_enrichment))
        .with("reserve-stock", Function::Transact(inventory::reserve_stock))
        .with("mark-ready", Function::Transact(fulfillment::mark_ready))
        .with("prepare-payment", Function::Prepare(payments::prepare_payment))
        .with("payment-outcome", Function::Outcome(payments::payment_outcome))
        .with("mail-stock-low", Function::Mail(mails::stock_low))
        .with("mail-alerts", Function::Mail(mails::alerts))
}

/// A reference to one of them.
pub fn function(name: &str) -> FunctionRef {
    FunctionRef::new(name)
}
