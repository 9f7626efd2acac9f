//! The hub: the engine and its world behind one lock. Who brings something takes the next turn.
//!
//! Promise: whatever is put in is carried on by somebody at once, without waiting: who finds the
//! lock taken leaves the work to its holder, who looks again before and after letting go. It
//! deliberately gives the engine no thread of its own: a request would have to wake it, and it
//! the requester, and each wake-up costs as much as the work.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use crate::driver::inbox::ReplyInbox;
use crate::driver::world::World;
use crate::driver::{Ending, locked};
use crate::engine::Engine;
use crate::io::{Input, Now, Output};

/// Requests waiting for the engine, at most; beyond it they are refused at the door.
const REQUESTS_MAX: usize = 65_536;
/// Requests one turn takes, at most: their frame is on its way while the next turn works.
const TURN_REQUESTS_MAX: usize = 32;
/// After the deadline of a stop, the journal has this long to close.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);
/// Exit code of a process whose engine panicked: `EX_SOFTWARE`.
const EXIT_PANICKED: i32 = 70;

/// The engine, its world, and what waits for them.
pub struct Hub {
    waiting: Mutex<Waiting>,
    core: Mutex<Core>,
    /// Somebody found the lock taken since its holder last looked.
    missed: AtomicBool,
    timer: Timer,
    clock: Clock,
    /// The threads that ask, by number.
    askers: Vec<Arc<ReplyInbox>>,
}

/// What a turn leaves to be done.
#[derive(Default)]
struct Left {
    /// The engine has work that is due.
    is_due: bool,
    /// Somebody found the lock taken meanwhile.
    was_missed: bool,
    /// Somebody found the lock taken before, and this turn took no requests.
    was_passed_over: bool,
}

/// What waits for the engine.
#[derive(Default)]
struct Waiting {
    requests: VecDeque<Input>,
    completions: Vec<Input>,
    /// Nobody will answer any more.
    closed: bool,
}

/// What the lock is for.
struct Core {
    engine: Engine,
    /// `None` before the start and after the end.
    world: Option<World>,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    /// When the next turn is due without any input, in microseconds of monotonic time.
    due_us: Option<u64>,
    /// Requests were left because the frame had no room.
    left: bool,
}

impl Hub {
    /// A hub without a world.
    pub(super) fn new(engine: Engine, clock: Clock, askers: Vec<Arc<ReplyInbox>>) -> Hub {
        let (inputs, outputs) = (Vec::new(), Vec::new());
        let core = Core { engine, world: None, inputs, outputs, due_us: Some(0), left: false };
        Hub {
            waiting: Mutex::default(),
            core: Mutex::new(core),
            missed: AtomicBool::new(false),
            timer: Timer::default(),
            clock,
            askers,
        }
    }

    /// Gives the engine its world.
    pub(super) fn connect(&self, world: World) {
        self.lock_core().world = Some(world);
        self.timer.ring();
    }

    /// Puts a request in, for a turn to come; false when too many wait, or after the end.
    pub fn request(&self, input: Input) -> bool {
        let mut waiting = locked(&self.waiting);
        let has_room = waiting.requests.len() < REQUESTS_MAX && !waiting.closed;
        if has_room {
            waiting.requests.push_back(input);
        }
        has_room
    }

    /// Puts in the completion of something the engine asked for, and carries it on.
    pub fn complete(&self, input: Input) {
        locked(&self.waiting).completions.push(input);
        // The threads of the world have work of their own: what is due is left to the timer.
        while let Some(left) = self.turn_without_requests() {
            if left.is_due {
                self.timer.ring();
            }
            if !left.was_missed {
                return;
            }
        }
    }

    /// A turn of who brings no requests: they are left to who brought them. `None` when there is
    /// nothing more to do.
    fn turn_without_requests(&self) -> Option<Left> {
        let left = self.turn_with(0);
        if left.was_passed_over {
            self.call_back();
        }
        (left.is_due || left.was_missed).then_some(left)
    }

    /// Calls the thread of the first request that waits for another turn.
    fn call_back(&self) {
        let first = locked(&self.waiting).requests.front().and_then(Input::ticket);
        if let Some(asker) = first.and_then(|ticket| self.askers.get(ticket.inbox as usize)) {
            asker.ring();
        }
    }

    /// Has the timer's thread take a turn: for who will take no more of its own.
    pub fn ring(&self) {
        self.timer.ring();
    }

    /// One turn: takes what waits, lets the engine work on it, and sees that what it asks for is
    /// done. Whether there is more to do; false also when somebody else is at it.
    pub fn turn(&self) -> bool {
        let left = self.turn_with(TURN_REQUESTS_MAX);
        left.is_due || left.was_missed
    }

    fn turn_with(&self, requests_max: usize) -> Left {
        let Some(mut core) = self.try_lock_core() else { return Left::default() };
        // A turn without requests does not serve who was passed over with one.
        let was_passed_over = self.missed.swap(false, Ordering::SeqCst) && requests_max == 0;
        core.turn(&self.waiting, self.clock, requests_max);
        if self.missed.load(Ordering::SeqCst) {
            // A frame that was written meanwhile makes way for the next at once.
            core.turn(&self.waiting, self.clock, 0);
        }
        let has_room_again = requests_max == 0 && core.take_left();
        let was_passed_over = was_passed_over || has_room_again;
        let is_past = |due: u64| due <= self.clock.now().mono_us;
        let is_due =
            core.due_us.is_some_and(is_past) || (has_room_again && !core.inputs.is_empty());
        if !is_due {
            self.timer.set(core.due_us);
        }
        drop(core);
        fence(Ordering::SeqCst);
        let was_missed = self.missed.load(Ordering::SeqCst);
        Left { is_due, was_missed, was_passed_over }
    }

    /// Takes turns when their time has come; ends with the world.
    pub(super) fn keep_time(&self) {
        while self.timer.wait(self.clock) {
            while self.turn_without_requests().is_some() {}
        }
    }

    /// Begins no more calls and mails; requests are still served.
    pub(super) fn stop_outside(&self) {
        self.lock_core().engine.stop_outside();
    }

    /// Finishes what is under way until the deadline, syncs and ends the world.
    pub(super) fn stop(&self, deadline: Instant) -> Ending {
        let _no_panic = NoPanic;
        self.stop_outside();
        let given_up_at = deadline + CLOSING_PATIENCE;
        let (ending, world) = loop {
            while self.turn() && Instant::now() < given_up_at {}
            let mut core = self.lock_core();
            let ending = core.ending();
            let is_done = ending.cut == 0 || Instant::now() >= deadline;
            // What does not fit on a full disk was never acknowledged.
            let is_given_up = Instant::now() >= given_up_at;
            if core.engine.is_settled() && is_done || is_given_up {
                break (ending, core.close());
            }
            drop(core);
            std::thread::sleep(Duration::from_millis(5));
        };
        locked(&self.waiting).closed = true;
        if let Some(world) = world {
            world.end();
        }
        self.timer.end();
        ending
    }

    fn try_lock_core(&self) -> Option<MutexGuard<'_, Core>> {
        let attempt = || match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => end_panicked(),
        };
        attempt().or_else(|| {
            self.missed.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // The holder may have let go before it could see that.
            attempt()
        })
    }

    fn lock_core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(|_| end_panicked())
    }
}

/// The state in memory may be half changed, and only the journal is right.
fn end_panicked() -> ! {
    tracing::error!("the engine met a bug and stopped; what was acknowledged is on the disk");
    std::process::exit(EXIT_PANICKED)
}

/// Ends the process when dropped by a panic.
struct NoPanic;

impl Drop for NoPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end_panicked();
        }
    }
}

impl Core {
    fn turn(&mut self, waiting: &Mutex<Waiting>, clock: Clock, requests_max: usize) {
        let mut are_left = self.take(waiting, requests_max);
        let Some(world) = &mut self.world else { return };
        let now = clock.now();
        if self.inputs.is_empty() && self.due_us.is_none_or(|due| due > now.mono_us) {
            return;
        }
        let _no_panic = NoPanic;
        self.engine.step(now, &mut self.inputs, &mut self.outputs);
        world.carry_out(&mut self.outputs);
        are_left |= !self.inputs.is_empty();
        let has_room = self.engine.wants_requests();
        if requests_max > 0 {
            self.left = are_left && !has_room;
        }
        let at_once = are_left && has_room && requests_max > 0;
        self.due_us = if at_once { Some(0) } else { self.engine.next_step_us() };
    }

    /// Whether requests that were left can be taken now; said once.
    fn take_left(&mut self) -> bool {
        self.engine.wants_requests() && std::mem::take(&mut self.left)
    }

    /// Moves what waits to the inputs, completions first; whether requests were left.
    fn take(&mut self, waiting: &Mutex<Waiting>, requests_max: usize) -> bool {
        let mut waiting = locked(waiting);
        // Requests left over from a full frame stay first in line.
        let left_over = std::mem::take(&mut self.inputs);
        self.inputs.append(&mut waiting.completions);
        self.inputs.extend(left_over);
        let room = requests_max.saturating_sub(self.inputs.len());
        let some = waiting.requests.len().min(room);
        self.inputs.extend(waiting.requests.drain(..some));
        !waiting.requests.is_empty()
    }

    /// What a stop at this moment would leave.
    fn ending(&self) -> Ending {
        let is_durable = self.engine.journal.is_settled();
        Ending { is_durable, cut: self.engine.outside_in_flight() }
    }

    fn close(&mut self) -> Option<World> {
        let mut world = self.world.take()?;
        self.due_us = None;
        self.engine.close(&mut self.outputs);
        world.carry_out(&mut self.outputs);
        Some(world)
    }
}

/// When somebody has to take a turn though nothing is put in.
#[derive(Default)]
struct Timer {
    alarm: Mutex<Alarm>,
    bell: Condvar,
}

#[derive(Default)]
struct Alarm {
    due_us: Option<u64>,
    /// Somebody needs a turn now, whatever others say is due.
    rung: bool,
    /// Until when the thread sleeps, if it does.
    asleep_until_us: Option<u64>,
    ended: bool,
}

impl Timer {
    fn set(&self, due_us: Option<u64>) {
        let mut alarm = locked(&self.alarm);
        alarm.due_us = due_us;
        // A later alarm does not wake it: it looks again when the earlier one rings.
        let wanted = due_us.unwrap_or(u64::MAX);
        if alarm.asleep_until_us.is_some_and(|until| wanted < until) {
            self.bell.notify_one();
        }
    }

    fn ring(&self) {
        locked(&self.alarm).rung = true;
        self.bell.notify_one();
    }

    fn end(&self) {
        locked(&self.alarm).ended = true;
        self.bell.notify_one();
    }

    /// Waits until a turn is due; false when it has ended.
    fn wait(&self, clock: Clock) -> bool {
        let mut alarm = locked(&self.alarm);
        loop {
            let now_us = clock.now().mono_us;
            let due_us = alarm.due_us.unwrap_or(u64::MAX);
            if alarm.ended || alarm.rung || due_us <= now_us {
                (alarm.rung, alarm.due_us) = (false, None);
                return !alarm.ended;
            }
            alarm.asleep_until_us = Some(due_us);
            let patience = Duration::from_micros(due_us - now_us).min(Duration::from_secs(3_600));
            alarm =
                self.bell.wait_timeout(alarm, patience).unwrap_or_else(PoisonError::into_inner).0;
            alarm.asleep_until_us = None;
        }
    }
}

/// The real clocks.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    pub fn elapsed(self) -> Duration {
        self.started.elapsed()
    }

    pub fn now(self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            mono_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}
