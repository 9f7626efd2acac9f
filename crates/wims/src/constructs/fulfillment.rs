//! Fulfillment: "we need to have some way to wait and confirm the payment was successful and we
//! have the desired inventory on hand".
//!
//! Article section "Fulfillment operations"; pattern: asynchronous bus. A rule hears the change
//! that makes an order both reserved and paid, in whatever order that came, and marks it READY.

use serde_json::json;
use wims_stack::{
    ALL_ERRORS, Becomes, BusRef, Catch, Condition, Doc, Machine, Pattern, QueueRef, Retry, Rule,
    Stack, State, StateKind, TableRef, Target, TargetRef, TargetRetry, Task, Template, Transact,
    Workflow, WorkflowRef,
};

use crate::domain::{
    CDC_EVENT, CUSTOMER, FulfillmentStatus, InventoryStatus, PROJECT_SOURCE, PaymentStatus,
};
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
        stack.workflows.push(Workflow {
            name: workflow.clone(),
            machine: Machine { states: states(props.table) },
        });
        stack.rules.push(Rule {
            name: "FulfillmentRule".into(),
            bus: props.bus,
            pattern: Pattern(json!({
                "source": [PROJECT_SOURCE],
                "detail-type": [CDC_EVENT],
                "detail": {"data": {
                    "eventType": ["UPDATE"],
                    "pk": [{"prefix": CUSTOMER}],
                    "NewImage": {
                        "inventoryStatus": [InventoryStatus::Reserved.as_str()],
                        "paymentStatus": [PaymentStatus::Paid.as_str()],
                        "fulfillmentStatus": [FulfillmentStatus::Unfulfilled.as_str()]
                    }
                }}
            })),
            targets: vec![Target {
                to: TargetRef::Workflow(workflow),
                retry: TargetRetry::default(),
                dead_letters: props.dead_letters,
            }],
        });
        Fulfillment
    }
}

fn states(table: TableRef) -> Vec<State> {
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
    let retry = Retry {
        errors: vec![ALL_ERRORS.into()],
        interval_ms: 1_000,
        backoff: 2,
        interval_max_ms: 60_000,
        attempts_max: 8,
    };
    let catch = Catch { errors: vec![ALL_ERRORS.into()], next: "MarkReadyFailed".into() };
    vec![
        State {
            name: "MarkReady".into(),
            kind: StateKind::Task { task, retry: vec![retry], catch: vec![catch] },
        },
        State { name: "MarkReadyDone".into(), kind: StateKind::Succeed },
        State {
            name: "MarkReadyFailed".into(),
            kind: StateKind::Fail { error: "MarkReadyFailed".into() },
        },
    ]
}
