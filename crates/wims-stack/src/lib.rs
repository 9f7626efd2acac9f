//! What a stack means: values, patterns, templates, conditions and the declaration itself.
//!
//! Promise: everything here is plain data and pure functions of it. It deliberately has no I/O,
//! no clock, no async and no threads; running a stack is another crate's business.

pub mod check;
pub mod doc;
pub mod draw;
pub mod json;
pub mod node;
pub mod pattern;
pub mod stack;
pub mod table;
pub mod template;

pub use doc::{Doc, DocWriter, Field, Kind, View};
/// Exact decimal numbers, as conditions and updates have them.
pub use rust_decimal::Decimal;

pub use node::{EventView, Node, NodeKind, Path, Tree};
pub use pattern::{CompiledPattern, Pattern, RuleIndex};
pub use stack::*;
pub use table::{Action, Condition, Table, Update, Write};
pub use template::Template;
