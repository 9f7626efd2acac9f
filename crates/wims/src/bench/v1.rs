//! WIMS v1, the article's first design, as a small server inside the benchmark.
//!
//! Article section "WIMS v1"; pattern: synchronous. One request saves the order, reduces the
//! inventory and calls the payments API, each awaited before the next, as `create-order.ts` does,
//! and answers with the payments API's status.
//!
//! Promise: it is as durable as v2 (each of its two writes is on disk before the next step) and
//! no slower than it needs to be: writes that wait for the disk together share one sync.
//! Deliberately absent: retries ("when our Payments API throttles, that error is returned back to
//! the user"), checks of the order and of the stock, recovery, and the original's key that lets
//! an order overwrite another of the same customer and millisecond.

use std::fs::File;
use std::io::{self, Write};
use std::net;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::bench::BenchError;
use crate::domain::{DEFAULT_CURRENCY, DEFAULT_QUANTITY, DEFAULT_SKU, DEFAULT_UNIT_PRICE};

/// As many as v2 has for HTTP.
const WORKER_THREADS: usize = 2;

/// The running server; it stops when dropped.
pub struct V1 {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl V1 {
    /// Starts it on a free port, with its table in `folder`.
    ///
    /// # Errors
    /// When the table, the port or the threads cannot be had.
    pub fn start(folder: &Path, payments_url: &str) -> Result<V1, BenchError> {
        let shop = Shop::open(folder, payments_url).map_err(BenchError::Child)?;
        V1::serve(shop).map_err(BenchError::Child)
    }

    fn serve(shop: Shop) -> io::Result<V1> {
        let listener = net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let runtime =
            Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let job = move || runtime.block_on(serve(listener, shop.router(), stopped));
        let thread = thread::Builder::new().name("bench-v1".to_owned()).spawn(job)?;
        Ok(V1 { url, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for V1 {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Serves until the sender of `stopped` is dropped.
async fn serve(listener: net::TcpListener, router: Router, stopped: oneshot::Receiver<()>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let listener = listener.tap_io(|stream| {
        // Small replies must not wait for each other; a refusal only makes them slower.
        let _ = stream.set_nodelay(true);
    });
    tokio::select! {
        _ = axum::serve(listener, router).into_future() => {}
        _ = stopped => {}
    }
}

/// The body of `POST /orders`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    customer_id: String,
    quantity: i64,
}

/// What the functions of v1 share.
struct Shop {
    inventory: AtomicI64,
    table: Sender<Entry>,
    client: reqwest::Client,
    payments_url: String,
}

impl Shop {
    fn open(folder: &Path, payments_url: &str) -> io::Result<Shop> {
        let client = reqwest::Client::builder().no_proxy().build().map_err(io::Error::other)?;
        Ok(Shop {
            inventory: AtomicI64::new(DEFAULT_QUANTITY),
            table: open_table(&folder.join("v1-table.jsonl"))?,
            client,
            payments_url: format!("{payments_url}/payments"),
        })
    }

    fn router(self) -> Router {
        Router::new()
            .route("/orders", post(create_order))
            .route("/inventory", get(get_inventory))
            .with_state(Arc::new(self))
    }

    /// Save the order, reduce the inventory, pay: the payments API's status, or nothing when a
    /// step failed.
    async fn create_order(&self, order: &Order) -> Option<StatusCode> {
        let order_id = format!("{:032x}", fastrand::u128(..));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.put(json!({
            "pk": format!("CUSTOMER#{}", order.customer_id),
            "sk": format!("TIMESTAMP#{}#{order_id}", since.as_millis()),
            "customerId": order.customer_id,
            "quantity": order.quantity,
            "status": "PENDING",
        }))
        .await?;
        let before = self.inventory.fetch_sub(order.quantity, Ordering::Relaxed);
        let quantity = before - order.quantity;
        let (pk, sk) = (DEFAULT_SKU.pk(), DEFAULT_SKU.sk());
        self.put(json!({"pk": pk, "sk": sk, "quantity": quantity})).await?;
        self.pay(&order_id, order).await
    }

    /// An item on disk, or nothing.
    async fn put(&self, item: Value) -> Option<()> {
        let (on_disk, told) = oneshot::channel();
        self.table.send(Entry { line: format!("{item}\n"), on_disk }).ok()?;
        told.await.ok()
    }

    async fn pay(&self, order_id: &str, order: &Order) -> Option<StatusCode> {
        let payment = json!({
            "orderId": order_id,
            "customerId": order.customer_id,
            "amount": order.quantity * DEFAULT_UNIT_PRICE,
            "currency": DEFAULT_CURRENCY,
            "quantity": order.quantity,
        });
        let call = self.client.post(&self.payments_url).header("idempotency-key", order_id);
        let answer = call.json(&payment).send().await.ok()?;
        let status = answer.status();
        // Read to its end, so that the connection serves again.
        answer.bytes().await.ok()?;
        Some(status)
    }
}

async fn create_order(
    State(shop): State<Arc<Shop>>,
    Json(order): Json<Order>,
) -> (StatusCode, &'static str) {
    let status = shop.create_order(&order).await.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_success() {
        (StatusCode::OK, "Order created!")
    } else {
        (status, "An error has occurred!")
    }
}

async fn get_inventory(State(shop): State<Arc<Shop>>) -> Json<Value> {
    let quantity = shop.inventory.load(Ordering::Relaxed);
    Json(json!({"model": DEFAULT_SKU.model, "productName": "MacGuffin", "quantity": quantity}))
}

/// A line on its way to the disk.
struct Entry {
    line: String,
    on_disk: oneshot::Sender<()>,
}

/// The table: a file that only grows, and the thread that writes it until nobody sends any more.
fn open_table(path: &Path) -> io::Result<Sender<Entry>> {
    let file = File::create_new(path)?;
    let (sender, entries) = mpsc::channel();
    thread::Builder::new()
        .name("bench-v1-table".to_owned())
        .spawn(move || write_entries(file, &entries))?;
    Ok(sender)
}

/// Writes what waits together and syncs it once. After a failure nothing is accepted any more:
/// the senders learn it from the drop of their entries.
fn write_entries(mut file: File, entries: &Receiver<Entry>) {
    while let Ok(first) = entries.recv() {
        let together: Vec<Entry> = std::iter::once(first).chain(entries.try_iter()).collect();
        let text: String = together.iter().map(|entry| entry.line.as_str()).collect();
        if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.sync_data()) {
            eprintln!("v1: failed to write its table: {error}");
            return;
        }
        for entry in together {
            // A client that left needs no answer.
            let _ = entry.on_disk.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::bench::child::{Scratch, ask};
    use crate::sandbox::{Sandbox, SandboxOptions};

    #[test]
    fn an_order_whose_payment_is_throttled_is_taken_and_answered_with_an_error() {
        let scratch = Scratch::new().unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = SandboxOptions {
            rate_per_second: 0.001,
            burst: 1,
            ledger: scratch.path().join("ledger.jsonl"),
            decline_percent: 0,
            error_percent: 0,
            refund_error_percent: 0,
            delay_ms: 0,
            drop_after_charge_every: 0,
            late_charge_ms: 0,
        };
        let listen = "127.0.0.1:0".parse().unwrap();
        let sandbox = runtime.block_on(Sandbox::bind(listen, options)).unwrap();
        let payments_url = format!("http://{}", sandbox.local_addr());
        runtime.spawn(sandbox.run(pending()));

        let v1 = V1::start(scratch.path(), &payments_url).unwrap();
        let order = r#"{"customerId":"349","quantity":7}"#;
        assert_eq!(ask(v1.url(), "POST", "/orders", order).unwrap(), "Order created!");
        assert_eq!(ask(v1.url(), "POST", "/orders", order).unwrap(), "An error has occurred!");
        let inventory = r#"{"model":"LX","productName":"MacGuffin","quantity":999986}"#;
        assert_eq!(ask(v1.url(), "GET", "/inventory", "").unwrap(), inventory);
        let table = std::fs::read_to_string(scratch.path().join("v1-table.jsonl")).unwrap();
        assert_eq!(table.matches("CUSTOMER#349").count(), 2, "{table}");
        assert_eq!(table.lines().count(), 4, "{table}");
    }
}
