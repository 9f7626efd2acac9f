//! Starts the real binary on ports the system chooses and a folder of its own; stops it by its
//! process id when dropped, and removes the folder.
//!
//! Promise: a test that passes has left nothing in flight. A server stops cleanly when it is
//! dropped, and has told of no error, unless a test says that it may fail.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder that is gone when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let unique = format!("wims-it-{name}-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running process of the binary that printed a URL first.
pub struct Process {
    child: Child,
    /// It was killed, or has ended and was seen to.
    ended: bool,
    pub url: String,
    /// The URL of the sandbox that `serve` started.
    pub sandbox_url: Option<String>,
}

impl Process {
    /// Starts the binary; the first line it prints is its URL.
    pub fn start(arguments: &[String], errors: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wims"));
        command.args(arguments);
        Process::spawn(command, errors)
    }

    fn spawn(mut command: Command, errors: &Path) -> Process {
        let log = std::fs::File::create(errors).expect("a log file");
        let serves = command.get_args().any(|argument| argument == "serve");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let mut first = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        lines.read_line(&mut first).expect("a line");
        let mut second = String::new();
        if first.starts_with("http") && serves {
            lines.read_line(&mut second).expect("a line");
        }
        let sandbox_url = second.trim().strip_prefix("payments sandbox: ").map(str::to_owned);
        // What it prints later must not block it.
        std::thread::spawn(move || lines.lines().for_each(drop));
        let url = first.trim().to_owned();
        assert!(
            url.starts_with("http://") || url.starts_with("https://"),
            "no URL: {first:?}\n{}",
            std::fs::read_to_string(errors).unwrap_or_default()
        );
        Process { child, ended: false, url, sandbox_url }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.ended = true;
    }

    /// Waits until it ends by itself; the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        await_condition("the process to end", || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some()
        });
        self.ended = true;
        status.and_then(|status| status.code())
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    }

    /// SIGTERM; the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.ask_to_stop();
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `wims serve` with its own folder.
pub struct Server {
    pub process: Process,
    pub folder: Folder,
    pub sandbox_url: Option<String>,
    /// Errors are expected of it, and that it does not stop cleanly.
    may_fail: bool,
    client: reqwest::blocking::Client,
}

impl Server {
    /// Starts a server with more arguments than the usual ones.
    pub fn start(name: &str, more: &[&str]) -> Server {
        Server::in_folder(Folder::new(name), more)
    }

    /// Starts a server in a folder that may have served before.
    pub fn in_folder(folder: Folder, more: &[&str]) -> Server {
        let process = Process::start(&arguments(&folder, more), &folder.join("stderr.log"));
        Server::of(process, folder)
    }

    /// Starts a server none of whose files may grow past some bytes.
    pub fn limited(folder: Folder, file_bytes_max: u64) -> Server {
        let process = Process::spawn(limited(&folder, file_bytes_max), &folder.join("stderr.log"));
        Server::of(process, folder).may_fail()
    }

    /// Starts a server that may have so many files and sockets open.
    pub fn with_descriptors(folder: Folder, count: u32) -> Server {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={count}")).arg(env!("CARGO_BIN_EXE_wims"));
        command.args(arguments(&folder, &[]));
        let process = Process::spawn(command, &folder.join("stderr.log"));
        Server::of(process, folder)
    }

    /// Starts a server that logs all that developers can ask for.
    pub fn debugging(name: &str, more: &[&str]) -> Server {
        let folder = Folder::new(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_wims"));
        command.args(arguments(&folder, more)).env("RUST_LOG", "debug");
        let process = Process::spawn(command, &folder.join("stderr.log"));
        Server::of(process, folder)
    }

    /// From now on it may tell of errors, and is killed when dropped.
    pub fn may_fail(mut self) -> Server {
        self.may_fail = true;
        self
    }

    fn of(process: Process, folder: Folder) -> Server {
        let client = reqwest::blocking::Client::builder()
            .timeout(Duration::from_secs(20))
            .no_proxy()
            .build()
            .expect("a client");
        let sandbox_url = process.sandbox_url.clone();
        Server { process, folder, sandbox_url, may_fail: false, client }
    }

    /// The folder, after the process has ended.
    pub fn into_folder(mut self) -> Folder {
        self.end();
        Folder(std::mem::take(&mut self.folder.0))
    }

    /// Stops it if it still runs, and looks at how it went and what it has told.
    fn end(&mut self) {
        if self.may_fail {
            return self.process.kill();
        }
        let code = if self.process.ended { Some(0) } else { self.process.terminate() };
        let log = self.log();
        assert_eq!(code, Some(0), "a clean stop:\n{log}");
        let is_trouble = |line: &&str| line.contains(" ERROR ") || line.contains("panicked");
        let trouble: Vec<&str> = log.lines().filter(is_trouble).collect();
        assert!(trouble.is_empty(), "it told of trouble:\n{}", trouble.join("\n"));
    }

    /// A row of `/queues`.
    pub fn queue(&self, name: &str) -> Value {
        let (_, page) = self.get("/queues");
        let rows = page["items"].as_array().expect("rows");
        rows.iter().find(|row| row["name"] == name).expect("the queue is there").clone()
    }

    /// Mails in the outbox.
    pub fn outbox(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.folder.join("data/outbox")) else {
            return Vec::new();
        };
        let mails =
            files.flatten().filter(|file| file.path().extension().is_some_and(|e| e == "eml"));
        mails.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }

    /// What the server said on standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr.log")).unwrap_or_default()
    }

    /// Stops it and starts it again on the same folder.
    pub fn restart(mut self, more: &[&str]) -> Server {
        assert_eq!(self.process.terminate(), Some(0), "a clean stop");
        Server::in_folder(self.into_folder(), more)
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.process.url)
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(self.url(path)).send().expect("an answer");
        (response.status().as_u16(), response.json().expect("JSON"))
    }

    pub fn get_text(&self, path: &str) -> String {
        self.client.get(self.url(path)).send().and_then(|r| r.text()).expect("an answer")
    }

    pub fn post(&self, path: &str, body: impl Into<reqwest::blocking::Body>) -> (u16, Value) {
        self.send(reqwest::Method::POST, path, body)
    }

    /// Posts with more headers; the answer as it is.
    pub fn posted(
        &self,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> reqwest::blocking::Response {
        let request = self.client.post(self.url(path)).body(body.to_owned());
        let headers = headers.iter();
        let request = headers.fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().expect("an answer")
    }

    /// A connection, to say on it what no client would.
    pub fn connect(&self) -> TcpStream {
        let address = self.process.url.strip_prefix("http://").expect("a URL");
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    /// What the sandbox has counted.
    pub fn sandbox_stats(&self) -> Value {
        let url = self.sandbox_url.as_ref().expect("a sandbox");
        let stats = self.client.get(format!("{url}/stats")).send();
        stats.and_then(reqwest::blocking::Response::json).expect("stats")
    }

    /// Posts, or `None` when no answer comes.
    pub fn try_post(&self, path: &str, body: &str) -> Option<(u16, Value)> {
        let response = self.client.post(self.url(path)).body(body.to_owned()).send().ok()?;
        Some((response.status().as_u16(), response.json().ok()?))
    }

    pub fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: impl Into<reqwest::blocking::Body>,
    ) -> (u16, Value) {
        let request = self.client.request(method, self.url(path));
        let request = request.header("content-type", "application/json").body(body);
        let response = request.send().expect("an answer");
        (response.status().as_u16(), response.json().unwrap_or(Value::Null))
    }

    /// Places an order; its id.
    pub fn order(&self, customer: &str, quantity: i64) -> String {
        let body = format!(r#"{{"customerId":"{customer}","quantity":{quantity}}}"#);
        let (status, reply) = self.post("/orders", body);
        assert_eq!((status, reply["message"].as_str()), (200, Some("Order created!")), "{reply}");
        reply["orderId"].as_str().expect("an id").to_owned()
    }

    /// Places an order whose request has one more header; its id.
    pub fn order_with(&self, header: &str, value: &str) -> String {
        let body = r#"{"customerId":"349","quantity":7}"#;
        let request = self.client.post(self.url("/orders")).header(header, value).body(body);
        let response = request.send().expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
        let reply: Value = response.json().expect("JSON");
        reply["orderId"].as_str().expect("an id").to_owned()
    }

    /// The order once its `status` is this; fails after a bounded wait.
    pub fn await_status(&self, order: &str, status: &str) -> Value {
        let mut last = Value::Null;
        await_condition(&format!("order {order} to be {status}"), || {
            last = self.get(&format!("/orders/{order}")).1;
            last["status"] == status
        });
        last
    }

    /// A figure of `/metrics`, e.g. `wims_change_lag`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get_text("/metrics");
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|r| r.starts_with(' ')));
        let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|v| v.parse().ok());
        value.unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that fails has said why; its process is killed.
        if !std::thread::panicking() {
            self.end();
        }
    }
}

fn arguments(folder: &Folder, more: &[&str]) -> Vec<String> {
    let mut arguments = vec![
        "serve".to_owned(),
        "--listen=127.0.0.1:0".into(),
        "--segment-mb=4".into(),
        format!("--data-dir={}", folder.join("data").display()),
    ];
    // Beside a payments API there is no sandbox.
    if !more.iter().any(|argument| argument.starts_with("--payments-url")) {
        arguments.push("--sandbox-listen=127.0.0.1:0".into());
    }
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments
}

/// What a command that ends has said.
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// `wims serve` none of whose files may grow past some bytes.
fn limited(folder: &Folder, file_bytes_max: u64) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={file_bytes_max}")).arg(env!("CARGO_BIN_EXE_wims"));
    command.args(arguments(folder, &[]));
    command
}

/// Runs `wims serve` to its end; none of its files may grow past some bytes.
pub fn wims_limited(folder: &Folder, file_bytes_max: u64) -> Output {
    run(limited(folder, file_bytes_max))
}

/// Runs the binary to its end.
pub fn wims(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wims"));
    command.args(arguments);
    run(command)
}

fn run(mut command: Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("the binary runs");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until a condition holds; fails with what was waited for after 30 seconds.
pub fn await_condition(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
