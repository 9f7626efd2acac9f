//! The world around one engine: time, completions, and everything that can go wrong with them.
//!
//! Promise: what the engine wants done is done as a driver does it, only later, in another order
//! or not at all, as the seed says; nothing else tells the engine anything. It deliberately
//! judges only what holds of every stack: frames go to blank room and end where steps end, and an
//! engine that has nothing to do sleeps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use fastrand::Rng;
use wims_stack::Stack;

use crate::engine::{Engine, EngineBugs, Redeliver};
use crate::frame::{FRAME_HEADER, FrameHeader};
use crate::functions::Functions;
use crate::io::{
    Answer, ApiCall, CallId, CallReply, HistoryJob, Input, MailId, MailJob, MailResult, Now,
    Output, Ticket,
};
use crate::journal::FrameWrite;
use crate::record::Entry;

use super::crash::{Known, engine_options, start};
use super::disk::SimDisk;
use super::history::SimHistory;
use super::trace::Trace;

/// Microseconds of a second.
pub const SECOND_US: u64 = 1_000_000;
/// Wall time when a world begins: the first of January 2026.
const WALL_BEGAN_MS: i64 = 1_767_225_600_000;
/// The wall clock is never further off than this.
const WALL_OFFSET_MAX_MS: i64 = 90 * 24 * 3_600_000;
/// Steps without input or effect, one soon after the other, after which an engine spins.
const IDLE_STEPS_MAX: u32 = 64;
/// Idle steps further apart than this are not one after the other.
const IDLE_GAP_US: u64 = 10_000;

/// A promise that was broken, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// Whether what was seen keeps its promises.
pub type Verdict = Result<(), Violation>;

/// What is around an engine and knows the business: clients, APIs, mail servers, auditors.
pub trait Outside {
    /// When it next asks something, in microseconds since the world began.
    fn due_us(&self) -> Option<u64>;

    /// Puts what is to be asked by now into `inputs`.
    fn ask(&mut self, now_us: u64, history: &SimHistory, inputs: &mut Vec<Input>);

    /// Takes the answer to something asked.
    ///
    /// # Errors
    /// When the answer breaks a promise.
    fn answered(
        &mut self,
        now_us: u64,
        ticket: Ticket,
        answer: Answer,
        history: &SimHistory,
    ) -> Verdict;

    /// Takes a call of an API: after how many microseconds it ends, and how.
    ///
    /// # Errors
    /// When the call breaks a promise.
    fn called(&mut self, now_us: u64, call: &ApiCall) -> Result<(u64, CallReply), Violation>;

    /// Takes a mail.
    ///
    /// # Errors
    /// When the mail breaks a promise.
    fn mailed(&mut self, now_us: u64, mail: &MailJob) -> Result<MailResult, Violation>;

    /// Takes the records of a frame that is durable now.
    ///
    /// # Errors
    /// When they break a promise.
    fn durable(&mut self, now_us: u64, entries: &[Entry]) -> Verdict;

    /// The process died and a new one runs: what was asked gets no answer. Puts what is to be
    /// asked of the recovered state, before anything else happens to it, into `inputs`.
    fn restarted(&mut self, now_us: u64, history: &SimHistory, inputs: &mut Vec<Input>);
}

/// How a world is set up.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Everything random follows from it.
    pub seed: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// How many frames a process writes before it dies.
    pub frames_per_life: RangeInclusive<u64>,
    /// Planted bugs.
    pub bugs: EngineBugs,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps of all engines.
    pub steps: u64,
    /// Frames submitted.
    pub frames: u64,
    /// Deaths of the process.
    pub crashes: u64,
    /// Deaths in the middle of a recovery.
    pub crashes_in_recovery: u64,
    /// Frames under way at a death that survived it.
    pub frames_survived: u64,
    /// Torn tails that were cut.
    pub torn_tails: u64,
    /// Recoveries that misread a bit of a frame.
    pub flips: u64,
    /// Those that refused for it; the others did not need the frame.
    pub flips_refused: u64,
    /// Segments removed.
    pub segments_removed: u64,
    /// Deliveries to targets of rules that were made again.
    pub redelivered: u64,
}

/// The world; see the module.
pub struct World<'a> {
    pub(super) stack: &'a Stack,
    /// Takes turns with the stack, a life each.
    pub(super) other_stack: Option<&'a Stack>,
    pub(super) functions: &'a Functions,
    pub(super) options: WorldOptions,
    pub(super) redeliver: Option<Redeliver>,
    pub(super) rng: Rng,
    pub(super) clock: Clock,
    pub(super) disk: SimDisk,
    pub(super) history: SimHistory,
    pub(super) engine: Engine,
    pub(super) life: Life,
    pub(super) known: Known,
    /// Answers that were under way when a process died.
    pub(super) former: Vec<(CallId, CallReply)>,
    pub(super) hostile: bool,
    pub(super) counts: Counts,
    pub(super) trace: Trace,
    disk_full_until_us: u64,
}

/// Both clocks. Time itself, `now_us`, never jumps; what processes see of it does.
#[derive(Clone, Copy, Default)]
pub(super) struct Clock {
    pub now_us: u64,
    pub life_began_us: u64,
    wall_offset_ms: i64,
}

/// What one life of the process has under way.
pub(super) struct Life {
    pub events: BTreeMap<(u64, u64), Event>,
    /// Completions the engine has not been told of.
    inputs: Vec<Input>,
    /// What the very next step is asked, before anything else.
    pub questions: Vec<Input>,
    pub in_flight: Option<FrameInFlight>,
    frames: u64,
    /// The frame at whose submission its end begins.
    ends_at_frame: u64,
    is_ending: bool,
    write_fails: bool,
    calls: BTreeSet<CallId>,
    idle_steps: u32,
    last_idle_us: u64,
}

/// A frame on its way to the disk.
pub(super) struct FrameInFlight {
    pub entries: Vec<Entry>,
    pub last_seq: u64,
    pub crc: u32,
}

/// What happens at some time.
pub(super) enum Event {
    FrameEnds { fails: bool },
    SegmentEnds { segment: u64 },
    SegmentGoes { segment: u64 },
    CallEnds { call: CallId, reply: CallReply },
    FormerCallEnds { call: CallId, reply: CallReply },
    MailEnds { mail: MailId, result: MailResult },
    HistoryEnds { success: bool },
    DiskFills,
    WallJumps,
    ProcessFreezes,
    ProcessDies,
    Wake,
}

/// Whether the process lives on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    Dies,
}

impl Clock {
    pub fn now(&self) -> Now {
        let passed_ms = i64::try_from(self.now_us / 1_000).unwrap_or(i64::MAX >> 1);
        let wall_ms = WALL_BEGAN_MS + passed_ms + self.wall_offset_ms;
        Now {
            wall_ms: u64::try_from(wall_ms).unwrap_or(0),
            mono_us: self.now_us - self.life_began_us,
        }
    }

    /// Sets the wall clock forwards or backwards, by seconds, hours or more than a day.
    pub fn jump_wall(&mut self, rng: &mut Rng) {
        let jump_ms = match rng.u8(0..10) {
            0..=3 => rng.i64(-3_000..=3_000),
            4..=6 => rng.i64(-7_200_000..=7_200_000),
            7 | 8 => rng.i64(86_400_000..=180_000_000),
            _ => rng.i64(-180_000_000..=-86_400_000),
        };
        let offset_ms = self.wall_offset_ms + jump_ms;
        self.wall_offset_ms = offset_ms.clamp(-WALL_OFFSET_MAX_MS, WALL_OFFSET_MAX_MS);
    }
}

impl Life {
    pub fn new(ends_at_frame: u64) -> Life {
        Life {
            events: BTreeMap::new(),
            inputs: Vec::new(),
            questions: Vec::new(),
            in_flight: None,
            frames: 0,
            ends_at_frame,
            is_ending: false,
            write_fails: false,
            calls: BTreeSet::new(),
            idle_steps: 0,
            last_idle_us: 0,
        }
    }
}

impl<'a> World<'a> {
    /// A world in which a stack begins on an empty disk.
    ///
    /// # Errors
    /// When the engine does not start.
    pub fn new(
        stack: &'a Stack,
        functions: &'a Functions,
        options: WorldOptions,
    ) -> Result<World<'a>, Violation> {
        let mut rng = Rng::with_seed(options.seed);
        let clock = Clock::default();
        let skips_sync = options.bugs.skip_sync.is_on();
        let mut disk = SimDisk::new(options.segment_bytes, rng.u64(..), skips_sync);
        let known = Known::of_nothing(stack);
        let engine_options = engine_options(&options, rng.u64(..));
        let engine = start(stack, functions, &mut disk, engine_options, clock.now())?;
        let life = Life::new(rng.u64(options.frames_per_life.clone()));
        let mut world = World {
            stack,
            other_stack: None,
            functions,
            options,
            redeliver: None,
            rng,
            clock,
            disk,
            history: SimHistory::default(),
            engine,
            life,
            known,
            former: Vec::new(),
            hostile: true,
            counts: Counts::default(),
            trace: Trace::default(),
            disk_full_until_us: 0,
        };
        world.plan_trouble();
        Ok(world)
    }

    /// Microseconds since the world began.
    pub fn now_us(&self) -> u64 {
        self.clock.now_us
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A hash over everything that went into the engine and came out.
    pub fn trace(&self) -> u64 {
        self.trace.hash()
    }

    /// History as it is.
    pub fn history(&self) -> &SimHistory {
        &self.history
    }

    /// From now on nothing goes wrong any more; delays stay.
    pub fn calm(&mut self) {
        self.hostile = false;
        self.life.write_fails = false;
        self.disk_full_until_us = 0;
        self.life.events.retain(|_, event| match event {
            Event::FrameEnds { fails } => {
                *fails = false;
                true
            }
            Event::SegmentEnds { .. }
            | Event::SegmentGoes { .. }
            | Event::CallEnds { .. }
            | Event::FormerCallEnds { .. }
            | Event::MailEnds { .. }
            | Event::HistoryEnds { .. }
            | Event::Wake => true,
            Event::DiskFills | Event::WallJumps | Event::ProcessFreezes | Event::ProcessDies => {
                false
            }
        });
    }

    /// From the next death on, another stack and this one take turns, a life each.
    pub fn alternate(&mut self, other: &'a Stack) {
        self.other_stack = Some(other);
    }

    /// From now on, of a hundred deliveries so many are made out of order, and as many again.
    pub fn redeliver(&mut self, percent: u8) {
        self.redeliver = Some(Redeliver { percent });
        self.engine.options.redeliver = self.redeliver;
    }

    /// Asks before anything else happens.
    pub fn ask_at_once(&mut self, questions: Vec<Input>) {
        self.life.questions.extend(questions);
    }

    /// Goes on until a time, or until nothing happens before it.
    ///
    /// # Errors
    /// When a promise is broken.
    pub fn run_until(&mut self, outside: &mut impl Outside, until_us: u64) -> Verdict {
        while self.turn(outside, until_us)? {}
        self.clock.now_us = self.clock.now_us.max(until_us);
        Ok(())
    }

    /// Goes on to the next thing that happens until a time; false when nothing does.
    ///
    /// # Errors
    /// When a promise is broken.
    pub fn turn(&mut self, outside: &mut impl Outside, until_us: u64) -> Result<bool, Violation> {
        let Some(due_us) = self.next_due_us(outside).filter(|due_us| *due_us <= until_us) else {
            return Ok(false);
        };
        self.clock.now_us = self.clock.now_us.max(due_us) + self.rng.u64(0..=50);
        let fate = match self.let_happen(outside)? {
            Fate::Lives => self.step(outside)?,
            Fate::Dies => Fate::Dies,
        };
        if fate == Fate::Dies {
            self.crash(outside)?;
        }
        Ok(true)
    }

    fn next_due_us(&self, outside: &impl Outside) -> Option<u64> {
        if !self.life.questions.is_empty() {
            return Some(self.clock.now_us);
        }
        let engine = self.engine.next_step_us().map(|due| due + self.clock.life_began_us);
        let event = self.life.events.first_key_value().map(|((at, _), _)| *at);
        let asked = outside.due_us().filter(|_| self.engine.wants_requests());
        [engine, event, asked].into_iter().flatten().min()
    }

    pub(super) fn schedule(&mut self, delay_us: u64, event: Event) {
        let at = self.clock.now_us + delay_us;
        self.life.events.insert((at, self.rng.u64(..)), event);
    }

    /// A delay of up to `usual_us`, now and then fifty times as long.
    fn delay_us(&mut self, usual_us: u64) -> u64 {
        let slow = self.hostile && self.rng.u8(0..25) == 0;
        self.rng.u64(0..=usual_us) * if slow { 50 } else { 1 }
    }

    /// What will go wrong in this life besides its end.
    pub(super) fn plan_trouble(&mut self) {
        if !self.hostile {
            return;
        }
        for (call, reply) in std::mem::take(&mut self.former) {
            let delay_us = self.rng.u64(0..5 * SECOND_US);
            self.schedule(delay_us, Event::FormerCallEnds { call, reply });
        }
        for (one_in, event) in
            [(3, Event::WallJumps), (6, Event::ProcessFreezes), (4, Event::DiskFills)]
        {
            if self.rng.u8(0..one_in) == 0 {
                let delay_us = self.rng.u64(0..6 * SECOND_US);
                self.schedule(delay_us, event);
            }
        }
    }

    fn let_happen(&mut self, outside: &mut impl Outside) -> Result<Fate, Violation> {
        while let Some(entry) = self.life.events.first_entry() {
            if entry.key().0 > self.clock.now_us {
                break;
            }
            let event = entry.remove();
            if self.happen(event, outside)? == Fate::Dies {
                return Ok(Fate::Dies);
            }
        }
        Ok(Fate::Lives)
    }

    fn happen(&mut self, event: Event, outside: &mut impl Outside) -> Result<Fate, Violation> {
        match event {
            Event::FrameEnds { fails: true } | Event::ProcessDies => return Ok(Fate::Dies),
            Event::FrameEnds { fails: false } => self.end_frame(outside)?,
            Event::SegmentEnds { segment } => {
                let success = self.clock.now_us >= self.disk_full_until_us;
                self.disk.finish_preparing(segment, success);
                self.life.inputs.push(Input::Prepared { segment, success });
            }
            Event::SegmentGoes { segment } => self.disk.remove(segment),
            Event::CallEnds { call, reply } => self.end_call(call, reply),
            Event::FormerCallEnds { call, reply } => {
                // A driver's calls end with their process. Numbers begin anew with each life, so
                // an answer that by chance has the name of a call of this one is left out.
                if !self.life.calls.contains(&call) {
                    self.life.inputs.push(Input::Called { call, reply });
                }
            }
            Event::MailEnds { mail, result } => {
                self.life.inputs.push(Input::Mailed { mail, result });
            }
            Event::HistoryEnds { success } => {
                let seq = self.history.finish(success);
                self.life.inputs.extend(seq.map(|seq| Input::Historied { seq, success }));
            }
            Event::DiskFills => {
                self.disk_full_until_us =
                    self.clock.now_us + self.rng.u64(SECOND_US / 10..=15 * SECOND_US);
            }
            Event::WallJumps => self.clock.jump_wall(&mut self.rng),
            Event::ProcessFreezes => {
                self.clock.now_us += self.rng.u64(SECOND_US / 2..=90 * SECOND_US);
            }
            Event::Wake => {}
        }
        Ok(Fate::Lives)
    }

    fn end_frame(&mut self, outside: &mut impl Outside) -> Verdict {
        let buffer = self.disk.sync();
        let frame = self.life.in_flight.take().expect("a frame is under way");
        self.known.acknowledge(frame.last_seq, frame.crc);
        self.life.inputs.push(Input::Written { buffer });
        outside.durable(self.clock.now_us, &frame.entries)
    }

    /// An answer arrives, now and then twice.
    fn end_call(&mut self, call: CallId, reply: CallReply) {
        if self.hostile && self.rng.u8(0..10) == 0 {
            let delay_us = self.delay_us(SECOND_US);
            self.schedule(delay_us, Event::CallEnds { call, reply: reply.clone() });
        }
        self.life.inputs.push(Input::Called { call, reply });
    }

    fn step(&mut self, outside: &mut impl Outside) -> Result<Fate, Violation> {
        let mut inputs = self.take_inputs();
        if self.engine.wants_requests() {
            outside.ask(self.clock.now_us, &self.history, &mut inputs);
        }
        inputs.iter().for_each(|input| self.trace.input(input));
        let (nothing_new, last_seq) = (inputs.is_empty(), self.engine.last_seq());
        let mut outputs = Vec::new();
        self.engine.step(self.clock.now(), &mut inputs, &mut outputs);
        self.counts.steps += 1;
        self.counts.redelivered += self.engine.take_made_again();
        let no_effect = outputs.is_empty() && self.engine.last_seq() == last_seq;
        self.watch_idleness(nothing_new && no_effect)?;
        let fate = self.carry_out(outputs, outside)?;
        self.clock.now_us += self.rng.u64(1..=30);
        Ok(fate)
    }

    /// Completions for the next step, shuffled; some are only seen by a later one.
    fn take_inputs(&mut self) -> Vec<Input> {
        if !self.life.questions.is_empty() {
            return std::mem::take(&mut self.life.questions);
        }
        let mut arrived = std::mem::take(&mut self.life.inputs);
        self.rng.shuffle(&mut arrived);
        if self.hostile {
            let late = arrived.len() - self.rng.usize(0..=arrived.len() * 8).min(arrived.len());
            self.life.inputs = arrived.split_off(arrived.len() - late);
        }
        if !self.life.inputs.is_empty() {
            let delay_us = self.delay_us(500);
            self.schedule(delay_us, Event::Wake);
        }
        arrived
    }

    fn watch_idleness(&mut self, idle: bool) -> Verdict {
        let (life, now_us) = (&mut self.life, self.clock.now_us);
        if !idle {
            life.idle_steps = 0;
            return Ok(());
        }
        if now_us > life.last_idle_us + IDLE_GAP_US {
            life.idle_steps = 0;
        }
        life.idle_steps += 1;
        life.last_idle_us = now_us;
        if life.idle_steps > IDLE_STEPS_MAX {
            return Err(Violation(format!(
                "the engine spins: {IDLE_STEPS_MAX} steps one after the other had no input and no \
                 effect"
            )));
        }
        Ok(())
    }

    /// Does what the engine wants, in order, unless the process dies in between.
    fn carry_out(
        &mut self,
        outputs: Vec<Output>,
        outside: &mut impl Outside,
    ) -> Result<Fate, Violation> {
        let dies_at = self.death_among(&outputs);
        for (at, output) in outputs.into_iter().enumerate() {
            if dies_at == Some(at) {
                return Ok(Fate::Dies);
            }
            self.trace.output(&output);
            match output {
                Output::Write(frame) => self.write(frame)?,
                Output::Reply(ticket, answer) => {
                    outside.answered(self.clock.now_us, ticket, answer, &self.history)?;
                }
                Output::Prepare { segment } => {
                    self.disk.begin_preparing(segment);
                    let delay_us = self.delay_us(20_000);
                    self.schedule(delay_us, Event::SegmentEnds { segment });
                }
                Output::Remove { segment } => {
                    self.counts.segments_removed += 1;
                    let delay_us = self.delay_us(5_000);
                    self.schedule(delay_us, Event::SegmentGoes { segment });
                }
                Output::Call(call) => self.call(&call, outside)?,
                Output::Mail(mail) => self.mail(mail, outside)?,
                Output::History(job) => self.keep_history(job),
            }
        }
        Ok(if dies_at.is_some() { Fate::Dies } else { Fate::Lives })
    }

    /// Where among the submissions of a step the process dies, if it does. It dies there, or
    /// with the frame that cannot be written, or some time after.
    fn death_among(&mut self, outputs: &[Output]) -> Option<usize> {
        let writes = outputs.iter().any(|output| matches!(output, Output::Write(_)));
        let life = &mut self.life;
        if !self.hostile || !writes || life.is_ending || life.frames + 1 < life.ends_at_frame {
            return None;
        }
        life.is_ending = true;
        match self.rng.u8(0..8) {
            0..=2 => return Some(self.rng.usize(0..=outputs.len())),
            3 => self.life.write_fails = true,
            _ => {
                let delay_us = self.rng.u64(0..=20_000);
                self.schedule(delay_us, Event::ProcessDies);
            }
        }
        None
    }

    fn write(&mut self, frame: FrameWrite) -> Verdict {
        let (header, entries) = read_frame(&frame.bytes)?;
        let last_seq = header.first_seq + u64::from(header.count) - 1;
        if last_seq != self.engine.last_seq() {
            return Err(Violation(format!(
                "a frame ends at record {last_seq}, in the middle of a step"
            )));
        }
        self.counts.frames += 1;
        self.life.frames += 1;
        let dies_soon = self.hostile && self.life.frames + 1 >= self.life.ends_at_frame;
        // With another stack, a test may end a life whenever it is that one's turn.
        if dies_soon || self.other_stack.is_some() {
            self.known.remember(header.crc, self.engine.digest());
        }
        let fails = std::mem::take(&mut self.life.write_fails);
        let delay_us = 20 + self.delay_us(3_000);
        self.schedule(delay_us, Event::FrameEnds { fails });
        self.life.in_flight = Some(FrameInFlight { entries, last_seq, crc: header.crc });
        self.disk.write(frame).map_err(Violation)
    }

    fn call(&mut self, call: &ApiCall, outside: &mut impl Outside) -> Verdict {
        self.life.calls.insert(call.call);
        let (delay_us, reply) = outside.called(self.clock.now_us, call)?;
        self.schedule(delay_us, Event::CallEnds { call: call.call, reply });
        Ok(())
    }

    fn mail(&mut self, mail: MailJob, outside: &mut impl Outside) -> Verdict {
        let result = outside.mailed(self.clock.now_us, &mail)?;
        let delay_us = self.delay_us(SECOND_US);
        self.schedule(delay_us, Event::MailEnds { mail: mail.mail, result });
        Ok(())
    }

    fn keep_history(&mut self, job: HistoryJob) {
        self.history.begin(job);
        let success = !self.hostile || self.rng.u8(0..5) > 0;
        let delay_us = self.delay_us(30_000);
        self.schedule(delay_us, Event::HistoryEnds { success });
    }
}

/// The records of a frame as they will be read back.
fn read_frame(bytes: &[u8]) -> Result<(FrameHeader, Vec<Entry>), Violation> {
    let broken = |what: String| Violation(format!("a frame cannot be read back: {what}"));
    let header = FrameHeader::read(bytes).ok_or_else(|| broken("it is not sound".into()))?;
    let mut rest = &bytes[FRAME_HEADER..header.len as usize];
    let mut entries = Vec::with_capacity(header.count as usize);
    for seq in header.first_seq..header.first_seq + u64::from(header.count) {
        let (entry, behind) = Entry::read(rest, seq, header.wall_ms)
            .map_err(|error| broken(format!("record {seq}: {error}")))?;
        entries.push(entry);
        rest = behind;
    }
    Ok((header, entries))
}
