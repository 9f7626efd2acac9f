//! The client: subcommands that ask a running server over HTTP, and show what it says.
//!
//! Promise: nothing here knows more than the HTTP API tells; `--json` prints the server's JSON as
//! it is; a refusal is told in the server's own words, and a server that is not there is told
//! apart from one that says no.
//! A token comes from a file or `WIMS_TOKEN`, since anybody may read a command line.
//! Deliberately absent: retries (an order must not be placed twice because an answer got lost),
//! proxies (the server is on this machine or near it), and any reading of the data directory.

pub mod customer;
mod event;
pub mod inventory;
pub mod leftover;
pub mod log;
pub mod order;
mod order_events;
mod order_export;
mod order_ready;
mod order_ship;
mod order_why;
pub mod queue;
pub mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Method, StatusCode, Url};
use serde_json::Value;
use wims_runtime::driver::with_causes;

use crate::cli::{EXIT_CONFIG, EXIT_REFUSED, EXIT_UNAVAILABLE, Failure};
use crate::http::idempotency::{KEY_CHARS_MAX, is_key};

/// Longer than any answer of a server that is well.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Rows of a page, at most: the API's own bound.
const PAGE_ROWS_MAX: u32 = 500;
/// So much of an answer that is no problem document is shown.
const DETAIL_CHARS_MAX: usize = 200;
/// The variable with the token.
const TOKEN: &str = "WIMS_TOKEN";

/// Which server is asked, and how its answer is shown.
#[derive(Args, Debug)]
pub struct ServerArgs {
    /// The server, as `wims serve` prints it
    #[arg(long, env = "WIMS_URL", default_value = "http://127.0.0.1:8080", value_parser = base_url)]
    url: Url,
    /// File with the token that the server asks for; without it the token is what WIMS_TOKEN says
    #[arg(long, env = "WIMS_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of root certificates, trusted for the server besides the built-in ones
    #[arg(long, env = "WIMS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print the server's JSON instead of text for people
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

impl ServerArgs {
    /// Shows an answer: the server's JSON as it is, or the text that tells it to people.
    fn show(&self, reply: &Reply, told: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { print_line(&reply.text) } else { print(&told()) }
    }

    /// What the server is to see as `Authorization`, if there is a token.
    fn authorization(&self) -> Result<Option<HeaderValue>, Failure> {
        let (token, source) = match &self.token_file {
            Some(path) => {
                let failed = |error| failed_to_read(path, error);
                (std::fs::read_to_string(path).map_err(failed)?, path.display().to_string())
            }
            None => match std::env::var_os(TOKEN) {
                Some(token) => (token.to_string_lossy().into_owned(), TOKEN.to_owned()),
                None => return Ok(None),
            },
        };
        if token.trim().is_empty() {
            return Ok(None);
        }
        let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.trim())) else {
            let message = format!("what {source} has cannot be sent; it must be one line");
            return Err(Failure::new(EXIT_CONFIG, message));
        };
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Root certificates that are trusted besides the built-in ones.
    fn roots(&self) -> Result<Vec<Certificate>, Failure> {
        let Some(path) = &self.ca else { return Ok(Vec::new()) };
        let pem = std::fs::read(path).map_err(|error| failed_to_read(path, error))?;
        let roots = Certificate::from_pem_bundle(&pem).ok().filter(|roots| !roots.is_empty());
        let message = || format!("{} is no PEM file of certificates", path.display());
        roots.ok_or_else(|| Failure::new(EXIT_CONFIG, message()))
    }
}

fn failed_to_read(path: &Path, error: io::Error) -> Failure {
    Failure::new(EXIT_CONFIG, format!("failed to read {}: {error}", path.display()))
}

fn base_url(text: &str) -> Result<Url, String> {
    let is_server = |url: &Url| ["http", "https"].contains(&url.scheme()) && url.has_host();
    let url = Url::parse(text).ok().filter(is_server);
    url.ok_or_else(|| "a server's address looks like http://127.0.0.1:8080".to_owned())
}

/// A key that a header can carry.
fn idempotency_key(text: &str) -> Result<String, String> {
    if is_key(text.as_bytes()) {
        Ok(text.to_owned())
    } else {
        Err(format!("a key has 1 to {KEY_CHARS_MAX} visible ASCII characters"))
    }
}

/// A name that becomes one segment of a path.
fn path_segment(text: &str) -> Result<String, String> {
    if ["", ".", ".."].contains(&text) {
        Err("this is not a name".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// A connection to the server.
struct Server {
    url: Url,
    client: reqwest::Client,
    /// Under this idempotency key what is asked is done once.
    key: Option<String>,
}

/// An answer with a status of 200 to 299.
struct Reply {
    status: StatusCode,
    text: String,
    json: Value,
}

impl Reply {
    /// A field as people read it.
    fn field(&self, name: &str) -> String {
        table::cell(&self.json[name])
    }

    /// The rows of a page; an answer that is none has none.
    fn items(&self) -> &[Value] {
        self.json["items"].as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

impl Server {
    fn at(args: &ServerArgs) -> Result<Server, Failure> {
        let headers: HeaderMap =
            args.authorization()?.into_iter().map(|value| (AUTHORIZATION, value)).collect();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_WAIT_MAX)
            // Nobody else is to see the token.
            .redirect(Policy::none())
            .default_headers(headers);
        for root in args.roots()? {
            builder = builder.add_root_certificate(root);
        }
        let client =
            builder.build().map_err(|error| Failure::new(EXIT_UNAVAILABLE, with_causes(&error)))?;
        Ok(Server { url: args.url.clone(), client, key: None })
    }

    /// The server, asked under an idempotency key if there is one.
    fn under(self, key: Option<String>) -> Server {
        Server { key, ..self }
    }

    async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Reply, Failure> {
        self.ask(Method::GET, path, query, None).await
    }

    async fn post(&self, path: &[&str], body: &Value) -> Result<Reply, Failure> {
        self.ask(Method::POST, path, &[], Some(body)).await
    }

    async fn put(&self, path: &[&str], body: &Value) -> Result<Reply, Failure> {
        self.ask(Method::PUT, path, &[], Some(body)).await
    }

    async fn delete(&self, path: &[&str]) -> Result<Reply, Failure> {
        self.ask(Method::DELETE, path, &[], None).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Reply, Failure> {
        let mut request = self.client.request(method, self.url_of(path)).query(query);
        if let Some(key) = &self.key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.unanswered(&error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unanswered(&error))?;
        if status.is_success() { self.reply(status, text) } else { Err(refused(status, &text)) }
    }

    fn url_of(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        let segments = url.path_segments_mut();
        segments.expect("an http URL has a path").pop_if_empty().extend(path);
        url
    }

    fn reply(&self, status: StatusCode, text: String) -> Result<Reply, Failure> {
        match serde_json::from_str(&text) {
            Ok(json) => Ok(Reply { status, text, json }),
            Err(_) => {
                let message = format!("what answers at {} is no wims server", self.shown_url());
                Err(Failure::new(EXIT_UNAVAILABLE, message))
            }
        }
    }

    fn unanswered(&self, error: &reqwest::Error) -> Failure {
        let url = self.shown_url();
        let message = if error.is_connect() && self.url.scheme() == "https" {
            let cause = std::error::Error::source(error);
            let cause = cause.map_or_else(String::new, with_causes);
            format!("cannot reach {url}: {cause}; --ca names the root of a private certificate")
        } else if error.is_connect() {
            format!("cannot reach {url}: is wims serve running? Choose another address with --url")
        } else if error.is_timeout() {
            format!("{url} did not answer within {} seconds", ANSWER_WAIT_MAX.as_secs())
        } else {
            format!("{url} gave no answer: {}", with_causes(error))
        };
        Failure::new(EXIT_UNAVAILABLE, message)
    }

    /// The address, without what a proxy in front may want as user and password.
    fn shown_url(&self) -> String {
        let mut url = self.url.clone();
        // An address that can have none has none.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.as_str().trim_end_matches('/').to_owned()
    }
}

/// The server's own words of a refusal.
fn refused(status: StatusCode, text: &str) -> Failure {
    let problem: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let message = match problem["detail"].as_str() {
        Some(detail) if !detail.is_empty() => table::printable(detail),
        _ => format!("the server answered {status} {}", table::shortened(text, DETAIL_CHARS_MAX)),
    };
    let hint = match status {
        StatusCode::UNAUTHORIZED => "; WIMS_TOKEN or --token-file tells one",
        _ => "",
    };
    Failure::new(EXIT_REFUSED, format!("{}{hint}", message.trim_end()))
}

/// Prints text as it is.
///
/// # Errors
/// When it cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // Whoever reads has seen enough, as `head` has.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(EXIT_REFUSED, format!("cannot print: {error}"))),
    }
}

/// Prints a line.
fn print_line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::block_on;

    fn server(url: &str) -> Server {
        let url = base_url(url).expect("an address");
        Server::at(&ServerArgs { url, token_file: None, ca: None, json: false }).expect("a client")
    }

    #[test]
    fn names_are_escaped_into_one_segment_of_the_path() {
        let url = |base: &str, path: &[&str]| server(base).url_of(path).to_string();
        assert_eq!(url("http://h:1", &["orders", "a"]), "http://h:1/orders/a");
        assert_eq!(url("http://h:1/", &["orders", "a/../b?c"]), "http://h:1/orders/a%2F..%2Fb%3Fc");
        assert_eq!(url("http://h/wims/", &["queues"]), "http://h/wims/queues");
        for wrong in ["", ".", ".."] {
            assert!(path_segment(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_that_is_no_page_has_no_items() {
        let reply = |json| Reply { status: StatusCode::OK, text: String::new(), json };
        assert_eq!(reply(json!({"items": [1, 2]})).items(), [json!(1), json!(2)]);
        assert!(reply(json!({"moved": 7})).items().is_empty());
        assert_eq!(reply(json!({"moved": 7})).field("moved"), "7");
        assert_eq!(reply(json!([])).field("moved"), "-");
    }

    #[test]
    fn an_address_is_http_or_https() {
        for wrong in ["", "localhost:8080", "ftp://h", "data:x", "/orders"] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
        assert_eq!(server("http://127.0.0.1:8080").shown_url(), "http://127.0.0.1:8080");
        assert_eq!(server("https://me:secret@h/wims/").shown_url(), "https://h/wims");
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let told = |text| refused(StatusCode::NOT_FOUND, text).message;
        assert_eq!(told(r#"{"detail":"there is no order x"}"#), "there is no order x");
        assert_eq!(told("gone"), "the server answered 404 Not Found gone");
        assert_eq!(told(""), "the server answered 404 Not Found");
        assert_eq!(refused(StatusCode::CONFLICT, "{}").code, EXIT_REFUSED);
    }

    #[test]
    fn a_server_that_is_not_there_is_told_with_the_flag_that_chooses_another() {
        // Nobody listens on port 1; the system refuses at once.
        let server = server("http://127.0.0.1:1");
        let failure = block_on(server.get(&["queues"], &[])).expect("a runtime").err();
        let failure = failure.expect("nobody answers");
        assert_eq!(failure.code, EXIT_UNAVAILABLE);
        assert_eq!(
            failure.message,
            "cannot reach http://127.0.0.1:1: is wims serve running? Choose another address with \
             --url"
        );
    }
}
