//! Delivery as AWS promises it to the targets of rules: at least once, in no order.
//!
//! Promise: with a [`Redeliver`] a share of the deliveries is made at the end of its step, behind
//! later ones, and a share is made once more up to a minute later. The first delivery is in the
//! frame of the step its event arose in, whatever its place there, so a crash loses none; only
//! what was to be made again is forgotten. It deliberately changes nothing where it is off: `serve`
//! delivers once and in order.

use std::collections::BTreeMap;

use wims_stack::{Doc, EventView};

use super::{Cause, Engine};
use crate::bus::event_doc;
use crate::plan::{Plan, TargetKind};
use crate::workflow::event_view;

/// Deliveries put off in one step, at most: all of them go into its frame.
const PUT_OFF_MAX: usize = 64;
/// Deliveries that are to be made again, at most; they are worth no more memory.
const AGAIN_MAX: usize = 10_000;
/// Every other repeat comes within this time, while what follows from the event goes on.
const SOON_MS: u64 = 50;
/// The other ones come within this time, behind events that arose later.
const LATE_MS: u64 = 60_000;

/// How often deliveries are made out of order, and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redeliver {
    /// Of a hundred deliveries so many are put off, and as many are made again.
    pub percent: u8,
}

/// Deliveries that are still to be made; see the module.
#[derive(Default)]
pub(crate) struct Redelivery {
    put_off: Vec<Delivery>,
    /// By when they are due, in clock milliseconds, and a number drawn.
    again: BTreeMap<(u64, u64), Delivery>,
    made_again: u64,
}

/// An event and the target that gets it, by the places of its rule and of the target there.
struct Delivery {
    rule: usize,
    target: usize,
    event: Doc,
    cause: Cause,
}

impl Engine {
    /// Whether the delivery of an event is made at the end of this step and not now. It may be
    /// made once more later, either way.
    pub(crate) fn put_off(
        &mut self,
        plan: &Plan,
        (rule, target): (usize, usize),
        event: &EventView<'_>,
        cause: Cause,
    ) -> bool {
        let Some(Redeliver { percent }) = self.options.redeliver else { return false };
        // A log is read from the journal: nothing is delivered to it.
        if matches!(plan.rules[rule].targets[target].to, TargetKind::Log) {
            return false;
        }
        let delivery = || Delivery { rule, target, event: event_doc(event), cause };
        if self.rng.u8(0..100) < percent && self.redelivery.again.len() < AGAIN_MAX {
            let longest_ms = if self.rng.bool() { SOON_MS } else { LATE_MS };
            let due_ms = self.state.clock_ms + self.rng.u64(1..=longest_ms);
            self.redelivery.again.insert((due_ms, self.rng.u64(..)), delivery());
        }
        let is_put_off =
            self.rng.u8(0..100) < percent && self.redelivery.put_off.len() < PUT_OFF_MAX;
        if is_put_off {
            self.redelivery.put_off.push(delivery());
        }
        is_put_off
    }

    /// Makes the deliveries that this step put off, in any order.
    pub(crate) fn deliver_put_off(&mut self, plan: &Plan) {
        let mut put_off = std::mem::take(&mut self.redelivery.put_off);
        self.rng.shuffle(&mut put_off);
        put_off.iter().for_each(|delivery| self.deliver_it(plan, delivery));
    }

    /// Makes the deliveries again whose time has come.
    pub(crate) fn deliver_again(&mut self, plan: &Plan) {
        while self.journal.has_room()
            && self.is_redelivery_due()
            && let Some((_, delivery)) = self.redelivery.again.pop_first()
        {
            self.redelivery.made_again += 1;
            self.deliver_it(plan, &delivery);
        }
    }

    fn deliver_it(&mut self, plan: &Plan, delivery: &Delivery) {
        let rule = &plan.rules[delivery.rule];
        let event = event_view(&delivery.event);
        self.deliver(plan, &rule.name, &rule.targets[delivery.target], &event, delivery.cause);
    }

    /// Whether a delivery is to be made again now. The last segment is not for repeats.
    pub(crate) fn is_redelivery_due(&self) -> bool {
        let is_due = self.redelivery_due_ms().is_some_and(|at| at <= self.state.clock_ms);
        is_due && self.journal.admits()
    }

    /// When a delivery is next made again, in clock milliseconds.
    pub(crate) fn redelivery_due_ms(&self) -> Option<u64> {
        self.redelivery.again.first_key_value().map(|((at, _), _)| *at)
    }

    /// How many deliveries were made again since this was last asked.
    pub(crate) fn take_made_again(&mut self) -> u64 {
        std::mem::take(&mut self.redelivery.made_again)
    }
}

#[cfg(test)]
mod tests {
    use wims_stack::{QueueRef, TargetRef, Template};

    use super::*;
    use crate::engine::EngineOptions;
    use crate::quiet::{self, Quiet};

    fn stack() -> wims_stack::Stack {
        let message = Template::path("$.detail.sk");
        quiet::stack(TargetRef::Queue(QueueRef::new("noted"), message))
    }

    /// A quiet world that notes what is put, delivered like this.
    fn noting(percent: u8) -> Quiet {
        let redeliver = Some(Redeliver { percent });
        let options = EngineOptions { redeliver, ..EngineOptions::default() };
        Quiet::start_with(&stack(), &quiet::functions(), options)
    }

    #[test]
    fn what_a_step_puts_off_is_delivered_in_it_behind_what_arose_later() {
        let mut quiet = noting(50);
        let put = quiet::numbers(10..40);
        put.iter().for_each(|sk| quiet.put(sk));
        quiet.pass_ms(1);
        let mut noted = quiet.texts("noted");
        assert_ne!(noted, put, "out of order");
        noted.sort();
        assert_eq!(noted, put, "each once so far, and in the step it was put in");
    }

    #[test]
    fn a_delivery_is_made_once_more_within_a_minute_and_not_again() {
        let mut quiet = noting(100);
        quiet.put("1");
        quiet.pass_ms(1);
        assert_eq!(quiet.texts("noted"), ["1"]);
        quiet.pass_ms(LATE_MS);
        assert_eq!(quiet.texts("noted"), ["1", "1"]);
        quiet.pass_ms(LATE_MS);
        assert_eq!(quiet.texts("noted"), ["1", "1"]);
    }

    #[test]
    fn the_end_of_a_process_loses_nothing_but_what_was_to_be_made_again() {
        let mut quiet = noting(100);
        quiet.put("1");
        quiet.pass_ms(1);
        let mut quiet = quiet.restart(&stack(), &quiet::functions());
        quiet.pass_ms(LATE_MS);
        assert_eq!(quiet.texts("noted"), ["1"]);
    }
}
