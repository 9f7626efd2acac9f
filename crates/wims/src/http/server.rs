//! The HTTP server: one single-threaded runtime a thread, each with its own connections.
//!
//! Promise: connections are spread evenly, and a stop finishes requests under way. It
//! deliberately shares nothing between its threads but the guard at the entrance; one task accepts
//! for all of them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use wims_runtime::driver::locked;

use crate::http::auth::Guard;
use crate::http::patience::Patient;
use crate::http::tokens::Holder;
use crate::http::{App, orders, tls};

/// A client that is silent this long between requests is let go.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// A client that reads nothing of its answer for so long is let go.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a request's head, at most.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Between two beats of a thread's own timer.
const BEAT: Duration = Duration::from_secs(1);
/// The last answer of a connection has this long to leave.
const FLUSH_TIME: Duration = Duration::from_millis(50);
/// Connections of one thread, at most; more wait in the listen queue.
pub const CONNECTIONS_MAX: usize = 16_384;

/// What is served.
pub trait Routes: Clone + Send + Sync + 'static {
    /// All routes.
    fn router(self) -> Router;

    /// Answers `POST /orders`, the one hot route, which goes past the router.
    fn take_order(
        &self,
        headers: &HeaderMap,
        holder: Option<&Holder>,
        body: Body,
    ) -> impl Future<Output = Response> + Send;
}

impl Routes for App {
    fn router(self) -> Router {
        App::router(self)
    }

    async fn take_order(
        &self,
        headers: &HeaderMap,
        holder: Option<&Holder>,
        body: Body,
    ) -> Response {
        orders::take(self, headers, holder, body).await.into_response()
    }
}

/// Says that the server stops, and by when it must have.
pub type Stop = watch::Receiver<Option<Instant>>;

/// What a request passes before its route; by default it is open.
#[derive(Clone, Default)]
pub struct Entrance {
    /// Who looks at tokens and counts requests.
    pub guard: Option<Arc<Guard>>,
    /// Connections are encrypted by this.
    pub tls: Option<TlsAcceptor>,
}

/// A connection on its way to the thread that will serve it, and whose it is.
type Arrival = (std::net::TcpStream, IpAddr, OwnedSemaphorePermit);

/// The way to one serving thread.
pub struct Door {
    arrivals: UnboundedSender<Arrival>,
    slots: Arc<Semaphore>,
}

/// Starts a thread that serves the connections handed through its door until `stop` says so and
/// the door is closed, so many at once at most, each request after it has passed the entrance;
/// `make` makes what is served inside the thread's runtime.
///
/// # Errors
/// When thread or runtime cannot be made.
pub fn spawn<R: Routes>(
    name: String,
    stop: Stop,
    entrance: Entrance,
    connections_max: usize,
    make: impl FnOnce() -> R + Send + 'static,
) -> std::io::Result<(Door, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (arrivals, arrived) = unbounded_channel();
    let slots = Arc::new(Semaphore::new(connections_max));
    let all = u32::try_from(connections_max).expect("a small number");
    let door = Door { arrivals, slots: slots.clone() };
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        runtime.block_on(serve(arrived, (slots, all), stop, entrance, make));
    })?;
    Ok((door, thread))
}

/// Accepts connections until `stop` says so, each for the thread that has the fewest.
pub async fn accept(listener: TcpListener, doors: Vec<Door>, mut stop: Stop) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let open = doors.iter().filter(|door| !door.arrivals.is_closed());
        let emptiest = open.max_by_key(|door| door.slots.available_permits());
        let Some(door) = emptiest else { return };
        let slot = tokio::select! {
            slot = door.slots.clone().acquire_owned() => slot,
            _ = stop.wait_for(Option::is_some) => return,
        };
        let Ok(slot) = slot else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(Option::is_some) => return,
        };
        let accepted = accepted.and_then(|(stream, from)| Ok((stream.into_std()?, from.ip())));
        let Ok((stream, client)) = accepted else {
            // Out of file descriptors: let some connections end first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Small replies must not wait for each other.
        let _ = stream.set_nodelay(true);
        // A thread that is gone is stopping, and its clients with it.
        drop(door.arrivals.send((stream, client, slot)));
    }
}

async fn serve<R: Routes>(
    mut arrived: UnboundedReceiver<Arrival>,
    (slots, all): (Arc<Semaphore>, u32),
    stop: Stop,
    entrance: Entrance,
    make: impl FnOnce() -> R,
) {
    let app = make();
    let router = app.clone().router();
    // hyper sets a timer for every head it waits for. One that is earlier than all others makes
    // tokio wake its own thread, a system call each time; this timer is earlier than those.
    tokio::spawn(async {
        loop {
            tokio::time::sleep(BEAT).await;
        }
    });
    let app = Arc::new(app);
    let open = Arc::new(Mutex::new(HashMap::new()));
    let mut number = 0_u64;
    while let Some((stream, client, slot)) = arrived.recv().await {
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { continue };
        let stream = Patient::new(stream, WRITE_PATIENCE);
        number += 1;
        let (stopper, mut stop) = oneshot::channel();
        locked(&open).insert(number, stopper);
        let (app, router, open) = (app.clone(), router.clone(), open.clone());
        let client = (client, entrance.guard.clone());
        let ended = move || {
            locked(&open).remove(&number);
            drop(slot);
        };
        // Two tasks, so that one without TLS is as small as it can be.
        match entrance.tls.clone() {
            None => tokio::spawn(async move {
                connection(stream, client, app, router, stop).await;
                ended();
            }),
            Some(acceptor) => tokio::spawn(async move {
                if let Some(stream) = tls::shake_hands(&acceptor, stream, &mut stop).await {
                    connection(stream, client, app, router, stop).await;
                }
                ended();
            }),
        };
    }
    // The door is closed. Each connection has a signal of its own: one for all would be locked by
    // every request.
    for (_, stopper) in locked(&open).drain() {
        let _ = stopper.send(());
    }
    // All slots are back once the last connection has ended.
    let ended = slots.acquire_many(all);
    let deadline = *stop.borrow();
    let deadline = deadline.unwrap_or_else(Instant::now);
    let _ = tokio::time::timeout_at(deadline.into(), ended).await;
}

/// A request under way on a connection.
struct UnderWay(Arc<AtomicU32>);

impl UnderWay {
    fn begin(count: &Arc<AtomicU32>) -> UnderWay {
        count.fetch_add(1, Ordering::Relaxed);
        UnderWay(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection; `client` is where it comes from, and who looks at its requests.
async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    (client, guard): (IpAddr, Option<Arc<Guard>>),
    app: Arc<impl Routes>,
    router: Router,
    stop: oneshot::Receiver<()>,
) {
    let router = TowerToHyperService::new(router);
    let under_way = Arc::new(AtomicU32::new(0));
    let counted = under_way.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let counted = UnderWay::begin(&counted);
        let admitted = guard.as_ref().map_or(Ok(None), |guard| {
            guard.admit(request.method(), request.uri().path(), request.headers(), client)
        });
        let is_create = request.method() == Method::POST && request.uri().path() == "/orders";
        let app = is_create.then(|| app.clone());
        let router = (!is_create).then(|| router.clone());
        async move {
            let _counted = counted;
            let holder = match admitted {
                Ok(holder) => holder,
                Err(denial) => return Ok(denial.into_response()),
            };
            if let Some(app) = app {
                let (head, body) = request.into_parts();
                let answer = app.take_order(&head.headers, holder.as_ref(), Body::new(body)).await;
                return Ok::<_, Infallible>(answer);
            }
            if let Some(holder) = holder {
                request.extensions_mut().insert(holder);
            }
            router.expect("one of the two takes it").call(request).await
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT).max_buf_size(HEAD_BYTES_MAX);
    // Answers are small: one piece is sent faster than two are gathered.
    builder.writev(false);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    tokio::select! {
        // A client that breaks off is no trouble of ours.
        _ = served.as_mut() => return,
        _ = stop => served.as_mut().graceful_shutdown(),
    }
    // A connection that never had a request is not seen as idle by hyper: let it go as well.
    let mut was_quiet = false;
    loop {
        tokio::select! {
            _ = served.as_mut() => return,
            () = tokio::time::sleep(FLUSH_TIME) => {
                let is_quiet = under_way.load(Ordering::Relaxed) == 0;
                if was_quiet && is_quiet {
                    return;
                }
                was_quiet = is_quiet;
            }
        }
    }
}
