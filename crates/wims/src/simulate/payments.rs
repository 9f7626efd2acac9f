//! The payments API of a simulation: it throttles, fails, is silent, is late and lies.
//!
//! Promise: its own contract, whatever else it does: a key is charged at most once, and the same
//! order has the same outcome on every try. A call may land after its timeout, after a look-up
//! said 404, and although the answer was 500 or 503. It deliberately knows no queue and no engine;
//! what it charged is its ledger, and the ledger is what auditors believe.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use wims_runtime::io::{ApiCall, CallReply};
use wims_runtime::sim::world::SECOND_US;
use wims_stack::{Doc, Field};

/// Percent of orders whose payment is declined.
const DECLINED_PERCENT: u64 = 8;
/// A call that is late lands within this time.
const LATE_MAX_US: u64 = 600 * SECOND_US;

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Charged.
    Paid,
    /// Refused for good.
    Declined,
}

/// How a call is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// As the contract says.
    Fine,
    /// 429.
    Throttled,
    /// 503, though it may be charged later.
    Busy,
    /// 500, charged or not.
    Broken,
    /// No answer in time; it lands in time, late or never.
    Silent,
    /// The connection breaks off.
    Cut,
    /// 401, 403, 404 or 405.
    Misdirected,
    /// No connection.
    Unreachable,
    /// 422.
    Invalid,
}

const MOODS: [Mood; 8] = [
    Mood::Throttled,
    Mood::Busy,
    Mood::Broken,
    Mood::Silent,
    Mood::Cut,
    Mood::Misdirected,
    Mood::Unreachable,
    Mood::Invalid,
];

/// The API; see the module.
pub struct Payments {
    rng: Rng,
    salt: u64,
    calm: bool,
    /// A mood most calls meet for a while.
    weather: Mood,
    weather_until_us: u64,
    ledger: BTreeMap<String, Outcome>,
    paid_keys: BTreeMap<String, BTreeSet<String>>,
    /// Calls on the wire: when each lands, its key and its order.
    on_the_wire: BTreeMap<(u64, u64), (String, String)>,
    calls: u64,
}

impl Payments {
    /// An API that has charged nothing.
    pub fn new(seed: u64) -> Payments {
        let mut rng = Rng::with_seed(seed);
        Payments {
            salt: rng.u64(..),
            rng,
            calm: false,
            weather: Mood::Fine,
            weather_until_us: 0,
            ledger: BTreeMap::new(),
            paid_keys: BTreeMap::new(),
            on_the_wire: BTreeMap::new(),
            calls: 0,
        }
    }

    /// From now on it keeps its contract and is there.
    pub fn calm(&mut self) {
        self.calm = true;
    }

    /// Takes a call or look-up: after how many microseconds it ends, and how.
    pub fn call(&mut self, now_us: u64, call: &ApiCall) -> (u64, CallReply) {
        self.calls += 1;
        self.land_until(now_us);
        let mood = self.mood(now_us);
        let timeout_us = call.timeout_ms * 1_000;
        let soon_us = self.rng.u64(2_000..=800_000).min(timeout_us);
        match &call.body {
            Some(body) => {
                let order = body.str("orderId").unwrap_or("").to_owned();
                self.charge(now_us, &call.key, &order, mood, (soon_us, timeout_us))
            }
            None => self.look_up(&call.key, mood, (soon_us, timeout_us)),
        }
    }

    /// Lets calls land that are on the wire until a time.
    pub fn land_until(&mut self, now_us: u64) {
        while let Some(entry) = self.on_the_wire.first_entry() {
            if entry.key().0 > now_us {
                return;
            }
            let (key, order) = entry.remove();
            let outcome = self.outcome_of(&order);
            if outcome == Outcome::Paid {
                self.paid_keys.entry(order).or_default().insert(key.clone());
            }
            // A key that has an outcome has it again.
            self.ledger.insert(key, outcome);
        }
    }

    /// What became of a key so far.
    pub fn outcome(&self, key: &str) -> Option<Outcome> {
        self.ledger.get(key).copied()
    }

    /// Under how many keys an order was charged.
    pub fn charges(&self, order: &str) -> usize {
        self.paid_keys.get(order).map_or(0, BTreeSet::len)
    }

    /// Orders that were charged, with how many charges each.
    pub fn charged(&self) -> impl Iterator<Item = (&str, usize)> {
        self.paid_keys.iter().map(|(order, keys)| (order.as_str(), keys.len()))
    }

    /// The outcome an order has on every try.
    fn outcome_of(&self, order: &str) -> Outcome {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = order.bytes().fold(self.salt, step);
        if (hash >> 32) % 100 < DECLINED_PERCENT { Outcome::Declined } else { Outcome::Paid }
    }

    /// Half of the time the weather is fair; then six of ten calls are treated well.
    fn mood(&mut self, now_us: u64) -> Mood {
        if self.calm {
            return Mood::Fine;
        }
        if now_us >= self.weather_until_us {
            self.weather = if self.rng.bool() { Mood::Fine } else { self.bad_mood() };
            self.weather_until_us = now_us + self.rng.u64(SECOND_US..=30 * SECOND_US);
        }
        if self.weather != Mood::Fine && self.rng.u8(0..10) < 8 {
            return self.weather;
        }
        if self.rng.u8(0..10) < 6 { Mood::Fine } else { self.bad_mood() }
    }

    fn bad_mood(&mut self) -> Mood {
        MOODS[self.rng.usize(0..MOODS.len())]
    }

    fn charge(
        &mut self,
        now_us: u64,
        key: &str,
        order: &str,
        mood: Mood,
        (soon_us, timeout_us): (u64, u64),
    ) -> (u64, CallReply) {
        match mood {
            Mood::Fine => {
                let lands_us = self.rng.u64(now_us..=now_us + soon_us);
                self.send(lands_us, key, order);
                (soon_us, self.told(order))
            }
            Mood::Throttled => (soon_us, self.pausing(429)),
            Mood::Busy => {
                self.send_perhaps(now_us, LATE_MAX_US, key, order);
                (soon_us, self.pausing(503))
            }
            Mood::Broken => {
                self.send_perhaps(now_us, soon_us, key, order);
                (soon_us, answered(500, None))
            }
            Mood::Silent => {
                self.send_perhaps(now_us, timeout_us + LATE_MAX_US, key, order);
                (timeout_us, CallReply::Lost("no answer in time".into()))
            }
            Mood::Cut => {
                self.send_perhaps(now_us, soon_us, key, order);
                (soon_us, CallReply::Lost("the connection broke off".into()))
            }
            Mood::Misdirected => (soon_us, self.misdirected()),
            Mood::Unreachable => (soon_us, CallReply::NotSent("connection refused".into())),
            Mood::Invalid => (soon_us, answered(422, Some(reason("no such currency")))),
        }
    }

    fn look_up(
        &mut self,
        key: &str,
        mood: Mood,
        (soon_us, timeout_us): (u64, u64),
    ) -> (u64, CallReply) {
        let reply = match mood {
            Mood::Fine => self.found(key),
            Mood::Throttled => self.pausing(429),
            Mood::Busy => self.pausing(503),
            Mood::Broken => answered(500, None),
            Mood::Silent => {
                return (timeout_us, CallReply::Lost("no answer in time".into()));
            }
            Mood::Cut => CallReply::Lost("the connection broke off".into()),
            Mood::Misdirected => answered(401, None),
            Mood::Unreachable => CallReply::NotSent("connection refused".into()),
            Mood::Invalid => answered(200, Some(reason("under maintenance"))),
        };
        (soon_us, reply)
    }

    /// What a look-up finds; now and then it has not heard of a charge yet.
    fn found(&mut self, key: &str) -> CallReply {
        let stale = !self.calm && self.rng.u8(0..12) == 0;
        match self.outcome(key).filter(|_| !stale) {
            Some(Outcome::Paid) => {
                answered(200, Some(Doc::object(&[("status", Field::Str("PAID"))])))
            }
            Some(Outcome::Declined) => {
                let status = ("status", Field::Str("DECLINED"));
                let reason = ("reason", Field::Str("insufficient_funds"));
                answered(200, Some(Doc::object(&[reason, status])))
            }
            None => answered(404, None),
        }
    }

    fn told(&self, order: &str) -> CallReply {
        match self.outcome_of(order) {
            Outcome::Paid => {
                let message = Doc::object(&[("message", Field::Str("Payment Success!"))]);
                answered(200, Some(message))
            }
            Outcome::Declined => answered(402, Some(reason("insufficient_funds"))),
        }
    }

    fn pausing(&mut self, status: u16) -> CallReply {
        let retry_after_ms = match self.rng.u8(0..40) {
            0..=15 => None,
            16..=32 => Some(1_000),
            33..=38 => Some(20_000),
            _ => Some(1_200_000),
        };
        CallReply::Answered { status, retry_after_ms, body: None }
    }

    fn misdirected(&mut self) -> CallReply {
        answered([401, 403, 404, 405][self.rng.usize(0..4)], None)
    }

    fn send(&mut self, lands_us: u64, key: &str, order: &str) {
        self.on_the_wire.insert((lands_us, self.calls), (key.to_owned(), order.to_owned()));
    }

    /// A call that lands, two of three times, within a time from now.
    fn send_perhaps(&mut self, now_us: u64, within_us: u64, key: &str, order: &str) {
        if self.rng.u8(0..3) > 0 {
            let lands_us = now_us + self.rng.u64(0..=within_us);
            self.send(lands_us, key, order);
        }
    }
}

fn answered(status: u16, body: Option<Doc>) -> CallReply {
    CallReply::Answered { status, retry_after_ms: None, body }
}

fn reason(text: &str) -> Doc {
    Doc::object(&[("reason", Field::Str(text))])
}
