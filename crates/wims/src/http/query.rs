//! What a URL asks for: parameters of paths and query strings, read strictly; pages of lists.
//!
//! Promise: a parameter that is unknown, of another type or out of bounds is refused with a 400
//! that names it. It deliberately knows no route: what a route takes is a type beside its handler.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wims_stack::Doc;

use crate::http::problem::Problem;

/// Rows of a page unless asked otherwise.
const LIMIT: usize = 50;
/// Rows of a page, at most: while the engine reads them it does nothing else.
const LIMIT_MAX: usize = 500;
/// Every sequence comes before this one; history's signed numbers hold it as well.
const BEFORE_MAX: u64 = u64::MAX >> 1;

/// The parameters in the path of a request, such as `orderId`; what axum refuses is a problem.
pub struct PathParameters<T>(pub T);

impl<T, S> FromRequestParts<S> for PathParameters<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(parameters)) => Ok(PathParameters(parameters)),
            Err(rejection) => Err(Problem::new(rejection.status(), rejection.body_text())),
        }
    }
}

/// The query string of a request, as a type that refuses what it does not know.
pub struct QueryString<T>(pub T);

impl<T, S> FromRequestParts<S> for QueryString<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        read(&parts.uri).map(QueryString)
    }
}

fn read<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    match Query::try_from_uri(uri) {
        Ok(Query(asked)) => Ok(asked),
        Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
    }
}

/// How many rows a page has: as many as asked for, 50 unless asked; `parameter` is what asks.
///
/// # Errors
/// When it is not 1 to 500.
pub fn page_limit(parameter: &str, asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Problem::bad_request(format!("{parameter} is 1 to {LIMIT_MAX}"))),
    }
}

/// Rows of a page were created before this sequence: the `cursor` that is asked for, or the
/// newest first.
///
/// # Errors
/// When it is not what an earlier page gave.
pub fn page_before(cursor: Option<&str>) -> Result<u64, Problem> {
    let Some(cursor) = cursor else { return Ok(BEFORE_MAX) };
    let refused = |_| Problem::bad_request("cursor is what an earlier page gave as `next`");
    cursor.parse::<u64>().map_err(refused)
}

/// A page as JSON, `{"items": [...], "next": ...}`: each row as `view` shows it.
pub fn page_json<'a, T: Serialize>(
    page: &'a [(Doc, u64)],
    limit: usize,
    view: impl Fn(&'a Doc) -> T,
) -> String {
    #[derive(Serialize)]
    struct Page<T> {
        items: Vec<T>,
        next: Option<String>,
    }
    let items = page.iter().map(|(row, _)| view(row)).collect();
    let page = Page { items, next: next_cursor(page, limit) };
    serde_json::to_string(&page).expect("a page is JSON")
}

/// The cursor of the page after this one, whose rows come with their creation, newest first;
/// `None` when it is not full, which says that it is the last.
fn next_cursor(page: &[(Doc, u64)], limit: usize) -> Option<String> {
    let last = page.last().filter(|_| page.len() == limit);
    last.map(|(_, created)| created.to_string())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        limit: Option<usize>,
    }

    fn told(problem: &Problem) -> Value {
        serde_json::to_value(problem).expect("a problem is JSON")
    }

    #[test]
    fn a_page_has_50_rows_unless_1_to_500_are_asked_for() {
        assert_eq!(page_limit("limit", None).ok(), Some(50));
        assert_eq!(page_limit("limit", Some(1)).ok(), Some(1));
        assert_eq!(page_limit("limit", Some(500)).ok(), Some(500));
        for wrong in [0, 501] {
            let problem = told(&page_limit("last", Some(wrong)).expect_err("out of bounds"));
            assert_eq!(problem["status"], 400);
            assert_eq!(problem["detail"], "last is 1 to 500");
        }
    }

    #[test]
    fn a_full_page_tells_where_the_next_one_begins_and_a_short_one_is_the_last() {
        let page = [(Doc::object(&[]), 9), (Doc::object(&[]), 4)];
        assert_eq!(next_cursor(&page, 2).as_deref(), Some("4"));
        assert_eq!(next_cursor(&page, 3), None);
        assert_eq!(next_cursor(&[], 1), None);
        assert_eq!(page_before(Some("4")).ok(), Some(4));
        assert_eq!(page_before(None).ok(), Some(BEFORE_MAX));
        for wrong in ["", "x", "-1", "18446744073709551616"] {
            let problem = told(&page_before(Some(wrong)).expect_err("no cursor"));
            assert_eq!(problem["status"], 400, "{wrong:?}");
        }
    }

    #[test]
    fn a_parameter_that_is_unknown_or_of_another_type_is_refused_by_name() {
        let read = |uri| read::<Asked>(&Uri::from_static(uri)).map(|asked| asked.limit);
        assert_eq!(read("/orders").ok(), Some(None));
        assert_eq!(read("/orders?limit=7").ok(), Some(Some(7)));
        for (wrong, named) in [("/orders?limit=x", "limit"), ("/orders?colour=red", "colour")] {
            let problem = told(&read(wrong).expect_err("a refusal"));
            assert_eq!(problem["status"], 400);
            let detail = problem["detail"].as_str().unwrap_or_default();
            assert!(detail.contains(named), "{detail}");
        }
    }
}
