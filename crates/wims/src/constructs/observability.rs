//! Observability: what happened, readable; and what went wrong, told.
//!
//! Article section "Observability". The observer log holds every event of ours and is a view of
//! the journal, not a copy. Dead letters of rule targets land here, and the team is told: the
//! first at once, then a digest every 15 minutes.

use serde_json::json;
use wims_stack::{
    BusRef, Log, LogRef, MailLimit, Pattern, Queue, QueueRef, Redrive, Rule, Stack, Subscription,
    TargetRef, Topic, TopicRef,
};

use crate::domain::{BUSINESS_SOURCE, PROJECT_SOURCE};
use crate::fns::function;

/// How long the observer log can be read unless a setting says otherwise.
pub const LOG_RETENTION_HOURS: u64 = 24;
const HOUR_MS: u64 = 3_600_000;
/// Alerts within this time after a mail come in one digest.
const DIGEST_MS: u64 = 15 * 60_000;

/// What it needs.
pub struct ObservabilityProps {
    /// The bus to listen to.
    pub bus: BusRef,
    /// Where the team reads its mail.
    pub team_email: String,
    /// How long the log can be read, and the journal is kept for it.
    pub log_retention_hours: u64,
}

/// The construct.
pub struct Observability {
    /// Where events go that a target cannot take.
    pub dead_letters: QueueRef,
    /// Told of what needs a person.
    pub alarm: TopicRef,
}

impl Observability {
    /// Declares the log, the dead letters of targets and the alarm.
    pub fn new(stack: &mut Stack, props: ObservabilityProps) -> Observability {
        let (log, alarm) = (LogRef::new("observer"), TopicRef::new("TeamAlertsTopic"));
        let (dead_letters, mails) =
            (QueueRef::new("events-dlq"), QueueRef::new("team-alerts-mails"));
        let queue = |name: &QueueRef, redrive, alarm| Queue {
            name: name.clone(),
            visibility_timeout_ms: 30_000,
            redrive,
            alarm,
        };
        let after_50 = Redrive { dead_letters: dead_letters.clone(), receive_count_max: 50 };
        stack.queues.push(queue(&dead_letters, None, Some(alarm.clone())));
        stack.queues.push(queue(&mails, Some(after_50), None));
        stack.topics.push(Topic {
            name: alarm.clone(),
            subscriptions: vec![Subscription {
                queue: mails,
                email: props.team_email,
                mail: function("mail-alerts"),
                limit: MailLimit::Digest { window_ms: DIGEST_MS },
            }],
            notices: Vec::new(),
        });
        let retention_ms = props.log_retention_hours * HOUR_MS;
        stack.logs.push(Log { name: log.clone(), retention_ms });
        stack.rules.push(Rule::new(
            "ObserverRule",
            &props.bus,
            Pattern(json!({"source": [PROJECT_SOURCE, BUSINESS_SOURCE]})),
            TargetRef::Log(log),
            &dead_letters,
        ));
        Observability { dead_letters, alarm }
    }
}
