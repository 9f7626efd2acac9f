//! Death and recovery: what is lost, and that what comes back is what was there.
//!
//! Promise: after each death, also one in the middle of a recovery, the recovered state equals the
//! live state at the last durable frame, and nothing acknowledged is missing. A recovery that
//! misreads a bit of what it needs refuses and changes nothing. The states are compared before the
//! new engine writes anything, and by digest: the old engine is gone.

use fastrand::Rng;
use wims_stack::Stack;

use crate::digest::Digest;
use crate::engine::{Engine, EngineOptions, StartError};
use crate::frame::{FrameHeader, PAGE};
use crate::functions::Functions;
use crate::io::Now;
use crate::recovery::{Recovered, RecoveryBugs, RecoveryError, SegmentStore};
use crate::replay::replay;
use crate::state::State;

use super::disk::SimDisk;
use super::world::{
    Event, FrameInFlight, Life, Outside, SECOND_US, Verdict, Violation, World, WorldOptions,
};

/// Answers kept to be given to a later life, at most.
const FORMER_MAX: usize = 16;
/// Operations of a recovery after which the process may die in it.
const OPERATIONS_MAX: u32 = 24;

/// What is known of the journal from outside.
pub(super) struct Known {
    /// The last sequence and checksum the engine was told are durable.
    acknowledged: (u64, u32),
    /// States at the ends of frames, by checksum; only those a recovery may end at.
    digests: Vec<(u32, Digest)>,
}

impl Known {
    /// What is known of an empty journal.
    pub fn of_nothing(stack: &Stack) -> Known {
        let digest = State::new(stack).digest();
        Known { acknowledged: (0, 0), digests: vec![(0, digest)] }
    }

    /// A frame is durable.
    pub fn acknowledge(&mut self, last_seq: u64, crc: u32) {
        self.acknowledged = (last_seq, crc);
    }

    /// The live state at the end of a frame.
    pub fn remember(&mut self, crc: u32, digest: Digest) {
        self.digests.push((crc, digest));
    }

    fn compare(&self, crc: u32, recovered: &Digest) -> Verdict {
        let live = self.digests.iter().rev().find(|(known, _)| *known == crc);
        let Some((_, live)) = live else {
            return Err(Violation("recovery ends at a frame before the last two".into()));
        };
        let differences = live.differences(recovered);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Violation(format!(
            "the recovered state is not the live one at the last durable frame; they differ in {}",
            differences.join(", ")
        )))
    }
}

/// How the engine of a world is set up.
pub(super) fn engine_options(options: &WorldOptions, seed: u64) -> EngineOptions {
    EngineOptions {
        segment_bytes: options.segment_bytes,
        seed,
        bugs: options.bugs,
        ..EngineOptions::default()
    }
}

/// Starts an engine on what is on the disk.
pub(super) fn start(
    stack: &Stack,
    functions: &Functions,
    disk: &mut SimDisk,
    options: EngineOptions,
    now: Now,
) -> Result<Engine, Violation> {
    let started = Engine::start(stack, functions, disk, options, now);
    let (engine, _) = started
        .map_err(|error: StartError| Violation(format!("the engine does not start: {error}")))?;
    Ok(engine)
}

/// Recovers a journal into a state that no engine has touched.
fn recovered_digest(
    stack: &Stack,
    store: &mut impl SegmentStore,
    bugs: RecoveryBugs,
) -> Result<(Recovered, Digest), RecoveryError> {
    let (recovered, mut state) = replay(stack, store, bugs, u64::MAX)?;
    state.clock_ms = recovered.last_clock_ms;
    Ok((recovered, state.digest()))
}

/// The sound frames on a disk, oldest first, each with its offset.
fn sound_frames(disk: &SimDisk) -> Vec<(usize, FrameHeader)> {
    let mut frames = Vec::new();
    for bytes in disk.stored().values() {
        let mut offset = PAGE;
        while let Some(header) = bytes.get(offset..).and_then(FrameHeader::read) {
            let behind = offset + header.padded_len();
            frames.push((offset, header));
            offset = behind;
        }
    }
    frames
}

impl World<'_> {
    /// The process dies, and another one takes over what is on the disk.
    pub(super) fn crash(&mut self, outside: &mut impl Outside) -> Verdict {
        self.counts.crashes += 1;
        self.trace.note("crash", self.clock.now_us);
        self.keep_former_answers();
        let in_flight = self.life.in_flight.take();
        self.disk.crash();
        self.history.crash(&mut self.rng);
        self.pass_downtime();
        self.die_in_recovery()?;
        self.misread_in_recovery()?;
        self.recover(in_flight, outside)?;
        self.change_stack()?;
        self.begin_life(outside)
    }

    fn keep_former_answers(&mut self) {
        for event in std::mem::take(&mut self.life.events).into_values() {
            if let Event::CallEnds { call, reply } = event
                && self.former.len() < FORMER_MAX
            {
                self.former.push((call, reply));
            }
        }
    }

    /// Seconds mostly, now and then hours; the wall clock may be set in the meantime.
    fn pass_downtime(&mut self) {
        let longest_s = if self.rng.u8(0..8) == 0 { 7_200 } else { 20 };
        self.clock.now_us += self.rng.u64(SECOND_US / 100..=longest_s * SECOND_US);
        if self.rng.u8(0..4) == 0 {
            self.clock.jump_wall(&mut self.rng);
        }
    }

    /// A recovery that does not get to its end changes nothing that matters.
    fn die_in_recovery(&mut self) -> Verdict {
        while self.rng.u8(0..4) == 0 {
            self.disk.die_after(self.rng.u32(0..OPERATIONS_MAX));
            let bugs = self.options.bugs.recovery;
            let recovery = recovered_digest(self.stack, &mut self.disk, bugs);
            self.disk.live();
            match recovery {
                Ok(_) => {}
                Err(RecoveryError::Store(_)) => self.counts.crashes_in_recovery += 1,
                Err(error) => return Err(refused(&error)),
            }
        }
        Ok(())
    }

    /// Now and then a recovery misreads one bit of a frame that is not the last: rot in that one
    /// looks like a torn tail. It must refuse and change nothing, or not have needed the frame and
    /// come to the right state. That is tried on a copy of the disk, and drawn apart from
    /// everything else, so that a seed does what it did without it.
    fn misread_in_recovery(&mut self) -> Verdict {
        let mut rng = Rng::with_seed(self.options.seed.wrapping_add(self.counts.crashes));
        let frames = sound_frames(&self.disk);
        let Some(((_, last), older)) = frames.split_last() else { return Ok(()) };
        if older.is_empty() || rng.u8(0..3) > 0 {
            return Ok(());
        }
        let (offset, frame) = &older[rng.usize(0..older.len())];
        let bit = rng.usize(offset * 8..(offset + frame.len as usize) * 8);
        self.trace.note("flip", bit as u64);
        self.counts.flips += 1;
        let mut disk = self.disk.clone();
        disk.misread(frame.segment, bit);
        let bugs = self.options.bugs.recovery;
        let broken = |what: &str| {
            let place = format!("bit {bit} of segment {}", frame.segment);
            Err(Violation(format!("a recovery that misreads {place} {what}")))
        };
        match recovered_digest(self.stack, &mut disk, bugs) {
            Err(RecoveryError::Corrupt { .. }) if disk.stored() == self.disk.stored() => {
                self.counts.flips_refused += 1;
                Ok(())
            }
            Err(RecoveryError::Corrupt { .. }) => broken("refuses, but changed the disk"),
            Err(error) => broken(&format!("does not say corruption, but: {error}")),
            Ok(_) if frame.segment >= last.recover_from => broken("takes the frame for sound"),
            Ok((found, digest)) => {
                let recovery = recovered_digest(self.stack, &mut self.disk.clone(), bugs);
                let (sound, live) = recovery.map_err(|error| refused(&error))?;
                let is_right = found.end.previous_crc == sound.end.previous_crc && digest == live;
                if is_right { Ok(()) } else { broken("is misled by a frame it does not need") }
            }
        }
    }

    fn recover(&mut self, in_flight: Option<FrameInFlight>, outside: &mut impl Outside) -> Verdict {
        let bugs = self.options.bugs.recovery;
        let (recovered, digest) =
            recovered_digest(self.stack, &mut self.disk, bugs).map_err(|error| refused(&error))?;
        self.counts.torn_tails += u64::from(recovered.torn_tail);
        let (seq, crc) = (recovered.end.last_seq, recovered.end.previous_crc);
        let (acknowledged_seq, acknowledged_crc) = self.known.acknowledged;
        if seq < acknowledged_seq {
            return Err(Violation(format!(
                "records up to {acknowledged_seq} were durable, recovery found them up to {seq}"
            )));
        }
        if crc != acknowledged_crc {
            let survived = in_flight.filter(|frame| frame.crc == crc).ok_or_else(|| {
                Violation("recovery ends at another frame than the last one written".into())
            })?;
            self.counts.frames_survived += 1;
            self.known.acknowledge(survived.last_seq, survived.crc);
            self.known.compare(crc, &digest)?;
            outside.durable(self.clock.now_us, &survived.entries)?;
        } else {
            self.known.compare(crc, &digest)?;
        }
        self.known.digests = vec![(crc, digest)];
        Ok(())
    }

    /// The other stack takes over, if there is one: what it makes of the journal is what the next
    /// recovery must find.
    fn change_stack(&mut self) -> Verdict {
        let Some(next) = self.other_stack else { return Ok(()) };
        self.other_stack = Some(std::mem::replace(&mut self.stack, next));
        let bugs = self.options.bugs.recovery;
        let (recovered, digest) =
            recovered_digest(self.stack, &mut self.disk, bugs).map_err(|error| refused(&error))?;
        self.known.digests = vec![(recovered.end.previous_crc, digest)];
        Ok(())
    }

    fn begin_life(&mut self, outside: &mut impl Outside) -> Verdict {
        self.clock.life_began_us = self.clock.now_us;
        // A process may die right after its recovery, before it does anything.
        for _ in 0..=u32::from(self.rng.u8(0..8) == 0) {
            let mut options = engine_options(&self.options, self.rng.u64(..));
            options.redeliver = self.redeliver;
            let now = self.clock.now();
            self.engine = start(self.stack, self.functions, &mut self.disk, options, now)?;
        }
        self.life = Life::new(self.rng.u64(self.options.frames_per_life.clone()));
        self.plan_trouble();
        let mut questions = Vec::new();
        outside.restarted(self.clock.now_us, &self.history, &mut questions);
        self.ask_at_once(questions);
        Ok(())
    }
}

fn refused(error: &RecoveryError) -> Violation {
    Violation(format!("recovery refuses what a crash left: {error}"))
}
