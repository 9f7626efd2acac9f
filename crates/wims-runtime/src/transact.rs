//! Transactions on a table: all or nothing, conditions first.
//!
//! Promise: DynamoDB's: at most 100 items, no item twice, every condition sees the items before
//! any write, a failed condition says which, and a write that changes nothing writes no record.

use wims_stack::Doc;
use wims_stack::table::{
    Action, PARTITION_KEY, SORT_KEY, TRANSACTION_ITEMS_MAX, Update, UpdateError, Write, empty_item,
};

use crate::engine::{Cause, Engine};
use crate::items::text_bytes;
use crate::record::{Change, Record};

/// Why a transaction wrote nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TransactFailure {
    /// A condition did not hold.
    #[error("the conditional request failed: item {pk} {sk}")]
    Condition {
        /// Partition key of the item.
        pk: String,
        /// Sort key of the item.
        sk: String,
    },
    /// An update could not be applied.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// Too many items, or one twice.
    #[error(
        "a transaction writes at most {TRANSACTION_ITEMS_MAX} items, each once and under its own key; this one has {0}"
    )]
    Shape(String),
}

/// What a write makes of an item.
struct Planned {
    created: u64,
    old: Option<Doc>,
    new: Option<Doc>,
}

impl Engine {
    /// Carries out `writes` on a table, all or none.
    pub(crate) fn transact(
        &mut self,
        table: u16,
        writes: &[Write],
        cause: Cause,
    ) -> Result<(), TransactFailure> {
        check_shape(writes)?;
        let mut planned = Vec::with_capacity(writes.len());
        for write in writes {
            planned.push(self.plan_write(table, write)?);
        }
        for Planned { created, old, new } in planned {
            if old != new {
                self.emit(cause, Record::Change(Change { table, created, old, new }));
            }
        }
        Ok(())
    }

    fn plan_write(&self, table: u16, write: &Write) -> Result<Planned, TransactFailure> {
        let item = self.state.table(table).get(&write.pk, &write.sk);
        let old = item.map(|item| item.doc.clone());
        let holds = write.condition.as_ref().is_none_or(|c| c.holds(old.as_ref()));
        if !holds {
            let (pk, sk) = (write.pk.clone(), write.sk.clone());
            return Err(TransactFailure::Condition { pk, sk });
        }
        let new = match &write.action {
            Action::Put(doc) => {
                let key = (text_bytes(doc, PARTITION_KEY), text_bytes(doc, SORT_KEY));
                if key != (write.pk.as_bytes(), write.sk.as_bytes()) {
                    return Err(TransactFailure::Shape(format!("{} under another key", write.sk)));
                }
                Some(doc.clone())
            }
            Action::Update(updates) => {
                let base = old.clone().unwrap_or_else(|| empty_item(&write.pk, &write.sk));
                Some(Update::apply_all(updates, &base)?)
            }
            Action::Delete => None,
            Action::Check => old.clone(),
        };
        Ok(Planned { created: item.map_or(0, |item| item.created), old, new })
    }
}

fn check_shape(writes: &[Write]) -> Result<(), TransactFailure> {
    if writes.len() > TRANSACTION_ITEMS_MAX {
        return Err(TransactFailure::Shape(format!("{} items", writes.len())));
    }
    for (i, write) in writes.iter().enumerate() {
        if writes[..i].iter().any(|other| other.pk == write.pk && other.sk == write.sk) {
            return Err(TransactFailure::Shape(format!("item {} {} twice", write.pk, write.sk)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
