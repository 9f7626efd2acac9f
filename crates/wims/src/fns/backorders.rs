//! `FillBackorders`: free stock goes to the orders that wait for it, in the order of their ids.
//!
//! Promise: an order gets all its lines or none, and nobody twice: a run reads the queue as it is
//! then, whatever event started it. It fills from the head of one sku's queue and stops at a head
//! it cannot fill (`Strict`), or passes over it (`SkipUnfillable`). Whenever a queue could move, its
//! stock row has changed, so its own run comes; a run that can do nothing writes nothing.
//!
//! Under `Strict` an order keeps its place in every queue it ever joined until it is filled, so
//! that nobody overtakes it there; found short of another sku, it joins that queue as well, at its
//! own place. The smallest id of all that wait is at the head of each queue it waits in, so two
//! orders never wait for each other. Passed over, an order leaves the queue of a sku that has
//! enough for it, for those of the skus it lacks.

use wims_runtime::functions::{Reads, TaskError, TaskInput};
use wims_stack::table::TRANSACTION_ITEMS_MAX;
use wims_stack::{Action, Condition, Doc, Field, Update, Write};

use super::update;
use crate::domain::{BACKORDER, InventoryStatus, Line, Move, Sku, lines, moved, stamp};

/// Orders a run fills, at most; the rest is for the next one, so that intake has its turn.
const ORDERS_MAX: usize = 50;
/// Entries a run looks at, at most: so many orders are passed over. What stands behind them waits
/// until one of them goes.
const ENTRIES_MAX: usize = 500;

/// What happens at an order that cannot be filled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// Those behind it wait, too.
    Strict,
    /// Those behind it get what it cannot use.
    SkipUnfillable,
}

/// `fill-backorders`: policy `Strict`.
pub fn fill(input: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
    Run::new(input, Policy::Strict)?.fill()
}

/// `fill-backorders-skip`: policy `SkipUnfillable`.
pub fn fill_skipping(input: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
    Run::new(input, Policy::SkipUnfillable)?.fill()
}

/// Partition key of the queue of a sku; entries are sorted by the order's id.
pub fn queue_of(sku: &Sku<'_>) -> String {
    format!("{BACKORDER}{sku}")
}

/// The entry of an order in the queue of a sku it is short of.
pub fn entry(order_id: &str, line: &Line<'_>) -> Write {
    let (pk, sk) = (queue_of(&line.sku), order_id.to_owned());
    let entry = Doc::object(&[
        ("orderId", Field::Str(order_id)),
        ("pk", Field::Str(&pk)),
        ("quantity", Field::Int(line.quantity)),
        ("sk", Field::Str(&sk)),
    ]);
    Write { pk, sk, condition: Some(Condition::NotExists), action: Action::Put(entry) }
}

/// A stock row, and what this run has changed of it.
struct Row<'a> {
    sku: Sku<'a>,
    item: &'a Doc,
    taken: i64,
    left: i64,
    joined: i64,
    last_order: &'a str,
}

impl<'a> Row<'a> {
    fn new(sku: Sku<'a>, item: &'a Doc) -> Row<'a> {
        Row { sku, item, taken: 0, left: 0, joined: 0, last_order: "" }
    }

    fn free(&self) -> i64 {
        self.item.int("quantity").unwrap_or(0) - self.taken
    }

    fn waiting(&self) -> i64 {
        self.item.int("backordered").unwrap_or(0) + self.joined - self.left
    }

    fn is_changed(&self) -> bool {
        self.taken + self.left + self.joined > 0
    }

    fn write(&self) -> Write {
        let mut updates = Vec::with_capacity(4);
        if self.taken > 0 {
            updates.push(Update::Add("quantity", (-self.taken).into()));
            updates.push(Update::Add("reserved", self.taken.into()));
            updates.push(Update::set_str("lastOrderId", self.last_order));
        }
        if self.joined != self.left {
            updates.push(Update::Add("backordered", (self.joined - self.left).into()));
        }
        let holds = vec![
            Condition::AtLeast("quantity".into(), self.taken.into()),
            Condition::AtLeast("backordered".into(), self.left.into()),
        ];
        update(self.item, Some(Condition::All(holds)), updates)
    }
}

/// What trying an order came to.
enum Tried {
    Filled,
    Unfillable,
    /// The transaction has no room for it any more.
    NoRoom,
}

/// What is done for one order: writes of the order and of entries, and changes of stock rows.
#[derive(Default)]
struct Step {
    writes: Vec<Write>,
    rows: Vec<RowChange>,
}

/// What a step changes of a stock row.
struct RowChange {
    row: usize,
    taken: i64,
    left: i64,
    joined: i64,
}

/// A run over the queue of one sku, whose row comes first.
struct Run<'a> {
    policy: Policy,
    reads: Reads<'a>,
    now_ms: u64,
    rows: Vec<Row<'a>>,
    filled: Vec<&'a str>,
    writes: Vec<Write>,
}

/// A line and the place of its stock row.
type Placed<'a> = (Line<'a>, usize);

impl<'a> Run<'a> {
    fn new(input: &TaskInput<'a>, policy: Policy) -> Result<Run<'a>, TaskError> {
        let sku = input.item.str("sku").and_then(Sku::parse);
        let sku = sku.ok_or_else(|| broken("a stock row has no sku".into()))?;
        Ok(Run {
            policy,
            reads: input.reads,
            now_ms: input.now_ms,
            rows: vec![Row::new(sku, input.item)],
            filled: Vec::new(),
            writes: Vec::new(),
        })
    }

    fn fill(mut self) -> Result<Vec<Write>, TaskError> {
        for entry in self.reads.query(&queue_of(&self.rows[0].sku), "", ENTRIES_MAX) {
            let free = self.rows[0].free();
            if free == 0 || self.filled.len() == ORDERS_MAX {
                break;
            }
            let passes = self.policy == Policy::SkipUnfillable;
            // Nothing but its entry has to be read.
            if passes && entry.int("quantity").unwrap_or(0) > free {
                continue;
            }
            match self.try_order(waiting_order(self.reads, entry)?)? {
                Tried::Unfillable if !passes => break,
                Tried::Filled | Tried::Unfillable => {}
                Tried::NoRoom => break,
            }
        }
        let changed = self.rows.iter().filter(|row| row.is_changed());
        self.writes.extend(changed.map(Row::write));
        Ok(self.writes)
    }

    fn try_order(&mut self, order: &'a Doc) -> Result<Tried, TaskError> {
        let order_id = order.str("orderId").unwrap_or("");
        let mut placed = Vec::new();
        for line in lines(order) {
            placed.push((line, self.place_of(line.sku)?));
        }
        let is_short = |placed: &&Placed<'_>| self.is_short(placed, order_id);
        let short: Vec<Placed<'_>> = placed.iter().filter(is_short).copied().collect();
        let is_filled = short.is_empty();
        let step = match self.policy {
            Policy::Strict | Policy::SkipUnfillable if is_filled => self.filling(order, &placed),
            Policy::Strict => self.joining(order_id, &short),
            Policy::SkipUnfillable => self.passing(order_id, &short),
        };
        if !self.has_room_for(&step) {
            return Ok(Tried::NoRoom);
        }
        self.take(step, order_id);
        if !is_filled {
            return Ok(Tried::Unfillable);
        }
        self.filled.push(order_id);
        Ok(Tried::Filled)
    }

    fn place_of(&mut self, sku: Sku<'a>) -> Result<usize, TaskError> {
        if let Some(at) = self.rows.iter().position(|row| row.sku == sku) {
            return Ok(at);
        }
        let item = self.reads.get(&sku.pk(), &sku.sk());
        let item = item.ok_or_else(|| broken(format!("there is no item {sku}")))?;
        self.rows.push(Row::new(sku, item));
        Ok(self.rows.len() - 1)
    }

    /// Too little is free, or under `Strict` somebody waits who came before.
    fn is_short(&self, (line, at): &Placed<'_>, order_id: &str) -> bool {
        let row = &self.rows[*at];
        let overtakes = || row.waiting() > 0 && self.head(&row.sku).is_some_and(|id| id < order_id);
        row.free() < line.quantity || (self.policy == Policy::Strict && overtakes())
    }

    /// Who waits first for a sku, after those this run has filled.
    fn head(&self, sku: &Sku<'_>) -> Option<&'a str> {
        let mut entries = self.reads.query(&queue_of(sku), "", self.filled.len() + 1);
        entries.find_map(|entry| entry.str("sk").filter(|id| !self.filled.contains(id)))
    }

    fn waits_for(&self, sku: &Sku<'_>, order_id: &str) -> bool {
        self.reads.get(&queue_of(sku), order_id).is_some()
    }

    /// The order gets its stock and leaves every queue.
    fn filling(&self, order: &'a Doc, placed: &[Placed<'_>]) -> Step {
        let order_id = order.str("orderId").unwrap_or("");
        let waits = Condition::is("inventoryStatus", InventoryStatus::Backordered.as_str());
        let to = Move::Inventory(InventoryStatus::Reserved);
        let mut updates = moved(order, to, self.now_ms);
        // By it the payment message of this change is told from one that was sent before.
        updates.push(Update::SetInt("filledAt", stamp(self.now_ms)));
        let mut step = Step { writes: vec![update(order, Some(waits), updates)], rows: Vec::new() };
        for (line, row) in placed {
            let waited = self.waits_for(&line.sku, order_id);
            step.writes.extend(waited.then(|| departure(order_id, &line.sku)));
            let left = i64::from(waited);
            step.rows.push(RowChange { row: *row, taken: line.quantity, left, joined: 0 });
        }
        step
    }

    /// The order joins the queues of what it is short of, where it does not wait yet.
    fn joining(&self, order_id: &str, short: &[Placed<'_>]) -> Step {
        let mut step = Step::default();
        for (line, row) in short.iter().filter(|(line, _)| !self.waits_for(&line.sku, order_id)) {
            step.writes.push(entry(order_id, line));
            step.rows.push(RowChange { row: *row, taken: 0, left: 0, joined: 1 });
        }
        step
    }

    /// Where there is enough for it, the order does not wait any more; that this queue gets shorter
    /// lets the next run look at those behind it.
    fn passing(&self, order_id: &str, short: &[Placed<'_>]) -> Step {
        if short.iter().any(|(_, row)| *row == 0) {
            return Step::default();
        }
        let mut step = self.joining(order_id, short);
        step.writes.push(departure(order_id, &self.rows[0].sku));
        step.rows.push(RowChange { row: 0, taken: 0, left: 1, joined: 0 });
        step
    }

    /// A step alone always has room: of 32 lines it is at most the order, and an entry and a stock
    /// row each.
    fn has_room_for(&self, step: &Step) -> bool {
        let changed = self.rows.iter().filter(|row| row.is_changed()).count();
        let more = step.rows.iter().filter(|change| !self.rows[change.row].is_changed()).count();
        let items = self.writes.len() + changed + step.writes.len() + more;
        items <= TRANSACTION_ITEMS_MAX
    }

    fn take(&mut self, step: Step, order_id: &'a str) {
        self.writes.extend(step.writes);
        for RowChange { row, taken, left, joined } in step.rows {
            let row = &mut self.rows[row];
            row.taken += taken;
            row.left += left;
            row.joined += joined;
            if taken > 0 {
                row.last_order = order_id;
            }
        }
    }
}

/// The removal of an order's entry in the queue of a sku.
pub(super) fn departure(order_id: &str, sku: &Sku<'_>) -> Write {
    Write {
        pk: queue_of(sku),
        sk: order_id.to_owned(),
        condition: Some(Condition::Exists),
        action: Action::Delete,
    }
}

/// The order of an entry.
fn waiting_order<'a>(reads: Reads<'a>, entry: &Doc) -> Result<&'a Doc, TaskError> {
    let order_id = entry.str("orderId").unwrap_or("");
    let waits = InventoryStatus::Backordered.as_str();
    let order = reads.find("orderId", order_id);
    let order = order.filter(|order| order.str("inventoryStatus") == Some(waits));
    order.ok_or_else(|| broken(format!("order {order_id} is in a queue and does not wait")))
}

/// What must not be: tried again, it is a dead letter that somebody is told of.
fn broken(cause: String) -> TaskError {
    TaskError { name: "Wims.BrokenQueue".into(), cause }
}

#[cfg(test)]
mod tests;
