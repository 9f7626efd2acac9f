//! Templates: how an event becomes a message, a request or a mail, as data.
//!
//! Promise: a value found by a path goes in as the value it is, never as pasted text, so no
//! caller can inject an attribute. A path that finds nothing gives `""`, as EventBridge does.
//! It deliberately has no arithmetic and no loops; that is what functions are for.

use serde::{Deserialize, Serialize};

use crate::doc::{Doc, DocWriter};
use crate::node::{EventView, Node, NodeKind, Path};

/// A template over an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Template {
    /// This very value.
    Constant(Doc),
    /// The value at a path of the event.
    Path(Path),
    /// Texts joined.
    Concat(Vec<Template>),
    /// A map of templates.
    Object(Vec<(String, Template)>),
}

impl Template {
    /// The value at a path; for declarations, where the path is a constant.
    ///
    /// # Panics
    /// When the text is no path.
    pub fn path(text: &str) -> Template {
        Template::Path(Path::parse(text).expect("a declared path is a path"))
    }

    /// A constant text.
    pub fn text(text: &str) -> Template {
        Template::Constant(Doc::text(text))
    }

    /// The value the template gives for an event.
    pub fn render(&self, event: &EventView<'_>) -> Doc {
        Doc::build(|w| self.write(w, event))
    }

    fn write(&self, w: &mut DocWriter, event: &EventView<'_>) {
        match self {
            Template::Constant(doc) => w.view(doc.view()),
            Template::Path(path) => match path.find_in_event(event) {
                Some(node) => node.write(w),
                None => w.str(""),
            },
            Template::Concat(parts) => {
                let text: String = parts.iter().map(|part| as_text(&part.render(event))).collect();
                w.str(&text);
            }
            Template::Object(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                w.map(|w| {
                    for (name, value) in sorted {
                        w.key(name);
                        value.write(w, event);
                    }
                });
            }
        }
    }
}

fn as_text(doc: &Doc) -> String {
    match Node::from(doc.view()).kind() {
        NodeKind::Str(text) => text.into(),
        NodeKind::Null
        | NodeKind::Bool(_)
        | NodeKind::Number(_)
        | NodeKind::List
        | NodeKind::Map => crate::json::to_string(doc.view().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::Field;

    #[test]
    fn values_go_in_as_values_and_never_as_pasted_text() {
        let evil = r#"x","status":"PAID"#;
        let detail = Doc::object(&[("customerId", Field::Str(evil)), ("quantity", Field::Int(7))]);
        let event = EventView { source: "s", detail_type: "t", detail: detail.view().into() };
        let template = Template::Object(vec![
            ("q".into(), Template::path("$.detail.quantity")),
            (
                "c".into(),
                Template::Concat(vec![
                    Template::text("CUSTOMER#"),
                    Template::path("$.detail.customerId"),
                ]),
            ),
            ("none".into(), Template::path("$.detail.missing")),
        ]);
        let made = template.render(&event);
        assert_eq!(made.str("c"), Some(format!("CUSTOMER#{evil}").as_str()));
        assert_eq!((made.int("q"), made.str("none")), (Some(7), Some("")));
    }
}
