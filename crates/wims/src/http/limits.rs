//! How many requests a second one client may send: a bucket for each, filled at an even rate.
//!
//! Promise: twice the rate at once, the rate in the long run, whoever else asks; and a memory with a
//! bound. It deliberately reads no clock and no request.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Instant;

use crate::http::tokens::TokenHash;

/// So many clients are remembered, in about 20 MB. Past it the one that was idle longest goes
/// first: after two seconds without a request a bucket is full, and forgetting it changes nothing.
const BUCKETS_MAX: usize = 100_000;
/// Seconds of the rate that a full bucket holds.
const BURST_S: f64 = 2.0;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// Who has this token.
    Token(TokenHash),
    /// Who comes from there.
    Address(IpAddr),
}

impl Asker {
    /// Who comes from an address. A network gives a client 2^64 addresses of IPv6 to choose from,
    /// so that they count as one.
    pub fn from_address(address: IpAddr) -> Asker {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Asker::Address(IpAddr::V6(network.into()))
            }
            address @ IpAddr::V4(_) => Asker::Address(address),
        }
    }
}

struct Bucket {
    /// Requests it still allows.
    left: f64,
    /// When that was so.
    at: Instant,
    /// The number of its last use.
    use_number: u64,
}

/// The buckets of all clients.
pub struct Limits {
    per_second: f64,
    buckets: HashMap<Asker, Bucket>,
    /// Their keys by last use, the longest idle first.
    by_use: BTreeMap<u64, Asker>,
    use_count: u64,
}

impl Limits {
    /// Limits of so many requests a second.
    pub fn new(per_second: NonZeroU32) -> Limits {
        Limits {
            per_second: f64::from(per_second.get()),
            buckets: HashMap::new(),
            by_use: BTreeMap::new(),
            use_count: 0,
        }
    }

    /// Counts a request; when it is one too many, the seconds after which to come back.
    ///
    /// # Errors
    /// Those seconds.
    pub fn take(&mut self, asker: Asker, now: Instant) -> Result<(), u64> {
        let burst = self.per_second * BURST_S;
        let left = match self.buckets.remove(&asker) {
            Some(bucket) => {
                self.by_use.remove(&bucket.use_number);
                let idle_s = now.saturating_duration_since(bucket.at).as_secs_f64();
                (bucket.left + idle_s * self.per_second).min(burst)
            }
            None => {
                self.make_room();
                burst
            }
        };
        let is_granted = left >= 1.0;
        let left = if is_granted { left - 1.0 } else { left };
        self.use_count += 1;
        self.by_use.insert(self.use_count, asker);
        self.buckets.insert(asker, Bucket { left, at: now, use_number: self.use_count });
        // At most a second is missing: the rate is at least one.
        if is_granted { Ok(()) } else { Err(1) }
    }

    fn make_room(&mut self) {
        while self.buckets.len() >= BUCKETS_MAX {
            let Some((_, idlest)) = self.by_use.pop_first() else { return };
            self.buckets.remove(&idlest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    fn limits(per_second: u32) -> Limits {
        Limits::new(NonZeroU32::new(per_second).unwrap())
    }

    fn client(number: u32) -> Asker {
        Asker::from_address(Ipv4Addr::from_bits(number).into())
    }

    /// How many of so many requests at once are granted.
    fn granted(limits: &mut Limits, asker: Asker, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| limits.take(asker, now).is_ok()).count()
    }

    #[test]
    fn twice_the_rate_comes_at_once_and_then_the_rate() {
        let (mut limits, start) = (limits(10), Instant::now());
        assert_eq!(granted(&mut limits, client(1), start, 100), 20);
        assert_eq!(limits.take(client(1), start), Err(1));
        assert_eq!(granted(&mut limits, client(1), start + Duration::from_millis(500), 100), 5);
        assert_eq!(granted(&mut limits, client(1), start + Duration::from_secs(60), 100), 20);
    }

    #[test]
    fn one_client_does_not_use_up_what_another_has() {
        let (mut limits, now) = (limits(1), Instant::now());
        assert_eq!(granted(&mut limits, client(1), now, 100), 2);
        assert_eq!(granted(&mut limits, client(2), now, 100), 2);
    }

    #[test]
    fn the_longest_idle_is_forgotten_first_and_there_is_a_bound() {
        let (mut limits, now) = (limits(1), Instant::now());
        assert_eq!(granted(&mut limits, client(0), now, 3), 2);
        assert_eq!(granted(&mut limits, client(1), now, 3), 2);
        for number in 2..u32::try_from(BUCKETS_MAX).unwrap() {
            limits.take(client(number), now).unwrap();
        }
        // The first asks again, so that the second is idle longest when another one comes.
        assert_eq!(limits.take(client(0), now), Err(1));
        limits.take(client(u32::MAX), now).unwrap();
        assert_eq!((limits.buckets.len(), limits.by_use.len()), (BUCKETS_MAX, BUCKETS_MAX));
        assert!(limits.buckets.contains_key(&client(0)));
        assert!(!limits.buckets.contains_key(&client(1)));
    }

    #[test]
    fn the_addresses_of_one_network_are_one_client() {
        let v6 = |text: &str| Asker::from_address(text.parse::<Ipv6Addr>().unwrap().into());
        assert!(v6("2001:db8::1") == v6("2001:db8::ffff:0:0:2"));
        assert!(v6("2001:db8::1") != v6("2001:db8:0:1::1"));
        // IPv4 told as IPv6 is IPv4, and no network of it.
        assert!(v6("::ffff:192.0.2.1") == Asker::from_address(Ipv4Addr::new(192, 0, 2, 1).into()));
        assert!(v6("::ffff:192.0.2.1") != v6("::ffff:192.0.2.2"));
    }
}
