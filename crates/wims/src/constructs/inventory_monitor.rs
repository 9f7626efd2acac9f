//! InventoryMonitor: mails the team when stock runs low.
//!
//! Article section "InventoryMonitor"; pattern: asynchronous bus turned into a broadcast. The
//! article's rule fires on every update at or below 100, upwards too; ours hears `stock.low`,
//! which arises on crossing the reorder point downwards. The article's own rule still works as a
//! user's rule.

use serde_json::json;
use wims_stack::{
    BusRef, MailLimit, Pattern, Queue, QueueRef, Redrive, Rule, Stack, Subscription, TargetRef,
    Template, Topic, TopicRef,
};

use crate::domain::BUSINESS_SOURCE;
use crate::fns::function;

/// At most one mail a sku in this time.
const HOUR_MS: u64 = 3_600_000;

/// What it needs.
pub struct InventoryMonitorProps {
    /// The bus to listen to.
    pub bus: BusRef,
    /// Where the team reads its mail.
    pub team_email: String,
    /// Where mails go that nobody takes.
    pub dead_letters: QueueRef,
}

/// The construct.
pub struct InventoryMonitor;

impl InventoryMonitor {
    /// Declares the topic, its subscription and the rule.
    pub fn new(stack: &mut Stack, props: InventoryMonitorProps) -> InventoryMonitor {
        let topic = TopicRef::new("InventoryStockTopic");
        let queue = QueueRef::new("inventory-stock-mails");
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
            subscriptions: vec![Subscription {
                queue,
                email: props.team_email,
                mail: function("mail-stock-low"),
                limit: MailLimit::OncePerSubject {
                    subject: Template::path("$.detail.sku"),
                    window_ms: HOUR_MS,
                },
            }],
            notices: Vec::new(),
        });
        stack.rules.push(Rule::new(
            "InventoryStockRule",
            &props.bus,
            Pattern(json!({"source": [BUSINESS_SOURCE], "detail-type": ["stock.low"]})),
            TargetRef::Topic(topic),
            &props.dead_letters,
        ));
        InventoryMonitor
    }
}
