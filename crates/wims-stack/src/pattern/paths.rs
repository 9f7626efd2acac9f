//! `Paths`: the names that patterns ask for, as a tree; `Seen`: what one event has there.
//!
//! Promise: of one event, each name on a path is looked up at most once, however many patterns ask
//! for it, and only if one does. It deliberately follows plain names only: where a list lies on the
//! way, or a name that joins several may be there, it says so and leaves the search to others.

use super::FieldName;
use crate::node::{EventView, Node, NodeKind};

/// Names on the way to fields, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    steps: Vec<Step>,
}

/// A name, below another one or in the envelope.
#[derive(Clone, Debug)]
struct Step {
    name: String,
    parent: Option<usize>,
}

impl Paths {
    /// The number of the step that ends at a field.
    pub fn add(&mut self, field: &FieldName) -> usize {
        let mut parent = None;
        for name in field.joined.split('.') {
            let known =
                self.steps.iter().position(|step| step.parent == parent && step.name == name);
            parent = Some(known.unwrap_or_else(|| {
                self.steps.push(Step { name: name.to_owned(), parent });
                self.steps.len() - 1
            }));
        }
        parent.expect("a field has a name")
    }
}

/// What is at the end of some steps.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// Nothing.
    Absent,
    /// A value that is no list.
    At(Node<'a>, NodeKind<'a>),
    /// A list, or something in one: which element it is takes a search.
    InList,
}

/// What is known of an event so far.
pub(super) struct Seen<'p, 'a> {
    paths: &'p Paths,
    event: EventView<'a>,
    known: Vec<Known<'a>>,
}

#[derive(Clone, Copy, Default)]
struct Known<'a> {
    place: Option<Place<'a>>,
    /// See [`Seen::joins`].
    joins: Option<bool>,
}

impl<'p, 'a> Seen<'p, 'a> {
    /// Nothing is known yet.
    pub fn new(paths: &'p Paths, event: &EventView<'a>) -> Seen<'p, 'a> {
        Seen { paths, event: *event, known: vec![Known::default(); paths.steps.len()] }
    }

    /// The event.
    pub fn event(&self) -> &EventView<'a> {
        &self.event
    }

    /// What is where these steps lead.
    pub fn at(&mut self, step: usize) -> Place<'a> {
        if let Some(place) = self.known[step].place {
            return place;
        }
        let place = self.look(step);
        self.known[step].place = Some(place);
        place
    }

    fn look(&mut self, step: usize) -> Place<'a> {
        let Step { name, parent } = &self.paths.steps[step];
        let found = match parent.map(|parent| self.at(parent)) {
            None => self.event.field(name),
            Some(Place::Absent) => None,
            Some(Place::At(node, _)) => node.get(name),
            Some(Place::InList) => return Place::InList,
        };
        let Some(node) = found else { return Place::Absent };
        match node.kind() {
            NodeKind::List => Place::InList,
            kind => Place::At(node, kind),
        }
    }

    /// Whether a map on the way has names with dots in them, which may join names of the way. The
    /// envelope has none.
    pub fn joins(&mut self, step: usize) -> bool {
        let Some(parent) = self.paths.steps[step].parent else { return false };
        if let Some(joins) = self.known[parent].joins {
            return joins;
        }
        let here = match self.at(parent) {
            Place::At(node, NodeKind::Map) => node.has_name_with_dot(),
            Place::At(..) | Place::Absent | Place::InList => false,
        };
        let joins = here || self.joins(parent);
        self.known[parent].joins = Some(joins);
        joins
    }
}
