//! Inboxes: requests from a thread to the hub, and replies back to it.
//!
//! Promise: one wake-up a group, not one an order: a thread is told of all its replies at once,
//! and takes a turn with all requests it has read.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot};

use crate::driver::hub::Hub;
use crate::driver::locked;
use crate::io::{Answer, Input, Ticket};

/// The replies of one thread.
#[derive(Default)]
pub struct ReplyInbox {
    arrived: Mutex<Vec<(u64, Answer)>>,
    bell: Notify,
    asked: Mutex<Asked>,
}

/// Who waits for a reply, by slot. A slot is used again under another number, so that a late
/// reply to who has gone is nobody's.
#[derive(Default)]
struct Asked {
    slots: Vec<(u32, Option<oneshot::Sender<Answer>>)>,
    free: Vec<u32>,
}

impl Asked {
    fn add(&mut self, sender: oneshot::Sender<Answer>) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("memory ends before 4 billion requests")
        });
        let (uses, place) = &mut self.slots[index as usize];
        *uses = uses.wrapping_add(1);
        *place = Some(sender);
        (u64::from(*uses) << 32) | u64::from(index)
    }

    fn remove(&mut self, slot: u64) -> Option<oneshot::Sender<Answer>> {
        let index = slot as u32;
        let (uses, place) = self.slots.get_mut(index as usize)?;
        if u64::from(*uses) != slot >> 32 {
            return None;
        }
        let sender = place.take()?;
        self.free.push(index);
        Some(sender)
    }
}

impl ReplyInbox {
    /// Hands over a group of replies with one wake-up.
    pub fn deliver(&self, replies: &mut Vec<(u64, Answer)>) {
        locked(&self.arrived).append(replies);
        self.bell.notify_one();
    }

    /// Gives replies to those who wait; how many there were.
    fn hand_out(&self) -> usize {
        let replies = std::mem::take(&mut *locked(&self.arrived));
        let count = replies.len();
        let mut asked = locked(&self.asked);
        for (slot, answer) in replies {
            if let Some(sender) = asked.remove(slot) {
                // A client that went away needs no reply; what it asked is done.
                let _ = sender.send(answer);
            }
        }
        count
    }

    /// Has the thread take a turn.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    fn ask(&self) -> (u64, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (locked(&self.asked).add(sender), receiver)
    }

    fn forget(&self, slot: u64) {
        locked(&self.asked).remove(slot);
    }
}

/// Asks the engine, from one thread; cheap to clone.
#[derive(Clone)]
pub struct Client {
    hub: Arc<Hub>,
    replies: Arc<ReplyInbox>,
    inbox: u32,
}

impl Client {
    /// A client whose replies arrive in `replies`, which has number `inbox`.
    pub(super) fn new(hub: Arc<Hub>, replies: Arc<ReplyInbox>, inbox: u32) -> Client {
        Client { hub, replies, inbox }
    }

    /// Asks and waits for the answer; `None` when too many wait already or the engine is gone.
    pub async fn ask(&self, input: impl FnOnce(Ticket) -> Input) -> Option<Answer> {
        let (slot, receiver) = self.replies.ask();
        if !self.hub.request(input(Ticket { inbox: self.inbox, slot })) {
            self.replies.forget(slot);
            return None;
        }
        self.replies.ring();
        receiver.await.ok()
    }

    /// Takes turns of the hub and hands out replies, for ever; runs as a task on this thread. It
    /// comes after whatever is ready to run, so a turn has all requests that have arrived, and
    /// answers leave before the next one.
    pub async fn serve(&self) {
        let _leaving = Leaving(&self.hub);
        loop {
            self.replies.bell.notified().await;
            if self.replies.hand_out() > 0 {
                tokio::task::yield_now().await;
            }
            if self.hub.turn() {
                self.replies.bell.notify_one();
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A task that ends may owe a turn.
struct Leaving<'a>(&'a Hub);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.ring();
    }
}
