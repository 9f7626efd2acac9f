//! Calls of external APIs over HTTP, as the engine asks for them.
//!
//! Promise: it tells apart what was never sent from what may have been done. It deliberately
//! retries nothing and judges nothing.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use wims_stack::{Doc, json};

use crate::io::{ApiCall, CallReply};

/// The API answers this soon that it is there, or nothing was sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers longer than this are not read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Where an API is.
#[derive(Clone)]
pub struct ApiAddress {
    /// Base URL, `http` or `https`, without a slash at its end.
    pub url: String,
    /// Value of the `Authorization` header.
    pub authorization: Option<String>,
}

/// Carries out calls; cheap to clone.
#[derive(Clone)]
pub struct Caller {
    client: reqwest::Client,
    addresses: HashMap<String, ApiAddress>,
}

impl Caller {
    /// A caller of the APIs at these addresses, by name.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(addresses: HashMap<String, ApiAddress>) -> Result<Caller, String> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Caller { client, addresses })
    }

    /// Makes one call.
    pub async fn call(&self, call: &ApiCall) -> CallReply {
        let Some(address) = self.addresses.get(&call.api) else {
            return CallReply::NotSent(format!("no address is known for {}", call.api));
        };
        let mut request = match &call.body {
            Some(body) => self
                .client
                .post(format!("{}{}", address.url, call.path))
                .header("idempotency-key", &call.key)
                .header(CONTENT_TYPE, "application/json")
                .body(json::to_string(body.view().into())),
            None => self.client.get(format!("{}{}/{}", address.url, call.path, call.key)),
        };
        if let Some(value) = address.authorization.as_deref().and_then(secret) {
            request = request.header(AUTHORIZATION, value);
        }
        match request.timeout(Duration::from_millis(call.timeout_ms)).send().await {
            Ok(response) => answered(response).await,
            Err(error) if error.is_connect() || error.is_builder() => {
                CallReply::NotSent(error.to_string())
            }
            Err(error) if error.is_timeout() => CallReply::Lost("no answer in time".into()),
            Err(error) => CallReply::Lost(error.to_string()),
        }
    }
}

fn secret(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn answered(response: reqwest::Response) -> CallReply {
    let status = response.status().as_u16();
    let retry_after_ms = response.headers().get(RETRY_AFTER).and_then(retry_after_ms);
    let short = response.content_length().is_none_or(|len| len <= ANSWER_BYTES_MAX);
    let bytes = if short { response.bytes().await.ok() } else { None };
    let value = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let body = value.and_then(|value: serde_json::Value| json::to_doc(&value).ok());
    CallReply::Answered { status, retry_after_ms, body: body.filter(is_map) }
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
