//! Topics and their mails: what is published waits in the subscription's queue until sent.
//!
//! Promise: nothing published is forgotten; a mail may arrive twice after a crash, with the same
//! Message-ID. A digest gathers what comes shortly after a mail; where a subject has one mail in a
//! time, what comes meanwhile waits for the end of that time, and the newest of it is mailed: newest
//! by when it was published, for a dead letter that is sent back arrives late. It deliberately
//! knows no SMTP.

use std::collections::HashMap;
use std::panic::catch_unwind;

use wims_stack::{Doc, EventView, Field, MailLimit, Template};

use crate::bus::event_doc;
use crate::dead_letter::{Failure, Origin};
use crate::engine::{Cause, Engine};
use crate::fnv::fnv1a;
use crate::functions::{MailText, NoticeEnd};
use crate::io::{MailId, MailJob, MailResult, Output};
use crate::messages::Message;
use crate::plan::{Plan, SubscriptionPlan};
use crate::record::{Hidden, Record};
use crate::workflow::event_view;

/// Mails of one queue under way at once.
pub(crate) const IN_FLIGHT_MAX: usize = 4;
/// The most events one digest gathers.
const DIGEST_MAX: usize = 100;
/// A mail under way is hidden this long; longer than any attempt of the driver takes.
pub(crate) const HIDDEN_WHILE_SENT_MS: u64 = 120_000;
/// Attempts at a mail of a queue that declares no number, SNS's for SMTP.
const ATTEMPTS_MAX: u32 = 50;
/// The longest wait between two attempts.
const RETRY_MAX_MS: u64 = 600_000;
/// Attribute of a mail's dead letter, and of the message a redrive makes of it: the id under which
/// it was published first.
const SOURCE_MESSAGE_ID: &str = "SOURCE_MESSAGE_ID";

/// Mails under way, and which messages wait.
#[derive(Default)]
pub(crate) struct Mails {
    pub in_flight: HashMap<u16, usize>,
    /// The message that waits for the end of its subject's time, by queue and subject. Messages
    /// and times are in the journal; this only finds the one that meets the next.
    waiting: HashMap<(u16, u64), u64>,
    /// Keys of the notices under way, by queue and message.
    pub notices: HashMap<(u16, u64), String>,
    /// Messages that had nobody to go to.
    pub to_nobody: u64,
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
            self.send(subscription.queue, event_doc(event), None, cause);
        }
        for notices in &plan.topics[topic].notices {
            self.send(notices.queue, event_doc(event), None, cause);
        }
    }

    /// Hands out mails that are due.
    pub(crate) fn pump_mails(&mut self, plan: &Plan) {
        if self.mails.stopped {
            return;
        }
        for subscription in plan.topics.iter().flat_map(|topic| &topic.subscriptions) {
            self.state.appear(subscription.queue);
            while self.journal.has_room()
                && let Some(messages) = self.next_mail(subscription)
            {
                self.start_mail(subscription, messages);
            }
        }
        self.pump_notices(plan);
    }

    /// Messages of the next mail of a subscription, if one is due.
    fn next_mail(&mut self, subscription: &SubscriptionPlan) -> Option<Vec<u64>> {
        let queue = subscription.queue;
        let under_way = self.mails.in_flight.get(&queue).copied().unwrap_or(0);
        match &subscription.subscription.limit {
            MailLimit::OncePerSubject { .. } if under_way >= IN_FLIGHT_MAX => None,
            MailLimit::OncePerSubject { subject, .. } => self.next_of_subjects(queue, subject),
            MailLimit::Digest { .. } => {
                let first = self.state.queue(queue).first_ready()?;
                let clock_ms = self.state.clock_ms;
                let served = self.state.served.get(&(queue, 0));
                let waits = served.is_some_and(|until| *until > clock_ms);
                (under_way == 0 && !waits).then(|| self.ready_messages(queue, first))
            }
        }
    }

    /// The oldest message whose subject may have a mail now; those before it are made to wait.
    fn next_of_subjects(&mut self, queue: u16, subject: &Template) -> Option<Vec<u64>> {
        while self.journal.has_room() {
            let first = self.state.queue(queue).first_ready()?;
            match self.must_wait(queue, subject, first) {
                None => return Some(vec![first]),
                Some((subject, until_ms)) => self.let_wait(queue, first, subject, until_ms),
            }
        }
        None
    }

    /// The subject of a message and until when it has no further mail. A message that was tried
    /// already is the mail of that time.
    fn must_wait(&self, queue: u16, subject: &Template, id: u64) -> Option<(u64, u64)> {
        let message = self.state.queue(queue).get(id).filter(|message| message.receives == 0)?;
        let subject = subject_of(subject, &message.body);
        let until_ms = *self.state.served.get(&(queue, subject))?;
        (until_ms > self.state.clock_ms).then_some((subject, until_ms))
    }

    /// Hides a message until its subject may have a mail again, unless a newer one waits already.
    fn let_wait(&mut self, queue: u16, id: u64, subject: u64, until_ms: u64) {
        if !self.waits_as_newest(queue, id, subject) {
            return;
        }
        let visible_at_ms = until_ms;
        let hidden = Hidden { queue, id, visible_at_ms, receives: 0, attempts: 0, held: false };
        self.emit(self.cause_of_message(queue, id), Record::Hidden(hidden));
    }

    /// Whether a message is the one of its subject that waits. Of it and one that waits already
    /// the older one leaves: only the newest is worth a mail.
    fn waits_as_newest(&mut self, queue: u16, id: u64, subject: u64) -> bool {
        let waiting = self.mails.waiting.get(&(queue, subject)).copied();
        if let Some(other) = waiting.filter(|other| *other != id) {
            if self.published(queue, other) > self.published(queue, id) {
                self.delete(queue, id);
                return false;
            }
            self.delete(queue, other);
        }
        self.mails.waiting.insert((queue, subject), id);
        true
    }

    /// Where a message stands among those of its queue by when it was published; `None`, before
    /// all of them, when it is gone.
    fn published(&self, queue: u16, id: u64) -> Option<(u64, u64)> {
        let message = self.state.queue(queue).get(id)?;
        Some((first_id(id, message), id))
    }

    /// Finds the messages that a former life made to wait. Another stack may have other subjects,
    /// and what waits have one in common now: then the same goes for them as when they come.
    pub(crate) fn find_waiting_mails(&mut self) {
        let (plan, clock_ms) = (self.plan.clone(), self.state.clock_ms);
        for subscription in plan.topics.iter().flat_map(|topic| &topic.subscriptions) {
            let MailLimit::OncePerSubject { subject, .. } = &subscription.subscription.limit else {
                continue;
            };
            let queue = subscription.queue;
            let messages = self.state.queue(queue).from(0);
            let waiting: Vec<(u64, u64)> = messages
                .filter(|(_, message)| message.receives == 0 && message.visible_at_ms > clock_ms)
                .map(|(id, message)| (id, subject_of(subject, &message.body)))
                .collect();
            for (id, subject) in waiting {
                self.waits_as_newest(queue, id, subject);
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
        if let MailLimit::OncePerSubject { subject, window_ms } = &subscription.subscription.limit {
            self.note_tried(queue, messages[0], subject_of(subject, &events[0]), *window_ms);
        }
        // A mail that cannot be written is sent as the bare events, rather than never.
        let text = catch_unwind(|| (subscription.mail)(&events)).unwrap_or_else(|_| MailText {
            subject: "WIMS: an event".into(),
            text: format!("{events:?}"),
            html: None,
        });
        *self.mails.in_flight.entry(queue).or_default() += 1;
        self.hold(Output::Mail(MailJob {
            // The same on every try, another one in another journal or for another digest.
            message_id: format!("{sent_ms}.{}.{}@wims", messages[0], messages.len()),
            mail: MailId { queue, messages },
            to: subscription.subscription.email.clone(),
            subject: text.subject,
            text: text.text,
            html: text.html,
        }));
    }

    /// Each try of a mail begins the time in which its subject has no other one.
    fn note_tried(&mut self, queue: u16, id: u64, subject: u64, window_ms: u64) {
        if self.mails.waiting.get(&(queue, subject)) == Some(&id) {
            self.mails.waiting.remove(&(queue, subject));
        }
        let until_ms = self.state.clock_ms + window_ms;
        let cause = self.cause_of_message(queue, id);
        self.emit(cause, Record::Served { queue, subject, until_ms });
    }

    /// Takes note of how a mail went.
    pub(crate) fn mailed(&mut self, mail: &MailId, result: &MailResult) {
        if let Some(under_way) = self.mails.in_flight.get_mut(&mail.queue) {
            *under_way = under_way.saturating_sub(1);
        }
        let plan = self.plan.clone();
        let visible_at_ms = self.next_try_ms(mail);
        self.note_served(&plan, mail, result, visible_at_ms);
        for id in &mail.messages {
            self.mails.notices.remove(&(mail.queue, *id));
            match result {
                MailResult::Sent => self.sent(&plan, mail.queue, *id),
                MailResult::Rejected(reason) => {
                    self.bury_mail(&plan, mail.queue, *id, Failure::new("MailRejected", reason));
                }
                MailResult::Retry(reason) => {
                    self.retry_mail(&plan, mail.queue, *id, visible_at_ms, reason);
                }
            }
        }
    }

    fn sent(&mut self, plan: &Plan, queue: u16, id: u64) {
        match self.end_notice(plan, queue, id, NoticeEnd::Sent) {
            Ok(()) => self.delete(queue, id),
            Err(bug) => self.bury_mail(plan, queue, id, bug),
        }
    }

    /// A digest that was sent starts the time in which the next events are gathered. A mail that
    /// is tried again later holds up the next one of its subject as long.
    fn note_served(&mut self, plan: &Plan, mail: &MailId, result: &MailResult, next_try_ms: u64) {
        let queue = mail.queue;
        let mut subscriptions = plan.topics.iter().flat_map(|topic| &topic.subscriptions);
        let subscription = subscriptions.find(|subscription| subscription.queue == queue);
        let served = match (subscription.map(|plan| &plan.subscription.limit), result) {
            (Some(MailLimit::Digest { window_ms }), MailResult::Sent) => {
                Some((0, self.state.clock_ms + window_ms))
            }
            (Some(MailLimit::OncePerSubject { subject, window_ms }), MailResult::Retry(_)) => {
                let message = mail.messages.first().and_then(|id| self.state.queue(queue).get(*id));
                message.map(|message| (subject_of(subject, &message.body), next_try_ms + window_ms))
            }
            (Some(MailLimit::Digest { .. }), MailResult::Retry(_) | MailResult::Rejected(_))
            | (
                Some(MailLimit::OncePerSubject { .. }),
                MailResult::Sent | MailResult::Rejected(_),
            )
            | (None, _) => None,
        };
        if let Some((subject, until_ms)) = served {
            self.emit(Cause::default(), Record::Served { queue, subject, until_ms });
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
            let failure = Failure::new("MailNotSent", reason).after(attempts).exhausted(true);
            return self.bury_mail(plan, queue, id, failure);
        }
        let hidden = Hidden { queue, id, visible_at_ms, receives, attempts, held: false };
        self.emit(cause, Record::Hidden(hidden));
    }

    /// A mail nobody takes is a dead letter; about itself no further mail is written.
    pub(crate) fn bury_mail(&mut self, plan: &Plan, queue: u16, id: u64, failure: Failure) {
        // A bug in this too changes nothing: it is a dead letter already.
        let _ = self.end_notice(plan, queue, id, NoticeEnd::GivenUp);
        let Some(message) = self.state.queue(queue).get(id) else { return };
        let (body, attempts) = (message.body.clone(), message.attempts);
        let source_id = first_id(id, message);
        let cause = self.cause_of_message(queue, id);
        self.delete(queue, id);
        let Some(source) = plan.queues.get(&queue) else { return };
        if let Some((dead_letters, _)) = source.redrive {
            let origin = Origin { queue: Some(&source.name), ..Origin::default() };
            let retries = failure.retries.unwrap_or(attempts);
            let attributes = origin.attributes(&failure.after(retries));
            let attributes = attributes.with(&[(SOURCE_MESSAGE_ID, Some(id_field(source_id)))]);
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
        let subscriptions = self.plan.topics.iter().flat_map(|topic| &topic.subscriptions);
        let waiting = subscriptions.filter_map(|subscription| {
            let until = self.state.served.get(&(subscription.queue, 0)).copied()?;
            let has_mail = self.state.queue(subscription.queue).first_ready().is_some();
            (until > self.state.clock_ms && has_mail).then_some(until)
        });
        waiting.min()
    }
}

/// What a message is about, for those whose subject has one mail in a time; 0 is kept for digests.
fn subject_of(subject: &Template, body: &Doc) -> u64 {
    fnv1a(subject.render(&event_view(body)).bytes()).max(1)
}

/// The id under which a message was published first: its own, unless it is or was a dead letter.
fn first_id(id: u64, message: &Message) -> u64 {
    let attributes = message.attributes.as_deref();
    let source = attributes.and_then(|attributes| attributes.int(SOURCE_MESSAGE_ID));
    source.and_then(|source| u64::try_from(source).ok()).unwrap_or(id)
}

fn id_field(id: u64) -> Field<'static> {
    Field::Int(i64::try_from(id).unwrap_or(i64::MAX))
}

/// The attributes of a dead letter that goes back to a queue: among mails it keeps its age, what
/// others do with a message does not depend on it. A letter of a former version, which tells no
/// age, is as old as itself.
pub(crate) fn attributes_sent_back(
    plan: &Plan,
    queue: u16,
    id: u64,
    letter: &Message,
) -> Option<Doc> {
    let mut subscriptions = plan.topics.iter().flat_map(|topic| &topic.subscriptions);
    let is_mails = subscriptions.any(|subscription| subscription.queue == queue);
    is_mails.then(|| Doc::object(&[(SOURCE_MESSAGE_ID, id_field(first_id(id, letter)))]))
}

#[cfg(test)]
mod tests {
    use wims_stack::{
        FunctionRef, Queue, QueueRef, Redrive, Stack, Subscription, TargetRef, Topic, TopicRef,
    };

    use super::*;
    use crate::functions::{Function, Functions};
    use crate::io::{Answer, Query};
    use crate::quiet::{self, Quiet};

    const WINDOW_MS: u64 = 2_000;

    /// Each new item is a mail, and all have the same subject.
    fn stack(window_ms: u64) -> Stack {
        stack_of(window_ms, "$.detail.pk")
    }

    /// Each new item is a mail, whose subject is at this path.
    fn stack_of(window_ms: u64, subject: &str) -> Stack {
        let (topic, queue) = (TopicRef::new("news"), QueueRef::new("mails"));
        let mut stack = quiet::stack(TargetRef::Topic(topic.clone()));
        stack.queues.push(Queue {
            name: queue.clone(),
            visibility_timeout_ms: 30_000,
            redrive: Some(Redrive {
                dead_letters: QueueRef::new("dead"),
                receive_count_max: ATTEMPTS_MAX,
            }),
            alarm: None,
        });
        let subject = Template::path(subject);
        stack.topics.push(Topic {
            name: topic,
            subscriptions: vec![Subscription {
                queue,
                email: "team@localhost".into(),
                mail: FunctionRef::new("mail"),
                limit: MailLimit::OncePerSubject { subject, window_ms },
            }],
            notices: Vec::new(),
        });
        stack
    }

    fn functions() -> Functions {
        quiet::functions().with("mail", Function::Mail(mail))
    }

    /// A mail headed by the `sk` of the item.
    fn mail(events: &[Doc]) -> MailText {
        let item = events[0].part("detail").expect("an item");
        let subject = item.str("sk").expect("a key").into();
        MailText { subject, text: String::new(), html: None }
    }

    fn tell(quiet: &mut Quiet, sk: &str) {
        quiet.put(sk);
        quiet.pass_ms(10);
    }

    /// Publishes the event of an item once more.
    fn send_event(quiet: &mut Quiet, sk: &str) {
        let queue = quiet.engine.plan.topics[0].subscriptions[0].queue;
        let item = quiet::item(sk);
        let event = Doc::object(&[("detail", Field::View(item.view()))]);
        quiet.engine.send(queue, event, None, Cause::default());
    }

    /// How the last mail went.
    fn answer(quiet: &mut Quiet, result: &MailResult) {
        let mail = quiet.mails.last().expect("a mail is under way").mail.clone();
        quiet.engine.mailed(&mail, result);
    }

    fn heads(quiet: &Quiet) -> Vec<&str> {
        quiet.mails.iter().map(|mail| mail.subject.as_str()).collect()
    }

    /// What only the memory of a process knows is gone.
    fn begin_new_life(quiet: &mut Quiet) {
        quiet.engine.mails = Mails::default();
        quiet.engine.release_held();
        quiet.engine.find_waiting_mails();
    }

    #[test]
    fn of_what_comes_within_the_time_of_a_mail_the_newest_is_mailed_when_it_ends() {
        let mut quiet = Quiet::start(&stack(WINDOW_MS), &functions());
        tell(&mut quiet, "1");
        assert_eq!(heads(&quiet), ["1"], "the first at once");
        answer(&mut quiet, &MailResult::Sent);
        ["2", "3"].into_iter().for_each(|sk| tell(&mut quiet, sk));
        assert_eq!(heads(&quiet), ["1"]);
        assert_eq!(quiet.messages("mails").len(), 1, "only the newest waits");
        quiet.pass_ms(WINDOW_MS);
        assert_eq!(heads(&quiet), ["1", "3"]);
        answer(&mut quiet, &MailResult::Sent);
        // That mail begins a time of its own.
        tell(&mut quiet, "4");
        assert_eq!(heads(&quiet), ["1", "3"]);
        quiet.pass_ms(WINDOW_MS);
        assert_eq!(heads(&quiet), ["1", "3", "4"]);
        answer(&mut quiet, &MailResult::Sent);
        assert!(quiet.messages("mails").is_empty());
        quiet.pass_ms(WINDOW_MS);
        tell(&mut quiet, "5");
        assert_eq!(heads(&quiet), ["1", "3", "4", "5"], "a first one again");
    }

    #[test]
    fn a_new_life_knows_what_waits() {
        let mut quiet = Quiet::start(&stack(WINDOW_MS), &functions());
        tell(&mut quiet, "1");
        answer(&mut quiet, &MailResult::Sent);
        tell(&mut quiet, "2");
        begin_new_life(&mut quiet);
        tell(&mut quiet, "3");
        assert_eq!(quiet.messages("mails").len(), 1, "only the newest waits");
        quiet.pass_ms(WINDOW_MS);
        assert_eq!(heads(&quiet), ["1", "3"]);
    }

    /// A mail that nobody takes is sent back by a redrive.
    fn send_back(quiet: &mut Quiet) {
        let redrive = Query::Redrive { queue: "dead".into(), limit: 10, dry_run: false };
        let Answer::Moved(Some(redriven)) = quiet.ask(redrive) else { panic!("no redrive") };
        assert_eq!((redriven.moved, redriven.left), (1, 0));
    }

    /// The `sk` of the items whose mails are not sent yet, in the order of their ids.
    fn unsent(quiet: &Quiet) -> Vec<String> {
        let events = quiet.messages("mails").into_iter();
        let items = events.filter_map(|message| message.body.part("detail"));
        items.filter_map(|item| item.str("sk").map(str::to_owned)).collect()
    }

    #[test]
    fn a_mail_that_is_sent_back_never_takes_the_place_of_a_newer_one() {
        let mut quiet = Quiet::start(&stack(WINDOW_MS), &functions());
        tell(&mut quiet, "1");
        // Published before the first mail is a dead letter, and waits.
        tell(&mut quiet, "2");
        answer(&mut quiet, &MailResult::Rejected("no".into()));
        quiet.pass_ms(10);
        send_back(&mut quiet);
        assert_eq!(unsent(&quiet), ["2"], "what came late is older");
        quiet.pass_ms(WINDOW_MS);
        assert_eq!(heads(&quiet), ["1", "2"]);
    }

    #[test]
    fn a_mail_that_is_sent_back_and_waits_gives_way_to_a_newer_one_also_in_a_new_life() {
        for lives in [1, 2] {
            let mut quiet = Quiet::start(&stack(WINDOW_MS), &functions());
            tell(&mut quiet, "1");
            answer(&mut quiet, &MailResult::Rejected("no".into()));
            quiet.pass_ms(10);
            send_back(&mut quiet);
            assert_eq!(unsent(&quiet), ["1"], "it waits");
            if lives == 2 {
                begin_new_life(&mut quiet);
            }
            tell(&mut quiet, "2");
            assert_eq!(unsent(&quiet), ["2"], "{lives} lives");
            quiet.pass_ms(WINDOW_MS);
            assert_eq!(heads(&quiet), ["1", "2"], "{lives} lives");
        }
    }

    #[test]
    fn of_what_waits_when_a_life_begins_the_newest_of_a_subject_stays() {
        let of_their_own = stack_of(WINDOW_MS, "$.detail.sk");
        let mut quiet = Quiet::start(&of_their_own, &functions());
        tell(&mut quiet, "1");
        answer(&mut quiet, &MailResult::Rejected("no".into()));
        tell(&mut quiet, "2");
        answer(&mut quiet, &MailResult::Sent);
        // Another one about the same waits, and then the older one that is sent back.
        send_event(&mut quiet, "2");
        quiet.pass_ms(10);
        send_back(&mut quiet);
        assert_eq!(unsent(&quiet), ["2", "1"], "subjects of their own");
        let quiet = quiet.restart(&stack(WINDOW_MS), &functions());
        assert_eq!(unsent(&quiet), ["2"], "one subject now");
    }

    #[test]
    fn a_mail_of_a_former_life_goes_first_and_keeps_its_message_id() {
        let mut quiet = Quiet::start(&stack(WINDOW_MS), &functions());
        ["1", "2"].into_iter().for_each(|sk| tell(&mut quiet, sk));
        quiet.pass_ms(WINDOW_MS / 2);
        begin_new_life(&mut quiet);
        quiet.pass_ms(10);
        assert_eq!(heads(&quiet), ["1", "1"], "whether it arrived nobody knows");
        assert_eq!(quiet.mails[0].message_id, quiet.mails[1].message_id);
        answer(&mut quiet, &MailResult::Sent);
        quiet.pass_ms(WINDOW_MS - 100);
        assert_eq!(heads(&quiet), ["1", "1"], "the time began anew");
        quiet.pass_ms(200);
        assert_eq!(heads(&quiet), ["1", "1", "2"]);
    }

    #[test]
    fn while_a_mail_waits_for_its_next_try_the_next_of_its_subject_waits_too() {
        let mut quiet = Quiet::start(&stack(10), &functions());
        tell(&mut quiet, "1");
        answer(&mut quiet, &MailResult::Retry("busy".into()));
        tell(&mut quiet, "2");
        quiet.pass_ms(1_000);
        assert_eq!(heads(&quiet), ["1"], "the next try is more than two seconds away");
        for _ in 0..5_000 {
            if quiet.mails.len() == 1 {
                quiet.pass_ms(1);
            }
        }
        assert_eq!(heads(&quiet), ["1", "1"]);
        assert_eq!(quiet.mails[0].message_id, quiet.mails[1].message_id);
        answer(&mut quiet, &MailResult::Sent);
        quiet.pass_ms(100);
        assert_eq!(heads(&quiet), ["1", "1", "2"]);
    }
}
