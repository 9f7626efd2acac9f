//! Who may send which request, and how many of them: what stands before all routes.
//!
//! Promise: a request whose token lacks the role, is unknown or is missing reaches no route; a token
//! that was revoked is unknown a second later. It deliberately has no sessions, no users and no
//! forwarded addresses: a proxy that knows its clients has limits of its own.
//!
//! | Request | Role |
//! |---|---|
//! | `/healthz`, `/readyz` | none; counted by address, as all without a token |
//! | `GET` and `HEAD` of anything else, `/metrics` included | `read` |
//! | `POST /orders`, `POST /orders/{id}/cancel` and `/payment` | `orders:write` |
//! | everything else: ship, stock, redrive, drop, erase | `operate`, which includes `read` |

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use wims_runtime::driver::locked;

use crate::http::limits::{Asker, Limits};
use crate::http::problem::Problem;
use crate::http::tokens::{self, Holder, Role, Stamp, Tokens, TokensError};

/// Between two looks at the file of tokens.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a request reaches no route.
#[derive(Debug, PartialEq, Eq)]
pub enum Denial {
    /// It has no token.
    NoToken,
    /// Its token is unknown.
    UnknownToken,
    /// Its token lacks this role.
    NeedsRole(Role),
    /// It is one too many; seconds after which the next is not.
    TooMany(u64),
}

impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        let (status, detail) = match self {
            Denial::NoToken => (
                StatusCode::UNAUTHORIZED,
                "a token is needed, as the header Authorization: Bearer wims_...".to_owned(),
            ),
            Denial::UnknownToken => {
                (StatusCode::UNAUTHORIZED, "the token is unknown, or was revoked".to_owned())
            }
            Denial::NeedsRole(role) => {
                (StatusCode::FORBIDDEN, format!("this needs a token with the role {}", role.name()))
            }
            Denial::TooMany(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "too many requests a second".to_owned())
            }
        };
        let mut response = Problem::new(status, detail).into_response();
        let (name, value) = match self {
            Denial::NoToken | Denial::UnknownToken => {
                (WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            // RFC 6750, section 3.1.
            Denial::NeedsRole(_) => {
                (WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer error="insufficient_scope""#))
            }
            Denial::TooMany(seconds) => (RETRY_AFTER, HeaderValue::from(seconds)),
        };
        response.headers_mut().insert(name, value);
        response
    }
}

/// What stands before the routes.
pub struct Guard {
    /// None where nobody needs one.
    tokens: Option<Mutex<Arc<Tokens>>>,
    /// None where there is no limit.
    limits: Option<Mutex<Limits>>,
}

impl Guard {
    /// A guard that wants one of these tokens, allows so many requests a second, or both.
    pub fn new(tokens: Option<Tokens>, per_second: Option<NonZeroU32>) -> Guard {
        Guard {
            tokens: tokens.map(|tokens| Mutex::new(Arc::new(tokens))),
            limits: per_second.map(|per_second| Mutex::new(Limits::new(per_second))),
        }
    }

    /// Whether a request must have a token.
    pub fn wants_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Lets a request through, and says whose it is where tokens are asked for; or why not.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        client: IpAddr,
    ) -> Result<Option<Holder>, Denial> {
        let (Some(needed), Some(known)) = (role_of(method, path), &self.tokens) else {
            return self.count(Asker::from_address(client)).map(|()| None);
        };
        let known = locked(known).clone();
        let told = bearer(headers);
        let holder = told.and_then(|told| known.holder(told));
        // Who tries tokens is counted by address.
        let asker = holder.as_ref().map(|holder| Asker::Token(holder.token().sha256));
        self.count(asker.unwrap_or_else(|| Asker::from_address(client)))?;
        let has_role =
            |holder: &Holder| holder.token().roles.iter().any(|role| role.includes(needed));
        match (told, holder) {
            (None, _) => Err(Denial::NoToken),
            (Some(_), None) => Err(Denial::UnknownToken),
            (Some(_), Some(holder)) if has_role(&holder) => Ok(Some(holder)),
            (Some(_), Some(_)) => Err(Denial::NeedsRole(needed)),
        }
    }

    fn count(&self, asker: Asker) -> Result<(), Denial> {
        let Some(limits) = &self.limits else { return Ok(()) };
        locked(limits).take(asker, Instant::now()).map_err(Denial::TooMany)
    }

    /// From now on these are the tokens.
    fn replace(&self, tokens: Tokens) {
        if let Some(known) = &self.tokens {
            *locked(known) = Arc::new(tokens);
        }
    }
}

/// What a request needs; none for a probe, which has no token. What writes and has no line here
/// needs the role of those who run the warehouse, so that a new route is closed until it has one.
fn role_of(method: &Method, path: &str) -> Option<Role> {
    match (method, path) {
        (_, "/healthz" | "/readyz") => None,
        (&Method::GET | &Method::HEAD, _) => Some(Role::Read),
        (&Method::POST, "/orders") => Some(Role::OrdersWrite),
        (&Method::POST, path) if is_of_who_ordered(path) => Some(Role::OrdersWrite),
        (_, _) => Some(Role::Operate),
    }
}

/// What is done to an order for the customer who placed it, by whoever may place one.
fn is_of_who_ordered(path: &str) -> bool {
    let rest = path.strip_prefix("/orders/").and_then(|rest| rest.split_once('/'));
    rest.is_some_and(|(order_id, action)| {
        !order_id.is_empty() && matches!(action, "cancel" | "payment")
    })
}

/// The token of a request (RFC 6750, section 2.1); none when there are two.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut told = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (told.next()?, told.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Looks once a second whether the file of tokens has changed, and takes what is new. A file that
/// is broken or gone changes nothing: tokens that were good stay good. One that cannot be read for
/// now is tried again, so that no revocation is lost. The thread ends with the guard.
///
/// # Errors
/// When it cannot start.
pub fn watch(guard: &Arc<Guard>, path: PathBuf, first: Stamp) -> std::io::Result<()> {
    let guard = Arc::downgrade(guard);
    let mut watched = Watched { path, seen: Some(first), complained: false };
    let look = move || {
        loop {
            std::thread::sleep(LOOK_INTERVAL);
            let Some(guard) = guard.upgrade() else { return };
            watched.look(&guard, tokens::read);
        }
    };
    std::thread::Builder::new().name("tokens".to_owned()).spawn(look).map(drop)
}

/// The file of tokens, as it was seen last.
struct Watched {
    path: PathBuf,
    /// None when it was gone.
    seen: Option<Stamp>,
    /// It cannot be read for now, and that was logged.
    complained: bool,
}

impl Watched {
    /// Looks at the file, and reads it if it is another one than that which was seen.
    fn look(
        &mut self,
        guard: &Guard,
        read: impl FnOnce(&Path) -> Result<Option<(Tokens, Stamp)>, TokensError>,
    ) {
        let now = Stamp::at(&self.path);
        if now == self.seen {
            return;
        }
        match read(&self.path) {
            Ok(Some((tokens, stamp))) => {
                self.seen = Some(stamp);
                tracing::info!(count = tokens.iter().count(), "the tokens have changed");
                guard.replace(tokens);
            }
            Ok(None) => {
                self.seen = None;
                tracing::error!("the file of tokens is gone; those that were known stay");
            }
            // Another look at the same file would not help.
            Err(error @ TokensError::Broken { .. }) => {
                self.seen = now;
                tracing::error!(%error, "new tokens cannot be read; those that were known stay");
            }
            Err(error) => {
                if !self.complained {
                    tracing::error!(%error, "new tokens cannot be read for now; trying again");
                }
                self.complained = true;
                return;
            }
        }
        self.complained = false;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::http::HeaderName;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A guard that knows no token.
    fn closed(per_second: Option<u32>) -> Guard {
        Guard::new(Some(Tokens::default()), per_second.and_then(NonZeroU32::new))
    }

    fn ask(guard: &Guard, path: &str) -> Result<(), Denial> {
        guard.admit(&Method::GET, path, &HeaderMap::new(), CLIENT).map(|holder| {
            assert!(holder.is_none(), "it has no token");
        })
    }

    #[test]
    fn each_request_needs_the_role_of_the_table() {
        let cases = [
            (Method::GET, "/healthz", None),
            (Method::GET, "/readyz", None),
            (Method::GET, "/metrics", Some(Role::Read)),
            (Method::HEAD, "/orders", Some(Role::Read)),
            (Method::GET, "/orders/x", Some(Role::Read)),
            (Method::POST, "/orders", Some(Role::OrdersWrite)),
            (Method::POST, "/orders/", Some(Role::Operate)),
            (Method::POST, "/orders/x/ship", Some(Role::Operate)),
            (Method::POST, "/orders/x/cancel", Some(Role::OrdersWrite)),
            (Method::POST, "/orders/x/payment", Some(Role::OrdersWrite)),
            (Method::POST, "/orders//cancel", Some(Role::Operate)),
            (Method::POST, "/orders/x/y/cancel", Some(Role::Operate)),
            (Method::PUT, "/orders/x/cancel", Some(Role::Operate)),
            (Method::PUT, "/inventory/a/b", Some(Role::Operate)),
            (Method::POST, "/inventory/a/b/receipts", Some(Role::Operate)),
            (Method::POST, "/queues/q/redrive", Some(Role::Operate)),
            (Method::DELETE, "/leftovers/queue/q", Some(Role::Operate)),
            (Method::OPTIONS, "/orders", Some(Role::Operate)),
            (Method::POST, "/healthz/x", Some(Role::Operate)),
        ];
        for (method, path, role) in cases {
            assert_eq!(role_of(&method, path), role, "{method} {path}");
        }
    }

    #[test]
    fn a_token_is_one_header_of_the_scheme_bearer() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(of(&["Bearer wims_a"]), Some(b"wims_a".to_vec()));
        assert_eq!(of(&["bearer  wims_a "]), Some(b"wims_a".to_vec()));
        assert_eq!(of(&["Bearer "]), Some(Vec::new()));
        assert_eq!(of(&[]), None);
        for wrong in ["Basic wims_a", "wims_a", "Bearer", "Bearerwims_a"] {
            assert_eq!(of(&[wrong]), None, "{wrong}");
        }
        assert_eq!(of(&["Bearer wims_a", "Bearer wims_b"]), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_for_now_is_read_by_a_later_look() {
        let name = format!("wims-auth-{}-watched", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, r#"{"version":1,"tokens":[]}"#).unwrap();
        let guard = closed(None);
        let mut watched = Watched { path: path.clone(), seen: None, complained: false };
        let unusable = |path: &Path| {
            let (path, source) = (path.to_owned(), std::io::ErrorKind::Other.into());
            Err(TokensError::Unusable { path, source })
        };
        watched.look(&guard, unusable);
        let mut reads = 0;
        for _ in 0..2 {
            watched.look(&guard, |path| {
                reads += 1;
                tokens::read(path)
            });
        }
        assert_eq!(reads, 1, "it is tried again, and once it is read no more");
        std::fs::write(&path, "broken").unwrap();
        for _ in 0..2 {
            watched.look(&guard, |path| {
                reads += 1;
                tokens::read(path)
            });
        }
        assert_eq!(reads, 2, "what is broken is read once");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn who_has_no_token_is_counted_by_address_and_so_are_probes() {
        let guard = closed(Some(1));
        assert_eq!(ask(&guard, "/orders"), Err(Denial::NoToken));
        assert_eq!(ask(&guard, "/healthz"), Ok(()));
        assert_eq!(ask(&guard, "/readyz"), Err(Denial::TooMany(1)));
        assert_eq!(ask(&guard, "/orders"), Err(Denial::TooMany(1)));
        assert_eq!(ask(&closed(None), "/readyz"), Ok(()));
    }

    #[test]
    fn a_limit_alone_wants_no_token() {
        let guard = Guard::new(None, NonZeroU32::new(1));
        let answers = [(); 3].map(|()| ask(&guard, "/orders"));
        assert_eq!(answers, [Ok(()), Ok(()), Err(Denial::TooMany(1))]);
    }

    #[test]
    fn a_denial_says_what_would_help() {
        let head = |denial: Denial, name: HeaderName| {
            let response = denial.into_response();
            let value =
                response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), value.unwrap_or_default())
        };
        assert_eq!(head(Denial::NoToken, WWW_AUTHENTICATE), (401, "Bearer".into()));
        assert_eq!(head(Denial::UnknownToken, WWW_AUTHENTICATE), (401, "Bearer".into()));
        let scope = r#"Bearer error="insufficient_scope""#.to_owned();
        assert_eq!(head(Denial::NeedsRole(Role::Read), WWW_AUTHENTICATE), (403, scope));
        assert_eq!(head(Denial::TooMany(1), RETRY_AFTER), (429, "1".into()));
    }
}
