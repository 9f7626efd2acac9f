//! CustomerNotices: mails the customer of an order what became of it.
//!
//! The article tells nobody but the team. Pattern: asynchronous bus turned into a broadcast, with a
//! queue of mails behind. The rules hear what happened to orders that came with contact data; the
//! address is in no event, it is looked up when the mail is made. The last notice of an order
//! deletes its contact data, so these rules stay where customers are mailed nothing.

use serde_json::{Value, json};
use wims_stack::{
    BusRef, FunctionRef, Notices, Pattern, Queue, QueueRef, Redrive, Rule, Stack, TableRef, Target,
    TargetRef, TargetRetry, Topic, TopicRef,
};

use crate::domain::BUSINESS_SOURCE;
use crate::fns::cdc_enrichment::BUSINESS_EVENTS;
use crate::fns::function;

/// Rules and the events they hear. A rule whose event nothing publishes yet is not declared.
const RULES: [(&str, &str); 6] = [
    ("BackorderedNoticeRule", "order.backordered"),
    ("BackInStockNoticeRule", "stock.reserved"),
    ("PaymentDeclinedNoticeRule", "payment.declined"),
    ("CanceledNoticeRule", "order.canceled"),
    ("RefundedNoticeRule", "payment.refunded"),
    ("ShippedNoticeRule", "order.shipped"),
];

/// What it needs.
pub struct CustomerNoticesProps {
    /// The bus to listen to.
    pub bus: BusRef,
    /// Where contact data is.
    pub table: TableRef,
    /// `notify-customer`, or `forget-customer` where customers are mailed nothing.
    pub notice: FunctionRef,
    /// Where mails go that nobody takes.
    pub dead_letters: QueueRef,
}

/// The construct.
pub struct CustomerNotices;

impl CustomerNotices {
    /// Declares the topic, its queue of mails and the rules.
    pub fn new(stack: &mut Stack, props: CustomerNoticesProps) -> CustomerNotices {
        let (topic, queue) = (TopicRef::new("CustomerNotices"), QueueRef::new("customer-mails"));
        stack.queues.push(Queue {
            name: queue.clone(),
            visibility_timeout_ms: 30_000,
            redrive: Some(Redrive {
                dead_letters: props.dead_letters.clone(),
                receive_count_max: 50,
            }),
            alarm: None,
        });
        stack.topics.push(Topic {
            name: topic.clone(),
            subscriptions: Vec::new(),
            notices: vec![Notices {
                queue,
                table: props.table,
                notice: props.notice,
                outcome: function("customer-notified"),
            }],
        });
        let published = RULES.into_iter().filter(|(_, event)| BUSINESS_EVENTS.contains(event));
        stack.rules.extend(published.map(|(name, event)| Rule {
            name: name.into(),
            bus: props.bus.clone(),
            pattern: Pattern(json!({
                "source": [BUSINESS_SOURCE],
                "detail-type": [event],
                "detail": of_whom(event)
            })),
            targets: vec![Target {
                to: TargetRef::Topic(topic.clone()),
                retry: TargetRetry::default(),
                dead_letters: props.dead_letters.clone(),
            }],
        }));
        CustomerNotices
    }
}

/// Which orders an event is told of: those with contact data, and that stock is reserved only where
/// that took its time.
fn of_whom(event: &str) -> Value {
    match event {
        "stock.reserved" => json!({"filledAt": [{"exists": true}], "hasContact": [true]}),
        _ => json!({"hasContact": [true]}),
    }
}
