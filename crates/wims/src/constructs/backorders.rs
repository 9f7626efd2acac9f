//! Backorders: orders that wait for stock get it when it comes, and are paid then.
//!
//! The article has no place for them: its update fails on short stock, and nothing comes after it.
//! Pattern: asynchronous bus. A rule hears each change of a stock row with some free and some
//! waiting and starts a workflow that fills from the head of its queue. What it fills changes the
//! row, so it goes on turn by turn. A second rule hears that an order which waited is RESERVED and
//! enqueues its payment anew, for its first message came to nothing.

use serde_json::json;
use wims_stack::{
    Becomes, BusRef, Condition, FunctionRef, Machine, QueueRef, Rule, Stack, TableRef, TargetRef,
    Task, Template, Transact, Workflow, WorkflowRef,
};

use crate::domain::{CUSTOMER, INVENTORY, InventoryStatus, PaymentStatus, changes};
use crate::fns::payments;

/// What it needs.
pub struct BackordersProps {
    /// The bus to listen to.
    pub bus: BusRef,
    /// Where orders, stock and the queues of those who wait are.
    pub table: TableRef,
    /// Where payments wait.
    pub queue: QueueRef,
    /// Where events go that the workflow cannot take.
    pub dead_letters: QueueRef,
    /// The fill policy: `fill-backorders` or `fill-backorders-skip`.
    pub fill: FunctionRef,
}

/// The construct.
pub struct Backorders;

impl Backorders {
    /// Declares the workflow and the rules.
    pub fn new(stack: &mut Stack, props: BackordersProps) -> Backorders {
        let workflow = WorkflowRef::new("backorders-state-machine");
        stack.workflows.push(Workflow {
            name: workflow.clone(),
            machine: fill_backorders(props.table, props.fill),
        });
        let some = json!([{"numeric": [">", 0]}]);
        let stock = json!({
            "eventType": ["UPDATE"],
            "pk": [{"prefix": INVENTORY}],
            "NewImage": {"quantity": some, "backordered": some}
        });
        let filled = json!({
            "eventType": ["UPDATE"],
            "pk": [{"prefix": CUSTOMER}],
            "OldImage": {"inventoryStatus": [InventoryStatus::Backordered.as_str()]},
            "NewImage": {
                "inventoryStatus": [InventoryStatus::Reserved.as_str()],
                "paymentStatus": [PaymentStatus::Pending.as_str()]
            }
        });
        let payment = TargetRef::Queue(props.queue, payments::message());
        let rules = [
            ("BackordersRule", stock, TargetRef::Workflow(workflow)),
            ("BackorderFilledRule", filled, payment),
        ];
        stack.rules.extend(rules.map(|(name, data, to)| {
            Rule::new(name, &props.bus, changes(&data), to, &props.dead_letters)
        }));
        Backorders
    }
}

/// A run that fills anybody lowers the number of those who wait, and one who waits is needed: so
/// the changes that follow from a change of stock come to an end.
fn fill_backorders(table: TableRef, fill: FunctionRef) -> Machine {
    let task = Task::Transact(Transact {
        table,
        pk: Template::path("$.detail.data.pk"),
        sk: Template::path("$.detail.data.sk"),
        guard: Condition::All(vec![
            Condition::AtLeast("quantity".into(), 1.into()),
            Condition::AtLeast("backordered".into(), 1.into()),
        ]),
        function: fill,
        becomes: Becomes::lower("backordered"),
    });
    Machine::of_task("FillBackorders", task)
}
