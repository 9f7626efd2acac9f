//! Functions of the stock: reserve, receive, describe.
//!
//! Promise: stock is never oversold; `quantity` and `reserved` never fall below zero; the order's
//! mark and the stock's change are one transaction.

use wims_runtime::functions::{Refusal, RefusalKind, RouteInput, Routed, TaskError, TaskInput};
use wims_stack::{Action, Condition, Doc, Field, Update, Write};

use super::backorders::entry;
use super::{of_stock, update};
use crate::domain::{
    DEFAULT_CURRENCY, DEFAULT_QUANTITY, DEFAULT_SKU, DEFAULT_UNIT_PRICE, InventoryStatus, Line,
    Move, ORDER_QUANTITY_MAX, REORDER_POINT, STOCK_MAX, Sku, flat_item, lines, moved,
};

/// `ReserveStock`: all lines or none, and no order that waits is overtaken. Short stock is no
/// failure: the order is BACKORDERED and stands in the queue of each sku it is short of, because
/// there is too little or because others wait for it.
pub fn reserve_stock(input: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
    let lines = lines(input.item);
    let is_short = |line: &Line<'_>| {
        let item = input.reads.get(&line.sku.pk(), &line.sku.sk());
        let number = |name| item.and_then(|item| item.int(name)).unwrap_or(0);
        number("quantity") < line.quantity || number("backordered") > 0
    };
    let short: Vec<_> = lines.iter().filter(|line| is_short(line)).copied().collect();
    if short.is_empty() {
        let mut writes = vec![mark(input, InventoryStatus::Reserved)];
        writes.extend(lines.iter().map(|line| reserve_line(input, line)));
        return Ok(writes);
    }
    let mut writes = vec![mark(input, InventoryStatus::Backordered)];
    writes.extend(short.iter().flat_map(|line| wait_for(input, line)));
    Ok(writes)
}

fn mark(input: &TaskInput<'_>, status: InventoryStatus) -> Write {
    update(input.item, None, moved(input.item, Move::Inventory(status), input.now_ms))
}

/// The article's `conditionExpression '#quantity >= :quantity'` and its update, if nobody waits.
fn reserve_line(input: &TaskInput<'_>, line: &Line<'_>) -> Write {
    let order_id = input.item.str("orderId").unwrap_or("");
    let is_free = vec![
        Condition::AtLeast("quantity".into(), line.quantity.into()),
        Condition::Below("backordered".into(), 1.into()),
    ];
    let updates = vec![
        Update::Add("quantity", (-line.quantity).into()),
        Update::Add("reserved", line.quantity.into()),
        Update::set_str("lastOrderId", order_id),
    ];
    of_stock(&line.sku, Condition::All(is_free), updates)
}

/// A queue entry of a sku the order is short of, by order sequence, and the sku's count.
fn wait_for(input: &TaskInput<'_>, line: &Line<'_>) -> [Write; 2] {
    let is_short = vec![
        Condition::Below("quantity".into(), line.quantity.into()),
        Condition::AtLeast("backordered".into(), 1.into()),
    ];
    let updates = vec![Update::Add("backordered", 1.into())];
    let count = of_stock(&line.sku, Condition::Any(is_short), updates);
    [count, entry(input.item.str("orderId").unwrap_or(""), line)]
}

/// `POST /inventory/{product}/{model}/receipts`: arguments `{product, model, quantity}`. The reply
/// is the item, to a repeat as it is by now.
pub fn receive_stock(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let (sku, item) = named_item(input)?;
    if input.repeated {
        return Ok(Routed { writes: Vec::new(), reply: flat_item(item) });
    }
    let quantity = input.arguments.int("quantity").unwrap_or(0);
    let on_hand = item.int("quantity").unwrap_or(0) + item.int("reserved").unwrap_or(0);
    if on_hand + quantity > STOCK_MAX {
        return Err(Refusal {
            kind: RefusalKind::Unprocessable,
            detail: format!("{sku} would have more than {STOCK_MAX} units on hand"),
        });
    }
    let updates = vec![Update::Add("quantity", quantity.into())];
    let after = Update::apply_all(&updates, item).expect("a stock item has a quantity");
    let write = update(item, Some(Condition::Exists), updates);
    Ok(Routed { writes: vec![write], reply: flat_item(&after) })
}

fn named_item<'a>(input: &RouteInput<'a>) -> Result<(Sku<'a>, &'a Doc), Refusal> {
    let argument = |name| input.arguments.str(name).unwrap_or("");
    let (product, model) = (argument("product"), argument("model"));
    let found = Sku::new(product, model)
        .and_then(|sku| input.reads.get(&sku.pk(), &sku.sk()).map(|item| (sku, item)));
    found.ok_or_else(|| Refusal {
        kind: RefusalKind::NotFound,
        detail: format!("there is no item {product}/{model}"),
    })
}

/// `PUT /inventory/{product}/{model}`: creates the item, or changes what describes it; stock
/// stays as it is. The reply says which: `{created, item}`.
pub fn put_item(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let argument = |name| input.arguments.str(name).unwrap_or("");
    let Some(sku) = Sku::new(argument("product"), argument("model")) else {
        return Err(Refusal {
            kind: RefusalKind::Unprocessable,
            detail: "product and model are 1 to 64 of A-Z, 0-9, dot, dash and underscore".into(),
        });
    };
    let existing = input.reads.get(&sku.pk(), &sku.sk());
    let base = existing.cloned().unwrap_or_else(|| empty_item(&sku, 0));
    let described = describe(&base, input.arguments);
    let write = Write {
        pk: sku.pk(),
        sk: sku.sk(),
        condition: None,
        action: Action::Put(described.clone()),
    };
    let item = flat_item(&described);
    let reply = Doc::object(&[
        ("created", Field::Bool(existing.is_none())),
        ("item", Field::View(item.view())),
    ]);
    Ok(Routed { writes: vec![write], reply })
}

fn describe(item: &Doc, arguments: &Doc) -> Doc {
    let int = |name, default| Some(Field::Int(arguments.int(name).unwrap_or(default)));
    let currency = arguments.str("currency").unwrap_or(DEFAULT_CURRENCY);
    item.with(&[
        ("productName", Some(Field::Str(arguments.str("productName").unwrap_or("")))),
        ("unitPrice", int("unitPrice", 0)),
        ("currency", Some(Field::Str(currency))),
        ("reorderPoint", int("reorderPoint", REORDER_POINT)),
        ("orderQuantityMax", int("orderQuantityMax", ORDER_QUANTITY_MAX)),
    ])
}

fn empty_item(sku: &Sku<'_>, quantity: i64) -> Doc {
    Doc::object(&[
        ("backordered", Field::Int(0)),
        ("catalog", Field::Str("items")),
        ("model", Field::Str(sku.model)),
        ("pk", Field::Str(&sku.pk())),
        ("product", Field::Str(sku.product)),
        ("quantity", Field::Int(quantity)),
        ("reserved", Field::Int(0)),
        ("sk", Field::Str(&sku.sk())),
        ("sku", Field::Str(&sku.to_string())),
    ])
}

/// Puts the article's one item into a fresh store; in any other it changes nothing.
pub fn seed_inventory(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let sku = DEFAULT_SKU;
    let nothing = Doc::object(&[]);
    if input.reads.get(&sku.pk(), &sku.sk()).is_some() {
        return Ok(Routed { writes: Vec::new(), reply: nothing });
    }
    let arguments = Doc::object(&[
        ("productName", Field::Str("MacGuffin")),
        ("unitPrice", Field::Int(DEFAULT_UNIT_PRICE)),
    ]);
    let write = Write {
        pk: sku.pk(),
        sk: sku.sk(),
        condition: Some(Condition::NotExists),
        action: Action::Put(describe(&empty_item(&sku, DEFAULT_QUANTITY), &arguments)),
    };
    Ok(Routed { writes: vec![write], reply: nothing })
}
