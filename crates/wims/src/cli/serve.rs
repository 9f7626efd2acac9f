//! `wims serve`: the whole system on one machine.
//!
//! Promise: the first line of standard output is the URL, printed once orders are taken. SIGTERM
//! stops accepting, finishes requests and calls under way, syncs and exits with 0. A setting that
//! cannot work, or a port in use, is refused before anything is touched.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use hyper::header::HeaderValue;
use tokio::sync::watch;
use wims_runtime::driver::calls::{ApiAddress, Caller};
use wims_runtime::driver::data_dir::DataDir;
use wims_runtime::driver::history::HistoryReader;
use wims_runtime::driver::inbox::Client;
use wims_runtime::driver::mail::{MailOptions, Mailer};
use wims_runtime::driver::{
    EXIT_JOURNAL_FAILED, Ending, Runtime, RuntimeError, RuntimeOptions, STOP_PATIENCE,
    check_mail_address,
};
use wims_runtime::io::{Answer, Input, Query};
use wims_runtime::{EngineOptions, engine::SEGMENT_BYTES};
use wims_stack::{Doc, Stack};

use crate::bench::child::SANDBOX_LINE;
use crate::cli::entrance::EntranceArgs;
use crate::cli::{
    EXIT_CONFIG, EXIT_DATA_DIR, EXIT_UNAVAILABLE, Failure, block_on, calls_per_second, descriptors,
    mail_templates, sandbox_failure, stack, stop_signal,
};
use crate::constructs::observability::LOG_RETENTION_HOURS;
use crate::constructs::orders_api::SEED_ROUTE;
use crate::constructs::payments_api::{PAYMENTS_API, PaymentsPace};
use crate::domain::{DEFAULT_SKU, TABLE};
use crate::fns;
use crate::fns::notices::templates::{SHOP, Templates};
use crate::http::App;
use crate::http::server::{self, Entrance};
use crate::sandbox::{Port, Sandbox, SandboxOptions};
use crate::stack::{Settings, wims_stack};

/// Threads that serve HTTP; the engine has none of its own and takes its turns on these.
const HTTP_THREADS: u32 = 2;
/// After the deadline of a stop, the sandbox has this long to close its ledger.
const SANDBOX_PATIENCE: Duration = Duration::from_secs(1);
/// Sixteen terabytes: no machine has more, and as bytes it is still a number.
const MEMORY_MB_MAX: u64 = 16 << 20;
/// Ten years: who keeps more, exports it.
const LOG_HOURS_MAX: u64 = 87_600;
/// The secret that is no flag, since anybody may read those.
const AUTHORIZATION: &str = "WIMS_PAYMENTS_AUTHORIZATION";

/// What `serve` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims serve  # on 127.0.0.1:8080, data in ./wims-data, payments to a sandbox\n  \
    wims serve --payments-url https://pay.example.com/v1  # a real payments API\n  \
    wims serve --sandbox-decline-percent 20  # one payment in five is declined\n  \
    wims serve --listen 0.0.0.0:8443 --tls-cert wims.pem --tls-key wims.key  # with tokens\n  \
    WIMS_LISTEN=127.0.0.1:9000 wims serve  # each flag is also a variable")]
pub struct ServeArgs {
    /// Where the API listens; port 0 for a free one. Beyond loopback there must be a token, and
    /// TLS or a proxy that ends it
    #[arg(long, env = "WIMS_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where everything is kept; created if absent
    #[arg(long, env = "WIMS_DATA_DIR", default_value = "./wims-data")]
    data_dir: PathBuf,
    #[command(flatten)]
    entrance: EntranceArgs,
    /// The payments API, http or https; without it the sandbox is started, so it goes with no
    /// --sandbox-... flag. WIMS_PAYMENTS_AUTHORIZATION is sent as its Authorization header
    #[arg(long, env = "WIMS_PAYMENTS_URL", value_parser = api_url, conflicts_with_all = [
        "sandbox_listen", "sandbox_rate", "sandbox_burst", "sandbox_decline_percent",
        "sandbox_error_percent", "sandbox_refund_error_percent", "sandbox_delay_ms",
        "sandbox_drop_after_charge_every", "sandbox_late_charge_ms",
    ])]
    payments_url: Option<String>,
    /// PEM file of root certificates, trusted for the payments API besides the built-in ones
    #[arg(long, env = "WIMS_PAYMENTS_CA", value_name = "FILE", requires = "payments_url")]
    payments_ca: Option<PathBuf>,
    /// Calls a second the payments API takes; of the built-in stack [default: the sandbox's,
    /// else 5]
    #[arg(long, env = "WIMS_PAYMENTS_RATE", value_parser = calls_per_second)]
    payments_rate: Option<f64>,
    /// Calls at once the payments API takes; of the built-in stack [default: the sandbox's,
    /// else 5]
    #[arg(long, env = "WIMS_PAYMENTS_BURST", value_parser = clap::value_parser!(u32).range(1..))]
    payments_burst: Option<u32>,
    /// Payment calls under way, at most; of the built-in stack
    #[arg(long, env = "WIMS_PAYMENTS_IN_FLIGHT", default_value_t = 64,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=4_096))]
    payments_in_flight: usize,
    /// Seconds after which the outcome of a payment call is unknown; of the built-in stack
    #[arg(long, env = "WIMS_PAYMENTS_TIMEOUT", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    payments_timeout: u64,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// SMTP server for mails, e.g. smtp://user:password@host:587?tls=required; without it mails
    /// are files in the data directory's outbox
    #[arg(long, env = "WIMS_SMTP_URL", hide_env_values = true)]
    smtp_url: Option<String>,
    /// PEM file of root certificates, trusted for the SMTP server besides the built-in ones; for a
    /// mail server with a certificate of a private CA
    #[arg(long, env = "WIMS_SMTP_CA", value_name = "FILE")]
    smtp_ca: Option<PathBuf>,
    /// Who mails come from
    #[arg(long, env = "WIMS_MAIL_FROM", default_value = "wims@localhost",
        value_parser = mail_address)]
    mail_from: String,
    /// Folder of templates in place of the built-in ones of mails to customers, e.g. shipped.txt
    /// and shipped.html
    #[arg(long, env = "WIMS_MAIL_TEMPLATES", value_name = "FOLDER")]
    mail_templates: Option<PathBuf>,
    /// What mails to customers call the shop [default: the domain of --mail-from, else "our shop"]
    #[arg(long, env = "WIMS_SHOP_NAME", value_name = "NAME")]
    shop_name: Option<String>,
    /// Mails customers nothing; of the built-in stack
    #[arg(long, env = "WIMS_NO_CUSTOMER_MAILS", value_parser = BoolishValueParser::new())]
    no_customer_mails: bool,
    /// Where the team reads its mail; of the built-in stack
    #[arg(long, env = "WIMS_TEAM_EMAIL", default_value = "theteam@ourcompany.com",
        value_parser = mail_address)]
    team_email: String,
    /// How long the stock of an order is kept whose payment was declined, such as 72h or 30m; then
    /// it is canceled; of the built-in stack
    #[arg(long, env = "WIMS_DECLINE_GRACE", default_value = "72h", value_name = "TIME",
        value_parser = decline_grace)]
    decline_grace: Duration,
    /// Hours for which the observer log can be read and the journal is kept; of the built-in stack
    #[arg(long, env = "WIMS_LOG_RETENTION_HOURS", default_value_t = LOG_RETENTION_HOURS,
        value_parser = clap::value_parser!(u64).range(1..=LOG_HOURS_MAX))]
    log_retention_hours: u64,
    /// Megabytes of open orders and messages at which new orders are refused with 503
    #[arg(long, env = "WIMS_MEMORY_MAX", default_value_t = 4096,
        value_parser = clap::value_parser!(u64).range(1..=MEMORY_MB_MAX))]
    memory_max: u64,
    /// A declaration to run instead of the built-in stack; see `wims graph --format declaration`.
    /// It has its own pace of payments, addresses and retention, so it goes with no
    /// --payments-rate, -burst, -in-flight or -timeout, no --team-email, no --decline-grace, no
    /// --no-customer-mails and no --log-retention-hours
    #[arg(long, env = "WIMS_STACK", conflicts_with_all = [
        "payments_rate", "payments_burst", "payments_in_flight", "payments_timeout", "team_email",
        "decline_grace", "log_retention_hours", "no_customer_mails",
    ])]
    stack: Option<PathBuf>,
    /// Megabytes of a journal segment, of a new data directory
    #[arg(long, env = "WIMS_SEGMENT_MB", default_value_t = SEGMENT_BYTES >> 20,
        value_parser = clap::value_parser!(u64).range(4..=1024))]
    segment_mb: u64,
}

/// The sandbox under `serve`.
#[derive(Args)]
struct SandboxArgs {
    /// Where the sandbox listens
    #[arg(long, env = "WIMS_SANDBOX_LISTEN", default_value = "127.0.0.1:8081")]
    sandbox_listen: SocketAddr,
    /// Calls a second the sandbox takes
    #[arg(long, env = "WIMS_SANDBOX_RATE", default_value_t = 5.0, value_parser = calls_per_second)]
    sandbox_rate: f64,
    /// Calls the sandbox takes at once
    #[arg(long, env = "WIMS_SANDBOX_BURST", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..))]
    sandbox_burst: u32,
    /// Percent of payments the sandbox declines
    #[arg(long, env = "WIMS_SANDBOX_DECLINE_PERCENT", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    sandbox_decline_percent: u8,
    /// Percent of calls the sandbox answers with 500
    #[arg(long, env = "WIMS_SANDBOX_ERROR_PERCENT", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    sandbox_error_percent: u8,
    /// Percent of refunds the sandbox answers with 500
    #[arg(long, env = "WIMS_SANDBOX_REFUND_ERROR_PERCENT", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    sandbox_refund_error_percent: u8,
    /// Wait of the sandbox before each answer, in milliseconds
    #[arg(long, env = "WIMS_SANDBOX_DELAY_MS", default_value_t = 0)]
    sandbox_delay_ms: u64,
    /// The sandbox charges, then cuts the connection, every so many charges; 0 for never
    #[arg(long, env = "WIMS_SANDBOX_DROP_AFTER_CHARGE_EVERY", default_value_t = 0)]
    sandbox_drop_after_charge_every: u64,
    /// The sandbox charges this long after the call arrived, in milliseconds
    #[arg(long, env = "WIMS_SANDBOX_LATE_CHARGE_MS", default_value_t = 0)]
    sandbox_late_charge_ms: u64,
}

/// Reads the base URL of an API; what comes back has no slash at its end.
fn api_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text)
        .map_err(|error| format!("{error}; a URL is like https://payments.example.com/v1"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it must begin with http:// or https://".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("paths are put behind it, so it must have no ? and no #".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Refuses a URL with a user or password: anybody may read it. The command line would repeat what
/// it refuses; this does not.
fn refuse_credentials(url: &str) -> Result<(), Failure> {
    let has_any = |url: reqwest::Url| !url.username().is_empty() || url.password().is_some();
    if reqwest::Url::parse(url).is_ok_and(has_any) {
        let message = format!(
            "--payments-url has a user or password, which anybody may read; set {AUTHORIZATION} \
             instead"
        );
        return Err(Failure::new(EXIT_CONFIG, message));
    }
    Ok(())
}

fn mail_address(text: &str) -> Result<String, String> {
    check_mail_address(text).map(|()| text.to_owned())
}

/// What the payments API is to see as `Authorization`.
fn authorization() -> Result<Option<String>, Failure> {
    let Some(value) = std::env::var_os(AUTHORIZATION) else { return Ok(None) };
    let value = value.into_string().ok().filter(|value| HeaderValue::from_str(value).is_ok());
    let message = "cannot be sent as a header; is there a line break in it?";
    let refused = || Failure::new(EXIT_CONFIG, format!("{AUTHORIZATION} {message}"));
    value.map(Some).ok_or_else(refused)
}

/// Logs of this process, one line each, to standard error; `RUST_LOG` chooses.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
}

/// Serves until told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(args: ServeArgs) -> Result<(), Failure> {
    log_to_stderr();
    // A huge page is cleared as a whole when it is first touched. That can take milliseconds, and
    // happens inside a turn; where the system has no such switch, nothing is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let entrance = args.entrance.open(args.listen, &args.data_dir)?;
    let listener = listen(args.listen)?;
    block_on(serve(args, entrance, listener))?
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        let message = format!(
            "cannot listen on {address}: {error}; is another wims running? Choose another address \
             with --listen"
        );
        Failure::new(EXIT_UNAVAILABLE, message)
    })
}

async fn serve(args: ServeArgs, entrance: Entrance, listener: TcpListener) -> Result<(), Failure> {
    ignore_file_size_signal();
    // What cannot work is refused here; below, files are made.
    let stack = declared(&args)?;
    let mut caller = caller(&args, &stack)?;
    let mailer = mailer(&args)?;
    let functions = fns::with_templates(templates(&args)?);
    let sandbox_port = sandbox_port(&args).await?;
    let (stop, stopped) = watch::channel(None);
    let data_dir =
        DataDir::open(&args.data_dir).map_err(|error| Failure::new(EXIT_DATA_DIR, error))?;
    // The sandbox stops last: calls under way are finished first.
    let (stop_sandbox, sandbox_stopped) = watch::channel(false);
    let sandbox = start_sandbox(&args.sandbox, sandbox_port, &data_dir, sandbox_stopped)?;
    if let Some(sandbox) = &sandbox {
        caller.locate(PAYMENTS_API, sandbox.url.clone());
    }
    let options = RuntimeOptions {
        data_dir,
        engine: EngineOptions {
            segment_bytes: args.segment_mb << 20,
            memory_max: args.memory_max << 20,
            seed: fastrand::u64(..),
            ..EngineOptions::default()
        },
        caller,
        mailer,
        inboxes: HTTP_THREADS + 1,
    };
    let runtime = Runtime::start(&stack, &functions, options).map_err(start_failure)?;
    tracing::info!(recovered = runtime.recovery, "the journal is recovered");
    seed(&runtime, &stack).await?;
    let address = listener.local_addr();
    let threads = spawn_http(&runtime, listener, &entrance, &stopped)?;
    let asked_to_stop = stop_signal();
    announce(address, &entrance, sandbox.as_ref().map(|sandbox| sandbox.url.as_str()));
    asked_to_stop.await;
    tracing::info!("stopping: finishing requests and calls under way");
    // One deadline for all; and no call begins that would only be waited for.
    let deadline = Instant::now() + STOP_PATIENCE;
    runtime.stop_outside();
    let _ = stop.send(Some(deadline));
    // On another thread: the sandbox on this one still has calls to answer.
    let finished = tokio::task::spawn_blocking(move || {
        threads.into_iter().for_each(|thread| drop(thread.join()));
        runtime.stop(deadline)
    });
    let ending = finished.await;
    let _ = stop_sandbox.send(true);
    if let Some(sandbox) = sandbox {
        let patience_ends = (deadline + SANDBOX_PATIENCE).into();
        if tokio::time::timeout_at(patience_ends, sandbox.task).await.is_err() {
            tracing::warn!("the sandbox was cut: payments it was late with are not charged");
        }
    }
    stopped_with(&ending.map_err(|error| Failure::new(EXIT_JOURNAL_FAILED as u8, error))?)
}

/// Says what a stop had to leave.
fn stopped_with(ending: &Ending) -> Result<(), Failure> {
    if ending.cut > 0 {
        tracing::warn!(cut = ending.cut, "calls or mails were cut; the next start takes them up");
    }
    if ending.is_durable {
        return Ok(());
    }
    let message = "stopped though the journal could not be closed in time; what was acknowledged \
                   is on the disk";
    Err(Failure::new(EXIT_JOURNAL_FAILED as u8, message))
}

/// A file larger than the process may write becomes an error of that write, not its death.
fn ignore_file_size_signal() {
    const SIGXFSZ: i32 = 25;
    let kind = tokio::signal::unix::SignalKind::from_raw(SIGXFSZ);
    if let Ok(mut signal) = tokio::signal::unix::signal(kind) {
        tokio::spawn(async move { while signal.recv().await.is_some() {} });
    }
}

/// The stack that is to run.
fn declared(args: &ServeArgs) -> Result<Stack, Failure> {
    match &args.stack {
        Some(path) => stack::sound(path),
        None => Ok(wims_stack(&settings(args))),
    }
}

/// Nobody waits longer for another payment method than the year.
const DECLINE_GRACE_MAX: Duration = Duration::from_secs(366 * 86_400);

fn decline_grace(text: &str) -> Result<Duration, String> {
    let grace = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=DECLINE_GRACE_MAX).contains(&grace) {
        return Ok(grace);
    }
    Err("it is at least a millisecond and at most 366 days".to_owned())
}

fn settings(args: &ServeArgs) -> Settings {
    let default = PaymentsPace::default();
    let is_sandbox = args.payments_url.is_none();
    let (rate, burst) = if is_sandbox {
        (args.sandbox.sandbox_rate, args.sandbox.sandbox_burst)
    } else {
        (default.rate_per_second, default.burst)
    };
    Settings {
        team_email: args.team_email.clone(),
        payments: PaymentsPace {
            rate_per_second: args.payments_rate.unwrap_or(rate),
            burst: args.payments_burst.unwrap_or(burst),
            in_flight_max: args.payments_in_flight,
            timeout_ms: args.payments_timeout * 1_000,
        },
        decline_grace_ms: u64::try_from(args.decline_grace.as_millis()).unwrap_or(u64::MAX),
        log_retention_hours: args.log_retention_hours,
        customer_mails: !args.no_customer_mails,
    }
}

/// How customers are written to.
fn templates(args: &ServeArgs) -> Result<Templates, Failure> {
    let domain = args.mail_from.rsplit_once('@').map(|(_, domain)| domain.trim_end_matches('>'));
    let domain = domain.filter(|domain| *domain != "localhost");
    let shop = args.shop_name.as_deref().or(domain).unwrap_or(SHOP);
    let Some(folder) = &args.mail_templates else { return Ok(Templates::built_in(shop)) };
    mail_templates::read(folder, shop)
        .map_err(|error| Failure::new(EXIT_CONFIG, format!("failed to {error}")))
}

/// Who calls the payments API; where the sandbox is shows only once it listens.
fn caller(args: &ServeArgs, stack: &Stack) -> Result<Caller, Failure> {
    let authorization = authorization()?;
    if args.payments_url.is_none() && authorization.is_some() {
        tracing::warn!("there are credentials but no --payments-url; payments go to the sandbox");
    }
    let url = args.payments_url.clone().unwrap_or_default();
    refuse_credentials(&url)?;
    let address = ApiAddress { url, authorization, ca: args.payments_ca.clone() };
    Caller::new(HashMap::from([(PAYMENTS_API.to_owned(), address)]), stack)
        .map_err(|error| Failure::new(EXIT_CONFIG, format!("failed to {error}")))
}

fn mailer(args: &ServeArgs) -> Result<Mailer, Failure> {
    let options = MailOptions {
        smtp_url: args.smtp_url.clone(),
        smtp_ca: args.smtp_ca.clone(),
        from: args.mail_from.clone(),
        outbox: args.data_dir.join("outbox"),
    };
    Mailer::new(options).map_err(|error| Failure::new(EXIT_CONFIG, format!("failed to {error}")))
}

/// The sandbox under way.
struct RunningSandbox {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

/// The sandbox's port, unless there is a payments API.
async fn sandbox_port(args: &ServeArgs) -> Result<Option<Port>, Failure> {
    if args.payments_url.is_some() {
        return Ok(None);
    }
    let port = Port::bind(args.sandbox.sandbox_listen).await;
    port.map(Some).map_err(|error| sandbox_failure(&error, "--sandbox-listen"))
}

/// Starts the sandbox, if there is a port for it.
fn start_sandbox(
    bad_days: &SandboxArgs,
    port: Option<Port>,
    data_dir: &DataDir,
    mut stopped: watch::Receiver<bool>,
) -> Result<Option<RunningSandbox>, Failure> {
    let Some(port) = port else { return Ok(None) };
    let options = SandboxOptions {
        rate_per_second: bad_days.sandbox_rate,
        burst: bad_days.sandbox_burst,
        ledger: data_dir.join("payments-ledger.jsonl"),
        decline_percent: bad_days.sandbox_decline_percent,
        error_percent: bad_days.sandbox_error_percent,
        refund_error_percent: bad_days.sandbox_refund_error_percent,
        delay_ms: bad_days.sandbox_delay_ms,
        drop_after_charge_every: bad_days.sandbox_drop_after_charge_every,
        late_charge_ms: bad_days.sandbox_late_charge_ms,
    };
    let sandbox = Sandbox::open(port, options)
        .map_err(|error| sandbox_failure(&error, "--sandbox-listen"))?;
    let url = format!("http://{}", sandbox.local_addr());
    let task = tokio::spawn(sandbox.run(async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }));
    Ok(Some(RunningSandbox { url, task }))
}

fn start_failure(error: RuntimeError) -> Failure {
    let code = match error {
        RuntimeError::History(_)
        | RuntimeError::HistoryBehind { .. }
        | RuntimeError::JournalBehind { .. }
        | RuntimeError::Outbox(_)
        | RuntimeError::Start(wims_runtime::StartError::Recovery(_)) => EXIT_DATA_DIR,
        RuntimeError::Start(wims_runtime::StartError::Plan(_)) => EXIT_CONFIG,
        RuntimeError::System(_) => EXIT_UNAVAILABLE,
    };
    Failure::new(code, error)
}

/// Puts the article's item into a fresh store; orders are taken only after that. A stack without
/// the route for it has its stock from elsewhere, so that only the journal is waited for.
async fn seed(runtime: &Runtime, stack: &Stack) -> Result<(), Failure> {
    let client = runtime.client(HTTP_THREADS);
    let server = client.clone();
    let serve = tokio::spawn(async move { server.serve().await });
    let has_route = stack.routes.iter().any(|route| route.name == SEED_ROUTE);
    let mut obstacle = None;
    // A fresh journal has its first segments prepared before it takes anything.
    for _ in 0..100 {
        obstacle = try_to_seed(&client, has_route).await?;
        if obstacle.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    serve.abort();
    match obstacle {
        None => Ok(()),
        Some(_) if has_route => Err(Failure::new(
            EXIT_JOURNAL_FAILED as u8,
            "the journal's first segments could not be prepared; is the disk full?",
        )),
        // Whether there is anything in this store cannot be told.
        Some(reason) => {
            tracing::warn!(reason, "orders are refused for now");
            Ok(())
        }
    }
}

/// Seeds the store where that is due, or tells what stands in the way for now.
async fn try_to_seed(client: &Client, has_route: bool) -> Result<Option<&'static str>, Failure> {
    let query = Query::Get { table: TABLE, pk: DEFAULT_SKU.pk(), sk: DEFAULT_SKU.sk() };
    let found = client.ask(|ticket| Input::Query { ticket, query }).await;
    // A full disk is no reason not to serve what is there.
    if let Some(Answer::Item(Some(_))) = found {
        return Ok(None);
    }
    let (route, arguments) = (SEED_ROUTE, Doc::object(&[]));
    let (history, trace, key) = (None, None, None);
    let call = |ticket| Input::Call { ticket, route, arguments, history, trace, key };
    match client.ask(call).await {
        Some(Answer::Full { reason, .. }) => Ok(Some(reason)),
        Some(Answer::Refused(refusal)) if has_route => {
            let message = format!("the stack's route {SEED_ROUTE} is refused: {}", refusal.detail);
            Err(Failure::new(EXIT_CONFIG, message))
        }
        // It is done; or nothing is full, and it has no such route.
        Some(_) => Ok(None),
        None => Ok(Some("too many requests wait")),
    }
}

fn spawn_http(
    runtime: &Runtime,
    listener: TcpListener,
    entrance: &Entrance,
    stopped: &server::Stop,
) -> Result<Vec<JoinHandle<()>>, Failure> {
    let (mut doors, mut threads) = (Vec::new(), Vec::new());
    let connections_max = descriptors::connections_per_thread(HTTP_THREADS);
    for inbox in 0..HTTP_THREADS {
        let client = runtime.client(inbox);
        let server = client.clone();
        let history = HistoryReader::open(&runtime.history_path())
            .map_err(|error| Failure::new(EXIT_DATA_DIR, error))?;
        let app = App::new(client, history, runtime.logs());
        let make = move || {
            tokio::spawn(async move { server.serve().await });
            app
        };
        let name = format!("http-{inbox}");
        let (stop, entrance) = (stopped.clone(), entrance.clone());
        let (door, thread) = server::spawn(name, stop, entrance, connections_max, make)
            .map_err(|error| Failure::new(EXIT_UNAVAILABLE, error))?;
        doors.push(door);
        threads.push(thread);
    }
    tokio::spawn(server::accept(listener, doors, stopped.clone()));
    Ok(threads)
}

fn announce(address: std::io::Result<SocketAddr>, entrance: &Entrance, sandbox: Option<&str>) {
    let Ok(address) = address else { return };
    let scheme = if entrance.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    let wants_tokens = entrance.guard.as_ref().is_some_and(|guard| guard.wants_tokens());
    let token = if wants_tokens { " -H \"Authorization: Bearer $WIMS_TOKEN\"" } else { "" };
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; that is no reason not to serve.
    let _ = writeln!(out, "{url}");
    if let Some(sandbox) = sandbox {
        let _ = writeln!(out, "{SANDBOX_LINE}{sandbox}");
    }
    let _ = writeln!(
        out,
        "Take an order:\n  curl -s {url}/orders{token} -d '{{\"customerId\":\"349\",\"quantity\":7}}'"
    );
    let _ = out.flush();
}
