//! PaymentsQueue: payments wait here until the payments API takes them.
//!
//! Article section "PaymentsQueue"; pattern: asynchronous queue. A queue, its dead-letter queue
//! and a paced pipe. Being throttled uses no attempt; only an outcome nobody knows does. After how
//! many a payment is a dead letter, and where, is the queue's redrive. The result of a payment
//! updates the order, where the article's goes nowhere.

use wims_stack::{
    ApiRef, ApiTarget, Pipe, PipeSource, PipeTarget, Queue, QueueRef, Redrive, Stack, TableRef,
    TopicRef,
};

use crate::fns::function;

/// The article's `maxReceiveCount: 10`.
const RECEIVE_COUNT_MAX: u32 = 10;
/// How much longer a message is hidden than its call may take.
const VISIBILITY_MARGIN_MS: u64 = 20_000;

/// What it needs.
pub struct PaymentsQueueProps {
    /// The API.
    pub api: ApiRef,
    /// Calls a second it can take.
    pub rate_per_second: f64,
    /// Calls at once it can take.
    pub burst: u32,
    /// Calls under way, at most.
    pub in_flight_max: usize,
    /// A call that takes longer has an unknown outcome.
    pub timeout_ms: u64,
    /// Where orders are.
    pub table: TableRef,
    /// Told of dead letters and of a wrong address or credentials.
    pub alarm: TopicRef,
}

/// The construct.
pub struct PaymentsQueue {
    /// Where payments wait.
    pub queue: QueueRef,
}

impl PaymentsQueue {
    /// Declares the queues and the pipe.
    pub fn new(stack: &mut Stack, props: PaymentsQueueProps) -> PaymentsQueue {
        let (queue, dlq) = (QueueRef::new("payments-queue"), QueueRef::new("payments-dlq"));
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
            name: "PaymentsPipe".into(),
            source: PipeSource::Queue(queue.clone()),
            target: PipeTarget::Api(ApiTarget {
                api: props.api,
                path: "/payments".into(),
                idempotent: false,
                table: props.table,
                prepare: function("prepare-payment"),
                outcome: function("payment-outcome"),
                rate_per_second: props.rate_per_second,
                burst: props.burst,
                in_flight_max: props.in_flight_max,
                timeout_ms: props.timeout_ms,
                alarm: props.alarm,
            }),
        });
        PaymentsQueue { queue }
    }
}
