//! For tests of functions: the table of the stack without items, a request that reads it, and
//! transactions on it.

use std::collections::BTreeSet;

use wims_runtime::functions::{Reads, RouteInput};
use wims_runtime::items::Items;
use wims_stack::table::TRANSACTION_ITEMS_MAX;
use wims_stack::{Action, Doc, Update, Write};

use crate::stack::{Settings, wims_stack};

/// The table of the stack, without items.
pub(super) fn table() -> Items {
    let stack = wims_stack(&Settings::default());
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

/// Carries out a transaction as the engine does, each write under a sequence of its own; the keys of
/// what it changed. `None` when a condition does not hold, and then nothing is written.
pub(super) fn transact(
    items: &mut Items,
    seq: &mut u64,
    writes: &[Write],
) -> Option<Vec<(String, String)>> {
    assert!(writes.len() <= TRANSACTION_ITEMS_MAX, "{} items", writes.len());
    let keys: BTreeSet<_> = writes.iter().map(|write| (&write.pk, &write.sk)).collect();
    assert_eq!(keys.len(), writes.len(), "no item twice");
    let old: Vec<Option<Doc>> = writes
        .iter()
        .map(|write| items.get(&write.pk, &write.sk).map(|item| item.doc.clone()))
        .collect();
    let holds = |(write, old): (&Write, &Option<Doc>)| {
        write.condition.as_ref().is_none_or(|condition| condition.holds(old.as_ref()))
    };
    if !writes.iter().zip(&old).all(holds) {
        return None;
    }
    let mut changed = Vec::new();
    for (Write { pk, sk, action, .. }, old) in writes.iter().zip(old) {
        let new = match action {
            Action::Put(item) => Some(item.clone()),
            Action::Update(updates) => {
                let old = old.as_ref().expect("what is updated is there");
                Some(Update::apply_all(updates, old).expect("numbers are added to numbers"))
            }
            Action::Delete => None,
            Action::Check => old.clone(),
        };
        if old != new {
            changed.push((pk.clone(), sk.clone()));
        }
        let key = new.clone().or(old).expect("an item before or after");
        *seq += 1;
        items.set(&key, new, *seq, *seq);
    }
    Some(changed)
}
