//! CustomerNotices: mails the customer of an order what became of it.
//!
//! The article tells nobody but the team. Pattern: asynchronous bus turned into a broadcast, with a
//! queue of mails behind. The rules hear what happened to orders that came with contact data, and
//! that stock is reserved only of those that waited for it; the address is in no event, it is looked
//! up when the mail is made. The last notice of an order deletes its contact data, so these rules
//! stay where customers are mailed nothing.

use serde_json::json;
use wims_stack::{
    BusRef, FunctionRef, Notices, Pattern, Queue, QueueRef, Redrive, Rule, Stack, TableRef,
    TargetRef, Topic, TopicRef,
};

use crate::domain::BUSINESS_SOURCE;
use crate::fns::function;

/// What customers are told, whatever led there. A refund is told with the cancellation it ends.
const TOLD: [&str; 4] =
    ["order.backordered", "payment.declined", "order.canceled", "order.shipped"];

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
        let rules = [
            ("CustomerNoticesRule", TOLD.to_vec(), json!({"hasContact": [true]})),
            (
                "BackInStockRule",
                vec!["stock.reserved"],
                json!({"filledAt": [{"exists": true}], "hasContact": [true]}),
            ),
        ];
        stack.rules.extend(rules.map(|(name, events, detail)| {
            let pattern = Pattern(json!({
                "source": [BUSINESS_SOURCE],
                "detail-type": events,
                "detail": detail
            }));
            let to = TargetRef::Topic(topic.clone());
            Rule::new(name, &props.bus, pattern, to, &props.dead_letters)
        }));
        CustomerNotices
    }
}

#[cfg(test)]
mod tests {
    use super::TOLD;
    use crate::fns::cdc_enrichment::BUSINESS_EVENTS;

    #[test]
    fn what_customers_are_told_is_published() {
        assert!(TOLD.iter().all(|event| BUSINESS_EVENTS.contains(event)), "{TOLD:?}");
    }
}
