//! `mark-ready`: an order that is reserved and paid can be picked.
//!
//! Article section "Fulfillment operations". Promise: it moves the order's `fulfillmentStatus` and
//! nothing else; that the order is reserved and paid is the guard of the task that calls it. It
//! deliberately ships nothing and moves no stock: a person ships, and `ship-order` writes that.

use wims_runtime::functions::{TaskError, TaskInput};
use wims_stack::Write;

use super::update;
use crate::domain::{FulfillmentStatus, Move, moved};

/// Marks the order READY.
pub fn mark_ready(input: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
    let to = Move::Fulfillment(FulfillmentStatus::Ready);
    let updates = moved(input.item, to, input.now_ms);
    Ok(vec![update(input.item, None, updates)])
}
