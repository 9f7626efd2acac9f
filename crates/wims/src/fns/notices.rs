//! Notices: mails to the customer of an order about what became of it.
//!
//! Promise: each once an order and cause, to the address the order came with, while it is there:
//! who came without one, or had it erased, is mailed nothing. Whom we told of what is noted in the
//! order's contact data, so it ends with that. The last notice of an order takes contact data along
//! however it ended: sent, given up, or with nobody to mail. It deliberately tells nothing twice
//! because an order moved on meanwhile: each mail is about what happened then.

use std::sync::Arc;

use wims_runtime::functions::{DeliveryInput, Notice, NoticeEnd, NoticeFn};
use wims_stack::{Action, Condition, Doc, Update, View, Write};

use super::contacts;
use crate::domain::{CONTACT_SK, contact_pk};

pub mod templates;
#[cfg(test)]
mod tests;

use templates::{Letter, Templates};

/// The attribute of contact data that says what its customer was told.
const TOLD: &str = "told";

/// What a customer is told, once an order; of a declined payment, once a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It waits for stock.
    Backordered,
    /// It waited, and has its stock.
    BackInStock,
    /// Its payment was refused for good.
    PaymentDeclined,
    /// It was canceled, and refunded if it was paid.
    Canceled,
    /// It left the warehouse.
    Shipped,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 5] = [
        Cause::Backordered,
        Cause::BackInStock,
        Cause::PaymentDeclined,
        Cause::Canceled,
        Cause::Shipped,
    ];

    /// Its word: in the names of templates, in Message-IDs and in contact data.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cause::Backordered => "backordered",
            Cause::BackInStock => "back-in-stock",
            Cause::PaymentDeclined => "payment-declined",
            Cause::Canceled => "canceled",
            Cause::Shipped => "shipped",
        }
    }

    /// Of what an event tells the customer of the order. A refund is told with the cancellation that
    /// it ends.
    fn of(detail_type: &str) -> Option<Cause> {
        match detail_type {
            "order.backordered" => Some(Cause::Backordered),
            "stock.reserved" => Some(Cause::BackInStock),
            "payment.declined" => Some(Cause::PaymentDeclined),
            "order.canceled" => Some(Cause::Canceled),
            "order.shipped" => Some(Cause::Shipped),
            _ => None,
        }
    }

    /// Whether the order is closed with it, and nothing is told of it any more.
    fn is_last(self) -> bool {
        match self {
            Cause::Canceled | Cause::Shipped => true,
            Cause::Backordered | Cause::BackInStock | Cause::PaymentDeclined => false,
        }
    }
}

/// An event, as far as its notice goes.
struct Told<'a> {
    cause: Cause,
    order: Doc,
    order_id: String,
    contact: Option<&'a Doc>,
}

impl<'a> Told<'a> {
    /// `None` of what is no event of an order that a customer is told of.
    fn of(input: &DeliveryInput<'a>) -> Option<Told<'a>> {
        let order = input.message.part("detail")?;
        let cause = Cause::of(input.message.str("detail-type")?)?;
        let order_id = order.str("orderId")?.to_owned();
        let contact = input.reads.get(&contact_pk(&order_id), CONTACT_SK);
        Some(Told { cause, order, order_id, contact })
    }

    /// The cause, and which charge it is about where there may be several.
    fn word(&self) -> String {
        match (self.cause, self.order.int("charge")) {
            (Cause::PaymentDeclined, Some(charge)) => format!("{}-{charge}", self.cause.as_str()),
            (cause, _) => cause.as_str().to_owned(),
        }
    }

    /// What the customer was told so far.
    fn before(&self) -> Vec<&'a str> {
        let told = self.contact.and_then(|contact| contact.get(TOLD)).and_then(View::as_list);
        told.into_iter().flatten().filter_map(View::as_str).collect()
    }

    /// The address of somebody who was not told before.
    fn address(&self) -> Option<&'a str> {
        let email = self.contact?.str("email")?;
        (!self.before().contains(&self.word().as_str())).then_some(email)
    }

    /// Contact data goes, if this is the last notice.
    fn forget(&self) -> Vec<Write> {
        let is_last = self.cause.is_last() && self.contact.is_some();
        is_last.then(|| contacts::delete(&self.order_id)).into_iter().collect()
    }

    /// Notes that the customer was told.
    fn note(&self) -> Write {
        let word = self.word();
        let told = Doc::build(|w| {
            w.list(|w| {
                self.before().into_iter().for_each(|before| w.str(before));
                w.str(&word);
            });
        });
        Write {
            pk: contact_pk(&self.order_id),
            sk: CONTACT_SK.into(),
            // Erased is erased: an update would make an item of what is not there.
            condition: Some(Condition::Exists),
            action: Action::Update(vec![Update::Set(TOLD, told)]),
        }
    }
}

/// Writes the mails, with these templates.
pub fn notify_customer(templates: Arc<Templates>) -> NoticeFn {
    Arc::new(move |input: &DeliveryInput<'_>| notice(&templates, input))
}

fn notice(templates: &Templates, input: &DeliveryInput<'_>) -> Notice {
    let Some(told) = Told::of(input) else { return Notice::Nobody { writes: Vec::new() } };
    let (Some(address), Some(contact)) = (told.address(), told.contact) else {
        return Notice::Nobody { writes: told.forget() };
    };
    let letter = Letter::of(input.reads, &told.order, contact, templates.shop());
    let text = templates.write(told.cause, &letter);
    let key = format!("{}.{}", told.order_id, told.word());
    Notice::Mail { to: address.to_owned(), key, text }
}

/// Writes no mail at all; in place of [`notify_customer`] where customers are mailed nothing.
pub fn forget_customer(input: &DeliveryInput<'_>) -> Notice {
    Notice::Nobody { writes: Told::of(input).map_or_else(Vec::new, |told| told.forget()) }
}

/// A notice ended. One that was given up may be sent back from among the dead letters, so it is not
/// noted; the last one takes contact data along all the same.
pub fn customer_notified(input: &DeliveryInput<'_>, end: NoticeEnd) -> Vec<Write> {
    let Some(told) = Told::of(input).filter(|told| told.contact.is_some()) else {
        return Vec::new();
    };
    if told.cause.is_last() {
        return told.forget();
    }
    match end {
        NoticeEnd::Sent => vec![told.note()],
        NoticeEnd::GivenUp => Vec::new(),
    }
}
