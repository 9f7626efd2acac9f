//! The walk over open orders for `wims_orders_stuck`: which wait for something that is not there.
//!
//! Promise: a scrape of `/metrics` looks at a bounded number of orders, a few hundred a step of the
//! engine, and the next goes on behind them; the figure is that of the last walk that saw all, or
//! of the one under way if it has found more. Each stuck order is told once a walk in our own log.
//! It deliberately mends nothing.

use std::sync::Mutex;

use wims_runtime::driver::locked;
use wims_runtime::io::{Answer, Query};
use wims_runtime::stuck::{Look, Stuck};

use crate::domain::{OrderStatus, TABLE};
use crate::fns::waits::WAITS;
use crate::http::problem::Problem;
use crate::http::{App, odd};

/// Orders of one look: while the engine looks it does nothing else.
const ORDERS_A_LOOK: usize = 500;
/// Looks of a scrape.
const LOOKS: usize = 10;
/// Before this sequence come all.
const NEWEST: u64 = u64::MAX;

/// What is known of stuck orders.
#[derive(Default)]
pub struct StuckOrders {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Stuck orders that the last whole walk found.
    last: usize,
    /// How far the one under way has come.
    walk: Walk,
}

/// A walk over all statuses, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Walk {
    /// Index into [`OrderStatus::ALL`].
    status: usize,
    before: u64,
    found: usize,
}

impl Default for Walk {
    fn default() -> Walk {
        Walk { status: 0, before: NEWEST, found: 0 }
    }
}

impl Walk {
    /// Takes what a look found, and goes on behind it.
    fn take(&mut self, stuck: &Stuck) {
        self.found += stuck.stuck.len();
        match stuck.next {
            Some(next) => self.before = next,
            None => (self.status, self.before) = (self.status + 1, NEWEST),
        }
    }
}

impl Known {
    /// A scrape has walked from there to here; of two that did so at once, one counts.
    fn walked(&mut self, begun: Walk, walk: Walk) {
        if self.walk != begun {
            return;
        }
        if walk.status < OrderStatus::ALL.len() {
            self.walk = walk;
        } else {
            (self.last, self.walk) = (walk.found, Walk::default());
        }
    }

    fn figure(&self) -> usize {
        self.last.max(self.walk.found)
    }
}

/// Walks on, and how many orders are stuck as far as is known.
///
/// # Errors
/// When the engine cannot be asked; the walk goes on from there another time.
pub async fn count(app: &App) -> Result<usize, Problem> {
    let begun = locked(&app.stuck.known).walk;
    let (mut walk, mut looked) = (begun, Ok(()));
    for _ in 0..LOOKS {
        let Some(status) = OrderStatus::ALL.get(walk.status) else { break };
        match look(app, *status, walk.before).await {
            Ok(stuck) => walk.take(&stuck),
            Err(problem) => {
                looked = Err(problem);
                break;
            }
        }
    }
    let mut known = locked(&app.stuck.known);
    known.walked(begun, walk);
    looked.map(|()| known.figure())
}

async fn look(app: &App, status: OrderStatus, before: u64) -> Result<Stuck, Problem> {
    let (attribute, value, limit) = ("status", status.as_str(), ORDERS_A_LOOK);
    let look = Look { table: TABLE, attribute, value, before, limit, waits: WAITS };
    let Answer::Stuck(stuck) = app.query(Query::Stuck(Box::new(look))).await? else {
        return Err(odd());
    };
    for order in &stuck.stuck {
        tracing::warn!(%order, "an order waits for something that is not there");
    }
    Ok(*stuck)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stuck: &[&str], next: Option<u64>) -> Stuck {
        Stuck { stuck: stuck.iter().map(ToString::to_string).collect(), untold: 0, next }
    }

    #[test]
    fn a_walk_goes_on_scrape_by_scrape_and_is_told_when_it_saw_all() {
        let mut known = Known::default();
        let (begun, mut walk) = (known.walk, known.walk);
        walk.take(&found(&["a"], Some(7)));
        known.walked(begun, walk);
        known.walked(begun, walk);
        assert_eq!((known.last, known.figure()), (0, 1), "one of two at once counts");
        let begun = known.walk;
        assert_eq!((begun.status, begun.before, begun.found), (0, 7, 1));
        OrderStatus::ALL.iter().for_each(|_| walk.take(&found(&[], None)));
        known.walked(begun, walk);
        assert_eq!((known.last, known.figure()), (1, 1));
        let (begun, mut walk) = (known.walk, known.walk);
        assert_eq!(begun, Walk::default(), "it begins anew");
        OrderStatus::ALL.iter().for_each(|_| walk.take(&found(&[], None)));
        known.walked(begun, walk);
        assert_eq!(known.figure(), 0, "it was mended");
    }
}
