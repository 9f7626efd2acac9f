//! Inboxes between threads: inputs to the engine, replies to the threads that asked.
//!
//! Promise: one wake-up a group, not one an order: the engine is woken only when it sleeps, and a
//! thread is told of all its replies at once.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::io::{Answer, Input, Ticket};

/// Requests waiting for the engine, at most; beyond it they are refused at the door.
const REQUESTS_MAX: usize = 65_536;

/// Requests handed to one step, at most; a frame takes about half as many.
const STEP_REQUESTS_MAX: usize = 1_024;

/// What waits for the engine.
#[derive(Default)]
struct Waiting {
    requests: Vec<Input>,
    completions: Vec<Input>,
    asleep: bool,
    woken: bool,
    /// So many requests wake the engine.
    enough: usize,
}

/// The engine's inbox.
#[derive(Default)]
pub struct EngineInbox {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

impl EngineInbox {
    /// Puts a request in; false when too many wait.
    pub fn request(&self, input: Input) -> bool {
        let mut waiting = locked(&self.waiting);
        if waiting.requests.len() >= REQUESTS_MAX {
            return false;
        }
        waiting.requests.push(input);
        if waiting.requests.len() >= waiting.enough {
            self.ring(&mut waiting);
        }
        true
    }

    /// Puts the completion of something the engine asked for in.
    pub fn complete(&self, input: Input) {
        let mut waiting = locked(&self.waiting);
        waiting.completions.push(input);
        self.ring(&mut waiting);
    }

    /// Wakes the engine without an input.
    pub fn wake(&self) {
        let mut waiting = locked(&self.waiting);
        waiting.woken = true;
        self.ring(&mut waiting);
    }

    fn ring(&self, waiting: &mut Waiting) {
        if std::mem::take(&mut waiting.asleep) {
            self.bell.notify_one();
        }
    }

    /// Moves what waits to `inputs`, completions first; sleeps at most `patience` when nothing
    /// does. Fewer requests than `enough` do not wake it, though they are taken with whatever
    /// does; none are taken when it is `None`.
    pub fn take(&self, inputs: &mut Vec<Input>, enough: Option<usize>, patience: Option<Duration>) {
        let mut waiting = locked(&self.waiting);
        waiting.enough = enough.unwrap_or(usize::MAX);
        let is_empty = |waiting: &Waiting| {
            let requests = waiting.requests.len() >= waiting.enough;
            waiting.completions.is_empty() && !requests && !waiting.woken
        };
        if is_empty(&waiting) && patience != Some(Duration::ZERO) {
            waiting.asleep = true;
            let patience = patience.unwrap_or(Duration::from_secs(3_600));
            waiting = self
                .bell
                .wait_timeout_while(waiting, patience, |waiting| waiting.asleep)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            waiting.asleep = false;
        }
        waiting.woken = false;
        inputs.append(&mut waiting.completions);
        if enough.is_some() {
            let some = waiting.requests.len().min(STEP_REQUESTS_MAX);
            inputs.extend(waiting.requests.drain(..some));
        }
    }
}

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

    /// Gives replies to those who wait, for ever; runs as a task on the thread of the inbox.
    pub async fn serve(&self) {
        let mut replies = Vec::new();
        loop {
            self.bell.notified().await;
            std::mem::swap(&mut *locked(&self.arrived), &mut replies);
            let mut asked = locked(&self.asked);
            for (slot, answer) in replies.drain(..) {
                if let Some(sender) = asked.remove(slot) {
                    // A client that went away needs no reply; what it asked is done.
                    let _ = sender.send(answer);
                }
            }
        }
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
    engine: Arc<EngineInbox>,
    replies: Arc<ReplyInbox>,
    inbox: u32,
}

impl Client {
    /// A client whose replies arrive in `replies`, which has number `inbox`.
    pub fn new(engine: Arc<EngineInbox>, replies: Arc<ReplyInbox>, inbox: u32) -> Client {
        Client { engine, replies, inbox }
    }

    /// Asks and waits for the answer; `None` when too many wait already or the engine is gone.
    pub async fn ask(&self, input: impl FnOnce(Ticket) -> Input) -> Option<Answer> {
        let (slot, receiver) = self.replies.ask();
        if !self.engine.request(input(Ticket { inbox: self.inbox, slot })) {
            self.replies.forget(slot);
            return None;
        }
        receiver.await.ok()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
