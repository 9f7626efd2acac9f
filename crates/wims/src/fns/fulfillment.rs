//! `mark-ready`: an order that is reserved and paid can be picked.

use wims_runtime::functions::{TaskError, TaskInput};
use wims_stack::{Action, Write};

use crate::domain::{FulfillmentStatus, Move, moved};

/// Marks the order READY.
pub fn mark_ready(input: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
    let to = Move::Fulfillment(FulfillmentStatus::Ready);
    let updates = moved(input.item, to, input.now_ms);
    Ok(vec![Write {
        pk: input.item.str("pk").unwrap_or("").into(),
        sk: input.item.str("sk").unwrap_or("").into(),
        condition: None,
        action: Action::Update(updates),
    }])
}
