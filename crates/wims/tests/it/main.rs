//! Integration tests: the real binary, through the doors a user takes. One module a promise.

mod answering;
mod backorders;
mod backup;
mod bad_days;
mod bad_input;
mod command_line;
mod declaration;
mod directory;
mod durability;
mod faults;
mod flow;
mod full_disk;
mod harness;
mod house;
mod idempotency;
mod kill;
mod licences;
mod limits;
mod lines;
mod observer;
mod packaging;
mod payments;
mod payments_api;
mod security;
mod smtp;
mod stop;
