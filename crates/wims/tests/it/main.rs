//! Integration tests: the real binary, through the doors a user takes. One module a promise.

mod bad_input;
mod flow;
mod harness;
