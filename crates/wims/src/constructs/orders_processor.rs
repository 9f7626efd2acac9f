//! OrdersProcessor: what happens once an order is created.
//!
//! Article section "OrdersProcessor"; pattern: asynchronous bus. A rule hears the INSERT of an
//! order and starts a workflow with two parallel branches: reserve stock, enqueue the payment.
//! Where the article's branch fails on short stock, ours marks the order BACKORDERED; where its
//! update decrements again on a repeated event, ours is guarded by the order's own state.

use serde_json::json;
use wims_stack::{
    ALL_ERRORS, Becomes, BusRef, Catch, Condition, Doc, Machine, Pattern, QueueRef, Retry, Rule,
    Stack, State, StateKind, TableRef, Target, TargetRef, TargetRetry, Task, Template, Transact,
    Workflow, WorkflowRef,
};

use crate::domain::{CDC_EVENT, CUSTOMER, InventoryStatus, PROJECT_SOURCE};
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
        stack.rules.push(Rule {
            name: "OrdersStateMachine".into(),
            bus: props.bus,
            pattern: Pattern(json!({
                "source": [PROJECT_SOURCE],
                "detail-type": [CDC_EVENT],
                "detail": {"data": {"eventType": ["INSERT"], "pk": [{"prefix": CUSTOMER}]}}
            })),
            targets: vec![Target {
                to: TargetRef::Workflow(workflow),
                retry: TargetRetry::default(),
                dead_letters: props.dead_letters,
            }],
        });
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
    branch("ReserveStock", task)
}

fn enqueue_payment(queue: QueueRef) -> Machine {
    // A reference: the consumer reads the order as it is then.
    let message = Template::Object(vec![(
        "orderId".into(),
        Template::path("$.detail.data.NewImage.orderId"),
    )]);
    branch("EnqueuePayment", Task::SendMessage { queue, message })
}

/// One task with its Retry and Catch. What fails for good fails the execution by name, and the
/// event goes to the dead letters, from where it can be sent again.
fn branch(name: &str, task: Task) -> Machine {
    let failed = format!("{name}Failed");
    let retry = Retry {
        errors: vec![ALL_ERRORS.into()],
        interval_ms: 1_000,
        backoff: 2,
        interval_max_ms: 60_000,
        attempts_max: 8,
    };
    let catch = Catch { errors: vec![ALL_ERRORS.into()], next: failed.clone() };
    let states = vec![
        State {
            name: name.into(),
            kind: StateKind::Task { task, retry: vec![retry], catch: vec![catch] },
        },
        State { name: format!("{name}Done"), kind: StateKind::Succeed },
        State { name: failed.clone(), kind: StateKind::Fail { error: failed } },
    ];
    Machine { states }
}
