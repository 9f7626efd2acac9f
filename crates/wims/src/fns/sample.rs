//! For tests of functions: the table of the stack without items, and a request that reads it.

use wims_runtime::functions::{Reads, RouteInput};
use wims_runtime::items::Items;
use wims_stack::Doc;

use crate::constructs::cancellations::DECLINE_GRACE_MS;
use crate::constructs::observability::LOG_RETENTION_HOURS;
use crate::constructs::payments_api::PaymentsPace;
use crate::stack::{Settings, wims_stack};

/// The table of the stack, without items.
pub(super) fn table() -> Items {
    let stack = wims_stack(&Settings {
        team_email: "theteam@ourcompany.com".into(),
        payments: PaymentsPace::default(),
        decline_grace_ms: DECLINE_GRACE_MS,
        log_retention_hours: LOG_RETENTION_HOURS,
        customer_mails: true,
    });
    Items::new(stack.tables.into_iter().next().expect("the stack has a table"))
}

/// A request of these arguments, with the id 1.
pub(super) fn request<'a>(items: &'a Items, arguments: &'a Doc) -> RouteInput<'a> {
    RouteInput {
        arguments,
        history: None,
        reads: Reads::of(items),
        now_ms: 7,
        id: 1,
        repeated: false,
    }
}
