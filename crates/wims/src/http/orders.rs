//! Orders over HTTP: create, read, list, ship, cancel.
//!
//! Article section "OrdersApi". Promise: an order reads the same wherever it is, open in the engine
//! or closed in history, and says the one thing it waits for; a list is newest first. What is
//! personal is shown only to who asks for that very order, its payment method to nobody; its place
//! in line, which takes a look at queues, is shown there as well. It
//! deliberately decides nothing about an order: whether it is taken or shipped is the engine's word.
//! And it counts nothing over all orders.

mod new_order;
pub mod timeline;
mod waiting;

use std::ops::RangeInclusive;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use wims_runtime::io::{Answer, Query};
use wims_stack::{Doc, Field, Node, View};

use crate::domain::{
    CONTACT_SK, FulfillmentStatus, InventoryStatus, OrderStatus, PaymentStatus, States, TABLE,
    contact_pk,
};
use crate::http::idempotency::{key_of, marked};
use crate::http::problem::Problem;
use crate::http::query::{PathParameters, QueryString, page_before, page_json, page_limit};
use crate::http::strict::values::printable_of;
use crate::http::tokens::Holder;
use crate::http::{App, json_reply, odd, read_keyed_fields, read_optional_fields, rfc3339};

use waiting::Waiting;

/// Enough to say why; it is stored with the order for good.
const REASON_CHARS: RangeInclusive<usize> = 1..=256;

/// An order as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderView<'a> {
    order_id: &'a str,
    customer_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    status: &'a str,
    inventory_status: &'a str,
    payment_status: &'a str,
    fulfillment_status: &'a str,
    lines: Option<Node<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantity: Option<i64>,
    amount: i64,
    currency: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_requested_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<ContactView<'a>>,
    created_at: String,
    updated_at: String,
    waits_for: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
}

/// What of an order's contact data is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContactView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ship_to: Option<Node<'a>>,
}

impl<'a> ContactView<'a> {
    /// `None` when nothing of it is shown.
    fn of(contact: &'a Doc) -> Option<ContactView<'a>> {
        let (email, ship_to) = (contact.str("email"), contact.get("shipTo").map(Node::View));
        (email.is_some() || ship_to.is_some()).then_some(ContactView { email, ship_to })
    }
}

impl<'a> OrderView<'a> {
    /// An order as lists show it, without what is personal.
    fn of(order: &'a Doc) -> OrderView<'a> {
        let text = |name| order.str(name).unwrap_or("");
        OrderView {
            order_id: text("orderId"),
            customer_id: text("customerId"),
            reference: order.str("reference"),
            status: text("status"),
            inventory_status: text("inventoryStatus"),
            payment_status: text("paymentStatus"),
            fulfillment_status: text("fulfillmentStatus"),
            lines: order.get("lines").map(Node::View),
            quantity: order.get("quantity").and_then(View::as_int),
            amount: order.int("amount").unwrap_or(0),
            currency: text("currency"),
            reason: order.str("reason"),
            cancel_reason: order.str("cancelReason"),
            cancel_requested_at: order.int("cancelRequestedAt").map(rfc3339),
            contact: None,
            created_at: rfc3339(order.int("timestamp").unwrap_or(0)),
            updated_at: rfc3339(order.int("updatedAt").unwrap_or(0)),
            waits_for: States::of(order).and_then(waits_for),
            waiting: None,
        }
    }

    fn json(order: &Doc) -> String {
        serde_json::to_string(&OrderView::of(order)).expect("an order is JSON")
    }
}

/// The one thing an open order waits for.
fn waits_for(states: States) -> Option<&'static str> {
    match states.status() {
        OrderStatus::Shipped | OrderStatus::Canceled => None,
        OrderStatus::Canceling => Some(match states.payment {
            PaymentStatus::Processing => "the payments API's answer, before it is canceled",
            PaymentStatus::RefundPending => "its refund's turn in refunds-queue",
            // None of the others is CANCELING.
            PaymentStatus::Unknown
            | PaymentStatus::Failed
            | PaymentStatus::Pending
            | PaymentStatus::Paid
            | PaymentStatus::Declined
            | PaymentStatus::Voided
            | PaymentStatus::Refunded
            | PaymentStatus::RefundFailed => "a look-up of what became of its payment",
        }),
        OrderStatus::Ready if states.fulfillment == FulfillmentStatus::Unfulfilled => {
            Some("its hand-over to fulfillment")
        }
        OrderStatus::Ready => Some("a person to ship it"),
        OrderStatus::OnHold if states.payment == PaymentStatus::Declined => {
            Some("another payment method, or its cancellation")
        }
        OrderStatus::OnHold if states.payment == PaymentStatus::RefundFailed => {
            Some("a person to redrive its refund from refunds-dlq")
        }
        OrderStatus::OnHold => Some("a person to redrive its payment from payments-dlq"),
        OrderStatus::Backordered => Some("stock to arrive"),
        OrderStatus::Pending if states.inventory == InventoryStatus::Unreserved => {
            Some("the decision on its stock")
        }
        OrderStatus::Pending => Some(match states.payment {
            PaymentStatus::Pending => "its payment's turn in payments-queue",
            PaymentStatus::Processing => "the payments API's answer",
            // Only the first: with stock, the others make the status another one.
            PaymentStatus::Unknown
            | PaymentStatus::Paid
            | PaymentStatus::Declined
            | PaymentStatus::Failed
            | PaymentStatus::Voided
            | PaymentStatus::RefundPending
            | PaymentStatus::Refunded
            | PaymentStatus::RefundFailed => "a look-up of what became of its payment",
        }),
    }
}

/// `POST /orders`.
pub async fn create(
    State(app): State<App>,
    holder: Option<Extension<Holder>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    take(&app, &headers, holder.as_deref(), body).await
}

/// Takes an order, once under an idempotency key; what `POST /orders` does.
pub async fn take(
    app: &App,
    headers: &HeaderMap,
    holder: Option<&Holder>,
    body: Body,
) -> Result<Response, Problem> {
    let key = key_of(headers)?;
    let arguments = read_order(headers, body).await?;
    let (reply, replayed) = app.call_once(headers, holder, "create-order", arguments, key).await?;
    Ok(marked(created(&reply), replayed))
}

/// The arguments of `create-order`, as a body has them.
pub async fn read_order(headers: &HeaderMap, body: Body) -> Result<Doc, Problem> {
    Ok(new_order::arguments(read_keyed_fields(headers, body).await?)?)
}

/// The answer to an order that was taken: `{orderId, status}` as `create-order` replies it.
pub fn created(reply: &Doc) -> Response {
    let order_id = reply.str("orderId").unwrap_or("");
    let body = format!(
        r#"{{"message":"Order created!","orderId":"{order_id}","status":"{}"}}"#,
        reply.str("status").unwrap_or("")
    );
    let mut response = json_reply(StatusCode::OK, body);
    let location = HeaderValue::try_from(format!("/orders/{order_id}"));
    response.headers_mut().extend(location.ok().map(|value| (header::LOCATION, value)));
    response
}

/// `GET /orders/{orderId}`.
pub async fn read(
    State(app): State<App>,
    PathParameters(order_id): PathParameters<String>,
) -> Result<Response, Problem> {
    let (order, created) = find(&app, &order_id).await?;
    let contact = contact(&app, &order).await?;
    let contact = contact.as_ref().and_then(ContactView::of);
    let waiting = waiting::of(&app, &order, created).await?;
    let view = OrderView { contact, waiting, ..OrderView::of(&order) };
    Ok(json_reply(StatusCode::OK, serde_json::to_string(&view).expect("an order is JSON")))
}

/// The contact data of an order, if it came with some that is still there.
async fn contact(app: &App, order: &Doc) -> Result<Option<Doc>, Problem> {
    let order_id = order.str("orderId").filter(|_| order.get("hasContact").is_some());
    let Some(order_id) = order_id else { return Ok(None) };
    let (pk, sk) = (contact_pk(order_id), CONTACT_SK.to_owned());
    let Answer::Item(item) = app.query(Query::Get { table: TABLE, pk, sk }).await? else {
        return Err(odd());
    };
    Ok(item.map(|(contact, _)| contact))
}

/// An open order from the engine, or a closed one from history; with its creation.
async fn find(app: &App, order_id: &str) -> Result<(Doc, u64), Problem> {
    let value = order_id.to_owned();
    let open = Query::Find { table: TABLE, attribute: "orderId", value };
    if let Answer::Item(Some(found)) = app.query(open).await? {
        return Ok(found);
    }
    closed(app, order_id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no order {order_id}")))
}

async fn closed(app: &App, order_id: &str) -> Result<Option<(Doc, u64)>, Problem> {
    let order_id = order_id.to_owned();
    let found = app.history(move |history| history.find(TABLE, "orderId", &order_id)).await?;
    Ok(found.map(|item| (item.doc, item.created)))
}

/// `POST /orders/{orderId}/ship`.
pub async fn ship(
    State(app): State<App>,
    PathParameters(order_id): PathParameters<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    read_optional_fields(&headers, body).await?.finish(|| Some(()))?;
    let arguments = Doc::object(&[("orderId", Field::Str(&order_id))]);
    let order = call_for(&app, &headers, "ship-order", &order_id, arguments).await?;
    Ok(json_reply(StatusCode::OK, OrderView::json(&order)))
}

/// `POST /orders/{orderId}/cancel`: 200 when it is CANCELED, 202 while it is on its way there.
pub async fn cancel(
    State(app): State<App>,
    PathParameters(order_id): PathParameters<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut fields = read_optional_fields(&headers, body).await?;
    let reason = fields.optional("reason", |value| printable_of(value, &REASON_CHARS));
    fields.finish(|| Some(()))?;
    let arguments = Doc::object(&[("orderId", Field::Str(&order_id))]);
    let arguments = arguments.with(&[("reason", reason.as_deref().map(Field::Str))]);
    let order = call_for(&app, &headers, "cancel-order", &order_id, arguments).await?;
    let is_done = order.str("status") == Some(OrderStatus::Canceled.as_str());
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(json_reply(status, OrderView::json(&order)))
}

/// `POST /orders/{orderId}/payment`: another method after a decline.
pub async fn pay(
    State(app): State<App>,
    PathParameters(order_id): PathParameters<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut fields = read_optional_fields(&headers, body).await?;
    let method = fields.required("paymentMethod", new_order::payment_method);
    let method = fields.finish(|| method)?;
    let arguments =
        Doc::object(&[("orderId", Field::Str(&order_id)), ("paymentMethod", Field::Str(&method))]);
    let order = call_for(&app, &headers, "pay-order", &order_id, arguments).await?;
    Ok(json_reply(StatusCode::OK, OrderView::json(&order)))
}

/// Carries out a route for one order; when it is not open it may be closed, and in history.
async fn call_for(
    app: &App,
    headers: &HeaderMap,
    route: &'static str,
    order_id: &str,
    arguments: Doc,
) -> Result<Doc, Problem> {
    match app.call(headers, route, arguments.clone(), None).await {
        Err(problem) if problem.is_not_found() => {
            let (history, _) = closed(app, order_id).await?.ok_or(problem)?;
            app.call(headers, route, arguments, Some(history)).await
        }
        other => other,
    }
}

/// What `GET /orders` takes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListQuery {
    status: Option<String>,
    customer_id: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// `GET /orders?status=&customerId=&limit=&cursor=`, newest first.
pub async fn list(
    State(app): State<App>,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Response, Problem> {
    let limit = page_limit("limit", query.limit)?;
    let before = page_before(query.cursor.as_deref())?;
    let status = query.status.as_deref().map(order_status).transpose()?;
    let wanted = Wanted { status, customer_id: query.customer_id };
    let page = page(&app, &wanted, before, limit).await?;
    Ok(json_reply(StatusCode::OK, page_json(&page, limit, OrderView::of)))
}

/// The status asked for.
fn order_status(text: &str) -> Result<OrderStatus, Problem> {
    OrderStatus::parse(text).ok_or_else(|| {
        let all: Vec<&str> = OrderStatus::ALL.iter().map(|status| status.as_str()).collect();
        Problem::bad_request(format!("status is one of {}", all.join(", ")))
    })
}

/// Which orders a list shows.
struct Wanted {
    status: Option<OrderStatus>,
    customer_id: Option<String>,
}

impl Wanted {
    /// Index lookups that together cover what is asked.
    fn selections(&self) -> Vec<(&'static str, String)> {
        let of_status = |status: OrderStatus| ("status", status.as_str().to_owned());
        match (&self.customer_id, self.status) {
            (Some(customer), _) => vec![("customerId", customer.clone())],
            (None, Some(status)) => vec![of_status(status)],
            (None, None) => OrderStatus::ALL.iter().copied().map(of_status).collect(),
        }
    }

    fn is(&self, order: &Doc) -> bool {
        self.status.is_none_or(|status| order.str("status") == Some(status.as_str()))
    }
}

/// One page: open orders from the engine and closed ones from history, merged by creation.
async fn page(
    app: &App,
    wanted: &Wanted,
    before: u64,
    limit: usize,
) -> Result<Vec<(Doc, u64)>, Problem> {
    let mut found: Vec<(Doc, u64)> = Vec::new();
    for (attribute, value) in wanted.selections() {
        let (mut before, mut kept) = (before, 0);
        // A filter on a second attribute may leave a page short: go on until it is full.
        while kept < limit {
            let batch = batch(app, attribute, value.clone(), before, limit).await?;
            let Some((_, last)) = batch.last() else { break };
            before = *last;
            let before_len = found.len();
            found.extend(batch.into_iter().filter(|(order, _)| wanted.is(order)));
            kept += found.len() - before_len;
        }
    }
    found.sort_by_key(|(_, created)| std::cmp::Reverse(*created));
    found.dedup_by_key(|(_, created)| *created);
    found.truncate(limit);
    Ok(found)
}

async fn batch(
    app: &App,
    attribute: &'static str,
    value: String,
    before: u64,
    limit: usize,
) -> Result<Vec<(Doc, u64)>, Problem> {
    let open = Query::List { table: TABLE, attribute, value: value.clone(), before, limit };
    let Answer::Items(mut items) = app.query(open).await? else { return Ok(Vec::new()) };
    let closed =
        app.history(move |history| history.list(TABLE, attribute, &value, before, limit)).await?;
    items.extend(closed.into_iter().map(|item| (item.doc, item.created)));
    items.sort_by_key(|(_, created)| std::cmp::Reverse(*created));
    items.dedup_by_key(|(_, created)| *created);
    items.truncate(limit);
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_payment_waits_for_a_person_until_its_message_is_received_again() {
        let held = |payment| {
            let (inventory, fulfillment) =
                (InventoryStatus::Reserved, FulfillmentStatus::Unfulfilled);
            waits_for(States { inventory, payment, fulfillment })
        };
        let redrive = "a person to redrive its payment from payments-dlq";
        assert_eq!(held(PaymentStatus::Failed), Some(redrive));
        let look_up = "a look-up of what became of its payment";
        assert_eq!(held(PaymentStatus::Unknown), Some(look_up));
    }

    #[test]
    fn contact_data_is_shown_without_the_payment_method() {
        let shown = |contact: &Doc| {
            ContactView::of(contact).map(|view| serde_json::to_string(&view).expect("JSON"))
        };
        let (email, method) =
            (("email", Field::Str("ada@example.com")), ("paymentMethod", Field::Str("tok_1")));
        let both = shown(&Doc::object(&[email, method]));
        assert_eq!(both.as_deref(), Some(r#"{"email":"ada@example.com"}"#));
        assert_eq!(shown(&Doc::object(&[method])), None);
    }

    #[test]
    fn a_status_there_is_not_is_refused_with_those_there_are() {
        assert_eq!(order_status("ON_HOLD").ok(), Some(OrderStatus::OnHold));
        let refused = format!("{:?}", order_status("RED"));
        let told = "status is one of PENDING, BACKORDERED, ON_HOLD, READY, SHIPPED, CANCELING, \
            CANCELED";
        assert!(refused.contains(told), "{refused}");
    }

    #[test]
    fn a_canceled_order_waits_for_its_money_alone() {
        let canceled = |payment| {
            let (inventory, fulfillment) =
                (InventoryStatus::Released, FulfillmentStatus::Unfulfilled);
            waits_for(States { inventory, payment, fulfillment })
        };
        assert_eq!(canceled(PaymentStatus::Voided), None);
        assert_eq!(canceled(PaymentStatus::Refunded), None);
        let refund = canceled(PaymentStatus::RefundPending);
        assert_eq!(refund, Some("its refund's turn in refunds-queue"));
        let look_up = "a look-up of what became of its payment";
        assert_eq!(canceled(PaymentStatus::Failed), Some(look_up));
        let redrive = "a person to redrive its refund from refunds-dlq";
        assert_eq!(canceled(PaymentStatus::RefundFailed), Some(redrive));
    }

    #[test]
    fn a_ready_order_waits_for_its_hand_over_and_then_for_a_person() {
        let ready = |fulfillment| {
            let (inventory, payment) = (InventoryStatus::Reserved, PaymentStatus::Paid);
            waits_for(States { inventory, payment, fulfillment })
        };
        assert_eq!(ready(FulfillmentStatus::Unfulfilled), Some("its hand-over to fulfillment"));
        assert_eq!(ready(FulfillmentStatus::Ready), Some("a person to ship it"));
    }
}
