//! OrdersProcessor: what happens once an order is created.
//!
//! Article section "OrdersProcessor"; pattern: asynchronous bus. A rule hears the INSERT of an
//! order and starts a workflow with two parallel branches: reserve stock, enqueue the payment.
//! Where the article's branch fails on short stock, ours marks the order BACKORDERED; where its
//! update decrements again on a repeated event, ours is guarded by the order's own state.

use serde_json::json;
use wims_stack::{
    Becomes, BusRef, Condition, Doc, Machine, QueueRef, Rule, Stack, State, StateKind, TableRef,
    TargetRef, Task, Template, Transact, Workflow, WorkflowRef,
};

use crate::domain::{CUSTOMER, InventoryStatus, changes};
use crate::fns::function;

/// What it needs.
pub struct OrdersProcessorProps {
    /// The bus to listen to.
    pub bus: BusRef,
    /// Where payments wait.
    pub queue: QueueRef,
    /// Where orders and stock are.
    pub table: TableRef,
    /// Where events go that the workflow cannot take.
    pub dead_letters: QueueRef,
}

/// The construct.
pub struct OrdersProcessor;

impl OrdersProcessor {
    /// Declares the rule and the workflow.
    pub fn new(stack: &mut Stack, props: OrdersProcessorProps) -> OrdersProcessor {
        let workflow = WorkflowRef::new("orders-state-machine");
        let branches = vec![reserve_stock(props.table), enqueue_payment(props.queue)];
        let parallel = State { name: "Parallel".into(), kind: StateKind::Parallel { branches } };
        stack
            .workflows
            .push(Workflow { name: workflow.clone(), machine: Machine { states: vec![parallel] } });
        let placed = json!({"eventType": ["INSERT"], "pk": [{"prefix": CUSTOMER}]});
        stack.rules.push(Rule::new(
            "OrdersStateMachine",
            &props.bus,
            changes(&placed),
            TargetRef::Workflow(workflow),
            &props.dead_letters,
        ));
        OrdersProcessor
    }
}

fn reserve_stock(table: TableRef) -> Machine {
    let becomes = [InventoryStatus::Reserved, InventoryStatus::Backordered];
    let task = Task::Transact(Transact {
        table,
        pk: Template::path("$.detail.data.pk"),
        sk: Template::path("$.detail.data.sk"),
        guard: Condition::is("inventoryStatus", InventoryStatus::Unreserved.as_str()),
        function: function("reserve-stock"),
        becomes: Becomes::one_of(
            "inventoryStatus",
            becomes.iter().map(|status| Doc::text(status.as_str())).collect(),
        ),
    });
    Machine::of_task("ReserveStock", task)
}

fn enqueue_payment(queue: QueueRef) -> Machine {
    // A reference: the consumer reads the order as it is then.
    let message = Template::Object(vec![(
        "orderId".into(),
        Template::path("$.detail.data.NewImage.orderId"),
    )]);
    Machine::of_task("EnqueuePayment", Task::SendMessage { queue, message })
}
