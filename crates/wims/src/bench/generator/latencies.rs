//! Latencies as a log-linear histogram: each power of two is cut into 64 buckets of equal width.
//!
//! Promise: a percentile is never understated, it is exact below 128 us and above that at most
//! 1/64 too long; memory does not grow with what is recorded.
//! It deliberately keeps no single latency and no mean, which hides what a percentile shows.

use std::time::Duration;

/// Buckets a power of two.
const STEPS: u64 = 64;
/// Longer latencies, beyond an hour, are recorded as this one.
const LATENCY_US_MAX: u64 = u32::MAX as u64;
const BUCKETS: usize = bucket(LATENCY_US_MAX) + 1;

/// How long requests took, as counts in buckets.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: Box<[u64]>,
    count: u64,
    max_us: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0, max_us: 0 }
    }
}

impl Latencies {
    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        let us = latency.as_micros().min(u128::from(LATENCY_US_MAX)) as u64;
        self.counts[bucket(us)] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    /// The latency that `p` percent (0 to 100) of those recorded do not exceed; zero if none is.
    pub fn percentile(&self, p: f64) -> Duration {
        let rank = ((p * self.count as f64 / 100.0).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0_u64;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(longest_us(index).min(self.max_us));
            }
        }
        Duration::ZERO
    }
}

/// The bucket of a latency: 64 of width 1 us, again 64 of width 1 us, 64 of 2 us, 64 of 4 us ...
const fn bucket(us: u64) -> usize {
    let shift = (us | STEPS).ilog2() - STEPS.ilog2();
    (shift as u64 * STEPS + (us >> shift)) as usize
}

/// The longest latency that falls into a bucket.
fn longest_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    ((bucket - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_below_128_us_are_exact() {
        let mut latencies = Latencies::default();
        for us in 1..=100 {
            latencies.record(Duration::from_micros(us));
        }
        for us in [1, 50, 99, 100] {
            assert_eq!(latencies.percentile(us as f64), Duration::from_micros(us));
        }
        assert_eq!(latencies.percentile(0.0), Duration::from_micros(1));
    }

    #[test]
    fn a_percentile_is_never_understated_and_at_most_a_64th_too_long() {
        for us in (0..40).map(|power| 3_u64.pow(power / 2) + u64::from(power)) {
            let mut latencies = Latencies::default();
            latencies.record(Duration::from_micros(us));
            latencies.record(Duration::from_secs(100_000));
            let half = latencies.percentile(50.0).as_micros() as u64;
            let us = us.min(LATENCY_US_MAX);
            assert!((us..=us + us / STEPS).contains(&half), "{us} us became {half} us");
        }
    }

    #[test]
    fn nothing_recorded_has_percentiles_of_zero() {
        assert_eq!(Latencies::default().percentile(99.0), Duration::ZERO);
    }
}
