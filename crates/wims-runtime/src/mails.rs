//! Topics and their mails: what is published waits in the subscription's queue until sent.
//!
//! Promise: nothing published is forgotten; a mail may arrive twice after a crash, with the same
//! Message-ID. A digest gathers what comes shortly after a mail. It deliberately knows no SMTP.

use std::collections::HashMap;
use std::panic::catch_unwind;

use wims_stack::{Doc, EventView, Field, MailLimit};

use crate::bus::{SOURCE_QUEUE, event_doc};
use crate::engine::{Cause, Engine};
use crate::functions::MailText;
use crate::io::{MailId, MailJob, MailResult, Output};
use crate::plan::{Plan, SubscriptionPlan};
use crate::record::{Hidden, Record};

/// Mails of one queue under way at once.
const IN_FLIGHT_MAX: usize = 4;
/// The most events one digest gathers.
const DIGEST_MAX: usize = 100;
/// A mail under way is hidden this long; longer than any attempt of the driver takes.
const HIDDEN_WHILE_SENT_MS: u64 = 120_000;
/// Attempts at a mail of a queue that declares no number, SNS's for SMTP.
const ATTEMPTS_MAX: u32 = 50;
/// The longest wait between two attempts.
const RETRY_MAX_MS: u64 = 600_000;

/// Mails under way.
#[derive(Default)]
pub(crate) struct Mails {
    in_flight: HashMap<u16, usize>,
    pub stopped: bool,
}

impl Mails {
    /// How many are under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.values().sum()
    }
}

impl Engine {
    /// Publishes an event to the subscriptions of a topic.
    pub(crate) fn publish_to_topic(
        &mut self,
        plan: &Plan,
        topic: usize,
        event: &EventView<'_>,
        cause: Cause,
    ) {
        if cause.replay {
            return;
        }
        for subscription in &plan.topics[topic].subscriptions {
            if self.is_due(subscription, event, cause) {
                self.send(subscription.queue, event_doc(event), None, cause);
            }
        }
    }

    /// Whether a subscription wants this event; notes that it was served.
    fn is_due(
        &mut self,
        subscription: &SubscriptionPlan,
        event: &EventView<'_>,
        cause: Cause,
    ) -> bool {
        match &subscription.subscription.limit {
            MailLimit::Digest { .. } => true,
            MailLimit::OncePerSubject { subject, window_ms } => {
                let subject = hash(subject.render(event).bytes());
                let (queue, clock_ms) = (subscription.queue, self.state.clock_ms);
                if self.state.served.get(&(queue, subject)).is_some_and(|until| *until > clock_ms) {
                    return false;
                }
                let until_ms = clock_ms + window_ms;
                self.emit(cause, Record::Served { queue, subject, until_ms });
                true
            }
        }
    }

    /// Hands out mails that are due.
    pub(crate) fn pump_mails(&mut self, plan: &Plan) {
        if self.mails.stopped {
            return;
        }
        for subscription in plan.topics.iter().flat_map(|topic| &topic.subscriptions) {
            self.state.appear(subscription.queue);
            while let Some(messages) = self.next_mail(subscription) {
                self.start_mail(subscription, messages);
            }
        }
    }

    /// Messages of the next mail of a subscription, if one is due.
    fn next_mail(&self, subscription: &SubscriptionPlan) -> Option<Vec<u64>> {
        let queue = subscription.queue;
        let under_way = self.mails.in_flight.get(&queue).copied().unwrap_or(0);
        let first = self.state.queue(queue).first_ready()?;
        match subscription.subscription.limit {
            MailLimit::OncePerSubject { .. } => (under_way < IN_FLIGHT_MAX).then(|| vec![first]),
            MailLimit::Digest { .. } => {
                let clock_ms = self.state.clock_ms;
                let served = self.state.served.get(&(queue, 0));
                let waits = served.is_some_and(|until| *until > clock_ms);
                (under_way == 0 && !waits).then(|| self.ready_messages(queue, first))
            }
        }
    }

    fn ready_messages(&self, queue: u16, first: u64) -> Vec<u64> {
        let clock_ms = self.state.clock_ms;
        let messages = self.state.queue(queue).from(first);
        let ready = messages.filter(|(_, message)| message.visible_at_ms <= clock_ms);
        ready.map(|(id, _)| id).take(DIGEST_MAX).collect()
    }

    fn start_mail(&mut self, subscription: &SubscriptionPlan, messages: Vec<u64>) {
        let queue = subscription.queue;
        let mut events = Vec::with_capacity(messages.len());
        let first = self.state.queue(queue).get(messages[0]);
        let sent_ms = first.map_or(0, |message| message.sent_ms);
        for id in &messages {
            let message = self.state.queue(queue).get(*id).expect("it was ready").clone();
            events.push(message.body);
            let hidden = Hidden {
                queue,
                id: *id,
                visible_at_ms: self.state.clock_ms + HIDDEN_WHILE_SENT_MS,
                receives: message.receives + 1,
                attempts: message.attempts,
                held: true,
            };
            self.emit(Cause::of_trace(message.trace), Record::Hidden(hidden));
        }
        // A mail that cannot be written is sent as the bare events, rather than never.
        let text = catch_unwind(|| (subscription.mail)(&events)).unwrap_or_else(|_| MailText {
            subject: "WIMS: an event".into(),
            text: format!("{events:?}"),
        });
        *self.mails.in_flight.entry(queue).or_default() += 1;
        self.hold(Output::Mail(MailJob {
            // The same on every try, another one in another journal or for another digest.
            message_id: format!("{sent_ms}.{}.{}@wims", messages[0], messages.len()),
            mail: MailId { queue, messages },
            to: subscription.subscription.email.clone(),
            subject: text.subject,
            text: text.text,
        }));
    }

    /// Takes note of how a mail went.
    pub(crate) fn mailed(&mut self, mail: &MailId, result: &MailResult) {
        if let Some(under_way) = self.mails.in_flight.get_mut(&mail.queue) {
            *under_way = under_way.saturating_sub(1);
        }
        let plan = self.plan.clone();
        self.note_served(&plan, mail, result);
        let visible_at_ms = self.next_try_ms(mail);
        for id in &mail.messages {
            match result {
                MailResult::Sent => self.delete(mail.queue, *id),
                MailResult::Rejected(reason) => self.bury_mail(&plan, mail.queue, *id, reason),
                MailResult::Retry(reason) => {
                    self.retry_mail(&plan, mail.queue, *id, visible_at_ms, reason);
                }
            }
        }
    }

    /// A digest that was sent starts the time in which the next events are gathered.
    fn note_served(&mut self, plan: &Plan, mail: &MailId, result: &MailResult) {
        let subscriptions = plan.topics.iter().flat_map(|topic| &topic.subscriptions);
        let limit = subscriptions
            .filter(|subscription| subscription.queue == mail.queue)
            .map(|subscription| &subscription.subscription.limit)
            .next();
        if let (Some(MailLimit::Digest { window_ms }), MailResult::Sent) = (limit, result) {
            let until_ms = self.state.clock_ms + window_ms;
            let served = Record::Served { queue: mail.queue, subject: 0, until_ms };
            self.emit(Cause::default(), served);
        }
    }

    /// When a mail is tried again: all of a digest at once, so that it stays one mail.
    fn next_try_ms(&mut self, mail: &MailId) -> u64 {
        let queue = self.state.queue(mail.queue);
        let tries = mail.messages.iter().filter_map(|id| Some(queue.get(*id)?.attempts));
        let longest = (5_000u64 << tries.max().unwrap_or(0).min(16)).min(RETRY_MAX_MS);
        self.state.clock_ms + self.rng.u64(longest / 2..=longest)
    }

    fn retry_mail(&mut self, plan: &Plan, queue: u16, id: u64, visible_at_ms: u64, reason: &str) {
        let Some(message) = self.state.queue(queue).get(id) else { return };
        let (receives, attempts) = (message.receives, message.attempts + 1);
        let cause = Cause::of_trace(message.trace);
        let redrive = plan.queues.get(&queue).and_then(|queue| queue.redrive);
        if attempts >= redrive.map_or(ATTEMPTS_MAX, |(_, receives_max)| receives_max) {
            return self.bury_mail(plan, queue, id, reason);
        }
        let hidden = Hidden { queue, id, visible_at_ms, receives, attempts, held: false };
        self.emit(cause, Record::Hidden(hidden));
    }

    /// A mail nobody takes is a dead letter; about itself no further mail is written.
    fn bury_mail(&mut self, plan: &Plan, queue: u16, id: u64, reason: &str) {
        let Some(message) = self.state.queue(queue).get(id) else { return };
        let body = message.body.clone();
        let cause = self.cause_of_message(queue, id);
        self.delete(queue, id);
        let Some(source) = plan.queues.get(&queue) else { return };
        if let Some((dead_letters, _)) = source.redrive {
            let attributes = Doc::object(&[
                ("ERROR_MESSAGE", Field::Str(reason)),
                (SOURCE_QUEUE, Field::Str(&source.name)),
            ]);
            self.send(dead_letters, body, Some(attributes), cause);
        }
    }

    pub(crate) fn delete(&mut self, queue: u16, id: u64) {
        let cause = self.cause_of_message(queue, id);
        self.emit(cause, Record::Deleted { queue, id });
    }

    /// When a digest that has something to say is due, in clock milliseconds.
    pub(crate) fn mails_due_ms(&self) -> Option<u64> {
        if self.mails.stopped {
            return None;
        }
        let waiting = self.state.served.iter().filter(|((queue, subject), until)| {
            *subject == 0
                && **until > self.state.clock_ms
                && self.state.queue(*queue).first_ready().is_some()
        });
        waiting.map(|(_, until)| *until).min()
    }
}

/// FNV-1a; 0 is kept for digests.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).max(1)
}
