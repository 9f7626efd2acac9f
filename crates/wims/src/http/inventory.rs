//! Stock over HTTP: the article's `GET /inventory`, items, receipts.
//!
//! Promise: an item reads the same on every route, with the article's fields among its own: what is
//! available, what is reserved, and what is on hand; a read also tells who holds back what is free,
//! while orders wait. It deliberately has no way to set a quantity:
//! stock comes by receipts and goes with orders, and describing an item leaves it as it is.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use wims_runtime::io::{Answer, Query};
use wims_stack::{Doc, Field, View};

use crate::domain::{BACKORDER, DEFAULT_SKU, STOCK_MAX, Sku, TABLE, flat_item};
use crate::http::idempotency::{key_of, marked};
use crate::http::problem::Problem;
use crate::http::query::{PathParameters, QueryString, page_before, page_json, page_limit};
use crate::http::tokens::Holder;
use crate::http::{App, json_reply, odd, read_fields, read_keyed_fields};

/// Attribute of an item as it is shown; no stored item has it.
const BLOCKED_BY: &str = "blockedBy";

/// An item as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemView<'a> {
    sku: &'a str,
    product: &'a str,
    model: &'a str,
    product_name: &'a str,
    quantity: i64,
    reserved: i64,
    on_hand: i64,
    backordered: i64,
    /// The order that waits first, when it holds back what is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<&'a str>,
    reorder_point: i64,
    order_quantity_max: i64,
    unit_price: i64,
    currency: &'a str,
}

impl<'a> ItemView<'a> {
    fn of(item: &'a Doc) -> ItemView<'a> {
        let text = |name| item.str(name).unwrap_or("");
        let int = |name| item.get(name).and_then(View::as_int).unwrap_or(0);
        ItemView {
            sku: text("sku"),
            product: text("product"),
            model: text("model"),
            product_name: text("productName"),
            quantity: int("quantity"),
            reserved: int("reserved"),
            on_hand: int("onHand"),
            backordered: int("backordered"),
            blocked_by: item.str(BLOCKED_BY),
            reorder_point: int("reorderPoint"),
            order_quantity_max: int("orderQuantityMax"),
            unit_price: int("unitPrice"),
            currency: text("currency"),
        }
    }
}

fn item_json(item: &Doc) -> String {
    serde_json::to_string(&ItemView::of(item)).expect("an item is JSON")
}

/// `GET /inventory`: the default item, as in the article.
pub async fn default_item(State(app): State<App>) -> Result<Response, Problem> {
    let item = find(&app, &DEFAULT_SKU).await?;
    Ok(json_reply(StatusCode::OK, item_json(&item)))
}

/// `GET /inventory/{product}/{model}`.
pub async fn read(
    State(app): State<App>,
    PathParameters((product, model)): PathParameters<(String, String)>,
) -> Result<Response, Problem> {
    let item = find(&app, &sku(&product, &model)?).await?;
    Ok(json_reply(StatusCode::OK, item_json(&item)))
}

fn sku<'a>(product: &'a str, model: &'a str) -> Result<Sku<'a>, Problem> {
    Sku::new(product, model).ok_or_else(|| {
        let detail = format!("there is no item {product}/{model}");
        Problem::not_found(detail)
    })
}

/// The item of a sku, as it is shown.
///
/// # Errors
/// When there is none, or the engine cannot be asked.
pub async fn find(app: &App, sku: &Sku<'_>) -> Result<Doc, Problem> {
    let query = Query::Get { table: TABLE, pk: sku.pk(), sk: sku.sk() };
    let Answer::Item(item) = app.query(query).await? else { return Err(odd()) };
    let (item, _) = item.ok_or_else(|| Problem::not_found(format!("there is no item {sku}")))?;
    shown(app, &item).await
}

/// An item as it is shown, with who holds back what is free: the first that waits for it.
async fn shown(app: &App, item: &Doc) -> Result<Doc, Problem> {
    let flat = flat_item(item);
    let has = |name| item.int(name).is_some_and(|number| number > 0);
    let Some(sku) = item.str("sku").filter(|_| has("quantity") && has("backordered")) else {
        return Ok(flat);
    };
    let first = Query::First { table: TABLE, pk: format!("{BACKORDER}{sku}") };
    let Answer::Item(first) = app.query(first).await? else { return Err(odd()) };
    let order_id = first.as_ref().and_then(|(entry, _)| entry.str("orderId"));
    Ok(match order_id {
        Some(order_id) => flat.with(&[(BLOCKED_BY, Some(Field::Str(order_id)))]),
        None => flat,
    })
}

/// What `GET /inventory/items` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// `GET /inventory/items?limit=&cursor=`, newest first.
pub async fn items(
    State(app): State<App>,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Response, Problem> {
    let limit = page_limit("limit", query.limit)?;
    let before = page_before(query.cursor.as_deref())?;
    let value = "items".to_owned();
    let list = Query::List { table: TABLE, attribute: "catalog", value, before, limit };
    let Answer::Items(mut page) = app.query(list).await? else { return Err(odd()) };
    for (item, _) in &mut page {
        *item = shown(&app, item).await?;
    }
    Ok(json_reply(StatusCode::OK, page_json(&page, limit, ItemView::of)))
}

/// `PUT /inventory/{product}/{model}`.
pub async fn put(
    State(app): State<App>,
    PathParameters((product, model)): PathParameters<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut fields = read_fields(&headers, body).await?;
    let name = fields.required_text("productName", 1..=200);
    let price = fields.optional_int("unitPrice", 0..=1_000_000_000);
    let currency = fields.optional_currency("currency");
    let reorder_point = fields.optional_int("reorderPoint", 0..=STOCK_MAX);
    let quantity_max = fields.optional_int("orderQuantityMax", 1..=10_000);
    let name = fields.finish(|| name)?;
    let mut arguments = vec![
        ("product", Field::Str(&product)),
        ("model", Field::Str(&model)),
        ("productName", Field::Str(&name)),
    ];
    arguments.extend(price.map(|value| ("unitPrice", Field::Int(value))));
    arguments.extend(currency.as_deref().map(|value| ("currency", Field::Str(value))));
    arguments.extend(reorder_point.map(|value| ("reorderPoint", Field::Int(value))));
    arguments.extend(quantity_max.map(|value| ("orderQuantityMax", Field::Int(value))));
    let reply = app.call(&headers, "put-item", Doc::object(&arguments), None).await?;
    let created = reply.get("created").is_some_and(|created| created.bytes() == [2]);
    let item = reply.part("item").unwrap_or(reply);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_reply(status, item_json(&item)))
}

/// `POST /inventory/{product}/{model}/receipts`, once under an idempotency key. The answer to a
/// repeat shows the item as it is by then.
pub async fn receive(
    State(app): State<App>,
    PathParameters((product, model)): PathParameters<(String, String)>,
    holder: Option<Extension<Holder>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = key_of(&headers)?;
    let mut fields = read_keyed_fields(&headers, body).await?;
    let quantity = fields.required_int("quantity", 1..=STOCK_MAX);
    fields.refuse("reason", "is not supported yet; a receipt is a quantity");
    let quantity = fields.finish(|| quantity)?;
    let arguments = Doc::object(&[
        ("product", Field::Str(&product)),
        ("model", Field::Str(&model)),
        ("quantity", Field::Int(quantity)),
    ]);
    let holder = holder.as_deref();
    let (item, replayed) = app.call_once(&headers, holder, "receive-stock", arguments, key).await?;
    Ok(marked(json_reply(StatusCode::CREATED, item_json(&item)), replayed))
}
