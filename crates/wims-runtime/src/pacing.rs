//! Pacing: how fast an API may be called, and what its refusals teach.
//!
//! Promise: never faster than declared. A refusal lowers the learned rate once a window and
//! success lets it recover; the bucket of a new life starts empty; a rate of 0 is no call at all.
//! No more calls are under way than the API can take when they all arrive at once.
//! It deliberately counts calls, not messages: waiting costs no receive.

/// A bucket as full as the API's would send what it just holds; jitter on the way would then be
/// refused. This share of the declared rate is used, the rest is headroom.
const HEADROOM: f64 = 0.97;
/// A refusal lowers the rate to this share, once a window.
const FALL: f64 = 0.8;
/// The window.
const WINDOW_US: u64 = 1_000_000;
/// Each success gives back this share of the declared rate.
const RECOVERY: f64 = 0.002;
/// The learned rate never falls below this share of the declared one.
const FLOOR: f64 = 0.02;
/// Each answer moves the mean time of an answer by this share of the difference.
const MEAN_SHARE: f64 = 1.0 / 32.0;
/// As many calls are under way as that time needs, and this share more.
const UNDER_WAY: f64 = 1.25;
/// A token that is further away is looked for again after this, so that times stay small.
const LOOK_AGAIN_US: f64 = 3_600e6;

/// A token bucket with a learned rate.
#[derive(Clone, Debug)]
pub struct Pace {
    declared: f64,
    burst: f64,
    rate: f64,
    tokens: f64,
    refilled_us: u64,
    fell_us: Option<u64>,
    /// What is left of the API's own burst when ours is taken off.
    spare: f64,
    /// How long an answer takes, on average; `None` before the first one.
    answer_us: Option<f64>,
}

impl Pace {
    /// An empty bucket; `learned` is the rate a former life had learned, in calls a second. A
    /// declared rate that is none, or not above 0, lets nothing through.
    pub fn new(declared: f64, burst: u32, learned: Option<f64>, now_us: u64) -> Pace {
        let declared = if declared.is_finite() { declared.max(0.0) } else { 0.0 };
        let ceiling = declared * HEADROOM;
        // Half of the API's own burst, so that two of ours that meet are still taken.
        let own_burst = f64::from(burst / 2).max(1.0);
        Pace {
            declared,
            burst: own_burst,
            spare: (f64::from(burst) - own_burst).max(0.0),
            answer_us: None,
            rate: learned.unwrap_or(ceiling).clamp(declared * FLOOR, ceiling),
            tokens: 0.0,
            refilled_us: now_us,
            fell_us: None,
        }
    }

    /// The learned rate in calls a second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Adds what has come in until now.
    pub fn refill(&mut self, now_us: u64) {
        let passed = now_us.saturating_sub(self.refilled_us) as f64 / 1e6;
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        self.refilled_us = now_us;
    }

    /// Takes a token, if there is a whole one.
    pub fn take(&mut self) -> bool {
        let whole = self.tokens >= 1.0;
        if whole {
            self.tokens -= 1.0;
        }
        whole
    }

    /// An answer came, this long after its call was handed out.
    pub fn answered(&mut self, took_us: u64) {
        let took_us = took_us as f64;
        let mean = self.answer_us.get_or_insert(took_us);
        *mean += (took_us - *mean) * MEAN_SHARE;
    }

    /// Calls under way, at most. On their way they may be held up and then arrive all at once: as
    /// many as the API's burst are taken nevertheless, when ours is kept for those that follow.
    pub fn under_way_max(&self) -> usize {
        let needed = |answer_us: f64| self.rate * answer_us / 1e6 * UNDER_WAY;
        self.answer_us.map_or(usize::MAX, |us| (self.spare + needed(us)).ceil().max(1.0) as usize)
    }

    /// When to look for the next whole token; `None` when there will never be one.
    pub fn next_token_us(&self) -> Option<u64> {
        let missing = (1.0 - self.tokens).max(0.0);
        let wait_us = (missing / self.rate * 1e6).ceil().min(LOOK_AGAIN_US);
        (self.rate > 0.0).then(|| self.refilled_us.saturating_add(wait_us as u64))
    }

    /// The API refused for pace: fall once a window, and start over with an empty bucket.
    pub fn refused(&mut self, now_us: u64) {
        if self.fell_us.is_none_or(|fell| now_us >= fell + WINDOW_US) {
            self.fell_us = Some(now_us);
            self.rate = (self.rate * FALL).max(self.declared * FLOOR);
            self.tokens = 0.0;
        }
    }

    /// The API took a call.
    pub fn accepted(&mut self) {
        let ceiling = self.declared * HEADROOM;
        self.rate = (self.rate + self.declared * RECOVERY).min(ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(pace: &mut Pace, from_us: u64, to_us: u64) -> usize {
        let mut calls = 0;
        for us in (from_us..to_us).step_by(1_000) {
            pace.refill(us);
            while pace.take() {
                calls += 1;
            }
        }
        calls
    }

    #[test]
    fn never_faster_than_declared_and_a_new_life_starts_empty() {
        let mut pace = Pace::new(5.0, 5, None, 0);
        assert!(!pace.take());
        let made = calls(&mut pace, 0, 10_000_000);
        assert!((46..=50).contains(&made), "{made}");
    }

    #[test]
    fn as_many_calls_are_under_way_as_answers_take_time_and_the_api_has_burst() {
        let mut pace = Pace::new(400.0, 5, None, 0);
        assert_eq!(pace.under_way_max(), usize::MAX, "nothing is known yet");
        pace.answered(2_000);
        // 388 a second for 2 ms, a quarter more, and 3 of the burst of 5.
        assert_eq!(pace.under_way_max(), 4);
        (0..500).for_each(|_| pace.answered(1_000_000));
        assert!((480..=490).contains(&pace.under_way_max()), "{}", pace.under_way_max());
        let mut slow = Pace::new(5.0, 1, None, 0);
        slow.answered(1_000);
        assert_eq!(slow.under_way_max(), 1);
    }

    #[test]
    fn a_rate_of_0_is_no_call_and_is_never_due() {
        for declared in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut pace = Pace::new(declared, 5, Some(3.0), 0);
            assert_eq!(calls(&mut pace, 0, 10_000), 0);
            assert_eq!(pace.next_token_us(), None);
        }
        let mut slow = Pace::new(1e-300, 5, None, 0);
        slow.refill(7);
        assert_eq!(slow.next_token_us(), Some(7 + LOOK_AGAIN_US as u64));
    }

    #[test]
    fn a_refusal_lowers_the_rate_once_a_window_and_success_brings_it_back() {
        let mut pace = Pace::new(100.0, 5, None, 0);
        pace.refused(10);
        pace.refused(20);
        let fallen = pace.rate();
        assert!((fallen - 100.0 * HEADROOM * FALL).abs() < 1e-9);
        (0..1_000).for_each(|_| pace.accepted());
        assert!((pace.rate() - 100.0 * HEADROOM).abs() < 1e-9);
        let learned = Pace::new(100.0, 5, Some(fallen), 0);
        assert!((learned.rate() - fallen).abs() < 1e-9);
    }
}
