//! The denominator of the benchmark: a bare axum server whose `POST /orders` does nothing.
//!
//! Promise: it pays for what every order pays (HTTP, a parsed body, a reply of the real size) on
//! two worker threads, and for nothing else, so the ratio to it is the price of the work behind.
//! It deliberately has no middleware, no state, no limits and no journal, and it listens the way
//! axum listens by default. The same behind our own accept loops and strict parser, which shows
//! what these cost, is [`run_own`].

use std::io::{self, Write};
use std::net::SocketAddr;
use std::thread;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};

use crate::http::orders;
use crate::http::server::{self, CONNECTIONS_MAX, Door, Entrance, Routes};
use crate::http::tokens::Holder;

/// As many as the machine has cores on which the published figures were measured.
const WORKER_THREADS: usize = 2;
/// About as long as the reply to a real order.
const REPLY: &str = concat!(
    r#"{"message":"Order created!","#,
    r#""orderId":"01890a5d-ac96-774b-bcce-b302099a8057","#,
    r#""status":"PENDING"}"#
);

/// The body of an order, as the real route reads it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    customer_id: String,
    quantity: u32,
}

/// Runs the server in a runtime of its own until it is killed or its standard input closes.
///
/// The first line on standard output says where it listens, so a parent may pass port 0.
///
/// # Errors
/// When the runtime cannot start, the address cannot be bound or the line cannot be written.
pub fn run(listen: SocketAddr) -> io::Result<()> {
    let runtime =
        Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        announce(listener.local_addr()?)?;
        let stdin_closed = watch_stdin()?;
        tokio::select! {
            served = serve(listener) => served,
            _ = stdin_closed => Ok(()),
        }
    })
}

/// Does so with the accept loops and the parser of `serve`.
///
/// # Errors
/// When a thread cannot start, the address cannot be bound or the line cannot be written.
pub fn run_own(listen: SocketAddr) -> io::Result<()> {
    let (_stop, stopped) = watch::channel(None);
    let doors: io::Result<Vec<Door>> = (0..WORKER_THREADS)
        .map(|number| {
            let name = format!("noop-{number}");
            let (stop, open) = (stopped.clone(), Entrance::default());
            server::spawn(name, stop, open, CONNECTIONS_MAX, || Own).map(|(door, _)| door)
        })
        .collect();
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    announce(listener.local_addr()?)?;
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stdin_closed = watch_stdin()?;
        tokio::select! {
            () = server::accept(listener, doors?, stopped) => {}
            _ = stdin_closed => {}
        }
        Ok(())
    })
}

/// Reads an order as `serve` does, and does nothing.
#[derive(Clone)]
struct Own;

impl Routes for Own {
    fn router(self) -> Router {
        Router::new()
    }

    async fn take_order(
        &self,
        headers: &HeaderMap,
        _holder: Option<&Holder>,
        body: Body,
    ) -> Response {
        match orders::read_order(headers, body).await {
            Ok(arguments) => {
                std::hint::black_box(&arguments);
                ([(CONTENT_TYPE, "application/json")], REPLY).into_response()
            }
            Err(problem) => problem.into_response(),
        }
    }
}

/// Answers every order that arrives at the listener with the same reply, until it is dropped.
///
/// # Errors
/// None in practice: axum meets trouble with one connection by going on with the others.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    axum::serve(listener, Router::new().route("/orders", post(create_order))).await
}

async fn create_order(Json(order): Json<Order>) -> impl IntoResponse {
    // Without a reader of its fields the optimiser might leave out the parsing we compare with.
    std::hint::black_box((&order.customer_id, order.quantity));
    ([(CONTENT_TYPE, "application/json")], REPLY)
}

fn announce(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on http://{address}")?;
    stdout.flush()
}

/// Resolves when standard input closes: a server never outlives the benchmark that started it.
///
/// The thread is left behind in its read, which ends with the program.
fn watch_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (open, closed) = oneshot::channel();
    thread::Builder::new().name("noop-stdin".to_owned()).spawn(move || {
        // An input that cannot be read is as good as closed, so the result does not matter.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(open);
    })?;
    Ok(closed)
}
