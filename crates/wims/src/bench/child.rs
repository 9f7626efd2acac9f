//! Servers a benchmark starts: the same executable as a process of its own, in a folder of its
//! own; both are gone when dropped. No setting of ours reaches them: a benchmark must never pay at
//! a real payments API or send a real mail because the shell has `WIMS_PAYMENTS_URL` set.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::bench::BenchError;

/// Ticks of processor time a second in `/proc`, fixed by Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;
/// What `serve` prints before the sandbox's URL.
pub const SANDBOX_LINE: &str = "payments sandbox: ";
/// A server answers a benchmark's question within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A folder for one run.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn new() -> Result<Scratch, BenchError> {
        let name = format!("wims-bench-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(BenchError::Child)?;
        Ok(Scratch(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of it costs disk and nothing else.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running server.
pub struct ServeChild {
    child: Child,
    /// A no-op server lives as long as this.
    _stdin: Option<ChildStdin>,
    url: String,
    sandbox_url: Option<String>,
}

impl ServeChild {
    /// Starts this executable with `arguments`; it prints its URL first.
    ///
    /// # Errors
    /// When it does not start or prints no URL.
    pub fn start(arguments: &[String]) -> Result<ServeChild, BenchError> {
        let program = std::env::current_exe().map_err(BenchError::Child)?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"WIMS_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(arguments)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::Child)?;
        let stdin = child.stdin.take();
        let output = child.stdout.take().ok_or(BenchError::NoUrl)?;
        let mut server = ServeChild { child, _stdin: stdin, url: String::new(), sandbox_url: None };
        let mut lines = BufReader::new(output);
        let first = read_line(&mut lines)?;
        let url = first.split_whitespace().find(|word| word.starts_with("http://"));
        server.url = url.ok_or(BenchError::NoUrl)?.to_owned();
        if arguments.first().is_some_and(|role| role == "serve") {
            let second = read_line(&mut lines)?;
            server.sandbox_url = second.trim().strip_prefix(SANDBOX_LINE).map(str::to_owned);
        }
        // What it prints later must not block it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(server)
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of its payments sandbox.
    pub fn sandbox_url(&self) -> Option<&str> {
        self.sandbox_url.as_deref()
    }

    /// Its address.
    ///
    /// # Errors
    /// When its URL has none.
    pub fn address(&self) -> Result<SocketAddr, BenchError> {
        address(&self.url)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The body of an answer of it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, path: &str) -> Result<String, BenchError> {
        ask(&self.url, "GET", path, "")
    }

    /// Posts JSON; the body of the answer.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn post(&self, path: &str, body: &str) -> Result<String, BenchError> {
        ask(&self.url, "POST", path, body)
    }
}

impl Drop for ServeChild {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_line(lines: &mut impl BufRead) -> Result<String, BenchError> {
    let mut line = String::new();
    lines.read_line(&mut line).map_err(BenchError::Child)?;
    if line.is_empty() { Err(BenchError::NoUrl) } else { Ok(line) }
}

fn address(url: &str) -> Result<SocketAddr, BenchError> {
    let host = url.trim_start_matches("http://");
    host.parse().map_err(|_| BenchError::NoUrl)
}

/// One request on a connection of its own; the answer's body, whatever its status.
///
/// # Errors
/// When no answer comes.
pub fn ask(url: &str, method: &str, path: &str, body: &str) -> Result<String, BenchError> {
    let send = || -> std::io::Result<Vec<u8>> {
        let host = url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = send().map_err(BenchError::Child)?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
}

/// Processor time a process has used, all threads; zero when it is gone.
pub fn sum_cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The command's name may contain spaces; what follows its bracket does not.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
}

/// Bytes a process has sent to the disk; zero when the system does not tell.
pub fn written_bytes(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
