//! The article's constructs, one a file. None imports another: what one needs of another is
//! passed in `stack.rs`.

pub mod backorders;
pub mod cancellations;
pub mod cdc;
pub mod customer_notices;
pub mod fulfillment;
pub mod inventory_monitor;
pub mod observability;
pub mod orders_api;
pub mod orders_processor;
pub mod payments_api;
pub mod payments_queue;
