//! Calls of external APIs over HTTP, as the engine asks for them.
//!
//! Promise: it tells apart what was never sent from what may have been done, and the log says why
//! an API cannot be reached, and when it answers again. It deliberately retries nothing and judges
//! nothing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use reqwest::Certificate;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use wims_stack::{Doc, PipeTarget, Stack, json};

use crate::driver::{locked, with_causes};
use crate::io::{ApiCall, CallReply};

/// The API answers this soon that it is there, or nothing was sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers longer than this are not read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The same trouble of an API is told once in this time, so that a long one does not fill the log.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Different troubles told in that time, at most.
const TROUBLES_MAX: usize = 16;

/// Where an API is.
#[derive(Clone)]
pub struct ApiAddress {
    /// Base URL, `http` or `https`, without a slash at its end.
    pub url: String,
    /// Value of the `Authorization` header.
    pub authorization: Option<String>,
    /// A PEM file of root certificates, trusted for it besides the built-in ones.
    pub ca: Option<PathBuf>,
}

/// Why no calls can be made.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// The file of root certificates cannot be read.
    #[error("read the root certificates {}: {source}", .path.display())]
    CaFile {
        /// The file as given.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file of root certificates holds none, or a damaged one.
    #[error("read the root certificates {}: it must be a PEM file of sound ones", .path.display())]
    CaDamaged {
        /// The file as given.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("set up TLS: {0}")]
    Tls(#[source] reqwest::Error),
}

/// Carries out calls; cheap to clone.
#[derive(Clone)]
pub struct Caller {
    apis: HashMap<String, Api>,
    troubles: Arc<Mutex<Troubles>>,
}

#[derive(Clone)]
struct Api {
    client: reqwest::Client,
    address: ApiAddress,
}

impl Caller {
    /// A caller of the APIs at these addresses, by name, for the pipes of a stack. It connects to
    /// nothing yet.
    ///
    /// # Errors
    /// When root certificates cannot be read, or TLS cannot be set up.
    pub fn new(
        addresses: HashMap<String, ApiAddress>,
        stack: &Stack,
    ) -> Result<Caller, CallerError> {
        let shortest = shortest_call(stack);
        let apis = addresses.into_iter().map(|(name, address)| {
            let client = client(address.ca.as_deref(), shortest)?;
            Ok((name, Api { client, address }))
        });
        Ok(Caller { apis: apis.collect::<Result<_, _>>()?, troubles: Arc::default() })
    }

    /// Says where an API is that could not be found yet when the caller was made.
    pub fn locate(&mut self, api: &str, url: String) {
        if let Some(api) = self.apis.get_mut(api) {
            api.address.url = url;
        }
    }

    /// Makes one call.
    pub async fn call(&self, call: &ApiCall) -> CallReply {
        let reply = self.send(call).await;
        self.tell(&call.api, &reply);
        reply
    }

    /// Says in the log that an API cannot be reached, or can again.
    fn tell(&self, api: &str, reply: &CallReply) {
        let now = Instant::now();
        let mut troubles = locked(&self.troubles);
        match reply {
            CallReply::NotSent(reason) if troubles.is_due(api, reason, now) => {
                tracing::warn!(api, reason, "calls of an API cannot be sent; they wait");
            }
            CallReply::Lost(reason) if troubles.is_due(api, reason, now) => {
                tracing::warn!(api, reason, "an API does not answer; its calls are looked up");
            }
            CallReply::Answered { .. } if troubles.is_over(api) => {
                tracing::info!(api, "an API answers again");
            }
            CallReply::NotSent(_) | CallReply::Lost(_) | CallReply::Answered { .. } => {}
        }
    }

    async fn send(&self, call: &ApiCall) -> CallReply {
        let Some(Api { client, address }) = self.apis.get(&call.api) else {
            return CallReply::NotSent(format!("no address is known for {}", call.api));
        };
        let mut request = match &call.body {
            Some(body) => client
                .post(format!("{}{}", address.url, call.path))
                .header("idempotency-key", &call.key)
                .header(CONTENT_TYPE, "application/json")
                .body(json::to_string(body.view().into())),
            None => client.get(format!("{}{}/{}", address.url, call.path, call.key)),
        };
        if let Some(traceparent) = &call.traceparent {
            request = request.header("traceparent", traceparent);
        }
        if let Some(value) = address.authorization.as_deref().and_then(secret) {
            request = request.header(AUTHORIZATION, value);
        }
        match request.timeout(Duration::from_millis(call.timeout_ms)).send().await {
            Ok(response) => answered(response).await,
            Err(error) if error.is_connect() || error.is_builder() => {
                CallReply::NotSent(reason_of(error))
            }
            Err(error) if error.is_timeout() => CallReply::Lost("no answer in time".into()),
            Err(error) => CallReply::Lost(reason_of(error)),
        }
    }
}

/// The least time some call of an external API has.
fn shortest_call(stack: &Stack) -> Duration {
    let timeouts = stack.pipes.iter().filter_map(|pipe| match &pipe.target {
        PipeTarget::Api(api) => Some(api.timeout_ms),
        PipeTarget::Bus { .. } => None,
    });
    timeouts.min().map_or(Duration::MAX, Duration::from_millis)
}

/// A connection that takes as long as its call has would leave open whether something was sent, so
/// it has half of that.
fn client(ca: Option<&Path>, shortest: Duration) -> Result<reqwest::Client, CallerError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(shortest / 2))
        .pool_idle_timeout(Duration::from_secs(60))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    for root in ca.map(roots).transpose()?.into_iter().flatten() {
        builder = builder.add_root_certificate(root);
    }
    builder.build().map_err(CallerError::Tls)
}

fn roots(path: &Path) -> Result<Vec<Certificate>, CallerError> {
    let pem = std::fs::read(path)
        .map_err(|source| CallerError::CaFile { path: path.to_owned(), source })?;
    let roots = Certificate::from_pem_bundle(&pem).ok().filter(|roots| !roots.is_empty());
    roots.ok_or_else(|| CallerError::CaDamaged { path: path.to_owned() })
}

/// What went wrong, down to its cause. Without the URL, so that it is the same for every call; an
/// error holds no headers, so none can show.
fn reason_of(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}

/// What the log was told of APIs that cannot be reached.
#[derive(Default)]
struct Troubles {
    /// When each reason was told of each API, of late.
    told: HashMap<(String, String), Instant>,
    /// APIs with a trouble that was told and is not over.
    open: HashSet<String>,
}

impl Troubles {
    /// Whether this trouble is to be told now; it counts as told then.
    fn is_due(&mut self, api: &str, reason: &str, now: Instant) -> bool {
        self.told.retain(|_, told| now.saturating_duration_since(*told) < TELL_AGAIN_AFTER);
        let trouble = (api.to_owned(), reason.to_owned());
        if self.told.len() >= TROUBLES_MAX || self.told.contains_key(&trouble) {
            return false;
        }
        self.told.insert(trouble, now);
        self.open.insert(api.to_owned());
        true
    }

    /// Whether an answer ends a trouble that was told; true once.
    fn is_over(&mut self, api: &str) -> bool {
        self.open.remove(api)
    }
}

fn secret(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn answered(mut response: reqwest::Response) -> CallReply {
    let status = response.status().as_u16();
    let retry_after_ms = response.headers().get(RETRY_AFTER).and_then(retry_after_ms);
    let value = body_of(&mut response).await.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let body = value.and_then(|value: serde_json::Value| json::to_doc(&value).ok());
    CallReply::Answered { status, retry_after_ms, body: body.filter(is_map) }
}

/// The body of an answer; `None` when it is too long, told or not, or breaks off.
async fn body_of(response: &mut reqwest::Response) -> Option<Vec<u8>> {
    if response.content_length().is_some_and(|len| len > ANSWER_BYTES_MAX as u64) {
        return None;
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

fn is_map(doc: &Doc) -> bool {
    doc.view().as_map().is_some()
}

/// Seconds or a date, as RFC 9110 has it.
fn retry_after_ms(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(seconds.saturating_mul(1_000));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let wait = until.duration_since(SystemTime::now()).unwrap_or_default();
    u64::try_from(wait.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::io::CallId;

    /// The body that is made of an answer of so many bytes that comes without its length.
    async fn chunked(len: usize) -> Option<Doc> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let told = r#"{"status":"DONE"}"#;
            let blanks = " ".repeat(len - told.len());
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked";
            let answer = format!("{head}\r\n\r\n{len:x}\r\n{told}{blanks}\r\n0\r\n\r\n");
            // Who has read enough may hang up.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let address = ApiAddress { url, authorization: None, ca: None };
        let caller = Caller::new(HashMap::from([("Api".into(), address)]), &Stack::new("s"));
        let reply = caller.unwrap().call(&look_up()).await;
        api.await.unwrap();
        match reply {
            CallReply::Answered { status: 200, body, .. } => body,
            other => panic!("{other:?}"),
        }
    }

    fn look_up() -> ApiCall {
        ApiCall {
            call: CallId { pipe: 0, message: 1, number: 1 },
            api: "Api".into(),
            path: "/calls".into(),
            key: "k".into(),
            traceparent: None,
            body: None,
            timeout_ms: 10_000,
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_a_bound_whether_it_tells_its_length_or_not() {
        let body = chunked(ANSWER_BYTES_MAX).await.expect("it is within the bound");
        assert_eq!(body.str("status"), Some("DONE"));
        assert_eq!(chunked(ANSWER_BYTES_MAX + 1).await, None);
    }

    #[test]
    fn a_trouble_is_told_once_a_minute_and_its_end_once() {
        let (mut troubles, start) = (Troubles::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!troubles.is_over("a"), "nothing was told");
        assert!(troubles.is_due("a", "refused", at(0)));
        assert!(!troubles.is_due("a", "refused", at(59)));
        assert!(troubles.is_due("a", "no such name", at(59)));
        assert!(troubles.is_due("b", "refused", at(59)));
        assert!(troubles.is_due("a", "refused", at(60)));
        assert!(troubles.is_over("a"));
        assert!(!troubles.is_over("a"));
        // An API that comes and goes does not fill the log either.
        assert!(!troubles.is_due("a", "refused", at(61)));
        assert!(!troubles.is_over("a"));
    }

    #[test]
    fn the_troubles_that_are_told_are_bounded() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        let told = (0..100).filter(|i| troubles.is_due("a", &i.to_string(), now)).count();
        assert_eq!(told, TROUBLES_MAX);
    }
}
