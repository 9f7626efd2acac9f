//! Cancellations: what follows when an order is canceled, until it holds no money any more, and
//! when its payment is declined, until it is.
//!
//! The article has no place for them. Patterns: asynchronous bus, and an asynchronous queue. One
//! rule hears that the payment of a canceled order was given up, before or after, and has it looked
//! up; another hears that a canceled order was charged and enqueues its refund. Refunds have a
//! queue, a dead-letter queue and a paced pipe of their own. What the order held of the stock is
//! released in the transaction that cancels it, so no rule is about that. A decline starts a
//! workflow that waits and then cancels, unless another method was tried; that enqueues a payment.

use serde_json::{Value, json};
use wims_stack::{
    ApiRef, ApiTarget, Becomes, BusRef, Condition, Machine, Pipe, PipeSource, PipeTarget, Queue,
    QueueRef, Redrive, Rule, Stack, State, StateKind, TableRef, TargetRef, Task, Template,
    TopicRef, Transact, Workflow, WorkflowRef,
};

use crate::domain::{CUSTOMER, InventoryStatus, PaymentStatus, changes};
use crate::fns::{function, payments};

/// How long stock is kept after a decline unless a setting says otherwise: three days.
pub const DECLINE_GRACE_MS: u64 = 72 * 3_600_000;
/// As many attempts as a payment has.
const RECEIVE_COUNT_MAX: u32 = 10;
/// How much longer a message is hidden than its call may take.
const VISIBILITY_MARGIN_MS: u64 = 20_000;
/// Refunds under way: they are few, and in no hurry.
const IN_FLIGHT_MAX: usize = 4;

/// What it needs.
pub struct CancellationsProps {
    /// The bus to listen to.
    pub bus: BusRef,
    /// The payments API.
    pub api: ApiRef,
    /// Refunds a second that it can take beside the payments.
    pub refunds_per_second: f64,
    /// A call that takes longer has an unknown outcome.
    pub timeout_ms: u64,
    /// Where orders are.
    pub table: TableRef,
    /// Where payments wait, and look-ups.
    pub payments: QueueRef,
    /// How long the stock of an order is kept whose payment was declined.
    pub decline_grace_ms: u64,
    /// Told of dead letters and of a wrong address or credentials.
    pub alarm: TopicRef,
    /// Where events go that a queue cannot take.
    pub dead_letters: QueueRef,
}

/// The construct.
pub struct Cancellations;

impl Cancellations {
    /// Declares the queues, the pipe, the workflow and the rules.
    pub fn new(stack: &mut Stack, props: CancellationsProps) -> Cancellations {
        let refunds = QueueRef::new("refunds-queue");
        let failed = json!([PaymentStatus::Failed.as_str()]);
        let charged = [PaymentStatus::Processing, PaymentStatus::Unknown, PaymentStatus::Paid];
        let charged: Vec<&str> = charged.iter().map(|status| status.as_str()).collect();
        let pending = json!([PaymentStatus::RefundPending.as_str()]);
        let refund = with(canceled(&pending), "OldImage", json!({"paymentStatus": &charged}));
        let to = |queue: &QueueRef| TargetRef::Queue(queue.clone(), payments::message());
        let declined_text = PaymentStatus::Declined.as_str();
        let declined = WorkflowRef::new("declined-state-machine");
        stack.workflows.push(Workflow {
            name: declined.clone(),
            machine: cancel_declined(props.table.clone(), props.decline_grace_ms),
        });
        let rules = [
            ("CanceledPaymentRule", canceled(&failed), to(&props.payments)),
            ("RefundRule", refund, to(&refunds)),
            ("DeclinedRule", moved(&charged[..2], declined_text), TargetRef::Workflow(declined)),
            (
                "PaidAnewRule",
                moved(&[declined_text], PaymentStatus::Pending.as_str()),
                to(&props.payments),
            ),
        ];
        stack.rules.extend(rules.map(|(name, data, to)| {
            Rule::new(name, &props.bus, changes(&data), to, &props.dead_letters)
        }));
        refunds_queue(stack, refunds, props);
        Cancellations
    }
}

/// A change of a canceled order that makes its `paymentStatus` one of these.
fn canceled(payment: &Value) -> Value {
    json!({
        "eventType": ["UPDATE"],
        "pk": [{"prefix": CUSTOMER}],
        "NewImage": {
            "inventoryStatus": [InventoryStatus::Released.as_str()],
            "paymentStatus": payment
        }
    })
}

/// A change of an order's `paymentStatus`.
fn moved(from: &[&str], to: &str) -> Value {
    json!({
        "eventType": ["UPDATE"],
        "pk": [{"prefix": CUSTOMER}],
        "OldImage": {"paymentStatus": from},
        "NewImage": {"paymentStatus": [to]}
    })
}

fn with(mut data: Value, name: &str, value: Value) -> Value {
    data[name] = value;
    data
}

/// Each decline gives an order one grace, and the run that cancels it spends it: so the changes
/// that follow from a decline come to an end.
fn cancel_declined(table: TableRef, grace_ms: u64) -> Machine {
    let declined = PaymentStatus::Declined.as_str();
    let task = Task::Transact(Transact {
        table,
        pk: Template::path("$.detail.data.pk"),
        sk: Template::path("$.detail.data.sk"),
        guard: Condition::All(vec![
            Condition::is("paymentStatus", declined),
            Condition::AtLeast("graces".into(), 1.into()),
        ]),
        function: function("cancel-declined"),
        becomes: Becomes::lower("graces"),
    });
    let mut machine = Machine::of_task("CancelDeclined", task);
    let grace = StateKind::Wait { duration_ms: grace_ms };
    machine.states.insert(0, State { name: "Grace".into(), kind: grace });
    machine
}

fn refunds_queue(stack: &mut Stack, queue: QueueRef, props: CancellationsProps) {
    let dlq = QueueRef::new("refunds-dlq");
    let visibility_timeout_ms = props.timeout_ms + VISIBILITY_MARGIN_MS;
    stack.queues.push(Queue {
        name: dlq.clone(),
        visibility_timeout_ms,
        redrive: None,
        alarm: Some(props.alarm.clone()),
    });
    stack.queues.push(Queue {
        name: queue.clone(),
        visibility_timeout_ms,
        redrive: Some(Redrive { dead_letters: dlq, receive_count_max: RECEIVE_COUNT_MAX }),
        alarm: None,
    });
    stack.pipes.push(Pipe {
        name: "RefundsPipe".into(),
        source: PipeSource::Queue(queue),
        target: PipeTarget::Api(ApiTarget {
            api: props.api,
            path: "/payments/{key}/refund".into(),
            idempotent: true,
            table: props.table,
            prepare: function("prepare-refund"),
            outcome: function("refund-outcome"),
            rate_per_second: props.refunds_per_second,
            burst: 1,
            in_flight_max: IN_FLIGHT_MAX,
            timeout_ms: props.timeout_ms,
            alarm: props.alarm,
        }),
    });
}
