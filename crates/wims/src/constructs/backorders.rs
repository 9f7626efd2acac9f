//! Backorders: orders that wait for stock get it when it comes, and are paid then.
//!
//! The article has no place for them: its update fails on short stock, and nothing comes after it.
//! Pattern: asynchronous bus. A rule hears each change of a stock row with some free and some
//! waiting and starts a workflow that fills from the head of its queue. What it fills changes the
//! row, so it goes on turn by turn. A second rule hears that an order which waited is RESERVED and
//! enqueues its payment anew, for its first message came to nothing.

use serde_json::json;
use wims_stack::{
    ALL_ERRORS, Becomes, BusRef, Catch, Condition, FunctionRef, Machine, Pattern, QueueRef, Retry,
    Rule, Stack, State, StateKind, TableRef, Target, TargetRef, TargetRetry, Task, Template,
    Transact, Workflow, WorkflowRef,
};

use crate::domain::{
    CDC_EVENT, CUSTOMER, INVENTORY, InventoryStatus, PROJECT_SOURCE, PaymentStatus,
};

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
            machine: Machine { states: states(props.table, props.fill) },
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
        let payment = TargetRef::Queue(props.queue, payment_message());
        let rules = [
            ("BackordersRule", stock, TargetRef::Workflow(workflow)),
            ("BackorderFilledRule", filled, payment),
        ];
        stack.rules.extend(rules.map(|(name, data, to)| Rule {
            name: name.into(),
            bus: props.bus.clone(),
            pattern: Pattern(json!({
                "source": [PROJECT_SOURCE],
                "detail-type": [CDC_EVENT],
                "detail": {"data": data}
            })),
            targets: vec![Target {
                to,
                retry: TargetRetry::default(),
                dead_letters: props.dead_letters.clone(),
            }],
        }));
        Backorders
    }
}

/// A reference, as the first one, and which filling it follows from.
fn payment_message() -> Template {
    let path = |name: &str| Template::path(&format!("$.detail.data.NewImage.{name}"));
    Template::Object(vec![
        ("filledAt".into(), path("filledAt")),
        ("orderId".into(), path("orderId")),
    ])
}

/// A run that fills anybody lowers the number of those who wait, and one who waits is needed: so
/// the changes that follow from a change of stock come to an end.
fn states(table: TableRef, fill: FunctionRef) -> Vec<State> {
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
    let retry = Retry {
        errors: vec![ALL_ERRORS.into()],
        interval_ms: 1_000,
        backoff: 2,
        interval_max_ms: 60_000,
        attempts_max: 8,
    };
    let failed = "FillBackordersFailed";
    let catch = Catch { errors: vec![ALL_ERRORS.into()], next: failed.into() };
    vec![
        State {
            name: "FillBackorders".into(),
            kind: StateKind::Task { task, retry: vec![retry], catch: vec![catch] },
        },
        State { name: "FillBackordersDone".into(), kind: StateKind::Succeed },
        State { name: failed.into(), kind: StateKind::Fail { error: failed.into() } },
    ]
}
