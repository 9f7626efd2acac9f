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
        DeliveryInput { message: body, reads, now_ms: self.now.wall_ms }
    }
}
