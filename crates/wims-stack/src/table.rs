//! Tables as declared and written: kinds of items, conditions, updates.
//!
//! Promise: a condition and an update are data with one meaning, DynamoDB's; reads inside an
//! update see the item before it. It deliberately knows no order and runs nothing.

use std::borrow::Cow;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::doc::{Doc, Field};
use crate::stack::TableRef;

/// Name of the partition key of every table, as in the article.
pub const PARTITION_KEY: &str = "pk";
/// Name of the sort key of every table, as in the article.
pub const SORT_KEY: &str = "sk";
/// The most items one transaction may write, DynamoDB's number.
pub const TRANSACTION_ITEMS_MAX: usize = 100;

/// A declared table: keys `pk` + `sk`, a change stream with old and new images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its name, e.g. `WIMS`.
    pub name: TableRef,
    /// Prefixes of `pk` whose changes are not in the stream.
    pub unstreamed: Vec<String>,
    /// Attributes by which items can be found or listed.
    pub indexes: Vec<Index>,
    /// Which items are closed: they leave memory once history holds them.
    pub closed: Vec<Closed>,
}

/// An index over items that have the attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// The attribute, e.g. `orderId`; the index has its name.
    pub attribute: String,
    /// Only items whose `pk` starts so are in it.
    pub prefix: String,
    /// At most one item a value, found by it; otherwise items are listed newest first.
    pub unique: bool,
    /// Instead of all that: the items of each partition, in the order of their sort key, which is
    /// the attribute then. In DynamoDB every partition has it; here it costs those that ask.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ordered: bool,
}

/// Items with this prefix of `pk` that satisfy the condition are closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Prefix of `pk`.
    pub prefix: String,
    /// What holds of a closed item.
    pub when: Condition,
}

/// An attribute's name; a constant where Rust declares it, owned where JSON does.
pub type Name = Cow<'static, str>;

/// A condition on the current item, as in a DynamoDB condition expression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Condition {
    /// The item exists.
    Exists,
    /// No such item exists.
    NotExists,
    /// The attribute equals one of the values.
    In(Name, Vec<Doc>),
    /// The attribute is missing.
    Missing(Name),
    /// The attribute is a number and at least this.
    AtLeast(Name, Decimal),
    /// The attribute is a number and below this.
    Below(Name, Decimal),
    /// All hold.
    All(Vec<Condition>),
    /// At least one holds.
    Any(Vec<Condition>),
}

impl Condition {
    /// The attribute equals this text.
    pub fn is(attribute: &'static str, text: &str) -> Condition {
        Condition::In(attribute.into(), vec![Doc::text(text)])
    }

    /// The attribute equals one of these texts.
    pub fn is_one_of(attribute: &'static str, texts: &[&str]) -> Condition {
        Condition::In(attribute.into(), texts.iter().map(|text| Doc::text(text)).collect())
    }

    /// Whether it holds of the item (`None`: there is no such item).
    pub fn holds(&self, item: Option<&Doc>) -> bool {
        let attribute = |name: &str| item.and_then(|item| item.get(name));
        let number = |name: &str| attribute(name).and_then(|value| value.as_number());
        match self {
            Condition::Exists => item.is_some(),
            Condition::NotExists => item.is_none(),
            Condition::In(name, values) => attribute(name)
                .is_some_and(|found| values.iter().any(|value| value.bytes() == found.bytes())),
            Condition::Missing(name) => attribute(name).is_none(),
            Condition::AtLeast(name, least) => number(name).is_some_and(|found| found >= *least),
            Condition::Below(name, bound) => number(name).is_some_and(|found| found < *bound),
            Condition::All(all) => all.iter().all(|condition| condition.holds(item)),
            Condition::Any(any) => any.iter().any(|condition| condition.holds(item)),
        }
    }

    /// The least this number may be for the condition to hold, if it sets a bound.
    pub fn least(&self, attribute: &str) -> Option<Decimal> {
        match self {
            Condition::AtLeast(name, least) => (name == attribute).then_some(*least),
            Condition::All(all) => all.iter().filter_map(|c| c.least(attribute)).max(),
            Condition::Any(any) => {
                let each: Option<Vec<Decimal>> = any.iter().map(|c| c.least(attribute)).collect();
                each?.into_iter().min()
            }
            Condition::Exists
            | Condition::NotExists
            | Condition::In(..)
            | Condition::Missing(_)
            | Condition::Below(..) => None,
        }
    }

    /// Whether this certainly does not hold once the attribute has one of these values.
    pub fn is_falsified_by(&self, attribute: &str, values: &[Doc]) -> bool {
        match self {
            Condition::In(name, allowed) => {
                name == attribute && !values.iter().any(|value| allowed.contains(value))
            }
            Condition::Missing(name) => name == attribute && !values.is_empty(),
            Condition::All(all) => all.iter().any(|c| c.is_falsified_by(attribute, values)),
            Condition::Any(any) => {
                !any.is_empty() && any.iter().all(|c| c.is_falsified_by(attribute, values))
            }
            Condition::NotExists => true,
            Condition::Exists | Condition::AtLeast(..) | Condition::Below(..) => false,
        }
    }
}

/// One write of a transaction: what to do to one item, if its condition holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Partition key.
    pub pk: String,
    /// Sort key.
    pub sk: String,
    /// What must hold of the item before any write of the transaction happens.
    pub condition: Option<Condition>,
    /// What to do.
    pub action: Action,
}

/// What a [`Write`] does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Replaces the whole item; `pk` and `sk` are part of it.
    Put(Doc),
    /// Sets, adds to and removes attributes of an item, created when missing.
    Update(Vec<Update>),
    /// Removes the item.
    Delete,
    /// Writes nothing; only the condition counts.
    Check,
}

/// One attribute's part of an update.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// Sets the attribute.
    Set(&'static str, Doc),
    /// Sets the attribute to a constant text.
    SetConst(&'static str, &'static str),
    /// Sets the attribute to a whole number.
    SetInt(&'static str, i64),
    /// Adds to a number that must exist.
    Add(&'static str, Decimal),
    /// Removes the attribute.
    Remove(&'static str),
}

/// Why an update cannot be applied, in DynamoDB's words.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum UpdateError {
    /// A number was to be added to nothing.
    #[error("the provided expression refers to an attribute that does not exist in the item: {0}")]
    Missing(String),
    /// A number was to be added to something else, or the sum is out of range.
    #[error("an operand in the update expression has an incorrect data type: {0}")]
    Operand(String),
}

impl Update {
    /// Sets a text.
    pub fn set_str(name: &'static str, text: &str) -> Update {
        Update::Set(name, Doc::text(text))
    }

    /// The item after these updates; equal to the old one when nothing changes.
    ///
    /// # Errors
    /// When a number is added to an attribute that is missing or no number.
    pub fn apply_all(updates: &[Update], item: &Doc) -> Result<Doc, UpdateError> {
        let mut changes = Vec::with_capacity(updates.len());
        for update in updates {
            changes.push(match update {
                Update::Set(name, value) => (*name, Some(Field::View(value.view()))),
                Update::SetConst(name, value) => (*name, Some(Field::Str(value))),
                Update::SetInt(name, value) => (*name, Some(Field::Int(*value))),
                Update::Remove(name) => (*name, None),
                Update::Add(name, n) => (*name, Some(Field::Number(sum(item, name, *n)?))),
            });
        }
        Ok(item.with(&changes))
    }
}

fn sum(item: &Doc, name: &str, n: Decimal) -> Result<Decimal, UpdateError> {
    let old = item.get(name).ok_or_else(|| UpdateError::Missing(name.into()))?;
    let old = old.as_number().ok_or_else(|| UpdateError::Operand(name.into()))?;
    old.checked_add(n).ok_or_else(|| UpdateError::Operand(name.into()))
}

/// An item with nothing but its keys: what an update of a missing item starts from.
pub fn empty_item(pk: &str, sk: &str) -> Doc {
    Doc::object(&[(PARTITION_KEY, Field::Str(pk)), (SORT_KEY, Field::Str(sk))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_reads_the_item_before_it_and_refuses_to_add_to_nothing() {
        let item = empty_item("INVENTORY#MACGUFFIN", "MODEL#LX")
            .with(&[("quantity", Some(Field::Int(10)))]);
        let updates = [Update::Add("quantity", Decimal::from(-7)), Update::SetInt("reserved", 7)];
        let after = Update::apply_all(&updates, &item).expect("quantity is a number");
        assert_eq!((after.int("quantity"), after.int("reserved")), (Some(3), Some(7)));
        let wrong = [Update::Add("missing", Decimal::ONE)];
        assert_eq!(Update::apply_all(&wrong, &item), Err(UpdateError::Missing("missing".into())));
    }

    #[test]
    fn a_guard_is_falsified_by_the_values_it_excludes() {
        let guard =
            Condition::All(vec![Condition::Exists, Condition::is("inventoryStatus", "UNRESERVED")]);
        let after = [Doc::text("RESERVED"), Doc::text("BACKORDERED")];
        assert!(guard.is_falsified_by("inventoryStatus", &after));
        assert!(!guard.is_falsified_by("paymentStatus", &after));
        assert!(!guard.is_falsified_by("inventoryStatus", &[Doc::text("UNRESERVED")]));
    }

    #[test]
    fn a_number_has_a_least_only_where_every_way_to_hold_sets_one() {
        let at_least = |n: i64| Condition::AtLeast("backordered".into(), n.into());
        let all = Condition::All(vec![Condition::Exists, at_least(1), at_least(3)]);
        assert_eq!(all.least("backordered"), Some(3.into()));
        assert_eq!(all.least("quantity"), None);
        assert_eq!(Condition::Any(vec![at_least(2), all]).least("backordered"), Some(2.into()));
        let open = Condition::Any(vec![at_least(2), Condition::Exists]);
        assert_eq!(open.least("backordered"), None);
    }
}
