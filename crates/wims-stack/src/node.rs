//! `Tree` and `Node`: an event as patterns, templates and tasks read it, without being printed.
//!
//! Promise: building an event around an item copies no image; reading a path touches only that
//! path. It deliberately has no mutation: an event is a fact.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::doc::{Doc, DocWriter, Field, Kind, View, is_same};

/// A value made of constants, documents and maps of them; what an enrichment returns.
#[derive(Clone, Debug)]
pub enum Tree {
    /// A constant text.
    Const(&'static str),
    /// A document or a part of one, shared.
    Doc(Doc),
    /// A map with constant names, each once.
    Map(Vec<(&'static str, Tree)>),
}

/// A borrowed value: of a [`Tree`], of a [`Doc`], or a text of the envelope.
#[derive(Clone, Copy)]
pub enum Node<'a> {
    /// Text.
    Str(&'a str),
    /// Part of a document.
    View(View<'a>),
    /// Part of a tree.
    Tree(&'a Tree),
}

/// What a [`Node`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NodeKind<'a> {
    /// JSON null.
    Null,
    /// JSON true or false.
    Bool(bool),
    /// An exact decimal number.
    Number(Decimal),
    /// Text.
    Str(&'a str),
    /// A list; see [`Node::elements`].
    List,
    /// A map; see [`Node::entries`] and [`Node::get`].
    Map,
}

impl Tree {
    /// The tree, borrowed.
    pub fn node(&self) -> Node<'_> {
        Node::Tree(self)
    }

    /// The tree as one document; a tree that is a document already is shared.
    pub fn to_doc(&self) -> Doc {
        match self {
            Tree::Doc(doc) => doc.clone(),
            other => Doc::build(|w| write_tree(w, other)),
        }
    }
}

fn write_tree(w: &mut DocWriter, tree: &Tree) {
    match tree {
        Tree::Const(text) => w.str(text),
        Tree::Doc(doc) => w.view(doc.view()),
        Tree::Map(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by_key(|entry| entry.0);
            w.map(|w| {
                for (name, value) in sorted {
                    w.key(name);
                    write_tree(w, value);
                }
            });
        }
    }
}

impl From<Doc> for Tree {
    fn from(doc: Doc) -> Tree {
        Tree::Doc(doc)
    }
}

impl<'a> From<View<'a>> for Node<'a> {
    fn from(view: View<'a>) -> Node<'a> {
        Node::View(view)
    }
}

impl<'a> Node<'a> {
    /// What this is, one level deep.
    pub fn kind(&self) -> NodeKind<'a> {
        match *self {
            Node::Str(text) | Node::Tree(&Tree::Const(text)) => NodeKind::Str(text),
            Node::Tree(Tree::Map(_)) => NodeKind::Map,
            Node::Tree(Tree::Doc(doc)) => view_kind(doc.view()),
            Node::View(view) => view_kind(view),
        }
    }

    /// The value of an attribute; `None` when missing or when this is no map.
    pub fn get(&self, name: &str) -> Option<Node<'a>> {
        match *self {
            Node::Tree(Tree::Map(entries)) => {
                let named = |entry: &&(&str, _)| is_same(entry.0.as_bytes(), name.as_bytes());
                entries.iter().find(named).map(|entry| Node::Tree(&entry.1))
            }
            Node::Tree(Tree::Doc(doc)) => doc.get(name).map(Node::View),
            Node::View(view) => view.get(name).map(Node::View),
            Node::Str(_) | Node::Tree(Tree::Const(_)) => None,
        }
    }

    /// Whether this is a map one of whose names has a dot in it.
    pub(crate) fn has_name_with_dot(&self) -> bool {
        match *self {
            Node::Tree(Tree::Map(entries)) => entries.iter().any(|(name, _)| name.contains('.')),
            Node::Tree(Tree::Doc(doc)) => doc.view().has_name_with(b'.'),
            Node::View(view) => view.has_name_with(b'.'),
            Node::Str(_) | Node::Tree(Tree::Const(_)) => false,
        }
    }

    /// The text, if this is text.
    pub fn as_str(&self) -> Option<&'a str> {
        match self.kind() {
            NodeKind::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Calls `each` with every element of a list, in order, until it fails.
    ///
    /// # Errors
    /// The first error of `each`.
    pub fn elements<E>(&self, mut each: impl FnMut(Node<'a>) -> Result<(), E>) -> Result<(), E> {
        match self.as_view().map(View::kind) {
            Some(Kind::List(mut list)) => list.try_for_each(|view| each(Node::View(view))),
            _ => Ok(()),
        }
    }

    /// Calls `each` with every attribute of a map until it fails.
    ///
    /// # Errors
    /// The first error of `each`.
    pub fn entries<E>(
        &self,
        mut each: impl FnMut(&'a str, Node<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Node::Tree(Tree::Map(entries)) = *self {
            return entries.iter().try_for_each(|(name, tree)| each(name, Node::Tree(tree)));
        }
        match self.as_view().map(View::kind) {
            Some(Kind::Map(mut map)) => map.try_for_each(|(name, v)| each(name, Node::View(v))),
            _ => Ok(()),
        }
    }

    /// Appends this value to a document.
    pub fn write(&self, w: &mut DocWriter) {
        match *self {
            Node::Str(text) => w.str(text),
            Node::View(view) => w.view(view),
            Node::Tree(tree) => write_tree(w, tree),
        }
    }

    fn as_view(&self) -> Option<View<'a>> {
        match *self {
            Node::View(view) => Some(view),
            Node::Tree(Tree::Doc(doc)) => Some(doc.view()),
            _ => None,
        }
    }
}

fn view_kind(view: View<'_>) -> NodeKind<'_> {
    match view.kind() {
        Kind::Null => NodeKind::Null,
        Kind::Bool(value) => NodeKind::Bool(value),
        Kind::Number(number) => NodeKind::Number(number),
        Kind::Str(text) => NodeKind::Str(text),
        Kind::List(_) => NodeKind::List,
        Kind::Map(_) => NodeKind::Map,
    }
}

/// An event on a bus, borrowed: what patterns match and templates read.
#[derive(Clone, Copy)]
pub struct EventView<'a> {
    /// Who published it, e.g. `freeCodeCamp`.
    pub source: &'a str,
    /// What kind of event it is, e.g. `cdcEvent`.
    pub detail_type: &'a str,
    /// The fact itself.
    pub detail: Node<'a>,
}

impl<'a> EventView<'a> {
    /// A top-level field of the envelope that patterns and templates may read.
    pub fn field(&self, name: &str) -> Option<Node<'a>> {
        match name {
            "source" => Some(Node::Str(self.source)),
            "detail-type" => Some(Node::Str(self.detail_type)),
            "detail" => Some(self.detail),
            "account" => Some(Node::Str("000000000000")),
            "region" => Some(Node::Str("local")),
            _ => None,
        }
    }
}

/// A path such as `$.detail.data.NewImage.quantity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Path(Vec<String>);

/// A text that is no path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a path: it starts with `$` and joins names with dots")]
pub struct PathError(String);

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// When it does not start with `$` or a name is empty.
    pub fn parse(text: &str) -> Result<Path, PathError> {
        let rest = text.strip_prefix('$').ok_or_else(|| PathError(text.into()))?;
        if rest.is_empty() {
            return Ok(Path(Vec::new()));
        }
        let names = rest.strip_prefix('.').ok_or_else(|| PathError(text.into()))?;
        let names: Vec<String> = names.split('.').map(String::from).collect();
        if names.iter().any(String::is_empty) {
            Err(PathError(text.into()))
        } else {
            Ok(Path(names))
        }
    }

    /// The names from the root down.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The value at this path under a node.
    pub fn find<'a>(&self, root: Node<'a>) -> Option<Node<'a>> {
        self.0.iter().try_fold(root, |node, name| node.get(name))
    }

    /// The value at this path in an event; the path `$` alone names no single value.
    pub fn find_in_event<'a>(&self, event: &EventView<'a>) -> Option<Node<'a>> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(event.field(first)?, |node, name| node.get(name))
    }
}

impl TryFrom<String> for Path {
    type Error = PathError;

    fn try_from(text: String) -> Result<Path, PathError> {
        Path::parse(&text)
    }
}

impl From<Path> for String {
    fn from(path: Path) -> String {
        path.0.iter().fold(String::from("$"), |text, name| text + "." + name)
    }
}

impl<'a> From<&'a str> for Field<'a> {
    fn from(text: &'a str) -> Field<'a> {
        Field::Str(text)
    }
}

impl From<i64> for Field<'_> {
    fn from(value: i64) -> Self {
        Field::Int(value)
    }
}
