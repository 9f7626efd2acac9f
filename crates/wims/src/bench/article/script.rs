//! The article's `benchmark.mjs`: orders placed one after the other or some at once, and the
//! inventory looked at before, right after and half a second later.
//!
//! Promise: the timer runs from the first order to the first look at the inventory, as in the
//! original, and equal scripts place equal orders. The original awaits every request inside the
//! loop that should start ten, so as published it is serial; `in_flight` is what it says instead.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::bench::BenchError;
use crate::bench::child::ask;

/// Customers of the original: `Math.floor(Math.random() * 1000)`.
const CUSTOMERS: u32 = 1_000;
/// Any number would do; all runs place the same orders.
const SEED: u64 = 349;
/// The original's second look at the inventory.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// The limit of the article's gateway.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(29);
/// Counted as the status of a request that got no answer.
const STATUS_UNANSWERED: u16 = 0;

/// How many orders, how many at once.
pub struct Script {
    /// Orders in all.
    pub orders: u32,
    /// Orders started together; the next start once all of them are answered.
    pub in_flight: u32,
}

/// What the original prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Played {
    /// When the first order was sent.
    #[serde(skip)]
    pub started: Instant,
    /// From the first order to the first look at the inventory.
    pub elapsed_ms: f64,
    /// Answers by status; 0 is a request without one.
    pub status_counts: BTreeMap<u16, u32>,
    /// Units before the first order.
    pub starting_inventory: i64,
    /// Units right after the last answer.
    pub inventory_at_next_tick: i64,
    /// Units half a second later.
    pub inventory_after_500_ms: i64,
    /// Units of all orders sent.
    pub sales_total: i64,
}

/// An order as it is sent.
struct Order {
    body: String,
    quantity: i64,
}

impl Script {
    /// Plays it against the server at `url`.
    ///
    /// # Errors
    /// When the server does not tell its inventory.
    pub async fn play(&self, url: &str) -> Result<Played, BenchError> {
        let client = Client::builder().no_proxy().timeout(ANSWER_WAIT_MAX).build();
        let client = client.map_err(|error| BenchError::Child(io::Error::other(error)))?;
        let orders = self.orders();
        let orders_url = format!("{url}/orders");
        let starting_inventory = inventory(url)?;
        let started = Instant::now();
        let mut status_counts: BTreeMap<u16, u32> = BTreeMap::new();
        for together in orders.chunks(self.in_flight as usize) {
            for status in place_all(&client, &orders_url, together).await {
                *status_counts.entry(status).or_default() += 1;
            }
        }
        let inventory_at_next_tick = inventory(url)?;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1_000.0;
        tokio::time::sleep(SECOND_LOOK).await;
        Ok(Played {
            started,
            elapsed_ms,
            status_counts,
            starting_inventory,
            inventory_at_next_tick,
            inventory_after_500_ms: inventory(url)?,
            sales_total: orders.iter().map(|order| order.quantity).sum(),
        })
    }

    fn orders(&self) -> Vec<Order> {
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut order = || {
            let (customer, quantity) = (random.u32(..CUSTOMERS).to_string(), random.i64(1..=10));
            let body = json!({"customerId": customer, "quantity": quantity}).to_string();
            Order { body, quantity }
        };
        (0..self.orders).map(|_| order()).collect()
    }
}

/// Places some orders at once; their statuses once all are answered.
async fn place_all(client: &Client, url: &str, orders: &[Order]) -> Vec<u16> {
    let mut requests = JoinSet::new();
    for order in orders {
        requests.spawn(place(client.clone(), url.to_owned(), order.body.clone()));
    }
    requests.join_all().await
}

async fn place(client: Client, url: String, order: String) -> u16 {
    let request = client.post(url).header(CONTENT_TYPE, "application/json").body(order);
    let Ok(response) = request.send().await else { return STATUS_UNANSWERED };
    let status = response.status().as_u16();
    // Read to its end, so that the connection serves again; what it says is not looked at.
    let _ = response.bytes().await;
    status
}

fn inventory(url: &str) -> Result<i64, BenchError> {
    let text = ask(url, "GET", "/inventory", "")?;
    let item: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    item["quantity"]
        .as_i64()
        .ok_or_else(|| BenchError::Reconcile(format!("GET /inventory told no quantity: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scripts_place_equal_small_orders() {
        let bodies = |in_flight| {
            let orders = Script { orders: 100, in_flight }.orders();
            assert!(orders.iter().all(|order| (1..=10).contains(&order.quantity)));
            orders.into_iter().map(|order| order.body).collect::<Vec<_>>()
        };
        assert_eq!(bodies(1), bodies(10));
        assert_eq!(bodies(1).len(), 100);
        assert!(bodies(1)[0].starts_with(r#"{"customerId":""#), "{}", bodies(1)[0]);
    }
}
