//! A histogram with fixed buckets, for what `/metrics` shows as durations and sizes.
//!
//! Promise: every value counts, in the first bucket whose bound it does not exceed, and memory
//! stays the same however many there are. It deliberately keeps no value, knows no unit and never
//! starts anew: a rate is for who reads it twice.

/// Upper bounds of the buckets: 1, 2, 3, 5, 7 times powers of ten; a last bucket has no bound.
const BOUNDS: [u64; 36] = [
    10,
    20,
    30,
    50,
    70,
    100,
    200,
    300,
    500,
    700,
    1_000,
    2_000,
    3_000,
    5_000,
    7_000,
    10_000,
    20_000,
    30_000,
    50_000,
    70_000,
    100_000,
    200_000,
    300_000,
    500_000,
    700_000,
    1_000_000,
    2_000_000,
    3_000_000,
    5_000_000,
    7_000_000,
    10_000_000,
    20_000_000,
    30_000_000,
    50_000_000,
    70_000_000,
    100_000_000,
];

/// Counts of values in buckets; see the module.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    sum: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: [0; BOUNDS.len() + 1], sum: 0 }
    }
}

impl Histogram {
    /// Counts a value `times` times.
    pub fn record(&mut self, value: u64, times: u64) {
        self.counts[BOUNDS.partition_point(|bound| *bound < value)] += times;
        self.sum += value * times;
    }

    /// Bounds with how many values are at most that, the last one without a bound.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bounds = BOUNDS.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        }))
    }

    /// Sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_every_bucket_whose_bound_it_does_not_exceed() {
        let mut histogram = Histogram::default();
        histogram.record(100, 2);
        histogram.record(101, 1);
        let at = |bound| histogram.cumulative().find(|(b, _)| *b == bound).map(|(_, count)| count);
        assert_eq!(at(Some(70)), Some(0));
        assert_eq!(at(Some(100)), Some(2));
        assert_eq!(at(Some(200)), Some(3));
        assert_eq!((at(None), histogram.sum(), histogram.count()), (Some(3), 301, 3));
    }
}
