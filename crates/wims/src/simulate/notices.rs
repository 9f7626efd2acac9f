//! Mails to customers, as the simulator looks at them.
//!
//! Promise: in one seed of two every second customer has an address. Each of them is mailed of a
//! cause once an order unless the process died meanwhile, never of what is durably noted as told,
//! and of each shipment; nobody else is mailed, and no address stays behind a closed order.

use std::collections::BTreeSet;

use wims_runtime::io::{MailJob, MailResult};
use wims_runtime::sim::Verdict;
use wims_stack::{Doc, Field, View};

use super::books::{Books, text, violated};

/// How addresses of customers end.
const DOMAIN: &str = "@customers.example.com";

/// Whether customers have addresses in a seed. Not drawn: the other seeds do what they did without.
pub fn has_addresses(seed: u64) -> bool {
    seed & 2 == 2
}

/// Contact data of a customer; every second has none.
pub fn contact_of(customer: &str) -> Option<Doc> {
    let last = customer.bytes().last()?;
    let email = format!("{customer}{DOMAIN}");
    (last & 1 == 0).then(|| Doc::object(&[("email", Field::Str(&email))]))
}

/// Mails that were sent.
#[derive(Default)]
pub struct NoticeBook {
    /// Keys of mails that a server took in this life of the process.
    of_this_life: BTreeSet<String>,
    /// Keys of mails that a server took, or refused for good.
    ended: BTreeSet<String>,
}

impl NoticeBook {
    /// The process died: what was under way may come again.
    pub fn forget_life(&mut self) {
        self.of_this_life.clear();
    }

    /// Takes a mail and what becomes of it.
    ///
    /// # Errors
    /// When it must not be sent.
    pub fn mailed(&mut self, mail: &MailJob, result: &MailResult, books: &Books) -> Verdict {
        let Some(customer) = mail.to.strip_suffix(DOMAIN) else { return Ok(()) };
        let key = mail.message_id.strip_suffix("@wims").unwrap_or("");
        let (order_id, word) = key.split_once('.').unwrap_or(("", ""));
        let Some(order) = books.order(order_id) else {
            return violated(format!("{key} is mailed, of no order on disk"));
        };
        if text(order, "customerId") != customer || contact_of(customer).is_none() {
            return violated(format!("{} is mailed of {key}", mail.to));
        }
        let told = books.contact(order_id).and_then(|contact| contact.get("told"));
        let mut told = told.and_then(View::as_list).into_iter().flatten();
        if told.any(|before| before.as_str() == Some(word)) {
            return violated(format!("{key} is mailed after it was noted as told"));
        }
        match result {
            MailResult::Retry(_) => return Ok(()),
            MailResult::Rejected(_) => {}
            MailResult::Sent if !self.of_this_life.insert(key.to_owned()) => {
                return violated(format!("{key} is mailed twice in one life"));
            }
            MailResult::Sent => {}
        }
        self.ended.insert(key.to_owned());
        Ok(())
    }

    /// Looks at a run at rest.
    ///
    /// # Errors
    /// When somebody was not told of a shipment, or an address stayed behind.
    pub fn at_rest(&self, books: &Books) -> Verdict {
        for order in books.orders().filter(|order| text(order, "status") == "SHIPPED") {
            let order_id = text(order, "orderId");
            if books.contact(order_id).is_some() {
                return violated(format!("the address of order {order_id} is left behind"));
            }
            let is_told = self.ended.contains(&format!("{order_id}.shipped"));
            if order.get("hasContact").is_some() && !is_told {
                return violated(format!("nobody was told that order {order_id} is shipped"));
            }
        }
        Ok(())
    }
}
