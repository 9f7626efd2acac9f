//! PaymentsApi: "representing our troublesome payments system".
//!
//! Article section "Refactoring CDK". It is somebody else's; we only declare that it is there and
//! what it can take. The sandbox that stands in for it is `sandbox.rs`.

use wims_stack::{ApiRef, Stack};

/// What the payments API can take.
#[derive(Clone, Debug, PartialEq)]
pub struct PaymentsPace {
    /// Calls a second.
    pub rate_per_second: f64,
    /// Calls at once.
    pub burst: u32,
    /// Calls under way.
    pub in_flight_max: usize,
    /// A call that takes longer has an unknown outcome.
    pub timeout_ms: u64,
}

/// The part of the rate that is kept for refunds, which are few. The API counts both alike, so it is
/// taken off what payments may use.
const REFUND_SHARE: f64 = 0.04;

impl PaymentsPace {
    /// Payments a second.
    pub fn payments_per_second(&self) -> f64 {
        self.rate_per_second * (1.0 - REFUND_SHARE)
    }

    /// Refunds a second.
    pub fn refunds_per_second(&self) -> f64 {
        self.rate_per_second * REFUND_SHARE
    }
}

impl Default for PaymentsPace {
    /// The article's `throttlingRateLimit: 5, throttlingBurstLimit: 5`.
    fn default() -> PaymentsPace {
        PaymentsPace { rate_per_second: 5.0, burst: 5, in_flight_max: 64, timeout_ms: 10_000 }
    }
}

/// The construct.
pub struct PaymentsApi {
    /// The API.
    pub api: ApiRef,
    /// What it can take.
    pub pace: PaymentsPace,
}

/// Name of the API; its address is a setting of the machine, not of the stack.
pub const PAYMENTS_API: &str = "PaymentsApi";

impl PaymentsApi {
    /// Declares that the API is there.
    pub fn new(stack: &mut Stack, pace: PaymentsPace) -> PaymentsApi {
        let api = ApiRef::new(PAYMENTS_API);
        stack.apis.push(api.clone());
        PaymentsApi { api, pace }
    }
}
