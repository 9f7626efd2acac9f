//! The trace: a running hash over everything that goes into the engine and comes out of it.
//!
//! Promise: two runs with equal traces were the same run; frames are in it by their checksums,
//! which chain. It deliberately keeps nothing but the hash.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

use wims_stack::Doc;

use crate::frame::FRAME_HEADER;
use crate::io::{Answer, Input, Output};

/// The running hash.
#[derive(Default)]
pub(super) struct Trace {
    hasher: DefaultHasher,
}

impl Trace {
    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// Notes something else that happened.
    pub fn note(&mut self, what: &str, number: u64) {
        (what, number).hash(&mut self.hasher);
    }

    /// Notes what the engine is told.
    pub fn input(&mut self, input: &Input) {
        let to = &mut self.hasher;
        discriminant(input).hash(to);
        match input {
            Input::Call { ticket, route, arguments, history, trace, key } => {
                (ticket, route, arguments.bytes(), trace, key).hash(to);
                history.as_ref().map(Doc::bytes).hash(to);
            }
            Input::Query { ticket, query } => (ticket, discriminant(query)).hash(to),
            Input::Written { buffer } => buffer.len().hash(to),
            Input::Prepared { segment, success } => (segment, success).hash(to),
            Input::Called { call, reply } => (call, discriminant(reply)).hash(to),
            Input::Mailed { mail, result } => {
                (mail.queue, &mail.messages, discriminant(result)).hash(to);
            }
            Input::Historied { seq, success } => (seq, success).hash(to),
        }
    }

    /// Notes what the engine wants done.
    pub fn output(&mut self, output: &Output) {
        let to = &mut self.hasher;
        discriminant(output).hash(to);
        match output {
            Output::Reply(ticket, answer) => {
                (ticket, discriminant(answer)).hash(to);
                if let Answer::Done(reply) | Answer::Repeated(reply) = answer {
                    reply.bytes().hash(to);
                }
            }
            Output::Write(frame) => {
                let header = frame.bytes.get(..FRAME_HEADER);
                (frame.segment, frame.offset, frame.bytes.len(), header).hash(to);
            }
            Output::Prepare { segment } | Output::Remove { segment } => segment.hash(to),
            Output::Call(call) => {
                (&call.call, &call.key, call.body.is_some(), &call.traceparent).hash(to);
            }
            Output::Mail(mail) => (&mail.message_id, &mail.subject, &mail.text).hash(to),
            Output::History(job) => (job.seq, job.items.len()).hash(to),
        }
    }
}
