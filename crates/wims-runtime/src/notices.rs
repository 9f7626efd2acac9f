//! Notices: mails to whom an event is about. The address is in no event; it is looked up when the
//! mail is made.
//!
//! Promise: the business says who is told of what, as a key; while a mail with a key is under way
//! no other one leaves, and a repeat after a crash has the same Message-ID, which is made of the
//! key. What the business writes when a notice ends is in the frame that ends its message, whether
//! the mail was sent, given up or never made, so it can remember whom it told, and forget the
//! address. It deliberately has no time in which a key is known here: a memory of that kind would
//! never end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wims_stack::{Doc, Write};

use crate::dead_letter::{Failure, INVALID_WRITES, PANICKED};
use crate::engine::Engine;
use crate::functions::{DeliveryInput, MailText, Notice, NoticeEnd, Reads};
use crate::io::{MailId, MailJob, Output};
use crate::mails::{HIDDEN_WHILE_SENT_MS, IN_FLIGHT_MAX};
use crate::plan::{NoticesPlan, Plan};
use crate::record::{Hidden, Record};
use crate::transact::TransactFailure;

impl Engine {
    /// Hands out notices that are due.
    pub(crate) fn pump_notices(&mut self, plan: &Plan) {
        for notices in plan.topics.iter().flat_map(|topic| &topic.notices) {
            let queue = notices.queue;
            self.state.appear(queue);
            while self.journal.has_room()
                && self.mails.in_flight.get(&queue).is_none_or(|mails| *mails < IN_FLIGHT_MAX)
                && let Some(id) = self.state.queue(queue).first_ready()
            {
                self.notify(plan, notices, id);
            }
        }
    }

    fn notify(&mut self, plan: &Plan, notices: &NoticesPlan, id: u64) {
        let queue = notices.queue;
        let message = self.state.queue(queue).get(id).expect("it was ready");
        let body = message.body.clone();
        let input = self.notice_input(notices, &body);
        let made = catch_unwind(AssertUnwindSafe(|| (notices.notice)(&input)));
        match made {
            Ok(Notice::Nobody { writes }) => {
                self.mails.to_nobody += 1;
                match self.write_notice(notices, id, &writes) {
                    Ok(()) => self.delete(queue, id),
                    Err(bug) => self.bury_mail(plan, queue, id, bug),
                }
            }
            // The other message sees to it.
            Ok(Notice::Mail { key, .. }) if self.is_under_way(queue, &key) => {
                self.delete(queue, id);
            }
            Ok(Notice::Mail { to, key, text }) => self.start_notice(queue, id, to, key, text),
            Err(_) => {
                let bug = Failure::new(PANICKED, "the notice function panicked on this event");
                self.bury_mail(plan, queue, id, bug);
            }
        }
    }

    fn is_under_way(&self, queue: u16, key: &str) -> bool {
        let mut under_way = self.mails.notices.iter();
        under_way.any(|((of, _), other)| *of == queue && other == key)
    }

    fn start_notice(&mut self, queue: u16, id: u64, to: String, key: String, text: MailText) {
        let message = self.state.queue(queue).get(id).expect("it was ready");
        let hidden = Hidden {
            queue,
            id,
            visible_at_ms: self.state.clock_ms + HIDDEN_WHILE_SENT_MS,
            receives: message.receives + 1,
            attempts: message.attempts,
            held: true,
        };
        self.emit(self.cause_of_message(queue, id), Record::Hidden(hidden));
        *self.mails.in_flight.entry(queue).or_default() += 1;
        let message_id = format!("{key}@wims");
        self.mails.notices.insert((queue, id), key);
        self.hold(Output::Mail(MailJob {
            mail: MailId { queue, messages: vec![id] },
            message_id,
            to,
            subject: text.subject,
            text: text.text,
            html: text.html,
        }));
    }

    /// Writes what the business wants written when a notice ended; of another mail, nothing.
    ///
    /// # Errors
    /// When its function panics or its writes make no sense: a bug.
    pub(crate) fn end_notice(
        &mut self,
        plan: &Plan,
        queue: u16,
        id: u64,
        end: NoticeEnd,
    ) -> Result<(), Failure> {
        let Some(notices) = plan.notices_of(queue) else { return Ok(()) };
        let Some(message) = self.state.queue(queue).get(id) else { return Ok(()) };
        let body = message.body.clone();
        let input = self.notice_input(notices, &body);
        let made = catch_unwind(AssertUnwindSafe(|| (notices.outcome)(&input, end)));
        let panicked =
            |_| Failure::new(PANICKED, format!("the noticed function panicked: {end:?}"));
        self.write_notice(notices, id, &made.map_err(panicked)?)
    }

    /// In the frame that ends the message. Where a condition does not hold, somebody was first.
    fn write_notice(
        &mut self,
        notices: &NoticesPlan,
        id: u64,
        writes: &[Write],
    ) -> Result<(), Failure> {
        // An event that follows from a notice could be mailed and have one follow from it again.
        let unstreamed = self.state.table(notices.table).unstreamed();
        let has_stream =
            |write: &&Write| !unstreamed.iter().any(|u| write.pk.starts_with(u.as_str()));
        if let Some(streamed) = writes.iter().find(has_stream) {
            let told = format!("a notice writes {}, which has a stream", streamed.pk);
            return Err(Failure::new(INVALID_WRITES, told));
        }
        let cause = self.cause_of_message(notices.queue, id);
        match self.transact(notices.table, writes, cause) {
            Ok(()) | Err(TransactFailure::Condition { .. }) => Ok(()),
            Err(failure @ (TransactFailure::Update(_) | TransactFailure::Shape(_))) => {
                Err(Failure::new(INVALID_WRITES, failure.to_string()))
            }
        }
    }

    fn notice_input<'a>(&'a self, notices: &NoticesPlan, body: &'a Doc) -> DeliveryInput<'a> {
        let reads = Reads::of(self.state.table(notices.table));
        DeliveryInput {
            message: body,
            reads,
            now_ms: self.now.wall_ms,
            clock_ms: self.state.clock_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wims_stack::{
        Action, Field, FunctionRef, Notices, Queue, QueueRef, Redrive, Stack, TableRef, TargetRef,
        Topic, TopicRef,
    };

    use super::*;
    use crate::engine::Cause;
    use crate::functions::{Function, Functions};
    use crate::io::MailResult;
    use crate::mails::Mails;
    use crate::quiet::{self, Quiet};

    /// Each new item is a notice.
    fn stack() -> Stack {
        let (topic, queue) = (TopicRef::new("news"), QueueRef::new("mails"));
        let mut stack = quiet::stack(TargetRef::Topic(topic.clone()));
        stack.tables[0].unstreamed.push("TOLD#".into());
        stack.queues.push(Queue {
            name: queue.clone(),
            visibility_timeout_ms: 30_000,
            redrive: Some(Redrive { dead_letters: QueueRef::new("dead"), receive_count_max: 2 }),
            alarm: None,
        });
        let notices = Notices {
            queue,
            table: TableRef::new("T"),
            notice: FunctionRef::new("notify"),
            outcome: FunctionRef::new("noticed"),
        };
        stack.topics.push(Topic { name: topic, subscriptions: Vec::new(), notices: vec![notices] });
        stack
    }

    fn functions() -> Functions {
        quiet::functions()
            .with("notify", Function::Notice(Arc::new(notify)))
            .with("noticed", Function::Noticed(noticed))
    }

    /// The `sk` of the item an event is about.
    fn sk(input: &DeliveryInput<'_>) -> String {
        let item = input.message.part("detail").expect("an item");
        item.str("sk").expect("a key").to_owned()
    }

    /// Writes to somebody about an item, under what its `sk` begins with, unless that was done.
    fn notify(input: &DeliveryInput<'_>) -> Notice {
        let sk = sk(input);
        let key = sk.split('-').next().unwrap_or("").to_owned();
        let is_told = input.reads.get(&format!("TOLD#{key}"), "x").is_some();
        if is_told || key == "nobody" {
            let writes = if is_told { Vec::new() } else { vec![note(&key, "nobody")] };
            return Notice::Nobody { writes };
        }
        assert_ne!(key, "bug");
        let text = MailText { subject: sk, text: "text".into(), html: Some("html".into()) };
        Notice::Mail { to: "ada@localhost".into(), key, text }
    }

    fn noticed(input: &DeliveryInput<'_>, end: NoticeEnd) -> Vec<Write> {
        let sk = sk(input);
        match sk.split('-').next().unwrap_or("") {
            // Of the items that have a stream.
            "wrong" => vec![Write { pk: "a".into(), sk, condition: None, action: Action::Delete }],
            key => vec![note(key, &format!("{end:?}"))],
        }
    }

    fn note(key: &str, end: &str) -> Write {
        let pk = format!("TOLD#{key}");
        let item = Doc::object(&[
            ("end", Field::Str(end)),
            ("pk", Field::Str(&pk)),
            ("sk", Field::Str("x")),
        ]);
        Write { pk, sk: "x".into(), condition: None, action: Action::Put(item) }
    }

    fn tell(quiet: &mut Quiet, sk: &str) {
        quiet.put(sk);
        quiet.pass_ms(10);
    }

    /// How the last mail went.
    fn answer(quiet: &mut Quiet, result: &MailResult) {
        let mail = quiet.mails.last().expect("a mail is under way").mail.clone();
        quiet.engine.mailed(&mail, result);
        quiet.pass_ms(10);
    }

    /// How the notice with a key ended, as was written.
    fn end(quiet: &Quiet, key: &str) -> Option<String> {
        let table = quiet.engine.state.number("table/T").expect("it is declared");
        let item = quiet.engine.state.table(table).get(&format!("TOLD#{key}"), "x")?;
        item.doc.str("end").map(str::to_owned)
    }

    fn begin_new_life(quiet: &mut Quiet) {
        quiet.engine.mails = Mails::default();
        quiet.engine.release_held();
        quiet.pass_ms(10);
    }

    #[test]
    fn a_notice_goes_to_whom_it_is_about_and_its_end_is_written() {
        let mut quiet = Quiet::start(&stack(), &functions());
        tell(&mut quiet, "1");
        let [mail] = quiet.mails.as_slice() else { panic!("one mail: {:?}", quiet.mails) };
        assert_eq!((mail.to.as_str(), mail.message_id.as_str()), ("ada@localhost", "1@wims"));
        assert_eq!(mail.html.as_deref(), Some("html"));
        assert_eq!(end(&quiet, "1"), None, "nobody has said yes");
        answer(&mut quiet, &MailResult::Sent);
        assert_eq!(end(&quiet, "1").as_deref(), Some("Sent"));
        assert!(quiet.messages("mails").is_empty());
        // The same once more, and one with nobody to go to.
        ["1-again", "nobody"].into_iter().for_each(|sk| tell(&mut quiet, sk));
        assert_eq!(quiet.mails.len(), 1);
        assert_eq!(end(&quiet, "nobody").as_deref(), Some("nobody"));
        assert_eq!(quiet.engine.mails.to_nobody, 2);
        assert!(quiet.messages("mails").is_empty());
    }

    #[test]
    fn of_two_messages_with_a_key_one_is_mailed_also_while_it_is_under_way() {
        let mut quiet = Quiet::start(&stack(), &functions());
        ["1-a", "1-b", "2"].into_iter().for_each(|sk| tell(&mut quiet, sk));
        let ids: Vec<&str> = quiet.mails.iter().map(|mail| mail.message_id.as_str()).collect();
        assert_eq!(ids, ["1@wims", "2@wims"]);
        assert_eq!(quiet.messages("mails").len(), 2, "the other one is gone");
    }

    #[test]
    fn a_notice_of_a_former_life_is_mailed_again_under_its_message_id() {
        let mut quiet = Quiet::start(&stack(), &functions());
        tell(&mut quiet, "1");
        begin_new_life(&mut quiet);
        assert_eq!(quiet.mails.len(), 2, "whether it arrived nobody knows");
        assert_eq!(quiet.mails[0].message_id, quiet.mails[1].message_id);
        answer(&mut quiet, &MailResult::Sent);
        begin_new_life(&mut quiet);
        assert_eq!(quiet.mails.len(), 2);
    }

    #[test]
    fn a_notice_that_is_given_up_is_a_dead_letter_and_its_end_is_written() {
        let mut quiet = Quiet::start(&stack(), &functions());
        tell(&mut quiet, "1");
        answer(&mut quiet, &MailResult::Rejected("no".into()));
        assert_eq!(end(&quiet, "1").as_deref(), Some("GivenUp"));
        tell(&mut quiet, "2");
        answer(&mut quiet, &MailResult::Retry("busy".into()));
        assert_eq!(end(&quiet, "2"), None, "it is tried again");
        quiet.pass_ms(60_000);
        assert_eq!(quiet.mails.len(), 3);
        answer(&mut quiet, &MailResult::Retry("busy".into()));
        assert_eq!(end(&quiet, "2").as_deref(), Some("GivenUp"));
        assert_eq!(quiet.messages("dead").len(), 2);
        assert!(quiet.messages("mails").is_empty());
    }

    #[test]
    fn a_function_with_a_bug_makes_a_dead_letter_and_holds_up_no_other() {
        let mut quiet = Quiet::start(&stack(), &functions());
        ["bug", "wrong"].into_iter().for_each(|sk| tell(&mut quiet, sk));
        answer(&mut quiet, &MailResult::Sent);
        tell(&mut quiet, "1");
        answer(&mut quiet, &MailResult::Sent);
        assert_eq!(end(&quiet, "1").as_deref(), Some("Sent"));
        let dead = quiet.messages("dead");
        let code = |at: usize| dead[at].attributes.as_deref().and_then(|a| a.str("ERROR_CODE"));
        assert_eq!([code(0), code(1)], [Some(PANICKED), Some(INVALID_WRITES)]);
        assert_eq!(quiet.item("wrong").str("sk"), Some("wrong"), "nothing was written");
    }

    #[test]
    fn a_replay_of_an_event_mails_nobody() {
        let mut quiet = Quiet::start(&stack(), &functions());
        let (plan, item) = (quiet.engine.plan.clone(), quiet::item("1"));
        let event = wims_stack::EventView {
            source: "t",
            detail_type: "new",
            detail: wims_stack::Node::View(item.view()),
        };
        let cause = Cause { replay: true, ..Cause::default() };
        quiet.engine.publish_to_topic(&plan, 0, &event, cause);
        quiet.pass_ms(10);
        assert!(quiet.mails.is_empty() && quiet.messages("mails").is_empty());
    }
}
