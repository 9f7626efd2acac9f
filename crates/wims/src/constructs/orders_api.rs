//! OrdersApi: registers customer intent and says yes, nothing more.
//!
//! Article section "OrdersApi"; pattern: synchronous event. The reply is sent once the order is
//! on disk. Its integration builds the item from typed values, where the article's pastes text
//! into a template.

use wims_stack::{HttpRoute, Route, Stack, TableRef};

use crate::fns::function;

/// What it needs.
pub struct OrdersApiProps {
    /// Where orders and stock are.
    pub table: TableRef,
}

/// Name of the route that puts the article's item into a fresh store; the server calls it at its
/// start.
pub const SEED_ROUTE: &str = "seed-inventory";

/// The construct.
pub struct OrdersApi;

impl OrdersApi {
    /// Declares the routes that write.
    pub fn new(stack: &mut Stack, props: OrdersApiProps) -> OrdersApi {
        let routes = [
            ("create-order", Some(("POST", "/orders"))),
            ("ship-order", Some(("POST", "/orders/{orderId}/ship"))),
            ("cancel-order", Some(("POST", "/orders/{orderId}/cancel"))),
            ("pay-order", Some(("POST", "/orders/{orderId}/payment"))),
            ("erase-contacts", Some(("POST", "/customers/{customerId}/erase"))),
            ("put-item", Some(("PUT", "/inventory/{product}/{model}"))),
            ("receive-stock", Some(("POST", "/inventory/{product}/{model}/receipts"))),
            (SEED_ROUTE, None),
        ];
        let http =
            |(method, path): (&str, &str)| HttpRoute { method: method.into(), path: path.into() };
        stack.routes.extend(routes.map(|(name, request)| Route {
            name: name.into(),
            http: request.map(http),
            function: function(name),
            table: props.table.clone(),
        }));
        OrdersApi
    }
}
