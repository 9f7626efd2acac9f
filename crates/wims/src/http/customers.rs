//! Customers over HTTP: what is personal of them is erased.
//!
//! Promise: an answer of done says that no open order of the customer has contact data any more,
//! durably, and how much was erased; and it says what stays. It deliberately touches no order: an
//! order is a record of business, and its events have been told.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;
use wims_runtime::io::{Answer, Query};
use wims_stack::table::TRANSACTION_ITEMS_MAX;
use wims_stack::{Doc, Field};

use crate::domain::{CONTACT_OF, TABLE};
use crate::http::problem::Problem;
use crate::http::query::PathParameters;
use crate::http::{App, json_reply, odd, read_optional_fields};

/// Transactions of one request: what is left after ten thousand orders asks again.
const TRANSACTIONS_MAX: usize = 100;
const STAYS: &str = "orders and their events keep customerId, lines and reference, as records of \
    business; what the payments API was told is there";
const JOURNAL: &str = "the journal holds what was erased until the segments it is in are removed: \
    not before the log's retention has passed (24 hours, unless the stack has another), and once \
    more was written; copies of the data directory keep it";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Erased<'a> {
    customer_id: &'a str,
    /// Orders whose contact data this request erased.
    erased: i64,
    /// Whether nothing is left; otherwise ask again.
    done: bool,
    stays: &'static str,
    journal: &'static str,
}

/// `POST /customers/{customerId}/erase`; repeating it erases what has come since.
pub async fn erase(
    State(app): State<App>,
    PathParameters(customer_id): PathParameters<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    read_optional_fields(&headers, body).await?.finish(|| Some(()))?;
    let (mut erased, mut done) = (0, false);
    for _ in 0..TRANSACTIONS_MAX {
        let Some(arguments) = some_orders(&app, &customer_id).await? else {
            done = true;
            break;
        };
        let reply = app.call(&headers, "erase-contacts", arguments, None).await?;
        erased += reply.int("erased").unwrap_or(0);
    }
    let told = Erased { customer_id: &customer_id, erased, done, stays: STAYS, journal: JOURNAL };
    Ok(json_reply(StatusCode::OK, serde_json::to_string(&told).expect("plain data is JSON")))
}

/// As many orders of a customer with contact data as fit a transaction, as the arguments of
/// `erase-contacts`; `None` when there are none.
async fn some_orders(app: &App, customer_id: &str) -> Result<Option<Doc>, Problem> {
    let list = Query::List {
        table: TABLE,
        attribute: CONTACT_OF,
        value: customer_id.to_owned(),
        before: u64::MAX,
        limit: TRANSACTION_ITEMS_MAX,
    };
    let Answer::Items(contacts) = app.query(list).await? else { return Err(odd()) };
    if contacts.is_empty() {
        return Ok(None);
    }
    let order_ids = contacts.iter().filter_map(|(contact, _)| contact.str("orderId"));
    let order_ids = Doc::build(|w| w.list(|w| order_ids.for_each(|order_id| w.str(order_id))));
    Ok(Some(Doc::object(&[("orderIds", Field::View(order_ids.view()))])))
}
