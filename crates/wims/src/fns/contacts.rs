//! Contact data of orders: stored beside the order, found by it, erased.
//!
//! Promise: what is personal of an order is in one item of its own that no stream has, so it can be
//! erased without touching the books. It goes with the order: in the transaction that closes it, or,
//! where there is somebody to mail, with the last notice of it. It deliberately makes no event, not
//! even of the erasing.

use wims_runtime::functions::{Reads, Refusal, RouteInput, Routed};
use wims_stack::table::TRANSACTION_ITEMS_MAX;
use wims_stack::{Action, Condition, Doc, Field, View, Write};

use crate::domain::{CONTACT_OF, CONTACT_SK, contact_pk};

/// Stores the contact data `{email?, paymentMethod?, shipTo?}` that an order came with.
pub(super) fn put(order_id: &str, customer_id: &str, contact: &Doc) -> Write {
    let pk = contact_pk(order_id);
    let item = contact.with(&[
        (CONTACT_OF, Some(Field::Str(customer_id))),
        ("orderId", Some(Field::Str(order_id))),
        ("pk", Some(Field::Str(&pk))),
        ("sk", Some(Field::Str(CONTACT_SK))),
    ]);
    Write {
        pk,
        sk: CONTACT_SK.into(),
        condition: Some(Condition::NotExists),
        action: Action::Put(item),
    }
}

/// The contact data of an order; `None` when it came without, or it was erased. An order without
/// costs no look into the table.
pub fn of<'a>(reads: Reads<'a>, order: &Doc) -> Option<&'a Doc> {
    order.get("hasContact")?;
    reads.get(&contact_pk(order.str("orderId")?), CONTACT_SK)
}

/// What closing an order writes beside the order: its contact data goes. With an address in it, it
/// stays until the last notice is done, which the closing brings about; see `notices`.
pub(super) fn forget(reads: Reads<'_>, order: &Doc) -> Option<Write> {
    if of(reads, order)?.get("email").is_some() {
        return None;
    }
    order.str("orderId").map(delete)
}

pub(super) fn delete(order_id: &str) -> Write {
    let (pk, sk) = (contact_pk(order_id), CONTACT_SK.to_owned());
    Write { pk, sk, condition: None, action: Action::Delete }
}

/// `POST /customers/{customerId}/erase`, a transaction of it: arguments `{orderIds}`, the first
/// hundred count. Replies `{erased}`: how many had contact data.
pub fn erase_contacts(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let order_ids = input.arguments.get("orderIds").and_then(View::as_list);
    let order_ids = order_ids.into_iter().flatten().filter_map(View::as_str);
    let is_there = |order_id: &&str| input.reads.get(&contact_pk(order_id), CONTACT_SK).is_some();
    let writes: Vec<Write> =
        order_ids.take(TRANSACTION_ITEMS_MAX).filter(is_there).map(delete).collect();
    let erased = i64::try_from(writes.len()).expect("a transaction is small");
    Ok(Routed { writes, reply: Doc::object(&[("erased", Field::Int(erased))]) })
}

#[cfg(test)]
mod tests {
    use wims_runtime::items::Items;

    use super::*;
    use crate::fns::sample;

    /// The table with contact data of two orders of one customer.
    fn items() -> Items {
        let mut items = sample::table();
        for (seq, order_id) in [(1, "a"), (2, "b")] {
            let contact = Doc::object(&[("email", Field::Str("ada@example.com"))]);
            let Action::Put(item) = put(order_id, "349", &contact).action else {
                panic!("contact data is put");
            };
            items.set(&item.clone(), Some(item), seq, seq);
        }
        items
    }

    fn order(order_id: &str, has_contact: bool) -> Doc {
        let order = Doc::object(&[("orderId", Field::Str(order_id))]);
        order.with(&[("hasContact", has_contact.then_some(Field::Bool(true)))])
    }

    #[test]
    fn contact_data_is_in_no_stream_and_found_by_its_order_and_its_customer() {
        let items = items();
        let found = of(Reads::of(&items), &order("a", true)).expect("it is there");
        assert_eq!(found.str("email"), Some("ada@example.com"));
        assert!(!items.is_streamed(found));
        let listed = items.list(CONTACT_OF, "349", u64::MAX);
        let listed: Vec<_> = listed.filter_map(|item| item.doc.str("orderId")).collect();
        assert_eq!(listed, ["b", "a"]);
        assert_eq!(of(Reads::of(&items), &order("a", false)), None);
        assert_eq!(of(Reads::of(&items), &order("c", true)), None);
    }

    #[test]
    fn closing_an_order_deletes_contact_data_that_no_mail_needs() {
        let mut items = items();
        let method = Doc::object(&[("paymentMethod", Field::Str("tok_1"))]);
        let Action::Put(item) = put("d", "349", &method).action else {
            panic!("contact data is put");
        };
        items.set(&item.clone(), Some(item), 3, 3);
        let forgets = |order_id| forget(Reads::of(&items), &order(order_id, true)).is_some();
        assert!(forgets("d"), "there is nobody to mail");
        assert!(!forgets("a"), "its last notice does");
        assert!(!forgets("c"), "it is gone already");
    }

    #[test]
    fn erasing_deletes_what_is_there_and_counts_it() {
        let items = items();
        let list = Doc::build(|w| w.list(|w| ["a", "gone", "b"].iter().for_each(|id| w.str(id))));
        let arguments = Doc::object(&[("orderIds", Field::View(list.view()))]);
        let input = sample::request(&items, &arguments);
        let Routed { writes, reply } = erase_contacts(&input).expect("it is not refused");
        assert_eq!(reply.int("erased"), Some(2));
        let pks: Vec<&str> = writes.iter().map(|write| write.pk.as_str()).collect();
        assert_eq!(pks, ["CONTACT#a", "CONTACT#b"]);
        assert!(writes.iter().all(|write| write.action == Action::Delete));
    }
}
