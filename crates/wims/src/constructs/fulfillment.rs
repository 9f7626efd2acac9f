//! Fulfillment: "we need to have some way to wait and confirm the payment was successful and we
//! have the desired inventory on hand".
//!
//! Article section "Fulfillment operations"; pattern: asynchronous bus. A rule hears the change
//! that makes an order both reserved and paid, in whatever order that came, and marks it READY.

use serde_json::json;
use wims_stack::{
    Becomes, BusRef, Condition, Doc, Machine, QueueRef, Rule, Stack, TableRef, TargetRef, Task,
    Template, Transact, Workflow, WorkflowRef,
};

use crate::domain::{CUSTOMER, FulfillmentStatus, InventoryStatus, PaymentStatus, changes};
use crate::fns::function;

/// What it needs.
pub struct FulfillmentProps {
    /// The bus to listen to.
    pub bus: BusRef,
    /// Where orders are.
    pub table: TableRef,
    /// Where events go that the workflow cannot take.
    pub dead_letters: QueueRef,
}

/// The construct.
pub struct Fulfillment;

impl Fulfillment {
    /// Declares the rule and the workflow.
    pub fn new(stack: &mut Stack, props: FulfillmentProps) -> Fulfillment {
        let workflow = WorkflowRef::new("fulfillment-state-machine");
        stack.workflows.push(Workflow { name: workflow.clone(), machine: mark_ready(props.table) });
        let complete = json!({
            "eventType": ["UPDATE"],
            "pk": [{"prefix": CUSTOMER}],
            "NewImage": {
                "inventoryStatus": [InventoryStatus::Reserved.as_str()],
                "paymentStatus": [PaymentStatus::Paid.as_str()],
                "fulfillmentStatus": [FulfillmentStatus::Unfulfilled.as_str()]
            }
        });
        stack.rules.push(Rule::new(
            "FulfillmentRule",
            &props.bus,
            changes(&complete),
            TargetRef::Workflow(workflow),
            &props.dead_letters,
        ));
        Fulfillment
    }
}

fn mark_ready(table: TableRef) -> Machine {
    let task = Task::Transact(Transact {
        table,
        pk: Template::path("$.detail.data.pk"),
        sk: Template::path("$.detail.data.sk"),
        guard: Condition::All(vec![
            Condition::is("inventoryStatus", InventoryStatus::Reserved.as_str()),
            Condition::is("paymentStatus", PaymentStatus::Paid.as_str()),
            Condition::is("fulfillmentStatus", FulfillmentStatus::Unfulfilled.as_str()),
        ]),
        function: function("mark-ready"),
        becomes: Becomes::one_of(
            "fulfillmentStatus",
            vec![Doc::text(FulfillmentStatus::Ready.as_str())],
        ),
    });
    Machine::of_task("MarkReady", task)
}
