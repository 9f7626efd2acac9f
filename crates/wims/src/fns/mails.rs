//! Mails to the team: stock is low; something needs a person.
//!
//! Promise: each says what happened, to what, and what to do about it.

use std::fmt::Write;

use wims_runtime::functions::MailText;
use wims_stack::Doc;

fn detail(event: &Doc) -> Doc {
    event.part("detail").unwrap_or_else(|| Doc::object(&[]))
}

/// An item crossed its reorder point downwards.
pub fn stock_low(events: &[Doc]) -> MailText {
    let mut text = String::new();
    let mut subject = String::from("Stock is low");
    for event in events {
        let item = detail(event);
        let sku = item.str("sku").unwrap_or("an item");
        let quantity = item.int("quantity").unwrap_or(0);
        subject = format!("Stock is low: {sku} has {quantity} left");
        let _ = writeln!(
            text,
            "{} ({sku}) has {quantity} units left to promise; its reorder point is {}.\n\
             On hand: {}, of which reserved for placed orders: {}. Waiting orders: {}.\n\
             It is time to reorder. Book what arrives with\n\
             POST /inventory/{sku}/receipts {{\"quantity\": ...}}.",
            item.str("productName").unwrap_or(""),
            item.int("reorderPoint").unwrap_or(0),
            item.int("onHand").unwrap_or(0),
            item.int("reserved").unwrap_or(0),
            item.int("backordered").unwrap_or(0),
        );
    }
    MailText { subject, text, html: None }
}

/// Dead letters and paused pipes.
pub fn alerts(events: &[Doc]) -> MailText {
    let mut text = String::new();
    for event in events {
        let detail = detail(event);
        let reason = detail.str("reason").unwrap_or("no reason given");
        let _ = match (detail.str("queue"), detail.str("pipe")) {
            (Some(queue), _) => writeln!(
                text,
                "A message went to the dead-letter queue {queue}: {reason}.\n  Look at it with \
                 `wims queue peek {queue}`, mend the cause, then `wims queue redrive {queue}`."
            ),
            (None, Some(pipe)) => writeln!(
                text,
                "The pipe {pipe} is paused: {reason}.\n  Look at the API, its address and its \
                 credentials. Nothing is lost; single messages find out whether it works again, \
                 and the pipe goes on by itself."
            ),
            (None, None) => writeln!(text, "{reason}"),
        };
    }
    let subject = match events {
        [_] => "WIMS needs a person".to_owned(),
        many => format!("WIMS needs a person: {} alerts", many.len()),
    };
    MailText { subject, text, html: None }
}
