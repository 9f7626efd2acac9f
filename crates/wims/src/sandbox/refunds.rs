//! Refunds of the payments sandbox: what was charged is given back, once.
//!
//! Promise: a refund is an entry of the ledger like a charge, on disk before it is told to anyone;
//! asked for again, it is answered again. A key that was never charged has nothing to give back.

use std::sync::Arc;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::time::Instant;

use super::ledger::Known;
use super::{
    JSON, Outcome, Payment, PaymentsApi, Refusal, answer, happens, pause_until, percent_decoded,
    read,
};

impl PaymentsApi {
    /// `POST /payments/{key}/refund`: throttled with the payments, for the rate is the API's. Its
    /// body says nothing that the key does not.
    pub(super) async fn refund(
        self: &Arc<Self>,
        path_key: String,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let arrived = Instant::now();
        let body = read(request.into_body()).await;
        self.admit_refund()?;
        body?;
        let slot = Arc::clone(&self.calls).try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let api = Arc::clone(self);
        // In a task of its own, as a payment is settled.
        let refunded = tokio::spawn(async move {
            let _slot = slot;
            api.settle_refund(&path_key, arrived).await
        });
        refunded.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }

    async fn settle_refund(
        &self,
        path_key: &str,
        arrived: Instant,
    ) -> Result<Response<Body>, Refusal> {
        pause_until(arrived, self.options.delay_ms).await;
        if happens(self.options.refund_error_percent) {
            return Err(Refusal::Injected);
        }
        let known = self.decide_refund(path_key)?;
        let payment = self.synced(known).await?;
        Ok(answer(StatusCode::OK, JSON, &*payment))
    }

    /// Refunds once per key; looking, handing to the ledger and remembering happen under one lock.
    fn decide_refund(&self, path_key: &str) -> Result<Known, Refusal> {
        let not_charged = || Refusal::NotCharged(path_key.to_owned());
        let key = percent_decoded(path_key).ok_or_else(not_charged)?;
        let mut state = self.state();
        let known = state.payments.get(&key).cloned().ok_or_else(not_charged)?;
        if known.payment.is_refunded() {
            return Ok(known);
        }
        let Some(refunded) = known.payment.refunded() else {
            return Err(Refusal::NothingToRefund(key));
        };
        let refunded = Arc::new(refunded);
        self.ledger.append(&refunded)?;
        Ok(state.remember(refunded))
    }

    fn admit_refund(&self) -> Result<(), Refusal> {
        let mut state = self.state();
        let admitted = state.bucket.take(Instant::now());
        state.counters.throttled += u64::from(admitted.is_err());
        admitted.map_err(|retry_after_s| Refusal::Throttled { retry_after_s })
    }
}

impl Payment {
    /// It, refunded; `None` when it was not charged.
    fn refunded(&self) -> Option<Payment> {
        match &self.outcome {
            Outcome::Paid { payment_id } | Outcome::Refunded { payment_id } => {
                Some(self.with(Outcome::Refunded { payment_id: payment_id.clone() }))
            }
            Outcome::Declined { .. } => None,
        }
    }

    /// What it was until its refund, which is on its way to the disk.
    pub(super) fn before_refund(&self) -> Payment {
        match &self.outcome {
            Outcome::Paid { payment_id } | Outcome::Refunded { payment_id } => {
                self.with(Outcome::Paid { payment_id: payment_id.clone() })
            }
            Outcome::Declined { .. } => self.clone(),
        }
    }

    fn with(&self, outcome: Outcome) -> Payment {
        Payment { outcome, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::SandboxOptions;
    use super::super::tests::{Folder, Running};

    #[tokio::test]
    async fn a_charge_is_refunded_once_and_a_restart_knows_it() {
        let folder = Folder::new();
        let first = Running::start(folder.options()).await;
        assert_eq!(first.refund("k1").await.status, 404, "it was not charged");
        let paid = first.pay("k1", "order-1").await;
        let refunded = first.refund("k1").await;
        assert_eq!((refunded.status, &refunded.body["status"]), (200, &json!("REFUNDED")));
        assert_eq!(first.refund("k1").await.body, refunded.body);
        assert_eq!(first.get("/payments/k1").await.body["status"], "REFUNDED");
        assert_eq!(
            first.pay("k1", "order-1").await.body,
            paid.body,
            "it is charged no second time"
        );
        first.stop().await;
        let second = Running::start(folder.options()).await;
        assert_eq!(second.get("/payments/k1").await.body["status"], "REFUNDED");
        let stats = second.get("/stats").await.body;
        assert_eq!((&stats["charges"], &stats["refunds"]), (&json!(1), &json!(1)), "{stats}");
        second.stop().await;
    }

    #[tokio::test]
    async fn a_declined_payment_has_nothing_to_refund() {
        let folder = Folder::new();
        let options = SandboxOptions { decline_percent: 100, ..folder.options() };
        let sandbox = Running::start(options).await;
        assert_eq!(sandbox.pay("k1", "order-1").await.status, 402);
        assert_eq!(sandbox.refund("k1").await.status, 422);
        sandbox.stop().await;
    }

    #[tokio::test]
    async fn a_refund_that_fails_gives_nothing_back() {
        let folder = Folder::new();
        let options = SandboxOptions { refund_error_percent: 100, ..folder.options() };
        let sandbox = Running::start(options).await;
        assert_eq!(sandbox.pay("k1", "order-1").await.status, 200);
        assert_eq!(sandbox.refund("k1").await.status, 500);
        assert_eq!(sandbox.get("/payments/k1").await.body["status"], "PAID");
        sandbox.stop().await;
    }
}
