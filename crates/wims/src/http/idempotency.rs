//! `Idempotency-Key`: a request that may be sent again, and takes effect once.
//!
//! Promise: on a route that takes the header, a request with a key and a body like those of one
//! that was carried out within a day does nothing and gets its answer, with
//! `Idempotent-Replayed: true`; with another body it gets 422. A key of a token of another name is
//! another key, and one of a token that was made anew under its name is not; where no tokens are
//! asked for, keys are everybody's. A refused request uses up no key. A header that is no key is a 400. It deliberately keeps
//! nothing: the engine knows the keys.

use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use wims_runtime::io::Input;
use wims_runtime::keys::RequestKey;
use wims_stack::Doc;

use crate::http::problem::Problem;
use crate::http::strict::FieldError;
use crate::http::tokens::Holder;
use crate::http::{App, reply_of, trace_of};

/// Characters of a key, at most.
pub const KEY_CHARS_MAX: usize = 255;
const HEADER: &str = "idempotency-key";
/// On the answer to a request that was carried out before.
const REPLAYED: &str = "idempotent-replayed";

/// The key a request tells, if it tells one.
///
/// # Errors
/// When it is no key, or more than one.
pub fn key_of(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut told = headers.get_all(HEADER).iter();
    let Some(key) = told.next() else { return Ok(None) };
    if told.next().is_some() {
        return Err(wrong("is given more than once"));
    }
    let key = key.as_bytes();
    if is_key(key) {
        Ok(Some(key))
    } else {
        Err(wrong("must have 1 to 255 visible ASCII characters"))
    }
}

/// Whether this can be a key.
pub fn is_key(text: &[u8]) -> bool {
    (1..=KEY_CHARS_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// For a route that takes no key: whoever sends one would trust that a repeat does nothing.
///
/// # Errors
/// When there is one.
pub fn refuse_idempotency_key(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(HEADER) {
        return Err(wrong("is not taken by this route; send the request without it"));
    }
    Ok(())
}

fn wrong(message: &str) -> Problem {
    vec![FieldError { field: "Idempotency-Key".into(), message: message.into() }].into()
}

impl App {
    /// Carries out a route of the stack, once under a key of this holder; tells of a request that was carried out
    /// before.
    ///
    /// # Errors
    /// As [`App::call`], and when the key is that of another request.
    pub async fn call_once(
        &self,
        headers: &HeaderMap,
        holder: Option<&Holder>,
        route: &'static str,
        arguments: Doc,
        key: Option<&[u8]>,
    ) -> Result<(Doc, bool), Problem> {
        let scope = holder.map(|holder| holder.token().name.as_bytes()).unwrap_or_default();
        let key = key.map(|key| Box::new(RequestKey::of(scope, route, key, &arguments)));
        let (history, trace) = (None, trace_of(headers));
        let ask = |ticket| Input::Call { ticket, route, arguments, history, trace, key };
        reply_of(self.client.ask(ask).await)
    }
}

/// An answer, marked if the request was carried out before.
pub fn marked(mut response: Response, replayed: bool) -> Response {
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(keys: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(HEADER, HeaderValue::from_bytes(key).expect("a header's value"));
        }
        headers
    }

    #[test]
    fn a_key_has_1_to_255_visible_characters_and_is_there_once() {
        let longest = [b'k'; KEY_CHARS_MAX];
        let keys: [&[u8]; 4] = [b"k", b"\"8e03978e-40d5\"", b"~!", &longest];
        for key in keys {
            assert_eq!(key_of(&headers(&[key])).ok(), Some(Some(key)));
        }
        assert_eq!(key_of(&headers(&[])).ok(), Some(None));
        let too_long = [b'k'; KEY_CHARS_MAX + 1];
        for wrong in [&b""[..], b"a b", b"a\tb", b"k\xc3\xa9", &too_long] {
            let told = format!("{:?}", key_of(&headers(&[wrong])).err());
            assert!(told.contains("1 to 255 visible ASCII characters"), "{told}");
        }
        let told = format!("{:?}", key_of(&headers(&[b"k", b"k"])).err());
        assert!(told.contains("more than once"), "{told}");
    }
}
